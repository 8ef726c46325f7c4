"""Who is frozen, as another worker sees it: by counters, and by its own monotonic clock alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from worked import WORLD, Clock, app_at, live, once, settle, store_at, until

import outlast
from flow_stubs import NS, named
from outlast.journal import Commit, run_stream
from outlast.starting import begin
from outlast.worker import KEPT_S, LOOK_S, PROBE_S, Worker

LEASE_S = 15.0
STREAM = run_stream("r")


class Frozen:
    """A driver on a connection of its own that has claimed a run and stands still in its middle.

    In one process all locks are its own, so what it holds is held for everybody here.
    """

    def __init__(self, app: outlast.Outlast, *, leased: str = "", begun: bool = True) -> None:
        self.journal = app.journal
        self.leased = leased
        self.epoch = self.journal.claim(STREAM, worker=leased)
        if begun:
            self.append("at work")

    def beat(self) -> None:
        self.journal.beat(self.leased, [STREAM])

    def append(self, phase: str) -> None:
        row = self.journal.run("r")
        assert row is not None
        working = outlast.events.PhaseEntered(phase=phase)
        commit = Commit(
            stream=STREAM,
            events=(working,),
            at=row.updated_at,
            expected_seq=row.next_seq,
            epoch=self.epoch,
            row=msgspec.structs.replace(row, status="running"),
        )
        self.journal.append(commit)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    WORLD.clear()
    return Clock(monkeypatch)


@pytest.fixture
def apps(clock: Clock, tmp_path: Path) -> Iterator[tuple[outlast.Outlast, outlast.Outlast]]:
    """Two applications on one store, with a run."""
    path = tmp_path / "r.db"
    with app_at(store_at(path)) as there, app_at(store_at(path)) as here:
        begin(there.journal, "r", once, msgspec.Raw(b'"x"'))
        yield there, here


Apps = tuple[outlast.Outlast, outlast.Outlast]


def probe(worker: Worker, clock: Clock, seconds: float) -> None:
    """Let a worker look as often as it does where others drive something."""
    ends = clock.now + int(seconds * NS)
    while clock.now < ends and not worker.driven() and not WORLD.acts:
        worker.step(clock.moment())
        clock.jump(PROBE_S)
    until(lambda: not worker.driven())


def test_who_stands_still_for_a_whole_lease_loses_its_run(apps: Apps, clock: Clock) -> None:
    """Not before a lease has gone by since this worker saw it first, and soon after that."""
    there, here = apps
    Frozen(there, leased="other")
    worker = Worker(here, [once], lease=LEASE_S)
    clock.jump(1_000)  # however long it was frozen before anybody looked
    probe(worker, clock, LEASE_S - 1)
    assert not WORLD.acts
    probe(worker, clock, 1 + LEASE_S / 5 + 1)
    assert here.get("r").status == "completed"
    assert WORLD.counted() == {"x": 1}
    row = here.journal.run("r")
    assert row is not None
    assert row.fence == 2


def test_who_moves_is_never_taken(apps: Apps, clock: Clock) -> None:
    """A counter that moves between looks, or a journal that grows, is a sign of life."""
    there, here = apps
    other = Frozen(there, leased="other")
    worker = Worker(here, [once], lease=LEASE_S)
    for n in range(30):
        probe(worker, clock, LEASE_S * 0.7)
        other.beat() if n % 2 else other.append(f"phase {n}")
    assert not WORLD.acts
    other.append("still mine")


def test_a_script_is_never_taken(apps: Apps, clock: Clock) -> None:
    """A driver that has no lease, and holds its lock, keeps its run for ever."""
    there, here = apps
    script = Frozen(there)
    worker = Worker(here, [once], lease=LEASE_S)
    probe(worker, clock, 10 * LEASE_S)
    assert not WORLD.acts
    script.append("still mine")


def test_who_let_go_is_followed_at_once(apps: Apps, clock: Clock) -> None:
    """A run whose lock is free is gone on with at the next probe, lease or not."""
    there, here = apps
    worker = Worker(here, [once], lease=LEASE_S)
    Frozen(there, leased="other")
    probe(worker, clock, 1.0)
    assert not WORLD.acts
    there.journal.release(STREAM)
    probe(worker, clock, 2 * PROBE_S)
    assert WORLD.counted() == {"x": 1}


def test_who_was_frozen_itself_judges_afresh(apps: Apps, clock: Clock) -> None:
    """A worker that did not look for a while takes nothing until it has watched for a lease."""
    there, here = apps
    other = Frozen(there, leased="other")
    worker = Worker(here, [once], lease=LEASE_S)
    probe(worker, clock, LEASE_S / 2)
    clock.jump(10 * LEASE_S)  # the whole machine slept, say
    probe(worker, clock, LEASE_S - 1)
    assert not WORLD.acts
    other.append("still mine")
    other.beat()
    clock.jump(LEASE_S)
    probe(worker, clock, LEASE_S - 1)
    assert not WORLD.acts
    probe(worker, clock, 1 + LEASE_S / 5 + 1)
    assert WORLD.counted() == {"x": 1}


@pytest.mark.parametrize("leased", ["", "other"])
def test_who_is_frozen_before_its_first_word(apps: Apps, clock: Clock, leased: str) -> None:
    """A run that was claimed and not begun with is waited for, neither in circles nor for ever."""
    there, here = apps
    Frozen(there, leased=leased, begun=False)
    worker = Worker(here, [once], lease=LEASE_S)
    tries = 0
    worked = here._worked

    async def counted(run_id: str, who: Any, **more: Any) -> outlast.Run:
        nonlocal tries
        tries += 1
        return await worked(run_id, who, **more)

    here._worked = counted  # type: ignore[method-assign]
    for _ in range(2):
        probe(worker, clock, LEASE_S / 3)
    assert tries <= 2
    assert not WORLD.acts
    if leased:
        for _ in range(2):
            probe(worker, clock, LEASE_S)
        assert WORLD.counted() == {"x": 1}
        return
    there.journal.release(STREAM)
    probe(worker, clock, 2 * PROBE_S)
    assert WORLD.counted() == {"x": 1}


def test_who_is_about_to_claim_is_left_alone(
    apps: Apps, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock that nobody has claimed yet is not of the frozen until it was held for a while.

    The lock comes before the claim, and of whom this worker once let go in between looks the same.
    """
    _, here = apps
    monkeypatch.setattr(here.journal, "unheld", lambda streams: [])
    monkeypatch.setattr(here.journal, "abandoned", lambda stream: True)
    worker = Worker(here, [once], lease=LEASE_S)
    probe(worker, clock, KEPT_S - 2 * PROBE_S)
    assert not WORLD.acts
    probe(worker, clock, LOOK_S + 4 * PROBE_S)
    assert WORLD.counted() == {"x": 1}


