"""Another model is asked where one stays overloaded or refuses: when, with what, for how much."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
import pytest

import outlast
from flow_stubs import of_kind, opened
from outlast import decide
from outlast.agent import Budget
from outlast.cli.story import Reader
from outlast.cli.words import plain
from outlast.doubts import doubts
from outlast.errors import InvalidAgent, UnknownModel
from outlast.events import (
    BudgetPassed,
    BudgetRefused,
    ModelCallInDoubt,
    ModelCallStarted,
    ModelSwitched,
    ToolCallStarted,
)
from outlast.journal import run_stream
from outlast.models.script import (
    Fault,
    Script,
    Turn,
    last_text,
    refuse,
    say,
    thinking,
    tool_use,
    turn_number,
)
from outlast.prices import Terms, context_window, terms_of, worst_case
from outlast.state import fold
from outlast.stores import open_store
from outlast.testing.simulation import World, run
from outlast.versions import differences, version_of
from outlast.views.costs import costs

OPUS, SONNET, HAIKU = "claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5"
SMALL = "claude-haiku-4-5"  # 200,000 tokens
BUSY = Fault(kind="status", status=529, message="Overloaded")


@outlast.tool(effect="once")
def send(text: str) -> str:
    """Send a text."""
    SENT.append(text)
    return "sent"


SENT: list[str] = []


@pytest.fixture(autouse=True)
def nothing_sent() -> None:
    """Begin with nothing sent."""
    SENT.clear()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no attempt be waited for, where the clock is the real one."""
    monkeypatch.setattr(decide, "BACKOFF_S", (0.0,) * 7)


def asker(*fallbacks: str, model: str = OPUS, **more: Any) -> outlast.Agent:
    return outlast.Agent("asker", model=model, fallback_models=fallbacks, tools=[send], **more)


def busy(*models: str, of: Script | None = None) -> Script:
    """Return a Claude of which these models are overloaded, always."""

    def script(request: dict[str, Any], attempt: int) -> Any:
        if request["model"] in models and attempt:
            return BUSY
        return (of or answers)(request, attempt)

    return script


def answers(request: dict[str, Any], attempt: int) -> Turn:
    return say(f"{request['model']}: {last_text(request)[:60]}")


def played(agent: outlast.Agent, script: Script, asked: Any = "Hello.", **more: Any) -> Any:
    """Return the world after a run of the agent, with its state and its journal."""
    world: Any = World(script)
    world.journal = open_store("memory://")
    world.state, _ = run(world, world.journal, agent, asked, **more)
    return world


def models(bodies: list[bytes]) -> list[str]:
    return [msgspec.json.decode(body)["model"] for body in bodies]


def switches(world: Any) -> list[ModelSwitched]:
    records = world.journal.read(run_stream("r"))
    return [record.event for record in records if isinstance(record.event, ModelSwitched)]


def is_paid(world: Any) -> bool:
    """Return whether the ledger is the bill."""
    billed = sum(charge.nano_usd for charge in world.model.bill)
    return bool(billed == world.state.spend.nano == world.journal.run("r").cost_nano)


# ── when ────────────────────────────────────────────────────────────────────────────────────────


def test_a_model_that_stays_overloaded_is_asked_three_times() -> None:
    """The fourth attempt asks the next model, and nobody waits for it."""
    world = played(asker(SONNET), busy(OPUS))
    assert models(world.requests) == [OPUS] * 3 + [SONNET]
    assert msgspec.json.decode(world.state.answer) == f"{SONNET}: Hello."
    (switch,) = switches(world)
    assert (switch.before, switch.model, switch.why, switch.times) == (
        *(OPUS, SONNET),
        *("overloaded", 3),
    )
    assert is_paid(world)


def test_every_one_is_asked_in_order_and_the_last_one_to_the_end() -> None:
    """The failures of each count from 0, and where no model is left it is as without them."""
    world = played(asker(SONNET, HAIKU), busy(OPUS, SONNET, HAIKU))
    assert models(world.requests) == [OPUS] * 3 + [SONNET] * 3 + [HAIKU] * decide.ATTEMPTS
    assert world.state.status == "failed"
    assert "8 attempts came to nothing" in world.state.why
    without = played(asker(), busy(OPUS))
    assert len(without.requests) == decide.ATTEMPTS
    assert not world.model.bill


