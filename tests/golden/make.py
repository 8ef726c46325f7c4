"""Makes the golden journal of the present version; run once for a version, and never again.

    PYTHONPATH=src:tests:tests/crash python tests/golden/make.py

It holds every type of event there is.  Every later version has to read it, so it is made by the
simulation, whose clock and ids are always the same.
"""

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from agents import QUESTION, Effects, agent, claude, cut_off

from outlast.events import JOURNAL_VERSION, NoteAdded, encode
from outlast.journal import Commit, Journal, RunRow, run_stream
from outlast.models.script import say, tool_use, turn_number
from outlast.state import RunState, fold
from outlast.stores import open_store
from outlast.testing.simulation import World, run

HERE = Path(__file__).parent
RUNS = ("whole", "killed", "stopped", "failed", "cut")


def fill(journal: Journal) -> None:
    """Run what there is to run: one to its end, one killed twice, one stopped, one that fails, one cut off."""
    run(World(claude()), journal, agent(Effects()), QUESTION, run_id="whole")
    killed = World(claude(), crash_at=(11, 38))
    run(killed, journal, agent(Effects()), QUESTION, run_id="killed")
    run(World(claude()), journal, agent(Effects(), turns=2), QUESTION, run_id="stopped")
    run(World(refuse), journal, agent(Effects()), "Why? ☃ 𝄞", run_id="failed")
    run(World(cut_off), journal, agent(Effects()), QUESTION, run_id="cut")
    note = NoteAdded(text="made for every later version to read", by="golden")
    journal.append(Commit(stream=run_stream("whole"), events=(note,), at=1_800_000_000_000_000_000))


def refuse(request: dict[str, Any], attempt: int) -> Any:
    """Call a tool, and then refuse."""
    if turn_number(request) == 1:
        return say(tool_use("look_up", {"word": "naïve"}))
    return say("No.", stop_reason="refusal")


def known(journal: Journal) -> dict[str, Any]:
    """Return what is to be read from it, by run."""
    return {run_id: _known(journal, run_id) for run_id in RUNS}


def _known(journal: Journal, run_id: str) -> dict[str, Any]:
    records = journal.read(run_stream(run_id))
    state: RunState = fold(records)
    row = journal.run(run_id)
    assert isinstance(row, RunRow)
    return {
        "row": msgspec.to_builtins(row),
        "events": [json.loads(encode(record.event)) for record in records],
        "places": [[record.seq, record.position, record.at, record.epoch] for record in records],
        "messages": [bytes(m).decode() for ask in state.asks.values() for m in ask.messages],
        "spend": msgspec.to_builtins(state.spend),
    }


def main() -> None:
    """Write the store and what is known of it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "golden.db"
        journal = open_store(f"sqlite:///{path}")
        fill(journal)
        facts = known(journal)
        journal.close()
        packed = HERE / f"v{JOURNAL_VERSION}.db.gz"
        packed.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    text = json.dumps(facts, indent=1, ensure_ascii=False) + "\n"
    (HERE / f"v{JOURNAL_VERSION}.json").write_text(text)


if __name__ == "__main__":
    main()
