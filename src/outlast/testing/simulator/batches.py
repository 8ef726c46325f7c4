"""The Message Batches API of the simulator, as JSON: a batch, and the lines of its results."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import msgspec

from outlast.models import batched
from outlast.models.batched import Batch, Result
from outlast.models.saying import Said
from outlast.testing.simulator import sse
from outlast.testing.simulator.state import BatchLine, nanoseconds, shown

DAY_NS: Final = 86_400 * 10**9

STATES: Final = ("succeeded", "errored", "canceled", "expired")


class _Kind(msgspec.Struct):
    type: str


class _Told(msgspec.Struct):
    result: _Kind


def line_of(batch: Batch, entries: int) -> BatchLine:
    """Return what is written down of a batch."""
    return BatchLine(
        id=batch.id,
        created_at=shown(batch.created_at),
        ends_at=shown(batch.ends_at),
        entries=entries,
        # In whatever order, says the API.
        results=[_line(name, batch.results[name]).decode() for name in reversed(batch.results)],
    )


def told(line: BatchLine, now: int, base_url: str) -> dict[str, Any]:
    """Return what the API says of a batch at that time."""
    ended = now >= nanoseconds(line.ends_at)
    kinds = (msgspec.json.decode(each, type=_Told).result.type for each in line.results)
    counts = Counter(kinds) if ended else Counter()
    return {
        "id": line.id,
        "type": "message_batch",
        "processing_status": "ended" if ended else "in_progress",
        "request_counts": {name: counts[name] for name in STATES}
        | {"processing": 0 if ended else line.entries},
        "created_at": line.created_at,
        "expires_at": shown(nanoseconds(line.created_at) + DAY_NS),
        "ended_at": line.ends_at if ended else None,
        "cancel_initiated_at": None,
        "archived_at": None,
        "results_url": f"{base_url}v1/messages/batches/{line.id}/results" if ended else None,
    }


def results(line: BatchLine, now: int) -> bytes | None:
    """Return the results of a batch, `None` while it has not ended."""
    if now < nanoseconds(line.ends_at):
        return None
    return "".join(f"{each}\n" for each in line.results).encode()


def _line(name: str, result: Result) -> bytes:
    kind = batched.result_type(result)
    told: Any = {"type": kind}
    if isinstance(result, Said):
        told["message"] = msgspec.Raw(sse.message(result))
    elif kind == "errored":
        error = {"type": "error", "error": batched.error(result), "request_id": None}
        told["error"] = error
    return msgspec.json.encode({"custom_id": name, "result": told})
