"""Signatures by which the scripted Claude knows its own thinking and compactions again.

A signature has two halves.  The first is of the block itself, so that an altered one is found; the
second binds thinking to the system, the tools and every message before it, cache markers aside.
The key is no secret: this tells honest clients what the real API would have told them.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any, Final

from outlast.models.identity import canonical, plain_blocks

KEY: Final = b"the simulated Claude of outlast"

MARK: Final = "sim1."
"""What a signature of ours begins with; a script may give any other."""

SIGNED: Final[Mapping[str, str]] = {
    "thinking": "signature",
    "redacted_thinking": "data",
    "compaction": "signature",
}
"""Blocks that carry a signature, and the member it is in."""


def sign(block: Mapping[str, Any], conversation: str) -> str:
    """Return the signature of a block that is said after `conversation`, a prefix's hash."""
    return MARK + _half(block, "") + _half(block, conversation)


def is_ours(block: Mapping[str, Any]) -> bool:
    """Return whether the block claims to carry a signature of ours."""
    return str(block.get(SIGNED[block["type"]])).startswith(MARK)


def fault(block: Mapping[str, Any], conversation: str, *, binds: bool) -> str:
    """Return what is wrong with a signature of ours, empty when nothing is.

    Args:
        block: a block that `is_ours`.
        conversation: the hash of what the client says came before it.
        binds: whether that matters.

    """
    kind = block["type"]
    signature = block[SIGNED[kind]]
    own, bound = MARK + _half(block, ""), _half(block, conversation)
    if not hmac.compare_digest(signature[: len(own)], own) or len(signature) != len(own + bound):
        return f"Invalid `{SIGNED[kind]}` in `{kind}` block: it was changed since Claude wrote it"
    if binds and kind != "compaction" and signature != own + bound:
        return (
            f"Invalid `{SIGNED[kind]}` in `{kind}` block: the system, the tools or an earlier "
            "message is not what it was when Claude wrote it"
        )
    return ""


def _half(block: Mapping[str, Any], conversation: str) -> str:
    bare = {name: value for name, value in block.items() if name != SIGNED[block["type"]]}
    said = canonical(plain_blocks([bare]))
    return hmac.digest(KEY, conversation.encode() + b"/" + said, "sha256").hex()[:32]
