"""Worker processes over one store, and the world that outlives them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import outlast
from outlast.journal import Lease, RunRow, run_stream
from outlast.state import fold
from outlast.stores import open_store

HERE = Path(__file__).parent
PATIENCE_S = 40.0
"""How long anything is waited for: a bound, not an expectation."""

LONG = "3600"
"""A lease that ends after every test has."""


class Worker:
    """A process of `outlast worker`."""

    def __init__(self, yard: Yard, modules: Iterable[str], plan: dict[str, Any], *options: str):
        self.out = yard.home / f"worker-{len(yard.workers)}"
        self.errors = self.out.with_suffix(".errors")
        command = [sys.executable, str(HERE / "launch.py"), "worker", *modules, "--json", *options]
        environment = {
            "PYTHONPATH": os.pathsep.join(map(str, [HERE, *sys.path])),
            "SHOP": str(yard.home),
            "SHOP_STORE": yard.url,
            "SHOP_PLAN": json.dumps(plan),
        }
        with self.out.open("wb") as out, self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                command, cwd=HERE, stdout=out, stderr=errors, env=os.environ | environment
            )
        self.pid = self.process.pid

    def said(self, kind: str) -> list[dict[str, Any]]:
        """Return the lines of a type that it has printed."""
        text = self.out.read_text()
        lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
        return [line for line in lines if line["type"] == kind]

    @property
    def begun(self) -> Counter[str]:
        """How often it has begun with each run."""
        return Counter(line["id"] for line in self.said("run_begun"))

    @property
    def id(self) -> str:
        """What it calls itself."""
        return str(self.said("worker_started")[0]["worker"])

    def ready(self) -> Worker:
        until(lambda: self.said("worker_started"), f"a worker that starts; {self.told()}")
        return self

    def told(self) -> str:
        return self.errors.read_text()[-2_000:]

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it, and leave it a zombie."""
        self.signal(signal.SIGKILL)

    def is_stopped(self) -> bool:
        """Return whether it is frozen.  Asking does not reap it, should it be dead."""
        told = os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
        return told is not None and told.si_code == os.CLD_STOPPED

    def ended(self, timeout_s: float = PATIENCE_S) -> int:
        """Wait for its end, and return its exit code."""
        return self.process.wait(timeout_s)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)


class Yard:
    """A folder with a store, the files of the world, and the workers that were started."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.url = f"sqlite:///{home}/s.db"
        self.workers: list[Worker] = []
        self.journal = open_store(self.url)
        self.app = outlast.Outlast(self.journal)

    def worker(
        self, *options: str, modules: Iterable[str] = ("shopfront", "shop"), **plan: Any
    ) -> Worker:
        worker = Worker(self, modules, plan, *options)
        self.workers.append(worker)
        return worker.ready()

    def open_gate(self) -> None:
        """Let functions go on that wait."""
        (self.home / "gate").touch()

    def close(self) -> None:
        for worker in self.workers:
            worker.end()
        self.app.close()

    # ── what happened ───────────────────────────────────────────────────────────────────────────

    def lines(self, name: str) -> list[dict[str, Any]]:
        """Return the lines of a file of the world."""
        file = self.home / name
        if not file.exists():
            return []
        text = file.read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def did(self, what: str, run_id: str = "") -> list[dict[str, Any]]:
        """Return the effects of this name, of a run or of all."""
        lines = self.lines("effects")
        return [
            line
            for line in lines
            if line["what"] == what and line["run"] in (run_id or line["run"])
        ]

    def rows(self) -> dict[str, RunRow]:
        return {row.id: row for row in self.journal.runs()}

    def row(self, run_id: str) -> RunRow:
        row = self.journal.run(run_id)
        assert row is not None
        return row

    def leases(self, worker: Worker) -> list[Lease]:
        return [lease for lease in self.journal.leases() if lease.worker == worker.id]

    def are(self, status: str, run_ids: Iterable[str]) -> bool:
        rows = self.rows()
        return all(rows[run_id].status == status for run_id in run_ids)

    def until_are(self, status: str, run_ids: Iterable[str], within_s: float = PATIENCE_S) -> None:
        """Wait until runs have a status."""
        ids = list(run_ids)
        try:
            until(lambda: self.are(status, ids), f"runs that are {status}", within_s)
        except AssertionError as error:
            rows = self.rows()
            left = {one: rows[one].status for one in ids if rows[one].status != status}
            told = [worker.told() for worker in self.workers]
            raise AssertionError(f"{error}: {left}; {told}") from error

    def judge(self) -> None:
        """See that whatever happened once happened once, and that all of it is paid for."""
        sends = Counter(line["run"] for line in self.did("send"))
        assert not [one for one, times in sends.items() if times > 1], "sent twice"
        bill: Counter[str] = Counter()
        for line in self.lines("bill"):
            bill[line["run"]] += line["nano"]
        rows = self.rows()
        for run_id, row in rows.items():
            assert bill[run_id] <= row.cost_nano, f"{run_id} was billed more than is counted"
            assert not fold(self.journal.read(run_stream(run_id))).spend.held_nano
        keys: dict[tuple[str, str], int] = Counter(
            (line["run"], line["key"]) for line in self.did("keep")
        )
        for run_id in {run_id for run_id, _ in keys}:
            assert len([key for one, key in keys if one == run_id]) == 1, "one call, one key"


def until(is_so: Callable[[], Any], what: str, within_s: float = PATIENCE_S) -> None:
    """Wait until something is so."""
    give_up_at = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < give_up_at, f"there was no sign of {what}"
        time.sleep(0.03)
