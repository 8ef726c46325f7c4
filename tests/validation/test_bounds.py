"""What checking may cost, and what it has to go by: budgets, bounds, attempts, evidence."""

import asyncio
from typing import Any

import msgspec
import pytest

import outlast
from outlast.breaker import Breaker
from outlast.events import AnswerProposed, VerdictGiven
from outlast.models.script import Fault, say, tool_use, turn_number
from outlast.models.scripted import ScriptedModel
from outlast.starting import judged_at_most
from outlast.validators import grounded_in_tools
from validation.answering import EMPTY, GOOD, agent, answers, is_judge, opinion

QUESTION = msgspec.Raw(msgspec.json.encode("Find grants."))


def judge(**more: Any) -> outlast.Judge:
    return outlast.Judge(more.pop("rubric", "Is it right?"), **more)


def requests(model: ScriptedModel) -> list[Any]:
    return [msgspec.json.decode(one) for one in model.calls]


def judgings(model: ScriptedModel) -> int:
    return sum(is_judge(one) for one in requests(model))


def verdicts(app: outlast.Outlast, run_id: str = "r") -> list[VerdictGiven]:
    return [one.event for one in app.log(run_id) if isinstance(one.event, VerdictGiven)]


# ── budgets ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("unit", ["usd", "tokens", "turns"])
@pytest.mark.parametrize("votes", [1, 3])
def test_the_smallest_budget_that_is_named_is_enough_and_less_is_not(unit, votes):
    """For one answer and all that judges it; with anything less nothing is begun."""

    def run(budget: outlast.Budget) -> outlast.Run:
        who = agent(checks=[judge(votes=votes)], budget=budget)
        model = ScriptedModel(answers(GOOD, judge=[opinion()]))
        with outlast.Outlast("memory://", model=model) as app:
            return app.run(who, "Find grants.", run_id="r")

    none = {"usd": "0.000001", "tokens": 1, "turns": 1}[unit]
    with pytest.raises(outlast.BudgetTooSmall) as told:
        run(outlast.Budget(**{unit: none}))
    smallest = {
        "usd": told.value.smallest_usd,
        "tokens": told.value.smallest_tokens,
        "turns": told.value.smallest_turns,
    }[unit]
    came = run(outlast.Budget(**{unit: smallest}))
    assert (came.status, came.degraded) == ("completed", False), came.why
    less = f"{float(smallest) - 0.0001:.4f}" if unit == "usd" else smallest - 1
    with pytest.raises(outlast.BudgetTooSmall):
        run(outlast.Budget(**{unit: less}))


def test_what_judging_costs_at_most_grows_with_votes_and_with_the_answer():
    """Every vote is paid, and reads the answer, of which the shortest is counted."""
    one = judged_at_most(agent(checks=[judge()]), QUESTION)
    three = judged_at_most(agent(checks=[judge(votes=3)]), QUESTION)
    both = judged_at_most(agent(checks=[judge(), judge(name="other")]), QUESTION)
    longer = judged_at_most(agent(checks=[judge()], min_tokens=2_000), QUESTION)
    assert three == type(one)(3 * one.nano, 3 * one.tokens)
    assert both == type(one)(2 * one.nano, 2 * one.tokens)
    least = agent().least_tokens
    assert longer.tokens - one.tokens == 2_000 - least
    assert longer.nano > one.nano


def test_the_cap_of_one_judge_is_not_that_of_another():
    """Each has its own, and what the other one used is no part of it."""
    once = outlast.Budget(turns=1)
    checks = [judge(name="a", budget=once), judge(name="b", budget=once)]
    model = ScriptedModel(answers(GOOD, judge=[opinion()]))
    with outlast.Outlast("memory://", model=model) as app:
        assert app.run(agent(checks=checks), "Find grants.", run_id="r").status == "completed"


