"""`outlast costs --reconcile`: what was billed beside what was counted."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, Final

from outlast.cli import exits, shapes, words
from outlast.cli.screen import columns, screen
from outlast.cli.stores import opened
from outlast.errors import UsageError
from outlast.reconciliation import Corrected, apply
from outlast.views.bill import Line, compared, left_out, read_report, unfinished

BY: Final = "outlast costs --reconcile"


def reconcile_costs(
    store: str, file: str | None, *, applies: bool, reason: str, as_json: bool
) -> int:
    """Compare a store with a cost report, correct it where told to, and return the exit code."""
    if file is None:
        raise UsageError("--apply and --reason go with --reconcile FILE, Anthropic's cost report")
    if reason and not applies:
        raise UsageError("--reason goes with --apply; without it nothing is written")
    content, exported_at = _read(file)
    now = time.time_ns()
    with opened(store) as journal:
        lines = journal.rollup()
        report = read_report(content, {line.model for line in lines})
        corrected = Corrected()
        if applies:
            corrected = apply(
                journal, report, exported_at=exported_at, now=now, by=BY, reason=reason
            )
            lines = journal.rollup()
    bill = compared(report, lines)
    open_days = [*unfinished(report, exported_at)]
    missing = left_out(report, lines)
    if as_json:
        shape = {
            "lines": [_shape(line) for line in bill],
            "flagged": sum(line.flagged for line in bill),
            "unfinished": open_days,
            "left_out": missing,
            "applied": applies,
            "corrected": _corrected_shape(corrected),
        }
        sys.stdout.write(shapes.encode(shape).decode() + "\n")
    else:
        _print(bill, open_days, missing, corrected, applies=applies)
        _print_next(bill, open_days, file, applies=applies)
    return exits.FAILED if any(line.flagged for line in bill) else exits.DONE


def _read(file: str) -> tuple[bytes, int]:
    """Return what is in a file, and when it was written."""
    try:
        path = Path(file)
        return path.read_bytes(), path.stat().st_mtime_ns
    except (OSError, ValueError) as error:
        raise UsageError(f"--reconcile {file}: it cannot be read ({error})") from error


def _shape(line: Line) -> dict[str, Any]:
    nanos = {
        "billed": line.billed_nano,
        "settled": line.settled_nano,
        "in_doubt": line.in_doubt_nano,
        "drift": line.drift_nano,
    }
    shape: dict[str, Any] = {"day": line.day, "model": line.model}
    for name, nano in nanos.items():
        shape |= {f"{name}_usd": shapes.dollars(nano), f"{name}_nano": nano}
    percent = round(line.drift_percent, 4)
    return shape | {"drift_percent": percent, "flagged": line.flagged}


def _corrected_shape(corrected: Corrected) -> dict[str, Any]:
    return {
        "calls": corrected.calls,
        "counted_usd": shapes.dollars(corrected.counted_nano),
        "counted_nano": corrected.counted_nano,
        "cost_usd": shapes.dollars(corrected.cost_nano),
        "cost_nano": corrected.cost_nano,
    }


# ── for people ──────────────────────────────────────────────────────────────────────────────────


def _print(
    bill: list[Line], open_days: list[str], missing: list[str], done: Corrected, *, applies: bool
) -> None:
    on = screen()
    heads = ("DAY", "MODEL", "BILLED", "SETTLED", "IN DOUBT", "DRIFT", "")
    table = [[(head, "quiet") for head in heads], *map(_line, bill)]
    columns(on, table, right=range(2, 6))
    if not bill:
        on.line(("Nothing was billed, and nothing was spent, on the days of the report.", ""))
    if open_days:
        told = f"{_days(open_days)}: not over when the report was written, so more may be billed"
        on.line((f"{told}; calls in doubt are left.", "quiet"))
    if missing:
        on.line((f"{_days(missing)}: not in the report, and left out.", "quiet"))
    if applies and done.calls:
        on.line(
            (f"Corrected {words.count(done.calls, 'call')} in doubt: ", "strong"),
            (f"{words.money(done.counted_nano)} turned out to be ", ""),
            (words.money(done.cost_nano), "money"),
        )
    elif applies:
        on.line(("Nothing was in doubt on these days, so nothing was changed.", ""))


def _line(line: Line) -> list[words.Part]:
    drift = f"{line.drift_percent:+.2f}%" if line.drift_nano else ""
    return [
        (line.day, ""),
        (words.line(line.model, 60), "strong"),
        (words.money(line.billed_nano), "money"),
        (words.money(line.settled_nano), ""),
        (words.money(line.in_doubt_nano) if line.in_doubt_nano else "", "doubt"),
        (drift, "bad" if line.flagged else "quiet"),
        (_why(line), "bad"),
    ]


def _why(line: Line) -> str:
    if not line.flagged:
        return ""
    if line.drift_nano < 0:
        return "billed to somebody else, or unknown to this store"
    return "in doubt" if line.in_doubt_nano >= line.drift_nano else "counted, and not billed"


def _days(days: list[str]) -> str:
    return days[0] if len(days) == 1 else f"{len(days)} days from {days[0]} to {days[-1]}"


def _print_next(bill: list[Line], open_days: list[str], file: str, *, applies: bool) -> None:
    closed = [line for line in bill if line.in_doubt_nano and line.day not in open_days]
    if closed and not applies:
        told = f"outlast costs --reconcile {file} --apply"
    else:
        told = "outlast costs --by day"
    screen().line((f"Next: {told}", "quiet"))
