"""Which request is which: hashes that a client's cache markers and spelling do not change.

`cache_control` is ignored everywhere the API takes it (and nowhere else: a tool may have an
argument of that name), a string is the same as one text block, and a null member of a block is the
same as none, because clients add those when they dump what they were sent; so is a `caller` that is
the client itself, because only some answers name it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

import msgspec

_ENCODER: Final = msgspec.json.Encoder(order="sorted")

_NOT_ASKED: Final = frozenset({"cache_control", "stream", "metadata"})
_DIRECT: Final = {"type": "direct"}
_SAID: Final = ("system", "tools")


class Identity(msgspec.Struct, frozen=True):
    """What a request is, in hex hashes.

    Attributes:
        key: of the whole request, `cache_control`, `stream` and `metadata` aside.
        prefixes: of system, tools and the first n messages, for n from 0 to all of them.
        size: UTF-8 bytes of system, tools and messages in canonical form; see `weight`.

    """

    key: str
    prefixes: tuple[str, ...]
    size: int

    @property
    def conversation(self) -> str:
        """The hash of what was said so far, whichever model and limits the request names."""
        return self.prefixes[-1]


def request_key(body: dict[str, Any] | bytes) -> str:
    """Return the hash that identical requests share; see `Identity.key`."""
    decoded = msgspec.json.decode(body) if isinstance(body, bytes) else body
    return identify(decoded).key


def identify(body: dict[str, Any]) -> Identity:
    """Return the identity of a decoded request, in one pass over its messages."""
    frozen = canonical([plain_blocks(body.get(name)) for name in _SAID])
    rolling = sha256(frozen)
    prefixes, size = [rolling.hexdigest()], len(frozen)
    messages = body.get("messages")
    for message in messages if isinstance(messages, list) else ():
        said = canonical(_message(message))
        rolling.update(sha256(said).digest())
        prefixes.append(rolling.hexdigest())
        size += weight(message, said)
    asked = {k: v for k, v in body.items() if k not in _NOT_ASKED and k not in (*_SAID, "messages")}
    rolling.update(canonical(asked))
    return Identity(rolling.hexdigest(), tuple(prefixes), size)


def content_digest(content: str | Sequence[Any]) -> str:
    """Return the hash that the same content has, however a client dumped it."""
    return sha256(canonical(plain_blocks(content))).hexdigest()


IMAGE_BYTES: Final = 6_400
"""What an image counts, whatever its size: as much as 1,600 tokens of text."""

PAGE_BYTES: Final = 12_000
"""What a page of a PDF counts: as much as 3,000 tokens of text, image and all."""

PAGES_ELSEWHERE: Final = 10
"""How many pages a PDF has that is not in the request."""

_PAGE: Final = re.compile(rb"/Type\s*/Page\b")


def weight(content: Any, encoded: bytes) -> int:
    """Return how many bytes of text something counts like, given its canonical JSON.

    Images and PDFs do not count by their bytes: an image like `IMAGE_BYTES`, a page like
    `PAGE_BYTES`.
    """
    return len(encoded) + (_media(content) if b'"source"' in encoded else 0)


def _media(value: Any) -> int:
    if isinstance(value, list):
        return sum(map(_media, value))
    if not isinstance(value, dict):
        return 0
    source = value.get("source")
    if value.get("type") not in ("image", "document") or not isinstance(source, dict):
        return sum(map(_media, value.values()))
    if source.get("type") in ("text", "content"):
        return _media(source.get("content"))
    data = source.get("data", "")
    return _pages(value["type"], data) - len(data)


def _pages(kind: str, data: str) -> int:
    if kind == "image":
        return IMAGE_BYTES
    pages = len(_PAGE.findall(base64.b64decode(data))) if data else PAGES_ELSEWHERE
    return max(1, pages) * PAGE_BYTES


def canonical(value: Any) -> bytes:
    """Return `value` as JSON with sorted members, in which equal values are equal bytes."""
    return _ENCODER.encode(value)


def plain_blocks(content: Any) -> Any:
    """Return content as blocks without cache markers and nulls; what is no content, as it is."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if isinstance(content, list):
        return [_block(block) for block in content]
    return content


def _message(message: Any) -> Any:
    if not isinstance(message, dict):
        return message
    return message | {"content": plain_blocks(message.get("content"))}


def _block(block: Any) -> Any:
    if not isinstance(block, dict):
        return block
    plain = {k: v for k, v in block.items() if k != "cache_control" and v is not None}
    if plain.get("caller") == _DIRECT:
        del plain["caller"]  # the usual one, which only some answers name
    kind, source = plain.get("type"), plain.get("source")
    if kind == "document" and isinstance(source, dict) and isinstance(source.get("content"), list):
        plain["source"] = source | {"content": plain_blocks(source["content"])}
    elif kind in NESTING and kind != "document":
        plain["content"] = plain_blocks(plain.get("content"))
    return plain


NESTING: Final = frozenset({"tool_result", "search_result", "document"})
"""Blocks that may have blocks inside."""


def nested(block: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the blocks inside a block of a kind that may have some."""
    source = block.get("source")
    holder = source if block.get("type") == "document" else block
    inside = holder.get("content") if isinstance(holder, Mapping) else None
    return [part for part in inside if isinstance(part, dict)] if isinstance(inside, list) else []
