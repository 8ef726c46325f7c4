"""Answers belong to their questions, in whatever order they come, and whoever dies in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import hypothesis
from hypothesis import strategies as st
from kinds import agent
from playing import World, lived

import outlast
from outlast.models import Part, Reply, Request
from outlast.models.script import Turn, last_text, say

MANY = 4
helper, other = agent("helper"), agent("other")


def script(request: dict[str, Any], attempt: int) -> Turn:
    return say(f"re: {last_text(request)}")


class Schedule:
    """Holds back everything that is in flight, and lets go of one thing at a time, as drawn."""

    def __init__(self, picks: list[int]) -> None:
        self.picks = picks
        self.held: dict[str, asyncio.Event] = {}
        self.released: list[str] = []

    async def turn(self, what: str) -> None:
        """Wait for one's turn."""
        self.held[what] = event = asyncio.Event()
        asyncio.get_running_loop().call_later(1, self._release)
        await event.wait()

    def _release(self) -> None:
        # Its order is that of the names: the draw decides, not who came first.
        names = sorted(self.held)
        if names:
            pick = self.picks.pop(0) if self.picks else 0
            name = names[pick % len(names)]
            self.released.append(name)
            self.held.pop(name).set()


class Scheduled(World):
    """A world in which the schedule says what ends when."""

    def __init__(self, picks: list[int], dies_after: int) -> None:
        super().__init__(script)
        self.schedule = Schedule(picks)
        self.dies_after = dies_after
        call = self.model.call

        async def called(request: Request, *, on_part: Callable[[Part], None] | None) -> Reply:
            reply = await call(request, on_part=on_part)
            await self.turn(request.messages[-1].decode())
            return reply

        self.model.call = called  # type: ignore[method-assign]

    async def turn(self, what: str) -> None:
        await self.schedule.turn(what)
        if len(self.schedule.released) == self.dies_after:
            assert self.life is not None
            self.life.dead = True
        assert self.life is not None
        self.life.check()


async def doubled(number: int) -> int:
    world = World.now
    assert isinstance(world, Scheduled)
    await world.turn(f"step {number}")
    return 2 * number


@outlast.flow
async def inner(run: outlast.Run, number: int) -> str:
    """Be a child whose parts are in parallel, too."""
    pair = await asyncio.gather(
        run.ask(helper, f"inner {number} a", name="a"),
        run.ask(helper, f"inner {number} b", name="b"),
    )
    return " ".join(pair)


@outlast.flow
async def outer(run: outlast.Run, word: str) -> list[Any]:
    """Ask, call and have children, all at once; and some of it in conversations."""

    async def talk(name: str) -> list[str]:
        return [
            await run.ask(other, f"{name} {part}", name=f"{name}-{part}", conversation=name)
            for part in range(2)
        ]

    return await asyncio.gather(
        *(run.ask(helper, f"q{n}", name=f"n{n}") for n in range(MANY)),
        *(run.step(f"s{n}", doubled, n, effect="idempotent") for n in range(MANY)),
        run.map(inner, [1, 2]),
        talk("left"),
        talk("right"),
    )


EXPECTED = [
    *(f"re: q{n}" for n in range(MANY)),
    *(2 * n for n in range(MANY)),
    [f"re: inner {n} a re: inner {n} b" for n in (1, 2)],
    *([f"re: {name} {part}" for part in range(2)] for name in ("left", "right")),
]


async def main(app: outlast.Outlast) -> outlast.Run:
    return await app.arun(outer, "x", run_id="r", wait_s=1e6)


@hypothesis.given(
    st.lists(st.integers(0, 11), max_size=30),
    st.lists(st.integers(1, 14), max_size=3),
)
def test_order(picks: list[int], deaths: list[int]) -> None:
    """Whatever ends first, and however often the process dies, no answer is another one's."""
    world = Scheduled(list(picks), 0)
    for after in deaths:
        world.dies_after = len(world.schedule.released) + after
        world.schedule.held.clear()
        if (run := lived(world, main)) is not None:
            break
    else:
        world.dies_after = 0
        world.schedule.held.clear()
        run = lived(world, main)
    assert run.answer == EXPECTED, world.schedule.released
    check(world)
    world.loop.close()


def check(world: Scheduled) -> None:
    refused = [answer.fault for answer in world.answers if answer.outcome == "refused"]
    assert not refused, refused
    for run_id, state in world.states().items():
        assert state.status == "completed", run_id
        assert state.spend.held_nano == 0, run_id


def test_the_schedule_decides() -> None:
    """Two draws let things end in two orders, so the orders above are not one and the same."""
    orders = []
    for picks in ([], [5, 4, 3, 2, 1] * 5):
        world = Scheduled(list(picks), 0)
        assert lived(world, main).answer == EXPECTED
        orders.append(world.schedule.released)
        world.loop.close()
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1]
