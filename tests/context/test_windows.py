"""Long runs: they fit into the window, are condensed, and say so where nothing more fits.

Judged by the requests that reached Claude, as the API counts them, and by the bill.
"""

import itertools
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from reading import QUESTION, asked, condensing, length, page, reader, reads

import outlast
from outlast import context
from outlast.conversation import evolve, opened, request_hash, request_head
from outlast.events import (
    BoundExceeded,
    BudgetRefused,
    CompactionRequested,
    ModelCallStarted,
    TokensCounted,
    ToolCallSucceeded,
)
from outlast.journal import Record
from outlast.models import catalogue
from outlast.models.script import Script, Turn, compaction, say, tool_use
from outlast.models.scripted import ScriptedModel

WINDOW = 200_000


class Played:
    """A run with a Claude that cannot be asked for more than it takes."""

    def __init__(
        self, script: Script, agent: outlast.Agent, asks: Any = QUESTION, model: Any = None
    ) -> None:
        self.model = model or ScriptedModel(script)
        self.app = outlast.Outlast("memory://", model=self.model)
        with self.app as app:
            self.run = app.run(agent, asks, run_id="r")
            self.events = [record.event for record in app.log("r")]
            kept = [event.blob for event in self.of(ToolCallSucceeded) if event.blob]
            self.blobs = {digest: app.journal.blob(digest) for digest in kept}
        self.requests = [msgspec.json.decode(body) for body in self.model.calls]

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def lengths(self) -> list[int]:
        return [length(request) for request in self.requests]

    @property
    def nano(self) -> int:
        return int(self.run.cost_usd * 10**9)


def check(played: Played, window: int = WINDOW) -> None:
    """See that nothing was refused, that all of it fitted, and that the ledger is the bill."""
    assert max(played.lengths) <= window
    assert len(played.model.bill) == len(played.requests), "a request was refused"
    assert played.nano == played.model.billed_nano
    assert not played.of(BoundExceeded)


def test_a_long_run_is_condensed_again_and_again() -> None:
    """A run that reads four windows' worth comes to its end, and no request is beyond the window.

    Nothing is asked of the API beside replies before there is need to, nor in the call after.
    """
    played = Played(condensing(reads(60)), reader(50_000))
    assert played.run.answer == "I have read 60 pages."
    check(played)
    requested = played.of(CompactionRequested)
    summaries = [r for r in played.requests if r["messages"][0]["role"] == "assistant"]
    openings = {_plain(r["messages"][0]) for r in summaries}
    assert len(requested) == len(openings) >= 4
    assert [bool(asked(r)) for r in played.requests].count(True) == len(requested)
    assert sum(played.lengths) > 10 * WINDOW
    for event in requested:
        assert event.window == WINDOW
        assert context.trigger(WINDOW) == event.trigger == WINDOW // 2


def test_what_was_sent_is_never_changed() -> None:
    """Between two summaries every request begins with the one before it, byte for byte."""
    played = Played(condensing(reads(16)), reader(60_000))
    for before, after in itertools.pairwise(played.requests):
        earlier, later = ([_plain(m) for m in r["messages"]] for r in (before, after))
        if asked(before):
            assert len(later) == 1, "the summary stands for everything"
        else:
            assert later[: len(earlier)] == earlier
        assert {**before, "messages": 0, "system": 0, "tools": 0}.keys() - {
            "context_management"
        } == {**after, "messages": 0, "system": 0, "tools": 0}.keys() - {"context_management"}


def _plain(message: dict[str, Any]) -> bytes:
    return msgspec.json.encode(message).replace(b',"cache_control":{"type":"ephemeral"}', b"")


def test_many_results_at_once_fit() -> None:
    """Results get what room there is: twelve long ones of one reply do not go beyond the window."""
    played = Played(condensing(reads(48, at_once=12)), reader(100_000))
    assert played.run.answer == "I have read 48 pages."
    check(played)
    results = played.of(ToolCallSucceeded)
    assert all(result.blob for result in results), "not one was shown as a whole"


def test_a_result_is_cut_to_what_its_tool_may_say() -> None:
    """Claude gets both ends of a result, and the whole is kept."""
    played = Played(condensing(reads(1)), reader(50_000, most=1_000))
    (result,) = played.of(ToolCallSucceeded)
    (sent,) = played.requests[1]["messages"][2]["content"]
    whole = page(1, 50_000)
    left = len(whole) - 1_000
    told = f"[truncated: {left} of {len(whole)} bytes are missing here; ask for less at a time]"
    assert sent["content"] == f"{whole[:750]}\n{told}\n{whole[-250:]}"
    assert played.blobs[result.blob] == whole.encode()


