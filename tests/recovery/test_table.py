"""Every combination of what a tool, its fallback and its last resort may come to.

What Claude is told is compared with what the functions did, which they count themselves; that it
is told in a request that the API takes, the scripted Claude sees to.
"""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any, Final

import msgspec
import pytest

import outlast
from outlast.breaker import State, source_key
from outlast.events import ToolCallFailed, ToolCallStarted, ToolCallSucceeded
from outlast.journal import run_stream
from outlast.models.script import Turn, say, tool_results, tool_use, turn_number
from outlast.stores import open_store
from outlast.testing.simulation import Crash, Late, World, run
from stubs import agent

RANKS: Final = ("primary", "fallback", "resort")
WAYS: Final = ("ok", "error", "timeout", "empty", "open", "before", "during", "after")
"""What becomes of a source: the last three are where the process dies, once."""

ANSWERS: Final = frozenset({"ok", "empty", "before", "during", "after"})
"""After which of them there is an answer; a `read` whose process died is made again."""


class Scene:
    """What the functions are to do now, and how often they were called."""

    def __init__(self, ways: tuple[str, ...]) -> None:
        self.ways = dict(zip(RANKS, ways, strict=True))
        self.called: Counter[str] = Counter()

    def act(self, name: str) -> list[str]:
        way = self.ways[name]
        self.called[name] += 1
        if way == "error":
            raise ConnectionResetError("the secret is 1234")
        if way == "timeout":
            raise Late
        if way == "during" and self.called[name] == 1:
            raise Crash(name)
        return [] if way == "empty" else [f"by {name}"]


class Stage:
    """Where the functions act now.  They are declared once, since schemas take a while."""

    scene: Scene


@outlast.tool(effect="read", source="fallback-db")
def fallback(word: str) -> list[str]:
    """Find it elsewhere."""
    return Stage.scene.act("fallback")


@outlast.tool(effect="read", source="resort-db")
def resort() -> list[str]:
    """Find anything."""
    return Stage.scene.act("resort")


@outlast.tool(effect="read", source="primary-db", timeout_s=9, fallbacks=[fallback, resort])
def primary(word: str, most: int = 5) -> list[str]:
    """Find it."""
    return Stage.scene.act("primary")


@outlast.tool(effect="read")
def beside() -> str:
    """Answer, always."""
    return "here"


def script(request: dict[str, Any], attempt: int) -> Turn:
    """Call the tool between two others, and then end."""
    if turn_number(request) > 1:
        return say("Done.")
    uses = ("beside", {}), ("primary", {"word": "owls"}), ("beside", {})
    return say(*(tool_use(name, given) for name, given in uses))


class Dying(World):
    """A world in which the process dies once, before or after a source is called."""

    dies = ""

    def point(self, name: str) -> None:
        super().point(name)
        if name == self.dies:
            self.dies = ""
            raise Crash(name)


def reached(ways: tuple[str, ...]) -> list[str]:
    """Return the sources that are looked at, up to the first that has an answer."""
    first = next((n for n, way in enumerate(ways) if way in ANSWERS), len(ways) - 1)
    return list(RANKS[: first + 1])


def world_of(ways: tuple[str, ...]) -> Dying:
    """Return the world of a combination: with the breakers that are open, and where it dies."""
    keys = [
        source_key(f"{name}-db") for name, way in zip(RANKS, ways, strict=True) if way == "open"
    ]
    world = Dying(
        script, breakers={key: State(key=key, status="open", until=2**62) for key in keys}
    )
    attempts = 0
    for name in reached(ways):
        way = ways[RANKS.index(name)]
        attempts += way != "open"
        if way in ("before", "after"):
            number = "" if attempts == 1 else f".{attempts}"
            world.dies = f"{way} ask-1.m1.t2{number}"
    return world


def expected_calls(ways: tuple[str, ...]) -> Counter[str]:
    """Return how often each function is called: twice where the process died after it began."""
    found: Counter[str] = Counter()
    for name in reached(ways):
        way = ways[RANKS.index(name)]
        found[name] = 0 if way == "open" else 2 if way in ("during", "after") else 1
    return +found


@pytest.mark.parametrize("first", WAYS)
def test_every_combination(first: str) -> None:
    """Claude gets one result of each call, all in one message, and of this one what is true."""
    for more in itertools.product(WAYS, repeat=2):
        check((first, *more))


