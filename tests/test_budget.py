"""What a run may use: nothing passes the limit, and little is left unused."""

import asyncio
from decimal import Decimal
from typing import Any

import pytest
from agents import Effects, claude
from hypothesis import given
from hypothesis import strategies as st

import outlast
from outlast.agent import Budget
from outlast.budget import Limits, Next, Shortage, Used, room
from outlast.errors import BudgetTooSmall, InvalidAgent
from outlast.events import BudgetRefused, ModelCallStarted
from outlast.journal import run_stream
from outlast.models.script import Script, say, tool_use, turn_number
from outlast.models.scripted import ScriptedModel
from outlast.prices import affordable, worst_case
from outlast.stores import open_store
from outlast.testing.simulation import World, run
from stubs import MODEL, agent

OPUS = "claude-opus-5-5"
CALL = Next(model=OPUS, input_bound=1_000, most=8_000, least=1_000)
PROMPT = worst_case(OPUS, 1_000, 0)
LEAST = worst_case(OPUS, 1_000, 1_000)
FULL = worst_case(OPUS, 1_000, 8_000)


def short(unit: str, needed: int, left: int, *, passing: bool = False) -> Shortage:
    return Shortage(unit=unit, needed=needed, left=left, passing=passing)


@pytest.mark.parametrize(
    ("limits", "used", "found"),
    [
        # no limit at all, and limits that are far
        (Limits(), Used(turns=99, nano=10**12), 8_000),
        (Limits(turns=3, tokens=10**6, nano=10**12), Used(turns=2), 8_000),
        # turns
        (Limits(turns=3), Used(turns=3), short("turns", 1, 0)),
        (Limits(turns=3), Used(turns=4), short("turns", 1, 0)),
        # tokens: a call shrinks, to its least and not below it
        (Limits(tokens=9_000), Used(), 8_000),
        (Limits(tokens=9_000), Used(tokens=500), 7_500),
        (Limits(tokens=9_000), Used(tokens=7_000), 1_000),
        (Limits(tokens=9_000), Used(tokens=7_001), short("tokens", 2_000, 1_999)),
        # tokens that calls in flight hold come back, perhaps
        (Limits(tokens=9_000), Used(held_tokens=7_000), 1_000),
        (Limits(tokens=9_000), Used(held_tokens=8_000), short("tokens", 2_000, 1_000, passing=True)),  # noqa: E501
        (Limits(tokens=9_000), Used(tokens=8_000, held_tokens=1), short("tokens", 2_000, 999)),
        # money, likewise
        (Limits(nano=FULL), Used(), 8_000),
        (Limits(nano=FULL), Used(nano=FULL - LEAST), 1_000),
        (Limits(nano=FULL), Used(nano=FULL - LEAST + 1), short("nano", LEAST, LEAST - 1)),
        (Limits(nano=FULL), Used(held_nano=FULL), short("nano", LEAST, 0, passing=True)),
        (Limits(nano=FULL), Used(nano=FULL), short("nano", LEAST, 0)),
        (Limits(nano=LEAST - 1), Used(held_nano=5), short("nano", LEAST, LEAST - 6)),
        # the tightest counts
        (Limits(tokens=5_000, nano=FULL), Used(), 4_000),
    ],
)  # fmt: skip
def test_room(limits: Limits, used: Used, found: int | Shortage) -> None:
    """A call gets what fits everywhere, or a reason why it gets nothing."""
    assert room(limits, used, CALL) == found


@given(
    st.sampled_from([OPUS, MODEL, "claude-sonnet-5-5"]),
    st.integers(1, 300_000),
    st.integers(0, 10**13),
)
def test_what_can_be_afforded_is_the_most_that_can(model: str, bound: int, nano: int) -> None:
    """One output token more than `affordable` would cost more than there is."""
    most = affordable(model, bound, nano)
    assert most < 0 or worst_case(model, bound, most) <= nano
    assert worst_case(model, bound, max(0, most + 1)) > nano


# ── runs ────────────────────────────────────────────────────────────────────────────────────────


def looping(request: dict[str, Any], attempt: int) -> Any:
    """Call a tool for ever."""
    return say("Once more. " * 20, tool_use("look", {"word": "a"}))


@outlast.tool(effect="read")
def look(word: str) -> str:
    """Look a word up."""
    return word * 200


