"""Who waits for a batch is parked between two looks, and costs neither a process nor requests."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playing import Played, World, check_world, lived

import outlast
from batch.mapped import TESTS, agent, mapping, over_http
from outlast import decide_flow, runner
from outlast.batching import Pace
from outlast.events import (
    AnyEvent,
    ModelCallInDoubt,
    ModelCallSucceeded,
    RunParked,
    RunWoken,
)
from outlast.models.script import Turn, last_text, say
from outlast.testing import simulator
from outlast.worker import Worker

WHO = agent(model="claude-haiku-5-5", tools=[])
FLOW = mapping(WHO, batch=True)
WORDS = ["one", "two", "three"]
CHILDREN = 1_000


def hourly(request: dict[str, Any], attempt: int) -> Turn:
    """Answer after an hour."""
    return say(f"re: {last_text(request)}", total_s=3_600)


def soon(request: dict[str, Any], attempt: int) -> Turn:
    """Answer after half a minute."""
    return say(f"re: {last_text(request)}", total_s=26)


@pytest.fixture
def world() -> Iterator[World]:
    """Return a world in which every batch takes an hour."""
    world = World(hourly)
    yield world
    world.loop.close()


def events(world: World, kind: type[AnyEvent]) -> Counter[str]:
    """Return how many events of a kind each run has."""
    return Counter(
        run_id
        for run_id in world.states()
        for record in world.journal.read(f"run:{run_id}")
        if isinstance(record.event, kind)
    )


def test_a_thousand_children() -> None:
    """A map of a thousand is parked as one, looks once for all of them, and ends."""
    words = [f"word {number}" for number in range(CHILDREN)]
    played = Played(soon, FLOW, words)
    check_world(played)
    assert played.run.answer == [f"re: {word}" for word in words]
    world = played.world
    assert [len(batch.results) for batch in world.model.batches] == [CHILDREN]
    assert world.model.polls < 20
    parks, wakes = events(world, RunParked), events(world, RunWoken)
    assert parks == wakes
    assert parks.keys() == world.states().keys(), "each was parked, and so was their parent"
    assert max(parks.values()) <= world.model.polls
    assert len(events(world, ModelCallSucceeded)) == CHILDREN


def test_a_run_is_returned_parked(world: World) -> None:
    """`wait_s` is how long a look may be away; later the same call goes on, and nothing is lost."""
    left: list[float] = []

    async def main(app: outlast.Outlast) -> outlast.Run:
        while (run := await app.arun(FLOW, WORDS, run_id="r", wait_s=30)).status == "parked":
            assert run.why == f"waiting for batch {world.model.batches[0].id}"
            assert run.wake_at is not None
            left.append((run.wake_at - world.clock()) / 1e9)
            polls = world.model.polls
            again = await app.arun(FLOW, WORDS, run_id="r", wait_s=30)
            assert (again.status, again.wake_at) == ("parked", run.wake_at)
            assert world.model.polls == polls, "whoever comes too early costs no request"
            await asyncio.sleep(left[-1])
        return run

    run = lived(world, main)
    assert run.answer == [f"re: {word}" for word in WORDS]
    assert 30 < left[0] < 40
    assert left[-1] == pytest.approx(600, abs=5)
    assert len(world.model.batches) == 1
    records = world.journal.read("run:r/each/1")
    (reply,) = (each.event for each in records if isinstance(each.event, ModelCallSucceeded))
    assert reply.latency_ms > 3_600_000, "from when it was sent"


def test_looks_of_another_process(world: World) -> None:
    """A process that knows nothing of a batch takes its age from the journal."""

    async def once(app: outlast.Outlast) -> outlast.Run:
        return await app.arun(FLOW, WORDS, run_id="r", wait_s=0)

    run = lived(world, once)
    while run.status == "parked":
        wake_at = run.wake_at

        async def then(app: outlast.Outlast, until: int = wake_at) -> outlast.Run:
            await asyncio.sleep((until - world.clock()) / 1e9)
            return await once(app)

        run = lived(world, then)
    assert run.status == "completed"
    assert world.model.polls < 40, "each process would begin as if the batch were new"
    assert len(world.model.batches) == 1


async def parked(app: outlast.Outlast) -> outlast.Run:
    run = await app.arun(FLOW, WORDS, run_id="r", wait_s=0)
    assert run.status == "parked"
    return run


async def napping(app: outlast.Outlast) -> asyncio.Task[outlast.Run]:
    """Return a drive that has found the batch going on, and waits for the next look itself."""
    driving = asyncio.create_task(app.arun(FLOW, WORDS, run_id="r", wait_s=0))
    while not World.now.model.polls:  # noqa: ASYNC110  (of other tasks)
        await asyncio.sleep(0.1)
    await asyncio.sleep(0.1)
    return driving


@pytest.mark.parametrize("live", [False, True], ids=["parked", "live"])
def test_paused(world: World, *, live: bool) -> None:
    """A pause does not wait for the batch; on resume its results are fetched, and paid once."""

    async def main(app: outlast.Outlast) -> outlast.Run:
        driving = await napping(app) if live else None
        if driving is None:
            await parked(app)
        began = world.loop.time()
        app.pause("r", reason="lunch")
        if driving is not None:
            assert (await driving).status == "paused"
            assert world.loop.time() - began < 2
        assert app.get("r").status == "paused"
        polls = world.model.polls
        await asyncio.sleep(7_200)
        assert world.model.polls == polls, "nobody looks while it is paused"
        return await app.aresume("r", FLOW, wait_s=1e6)

    run = lived(world, main)
    assert run.answer == [f"re: {word}" for word in WORDS]
    assert len(world.model.batches) == 1
    assert not events(world, ModelCallInDoubt)


@pytest.mark.parametrize("live", [False, True], ids=["parked", "live"])
def test_cancelled(world: World, *, live: bool) -> None:
    """A run that is cancelled ends at once; its calls are in doubt, and charged in full."""

    async def main(app: outlast.Outlast) -> outlast.Run:
        driving = await napping(app) if live else None
        if driving is None:
            await parked(app)
        began = world.loop.time()
        run = await app.acancel("r", reason="enough")
        run = await driving if driving else run
        assert world.loop.time() - began < 10
        return run

    run = lived(world, main)
    assert run.status == "cancelled"
    states = world.states()
    assert {state.status for state in states.values()} == {"cancelled"}
    assert events(world, ModelCallInDoubt).total() == len(WORDS)
    assert sum(state.spend.nano for state in states.values()) >= world.model.billed_nano


def test_drained(world: World) -> None:
    """A worker that ends does not wait for a batch: its runs are parked for the next one."""

    async def main(app: outlast.Outlast) -> outlast.Run:
        driving = await napping(app)
        began = world.loop.time()
        app._drain()
        run = await driving
        assert world.loop.time() - began < 2
        return run

    assert lived(world, main).status == "parked"
    assert {state.status for state in world.states().values()} == {"parked"}

    async def later(app: outlast.Outlast) -> outlast.Run:
        return await app.arun(FLOW, WORDS, run_id="r", wait_s=1e6)

    assert lived(world, later).answer == [f"re: {word}" for word in WORDS]
    assert len(world.model.batches) == 1


def test_a_worker_wakes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A map that waits for its batch is nobody's until its time has come; a worker ends it then."""
    monkeypatch.setattr(runner, "NAP_NS", 0)
    monkeypatch.setattr(decide_flow, "NAP_NS", 0)
    with simulator.start("batch.scripts:brief", path=[TESTS]) as claude:
        app = over_http(claude, f"sqlite:///{tmp_path}/s.db")
        app._own.batches.pace = Pace(quiet_s=0.2, first_s=0.3)
        app.start(FLOW, WORDS, run_id="r")
        seen = 0
        with Worker(app, [FLOW]) as worker:
            until = time.monotonic() + 60
            while app.get("r").status != "completed" and time.monotonic() < until:
                seen += app.get("r").status == "parked" and not worker.driven()
                time.sleep(0.02)
        run = app.get("r")
        app.close()
        assert run.answer == [f"re: {word}" for word in WORDS]
        assert seen, "it was never parked"
        asked = Counter(line["outcome"] for line in claude.requests())
        assert (asked["batch_sent"], asked["batch_fetched"]) == (1, 1)
        assert asked["batch_polled"] <= 6