def test_three_in_a_row_are_needed() -> None:
    """Another failure between them begins the count again; it is not about the model."""
    other = Fault(kind="status", status=429)

    def script(request: dict[str, Any], attempt: int) -> Any:
        fault = {1: BUSY, 2: BUSY, 3: other, 4: BUSY, 5: BUSY}.get(attempt)
        return fault or answers(request, attempt)

    world = played(asker(SONNET), script)
    assert models(world.requests) == [OPUS] * 6
    assert switches(world) == []


@pytest.mark.parametrize(
    ("recommended", "chosen"),
    [(None, SONNET), (HAIKU, HAIKU), ("claude-fable-5-2", SONNET), (OPUS, SONNET)],
)
def test_a_refusal_is_put_to_the_model_that_it_recommends(
    recommended: str | None, chosen: str
) -> None:
    """Where that is none of those declared, it is the next one; and no tool of it is called."""
    refused = refuse(
        "No. ",
        tool_use("send", {"text": "never"}),
        category="bio",
        recommended_model=recommended,
    )
    world = played(
        asker(SONNET, HAIKU),
        lambda request, attempt: refused if request["model"] == OPUS else answers(request, attempt),
    )
    assert models(world.requests) == [OPUS, chosen]
    first, second = (msgspec.json.decode(body) for body in world.requests)
    assert second == first | {"model": chosen}
    (switch,) = switches(world)
    assert (switch.why, switch.category) == ("refusal", "bio")
    assert switch.recommended == (chosen == recommended)
    assert SENT == []
    assert len(world.model.bill) == 2
    assert is_paid(world)


def test_a_model_that_was_passed_by_is_asked_later() -> None:
    """Who was recommended comes first, and those before it in the list are not forgotten."""
    told = {OPUS: HAIKU, HAIKU: OPUS, SONNET: None}

    def script(request: dict[str, Any], attempt: int) -> Turn:
        return refuse("No.", recommended_model=told[request["model"]])

    world = played(asker(SONNET, HAIKU), script)
    assert models(world.requests) == [OPUS, HAIKU, SONNET]
    assert world.state.status == "failed"
    assert "refused to answer" in world.state.why
    assert is_paid(world)


def test_what_a_refusal_interrupted_goes_on() -> None:
    """A refusal after a pause is taken off, and the pause is sent back as it came."""

    def script(request: dict[str, Any], attempt: int) -> Turn:
        if turn_number(request) == 1:
            return say("Wait. ", stop_reason="pause_turn")
        return refuse("No.") if request["model"] == OPUS else say("Done.")

    world = played(asker(SONNET), script)
    assert msgspec.json.decode(world.state.answer) == "Wait. Done."
    last = msgspec.json.decode(world.requests[-1])["messages"]
    assert [message["role"] for message in last] == ["user", "assistant"]
    assert is_paid(world)


def test_a_refusal_that_compacts_takes_nothing_away() -> None:
    """What was said before it is sent to the other model, whole."""

    def script(request: dict[str, Any], attempt: int) -> Turn:
        if request["model"] == OPUS:
            return refuse({"type": "compaction", "content": "short"}, "No.")
        return answers(request, attempt)

    world = played(asker(SONNET), script, [outlast.Image(b"GIF89a"), "Hello."])
    first, second = (msgspec.json.decode(body) for body in world.requests)
    assert second == first | {"model": SONNET}
    assert is_paid(world)


def test_a_refusal_leaves_nothing_of_itself() -> None:
    """What comes next is in the container, of the tools and after the cuts that were before it."""

    def script(request: dict[str, Any], attempt: int) -> Turn:
        turn = turn_number(request)
        if turn == 1:
            return say(tool_use("send", {"text": "a"}), extra={"container": {"id": "first"}})
        if request["model"] == OPUS and turn == 1 + decide.CUTS:
            return say("No.", stop_reason="refusal", extra={"container": {"id": "second"}})
        return say("Part. ", stop_reason="max_tokens", extra={"container": {"id": "first"}})

    world = played(asker(SONNET), script)
    assert models(world.requests) == [OPUS] * (1 + decide.CUTS) + [SONNET] * 2
    assert {msgspec.json.decode(body).get("container") for body in world.requests[1:]} == {"first"}
    assert f"{decide.CUTS + 1} replies in a row were cut off" in world.state.why
    assert is_paid(world)

    def at_once(request: dict[str, Any], attempt: int) -> Turn:
        if turn_number(request) == 1:
            return say(tool_use("send", {"text": "a"}))
        return refuse("No.") if request["model"] == OPUS else say("Done.")

    world = played(asker(SONNET), at_once)
    records = world.journal.read(run_stream("r"))
    tools = [r.event.tool for r in records if isinstance(r.event, ModelCallStarted)]
    assert tools == ["", "send", "send"]


