"""Every figure of the table: what is measured, its gate, its goal, and how it is come by."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pairs import Result, interleaved, middle, ratios, run


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes:
        name: what is measured.
        values: of every repeat.
        gate: what must hold; `None` for a line that is only for orientation.
        goal: what would be good.
        beside: absolute values, for orientation.
        unit: of the values.
        more: whether more is better.
        best: whether the best repeat counts instead of the median: where whatever else runs on the
            machine can only add.

    """

    name: str
    values: list[float]
    gate: float | None = None
    goal: float | None = None
    beside: str = ""
    unit: str = "×"
    more: bool = False
    best: bool = False

    @property
    def measured(self) -> float:
        """What counts of the repeats."""
        return min(self.values) if self.best else statistics.median(self.values)

    def holds(self, bound: float) -> bool:
        """Return whether the figure keeps to `bound`."""
        return self.measured >= bound if self.more else self.measured <= bound

    @property
    def verdict(self) -> str:
        """`goal`, `ok`, or `over`: the gate is missed; empty without a gate."""
        if self.gate is None or self.goal is None:
            return ""
        return "goal" if self.holds(self.goal) else "ok" if self.holds(self.gate) else "over"


@dataclass(frozen=True)
class Size:
    """How much is done: `--quick` does less."""

    pairs: int
    turns: int = 1000
    long_turns: int = 10_000
    long_repeats: int = 3
    many_turns: int = 40
    http_repeats: int = 5
    http_turns: int = 20
    starts: int = 15
    kills: int = 20
    freezes: int = 5
    asks: int = 1000
    held_pairs: int = 1500
    month_events: int = 1_000_000


FULL_SIZE = Size(pairs=9)
QUICK = Size(
    pairs=3,
    long_turns=3000,
    long_repeats=1,
    many_turns=20,
    http_repeats=3,
    http_turns=10,
    starts=5,
    kills=8,
    freezes=2,
    held_pairs=500,
    month_events=100_000,
)

Progress = Callable[[str, int], Callable[[], None]]
"""Announces a measurement of so many steps, and returns what is to be called after each."""


def all_figures(folder: Path, size: Size, progress: Progress) -> Iterator[Figure]:
    """Measure everything, line by line."""
    yield from _one_run(folder, size, progress)
    yield from _long_run(folder, size, progress)
    yield from _many_runs(folder, size, progress)
    yield from _http(folder, size, progress)
    yield from _bytes(folder, size, progress)
    yield from _resume(folder, size, progress)
    yield from _resume_flow(folder, size, progress)
    yield from _memory(folder, size, progress)
    yield from _budgets(folder, size, progress)
    yield from _takeovers(folder, size, progress)
    yield from _starts(size, progress)


def _one_run(folder: Path, size: Size, progress: Progress) -> Iterator[Figure]:
    run("record_one", folder=folder, turns=size.turns)
    ours, raw = _against_raw(folder, size, "OFF", progress)
    yield Figure(
        "CPU per turn ÷ raw SQLite, no fsync",
        ratios(ours, raw, "cpu_us"),
        gate=4.0,
        goal=2.0,
        beside=_beside(ours, raw, "cpu_us", "µs"),
    )
    growth = [result["growth"] for result in ours]
    spikes = [result["p99_us"] / result["p50_us"] for result in ours]
    p50, p99 = middle(ours, "p50_us"), middle(ours, "p99_us")
    ours, raw = _against_raw(folder, size, "FULL", progress)
    yield Figure(
        "CPU per turn ÷ raw SQLite, FULL",
        ratios(ours, raw, "cpu_us"),
        beside=_beside(ours, raw, "cpu_us", "µs"),
    )
    yield Figure(
        "wall per turn ÷ 2 raw commits, FULL",
        ratios(ours, raw, "wall_us"),
        gate=1.5,
        goal=1.15,
        beside=_beside(ours, raw, "wall_us", "µs"),
    )
    yield Figure(f"growth over {size.turns:,} turns", growth, gate=1.2, goal=1.05)
    yield Figure(
        f"turn p99 ÷ p50, no fsync, {size.turns:,} turns",
        spikes,
        gate=6.0,
        goal=3.0,
        best=True,
        beside=f"{p99:.0f} / {p50:.0f} µs",
    )


