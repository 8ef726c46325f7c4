"""A map in batches is killed at every step of its loop, and before and after every append."""

from __future__ import annotations

import itertools
from collections import Counter
from random import Random
from typing import Any

import pytest
from playing import Played, Point, World, check_world

import outlast
from batch.mapped import mapping
from conftest import SOAK
from outlast.events import (
    ModelCallBatched,
    ModelCallInDoubt,
    ModelCallSucceeded,
    RunParked,
    RunWoken,
)
from outlast.journal import run_stream
from outlast.models.script import Turn, last_text, say, tool_use, turn_number

PAIRS = 60
INPUTS = ["one", "use two", "use three"]


@outlast.tool(effect="idempotent")
async def keep(word: str, context: outlast.ToolContext) -> str:
    """Keep a word; not in a thread, for which the clock would not wait."""
    World.now.act(f"keep {word}", context.idempotency_key)
    return f"kept {word}"


def script(request: dict[str, Any], attempt: int) -> Turn:
    """Answer after a minute, so that who waits for a batch is parked, and more than once."""
    return paced(request, 60)


def hourly(request: dict[str, Any], attempt: int) -> Turn:
    """Answer after an hour."""
    return paced(request, 3_600)


def paced(request: dict[str, Any], total_s: float) -> Turn:
    asked = last_text(request)
    if asked.startswith("use") and turn_number(request) == 1:
        return say(tool_use("keep", {"word": asked}), total_s=total_s)
    return say(f"re: {asked}", total_s=total_s / 2)


AGENT = outlast.Agent("keeper", model="claude-haiku-5-5", tools=[keep], max_tokens=512)
FLOW = mapping(AGENT, batch=True)


def played(*dies: Point) -> Played:
    return Played(script, FLOW, INPUTS, dies)


@pytest.fixture(scope="module")
def whole() -> Played:
    return played()


def points(whole: Played) -> list[Point]:
    life = whole.world.life
    assert life is not None
    appends = range(1, life.appends + 1)
    return [
        *(("step", number) for number in range(1, whole.steps + 1, 1 if SOAK else 4)),
        *((where, number) for number in appends for where in ("before append", "after append")),
    ]


def outcomes(world: World) -> dict[str, list[type]]:
    """Return what came of every call whose batch was journalled."""
    came: dict[str, list[type]] = {}
    for run_id in world.states():
        for record in world.journal.read(run_stream(run_id)):
            event = record.event
            if isinstance(event, ModelCallBatched):
                came[f"{run_id} {event.call_id}"] = []
            elif isinstance(event, ModelCallSucceeded | ModelCallInDoubt):
                came.get(f"{run_id} {event.call_id}", []).append(type(event))
    return came


def check(played: Played, whole: Played) -> None:
    """Compare a map that was killed with one that was not, by what Claude saw and billed."""
    assert played.run.status == "completed", played.run.why
    assert played.run.answer == whole.run.answer == [f"re: {each}" for each in INPUTS]
    check_world(played)
    world = played.world
    # What was journalled as accepted is fetched, however often the process dies, and never sent
    # again; what was not is charged in full, and sent again.
    assert all(came == [ModelCallSucceeded] for came in outcomes(world).values())
    doubted = sum(
        isinstance(record.event, ModelCallInDoubt)
        for run_id in world.states()
        for record in world.journal.read(run_stream(run_id))
    )
    again = len(world.answers) - len(set(world.requests))
    assert again <= doubted, "something was paid twice that was not in doubt"
    assert set(world.requests) == set(whole.world.requests)
    assert len(world.model.batches) <= len(whole.world.model.batches) + 3 * played.deaths
    assert all(len(keys) == 1 for keys in world.keys.values())


def test_uninterrupted(whole: Played) -> None:
    """One batch for each turn, one request for each call, one look at a time, nothing in doubt."""
    check(whole, whole)
    model = whole.world.model
    assert [len(batch.results) for batch in model.batches] == [3, 2]
    assert len(whole.world.answers) == 5
    charged = sum(run.spend.nano for run in whole.world.states().values())
    assert model.billed_nano == charged


def test_parked_between_looks() -> None:
    """Batches of hours cost few requests, and for each look two events of each run that waits."""
    long = Played(hourly, FLOW, INPUTS)
    check(long, long)
    model = long.world.model
    assert model.polls < 60, "a quarter of the age between two looks, and at last ten minutes"
    for run_id in long.world.states():
        events = [record.event for record in long.world.journal.read(run_stream(run_id))]
        parks = [event for event in events if isinstance(event, RunParked)]
        assert 20 < len(parks) <= model.polls
        assert {event.why for event in parks} <= {
            f"waiting for batch {b.id}" for b in model.batches
        }
        assert sum(isinstance(event, RunWoken) for event in events) == len(parks)


def test_every_point(whole: Played) -> None:
    """Wherever its process dies, a map in batches ends as if it had not."""
    deaths: Counter[str] = Counter()
    lost = saved = 0
    for point in points(whole):
        killed = played(point)
        deaths[point[0]] += killed.deaths
        try:
            check(killed, whole)
        except AssertionError as error:
            raise AssertionError(f"killed at {point}: {error}") from error
        lost += len(killed.world.answers) > 5
        saved += killed.deaths and len(killed.world.model.batches) == 2
    tried = Counter(where for where, _ in points(whole))
    for where, number in tried.items():
        assert deaths[where] >= (0.6 if where == "step" else 0.9) * number, where
    assert lost, "no death came between a batch and its event"
    assert saved > 20, "no death came while a batch was waited for"


@pytest.mark.timeout(7_200 if SOAK else 120)
def test_every_pair(whole: Played) -> None:
    """Wherever its process dies twice, a map in batches ends as if it had not."""
    every = list(itertools.product(points(whole), points(whole)))
    for pair in every if SOAK else Random("pairs").sample(every, PAIRS):  # noqa: S311  (no secret)
        try:
            check(played(*pair), whole)
        except AssertionError as error:
            raise AssertionError(f"killed at {pair}: {error}") from error
