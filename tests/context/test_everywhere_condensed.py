"""A run that is condensed twice is killed before and after each of its effects, and goes on."""

import itertools
from collections import Counter
from typing import Any

import msgspec
import pytest
from reading import QUESTION, asked, condensing, length, reader, reads

from conftest import SOAK
from outlast import context
from outlast.events import CompactionRequested
from outlast.journal import run_stream
from outlast.models import catalogue, faults, strict
from outlast.models.script import Fault, Turn
from outlast.models.scripted import ScriptedModel
from outlast.state import fold
from outlast.stores import open_store
from outlast.testing.simulation import World, canonical, run

MODEL = "claude-opus-5-5"
WINDOW = 3_000
PAGES = 5
AGENT = reader(1_600, model=MODEL, max_tokens=100, min_tokens=50)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the window of the model so small that a few pages fill it."""
    less = msgspec.structs.replace(catalogue.MODELS[MODEL], context=WINDOW)
    monkeypatch.setattr(catalogue, "MODELS", {**catalogue.MODELS, MODEL: less})
    monkeypatch.setattr(context, "window", lambda model, shown=0: WINDOW)
    monkeypatch.setattr(context, "LEAST_TRIGGER", 100)
    monkeypatch.setattr(strict, "MIN_TRIGGER", 100)


def script(request: dict[str, Any], attempt: int) -> Turn | Fault:
    """Condense what one is asked to, but be overloaded at first, and cut off the second time."""
    if asked(request) and attempt == 1:
        return faults.overloaded()
    if asked(request) and attempt == 2:
        return Fault(kind="cut", after_events=2)
    return condensing(reads(PAGES))(request, attempt)


class Played:
    """One simulated run, and what came of it."""

    def __init__(self, *crash_at: int) -> None:
        self.world = World(script, crash_at=crash_at)
        self.journal = open_store("memory://")
        self.state, self.crashes = run(self.world, self.journal, AGENT, QUESTION)

    @property
    def requests(self) -> list[str]:
        """The requests that arrived, repeats of an unanswered call aside."""
        return [body for body, _ in itertools.groupby(map(canonical, self.world.requests))]


def check(played: Played, whole: Played) -> None:
    """Compare a run that was killed with the one that was not, by what the world saw."""
    assert played.state.status == "completed", played.state.why
    assert played.state.answer == whole.state.answer
    assert played.requests == whole.requests
    model: ScriptedModel = played.world.model
    assert max(map(length, played.world.requests)) <= WINDOW
    billed, spend = model.billed_nano, played.state.spend
    assert spend.nano - spend.in_doubt_nano <= billed <= spend.nano
    assert spend.held_nano == 0
    assert played.state == fold(played.journal.read(run_stream("r")))


@pytest.fixture
def whole(small: None) -> Played:
    return Played()


def test_uninterrupted(whole: Played) -> None:
    """The run is condensed twice, each time after two attempts that came to nothing."""
    assert whole.state.answer is not None
    assert msgspec.json.decode(whole.state.answer) == f"I have read {PAGES} pages."
    assert whole.world.emitted["compaction_requested"] == 2
    assert Counter(whole.world.emitted)["model_call_failed"] == 2
    check(whole, whole)
    lost = whole.state.spend.in_doubt_nano
    cut = [charge.nano_usd for charge in whole.world.model.bill if charge.outcome == "cut"]
    assert len(cut) == 2
    assert whole.state.spend.nano - lost == whole.world.model.billed_nano - sum(cut)


def test_every_point(whole: Played) -> None:
    """Wherever the process dies, each summary is asked for once, and the run ends as if it lived.

    What is paid is what was billed; what is in doubt is held in full.
    """
    for point in range(1, whole.world.points + 1):
        played = Played(point)
        assert played.crashes == 1
        check(played, whole)
        events = [record.event for record in played.journal.read(run_stream("r"))]
        requested = [event for event in events if isinstance(event, CompactionRequested)]
        assert len(requested) == 2


def test_pairs(whole: Played) -> None:
    """The same at every pair of points around a summary; a soak takes every pair there is."""
    points = range(1, whole.world.points + 13)
    if not SOAK:
        trace = whole.world.trace
        first = next(n for n, name in enumerate(trace) if "compaction_requested" in name)
        points = range(first - 4, first + 22)
    both = 0
    for pair in itertools.combinations(points, 2):
        played = Played(*pair)
        both += played.crashes == 2
        check(played, whole)
    assert both > 250
