"""A worker is led by hand: its clocks stand still until a test moves them.

The runs themselves go on in real time, on the application's own loop; what they sleep is parked.
"""

from __future__ import annotations

import contextvars
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest

import outlast
from flow_stubs import NS, echo
from outlast import worker as worker_module
from outlast.models.scripted import ScriptedModel
from outlast.runner import Runner
from outlast.stores.sqlite import SqliteJournal
from outlast.worker import Worker

BEGAN: Final = 1_800_000_000 * NS
PATIENCE_S: Final = 30.0
"""How long anything real may take before a test fails."""

_real_s = time.monotonic


class Clock:
    """The time of every application and worker, which moves when it is told to.

    By `skew` each worker, and what it drives, may have another time than others; the monotonic
    clock is the same for all.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = BEGAN
        self._skew: contextvars.ContextVar[int] = contextvars.ContextVar("skew", default=0)
        clock = SimpleNamespace(time_ns=self, monotonic=self.moment, sleep=time.sleep)
        patch.setattr(time, "time_ns", self)
        patch.setattr(worker_module, "time", clock)
        patch.setitem(Runner.__init__.__kwdefaults__, "clock", self)

    def __call__(self) -> int:
        """Return nanoseconds since the epoch, by the clock of whoever asks."""
        return self.now + self._skew.get()

    def moment(self) -> float:
        """Return seconds of the monotonic clock."""
        return (self.now - BEGAN) / NS + 1_000.0

    def jump(self, seconds: float) -> None:
        self.now += int(seconds * NS)

    @contextmanager
    def skewed(self, seconds: float) -> Iterator[None]:
        token = self._skew.set(int(seconds * NS))
        try:
            yield
        finally:
            self._skew.reset(token)

    def after(self, seconds: float) -> datetime:
        """Return a time to come, as an application is given it."""
        return datetime.fromtimestamp((self.now + int(seconds * NS)) / NS, UTC)


class World:
    """What the functions of flows did, which no journal can say otherwise."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.acts: list[tuple[str, int]] = []
        self.at_work = self.most_at_work = 0

    def act(self, what: str) -> None:
        self.acts.append((what, time.time_ns()))

    def counted(self) -> Counter[str]:
        return Counter(what for what, _ in self.acts)


WORLD: Final = World()


@outlast.flow
async def once(run: outlast.Run, word: str) -> str:
    """Act at once, or when it is time."""
    WORLD.at_work += 1
    WORLD.most_at_work = max(WORLD.most_at_work, WORLD.at_work)
    WORLD.act(word)
    WORLD.at_work -= 1
    return word


@outlast.flow
async def naps(run: outlast.Run, given: tuple[str, int, float]) -> str:
    """Act, and sleep, and act again, so many times."""
    word, times, sleep_s = given
    for n in range(times):
        await run.sleep(sleep_s)
        await run.step(f"act-{n}", _act, f"{word}.{n}")  # once, however often the flow is replayed
    return word


async def _act(what: str) -> None:
    WORLD.act(what)


def store_at(path: Path) -> SqliteJournal:
    """Open a store that no power loss will come to."""
    return SqliteJournal(path, synchronous="OFF")


def app_at(journal: Any, **more: Any) -> outlast.Outlast:
    return outlast.Outlast(journal, model=ScriptedModel(echo), **more)


def until(true: Callable[[], object], what: str = "it") -> None:
    """Wait for something that real threads do."""
    give_up_at = _real_s() + PATIENCE_S
    while not true():
        assert _real_s() < give_up_at, f"{what} never came"
        time.sleep(0.001)


def settle(worker: Worker, clock: Clock) -> float:
    """Let a worker do all that is to be done at this moment; return how long it would wait."""
    give_up_at = _real_s() + 2 * PATIENCE_S
    while True:
        seen = worker._nudges
        wait_s = worker.step(clock.moment())
        if not worker.driven() and seen == worker._nudges:
            return wait_s
        while worker.driven() and seen == worker._nudges:
            assert _real_s() < give_up_at, f"{worker.driven()} do not come to a rest"
            time.sleep(0.0005)


def live(worker: Worker, clock: Clock, seconds: float) -> int:
    """Let a worker live on its clock for so long; return how many steps it made."""
    ends, steps = clock.now + int(seconds * NS), 0
    while True:
        wait_s = settle(worker, clock)
        steps += 1
        if clock.now >= ends:
            return steps
        clock.now = min(clock.now + int(wait_s * NS), ends)
