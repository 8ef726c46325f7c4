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
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import apsw
import peak
import psutil
import recording
import takeover
import work

from outlast.state import fold
from outlast.stores._queries import queries

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


def raw_many(folder: Path, runs: int, turns: int, join: int = 1) -> dict[str, Any]:
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


# ── size ────────────────────────────────────────────────────────────────────────────────────────


class Counting(apsw.VFSFile):
    """A file that counts what is written to it."""

    written = 0

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802  (apsw's name)
        """Count, and write."""
        Counting.written += len(data)
        super().xWrite(data, offset)


class CountingVFS(apsw.VFS):
    """The operating system's files, counted."""

    def __init__(self) -> None:
        super().__init__("counting", base="")

    def xOpen(self, name: Any, flags: list[int]) -> Counting:  # noqa: N802  (apsw's name)
        """Open a file that counts."""
        return Counting("", name, flags)


def weigh(folder: Path, turns: int) -> dict[str, Any]:
    """Drive a run and return bytes: in the file, written, in event bodies, and said."""
    _vfs = CountingVFS()
    store = folder / "weighed.db"
    with work.application(store, work.Claude(turns), "FULL", vfs="counting") as app:
        app.run(work.agent(), work.ASKED, run_id="run-0")
        (ask,) = fold(app.journal.read("run:run-0")).asks.values()
        said = len(ask.head) + sum(map(len, ask.messages))
    reader = apsw.Connection(str(store))
    bodies = reader.execute("SELECT sum(length(body)) FROM event_bodies").fetchall()[0][0]
    reader.close()
    size = store.stat().st_size
    _remove(store)
    return {"file": size, "written": Counting.written, "bodies": bodies, "said": said}


# ── resume ──────────────────────────────────────────────────────────────────────────────────────


def crash(folder: Path, turns: int) -> dict[str, Any]:
    """Drive a run and die during the call that follows the last turn."""
    store = folder / f"crashed-{turns}.db"
    sys.stdout.write("{}")
    sys.stdout.flush()

    def die_at(turn: int) -> None:
        if turn > turns:
            os._exit(0)

    with work.application(store, work.Claude(turns, die_at), "OFF") as app:
        app.run(work.agent(), work.ASKED, run_id="run-0")
    raise AssertionError("still alive")


def resume(folder: Path, turns: int) -> dict[str, Any]:
    """Return how long it takes from opening the store to the next call of the model."""
    work.warm()
    store = _crashed(folder, turns, "ours")
    reached: list[int] = []
    claude = work.Claude(turns, lambda _: reached.append(time.perf_counter_ns()))
    gc.collect()
    began = time.perf_counter_ns()
    with work.application(store, claude, "FULL") as app:
        run = app.resume("run-0", work.agent())
    assert run.status == "completed", run
    _remove(store)
    return {"ms": (reached[0] - began) / 1e6}


def raw_select(folder: Path, turns: int) -> dict[str, Any]:
    """Return how long it takes to open the file and fetch the run's rows."""
    store = _crashed(folder, turns, "raw")
    query = queries()["read_stream"]
    began = time.perf_counter_ns()
    connection = apsw.Connection(str(store))
    rows = connection.execute(query, (1 << 24, 2 << 24, -1)).fetchall()
    taken = time.perf_counter_ns() - began
    assert len(rows) == 4 * turns + 4, len(rows)
    connection.close()
    _remove(store)
    return {"ms": taken / 1e6}


def crash_flow(folder: Path, asks: int) -> dict[str, Any]:
    """Leave behind the store of a flow that died at its last ask."""
    import flows  # noqa: PLC0415  (of these tasks only)

    flows.crash(folder, asks)
    return {}


def resume_flow(folder: Path, asks: int) -> dict[str, Any]:
    """Return the CPU from resuming a flow to its next call, and of folding its journal alone."""
    import flows  # noqa: PLC0415  (of these tasks only)

    work.warm()
    store = folder / f"flow-{os.getpid()}.db"
    for suffix in ("", "-wal"):
        if (left := folder / f"asked-{asks}.db{suffix}").exists():
            shutil.copy(left, f"{store}{suffix}")
    folded = min(flows.folded(store) for _ in range(3))
    resumed = flows.resumed(store, asks)
    _remove(store)
    return {"folded": folded, "resumed": resumed}


def _crashed(folder: Path, turns: int, name: str) -> Path:
    """Return a copy of the store as the crash left it."""
    crashed, store = folder / f"crashed-{turns}.db", folder / f"{name}-{os.getpid()}.db"
    for suffix in ("", "-wal"):
        shutil.copy(f"{crashed}{suffix}", f"{store}{suffix}")
    return store


# ── memory ──────────────────────────────────────────────────────────────────────────────────────


def memory_bare() -> dict[str, Any]:
    """Return the peak memory of a python that does nothing."""
    here = Path(__file__).with_name("peak.py")
    done = subprocess.run([sys.executable, str(here)], capture_output=True, check=True)
    return {"mb": float(done.stdout)}


def memory_one(folder: Path, turns: int) -> dict[str, Any]:
    """Return the peak memory of a process that drives one run."""
    store = folder / f"ours-{os.getpid()}.db"
    with work.application(store, work.Claude(turns), "FULL") as app:
        app.run(work.agent(), work.ASKED, run_id="run-0")
    _remove(store)
    return {"mb": peak.mb()}


def memory_live(folder: Path, runs: int) -> dict[str, Any]:
    """Return by how much each further run that waits for Claude makes the process larger."""
    store = folder / f"ours-{os.getpid()}.db"

    async def drive() -> float:
        gate = work.Gate(2, runs + 1)  # never opens
        with work.application(store, work.Claude(2, gate), "OFF") as app:
            agent, driven = work.agent(), []
            sizes = []
            for number in range(runs):
                driven.append(
                    asyncio.create_task(app.arun(agent, work.ASKED, run_id=f"r-{number}"))
                )
                await gate.arrived[number].wait()
                sizes.append(psutil.Process().memory_info().rss)
            for task in driven:
                task.cancel()
            await asyncio.wait(driven)
        return (sizes[-1] - sizes[0]) / (runs - 1) / 1e6

    each = asyncio.run(drive())
    _remove(store)
    return {"mb_each": each}


# ── over HTTP ───────────────────────────────────────────────────────────────────────────────────


def over_http(folder: Path, measured: int) -> dict[str, Any]:
    """Return what a turn over HTTP takes, side by side and case by case; see `turns.turns`."""
    import turns  # noqa: PLC0415  (takes a second, which no other task should)

    return dict(turns.turns(folder, measured))


# ── budgets ─────────────────────────────────────────────────────────────────────────────────────


def held(folder: Path, pairs: int, scopes: int, synchronous: str) -> dict[str, Any]:
    """Return what it takes to append what a call writes, held in so many scopes."""
    import ledger  # noqa: PLC0415  (of these tasks only)

    store = folder / f"held-{os.getpid()}.db"
    taken = ledger.appends(store, pairs, scopes, synchronous)
    _remove(store)
    return dict(taken)


def record_pairs(folder: Path, pairs: int) -> dict[str, Any]:
    """Record what pairs write, to be replayed, and keep an empty store beside it."""
    import ledger  # noqa: PLC0415  (of these tasks only)

    _empty_store(folder / "empty.db")
    _remove(folder / "recorded-pairs.db")
    ledger.record(folder, pairs)
    return {}


def pairs_together(folder: Path, runs: int, pairs: int) -> dict[str, Any]:
    """Return how many pairs a second one process holds and settles for many runs."""
    import ledger  # noqa: PLC0415  (of these tasks only)

    store = folder / f"pairs-{os.getpid()}.db"
    found = ledger.together(store, runs, pairs)
    _remove(store)
    return dict(found)


def raw_pairs(folder: Path) -> dict[str, Any]:
    """Return how many pairs a second raw SQLite writes, a transaction for each commit."""
    import ledger  # noqa: PLC0415  (of these tasks only)

    store = folder / f"raw-{os.getpid()}.db"
    shutil.copy(folder / "empty.db", store)
    found = ledger.raw(folder, store)
    _remove(store)
    return dict(found)


def pairs_beside(folder: Path, processes: int, pairs: int, per_s: float) -> dict[str, Any]:
    """Return how long a pair takes where several processes write at a pace."""
    import ledger  # noqa: PLC0415  (of these tasks only)

    store = folder / f"beside-{os.getpid()}.db"
    found = ledger.beside(store, processes, pairs, per_s)
    _remove(store)
    return dict(found)


def month(folder: Path, events: int) -> dict[str, Any]:
    """Return what the month view takes from the roll-up, and from the events."""
    import ledger  # noqa: PLC0415  (of these tasks only)

    store = folder / f"month-{os.getpid()}.db"
    found = ledger.month(store, events)
    _remove(store)
    return dict(found)


# ── starting ────────────────────────────────────────────────────────────────────────────────────


def start(arguments: list[str]) -> dict[str, Any]:
    """Return how long a python with these arguments takes."""
    began = time.perf_counter_ns()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return {"ms": (time.perf_counter_ns() - began) / 1e6}


def take_over(folder: Path, kills: int, lease_s: float, *, frozen: bool) -> dict[str, Any]:
    """Return how long a worker takes to go on with the run of one that is killed or frozen."""
    number = signal.SIGSTOP if frozen else signal.SIGKILL
    return takeover.measured(folder, kills, lease_s, number)


# ── inside ──────────────────────────────────────────────────────────────────────────────────────


def _empty_store(path: Path) -> None:
    _remove(path)
    with work.application(path, work.Claude(0), "FULL"):
        pass


def _remove(store: Path) -> None:
    for path in store.parent.glob(store.name + "*"):
        path.unlink()


TASKS = {
    task.__name__: task
    for task in (
        record_one,
        one,
        raw_one,
        record_many,
        many,
        raw_many,
        weigh,
        crash,
        resume,
        raw_select,
        crash_flow,
        resume_flow,
        memory_bare,
        memory_one,
        memory_live,
        over_http,
        held,
        record_pairs,
        pairs_together,
        raw_pairs,
        pairs_beside,
        month,
        start,
        take_over,
    )
}


def main() -> None:
    """Run the named task and print what it returns."""
    arguments = json.loads(sys.argv[2])
    if "folder" in arguments:
        arguments["folder"] = Path(arguments["folder"])
    print(json.dumps(TASKS[sys.argv[1]](**arguments)))


if __name__ == "__main__":
    main()
