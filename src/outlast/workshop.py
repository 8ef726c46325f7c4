"""Where a worker calls the asynchronous functions of tools and steps: in threads of their own.

A function that blocks its event loop, such as by `time.sleep` in an `async def`, blocks nothing
else: runs are driven on another loop, and once a loop of the workshop does not answer for a second,
calls go to a new one.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Final, Protocol, TypeVar

T = TypeVar("T")

BLOCKED_S: Final = 1.0
"""A loop that has not moved for so long is blocked, in seconds."""

MOVES_S: Final = 0.2
"""How often a loop with work says that it moves."""

PATIENCE_S: Final = 4.0
"""How long work that is cancelled may take to end."""

_LOG: Final = logging.getLogger("outlast.worker")


class Shop(Protocol):
    """Runs coroutines somewhere else."""

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what `work` comes to."""
        ...


class Checked:
    """A shop in which everything is checked once more when its turn has come.

    Args:
        shop: where it is done.
        check: raises where it is not to be begun any more.

    """

    def __init__(self, shop: Shop, check: Callable[[], None]) -> None:
        self._shop = shop
        self._check = check

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what `work` comes to, or raise what `check` raises."""

        async def begun() -> T:
            try:
                self._check()
            except BaseException:
                work.close()
                raise
            return await work

        return await self._shop.run(named(begun(), getattr(work, "__qualname__", "")))


def named(work: Coroutine[Any, Any, T], name: str) -> Coroutine[Any, Any, T]:
    """Give a coroutine the name by which a loop that it blocks is spoken of."""
    with suppress(AttributeError, TypeError):
        work.__qualname__ = name  # type: ignore[attr-defined]
    return work


class Workshop:
    """Runs coroutines on loops that may be blocked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._benches: list[_Bench] = []
        self._closed = False

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what `work` comes to; it sees the context variables of whoever calls this.

        A cancellation is passed on, and waited for a few seconds: a loop that is blocked does not
        hear of it.  After `close`, it is done where it is called.
        """
        bench = self._bench()
        if bench is None:
            return await work
        future = bench.begin(work)
        came = asyncio.wrap_future(future)
        try:
            while not (await asyncio.wait({came}, timeout=BLOCKED_S))[0] and bench.waits(future):
                if bench.is_blocked() and bench.take_back(future):
                    if (other := self._bench()) is None:
                        return await work
                    bench, future = other, other.begin(work)
                    came = asyncio.wrap_future(future)
            return await asyncio.shield(came)
        except asyncio.CancelledError:
            if bench.take_back(future):
                work.close()  # it was not started, and is not to be when the loop moves again
            elif not came.done():
                bench.give_up(future)
                await asyncio.wait({came}, timeout=PATIENCE_S)
            if came.done() and not came.cancelled():
                came.exception()  # it was looked at
            raise

    def close(self) -> None:
        """End every loop; what is blocked ends with the process."""
        with self._lock:
            self._closed = True
            benches, self._benches = self._benches, []
        for bench in benches:
            bench.close()

    def _bench(self) -> _Bench | None:
        with self._lock:
            if self._closed:
                return None
            free = next((one for one in self._benches if not one.is_blocked()), None)
            if free is None:
                if self._benches:
                    _LOG.warning(
                        "a tool blocks its event loop: %s; calls go on in another thread. Make "
                        "the tool a plain function, or await what takes time",
                        ", ".join(self._benches[-1].names()) or "its name is not known",
                    )
                free = _Bench()
                self._benches.append(free)
            return free


class _Bench:
    """A loop in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._moved = time.monotonic()
        self._work: dict[Future[Any], asyncio.Task[Any] | None] = {}
        self._begun: dict[Future[Any], str] = {}
        self._waiting: dict[Future[Any], Coroutine[Any, Any, Any]] = {}
        """What was not started yet: whoever takes it out has it."""
        thread = threading.Thread(target=self._serve, name="outlast-workshop", daemon=True)
        thread.start()

    def is_blocked(self) -> bool:
        return bool(self._begun) and time.monotonic() - self._moved > BLOCKED_S

    def names(self) -> list[str]:
        return sorted(set(self._begun.values()))

    def begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        future: Future[T] = Future()
        context = contextvars.copy_context()
        if not self._begun:
            self._moved = time.monotonic()
        self._begun[future] = getattr(work, "__qualname__", "")
        self._waiting[future] = work
        self._loop.call_soon_threadsafe(self._start, future, context=context)
        return future

    def waits(self, future: Future[Any]) -> bool:
        return future in self._waiting

    def take_back(self, future: Future[Any]) -> bool:
        """Return whether work was not started, and will not be here any more."""
        if self._waiting.pop(future, None) is None:
            return False
        self._begun.pop(future, None)
        return True

    def give_up(self, future: Future[Any]) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._cancel, future)

    def close(self) -> None:
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._loop.stop)

    def _start(self, future: Future[T]) -> None:
        if future not in self._waiting:
            return  # it was taken back
        task = self._work[future] = self._loop.create_task(self._begun_here(future))
        task.add_done_callback(lambda done: self._end(future, done))
        if len(self._work) == 1:
            self._move()

    async def _begun_here(self, future: Future[T]) -> _Outcome[T]:
        # Only now: a task may have to wait for one that blocks before it does anything.
        work = self._waiting.pop(future, None)
        if work is None:
            return None, asyncio.CancelledError()  # it was taken back, and nobody waits for this
        return await _outcome(work)

    def _move(self) -> None:
        self._moved = time.monotonic()
        if self._work:
            self._loop.call_later(MOVES_S, self._move)

    def _cancel(self, future: Future[Any]) -> None:
        task = self._work.get(future)
        if task is not None:
            task.cancel()

    def _end(self, future: Future[T], task: asyncio.Task[_Outcome[T]]) -> None:
        self._work.pop(future, None)
        self._begun.pop(future, None)
        if (work := self._waiting.pop(future, None)) is not None:
            work.close()
        if task.cancelled():
            future.cancel()
        elif (outcome := task.result())[1] is not None:
            future.set_exception(outcome[1])
        else:
            future.set_result(outcome[0])

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            if tasks:
                self._loop.run_until_complete(asyncio.wait(tasks, timeout=PATIENCE_S))
        finally:
            self._loop.close()


_Outcome = tuple[T, None] | tuple[None, BaseException]


async def _outcome(work: Coroutine[Any, Any, T]) -> _Outcome[T]:
    """Return what work comes to, or raises: `SystemExit` would end the loop for everybody."""
    try:
        return await work, None
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001  (raised to whoever called)
        return None, error
