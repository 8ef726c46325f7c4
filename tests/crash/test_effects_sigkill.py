"""Real processes die by SIGKILL while their tools write to files and to a database.

Judged by the files and the rows, and by what the run's answer says that Claude was told.
"""

import json
import os
import sqlite3
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from effects import doubts, use_of
from msgspec import Raw

from conftest import SOAK
from outlast.events import ToolCallReconciled, ToolCallStarted
from outlast.journal import Commit, Record, run_stream
from outlast.state import RunState, evolve, fold, row
from outlast.stores import open_store

HERE = Path(__file__).parent
KILLS = 200 if SOAK else 8
HAPPENED = "This call was interrupted. It was found out that it happened; its result is lost."
DID_NOT = "This call was interrupted. It was found out that it did not happen."


class Victims:
    """Runs legs in processes that may be killed, one after the other."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "victim_effects.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, sys.path))},
        )

    def killed(self, **leg: Any) -> bool:
        """Run a leg, and return whether it was killed."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(leg) + "\n")
        self.process.stdin.flush()
        return bool(json.loads(self.process.stdout.readline()))

    def close(self) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


@pytest.fixture
def victims() -> Iterator[Victims]:
    started = Victims()
    yield started
    started.close()


class Scene:
    """One run, in as many processes as it takes, and what it left in the world."""

    def __init__(self, victims: Victims, home: Path, rng: Random) -> None:
        self.home = home
        (home / "files").mkdir(parents=True)
        with sqlite3.connect(home / "books.db") as database:
            database.execute("CREATE TABLE books (key TEXT PRIMARY KEY, text TEXT)")
        database.close()
        self.kills = 0
        self.ambiguous: set[str] = set()
        self.surfaced: dict[str, str] = {}
        for leg in range(12):
            kill_at = rng.randint(1, 8) if leg < 3 else 0
            after_s = rng.choice([0, rng.uniform(0, 0.003), rng.uniform(0, 0.02)])
            if victims.killed(home=str(home), kill_at=kill_at, after_s=after_s):
                self.kills += 1
                self.ambiguous |= self._begun()
            elif (state := self._asked()).status == "completed":
                break
        else:
            raise AssertionError(f"{home}: the run goes round in circles")
        assert state.answer is not None
        self.told = json.loads(json.loads(bytes(state.answer)))

    @property
    def sent(self) -> list[str]:
        """The lines in the file."""
        path = self.home / "sent"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def rows(self) -> list[str]:
        """The texts in the database."""
        database = sqlite3.connect(self.home / "books.db")
        rows = [text for (text,) in database.execute("SELECT text FROM books")]
        database.close()
        return rows

    @property
    def keys(self) -> dict[str, set[str]]:
        """The keys that each call had, by what the tools wrote down."""
        keys = defaultdict(set)
        for line in map(json.loads, (self.home / "log").read_text().splitlines()):
            keys[use_of(line["call"])].add(line["key"])
        return keys

    def _begun(self) -> set[str]:
        """Return the `once` calls that were begun, and of which nothing is written."""
        journal = open_store(f"sqlite:///{self.home}/s.db")
        events = [record.event for record in journal.read(run_stream("r"))]
        journal.close()
        begun = {e.call_id for e in events if isinstance(e, ToolCallStarted) and e.tool == "send"}
        others = [event for event in events if not isinstance(event, ToolCallStarted)]
        return {*map(use_of, begun - {getattr(event, "call_id", "") for event in others})}

    def _asked(self) -> RunState:
        """Answer, by what the file says, what the run asks of somebody."""
        journal = open_store(f"sqlite:///{self.home}/s.db")
        state = fold(journal.read(run_stream("r")))
        for pending in doubts(state):
            text = msgspec.json.decode(pending.arguments)["text"]
            happened = text in self.sent
            assert state.status in ("waiting", "queued"), "it waits for the answers"
            self.surfaced[use_of(pending.doubt)] = text
            event = ToolCallReconciled(
                ask_id="ask-1",
                call_id=pending.doubt,
                tool_use_id=pending.tool_use_id,
                outcome="happened" if happened else "did_not",
                content=Raw(b"null"),
                by="ann",
            )
            at = state.updated_at + 1
            told = Record(run_stream("r"), state.next_seq, 0, at, 0, event)
            state = evolve(state, told)
            journal.append(Commit(stream=told.stream, events=(event,), at=at, row=row(state, "r")))
        journal.close()
        assert state.status in ("queued", "completed"), state.why
        return state

    def check(self) -> None:
        """Compare the world with what Claude was told."""
        told, where = self.told, str(self.home)
        assert [told[n] for n in (1, 2, 3, 4, 5)] == ["saved x"] * 2 + ["booked y"] * 2 + [
            "saved x"
        ]
        for text, said in (("a", told[0]), ("b", told[6])):
            lines = self.sent.count(text)
            assert lines <= 1, f"{where}: {text} was sent {lines} times"
            if text in self.surfaced.values():
                assert said == (HAPPENED if lines else DID_NOT), where
            else:
                assert (said, lines) == (f"sent {text}", 1), where
        assert self.ambiguous == self.surfaced.keys(), where
        files = sorted(one.name for one in (self.home / "files").iterdir())
        keys = self.keys
        assert all(len(each) == 1 for each in keys.values()), "an attempt had another key"
        assert len({*map(frozenset, keys.values())}) == len(keys), "two calls had the same key"
        assert len(files) == 3, f"{where}: three calls, whatever their arguments: three files"
        assert {*files} <= {key for each in keys.values() for key in each}
        assert [(self.home / "files" / name).read_text() for name in files] == ["x"] * 3
        assert self.rows == ["y"] * 2, f"{where}: two calls, two rows"


@pytest.mark.timeout(3_600 if SOAK else 120)  # many processes, one after the other
def test_killed_around_effects(
    victims: Victims, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Killed at whatever moment, each effect comes once, and whoever has to be asked is asked."""
    scenes: list[Scene] = []
    while sum(scene.kills for scene in scenes) < KILLS:
        number = len(scenes)
        assert number < 10 * KILLS, "hardly any process was killed"
        dice = Random(number)  # noqa: S311  (a schedule, not a secret)
        scenes.append(Scene(victims, tmp_path / str(number), dice))
        scenes[-1].check()
    told = {
        "scenes": len(scenes),
        "kills": sum(scene.kills for scene in scenes),
        "ambiguous": sum(len(scene.ambiguous) for scene in scenes),
        "surfaced": sum(len(scene.surfaced) for scene in scenes),
    }
    record_property("told", told)
    if SOAK:
        assert told["ambiguous"] >= 20
