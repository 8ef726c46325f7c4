"""Judges pay from the budget of the run, and never take it beyond, by Claude's own bill."""

import itertools
from typing import Any

import msgspec
import pytest

import outlast
from outlast.events import ModelCallInDoubt
from outlast.journal import run_stream
from outlast.models.scripted import ScriptedModel
from outlast.stores import open_store
from outlast.testing.simulation import World, run
from validation.answering import GOOD, agent, answers, opinion

SAID = [GOOD.replace("10", str(number)) for number in range(11, 15)]


def script() -> Any:
    """Return a Claude whose answers no judge takes."""
    return answers(*SAID, judge=lambda request: opinion("not that one"))


def who(**more: Any) -> outlast.Agent:
    """Return an agent with two judges, one of three votes."""
    first = outlast.Judge("Is it right?", name="one", votes=3, max_tokens=300)
    second = outlast.Judge("Is it whole?", name="two", model="claude-opus-5-5", max_tokens=300)
    given = {"checks": [first, second], "max_tokens": 512, "min_tokens": 128}
    return agent(**given | more)


BUDGETS = [{"usd": f"{0.0005 * 1.35**step:.9f}"} for step in range(18)]
BUDGETS += [{"tokens": 1_000 * step} for step in range(1, 30, 3)]
BUDGETS += [{"turns": step} for step in range(1, 12)]


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_whatever_the_budget_is_it_holds(budget):
    """Claude bills no more, at every budget; what cannot begin says what would be enough."""
    limits = outlast.Budget(**budget)
    model = ScriptedModel(script())
    with outlast.Outlast("memory://", model=model) as app:
        try:
            came = app.run(who(budget=limits), "Find grants.", run_id="r")
        except outlast.BudgetTooSmall as small:
            assert not model.calls
            more = {
                "usd": small.smallest_usd,
                "tokens": small.smallest_tokens,
                "turns": small.smallest_turns,
            }
            enough = outlast.Budget(**{name: more[name] for name in budget})
            app.run(who(budget=enough), "Find grants.", run_id="r")
            assert len(model.calls) > 1, "one answer, and one judgement at least"
            return
        assert came.status in {"rejected", "stopped"}
    billed = sum(charge.nano_usd for charge in model.bill)
    assert billed <= came.cost_nano
    assert limits.limits.nano is None or billed <= limits.limits.nano
    assert limits.tokens is None or came.tokens <= limits.tokens
    assert limits.turns is None or len(model.calls) <= limits.turns


def test_nor_with_a_crash_anywhere():
    """In doubt is spent, for judges too: no death of the process widens a budget."""
    limits = outlast.Budget(usd="0.012")
    whole = World(script())
    run(whole, open_store("memory://"), who(budget=limits), "Find grants.")
    for first, gap in itertools.product(range(1, whole.points + 1, 2), (1, 4)):
        world, journal = World(script(), crash_at=(first, first + gap)), open_store("memory://")
        state, _ = run(world, journal, who(budget=limits), "Find grants.")
        billed = sum(charge.nano_usd for charge in world.model.bill)
        assert billed <= state.spend.nano <= limits.limits.nano, (first, gap)
        assert state.status in {"rejected", "stopped"}
        assert state.spend.held_nano == 0
        doubts = [
            one.event
            for one in journal.read(run_stream("r"))
            if isinstance(one.event, ModelCallInDoubt)
        ]
        assert len(world.requests) <= len(whole.requests) + len(doubts)


def test_a_tenant_pays_for_judges_too():
    """A budget of operators holds for the calls of judges as for all others."""
    model = ScriptedModel(script())
    with outlast.Outlast("memory://", model=model) as app:
        app.set_budget("tenant:acme", usd="0.03", reason="a trial")
        came = app.run(who(), "Find grants.", run_id="r", tenant="acme")
        assert came.status in {"rejected", "stopped"}
        assert sum(charge.nano_usd for charge in model.bill) <= 30_000_000
        (account,) = {line.tenant for line in app.journal.rollup()}
        assert account == "acme"
    assert any("You judge an answer" in body.decode() for body in model.calls)
    assert all(msgspec.json.decode(body) for body in model.calls)