def _against_raw(
    folder: Path, size: Size, synchronous: str, progress: Progress
) -> tuple[list[Result], list[Result]]:
    step = progress(f"one run against raw SQLite, synchronous={synchronous}", size.pairs)
    mine = {"folder": folder, "turns": size.turns, "synchronous": synchronous}
    theirs = {"folder": folder, "synchronous": synchronous}
    ours, raw = interleaved(size.pairs, ("one", mine), ("raw_one", theirs), step=step)
    return ours, raw


def _long_run(folder: Path, size: Size, progress: Progress) -> Iterator[Figure]:
    step = progress(f"a run of {size.long_turns:,} turns", size.long_repeats)
    arguments = {"folder": folder, "turns": size.long_turns, "synchronous": "OFF"}
    (results,) = interleaved(size.long_repeats, ("one", arguments), step=step)
    growth = [result["growth"] for result in results]
    yield Figure(f"growth over {size.long_turns:,} turns", growth, gate=1.2, goal=1.05)


def _many_runs(folder: Path, size: Size, progress: Progress) -> Iterator[Figure]:
    for runs in (50, 200):
        shape = {"folder": folder, "runs": runs, "turns": size.many_turns}
        run("record_many", **shape)
        step = progress(f"{runs} runs at once against raw group commit", size.pairs)
        tasks = ("many", shape), ("raw_many", shape)
        ours, raw = interleaved(size.pairs, *tasks, step=step)
        beside = _beside(ours, raw, "turns_per_s", "/s")
        yield Figure(
            f"turns/s ÷ raw group commit, FULL, {runs} runs",
            ratios(ours, raw, "turns_per_s"),
            gate=0.4,
            goal=0.7,
            more=True,
            beside=f"{beside}, {middle(raw, 'turns_per_commit'):.0f} turns a commit",
        )


def _http(folder: Path, size: Size, progress: Progress) -> Iterator[Figure]:
    step = progress("a turn over HTTP against the bare SDK", size.http_repeats)
    task = ("over_http", {"folder": folder, "measured": size.http_turns})
    (found,) = interleaved(size.http_repeats, task, step=step)
    ours, create, stream = (
        [result[side] for result in found] for side in ("ours", "create", "stream")
    )
    yield _http_cpu("create", "1", ours, create)
    yield _http_cpu("create", "100", ours, create, **_HTTP)
    yield _http_cpu("create", "1000", ours, create)
    late, early = (ratios(ours, create, length) for length in ("1000", "100"))
    grown = [middle(side, "1000") / middle(side, "100") for side in (ours, create)]
    yield Figure(
        "the same at N = 1000 ÷ at N = 100",
        [a / b for a, b in zip(late, early, strict=True)],
        gate=1.0,
        goal=1.0,
        beside=f"CPU grows {grown[0]:.2g} × against {grown[1]:.2g} ×",
    )
    yield _http_cpu("stream", "100", ours, stream)
    yield _http_cpu("stream", "paced 100", ours, stream, **_HTTP)
    yield _http_cpu("create", "paced 100", ours, create)


_HTTP = {"gate": 0.5, "goal": 0.2}


def _http_cpu(
    bare: str, case: str, ours: list[Result], theirs: list[Result], **bounds: float
) -> Figure:
    events, length = ("", case) if case.isdigit() else ("event by event, ", case.split()[1])
    return Figure(
        f"CPU per turn over HTTP, {events}N = {length} ÷ bare {bare}",
        ratios(ours, theirs, case),
        beside=_beside(ours, theirs, case, "µs"),
        **bounds,
    )