# ── which ───────────────────────────────────────────────────────────────────────────────────────


def test_a_window_that_is_too_narrow_is_passed_over() -> None:
    """A model is asked only where the conversation surely fits into it."""
    long = "word " * 180_000  # 900,000 bytes, and more than 200,000 tokens by the simulator
    assert context_window(SMALL) == 200_000
    world = played(asker(SMALL, SONNET), busy(OPUS), long)
    assert models(world.requests) == [OPUS] * 3 + [SONNET]
    alone = played(asker(SMALL), busy(OPUS), long)
    assert models(alone.requests) == [OPUS] * decide.ATTEMPTS
    fits = played(asker(SMALL), busy(OPUS), "word " * 30_000)
    assert models(fits.requests) == [OPUS] * 3 + [SMALL]


def test_what_was_metered_counts_where_the_bytes_are_too_many() -> None:
    """A conversation of 300,000 bytes is known to be short enough once the API has counted it."""

    def script(request: dict[str, Any], attempt: int) -> Any:
        if turn_number(request) == 1:
            return say(tool_use("send", {"text": "a"}))
        return answers(request, attempt)

    def later(request: dict[str, Any], attempt: int) -> Any:
        first = turn_number(request) == 1 or request["model"] != OPUS or not attempt
        return script(request, attempt) if first else BUSY

    world = played(asker(SMALL), later, "word " * 60_000)
    assert models(world.requests) == [OPUS] * 4 + [SMALL]
    assert world.state.status == "completed"
    assert is_paid(world)


def test_the_pages_of_a_document_count() -> None:
    """A PDF is short by its bytes in the journal, and may be too long for a window all the same."""
    pages = outlast.Document(b"%PDF-1.7" + b" /Type /Page" * 80)  # 240,000 tokens
    world = played(asker(SMALL, SONNET), busy(OPUS), [pages, "What is it?"])
    assert models(world.requests) == [OPUS] * 3 + [SONNET]
    assert world.state.status == "completed"


def test_who_is_held_off_by_a_rate_limit_is_passed_over(at_once: None) -> None:
    """A switch is no help where nobody asks the other model at the moment."""
    frozen = Fault(kind="status", status=429, headers={"retry-after": "3000"})

    def script(request: dict[str, Any], attempt: int) -> Any:
        if request["model"] == SONNET:
            return frozen
        return BUSY if request["model"] == OPUS else answers(request, attempt)

    with opened(script=script) as app:
        app.run(outlast.Agent("other", model=SONNET), "x", run_id="other", wait_s=0)
        app.claude.calls.clear()
        assert app.run(asker(SONNET, HAIKU), "Hello.").answer == f"{HAIKU}: Hello."
        assert models(app.claude.calls) == [OPUS] * 3 + [HAIKU]


def test_a_budget_that_could_wait_is_not_stopped_by_a_dearer_hold() -> None:
    """By its bytes the prompt is held for more; where that is too much, it is waited on."""

    def script(request: dict[str, Any], attempt: int) -> Any:
        if turn_number(request) == 1:
            return say(tool_use("send", {"text": "a"}))
        return BUSY if attempt in range(1, 5) else answers(request, attempt)

    long, first = "word " * 60_000, Terms(cache="5m")
    needed = worst_case(OPUS, 310_000, 100, first)
    tight = Budget(usd=f"{needed / 10**9:.4f}")
    agent = asker("claude-fable-5-2", max_tokens=100, budget=tight)
    world = played(agent, script, long)
    assert set(models(world.requests)) == {OPUS}
    assert world.state.status == "completed"


