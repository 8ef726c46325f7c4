"""`Worker`: drives the runs of a store that need it, and forgets those that wait.

    new, woken, called ─┐                 ┌─▶ at rest: completed, stopped, paused, …
    left by the dead ───┼─ rota ─ claim ──┤
    left by the frozen ─┘                 └─▶ parked: back when its time comes, or somebody acts

A thread of its own looks for work, so that no tool can keep it from that.  Twice a second it asks
whether anybody has written at all, which reads no table; only then it looks what is due.  A lock
that ends with its process says at once who has died.  Who is merely frozen holds his locks, so
every worker says from time to time that it moves, by a counter and without a clock: whoever's
counter stands still loses his runs, and is fenced when he wakes up.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from outlast.app import Outlast
from outlast.decide_control import NOBODY
from outlast.durations import nanoseconds
from outlast.errors import (
    Busy,
    Conflict,
    Fenced,
    OutlastError,
    StoreError,
    UsageError,
)
from outlast.events import RunLeft, RunStarted
from outlast.firing import Firing
from outlast.flows import Flow
from outlast.journal import PARKED, RunRow, run_stream
from outlast.rota import Caps, chosen, is_full
from outlast.run import Run
from outlast.schedules import Schedule
from outlast.starting import Who, code_location
from outlast.state import ENDED, fold, owes
from outlast.telling import leave

NS: Final = 1_000_000_000
LOOK_S: Final = 0.5
"""How often is asked whether anybody has written, in seconds."""

PROBE_S: Final = 0.1
"""How often is looked whether those who drive runs elsewhere are alive, in seconds."""

SURELY_S: Final = 0.25
"""How long a lock is free before a driver is taken for dead whose process is there, in seconds."""

GAP_S: Final = 0.02
"""How long after a look the next one is made, at the earliest, in seconds."""

KEPT_S: Final = 3.0
"""How long a lock is held that nobody claimed before it counts as one of the frozen, in seconds."""

RETRY_S: Final = 60.0
"""When a run is tried again that could not be driven, if nothing changed, in seconds."""

AGAIN_S: Final = 1.0
"""When a run is tried again that was parked though one below it is to be driven, in seconds."""

LEFT_S: Final = 3.0
"""How long a run is left to other workers that may know it, before that is said, in seconds."""

PATIENCE_S: Final = 8.0
"""How long what is given up may take to end, in seconds."""

LIMIT: Final = 100
"""How many runs of each tenant are looked at, for one to drive."""

MOST: Final = 100_000
"""How many runs of each tenant are looked at, at the most, where its oldest have no room."""

_MOST_TENANTS: Final = 10_000
"""Of how many tenants is kept when they had a turn."""

_CANNOT: Final = "cannot be driven:"

# ruff: noqa: SLF001  (what a worker needs of its application is nobody else's)

_LOG: Final = logging.getLogger("outlast.worker")


class Known:
    """What a worker can drive: agents and flows, by where they are declared and by their names."""

    def __init__(self, known: Iterable[Who]) -> None:
        self._by_code: dict[str, Who] = {}
        self._by_name: dict[tuple[bool, str], list[Who]] = {}
        for who in known:
            if code := code_location(who):
                self._by_code[code] = who
            named = self._by_name.setdefault((isinstance(who, Flow), who.name), [])
            if who not in named:
                named.append(who)

    def __len__(self) -> int:
        return sum(map(len, self._by_name.values()))

    def names(self) -> list[str]:
        """Return the names, sorted."""
        return sorted(name for _, name in self._by_name)

    def find(self, code: str, kind: str, name: str) -> Who | None:
        """Return what is declared there, or is the only one of its name; `None` if there is none.

        What a run was started with may have moved since, so its name is enough.
        """
        found = self._by_code.get(code)
        if found is not None and found.name == name and isinstance(found, Flow) == (kind == "flow"):
            return found
        named = self._by_name.get((kind == "flow", name), [])
        return named[0] if len(named) == 1 else None


class _Driven(msgspec.Struct):
    """A run at work here."""

    row: RunRow
    future: Future[Run | None]


class _Seen(msgspec.Struct, frozen=True):
    """What was last seen of a run that somebody else drives, and when that began."""

    sign: tuple[str, int, int]
    since: float


class Worker:
    """Drives every run of a store that needs it and whose agent or flow it knows.

        worker = outlast.Worker(app, [researcher, proposal], at_once=50)
        worker.run()                      # until `stop` is called, from any thread

    It drives new runs, those whose time has come or that somebody answered, and those that a dead
    or frozen driver left; it fires schedules.  A run whose code it does not know it leaves to
    others, and says so in the run's `why`.  Any number of workers may share a store.

    Args:
        app: the application whose runs these are.
        known: the agents and flows that it can drive.
        at_once: how many runs are driven at the same time, default 32.
        each_agent: how many of each agent or flow, by default any number.
        each_tenant: how many of each tenant, by default any number.
        agents: how many of certain agents, by name.
        tenants: how many of certain tenants, by name.
        lease: after how long without a sign of life others take over the runs of a worker that is
            frozen; as for `Run.sleep`, default 15 seconds.  Of one that is dead they do at once.
        grace: how long runs have to come to a rest when the worker stops, default 30 seconds.
        on_change: told of every run that was begun here and that came to a rest, by its row and
            the run, which is `None` at its begin; on the worker's threads.

    Raises:
        UsageError: there is nothing that it could drive, or a number is none.

    """

    def __init__(  # noqa: PLR0913  (all but two are keywords with defaults)
        self,
        app: Outlast,
        known: Iterable[Who],
        *,
        at_once: int = 32,
        each_agent: int | None = None,
        each_tenant: int | None = None,
        agents: Mapping[str, int] | None = None,
        tenants: Mapping[str, int] | None = None,
        lease: float | str = 15.0,
        grace: float | str = 30.0,
        on_change: Callable[[RunRow, Run | None], None] | None = None,
    ) -> None:
        self.known = Known(known)
        if not self.known:
            raise UsageError("a worker without an agent or a flow drives nothing; give some")
        self.caps = Caps(
            at_once=at_once,
            each_agent=each_agent,
            each_tenant=each_tenant,
            agents=dict(agents or {}),
            tenants=dict(tenants or {}),
        )
        _check_caps(self.caps)
        self.id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._app = app
        self._journal = app.journal
        self._lease_s = nanoseconds(lease) / NS
        self._grace_s = nanoseconds(grace) / NS
        if self._lease_s < 3 * PROBE_S:
            raise UsageError(f"lease={lease!r}: give at least {3 * PROBE_S:g} s")
        self._told = on_change
        self._clock: Callable[[], int] = time.time_ns
        self._driven: dict[str, _Driven] = {}
        self._others: dict[str, RunRow] = {}
        """The runs that others drive, or have left, by stream."""
        self._turn = 0
        self._turns: dict[str, int] = {}
        """When each tenant had its last turn, the longest ago first."""
        self._left: dict[str, tuple[int, float]] = {}
        """The runs that could not be driven: at what seq, and when they are tried again."""
        self._unknown: dict[str, float] = {}
        """Since when a run waits here whose code is not known."""
        self._forced: set[str] = set()
        """The runs at work here that were taken from the frozen, who may have their locks yet."""
        self._unheld: dict[str, float] = {}
        """Since when nobody has the lock of a run whose driver may be alive."""
        self._kept: dict[str, tuple[int, float]] = {}
        """The locks that others hold without a claim: at what seq of the run, and since when."""
        self._claimed: dict[str, int] = {}
        """The runs that others have claimed and written nothing into yet: at what seq."""
        self._seen: dict[str, _Seen] = {}
        self._changes = -1
        self._looked_at = self._beat_at = self._leases_at = float("-inf")
        self._wake_at: int | None = None
        self._leased = False
        self._stale: set[str] = set()
        self._event = threading.Event()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._firing: Firing[Who] = Firing(self._journal, self._scheduled, app.start)
        self._fires_at: int | None = None
        self._settled_at = -1
        """How many nudges there had been when a look found nothing to drive; -1 for none."""
        self._nudges = 0

    # ── from outside ────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Begin to work, in threads of its own."""
        if self._thread is not None:
            raise UsageError("this worker was started before; make another one")
        self._app._employ(self)
        self._thread = threading.Thread(target=self._serve, name="outlast-worker", daemon=True)
        self._thread.start()

    def end(self, *, now: bool = False) -> None:
        """Let `run` return soon; with `now` at once.  From a handler of a signal, too."""
        if now:
            self._grace_s = 0.0
        self._stopping.set()
        self._event.set()

    def stop(self, *, now: bool = False) -> None:
        """Stop, and return once that is done.  From any thread but the worker's own.

        Nothing more is begun; what is in flight has its outcome, for as long as `grace`, and the
        runs are parked for the next worker.  With `now`, or what is left then, is given up: calls
        of Claude are in doubt, and counted in full.
        """
        self.end(now=now)
        if self._thread is not None:
            self._thread.join(PATIENCE_S)
            self._drain()

    def run(self, *, until_idle: bool = False) -> None:
        """Work until `stop` is called, or, with `until_idle`, until there is nothing to drive."""
        self.start()
        try:
            while not self._stopping.wait(0.05 if until_idle else None):
                if self.is_idle():
                    break
        finally:
            self.stop()

    def is_idle(self) -> bool:
        """Return whether nothing is driven here, and nothing was found to be, at the last look."""
        with self._lock:
            return self._settled_at == self._nudges and not self._driven

    def driven(self) -> list[RunRow]:
        """Return the runs at work here, as they were when they were begun with."""
        with self._lock:
            return [one.row for one in self._driven.values()]

    @property
    def wake_at(self) -> int | None:
        """When the next parked run is to go on, in nanoseconds since the epoch; `None` for none."""
        return self._wake_at

    def nudge(self) -> None:
        """Look for work at once.  From any thread."""
        with self._lock:
            self._call()
        self._event.set()

    def _call(self) -> None:
        self._looked_at = min(self._looked_at, time.monotonic() - LOOK_S)
        self._changes = -1
        self._nudges += 1

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # ── the thread ──────────────────────────────────────────────────────────────────────────────

    def _serve(self) -> None:
        trouble = ""
        while not self._stopping.is_set():
            try:
                wait_s = self.step(time.monotonic())
                trouble = ""
            except Exception as error:  # noqa: BLE001  (whatever it is: nobody else would look)
                said = f"{type(error).__name__}: {error}"
                if said != trouble:
                    trouble = said
                    _LOG.error("the worker cannot look for work, and tries again: %s", said)
                wait_s = 1.0
            self._event.wait(wait_s)
            self._event.clear()

    def step(self, moment: float) -> float:
        """Do what is to be done at a moment of the monotonic clock; return how long to wait."""
        now = self._clock()
        self._beat(moment)
        self._hold()
        if self._is_to_look(moment, now):
            self._look(moment, now)
        elif self._others:
            self._begin(self._abandoned(moment), moment)
        soonest = min((at for at in (self._wake_at, self._fires_at) if at), default=None)
        wait_s = PROBE_S if self._others or self._forced else LOOK_S
        return wait_s if soonest is None else min(wait_s, max(GAP_S, (soonest - now) / NS))

    def _is_to_look(self, moment: float, now: int) -> bool:
        if moment - self._looked_at < GAP_S:
            return False
        timed = any(at is not None and at <= now for at in (self._wake_at, self._fires_at))
        again = any(at <= moment for _, at in [*self._left.values()])
        if timed or again or (self._unknown and moment - self._looked_at >= LEFT_S):
            return True
        if moment - self._looked_at < LOOK_S - GAP_S:
            return False
        changes = self._journal.changes()
        if changes == self._changes:
            return False
        self._changes = changes
        return True

    def _look(self, moment: float, now: int) -> None:
        """Find what is to be driven, and begin with as much of it as there is room for."""
        self._looked_at = moment
        nudges = self._nudges
        self._fires_at = self._firing.fire(now)
        running = self._journal.running()
        with self._lock:
            mine = set(self._driven)
        due = self._due(now) if len(mine) < self.caps.at_once else []
        claimed = [row for row in due if self._claimed.get(row.id) == row.next_seq]
        self._claimed = {row.id: row.next_seq for row in claimed}
        self._others = {
            run_stream(row.id): row for row in (*running, *claimed) if row.id not in mine
        }
        self._forget(moment)
        found = self._abandoned(moment)
        found += [row for row in due if row.id not in self._claimed]
        here = {row.id for row in found}
        self._unknown = {name: at for name, at in self._unknown.items() if name in here}
        self._wake_at = self._journal.next_wake(now)
        begun = self._begin(found, moment)
        self._settled_at = -1 if begun or self._unknown else nudges
        if begun:
            self._changes = -1  # perhaps there are more of them

    def _due(self, now: int) -> list[RunRow]:
        """Return what is due; where caps may pass over many, as many as it takes to find others."""
        driven = self.driven()
        passed = len(self._left) + len(self._unknown) + len(self._claimed)
        many = 10 if is_full(driven, self.caps) else 1
        while True:
            limit = LIMIT * many + passed
            due = self._journal.due(now, limit=limit)
            most = max(Counter(row.tenant for row in due).values(), default=0)
            begun = [*driven, *chosen(due, driven, self.caps)]
            if most < limit or len(begun) >= self.caps.at_once or many >= MOST // LIMIT:
                return due
            many *= 10

    def _forget(self, moment: float) -> None:
        """Forget what is known of runs that others have gone on with."""
        self._seen = {stream: seen for stream, seen in self._seen.items() if stream in self._others}
        self._kept = {
            stream: (seq, since)
            for stream, (seq, since) in self._kept.items()
            if moment - since < 2 * KEPT_S + LEFT_S
        }
        for name, left in [*self._left.items()]:
            if left[1] <= moment:
                self._left.pop(name, None)

    # ── who has died, and who is frozen ─────────────────────────────────────────────────────────

    def _abandoned(self, moment: float) -> list[RunRow]:
        """Return the runs that nobody drives any more though their journal does not say so."""
        self._stale = self._silent(moment)
        free = self._free(moment) | self._stale
        left = (self._journal.run(row.id) for name, row in self._others.items() if name in free)
        # Who let go of a run may have done so because it is over.
        return [
            row
            for row in left
            if row is not None
            and (row.status == "running" or self._claimed.get(row.id) == row.next_seq)
        ]

    def _free(self, moment: float) -> set[str]:
        """Return the streams that nobody drives: at once where the last driver is dead.

        Who took a run by force has no lock of it until the frozen one lets go, and then he takes
        it: so of one who may be alive the lock has to be free for a while.
        """
        unheld = set(self._journal.unheld(self._others))
        self._unheld = {name: self._unheld.get(name, moment) for name in unheld}
        return {
            name
            for name, since in self._unheld.items()
            if moment - since >= SURELY_S or self._journal.abandoned(name)
        }

    def _silent(self, moment: float) -> set[str]:
        """Return the streams of workers who have not moved for as long as a lease is."""
        if not self._others or moment - self._leases_at < self._lease_s / 5:
            return self._stale & self._others.keys()
        if moment - self._leases_at >= self._lease_s / 2:
            self._seen = {}  # nobody has watched since, perhaps as this process was frozen itself
        self._leases_at = moment
        leases = {lease.stream: lease for lease in self._journal.leases()}
        found = set()
        for stream, row in self._others.items():
            lease = leases.get(stream)
            if lease is None or lease.worker == self.id:
                continue  # no worker has it, so only its lock tells
            sign = (lease.worker, lease.beats, row.next_seq)
            seen = self._seen.get(stream)
            if seen is None or seen.sign != sign:
                self._seen[stream] = _Seen(sign, moment)
            elif moment - seen.since >= self._lease_s:
                found.add(stream)
        return found

    def _beat(self, moment: float) -> None:
        """Say that this worker moves, where it drives anything."""
        if moment - self._beat_at < self._lease_s / 3:
            return
        streams = [run_stream(row.id) for row in self.driven()]
        if streams or self._leased:
            self._journal.beat(self.id, streams)
        self._beat_at, self._leased = moment, bool(streams)

    def _say_so(self) -> None:
        """Say that this worker moves, as far as the store lets it."""
        try:
            self._beat(time.monotonic())
            self._hold()
        except StoreError as error:
            _LOG.warning("worker %s cannot renew its leases: %s", self.id, error)

    def _hold(self) -> None:
        """Take the locks of runs that were taken by force, once whoever had them is gone."""
        if self._forced:
            with self._lock:
                self._forced &= {run_stream(name) for name in self._driven}
            self._journal.unheld([*self._forced])

    # ── driving ─────────────────────────────────────────────────────────────────────────────────

    def _begin(self, found: Iterable[RunRow], moment: float) -> bool:
        """Begin with runs, as far as there is room; return whether there were any."""
        fit = [row for row in found if row.id not in self._driven and not self._is_left(row)]
        whose: dict[str, Who] = {}
        while True:
            rows = chosen(fit, self.driven(), self.caps, self._turns)
            for row in rows:
                if row.id not in whose and (who := self._readable(row, moment)) is not None:
                    whose[row.id] = who
            # Who cannot be driven here must not take the turn of somebody who can.
            passed = ({row.id for row in rows} - whose.keys()) | self._held(rows, moment)
            if not passed:
                break
            fit = [row for row in fit if row.id not in passed]
        if not rows or self._stopping.is_set():
            return False
        self._leased = True
        for row in rows:
            self._begin_with(row, whose[row.id])
        return True

    def _held(self, rows: Iterable[RunRow], moment: float) -> set[str]:
        """Return which of these runs others have claimed, and watch those from now on.

        Where whoever claimed a run last has let go of it, the lock may be of one that it was taken
        from, who is frozen: it is taken from him again.  It may as well be of one who is about to
        claim it, since the lock comes first, so it has to be held like that for a while.
        """
        by_stream = {run_stream(row.id): row for row in rows}
        locked = by_stream.keys() - set(self._journal.unheld(by_stream)) - self._stale
        kept = {stream for stream in locked if self._journal.abandoned(stream)}
        surely = {stream for stream in kept if self._is_kept(stream, by_stream[stream], moment)}
        self._stale |= surely
        for stream in locked - kept:
            row = self._others[stream] = by_stream[stream]
            self._claimed[row.id] = row.next_seq
        return {by_stream[stream].id for stream in locked - surely}

    def _is_kept(self, stream: str, row: RunRow, moment: float) -> bool:
        """Return whether a lock that nobody claimed has been held for long; else look again."""
        seq, since = self._kept.get(stream, (0, moment))
        if seq != row.next_seq:
            seq, since = row.next_seq, moment
        if moment - since >= KEPT_S:
            self._kept.pop(stream, None)
            return True
        self._kept[stream] = (seq, since)
        self._left[row.id] = (row.next_seq, since + KEPT_S)
        return False

    def _begin_with(self, row: RunRow, who: Who) -> None:
        stream = run_stream(row.id)
        self._take_turn(row.tenant)
        force = stream in self._stale
        if force:
            self._forced.add(stream)
        self._others.pop(stream, None)
        self._claimed.pop(row.id, None)
        self._tell(row, None)
        with self._lock:
            future = self._app._begin_work(self._drive(row, who, force=force))
            self._driven[row.id] = _Driven(row, future)
        future.add_done_callback(lambda done: self._rests(row, done))

    def _take_turn(self, tenant: str) -> None:
        self._turn += 1
        self._turns.pop(tenant, None)
        self._turns[tenant] = self._turn
        if len(self._turns) > _MOST_TENANTS:
            del self._turns[next(iter(self._turns))]  # the longest ago, which is as good as never

    def _is_left(self, row: RunRow) -> bool:
        """Return whether nothing has happened to a run that could not be driven."""
        left = self._left.get(row.id)
        if left is None or left[0] == row.next_seq:
            return left is not None
        news = self._journal.read(run_stream(row.id), after=left[0] - 1)
        if not all(isinstance(record.event, RunLeft) for record in news):
            return False
        self._left[row.id] = (row.next_seq, left[1])  # another worker cannot drive it, either
        return True

    def _readable(self, row: RunRow, moment: float) -> Who | None:
        """Return what a run is of, or `None`; of one that cannot even be read, too."""
        try:
            return self._found(row, moment)
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001  (whatever it is, other runs go on)
            _LOG.error("run %s cannot be driven: %s", row.id, error)
            self._left[row.id] = (row.next_seq, moment + RETRY_S)
            return None

    def _found(self, row: RunRow, moment: float) -> Who | None:
        """Return what a run is of, where that is known here; elsewise leave it to others."""
        (record,) = self._journal.read(run_stream(row.id), limit=1)
        started = record.event
        assert isinstance(started, RunStarted), f"{row.id} does not begin"  # noqa: S101
        who = self.known.find(started.code, started.kind, started.agent)
        if who is not None:
            self._unknown.pop(row.id, None)
            return who
        state = fold(self._journal.read(run_stream(row.id)))
        if state.control.cancelled and not owes(state):
            return NOBODY  # to end a run, its code is not needed
        since = self._unknown.setdefault(row.id, moment)
        if moment - since >= LEFT_S:
            del self._unknown[row.id]
            module = started.code.partition(":")[0] or "MODULE"
            what = started.code or f"the {started.kind} {started.agent!r}"
            why = f"no worker has {what}; start one that does: outlast worker {module}"
            # Who has the code, and fails with it, knows better.
            self._leave(row, row.why if row.why.startswith(_CANNOT) else why, moment)
        return None

    def _leave(self, row: RunRow, why: str, moment: float) -> None:
        """Leave a run to others, saying why, until something happens to it."""
        leave(self._journal, row.id, why)
        now = self._journal.run(row.id)
        if now is not None:
            self._left[row.id] = (now.next_seq, moment + RETRY_S)

    async def _drive(self, row: RunRow, who: Who, *, force: bool) -> Run | None:
        try:
            if who is NOBODY:
                run = await self._app._end_told(row.id, force=force)
            else:
                run = await self._app._worked(row.id, who, force=force, worker=self.id)
        except (Busy, Conflict, Fenced):
            return None  # somebody else drives it
        except StoreError as error:
            _LOG.error("run %s: the store failed, and it is tried again: %s", row.id, error)
            self._left[row.id] = (row.next_seq, time.monotonic() + 5)
            return None
        except Exception as error:  # noqa: BLE001  (whatever it is, other runs go on)
            _LOG.error("run %s cannot be driven: %s", row.id, error)
            why = f"{_CANNOT} {type(error).__name__}: {error}"
            moment = time.monotonic()
            self._left[row.id] = (row.next_seq, moment + RETRY_S)
            try:
                await asyncio.to_thread(self._leave, row, why, moment)
            except OutlastError as unsaid:
                _LOG.error("run %s: that cannot be written into its journal: %s", row.id, unsaid)
            return None
        if run.status not in ENDED:
            self._without_progress(row)
        return run

    def _without_progress(self, row: RunRow) -> None:
        """See that a run is not gone on with again and again without coming any further."""
        now = self._journal.run(row.id)
        if now is None:
            return
        below = self._journal.below(row.id) if now.status in PARKED else ()
        if now.next_seq == row.next_seq and self._journal.unheld([run_stream(row.id)]):
            # What a parked run waits for may happen below it, where its own journal does not tell.
            wait_s = AGAIN_S if now.status in PARKED else RETRY_S
            self._left[row.id] = (row.next_seq, time.monotonic() + wait_s)
        elif now.next_seq == row.next_seq:
            self._claimed[row.id] = row.next_seq
        elif any(one.is_due(self._clock()) for one in below):
            self._left[row.id] = (now.next_seq, time.monotonic() + AGAIN_S)

    def _rests(self, row: RunRow, future: Future[Run | None]) -> None:
        with self._lock:
            self._driven.pop(row.id, None)
            self._call()  # what was found before this run came to a rest is not the last word
        self._event.set()
        if not future.cancelled() and future.exception() is None:
            run = future.result()
            if run is not None:
                self._tell(row, run)

    def _tell(self, row: RunRow, run: Run | None) -> None:
        if self._told is None:
            return
        try:
            self._told(row, run)
        except Exception:  # noqa: BLE001  (told, and the run goes on)
            _LOG.exception("on_change failed at run %s; the run is not touched by that", row.id)

    def _drain(self) -> None:
        """Let what is driven come to a rest, and give up what does not."""
        self._app._drain()
        began = time.monotonic()
        while self.driven() and time.monotonic() < began + self._grace_s:
            self._say_so()  # or others would take what is about to rest
            time.sleep(0.02)
        with self._lock:
            left = [one.future for one in self._driven.values()]
        for future in left:
            future.cancel()
        began = time.monotonic()
        while self.driven() and time.monotonic() < began + PATIENCE_S:
            time.sleep(0.02)
        self._app._dismiss()
        if self._leased:
            self._leased = False
            try:
                self._journal.beat(self.id, ())
            except StoreError as error:
                _LOG.warning("the leases of worker %s could not be let go: %s", self.id, error)

    def _scheduled(self, schedule: Schedule) -> Who | None:
        return self.known.find(schedule.code, schedule.kind, schedule.agent)


def _check_caps(caps: Caps) -> None:
    named: dict[str, Any] = {
        "at_once": caps.at_once,
        "each_agent": caps.each_agent,
        "each_tenant": caps.each_tenant,
        **{f"agents[{name!r}]": most for name, most in caps.agents.items()},
        **{f"tenants[{name!r}]": most for name, most in caps.tenants.items()},
    }
    for name, most in named.items():
        if most is None and name != "at_once":
            continue
        if isinstance(most, bool) or not isinstance(most, int) or most < 1:
            raise UsageError(f"{name}={most!r}: give a whole number of at least 1")
