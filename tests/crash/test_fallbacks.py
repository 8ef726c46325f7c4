"""A run that goes on with another model is killed at every point, and at every pair of points."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from agents import Effects, Stage, save, send

import outlast
from outlast.events import ModelSwitched
from outlast.journal import Journal, run_stream
from outlast.models.script import (
    Fault,
    Script,
    Turn,
    compaction,
    refuse,
    say,
    thinking,
    tool_results,
    tool_use,
    turn_number,
)
from outlast.state import fold
from outlast.stores import open_store
from outlast.testing.simulation import World, canonical, run
from outlast.views.costs import costs

OPUS, SONNET = "claude-opus-5-5", "claude-sonnet-5-5"
BUSY = Fault(kind="status", status=529)


def overloaded(request: dict[str, Any], attempt: int) -> Turn | Fault:
    """Think and call two tools; then one model is overloaded, and the other one answers."""
    if turn_number(request) == 1:
        said = tool_use("save", {"text": "a"}), tool_use("send", {"text": "b"})
        return say(thinking("Hm."), *said)
    return BUSY if request["model"] == OPUS and attempt else say("Done.")


def refused(request: dict[str, Any], attempt: int) -> Turn | Fault:
    """Think and call a tool; then one model refuses while it calls another, and the other goes on.

    The refusal comes after a fault, and asks for what must never be done.
    """
    turn = turn_number(request)
    if turn == 1:
        return say(thinking("Hm."), tool_use("save", {"text": "a"}))
    if request["model"] == OPUS:
        said = refuse("No.", tool_use("send", {"text": "never"}), recommended_model=SONNET)
        return BUSY if attempt == 1 else said
    return say(tool_use("send", {"text": "b"})) if turn == 2 else say("Done.")


def compacted(request: dict[str, Any], attempt: int) -> Turn | Fault:
    """Compact what was said, and fall back in the same turn; then once more, from the summary."""
    messages = request["messages"]
    if messages[0]["role"] == "user":
        if turn_number(request) == 1:
            return say(thinking("Hm."), tool_use("save", {"text": "a"}))
        return say(compaction("They saved a."))
    if request["model"] == OPUS and attempt:
        return BUSY
    if len(messages) == 1:
        return say(thinking("Hm again."), tool_use("send", {"text": "b"}))
    return say(f"Done: {tool_results(request)[0]['content']}")


SCRIPTS: dict[str, Script] = {
    "overloaded": overloaded,
    "refused": refused,
    "compacted": compacted,
}


class Played:
    """One simulated run, and what came of it."""

    def __init__(self, script: str, crash_at: tuple[int, ...] = (), url: str = "memory://") -> None:
        self.effects = Stage.effects = Effects()
        self.world = World(SCRIPTS[script], crash_at=crash_at)
        self.journals = [open_store(url)]
        reopen: Callable[[Journal], Journal] = (
            (lambda journal: journal) if url == "memory://" else (lambda _: self._opened(url))
        )
        self.state, self.crashes = run(self.world, self.journals[0], AGENT, "Do it.", reopen=reopen)
        self.records = self.journals[-1].read(run_stream("r"))

    def _opened(self, url: str) -> Journal:
        self.journals.append(open_store(url))
        return self.journals[-1]

    @property
    def requests(self) -> list[str]:
        """The requests that arrived, repeats of an unanswered call aside."""
        return [body for body, _ in itertools.groupby(map(canonical, self.world.requests))]

    @property
    def switches(self) -> list[ModelSwitched]:
        return [r.event for r in self.records if isinstance(r.event, ModelSwitched)]


AGENT = outlast.Agent(
    "sender",
    model=OPUS,
    fallback_models=[SONNET],
    instructions="Save, send.",
    tools=[save, send],
    max_tokens=512,
)


@pytest.fixture(scope="module", params=SCRIPTS)
def whole(request: pytest.FixtureRequest) -> Any:
    """Return each run as nobody kills it."""
    played: Any = Played(str(request.param))
    played.script = str(request.param)
    return played


def unknown(body: str) -> str:
    """Return a request as it is after a `once` tool was killed."""
    told = "This call was interrupted. It was found out that it did not happen."
    return canonical(body.replace('"sent"', f'"{told}","is_error":true').encode())


def check(played: Played, whole: Played) -> None:
    """Compare a run that was killed with the one that was not, by what the world saw."""
    assert played.state.status == "completed", played.state.why
    expected = whole.requests
    if played.requests != expected:
        expected = [unknown(body) for body in expected]
    assert played.requests == expected
    assert len(played.world.requests) <= len(whole.world.requests) + played.crashes
    assert len(played.switches) == 1
    lost = played.requests != whole.requests
    assert played.effects.sent == ([] if lost else ["b"]), "what Claude knows is true"
    assert list(played.effects.saved.values()) == ["a"]
    assert played.state == fold(played.records)
    check_money(played)


def check_money(played: Played) -> None:
    bill, spend = played.world.model.bill, played.state.spend
    billed = sum(charge.nano_usd for charge in bill)
    assert spend.settled_nano <= billed <= spend.nano
    if not played.crashes:
        assert billed == spend.nano, "the ledger is the bill"
    assert spend.held_nano == 0
    journal = played.journals[-1]
    row = journal.run("r")
    assert row is not None
    assert row.cost_nano == spend.nano
    lines = {line.name: line.nano for line in costs(journal.rollup(), "model")}
    for model in (OPUS, SONNET):
        each = sum(charge.nano_usd for charge in bill if charge.model == model)
        assert each <= lines[model], "each model's calls are counted as that model's"
    assert sum(lines.values()) == spend.nano


def test_uninterrupted(whole: Any) -> None:
    """Both models are asked, what the first refused is never done, and all of it is paid."""
    check(whole, whole)
    assert whole.effects.sent == ["b"]
    asked = [msgspec.json.decode(body)["model"] for body in whole.world.requests]
    assert [model for model, _ in itertools.groupby(asked)] == [OPUS, SONNET]


def test_every_point(whole: Any) -> None:
    """Wherever the process dies, the run falls back once, and ends as if it had not died."""
    for point in itertools.count(1):
        played = Played(whole.script, (point,))
        if not played.crashes:  # this run ended before the point: all were tried
            break
        check(played, whole)
    assert point == whole.world.points + 1


def pairs(points: int) -> Iterator[tuple[int, int]]:
    # A crash adds points, so the second may lie beyond the uninterrupted run's end.
    return itertools.combinations(range(1, points + 13), 2)


@pytest.mark.parametrize("part", range(2))
def test_every_pair(whole: Any, part: int) -> None:
    """Wherever the process dies twice, the same."""
    both = 0
    for pair in itertools.islice(pairs(whole.world.points), part, None, 2):
        played = Played(whole.script, pair)
        both += played.crashes == 2
        check(played, whole)
    assert both > 150


def test_every_point_on_sqlite(whole: Any, tmp_path: Any) -> None:
    """The same on files: the store is dropped at every point and opened again."""
    for point in range(1, whole.world.points + 1):
        played = Played(whole.script, (point,), f"sqlite:///{tmp_path}/{point}.db")
        check(played, whole)
        for journal in played.journals:
            journal.close()
