"""A reply as the Messages API sends it: one JSON message, or the events of a stream.

    message_start  content_block_start  ping  content_block_delta …  content_block_stop
    …  message_delta  message_stop

What the script gave is sent byte for byte wherever the protocol has room for it: the pieces of
`input_json_delta` join to the input as it was spelled, and members nobody knows travel in
`content_block_start`.  As with the real API an input of `{}` is never said in a delta: it stands in
`content_block_start` alone, and the only piece is empty.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import Raw

from outlast.models.saying import Said

PIECES: Final = 12
"""At most so many deltas carry the text or the input of one block."""

_NULLS: Final = ("server_tool_use", "output_tokens_details")
_SAID_AT_ONCE: Final = frozenset({"cache_creation", "inference_geo", "service_tier", "speed"})
"""Members of the usage that `message_start` has and `message_delta` has not: what they say is known
from the start (`BetaMessageDeltaUsage` of the SDK)."""

_DEFAULTS: Final = {
    "text": {"citations": b"null"},
    "tool_use": {"caller": b'{"type":"direct"}'},
    "server_tool_use": {"caller": b'{"type":"direct"}'},
}

PING: Final = b'event: ping\ndata: {"type":"ping"}\n\n'


def message(said: Said) -> bytes:
    """Return the reply to a request that does not stream.

    As with the real API what does not apply or is usual is said here; a stream leaves it out.
    """
    head = _head(said)
    usage = dict.fromkeys(_NULLS) | said.usage
    tail = msgspec.json.encode(
        {"stop_reason": said.stop_reason, "stop_sequence": None}
        | {"stop_details": None, "container": None}
        | said.extra
        | {"usage": usage}
    )
    content = b",".join(block if said.is_literal else _whole(block) for block in said.blocks)
    return b'%b,"content":[%b],%b' % (head[:-1], content, tail[1:])


def _whole(block: bytes) -> bytes:
    members = msgspec.json.decode(block, type=dict[str, Raw])
    for name, value in _DEFAULTS.get(msgspec.json.decode(members["type"]), {}).items():
        if name not in members:
            block = b'%b,"%b":%b}' % (block[:-1], name.encode(), value)
    return block


def events(said: Said) -> list[bytes]:
    """Return the events of the stream, in order, each as it goes over the wire."""
    started = said.usage | {"output_tokens": 1}
    for name in ("iterations", "server_tool_use", "output_tokens_details"):
        started.pop(name, None)  # known only when all is said
    rest = msgspec.json.encode({"stop_reason": None, "stop_sequence": None, "usage": started})
    opening = b'%b,"content":[],%b' % (_head(said)[:-1], rest[1:])
    sent = [_event("message_start", b'"message":' + opening)]
    for index, block in enumerate(said.blocks):
        sent += _block(index, block, said.torn if block is said.blocks[-1] else None)
    sent.insert(2 if said.blocks else 1, PING)
    delta = {"stop_reason": said.stop_reason, "stop_sequence": None} | said.extra
    totals = {name: each for name, each in said.usage.items() if name not in _SAID_AT_ONCE}
    closing = msgspec.json.encode({"delta": delta, "usage": totals})
    return [*sent, _event("message_delta", closing[1:-1]), _event("message_stop", b"")]


def error_event(error: bytes) -> bytes:
    """Return the event that ends a stream with an error body."""
    return b"event: error\ndata: %b\n\n" % error


def _head(said: Said) -> bytes:
    return msgspec.json.encode(
        {"id": said.message_id, "type": "message", "role": "assistant", "model": said.model}
    )


def _event(name: str, members: bytes) -> bytes:
    comma = b"," if members else b""
    return b'event: %b\ndata: {"type":"%b"%b%b}\n\n' % (
        name.encode(),
        name.encode(),
        comma,
        members,
    )


def _block(index: int, block: bytes, torn: str | None) -> Iterator[bytes]:
    members = msgspec.json.decode(block, type=dict[str, Raw])
    kind = msgspec.json.decode(members["type"])
    deltas: list[tuple[str, str, str]] = []
    once = b""
    if kind == "text":
        deltas = _taken_out(members, "text", "text_delta")
    elif kind == "thinking":
        deltas = _taken_out(members, "thinking", "thinking_delta")
        if "signature" in members:
            signature = msgspec.json.decode(members["signature"], type=str)
            members["signature"] = Raw(b'""')
            deltas.append(("signature_delta", "signature", signature))
    elif kind.endswith("tool_use") and "input" in members:
        given = bytes(members["input"]).decode() if torn is None else torn
        members["input"] = Raw(b"{}")
        spelled = ["", *_pieces("" if given == "{}" else given)]
        deltas = [("input_json_delta", "partial_json", piece) for piece in spelled]
    elif kind == "compaction":
        # It comes once and whole, and may be null.
        once = b'{"type":"compaction_delta","content":%b}' % bytes(members["content"])
        members["content"] = Raw(b"null")
    at = b'"index":%d' % index
    shell = b",".join(b"%b:%b" % (msgspec.json.encode(k), bytes(v)) for k, v in members.items())
    yield _event("content_block_start", b'%b,"content_block":{%b}' % (at, shell))
    for name, field, value in deltas:
        delta = msgspec.json.encode({"type": name, field: value})
        yield _event("content_block_delta", b'%b,"delta":%b' % (at, delta))
    if once:
        yield _event("content_block_delta", b'%b,"delta":%b' % (at, once))
    yield _event("content_block_stop", at)


def _taken_out(members: dict[str, Raw], field: str, name: str) -> list[tuple[str, str, str]]:
    whole: Any = msgspec.json.decode(members[field])
    members[field] = Raw(b'""')
    return [(name, field, piece) for piece in _pieces(whole)]


def _pieces(whole: str) -> list[str]:
    size = max(4, -(-len(whole) // PIECES))
    return [whole[start : start + size] for start in range(0, len(whole), size)]
