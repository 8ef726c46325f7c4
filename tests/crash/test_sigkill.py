"""A real process is killed with SIGKILL, hundreds of times, and the run goes on in another.

Judged by what is outside of the killed processes: the requests and the bill of the simulator, and
the file to which the tools append.
"""

import itertools
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import pytest

from conftest import SOAK
from outlast.events import (
    AnswerProposed,
    AnswerRejected,
    AnyEvent,
    ApprovalGiven,
    ApprovalRequested,
    AskFailed,
    AskRejected,
    AskResampled,
    BoundExceeded,
    BoundRaised,
    BreakerChanged,
    BudgetPassed,
    BudgetSet,
    CacheMissed,
    ChildStarted,
    CompactionRequested,
    ControlGiven,
    LabelGiven,
    LoopDetected,
    ModelCallBatched,
    ModelCallReconciled,
    ModelSwitched,
    NoteAdded,
    PhaseEntered,
    RateFrozen,
    RateLimitsTold,
    RunForked,
    RunLeft,
    RunParked,
    RunWoken,
    ScheduleFired,
    ScheduleSet,
    StepFinished,
    StepStarted,
    TokensCounted,
    ToolCallGivenUp,
    TreeJoined,
    UndoFinished,
    UndoStarted,
    VerdictGiven,
    tag,
)
from outlast.journal import run_stream
from outlast.state import fold
from outlast.stores import open_store
from outlast.testing import simulator
from outlast.testing.simulation import canonical
from outlast.views.costs import GROUPS, costs, total

HERE = Path(__file__).parent
UNKNOWN = "may or may not have happened"
DID_NOT = "It was found out that it did not happen."

ELSEWHERE = (
    *(NoteAdded, ControlGiven, ModelCallReconciled),  # from outside
    *(BudgetSet, BudgetPassed, BoundRaised, ScheduleSet, ScheduleFired),  # of operators
    RateFrozen,  # of rate limits, see tests/outages
    RateLimitsTold,
    BreakerChanged,
    # of runs that are not played here
    *(CacheMissed, BoundExceeded, TokensCounted, LoopDetected, ModelSwitched),
    ModelCallBatched,  # of batches, see tests/batch
    CompactionRequested,  # of long conversations, see tests/context
    *(ToolCallGivenUp, UndoStarted, UndoFinished),  # see tests/recovery
    *(AnswerProposed, VerdictGiven, AnswerRejected),  # see tests/validation, test_sigkill_checks
    *(AskResampled, AskRejected, LabelGiven),
    *(RunForked, TreeJoined),  # see tests/travel
    *(PhaseEntered, StepStarted, StepFinished, ChildStarted, RunParked, RunWoken, AskFailed),
    *(ApprovalRequested, ApprovalGiven, RunLeft),  # tests/test_approvals, tests/worker
)
"""Events that other tests of crashes meet: of flows, for one, see tests/flows."""


class Victims:
    """Runs legs in processes that may be killed, one after the other."""

    def __init__(self, claude: simulator.Simulator, home: Path) -> None:
        self.claude = claude
        self.home = home
        self.runs = 0
        self.killed: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "victim.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, sys.path))},
        )

    def play(self, kills: tuple[int, ...], *, word: str = "", turns: int | None = None) -> "Scene":
        """Run a run, killed at the kills[n]-th point of its n-th leg, and then to its end."""
        self.runs += 1
        scene = Scene(self, f"Scene {self.runs} {word}", turns)
        for kill_at in kills:
            if not scene.leg(kill_at):
                break
        else:
            assert not scene.leg(0), "a leg that nobody kills was killed"
        if scene.points.exists():
            self.killed += scene.points.read_text().splitlines()
        return scene

    def leg(self, leg: dict[str, Any]) -> bool:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(leg) + "\n")
        self.process.stdin.flush()
        ended = json.loads(self.process.stdout.readline())
        assert ended["killed"] or ended["status"] == 0, ended
        return ended["killed"]

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(30)
        if self.process.stdout:
            self.process.stdout.close()


class Scene:
    """One run, whatever processes drove it, and what it left in the world."""

    def __init__(self, victims: Victims, question: str, turns: int | None) -> None:
        self.victims = victims
        self.question = question
        self.turns = turns
        self.number = victims.runs
        self.home = victims.home / str(self.number)
        self.home.mkdir()
        self.points = self.home / "points"

    @property
    def store(self) -> str:
        return f"sqlite:///{self.home}/s.db"

    def leg(self, kill_at: int) -> bool:
        return self.victims.leg(
            {
                "claude": self.victims.claude.url,
                "store": self.store,
                "question": self.question,
                "turns": self.turns,
                "kill_at": kill_at,
                "guest": self.number % 2 == 1,
                "points": str(self.points),
                "effects": str(self.home / "effects"),
                "ended": str(self.home / "ended"),
            }
        )

    @property
    def ended(self) -> dict[str, Any]:
        return json.loads((self.home / "ended").read_bytes())

    @cached_property
    def seen(self) -> list[dict[str, Any]]:
        """What the simulator got of this run, once it has ended."""
        marker = f'"{self.question}"'
        return [line for line in self.victims.claude.requests() if marker in line["body"]]

    @property
    def effects(self) -> Counter[str]:
        lines = (self.home / "effects").read_text().splitlines()
        return Counter(json.loads(line)["tool"] for line in lines)

    @property
    def keys(self) -> set[str]:
        lines = map(json.loads, (self.home / "effects").read_text().splitlines())
        return {line["key"] for line in lines if line["tool"] == "save"}


