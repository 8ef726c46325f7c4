"""An outage of Claude, rehearsed by a simulated clock: who asks when, what is paid, what is held.

    the hand on the clock ──▶ Worker.step ──▶ Outlast, Runner, drive ──▶ the API of this module
             ▲                                        │
             └────── Hourglass: who waits, until when ┘

Everything but Claude and the time is real: the store on a disk, the workers, their event loops.
Time stands still while anybody is at work, and then goes on to when somebody has to be.
"""

from __future__ import annotations

import asyncio
import gc
import heapq
import itertools
import random
import threading
import time
import tracemalloc
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

import outlast
from flow_stubs import NS
from outlast.models import Part, Reply, Request, faults
from outlast.models.script import Turn, last_text, say, text_of, tool_use, turn_number
from outlast.models.scripted import ScriptedModel, failure
from outlast.runner import Runner, Things, first_of
from stubs import MODEL
from worker.worked import BEGAN, Clock, store_at

MINUTE_S: Final = 60
BEFORE_S: Final = 60
"""How long Claude answers at first, in seconds."""

DOWN_S: Final = 30 * MINUTE_S
"""How long each request is then answered with a 529."""

LIMITED_S: Final = 5 * MINUTE_S
"""How long each one is answered with a 429 after that."""

RETRY_AFTER_S: Final = 20
"""What such a 429 asks for."""

LATENCY_S: Final = 1.0
"""How long an answer takes; a refusal comes at once."""

MOST_S: Final = 60 * MINUTE_S
"""How long the runs have to finish once Claude answers again."""

GRAIN_NS: Final = NS // 4
"""Time goes by in steps of this, as for workers on a slow machine."""

PATIENCE_S: Final = 60.0
"""How long anything real may take before a test fails."""

_real_s = time.monotonic


