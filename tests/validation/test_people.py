"""Answers of which a person decides: approved, edited, denied, or late."""

import time
from typing import Any

import msgspec
import pytest

import outlast
from outlast.app import Outlast
from outlast.events import AnswerRejected, ApprovalRequested, AskAnswered, LabelGiven
from outlast.models.script import say, tool_use
from outlast.models.scripted import ScriptedModel
from validation.answering import GOOD, NOBODY, Grant, agent, answers

WHO = agent(last_resort="escalate", answer_attempts=1)


@pytest.fixture
def app():
    with Outlast("memory://", model=ScriptedModel(answers(NOBODY, GOOD))) as opened:
        yield opened


def escalated(app: Outlast, who: outlast.Agent = WHO) -> outlast.Run:
    run = app.run(who, "Find grants.", run_id="r", wait_s=0.1)
    assert (run.status, run.answer) == ("waiting", None), run.why
    return run


def of(app: Outlast, kind: type) -> list[Any]:
    return [one.event for one in app.log("r") if isinstance(one.event, kind)]


def test_a_person_sees_task_answer_issues_and_evidence(app):
    """Everything that is needed to decide stands in the question."""
    run = escalated(app)
    assert "waiting for a person" in run.why
    assert "eligibility is missing" in run.why
    (asked,) = of(app, ApprovalRequested)
    context = msgspec.json.decode(asked.context)
    assert context["task"] == "Find grants."
    assert context["issues"][0]["message"] == "Ladder: eligibility is missing"
    assert context["evidence"] == []
    assert msgspec.json.decode(asked.answer)[0]["name"] == "Ladder"
    assert of(app, AnswerRejected)[0].action == "escalate"
    assert len(run.rejected_answers) == 1


def test_approved_it_is_the_answer_and_a_label(app):
    """The verdict of a person becomes a label: the answer is good, whatever the checks said."""
    escalated(app)
    app.approve("r", by="ann", note="known to be open")
    run = app.resume("r", WHO)
    assert (run.status, run.answer) == (
        "completed",
        [Grant(name="Ladder", funder="Trust", max_usd=10)],
    )
    assert run.rejected_answers == ()
    (label,) = of(app, LabelGiven)
    assert (label.good, label.by, label.why) == (True, "ann", "known to be open")
    assert of(app, AskAnswered)[0].by == "ann"


def test_edited_it_is_what_the_person_made_of_it(app):
    """Claude's own answer was not good, and stays among those that were rejected."""
    escalated(app)
    app.approve("r", answer=[Grant(name="Ladder", eligibility="schools")], by="ann")
    run = app.resume("r", WHO)
    assert run.answer == [Grant(name="Ladder", eligibility="schools")]
    assert [one.answer[0].get("eligibility", "") for one in run.rejected_answers] == [""]
    (label,) = of(app, LabelGiven)
    assert (label.good, label.why) == (False, "it was edited")


def test_denied_there_is_none(app):
    """The run ends rejected, with who denied it and why."""
    escalated(app)
    app.deny("r", by="ann", note="closed")
    run = app.resume("r", WHO)
    assert (run.status, run.answer) == ("rejected", None)
    assert "ann denied the answer: closed" in run.why
    assert of(app, LabelGiven)[0].good is False


def test_late_is_denied_and_no_label(app):
    """Nobody said anything of the answer."""
    who = agent(last_resort="escalate", answer_attempts=1, answer_expires=0.2)
    app.run(who, "Find grants.", run_id="r", wait_s=0)
    time.sleep(0.25)
    run = app.run(who, "Find grants.", run_id="r", wait_s=5)
    assert (run.status, of(app, LabelGiven)) == ("rejected", [])
    assert "nobody decided in time" in run.why
    with pytest.raises(outlast.UsageError):
        app.approve("r", by="ann")


def test_an_answer_of_another_type_is_refused_while_it_can_be_mended(app):
    """What is edited is read before anything is written."""
    escalated(app)
    with pytest.raises(outlast.InvalidInput, match=r"\[0\].name: Field required"):
        app.approve("r", answer=[{"funder": "Trust"}])
    with pytest.raises(outlast.UsageError, match="no arguments to change"):
        app.approve("r", arguments={"name": "Ladder"})
    assert app.get("r").status == "waiting"
    app.approve("r")
    with pytest.raises(outlast.UsageError, match="with another answer"):
        app.approve("r", answer=[])


def test_only_an_answer_can_be_edited_as_one():
    """A question about a call of a tool has arguments, and no answer."""

    @outlast.tool(approval="always")
    def send(to: str) -> str:
        """Send it."""
        return "sent"

    from outlast.models.script import tool_use  # noqa: PLC0415
    from stubs import agent as plain  # noqa: PLC0415
    from stubs import asking  # noqa: PLC0415

    script = asking(tool_use("send", {"to": "ann"}))
    with Outlast("memory://", model=ScriptedModel(script)) as app:
        app.run(plain(send), "Go.", run_id="r", wait_s=0.1)
        with pytest.raises(outlast.UsageError, match="not about an answer"):
            app.approve("r", answer="sent")


def test_a_check_may_want_a_person():
    """It is asked for at once, whatever the last resort is, and however many answers are left."""

    @outlast.check
    def dear(answer: list[Grant]) -> outlast.Verdict:
        return outlast.Verdict.needs_person("more than 10 dollars")

    with Outlast("memory://", model=ScriptedModel(answers(GOOD))) as app:
        run = escalated(app, agent(checks=[dear]))
        assert "more than 10 dollars" in run.why
        app.approve("r")
        assert app.resume("r", agent(checks=[dear])).status == "completed"


