"""`outlast show`: everything about one run."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any

import msgspec

from outlast import phases
from outlast.cli import approvals, changes, doubts, exits, shapes, verdicts, words
from outlast.cli.screen import Screen, columns, screen
from outlast.cli.stores import opened, row_of
from outlast.cli.story import STATUS_TONES
from outlast.cli.waits import NOTHING, Open, open_in
from outlast.cli.words import Part
from outlast.events import (
    NULL,
    AskAnswered,
    ChildStarted,
    MessageReceived,
    ModelCallReconciled,
    ModelSwitched,
    RunStarted,
    StepFinished,
    ToolCallStarted,
    ToolCallSucceeded,
    VerdictGiven,
)
from outlast.journal import Journal, Record, RunRow, run_stream
from outlast.phases import ENDS, Phases
from outlast.settling import settled

BAR = 32
"""Cells of the bars that show when a run was in which phase."""


def show_run(store: str, run_id: str, *, as_json: bool) -> int:
    """Print one run of `store` and return the exit code."""
    with opened(store) as journal:
        row = row_of(journal, run_id)
        records = journal.read(run_stream(run_id))
        children = _children(journal, records)
        still = open_in(journal, row)
        whole = verdicts.run_shape(journal, row)
    changed = changes.since(records)
    more = _more(row, records) | {
        "children": [_child_shape(*child) for child in children],
        "changed": changed,
        "waiting": [approvals.shape(one) for one in still.asked],
        "doubts": [doubts.shape(one, records) for one in still.doubts],
        "rejected_answers": whole["rejected_answers"],
        "verdicts": _verdicts(records),
    }
    if as_json:
        shape = whole | more
        sys.stdout.write(shapes.encode(shape).decode() + "\n")
    else:
        _print(screen(), row, records, store, more, still)
    return exits.DONE


def print_answer(on: Screen, row: RunRow) -> None:
    """Print the answer of a completed run: text as Markdown, anything else as JSON."""
    answer = msgspec.json.decode(row.answer or "null")
    if isinstance(answer, str):
        on.page(answer, markdown=True)
    else:
        on.page(msgspec.json.format(row.answer or "null", indent=2))


def next_step(  # noqa: PLR0911  (a row per status)
    row: RunRow, still: Open = NOTHING
) -> str:
    """Return the one command that is most likely wanted next, where people are `still` asked."""
    if still.asked:
        return f"{approvals.command(row.id, still.asked)}   (or outlast deny)"
    if still.doubts:
        return doubts.command(row.id, still.doubts)
    if row.status == "waiting" and (row.wake_at is None or row.wake_at > time.time_ns()):
        return "outlast runs --waiting   (a run below it waits for a person)"
    if row.status in ("completed", "failed", "rejected", "cancelled"):
        return f"outlast log {row.id}"
    if row.status == "stopped":
        return f"outlast log {row.id}   (and outlast resume {row.id}, once its limits allow it)"
    if row.wake_at is not None and row.wake_at > time.time_ns():
        return f"outlast resume {row.id}   (from {words.day(row.wake_at)} on)"
    return f"outlast resume {row.id}"


def _more(row: RunRow, records: Sequence[Record]) -> dict[str, Any]:
    """Return what only the journal knows: what was asked of which model, and what is in doubt."""
    started = next(r.event for r in records if isinstance(r.event, RunStarted))
    asked = [r.event.content for r in records if isinstance(r.event, MessageReceived)]
    given = None if started.input == NULL else started.input
    first = asked[0] if asked else None
    return {
        "kind": started.kind,
        "model": started.spec.model,
        "switches": [_switch(r.event) for r in records if isinstance(r.event, ModelSwitched)],
        "code": started.code,
        "tags": started.tags,
        "input": given if started.kind == "flow" else first,
        "phases": _phases(row, records),
        "in_doubt": _doubts(records),
        "degradations": _degradations(records),
    }


def _switch(event: ModelSwitched) -> dict[str, Any]:
    """Return which model was asked instead of which."""
    names = ("ask_id", "before", "model", "why")
    return {name: getattr(event, name) for name in names}


def _doubts(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return the calls in doubt; of those that were reconciled, nobody doubts any more."""
    known = {r.event.call_id for r in records if isinstance(r.event, ModelCallReconciled)}
    known.update(settled(records))
    found = (shape for record in records if (shape := shapes.doubt_shape(record)))
    return [shape for shape in found if shape["call_id"] not in known]


