"""A process with a flow in the middle is killed with SIGKILL, and the flow goes on in another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from conftest import SOAK
from outlast.journal import run_stream
from outlast.state import fold
from outlast.stores import open_store

VICTIM = Path(__file__).with_name("victim_flow.py")
LAST = 56
"""At least as many points as there are: two for each append of the flow and its children."""


def test_killed(tmp_path: Path) -> None:
    """Whenever its process is killed, a flow over SQLite ends as it would have."""
    every = 1 if SOAK else 9
    subprocess.run(
        [sys.executable, str(VICTIM), str(tmp_path), "1", str(LAST), str(every)],
        check=True,
        timeout=100,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, sys.path))},
    )
    kills = sum(check(home) for home in tmp_path.iterdir())
    assert kills >= LAST / every, f"only {kills} processes were killed"


def check(home: Path) -> int:
    """See how a flow ended whose processes were killed; return how many were."""
    status, answer, why = json.loads((home / "ended").read_text())
    assert status == "completed", why
    drawn, pair, kept, sent, mapped, last = answer
    assert pair == ["re: a x", "re: b x"]
    assert kept == f"keep {drawn} done"
    assert sent in ("send x done", "in doubt: True")
    assert (mapped, last) == (["re: child 1", "re: child 2"], "re: last")
    did = [json.loads(line) for line in (home / "effects").read_text().splitlines()]
    assert [what for what, _ in did].count("send x") <= 1, "a once function ran twice"
    assert sent != "send x done" or ["send x", ""] in did
    kept_as = {(what, key) for what, key in did if what.startswith("keep")}
    assert len(kept_as) == 1, "one value, and one key"
    journal = open_store(f"sqlite:///{home}/s.db")
    runs = {row.id: row for row in journal.runs()}
    assert set(runs) == {"r", "r/child-map-1/1", "r/child-map-1/2"}
    for run_id, row in runs.items():
        state = fold(journal.read(run_stream(run_id)))
        assert state.status == row.status == "completed"
        assert state.spend.held_nano == 0
    journal.close()
    return int((home / "kills").read_text())