def test_in_a_flow_judges_count_in_what_the_agent_may_use():
    """An answer and its judgement are two turns of the agent's; the next answer does not fit."""
    who = agent(checks=[judge()], budget=outlast.Budget(turns=2))

    @outlast.flow(budget=outlast.Budget(turns=9))
    async def asks(run: outlast.Run, brief: str) -> Any:
        return await run.ask(who, brief)

    model = ScriptedModel(answers(EMPTY, GOOD, judge=[opinion("there are some")]))
    with outlast.Outlast("memory://", model=model) as app:
        run = app.run(asks, "Find grants.", run_id="r", wait_s=0.1)
        assert run.status == "stopped", run.why
        assert (len(model.calls), judgings(model)) == (2, 1)


def test_in_a_flow_judges_pay_from_what_the_flow_may_use():
    """However much the agent might use by itself."""
    who = agent(checks=[judge()], budget=outlast.Budget(turns=9))

    @outlast.flow(budget=outlast.Budget(turns=1))
    async def asks(run: outlast.Run, brief: str) -> Any:
        return await run.ask(who, brief)

    model = ScriptedModel(answers(GOOD, judge=[opinion()]))
    with outlast.Outlast("memory://", model=model) as app:
        run = app.run(asks, "Find grants.", run_id="r", wait_s=0.1)
        assert (run.answer, len(model.calls)) == (None, 1), run.why
        assert verdicts(app)[-1].verdict == "unverified"


def test_the_cheaper_judge_is_the_one_whose_votes_together_cost_less():
    """Three votes of one are dearer than one of the same model."""
    who = agent(checks=[judge(name="thrice", votes=3), judge(name="once")])
    assert [one.name for one in who.judges] == ["once", "thrice"]


# ── what keeps a judge from judging ─────────────────────────────────────────────────────────────


def test_a_judge_whose_breaker_is_open_is_not_waited_for():
    """Its model does not answer, which is known: it is not asked, and has not judged."""
    breaker = Breaker(calls=2, open_s=60)
    down = Fault(kind="status", status=500)
    model = ScriptedModel(answers(GOOD, judge=[down]))
    who = agent(checks=[judge(attempts=2)])
    with outlast.Outlast("memory://", model=model, breaker=breaker) as app:
        app.run(who, "Find grants.", run_id="first", wait_s=5)
        before = judgings(model)
        assert before == 2
        run = app.run(who, "Find grants.", run_id="r", wait_s=5)
        assert (run.status, judgings(model)) == ("rejected", before)
        assert "circuit breaker is open" in verdicts(app)[-1].why


def test_a_judge_that_was_cut_off_is_not_asked_for_the_rest():
    """Half a judgement is none, and is not made whole by another call."""
    model = ScriptedModel(answers(GOOD, judge=[say(opinion()[:20], stop_reason="max_tokens")]))
    with outlast.Outlast("memory://", model=model) as app:
        run = app.run(agent(checks=[judge()]), "Find grants.", run_id="r")
        assert (run.status, judgings(model)) == ("rejected", 1)


def test_a_rate_limit_is_no_attempt_of_a_judge():
    """It is waited for, as with any other call, and the answer is judged then."""
    limited = Fault(kind="status", status=429, headers={"retry-after": "0"})
    tried: list[int] = []

    def said(request: dict[str, Any]) -> Any:
        tried.append(1)
        return limited if len(tried) <= 2 else say(opinion())

    model = ScriptedModel(answers(GOOD, judge=said))
    with outlast.Outlast("memory://", model=model) as app:
        run = app.run(agent(checks=[judge(attempts=1)]), "Find grants.", run_id="r", wait_s=20)
        assert (run.status, len(tried)) == ("completed", 3), run.why


# ── evidence ────────────────────────────────────────────────────────────────────────────────────