@pytest.mark.parametrize("usd", ["0.06", "0.1", "0.2", "1"])
def test_nothing_is_billed_beyond_the_budget(usd: str) -> None:
    """A loop ends within its dollars, by Claude's own bill, and less than one call is left."""
    world = World(looping)
    journal = open_store("memory://")
    spender = agent(look, stops_loops=False, model=OPUS, max_tokens=2_000, budget=Budget(usd=usd))
    state, _ = run(world, journal, spender, "Go.")
    billed = sum(charge.nano_usd for charge in world.model.bill)
    limit = int(Decimal(usd) * 10**9)
    assert state.status == "stopped"
    assert 0 < billed <= state.spend.nano <= limit
    *_, refused, _ = (record.event for record in journal.read(run_stream("r")))
    assert isinstance(refused, BudgetRefused)
    assert (refused.scope, refused.unit) == ("run", "nano")
    assert refused.left == limit - state.spend.nano < refused.needed


@pytest.mark.parametrize("budget", [Budget(usd="0.0017"), Budget(tokens=7_000), Budget(turns=4)])
def test_no_crash_widens_the_budget(budget: Budget) -> None:
    """Wherever the process dies, no more is billed than the budget has."""
    whole = World(claude())
    tight = outlast.Agent(
        "sender", model=MODEL, tools=agents_tools(), max_tokens=512, budget=budget
    )  # fmt: skip
    run(whole, open_store("memory://"), tight, "Look it up, save it, and send it.")
    stopped = 0
    for point in range(1, whole.points + 1):
        world = World(claude(), crash_at=[point])
        state, crashes = run(world, open_store("memory://"), tight, "Look it up, save it, send it.")
        billed = sum(charge.nano_usd for charge in world.model.bill)
        limits = budget.limits
        assert crashes == 1
        assert billed <= state.spend.nano <= (limits.nano or state.spend.nano)
        assert state.spend.tokens <= (limits.tokens or state.spend.tokens)
        assert state.spend.turns <= (limits.turns or state.spend.turns)
        stopped += state.status == "stopped"
    assert stopped, "a budget that nothing runs into proves nothing"


def agents_tools() -> Any:
    from agents import agent as crash_agent  # noqa: PLC0415

    return crash_agent(Effects()).tools


def test_a_call_shrinks_to_what_fits() -> None:
    """The last calls ask for fewer tokens, down to the agent's least, before the run stops."""
    world, journal = World(looping), open_store("memory://")
    spender = agent(
        look,
        stops_loops=False,
        model=OPUS,
        max_tokens=4_000,
        min_tokens=500,
        budget=Budget(usd="0.15"),
    )
    run(world, journal, spender, "Go.")
    events = [record.event for record in journal.read(run_stream("r"))]
    limits = [event.max_tokens for event in events if isinstance(event, ModelCallStarted)]
    assert limits[0] == 4_000
    assert limits == sorted(limits, reverse=True)
    assert 500 <= limits[-1] < 4_000
    assert world.model.bill


def test_thinking_has_to_fit_in() -> None:
    """A call does not shrink below the budget that its thinking was given."""
    thinker = agent(
        max_tokens=4_000,
        parameters={"thinking": {"type": "enabled", "budget_tokens": 2_000}},
    )
    assert thinker.least_tokens == 2_001
    assert agent(max_tokens=100).least_tokens == 100
    assert agent(min_tokens=50).least_tokens == 50


def test_a_run_that_stopped_for_money_goes_on_with_more() -> None:
    """A larger budget is all that a stopped run needs; without it, nothing is asked again."""

    def script(request: dict[str, Any], attempt: int) -> Any:
        return looping(request, attempt) if turn_number(request) < 20 else say("Done.")

    model = ScriptedModel(script)
    with outlast.Outlast("memory://", model=model) as app:
        small = agent(
            look, stops_loops=False, model=OPUS, max_tokens=2_000, budget=Budget(usd="0.08")
        )
        run = app.run(small, "Go.", run_id="r")
        assert run.status == "stopped"
        assert "stopped: run budget, needs $0.0" in run.why
        assert "give a larger Budget(usd=…) and resume" in run.why
        calls = len(model.calls)
        assert app.resume("r", small).status == "stopped"
        assert len(model.calls) == calls
        large = agent(look, stops_loops=False, model=OPUS, max_tokens=2_000, budget=Budget(usd=1))
        assert app.resume("r", large).answer == "Done."


def test_a_budget_that_fits_no_call_is_refused_at_once() -> None:
    """A run whose first call cannot fit is not started, and the smallest budget is named."""
    with outlast.Outlast("memory://", model=ScriptedModel(looping)) as app:
        with pytest.raises(BudgetTooSmall) as refused:
            app.run(
                agent(look, stops_loops=False, model=OPUS, budget=Budget(usd="0.001")),
                "Go.",
                run_id="r",
            )
        assert app.runs() == []
        fits = agent(
            look, stops_loops=False, model=OPUS, budget=Budget(usd=refused.value.smallest_usd)
        )
        assert app.run(fits, "Go.", run_id="r").status in {"stopped", "completed"}