@pytest.fixture(scope="module")
def victims(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victims]:
    home = tmp_path_factory.mktemp("victims")
    with simulator.start(script="led:script", path=[HERE]) as claude:
        started = Victims(claude, home)
        yield started
        started.close()


@pytest.fixture(scope="module")
def uninterrupted(victims: Victims) -> Scene:
    return victims.play(())


def requests(scene: Scene) -> list[str]:
    """Return what Claude was asked in this scene, repeats of an unanswered call aside."""
    marker = f'"{scene.question}"'
    bodies = [line["body"] for line in scene.seen]
    plain = [_anonymous(canonical(body.encode()).replace(marker, '"Scene"')) for body in bodies]
    return [body for body, _ in itertools.groupby(plain)]


def _anonymous(body: str) -> str:
    """Number the tool uses: their ids follow from the whole conversation, the question too."""
    for number, name in enumerate(dict.fromkeys(re.findall(r"toolu_\w+", body))):
        body = body.replace(name, f"use-{number}")
    return body


def billed(scene: Scene) -> int:
    ours = {line["key"] for line in scene.seen}
    return sum(line["nano_usd"] for line in scene.victims.claude.bill() if line["key"] in ours)


def check(scene: Scene, uninterrupted: Scene, kills: int) -> None:
    """Compare a run whose processes were killed with one that was left alone."""
    ended, effects = scene.ended, scene.effects
    assert ended["status"] == "completed", ended
    assert effects["send"] <= 1, "a once tool ran twice"
    assert len(scene.keys) == 1, "one key for one call, in whatever process"
    assert effects["save"] >= 1
    assert billed(scene) <= ended["nano"], "more was billed than the journal counts as spent"
    lost = DID_NOT in ended["answer"]
    assert effects["send"] == (not lost), "what Claude knows is true"
    if lost or UNKNOWN in ended["answer"]:
        # Only the result of `send` may differ, where it never happened; and those of the reads
        # that died with their process three times: they are repeated twice at most.
        unknown = re.findall(r"The outcome of this call of (\w+) is unknown", ended["answer"])
        assert {*unknown} <= ({"look_up", "broken"} if kills > 2 else set())
        # Up to the first result that differs, and no further, the requests are the same.
        same = 1 if unknown else 2
        assert requests(scene)[:same] == requests(uninterrupted)[:same]
        assert len(requests(scene)) == len(requests(uninterrupted))
    else:
        assert ended["answer"] == uninterrupted.ended["answer"]
        assert requests(scene) == requests(uninterrupted)
    journal = open_store(scene.store)
    records = journal.read(run_stream("r"))
    row = journal.run("r")
    whole = [total(costs(journal.rollup(), by)) for by in GROUPS]
    journal.close()
    assert row is not None
    assert {(one.nano, one.in_doubt_nano) for one in whole} == {(row.cost_nano, row.in_doubt_nano)}
    assert row.cost_nano == fold(records).spend.nano == ended["nano"]


def scenes() -> list[tuple[int, ...]]:
    """Return where to kill: at every point of the first leg, and then again in the second."""
    points = range(1, 51)
    singles = [(point,) for point in points]
    pairs = [(first, second) for first in points for second in range(1, 9)]
    triples = [(first, 2, 4) for first in points]
    return [*singles, *pairs, *triples] if SOAK else [*singles[::3], *pairs[::11]]


@pytest.mark.timeout(3_600 if SOAK else 300)  # hundreds of processes, one after the other
def test_killed_at_every_point(victims: Victims, uninterrupted: Scene) -> None:
    """Whenever its process is killed, the run goes on in another and ends as it would have."""
    for kills in scenes():
        check(victims.play(kills), uninterrupted, len(kills))
    for kills in [(9,), (14, 3), (27,), (29, 2)]:
        tripped = victims.play(kills, word="overloaded")
        assert tripped.ended["answer"] == uninterrupted.ended["answer"] or tripped.effects["send"]
        assert billed(tripped) <= tripped.ended["nano"]
    for point in (9, 10, 15, 16, 21):
        cut = victims.play((point,), word="cut short")
        assert cut.ended["answer"] == "Part 1, Part 2, And Part 4, "
        assert not (cut.home / "effects").read_bytes(), "a call that was cut off was made"
        assert billed(cut) <= cut.ended["nano"]
    for point in range(11, 19):
        stopped = victims.play((point,), turns=1)
        assert stopped.ended["status"] == "stopped"
    known = {tag(event) for event in get_args(AnyEvent)} - set(map(tag, ELSEWHERE))
    hit = {name for point in victims.killed for name in point.split()[-1].split("+")} & known
    assert len(victims.killed) >= (400 if SOAK else 60), len(victims.killed)
    assert len(hit) >= 0.8 * (len(known) + 1), sorted(known - hit)
