"""What people told one run: to pause, to go on, to end.

    running ──pause──▶ paused ──resume──▶ queued      what is in flight has its outcome first
       │                 │
       └────cancel───────┴──▶ cancelled               what is in flight is given up

It is told by outside events, so nothing that was paid for is lost by it, and it counts from the
next thing that the run would begin.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from outlast.events import ControlGiven, Event, Verb
from outlast.journal import Record


class Control(msgspec.Struct, frozen=True):
    """What was told last."""

    verb: Verb | None = None
    """What the run is kept by: `pause` or `cancel`; `None` is nothing."""
    by: str = ""
    reason: str = ""
    at: int = 0
    """When it was told, in nanoseconds since the epoch."""
    undo: bool = False
    """What its tools did is to be taken back before it ends."""

    @property
    def paused(self) -> bool:
        """Whether nothing more is to be begun for now."""
        return self.verb == "pause"

    @property
    def cancelled(self) -> bool:
        """Whether the run is to end."""
        return self.verb == "cancel"

    @property
    def why(self) -> str:
        """Who told it, and why."""
        who = f" by {self.by}" if self.by else ""
        return f"{_TOLD[self.verb]}{who}{f': {self.reason}' if self.reason else ''}"


_TOLD: Final = {None: "", "pause": "paused", "cancel": "cancelled"}


def evolve(control: Control, record: Record) -> Control:
    """Return what `record` makes of what was told."""
    rule = _RULES.get(type(record.event))
    return control if rule is None else rule(control, record.event, record)


def _given(control: Control, event: ControlGiven, record: Record) -> Control:
    if control.cancelled:
        # Nothing takes that back; but it may be told to undo what it did.
        return replace(control, undo=control.undo or (event.verb == "cancel" and event.undo))
    if event.verb == "resume":
        return Control()
    if event.verb == control.verb:
        return control  # told again, it is told once
    return Control(event.verb, event.by, event.reason, record.at, event.undo)


_RULES: Final[dict[type[Event], Callable[[Control, Any, Record], Control]]] = {
    ControlGiven: _given,
}
"""What each event makes of it; every other one leaves it as it is."""
