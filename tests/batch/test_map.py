"""`run.map(…, batch=True)`: half the price, the same answers, and a ledger that is the bill."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import anthropic
import msgspec
import pytest

import outlast
from batch.mapped import TESTS, Told, agent, full, mapping, over_http, quick, scripted
from batch.scripts import ROWS, lead, script, sending
from outlast.errors import ModelFailure
from outlast.events import (
    FailureKind,
    ModelCallBatched,
    ModelCallFailed,
    ModelCallInDoubt,
    ModelCallStarted,
    ModelCallSucceeded,
    RunStarted,
)
from outlast.journal import Balance
from outlast.models.script import last_text, say
from outlast.models.scripted import ScriptedModel, request_key
from outlast.prices import Terms, worst_case
from outlast.testing import simulator

TWENTY = [f"question {number} {'at length ' * number}" for number in range(20)]


def test_half_the_price_and_the_same_answers() -> None:
    """Twenty inputs in one batch cost exactly half of what they cost without, on either side."""
    billed, charged, answers = [], [], []
    for batch in (False, True):
        with simulator.start("batch.scripts:script", path=[TESTS]) as claude:
            app = full(over_http(claude), 20)
            run = app.run(mapping(agent(), batch=batch), TWENTY, run_id="r")
            assert run.status == "completed", run.why
            billed.append(claude.billed_nano)
            charged.append(Told(app).cost_nano)
            answers.append(run.answer)
            assert [line["entries"] for line in claude.batches()] == ([20] if batch else [])
            posted = [line["outcome"] for line in claude.requests()]
            assert posted.count("batch_sent") == posted.count("batch_fetched") == batch
            app.close()
    assert charged == billed
    assert billed[0] == 2 * billed[1] > 0
    assert answers[0] == answers[1]
    assert answers[0][3] == f"re: {TWENTY[3][:40]}"


def test_the_ledger_is_the_bill_to_half_a_nano() -> None:
    """Halves of nano-dollars, as a batch has them, are summed before they are rounded."""
    long = "x" * 20_011  # so long that the prompt cache takes it, at 62.5 nano-dollars a token
    inputs = [f"{number} {long}{'y' * number}" for number in range(12)]
    app, claude = scripted(script)
    who = agent(model="claude-haiku-5-5", instructions="Be brief.")
    assert app.run(mapping(who, batch=True), inputs).status == "completed"
    written = [charge.usage["cache_creation_input_tokens"] for charge in claude.bill]
    assert any(tokens % 2 for tokens in written), "no price had a half"
    assert Told(app).cost_nano == claude.billed_nano
    each = {event.cost_nano for event in Told(app).events(ModelCallSucceeded)}
    assert each == {charge.nano_usd for charge in claude.bill}


def test_what_is_sent_is_what_would_have_been() -> None:
    """An entry has the very bytes of the message that would have been sent, but for the stream."""
    plain, batched = scripted(lead), scripted(lead)
    for (app, _), batch in ((plain, False), (batched, True)):
        assert app.run(mapping(agent(), batch=batch), ["a", "use b"], run_id="r").answer
    without = sorted(body.replace(b'"stream":true,', b"") for body in plain[1].calls)
    assert sorted(batched[1].calls) == without
    assert all(b'"stream"' not in body for body in batched[1].calls)


def test_the_journal_of_a_child() -> None:
    """A child says from its first event on that it is batched, and where its result will be."""
    app, claude = scripted(script)
    app.run(mapping(agent(), batch=True), ["a"], run_id="r")
    kinds = [type(record.event).__name__ for record in app.log("r/each/1")]
    assert kinds[3:6] == ["ModelCallStarted", "ModelCallBatched", "ModelCallSucceeded"]
    told = Told(app)
    assert sorted(each.batch for each in told.events(RunStarted)) == [False, True]
    (intent,), (accepted,) = told.events(ModelCallStarted), told.events(ModelCallBatched)
    assert intent.batch
    assert accepted.batch_id == claude.batches[0].id
    assert list(claude.batches[0].results) == [accepted.custom_id]
    bound = intent.hold_tokens - intent.max_tokens
    assert intent.hold_nano == worst_case(
        "claude-opus-5-5", bound, 500, Terms(batch=True, cache="5m")
    )
    assert 2 * intent.hold_nano == worst_case("claude-opus-5-5", bound, 500, Terms(cache="5m"))


# ── each row of results ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("word", ROWS)
def test_an_entry_that_came_to_nothing_is_sent_again(word: str) -> None:
    """What passes is tried again under a new hold; only a result that is missing was paid twice."""
    app, claude = scripted(script)
    run = app.run(mapping(agent(), batch=True), ["fine", f"{word} once"], run_id="r")
    assert run.answer == ["re: fine", f"re: {word} once"]
    told = Told(app)
    failed, doubted = told.events(ModelCallFailed), told.events(ModelCallInDoubt)
    kinds = [event.kind for event in (*failed, *doubted)]
    named = {"limited": "rate_limited", "missing": "malformed"}.get(word, word)
    assert kinds == [named]
    assert len(doubted) == (word == "missing")
    assert len(claude.batches) == 2
    assert len(told.events(ModelCallStarted)) == 3
    in_doubt = sum(event.cost_nano for event in doubted)
    settled = sum(event.cost_nano for event in told.events(ModelCallSucceeded))
    assert told.cost_nano == settled + in_doubt
    if word == "missing":
        assert settled < claude.billed_nano <= told.cost_nano
    else:
        assert told.cost_nano == claude.billed_nano


def test_an_entry_that_is_no_request_fails_its_child() -> None:
    """An invalid request is not tried again, costs nothing, and leaves the others alone."""
    app, claude = scripted(script)
    run = app.run(mapping(agent(), batch=True), ["fine", "invalid as it is"], run_id="r")
    assert run.status == "failed"
    assert "that is no question" in run.why
    (failed,) = Told(app).events(ModelCallFailed)
    assert (failed.kind, failed.error_type) == ("invalid_request", "invalid_request_error")
    assert app.get("r/each/1").answer == "re: fine"
    assert len(claude.batches) == 1
    assert Told(app).cost_nano == claude.billed_nano > 0


def test_a_result_that_names_no_batch_is_settled_at_the_full_price() -> None:
    """What the API meters is what is charged, though a batch was asked for: in doubt is spent."""
    app, claude = scripted(lead)
    app.run(mapping(agent(), batch=True), ["standard as ever", "question as ever"], run_id="r")
    dear, cheap = (app.get(f"r/each/{number}").cost_nano for number in (1, 2))
    assert dear == 2 * cheap == claude.bill[0].nano_usd
    assert Told(app).cost_nano == claude.billed_nano


def test_every_row_over_http() -> None:
    """The same over the real API's shapes, for all rows in one map."""
    inputs = [*(f"{word} once" for word in ROWS), "fine"]
    with simulator.start("batch.scripts:script", path=[TESTS]) as claude:
        app = quick(over_http(claude))
        run = app.run(mapping(agent(), batch=True), inputs, run_id="r")
        assert run.answer == [f"re: {each}" for each in inputs]
        told = Told(app)
        kinds = sorted(event.kind for event in told.events(ModelCallFailed))
        assert kinds == ["canceled", "errored", "expired", "overloaded", "rate_limited"]
        (doubted,) = told.events(ModelCallInDoubt)
        lost = [line["nano_usd"] for line in claude.bill() if line["outcome"] == "missing"]
        assert told.cost_nano - doubted.cost_nano == claude.billed_nano - sum(lost)
        assert doubted.cost_nano >= sum(lost) > 0
        app.close()


