"""`make bench`: speed and size beside raw SQLite, as ratios taken in one run, in one table.

Ours and raw take turns (A B A B …), each in a process of its own, and every figure is the median
of the ratios pair by pair, so that a machine that slows down slows both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

HERE = Path(__file__).parent


class Figure(NamedTuple):
    """One row of the table.  A figure is better when it is lower, unless `higher` is set."""

    name: str
    values: list[float]
    gate: float
    goal: float
    beside: str
    higher: bool = False
    unit: str = ""

    @property
    def median(self) -> float:
        """What is held against gate and goal."""
        return statistics.median(self.values)

    @property
    def verdict(self) -> str:
        """`goal`, `ok`, or `over` the gate."""
        better = (lambda limit: self.median >= limit) if self.higher else self.median.__le__
        return "goal" if better(self.goal) else "ok" if better(self.gate) else "over"


class Bench:
    """Runs measurements in processes of their own.

    Args:
        folder: where the stores are.
        pairs: how often ours and raw take turns.

    """

    def __init__(self, folder: Path, pairs: int) -> None:
        self.folder = folder
        self.pairs = pairs

    def task(self, file: str, name: str, **arguments: Any) -> dict[str, Any]:
        """Run one measurement and return what it says."""
        given = json.dumps({"folder": str(self.folder), **arguments})
        command = [sys.executable, str(HERE / file), name, given]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode:
            raise SystemExit(f"{name} {given} failed:\n{done.stderr}")
        return json.loads(done.stdout)  # type: ignore[no-any-return]

    def per_turn(self) -> list[Figure]:
        """Return what a turn of one run takes, with and without syncs."""
        self.task("worker.py", "record_one", turns=1000)
        figures = []
        for synchronous, name in (("OFF", "without sync"), ("FULL", "FULL")):
            ours, raw = self._paired(synchronous)
            figures.append(_ratio(f"CPU per turn, {name}", ours, raw, "cpu_us", gate=4, goal=2))
            if synchronous == "FULL":
                figures.append(
                    _ratio("wall per turn, FULL", ours, raw, "wall_us", gate=1.5, goal=1.15)
                )
            else:
                tails = [run["p99_us"] / run["p50_us"] for run in ours]
                growth = [run["growth"] for run in ours]
                typical = statistics.median(run["p50_us"] for run in ours)
                beside = f"p50 {typical:.0f} µs"
                figures.append(Figure("turn p99 ÷ p50, no sync, N = 1000", tails, 6, 3, beside))
                figures.append(Figure("growth, N = 1000", growth, 1.2, 1.05, "last ÷ first tenth"))
        return figures

    def _paired(self, synchronous: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        ours, raw = [], []
        for _ in range(self.pairs):
            ours.append(self.task("worker.py", "one", turns=1000, synchronous=synchronous))
            raw.append(self.task("worker.py", "raw_one", synchronous=synchronous))
        return ours, raw

    def long_growth(self) -> list[Figure]:
        """Return how a turn grows over a run of 10,000."""
        runs = [
            self.task("worker.py", "one", turns=10_000, synchronous="OFF")
            for _ in range(max(2, self.pairs // 2))
        ]
        growth = [run["growth"] for run in runs]
        return [Figure("growth, N = 10,000", growth, 1.2, 1.05, "last ÷ first tenth")]

    def many(self) -> list[Figure]:
        """Return how many turns a second many runs make together."""
        figures = []
        for runs, turns in ((50, 40), (200, 20)):
            self.task("worker.py", "record_many", runs=runs, turns=turns)
            ours, raw = [], []
            for _ in range(self.pairs):
                ours.append(self.task("worker.py", "many", runs=runs, turns=turns))
                raw.append(self.task("worker.py", "raw_many", runs=runs, turns=turns, join=1))
            name = f"turns/s, {runs} runs at once, FULL"
            figure = _ratio(name, ours, raw, "turns_per_s", gate=0.4, goal=0.7)
            figures.append(figure._replace(higher=True))
        return figures

    def size(self) -> list[Figure]:
        """Return what one run writes and leaves, beside what there was to write."""
        said = self.task("footprint.py", "size", turns=1000)
        beside = (
            f"of the records; of the bodies {said['file'] / said['bodies']:.2f} and "
            f"{said['written'] / said['bodies']:.1f}, of the messages "
            f"{said['file'] / said['said']:.2f} and {said['written'] / said['said']:.1f}"
        )
        records = said["records"]
        return [
            Figure("bytes in the file ÷ payload", [said["file"] / records], 1.5, 1.2, beside),
            Figure("bytes written ÷ payload", [said["written"] / records], 12, 8, "as above"),
        ]

    def resume(self) -> list[Figure]:
        """Return how long it takes to know what a run knows."""
        figures = []
        for turns, gate, goal in ((1000, 30, 10), (10_000, 200, 50)):
            self.task("footprint.py", "make", turns=turns)
            runs = [self.task("footprint.py", "resume", turns=turns) for _ in range(self.pairs)]
            ratio = statistics.median(run["ms"] / run["raw_ms"] for run in runs)
            beside = f"{ratio:.1f} × a raw SELECT of the same rows"
            values = [run["ms"] for run in runs]
            figures.append(Figure(f"resume, N = {turns:,}", values, gate, goal, beside, unit="ms"))
        return figures

    def memory(self) -> list[Figure]:
        """Return the memory of one run, and of each further one that is alive."""
        one = [self.task("footprint.py", "memory", runs=1, turns=10) for _ in range(3)]
        many = [self.task("footprint.py", "memory", runs=201, turns=10) for _ in range(3)]
        each = [(b["mb"] - a["mb"]) / 200 for a, b in zip(one, many, strict=True)]
        peaks = [run["peak_mb"] for run in one]
        return [
            Figure("peak memory, one run", peaks, 60, 40, "", unit="MB"),
            Figure("each further live run", each, 0.3, 0.05, "slope over 200", unit="MB"),
        ]

    def start(self) -> list[Figure]:
        """Return how long the two commonest starts take."""
        bare = _started(["-c", "pass"])
        beside = f"bare Python {statistics.median(bare):.0f} ms"
        help_ = _started(["-m", "outlast", "--help"])
        imported = _started(["-c", "import outlast"])
        return [
            Figure("import outlast", imported, 120, 60, beside, unit="ms"),
            Figure("outlast --help", help_, 350, 120, beside, unit="ms"),
        ]


def _ratio(  # noqa: PLR0913  (two series and two limits)
    name: str,
    ours: Sequence[dict[str, Any]],
    raw: Sequence[dict[str, Any]],
    key: str,
    *,
    gate: float,
    goal: float,
) -> Figure:
    ratios = [a[key] / b[key] for a, b in zip(ours, raw, strict=True)]
    mine, theirs = (statistics.median(run[key] for run in side) for side in (ours, raw))
    unit = "µs" if key.endswith("_us") else ""
    return Figure(name, ratios, gate, goal, f"{mine:,.0f} {unit} to {theirs:,.0f} {unit}".strip())


def _started(arguments: list[str], times: int = 15) -> list[float]:
    took = []
    for _ in range(times):
        began = time.perf_counter()
        subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
        took.append((time.perf_counter() - began) * 1000)
    return took


def table(figures: Sequence[Figure]) -> Table:
    """Return the figures as a table."""
    shown = Table(title="outlast beside raw SQLite")
    for column in ("figure", "median", "min to max", "gate", "goal", "verdict", "beside it"):
        shown.add_column(
            column, justify="right" if column in ("median", "gate", "goal") else "left"
        )
    colours = {"goal": "green", "ok": "yellow", "over": "red"}
    for figure in figures:
        unit = f" {figure.unit}" if figure.unit else " ×"
        sign = "≥" if figure.higher else "≤"
        shown.add_row(
            figure.name,
            f"{figure.median:.3g}{unit}",
            f"{min(figure.values):.3g} to {max(figure.values):.3g}",
            f"{sign} {figure.gate:g}",
            f"{sign} {figure.goal:g}",
            f"[{colours[figure.verdict]}]{figure.verdict}[/]",
            figure.beside,
        )
    return shown


def measure(folder: Path, pairs: int, only: str) -> list[Figure]:
    """Take every figure, one after the other, and show how far it is."""
    bench = Bench(folder, pairs)
    parts: list[Callable[[], list[Figure]]] = [
        bench.per_turn,
        bench.long_growth,
        bench.many,
        bench.size,
        bench.resume,
        bench.memory,
        bench.start,
    ]
    chosen = [part for part in parts if only in part.__name__]
    figures: list[Figure] = []
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("measuring", total=len(chosen))
        for part in chosen:
            progress.update(task, description=f"measuring {part.__name__.replace('_', ' ')}")
            figures += part()
            progress.advance(task)
    return figures


def main() -> None:
    """Measure, print the table, and fail when a gate is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two pairs of each instead of seven")
    parser.add_argument("--only", default="", help="parts whose name contains this")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="outlast-bench-") as folder:
        figures = measure(Path(folder), 2 if given.quick else 7, given.only)
    Console(width=None if sys.stdout.isatty() else 160).print(table(figures))
    if given.json:
        rows = [figure._asdict() | {"median": figure.median} for figure in figures]
        given.json.write_text(json.dumps(rows, indent=1))
    over = [figure.name for figure in figures if figure.verdict == "over"]
    print(f"over its gate: {', '.join(over)}" if over else "every gate holds")
    raise SystemExit(bool(over))


if __name__ == "__main__":
    main()
