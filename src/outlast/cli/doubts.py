"""`outlast reconcile ID`: what became of a call of a tool that is in doubt, as a person says it.

What a call of Claude's that is in doubt really cost is another thing: `outlast costs --reconcile`.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from outlast.app import Outlast
from outlast.cli import exits, shapes, words
from outlast.cli.screen import Screen, columns, screen
from outlast.cli.stores import opened, row_of
from outlast.cli.waits import open_in
from outlast.cli.words import Part
from outlast.errors import UsageError
from outlast.journal import Record, RunRow, run_stream
from outlast.operators import check_text
from outlast.settling import InDoubt, trouble


def reconcile_run(  # noqa: PLR0913  (the options of a command)
    store: str,
    run_id: str,
    *,
    call: str | None,
    outcome: str | None,
    result: str | None,
    note: str,
    by: str | None,
    as_json: bool,
) -> int:
    """Say what became of a call, or show what is in doubt; return the exit code."""
    from outlast.cli.approvals import goes_on, login  # noqa: PLC0415  (which shows doubts, too)

    if outcome is None:
        if result is not None or note:
            raise UsageError("say what became of the call: --outcome happened, or did-not")
        return _show(store, run_id, call=call, as_json=as_json)
    given = None if result is None else _typed(result)
    who = login() if by is None else by
    with opened(store) as journal:
        row_of(journal, run_id)
        app = Outlast(journal)
        # It refuses any other outcome.
        said: Any = outcome
        app.reconcile(run_id, call=call, outcome=said, result=given, note=note, by=who)
        row = row_of(journal, run_id)
        still = open_in(journal, row)
    if as_json:
        sys.stdout.write(shapes.encode(shapes.run_shape(row)).decode() + "\n")
        return exits.DONE
    on = screen()
    did = "happened" if outcome == "happened" else "did not happen"
    on.line(
        ("written: it ", ""), (did, "strong"), ("; Claude is told so in run ", ""), (run_id, "")
    )
    for one in still.doubts:
        on.line(("still in doubt: ", "quiet"), *told(one))
    on.line((f"Next: {command(run_id, still.doubts) if still.doubts else goes_on(row)}", "quiet"))
    return exits.DONE


def command(run_id: str, doubts: Sequence[InDoubt]) -> str:
    """Return the command that shows what is in doubt, and what to look for."""
    what = "call" if len(doubts) == 1 else f"{len(doubts)} calls"
    return f"outlast reconcile {run_id}   (a person has to say what became of its {what})"


def told(one: InDoubt) -> list[Part]:
    """Return a call in doubt as a line: did it happen, and with what was it made."""
    return [
        (f"Did {words.line(one.tool, 80)} happen?", "doubt"),
        (f"  {words.call(one.tool, one.arguments, 400)}", ""),
    ]


def shape(one: InDoubt, records: Sequence[Record] | None = None) -> dict[str, Any]:
    """Return a call in doubt as programs get it; with the journal, with why it is."""
    found = {
        "call_id": one.call_id,
        "tool": one.tool,
        "arguments": one.arguments,
        "since": shapes.moment(one.since),
        "idempotency_key": one.key,
    }
    return found if records is None else found | {"error": trouble(records, one.call_id)}


def _show(store: str, run_id: str, *, call: str | None, as_json: bool) -> int:
    with opened(store) as journal:
        row = row_of(journal, run_id)
        still = open_in(journal, row).doubts
        records = journal.read(run_stream(run_id))
    if call is not None and not (still := tuple(one for one in still if one.call_id == call)):
        raise UsageError(
            f"run {run_id!r} has no call {call!r} in doubt; `outlast reconcile {run_id}` shows "
            "those that are"
        )
    if as_json:
        found = shapes.run_shape(row) | {"doubts": [shape(one, records) for one in still]}
        sys.stdout.write(shapes.encode(found).decode() + "\n")
        return exits.DONE
    _print(screen(), row, still, records)
    return exits.DONE


def _print(on: Screen, row: RunRow, still: Sequence[InDoubt], records: Sequence[Record]) -> None:
    if not still:
        on.line((f"No call of run {row.id} is in doubt; nobody has to say anything.", ""))
        on.line((f"Next: outlast show {row.id}", "quiet"))
        return
    now = time.time_ns()
    for one in still:
        facts = [
            ("call", (one.call_id, "strong")),
            ("tool", (words.call(one.tool, one.arguments, 2_000), "")),
            ("since", (f"{words.day(one.since)}, {words.duration(now - one.since)} ago", "")),
            ("because", (words.line(trouble(records, one.call_id), 400), "doubt")),
            ("key", (one.key, "")),
        ]
        columns(on, [((name, "quiet"), value) for name, value in facts if value[0]])
        on.line(("", ""))
    on.line(("Look where it went, for the key or the arguments, and say what became of it:", ""))
    which = f" --call {shlex.quote(still[0].call_id)}" if len(still) > 1 else ""
    typed = f"  outlast reconcile {row.id}{which} --outcome"
    on.line((f"{typed} happened --result TEXT", "strong"), ("   (what it gave, if known)", "quiet"))
    on.line((f"{typed} did-not", "strong"))
    on.line(("Next: one of these two; until then Claude is told nothing", "quiet"))


def _typed(text: str) -> Any:
    """Return what a call gave: JSON where it is some, and else a text.

    Claude gets numbers and the like as they are spelled: a receipt's 12E4 is not 120000.0.
    """
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--result: {text[1:]!r} cannot be read: {error}") from error
    check_text("--result", text)
    try:
        given = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text
    return given if isinstance(given, str | list | dict) else text.strip()