# ── sending ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("word", ["refused", "busy", "lost", "late", "paid"])
def test_a_batch_that_is_not_accepted(word: str) -> None:
    """Refused, it costs nothing; accepted or not, the children have their answers."""
    app, claude = scripted(script, batch_faults=sending)
    lines = check_sending(quick(app, most=3), word, lambda: claude.billed_nano)
    assert len(claude.bill) == lines


@pytest.mark.parametrize("word", ["refused", "lost"])
def test_a_batch_that_is_not_accepted_over_http(word: str) -> None:
    """The same where the connection is a real one."""
    faulty = {"batch_faults": "batch.scripts:sending"}
    with simulator.start("batch.scripts:script", path=[TESTS], **faulty) as claude:
        app = quick(over_http(claude), most=3)
        lines = check_sending(app, word, lambda: claude.billed_nano)
        assert len(claude.bill()) == lines
        app.close()


def check_sending(app: outlast.Outlast, word: str, billed: Callable[[], int]) -> int:
    """Map three inputs whose batch meets something; return how often Claude had to answer."""
    inputs = [f"{word} {number}" for number in range(3)]
    run = app.run(mapping(agent(), batch=True), inputs, run_id="r")
    assert run.answer == [f"re: {each}" for each in inputs]
    told = Told(app)
    failed, doubted = told.events(ModelCallFailed), told.events(ModelCallInDoubt)
    if word in ("lost", "paid"):
        assert (len(failed), len(doubted)) == (0, 3)
        assert billed() <= told.cost_nano
        return 6  # it was accepted the first time, and nobody knew
    assert (len(failed), len(doubted)) == (0 if word == "late" else 3, 0)
    assert billed() == told.cost_nano
    return 3