# ── counting ─────────────────────────────────────────────────────────────────────────────────────


def test_what_surely_fits_is_not_counted() -> None:
    """A short run asks the API to count nothing."""
    played = Played(condensing(reads(2)), reader(30_000))
    assert not played.of(TokensCounted)
    assert not played.of(CompactionRequested)


def test_what_may_not_fit_is_counted_first() -> None:
    """A prompt that only its bytes make seem too long is counted, and sent as it is."""
    played = Played(condensing(reads(0)), reader(1), "a" * 500_000)
    (counted,) = played.of(TokensCounted)
    assert counted.tokens == played.lengths[0]
    assert played.run.answer == "I have read 0 pages."
    check(played)


def test_a_prompt_beyond_the_window_is_never_sent() -> None:
    """What is too long is a clear end: nothing is sent, nothing is billed, and the run says why."""
    played = Played(condensing(reads(0)), reader(1), "a" * 900_000)
    assert (played.run.status, played.requests) == ("failed", [])
    assert "no longer fits into the context window of claude-opus-4-6" in played.run.why
    assert "the window has 200,000" in played.run.why
    assert "start a run with less to read" in played.run.why
    assert played.nano == 0


class Uncounting(ScriptedModel):
    """A Claude that counts nothing."""

    async def count_tokens(self, request: Any) -> int:
        raise outlast.errors.ModelFailure("not_found", "nobody counts here")


def test_where_nobody_counts_the_bytes_do() -> None:
    """Without a count the bound is what is known: no more is sent than surely fits."""
    script = condensing(reads(30))
    played = Played(script, reader(50_000), model=Uncounting(script))
    assert played.run.answer == "I have read 30 pages."
    check(played)
    assert all(event.why for event in played.of(TokensCounted))


def test_a_document_nobody_can_count_is_sent() -> None:
    """A PDF whose pages nobody counts is sent all the same; its first reply meters it."""
    script = condensing(reads(2))
    model = Uncounting(script)
    asks = [outlast.Document(b"%PDF-1.7 /Type /Page"), "What is it?"]
    played = Played(script, reader(1_000), asks, model)
    assert played.run.answer == "I have read 2 pages."
    check(played)


# ── where nothing can be condensed ───────────────────────────────────────────────────────────────


def test_a_model_that_cannot_condense_uses_all_it_has() -> None:
    """A model that is not known to condense goes on to the end of its window, and then says so."""
    played = Played(reads(90), reader(90_000, model="claude-haiku-4-5"))
    assert played.run.status == "failed"
    assert "claude-haiku-4-5 is not known to condense conversations" in played.run.why
    check(played)
    assert not any(map(asked, played.requests))
    assert played.lengths[-1] > 0.8 * WINDOW
    assert [event.max_tokens for event in played.of(ModelCallStarted)][-1] < 4_000


def test_what_an_agent_says_of_its_context_is_left_alone() -> None:
    """An agent that manages its context itself is never asked to condense beside that."""
    own = {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}
    played = Played(reads(90), reader(90_000, parameters=own))
    assert played.run.status == "failed"
    assert "what its context_management says is all that is done" in played.run.why
    assert all(r["context_management"] == own["context_management"] for r in played.requests)
    check(played)


def test_compactions_that_fail_are_not_asked_for_for_ever() -> None:
    """A compaction that fails is tried once more, and then the run goes on while there is room."""
    ordinary = reads(90)

    def failing(request: dict[str, Any], attempt: int) -> Turn:
        return say(compaction(None)) if asked(request) else ordinary(request, attempt)  # type: ignore[return-value]

    played = Played(failing, reader(60_000))
    assert played.run.status == "failed"
    assert "the API failed 2 times to condense it" in played.run.why
    assert len(played.of(CompactionRequested)) == 2
    check(played)


def test_what_is_long_by_its_instructions_is_gone_on_with() -> None:
    """Where a prompt is no shorter after it was condensed, Claude is asked before it is again."""
    agent = reader(2_000, instructions=page(1, 660_000))
    played = Played(condensing(reads(4)), agent)
    assert played.run.answer == "I have read 4 pages."
    check(played)
    kinds = [bool(asked(request)) for request in played.requests]
    assert (True, True) not in itertools.pairwise(kinds)


