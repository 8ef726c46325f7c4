"""A flow and its children wait, each for its own time, and nobody keeps a process for them.

Every kind of child is there: those of `map`, nested flows three deep, and runs that are tools.
Whoever drives the flow does it as a worker would: when it is due, until it is parked.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from contextlib import suppress
from itertools import cycle, pairwise
from random import Random
from typing import Any

import msgspec
import pytest
from kinds import UNKNOWN, _doubtful, boss, helper, lead, nested, send
from playing import NS, Played, Point, World, check_world, lived

import outlast
from conftest import SOAK
from outlast.app import Outlast
from outlast.events import ModelCallInDoubt, RunParked, StepFinished, ToolCallInDoubt
from outlast.journal import run_stream
from outlast.models.script import Fault, faulty, last_text, once
from outlast.run import Run
from outlast.telling import FITS

ROUNDS = 60
"""How often a run is driven at most until it has ended."""

SLEEPS = ("3m", "25m", "10m")
"""How long each level of nested flows sleeps, the innermost first."""


def _limit(request: dict[str, Any], attempt: int) -> Fault | None:
    asked = last_text(request)
    if "limited" not in asked:
        return None
    after = "200" if "two" in asked else "60"
    return once(1, Fault(kind="status", status=429, headers={"retry-after": after}))(
        request, attempt
    )


script = faulty(lead, _limit)


@outlast.flow
async def deep(run: outlast.Run, depth: int) -> list[Any]:
    """Sleep beside a child that sleeps beside its child, and then act."""
    said = await run.ask(helper, f"level {depth}")
    below = run.map(deep, [depth - 1] if depth else [], name="below")
    found, _ = await asyncio.gather(below, run.sleep(SLEEPS[depth]))
    sent = await _doubtful(run.step("send", send, f"deep {depth}"))
    return [said, sent, found]


@outlast.flow
async def family(run: outlast.Run, word: str) -> list[Any]:
    """Have children of every kind that sleep, and sleep as well."""
    found = await asyncio.gather(
        run.map(nested, [1, 2], name="nested"),
        run.map(deep, [2], name="deep"),
        run.ask(boss, "delegate limited", name="boss"),
        run.sleep("12m"),
    )
    return [*found[:3], await run.ask(helper, f"last {word}")]


async def worked(app: Outlast, run_id: str = "r", who: Any = family) -> Run:
    """Drive a run as a worker does: whenever it is due, until it has ended."""
    world = World.now
    for _ in range(ROUNDS):
        run = await app.arun(who, "x", run_id=run_id, wait_s=0)
        if run.status not in ("parked", "waiting") or app._own.draining:
            return run
        while not any(row.id == run_id for row in world.journal.due(world.clock())):
            wake_at = world.journal.next_wake(world.clock())
            if wake_at is None:
                return run  # until somebody acts
            await asyncio.sleep(max(0, wake_at - world.clock()) / NS)
    raise AssertionError(f"driven {ROUNDS} times, and it is still {run}")


async def slept(app: Outlast) -> Run:
    """Drive a run as a program does that waits for it."""
    return await app.arun(family, "x", run_id="r", wait_s=1e6)


LUCK = Random(7)  # noqa: S311  (no secret)

Main = Callable[[Outlast], Any]


class Seen(Played):
    """A family that was driven to its end through some deaths."""

    def __init__(self, *dies: Point, main: Main = worked) -> None:
        self.world = World(script)
        self.deaths = 0
        try:
            for point in dies:
                if lived(self.world, main, point) is None:
                    self.deaths += 1
            before = self.world.loop.virtual.steps
            self.run = lived(self.world, main)
            self.steps = self.world.loop.virtual.steps - before
        finally:
            self.world.loop.close()


def doubts(world: World) -> list[Any]:
    """Return everything that ended in doubt, as the journal has it."""
    return [
        event
        for run_id in world.states()
        for record in world.journal.read(run_stream(run_id))
        if isinstance(event := record.event, ModelCallInDoubt | ToolCallInDoubt)
        or (isinstance(event, StepFinished) and event.status == "in_doubt")
    ]


def ended(world: World) -> list[tuple[str, str]]:
    """Return how every run ended; calls before the one that a child serves may be lost."""
    every = world.states().items()
    return sorted((re.sub(r"\.m\d+\.", ".", run_id), state.status) for run_id, state in every)


def plain(answer: Any) -> str:
    text = msgspec.json.encode(answer).decode()
    return re.sub(rf"{UNKNOWN}|sent (child|deep) \d", "sent", text)


def check(seen: Any, whole: Any) -> None:
    """Compare with a family that nobody killed, by what the world saw."""
    assert seen.run.status == "completed", (seen.run.status, seen.run.why)
    check_world(seen)
    world, before = seen.world, whole.world
    assert plain(seen.run.answer) == plain(whole.run.answer)
    assert ended(world) == ended(before)
    assert all(times == 1 for times in world.ran.values()), world.ran
    assert set(world.requests) == set(before.requests)
    if not seen.deaths:
        assert not doubts(world)
        assert world.ran == before.ran
        assert len(world.answers) == len(before.answers), "something was asked twice"
    assert len(world.answers) <= len(before.answers) + 8 * seen.deaths


@pytest.fixture(scope="module")
def whole() -> Seen:
    return Seen()


def parks(world: World, run_id: str) -> list[RunParked]:
    return [
        record.event
        for record in world.journal.read(run_stream(run_id))
        if isinstance(record.event, RunParked)
    ]


def test_a_family_waits_without_a_process(whole: Seen) -> None:
    """A flow whose children all wait is parked with them, until the first of them is to go on."""
    check(whole, whole)
    assert len(parks(whole.world, "r")) >= 5
    for run_id, state in whole.world.states().items():
        records = whole.world.journal.read(run_stream(run_id))
        for record, after in pairwise(records):
            if isinstance(record.event, RunParked) and record.event.until:
                assert after.at <= record.event.until + NS, f"{run_id} woke too late"
        assert state.parking.status == ""


def test_it_is_the_same_slept_through(whole: Seen) -> None:
    """Who waits in the process for a family gets the same, at the same price and time."""
    seen = Seen(main=slept)
    check(seen, whole)
    assert abs(seen.world.loop.time() - whole.world.loop.time()) < 5


def points(whole: Seen) -> list[Point]:
    life = whole.world.life
    assert life is not None
    appends = range(1, life.appends + 1, 1 if SOAK else 5)
    return [
        *(("step", number) for number in range(1, whole.steps + 1, 1 if SOAK else 40)),
        *((where, number) for number in appends for where in ("before append", "after append")),
    ]


def test_killed_anywhere(whole: Seen) -> None:
    """Wherever its process dies, a family that waits ends as if it had not."""
    for point, main in zip(points(whole), cycle((worked, slept, worked))):
        seen = Seen(point, main=main)
        try:
            check_killed(seen, whole)
        except AssertionError as error:
            raise AssertionError(f"killed at {point}: {error}") from error


@pytest.mark.timeout(7_200 if SOAK else 120)
def test_killed_twice(whole: Seen) -> None:
    """Two deaths leave no more behind than one."""
    every = points(whole)
    for _ in range(2_000 if SOAK else 15):
        pair = LUCK.choice(every), LUCK.choice(every)
        seen = Seen(*pair)
        try:
            check_killed(seen, whole)
        except AssertionError as error:
            raise AssertionError(f"killed at {pair}: {error}") from error


def check_killed(seen: Seen, whole: Seen) -> None:
    """What a death leaves in doubt may be missing in the world, and nothing else may."""
    once_lost = [one for one in doubts(seen.world) if isinstance(one, StepFinished)]
    missing = whole.world.ran - seen.world.ran
    assert missing.total() <= len(once_lost)
    for what in missing:
        seen.world.ran[what] = 1
    check(seen, whole)


# ── interfered with ─────────────────────────────────────────────────────────────────────────────


class Meddled(Seen):
    """A family in whose first life something happens at one step of the loop."""

    def __init__(self, number: int, happen: Callable[[Outlast], Any], then: Main = worked) -> None:
        self.world = World(script)
        self.deaths = 0
        self.happened = False
        self.took_s = 0.0

        async def first(app: Outlast) -> Run:
            virtual, began = self.world.loop.virtual, [0.0]

            def now() -> None:
                self.happened = True
                began[0] = virtual.now
                happen(app)

            virtual.happening = (virtual.steps + number, now)
            run = await slept(app) if then is slept else await worked(app)
            self.took_s = virtual.now - began[0] if self.happened else 0.0
            return run

        try:
            self.first: Run = lived(self.world, first)
            self.between = {i: s.status for i, s in self.world.states().items()}
            self.run = self.first
            if self.first.status != "completed":
                self.run = lived(self.world, then)
        finally:
            self.world.loop.close()


def steps(whole: Seen, each: int) -> range:
    return range(1, whole.steps + 1, 1 if SOAK else each)


def test_drained_anywhere(whole: Seen) -> None:
    """Wherever its worker is shut down, everything soon rests, and the next one goes on with it."""
    for number, then in zip(steps(whole, 17), cycle((worked, slept, worked))):
        seen = Meddled(number, Outlast._drain, then)
        try:
            assert "running" not in seen.between.values(), seen.between
            assert then is worked or seen.took_s < 2, "what was in flight took no longer"
            check(seen, whole)
        except AssertionError as error:
            raise AssertionError(f"drained at {number}: {error}") from error


TOLD = ("r", "r/nested/1", "r/deep/1", "r/deep/1/below/1", "r/boss.m2.t1")


@pytest.mark.parametrize("run_id", TOLD)
def test_paused_anywhere(whole: Seen, run_id: str) -> None:
    """Whoever of a family is paused, whenever: once it is resumed, all goes on as it would have."""
    for number in steps(whole, 31):

        def pause(app: Outlast, run_id: str = run_id) -> None:
            if app.journal.run(run_id) and app.get(run_id).status in FITS["pause"]:
                app.pause(run_id)

        async def resumed(app: Outlast) -> Run:
            if app.get(run_id).status == "paused":
                app._control(run_id, "resume", "", "")
            return await worked(app)

        seen = Meddled(number, pause, resumed)
        try:
            assert "running" not in seen.between.values(), seen.between
            check(seen, whole)
        except AssertionError as error:
            raise AssertionError(f"paused at {number}: {error}") from error


@pytest.mark.parametrize("run_id", TOLD)
def test_cancelled_anywhere(whole: Seen, run_id: str) -> None:
    """Whoever of a family is cancelled, whenever: all of it ends, and nothing billed is lost."""
    for number in steps(whole, 31):

        def cancel(app: Outlast, run_id: str = run_id) -> None:
            if app.journal.run(run_id) and app.get(run_id).status in FITS["cancel"]:
                app._control(run_id, "cancel", "", "")

        seen = Meddled(number, cancel)
        try:
            for name, state in seen.world.states().items():
                assert state.status in {"completed", "failed", "cancelled"}, (name, state.status)
                assert state.spend.held_nano == 0
            charged = sum(state.spend.nano for state in seen.world.states().values())
            assert seen.world.model.billed_nano <= charged
            if run_id == "r" and seen.happened:
                assert seen.took_s < 40
        except AssertionError as error:
            raise AssertionError(f"cancelled at {number}: {error}") from error


# ── alone ───────────────────────────────────────────────────────────────────────────────────────


@outlast.flow
async def keeper(run: outlast.Run, word: str) -> list[Any]:
    """Wait for one child that sleeps below another one."""
    return await run.map(holder, [1], name="only")


@outlast.flow
async def holder(run: outlast.Run, number: int) -> str:
    """Wait for a child that sleeps."""
    (said,) = await run.map(nested, [number], name="only")
    return f"held {said}"


ONLY = "r/only/1/only/1"


def kept(*mains: Main) -> list[Any]:
    """Return what each life of a keeper came to."""
    world = World(script)
    try:
        return [lived(world, main) for main in mains]
    finally:
        world.loop.close()


async def _keep(app: Outlast) -> Run:
    return await worked(app, who=keeper)


async def _pause(app: Outlast) -> str:
    app.pause(ONLY)
    return app.get("r").status


async def _resume_alone(app: Outlast) -> str:
    return (await app.aresume(ONLY, nested, wait_s=1e6)).status


async def _cancel_alone(app: Outlast) -> str:
    return (await app.acancel(ONLY)).status


async def _late(app: Outlast) -> bool:
    await asyncio.sleep(1_000)
    return True


async def _begin(app: Outlast) -> str:
    return (await app.arun(keeper, "x", run_id="r", wait_s=0)).status


async def _look(app: Outlast) -> tuple[str, int | None]:
    return app.get("r").status, app.get("r").wake_at


def test_a_parent_of_a_paused_child_waits_for_somebody() -> None:
    """Who waits for a run that is paused is parked without a time, and is not driven in vain."""
    _, _, last, seen = kept(_begin, _pause, _keep, _look)
    assert last.status == "waiting"
    assert seen == ("waiting", None)
    assert re.search("waiting for run .*: paused", last.why)


def test_a_child_that_is_resumed_alone() -> None:
    """It is left to its parents, which are called at once where its time has come."""
    *_, alone, last = kept(_begin, _pause, _keep, _late, _resume_alone, _keep)
    assert alone == "parked"
    assert last.answer == ["held re: child 1, sent child 1"]


@pytest.mark.parametrize("before", ["parked", "waiting"])
def test_a_child_that_is_cancelled_alone(before: str) -> None:
    """A child that is cancelled while its parents wait for it fails in them at once."""
    waits = (_pause, _keep) if before == "waiting" else ()
    *_, alone, last = kept(_begin, *waits, _cancel_alone, _keep)
    assert alone == "queued"
    assert last.status == "failed"
    assert "cancelled" in last.why


def test_nobody_is_called_in_vain() -> None:
    """A run that is to be driven below one that is paused calls nobody: it is not reached."""

    async def tell(app: Outlast) -> None:
        app.pause("r/only/1")
        app._control(ONLY, "resume", "", "")

    async def told(app: Outlast) -> list[Any]:
        await asyncio.sleep(1_000)
        found = [await app.arun(keeper, "x", run_id="r", wait_s=1) for _ in range(3)]
        return [found[-1].status, len(parks(World.now, "r"))]

    *_, found = kept(_begin, tell, told)
    assert found == ["waiting", 2]


@outlast.flow
async def minder(run: outlast.Run, word: str) -> list[Any]:
    """Sleep for a minute beside a child that sleeps for ten."""
    return await asyncio.gather(run.map(nested, [1], name="only"), run.sleep("1m"))


def test_who_waits_for_somebody_is_waited_for_again() -> None:
    """A parent that waits for a paused child waits for its time again once that is resumed."""

    async def first(app: Outlast) -> Run:
        await app.arun(minder, "x", run_id="r", wait_s=0)
        app.pause("r/only/1")
        return await worked(app, who=minder)

    async def then(app: Outlast) -> Run:
        app._control("r/only/1", "resume", "", "")
        return await app.arun(minder, "x", run_id="r", wait_s=1_000)

    waiting, last = kept(first, then)
    assert waiting.status == "waiting"
    assert last.answer[0] == ["re: child 1, sent child 1"]


# ── waits ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("who", [helper, keeper], ids=["agent", "parent"])
def test_who_waits_is_told_for_what(who: Any) -> None:
    """A run that waits for longer than `wait_s` is returned, and goes on with the same request."""
    world = World(script)

    async def short(app: Outlast) -> Run:
        return await app.arun(who, "limited", run_id="r", wait_s=30)

    async def later(app: Outlast) -> Run:
        await asyncio.sleep(left(world, app.get("r").wake_at) - 31)
        early = await short(app)
        assert early.status == "parked"
        await asyncio.sleep(2)
        return await short(app)

    try:
        parked, ended = lived(world, short), lived(world, later)
    finally:
        world.loop.close()
    assert parked.status == "parked"
    said = "Claude's rate limit" if who is helper else "for run r/only/1"
    assert re.search(rf"waiting .*{said}.* until 20\d\d-\d\d-\d\dT", parked.why), parked.why
    assert ended.status == "completed", ended.why
    assert not doubts(world)
    if who is helper:
        first, second = world.answers
        assert first.identity.key == second.identity.key, "it is another request"
        assert [type(one).__name__ for one in events_of(world)].count("RunParked") == 1


def left(world: World, wake_at: int | None) -> float:
    assert wake_at
    return (wake_at - world.clock()) / NS


def events_of(world: World) -> list[Any]:
    return [record.event for record in world.journal.read(run_stream("r"))]


# ── races ───────────────────────────────────────────────────────────────────────────────────────


@outlast.flow
async def napper(run: outlast.Run, number: int) -> str:
    """Sleep, ask, sleep again, and act."""
    await run.sleep(1.1 + 0.37 * number)
    said = await run.ask(helper, f"nap {number}")
    await run.sleep(2.3)
    return f"{said}, {await _doubtful(run.step('send', send, f'nap {number}'))}"


@outlast.flow
async def nursery(run: outlast.Run, word: str) -> list[Any]:
    """Have many children that wake at every moment, also while it is being parked."""
    return await run.map(napper, list(range(9)), name="nap")


def slow(before_s: float, after_s: float, who: Any = nursery) -> Main:
    """Return a driver of runs whose store takes its time to write down a park."""

    async def main(app: Outlast) -> Run:
        life = World.now.life
        assert life is not None
        append = life.append

        async def aappend(commit: Any) -> Any:
            parks = any(isinstance(event, RunParked) for event in commit.events)
            await asyncio.sleep(before_s if parks else 0.01)
            records = append(commit)
            await asyncio.sleep(after_s if parks else 0.01)
            return records

        life.aappend = aappend  # type: ignore[method-assign]
        app._own._inline = False
        return await worked(app, who=who)

    return main


@pytest.mark.parametrize("before_s", [0.0, 0.7, 2.0, 3.1])
@pytest.mark.parametrize("after_s", [0.0, 0.9, 2.6])
def test_a_child_that_wakes_while_its_parent_is_parked(before_s: float, after_s: float) -> None:
    """It is neither given up in the middle of something, nor driven twice, nor lost."""
    seen = Seen(main=slow(before_s, after_s))
    check_world(seen)
    assert seen.run.status == "completed"
    assert seen.run.answer == [f"re: nap {n}, sent nap {n}" for n in range(9)]
    assert set(seen.world.ran.values()) == {1}
    assert not doubts(seen.world)
    assert len(seen.world.answers) == 9


@pytest.mark.parametrize("run_id", ["r", "r/nap/3"])
def test_told_while_its_parent_is_parked(run_id: str) -> None:
    """A pause that comes while a parent is being parked, and is taken back, changes nothing."""
    for tenths in range(2, 90, 2 if SOAK else 7):

        async def main(app: Outlast, at_s: float = tenths / 10) -> Run:
            async def meddle() -> None:
                await asyncio.sleep(at_s)
                with suppress(outlast.OutlastError):  # it may have ended
                    app.pause(run_id)
                await asyncio.sleep(0.3)
                if app.get(run_id).status == "paused":
                    app._control(run_id, "resume", "", "")

            meddling = asyncio.create_task(meddle())
            run = await slow(1.1, 0.6)(app)
            await meddling
            return await worked(app, who=nursery) if run.status != "completed" else run

        seen = Seen(main=main)
        check_world(seen)
        assert seen.run.status == "completed", (tenths, seen.run)
        assert seen.run.answer == [f"re: nap {n}, sent nap {n}" for n in range(9)], tenths
        assert set(seen.world.ran.values()) == {1}, tenths
        assert not doubts(seen.world), tenths
        assert len(seen.world.answers) == 9, tenths


@outlast.flow
async def unlucky(run: outlast.Run, word: str) -> list[Any]:
    """Have a child that sleeps for long, and one that is stopped."""
    return await asyncio.gather(
        run.map(nested, [1], name="sleeps"), run.map(poor, ["x"], name="poor")
    )


poor = outlast.Agent("poor", model="claude-haiku-5-5", max_tokens=64)


def test_a_stop_does_not_wait_for_who_sleeps() -> None:
    """A child that is stopped stops its parent at once, and its sibling sleeps on meanwhile."""

    async def main(app: Outlast) -> tuple[Run, float, Run]:
        app.set_budget("agent:poor", usd="0.000001", reason="a test")
        stopped = await app.arun(unlucky, "x", run_id="r", wait_s=1e6)
        at = World.now.loop.time()
        assert app.get("r/sleeps/1").status == "parked"
        app.set_budget("agent:poor", reason="a test")
        return stopped, at, await worked(app, who=unlucky)

    world = World(script)
    try:
        stopped, at, last = lived(world, main)
    finally:
        world.loop.close()
    assert stopped.status == "stopped"
    assert at < 10
    assert last.status == "completed", last.why
    assert world.ran == {"send child 1": 1}


@outlast.flow
async def busy(run: outlast.Run, word: str) -> list[Any]:
    """Be at work while a child is paused and resumed."""
    return await asyncio.gather(
        run.map(talker, ["x"], name="asks"),
        run.step("work", work, effect="idempotent"),
    )


@outlast.flow
async def talker(run: outlast.Run, word: str) -> str:
    """Ask twice."""
    await run.ask(helper, "first")
    return await run.ask(helper, "second")


async def work() -> str:
    """Work for a moment."""
    await asyncio.sleep(1.05)
    return "worked"


def test_a_child_that_was_told_to_go_on_is_at_work() -> None:
    """A parent that was not parked meanwhile is not parked while such a child works, either."""
    for hundredths in range(2, 110, 3):

        async def main(app: Outlast, resumed_s: float = hundredths / 100) -> Run:
            async def meddle() -> None:
                await asyncio.sleep(0.02)
                app.pause("r/asks/1")
                await asyncio.sleep(resumed_s)
                app._control("r/asks/1", "resume", "", "")
                for waiting in [*app._waiting.values()]:
                    waiting.nudge()

            meddling = asyncio.create_task(meddle())
            run = await app.arun(busy, "x", run_id="r", wait_s=1e6)
            await meddling
            return run if run.status == "completed" else await worked(app, who=busy)

        seen = Seen(main=main)
        assert seen.run.answer == [["re: second"], "worked"]
        assert not doubts(seen.world), hundredths
        assert len(seen.world.answers) == 2
