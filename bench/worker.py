"""One measurement in a process of its own: `worker.py NAME '{"argument": …}'` prints JSON.

Every measurement starts cold and warms itself the same way, so none profits from another.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import recording
import work

CPU_WARM = 50
"""Turns at the start of a run that are driven and not measured."""


# ── one run ─────────────────────────────────────────────────────────────────────────────────────


def record_one(folder: Path, turns: int) -> dict[str, Any]:
    """Record what a run writes, with a mark at every call, and keep an empty store beside it."""
    _empty_store(folder / "empty.db")
    _remove(folder / "recorded.db")
    recorder = recording.Recorder()
    with work.application(folder / "recorded.db", work.Claude(turns, recorder.mark), "OFF") as app:
        recorder.transactions.clear()
        app.run(work.agent(), work.ASKED, run_id="run-0")
    recorder.save(folder / "one.pickle")
    return {"transactions": len(recorder.transactions)}


def one(folder: Path, turns: int, synchronous: str) -> dict[str, Any]:
    """Drive a run and return what a turn took: CPU and wall time, and turn by turn."""
    work.warm()
    clock = work.Clock()
    store = folder / f"ours-{os.getpid()}.db"
    with work.application(store, work.Claude(turns, clock), synchronous) as app:
        run = app.run(work.agent(), work.ASKED, run_id="run-0")
    assert run.status == "completed", run
    cpu, wall = clock.cpu[CPU_WARM:], clock.wall[CPU_WARM:]
    measured = len(cpu) - 1
    steps = [b - a for a, b in itertools.pairwise(wall)]
    _remove(store)
    return {
        "cpu_us": (cpu[-1] - cpu[0]) / measured / 1e3,
        "wall_us": (wall[-1] - wall[0]) / measured / 1e3,
        "growth": _growth(cpu),
        "p50_us": sorted(steps)[len(steps) // 2] / 1e3,
        "p99_us": sorted(steps)[len(steps) * 99 // 100] / 1e3,
    }


def raw_one(folder: Path, synchronous: str) -> dict[str, Any]:
    """Replay a recorded run and return what a turn took."""
    transactions, marks = recording.load(folder / "one.pickle")
    store = folder / f"raw-{os.getpid()}.db"
    shutil.copy(folder / "empty.db", store)
    replay = recording.Replay(store, synchronous)
    gc.freeze()
    replay.play(transactions[: marks[CPU_WARM]])
    cpu, wall = replay.play(transactions[marks[CPU_WARM] : marks[-1]])
    turns = len(marks) - 1 - CPU_WARM
    _remove(store)
    return {"cpu_us": cpu / turns / 1e3, "wall_us": wall / turns / 1e3}


def _growth(cpu: list[int]) -> float:
    tenth = (len(cpu) - 1) // 10
    return (cpu[-1] - cpu[-1 - tenth]) / (cpu[tenth] - cpu[0])


# ── many runs ───────────────────────────────────────────────────────────────────────────────────


def record_many(folder: Path, runs: int, turns: int) -> dict[str, Any]:
    """Record what many runs write from their second turn on, and how they were grouped."""
    _empty_store(folder / "empty.db")
    _remove(folder / "recorded.db")
    recorder = recording.Recorder()
    _drive_many(folder / "recorded.db", runs, turns, recorder)
    recorder.save(folder / f"many-{runs}.pickle")
    return {"transactions": len(recorder.transactions) - recorder.marks[0]}


def many(folder: Path, runs: int, turns: int) -> dict[str, Any]:
    """Drive many runs at once, and return how many turns a second were made."""
    work.warm()
    store = folder / f"ours-{os.getpid()}.db"
    wall = _drive_many(store, runs, turns, None)
    _remove(store)
    return {"turns_per_s": runs * (turns - 1) / wall * 1e9}


def _drive_many(store: Path, runs: int, turns: int, recorder: recording.Recorder | None) -> int:
    async def drive() -> int:
        gate = work.Gate(2, runs)
        if recorder is not None:
            gate.opened = recorder.mark  # type: ignore[method-assign]
        with work.application(store, work.Claude(turns, gate), "FULL") as app:
            if recorder is not None:
                recorder.transactions.clear()
            gc.freeze()
            await work.many(app, runs)
            return time.perf_counter_ns() - gate.opened_at

    return asyncio.run(drive())


def raw_many(folder: Path, runs: int, turns: int, join: int) -> dict[str, Any]:
    """Replay what many runs wrote, `join` of the recorded transactions as one."""
    transactions, marks = recording.load(folder / f"many-{runs}.pickle")
    store = folder / f"raw-{os.getpid()}.db"
    shutil.copy(folder / "empty.db", store)
    replay = recording.Replay(store, "FULL")
    steady = recording.joined(transactions[marks[0] :], join)
    gc.freeze()
    replay.play(transactions[: marks[0]])
    _cpu, wall = replay.play(steady)
    _remove(store)
    return {
        "turns_per_s": runs * (turns - 1) / wall * 1e9,
        "turns_per_commit": runs * (turns - 1) / len(steady),
    }


# ── inside ──────────────────────────────────────────────────────────────────────────────────────


def _empty_store(path: Path) -> None:
    _remove(path)
    with work.application(path, work.Claude(0), "FULL"):
        pass


def _remove(store: Path) -> None:
    for path in store.parent.glob(store.name + "*"):
        path.unlink()


TASKS = {task.__name__: task for task in (record_one, one, raw_one, record_many, many, raw_many)}


def main() -> None:
    """Run the named task and print what it returns."""
    arguments = json.loads(sys.argv[2])
    if "folder" in arguments:
        arguments["folder"] = Path(arguments["folder"])
    print(json.dumps(TASKS[sys.argv[1]](**arguments)))


if __name__ == "__main__":
    main()
