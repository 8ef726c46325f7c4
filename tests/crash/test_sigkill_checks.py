"""Processes that check answers are killed with SIGKILL at every append, and others go on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from conftest import SOAK
from outlast.events import ModelCallInDoubt, VerdictGiven
from outlast.journal import run_stream
from outlast.state import fold
from outlast.stores import open_store


def test_killed(tmp_path: Path) -> None:
    """Nothing is asked or judged twice but what was under way, and every run has the same answer.

    Judged by what Claude was asked, as it was written down when the requests arrived.
    """
    folder = Path(__file__).parent
    paths = os.pathsep.join(map(str, (folder, *sys.path)))
    env = os.environ | {"PYTHONPATH": paths}
    step = 1 if SOAK else 4
    told = ["import victim_checks; victim_checks.main()", str(tmp_path), str(step)]
    subprocess.run([sys.executable, "-c", *told], check=True, timeout=300, env=env)
    asked: dict[str, Counter[str]] = {}
    for line in (tmp_path / "asked").read_text().splitlines():
        run_id, digest = line.split()
        asked.setdefault(run_id, Counter())[digest] += 1
    whole = asked.pop("whole")
    assert sorted(whole.values()) == [1] * 6, "one search, three answers, two judgements"
    assert len(asked) >= 30 // step, "so many places to die"
    journal = open_store(f"sqlite:///{tmp_path}/s.db")
    answers = {}
    for run_id, seen in asked.items():
        records = journal.read(run_stream(run_id))
        events = [record.event for record in records]
        doubts = sum(isinstance(one, ModelCallInDoubt) for one in events)
        assert seen.keys() == whole.keys(), f"{run_id} asked something else"
        assert sum(seen.values()) - len(whole) <= doubts <= 1, run_id
        state = fold(records)
        answers[run_id] = bytes(state.answer or b"")
        assert len(state.validation.rejected) == 2
        said = [(one.call_id, one.check) for one in events if isinstance(one, VerdictGiven)]
        assert len(said) == len(set(said)) == 3 + 3 + 2
    journal.close()
    assert set(answers.values()) == {b'{"name":"Ladder","who":"charities"}'}
