"""Exactly so many calls try a dependency as were agreed, of all processes, whoever of them dies."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import outlast
from conftest import SOAK
from outlast.events import BreakerChanged
from outlast.testing import simulator

TESTS = Path(__file__).parents[1]
PROCESSES, CALLERS = (8, 100) if SOAK else (4, 25)
DOWN, PROBES, SLOW_S = 5, 3, 4.0
PATIENCE_S = 240.0 if SOAK else 60.0
Record = Callable[[str, object], None]


class Fleet:
    """Processes whose runs ask one Claude, each begun by a line."""

    def __init__(self, url: str, claude: Any) -> None:
        self.url, self.claude = url, claude
        self.started: list[Any] = []

    def start(self, name: str, count: int) -> Any:
        env = os.environ | {
            "ANTHROPIC_BASE_URL": self.claude.url,
            "ANTHROPIC_API_KEY": "any-key-will-do",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        client = str(Path(__file__).with_name("tripping_client.py"))
        process = subprocess.Popen(
            [sys.executable, client, self.url, name, str(count)],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        return process

    def changes(self) -> list[BreakerChanged]:
        with outlast.Outlast(self.url) as app:
            records = app.journal.read_all(limit=10**6)
        events = (record.event for record in records)
        return [event for event in events if isinstance(event, BreakerChanged)]

    def until(self, true: Callable[[], object]) -> None:
        give_up_at = time.monotonic() + PATIENCE_S
        while not true():
            assert time.monotonic() < give_up_at, self.changes()
            time.sleep(0.05)

    def asked(self) -> list[tuple[float, dict[str, Any]]]:
        """Return when each request reached Claude, and the request."""
        lines = self.claude.requests()
        return sorted(((_at(line), line) for line in lines), key=lambda one: one[0])


def _at(line: dict[str, Any]) -> float:
    return datetime.fromisoformat(line["at"]).timestamp()


def go(process: Any) -> None:
    process.stdin.write("\n")
    process.stdin.flush()


@contextmanager
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with simulator.start("outages.probed:script", path=[TESTS]) as claude:
        made = Fleet(f"sqlite:///{tmp_path}/s.db", claude)
        try:
            yield made
        finally:
            for process in made.started:
                process.kill()
                process.communicate()


@pytest.fixture(autouse=True)
def _slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLOW_S", str(SLOW_S))


@pytest.mark.timeout(900)
def test_exactly_so_many_try_it(tmp_path: Path, record_property: Record) -> None:
    """Of all callers of all processes, three ask a Claude that is back, until two are answered."""
    with fleet(tmp_path) as made:
        others = [made.start(f"p{n}", CALLERS) for n in range(PROCESSES)]
        first = made.start("first", DOWN)
        go(first)
        made.until(made.changes)
        for process in others:
            go(process)
        made.until(lambda: len(made.claude.requests()) > DOWN + PROBES)
        statuses = [line["status"] for _, line in made.asked()]
        bill = {line["usage"]["output_tokens"]: _at(line) for line in made.claude.bill()}
        changes = [change.status for change in made.changes()]
    assert statuses[: DOWN + PROBES] == [529] * DOWN + [200] * PROBES
    came = sorted(bill[DOWN + n] for n in range(1, PROBES + 1))
    # When two of the three are answered, which takes most of that time, it is well again.
    certain_at = came[1] + 0.9 * SLOW_S
    early = [number for number, at in bill.items() if number > DOWN + PROBES and at < certain_at]
    callers = DOWN + PROCESSES * CALLERS
    told = f"{PROBES + len(early)} of {callers} callers in {PROCESSES + 1} processes tried it"
    record_property("told", told)
    assert not early, told
    assert len(bill) > PROBES
    assert changes == ["open", "half_open", "closed"]


@pytest.mark.timeout(900)
def test_a_prober_that_died_frees_its_place(tmp_path: Path) -> None:
    """A process that is killed while it tries a dependency holds none of the three places."""
    with fleet(tmp_path) as made:
        first = made.start("first", DOWN)
        other = made.start("other", 6)
        go(first)
        made.until(lambda: len(made.changes()) == 2)  # it is tried
        made.until(lambda: len(made.claude.requests()) >= DOWN + PROBES)
        first.kill()
        first.wait()
        killed_at = time.time()
        go(other)
        made.until(lambda: len(made.changes()) >= 3)
        asked = made.asked()
        changes = made.changes()
    assert [change.status for change in changes] == ["open", "half_open", "closed"]
    assert changes[-1].run_id.startswith("other")
    again = [line for at, line in asked if at > killed_at and b"other" in _body(line)]
    assert len(again) >= 2, "the places of the dead were free"


def _body(line: dict[str, Any]) -> bytes:
    return str(line["body"]).encode()