def _verdicts(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return what checks said of every answer."""
    return [
        {"seq": one.seq, "ask_id": one.event.ask_id, "call_id": one.event.call_id}
        | verdicts.verdict_shape(one.event)
        for one in records
        if isinstance(one.event, VerdictGiven)
    ]


def _degradations(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return the answers that are less than what was asked for, and in what."""
    tools = {r.event.call_id: r.event.tool for r in records if isinstance(r.event, ToolCallStarted)}
    found: list[dict[str, Any]] = []
    for record in records:
        event = record.event
        if isinstance(event, ToolCallSucceeded) and (less := event.degraded) is not None:
            as_of = shapes.moment(less.as_of) if less.as_of else None
            shape = {"tool": tools.get(event.call_id), "step": None, "call_id": event.call_id}
            shape |= {"source": less.source, "as_of": as_of, "note": less.note}
            found.append(shape | {"dropped_filters": list(less.dropped), "ask": None})
        elif isinstance(event, StepFinished) and event.degraded:
            shape = {"tool": None, "step": event.name, "call_id": None, "source": "", "as_of": None}
            found.append(shape | {"note": "", "dropped_filters": [], "ask": None})
        elif isinstance(event, AskAnswered) and event.degraded:
            shape = {"tool": None, "step": None, "call_id": None, "source": "", "as_of": None}
            found.append(
                shape | {"note": event.degraded, "dropped_filters": [], "ask": event.ask_id}
            )
    return found


# ── phases and children ─────────────────────────────────────────────────────────────────────────


def _phases(row: RunRow, records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return each phase a run was in: when it was entered, and left."""
    entered = reduce(phases.evolve, records, Phases()).entered
    lefts: list[int | None] = [at for _, at in entered[1:]]
    return [
        {"phase": phase, "entered_at": shapes.moment(at), "left_at": left and shapes.moment(left)}
        | {"for_s": round(((left or _now(row)) - at) / shapes.NANO, 6)}
        for (phase, at), left in zip(entered, [*lefts, None], strict=False)
        if phase not in ENDS
    ]


def _now(row: RunRow) -> int:
    """Return up to when a run is in its last phase."""
    return time.time_ns() if row.status in ("queued", "running", "parked") else row.updated_at


def _children(journal: Journal, records: Sequence[Record]) -> list[tuple[ChildStarted, RunRow]]:
    begun = [record.event for record in records if isinstance(record.event, ChildStarted)]
    rows = (
        (event, journal.run(event.child)) for event in {one.child: one for one in begun}.values()
    )
    return [(event, row) for event, row in rows if row is not None]


def _child_shape(event: ChildStarted, row: RunRow) -> dict[str, Any]:
    return {
        "name": event.name,
        "id": row.id,
        "agent": row.agent,
        "status": row.status,
        "cost_usd": shapes.dollars(row.cost_nano),
        "cost_nano": row.cost_nano,
    }


# ── for people ──────────────────────────────────────────────────────────────────────────────────


def _print(  # noqa: PLR0913, PLR0917  (what the page is of)
    on: Screen,
    row: RunRow,
    records: Sequence[Record],
    store: str,
    more: dict[str, Any],
    still: Open,
) -> None:
    facts = _facts(row, records, store, more)
    columns(on, [((name, "quiet"), value) for name, value in facts if value[0]])
    for one in still.asked:
        on.line(("asks    ", "quiet"), *approvals.told(one))
    for call in still.doubts:
        on.line(("asks    ", "quiet"), *doubts.told(call))
    for rows in (list(_bars(row, more["phases"])), list(_family(more["children"]))):
        if rows:
            on.line(("", ""))
            columns(on, rows, right=(2,))
    if row.answer is not None:
        on.line(("", ""))
        print_answer(on, row)
        on.line(("", ""))
    on.line((f"Next: {next_step(row, still)}", "quiet"))


def _bars(row: RunRow, entered: Sequence[dict[str, Any]]) -> Iterator[list[Part]]:
    """Yield a line for each phase: its name, when it was, and for how long."""
    lengths = [phase["for_s"] for phase in entered]
    whole, before = sum(lengths) or 1.0, 0.0
    for number, (phase, length) in enumerate(zip(entered, lengths, strict=True), start=1):
        start = min(BAR - 1, round(BAR * before / whole))
        before += length
        end = max(start + 1, round(BAR * before / whole))
        is_now = number == len(entered) and row.status in ("queued", "running", "parked")
        yield [
            (words.line(phase["phase"], 40), "strong" if is_now else ""),
            ((" " * start + "█" * (end - start)).ljust(BAR), "live" if is_now else "quiet"),
            (words.duration(round(length * shapes.NANO)), ""),
            ("now" if is_now else "", "live"),
        ]


def _family(children: Sequence[dict[str, Any]]) -> Iterator[list[Part]]:
    for child in children:
        yield [
            (f"run {child['id']}", ""),
            (child["status"], STATUS_TONES.get(child["status"], "")),
            (words.money(child["cost_nano"]), "money"),
            (child["agent"], "quiet"),
        ]


def _facts(
    row: RunRow, records: Sequence[Record], store: str, more: dict[str, Any]
) -> list[tuple[str, Part]]:
    ended = row.status not in ("queued", "running", "parked")
    age = words.duration(time.time_ns() - row.created_at)
    drivers = max((record.epoch for record in records), default=0)
    who = f"{row.agent} on {more['model']}" if more["model"] else row.agent
    whole = row.cost_nano + sum(child["cost_nano"] for child in more["children"])
    family = f", {words.money(whole)} with its child runs" if more["children"] else ""
    return [
        ("run", (row.id, "strong")),
        ("parent", (row.parent, "")),
        ("status", (row.status, STATUS_TONES.get(row.status, ""))),
        ("why", (words.line(row.why), "")),
        ("phase", (_phase(row, more["phases"]), "")),
        (more["kind"], (who, "")),
        *(("instead", (_instead(shape), "doubt")) for shape in more["switches"]),
        ("code", (more["code"], "")),
        ("version", changes.told(row.version, more["changed"])),
        ("tenant", (words.line(row.tenant), "")),
        ("asked" if more["kind"] == "agent" else "given", (_asked(more), "")),
        ("cost", (words.money(row.cost_nano) + family, "money")),
        ("turns", (f"{row.turns:,}", "")),
        ("tokens", (f"{row.tokens:,}", "")),
        ("started", (f"{words.day(row.created_at)}, {age} ago", "")),
        ("took" if ended else "so far", (words.duration(row.updated_at - row.created_at), "")),
        ("drivers", (f"{drivers}" if drivers > 1 else "", "")),
        ("journal", (f"{words.count(len(records), 'event')} in {store}", "")),
        *(("in doubt", (_doubt(shape), "doubt")) for shape in more["in_doubt"]),
        *(("degraded", (_less(shape), "doubt")) for shape in more["degradations"]),
        *verdicts.lines(more["rejected_answers"]),
    ]


def _less(shape: dict[str, Any]) -> str:
    """Return in what an answer is less than what was asked for."""
    if shape["ask"] is not None:
        return words.line(f"the answer to {shape['ask']}: {shape['note']}", 400)
    if shape["step"] is not None:
        return f"step {words.line(shape['step'], 80)}"
    at = (shape["as_of"] or "").partition(".")[0]
    as_of = f", as of {at}Z" if at else ""
    dropped = shape["dropped_filters"]
    without = f", not filtered by {', '.join(dropped)}" if dropped else ""
    note = f"; {shape['note']}" if shape["note"] else ""
    told = f"{shape['tool']} from {shape['source']}{as_of}{without}{note}"
    return words.line(told, 400)


def _instead(shape: dict[str, Any]) -> str:
    return f"{shape['model']} instead of {shape['before']} ({shape['why']})"


def _asked(more: dict[str, Any]) -> str:
    told = words.given if more["kind"] == "flow" else words.spoken
    return words.line(told(more["input"]), 400) if more["input"] else ""


def _phase(row: RunRow, entered: Sequence[dict[str, Any]]) -> str:
    if not row.phase or row.phase in ENDS:
        return row.phase
    for_ = words.duration(round(entered[-1]["for_s"] * shapes.NANO))
    return f"{words.line(row.phase, 40)}, for {for_}"


def _doubt(shape: dict[str, Any]) -> str:
    what = "reply" if shape["type"] == "model_call_in_doubt" else "tool call"
    cost = f", counted as {words.money(shape['cost_nano'])}" if shape["cost_nano"] else ""
    return f"{what} {shape['call_id']} ({shape['kind']}){cost}"
