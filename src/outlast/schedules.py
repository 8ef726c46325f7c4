"""Schedules: agents and flows that are run at the times a cron expression names.

    ScheduleSet, ScheduleFired ──fold──▶ Schedule ──due──▶ Occurrence ──firing──▶ a run

The rules are pure: which moments an expression names, and which of them is to be run now.  An
occurrence is known by its moment, and so is its run; whoever fires it, and however often, it is
one run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, Literal

import msgspec
from msgspec import Raw

from outlast.errors import UsageError
from outlast.events import ScheduleFired, ScheduleSet
from outlast.journal import Record
from outlast.limits import zone

STREAM: Final = "~schedules"

NANO: Final = 1_000_000_000

_LONGEST: Final = 500
"""Characters of the longest expression."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A schedule as it was when it was looked at.

    Attributes:
        name: what it is called.
        cron: the cron expression.
        tz: the time zone whose clock it goes by.
        agent: the name of the agent or flow that it runs.
        kind: `agent` or `flow`.
        code: where that is declared, as `module:attribute`; empty where it is known by its name.
        input: what each run is given, as JSON.
        tenant: for whom the runs are.
        tags: what the runs are found with.
        reason: why it was set.
        by: who set it.
        set_at: when, in nanoseconds since the epoch, UTC.
        last_at: the moment that was fired last, in nanoseconds since the epoch; `None` before.
        last_run_id: the run of that moment.
        last_error: why that run was not begun; empty if it was.

    """

    name: str
    cron: str
    tz: str = "UTC"
    agent: str
    kind: Literal["agent", "flow"] = "agent"
    code: str = ""
    input: Raw
    tenant: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""
    by: str = ""
    set_at: int = 0
    last_at: int | None = None
    last_run_id: str = ""
    last_error: str = ""

    @property
    def counts_from(self) -> int:
        """The moment whose next occurrence is the first that was neither fired nor passed over."""
        return max(self.set_at, self.last_at or 0)

    @property
    def next_at(self) -> int | None:
        """When it is to be fired next, in nanoseconds since the epoch.

        It lies in the past where no worker has been there to fire it, and is `None` where the
        expression names no time of the next fifty years.

        Raises:
            UsageError: this machine does not know its time zone.

        """
        return following(self.cron, self.tz, self.counts_from)


@dataclass(frozen=True)
class Occurrence:
    """A moment at which a schedule is to be run, in nanoseconds since the epoch."""

    schedule: Schedule
    at: int

    @property
    def run_id(self) -> str:
        """The id of its run, such as `digest@2026-11-24T08:00Z`: the same for whoever fires it."""
        moment = datetime.fromtimestamp(self.at // NANO, UTC)
        seconds = f"{moment:%S}" if moment.second else ""
        return f"{self.schedule.name}@{moment:%Y-%m-%dT%H:%M}{seconds and ':' + seconds}Z"


class Schedules(msgspec.Struct, frozen=True):
    """Every schedule that is set, by name."""

    of: Mapping[str, Schedule] = {}
    seq: int = 0
    """How far the stream was read."""


def evolve(schedules: Schedules, record: Record) -> Schedules:
    """Return what `record` makes of the schedules."""
    event, seq = record.event, record.seq
    if isinstance(event, ScheduleSet):
        others = {name: one for name, one in schedules.of.items() if name != event.name}
        if event.cron:
            others[event.name] = _as_set(event, record.at, schedules.of.get(event.name))
        return Schedules(others, seq)
    if isinstance(event, ScheduleFired):
        known = schedules.of.get(event.name)
        if known is not None and event.at > (known.last_at or 0):
            fired = replace(
                known, last_at=event.at, last_run_id=event.run_id, last_error=event.error
            )
            return Schedules({**schedules.of, event.name: fired}, seq)
    return Schedules(schedules.of, seq)


def _as_set(event: ScheduleSet, at: int, before: Schedule | None) -> Schedule:
    fresh = Schedule(
        name=event.name,
        cron=event.cron,
        tz=event.tz,
        agent=event.agent,
        kind=event.kind,
        code=event.code,
        input=event.input,
        tenant=event.tenant,
        tags=event.tags,
        reason=event.reason,
        by=event.by,
        set_at=at,
    )
    if before is None:
        return fresh
    # What a clock that is ahead has fired already is not fired again for having been set again.
    return replace(
        fresh,
        last_at=before.last_at,
        last_run_id=before.last_run_id,
        last_error=before.last_error,
    )


def fold(records: Iterable[Record], schedules: Schedules) -> Schedules:
    """Return what `records` make of the schedules."""
    for record in records:
        schedules = evolve(schedules, record)
    return schedules


def is_as_set(schedule: Schedule, event: ScheduleSet) -> bool:
    """Return whether a schedule says already what is to be set, but for the reason and by whom."""
    said = ("cron", "tz", "agent", "kind", "code", "input", "tenant", "tags")
    return all(getattr(schedule, name) == getattr(event, name) for name in said)


def readable(schedules: Iterable[Schedule]) -> list[Schedule]:
    """Return the schedules whose times can be told here: a machine may not know every zone."""
    found = []
    for one in schedules:
        with suppress(UsageError):
            following(one.cron, one.tz, one.counts_from)
            found.append(one)
    return found


# ── what is due ─────────────────────────────────────────────────────────────────────────────────


def occurrence(schedule: Schedule, now: int) -> Occurrence | None:
    """Return what a schedule is to run at `now`: the latest moment that was not run, if any.

    Earlier ones, missed while nobody was there to fire them, are passed over.
    """
    at = latest(schedule.cron, schedule.tz, schedule.counts_from, now)
    return None if at is None else Occurrence(schedule, at)


def due(schedules: Iterable[Schedule], now: int) -> list[Occurrence]:
    """Return what is to be run at `now`, the earliest moment first."""
    found = (occurrence(one, now) for one in schedules)
    return sorted((one for one in found if one), key=lambda one: (one.at, one.schedule.name))


def next_at(schedules: Iterable[Schedule]) -> int | None:
    """Return the next moment at which any schedule is due; `None` where none ever is.

    It lies in the past where one is due already.
    """
    return min((at for one in schedules if (at := one.next_at) is not None), default=None)


# ── what an expression names ────────────────────────────────────────────────────────────────────


@lru_cache(maxsize=4096)  # asked again whenever a worker looks what comes next
def following(cron: str, tz: str, at: int) -> int | None:
    """Return the first moment after `at` that an expression names; `None` if none is near.

    Raises:
        UsageError: the expression is none, or the zone.

    """
    return next(moments(cron, tz, at), None)


def latest(cron: str, tz: str, after: int, until: int) -> int | None:
    """Return the last moment after `after`, and not after `until`, that an expression names."""
    first = following(cron, tz, after)
    if first is None or first > until:
        return None
    # Looked for from close to the end first, because there may be millions of them in between.
    width = 60 * NANO
    while True:
        found = None
        for found_at in moments(cron, tz, max(after, until - width)):
            if found_at > until:
                break
            found = found_at
        if found is not None:
            return found
        width *= 2


def moments(cron: str, tz: str, after: int) -> Iterator[int]:
    """Yield the moments after `after` that an expression names, in nanoseconds since the epoch.

    It ends where there is none within fifty years of the last.

    Raises:
        UsageError: the expression is none, or the zone.

    """
    from cronsim import CronSim, CronSimError  # noqa: PLC0415  (not needed to import outlast)

    if len(cron) > _LONGEST:
        raise UsageError(_no_cron(cron[:_LONGEST], "it is too long"))
    try:
        times = CronSim(cron, datetime.fromtimestamp(after // NANO, zone(tz)))
    except CronSimError as error:
        raise UsageError(_no_cron(cron, str(error))) from error
    last = after
    for time in times:
        # In the hour that a clock shows twice, it may name a time of the first after one of the
        # second.
        if (at := int(time.timestamp()) * NANO) > last:
            last = at
            yield at


def _no_cron(cron: str, why: str) -> str:
    return (
        f"{cron!r} is no cron expression ({why}); write minute, hour, day of the month, "
        "month and day of the week, such as '0 9 * * MON' for Mondays at nine"
    )
