"""`outlast worker`: drive the runs of a store until told to stop."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from types import FrameType, ModuleType
from typing import Any, Final

from outlast.agent import Agent
from outlast.app import Outlast
from outlast.cli import exits, shapes, words
from outlast.cli.agents import app_of, declared_at, here, imported, store_of
from outlast.cli.aside import alone, out
from outlast.cli.inputs import input_of
from outlast.cli.options import DEFAULT_STORE
from outlast.cli.run import check_key
from outlast.cli.screen import Screen, screen
from outlast.cli.stores import opened, row_of
from outlast.cli.words import Part
from outlast.errors import UsageError
from outlast.flows import Flow
from outlast.journal import RunRow
from outlast.run import Run
from outlast.starting import Who
from outlast.state import ENDED
from outlast.worker import Worker

_MARKS: Final = {
    "completed": ("✓", "good"),
    "failed": ("✗", "bad"),
    "rejected": ("✗", "bad"),
    "stopped": ("■", "doubt"),
    "cancelled": ("■", "doubt"),
    "parked": ("◷", "live"),
    "waiting": ("☞", "strong"),
    "paused": ("‖", "doubt"),
}
"""How a run that came to a rest is marked."""


@alone
def work(  # noqa: PLR0913  (the options of a command)
    store: str,
    modules: Sequence[str],
    *,
    at_once: int,
    caps: Sequence[str],
    per_agent: int | None,
    per_tenant: int | None,
    lease_s: float,
    grace_s: float,
    until_idle: bool,
    as_json: bool,
) -> int:
    """Drive runs until SIGTERM or Ctrl-C, or until there is nothing to drive; return the code."""
    here()
    known, declared = _declared(modules)
    if declared is None:
        check_key()
    app = declared or Outlast(store)
    agents, tenants = _caps(caps)
    if unknown := sorted(agents.keys() - {who.name for who in known}):
        told = ", ".join(sorted({who.name for who in known}))
        raise UsageError(f"--cap agent:{unknown[0]}=…: this worker knows {told}")
    if declared is not None and store not in (DEFAULT_STORE, declared.journal.url):
        raise UsageError(
            f"the Outlast of {', '.join(modules)} is on {declared.journal.url}, not on {store}; "
            "leave --store and OUTLAST_STORE out, or take the Outlast out of the module"
        )
    teller = _Teller(as_json=as_json)
    with app:
        worker = Worker(
            app,
            known,
            at_once=at_once,
            each_agent=per_agent,
            each_tenant=per_tenant,
            agents=agents,
            tenants=tenants,
            lease=lease_s,
            grace=grace_s,
            on_change=teller.tell,
        )
        teller.begin(worker, app)

        def end(now: bool) -> None:  # noqa: FBT001  (how it is called)
            worker.end(now=now)
            teller.stopping(worker)

        with _stopped_by_signals(end):
            worker.run(until_idle=until_idle)
        teller.end(worker)
    return exits.DONE


@alone
def start_run(  # noqa: PLR0913  (the options of a command)
    store: str,
    location: str,
    typed: str | None,
    *,
    attached: Sequence[str],
    run_id: str | None,
    tenant: str,
    run_at: str | None,
    as_json: bool,
) -> int:
    """Write a run into the store for a worker, and return the exit code."""
    who = declared_at(location)
    given = input_of(who, typed, attached)
    begins = None if run_at is None else _time(run_at)
    with opened(store_of(who, store), create=True) as journal:
        app = app_of(who, journal)
        run = app.start(who, given, run_id=run_id, tenant=tenant, run_at=begins)
        row = row_of(journal, run.id)
    if as_json:
        out().write(shapes.encode(shapes.run_shape(row)).decode() + "\n")
        return exits.DONE
    on = screen()
    when = f": {run.why}" if run.why else ", until a worker drives it"
    if run.status in ENDED:
        on.line((run.id, "strong"), (f" is {run.status} already, and is not run again.", ""))
        on.line((f"Next: outlast show {run.id}", "quiet"))
        return exits.DONE
    on.line((run.id, "strong"), (f" is {run.status}{when}.", ""))
    on.line((f"Next: outlast worker {location.partition(':')[0]}", "quiet"))
    return exits.DONE


def _time(text: str) -> datetime:
    """Return a time as it was typed; without a zone it is that of this machine."""
    try:
        return datetime.fromisoformat(text.strip()).astimezone()
    except ValueError as error:
        raise UsageError(
            f"--at {text!r} is no time; write 2026-12-24T18:00, or with a zone "
            "2026-12-24T18:00+01:00"
        ) from error


def _declared(modules: Sequence[str]) -> tuple[list[Who], Outlast | None]:
    """Return the agents and flows of modules, and the application among them, if there is one."""
    known: list[Who] = []
    apps: dict[int, tuple[str, Outlast]] = {}
    for location in modules:
        name, _, attribute = location.partition(":")
        module = imported(name, location)
        found = _named(module, location, attribute) if attribute else None
        if isinstance(found, Outlast):
            apps = {id(found): (location, found)}
        elif found is not None:
            known.append(found)
            continue
        else:
            theirs = {key: one for key, one in vars(module).items() if isinstance(one, Outlast)}
            apps.update({id(one): (f"{name}:{key}", one) for key, one in theirs.items()})
        known += [one for one in vars(module).values() if isinstance(one, Agent | Flow)]
    if len(apps) > 1:
        told = ", ".join(where for where, _ in apps.values())
        raise UsageError(f"a worker is of one application, and there are several: {told}; name one")
    if not known:
        raise UsageError(
            f"{', '.join(modules)} declare no agent and no flow: write one with outlast.Agent(…) "
            "or @outlast.flow at their top level"
        )
    return known, next((app for _, app in apps.values()), None)


def _named(module: ModuleType, location: str, attribute: str) -> Who | Outlast:
    found = getattr(module, attribute, None)
    if isinstance(found, Outlast | Agent | Flow):
        return found
    what = f"of type {type(found).__name__}" if hasattr(module, attribute) else "not there"
    raise UsageError(f"{location!r} is no Outlast, no agent and no flow, but {what}")


def _caps(given: Sequence[str]) -> tuple[dict[str, int], dict[str, int]]:
    """Return how many runs of each agent and of each tenant, from `agent:NAME=N`."""
    found: dict[str, dict[str, int]] = {"agent": {}, "tenant": {}}
    for text in given:
        scope, equals, number = text.rpartition("=")
        kind, colon, name = scope.partition(":")
        if not (equals and colon and name and kind in found and number.isdecimal() and int(number)):
            raise UsageError(f"--cap {text!r}: write agent:NAME=N or tenant:NAME=N, with N above 0")
        found[kind][name] = int(number)
    return found["agent"], found["tenant"]


@contextmanager
def _stopped_by_signals(end: Callable[[bool], object]) -> Iterator[None]:
    """Let SIGTERM and Ctrl-C `end` a worker; a second one at once."""
    came: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        came.append(number)
        # In a thread: the handler may interrupt whoever holds the lock that it would wait for.
        threading.Thread(target=end, args=(len(came) > 1,), daemon=True).start()

    numbers = (signal.SIGTERM, signal.SIGINT)
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = [signal.signal(number, stop) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


class _Teller:
    """Tells of a worker: lines for people, or an object a line for programs."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._on: Screen | None = None if as_json else screen()
        self._warnings = _Warnings(self)
        self._ends: Counter[str] = Counter()
        self._lock = threading.Lock()

    def begin(self, worker: Worker, app: Outlast) -> None:
        logging.getLogger("outlast.worker").addHandler(self._warnings)
        store, names = app.journal.url, worker.known.names()
        if self._on is None:
            self._write({"type": "worker_started", "worker": worker.id, "store": store})
            return
        self._on.line(("Driving the runs of ", ""), (store, "strong"), (" until Ctrl-C.", ""))
        self._on.line((f"It knows {', '.join(names)}.", "quiet"))
        self._on.live(lambda: self._now(worker))

    def tell(self, row: RunRow, run: Run | None) -> None:
        with self._lock:
            if self._on is None:
                begun = {"type": "run_begun", "id": row.id}
                self._write(begun if run is None else {"type": "run_rests", **_short(run)})
            elif run is not None:
                self._ends[run.status] += 1
                mark, tone = _MARKS.get(run.status, ("·", "quiet"))
                why = f": {words.line(run.why, 160)}" if run.why else ""
                self._on.line(
                    (f"{mark} ", tone),
                    (run.id, "strong"),
                    (f" {run.status}{why}", ""),
                    right=[(words.money(run.cost_nano), "money")],
                )

    def stopping(self, worker: Worker) -> None:
        with self._lock:
            if self._on is None:
                self._write({"type": "worker_stopping", "worker": worker.id})
                return
            left = words.count(len(worker.driven()), "run")
            self._on.line((f"Stopping: {left} at work. Once more gives them up.", "doubt"))

    def warn(self, told: str) -> None:
        with self._lock:
            if self._on is None:
                self._write({"type": "warning", "message": told})
            else:
                self._on.line(("! ", "doubt"), (words.line(told, 400), ""))

    def end(self, worker: Worker) -> None:
        logging.getLogger("outlast.worker").removeHandler(self._warnings)
        if self._on is None:
            self._write({"type": "worker_ended", "worker": worker.id})
            return
        self._on.live(None)
        counted = ", ".join(f"{n} {status}" for status, n in sorted(self._ends.items()))
        self._on.line((f"The worker has ended{f': {counted}' if counted else ''}.", ""))
        self._on.line(("Next: outlast runs", "quiet"))

    def _now(self, worker: Worker) -> list[Part]:
        driven, wakes = len(worker.driven()), worker.wake_at
        left = None if wakes is None else words.duration(max(0, wakes - time.time_ns()))
        return [
            (words.count(driven, "run") + " at work", "live" if driven else ""),
            ("" if left is None else f" · the next wakes in {left}", "quiet"),
        ]

    @staticmethod
    def _write(shape: dict[str, Any]) -> None:
        out().write(shapes.encode(shape).decode() + "\n")
        out().flush()


class _Warnings(logging.Handler):
    """Shows what a worker logs of itself, such as a store that fails."""

    def __init__(self, teller: _Teller) -> None:
        super().__init__(logging.WARNING)
        self._teller = teller

    def emit(self, record: logging.LogRecord) -> None:
        self._teller.warn(record.getMessage())


def _short(run: Run) -> dict[str, Any]:
    return {"id": run.id, "status": run.status, "why": run.why, "cost_nano": run.cost_nano}