def check(ways: tuple[str, ...]) -> None:
    scene = Stage.scene = Scene(ways)
    journal, world = open_store("memory://"), world_of(ways)
    state, crashes = run(world, journal, agent(beside, primary), "Find owls.")
    assert state.status == "completed", (ways, state.why)
    assert +scene.called == expected_calls(ways), ways
    looked_at = reached(ways)
    answered_by = looked_at[-1] if ways[len(looked_at) - 1] in ANSWERS else ""
    assert crashes == (answered_by != "" and ways[len(looked_at) - 1] in WAYS[5:]), ways
    (last,) = {msgspec.json.encode(msgspec.json.decode(one)) for one in world.requests[1:]}
    results = tool_results(msgspec.json.decode(last))
    assert [one["tool_use_id"] for one in results] == use_ids(world), ways
    assert all(one["content"] == "here" for one in (results[0], results[2]))
    check_result(ways, results[1], answered_by)
    check_journal(ways, [record.event for record in journal.read(run_stream("r"))], answered_by)
    assert state.asks["ask-1"].pending == ()
    assert bool(state.asks["ask-1"].degraded) == (answered_by not in ("", "primary")), ways
    assert "1234" not in last.decode()


def use_ids(world: World) -> list[str]:
    """Return the ids of the tool uses, in the order in which Claude made them."""
    reply = msgspec.json.decode(world.requests[-1])["messages"][1]
    return [block["id"] for block in reply["content"] if block["type"] == "tool_use"]


def check_result(ways: tuple[str, ...], result: dict[str, Any], answered_by: str) -> None:
    content = result["content"]
    if not answered_by:
        assert result["is_error"] is True, ways
        assert "This is a failure, not an empty answer." in content, ways
        for name, way in zip(RANKS, ways, strict=True):
            told = {"error": "unavailable", "timeout": "timeout_after_sending", "open": "asks it"}
            (line,) = [one for one in content.splitlines() if one.startswith(f"- {name}: ")]
            assert told[way] in line, ways
        return
    assert "is_error" not in result, ways
    value = [] if ways[RANKS.index(answered_by)] == "empty" else [f"by {answered_by}"]
    if answered_by == "primary":
        assert content == msgspec.json.encode(value).decode(), ways
        return
    note, answer = (block["text"] for block in content)
    assert answer == msgspec.json.encode(value).decode(), ways
    dropped = {"fallback": "most", "resort": "word, most"}[answered_by]
    assert f"from {answered_by}, at a time that is not known; not filtered by {dropped}" in note


def check_journal(ways: tuple[str, ...], events: list[Any], answered_by: str) -> None:
    started = [one for one in events if isinstance(one, ToolCallStarted) and one.tool == "primary"]
    ranks = [RANKS[one.rank] for one in started]
    repeated = [answered_by] if answered_by and ways[RANKS.index(answered_by)] in WAYS[5:] else []
    asked = [name for name in reached(ways) if ways[RANKS.index(name)] != "open"]
    assert ranks == asked + repeated, ways
    skipped = [one for one in events if isinstance(one, ToolCallFailed) and one.kind == "breaker"]
    passed = [name for name in reached(ways) if ways[RANKS.index(name)] == "open"]
    assert [RANKS[one.rank] for one in skipped] == passed, "what is not asked is journalled"
    empty = [one.empty for one in events if isinstance(one, ToolCallSucceeded)]
    assert any(empty) == (answered_by != "" and ways[RANKS.index(answered_by)] == "empty"), ways


class Deadly(World):
    """A world in which the first source kills its process every time."""

    def point(self, name: str) -> None:
        super().point(name)
        if name.startswith("after ask-1.m1.t2") and not Stage.scene.called["fallback"]:
            raise Crash(name)


def test_a_source_that_kills_its_process() -> None:
    """A `read` under which the process dies three times is left, and the next source is asked."""
    scene = Stage.scene = Scene(("ok", "ok", "ok"))
    world = Deadly(script)
    state, crashes = run(world, open_store("memory://"), agent(beside, primary), "Find owls.")
    assert (state.status, crashes) == ("completed", 3)
    assert scene.called == {"primary": 3, "fallback": 1}
    (told,) = [r for r in tool_results(msgspec.json.decode(world.requests[-1])) if "text" in str(r)]
    assert "degraded answer: from fallback" in told["content"][0]["text"]