def test_a_refused_key_stops_the_map_and_it_goes_on() -> None:
    """Nothing was sent, so nothing is spent; once it is mended the same runs go on, in a batch."""
    app, claude = scripted(script, batch_faults=sending)
    flow = mapping(agent(), batch=True)
    inputs = ["forbidden today", "forbidden, too"]
    run = app.run(flow, inputs, run_id="r")
    assert run.status == "stopped"
    assert (claude.billed_nano, Told(app).cost_nano) == (0, 0)
    run = app.resume("r", flow)
    assert run.answer == [f"re: {each}" for each in inputs]
    assert claude.billed_nano == Told(app).cost_nano > 0


# ── budgets ─────────────────────────────────────────────────────────────────────────────────────


def hold(*, batch: bool) -> int:
    """Return what a call of these agents holds."""
    app, _ = scripted(lead)
    app.run(mapping(agent(min_tokens=500), batch=batch), ["a"])
    (intent,) = Told(app).events(ModelCallStarted)
    return int(intent.hold_nano)


def test_a_budget_that_the_full_price_would_not_fit() -> None:
    """Holds at half price fit into the budget of an agent, and into one of an operator."""
    whole, half = hold(batch=False), hold(batch=True)
    assert whole == 2 * half
    usd = Decimal(half) / 10**9
    tight = agent(min_tokens=500, budget=outlast.Budget(usd=usd))
    for batch, fits in ((False, False), (True, True)):
        app, claude = scripted(lead)
        if fits:
            assert app.run(mapping(tight, batch=batch), ["a"]).answer == ["re: a"]
            assert 0 < claude.billed_nano <= half
        else:
            with pytest.raises(outlast.BudgetTooSmall):
                app.run(mapping(tight, batch=batch), ["a"])
    app, claude = scripted(lead)
    app.set_budget("fleet", usd=3 * usd, reason="three at once, at half price")
    full(app, 3)
    run = app.run(mapping(agent(min_tokens=500), batch=True), ["a", "b", "c"])
    assert run.answer == ["re: a", "re: b", "re: c"]
    assert [len(batch.results) for batch in claude.batches] == [3], "all three held at once"


def test_what_does_not_fit_waits_for_what_is_held() -> None:
    """Calls that a budget does not fit beside each other go in one batch after the other."""
    half = hold(batch=True)
    app, claude = scripted(lead)
    app.set_budget("fleet", usd=Decimal(half) * 2 / 10**9, reason="two at once")
    inputs = [str(number) for number in range(5)]
    run = app.run(mapping(agent(min_tokens=500), batch=True), inputs)
    assert run.answer == [f"re: {each}" for each in inputs]
    assert max(len(batch.results) for batch in claude.batches) == 2
    assert claude.billed_nano == Told(app).cost_nano


# ── together, and turn by turn ──────────────────────────────────────────────────────────────────


