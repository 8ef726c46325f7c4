"""The answers to a question: what checks found of each, and what was done about it.

    proposed ──▶ verdicts, one of each check ──▶ answered
       ▲                    └──▶ rejected ──▶ repaired, or asked again ──┐
       └─────────────────────────────────────────────────────────────────┘

What was rejected stays here, and is never handed out as an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, Literal

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from outlast.events import (
    AnswerProposed,
    AnswerRejected,
    AskAnswered,
    Event,
    Issue,
    RejectionAction,
    VerdictGiven,
)
from outlast.journal import Record

RUNGS: Final = ("schema", "rule", "judge")
"""The kinds of checks, in the order in which an answer meets them."""


class Attempt(msgspec.Struct, frozen=True):
    """An answer that is checked."""

    call_id: str
    """The call whose reply it is."""
    answer: Raw
    number: int
    """The first one to its question is 1."""
    times: int = 1
    """How often its checks were begun."""
    verdicts: tuple[VerdictGiven, ...] = ()
    action: RejectionAction | Literal[""] = ""
    """What was done about it, where it was not accepted."""
    why: str = ""
    accepted: bool = False
    """It became the answer in the end."""

    @property
    def objections(self) -> tuple[VerdictGiven, ...]:
        """The verdicts that do not say that nothing is wrong."""
        return tuple(one for one in self.verdicts if one.verdict != "passed")

    @property
    def issues(self) -> tuple[Issue, ...]:
        """Everything that is wrong with it, in an order that is not that of who was faster."""
        ordered = sorted(self.verdicts, key=lambda one: (RUNGS.index(one.kind), one.check))
        return tuple(issue for one in ordered for issue in one.issues)

    @property
    def rung(self) -> int:
        """How far it came: the kind of check that objected last."""
        return max((RUNGS.index(one.kind) for one in self.objections), default=len(RUNGS))

    @property
    def rejected(self) -> bool:
        """Whether it is no answer."""
        return bool(self.action) and not self.accepted


class Validation(msgspec.Struct, frozen=True):
    """The answers to every question of a run that are, or were, checked."""

    attempts: dict[str, tuple[Attempt, ...]] = {}
    """By ask."""

    def of(self, ask_id: str) -> tuple[Attempt, ...]:
        """Return the answers to a question, the first one first."""
        return self.attempts.get(ask_id, ())

    @property
    def rejected(self) -> tuple[Attempt, ...]:
        """The answers that were not accepted."""
        every = (one for attempts in self.attempts.values() for one in attempts)
        return tuple(one for one in every if one.rejected)


def evolve(validation: Validation, record: Record) -> Validation:
    """Return what `record` makes of them."""
    rule = _RULES.get(type(record.event))
    return validation if rule is None else rule(validation, record.event)


def _proposed(validation: Validation, event: AnswerProposed) -> Validation:
    before = validation.of(event.ask_id)
    if before and before[-1].call_id == event.call_id:
        return _changed(validation, event.ask_id, times=event.times)
    fresh = Attempt(event.call_id, event.answer, event.attempt, event.times)
    return Validation({**validation.attempts, event.ask_id: (*before, fresh)})


def _judged(validation: Validation, event: VerdictGiven) -> Validation:
    last = validation.of(event.ask_id)[-1]
    return _changed(validation, event.ask_id, verdicts=(*last.verdicts, event))


def _rejected(validation: Validation, event: AnswerRejected) -> Validation:
    return _changed(validation, event.ask_id, action=event.action, why=event.why)


def _answered(validation: Validation, event: AskAnswered) -> Validation:
    if not validation.of(event.ask_id):
        return validation
    edited = validation.of(event.ask_id)[-1].answer != event.answer
    return _changed(validation, event.ask_id, accepted=not edited)


def _changed(validation: Validation, ask_id: str, **changes: Any) -> Validation:
    """Return the same, with the last answer to a question changed."""
    *before, last = validation.of(ask_id)
    return Validation({**validation.attempts, ask_id: (*before, replace(last, **changes))})


_RULES: Final[dict[type[Event], Callable[[Validation, Any], Validation]]] = {
    AnswerProposed: _proposed,
    VerdictGiven: _judged,
    AnswerRejected: _rejected,
    AskAnswered: _answered,
}
"""What each event makes of them; every other one leaves them as they are."""


# ── whether another answer is asked for ─────────────────────────────────────────────────────────


def no_more(attempts: tuple[Attempt, ...], most: int) -> str:
    """Return why no other answer is asked for; empty where one is.

    Args:
        attempts: the answers so far, none of which was accepted.
        most: how many there may be.

    """
    last = attempts[-1]
    if len(attempts) > 1:
        before = attempts[-2]
        if _same(before, last):
            return "the same answer came back with the same issues"
        if before.rung == last.rung and len(last.issues) > len(before.issues):
            return (
                f"the answers get worse: {len(before.issues)} issues, and then {len(last.issues)}"
            )
    if len(attempts) >= most:
        return f"{count(len(attempts), 'answer')} {'was' if most == 1 else 'were'} not accepted"
    return ""


def _same(one: Attempt, other: Attempt) -> bool:
    return (
        msgspec.json.decode(one.answer) == msgspec.json.decode(other.answer)
        and one.issues == other.issues
    )


def count(number: int, what: str) -> str:
    """Return a number of things in words."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