def test_a_batch_falls_back_after_refusals_only() -> None:
    """What a batch meets says nothing of one of its calls; a refusal does."""

    def script(request: dict[str, Any], attempt: int) -> Any:
        return refuse("No.") if request["model"] == OPUS else answers(request, attempt)

    world = played(asker(SONNET), script, batch=True)
    assert models(world.requests) == [OPUS, SONNET]
    assert is_paid(world)
    again = World(answers)
    again.model = type(again.model)(
        answers, clock=lambda: again.now, batch_faults=lambda body, number: BUSY
    )
    journal = open_store("memory://")
    state, _ = run(again, journal, asker(SONNET), "Hello.", batch=True)
    assert state.status == "failed"
    assert set(models(again.requests)) == {OPUS}


def test_only_a_breaker_asks_for_what_a_breaker_asks_for() -> None:
    """The same rule gives the switch of a breaker that is open, but in a batch."""
    world = played(asker(SONNET, HAIKU), busy(), "Hello.")
    ask = world.state.asks["ask-1"]
    step = decide.fallback(world.state, ask, "breaker", lambda other: other.spec.model == HAIKU)
    assert step is not None
    (switch,) = step.events
    assert isinstance(switch, ModelSwitched)
    assert (switch.model, switch.why, switch.call_id) == (HAIKU, "breaker", "")
    assert decide.fallback(world.state, ask, "breaker", lambda other: False) is None
    batch = played(asker(SONNET), busy(), batch=True)
    assert decide.fallback(batch.state, batch.state.asks["ask-1"], "breaker") is None


# ── with what ───────────────────────────────────────────────────────────────────────────────────


def test_only_the_model_of_a_request_is_another() -> None:
    """System, tools, thinking and every message are those that were sent, to the byte."""

    def script(request: dict[str, Any], attempt: int) -> Any:
        if turn_number(request) == 1:
            return say(thinking("Hm."), tool_use("send", {"text": "a"}))
        if request["model"] == OPUS and attempt:
            return BUSY
        return say("Done.")

    agent = asker(SONNET, instructions="Be kind.", cache=None)
    world = played(agent, script)
    before, after = world.requests[-2:]
    assert after == before.replace(OPUS.encode(), SONNET.encode(), 1)
    assert world.state.status == "completed"
    assert SENT == ["a"]


def test_what_rests_on_the_old_model_is_forgotten() -> None:
    """Another model has another cache, which misses nothing, and counts tokens otherwise."""

    def script(request: dict[str, Any], attempt: int) -> Any:
        if turn_number(request) == 1:
            return say(tool_use("send", {"text": "a"}))
        return BUSY if request["model"] == OPUS and attempt else answers(request, attempt)

    long = "word " * 20_000
    world = played(asker(SONNET), script, long)
    types = world.emitted
    assert not types["cache_missed"]
    records = world.journal.read(run_stream("r"))
    starts = [r for r in records if isinstance(r.event, ModelCallStarted)]
    terms = terms_of(b"{}", cache="5m")
    sonnet = starts[-1].event
    assert isinstance(sonnet, ModelCallStarted)
    assert sonnet.hold_nano >= worst_case(SONNET, len(long), sonnet.max_tokens, terms)
    opus = starts[-2].event
    assert isinstance(opus, ModelCallStarted)
    assert opus.hold_nano < worst_case(OPUS, len(long), opus.max_tokens, terms)
    assert (opus.attempt, sonnet.attempt) == (3, 1)
    assert is_paid(world)


def test_the_hash_of_a_request_is_that_of_its_model() -> None:
    """What is journalled of a request names its model, as if that had been asked from the start."""
    world = played(asker(SONNET, cache=None), busy(OPUS))
    alone = played(asker(model=SONNET, cache=None), answers)
    hashes = [
        [
            record.event.request_hash
            for record in each.journal.read(run_stream("r"))
            if isinstance(record.event, ModelCallStarted)
        ]
        for each in (world, alone)
    ]
    assert hashes[0][-1] == hashes[1][-1]
    assert len(set(hashes[0])) == 2


def test_a_document_is_counted_anew() -> None:
    """What one model's API counted of a PDF is no bound for another."""
    shown = [outlast.Document(b"%PDF-1.7 /Type /Page"), "What is it?"]
    world = played(asker(SONNET), busy(OPUS), shown)
    assert world.emitted["tokens_counted"] == 2
    assert world.state.status == "completed"


