"""What a run can cost at most, said before it runs; and how many tools it may call."""

import asyncio
from typing import Any

import pytest

import outlast
from outlast.agent import Budget
from outlast.errors import InvalidAgent, UnknownModel
from outlast.events import BudgetRefused, ToolCallStarted
from outlast.models.script import say, tool_use, turn_number
from outlast.models.scripted import ScriptedModel
from outlast.prices import Terms, worst_case

OPUS, HAIKU = "claude-opus-5-5", "claude-haiku-5-5"
TURN = worst_case(OPUS, 1_000_000, 8192, Terms(cache="5m"))


@outlast.tool(effect="read")
async def look(word: str) -> str:
    """Look a word up."""
    await asyncio.sleep(0)
    return word * 3


def agent(name: str = "a", *, model: str = OPUS, **more: Any) -> outlast.Agent:
    return outlast.Agent(name, model=model, **more)


HELPER = agent("b", model=HAIKU, budget=Budget(usd=2))


@pytest.mark.parametrize(
    ("of", "nano", "why"),
    [
        (agent(budget=Budget(usd="0.50")), 5 * 10**8, "the budget of a"),
        (agent(budget=Budget(usd=500, turns=2)), 2 * TURN, "2 turns, each with 1,000,000 tokens"),
        (agent(budget=Budget(turns=2, tokens=10)), 10 * 22_000, "10 tokens, each at the dearest"),
        (agent(), 50 * TURN, "50 turns"),
        (agent(budget=Budget()), None, "no limit that does"),
        (agent(budget=Budget(tool_calls=3)), None, "no limit that does"),
        (agent(budget=Budget(turns=2), tools=[HELPER.as_tool()]), None, "no limit that does"),
        (
            agent(budget=Budget(turns=2, tool_calls=3), tools=[HELPER.as_tool()]),
            2 * TURN + 3 * 2 * 10**9,
            "and the agents that it asks",
        ),
        (
            agent(model=HAIKU, budget=Budget(tokens=10), tools=[agent().as_tool()]),
            10 * 22_000,
            "10 tokens",
        ),
        (agent(budget=Budget(turns=1), parameters={"inference_geo": "global"}), None, "1 turns"),
    ],
)
def test_the_worst_case(of: outlast.Agent, nano: int | None, why: str) -> None:
    """It is the least that the budget allows, sub-agents included."""
    worst = of.worst_case()
    if why != "1 turns":
        assert worst.nano == nano
    else:
        assert (worst.nano or 0) * 11 >= TURN * 10 > (worst.nano or 0) * 10
    assert why in worst.why


@pytest.mark.parametrize("budget", [Budget(turns=2), Budget(tokens=10), Budget(turns=2, tokens=10)])
def test_each_turn_and_each_token_may_be_a_judges(budget: Budget) -> None:
    """A dearer judge makes the worst case at least that of its model, a cheaper one no other."""
    cheap, dear = agent(model=HAIKU, budget=budget), agent(budget=budget)
    judge = outlast.Judge("Is it right?", model=OPUS, max_tokens=dear.max_tokens)
    judged = agent(model=HAIKU, budget=budget, checks=[judge])
    worst = [one.worst_case().nano or 0 for one in (cheap, dear, judged)]
    assert worst[0] < worst[1] <= worst[2]
    other = outlast.Judge("Is it right?", model=HAIKU)
    assert agent(budget=budget, checks=[other]).worst_case() == dear.worst_case()


def test_it_is_said_in_a_sentence() -> None:
    """The amount in dollars, and what limits it."""
    assert str(agent(budget=Budget(usd="0.50")).worst_case()) == (
        "This can cost $0.5000 at most: the budget of a."
    )
    assert str(agent(budget=Budget()).worst_case()).startswith("Nothing limits what this can cost")


def test_a_model_without_a_price_has_no_worst_case() -> None:
    """What nobody knows is not said to be nothing."""
    with pytest.raises(UnknownModel):
        agent(model="claude-next").worst_case()


def greedy(request: dict[str, Any], attempt: int) -> Any:
    if turn_number(request) > 3:
        return say("Done.")
    return say(tool_use("look", {"word": "a"}), tool_use("look", {"word": "b"}))