# ── what is said of it ──────────────────────────────────────────────────────────────────────────


def lines(issues: Iterable[Issue]) -> list[str]:
    """Return a line for each issue: where it is, what is wrong, what stands there."""
    return [line(one) for one in issues]


def line(issue: Issue) -> str:
    """Return an issue in a line."""
    told = issue.message.strip()
    place = f"{issue.path}: " if issue.path and not told.startswith(issue.path) else ""
    got = f"; got {_short(issue.got)}" if issue.got is not None else ""
    expected = f"; expected {_short(issue.expected)}" if issue.expected is not None else ""
    return f"{place}{told}{got}{expected}"


def _short(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= _LONG else f"{text[:_LONG]}…"


_LONG: Final = 300
MOST_LINES: Final = 40
"""So many issues are told at once."""


def listed(attempt: Attempt) -> str:
    """Return what is wrong with an answer, as the model is told."""
    told = lines(attempt.issues)
    if len(told) > MOST_LINES:
        told = [*told[:MOST_LINES], f"and {len(told) - MOST_LINES} more"]
    hints = [one.suggestion for one in attempt.verdicts if one.suggestion]
    return "\n".join(f"- {one}" for one in [*told, *hints])


def feedback(attempt: Attempt) -> str:
    """Return what the model is told of an answer that it is to mend."""
    return (
        "Your answer was checked, and is not accepted. What is wrong:\n"
        f"{listed(attempt)}\n"
        "Give the whole answer again with that mended, and the rest as it is. Only what the task "
        "says and what your tools returned counts: where it is not there, call a tool again, or "
        "leave it out."
    )


def afresh(attempts: Iterable[Attempt]) -> str:
    """Return what the model is told of answers that it does not see again."""
    told = "\n".join(f"What was wrong with answer {one.number}:\n{listed(one)}" for one in attempts)
    return (
        "This was answered before, and what came was checked, and not accepted.\n"
        f"{told}\nGive an answer without these mistakes."
    )


def summary(attempt: Attempt, most: int = 3) -> str:
    """Return in a sentence for people why an answer was not accepted."""
    told = lines(attempt.issues) or [
        f"{one.check}: {one.why}" for one in attempt.objections if one.why
    ]
    more = f"; and {len(told) - most} more" if len(told) > most else ""
    names = ", ".join(dict.fromkeys(one.check for one in attempt.objections))
    return f"{names}: {'; '.join(told[:most])}{more}" if told else names
