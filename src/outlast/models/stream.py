"""A reply put together from the raw server-sent events, verbatim.

The history is sent back to Claude for ever, so what is kept is what came: members and block types
nobody has heard of, the spelling of numbers, the escapes in a text.  Pieces of a text are joined as
JSON, without being decoded, and pieces of a tool's input are joined to the JSON they are pieces of.
What cannot be carried through, because nobody can know what it changes, stops the call: a delta or
an event of an unknown type.

    bytes ──Events──▶ (event, data) ──Accumulator──▶ Reply, or a ModelFailure

Both are pure: they are fed and asked, and touch nothing.  A stream is only believed once
`message_stop` came; until then it may have been cut, and whatever it cost is in doubt.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
from msgspec import Raw

from outlast import prices
from outlast.errors import ModelFailure
from outlast.models import Reply

_MEMBERS: Final = msgspec.json.Decoder(dict[str, Raw])
_BLOCKS: Final = msgspec.json.Decoder(list[dict[str, Raw]])
_ITEMS: Final = msgspec.json.Decoder(list[Raw])
_STRING: Final = msgspec.json.Decoder(str)
_INDEX: Final = msgspec.json.Decoder(int)
# Only looks whether it is JSON: a number too large for Python is a valid one.
_ANYTHING: Final = msgspec.json.Decoder(Raw)
_encode: Final = msgspec.json.Encoder().encode

_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError)
"""What decoding raises when the data is not what the API promises."""

_TEXTS: Final = {
    # delta type: its member, which is also the block's member it belongs to
    "text_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "signature",
}
_PARTIAL: Final = "partial_json"

_WHOLE: Final = frozenset({"end_turn", "tool_use", "stop_sequence", "pause_turn", "compaction"})
"""Stop reasons after which every block is whole; after any other one the last may be a fragment."""

_NULL: Final = b"null"


class Events:
    """Cuts a stream of bytes, in chunks of any size, into server-sent events."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []  # a line still without its end
        self._returned = False  # whether the last chunk ended in \r, so that a \n belongs to it
        self._name = ""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> Iterator[tuple[str, bytes]]:
        """Yield the name, empty if there is none, and the data of each event that is complete.

        An event is complete with the blank line after it; what follows the last one at the end of
        a stream is no event, as the format demands.
        """
        for line in self._lines(chunk):
            if not line:
                name, data = self._name, self._data
                self._name, self._data = "", []
                if data:
                    yield name, b"\n".join(data)
            elif line.startswith(b"data:"):
                self._data.append(line[6:] if line.startswith(b"data: ") else line[5:])
            elif line.startswith(b"event:"):
                self._name = line[6:].strip().decode("utf-8", "replace")
            # Comments begin with a colon; `id` and `retry` are for reconnecting, which the API
            # does not offer.

    def _lines(self, chunk: bytes) -> list[bytes]:
        if self._returned and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._returned = False
        if b"\n" not in chunk and b"\r" not in chunk:
            # Joined once the line is whole: a long line in many chunks is not copied each time.
            self._rest.append(chunk)
            return []
        self._returned = chunk.endswith(b"\r")
        text = b"".join((*self._rest, chunk))
        lines = text.splitlines()
        self._rest = [] if text.endswith((b"\n", b"\r")) else [lines.pop()]
        return lines