def test_a_new_question_begins_with_the_declared_model(at_once: None) -> None:
    """A question stays with the model it was switched to; the next one asks the first again."""
    down = [OPUS]

    def script(request: dict[str, Any], attempt: int) -> Any:
        if request["model"] in down and attempt:
            return BUSY
        if last_text(request) == "Send it." and len(request["messages"]) == 1:
            if attempt:
                down.clear()
            return say(thinking("Hm."), tool_use("send", {"text": "a"}))
        return answers(request, attempt)

    with opened(script=script) as app:
        agent = asker(SONNET)
        app.run(agent, "Send it.", run_id="r")
        assert app.send("r", "And now?", agent=agent).answer == f"{OPUS}: And now?"
        asked = models(app.claude.calls)
        assert asked == [OPUS] * 3 + [SONNET] * 2 + [OPUS]
        before, after = (msgspec.json.decode(body) for body in app.claude.calls[-2:])
        said = [block for message in before["messages"] for block in message["content"]]
        assert any(block["type"] == "thinking" for block in said)
        plain_before = [
            str(m["content"]).partition("'cache_control'")[0] for m in before["messages"]
        ]
        for number, told in enumerate(plain_before):
            assert str(after["messages"][number]["content"]).startswith(told[:40])
        assert after["model"] == OPUS
        told = told_of(app)
        assert f"asked {SONNET} instead of {OPUS}, which was overloaded 3 times" in told
        assert f"goes on from ask-1, and asks {OPUS} again" in told


def told_of(app: outlast.Outlast, run_id: str = "r") -> str:
    reader, lines = Reader(), []
    for record in app.log(run_id):
        lines.append(plain(reader.tell(record)))
        reader.take(record)
    return "\n".join(lines)


def test_what_the_api_left_out_is_told() -> None:
    """Thinking that another model may not read is dropped by the API, which the log says."""
    dropped = {
        "type": "thinking_dropped",
        "path": "messages.1.content.0",
        "reason": "model_binding_mismatch",
    }
    allowed = dropped | {"type": "thinking_mismatch_allowed"}

    def script(request: dict[str, Any], attempt: int) -> Any:
        if request["model"] == OPUS:
            return refuse("No.", category="cyber", recommended_model=SONNET)
        return say("Done.", extra={"input_transformations": [dropped, allowed]})

    with opened(script=script) as app:
        app.run(asker(SONNET), "Hello.", run_id="r")
        told = told_of(app)
    assert f"asked {SONNET} instead of {OPUS}, which refused to answer (cyber)" in told
    assert "and recommended it" in told
    assert "without 1 block of earlier thinking (model_binding_mismatch)" in told


def test_whoever_watches_takes_back_what_was_refused() -> None:
    """A stream discards the parts of the refused reply, live and when it is told again."""

    def script(request: dict[str, Any], attempt: int) -> Any:
        if request["model"] == OPUS:
            return refuse("I would rather not.")
        return answers(request, attempt)

    with opened(script=script) as app:
        for _ in range(2):
            shown: dict[str, str] = {}
            for part in app.stream(asker(SONNET), "Hello.", run_id="r"):
                if part.kind == "discarded":
                    del shown[part.call_id]
                else:
                    shown[part.call_id] = shown.get(part.call_id, "") + part.text
            assert list(shown.values()) == [f"{SONNET}: Hello."]


