"""`outlast costs`: what was spent, added up."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

from outlast.cli import exits, shapes, words
from outlast.cli.screen import columns, screen
from outlast.cli.stores import opened
from outlast.errors import UsageError
from outlast.journal import Posting
from outlast.views.costs import GROUPS, Cost, costs, forecast, total

_BAR: Final = 40


def show_costs(store: str, *, by: str, chart: bool, as_csv: bool, as_json: bool) -> int:
    """Print the costs of a store and return the exit code."""
    if by not in GROUPS:
        raise UsageError(f"--by {by}: costs are added up by {', '.join(GROUPS)}")
    with opened(store) as journal:
        lines = journal.rollup()
    found = costs(lines, by)
    if as_json:
        sys.stdout.write(shapes.encode([_shape(by, cost) for cost in found]).decode() + "\n")
    elif as_csv:
        _write_csv(by, found)
    else:
        _print(store, by, found, lines, chart=chart)
    return exits.DONE


def _shape(by: str, cost: Cost) -> dict[str, Any]:
    numbers = {name: getattr(cost, name) for name in cost.__struct_fields__ if name != "name"}
    return {by: cost.name, "cost_usd": shapes.dollars(cost.nano), "cost_nano": cost.nano} | numbers


def _write_csv(by: str, found: Sequence[Cost]) -> None:
    rows = [_shape(by, cost) for cost in found]
    heads = _shape(by, Cost(name=""))
    writer = csv.DictWriter(sys.stdout, fieldnames=list(heads))
    writer.writeheader()
    writer.writerows(rows)


def _print(
    store: str, by: str, found: Sequence[Cost], lines: Sequence[Posting], *, chart: bool
) -> None:
    on = screen()
    if not found:
        on.line((f"Nothing was spent yet in {store}.", ""))
        on.line(("Next: outlast demo", "quiet"))
        return
    heads = (by.upper(), "COST", "IN DOUBT", "CALLS", "FAILED", "TOKENS", "CACHED")
    table = [[(head, "quiet") for head in heads]]
    whole = total(found)
    table += [
        [
            (words.line(cost.name, 60), "strong"),
            (words.money(cost.nano), "money"),
            (words.money(cost.in_doubt_nano) if cost.in_doubt_nano else "", "doubt"),
            (f"{cost.calls:,}", ""),
            (f"{cost.calls_failed + cost.calls_in_doubt:,}", ""),
            (f"{cost.tokens:,}", ""),
            (f"{cost.cached:.0%}", ""),
        ]
        for cost in ((*found, whole) if len(found) > 1 else found)
    ]
    columns(on, table, right=range(1, len(heads)))
    if chart:
        _chart(found)
    expected = forecast(lines, now=time.time_ns())
    on.line((f"This month, if it goes on like this: {words.money(expected)}", "quiet"))
    other = "agent" if by != "agent" else "day"
    on.line((f"Next: outlast costs --by {other} --chart", "quiet"))


def _chart(found: Sequence[Cost]) -> None:
    """Draw a bar for each line, the longest as wide as there is room for."""
    on = screen()
    most = max(cost.nano for cost in found) or 1
    width = max(len(words.line(cost.name, 30)) for cost in found)
    for cost in found:
        bar = "█" * max(1 if cost.nano else 0, round(cost.nano / most * _BAR))
        name = f"{words.line(cost.name, 30):<{width}}  "
        on.line((name, ""), (bar, "money"), (f" {words.money(cost.nano)}", ""))
