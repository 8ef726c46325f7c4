"""Past answers: what new checks say of them, from nothing but the journal."""

from __future__ import annotations

import asyncio
import time
from typing import Any, get_args

import msgspec
import pytest
from msgspec import Raw

import outlast
from flow_stubs import named, opened
from outlast.checks import Evidence, Issue, Verdict, check
from outlast.events import (
    AnswerProposed,
    AnswerRejected,
    AskAnswered,
    AskStarted,
    FeedbackGiven,
    MessageReceived,
    ModelCallSucceeded,
    RunStarted,
    Spec,
    ToolCallFailed,
    ToolCallInDoubt,
    ToolCallReconciled,
    ToolCallStarted,
    ToolCallSucceeded,
    VerdictGiven,
)
from outlast.findings import Past, answers
from outlast.journal import Record
from outlast.models.script import say, tool_use, turn_number
from outlast.rechecking import Says, recheck

SPEC = Spec(agent="a", model="m", max_tokens=1)


def journal(*events: Any) -> list[Record]:
    begun = (
        RunStarted(journal_version=1, agent="a", nonce="n", spec=SPEC),
        AskStarted(ask_id="ask-1"),
        MessageReceived(ask_id="ask-1", content=Raw(b'"Find grants."')),
    )
    return [Record("run:r", n, n, n, 1, one) for n, one in enumerate((*begun, *events), start=1)]


def reply(number: int, *blocks: dict[str, Any], ask_id: str = "ask-1") -> ModelCallSucceeded:
    return ModelCallSucceeded(
        ask_id=ask_id,
        call_id=f"{ask_id}.m{number}",
        content=Raw(msgspec.json.encode(blocks)),
        stop_reason="tool_use" if blocks[0]["type"] == "tool_use" else "end_turn",
        usage=Raw(b"{}"),
        cost_nano=0,
        tokens=0,
    )