def test_evidence_is_of_the_whole_conversation_in_the_order_in_which_it_came():
    """What was asked before is a part of the task, and what was found then is evidence."""
    seen: list[outlast.Evidence] = []

    @outlast.tool(effect="read")
    def search(word: str) -> str:
        """Search."""
        return f"found {word}"

    @outlast.check
    def looks(answer: Any, evidence: outlast.Evidence) -> list[str]:
        seen.append(evidence)
        return []

    def script(request: dict[str, Any], attempt: int) -> Any:
        turn = turn_number(request)
        if turn <= 2 or turn == 4:
            return say(tool_use("search", {"word": f"w{turn}"}))
        return say(GOOD)

    who = agent(tools=[search], checks=[looks])
    with outlast.Outlast("memory://", model=ScriptedModel(script)) as app:
        app.run(who, "First.", run_id="r")
        run = app.send("r", "Second.", agent=who)
        assert run.status == "completed", run.why
    first, second = seen
    assert (first.task, second.task) == ("First.", "First.\n\nSecond.")
    assert [one.text for one in first.findings] == ["found w1", "found w2"]
    assert [one.text for one in second.findings] == ["found w1", "found w2", "found w4"]
    assert [one.arguments for one in second.findings][-1] == {"word": "w4"}
    assert [one.seq for one in second.findings] == sorted(one.seq for one in second.findings)


def test_what_tools_found_for_another_question_of_a_flow_is_evidence():
    """It counts in the whole run, whichever of its questions they were called for."""
    seen: list[outlast.Evidence] = []

    @outlast.tool(effect="read")
    def search(word: str) -> str:
        """Search."""
        return f"found {word}"

    @outlast.check
    def looks(answer: Any, evidence: outlast.Evidence) -> list[str]:
        seen.append(evidence)
        return []

    def script(request: dict[str, Any], attempt: int) -> Any:
        if turn_number(request) == 1 and "look" in str(request["messages"][0]):
            return say(tool_use("search", {"word": "x"}))
        return say("done")

    finder = outlast.Agent("finder", model="claude-haiku-5-5", tools=[search])
    writer = outlast.Agent("writer", model="claude-haiku-5-5", checks=[looks])

    @outlast.flow
    async def asks(run: outlast.Run, brief: str) -> str:
        await run.ask(finder, "look")
        return await run.ask(writer, "write")

    with outlast.Outlast("memory://", model=ScriptedModel(script)) as app:
        assert app.run(asks, "Go.", run_id="r").status == "completed"
    assert [(one.task, [each.text for each in one.findings]) for one in seen] == [
        ("write", ["found x"])
    ]


def test_what_a_fallback_returned_is_marked_in_the_evidence():
    """A check sees that it is less than what was asked for, and the data all the same."""
    seen: list[outlast.Evidence] = []

    def kept(word: str) -> list[dict[str, Any]]:
        """Look it up in what is kept."""
        return [{"name": "Ladder", "max_usd": 10}, {"name": "Rung", "max_usd": 99}]

    @outlast.tool(effect="read", attempts=1, fallbacks=[kept])
    def search(word: str) -> list[dict[str, Any]]:
        """Search."""
        raise ConnectionError("down")

    @outlast.check
    def looks(answer: Any, evidence: outlast.Evidence) -> list[str]:
        seen.append(evidence)
        return []

    def script(request: dict[str, Any], attempt: int) -> Any:
        return say(tool_use("search", {"word": "x"})) if turn_number(request) == 1 else say(GOOD)

    with outlast.Outlast("memory://", model=ScriptedModel(script)) as app:
        app.run(agent(tools=[search], checks=[looks]), "Go.", run_id="r", wait_s=20)
    (finding,) = seen[0].findings
    assert finding.degraded
    assert finding.text.startswith("[degraded answer: from kept")
    assert finding.value == kept("x")
    mixed = grounded_in_tools([{"name": "Ladder", "max_usd": 99}], seen[0])
    assert [one.path for one in mixed] == ["[0].max_usd"]


# ── what is written ─────────────────────────────────────────────────────────────────────────────