def test_two_maps_at_once() -> None:
    """Calls of two maps that come at the same time are one batch, and each gets its own."""
    reader, writer = agent("reader"), agent("writer", model="claude-sonnet-5-5")

    @outlast.flow
    async def both(run: outlast.Run) -> Any:
        return await asyncio.gather(
            run.map(reader, ["a", "b"], name="read", batch=True),
            run.map(writer, ["a", "c"], name="write", batch=True),
        )

    app, claude = scripted(lead)
    full(app, 4)
    assert app.run(both).answer == [["re: a", "re: b"], ["re: a", "re: c"]]
    assert [len(batch.results) for batch in claude.batches] == [4]
    assert claude.billed_nano == Told(app).cost_nano


def test_tools_go_on_turn_by_turn() -> None:
    """An agent that calls tools has each of its turns in a batch, with those of the others."""
    app, claude = scripted(lead)
    full(app, 3)
    inputs = ["use x", "use y", "use z"]
    run = app.run(mapping(agent(), batch=True), inputs, run_id="r")
    assert run.answer == [f"found {each} 2" for each in inputs]
    assert [len(batch.results) for batch in claude.batches] == [3, 3, 3]
    assert claude.billed_nano == Told(app).cost_nano
    assert all(charge.usage["service_tier"] == "batch" for charge in claude.bill)


def test_a_child_that_is_batched_beside_ones_that_are_not() -> None:
    """Only the children of that map are batched; asks and other maps go as ever."""
    who = agent()

    @outlast.flow
    async def mixed(run: outlast.Run) -> Any:
        asked = await run.ask(who, "asked")
        plain = await run.map(who, ["plain"], name="plain")
        return [asked, plain, await run.map(who, ["cheap"], name="cheap", batch=True)]

    app, claude = scripted(lead)
    assert app.run(mixed).answer == ["re: asked", ["re: plain"], ["re: cheap"]]
    tiers = {
        last_text_of(charge.key, claude): charge.usage["service_tier"] for charge in claude.bill
    }
    assert tiers == {"asked": "standard", "plain": "standard", "cheap": "batch"}


def last_text_of(key: str, claude: Any) -> str:
    return next(
        last_text(msgspec.json.decode(body)) for body in claude.calls if request_key(body) == key
    )


# ── refused ─────────────────────────────────────────────────────────────────────────────────────


@outlast.flow
async def small(run: outlast.Run, word: str) -> str:
    return word


CLOUD = anthropic.AsyncAnthropicFoundry(resource="r", api_key="k")


@pytest.mark.parametrize(
    ("who", "client", "told"),
    [
        (small, None, "it is a flow"),
        (agent(model="claude-opus-4-1"), None, "no price is known for batches of claude-opus-4-1"),
        (agent(), CLOUD, "AsyncAnthropicFoundry has no Message Batches API"),
    ],
    ids=["a flow", "no price", "another cloud"],
)
def test_refused_before_anything_begins(who: Any, client: Any, told: str) -> None:
    """What cannot be batched is refused, saying why, and no child exists."""
    app, claude = scripted(lead)
    if client is not None:
        app = outlast.Outlast("memory://", client=client)
    with pytest.raises(outlast.UsageError, match=told):
        app.run(mapping(who, batch=True), ["a", "b"], run_id="r")
    assert [run.id for run in app.runs()] == ["r"]
    assert claude.calls == []
    app.close()


# ── legs that end, and results that cannot be had ───────────────────────────────────────────────


DAY_NS = 86_400 * 10**9


class Locked(ScriptedModel):
    """A Claude that does not let anybody see a batch for a while."""

    kind: FailureKind | None = "auth"

    def __init__(self, script: Any) -> None:
        super().__init__(script)
        self.polled = asyncio.Event()

    async def batch_ended(self, batch_id: str) -> bool:
        self.polled.set()
        if self.kind is not None:
            raise ModelFailure(self.kind, "not yours")
        return await super().batch_ended(batch_id)


def test_results_that_cannot_be_fetched_are_not_paid_twice() -> None:
    """A key that is refused leaves every run where it is; with another one they go on."""
    model = Locked(lead)
    app = quick(outlast.Outlast("memory://", model=model))
    flow = mapping(agent(), batch=True)
    with pytest.raises(outlast.BatchNotFetched, match="mend that, and go on") as failed:
        app.run(flow, ["a", "b"], run_id="r")
    assert failed.value.batch_id == model.batches[0].id
    assert {run.status for run in app.runs()} == {"running"}
    model.kind = None
    assert app.run(flow, ["a", "b"], run_id="r").answer == ["re: a", "re: b"]
    assert (len(model.batches), len(model.bill)) == (1, 2)
    assert Told(app).cost_nano == model.billed_nano


