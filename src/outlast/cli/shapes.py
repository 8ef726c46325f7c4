"""The shapes that programs rely on: a run and an event as JSON.

Fields are added freely and never renamed.  Times are UTC, RFC 3339 with `Z`; money is a decimal
string of dollars (`…_usd`) beside whole nano-dollars (`…_nano`).  JSON that came from Claude, a
user or a tool is embedded as it came.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

import msgspec
from msgspec import Raw

from outlast.errors import OutlastError
from outlast.events import ModelCallInDoubt, ToolCallInDoubt, tag
from outlast.journal import Record, RunRow

NANO: Final = 1_000_000_000


def run_shape(row: RunRow) -> dict[str, Any]:
    """Return a run: an element of `runs --json`, and the beginning of `show --json`."""
    return {
        "id": row.id,
        "agent": row.agent,
        "version": row.version,
        "status": row.status,
        "phase": row.phase or None,
        "answer": None if row.answer is None else Raw(row.answer.encode()),
        "rejected_answers": [],
        "cost_usd": dollars(row.cost_nano),
        "cost_nano": row.cost_nano,
        "tokens": row.tokens,
        "turns": row.turns,
        "created_at": moment(row.created_at),
        "updated_at": moment(row.updated_at),
        "wake_at": None if row.wake_at is None else moment(row.wake_at),
        "why": row.why,
        "degraded": row.degraded,
        "tenant": row.tenant,
        "parent": row.parent,
    }


def event_shape(record: Record) -> dict[str, Any]:
    """Return an event: a line of `log --json`, fields that were left at their default included."""
    return {
        "stream": record.stream,
        "seq": record.seq,
        "position": record.position,
        "at": moment(record.at),
        "epoch": record.epoch,
        "type": tag(record.event),
        **_fields(record.event),
    }


def doubt_shape(record: Record) -> dict[str, Any] | None:
    """Return a call in doubt and what it is counted at; `None` if the record is something else."""
    event = record.event
    if not isinstance(event, ModelCallInDoubt | ToolCallInDoubt):
        return None
    nano = event.cost_nano if isinstance(event, ModelCallInDoubt) else 0
    return {
        "seq": record.seq,
        "at": moment(record.at),
        "type": tag(event),
        "call_id": event.call_id,
        "kind": event.kind,
        "cost_usd": dollars(nano),
        "cost_nano": nano,
    }


def error_shape(error: BaseException, *, message: str, exit_code: int) -> dict[str, Any]:
    """Return an error: what a command prints on stderr with `--json`."""
    shape: dict[str, Any] = {
        "type": type(error).__name__,
        "message": message,
        "exit_code": exit_code,
    }
    if isinstance(error, OutlastError):
        values = {k: v for k, v in vars(error).items() if not k.startswith("_") and _plain(v)}
        shape |= {k: v for k, v in values.items() if k not in shape}
    return {"error": shape}


def encode(shape: object) -> bytes:
    """Return the JSON of a shape in one line, without the line's end."""
    # JSON knows a line break only between its tokens: inside a string it is written \n.
    return msgspec.json.encode(shape).replace(b"\n", b" ").replace(b"\r", b" ")


def dollars(nano: int) -> str:
    """Return nano-dollars as a decimal string of dollars, exact and without an exponent."""
    return format((Decimal(nano) / NANO).normalize(), "f")


def moment(at: int) -> str:
    """Return nanoseconds since the epoch as RFC 3339 in UTC, to the microsecond."""
    seconds, nanoseconds = divmod(at, NANO)
    whole = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{whole}.{nanoseconds // 1000:06}Z"


def _fields(value: msgspec.Struct) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name in value.__struct_fields__:
        field = getattr(value, name)
        fields[name] = _fields(field) if isinstance(field, msgspec.Struct) else field
        if name.endswith("_nano"):
            fields[name.removesuffix("_nano") + "_usd"] = dollars(field)
    return fields


def _plain(value: object) -> bool:
    simple = (str, int, float, bool, type(None))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return all(isinstance(item, simple) for item in value)
    return isinstance(value, simple)
