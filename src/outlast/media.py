"""Images, documents and files in a message: what they may count, and where their bytes are.

Bytes of an image or a document are kept once, as a blob; in the journal, and so in the history,
stands a reference to it, `{"blob":"<sha-256>"}`, in the place of the base64 text.  It is put back
when a request is sent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

IMAGE_TOKENS: Final = 4_784
"""The most that an image counts: one patch of 28 by 28 pixels is a token, and a larger image is
made smaller first.  https://platform.claude.com/docs/en/build-with-claude/vision
"""

COUNTED_MARGIN: Final = 20
"""One part in so many is added to what the API counts: it calls its count an estimate."""

_MEDIA: Final = (b'"image"', b'"document"', b'"container_upload"')
_PLAIN: Final = frozenset({"text", "content"})
"""Sources of documents whose tokens are those of the message's own bytes."""

_REFERENCE: Final = re.compile(
    rb'(\{"type":"base64","media_type":"[a-z/]+","data":)\{"blob":"([0-9a-f]{64})"\}\}'
)
"""A source whose bytes were put away, as `blocks.stored` writes it; in a text, its quotation marks
would be escaped.
"""


def bound(content: bytes) -> tuple[int, bool]:
    """Return how many tokens a message may count beside its bytes, and whether that is all.

    It is not for a PDF, a document elsewhere or a file: their pages have to be counted by the API.
    """
    if not any(kind in content for kind in _MEDIA):
        return 0, True
    images, known = 0, True
    for block in _blocks(msgspec.json.decode(content)):
        images += block["type"] == "image"
        known &= not _is_long(block)
    return images * IMAGE_TOKENS, known


def _blocks(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, list):
        for one in value:
            yield from _blocks(one)
    elif isinstance(value, dict):
        if isinstance(value.get("type"), str):
            yield value
        for inside in value.values():
            yield from _blocks(inside)


def _is_long(block: dict[str, Any]) -> bool:
    if block["type"] == "container_upload":
        return True
    source = block.get("source")
    kind = source.get("type") if isinstance(source, dict) else None
    return block["type"] == "document" and kind not in _PLAIN


def reference(digest: str) -> dict[str, str]:
    """Return what stands for a blob in the journal."""
    return {"blob": digest}


def has_references(message: bytes) -> bool:
    """Return whether bytes have to be put back before `message` is sent."""
    return b'"data":{"blob":"' in message and _REFERENCE.search(message) is not None


def expanded(message: bytes, base64_of: Callable[[str], bytes]) -> bytes:
    """Return a message with its bytes in their places; `base64_of` gives those of a digest."""
    return _REFERENCE.sub(lambda at: b'%b"%b"}' % (at[1], base64_of(at[2].decode())), message)