# ── a reply that runs into the end ───────────────────────────────────────────────────────────────


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> int:
    """Return the window of a model that has less than anybody was told."""
    model = catalogue.MODELS["claude-opus-5-5"]
    less = replace(model, context=110_000)
    monkeypatch.setattr(catalogue, "MODELS", {**catalogue.MODELS, "claude-opus-5-5": less})
    return 110_000


def writes(pages: int) -> Script:
    """Return a Claude that thinks long and aloud before each page."""
    ordinary = reads(pages)

    def answer(request: dict[str, Any], attempt: int) -> Turn:
        turn = ordinary(request, attempt)
        assert isinstance(turn, Turn)
        return say("Hm. " * 5_000, *turn.content)  # type: ignore[misc]

    return answer


def test_a_reply_cut_off_by_the_window_is_condensed_and_gone_on_with(narrow: int) -> None:
    """A reply that met the end is paid for and dropped; after a summary Claude is asked again.

    What it asked for by then is not done, and the window is known from then on.
    """
    agent = reader(2, model="claude-opus-5-5", max_tokens=8_000)
    played = Played(condensing(writes(60)), agent)
    assert played.run.answer is not None, played.run.why
    assert played.run.answer.endswith("I have read 60 pages.")
    first, *others = played.of(CompactionRequested)
    assert first.why == "window_exceeded"
    assert first.window == narrow
    assert others
    assert {event.why for event in others} == {"near_limit"}
    check(played, narrow)
    calls = [event.tool_use_id for event in played.of(ToolCallSucceeded)]
    assert len(calls) == len(set(calls)) == 60


# ── money ────────────────────────────────────────────────────────────────────────────────────────


def test_a_budget_that_does_not_hold_the_prompt_twice_says_so() -> None:
    """To be condensed a prompt is held twice; a budget with less left names that, and resumes."""
    whole = Played(condensing(reads(20)), reader(60_000))
    starts = [e.hold_nano for e in whole.events if isinstance(e, (ModelCallStarted))]
    at = next(n for n, request in enumerate(whole.requests) if asked(request))
    assert starts[at] > 1.8 * starts[at - 1]
    spent = sum(charge.nano_usd for charge in whole.model.bill[:at])
    usd = (spent + starts[at] * 3 // 4) / 10**9
    agent = reader(60_000, budget=outlast.Budget(usd=usd))
    model = ScriptedModel(condensing(reads(20)))
    with outlast.Outlast("memory://", model=model) as app:
        run = app.run(agent, QUESTION, run_id="r")
        assert run.status == "stopped"
        assert "(twice the prompt to condense it)" in run.why
        (refused,) = (r.event for r in app.log("r") if isinstance(r.event, BudgetRefused))
        assert refused.compacts
        more = reader(60_000, budget=outlast.Budget(usd=10 * usd))
        assert app.resume("r", agent=more).answer == "I have read 20 pages."
        assert int(app.get("r").cost_usd * 10**9) == model.billed_nano


def test_a_tool_use_beside_a_summary_is_run() -> None:
    """An API that does not pause after a summary is gone on with from what it said after it."""
    ordinary = reads(12)

    def hasty(request: dict[str, Any], attempt: int) -> Turn:
        turn = ordinary(request, attempt)
        assert isinstance(turn, Turn)
        if not asked(request):
            return turn
        read = sum(
            block["type"] == "tool_use" for m in request["messages"] for block in m["content"]
        )
        return say(compaction(f"{read} pages were read."), tool_use("read", {"page": read + 1}))

    played = Played(hasty, reader(90_000))
    assert played.run.status == "completed", played.run.why
    assert played.of(CompactionRequested)
    check(played)


# ── the request ──────────────────────────────────────────────────────────────────────────────────


def test_the_hash_is_of_what_is_sent() -> None:
    """That a summary is asked for is part of the request, and so of its hash; see `edit`."""
    plain = opened("ask-1", reader(1).spec())
    near = CompactionRequested(ask_id="ask-1", tokens=9, window=9, trigger=50_000)
    condensed = evolve(plain, Record("run:r", 1, 0, 0, 0, near))
    assert request_head(condensed) == request_head(plain) + b"," + context.edit(50_000)
    assert request_hash(condensed, 10) != request_hash(plain, 10)
    assert condensed.digest == plain.digest
    others = [evolve(plain, Record("run:r", 1, 0, 0, 0, replace(near, trigger=60_000))), condensed]
    assert len({request_hash(each, 10) for each in others}) == 2
