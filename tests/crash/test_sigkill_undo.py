"""Processes that take back what a run did are killed with SIGKILL, and another one goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import SOAK
from outlast.journal import run_stream
from outlast.state import fold
from outlast.stores import open_store

POINTS = [(0, 3, 0), (2, 4, 5)] if SOAK else [(0, 3, 0)]
"""Where processes die one after the other; see `victim_undo`."""


@pytest.mark.parametrize("points", POINTS, ids=str)
def test_killed(tmp_path: Path, points: tuple[int, ...]) -> None:
    """After three kills everything is taken back, newest first, with one key for each."""
    folder = Path(__file__).parent
    paths = os.pathsep.join(map(str, (folder, *sys.path)))
    env = os.environ | {"PYTHONPATH": paths, "UNDO_HOME": str(tmp_path), "UNDO_DIES": ""}
    program = "import victim_undo; victim_undo.main()"
    told = map(str, (tmp_path, *points))
    subprocess.run([sys.executable, "-c", program, *told], check=True, timeout=120, env=env)
    assert (tmp_path / "killed").exists()
    words = ["cancel", "r", "--undo", "--store", f"sqlite:///{tmp_path}/s.db"]
    ended = subprocess.run(
        [sys.executable, "-m", "outlast", *words],
        check=True,
        timeout=60,
        env=env,
        capture_output=True,
        text=True,
    )
    assert "2 of 2 calls were undone" in ended.stdout, ended.stdout + ended.stderr
    journal = open_store(f"sqlite:///{tmp_path}/s.db")
    state = fold(journal.read(run_stream("r")))
    journal.close()
    assert (state.status, state.why) == (
        "cancelled",
        "cancelled by ann; 2 of 2 calls were undone",
    )
    done = [line.split() for line in (tmp_path / "effects").read_text().splitlines()]
    assert [room for what, room, _ in done if what == "book"] == ["a", "b"]
    undone = [(room, key) for what, room, key in done if what == "unbook"]
    assert list(dict.fromkeys(room for room, _ in undone)) == ["b", "a"]
    assert len(set(undone)) == 2, "every attempt has the key of the first"
    assert len(undone) <= 2 + len(points)