def _budgets(folder: Path, size: Size, progress: Progress) -> Iterator[Figure]:
    yield from _held(folder, size, progress)
    run("record_pairs", folder=folder, pairs=size.held_pairs)
    step = progress("pairs of hold and settlement against raw SQLite", size.pairs)
    shape = {"folder": folder, "runs": 64, "pairs": max(4, size.held_pairs // 40)}
    tasks = ("pairs_together", shape), ("raw_pairs", {"folder": folder})
    ours, raw = interleaved(size.pairs, *tasks, step=step)
    yield Figure(
        "pairs/s in four scopes, one process ÷ raw SQLite, FULL",
        ratios(ours, raw, "pairs_per_s"),
        gate=2.0,
        goal=4.0,
        more=True,
        beside=_beside(ours, raw, "pairs_per_s", "/s"),
    )
    step = progress("pairs of eight processes at 200/s", 1)
    found = run("pairs_beside", folder=folder, processes=8, pairs=50, per_s=200.0)
    step()
    yield Figure(
        "a pair of one of eight processes at 200/s in all: p99",
        [found["p99_ms"]],
        unit=" ms",
        beside=f"p50 {found['p50_ms']:.1f} ms",
    )
    step = progress(f"the month over {size.month_events:,} events", 1)
    found = run("month", folder=folder, events=size.month_events)
    step()
    yield Figure(
        f"month view of {size.month_events:,} events: roll-up ÷ raw",
        [found["rollup_ms"] / found["raw_ms"]],
        beside=f"{found['rollup_ms']:.0f} ms against {found['raw_ms']:,.0f}",
    )


def _held(folder: Path, size: Size, progress: Progress) -> Iterator[Figure]:
    for synchronous, bounds in (("FULL", {"gate": 1.3, "goal": 1.15}), ("OFF", {})):
        step = progress(f"holding in four scopes, synchronous={synchronous}", size.pairs)
        shape = {"folder": folder, "pairs": size.held_pairs, "synchronous": synchronous}
        tasks = ("held", {**shape, "scopes": 4}), ("held", {**shape, "scopes": 0})
        ours, without = interleaved(size.pairs, *tasks, step=step)
        key, what = ("wall_us", "wall") if synchronous == "FULL" else ("cpu_us", "CPU, no fsync")
        yield Figure(
            f"holding and settling in four scopes ÷ the append without, {what}",
            ratios(ours, without, key),
            beside=_beside(ours, without, key, "µs"),
            **bounds,
        )


def _bytes(folder: Path, size: Size, progress: Progress) -> Iterator[Figure]:
    step = progress("bytes in the file and bytes written", 1)
    found = run("weigh", folder=folder, turns=size.turns)
    step()
    bodies, said, turns = found["bodies"], found["said"], size.turns
    each = f"a turn: {found['file'] / turns:,.0f} in the file"
    yield Figure(
        "bytes in the file ÷ bodies of the events",
        [found["file"] / bodies],
        gate=1.5,
        goal=1.2,
        beside=f"{each}, {bodies / turns:,.0f} in bodies, {said / turns:,.0f} said",
    )
    yield Figure("bytes in the file ÷ what was said", [found["file"] / said])
    yield Figure(
        "bytes written ÷ bodies of the events",
        [found["written"] / bodies],
        gate=12.0,
        goal=8.0,
        beside=f"a turn: {found['written'] / turns:,.0f} written",
    )
    yield Figure("bytes written ÷ what was said", [found["written"] / said])


def _resume(folder: Path, size: Size, progress: Progress) -> Iterator[Figure]:
    for turns, repeats, gate, goal in (
        (size.turns, size.pairs, 30.0, 10.0),
        (size.long_turns, max(3, size.pairs // 2), 200.0, 50.0),
    ):
        run("crash", folder=folder, turns=turns)
        step = progress(f"resume of a run of {turns:,} turns", repeats)
        shape = {"folder": folder, "turns": turns}
        tasks = ("resume", shape), ("raw_select", shape)
        ours, raw = interleaved(repeats, *tasks, step=step)
        each = min(result["ms"] for result in ours) * 1e3 / (4 * turns)
        select = min(result["ms"] for result in raw)
        scale = turns / (1000 if turns == size.turns else 10_000)
        yield Figure(
            f"resume after {turns:,} turns, to the next call",
            [result["ms"] for result in ours],
            gate=gate * scale,
            goal=goal * scale,
            unit=" ms",
            best=True,
            beside=f"{each:.1f} µs an event; raw SELECT {select:.1f} ms",
        )
        yield Figure(f"resume ÷ raw SELECT, {turns:,} turns", ratios(ours, raw, "ms"))


def _resume_flow(folder: Path, size: Size, progress: Progress) -> Iterator[Figure]:
    asks = size.asks
    run("crash_flow", folder=folder, asks=asks)
    step = progress(f"resume of a flow of {asks:,} asks", size.pairs)
    task = ("resume_flow", {"folder": folder, "asks": asks})
    (found,) = interleaved(size.pairs, task, step=step)
    more = [result["resumed"] - result["folded"] for result in found]
    folded, resumed = (min(result[side] for result in found) for side in ("folded", "resumed"))
    yield Figure(
        f"resume of a flow of {asks:,} asks, to the next call, less its fold (CPU)",
        more,
        gate=100.0 * asks / 1000,
        goal=50.0 * asks / 1000,
        unit=" ms",
        beside=f"{resumed:.0f} ms, its fold alone {folded:.0f} ms",
    )
    ratio = [result["resumed"] / result["folded"] for result in found]
    yield Figure(f"resume of a flow of {asks:,} asks ÷ its fold (CPU)", ratio)


def _memory(folder: Path, size: Size, progress: Progress) -> Iterator[Figure]:
    repeats = max(3, size.pairs // 2)
    step = progress("memory", repeats)
    one = ("memory_one", {"folder": folder, "turns": size.turns})
    live = ("memory_live", {"folder": folder, "runs": 200})
    ours, bare, more = interleaved(repeats, one, ("memory_bare", {}), live, step=step)
    yield Figure(
        f"peak memory of a run of {size.turns:,} turns",
        [result["mb"] for result in ours],
        gate=60.0,
        goal=40.0,
        unit=" MB",
        beside=f"bare python {middle(bare, 'mb'):.0f} MB",
    )
    yield Figure(
        "memory of each further live run",
        [result["mb_each"] for result in more],
        gate=0.3,
        goal=0.05,
        unit=" MB",
    )


LEASE_S = 2.0
"""The lease of the workers that freeze."""


def _takeovers(folder: Path, size: Size, progress: Progress) -> Iterator[Figure]:
    step = progress("workers that are killed, and frozen", 2)
    killed = run("take_over", folder=folder, kills=size.kills, lease_s=3600.0, frozen=False)
    step()
    frozen = run("take_over", folder=folder, kills=size.freezes, lease_s=LEASE_S, frozen=True)
    step()
    took, waited = sorted(killed["took_ms"]), frozen["took_ms"]
    yield Figure(
        f"takeover after kill -9, {size.kills} kills",
        took,
        gate=500.0,
        goal=250.0,
        unit=" ms",
        beside=f"p99 {took[len(took) * 99 // 100]:.0f} ms",
    )
    yield Figure(
        f"takeover from a frozen worker, lease {LEASE_S:g} s",
        waited,
        unit=" ms",
        beside="the lease, and a fifth of it between looks",
    )
    starts = sorted(killed["start_ms"])
    yield Figure(
        "from enqueuing in another process to the first request",
        starts,
        unit=" ms",
        beside=f"p99 {starts[len(starts) * 99 // 100]:.0f} ms",
    )


def _starts(size: Size, progress: Progress) -> Iterator[Figure]:
    step = progress("import and --help", size.starts)
    tasks = [("start", {"arguments": arguments}) for arguments in _STARTS.values()]
    bare, imported, helped = interleaved(size.starts, *tasks, step=step)
    beside = f"bare python {min(result['ms'] for result in bare):.0f} ms"
    for name, found, gate, goal in (
        ("import outlast", imported, 120.0, 60.0),
        ("outlast --help", helped, 350.0, 120.0),
    ):
        values = [result["ms"] for result in found]
        yield Figure(name, values, gate=gate, goal=goal, unit=" ms", best=True, beside=beside)


_STARTS = {
    "bare": ["-c", "pass"],
    "import": ["-c", "import outlast"],
    "help": ["-m", "outlast", "--help"],
}


def _beside(ours: list[Result], raw: list[Result], key: str, unit: str) -> str:
    return f"{middle(ours, key):,.0f} against {middle(raw, key):,.0f} {unit}"
