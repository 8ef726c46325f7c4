"""Sizes, resumes, memory and start-up: `footprint.py NAME '{"argument": …}'` prints JSON."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import apsw
import work

from outlast.decide import World, decide
from outlast.journal import run_stream
from outlast.state import fold
from outlast.stores.sqlite import SqliteJournal

RUN = "run-0"


class _Counting(apsw.VFS):
    """The system's own files, with a count of the bytes that SQLite writes to them."""

    def __init__(self) -> None:
        self.written = 0
        super().__init__("counting", "")

    def xOpen(self, name: Any, flags: list[int]) -> _CountedFile:  # noqa: N802  (SQLite's name)
        return _CountedFile(self, name, flags)


class _CountedFile(apsw.VFSFile):
    def __init__(self, disk: _Counting, name: Any, flags: list[int]) -> None:
        self._disk = disk
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802  (SQLite's name)
        self._disk.written += len(data)
        super().xWrite(data, offset)


def size(folder: Path, turns: int) -> dict[str, Any]:
    """Drive one run, and return what it wrote and what it left, in bytes."""
    disk = _Counting()
    store = folder / "size.db"
    with work.application(store, work.Claude(turns), "FULL", vfs="counting") as app:
        assert app.run(work.agent(), work.ASKED, run_id=RUN).status == "completed"
        state = fold(app.journal.read(run_stream(RUN)))
    said = sum(len(message) for message in next(iter(state.asks.values())).messages)
    connection = apsw.Connection(str(store))
    ((bodies,),) = connection.execute("SELECT sum(length(body)) FROM event_bodies")
    records = _record_bytes(connection)
    connection.close()
    left = store.stat().st_size
    _remove(store)
    return {
        "file": left,
        "written": disk.written,
        "said": said,
        "bodies": bodies,
        "records": records,
    }


def _record_bytes(connection: apsw.Connection) -> int:
    """Return the bytes of the records themselves: every column of an event, and its body."""
    columns = "stream", "type", "meta", "commitment", "prev", "hash"
    events = " + ".join(f"length({column})" for column in columns)
    ((envelopes, count),) = connection.execute(f"SELECT sum({events}), count(*) FROM events")  # noqa: S608
    ((bodies,),) = connection.execute("SELECT sum(length(salt) + length(body)) FROM event_bodies")
    integers = 4 * 8  # seq, position, at, epoch
    return int(envelopes + bodies + integers * count)


def make(folder: Path, turns: int) -> dict[str, Any]:
    """Leave a store with one run of so many turns."""
    store = folder / f"made-{turns}.db"
    with work.application(store, work.Claude(turns), "OFF") as app:
        assert app.run(work.agent(), work.ASKED, run_id=RUN).status == "completed"
    return {}


def resume(folder: Path, turns: int) -> dict[str, Any]:
    """Open that store and come to know what the run knows; and read the same rows raw."""
    work.warm()
    agent = work.agent()
    gc.freeze()
    began = time.perf_counter_ns()
    journal = SqliteJournal(folder / f"made-{turns}.db")
    records = journal.read(run_stream(RUN))
    state = fold(records)
    decide(state, agent, time.time_ns(), World())
    ours = time.perf_counter_ns() - began
    journal.close()
    began = time.perf_counter_ns()
    connection = apsw.Connection(str(folder / f"made-{turns}.db"))
    rows = connection.execute(
        "SELECT e.*, b.salt, b.body FROM events e JOIN event_bodies b USING (position)"
    ).fetchall()
    raw = time.perf_counter_ns() - began
    assert len(rows) == len(records)
    return {"ms": ours / 1e6, "raw_ms": raw / 1e6, "events": len(records)}


def memory(folder: Path, runs: int, turns: int) -> dict[str, Any]:
    """Bring so many runs to the same turn, all alive, and return the memory that takes, in MB."""
    store = folder / f"memory-{os.getpid()}.db"
    held: list[float] = []
    gate = work.Gate(turns, runs)
    gate.opened = lambda: held.append(_resident_mb())  # type: ignore[method-assign]

    async def drive() -> None:
        with work.application(store, work.Claude(turns, gate), "OFF") as app:
            await work.many(app, runs)

    asyncio.run(drive())
    _remove(store)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"mb": held[0], "peak_mb": peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)}


def _resident_mb() -> float:
    gc.collect()
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize() / (1 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)


def _remove(store: Path) -> None:
    for path in store.parent.glob(store.name + "*"):
        path.unlink()


TASKS = {task.__name__: task for task in (size, make, resume, memory)}


def main() -> None:
    """Run the named task and print what it returns."""
    arguments = json.loads(sys.argv[2])
    arguments["folder"] = Path(arguments["folder"])
    print(json.dumps(TASKS[sys.argv[1]](**arguments)))


if __name__ == "__main__":
    main()
