"""What runs wait to hear from people: questions that they asked, and calls that are in doubt."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

import msgspec

from outlast.answering import questions
from outlast.approvals import Request
from outlast.journal import Journal, RunRow, run_stream
from outlast.settling import InDoubt, in_doubt
from outlast.state import fold

ASKING: Final = ("waiting", "paused", "running", "queued", "parked", "stopped")
"""The statuses of runs that may have something open."""


class Open(msgspec.Struct, frozen=True):
    """What a run waits to hear from people; it is false where that is nothing."""

    asked: tuple[Request, ...] = ()
    doubts: tuple[InDoubt, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.asked or self.doubts)

    @property
    def since(self) -> int:
        """When the first of it began, in nanoseconds since the epoch."""
        return min([one.asked_at for one in self.asked] + [one.since for one in self.doubts])


NOTHING: Final = Open()


def open_in(journal: Journal, row: RunRow) -> Open:
    """Return what a run waits to hear from people, each the oldest first."""
    now = time.time_ns()
    # What nobody has driven yet asks nobody, and neither does what only time wakes, but for what a
    # worker put down that was shut down: a backlog is not read.
    sleeps = row.status == "parked" and (row.wake_at or 0) > now
    if row.status not in ASKING or sleeps or not row.fence:
        return NOTHING
    state = fold(journal.read(run_stream(row.id)))
    return Open(questions(state, now), in_doubt(state))


def waiting(journal: Journal, agent: str | None = None) -> Iterator[tuple[RunRow, Open]]:
    """Yield the runs that wait for a person, and for what."""
    # A run that waits for one below it asks nothing itself, and so is not among them.
    for status in ASKING:
        for row in journal.runs(status=status, agent=agent):
            if still := open_in(journal, row):
                yield row, still
