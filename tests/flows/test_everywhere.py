"""Flows are killed at every step of their loop, and before and after every append, and at pairs."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any

import msgspec
import pytest
from kinds import UNKNOWN, asks, blocking, children, hasty, script, steps
from playing import Played, Point, check_world

from conftest import SOAK
from outlast.events import StepFinished, ToolCallReconciled
from outlast.journal import run_stream

FLOWS = {"asks": asks, "steps": steps, "children": children, "hasty": hasty, "blocking": blocking}
PAIRS = 60
"""Pairs of points of each flow in a run that is no soak."""

DOUBT = rf"{UNKNOWN}|This call was interrupted\. It was found out that it did not happen\."
UNCERTAIN = re.compile(rf"{DOUBT}|sent (x|again|child \d|\d)")


def played(name: str, *dies: Point) -> Played:
    return Played(script, FLOWS[name], "x", dies)


@pytest.fixture(scope="module")
def whole() -> dict[str, Played]:
    return {name: played(name) for name in FLOWS}


def points(whole: Played) -> list[Point]:
    """Return every point at which a life that nobody kills could have ended."""
    life = whole.world.life
    assert life is not None
    appends = range(1, life.appends + 1)
    return [
        *(("step", number) for number in range(1, whole.steps + 1, 1 if SOAK else 3)),
        *((where, number) for number in appends for where in ("before append", "after append")),
    ]


def plain(answer: Any) -> str:
    """Return an answer as text that says neither whether a `once` function ran, nor whether not."""
    return UNCERTAIN.sub("sent", msgspec.json.encode(answer).decode())


def ended(played: Played) -> list[tuple[str, str]]:
    """Return how every run ended; the calls before the one that a child serves may be lost."""
    states = played.world.states()
    return sorted((re.sub(r"\.m\d+\.", ".", name), state.status) for name, state in states.items())


def doubted(played: Played) -> set[str]:
    """Return what never happened, or perhaps not, and must never be repeated, as it is written."""
    return {
        event.name if isinstance(event, StepFinished) else event.call_id
        for run_id in played.world.states()
        for record in played.world.journal.read(run_stream(run_id))
        if isinstance(event := record.event, StepFinished | ToolCallReconciled)
        and (
            (isinstance(event, StepFinished) and event.status == "in_doubt")
            or (isinstance(event, ToolCallReconciled) and event.outcome == "did_not")
        )
    }


def check(name: str, played: Played, whole: Played) -> None:
    """Compare a flow that was killed with one that was not, by what the world saw."""
    assert played.run.status == "completed", played.run.why
    check_world(played)
    world, before = played.world, whole.world
    assert ended(played) == ended(whole)
    for what, times in world.ran.items():
        if what.startswith("send"):
            assert times == 1, f"{what}: a once function ran {times} times"
        assert times <= 1 + played.deaths
    assert all(len(keys) == 1 for keys in world.keys.values()), "one key for one call"
    if name == "steps":
        check_steps(played, whole)
    else:
        assert plain(played.answer) == plain(whole.answer)
    in_doubt = doubted(played)
    assert name == "hasty" or bool(in_doubt) == bool(
        re.search(DOUBT, msgspec.json.encode(played.answer).decode())
    )
    if not in_doubt:
        assert set(map(first, world.ran)) == set(map(first, before.ran))
        if name != "steps":
            assert set(world.requests) == set(before.requests)
    assert len(world.answers) <= len(before.answers) + 8 * played.deaths


def first(what: str) -> str:
    return what.partition("[")[0]


def check_steps(played: Played, whole: Played) -> None:
    """Compare the answers of a flow that draws values: what it drew, the world saw once."""
    drawn, later, found, kept, failed, last = played.answer
    values = f"{msgspec.json.encode(drawn).decode()} {later}"
    assert kept == f"kept {values}"
    seen = {what for what in played.world.ran if what.startswith("keep [")}
    assert seen == {f"keep {values}"}, "a value was drawn twice"
    expected = whole.answer
    assert found[:2] == expected[2][:2]
    assert found[2] in (expected[2][2], UNKNOWN)
    assert failed == expected[4]
    assert last in (expected[5], UNKNOWN)
    if found[2] == "sent x":
        assert played.world.ran["send x"] == 1
    if last == "sent again":
        assert played.world.ran["send again"] == 1


@pytest.mark.parametrize("name", FLOWS)
def test_uninterrupted(name: str, whole: dict[str, Played]) -> None:
    """Nothing is in doubt, and nothing happens twice, in a flow that nobody kills."""
    assert whole[name].deaths == 0
    assert not doubted(whole[name])
    assert set(whole[name].world.ran.values()) <= {1}
    check(name, whole[name], whole[name])


@pytest.mark.parametrize("name", FLOWS)
def test_every_point(name: str, whole: dict[str, Played]) -> None:
    """Wherever its process dies, a flow ends as if it had not."""
    deaths: Counter[str] = Counter()
    for point in points(whole[name]):
        killed = played(name, point)
        deaths[point[0]] += killed.deaths
        try:
            check(name, killed, whole[name])
        except AssertionError as error:
            raise AssertionError(f"killed at {point}: {error}") from error
    tried = Counter(where for where, _ in points(whole[name]))
    for where, number in tried.items():
        # The store is asked in threads where the loop is not ours, so that it takes some steps more
        # or less from run to run, and the last ones may not come.
        assert deaths[where] >= (0.6 if where == "step" else 0.9) * number, where


def pairs(whole: Played, name: str) -> Iterator[tuple[Point, Point]]:
    # A death adds points, so the second may lie beyond the end of the flow that nobody killed.
    every = list(itertools.product(points(whole), points(whole)))
    yield from every if SOAK else Random(name).sample(every, PAIRS)  # noqa: S311  (no secret)


@pytest.mark.timeout(7_200 if SOAK else 120)
@pytest.mark.parametrize("name", FLOWS)
def test_every_pair(name: str, whole: dict[str, Played]) -> None:
    """Wherever its process dies twice, a flow ends as if it had not."""
    both = 0
    for pair in pairs(whole[name], name):
        killed = played(name, *pair)
        both += killed.deaths == 2
        try:
            check(name, killed, whole[name])
        except AssertionError as error:
            raise AssertionError(f"killed at {pair}: {error}") from error
    assert both >= 0.3 * PAIRS
