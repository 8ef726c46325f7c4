"""The messages of an ask, verbatim, and the call in flight.

    user ──▶ model call ──▶ reply ──┬─▶ the answer
               ▲                    └─▶ tool uses ──▶ results, all in one message
               └──────────────────────────────────────────────┘

A message is encoded once, when it enters, and never touched again: Claude binds its thinking to
every byte before it.  So a request is joined from stored pieces, and its hash is a rolling one
that costs the same on the thousandth turn as on the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from typing import Final, overload

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from outlast.errors import JournalDamaged
from outlast.events import (
    NULL,
    AskAnswered,
    AskStarted,
    FailureKind,
    MessageReceived,
    ModelCallFailed,
    ModelCallInDoubt,
    ModelCallStarted,
    ModelCallSucceeded,
    Spec,
    ToolCallFailed,
    ToolCallInDoubt,
    ToolCallStarted,
    ToolCallSucceeded,
)
from outlast.journal import Record
from outlast.prices import input_bound


class Trail(Sequence[bytes]):
    """An immutable sequence that grows at its end without copying what is there.

    All versions of one trail share a list and differ in how much of it they see; growing a version
    that is not the newest copies, so an older one never changes.
    """

    __slots__ = ("_items", "_size")

    def __init__(self, items: Sequence[bytes] = ()) -> None:
        self._items = list(items)
        self._size = len(self._items)

    def grown(self, item: bytes) -> Trail:
        """Return this trail with `item` at its end."""
        items = self._items
        if len(items) != self._size:
            items = items[: self._size]
        items.append(item)
        longer = Trail.__new__(Trail)
        longer._items = items  # noqa: SLF001  (its own class)
        longer._size = self._size + 1  # noqa: SLF001
        return longer

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return self._items[: self._size][index]
        if not -self._size <= index < self._size:
            raise IndexError(index)
        return self._items[index % self._size]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._items[: self._size])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Trail) and list(self) == list(other)

    def __hash__(self) -> int:
        return hash(self._size)

    def __repr__(self) -> str:
        return f"Trail({self._size} messages)"


class Block(msgspec.Struct, frozen=True, gc=False):
    """What the run loop reads of a content block; everything else is only carried."""

    type: str
    id: str = ""
    name: str = ""
    text: str = ""
    input: Raw = Raw(b"{}")


_BLOCKS: Final = msgspec.json.Decoder(list[Block])


def blocks(content: Raw) -> list[Block]:
    """Return the blocks of a reply.

    Raises:
        msgspec.ValidationError: `content` is not an array of blocks with a type.

    """
    return _BLOCKS.decode(content)


class Failure(msgspec.Struct, frozen=True, gc=False):
    """Why the last attempt of the present request came to nothing, and when."""

    kind: FailureKind
    message: str
    retry_after_s: float | None
    at: int


class Pending(msgspec.Struct, frozen=True):
    """A tool use of the last reply, until all of them have a result."""

    tool_use_id: str
    name: str
    arguments: Raw
    call_id: str = ""
    """The attempt in flight; empty when none is."""
    attempts: int = 0
    result: bytes = b""
    """The encoded `tool_result` block; empty until there is one."""


class Conversation(msgspec.Struct, frozen=True):
    """One ask: what was said, what is in flight, and what is still to be done."""

    ask_id: str
    spec: Spec
    head: bytes
    messages: Trail
    digest: bytes
    input_bound: int
    """At least as many tokens as the API will count for everything said so far."""
    calls: int = 0
    """Model calls started; the number names the next one."""
    call: ModelCallStarted | None = None
    failures: int = 0
    """Attempts of the present request that came to nothing, crashes aside."""
    failure: Failure | None = None
    stop_reason: str | None = None
    replied: bool = False
    """The last message is the model's, and no tool of it is open."""
    pending: tuple[Pending, ...] = ()
    answer: Raw | None = None


def opened(ask_id: str, spec: Spec) -> Conversation:
    """Return the conversation of an ask in which nothing was said yet."""
    head = _head(spec)
    return Conversation(
        ask_id=ask_id,
        spec=spec,
        head=head,
        messages=Trail(),
        digest=sha256(head).digest(),
        input_bound=input_bound(head),
    )


def request_hash(conversation: Conversation, max_tokens: int) -> str:
    """Return the hash of the next request: hex SHA-256, rolled over the messages.

    It is `sha256(digest ‖ max_tokens)`, where `digest` begins as the hash of the frozen head and
    becomes `sha256(digest ‖ sha256(message))` with every message.
    """
    return sha256(conversation.digest + b"%d" % max_tokens).hexdigest()


