"""The outage rehearsal in real time: worker processes, and a Claude in a process of its own.

Everything is judged by what that Claude wrote down, but for who is at rest.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest

import outlast
from conftest import SOAK
from outages.overloaded import WELL_S
from outages.rehearsed import asker
from outlast.testing import simulator

TESTS: Final = Path(__file__).parents[1]
RUNS: Final = 100
OUTAGE_S: Final = 20 if SOAK else 6
OVER_S: Final = 30.0 + 3 * OUTAGE_S
"""How long all of it may take: a bound, not an expectation."""


@contextmanager
def workers(many: int, url: str, claude: simulator.Simulator, errors: Path) -> Iterator[None]:
    """Let worker processes work."""
    env = os.environ | {
        "ANTHROPIC_BASE_URL": claude.url,
        "ANTHROPIC_API_KEY": "any-key-will-do",
        "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]),
    }
    command = [sys.executable, "-m", "outlast", "worker", "outages.rehearsed", "--store", url]
    with errors.open("wb") as told:
        started = [
            subprocess.Popen(
                [*command, "--at-once", str(RUNS)], env=env, stdout=subprocess.DEVNULL, stderr=told
            )
            for _ in range(many)
        ]
        try:
            yield
        finally:
            for process in started:
                process.kill()
                process.wait()


@pytest.mark.timeout(180)
def test_an_outage_is_outlasted_over_http(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    """Of 100 runs of two processes all finish, no request is paid twice, and few are sent."""
    monkeypatch.setenv("OUTAGE_S", str(OUTAGE_S))
    url = f"sqlite:///{tmp_path}/s.db"
    chance = random.Random(7)  # noqa: S311  (the same each time)
    with (
        outlast.Outlast(url) as app,
        simulator.start(
            "outages.overloaded:script", faults="outages.overloaded:rule", path=[TESTS]
        ) as claude,
    ):
        with workers(2, url, claude, tmp_path / "errors"):
            began = datetime.now(UTC) + timedelta(seconds=1)
            for n in range(RUNS):
                starts = began + timedelta(seconds=chance.uniform(0, 2 * WELL_S))
                app.start(asker, f"q{n}", run_id=f"r{n}", run_at=starts)
            give_up_at = time.monotonic() + OVER_S
            while any(row.status != "completed" for row in app.journal.runs()):
                assert time.monotonic() < give_up_at, (tmp_path / "errors").read_text()[-2_000:]
                time.sleep(0.2)
        rows = app.journal.runs()
        requests, bill = claude.requests(), claude.bill()
    at = [datetime.fromisoformat(line["at"]).timestamp() for line in requests]
    refused = [line for line in requests if line["status"] == 529]
    assert {line["status"] for line in requests} == {200, 529}, "there was no outage"
    assert len({row.id for row in rows}) == RUNS
    billed = Counter(line["key"] for line in bill)
    assert max(billed.values()) == 1, "a request was paid twice"
    assert len(billed) == 2 * RUNS, "a turn is missing"
    assert sum(row.cost_nano for row in rows) == claude.billed_nano
    tens = Counter(int(one - at[0]) for one in at)
    record_property(
        "told",
        f"{RUNS} runs, {OUTAGE_S} s of 529: {len(refused)} requests refused; requests per second "
        f"{[tens[n] for n in range(max(tens) + 1)]}",
    )
    assert len(refused) <= 2 * RUNS, "each run once, and those that tried whether it answers"
