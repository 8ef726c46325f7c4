"""What there is to check an answer against: what was asked, and what tools returned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Raw

from outlast.checks import Evidence, Finding
from outlast.conversation import Conversation, Found


def gathered(asks: Mapping[str, Conversation], ask: Conversation, attempt: int) -> Evidence:
    """Return what there is to check the answer to a question against.

    What tools returned counts in the whole run, whichever of its questions they were called for.

    Args:
        asks: every ask of the run.
        ask: the question.
        attempt: the number of the answer.

    """
    found = {one.seq: one for each in asks.values() for one in each.found}
    chain = [*_chain(asks, ask)]
    return Evidence(
        task="\n\n".join(text_of(one.asked) for one in reversed(chain)),
        findings=tuple(finding(found[seq]) for seq in sorted(found)),
        attempt=attempt,
    )


def _chain(asks: Mapping[str, Conversation], ask: Conversation | None) -> Iterator[Conversation]:
    """Yield a question and those before it in its conversation, the last one first."""
    while ask is not None:
        yield ask
        ask = asks.get(ask.continues)


def finding(found: Found) -> Finding:
    """Return what a tool returned as checks see it."""
    texts = _texts(found.content)
    # That it is less than what was asked for is said before it, and no part of it.
    result = texts[1:] if found.degraded else texts
    return Finding(
        tool=found.tool,
        arguments=_arguments(found.arguments),
        text="\n".join(texts),
        value=_value("\n".join(result)),
        seq=found.seq,
        degraded=found.degraded,
    )


def shown(findings: Sequence[Finding], most: int) -> list[dict[str, Any]]:
    """Return what tools returned for a model to read, as far as there is room: as much of each.

    Args:
        findings: what they returned.
        most: bytes of all results together.

    """
    each = most // max(1, len(findings))
    return [
        {"tool": one.tool, "arguments": one.arguments} | _cut(one.text, each) for one in findings
    ]


def _cut(text: str, most: int) -> dict[str, Any]:
    whole = text.encode()
    if len(whole) <= most:
        return {"result": text}
    half = max(1, most // 2)
    return {
        "result_begins": whole[:half].decode("utf-8", "ignore"),
        "result_ends": whole[-half:].decode("utf-8", "ignore"),
        "bytes_left_out": len(whole) - 2 * half,
    }


def _arguments(raw: Raw) -> dict[str, Any]:
    try:
        given = msgspec.json.decode(raw)
    except (ValueError, RecursionError):
        return {}
    return given if isinstance(given, dict) else {}


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return text


class _Block(msgspec.Struct, gc=False):
    type: str = ""
    text: Any = None


def text_of(content: Raw) -> str:
    """Return the text of a message or of a result; images and documents are left out."""
    return "\n".join(_texts(content))


def _texts(content: Raw) -> list[str]:
    raw = bytes(content)
    if not raw.startswith(b"["):
        said = msgspec.json.decode(raw)
        return [said if isinstance(said, str) else raw.decode()]
    blocks = msgspec.json.decode(raw, type=list[_Block])
    return [one.text for one in blocks if isinstance(one.text, str)]
