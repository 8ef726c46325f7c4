"""Types, checks and agents that nobody would expect: no answer passes by it, and no run hangs."""

import asyncio
from decimal import Decimal
from typing import Annotated, Any

import msgspec
import pytest
from pydantic import AfterValidator, BaseModel, Field, field_validator

import outlast
from outlast.app import Outlast
from outlast.events import encode
from outlast.journal import run_stream
from outlast.models.script import Fault, Script, Turn, faulty, say, tool_use
from outlast.models.scripted import ScriptedModel
from outlast.state import fold
from outlast.stores import open_store
from outlast.testing.simulation import Crash, Driver, World, begin
from validation.answering import (
    CHECKS,
    GOOD,
    MODEL,
    NOBODY,
    Grant,
    agent,
    answers,
    is_judge,
    opinion,
    rejected,
)


def ran(who: outlast.Agent, script: Script) -> outlast.Run:
    with Outlast("memory://", model=ScriptedModel(script)) as app:
        return app.run(who, "Find grants.", run_id="r", wait_s=0.1)


class Unprintable:
    """What nobody can turn into a text."""

    def __str__(self) -> str:
        raise RuntimeError

    __repr__ = __str__


class Endless:
    """What never ends when it is looked at."""

    def __iter__(self) -> Any:
        while True:
            yield "wrong"


@pytest.mark.parametrize("raised", [SystemExit(1), GeneratorExit(), BaseException("odd")])
def test_a_validator_brings_nobody_down(raised):
    """Whatever a validator raises is an issue of the answer, and not the end of the driver."""

    class Named(BaseModel):
        name: str

        @field_validator("name")
        @classmethod
        def _odd(cls, name: str) -> str:
            raise raised

    who = outlast.Agent("t", model=MODEL, answer=Named)
    run = ran(who, answers(say('{"name": "x"}')))
    assert run.status == "rejected"
    assert type(raised).__name__ in run.rejected_answers[0].issues[0].message


def test_a_long_fault_is_cut():
    """What a validator says at length is paid for by nobody."""

    class Named(BaseModel):
        name: str

        @field_validator("name")
        @classmethod
        def _long(cls, name: str) -> str:
            raise ValueError("x" * 1_000_000)

    run = ran(outlast.Agent("t", model=MODEL, answer=Named), answers(say('{"name": "x"}')))
    assert len(run.rejected_answers[0].issues[0].message) == 2_000


@pytest.mark.parametrize(
    "found",
    [
        outlast.Issue(Unprintable()),  # type: ignore[arg-type]
        outlast.Issue("wrong", rule=Unprintable()),  # type: ignore[arg-type]
        outlast.Verdict("unverified", issues=(Unprintable(),)),  # type: ignore[arg-type]
    ],
)
def test_what_a_check_finds_brings_nobody_down(found):
    """Nobody can tell what a check found that cannot be written; the run ends as that says."""

    @outlast.check
    def odd(answer: Any) -> Any:
        return found

    run = ran(agent(checks=[odd]), answers(GOOD))
    assert run.status == "rejected"
    assert "cannot be written" in run.why


def test_endless_issues_are_told_as_many():
    """What a check makes only when it is looked at is made in its time, and not without end."""

    @outlast.check
    def odd(answer: Any) -> Any:
        return Endless()

    run = ran(agent(checks=[odd], answer_attempts=1), answers(GOOD))
    assert run.status == "rejected"
    assert run.rejected_answers[0].issues[-1].message == "and 9950 more issues"


@outlast.tool(effect="read")
def search(word: str) -> list[dict[str, str]]:
    """Search grants."""
    return [{"name": "Ladder"}]


@outlast.check
def forges(answer: Any, evidence: outlast.Evidence) -> list[str]:
    """Change what the tool returned."""
    for one in evidence.findings:
        one.value.append({"name": "Invented"})
        one.arguments.clear()
    return []


@outlast.check
async def looks(answer: Any, evidence: outlast.Evidence) -> list[str]:
    """Look at what the tool returned, once the others are done."""
    await asyncio.sleep(0.2)
    (one,) = evidence.findings
    is_same = (one.value, one.arguments) == ([{"name": "Ladder"}], {"word": "x"})
    return [] if is_same else ["somebody changed it"]


