"""Processes that drive a run, and people who answer it, are killed with SIGKILL."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from conftest import SOAK
from outlast.events import ApprovalGiven, ToolCallStarted
from outlast.journal import run_stream
from outlast.state import fold
from outlast.stores import open_store

VICTIM = Path(__file__).with_name("victim_approvals.py")
POINTS = range(1, 9) if SOAK else (4, 7, 8)
"""Two for each append of the first leg; from 6 on the question is in the journal."""


def test_killed(tmp_path: Path) -> None:
    """Whoever is killed, what was said holds: the tool is called at most once, and so."""
    subprocess.run(
        [sys.executable, str(VICTIM), str(tmp_path), *map(str, POINTS)],
        check=True,
        timeout=200,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, sys.path))},
    )
    seen = {check(tmp_path / str(point)) for point in POINTS}
    assert seen == {"who types", "who dies"}


def check(home: Path) -> str:
    """Compare what was said with what was done; return who was the first to say it."""
    told = json.loads((home / "told").read_text())
    assert told["kills"] >= 2, told
    journal = open_store(f"sqlite:///{home}/s.db")
    records = journal.read(run_stream("r"))
    journal.close()
    given = [record.event for record in records if isinstance(record.event, ApprovalGiven)]
    assert len(given) == 1, "one answer counts, and no other one is written"
    (answer,) = given
    assert told["codes"].count(0) == (answer.by == "who types"), told
    to = {"who types": "ann", "who dies": "carol"}[answer.by]
    done = (home / "effects").read_text().splitlines()
    calls = [r.event for r in records if isinstance(r.event, ToolCallStarted)]
    mails = [call for call in calls if call.tool == "mail"]
    assert len(mails) == 1, "a once tool is begun once"
    assert done in ([], [f"mail {to}"])
    state = fold(records)
    assert state.status == "completed"
    (ask,) = state.asks.values()
    lost = any(b"it did not happen" in bytes(message) for message in ask.messages)
    assert bool(done) != lost, "what was allowed is called, unless its process died before"
    return answer.by
