"""A run as it comes: what its journal holds, and from there what Claude is saying.

    journal ──records──▶ ┐
                         ├──Telling──▶ parts: each of them once, and none missing
    Claude ────parts───▶ ┘

The parts of a call come while it is made; its record comes afterwards, and says the same again.
So a record is only told where nobody heard the call: because it was made before, or by another
process, or by a model that says nothing until it is done.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec
from msgspec import Raw

from outlast.background import Background
from outlast.errors import UsageError
from outlast.events import (
    AnswerRejected,
    AskStarted,
    ModelCallFailed,
    ModelCallInDoubt,
    ModelCallStarted,
    ModelCallSucceeded,
    ModelSwitched,
)
from outlast.journal import Record
from outlast.models import Part

if TYPE_CHECKING:
    from outlast.run import Run

DISCARDED: Final = "discarded"


# ── pure: records and parts become what a consumer is told ──────────────────────────────────────


def parts_of(records: Iterable[Record]) -> Iterator[Part]:
    """Yield the parts of every call in a run's journal that succeeded, in order.

    A text or a thinking is one part, a tool use is one with the tool's name; blocks of any other
    type have none.
    """
    telling = Telling()
    for record in records:
        yield from telling.read(record)


class Telling:
    """What a consumer was told of one run so far, and so what is left to tell."""

    def __init__(self) -> None:
        self.seq = 0
        """How far the journal was read."""
        self._open: dict[str, int] = {}
        """The attempt of each call without an outcome, by `call_id`."""
        self._refused: dict[str, int] = {}
        """The attempt of each call whose reply is a refusal."""
        self._heard: set[str] = set()
        """Those of them that parts were told of as they came."""
        self._judges: set[str] = set()
        """The asks of judges, who speak to nobody here."""
        self._last: dict[str, tuple[str, int]] = {}
        """The call whose reply came last, and its attempt, by ask."""

    def hear(self, part: Part) -> list[Part]:
        """Return what to tell of a part that Claude is just saying."""
        if part.call_id not in self._open:
            return []  # of a call that has its outcome: another driver took the run over
        if part.kind == DISCARDED:
            self._heard.discard(part.call_id)
        elif part.text:
            self._heard.add(part.call_id)
        else:
            return []  # deltas may be empty, and a replay has none of those
        return [part]

    def read(self, record: Record) -> list[Part]:
        """Return what to tell of the run's next record; of one that was read before, nothing."""
        if record.seq <= self.seq:
            return []
        self.seq = record.seq
        match record.event:
            case AskStarted() as ask if ask.judges:
                self._judges.add(ask.ask_id)
            case ModelCallStarted() as call if call.ask_id not in self._judges:
                self._open[call.call_id] = call.attempt
            case ModelCallSucceeded() as call if call.ask_id not in self._judges:
                attempt, heard = self._ended(call.call_id)
                self._last[call.ask_id] = call.call_id, attempt
                if call.stop_reason == "refusal":
                    self._refused[call.call_id] = attempt
                return [] if heard else _said(record.stream, call, attempt)
            case ModelCallFailed() | ModelCallInDoubt() as call:
                attempt, heard = self._ended(call.call_id)
                return [_part(record.stream, call, attempt, DISCARDED, "")] if heard else []
            case ModelSwitched() as call if call.call_id in self._refused:
                attempt = self._refused.pop(call.call_id)
                return [_part(record.stream, call, attempt, DISCARDED, "")]
            case AnswerRejected() as answer if answer.action != "degrade":
                call_id, attempt = self._last.get(answer.ask_id, ("", 1))
                if call_id == answer.call_id:
                    return [_part(record.stream, answer, attempt, DISCARDED, "")]
        return []

    def _ended(self, call_id: str) -> tuple[int, bool]:
        heard = call_id in self._heard
        self._heard.discard(call_id)
        return self._open.pop(call_id, 1), heard


class _Block(msgspec.Struct, frozen=True):
    # What a block of a type nobody has heard of means by these members, nobody knows either.
    type: str
    text: Raw | msgspec.UnsetType = msgspec.UNSET
    thinking: Raw | msgspec.UnsetType = msgspec.UNSET
    name: Raw | msgspec.UnsetType = msgspec.UNSET


_BLOCKS: Final = msgspec.json.Decoder(list[_Block])


def _said(stream: str, call: ModelCallSucceeded, attempt: int) -> list[Part]:
    shown = []
    for block in _BLOCKS.decode(call.content):
        kind = "tool_use" if block.type.endswith("tool_use") else block.type
        member = {"text": block.text, "thinking": block.thinking, "tool_use": block.name}.get(kind)
        value = msgspec.json.decode(member) if isinstance(member, Raw) else None
        if isinstance(value, str) and value:
            shown.append(_part(stream, call, attempt, kind, value))
    return shown


def _part(
    stream: str,
    call: AnswerRejected | ModelCallSucceeded | ModelCallFailed | ModelCallInDoubt | ModelSwitched,
    attempt: int,
    kind: str,
    text: str,
) -> Part:
    return Part(
        run_id=stream.removeprefix("run:"),
        ask_id=call.ask_id,
        call_id=call.call_id,
        attempt=attempt,
        kind=kind,
        text=text,
    )


# ── between the run and who takes its parts ─────────────────────────────────────────────────────


