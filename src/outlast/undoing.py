"""What was taken back of what a run's tools did, once it was told to end so.

Calls are taken back one by one, the newest first.  A function that takes one back may have to do so
again: after a crash, and where it raised, a few times, with the same key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from outlast.conversation import Conversation, Done, surely_not, tool_call_id
from outlast.events import Event, UndoFinished, UndoStarted
from outlast.journal import Record

ATTEMPTS: Final = 3
"""How often a function may fail to take a call back before it is left at that."""

CRASHES: Final = 5
"""How often the process may end under it before it is left at that."""


class Undone(msgspec.Struct, frozen=True, gc=False):
    """How far it is with one call."""

    attempts: int = 0
    failures: int = 0
    """So many of the attempts failed; what else there was, the process ended under."""
    over: bool = False
    """It is taken back, or will not be."""
    error: str = ""
    """Why it could not be."""
    at: int = 0
    """When the last attempt was over, in nanoseconds since the epoch."""


class Undoing(msgspec.Struct, frozen=True):
    """How far it is with every call."""

    calls: dict[str, Undone] = {}

    def of(self, call_id: str) -> Undone:
        """Return how far it is with one call."""
        return self.calls.get(call_id, _NOT_BEGUN)


_NOT_BEGUN: Final = Undone()


def left(undoing: Undoing, asks: Iterable[Conversation]) -> list[Done]:
    """Return the calls that are still to be taken back, the newest first."""
    done = [one for ask in asks for one in ask.done]
    found = [one for one in done if not undoing.of(one.call_id).over]
    return sorted(found, key=lambda one: -one.seq)


MOST_ERROR: Final = 1_000
"""So many characters of an error stand in the sentence about a run; the journal has all of it."""


def told(undoing: Undoing, asks: Iterable[Conversation], *, undo: bool) -> str:
    """Return what became of it in a sentence, and what nobody can say; empty is nothing.

    Args:
        undoing: how far it is.
        asks: all that was asked in the run.
        undo: whether calls were to be taken back at all.

    """
    asks = list(asks)
    done = [one for ask in asks for one in ask.done if undo]
    unknown = [call_id for ask in asks for call_id in (*(ask.lost if undo else ()), *_open(ask))]
    left_over = [one for one in done if undoing.of(one.call_id).error]
    parts = [f"{len(done) - len(left_over)} of {len(done)} calls were undone"] if done else []
    parts += [
        f"{one.tool} ({one.call_id}) was not: {undoing.of(one.call_id).error[:MOST_ERROR]}"
        for one in left_over
    ]
    if unknown:
        parts.append(f"of {', '.join(unknown)} nobody knows whether it happened")
    return "; ".join(parts)


def failed(undoing: Undoing, asks: Iterable[Conversation]) -> bool:
    """Return whether a call that was to be taken back was not."""
    done = [one for ask in asks for one in ask.done]
    return any(undoing.of(one.call_id).error for one in done)


def _open(ask: Conversation) -> list[str]:
    """Return the calls that are never repeated, or can be taken back, and have no outcome."""
    found: list[str] = []
    for number, one in enumerate(ask.pending, start=1):
        begun = one.doubt or one.call_id
        if begun and (one.undoable or one.effect == "once"):
            found.append(begun)
        elif not one.result and one.undoable and not surely_not(one, one.rank):
            found.append(tool_call_id(ask, number))
    return found


def evolve(undoing: Undoing, record: Record) -> Undoing:
    """Return what `record` makes of it."""
    rule = _RULES.get(type(record.event))
    return undoing if rule is None else rule(undoing, record.event, record)


def _started(undoing: Undoing, event: UndoStarted, _: Record) -> Undoing:
    known = replace(undoing.of(event.call_id), attempts=event.attempt)
    return Undoing({**undoing.calls, event.call_id: known})


def _finished(undoing: Undoing, event: UndoFinished, record: Record) -> Undoing:
    over = event.status == "succeeded" or event.last
    error = event.error if event.status == "failed" else ""
    before = undoing.of(event.call_id)
    failures = before.failures + (event.status == "failed")
    known = replace(before, over=over, error=error, at=record.at, failures=failures)
    return Undoing({**undoing.calls, event.call_id: known})


_RULES: Final[dict[type[Event], Callable[[Undoing, Any, Record], Undoing]]] = {
    UndoStarted: _started,
    UndoFinished: _finished,
}
"""What each event makes of it; every other one leaves it as it is."""
