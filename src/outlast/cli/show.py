"""`outlast show`: everything about one run."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from outlast.cli import exits, shapes, words
from outlast.cli.screen import Screen, columns, screen
from outlast.cli.stores import opened, row_of
from outlast.cli.story import STATUS_TONES
from outlast.cli.words import Part
from outlast.events import MessageReceived, RunStarted
from outlast.journal import Record, RunRow, run_stream


def show_run(store: str, run_id: str, *, as_json: bool) -> int:
    """Print one run of `store` and return the exit code."""
    with opened(store) as journal:
        row = row_of(journal, run_id)
        records = journal.read(run_stream(run_id))
    if as_json:
        shape = shapes.run_shape(row) | _more(records)
        sys.stdout.write(shapes.encode(shape).decode() + "\n")
    else:
        _print(screen(), row, records, store)
    return exits.DONE


def print_answer(on: Screen, row: RunRow) -> None:
    """Print the answer of a completed run: text as Markdown, anything else as JSON."""
    answer = msgspec.json.decode(row.answer or "null")
    if isinstance(answer, str):
        on.page(answer, markdown=True)
    else:
        on.page(msgspec.json.format(row.answer or "null", indent=2))


def next_step(row: RunRow) -> str:
    """Return the one command that is most likely wanted next."""
    if row.status in ("completed", "failed", "rejected", "cancelled"):
        return f"outlast log {row.id}"
    if row.status == "stopped":
        return f"outlast log {row.id}   (and outlast resume {row.id}, once its limits allow it)"
    return f"outlast resume {row.id}"


def _more(records: Sequence[Record]) -> dict[str, Any]:
    """Return what only the journal knows: what was asked of which model, and what is in doubt."""
    started = next(r.event for r in records if isinstance(r.event, RunStarted))
    asked = [r.event.content for r in records if isinstance(r.event, MessageReceived)]
    return {
        "model": started.spec.model,
        "code": started.code,
        "tags": started.tags,
        "input": asked[0] if asked else None,
        "in_doubt": [shape for record in records if (shape := shapes.doubt_shape(record))],
    }


def _print(on: Screen, row: RunRow, records: Sequence[Record], store: str) -> None:
    facts = _facts(row, records, store)
    columns(on, [((name, "quiet"), value) for name, value in facts if value[0]])
    if row.answer is not None:
        on.line(("", ""))
        print_answer(on, row)
        on.line(("", ""))
    on.line((f"Next: {next_step(row)}", "quiet"))


def _facts(row: RunRow, records: Sequence[Record], store: str) -> list[tuple[str, Part]]:
    more = _more(records)
    asked = words.line(words.spoken(more["input"]), 400) if more["input"] else ""
    ended = row.status not in ("queued", "running")
    age = words.duration(time.time_ns() - row.created_at)
    drivers = max((record.epoch for record in records), default=0)
    return [
        ("run", (row.id, "strong")),
        ("status", (row.status, STATUS_TONES.get(row.status, ""))),
        ("why", (words.line(row.why), "")),
        ("agent", (f"{row.agent} on {more['model']}", "")),
        ("code", (more["code"], "")),
        ("tenant", (words.line(row.tenant), "")),
        ("asked", (asked, "")),
        ("cost", (words.money(row.cost_nano), "money")),
        ("turns", (f"{row.turns:,}", "")),
        ("tokens", (f"{row.tokens:,}", "")),
        ("started", (f"{words.day(row.created_at)}, {age} ago", "")),
        ("took" if ended else "so far", (words.duration(row.updated_at - row.created_at), "")),
        ("drivers", (f"{drivers}" if drivers > 1 else "", "")),
        ("journal", (f"{words.count(len(records), 'event')} in {store}", "")),
        *(("in doubt", (_doubt(shape), "doubt")) for shape in more["in_doubt"]),
    ]


def _doubt(shape: dict[str, Any]) -> str:
    what = "reply" if shape["type"] == "model_call_in_doubt" else "tool call"
    cost = f", counted as {words.money(shape['cost_nano'])}" if shape["cost_nano"] else ""
    return f"{what} {shape['call_id']} ({shape['kind']}){cost}"
