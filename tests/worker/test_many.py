"""Ten thousand runs are parked in one store, and cost nothing until their time has come."""

from __future__ import annotations

import gc
import shutil
import time
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import apsw
import pytest
from msgspec import Raw
from worked import BEGAN, WORLD, Clock, app_at, live, naps, once, settle, store_at, until

import outlast
from conftest import SOAK
from flow_stubs import NS
from outlast.events import RunParked, RunWoken
from outlast.hosting import Host
from outlast.starting import begin
from outlast.worker import GAP_S, Worker

MANY = 10_000
SOON = MANY if SOAK else 1_000
"""How many of them wake within the minutes that are played."""

LATE_S = 2 * GAP_S
"""How late a run may wake: by how soon after a look the next one may be."""


def due(n: int) -> int:
    """Return when a run is due, in nanoseconds: some together, some close together, most apart."""
    if n >= SOON:
        return BEGAN + 86_400 * NS * (1 + n % 300)
    return BEGAN + (600_000 if n % 4 == 0 else 60_000 + n * 7_300 % 1_100_000) * 1_000_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    WORLD.clear()
    return Clock(monkeypatch)


@pytest.fixture(scope="module")
def parked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of ten thousand parked runs."""
    path = tmp_path_factory.mktemp("many") / "runs.db"
    with pytest.MonkeyPatch.context() as patch:
        Clock(patch)
        with app_at(store_at(path)) as app:
            for n in range(MANY):
                begin(app.journal, f"r{n}", once, Raw(b'"%d"' % n), run_at=due(n))
    return path


@pytest.fixture
def path(parked: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(parked, tmp_path / "runs.db"))


class Asked:
    """Counts what every connection that is opened from now on asks of SQLite."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.queries: list[str] = []
        patch.setattr(apsw, "connection_hooks", [*apsw.connection_hooks, self._listen])

    def _listen(self, connection: apsw.Connection) -> None:
        connection.trace_v2(apsw.SQLITE_TRACE_STMT, self._hear)

    def _hear(self, event: dict[str, Any]) -> None:
        if event["sql"] not in ("BEGIN", "COMMIT") and not event["trigger"]:
            self.queries.append(event["sql"])


