"""One thread that commits for every event loop of the process, many appends at a time.

While one group is being made durable the next one gathers, so the more runs there are, the fewer
syncs each of them pays for.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final, Generic, TypeAlias, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_LARGEST: Final = 256
"""Appends in one group: the last of them waits for all the others to be written."""

_Outcome: TypeAlias = "tuple[asyncio.Future[Result], Result | Exception]"


class GroupWriter(Generic[Item, Result]):
    """Writes what is submitted, in order, in groups, on a thread that starts with the first."""

    def __init__(self, write: Callable[[list[Item]], list[Result | Exception]]) -> None:
        self._write = write
        self._queue: SimpleQueue[tuple[Item, asyncio.Future[Result]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._gate = threading.Lock()
        self._closed = False

    def submit(self, item: Item) -> asyncio.Future[Result] | None:
        """Queue `item` and return the future of what comes of it; `None` when closed.

        Cancelling the future does not take the item back: it may be written already.
        """
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        with self._gate:
            if self._closed:
                return None
            self._queue.put((item, future))
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._serve, name="outlast-writer", daemon=True
                )
                self._thread.start()
        return future

    def close(self) -> None:
        """Write everything that was accepted, then end the thread."""
        with self._gate:
            self._closed = True
            thread = self._thread
        if thread is not None:
            self._queue.put(None)
            thread.join()

    def _serve(self) -> None:
        while True:
            first = self._queue.get()
            if first is None:
                return
            group, last = self._gather(first)
            _deliver([future for _, future in group], self._outcomes([item for item, _ in group]))
            if last:
                return

    def _outcomes(self, items: list[Item]) -> list[Result | Exception]:
        try:
            return self._write(items)
        except Exception as error:  # noqa: BLE001  (whoever waits gets it; the thread must live on)
            return [error] * len(items)

    def _gather(
        self, first: tuple[Item, asyncio.Future[Result]]
    ) -> tuple[list[tuple[Item, asyncio.Future[Result]]], bool]:
        """Return everything that waits, and whether nothing will come after it."""
        group = [first]
        try:
            while len(group) < _LARGEST:
                item = self._queue.get_nowait()
                if item is None:
                    return group, True
                group.append(item)
        except Empty:
            pass
        return group, False


def _deliver(futures: list[asyncio.Future[Result]], outcomes: list[Result | Exception]) -> None:
    """Resolve the futures, waking each loop once."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Outcome[Result]]] = {}
    for future, outcome in zip(futures, outcomes, strict=True):
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
