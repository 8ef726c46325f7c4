"""What may follow what in a conversation: the API's rules, asked before anything is sent.

What outlast itself builds keeps them by construction.  Messages from outside, or from another
version, may not, and a request with one of them would be refused for ever: so it is found here,
when the message enters, with the event that brought it.

| after | may come |
|---|---|
| nothing | a user's message |
| a reply with tool uses | one user's message, which begins with exactly one result for each |
| a reply that paused | nothing: it is sent back as it is |
| any other reply, or a user's message | a user's message without results, or the system's |
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Raw


class _Block(msgspec.Struct, gc=False):
    type: str
    id: str = ""
    tool_use_id: str = ""
    text: str | None = None


class _Kind(msgspec.Struct, gc=False):
    type: str


class _Message(msgspec.Struct, gc=False):
    role: str
    content: list[Raw]


_MESSAGE: Final = msgspec.json.Decoder(_Message)
_BLOCK: Final = msgspec.json.Decoder(_Block)
_KIND: Final = msgspec.json.Decoder(_Kind)
_READ: Final = frozenset({"text", "tool_use", "tool_result"})


def misfit(message: bytes, before: bytes | None, stop_reason: str | None) -> str:
    """Return why the API would not take `message` after the one before it; empty when it would.

    Args:
        message: a user's or a system message as it would be sent.
        before: the message before it, `None` for the first.
        stop_reason: what the last reply stopped for, where `before` is a reply.

    """
    try:
        role, said = _read(message)
    except msgspec.DecodeError as error:
        return f"it is not a message of this API: {error}"
    if wrong := _empty(said):
        return wrong
    if before is None and role != "user":
        return f"the first message has the role {role!r}"
    last_role, last = _read(before) if before is not None else ("", [])
    replied = last_role == "assistant"
    if replied and stop_reason == "pause_turn":
        return "the reply before it paused, so it has to be sent back with nothing after it"
    uses = [block.id for block in last if block.type == "tool_use"] if replied else []
    return _unpaired(role, said, uses)


def _empty(said: list[_Block]) -> str:
    if not said:
        return "it is empty"
    if any(block.type == "text" and not (block.text or "").strip() for block in said):
        return "it holds a text of nothing but blanks"
    return ""


def _unpaired(role: str, said: list[_Block], uses: list[str]) -> str:
    results = [block.tool_use_id for block in said if block.type == "tool_result"]
    if uses and role != "user":
        return f"it comes between {len(uses)} tool uses and their results"
    if sorted(results) != sorted(uses):
        return f"it has results for {results}, and the reply before it asked for {uses}"
    if any(block.type != "tool_result" for block in said[: len(results)]):
        return "something stands before its tool results"
    return ""


def _read(message: bytes) -> tuple[str, list[_Block]]:
    read = _MESSAGE.decode(message)
    return read.role, [_block(content) for content in read.content]


def _block(content: Raw) -> _Block:
    kind = _KIND.decode(content).type
    return _BLOCK.decode(content) if kind in _READ else _Block(kind)


def beside(content: bytes, *, before: str = "", after: str = "") -> bytes:
    """Return the content of a tool result with texts around it, as blocks.

    The API takes no blank text, so where the content is one, it is left out.

    Args:
        content: a JSON string, or an array of content blocks.
        before: what is said first; empty is nothing.
        after: what is said last; empty is nothing.

    """
    inside = content[1:-1] if content[:1] == b"[" else _text_block(msgspec.json.decode(content))
    return b"[%b]" % b",".join(filter(None, (_text_block(before), inside, _text_block(after))))


def _text_block(text: str) -> bytes:
    if not text.strip():
        return b""
    return b'{"type":"text","text":%b}' % msgspec.json.encode(text)
