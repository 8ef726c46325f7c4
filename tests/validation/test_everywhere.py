"""A run whose answers are checked is killed before and after every effect, and at pairs of points.

What it did is judged by the requests that Claude got, and by its bill.
"""

import itertools
from typing import Any

import pytest

import outlast
from outlast.events import VerdictGiven
from outlast.journal import run_stream
from outlast.models.script import Script, Turn, say, tool_use, turn_number
from outlast.stores import open_store
from outlast.testing.simulation import World, canonical, run
from validation.answering import GOOD, NOBODY, agent, grants, is_judge, opinion, rejected

POOR = grants({"name": "Ladder", "funder": "Trust", "max_usd": 99, "eligibility": "charities"})
"""An answer to which only a judge objects."""


@outlast.tool(effect="read")
def search(word: str) -> str:
    """Search grants."""
    return "Ladder by Trust, up to 10 dollars, for charities"


def claude(way: str) -> Script:
    """Return a Claude that searches, and whose first two answers are not accepted."""

    def script(request: dict[str, Any], attempt: int) -> Turn:
        if is_judge(request):
            is_poor = "99" in str(request["messages"])
            return say(opinion("the amount is not what the tool says") if is_poor else opinion())
        if turn_number(request) == 1 and not rejected(request):
            return say(tool_use("search", {"word": "ladder"}))
        said = (NOBODY, POOR, GOOD)[rejected(request)]
        return say(said) if way == "format" else say(tool_use("give_answer", _read(said)))

    return script


def _read(said: str) -> dict[str, Any]:
    import msgspec  # noqa: PLC0415

    return msgspec.json.decode(said)


WAYS = [
    pytest.param({"retry": "repair"}, "format", id="repair"),
    pytest.param({"retry": "resample"}, "format", id="resample"),
    pytest.param({"retry": "repair"}, "tool", id="repair by tool"),
    pytest.param({"retry": "resample"}, "tool", id="resample by tool"),
]


@pytest.fixture(autouse=True)
def _old(request, monkeypatch):
    """Let no model have structured outputs, where answers are given by a tool."""
    if "by tool" in request.node.name:
        monkeypatch.setattr("outlast.agent.structured", lambda model: False)


class Played:
    """One simulated run, and what came of it."""

    def __init__(self, more: dict[str, Any], way: str, crash_at: tuple[int, ...] = ()) -> None:
        judge = outlast.Judge("Is it what the tool says?")
        who = agent(tools=[search], **more)
        who = agent(tools=[search], checks=[*who.checks, judge], **more)
        self.world = World(claude(way), crash_at=crash_at)
        self.journal = open_store("memory://")
        self.state, self.crashes = run(self.world, self.journal, who, "Find grants.")

    @property
    def requests(self) -> list[str]:
        """The requests that arrived, repeats of an unanswered call aside."""
        return [body for body, _ in itertools.groupby(map(canonical, self.world.requests))]


@pytest.fixture(scope="module")
def whole() -> dict[str, Played]:
    return {}


def uninterrupted(whole: dict[str, Played], more: dict[str, Any], way: str) -> Played:
    key = str((more, way))
    if key not in whole:
        whole[key] = Played(more, way)
    return whole[key]


def check(played: Played, before: Played) -> None:
    """Compare a run that was killed with one that was not, by what the world saw."""
    assert played.state.status == "completed", played.state.why
    assert bytes(played.state.answer or b"") == bytes(before.state.answer or b"")
    assert played.requests == before.requests, "Claude heard something else"
    doubts = played.world.emitted["model_call_in_doubt"]
    asked = len(played.world.requests) - len(before.world.requests)
    assert 0 <= asked <= doubts, "what was answered was asked again"
    billed = sum(charge.nano_usd for charge in played.world.model.bill)
    assert billed <= played.state.spend.nano
    assert played.state.spend.held_nano == 0
    verdicts = [
        one.event
        for one in played.journal.read(run_stream("r"))
        if isinstance(one.event, VerdictGiven)
    ]
    said = [(one.call_id, one.check, one.verdict) for one in verdicts]
    assert len({one[:2] for one in said}) == len(said), "two verdicts of one check"
    assert sorted(one[1:] for one in said) == sorted(
        (one.event.check, one.event.verdict)
        for one in before.journal.read(run_stream("r"))
        if isinstance(one.event, VerdictGiven)
    )
    row = played.journal.run("r")
    assert row is not None
    assert (row.rejections, row.cost_nano) == (2, played.state.spend.nano)
    hours = played.journal.rollup()
    assert sum(line.settled_nano + line.in_doubt_nano for line in hours) == row.cost_nano


@pytest.mark.parametrize(("more", "way"), WAYS)
def test_uninterrupted(more, way, whole):
    """Two answers are rejected, one by a function and one by a judge; the third one is accepted."""
    before = uninterrupted(whole, more, way)
    assert before.state.status == "completed", before.state.why
    assert len(before.world.requests) == 1 + 3 + 2
    assert len(before.state.validation.rejected) == 2
    kinds = [[v.kind for v in one.objections] for one in before.state.validation.rejected]
    assert kinds == [["rule"], ["judge"]]


@pytest.mark.parametrize(("more", "way"), WAYS)
def test_every_point(more, way, whole):
    """Nothing is asked or judged twice, wherever the process dies."""
    before = uninterrupted(whole, more, way)
    for point in range(1, before.world.points + 1):
        played = Played(more, way, (point,))
        assert played.crashes == 1
        check(played, before)


@pytest.mark.parametrize(("more", "way"), WAYS)
def test_pairs_of_points(more, way, whole, soak):
    """Nor where it dies again while it goes on."""
    before = uninterrupted(whole, more, way)
    points = range(1, before.world.points + 1)
    step = 1 if soak else 5
    for first, gap in itertools.product(points[::step], (1, 2, 3, 7)):
        check(Played(more, way, (first, first + gap)), before)


@pytest.mark.parametrize(("more", "way"), WAYS)
def test_between_verdicts_nothing_is_paid_twice(more, way, whole):
    """A death between answer and verdict, verdict and feedback, or before the next call is free."""
    before = uninterrupted(whole, more, way)
    free = 0
    for point, name in enumerate(before.world.trace, start=1):
        is_checked = "check " in name or "verdict" in name or "answer_" in name
        if not is_checked:
            continue
        played = Played(more, way, (point,))
        if played.world.emitted["model_call_in_doubt"]:
            continue  # the same commit holds the intent of the next call
        free += 1
        paid = [[charge.nano_usd for charge in one.world.model.bill] for one in (played, before)]
        assert paid[0] == paid[1], f"{name} cost something"
    assert free >= 10