def test_it_says_that_it_moves_while_it_drives(clock: Clock, tmp_path: Path) -> None:
    """Three times a lease, of what it drives, and of nothing once it rests."""
    with app_at(store_at(tmp_path / "r.db")) as app:
        open_ = False

        @outlast.flow
        async def waits(run: outlast.Run) -> None:
            while not open_:  # noqa: ASYNC110  (another thread says so)
                await asyncio.sleep(0.001)

        worker = Worker(app, [waits], lease=LEASE_S)
        app.start(waits, run_id="r")
        worker.step(clock.moment())
        until(app.journal.leases, "the claim")
        beats = []
        for _ in range(int(3 * LEASE_S)):
            (lease,) = app.journal.leases()
            assert (lease.worker, lease.stream) == (worker.id, STREAM)
            beats.append(lease.beats)
            clock.jump(1.0)
            worker.step(clock.moment())
        assert 9 <= beats[-1] <= 11
        open_ = True
        settle(worker, clock)
        live(worker, clock, LEASE_S)
        assert app.journal.leases() == []
        assert app.get("r").status == "completed"


def test_a_frozen_child_goes_with_its_root(clock: Clock, tmp_path: Path) -> None:
    """With a run that is taken over all below it are."""
    reader = named("reader")

    @outlast.flow
    async def above(run: outlast.Run) -> list[Any]:
        return await run.map(reader, ["one", "two"])

    path = tmp_path / "r.db"
    with app_at(store_at(path)) as there, app_at(store_at(path)) as here:
        there.start(above, run_id="r")
        assert here._worked  # the first life gets as far as its children, and stops there
        begun = asyncio.run(_half(there, above))
        assert begun
        Frozen(there, leased="other")
        for row in there.journal.below("r"):
            there.journal.claim(run_stream(row.id))
        worker = Worker(here, [above, reader], lease=LEASE_S)
        ends = clock.now + int(2 * LEASE_S * NS)
        while clock.now < ends and here.get("r").status != "completed":
            worker.step(clock.moment())
            clock.jump(PROBE_S)
            until(lambda: not worker.driven())
        assert here.get("r").answer == ["re: one", "re: two"]


async def _half(app: outlast.Outlast, who: Any) -> bool:
    """Drive a run until its children exist."""
    task = asyncio.create_task(app._worked("r", who))
    while len(app.journal.below("r")) < 2:
        await asyncio.sleep(0.001)
        if task.done():
            return True
    task.cancel()
    await asyncio.wait({task})
    return True


def test_who_takes_over_from_a_worker_takes_its_lease_away(apps: Apps, clock: Clock) -> None:
    """A script that went on with the run of a dead worker does not lose it for that one's lease."""
    there, here = apps
    Frozen(there, leased="dead")
    worker = Worker(here, [once], lease=LEASE_S)
    probe(worker, clock, LEASE_S / 2)
    there.journal.claim(STREAM, force=True)
    for _ in range(3):
        probe(worker, clock, LEASE_S)
    assert not WORLD.acts