def test_in_a_flow_the_answer_comes_back_as_its_type():
    """And what was rejected is an exception that says so, and can be caught."""

    @outlast.flow
    async def asks(run: outlast.Run, brief: str) -> list[str]:
        found = await run.ask(agent(), brief)
        try:
            await run.ask(agent(answer_attempts=1), "worse", name="worse")
        except outlast.AskRejected as lost:
            return [found[0].name, lost.why]
        return []

    def script(request: dict[str, Any], attempt: int) -> Any:
        return answers(NOBODY if "worse" in str(request["messages"][0]) else GOOD)(request, attempt)

    with Outlast("memory://", model=ScriptedModel(script)) as app:
        run = app.run(asks, "Find grants.", run_id="r")
        assert run.status == "completed", run.why
        assert run.answer[0] == "Ladder"
        assert "eligibility is missing" in run.answer[1]
        assert len(run.rejected_answers) == 1
        again = app.run(asks, "Find grants.", run_id="r")
        assert again.answer == run.answer


def test_a_flow_waits_for_a_person_too():
    """The flow goes on once somebody has decided."""

    @outlast.flow
    async def asks(run: outlast.Run, brief: str) -> str:
        return (await run.ask(WHO, brief))[0].name

    with Outlast("memory://", model=ScriptedModel(answers(NOBODY))) as app:
        run = app.run(asks, "Find grants.", run_id="r", wait_s=0.1)
        assert run.status == "waiting", run.why
        app.approve("r", by="ann")
        assert app.resume("r", asks).answer == "Ladder"


def test_judges_pay_from_the_budget_of_their_flow():
    """And from that of the agent whose answers they judge."""
    judge = outlast.Judge("Is it right?")

    def flow(**budget: Any) -> Any:
        who = agent(checks=[judge], budget=outlast.Budget(**budget))

        @outlast.flow(budget=outlast.Budget(turns=9))
        async def asks(run: outlast.Run, brief: str) -> str:
            return (await run.ask(who, brief))[0].name

        return asks

    from validation.answering import opinion  # noqa: PLC0415

    for turns, status in ((2, "completed"), (1, "failed")):
        model = ScriptedModel(answers(GOOD, judge=[opinion()]))
        with Outlast("memory://", model=model) as app:
            run = app.run(flow(turns=turns), "Find grants.", run_id="r")
            assert run.status == status, run.why
            assert len(model.calls) == turns


@pytest.mark.parametrize("tool", [False, True])
def test_where_the_code_is_nowhere_the_schema_tells(tool, tmp_path, monkeypatch):
    """A process that has only the journal refuses what is not of the type that Claude was told."""
    monkeypatch.setattr("outlast.agent.structured", lambda model: not tool)
    url = f"sqlite:///{tmp_path}/s.db"
    said = msgspec.json.decode(NOBODY)

    def script(request: dict[str, Any], attempt: int) -> Any:
        return say(tool_use("give_answer", said)) if tool else say(NOBODY)

    with Outlast(url, model=ScriptedModel(script)) as app:
        escalated(app)
    with Outlast(url) as app:
        with pytest.raises(outlast.InvalidInput, match="'name' is required"):
            app.approve("r", answer=[{}])
        with pytest.raises(outlast.InvalidInput, match="is not of type"):
            app.approve("r", answer="Ladder")
        assert app.approve("r", answer=[{"name": "Ladder"}], by="ann").status == "queued"


def test_a_fork_asks_for_as_long_as_the_original_did():
    """What nobody decided in time is asked again in a fork, and the time begins again."""
    who = agent(last_resort="escalate", answer_attempts=1, answer_expires=2.0)
    with Outlast("memory://", model=ScriptedModel(answers(NOBODY, GOOD))) as app:
        assert app.run(who, "Find grants.", run_id="r").status == "rejected"
        (at,) = [one.seq for one in app.log("r") if isinstance(one.event, ApprovalRequested)]
        fork = app.fork("r", at=at)
        app.approve(fork.id, by="ann")
        assert app.resume(fork.id, who).status == "completed"
        app.fork("r", at=at, new_id="late")
        assert "nobody decided in time" in app.resume("late", who).why


@pytest.mark.parametrize("tool", [False, True])
def test_a_conversation_goes_on_from_what_the_person_made_of_it(tool, monkeypatch):
    """Claude is told of the answer that counts, and not that its own was accepted."""
    monkeypatch.setattr("outlast.agent.structured", lambda model: not tool)

    def script(request: dict[str, Any], attempt: int) -> Any:
        said = GOOD if "And more?" in str(request["messages"]) else NOBODY
        return say(tool_use("give_answer", msgspec.json.decode(said))) if tool else say(said)

    model = ScriptedModel(script)
    with Outlast("memory://", model=model) as app:
        escalated(app)
        app.approve("r", answer=[{"name": "Quixote", "eligibility": "schools"}], by="ann")
        assert app.resume("r", WHO).answer[0].name == "Quixote"
        again = app.send("r", "And more?", agent=WHO)
        assert (again.status, again.answer[0].name) == ("completed", "Ladder"), again.why
    told = str(msgspec.json.decode(model.calls[-1])["messages"])
    assert "A person changed your answer, which is now: " in told
    assert "Quixote" in told
    assert "was accepted" not in told
