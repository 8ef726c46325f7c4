"""Workers are told to stop with SIGTERM: what is in flight has its outcome, and others go on."""

from __future__ import annotations

import signal

import shop
from yard import LONG, Yard, until

from outlast.events import ToolCallInDoubt
from outlast.journal import run_stream


def test_in_flight(yard: Yard) -> None:
    """What is in flight ends, runs are parked for the next worker, and no lease is left."""
    yard.app.start(shop.user, "q use slow", run_id="tool")
    yard.app.start(shop.blocking_step, run_id="step")
    yard.app.start(shop.sleeper, 3600, run_id="asleep")
    worker = yard.worker("--lease", "1", "--grace", LONG)
    until(lambda: len(yard.lines("effects")) == 2 and yard.are("parked", ["asleep"]), "functions")
    worker.signal(signal.SIGTERM)
    until(lambda: worker.said("worker_stopping"), "the signal")
    yard.app.start(shop.user, "q", run_id="late")
    yard.open_gate()
    assert worker.ended() == 0
    assert worker.said("worker_ended")
    assert not yard.journal.leases()
    assert "late" not in worker.begun
    # A flow is over with its step, and an agent has to hear its tool's result.
    assert yard.row("tool").status == "parked"
    assert yard.row("tool").why == "its worker was shut down"
    asked = len(yard.lines("requests"))
    assert len(yard.did("slow")) == len(yard.did("blocks")) == 1
    yard.worker("--lease", LONG)
    yard.until_are("completed", ["tool", "step", "late"])
    assert len(yard.did("slow begins")) == len(yard.did("blocks begins")) == 1
    assert len(yard.lines("requests")) == asked + 2, "an answer was paid for again"
    assert yard.row("asleep").status == "parked"
    yard.judge()


def test_beyond_the_grace(yard: Yard) -> None:
    """What does not end in time is in doubt, and its run goes on in the worker beside it."""
    yard.app.start(shop.user, "q use slow", run_id="tool")
    yard.app.start(shop.user, "q use blocks", run_id="loop")
    yard.app.start(shop.family, "f", run_id="answer")
    worker = yard.worker("--lease", LONG, "--grace", "0.5", silent_from=4)
    until(lambda: len(yard.lines("effects")) == 3, "functions")
    until(lambda: len(yard.lines("requests")) == 4, "a request that is not answered")
    yard.worker("--lease", LONG)
    worker.signal(signal.SIGTERM)
    yard.until_are("completed", yard.rows())
    assert worker.ended() == 0
    assert not yard.leases(worker)
    assert len(yard.did("slow begins")) == len(yard.did("blocks begins")) == 1
    assert not yard.did("slow") + yard.did("blocks")
    yard.judge()


def test_stopped_twice(yard: Yard) -> None:
    """A second SIGTERM gives everything up at once, whatever the grace."""
    ids = [yard.app.start(shop.user, f"q{n} use look", run_id=f"a{n}").id for n in range(3)]
    worker = yard.worker("--lease", "1", "--grace", LONG, silent_from=1)
    until(lambda: len(yard.lines("requests")) == 3, "requests that are not answered")
    worker.signal(signal.SIGTERM)
    until(lambda: worker.said("worker_stopping"), "the signal")
    yard.app.start(shop.user, "q", run_id="late")
    beside = yard.worker("--lease", LONG)
    yard.until_are("completed", ["late"])
    assert worker.process.poll() is None, "it waits for what is in flight"
    worker.signal(signal.SIGTERM)
    assert worker.ended() == 0
    yard.until_are("completed", ids)
    assert set(beside.begun) == {*ids, "late"}
    assert not yard.leases(worker)
    yard.judge()


def test_who_drains_keeps_its_runs(yard: Yard) -> None:
    """A worker that lets its runs come to a rest says that it moves, however long that takes."""
    yard.app.start(shop.user, "q use slow", run_id="tool")
    worker = yard.worker("--lease", "1", "--grace", LONG)
    until(lambda: yard.did("slow begins"), "the tool")
    other = yard.worker("--lease", "1", "--at-once", "1")
    worker.signal(signal.SIGTERM)
    until(lambda: worker.said("worker_stopping"), "the signal")
    (lease,) = yard.leases(worker)
    until(lambda: yard.leases(worker)[0].beats > lease.beats + 6, "two leases that go by")
    assert not other.begun
    yard.open_gate()
    assert worker.ended() == 0
    yard.until_are("completed", ["tool"])
    kinds = [type(record.event) for record in yard.journal.read(run_stream("tool"))]
    assert ToolCallInDoubt not in kinds
    assert len(yard.did("slow")) == 1