class Feed:
    """What was told and not taken yet.  There is no limit: the run never waits for its consumer.

    It is filled and waited for on one loop; `parts` may be taken from on any thread.
    """

    def __init__(self) -> None:
        self.parts: deque[Part] = deque()
        self.over = False
        """Whether nothing will be added any more."""
        self._telling = Telling()
        self._news = asyncio.Event()

    @property
    def seq(self) -> int:
        """How far the journal was read."""
        return self._telling.seq

    def hear(self, part: Part) -> None:
        """Take in a part that Claude is just saying."""
        self._put(self._telling.hear(part))

    def read(self, record: Record) -> None:
        """Take in the run's next record."""
        self._put(self._telling.read(record))

    def end(self, driven: asyncio.Task[Run]) -> None:
        """Take in that there will be no more, because the run is not driven any longer."""
        if not driven.cancelled():
            driven.exception()  # a consumer that has left does not want to be warned about it
        self.over = True
        self._news.set()

    async def ready(self) -> None:
        """Return when there is a part to take, or there will be none."""
        while not self.parts and not self.over:
            self._news.clear()
            await self._news.wait()

    def _put(self, parts: list[Part]) -> None:
        self.parts.extend(parts)
        if parts:
            self._news.set()


class AsyncStream(AsyncIterator[Part]):
    """The parts of a run as they come; `Outlast.astream` makes one.

    The run begins with the first part that is asked for, and is driven at its own pace from then
    on, however slowly its parts are taken.  When the iteration has ended, `run` is the run.
    Several may iterate over one stream: each part goes to one of them, and what the run raises too.

    Closing the stream, leaving it as a context manager, and cancelling whoever waits for a part
    all stop driving the run, as cancelling `arun` does: a call in flight is in doubt, everything
    before is safe, and the same call with the same run id goes on.

    Attributes:
        run_id: the run's name, known before it begins.

    """

    _task: asyncio.Task[Run] | None = None

    def __init__(self, run_id: str, driven: Callable[[Feed], Coroutine[Any, Any, Run]]) -> None:
        self.run_id = run_id
        self._driven = driven
        self._feed = Feed()
        self._left = False

    @property
    def run(self) -> Run:
        """The run, once it is at rest; raises what it raised.

        Raises:
            UsageError: it is still driven, or was left before it was at rest.

        """
        if self._task is None or not self._task.done() or self._task.cancelled():
            raise UsageError(
                f"the stream of run {self.run_id!r} has not come to its end; iterate over all its "
                f"parts first, or look at the run as it is now with app.get({self.run_id!r})"
            )
        return self._task.result()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Part:
        await self._ready()
        if not self._feed.parts:
            raise StopAsyncIteration
        return self._feed.parts.popleft()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop driving the run; return when it has let go, which an obstinate tool may delay."""
        self._leave()
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task})

    def __del__(self) -> None:
        # Left without a word, as `break` leaves it: nobody can take another part, so nobody may
        # go on paying for them.  The task does not know the stream, or this would never be called.
        if self._task is not None and not self._task.done():
            with suppress(RuntimeError):  # its loop is closed, and the task with it
                self._task.get_loop().call_soon_threadsafe(self._task.cancel)

    def _leave(self) -> None:
        self._left = True
        self._feed.parts.clear()

    async def _ready(self) -> None:
        """Return when there is a part to take or will be none; raise what the run raised, once."""
        if self._left:
            return
        if self._task is None:
            self._task = asyncio.create_task(self._driven(self._feed))
            self._task.add_done_callback(self._feed.end)
        try:
            await self._feed.ready()
        except asyncio.CancelledError:
            await self.aclose()
            raise
        # Over, and not only taken: a `Stream` takes parts on other threads, also just now.
        if self._feed.over and not self._feed.parts and not self._left:
            self._left = True
            self._task.result()


class Stream(Iterator[Part]):
    """The parts of a run as they come; `Outlast.stream` makes one.

    It is an `AsyncStream` for code that is not async, with or without an event loop running; what
    is said there holds.  Ctrl-C while it waits for a part stops driving the run, too.

    Attributes:
        run_id: the run's name, known before it begins.

    """

    def __init__(self, stream: AsyncStream, background: Background) -> None:
        self.run_id = stream.run_id
        self._stream = stream
        self._background = background

    @property
    def run(self) -> Run:
        """The run, once it is at rest; raises what it raised.

        Raises:
            UsageError: it is still driven, or was left before it was at rest.

        """
        return self._stream.run

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Part:
        while not self._stream._left:  # noqa: SLF001  (its own other half)
            with suppress(IndexError):  # another thread may take it between a look and a grasp
                return self._stream._feed.parts.popleft()  # noqa: SLF001
            if self._is_over():
                raise UsageError(
                    f"the application was closed while it streamed run {self.run_id!r}; what was "
                    "written is safe, and the same call on a new application goes on"
                )
            self._background.run(self._stream._ready())  # noqa: SLF001
        raise StopIteration

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop driving the run; return when it has let go, which an obstinate tool may delay."""
        self._stream._leave()  # noqa: SLF001
        task = self._stream._task  # noqa: SLF001
        if task is not None and not task.done() and not self._is_over():
            self._background.run(self._stream.aclose())

    def _is_over(self) -> bool:
        """Return whether the application was closed, and the loop gone that drove the run."""
        task = self._stream._task  # noqa: SLF001
        return task is not None and not self._background.owns(task.get_loop())