def test_a_batch_that_the_api_has_forgotten_is_in_doubt() -> None:
    """When results are gone for good, after 29 days, their calls are charged and made again."""
    model = Locked(lead)
    model.kind = "not_found"
    ahead = 0
    app = quick(outlast.Outlast("memory://", model=model))
    app._own._clock = lambda: time.time_ns() + ahead
    flow = mapping(agent(), batch=True)
    with pytest.raises(outlast.BatchNotFetched):
        app.run(flow, ["a"], run_id="r")
    ahead = 28 * DAY_NS
    with pytest.raises(outlast.BatchNotFetched):
        app.run(flow, ["a"], run_id="r")
    assert Told(app).events(ModelCallInDoubt) == []
    ahead = 29 * DAY_NS
    with pytest.raises(outlast.BatchNotFetched):  # the second batch, which is as far away
        app.run(flow, ["a"], run_id="r")
    (doubted,) = Told(app).events(ModelCallInDoubt)
    assert doubted.cost_nano >= model.bill[0].nano_usd
    model.kind = None
    assert app.run(flow, ["a"], run_id="r").answer == ["re: a"]
    assert Told(app).cost_nano >= model.billed_nano


def test_a_leg_that_is_cancelled_leaves_the_batch_running() -> None:
    """Whoever is told to stop sends nothing again: the next leg fetches what was sent."""
    model = Locked(lead)
    model.kind = "unavailable"
    app = quick(outlast.Outlast("memory://", model=model))
    flow = mapping(agent(), batch=True)

    async def legs() -> outlast.Run:
        first = asyncio.ensure_future(app.arun(flow, ["a", "b"], run_id="r"))
        await model.polled.wait()
        first.cancel()
        await asyncio.wait([first])
        model.kind = None
        return await app.arun(flow, ["a", "b"], run_id="r")

    assert asyncio.run(legs()).answer == ["re: a", "re: b"]
    assert (len(model.batches), len(model.bill)) == (1, 2)
    assert Told(app).cost_nano == model.billed_nano


def test_a_child_stays_batched_whatever_the_flow_says_then() -> None:
    """What was begun in a batch goes on so, though the flow was changed meanwhile."""
    model = Locked(lead)
    app = quick(outlast.Outlast("memory://", model=model))
    with pytest.raises(outlast.BatchNotFetched):
        app.run(mapping(agent(), batch=True), ["use a"], run_id="r")
    model.kind = None
    run = app.run(mapping(agent(), batch=False), ["use a"], run_id="r")
    assert run.answer == ["found use a 2"]
    assert [charge.usage["service_tier"] for charge in model.bill] == ["batch"] * 3


def test_what_a_batch_held_is_settled_by_who_fetches_it() -> None:
    """A batch that a later leg fetches settles what its calls hold of their tree."""

    @outlast.flow(name="mapping", budget=outlast.Budget(usd=1))
    async def flow(run: outlast.Run, given: list[str]) -> Any:
        return await run.map(agent(tools=[]), given, name="each", batch=True)

    app, claude = scripted(slow)

    async def left() -> None:
        driving = asyncio.create_task(app.arun(flow, ["a", "b"], run_id="r"))
        while not Told(app).events(ModelCallBatched):  # noqa: ASYNC110  (of other tasks)
            await asyncio.sleep(0.01)
        driving.cancel()
        await asyncio.gather(driving, return_exceptions=True)

    asyncio.run(left())
    assert app.journal.balance("tree:r").held > 0
    assert app.run(flow, ["a", "b"], run_id="r").status == "completed"
    assert len(claude.batches) == 1
    assert app.journal.balance("tree:r") == Balance(settled=claude.billed_nano)


def slow(request: dict[str, Any], attempt: int) -> Any:
    return say(f"re: {last_text(request)}", total_s=1)