def test_no_run_costs_more_than_its_worst_case() -> None:
    """What was billed is within what was said."""
    of = agent(budget=Budget(turns=3), tools=[look])
    model = ScriptedModel(greedy)
    with outlast.Outlast("memory://", model=model) as app:
        app.run(of, "Go.")
    assert sum(charge.nano_usd for charge in model.bill) <= (of.worst_case().nano or 0)


@pytest.mark.parametrize("most", [1, 2, 3, 5])
def test_no_more_tools_are_called_than_the_budget_allows(most: int) -> None:
    """A run stops before a tool call too many, with every outcome it has, and goes on with more."""
    model = ScriptedModel(greedy)
    with outlast.Outlast("memory://", model=model) as app:
        run = app.run(agent(budget=Budget(tool_calls=most), tools=[look]), "Go.", run_id="r")
        assert run.status == "stopped"
        assert "needs 1 tool call, 0 tool calls left" in run.why
        assert "Budget(tool_calls=…)" in run.why
        started = [r.event for r in app.log("r") if isinstance(r.event, ToolCallStarted)]
        assert len(started) == most
        refused = [r.event for r in app.log("r") if isinstance(r.event, BudgetRefused)]
        assert [(event.unit, event.left) for event in refused] == [("tool_calls", 0)]
        more = agent(budget=Budget(tool_calls=6), tools=[look])
        assert app.resume("r", more).status == "completed"
        started = [r.event for r in app.log("r") if isinstance(r.event, ToolCallStarted)]
        assert len({event.tool_use_id for event in started}) == len(started) == 6


def test_the_asks_of_a_flow_share_its_tool_calls() -> None:
    """A flow's tool calls are those of all it asks; each agent has its own within them."""
    asker = agent("asker", tools=[look], budget=Budget(tool_calls=6))

    @outlast.flow(budget=Budget(tool_calls=9))
    async def flow(run: outlast.Run) -> list[Any]:
        return [await run.ask(asker, "Go.", name=name) for name in "ab"]

    with outlast.Outlast("memory://", model=ScriptedModel(greedy)) as app:
        run = app.run(flow, run_id="f")
        assert run.status == "stopped"
        started = [r.event for r in app.log("f") if isinstance(r.event, ToolCallStarted)]
        assert len(started) == 9
        app.set_budget("run:f", usd=5, reason="money is not what it lacks")
        assert app.resume("f", flow).status == "stopped"


@pytest.mark.parametrize("number", [0, -1, 1.5, True, "2"])
def test_a_number_of_tool_calls_that_is_none(number: Any) -> None:
    """What is no count is refused."""
    with pytest.raises(InvalidAgent, match="tool_calls"):
        Budget(tool_calls=number)


@pytest.mark.parametrize(
    ("parameters", "why"),
    [
        ({"speed": "ludicrous"}, "speed='ludicrous'"),
        ({"inference_geo": "mars"}, "inference_geo='mars'"),
        ({"service_tier": "gold"}, "service_tier='gold'"),
        ({"mcp_servers": []}, "mcp_servers"),
        ({"fallbacks": "claude-opus-5-5"}, "not what the API takes"),
    ],
)
def test_what_nobody_knows_the_price_of_cannot_be_asked(parameters: Any, why: str) -> None:
    """Members that change the price in a way that is not known are refused."""
    with pytest.raises(InvalidAgent, match=why):
        agent(parameters=parameters)


def test_a_fast_run_is_held_and_billed_as_such() -> None:
    """The terms of a request count before the call and after it."""
    fast = agent(parameters={"speed": "fast", "inference_geo": "us"}, budget=Budget(usd="0.4"))
    slow = agent(budget=Budget(usd="0.4"))
    costs = {}
    for name, of in {"fast": fast, "slow": slow}.items():
        model = ScriptedModel(lambda request, attempt: say("Fine. " * 50))
        with outlast.Outlast("memory://", model=model) as app:
            run = app.run(of, "Go.", run_id="r")
            assert run.cost_nano == sum(charge.nano_usd for charge in model.bill)
            costs[name] = run.cost_nano
    assert costs["fast"] * 10 == costs["slow"] * 22
    with (
        outlast.Outlast("memory://", model=ScriptedModel(greedy)) as app,
        pytest.raises(UnknownModel, match="at speed 'fast'"),
    ):
        app.run(agent(model=HAIKU, parameters={"speed": "fast"}), "Go.")
