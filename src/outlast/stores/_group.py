"""One thread that commits for every event loop of the process, many appends at a time.

While one group is being made durable the next one gathers, so the more runs there are, the fewer
syncs each of them pays for.  A loop hands over what its tasks append once per turn of the loop, not
one by one: the thread would wake for the first, and have to wait for the interpreter as long as the
others are still at it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final, Generic, TypeAlias, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_LARGEST: Final = 512
"""Appends after which a group takes no more: the first of them waits for the last."""

_Entry: TypeAlias = "tuple[Item, asyncio.Future[Result]]"
_Outcome: TypeAlias = "tuple[asyncio.Future[Result], Result | Exception]"


class GroupWriter(Generic[Item, Result]):
    """Writes what is submitted, in order, in groups, on a thread that starts with the first."""

    def __init__(self, write: Callable[[list[Item]], list[Result | Exception]]) -> None:
        self._write = write
        self._gate = threading.Lock()
        self._gathering: list[_Entry[Item, Result]] = []
        self._loops: set[asyncio.AbstractEventLoop] = set()
        self._queue: SimpleQueue[list[_Entry[Item, Result]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, item: Item) -> asyncio.Future[Result] | None:
        """Accept `item` and return the future of what comes of it; `None` when closed.

        Cancelling the future does not take the item back.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        with self._gate:
            if self._closed:
                return None
            self._gathering.append((item, future))
            if loop not in self._loops:
                self._loops.add(loop)
                loop.call_soon(self._hand_over, loop)
        return future

    def close(self) -> None:
        """Write everything that was accepted, then end the thread."""
        with self._gate:
            self._closed = True
            self._put()
            self._queue.put(None)
        if self._thread is not None:
            self._thread.join()

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._gate:
            self._loops.discard(loop)
            self._put()

    def _put(self) -> None:
        if not self._gathering:
            return
        self._queue.put(self._gathering)
        self._gathering = []
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="outlast-writer", daemon=True)
            self._thread.start()

    def _serve(self) -> None:
        last = False
        while not last:
            group, last = self._gather()
            if group:
                _deliver(group, self._outcomes([item for item, _ in group]))

    def _gather(self) -> tuple[list[_Entry[Item, Result]], bool]:
        """Wait for a group; return all that is there by then, and whether it is the last."""
        entries = self._queue.get()
        group: list[_Entry[Item, Result]] = []
        try:
            while entries is not None:
                group += entries
                if len(group) >= _LARGEST:
                    return group, False
                entries = self._queue.get_nowait()
        except Empty:
            return group, False
        return group, True

    def _outcomes(self, items: list[Item]) -> list[Result | Exception]:
        try:
            return self._write(items)
        except Exception as error:  # noqa: BLE001  (whoever waits gets it; the thread must live on)
            return [error] * len(items)


def _deliver(group: list[_Entry[Item, Result]], outcomes: list[Result | Exception]) -> None:
    """Resolve the futures, waking each loop once."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Outcome[Result]]] = {}
    for (_, future), outcome in zip(group, outcomes, strict=True):
        by_loop.setdefault(future.get_loop(), []).append((future, outcome))
    for loop, resolved in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, resolved)
        except RuntimeError:
            # The loop was closed in the meantime; the appends are written all the same.
            continue


def _resolve(resolved: list[_Outcome[Result]]) -> None:
    for future, outcome in resolved:
        if future.done():
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
