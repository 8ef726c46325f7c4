"""Measure speed and size, and print one table: `python bench/run.py [--quick] [--json FILE]`.

Every figure of speed is a ratio, from repeats that alternate in one run, because the speed of a
machine says nothing about a program.  docs/benchmarks.md says what each figure means.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
import timeit
from collections.abc import Callable
from pathlib import Path

import apsw
from figures import FULL_SIZE, QUICK, Figure, all_figures


def main() -> int:
    """Measure, print, and return 1 when a gate is missed."""
    options = _options()
    began = time.monotonic()
    figures: list[Figure] = []
    print(_where())
    with tempfile.TemporaryDirectory(prefix="outlast-bench-", dir=options.dir) as folder:
        size = QUICK if options.quick else FULL_SIZE
        figures.extend(all_figures(Path(folder), size, _progress))
    print(_table(figures))
    print(f"\nThis took {time.monotonic() - began:.0f} s.")
    if options.json:
        options.json.write_text(json.dumps([_plain(figure) for figure in figures], indent=1))
    missed = [figure.name for figure in figures if figure.verdict == "over"]
    if missed:
        print(f"{len(missed)} gates are missed: {'; '.join(missed)}.")
    return 1 if missed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Measure speed and size against raw SQLite and the bare SDK."
    )
    parser.add_argument("--quick", action="store_true", help="fewer repeats, shorter runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--dir", type=Path, help="where the stores are made; default: temporary")
    return parser.parse_args()


def _where() -> str:
    python = f"{platform.python_implementation()} {platform.python_version()}"
    loop_ns = min(timeit.repeat("for _ in numbers: pass", "numbers = range(1000)", number=1000))
    return (
        f"{python} ({platform.python_compiler()}; an empty loop takes {loop_ns * 1e3:.0f} ns), "
        f"SQLite {apsw.sqlite_lib_version()}, {platform.system()} {platform.machine()}"
    )


def _progress(what: str, steps: int) -> Callable[[], None]:
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        print("." if done < steps else ". done", end="" if done < steps else "\n", file=sys.stderr)
        sys.stderr.flush()

    print(f"  {what} ", end="", file=sys.stderr, flush=True)
    return step


def _table(figures: list[Figure]) -> str:
    head = ("figure", "measured", "gate", "goal", "verdict", "beside")
    rows = [head, *(_row(figure) for figure in figures)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(head))]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _row(figure: Figure) -> tuple[str, ...]:
    measured = f"{_number(figure.measured)}{figure.unit}"
    if len(figure.values) > 1:
        measured += f" ({_number(min(figure.values))}–{_number(max(figure.values))})"
    sign = "≥" if figure.more else "≤"
    gate, goal = (
        "" if bound is None else f"{sign} {_number(bound)}{figure.unit}"
        for bound in (figure.gate, figure.goal)
    )
    return figure.name, measured, gate, goal, figure.verdict, figure.beside


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _plain(figure: Figure) -> dict[str, object]:
    return {
        "figure": figure.name,
        "measured": figure.measured,
        "min": min(figure.values),
        "max": max(figure.values),
        "unit": figure.unit.strip(),
        "gate": figure.gate,
        "goal": figure.goal,
        "verdict": figure.verdict,
        "beside": figure.beside,
    }


if __name__ == "__main__":
    sys.exit(main())
