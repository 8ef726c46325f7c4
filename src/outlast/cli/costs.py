"""`outlast costs`: what was spent, added up."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from outlast.cli import exits, shapes, words
from outlast.cli.screen import columns, screen
from outlast.cli.stores import opened
from outlast.cli.story import STATUS_TONES
from outlast.errors import UsageError
from outlast.journal import Posting, RunRow
from outlast.limits import paid
from outlast.views.costs import GROUPS, Cost, costs, dearest, forecast, total

_BAR: Final = 40
_MOST_RUNS: Final = 50
"""How many runs people are shown; programs get all of them."""

_WASTED: Final = {
    "in_doubt_nano": "in doubt",
    "lost_nano": "billed, and no reply came",
    "loops_nano": "loops",
    "missed_nano": "cache misses",
    "rejected_nano": "rejected answers",
}


def show_costs(store: str, *, by: str, chart: bool, as_csv: bool, as_json: bool) -> int:
    """Print the costs of a store and return the exit code."""
    if by not in (*GROUPS, "run"):
        raise UsageError(f"--by {by}: costs are added up by {', '.join(GROUPS)} or run")
    with opened(store) as journal:
        lines = journal.rollup()
        rows = dearest(paid(journal)) if by == "run" else []
    found = costs(lines, by) if by in GROUPS else []
    listed = [_run_shape(row) for row in rows] or [_shape(by, cost) for cost in found]
    if as_json:
        sys.stdout.write(shapes.encode(listed).decode() + "\n")
    elif as_csv:
        _write_csv(listed, _RUN_HEADS if by == "run" else list(_shape(by, Cost(name=""))))
    else:
        _print(store, by, found, rows, lines, chart=chart)
    return exits.DONE


def _shape(by: str, cost: Cost) -> dict[str, Any]:
    numbers = {name: getattr(cost, name) for name in cost.__struct_fields__ if name != "name"}
    return {
        by: cost.name,
        "cost_usd": shapes.dollars(cost.nano),
        "cost_nano": cost.nano,
        "wasted_usd": shapes.dollars(cost.wasted_nano),
        "wasted_nano": cost.wasted_nano,
    } | numbers


def _run_shape(row: RunRow) -> dict[str, Any]:
    return {
        "run": row.id,
        "cost_usd": shapes.dollars(row.cost_nano),
        "cost_nano": row.cost_nano,
        "settled_nano": row.cost_nano - row.in_doubt_nano,
        "in_doubt_nano": row.in_doubt_nano,
        "calls": row.turns,
        "tokens": row.tokens,
        "agent": row.agent,
        "tenant": row.tenant,
        "status": row.status,
    }


_RUN_HEADS: Final = (
    *("run", "cost_usd", "cost_nano", "settled_nano", "in_doubt_nano", "calls", "tokens"),
    *("agent", "tenant", "status"),
)


def _write_csv(rows: Sequence[Mapping[str, Any]], heads: Sequence[str]) -> None:
    writer = csv.DictWriter(sys.stdout, fieldnames=heads)
    writer.writeheader()
    writer.writerows(rows)


# ── for people ──────────────────────────────────────────────────────────────────────────────────


def _print(  # noqa: PLR0913  (what is shown)
    store: str,
    by: str,
    found: Sequence[Cost],
    rows: Sequence[RunRow],
    lines: Sequence[Posting],
    *,
    chart: bool,
) -> None:
    on = screen()
    if not found and not rows:
        on.line((f"Nothing was spent yet in {store}.", ""))
        on.line(("Next: outlast demo", "quiet"))
        return
    if by == "run":
        _print_runs(rows)
    else:
        _print_costs(by, found)
    if chart:
        shown = [(row.id, row.cost_nano, row.in_doubt_nano) for row in rows[:_MOST_RUNS]]
        _chart(shown or [(cost.name, cost.nano, cost.wasted_nano) for cost in found])
    if told := _made_of(total(costs(lines, "month"))):
        on.line((told, "doubt"))
    if fees := total(costs(lines, "month")).search_nano:
        on.line((f"Of it, for web searches: {words.money(fees)}", "quiet"))
    expected = forecast(lines, now=time.time_ns())
    on.line((f"This month, if it goes on like this: {words.money(expected)}", "quiet"))
    on.line((f"Next: {_next(by, found, rows)}", "quiet"))


def _print_costs(by: str, found: Sequence[Cost]) -> None:
    heads = (by.upper(), "COST", "WASTE", "IN DOUBT", "CALLS", "FAILED", "TOKENS", "CACHED")
    table = [[(head, "quiet") for head in heads]]
    table += [
        [
            (words.line(cost.name, 60), "strong"),
            (words.money(cost.nano), "money"),
            (words.money(cost.wasted_nano) if cost.wasted_nano else "", "doubt"),
            (words.money(cost.in_doubt_nano) if cost.in_doubt_nano else "", "doubt"),
            (f"{cost.calls:,}", ""),
            (f"{cost.calls_failed + cost.calls_in_doubt:,}", ""),
            (f"{cost.tokens:,}", ""),
            (f"{cost.cached:.0%}", ""),
        ]
        for cost in ((*found, total(found)) if len(found) > 1 else found)
    ]
    columns(screen(), table, right=range(1, len(heads)))


def _print_runs(rows: Sequence[RunRow]) -> None:
    heads = ("RUN", "COST", "IN DOUBT", "CALLS", "TOKENS", "STATUS", "AGENT")
    table = [[(head, "quiet") for head in heads]]
    shown, others = rows[:_MOST_RUNS], rows[_MOST_RUNS:]
    table += [_run_line(row.id, (row,), row.status, row.agent) for row in shown]
    if others:
        table.append(_run_line(words.count(len(others), "other run"), others))
    if len(rows) > 1:
        table.append(_run_line("total", rows))
    columns(screen(), table, right=range(1, 5))


def _run_line(
    name: str, rows: Sequence[RunRow], status: str = "", agent: str = ""
) -> list[words.Part]:
    doubt = sum(row.in_doubt_nano for row in rows)
    return [
        (name, "strong"),
        (words.money(sum(row.cost_nano for row in rows)), "money"),
        (words.money(doubt) if doubt else "", "doubt"),
        (f"{sum(row.turns for row in rows):,}", ""),
        (f"{sum(row.tokens for row in rows):,}", ""),
        (status, STATUS_TONES.get(status, "")),
        (words.line(agent, 60), "quiet"),
    ]


def _made_of(whole: Cost) -> str:
    """Return what is wasted in all, and what that is made of; empty where nothing is."""
    parts = [
        f"{told} {words.money(getattr(whole, name))}"
        for name, told in _WASTED.items()
        if getattr(whole, name)
    ]
    if not parts:
        return ""
    share = whole.wasted_nano / whole.nano if whole.nano else 0.0
    return f"Wasted: {words.money(whole.wasted_nano)} ({share:.0%}): {', '.join(parts)}"


def _next(by: str, found: Sequence[Cost], rows: Sequence[RunRow]) -> str:
    if by == "run":
        return f"outlast show {rows[0].id}"
    if any(cost.in_doubt_nano for cost in found):
        return "outlast costs --reconcile FILE   (Anthropic's cost report)"
    return f"outlast costs --by {'agent' if by != 'agent' else 'day'} --chart"


def _chart(bars: Sequence[tuple[str, int, int]]) -> None:
    """Draw a bar for each line, in which what was wasted is hatched."""
    on = screen()
    most = max(nano for _, nano, _ in bars) or 1
    width = max(len(words.line(name, 30)) for name, _, _ in bars)
    for name, nano, wasted in bars:
        cells = max(1 if nano else 0, round(nano / most * _BAR))
        grey = min(cells, round(wasted / most * _BAR))
        on.line(
            (f"{words.line(name, 30):<{width}}  ", ""),
            ("█" * (cells - grey), "money"),
            ("░" * grey, "doubt"),
            (f" {words.money(nano)}", ""),
        )
