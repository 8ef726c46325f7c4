"""Workers take a run in turn, killed at every append, while it is paused or cancelled there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from kinds import children, script, steps
from playing import NEVER, NS, Point, World, _clocked, lived

import outlast
from conftest import SOAK
from outlast.events import ControlGiven, Verb
from outlast.journal import PARKED, Commit, Record
from outlast.starting import begin
from outlast.state import ENDED, FINAL
from outlast.telling import tell

FLOWS = {"steps": steps, "children": children}
EVERY = {"steps": 1, "children": 1 if SOAK else 6}
"""Which of the appends are tried, the first always."""


class Told:
    """A journal in which somebody else writes, before or after a certain append."""

    def __init__(self, journal: Any, number: int, where: str, say: Callable[[], None]) -> None:
        self._journal = journal
        self._number, self._where, self._say = number, where, say
        self.appends = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)

    def append(self, commit: Commit) -> tuple[Record, ...]:
        self.appends += 1
        mine = self.appends == self._number
        if mine and self._where == "before append":
            self._say()
        records: tuple[Record, ...] = self._journal.append(commit)
        if mine and self._where == "after append":
            self._say()
        return records


class Taken:
    """A run that workers take in turn, and what came of it."""

    def __init__(self, who: Any, verb: Verb | None, point: Point, *, dies: bool) -> None:
        self.world = World(script)
        self.journal = self.world.journal
        self.who = who
        self.deaths = 0
        self.told = False
        where, number = point
        try:
            with _clocked(self.world):
                begin(self.journal, "r", who, msgspec.Raw(b'"x"'))
            if verb is not None:
                self.world.journal = Told(self.journal, number, where, lambda: self.say(verb))  # type: ignore[assignment]
            run = lived(self.world, self.work, point if dies else NEVER)
            self.appends = 0 if verb is None else self.world.journal.appends  # type: ignore[attr-defined]
            self.world.journal = self.journal
            self.deaths += run is None
            if verb is not None and not self.told:
                self.say(verb)  # nobody drives it
            run = lived(self.world, self.work)
            if verb == "pause" and run.status == "paused":
                assert self.asleep() or self.deaths
                self.say("resume")
                run = lived(self.world, self.work)
            self.run: outlast.Run = run
        finally:
            self.world.loop.close()

    def say(self, verb: Verb) -> None:
        """Tell the run and all below it, as another process does."""
        self.told = True
        told = ControlGiven(verb=verb, by="ada")
        with _clocked(self.world):
            for run_id in ("r", *(row.id for row in self.journal.below("r"))):
                tell(self.journal, run_id, told, strict=False)

    def asleep(self) -> bool:
        rows = self.journal.runs()
        return all(row.status in {"paused", *PARKED, *ENDED} for row in rows)

    async def work(self, app: outlast.Outlast) -> outlast.Run:
        """Do what a worker does: drive it whenever it is due, until it rests."""
        for _ in range(100):
            run = await app._worked("r", self.who)
            if run.status in ENDED or run.status == "paused":
                return run
            wake_at = run.wake_at or 0
            await asyncio.sleep(max(0.001, (wake_at - self.world.clock()) / NS))
        raise AssertionError(f"the run goes round in circles: {run}")


def judge(taken: Taken, whole: Taken) -> None:
    """See what the world saw: nothing twice that must not be, and nothing billed uncharged."""
    world = taken.world
    refused = [answer.fault for answer in world.answers if answer.outcome == "refused"]
    assert not refused
    for what, times in world.ran.items():
        assert times <= (1 if what.startswith("send") else 1 + taken.deaths), what
    assert all(len(keys) == 1 for keys in world.keys.values())
    charged = 0
    for run_id, state in world.states().items():
        assert state.spend.held_nano == 0, f"{run_id} at rest holds {state.spend.held_nano}"
        charged += state.spend.nano
    assert world.model.billed_nano <= charged


def points(whole: Taken) -> Iterator[Point]:
    life = whole.world.life
    assert life is not None
    for number in range(1, life.appends + 1, EVERY[whole.who.name]):
        for where in ("before append", "after append"):
            yield where, number


@pytest.fixture(scope="module", params=FLOWS)
def whole(request: pytest.FixtureRequest) -> Taken:
    """A run that nobody kills and nobody tells anything."""
    world = World(script)
    taken = Taken.__new__(Taken)
    taken.world, taken.journal, taken.who = world, world.journal, FLOWS[request.param]
    taken.deaths = 0
    with _clocked(world):
        begin(world.journal, "r", taken.who, msgspec.Raw(b'"x"'))
    try:
        taken.run = lived(world, taken.work)
    finally:
        world.loop.close()
    assert taken.run.status == "completed"
    return taken


@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize("verb", ["pause", "cancel"])
def test_it_is_told_at_every_point(whole: Taken, verb: Verb, dies: bool) -> None:  # noqa: FBT001
    """A pause ends in the answer there would have been; a cancellation ends it and all below."""
    rested = deaths = 0
    for point in points(whole):
        taken = Taken(whole.who, verb, point, dies=dies)
        deaths += taken.deaths
        try:
            judge(taken, whole)
            states = taken.world.states()
            if verb == "pause":
                assert taken.run.status == "completed", taken.run.why
            else:
                assert taken.run.status in {"cancelled", "completed"}
                rested += taken.run.status == "cancelled"
                left = {name: one.status for name, one in states.items()}
                assert all(one in FINAL or one == "completed" for one in left.values()), left
        except AssertionError as error:
            raise AssertionError(f"{verb} at {point}, dies: {dies}: {error}") from error
    if verb == "cancel":
        assert rested > len(list(points(whole))) // 2
    if dies:
        assert deaths
