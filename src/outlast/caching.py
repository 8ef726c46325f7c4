"""The prompt cache: where its breakpoints stand, and when it should have answered and did not.

    tools ─▶ system ─▶ message ─▶ … ─▶ message ─▶ … ─▶ message
                 ▲                        ▲                ▲
              for every run           as far as        for the next
              of the agent          the last reply       request

The API keeps the prompt up to a breakpoint, and reads it again when another request begins with the
same.  Outlast never changes what was sent, so three breakpoints are enough: what all runs of an
agent share, what the last request wrote (however many blocks were added since; by itself the API
looks back over 20 only), and everything.  A fourth is left to the future.

A marker says nothing to the model: requests are hashed without it.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec
from msgspec import Raw

from outlast.events import Spec

Ttl: TypeAlias = Literal["", "5m", "1h"]
"""How long the API keeps an entry that is not used; empty is no caching."""

LIFE_NS: Final = {"": 0, "5m": 300 * 10**9, "1h": 3_600 * 10**9}
"""The same in nanoseconds: https://platform.claude.com/docs/en/build-with-claude/prompt-caching."""

_MARKERS: Final = {
    "5m": b',"cache_control":{"type":"ephemeral"}',
    "1h": b',"cache_control":{"type":"ephemeral","ttl":"1h"}',
}
"""Five minutes is what the API takes where nothing is said."""

MARKABLE: Final = frozenset(
    {
        "advisor_tool_result",
        "bash_code_execution_tool_result",
        "code_execution_tool_result",
        "compaction",
        "container_upload",
        "document",
        "image",
        "mcp_tool_result",
        "mcp_tool_use",
        "search_result",
        "server_tool_use",
        "text",
        "text_editor_code_execution_tool_result",
        "tool_addition",
        "tool_removal",
        "tool_result",
        "tool_search_tool_result",
        "tool_use",
        "web_fetch_tool_result",
        "web_search_tool_result",
    }
)
"""Blocks that may carry a marker, by their types in the SDK; a marker elsewhere may be a 400."""


def head(spec: Spec, *, marked: bool) -> bytes:
    """Return the frozen members of every request, without braces, with a breakpoint or without."""
    marker = _MARKERS.get(spec.cache, b"") if marked else b""
    tools = bytes(spec.tools)
    parts = [b'"model":' + msgspec.json.encode(spec.model)]
    if spec.system.strip():
        text = msgspec.json.encode(spec.system)
        parts.append(b'"system":[{"type":"text","text":%b%b}]' % (text, marker))
    if tools != b"[]":
        # The tools stand before the system prompt, so its breakpoint holds them too.
        marker = b"" if spec.system.strip() else marker
        parts.append(b'"tools":%b%b}]' % (tools[:-2], marker))
    members = bytes(spec.parameters).strip()[1:-1].strip()
    return b",".join([*parts, members] if members else parts)


def marked(message: bytes, ttl: str) -> bytes:
    """Return a message with a breakpoint at its end; as it is, where it can carry none."""
    marker = _MARKERS.get(ttl)
    if marker is None or not message.endswith(b"}]}") or not _takes_marker(message):
        return message
    return b"%b%b}]}" % (message[:-3], marker)


class _Block(msgspec.Struct, gc=False):
    type: str
    text: str | None = None
    cache_control: Raw | msgspec.UnsetType = msgspec.UNSET


class _Message(msgspec.Struct, gc=False):
    content: list[_Block]


_MESSAGE: Final = msgspec.json.Decoder(_Message)
_RESULTS: Final = b'{"role":"user","content":[{"type":"tool_result",'


def _takes_marker(message: bytes) -> bool:
    if message.startswith(_RESULTS) and b'"cache_control"' not in message:
        return True  # nearly every message, and some are large: results and text can
    try:
        last = _MESSAGE.decode(message).content[-1]
    except msgspec.DecodeError:
        return False  # a block that means something else by `text`
    has_one = last.cache_control is not msgspec.UNSET  # null, too: a second one would be no JSON
    return last.type in MARKABLE and last.text != "" and not has_one