def test_no_check_changes_the_evidence_of_another():
    """What a check makes of its evidence makes no other one pass."""

    def script(request: dict[str, Any], attempt: int) -> Turn:
        is_first = len(request["messages"]) == 1
        return say(tool_use("search", {"word": "x"})) if is_first else say(GOOD)

    run = ran(agent(checks=[forges, looks], tools=[search]), script)
    assert run.status == "completed", run.why


@pytest.mark.parametrize("text", ['```json\n{"answer": "abc"}\n```', '{"answer": "abc', "I can't."])
def test_a_text_is_no_answer_of_a_type_of_texts(text):
    """What is not JSON is no answer, even to a type that has every text."""
    who = outlast.Agent("t", model=MODEL, answer=Annotated[str, Field(min_length=3)])
    blocks = msgspec.json.encode([{"type": "text", "text": text}])
    run = ran(who, answers(Turn(content=blocks), say('{"answer": "abc"}')))
    assert (run.status, run.answer) == ("completed", "abc")
    assert [one.answer for one in run.rejected_answers] == [text]


def test_a_text_is_no_call_of_the_tool(monkeypatch):
    """Where an answer is given by a tool, what is said beside is none."""
    monkeypatch.setattr("outlast.agent.structured", lambda model: False)
    who = outlast.Agent("t", model=MODEL, answer=Annotated[str, Field(min_length=3)])
    call = say(tool_use("give_answer", {"answer": "abc"}))
    run = ran(who, answers(say("Let me think."), call))
    assert (run.status, run.answer) == ("completed", "abc")
    assert [one.answer for one in run.rejected_answers] == ["Let me think."]


@outlast.check
def is_something(answer: Any) -> list[str]:
    """There is an answer."""
    return [] if answer is not None else ["nothing was found"]


@pytest.mark.parametrize("word", ["approve", "deny", "edit"])
def test_a_person_decides_of_null(word):
    """An answer that is null is one that a person can approve, deny or edit."""
    who = outlast.Agent(
        "t",
        model=MODEL,
        answer=Grant | None,
        checks=[is_something],
        last_resort="escalate",
        answer_attempts=1,
    )
    with Outlast("memory://", model=ScriptedModel(answers(say('{"answer": null}')))) as app:
        assert app.run(who, "Find a grant.", run_id="r", wait_s=0.1).status == "waiting"
        if word == "deny":
            app.deny("r", by="ann")
        else:
            app.approve("r", by="ann", answer={"name": "Ladder"} if word == "edit" else None)
        run = app.resume("r", who)
    ended = {"approve": "completed", "deny": "rejected", "edit": "completed"}
    assert run.status == ended[word], run.why
    assert run.answer == (Grant(name="Ladder") if word == "edit" else None)


def judged(*judges: outlast.Judge) -> outlast.Agent:
    return agent(checks=[*CHECKS, *judges])


def good(request: dict[str, Any], attempt: int) -> Turn:
    return say(opinion() if is_judge(request) else GOOD)


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((outlast.Judge("Right?"),), ()),
        ((outlast.Judge("Right?"),), (outlast.Judge("Right?", name="other"),)),
        ((outlast.Judge("Right?", votes=3),), (outlast.Judge("Right?"),)),
    ],
    ids=["removed", "renamed", "fewer votes"],
)
def test_a_judge_that_is_no_more_is_paid_for(before, after, batch):
    """Its call that was in flight when the process died is in doubt, and charged in full."""
    was, is_now = judged(*before), judged(*after)
    world = World(good)
    journal = begun(world, was, batch=batch)
    Driver(world, journal, was, "r").run()
    for point in range(1, world.points + 1):
        died = World(good, crash_at=(point,))
        journal = begun(died, was, batch=batch)
        with pytest.raises(Crash):
            Driver(died, journal, was, "r").run()
        Driver(died, journal, is_now, "r").run()
        state = fold(journal.read(run_stream("r")))
        assert state.status == "completed", state.why
        assert not state.spend.held, f"held for ever, after {died.trace[-1]}"
        assert sum(charge.nano_usd for charge in died.model.bill) <= state.spend.nano


def begun(world: World, who: outlast.Agent, *, batch: bool) -> Any:
    journal = open_store("memory://")
    begin(journal, "r", who, "Find.", batch=batch, at=world.tick(), nonce="simulated")
    return journal


