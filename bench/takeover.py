"""How soon runs of workers that die or freeze are gone on with, and how soon one is begun with.

`takeover.py STORE LEASE` is a worker whose Claude writes down when it is asked, and never answers.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import outlast
from outlast.models import Reply, Request

PATIENCE_S = 60.0

helper = outlast.Agent("helper", model="claude-haiku-5-5", max_tokens=256)


class Claude:
    """Says on stdout when it was asked, and of which run; it never answers."""

    async def call(self, request: Request, *, on_part: Any) -> Reply:
        os.write(1, f"{request.run_id} {time.monotonic_ns()}\n".encode())
        await asyncio.Event().wait()
        raise AssertionError


class Process:
    """A worker in a process of its own."""

    def __init__(self, store: Path, lease_s: float) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(store), str(lease_s)], stdout=subprocess.PIPE, text=True
        )
        self.asked()  # that it has begun

    def asked(self) -> int:
        """Wait until it asks Claude, and return when that was, by the monotonic clock."""
        assert self._process.stdout
        return int(self._process.stdout.readline().split()[1])

    def stop(self, number: signal.Signals) -> int:
        """Send a signal that ends or freezes it, and return when that was."""
        now = time.monotonic_ns()
        os.kill(self._process.pid, number)
        return now

    def end(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait(PATIENCE_S)
        if self._process.stdout:
            self._process.stdout.close()


def measured(folder: Path, kills: int, lease_s: float, number: signal.Signals) -> dict[str, Any]:
    """Let workers take a run over from each other; return how long each took, and each start.

    A start is measured from this process, which enqueues, to the worker's first request.
    """
    took, starts = [], []
    for kill in range(kills):
        store = folder / f"takeover-{os.getpid()}-{kill}.db"
        with outlast.Outlast(f"sqlite:///{store}") as app:
            victim = Process(store, lease_s)
            began = time.monotonic_ns()
            app.start(helper, "q", run_id="r")
            starts.append((victim.asked() - began) / 1e6)
            other = Process(store, lease_s)
            # Not at once: it looks at who is alive in a rhythm of its own.
            time.sleep(0.3 + 0.05 * (kill % 7))
            struck = victim.stop(number)
            took.append((other.asked() - struck) / 1e6)
            other.end()
            victim.end()
        for path in folder.glob(store.name + "*"):
            path.unlink()
    return {"took_ms": took, "start_ms": starts}


def main() -> None:
    """Be a worker."""
    store, lease_s = sys.argv[1], float(sys.argv[2])
    app = outlast.Outlast(f"sqlite:///{store}", model=Claude())
    worker = outlast.Worker(app, [helper], lease=lease_s)
    worker.start()
    os.write(1, b"worker 0\n")
    signal.pause()


if __name__ == "__main__":
    main()