def test_nothing_of_an_issue_is_written_unredacted_or_without_bounds():
    """Neither its message, nor its path, rule, value or what should stand there, nor the why."""
    secret = "sk-" + "hidden"

    @outlast.check
    def says(answer: Any) -> outlast.Verdict:
        long = f"{secret} " + "x" * 100_000
        issue = outlast.Issue(long, path=long, rule=long, got=[long], expected={"a": long})
        return outlast.Verdict("fixable", (issue,), why=secret)

    def hidden(text: str) -> str:
        return text.replace(secret, "[hidden]")

    model = ScriptedModel(answers(GOOD))
    with outlast.Outlast("memory://", model=model, redact=hidden) as app:
        app.run(agent(checks=[says], answer_attempts=1), "Go.", run_id="r")
        said = verdicts(app)[-1]
    assert secret not in msgspec.json.encode(said).decode()
    (issue,) = said.issues
    for one in (issue.message, issue.path, issue.rule, issue.got, issue.expected, said.why):
        assert "[hidden]" in str(one)
        assert len(msgspec.json.encode(one)) <= 5_000


def test_an_attempt_is_written_once_with_how_often_it_was_begun():
    """An answer whose checks are over is never looked at again."""
    calls: list[int] = []

    @outlast.check
    async def counts(answer: Any) -> list[str]:
        await asyncio.sleep(0)
        calls.append(1)
        return []

    model = ScriptedModel(answers(GOOD))
    with outlast.Outlast("memory://", model=model) as app:
        app.run(agent(checks=[counts]), "Go.", run_id="r")
        app.run(agent(checks=[counts]), "Go.", run_id="r")
        proposed = [one.event for one in app.log("r") if isinstance(one.event, AnswerProposed)]
    assert [(one.attempt, one.times) for one in proposed] == [(1, 1)]
    assert len(calls) == 1


# ── streams ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("again", [False, True], ids=["live", "from the journal"])
def test_what_was_shown_of_a_rejected_answer_is_discarded_and_a_judge_is_not_shown(again):
    """Of each answer that is not accepted, and of no other one; a judge speaks to nobody here."""

    def parts(who: outlast.Agent, *said: str) -> list[Any]:
        model = ScriptedModel(answers(*said, judge=[opinion()]))
        with outlast.Outlast("memory://", model=model) as app:
            if again:
                app.run(who, "Find grants.", run_id="r")
            return list(app.stream(who, "Find grants.", run_id="r"))

    judged = parts(agent(checks=[*agent().checks, judge()]), EMPTY, GOOD)
    assert [(one.ask_id, one.call_id, one.kind) for one in judged] == [
        ("ask-1", "ask-1.m1", "text"),
        ("ask-1", "ask-1.m1", "discarded"),
        ("ask-1", "ask-1.m2", "text"),
    ]
    last = parts(agent(answer_attempts=1, last_resort="degrade"), EMPTY)
    assert [one.kind for one in last] == ["text"], "it is the answer"


def test_who_watches_a_run_is_told_of_the_same():
    """What is shown as it comes is discarded, too, and of a judge nothing is shown."""
    parts: list[Any] = []
    who = agent(checks=[*agent().checks, judge(attempts=1)], answer_attempts=2)
    cut = Fault(kind="cut")
    model = ScriptedModel(answers(EMPTY, GOOD, judge=[cut]))
    with outlast.Outlast("memory://", model=model) as app:
        app.run(who, "Find grants.", run_id="r", on_part=parts.append)
    assert [(one.call_id, one.kind) for one in parts] == [
        ("ask-1.m1", "text"),
        ("ask-1.m1", "discarded"),
        ("ask-1.m2", "text"),
        ("ask-1.m2", "discarded"),
    ]
    parts.clear()
    last = agent(answer_attempts=1, last_resort="degrade")
    with outlast.Outlast("memory://", model=ScriptedModel(answers(EMPTY))) as app:
        app.run(last, "Find grants.", run_id="r", on_part=parts.append)
    assert [one.kind for one in parts] == ["text"], "it is the answer"
