"""Puts calls that are made at about the same time into one batch, and waits for batches to end.

    submit ─┐                                              fetch ─┐
    submit ─┼─▶ a moment ──▶ one batch ──▶ its id          fetch ─┴─▶ one look ──▶ the results
    submit ─┘                                                    │
                                                                 └─ not yet ──▶ the next look

Which call is in which batch is written down by whoever submits; nothing here outlives a process.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from outlast.calls import words
from outlast.errors import BatchNotFetched, ModelFailure
from outlast.events import RETRYABLE
from outlast.models import Batcher, Model, Reply, Request
from outlast.models.batches import MOST, MOST_BYTES, custom_id

NS: Final = 1_000_000_000

LONGEST_S: Final = 3_600.0
"""The longest that the API is believed which asks to wait with the next look."""

KEPT: Final = 4
"""Of how many batches results are kept that nobody asked for yet."""

KNOWN: Final = 1_000
"""Of how many batches it is remembered when the next look is though nobody waits here."""


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """When batches are sent, and how often it is asked whether they have ended.

    Attributes:
        quiet_s: a batch is sent when no call came for so long.
        longest_s: or when its first call has waited for so long.
        most: or when it has so many calls.
        first_s: so long after somebody began to wait for a batch it is asked for the first time,
            and then ever less often; so those who come together share a look.
        steady_s: once it is waited for so long between two looks, it is waited for a quarter of
            the batch's age, and for no less than this.
        slowest_s: it is waited for no longer than this between two looks.
        failures: after so many looks in a row that failed for a reason that may pass, the wait is
            given up, and the run stays where it is.

    """

    quiet_s: float = 1.0
    longest_s: float = 15.0
    most: int = MOST
    first_s: float = 1.0
    steady_s: float = 5.0
    slowest_s: float = 600.0
    failures: int = 60

    def wait_s(self, age_s: float) -> float:
        """Return for how long a batch of this age is left alone, in seconds."""
        # Half of the age makes each wait half as long again as the one before.
        eager = self.first_s + age_s / 2
        return min(eager, max(self.steady_s, age_s / 4), self.slowest_s)


Later: TypeAlias = Callable[[int], None]
"""Told when the next look is, in nanoseconds since the epoch, where a batch has not ended yet."""


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
        clock: nanoseconds since the epoch, UTC.

    """

    def __init__(
        self,
        model: Model,
        pace: Pace | None = None,
        *,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._model = model
        self.clock = clock
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

    async def fetch(
        self, place: Place, *, called_at: int | None = None, later: Later = lambda _: None
    ) -> Reply:
        """Return the reply that is at a place, once its batch has ended.

        Args:
            place: where it will be.
            called_at: when its call was started, in nanoseconds since the epoch, after which
                the age of a batch is judged that was sent elsewhere; by default now.
            later: told after each look that found the batch going on, and at once where the next
                one is not to be soon: who does not want to wait so long may leave, and come again.

        Raises:
            ModelFailure: there is none, and why.
            BatchNotFetched: it is not to be learned; it may be there all the same.

        """
        age_s = 0.0 if called_at is None else max(0, self.clock() - called_at) / NS
        came = await self._desk().fetch(place, age_s, later)
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
        self._batches: dict[str, _Batch] = {}
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
        self._known(batch_id, self._loop.time())
        for name, letter in letters.items():
            if not letter.place.done():
                letter.place.set_result(Place(batch_id, name))

    # ── fetching ────────────────────────────────────────────────────────────────────────────────

    async def fetch(self, place: Place, age_s: float, later: Later) -> Came:
        unasked = self._unasked.get(place.batch_id, {})
        if place.custom_id in unasked:
            came = unasked.pop(place.custom_id)
            if not unasked:
                del self._unasked[place.batch_id]
            return came
        now, soon_s = self._loop.time(), self._owner.pace.first_s
        batch = self._known(place.batch_id, now - age_s)
        if batch.until and batch.looks_at > now + soon_s:
            later(batch.until)
        if batch.task is None:
            # Others who wait for it may be about to come.
            batch.looks_at = max(batch.looks_at, now + soon_s)
            batch.task = self._start(self._watched(place.batch_id, batch))
        waiter = _Waiter(self._loop.create_future(), later)
        batch.waiting[place.custom_id] = waiter
        try:
            return await waiter.came
        finally:
            batch.waiting.pop(place.custom_id, None)
            if not batch.waiting and batch.task is not None:
                batch.task.cancel()  # nobody waits any more
                batch.task = None

    def _known(self, batch_id: str, sent_at: float) -> _Batch:
        """Return what is known of a batch, which is not more than others have been told of it."""
        if batch_id not in self._batches:
            idle = [name for name, batch in self._batches.items() if batch.task is None]
            for name in idle[: max(0, len(idle) + 1 - KNOWN)]:
                del self._batches[name]
            self._batches[batch_id] = _Batch(sent_at)
        return self._batches[batch_id]

    async def _watched(self, batch_id: str, batch: _Batch) -> None:
        """Look, ever less often, until the batch has ended; then let everybody have a result."""
        results: dict[str, Came] = {}
        wrong: BatchNotFetched | None = None
        try:
            results = await self._results(batch_id, batch)
        except Exception as error:  # noqa: BLE001  (raised to everybody who waits)
            wrong = BatchNotFetched(batch_id, _failure(error))
        batch.task = None
        self._batches.pop(batch_id, None)
        for name, (came, _) in batch.waiting.items():
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

    async def _results(self, batch_id: str, batch: _Batch) -> dict[str, Came]:
        while True:
            await asyncio.sleep(max(0.0, batch.looks_at - self._loop.time()))
            results = await self._look(batch_id, batch)
            if results is not None:
                return results
            for waiter in [*batch.waiting.values()]:
                waiter.later(batch.until)

    async def _look(self, batch_id: str, batch: _Batch) -> dict[str, Came] | None:
        """Return the results of a batch, or `None` where it is to be looked again."""
        pace, asked_s = self._owner.pace, 0.0
        try:
            batch.ended = batch.ended or await self._model.batch_ended(batch_id)
            if batch.ended:
                return dict(await self._model.batch_results(batch_id))
            batch.failures = 0
        except ModelFailure as failure:
            batch.failures += 1
            if failure.kind not in RETRYABLE or batch.failures >= pace.failures:
                raise
            asked_s = min(failure.retry_after_s or 0.0, LONGEST_S)
        finally:
            # Also where everybody left meanwhile: it was asked.
            now = self._loop.time()
            wait_s = max(pace.wait_s(now - batch.sent_at), asked_s)
            batch.looks_at = now + wait_s
            batch.until = self._owner.clock() + int(wait_s * NS)
        return None


class _Waiter(NamedTuple):
    came: asyncio.Future[Came]
    later: Later


class _Batch:
    """When a batch is looked at, and who waits for its end.

    Attributes:
        sent_at: when it was sent, by the clock of the loop, as all times but one.
        looks_at: when the next look is.
        until: the same in nanoseconds since the epoch; 0 before the first look.
        failures: how many looks in a row came to nothing.
        ended: whether one has found that it has ended.
        waiting: who waits, by what their results are called.
        task: what looks, while somebody waits.

    """

    def __init__(self, sent_at: float) -> None:
        self.sent_at = sent_at
        self.looks_at = 0.0
        self.until = 0
        self.failures = 0
        self.ended = False
        self.waiting: dict[str, _Waiter] = {}
        self.task: asyncio.Task[None] | None = None


def _failure(error: Exception) -> ModelFailure:
    if isinstance(error, ModelFailure):
        return error
    return ModelFailure("bug", f"{type(error).__name__}: {words(error)}")


def _missing(batch_id: str) -> ModelFailure:
    # It may have been answered, and billed.
    return ModelFailure("malformed", f"batch {batch_id} has ended, and has no result of this call")