def test_it_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever reads logs learns that another model answers than the one that was chosen."""
    with opened(script=lambda request, attempt: refuse("No.")) as app:
        with caplog.at_level(logging.WARNING, "outlast"):
            app.run(asker(SONNET), "Hello.", run_id="r")
        (warned,) = [one for one in caplog.records if "model_switched" in one.getMessage()]
        assert SONNET in warned.getMessage()


ASKER = asker(SONNET)


@outlast.flow
async def flow(run: outlast.Run) -> list[Any]:
    """Ask two agents, one of which has a fallback."""
    alone = outlast.Agent("alone", model=HAIKU)
    first = await run.ask(ASKER, "Hello.", conversation="c", name="one")
    again = await run.ask(ASKER, "Again.", conversation="c", name="two")
    return [first, again, await run.ask(alone, "And you?")]


def test_the_asks_of_a_flow_have_it_too(at_once: None) -> None:
    """Each question of a flow is switched by itself, and the run is paid for in full."""
    with opened(script=busy(OPUS)) as app:
        done = app.run(flow, run_id="r")
        assert done.answer == [f"{SONNET}: Hello.", f"{SONNET}: Again.", f"{HAIKU}: And you?"]
        assert done.cost_nano == sum(charge.nano_usd for charge in app.claude.bill)
        assert len(of_kind(app, ModelSwitched)) == 2
        assert f"one: asked {SONNET} instead of {OPUS}" in told_of(app)


# ── for how much ────────────────────────────────────────────────────────────────────────────────


def test_each_attempt_is_held_and_added_up_under_the_model_it_asks(at_once: None) -> None:
    """Budgets of models, the roll-up and the ledger go by the model that was asked."""
    with opened(script=busy(OPUS)) as app:
        app.set_budget(f"model:{OPUS}", usd=100, calls=100, reason="a test")
        app.set_budget(f"model:{SONNET}", usd=100, calls=100, reason="a test")
        done = app.run(asker(SONNET), "Hello.", run_id="r")
        lines = {line.name: line for line in costs(app.journal.rollup(), "model")}
        assert lines[OPUS].nano == 0
        assert lines[SONNET].nano == done.cost_nano > 0
        calls = {m: app.journal.balance(f"model:{m}", unit="calls").settled for m in (OPUS, SONNET)}
        assert calls == {OPUS: 3, SONNET: 1}
        nano = {m: app.journal.balance(f"model:{m}").settled for m in (OPUS, SONNET)}
        assert nano == {OPUS: 0, SONNET: done.cost_nano}
        starts = of_kind(app, ModelCallStarted)
        bound = {start.hold_nano for start in starts}
        assert len(bound) == 2, "three at the price of opus, one at that of sonnet"


def test_a_refusal_and_what_follows_are_two_lines() -> None:
    """The refused reply is paid under the model that refused, in the same append as the switch."""

    def script(request: dict[str, Any], attempt: int) -> Any:
        return refuse("No.") if request["model"] == OPUS else answers(request, attempt)

    with opened(script=script) as app:
        app.run(asker(SONNET), "Hello.", run_id="r")
        lines = {line.name: line.nano for line in costs(app.journal.rollup(), "model")}
        billed: dict[str, int] = {}
        for charge in app.claude.bill:
            billed[charge.model] = billed.get(charge.model, 0) + charge.nano_usd
        assert lines == billed


def test_a_refusal_that_passes_a_mark_of_its_budget_is_told() -> None:
    """Whoever watches the budget of the model that refused hears of it in the same append."""

    def script(request: dict[str, Any], attempt: int) -> Any:
        return refuse("No.") if request["model"] == OPUS else answers(request, attempt)

    with opened(script=script) as app:
        for model in (OPUS, SONNET):
            app.set_budget(f"model:{model}", usd="0.2", notify=[1], reason="a test", binding=False)
        app.run(asker(SONNET, instructions="Be kind. " * 2_000), "Hello.", run_id="r")
        told = [r.event for r in app.journal.read("~budgets")]
        passed = [one.scope for one in told if isinstance(one, BudgetPassed)]
        assert passed == [f"model:{OPUS}", f"model:{SONNET}"]


def test_the_budget_of_a_model_stops_nobody_who_can_ask_another(at_once: None) -> None:
    """A fallback whose own budget is used up is passed over, and stops the run by no means."""
    tried: list[int] = []

    def script(request: dict[str, Any], attempt: int) -> Any:
        tried.append(attempt)
        return BUSY if request["model"] == OPUS and attempt < 6 else answers(request, attempt)

    with opened(script=script) as app:
        app.set_budget(f"model:{SONNET}", calls=1, reason="a test")
        app.run(outlast.Agent("other", model=SONNET), "x", run_id="other")
        done = app.run(asker(SONNET), "Hello.", run_id="r")
        assert (done.status, done.answer) == ("completed", f"{OPUS}: Hello.")
        assert of_kind(app, BudgetRefused) == []
        assert set(models(app.claude.calls[1:])) == {OPUS}


def test_a_call_in_doubt_is_of_the_model_that_was_asked(at_once: None) -> None:
    """What is corrected later is corrected where it was counted, whatever was asked after it."""
    cut = Fault(kind="cut", after_events=3)

    def script(request: dict[str, Any], attempt: int) -> Any:
        if request["model"] == OPUS and attempt:
            return cut if attempt == 1 else BUSY
        return cut if attempt == 1 else answers(request, attempt)

    with opened(script=script) as app:
        app.run(asker(SONNET), "Hello.", run_id="r")
        assert len(of_kind(app, ModelCallInDoubt)) == 2
        assert [doubt.payer.model for doubt in doubts(app.journal)] == [OPUS, SONNET]
        lines = {line.name: line for line in costs(app.journal.rollup(), "model")}
        assert lines[OPUS].in_doubt_nano > 0
        assert lines[SONNET].in_doubt_nano > 0


def test_the_worst_case_is_that_of_the_dearest() -> None:
    """What a run can cost at most counts every turn at the model that costs most."""
    budget = Budget(turns=2)
    dear = asker(OPUS, model=HAIKU, budget=budget).worst_case()
    assert dear == asker(model=OPUS, budget=budget).worst_case()
    tokens = Budget(tokens=1_000)
    assert asker(OPUS, model=HAIKU, budget=tokens).worst_case().nano == (
        asker(model=OPUS, budget=tokens).worst_case().nano
    )
    assert asker(HAIKU, budget=budget).worst_case().nano == dear.nano


def test_where_the_api_falls_back_itself_the_dearest_is_held() -> None:
    """A request that names fallbacks of the API's holds a pass for each, at the dearest price."""
    members = {"fallbacks": [{"model": OPUS}]}
    agent = outlast.Agent("asker", model=HAIKU, parameters=members, cache=None)
    billed = {
        "iterations": [
            {"type": "message", "model": HAIKU, "input_tokens": 9, "output_tokens": 9},
            {"type": "fallback_message", "model": OPUS, "input_tokens": 9, "output_tokens": 9},
        ]
    }
    world = played(agent, lambda request, attempt: say("Done.", usage=billed))
    records = world.journal.read(run_stream("r"))
    (start,) = [r.event for r in records if isinstance(r.event, ModelCallStarted)]
    assert start.hold_nano > 2 * start.max_tokens * 20_000, "two passes at the price of opus"
    assert world.state.spend.nano == 9 * (100 + 500 + 4_000 + 20_000)
    assert is_paid(world)


