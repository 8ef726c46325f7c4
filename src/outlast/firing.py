"""Begins the runs of schedules when they are due: each occurrence once, whoever fires it.

A run is begun, and then it is written that its occurrence was fired.  Who dies in between has
begun a run whose id the next one comes to as well, and that is the same run.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final, Generic, Protocol, TypeVar

from outlast import logs
from outlast.errors import Conflict, StoreError
from outlast.events import ScheduleFired, ScheduleSet
from outlast.journal import Commit, Journal
from outlast.schedules import (
    STREAM,
    Occurrence,
    Schedule,
    Schedules,
    due,
    fold,
    is_as_set,
    next_at,
    readable,
)

W = TypeVar("W")
"""What is run: an agent or a flow."""

W_contra = TypeVar("W_contra", contravariant=True)

_SAID: Final = 1_000
"""So many characters of an error are kept."""


class Start(Protocol[W_contra]):
    """Writes a run into the journal, as `Outlast.start` does."""

    def __call__(
        self,
        who: W_contra,
        given: object,
        /,
        *,
        run_id: str,
        tenant: str,
        tags: dict[str, str],
    ) -> object:
        """Begin a run, or find that it is there."""
        ...


class Firing(Generic[W]):
    """Fires schedules; it keeps what it has read of them.

    Args:
        journal: where they are.
        find: says what a schedule runs, as far as that is known here; of what is `None` the
            occurrences are left to a worker that knows it.
        start: begins a run.

    """

    def __init__(
        self, journal: Journal, find: Callable[[Schedule], W | None], start: Start[W]
    ) -> None:
        self._journal = journal
        self._find = find
        self._start = start
        self._schedules = Schedules()

    def fire(self, now: int) -> int | None:
        """Begin the run of every occurrence that is due, and return when the next one will be.

        A run that cannot be begun is journalled with the error, and not tried again: its schedule
        goes on with its next occurrence.  What is left to other workers, because its agent or its
        time zone is not known here, does not count for the next moment.

        Args:
            now: nanoseconds since the epoch.

        Returns:
            Nanoseconds since the epoch; `None` where there is nothing to wait for until another
            schedule is set.

        Raises:
            StoreError: the store failed; what it did not take is due again.

        """
        self._read()
        elsewhere = set()
        for each in due(readable(self._schedules.of.values()), now):
            name = each.schedule.name
            if self._schedules.of.get(name) != each.schedule:
                continue  # somebody has set or fired it meanwhile
            if not self._begin(each, now):
                elsewhere.add(name)
        here = (one for name, one in self._schedules.of.items() if name not in elsewhere)
        return next_at(readable(here))

    def _begin(self, occurrence: Occurrence, now: int) -> bool:
        """Begin a run, and write that; return whether what it is of is known here."""
        schedule, error = occurrence.schedule, ""
        try:
            if (who := self._find(schedule)) is None:
                return False
            self._start(
                who,
                schedule.input,
                run_id=occurrence.run_id,
                tenant=schedule.tenant,
                tags=dict(schedule.tags),
            )
        except StoreError:
            raise  # it says nothing about the schedule, and nothing could be written now
        except Exception as failed:  # noqa: BLE001  (whatever it is: journalled, and others go on)
            said = f"{type(failed).__name__}: {failed}"
            error = said[:_SAID].encode(errors="replace").decode()
        self._tell(occurrence, error, now)
        return True

    def _tell(self, occurrence: Occurrence, error: str, now: int) -> None:
        """Write that an occurrence was fired, unless somebody else has."""
        name, run_id = occurrence.schedule.name, occurrence.run_id
        fired = ScheduleFired(name=name, at=occurrence.at, run_id=run_id, error=error)
        while self._is_open(occurrence):
            place = self._schedules.seq + 1
            commit = Commit(stream=STREAM, events=(fired,), at=now, expected_seq=place)
            with suppress(Conflict):  # somebody has set or fired one meanwhile
                logs.tell(self._journal.append(commit))
            self._read()

    def _is_open(self, occurrence: Occurrence) -> bool:
        known = self._schedules.of.get(occurrence.schedule.name)
        return known is not None and occurrence.at > (known.last_at or 0)

    def _read(self) -> None:
        records = self._journal.read(STREAM, after=self._schedules.seq)
        self._schedules = fold(records, self._schedules)


def schedules(journal: Journal) -> Schedules:
    """Return the schedules that are set."""
    return fold(journal.read(STREAM), Schedules())


def set_schedule(journal: Journal, event: ScheduleSet, *, at: int) -> Schedule | None:
    """Write a schedule down, or that it is taken away, and return what is set then.

    One that says the same already is left as it is, so that a program may set its schedules
    whenever it starts, and no occurrence is passed over for that.
    """
    while True:
        before = schedules(journal)
        known = before.of.get(event.name)
        if (known is None and not event.cron) or (known is not None and is_as_set(known, event)):
            return known
        commit = Commit(stream=STREAM, events=(event,), at=at, expected_seq=before.seq + 1)
        with suppress(Conflict):  # somebody set one at the same time
            records = journal.append(commit)
            logs.tell(records)
            return fold(records, before).of.get(event.name)