def evolve(conversation: Conversation, record: Record) -> Conversation:  # noqa: PLR0911
    """Return what `record` makes of the conversation it belongs to."""
    match record.event:
        case ModelCallStarted() as event:
            _check_request(conversation, record, event)
            return replace(conversation, call=event, calls=conversation.calls + 1, replied=False)
        case ModelCallSucceeded() as event:
            return _replied(conversation, event)
        case ToolCallStarted() as event:
            return _tool_started(conversation, event)
        case ToolCallSucceeded() as event:
            return _tool_answered(conversation, event.tool_use_id, _result(event, b""))
        case ToolCallFailed() as event:
            return _tool_answered(conversation, event.tool_use_id, _result(event, _IS_ERROR))
        case ToolCallInDoubt() as event:
            return _tool_in_doubt(conversation, event)
        case ModelCallFailed() | ModelCallInDoubt() as event:
            return _call_lost(conversation, event, record.at)
        case MessageReceived(content=content):
            return _said(conversation, b'{"role":"user","content":%b}' % bytes(content))
        case AskAnswered(answer=answer):
            return replace(conversation, answer=answer)
    return conversation


def start(event: AskStarted, default: Spec) -> Conversation:
    """Return the conversation that `event` opens."""
    return opened(event.ask_id, event.spec or default)


def rested(conversation: Conversation) -> Conversation:
    """Return the conversation as a new leg finds it: what failed before may be mended now."""
    return replace(conversation, failures=0, failure=None)


def _head(spec: Spec) -> bytes:
    parts = [b'"model":' + _json(spec.model)]
    if spec.system:
        parts.append(b'"system":' + _json(spec.system))
    if bytes(spec.tools) != b"[]":
        parts.append(b'"tools":' + bytes(spec.tools))
    members = bytes(spec.parameters).strip()[1:-1].strip()
    return b",".join([*parts, members] if members else parts)


def _json(value: str) -> bytes:
    return msgspec.json.encode(value)


def _said(conversation: Conversation, message: bytes) -> Conversation:
    return replace(
        conversation,
        messages=conversation.messages.grown(message),
        digest=sha256(conversation.digest + sha256(message).digest()).digest(),
        input_bound=conversation.input_bound + input_bound(message),
        replied=False,
    )


def _check_request(conversation: Conversation, record: Record, event: ModelCallStarted) -> None:
    # The journal holds the history once.  If what it gives now is not what was sent then, a
    # resumed run would talk about something else: better to stop.
    if event.request_hash != request_hash(conversation, event.max_tokens):
        raise JournalDamaged(
            record.stream,
            seq=record.seq,
            why="the request rebuilt from the journal is not the one that was sent",
        )


def _replied(conversation: Conversation, event: ModelCallSucceeded) -> Conversation:
    content = bytes(event.content)
    pending: tuple[Pending, ...] = ()
    if event.stop_reason == "tool_use":
        pending = tuple(
            Pending(block.id, block.name, block.input)
            for block in blocks(event.content)
            if block.type == "tool_use"
        )
    said = _said(conversation, b'{"role":"assistant","content":%b}' % content)
    return replace(
        said,
        call=None,
        failures=0,
        failure=None,
        stop_reason=event.stop_reason,
        replied=not pending,
        pending=pending,
    )


def _call_lost(
    conversation: Conversation, event: ModelCallFailed | ModelCallInDoubt, at: int
) -> Conversation:
    # A crash says nothing about the API, so it neither counts as a failure nor makes anyone wait.
    crashed = event.kind == "crash"
    return replace(
        conversation,
        call=None,
        failures=conversation.failures + (not crashed),
        failure=conversation.failure
        if crashed
        else Failure(event.kind, event.message, event.retry_after_s, at),
    )


def _tool_started(conversation: Conversation, event: ToolCallStarted) -> Conversation:
    def started(pending: Pending) -> Pending:
        return replace(pending, call_id=event.call_id, attempts=event.attempt)

    return _changed(conversation, event.tool_use_id, started)


def _tool_in_doubt(conversation: Conversation, event: ToolCallInDoubt) -> Conversation:
    if event.content != NULL:
        return _tool_answered(conversation, event.tool_use_id, _result(event, _IS_ERROR))
    return _changed(conversation, event.tool_use_id, lambda pending: replace(pending, call_id=""))


def _tool_answered(conversation: Conversation, tool_use_id: str, result: bytes) -> Conversation:
    answered = _changed(
        conversation, tool_use_id, lambda pending: replace(pending, call_id="", result=result)
    )
    if not all(pending.result for pending in answered.pending):
        return answered
    # All results in one message, in the order Claude asked, whatever order they came in.
    results = b",".join(pending.result for pending in answered.pending)
    return _said(replace(answered, pending=()), b'{"role":"user","content":[%b]}' % results)


def _changed(
    conversation: Conversation, tool_use_id: str, change: Callable[[Pending], Pending]
) -> Conversation:
    return replace(
        conversation,
        pending=tuple(
            change(pending) if pending.tool_use_id == tool_use_id else pending
            for pending in conversation.pending
        ),
    )


_IS_ERROR: Final = b',"is_error":true'


def _result(event: ToolCallSucceeded | ToolCallFailed | ToolCallInDoubt, error: bytes) -> bytes:
    return b'{"type":"tool_result","tool_use_id":%b,"content":%b%b}' % (
        _json(event.tool_use_id),
        bytes(event.content),
        error,
    )
