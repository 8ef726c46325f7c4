"""Batches as the scripted Claude takes them: what it refuses, and what comes of each entry.

Every entry is answered, and billed, when the batch arrives; its results can be had later, when the
slowest of its answers would have come.  An entry goes through the same checks as a message.
"""

from __future__ import annotations

import re
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import Raw

from outlast.models.saying import Said
from outlast.models.script import Fault, error_type

MOST: Final = 100_000
MOST_BYTES: Final = 256 * 1024 * 1024

_CUSTOM_ID: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request of a batch, and what it is named there."""

    custom_id: str
    params: Raw


class Posted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body that sends a batch."""

    requests: list[Entry]


Result: TypeAlias = Said | Fault
"""What came of an entry: a reply, or what its result says instead."""


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch that was accepted.

    Attributes:
        id: what it is called.
        created_at: when it came, in nanoseconds since the epoch.
        ends_at: when its results are there.
        results: by custom id; what has none in the end is left out.

    """

    id: str
    created_at: int
    ends_at: int
    results: dict[str, Result]


def read(body: bytes) -> Posted | str:
    """Return the batch that a body sends, or why the API refuses it."""
    if len(body) > MOST_BYTES:
        return f"Request exceeds the maximum size: {len(body)} bytes > {MOST_BYTES}"
    try:
        posted = msgspec.json.decode(body, type=Posted)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return f"The request body is not a batch: {error}"
    if not 1 <= len(posted.requests) <= MOST:
        return f"requests: {len(posted.requests)} is not between 1 and {MOST}"
    names = [entry.custom_id for entry in posted.requests]
    for index, name in enumerate(names):
        if not _CUSTOM_ID.fullmatch(name):
            return (
                f"requests.{index}.custom_id: String should match pattern '^[a-zA-Z0-9_-]{{1,64}}$'"
            )
    if len(set(names)) < len(names):
        return "requests: custom_id must be unique within the batch"
    return posted


def result_type(result: Result) -> str:
    """Return the `type` of an entry's result."""
    if isinstance(result, Said):
        return "succeeded"
    return result.kind if result.kind in ("expired", "canceled") else "errored"


def error(fault: Fault) -> dict[str, Any]:
    """Return the error of an entry that errored; what no entry can meet is an `api_error`."""
    kind = fault.type if fault.kind == "status" else error_type(500)
    told: dict[str, Any] = {"type": kind, "message": fault.message}
    if fault.error_code:
        told["details"] = {"error_code": fault.error_code}
    return told
