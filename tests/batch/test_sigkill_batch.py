"""A process with a batch on its way is killed with SIGKILL, and the map goes on in another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from batch.mapped import TESTS
from conftest import SOAK
from outlast.events import ModelCallBatched, ModelCallInDoubt, ModelCallSucceeded
from outlast.journal import run_stream
from outlast.state import fold
from outlast.stores import open_store
from outlast.testing import simulator

VICTIM = Path(__file__).with_name("victim_batch.py")
LAST = 84
"""About as many points as there are."""


@pytest.mark.timeout(600 if SOAK else 120)
def test_killed(tmp_path: Path) -> None:
    """Whenever its process is killed, a map ends as it would have, and costs no more than told."""
    every = 1 if SOAK else 14
    with simulator.start("batch.scripts:script", path=[TESTS]) as claude:
        subprocess.run(
            [sys.executable, str(VICTIM), str(tmp_path), claude.url, "1", str(LAST), str(every)],
            check=True,
            timeout=580 if SOAK else 110,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, sys.path))},
        )
        bill = {}
        for line in claude.bill():
            bill.setdefault(line["key"], []).append(line["nano_usd"])
        asked = [(line["key"], line["body"]) for line in claude.requests() if line["attempt"]]
        batches = len(claude.batches())
    homes = list(tmp_path.iterdir())
    for home in homes:
        ours = {
            key for key, body in asked if f' {home.name}."' in body or f" {home.name}. " in body
        }
        check(home, [bill[key] for key in ours])
    kills = [line for home in homes for line in (home / "kills").read_text().splitlines()]
    assert len(kills) >= 1.2 * len(homes), "too few processes were killed"
    assert any("batch" in kill or "poll" in kill or "sending" in kill for kill in kills), kills
    assert batches <= 6 * len(homes)


def check(home: Path, billed: list[list[int]]) -> None:
    """See how a map ended whose processes were killed, and what it cost."""
    ended = json.loads((home / "ended").read_bytes())
    assert ended["status"] == "completed", ended["why"]
    assert ended["answer"][:2] == [f"re: a {home.name}.", f"re: b {home.name}."]
    assert ended["answer"][2] == f"found use {home.name}. 2"
    journal = open_store(f"sqlite:///{home}/s.db")
    charged, accepted, outcomes = 0, set(), {}
    for row in journal.runs():
        records = journal.read(run_stream(row.id))
        state = fold(records)
        assert state.status == row.status == "completed"
        assert row.cost_nano == state.spend.nano
        assert state.spend.held_nano == 0
        charged += state.spend.nano
        for event in (record.event for record in records):
            if isinstance(event, ModelCallBatched):
                accepted.add((row.id, event.call_id))
            elif isinstance(event, ModelCallSucceeded | ModelCallInDoubt):
                outcomes[row.id, event.call_id] = type(event)
    journal.close()
    assert len(billed) == 5, "five calls, however often each was made"
    assert sum(map(sum, billed)) <= charged, "more was billed than charged"
    assert {outcomes[call] for call in accepted} == {ModelCallSucceeded}
    again = sum(len(lines) - 1 for lines in billed)
    doubted = [call for call, kind in outcomes.items() if kind is ModelCallInDoubt]
    assert again <= len(doubted), "something was paid twice that was not in doubt"
    if not doubted:
        assert sum(map(sum, billed)) == charged