class _Block:
    """A content block as it grows."""

    __slots__ = ("citations", "members", "open", "pieces")

    def __init__(self, members: dict[str, Raw]) -> None:
        self.members = members
        self.pieces: dict[str, list[bytes]] = {}
        self.citations: list[Raw] = []
        self.open = True

    def add(self, kind: str, delta: dict[str, Raw]) -> None:
        """Take one delta.

        Raises:
            ModelFailure: its type is not known.
            KeyError, msgspec.DecodeError: it lacks what its type promises.

        """
        if member := _TEXTS.get(kind):
            self.pieces.setdefault(member, []).append(_inside(delta[member]))
        elif kind == "input_json_delta":
            self.pieces.setdefault(_PARTIAL, []).append(_inside(delta[_PARTIAL]))
        elif kind == "citations_delta":
            self.citations.append(delta["citation"])
        elif kind == "compaction_delta":
            # It comes once and whole, and may be null.
            self.members |= {name: raw for name, raw in delta.items() if name != "type"}
        else:
            raise _malformed(f"a delta of the unknown type {kind!r}, which nobody can apply")

    def finish(self) -> tuple[dict[str, Raw], str | None]:
        """Return the block's members, and the input as it came where it is not JSON.

        Raises:
            msgspec.DecodeError: a member that pieces were appended to is no string.

        """
        members = dict(self.members)
        for member, pieces in self.pieces.items():
            if member != _PARTIAL:
                begun = members.get(member)
                first = b"" if begun is None or bytes(begun) == _NULL else _inside(begun)
                members[member] = Raw(b'"%b%b"' % (first, b"".join(pieces)))
        if self.citations:
            begun = members.get("citations")
            before = [] if begun is None or bytes(begun) == _NULL else _ITEMS.decode(begun)
            members["citations"] = Raw(_encode(before + self.citations))
        return members, self._put_input(members)

    def _put_input(self, members: dict[str, Raw]) -> str | None:
        used = _kind(members).endswith("tool_use")
        joined = _STRING.decode(b'"%b"' % b"".join(self.pieces.get(_PARTIAL, ())))
        raw = joined.strip().encode()
        if not raw and used:
            members.setdefault("input", Raw(b"{}"))
        elif raw:
            whole = _is_json(raw, must_be_object=used)
            members["input"] = Raw(raw if whole else b"{}")
            return None if whole else joined
        return None


