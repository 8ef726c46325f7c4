"""Trees of runs: what a run may use, all below it may not use more, wherever the process dies."""

import asyncio
import itertools
import re
from contextlib import suppress
from typing import Any

import pytest

import outlast
from flow_stubs import Dying
from outlast.agent import Budget
from outlast.errors import StoreError
from outlast.events import BudgetRefused, ToolCallFailed
from outlast.flows import Flow
from outlast.models.script import say, tool_use, turn_number
from outlast.models.scripted import ScriptedModel
from outlast.stores import open_store

OPUS = "claude-opus-5-5"
MORE = Budget(turns=500)


@outlast.tool(effect="read")
def look(word: str) -> str:
    """Look a word up."""
    return word * 200


def agent(name: str, *tools: Any, budget: Budget = MORE) -> outlast.Agent:
    return outlast.Agent(
        name,
        model=OPUS,
        instructions=name,
        tools=tools,
        budget=budget,
        max_tokens=2_000,
        stops_loops=False,
    )


EXPERT = agent("expert", look)
MIDDLE = agent("middle", EXPERT.as_tool())
CENTS_30 = Budget(usd="0.30")


def who(request: dict[str, Any]) -> str:
    system = request["system"]
    return str(system if isinstance(system, str) else system[0]["text"])


def spending(request: dict[str, Any], attempt: int) -> Any:
    """Let whoever has agents ask them without end, and whoever has none work in three turns."""
    if who(request) == "expert":
        uses = [tool_use("look", {"word": "a"})] if turn_number(request) < 4 else []
        return say("Found. " * 60, *uses)
    (tool,) = (tool["name"] for tool in request["tools"])
    if who(request) == "middle" and turn_number(request) > 2:
        return say("Enough.")
    return say(tool_use(tool, {"question": "and?"}), tool_use(tool, {"question": "or?"}))


def billed(model: ScriptedModel) -> int:
    return sum(charge.nano_usd for charge in model.bill)


def refusals(app: outlast.Outlast) -> list[str]:
    events = (record.event for run in app.runs() for record in app.log(run.id))
    return [event.scope for event in events if isinstance(event, BudgetRefused)]


@outlast.flow(budget=CENTS_30)
async def mapping(run: outlast.Run) -> int:
    """Ask many experts, who pay from what the flow may use."""
    return len(await run.map(EXPERT, [f"question {n}" for n in range(60)]))


@outlast.flow(budget=CENTS_30)
async def asking(run: outlast.Run) -> str:
    """Ask an agent that has others."""
    answer: str = await run.ask(agent("lead", EXPERT.as_tool()), "Go.")
    return answer


@pytest.mark.parametrize(
    "first",
    [
        agent("lead", EXPERT.as_tool(), budget=CENTS_30),
        agent("lead", MIDDLE.as_tool(), budget=CENTS_30),
        mapping,
        asking,
    ],
    ids=["agent", "two levels", "map", "ask"],
)
def test_a_tree_spends_no_more_than_its_first_run_may(first: Any, url: str) -> None:
    """Children pay from the budget of the run that asked them, and of the one above that."""
    model = ScriptedModel(spending)
    with outlast.Outlast(url, model=model) as app:
        run = app.run(first, None if isinstance(first, Flow) else "Go.", run_id="r")
        assert run.status == "stopped"
        spent = sum(run.cost_nano for run in app.runs())
        assert 2 * 10**8 < billed(model) <= spent <= 3 * 10**8
        assert set(refusals(app)) <= {"tree:r", "run"}
        assert app.journal.balance("tree:r").held == 0
        assert app.journal.balance("tree:r").taken == spent
        assert "give r a larger Budget(usd=…)" in run.why, run.why


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Any) -> str:
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/a.db"