# ── the declaration ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ([OPUS], "which is asked before"),
        ([SONNET, SONNET], "which is asked before"),
        (["claude-opus-5-5-20260101"], "which is asked before"),
        (SONNET, "must be a list"),
        ([5], "must be a list"),
        ([""], "must be a list"),
        (5, "must be a list"),
        ({SONNET, HAIKU}, "must be a list"),
    ],
)
def test_what_is_no_fallback_is_refused(given: Any, why: str) -> None:
    """Each model is named once, in a list."""
    with pytest.raises(InvalidAgent, match=why):
        outlast.Agent("asker", model=OPUS, fallback_models=given)


def test_a_fallback_without_a_price_is_refused_before_anything_is_written() -> None:
    """Nobody could hold anything for it."""
    with opened() as app:
        with pytest.raises(UnknownModel, match="claude-next"):
            app.run(asker("claude-next"), "Hello.", run_id="r")
        assert app.runs() == []
    with pytest.raises(UnknownModel):
        asker("claude-next", parameters={"speed": "fast"}).worst_case()


def test_they_are_part_of_the_version_where_there_are_any() -> None:
    """Agents without them keep the version they had."""
    assert version_of(asker()) != version_of(asker(SONNET))
    assert differences(asker().spec(), asker(SONNET).spec()) == ["fallback_models"]
    assert b"fallback" not in msgspec.json.encode(asker().spec())


def test_a_recorded_fallback_whose_price_is_gone_is_passed_over() -> None:
    """A model that was declared where the run was begun, and is not here, is not asked."""
    world = played(asker(SONNET), busy(), "Hello.")
    ask = world.state.asks["ask-1"]
    spec = msgspec.structs.replace(ask.spec, fallback_models=("house-model", SONNET))
    step = decide.fallback(world.state, msgspec.structs.replace(ask, spec=spec), "overloaded")
    assert step is not None
    assert [getattr(event, "model", "") for event in step.events] == [SONNET]


def test_a_run_that_fell_back_is_read_as_it_was_written() -> None:
    """The fold of its journal is what its driver knew, and no tool was called for a refusal."""
    world = played(
        asker(SONNET),
        lambda request, attempt: (
            refuse(tool_use("send", {"text": "x"}))
            if request["model"] == OPUS
            else answers(request, attempt)
        ),
    )
    records = world.journal.read(run_stream("r"))
    assert fold(records) == world.state
    assert not [r for r in records if isinstance(r.event, ToolCallStarted)]