class Accumulator:
    """Puts a reply together from a stream of bytes.

    Args:
        on_piece: called with the kind (`text`, `thinking`, or `tool_use` with the tool's name) and
            the text of each piece as it comes; what cannot be shown by itself, as half a
            character cannot, is left out.

    """

    def __init__(self, on_piece: Callable[[str, str], None] | None = None) -> None:
        self.done = False
        """Whether `message_stop` came, and so whether `reply` has one."""
        self._on_piece = on_piece
        self._events = Events()
        self._message: dict[str, Raw] | None = None
        self._usage: dict[str, Raw] = {}
        self._blocks: list[_Block] = []
        self._totals = False  # whether the final counts came, with `message_delta`

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the stream.

        Raises:
            ModelFailure: `cut` when the stream brings an error, `malformed` when it is not what
                the API promises.  Everything up to now is then in doubt.

        """
        for name, data in self._events.feed(chunk):
            self.event(name, data)

    def event(self, name: str, data: bytes) -> None:
        """Take one event; see `feed`.  What comes after `message_stop` is ignored."""
        if self.done:
            return
        try:
            data.decode()  # skipping over a member does not look at its encoding
            members = _members(data)
            kind = _STRING.decode(members["type"]) if "type" in members else name
            piece = self._take(kind, members)
        except _UNREADABLE as error:
            if name == "error":
                raise _broken_off(data.decode("utf-8", "replace"), "") from error
            raise _malformed(f"the event {name!r} cannot be read ({error!r})") from error
        if piece is not None and self._on_piece is not None:
            self._on_piece(*piece)

    def reply(self, request_id: str = "") -> Reply:
        """Return the whole reply.

        Raises:
            ModelFailure: `cut` when the stream ended before `message_stop`, `malformed` when what
                came is not a message.

        """
        if self._message is None or not self.done:
            raise ModelFailure(
                "cut", f"the stream ended before message_stop, in {len(self._blocks)} blocks"
            )
        try:
            return self._reply(dict(self._message), request_id)
        except _UNREADABLE as error:
            raise _malformed(f"the message cannot be read ({error!r})") from error

    def _take(self, kind: str, members: dict[str, Raw]) -> tuple[str, str] | None:
        """Take an event in, and return the piece of it that people may watch."""
        match kind:
            case "content_block_delta":
                return self._grow(members)
            case "content_block_start":
                return self._open(members)
            case "content_block_stop":
                self._block(members).open = False
            case "message_start":
                self._start(_MEMBERS.decode(members["message"]))
            case "message_delta":
                self._change(members)
            case "message_stop":
                self._stop()
            case "ping":
                pass
            case "error":
                error = _MEMBERS.decode(members["error"])
                raise _broken_off(_text(error, "message"), _text(error, "type"), error)
            case _:
                raise _malformed(f"an event of the unknown type {kind!r}")
        return None

    def _start(self, message: dict[str, Raw]) -> None:
        if self._message is not None:
            raise _malformed("a second message_start")
        self._message = message
        self._usage = _MEMBERS.decode(message["usage"])
        for begun in _BLOCKS.decode(message.get("content", b"[]")):
            self._blocks.append(_Block(begun))
            self._blocks[-1].open = False

    def _open(self, members: dict[str, Raw]) -> tuple[str, str] | None:
        if self._message is None:
            raise _malformed("content_block_start before message_start")
        index = _INDEX.decode(members["index"])
        if index != len(self._blocks):
            raise _malformed(f"block {index} after {len(self._blocks)} blocks")
        block = _Block(_MEMBERS.decode(members["content_block"]))
        self._blocks.append(block)
        kind = _kind(block.members)
        if kind.endswith("tool_use"):
            return "tool_use", _text(block.members, "name")
        if kind in ("text", "thinking") and (begun := _text(block.members, kind)):
            return kind, begun
        return None

    def _grow(self, members: dict[str, Raw]) -> tuple[str, str] | None:
        block = self._block(members)
        delta = _members(members["delta"])
        kind = _STRING.decode(delta["type"])
        block.add(kind, delta)
        if self._on_piece is None or kind not in ("text_delta", "thinking_delta"):
            return None
        piece = kind.removesuffix("_delta")
        try:
            return piece, _STRING.decode(delta[piece])
        except _UNREADABLE:
            # Half a character, say, whose other half comes with the next delta.  The reply has
            # both, and whoever watches must not be why it is lost.
            return None

    def _block(self, members: dict[str, Raw]) -> _Block:
        index = _INDEX.decode(members["index"])
        if not 0 <= index < len(self._blocks) or not self._blocks[index].open:
            raise _malformed(f"a piece of block {index}, which is not open")
        return self._blocks[index]

    def _change(self, members: dict[str, Raw]) -> None:
        """Overwrite what `message_start` said: counts are cumulative totals, never added up."""
        if self._message is None:
            raise _malformed("message_delta before message_start")
        members.pop("type", None)
        _overwrite(self._usage, _MEMBERS.decode(members.pop("usage")))
        _overwrite(self._message, _MEMBERS.decode(members.pop("delta")))
        _overwrite(self._message, members)
        self._totals = True

    def _stop(self) -> None:
        still = [str(at) for at, block in enumerate(self._blocks) if block.open]
        if still:
            raise _malformed(f"message_stop while block {', '.join(still)} is open")
        if self._message is None or not self._totals:
            # The first event's counts are no bill: they stand before the reply is written.
            raise _malformed("message_stop without message_start and message_delta")
        self.done = True

    def _reply(self, message: dict[str, Raw], request_id: str) -> Reply:
        stop_reason: str | None = msgspec.json.decode(
            message.pop("stop_reason", _NULL), type=str | None
        )
        finished = [block.finish() for block in self._blocks]
        fragments = {str(at): rest for at, (_, rest) in enumerate(finished) if rest is not None}
        if fragments and stop_reason in _WHOLE:
            raise _malformed(f"the input of block {', '.join(fragments)} is not a JSON object")
        content = _encode([members for members, _ in finished])
        usage = _encode(self._usage)
        prices.usage(usage)  # a reply whose bill cannot be read is in doubt
        model, message_id = _text(message, "model"), _text(message, "id")
        return Reply(
            content=Raw(content),
            stop_reason=stop_reason,
            usage=Raw(usage),
            model=model,
            request_id=request_id,
            message_id=message_id,
            extra=Raw(_encode(_extra(message, fragments))),
        )


def whole(raw: bytes, request_id: str = "") -> Reply:
    """Return the reply that a message is which came as a whole, verbatim.

    Raises:
        ModelFailure: `malformed` when it is not a message.

    """
    try:
        message = _MEMBERS.decode(raw)
        usage = message["usage"]
        prices.usage(usage)
        _BLOCKS.decode(message["content"])
        return Reply(
            content=Raw(bytes(message["content"])),
            stop_reason=msgspec.json.decode(message.pop("stop_reason", _NULL), type=str | None),
            usage=Raw(bytes(usage)),
            model=_text(message, "model"),
            request_id=request_id,
            message_id=_text(message, "id"),
            extra=Raw(_encode(_extra(message, {}))),
        )
    except _UNREADABLE as error:
        told = f"the message cannot be read ({error!r})"
        raise ModelFailure("malformed", told, status=200) from error


def _extra(message: dict[str, Raw], fragments: dict[str, str]) -> dict[str, Any]:
    """Return what of the message has no place of its own in a `Reply`, and says anything.

    An input that was cut off by the token limit is no JSON, so it stands here, under its index.
    """
    settled = {"content": None, "usage": None, "model": None, "id": None}
    silent = {"type": b'"message"', "role": b'"assistant"'}
    extra: dict[str, Any] = {
        name: raw
        for name, raw in message.items()
        if name not in settled and bytes(raw) not in (_NULL, silent.get(name))
    }
    return {**extra, _PARTIAL: fragments} if fragments else extra


def _overwrite(members: dict[str, Raw], news: dict[str, Raw]) -> None:
    for name, raw in news.items():
        # A total that does not apply is left out or null, and what was said before holds.
        if name not in members or bytes(raw) != _NULL:
            members[name] = raw


def _is_json(raw: bytes, *, must_be_object: bool) -> bool:
    try:
        _ANYTHING.decode(raw)
    except _UNREADABLE:
        return False
    return raw.startswith(b"{") or not must_be_object


def _members(raw: bytes | Raw) -> dict[str, Raw]:
    """Return the members of an object as they came.

    Raises:
        msgspec.DecodeError: it is none.

    """
    try:
        return _MEMBERS.decode(raw)
    except msgspec.DecodeError:
        # JSON may escape half a character; the other half comes with the next delta, and in the
        # text that they are joined to it is a whole one.  Only the standard library reads that.
        read = _read(bytes(raw)) if b"\\u" in bytes(raw) else None
        if read is None:
            raise
        return read


def _read(raw: bytes) -> dict[str, Raw] | None:
    try:
        members: dict[str, object] = json.loads(raw)
        return {
            name: Raw(json.dumps(value, allow_nan=False).encode())
            for name, value in members.items()
        }
    except (AttributeError, ValueError, RecursionError):
        return None


def _kind(members: dict[str, Raw]) -> str:
    return _STRING.decode(members["type"])


def _text(members: dict[str, Raw], name: str) -> str:
    return _STRING.decode(members[name]) if name in members else ""


def _inside(string: Raw) -> bytes:
    """Return what stands between the quotes of a JSON string."""
    raw = bytes(string)
    if not raw.startswith(b'"'):
        raise msgspec.ValidationError(f"a string was promised, and {raw[:40]!r} came")
    return raw[1:-1]


def _malformed(what: str) -> ModelFailure:
    return ModelFailure("malformed", f"the stream is not one of this API: {what}", status=200)


def _broken_off(message: str, error_type: str, error: dict[str, Raw] | None = None) -> ModelFailure:
    """Return the failure of a stream that brings an error.

    Whatever its type, an overload included: part of the reply was written, and may be billed.
    """
    details = msgspec.json.decode((error or {}).get("details", b"{}"))
    code = details.get("error_code") if isinstance(details, dict) else None
    return ModelFailure(
        "cut",
        f"the stream broke off: {message}",
        status=200,
        error_type=error_type,
        error_code=code if isinstance(code, str) else "",
    )
