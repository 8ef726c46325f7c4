"""`outlast runs`: the runs of a store, newest first."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import Final

from outlast.cli import exits, shapes, verdicts, words
from outlast.cli.screen import columns, screen
from outlast.cli.stores import opened
from outlast.cli.story import STATUS_TONES
from outlast.errors import UsageError
from outlast.journal import RunRow

_BRANCH: Final = "  "
_NUMBERS: Final = ("COST", "TURNS", "STARTED")

STATUSES: Final = (
    "queued",
    "running",
    "parked",
    "waiting",
    "paused",
    "stopped",
    "completed",
    "failed",
    "rejected",
    "cancelled",
)


def list_runs(
    store: str, *, status: str | None, agent: str | None, limit: int, as_json: bool
) -> int:
    """Print the runs of `store` and return the exit code."""
    if status is not None and status not in STATUSES:
        raise UsageError(f"{status!r} is not a status; it is one of {', '.join(STATUSES)}")
    with opened(store) as journal:
        # One more than is shown tells whether there are more.
        found = journal.runs(status=status, agent=agent, limit=limit + 1)
        shown = found[:limit] if as_json else ()
        listed = [verdicts.run_shape(journal, row) for row in shown]
    if as_json:
        sys.stdout.write(shapes.encode(listed).decode() + "\n")
    else:
        _print(found, limit, store, filtered=bool(status or agent))
    return exits.DONE


def _print(rows: list[RunRow], limit: int, store: str, *, filtered: bool) -> None:
    on = screen()
    if not rows:
        on.line((f"{'No run fits' if filtered else 'No runs yet'} in {store}.", ""))
        on.line((f"Next: outlast {'runs' if filtered else 'demo'}", "quiet"))
        return
    now = time.time_ns()
    heads = ("RUN", "STATUS", "PHASE", "AGENT", "COST", "TURNS", "STARTED", "WHY")
    table = [[(head, "quiet") for head in heads]]
    table += [
        [
            (_BRANCH * depth + row.id, "" if depth else "strong"),
            (row.status, STATUS_TONES.get(row.status, "")),
            (words.line(row.phase, 40), ""),
            (row.agent, ""),
            (words.money(row.cost_nano), "money"),
            (f"{row.turns:,}", ""),
            (f"{words.duration(now - row.created_at)} ago", ""),
            (words.line(row.why, 200), "quiet"),
        ]
        for row, depth in _as_trees(rows[:limit])
    ]
    if not any(row.phase for row in rows):
        table = [line[:2] + line[3:] for line in table]
    columns(on, table, right=[table[0].index((head, "quiet")) for head in _NUMBERS])
    more = f"   (there are more: --limit {2 * limit})" if len(rows) > limit else ""
    on.line((f"Next: outlast show {rows[0].id}{more}", "quiet"))


def _as_trees(rows: Sequence[RunRow]) -> Iterator[tuple[RunRow, int]]:
    """Yield the rows, each with its children right below it, oldest first, and how deep it is."""
    listed = {row.id for row in rows}
    children: dict[str, list[RunRow]] = {}
    for row in reversed(rows):
        children.setdefault(row.parent, []).append(row)

    def below(row: RunRow, depth: int) -> Iterator[tuple[RunRow, int]]:
        yield row, depth
        for child in children.get(row.id, ()):
            yield from below(child, depth + 1)

    for row in rows:
        # A child whose parent is not listed stands for itself.
        if row.parent not in listed:
            yield from below(row, 0)