def test_an_idle_worker_asks_twice_a_second(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside ten thousand parked runs, a worker makes two cheap queries a second, and no more."""
    asked = Asked(monkeypatch)
    with app_at(store_at(path)) as app:
        worker = Worker(app, [once])
        settle(worker, clock)
        assert asked.queries, "nothing is counted"
        assert worker.wake_at == min(map(due, range(MANY)))
        asked.queries.clear()
        steps = live(worker, clock, 50)
        assert steps <= 2 * 50 + 1
        assert len(asked.queries) <= 2 * 50 + 1
        assert set(asked.queries) == {'pragma "data_version"'}
        assert not WORLD.acts


def test_every_run_wakes_on_time(path: Path, clock: Clock) -> None:
    """Each wakes once, at its time and not before, also a quarter at once, and after restarts."""
    lives = 3
    for _ in range(lives):
        with app_at(store_at(path)) as app:
            worker = Worker(app, [once], at_once=32)
            live(worker, clock, 1_200 / lives)
    assert set(WORLD.counted().values()) == {1}
    woken = {int(what): at for what, at in WORLD.acts}
    assert sorted(woken) == [n for n in range(MANY) if due(n) < BEGAN + 1_200 * NS]
    late = {n: at - due(n) for n, at in woken.items()}
    assert min(late.values()) >= 0
    assert max(late.values()) <= LATE_S * NS
    with app_at(store_at(path)) as app:
        assert Counter(row.status for row in app.journal.runs()) == Counter(
            completed=len(woken), **({} if SOAK else {"parked": MANY - len(woken)})
        )


def test_a_backlog_is_worked_off_in_order(path: Path, clock: Clock) -> None:
    """What is due at the same moment is driven so many at a time, the oldest first."""
    clock.jump(1_200)
    at_once = 32
    most = 0
    with app_at(store_at(path)) as app:
        worker = Worker(app, [once], at_once=at_once)
        begin = worker._begin_with

        def begun(*args: Any) -> None:
            nonlocal most
            begin(*args)
            most = max(most, len(worker.driven()))

        worker._begin_with = begun  # type: ignore[method-assign]
        settle(worker, clock)
    done = [int(what) for what, _ in WORLD.acts]
    assert sorted(done) == list(range(SOON))
    assert most <= at_once
    assert all(abs(place - n) <= 2 * at_once for place, n in enumerate(done))


def test_who_parks_again_wakes_again(tmp_path: Path, clock: Clock) -> None:
    """A run that sleeps many times wakes on time every time."""
    runs, times = (2_000, 5) if SOAK else (60, 3)
    with app_at(store_at(tmp_path / "runs.db")) as app:
        for n in range(runs):
            app.start(naps, (f"{n}", times, 300.0 + n % 9), run_id=f"r{n}")
        worker = Worker(app, [naps], at_once=64)
        live(worker, clock, times * 310)
        assert {run.status for run in app.runs()} == {"completed"}
    acts = {what: (at - BEGAN) / NS for what, at in WORLD.acts}
    assert len(acts) == len(WORLD.acts) == runs * times
    for n in range(runs):
        for k in range(times):
            due = (k + 1) * (300 + n % 9)
            assert due <= acts[f"{n}.{k}"] <= due + (k + 1) * LATE_S


def is_forgotten() -> bool:
    """Say whether nothing is left in memory of any flow that was driven."""
    gc.collect()
    return not any(isinstance(one, Host) for one in gc.get_objects())


def test_memory_stays_flat(path: Path, clock: Clock) -> None:
    """Nothing is kept of runs that wait, nor of those that came and went."""
    runs = 1_000 if SOAK else 60
    with app_at(store_at(path)) as app:
        for n in range(runs):
            app.start(naps, (f"n{n}", 99, 5.0), run_id=f"n{n}")
        worker = Worker(app, [naps, once], at_once=50)

        def held_after(seconds: float) -> int:
            live(worker, clock, seconds)
            WORLD.clear()
            until(is_forgotten, "the end of what was driven")
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            held_after(11)
            before = held_after(6)
            live(worker, clock, 10)
            assert len(WORLD.acts) >= runs
            woken = held_after(1)
            for _ in range(1_000):
                worker.step(clock.moment())
                clock.jump(0.001)
            idle = held_after(0)
        finally:
            tracemalloc.stop()
    assert woken - before < 1_000 * runs, "a run that went by is kept"
    assert idle - woken < 20_000


def test_clocks_that_are_apart_do_no_harm(tmp_path: Path, clock: Clock) -> None:
    """With clocks ten minutes apart each run still acts once, within that, and is not juggled."""
    runs, times, apart = (500, 3, 300.0) if SOAK else (25, 2, 300.0)
    path = tmp_path / "runs.db"
    with app_at(store_at(path)) as early, app_at(store_at(path)) as late:
        for n in range(runs):
            early.start(naps, (f"{n}", times, 1_200.0), run_id=f"r{n}")
            early.start(once, f"o{n}", run_id=f"o{n}", run_at=clock.after(1_000 + n))
        workers = {}
        for app, skew in ((early, apart), (late, -apart)):
            with clock.skewed(skew):
                workers[skew] = Worker(app, [naps, once])
        began = clock.now
        while clock.now < began + (times * 1_800 + 600) * NS:
            for skew, worker in workers.items():
                with clock.skewed(skew):
                    settle(worker, clock)
            clock.jump(5)
        assert {run.status for run in early.runs()} == {"completed"}
        for n in range(runs):
            events = [record.event for record in early.log(f"r{n}")]
            parks = sum(isinstance(event, RunParked) for event in events)
            wakes = sum(isinstance(event, RunWoken) for event in events)
            assert parks == wakes == times
    counted = WORLD.counted()
    assert len(counted) == runs * (times + 1)
    assert set(counted.values()) == {1}


def test_the_hand_on_the_clock_is_real(clock: Clock) -> None:
    """The clock of these tests is the one that the application reads."""
    clock.jump(5)
    assert time.time_ns() == BEGAN + 5 * NS
    assert outlast.worker.time.monotonic() == 1_005.0