def test_an_agent_between_pays_for_those_below_it() -> None:
    """The budget of an agent that is a tool itself covers the agents it asks."""
    middle = agent("middle", EXPERT.as_tool(), budget=Budget(usd="0.06"))
    model = ScriptedModel(spending)
    with outlast.Outlast("memory://", model=model) as app:
        assert (
            app.run(
                agent("lead", middle.as_tool(), budget=Budget(turns=9)), "Go.", run_id="r"
            ).status
            == "stopped"
        )
        trees = {run.parent for run in app.runs()} - {"", "r"}
        for top in trees:
            below = [run for run in app.runs() if top in (run.id, run.parent)]
            assert len(below) > 1
            assert sum(run.cost_nano for run in below) <= 6 * 10**7
        assert any(scope == f"tree:{top}" for scope in refusals(app) for top in trees)


def finite(request: dict[str, Any], attempt: int) -> Any:
    """Ask the expert once; the expert looks three times."""
    if who(request) == "expert" or turn_number(request) == 1:
        return spending(request, attempt)
    return say(f"{sum('is_error' in one for one in request['messages'][-1]['content'])} errors")


@pytest.mark.parametrize("how", ["declared", "set for the run", "set for the tree"])
def test_a_tree_that_was_stopped_goes_on_with_more(how: str, url: str) -> None:
    """With a larger budget the children go on where they stopped, and nothing is an error."""
    model = ScriptedModel(finite)
    lead = agent("lead", EXPERT.as_tool(), budget=Budget(usd="0.06"))
    with outlast.Outlast(url, model=model) as app:
        assert app.run(lead, "Go.", run_id="r").status == "stopped"
        found = r"stopped: run r/ask-1.m1.t[12] is stopped: tree budget, needs"
        assert re.match(found, app.get("r").why)
        assert app.resume("r", lead).status == "stopped"
        match how:
            case "declared":
                lead = agent("lead", EXPERT.as_tool(), budget=Budget(usd="0.60"))
            case "set for the run":
                app.set_budget("run:r", usd="0.60", reason="go on")
            case _:
                app.set_budget("tree:r", usd="0.60", reason="go on")
                app.set_budget("run:r", usd="0.60", reason="the run itself")
        run = app.resume("r", lead)
        assert (run.status, run.answer) == ("completed", "0 errors")
        assert len(app.runs()) == 3
        kinds = {type(record.event) for run in app.runs() for record in app.log(run.id)}
        assert ToolCallFailed not in kinds
        assert sum(run.cost_nano for run in app.runs()) == billed(model)


def test_a_child_that_is_driven_by_itself_pays_too() -> None:
    """Who resumes a child alone does not get around the budget of its tree."""
    model = ScriptedModel(spending)
    lead = agent("lead", EXPERT.as_tool(), budget=Budget(usd="0.06"))
    with outlast.Outlast("memory://", model=model) as app:
        app.run(lead, "Go.", run_id="r")
        child = next(run for run in app.runs() if run.parent == "r" and run.status == "stopped")
        spent = billed(model)
        again = app.resume(child.id, EXPERT)
        assert again.status == "stopped"
        assert again.why.startswith("stopped: tree budget")
        assert billed(model) == spent


def test_what_a_run_had_spent_counts_when_it_gets_children() -> None:
    """A run that was begun without agents as tools does not begin anew when it gets one."""
    model = ScriptedModel(
        lambda request, attempt: (
            say("Hm. " * 300, tool_use("look", {"word": "a"}))
            if [tool["name"] for tool in request["tools"]] == ["look"]
            else spending(request, attempt)
        )
    )
    alone = agent("lead", look, budget=Budget(usd="0.30", turns=8))
    with outlast.Outlast("memory://", model=model) as app:
        before = app.run(alone, "Go.", run_id="r").cost_nano
        assert app.journal.balance("tree:r").taken == 0
        more = agent("lead", look, EXPERT.as_tool(), budget=Budget(usd="0.30", turns=20))
        app.resume("r", more)
        assert before > 0
        assert app.journal.balance("tree:r").taken == sum(run.cost_nano for run in app.runs())