def use(name: str, number: int, **given: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_{number}", "name": name, "input": given}


def proposed(number: int, answer: str, attempt: int = 1) -> AnswerProposed:
    raw = Raw(msgspec.json.encode(answer))
    return AnswerProposed(ask_id="ask-1", call_id=f"ask-1.m{number}", answer=raw, attempt=attempt)


def verdict(number: int, name: str, said: Any, **more: Any) -> VerdictGiven:
    given = {"kind": "rule", "version": "1", "ask_id": "ask-1", "call_id": f"ask-1.m{number}"}
    return VerdictGiven(check=name, verdict=said, **(given | more))


def rejected(number: int, action: Any) -> AnswerRejected:
    return AnswerRejected(ask_id="ask-1", call_id=f"ask-1.m{number}", action=action)


class AJudge:
    """A judge, as far as it is known here: nobody can ask it."""

    def __init__(self, name: str = "judge", version: str = "1", on_unjudged: Any = "reject"):
        self.name, self.version, self.on_unjudged = name, version, on_unjudged

    def __call__(self, *_: Any) -> None:
        raise AssertionError("the judge was asked")


# ── what was answered ───────────────────────────────────────────────────────────────────────────


def test_findings_are_what_tools_had_returned_by_then() -> None:
    """Each answer has the results before it, with their arguments; failures are none."""
    ids = {"ask_id": "ask-1"}
    found = answers(
        "r",
        journal(
            reply(1, use("find", 1, word="a"), use("find", 2, word="b")),
            ToolCallStarted(
                **ids,
                call_id="t1",
                tool_use_id="toolu_1",
                tool="find",
                effect="read",
                arguments=Raw(b'{"word":"edited"}'),
            ),
            ToolCallSucceeded(
                **ids, call_id="t1", tool_use_id="toolu_1", content=Raw(b'"{\\"sum\\": 72000}"')
            ),
            ToolCallFailed(
                **ids, call_id="t2", tool_use_id="toolu_2", kind="raised", content=Raw(b'"no"')
            ),
            reply(2, {"type": "text", "text": "first"}),
            proposed(2, "first"),
            rejected(2, "repair"),
            FeedbackGiven(**ids, why="rejected", content=Raw(b'[{"type":"text","text":"no"}]')),
            reply(3, use("pay", 3, sum=1)),
            ToolCallStarted(**ids, call_id="t3", tool_use_id="toolu_3", tool="pay", effect="once"),
            ToolCallInDoubt(**ids, call_id="t3", tool_use_id="toolu_3", kind="crash", open=True),
            ToolCallReconciled(
                **ids,
                call_id="t3",
                tool_use_id="toolu_3",
                outcome="happened",
                content=Raw(b'[{"type":"text","text":"paid"},{"type":"image","source":{}}]'),
            ),
            reply(4, {"type": "text", "text": "second"}),
            proposed(4, "second", attempt=2),
            AskAnswered(ask_id="ask-1", answer=Raw(b'"second"')),
        ),
    )
    first, second = found
    assert (first.attempt, first.became, first.task) == (1, "rejected", "Find grants.")
    (one,) = first.findings
    assert (one.tool, one.arguments, one.value, one.seq) == (
        "find",
        {"word": "edited"},
        {"sum": 72000},
        6,
    )
    assert (second.attempt, second.became) == (2, "accepted")
    assert [(one.tool, one.text, one.arguments) for one in second.findings[1:]] == [
        ("pay", "paid", {"sum": 1})
    ]


@pytest.mark.parametrize(
    ("events", "became"),
    [
        ([AskAnswered(ask_id="ask-1", answer=Raw(b'"x"'))], "not checked"),
        ([proposed(1, "x")], "open"),
        ([proposed(1, "x"), AskAnswered(ask_id="ask-1", answer=Raw(b'"x"'))], "accepted"),
        ([proposed(1, "x"), rejected(1, "reject")], "rejected"),
        ([proposed(1, "x"), rejected(1, "resample")], "rejected"),
        ([proposed(1, "x"), rejected(1, "escalate")], "escalated"),
        ([proposed(1, "x"), rejected(1, "degrade")], "degraded"),
        ([proposed(1, "x"), proposed(1, "x"), rejected(1, "repair")], "rejected"),
    ],
)
def test_what_became_of_an_answer(events: list[Any], became: str) -> None:
    """Each way that an answer can go is told apart, and none is told twice."""
    (past,) = answers("r", journal(reply(1, {"type": "text", "text": "x"}), *events))
    assert past.became == became


def test_what_judges_say_is_no_answer() -> None:
    """The ask of a judge is a call of the judge's, and nothing that a check looks at."""
    found = answers(
        "r",
        journal(
            reply(1, {"type": "text", "text": "x"}),
            proposed(1, "x"),
            AskStarted(ask_id="judge-1", judges="ask-1.m1", check="judge"),
            reply(1, {"type": "text", "text": "valid"}, ask_id="judge-1"),
            AskAnswered(ask_id="judge-1", answer=Raw(b'"valid"')),
        ),
    )
    assert [one.ask_id for one in found] == ["ask-1"]


def test_runs_without_checks_have_answers_too() -> None:
    """Of a run whose answer nobody checked, the answer is that of its question; of forks once."""

    @outlast.tool(effect="read")
    def look(word: str) -> dict[str, str]:
        """Look a word up."""
        return {"word": word}

    def script(request: dict[str, Any], _: int) -> Any:
        return say(tool_use("look", {"word": "a"})) if turn_number(request) == 1 else say("It is.")

    with opened(script=script) as app:
        app.run(named("a", tools=[look]), "What?", run_id="r")
        (past,) = answers("r", app.log("r"))
        assert (past.answer, past.became, past.task) == (Raw(b'"It is."'), "not checked", "What?")
        assert [(one.tool, one.value) for one in past.findings] == [("look", {"word": "a"})]
        fork = app.fork("r", at=app.log("r")[-1].seq)
        assert len(answers(fork.id, app.log(fork.id))) == 1
        assert answers(fork.id, app.log(fork.id), shared=app.log("r")[-1].seq) == []


# ── what is said of it now ──────────────────────────────────────────────────────────────────────


def past(answer: str = "an answer", **more: Any) -> Past:
    raw = Raw(msgspec.json.encode(answer))
    return Past(run_id="r", ask_id="ask-1", call_id="ask-1.m1", seq=9, answer=raw, **more)


@check
def short(answer: str) -> list[Issue]:
    """Be short."""
    return [] if len(answer) < 20 else [Issue(f"{len(answer)} is too long")]


@check
async def slowly(answer: str, evidence: Evidence) -> bool:
    """Be grounded."""
    await asyncio.sleep(0)
    return any(answer in one.text for one in evidence.findings)


@check(on_unverified="escalate")
def broken(answer: str) -> list[str]:
    """Fail."""
    raise ValueError("boom")


@check(timeout_s=0.05, on_unverified="accept")
def late(answer: str) -> list[str]:
    """Be late."""
    time.sleep(0.5)
    return []


@check
def asks(answer: str) -> Verdict:
    """Ask a person."""
    return Verdict.needs_person("who knows")


JUDGED = (verdict(1, "judge", "passed", kind="judge"),)


@pytest.mark.parametrize(
    ("checks", "given", "says"),
    [
        ([short], past(), "accepted"),
        ([short], past("x" * 30), "rejected"),
        ([slowly], past(), "rejected"),
        ([short, broken], past(), "escalated"),
        ([late], past(), "degraded"),
        ([asks], past(), "escalated"),
        ([short, asks, broken], past("x" * 30), "rejected"),
        ([short, AJudge()], past(), "judge not asked"),
        ([short, AJudge()], past("x" * 30), "rejected"),
        ([AJudge()], past(verdicts=JUDGED), "accepted"),
        ([AJudge(version="2")], past(verdicts=JUDGED), "judge not asked"),
        ([AJudge(name="other")], past(verdicts=JUDGED), "judge not asked"),
        (
            [AJudge(on_unjudged="escalate")],
            past(verdicts=(verdict(1, "judge", "unverified", kind="judge"),)),
            "escalated",
        ),
        ([AJudge()], past(verdicts=(verdict(1, "judge", "passed"),)), "judge not asked"),
        ([], past(), "accepted"),
    ],
)
def test_what_checks_say_of_a_past_answer(checks: list[Any], given: Past, says: str) -> None:
    """Functions are run, judges are not asked; what nobody can tell is never an acceptance."""
    (found,) = recheck([given], checks)
    assert found.says == says, found
    assert says in get_args(Says)
    assert len(found.said) == len(checks)


def test_what_would_change_is_counted_where_it_is_known() -> None:
    """A change is another end than the recorded one; a judge that was not asked makes none."""
    long = past("x" * 30, became="accepted")
    fine = past(became="rejected")
    unchecked = past(became="not checked")
    found = recheck([long, fine, unchecked, past(became="open")], [short])
    assert [one.changed for one in found] == [True, True, False, False]
    assert not any(one.changed for one in recheck([fine, unchecked], [AJudge()]))


def test_what_cannot_be_parsed_is_rejected() -> None:
    """An answer that is not of the type is rejected with the message, and no check is run."""

    def parse(past: Past) -> Any:
        return msgspec.json.decode(past.answer, type=int)

    (found,) = recheck([past("text")], [broken], parse=parse)
    ((said,),) = (found.said,)
    assert (found.says, said.check) == ("rejected", "schema")
    assert "Expected `int`" in said.issues[0].message
