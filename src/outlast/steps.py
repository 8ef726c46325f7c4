"""What a flow has done, by name: steps, sleeps, values and child runs, begun and finished.

    wanted ──▶ begun ──▶ finished
                 │
                 └─ nobody waits for it any more: by its effect, begun again or in doubt

The function of a flow is executed from the top at every wake, and everything it did before is
answered from here.  So a name must always mean the same, and what it was given is kept with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec
from msgspec import Raw

from outlast.events import (
    NULL,
    ApprovalRequested,
    ChildStarted,
    Effect,
    Event,
    StepFinished,
    StepKind,
    StepStarted,
)
from outlast.journal import Record


class Begun(msgspec.Struct, frozen=True, gc=False):
    """Something that was begun and is not finished."""

    kind: StepKind
    given: str
    effect: Effect = "idempotent"
    attempts: int = 1
    until: int = 0
    child: str = ""
    function: str = ""
    """What is called, or whose run it is; empty where that has no name."""


class Finished(msgspec.Struct, frozen=True, gc=False):
    """Something that is over, and what came of it."""

    kind: StepKind
    given: str
    status: Literal["succeeded", "failed", "in_doubt"]
    result: Raw
    error: str
    blob: str
    function: str = ""


class Steps(msgspec.Struct, frozen=True):
    """Everything a flow began."""

    begun: dict[str, Begun] = {}
    finished: dict[str, Finished] = {}
    degraded: bool = False
    """Something that is over is less than what was asked for."""


def evolve(steps: Steps, record: Record) -> Steps:
    """Return what `record` makes of the steps."""
    rule = _RULES.get(type(record.event))
    return steps if rule is None else rule(steps, record.event)


def _started(steps: Steps, event: StepStarted) -> Steps:
    begun = Begun(
        event.kind,
        event.given,
        event.effect,
        event.attempt,
        event.until,
        function=event.function,
    )
    return Steps({**steps.begun, event.name: begun}, steps.finished, steps.degraded)


def _child(steps: Steps, event: ChildStarted) -> Steps:
    if event.call_id:
        return steps  # the tool call says what becomes of it
    begun = Begun("child", event.given, child=event.child, function=event.agent)
    return Steps({**steps.begun, event.name: begun}, steps.finished, steps.degraded)


def _finished(steps: Steps, event: StepFinished) -> Steps:
    was = steps.begun.get(event.name)
    given, function = (was.given, was.function) if was is not None else ("", "")
    over = Finished(
        event.kind, given, event.status, event.result, event.error, event.blob, function
    )
    begun = {name: one for name, one in steps.begun.items() if name != event.name}
    degraded = steps.degraded or event.degraded
    return Steps(begun, {**steps.finished, event.name: over}, degraded)


def _requested(steps: Steps, event: ApprovalRequested) -> Steps:
    if event.call_id:
        return steps  # the conversation knows what becomes of a call
    begun = Begun("approval", event.given, until=event.expires_at)
    return Steps({**steps.begun, event.name: begun}, steps.finished, steps.degraded)


def asked_again(steps: Steps) -> Steps:
    """Return the steps without what people are asked: a fork asks them itself."""
    begun = {name: one for name, one in steps.begun.items() if one.kind != "approval"}
    return Steps(begun, steps.finished, steps.degraded)


_RULES: Final[dict[type[Event], Callable[[Steps, Any], Steps]]] = {
    StepStarted: _started,
    ChildStarted: _child,
    StepFinished: _finished,
    ApprovalRequested: _requested,
}
"""What each event makes of the steps; every other one leaves them as they are."""

NO_RESULT: Final = NULL
"""What stands for the result of something that has none."""