def test_the_budget_of_a_tree_holds_for_a_run_without_children() -> None:
    """What an operator gives a tree is kept by a run that is all there is of it."""
    with outlast.Outlast("memory://", model=ScriptedModel(spending)) as app:
        app.set_budget("tree:r", turns=2, reason="a test")
        run = app.run(EXPERT, "Go.", run_id="r")
        assert (run.status, run.turns) == ("stopped", 2)
        assert "tree budget" in run.why
        app.set_budget("tree:r", reason="no limit any more")
        assert app.resume("r", EXPERT).status == "completed"


@pytest.mark.parametrize("second", [3, 8])
def test_no_crash_widens_the_budget_of_a_tree(second: int, tmp_path: Any) -> None:
    """Wherever the process dies, and dies again, its tree is billed no more than it may use."""
    lead = agent("lead", EXPERT.as_tool(), budget=Budget(usd="0.07"))
    for point in itertools.count(1, 3):
        model = ScriptedModel(finite)
        url = f"sqlite:///{tmp_path}/{second}-{point}.db"
        died = dies(url, model, lead, point)
        dies(url, model, lead, second)
        with outlast.Outlast(url, model=model) as app:
            app.run(lead, "Go.", run_id="r")
            spent = sum(run.cost_nano for run in app.runs())
            assert billed(model) <= spent <= 7 * 10**7
            assert app.journal.balance("tree:r").taken == spent
        if not died:
            break
    assert point > 9


def dies(url: str, model: ScriptedModel, lead: outlast.Agent, point: int) -> bool:
    """Drive a run until its commit number `point`, and forget it there."""
    commits = itertools.count(1)
    dying: Any = Dying(open_store(url), lambda events: next(commits) == point)
    try:
        with outlast.Outlast(dying, model=model) as app:
            app.run(lead, "Go.", run_id="r")
    except StoreError:
        return True
    finally:
        dying.end()
    return False


@pytest.mark.parametrize("how", ["code", "run", "tree"])
def test_a_budget_that_comes_late_knows_what_the_children_spent(how: str) -> None:
    """Dollars that a run is given later cover what all below it had spent before."""
    model = ScriptedModel(finite)
    with outlast.Outlast("memory://", model=model) as app:
        few = outlast.flow(budget=Budget(turns=500))(first_two)
        assert app.run(few, run_id="r", wait_s=0).status == "parked"
        spent = billed(model)
        assert spent > 0
        dollars = Budget(usd=str((spent + 10**6) / 10**9))
        if how == "code":
            few = outlast.flow(budget=dollars)(first_two)
        else:
            app.set_budget(f"{how}:r", usd=str((spent + 10**6) / 10**9), reason="a test")
        assert app.resume("r", few).status == "stopped"
        assert billed(model) <= spent + 10**6


async def first_two(run: outlast.Run) -> int:
    """Ask two experts, wait for a moment that is parked, and ask three more."""
    first = await run.map(EXPERT, ["a", "b"], name="first")
    await run.sleep("1.5s")
    return len([*first, *await run.map(EXPERT, ["c", "d", "e"], name="then")])


def test_a_call_that_was_in_flight_counts_once() -> None:
    """What a leg left behind is not carried into the account that holds it already."""

    class Once:
        """A Claude whose second answer, the first of a child, never comes at first."""

        def __init__(self) -> None:
            self.model = ScriptedModel(finite)
            self.asked = 0

        async def call(self, request: Any, *, on_part: Any) -> Any:
            self.asked += 1
            if self.asked == 2:
                await asyncio.sleep(600)
            return await self.model.call(request, on_part=on_part)

    async def left(app: outlast.Outlast, lead: outlast.Agent) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(app.arun(lead, "Go.", run_id="r"), 0.5)

    model = Once()
    lead = agent("lead", EXPERT.as_tool(), budget=Budget(usd=5))
    with outlast.Outlast("memory://", model=model) as app:
        app.set_budget("tree:r", calls=90, turns=90, reason="a test")
        asyncio.run(left(app, lead))
        assert app.resume("r", lead).status == "completed"
        for unit in ("calls", "turns"):
            assert app.journal.balance("tree:r", unit=unit).taken == model.asked
        assert app.journal.balance("tree:r").taken == sum(run.cost_nano for run in app.runs())
