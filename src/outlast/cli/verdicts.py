"""What is said of answers that are checked: in the log, and on the page of a run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, TypeAlias

import msgspec

from outlast.cli import shapes, words
from outlast.cli.words import Part
from outlast.events import (
    AnswerProposed,
    AnswerRejected,
    AskRejected,
    AskResampled,
    Issue,
    LabelGiven,
    VerdictGiven,
)
from outlast.journal import Journal, RunRow, run_stream
from outlast.state import fold
from outlast.validation import Attempt, line

Told: TypeAlias = (
    AnswerProposed | VerdictGiven | AnswerRejected | AskResampled | AskRejected | LabelGiven
)

_VERDICTS: Final = {
    "passed": ("nothing is wrong", "good"),
    "fixable": ("not accepted", "bad"),
    "terminal": ("not accepted, and no other answer would be", "bad"),
    "unverified": ("cannot tell", "doubt"),
    "needs_person": ("a person has to decide", "doubt"),
}

_DONE: Final = {
    "repair": "Claude is told what is wrong",
    "resample": "Claude is asked afresh",
    "reject": "there is no answer",
    "escalate": "a person decides",
    "degrade": "it is the answer all the same",
}


def told(event: Told) -> list[Part]:
    """Return the sentence for what happened to an answer."""
    match event:
        case AnswerProposed():
            again = f", its checks for the {event.times}th time" if event.times > 1 else ""
            said = words.opening(words.given(event.answer), 200)
            return [(f"answer {event.attempt}{again}: ", "strong"), (f"“{said}”", "")]
        case VerdictGiven():
            return _verdict(event)
        case AnswerRejected():
            then = _DONE.get(event.action, f"({event.action})")
            return [(then, "doubt"), (f": {words.line(event.why, 400)}", "")]
        case AskResampled():
            return [("asked afresh: ", "quiet"), (words.line(words.spoken(event.content), 400), "")]
        case AskRejected():
            return [(f"{event.ask_id} has no answer: {words.line(event.why, 400)}", "bad")]
        case LabelGiven():
            tone = "good" if event.good else "bad"
            why = f": {words.line(event.why, 400)}" if event.why else ""
            by = f"  {words.line(event.by, 80)}" if event.by else ""
            return [(f"labelled {tone}{why}", tone), (by, "quiet")]


def _verdict(event: VerdictGiven) -> list[Part]:
    what, tone = _VERDICTS.get(event.verdict, (f"({event.verdict})", "doubt"))
    issues = "; ".join(map(line, event.issues)) or event.why
    cost = f"  {words.money(event.cost_nano)}" if event.cost_nano else ""
    sure = f"  confidence {event.confidence:g}" if event.confidence is not None else ""
    return [
        (f"{words.line(event.check, 80)}: ", "strong"),
        (what, tone),
        (f": {words.line(issues, 400)}" if issues else "", ""),
        (sure, "quiet"),
        (cost, "money"),
    ]


# ── answers that were not accepted ──────────────────────────────────────────────────────────────


def run_shape(journal: Journal, row: RunRow) -> dict[str, Any]:
    """Return a run with the answers that were not accepted, which stand in its journal."""
    shape = shapes.run_shape(row)
    if row.rejections:
        state = fold(journal.read(run_stream(row.id)))
        shape["rejected_answers"] = [rejected_shape(one) for one in state.validation.rejected]
    return shape


def rejected_shape(attempt: Attempt) -> dict[str, Any]:
    """Return an answer that was not accepted."""
    return {
        "attempt": attempt.number,
        "call_id": attempt.call_id,
        "answer": msgspec.json.decode(attempt.answer),
        "action": attempt.action,
        "why": attempt.why,
        "issues": [issue_shape(one) for one in attempt.issues],
        "verdicts": [verdict_shape(one) for one in attempt.verdicts],
    }


def verdict_shape(event: VerdictGiven) -> dict[str, Any]:
    """Return a verdict."""
    return {
        "check": event.check,
        "kind": event.kind,
        "version": event.version,
        "verdict": event.verdict,
        "issues": [issue_shape(one) for one in event.issues],
        "why": event.why,
        "model": event.model,
        "confidence": event.confidence,
        "cost_usd": shapes.dollars(event.cost_nano),
        "cost_nano": event.cost_nano,
    }


def issue_shape(issue: Issue) -> dict[str, Any]:
    """Return an issue."""
    return {
        "path": issue.path,
        "rule": issue.rule,
        "message": issue.message,
        "got": issue.got,
        "expected": issue.expected,
    }


def lines(shapes_: Iterable[dict[str, Any]]) -> list[tuple[str, Part]]:
    """Return a line of the page of a run for each answer that was not accepted."""
    return [("rejected", (_line(one), "bad")) for one in shapes_]


def _line(shape: dict[str, Any]) -> str:
    text = shape["answer"]
    said = text if isinstance(text, str) else msgspec.json.encode(text).decode()
    what = words.opening(said, 120)
    return words.line(f"answer {shape['attempt']}: “{what}”: {shape['why']}", 400)
