"""Puts calls that are made at about the same time into one batch, and waits for batches to end.

    submit ─┐                                              fetch ─┐
    submit ─┼─▶ a moment ──▶ one batch ──▶ its id          fetch ─┴─▶ one poll ──▶ the results
    submit ─┘

Which call is in which batch is written down by whoever submits; nothing here outlives a process.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Coroutine, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from outlast.calls import words
from outlast.errors import BatchNotFetched, ModelFailure
from outlast.events import RETRYABLE
from outlast.models import Batcher, Model, Reply, Request
from outlast.models.batches import MOST, MOST_BYTES, custom_id

GROWTH: Final = 1.5
"""How much longer than before it is waited after each poll."""

LONGEST_S: Final = 3_600.0
"""The longest that the API is believed which asks to wait with the next poll."""

KEPT: Final = 4
"""Of how many batches results are kept that nobody asked for yet."""


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """When batches are sent, and how often it is asked whether they have ended.

    Attributes:
        quiet_s: a batch is sent when no call came for so long.
        longest_s: or when its first call has waited for so long.
        most: or when it has so many calls.
        first_s: so long after a batch was accepted it is asked for the first time, and then ever
            less often.
        slowest_s: it is waited for no longer than this between two polls.
        failures: after so many polls in a row that failed for a reason that may pass, the wait is
            given up, and the run stays where it is.

    """

    quiet_s: float = 1.0
    longest_s: float = 15.0
    most: int = MOST
    first_s: float = 1.0
    slowest_s: float = 60.0
    failures: int = 60


class Place(NamedTuple):
    """Where the result of a call will be."""

    batch_id: str
    custom_id: str


Came: TypeAlias = Reply | ModelFailure
"""What came of one call of a batch."""


class Batches:
    """The batches of one model; calls may come from several event loops.

    Attributes:
        pace: see there.

    """

    def __init__(self, model: Model, pace: Pace | None = None) -> None:
        self._model = model
        self.pace = pace or Pace()
        self._desks: dict[asyncio.AbstractEventLoop, _Desk] = {}

    @property
    def flaw(self) -> str:
        """Why the model cannot take batches; empty when it can."""
        if isinstance(self._model, Batcher):
            return self._model.no_batches()
        return f"{type(self._model).__name__} has no send_batch"

    async def submit(self, request: Request) -> Place:
        """Send a request with others in one batch, and return its place once that is accepted.

        Raises:
            ModelFailure: it was not accepted, or nobody knows.

        """
        return await self._desk().submit(request)

    async def fetch(self, place: Place) -> Reply:
        """Return the reply that is at a place, once its batch has ended.

        Raises:
            ModelFailure: there is none, and why.
            BatchNotFetched: it is not to be learned; it may be there all the same.

        """
        came = await self._desk().fetch(place)
        if isinstance(came, ModelFailure):
            raise came
        return came

    def _desk(self) -> _Desk:
        # Futures belong to the loop they are awaited on; loops that ended are forgotten.
        loop = asyncio.get_running_loop()
        if loop not in self._desks:
            self._desks = {each: desk for each, desk in self._desks.items() if not each.is_closed()}
            if not isinstance(self._model, Batcher) or self.flaw:
                raise ModelFailure("not_found", f"nothing was sent: {self.flaw}")
            self._desks[loop] = _Desk(self._model, self, loop)
        return self._desks[loop]


class _Letter(NamedTuple):
    request: Request
    place: asyncio.Future[Place]

    @property
    def size(self) -> int:
        return len(self.request.head) + sum(map(len, self.request.messages))


class _Desk:
    """The batches of one event loop."""

    def __init__(self, model: Batcher, owner: Batches, loop: asyncio.AbstractEventLoop) -> None:
        self._model = model
        self._owner = owner
        self._loop = loop
        self._letters: dict[str, _Letter] = {}
        self._news = asyncio.Event()
        self._gathering = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._polls: dict[str, _Poll] = {}
        self._unasked: dict[str, dict[str, Came]] = {}
        """What came of calls that nobody asked for yet, of the last batches that ended."""

    # ── sending ─────────────────────────────────────────────────────────────────────────────────

    async def submit(self, request: Request) -> Place:
        name = custom_id(request.run_id, request.call_id)
        letter = _Letter(request, self._loop.create_future())
        self._letters[name] = letter
        self._news.set()
        self._gather()
        try:
            return await letter.place
        finally:
            self._letters.pop(name, None)  # given up before it was sent

    def _gather(self) -> None:
        if not self._gathering:
            self._gathering = True
            self._start(self._gathered())

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)  # the loop itself keeps no task alive
        task.add_done_callback(self._tasks.discard)
        return task

    async def _gathered(self) -> None:
        """Wait for a moment without a call, and send what has come."""
        pace = self._owner.pace
        end = self._loop.time() + pace.longest_s
        try:
            while len(self._letters) < pace.most:
                self._news.clear()
                async with asyncio.timeout_at(min(end, self._loop.time() + pace.quiet_s)):
                    await self._news.wait()
        except TimeoutError:
            pass
        self._gathering = False
        letters = self._taken(pace.most)
        if self._letters:
            self._gather()
        if letters:
            await self._send(letters)

    def _taken(self, most: int) -> dict[str, _Letter]:
        """Take as many calls as fit into one batch, oldest first."""
        taken: dict[str, _Letter] = {}
        size = 0
        for name, letter in self._letters.items():
            size += letter.size
            if len(taken) >= most or (taken and size > MOST_BYTES):
                break
            taken[name] = letter
        for name in taken:
            del self._letters[name]
        return taken

    async def _send(self, letters: Mapping[str, _Letter]) -> None:
        requests = {name: letter.request for name, letter in letters.items()}
        try:
            batch_id = await self._model.send_batch(requests)
        except Exception as error:  # noqa: BLE001  (each call has to have an outcome, whatever broke)
            for letter in letters.values():
                if not letter.place.done():
                    letter.place.set_exception(copy.copy(_failure(error)))
            return
        for name, letter in letters.items():
            if not letter.place.done():
                letter.place.set_result(Place(batch_id, name))

    # ── fetching ────────────────────────────────────────────────────────────────────────────────

    async def fetch(self, place: Place) -> Came:
        unasked = self._unasked.get(place.batch_id, {})
        if place.custom_id in unasked:
            return unasked.pop(place.custom_id)
        poll = self._polls.get(place.batch_id)
        if poll is None:
            poll = self._polls[place.batch_id] = _Poll()
            poll.task = self._start(self._polled(place.batch_id, poll))
        came: asyncio.Future[Came] = self._loop.create_future()
        poll.waiting[place.custom_id] = came
        try:
            return await came
        finally:
            poll.waiting.pop(place.custom_id, None)
            if not poll.waiting and self._polls.get(place.batch_id) is poll:
                del self._polls[place.batch_id]
                assert poll.task is not None, "a poll that was never begun"  # noqa: S101
                poll.task.cancel()  # nobody waits any more

    async def _polled(self, batch_id: str, poll: _Poll) -> None:
        """Ask, ever less often, until the batch has ended; then let everybody have a result."""
        results: dict[str, Came] = {}
        wrong: BatchNotFetched | None = None
        try:
            results = await self._results(batch_id)
        except Exception as error:  # noqa: BLE001  (raised to everybody who waits)
            wrong = BatchNotFetched(batch_id, _failure(error))
        self._polls.pop(batch_id, None)
        for name, came in poll.waiting.items():
            if came.done():
                continue
            if wrong is not None:
                came.set_exception(copy.copy(wrong))
            else:
                came.set_result(results.pop(name) if name in results else _missing(batch_id))
        self._keep(batch_id, results)

    def _keep(self, batch_id: str, results: dict[str, Came]) -> None:
        """Keep what others may ask for in a moment, as after a crash they do one by one."""
        self._unasked.pop(batch_id, None)
        if results:
            self._unasked[batch_id] = results
        while len(self._unasked) > KEPT:
            del self._unasked[next(iter(self._unasked))]

    async def _results(self, batch_id: str) -> dict[str, Came]:
        pace = self._owner.pace
        wait_s, failures, ended = pace.first_s, 0, False
        while True:
            await asyncio.sleep(wait_s)
            wait_s = min(GROWTH * wait_s, pace.slowest_s)
            try:
                ended = ended or await self._model.batch_ended(batch_id)
                if ended:
                    return dict(await self._model.batch_results(batch_id))
                failures = 0
            except ModelFailure as failure:
                failures += 1
                if failure.kind not in RETRYABLE or failures >= pace.failures:
                    raise
                wait_s = max(wait_s, min(failure.retry_after_s or 0.0, LONGEST_S))


class _Poll:
    """Who waits for the end of one batch."""

    def __init__(self) -> None:
        self.waiting: dict[str, asyncio.Future[Came]] = {}
        self.task: asyncio.Task[None] | None = None


def _failure(error: Exception) -> ModelFailure:
    if isinstance(error, ModelFailure):
        return error
    return ModelFailure("bug", f"{type(error).__name__}: {words(error)}")


def _missing(batch_id: str) -> ModelFailure:
    # It may have been answered, and billed.
    return ModelFailure("malformed", f"batch {batch_id} has ended, and has no result of this call")
