"""An event loop in a thread of its own.

With it, synchronous calls work wherever they are made: in scripts, in web servers, and in
notebooks, where a loop is running already.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import suppress
from typing import Any, Generic, TypeVar

from outlast.errors import UsageError

T = TypeVar("T")


class Background:
    """A loop that starts on first use and ends with `close`, or with the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()
        self._waiting: set[Future[Any]] = set()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` on the loop and return its result; an interrupt cancels it first.

        Raises:
            UsageError: called on this loop itself, which would wait for itself for ever; or in a
                process that was forked, where the loop has no thread.

        """
        if os.getpid() != self._pid:
            work.close()
            raise UsageError(
                f"this application was made by process {self._pid}, and process {os.getpid()} was "
                "forked from it; make another one after the fork"
            )
        if threading.current_thread() is self._thread:
            work.close()
            raise UsageError(
                "a synchronous call was made on the loop that would have to serve it, perhaps by "
                "an async tool; use the async one there: await app.arun(…), await app.aresume(…)"
            )
        loop, call = self._started(), _Call(work)
        try:
            future = asyncio.run_coroutine_threadsafe(call.made(), loop)
            self._waiting.add(future)
            future.add_done_callback(self._waiting.discard)
            return future.result()
        except CancelledError:
            raise _closed() from None
        except BaseException:
            # Ctrl-C arrives here, in the caller's thread, and the work has to end before it goes
            # on: otherwise it would start another effect.  It may arrive before there is a future.
            if not call.ended:
                loop.call_soon_threadsafe(call.give_up)
                self._settle()
            raise

    def begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Let `work` run on the loop, and return its future at once."""
        future = asyncio.run_coroutine_threadsafe(work, self._started())
        self._waiting.add(future)
        future.add_done_callback(self._waiting.discard)
        return future

    def _settle(self) -> None:
        """Wait until cancelled work has let go, at most five seconds."""
        loop = self._started()

        async def others() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            if tasks:
                await asyncio.wait(tasks, timeout=4)

        try:
            asyncio.run_coroutine_threadsafe(others(), loop).result(timeout=5)
        except TimeoutError:
            return  # a tool that ignores its cancellation; the journal is sound all the same

    def owns(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Return whether `loop` is this one."""
        return loop is self._loop

    def close(self, farewell: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        """Cancel what still runs and end the loop, with `farewell` as the last it does."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None or os.getpid() != self._pid:
            return
        if farewell is not None:
            with suppress(TimeoutError):
                asyncio.run_coroutine_threadsafe(farewell(), loop).result(timeout=5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=5)
        for future in list(self._waiting):
            # What ignores that it is cancelled must not keep its caller waiting for ever.
            with suppress(InvalidStateError):
                future.set_exception(_closed())

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=_serve, args=(self._loop,), name="outlast-loop", daemon=True
                )
                self._thread.start()
            return self._loop


class _Call(Generic[T]):
    """Work that can be given up from the moment it is named, begun or not."""

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self.ended = False
        self._work = work
        self._given_up = False
        self._task: asyncio.Task[Any] | None = None

    async def made(self) -> T:
        """Do the work."""
        self._task = asyncio.current_task()
        try:
            if self._given_up:
                self._work.close()
                raise asyncio.CancelledError
            return await self._work
        finally:
            self.ended = True

    def give_up(self) -> None:
        """Cancel the work; called on the loop."""
        self._given_up = True
        if self._task is not None:
            self._task.cancel()


def _closed() -> UsageError:
    return UsageError(
        "the application was closed while this call was under way; what it had written is safe, "
        "and the same call on a new application goes on"
    )


def _run(loop: asyncio.AbstractEventLoop) -> None:
    """Run a loop until it is stopped; whatever gets that far leaves it running for the others."""
    while True:
        try:
            loop.run_forever()
        except (SystemExit, KeyboardInterrupt):
            continue  # asyncio lets these out of a task, which has them as its result
        return


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    # What is imported by now lives as long as the process: the collector need not walk it at
    # every full collection, which would show as pauses of milliseconds.  Once only, because what
    # is frozen is never collected, and a process may open many applications.
    if not gc.get_freeze_count():
        gc.freeze()
    asyncio.set_event_loop(loop)
    try:
        _run(loop)
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            # Not for ever: a tool may ignore that it is cancelled.
            loop.run_until_complete(asyncio.wait(tasks, timeout=7))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