@pytest.mark.parametrize("usd", [None, "1", "0.001"])
def test_tokens_that_fit_no_call_are_refused_at_once(usd: str | None) -> None:
    """So it is with tokens, and what is named is the least that does."""

    def spender(**given: Any) -> outlast.Agent:
        return agent(look, stops_loops=False, model=OPUS, budget=Budget(**given))

    with outlast.Outlast("memory://", model=ScriptedModel(looping)) as app:
        with pytest.raises(BudgetTooSmall, match=r"tokens, which does not fit one call") as refused:
            app.run(spender(usd=usd, tokens=1_200), "Go.", run_id="r")
        assert app.runs() == []
        tokens, least = refused.value.smallest_tokens, refused.value.smallest_usd
        assert bool(least) == (usd == "0.001")
        assert f"tokens={tokens}) for this input" in str(refused.value)
        with pytest.raises(BudgetTooSmall, match="Nothing was started"):
            app.run(spender(tokens=tokens - 1), "Go.", run_id="r")
        assert app.run(spender(usd=least or usd, tokens=tokens), "Go.", run_id="r").turns >= 1


# ── flows ───────────────────────────────────────────────────────────────────────────────────────


def answering(request: dict[str, Any], attempt: int) -> Any:
    return say("Fine.")


def spent(script: Script, flow: outlast.Flow[..., Any]) -> tuple[outlast.Run, int, list[Any]]:
    """Return how a flow ended, what Claude billed, and its events."""
    model = ScriptedModel(script)
    with outlast.Outlast("memory://", model=model) as app:
        ended = app.run(flow, run_id="f")
        events = [record.event for record in app.log("f")]
    return ended, sum(charge.nano_usd for charge in model.bill), events


def test_calls_wait_for_what_others_only_hold() -> None:
    """Asks whose holds do not fit at once, but whose costs do, wait for each other."""
    asker = agent(model=OPUS, max_tokens=2_000, budget=Budget())

    @outlast.flow(budget=Budget(usd="0.1"))
    async def many(run: outlast.Run) -> list[str]:
        asks = [run.ask(asker, f"Question {n}?", name=f"q{n}") for n in range(12)]
        return list(await asyncio.gather(*asks))

    ended, billed, events = spent(answering, many)
    assert ended.status == "completed", ended.why
    assert ended.answer == ["Fine."] * 12
    held = [event.hold_nano for event in events if isinstance(event, ModelCallStarted)]
    assert sum(held) > 10**8 >= ended.cost_nano >= billed


def test_the_asks_of_a_flow_pay_from_one_budget() -> None:
    """What one agent of a flow spends is not there for the next."""
    asker = agent(look, stops_loops=False, model=OPUS, max_tokens=2_000, budget=Budget(turns=3))

    @outlast.flow(budget=Budget(usd="0.06"))
    async def greedy(run: outlast.Run) -> None:
        for number in range(100):
            await run.ask(asker, f"Question {number}?")

    ended, billed, _ = spent(answering, greedy)
    assert ended.status == "stopped"
    assert billed <= ended.cost_nano <= 6 * 10**7
    assert "run budget" in ended.why


def test_an_ask_has_the_budget_of_its_agent() -> None:
    """An agent that a flow asks stops at its own budget, whatever the flow has left."""
    asker = agent(look, stops_loops=False, model=OPUS, max_tokens=2_000, budget=Budget(usd="0.08"))

    @outlast.flow(budget=Budget(usd="5"))
    async def patient(run: outlast.Run) -> str:
        return str(await run.ask(asker, "Go."))

    ended, billed, events = spent(looping, patient)
    assert ended.status == "stopped"
    assert billed <= 8 * 10**7
    assert next(e.scope for e in events if isinstance(e, BudgetRefused)) == "ask:tester-1"


# ── mistakes ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("usd", [0, -1, "-0.5", "half", "", float("nan"), float("inf"), True, 1e12])
def test_an_amount_that_is_none(usd: Any) -> None:
    """A budget that is no amount of dollars is refused when it is declared."""
    with pytest.raises(InvalidAgent, match="an amount of US dollars above 0"):
        Budget(usd=usd)


@pytest.mark.parametrize("tokens", [0, -1, 1.5, "5", True])
def test_a_number_of_tokens_that_is_none(tokens: Any) -> None:
    """A budget of tokens is a whole number of at least one."""
    with pytest.raises(InvalidAgent, match="tokens"):
        Budget(tokens=tokens)


def test_dollars_are_exact() -> None:
    """A budget is the decimal number that was written, to the nano-dollar."""
    assert Budget(usd=0.1).limits.nano == Budget(usd="0.1").limits.nano == 100_000_000
    assert Budget(usd=Decimal("0.000000001")).limits.nano == 1