class Hourglass:
    """Wakes who waits for the simulated time, on whichever event loop.

    The leg of a run that waits for nothing else, and a call that takes its time, are *asleep*: when
    as many are as legs are driven, nothing more happens at this moment.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._heap: list[tuple[int, int]] = []
        self._waiting: dict[int, tuple[asyncio.AbstractEventLoop, asyncio.Future[Any], bool]] = {}
        self._asleep: Counter[asyncio.AbstractEventLoop] = Counter()
        self.frozen: set[asyncio.AbstractEventLoop] = set()
        """The loops of the dead, which no time wakes."""

    @property
    def asleep(self) -> int:
        """How many wait for nothing but the time, those of the dead aside."""
        with self._lock:
            return sum(many for loop, many in self._asleep.items() if loop not in self.frozen)

    async def sleep(self, seconds: float) -> None:
        await self.wait(set(), seconds)

    async def wait(self, things: Things, wait_s: float | None) -> Things:
        """Wait as the runner does; see `outlast.runner.Wait`."""
        if wait_s is None:
            return await first_of(things, None)
        loop = asyncio.get_running_loop()
        timer: asyncio.Future[Any] = loop.create_future()
        number = self._put(loop, timer, wait_s, alone=len(things) <= 1)
        try:
            return await first_of({*things, timer}, None) - {timer}
        finally:
            self._drop(number)

    def soonest(self) -> int | None:
        """Return when the first of them is to be woken; `None` is never."""
        with self._lock:
            while self._heap and self._heap[0][1] not in self._waiting:
                heapq.heappop(self._heap)
            return self._heap[0][0] if self._heap else None

    def turn(self) -> None:
        """Wake those whose time has come."""
        woken = []
        with self._lock:
            while self._heap and self._heap[0][0] <= self._clock.now:
                _, number = heapq.heappop(self._heap)
                entry = self._waiting.get(number)
                if entry is not None and entry[0] not in self.frozen:
                    woken.append(self._waiting.pop(number))
                    self._asleep[entry[0]] -= entry[2]
        for loop, timer, _ in woken:
            with suppress(RuntimeError):  # its loop is closed
                loop.call_soon_threadsafe(_let_go, timer)

    def _put(
        self,
        loop: asyncio.AbstractEventLoop,
        timer: asyncio.Future[Any],
        wait_s: float,
        *,
        alone: bool,
    ) -> int:
        with self._lock:
            number = next(self._numbers)
            self._waiting[number] = (loop, timer, alone)
            self._asleep[loop] += alone
            heapq.heappush(self._heap, (self._clock.now + int(wait_s * NS), number))
            return number

    def _drop(self, number: int) -> None:
        with self._lock:
            entry = self._waiting.pop(number, None)
            if entry is not None:
                self._asleep[entry[0]] -= entry[2]


def _let_go(timer: asyncio.Future[Any]) -> None:
    if not timer.done():
        timer.set_result(None)


class Claude:
    """The API: it answers, and does not, by the clock, and knows who asked when.

    Attributes:
        at: when each request came, in nanoseconds since the epoch.
        status: how each was answered.

    """

    def __init__(self, clock: Clock, hourglass: Hourglass) -> None:
        self.at = array("q")
        self.status = array("h")
        self.down_at = BEGAN + BEFORE_S * NS
        self.limited_at = self.down_at + DOWN_S * NS
        self.healed_at = self.limited_at + LIMITED_S * NS
        self._clock = clock
        self._hourglass = hourglass
        self._scripted = ScriptedModel(script, keep_calls=False, clock=clock)
        self._lock = threading.Lock()

    @property
    def bill(self) -> list[Any]:
        return self._scripted.bill

    def key(self) -> str:
        return "whose"

    async def call(self, request: Request, *, on_part: Callable[[Part], None] | None) -> Reply:
        with self._lock:
            now = self._clock.now
            status = self._status(now)
            self.at.append(now)
            self.status.append(status)
            if status == 529:
                raise failure(faults.overloaded(), f"req_{len(self.at)}")
            if status == 429:
                raise failure(faults.rate_limited(RETRY_AFTER_S), f"req_{len(self.at)}")
            # It does not wait, so the lock is held for as long as it thinks.
            reply = await self._scripted.call(request, on_part=None)
        await self._hourglass.sleep(LATENCY_S)
        return reply

    def _status(self, now: int) -> int:
        if now < self.down_at or now >= self.healed_at:
            return 200
        return 529 if now < self.limited_at else 429

    def asked(self, since: int, until: int) -> int:
        """Return how many requests came in that time."""
        return sum(since <= at < until for at in self.at)


def script(request: dict[str, Any], _attempt: int) -> Turn:
    """Use the tool that the question wants, and answer with the question."""
    asked = text_of(request["messages"][0]["content"])
    if turn_number(request) == 1 and (waits_s := asked.partition(" look ")[2]):
        return say(tool_use("look", {"seconds": float(waits_s)}))
    return say(f"re: {asked if turn_number(request) > 1 else last_text(request)}")


def _runs(hourglass: Hourglass) -> tuple[outlast.Agent, outlast.Flow[..., Any]]:
    """Return an agent and a flow whose runs are in flight for long."""

    @outlast.tool(effect="idempotent")
    async def look(seconds: float) -> str:
        """Look for so many seconds."""
        await hourglass.sleep(seconds)
        return "seen"

    asker = outlast.Agent("asker", model=MODEL, tools=[look], max_tokens=256)

    @outlast.flow
    async def pausing(run: outlast.Run, given: tuple[str, float]) -> str:
        """Ask, sleep without a process, and ask again."""
        word, seconds = given
        await run.ask(asker, f"{word} first")
        await run.sleep(seconds)
        return str(await run.ask(asker, f"{word} second"))

    return asker, pausing


class Sample(NamedTuple):
    """What is held in memory at a moment."""

    at: int
    legs: int
    tasks: int
    traced: int


class Fleet:
    """Workers on one store, each with an application of its own, led by one clock."""

    def __init__(self, clock: Clock, hourglass: Hourglass, claude: Claude, path: Path) -> None:
        self.clock = clock
        self.claude = claude
        self.samples: list[Sample] = []
        self.apps: list[outlast.Outlast] = []
        self.workers: list[outlast.Worker] = []
        self._hourglass = hourglass
        self._path = path
        self._who = _runs(hourglass)

    def hire(self, at_once: int) -> None:
        """Let one more worker work."""
        app = outlast.Outlast(store_at(self._path), model=self.claude)
        self.apps.append(app)
        self.workers.append(outlast.Worker(app, self._who, at_once=at_once))

    def kill(self) -> int:
        """Let the first worker and what it drives stand still for ever; return how much that is.

        In one process a lock does not end with whoever held it, so this is the worse case: others
        learn of it by its lease.  A thread of the dead may tell its runs that they were taken; then
        the fence keeps them from going on.
        """
        dead, app = self.workers.pop(0), self.apps[0]
        loop = app._background._loop
        assert loop is not None
        self._hourglass.frozen.add(loop)
        return len(dead._driven)

    def begin(self, many: int) -> int:
        """Start runs that are everywhere when the outage begins; return the turns they take in all.

        A quarter each waits for a tool, is a parked flow, is asking just then, or is about to.
        """
        turns = 0
        asker, pausing = self._who
        chance = random.Random(7)  # noqa: S311  (the same each time)
        for n in range(many):
            until_s = BEFORE_S + chance.uniform(5, 5 * MINUTE_S)
            starts_s = chance.uniform(0, BEFORE_S / 2)
            name = f"r{n}"
            app = self.apps[n % len(self.apps)]
            match n % 4:
                case 0:
                    wanted = f"{name} look {until_s - starts_s:.3f}"
                    app.start(asker, wanted, run_id=name, run_at=self.clock.after(starts_s))
                case 1:
                    until_s = BEFORE_S + chance.uniform(5, DOWN_S + 0.9 * LIMITED_S)
                    given = (name, until_s - starts_s)
                    app.start(pausing, given, run_id=name, run_at=self.clock.after(starts_s))
                case 2:
                    at_s = BEFORE_S - chance.uniform(0, 3 * LATENCY_S)
                    wanted = f"{name} look 0.5"
                    app.start(asker, wanted, run_id=name, run_at=self.clock.after(at_s))
                case _:
                    at_s = BEFORE_S + chance.uniform(0, BEFORE_S)
                    app.start(asker, name, run_id=name, run_at=self.clock.after(at_s))
            turns += 1 if n % 4 == 3 else 2
        return turns

    def live(self, until: int, *, sample_s: float = 0.0) -> None:
        """Let all workers live until then, or until there is nothing more to come."""
        sample_at = self.clock.now
        while True:
            wait_s = self._settle()
            if sample_s and self.clock.now >= sample_at:
                self.samples.append(self._sample())
                sample_at = self.clock.now + int(sample_s * NS)
            if self.clock.now >= until or self._is_over():
                return
            soonest = self.clock.now + int(wait_s * NS)
            if (waking := self._hourglass.soonest()) is not None:
                soonest = min(soonest, waking)
            soonest = max(soonest, self.clock.now + 1)
            self.clock.now = min(-(-soonest // GRAIN_NS) * GRAIN_NS, until)
            self._hourglass.turn()

    def _settle(self) -> float:
        """Let everybody do what is to be done at this moment; return how long they would wait."""
        give_up_at = _real_s() + PATIENCE_S
        while True:
            seen = [worker._nudges for worker in self.workers]
            wait_s = min(worker.step(self.clock.moment()) for worker in self.workers)
            driven = sum(len(worker._driven) for worker in self.workers)
            if not driven and seen == [worker._nudges for worker in self.workers]:
                return wait_s
            while not self._rests():
                assert _real_s() < give_up_at, f"{driven} runs do not come to a rest"
                time.sleep(0.0005)
            if seen == [worker._nudges for worker in self.workers]:
                return wait_s

    def _rests(self) -> bool:
        """Return whether all that is driven waits for the time."""
        for _ in range(2):  # who was called meanwhile is not asleep any more after a turn
            driven = sum(len(worker._driven) for worker in self.workers)
            if self._hourglass.asleep != driven:
                return False
            self._turn_loops()
        return True

    def _turn_loops(self) -> None:
        for app in self.apps:
            loop = app._background._loop
            if loop is not None and loop not in self._hourglass.frozen:
                asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(PATIENCE_S)

    def _is_over(self) -> bool:
        at_work = any(worker._driven or worker.wake_at for worker in self.workers)
        return self.clock.now > self.claude.healed_at and not at_work

    def _sample(self) -> Sample:
        traced = 0
        if tracemalloc.is_tracing():
            gc.collect()
            traced = tracemalloc.get_traced_memory()[0]
        loops = {app: app._background._loop for app in self.apps}
        living = [app for app in self.apps if loops[app] not in self._hourglass.frozen]
        tasks = sum(len(asyncio.all_tasks(loops[app])) for app in living if loops[app] is not None)
        legs = sum(len(app._own.live) for app in living)
        return Sample(self.clock.now, legs, tasks, traced)


@contextmanager
def fleet(path: Path) -> Iterator[Fleet]:
    """Give a fleet without workers, on an empty store."""
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock(patch)
        hourglass = Hourglass(clock)
        patch.setitem(Runner.__init__.__kwdefaults__, "wait", hourglass.wait)
        made = Fleet(clock, hourglass, Claude(clock, hourglass), path)
        try:
            yield made
        finally:
            for app in made.apps:
                app.close()


# ── what others would have done ─────────────────────────────────────────────────────────────────


def naive(clients: int, *, retries: int | None = 2) -> int:
    """Return how many requests clients send during the outage that retry as an SDK does.

    Each is `while True: try: ask() except: pass` around Anthropic's SDK as it comes: two retries,
    after 0.5 s and 1 s, less up to a quarter, or after `retry-after`; then the next round at once.
    With `retries=None` it retries for ever, up to 8 s apart, which few people configure.
    Clients know nothing of each other, so twenty are counted, and scaled.
    """
    counted = 20
    chance = random.Random(11)  # noqa: S311  (the same each time)
    sent = 0
    for _ in range(counted):
        at, tried = chance.uniform(0, 5), 0
        while at < DOWN_S + LIMITED_S:
            sent += 1
            if tried == retries:
                tried = 0
                at += 0.01  # what a refusal takes to come
                continue
            backoff_s = min(0.5 * 2 ** min(tried, 10), 8.0) * (1 - 0.25 * chance.random())
            at += 0.01 + (backoff_s if at < DOWN_S else RETRY_AFTER_S)
            tried += 1
    return sent * clients // counted