@pytest.mark.parametrize("asked", ["live", "replayed"])
def test_a_stream_discards_what_was_rejected(asked):
    """A part says that a rejected answer does not count, and what a judge says is no part."""
    who = judged(outlast.Judge("Right?"))
    script = answers(NOBODY, GOOD, judge=[opinion()])
    with Outlast("memory://", model=ScriptedModel(script)) as app:
        parts = list(app.stream(who, "Find grants.", run_id="r"))
        if asked == "replayed":
            parts = list(app.stream(who, "Find grants.", run_id="r"))
    assert [(part.call_id, part.kind, part.text) for part in parts] == [
        ("ask-1.m1", "text", NOBODY),
        ("ask-1.m1", "discarded", ""),
        ("ask-1.m2", "text", GOOD),
    ]


@pytest.mark.parametrize(
    "reply", [say("let me see", stop_reason="pause_turn"), say(tool_use("look", {}))]
)
def test_a_judge_that_goes_on_has_not_judged(reply):
    """What is no opinion is none; a judge is not asked on and on until the budget is gone."""
    model = ScriptedModel(answers(GOOD, judge=[reply]))
    with Outlast("memory://", model=model) as app:
        run = app.run(judged(outlast.Judge("Right?")), "Find grants.", wait_s=0.1)
    assert (run.status, run.turns) == ("rejected", 2)
    assert "not judged" in run.why


def test_a_judge_without_a_price_has_not_judged():
    """A judge whose price nobody knows, where a run goes on, is not asked, and ends no driver."""
    nobody = outlast.Judge("Right?", model="claude-nobody-9")
    with Outlast("memory://", model=ScriptedModel(answers(NOBODY, GOOD))) as app:
        who = agent(budget=outlast.Budget(turns=1))
        assert app.run(who, "Find grants.", run_id="r", wait_s=0.1).status == "stopped"
        run = app.resume("r", judged(nobody), wait_s=0.1)
    assert run.status == "rejected"
    assert "no price is known" in run.why


def test_a_validator_tells_no_secret():
    """What validators say goes through `redact`, like every other text from outside."""

    def strict(value: str) -> str:
        raise ValueError(f"{value} is no key, sk-secret is")

    who = agent(answer=list[Annotated[str, AfterValidator(strict)]], checks=[], answer_attempts=2)
    model = ScriptedModel(answers('{"answer":["a"]}', '{"answer":["b"]}'))

    def hide(text: str) -> str:
        return text.replace("sk-secret", "[hidden]")

    with outlast.Outlast("memory://", model=model, redact=hide) as app:
        came = app.run(who, "Which?", run_id="r")
        written = b"".join(encode(record.event) for record in app.log("r"))
    assert came.status == "rejected"
    assert "[hidden]" in came.why
    assert b"sk-secret" not in written
    assert not any(b"sk-secret" in body for body in model.calls)


def test_an_answer_is_returned_as_it_was_checked():
    """Whoever gets it gets what the checks have seen, whenever and however it is asked for."""
    seen: list[Decimal] = []

    def looks(answer: list[Decimal]) -> list[str]:
        seen.extend(answer)
        return []

    who = agent(answer=list[Decimal], checks=[looks])
    said = '{"answer":["0.1234567890123456789012345678901"]}'
    with outlast.Outlast("memory://", model=ScriptedModel(answers(said))) as app:
        assert app.run(who, "How much?", run_id="r").answer == seen
        assert app.run(who, "How much?", run_id="r").answer == seen
        assert app.start(who, "How much?", run_id="r").result() == seen
    assert seen == [Decimal("0.1234567890123456789012345678901")]


def test_what_is_discarded_is_the_attempt_that_was_shown():
    """Also where Claude had to be asked twice for it."""

    def overloaded(request: dict[str, Any], attempt: int) -> Any:
        return Fault(kind="status", status=529) if attempt == 1 and not rejected(request) else None

    model = ScriptedModel(faulty(answers(NOBODY, GOOD), overloaded))
    parts: list[outlast.Part] = []
    with outlast.Outlast("memory://", model=model, breaker=None) as app:
        app.run(agent(), "Find grants.", run_id="r", on_part=parts.append)
    said = [(one.call_id, one.attempt, one.kind) for one in parts]
    assert ("ask-1.m2", 2, "text") in said
    assert ("ask-1.m2", 2, "discarded") in said
    assert not [one for one in said if one[:2] == ("ask-1.m2", 1)]
