"""Where breakpoints stand, that they change nothing else, and what is written of a missed cache."""

from typing import Any

import msgspec
import pytest
from agents import Effects, cut_off
from agents import agent as crash_agent

import outlast
from outlast.caching import head, marked
from outlast.conversation import opened, request_hash
from outlast.errors import InvalidAgent
from outlast.events import CacheMissed
from outlast.journal import run_stream
from outlast.models.prompt_cache import PromptCache
from outlast.models.script import Fault, faulty, once, say, tool_use, turn_number
from outlast.models.scripted import ScriptedModel
from outlast.stores import open_store
from outlast.testing.simulation import World, canonical, run
from stubs import MODEL, agent, asking, unmarked

FIVE = {"type": "ephemeral"}
HOUR = {"type": "ephemeral", "ttl": "1h"}


@outlast.tool(effect="read")
def look(word: str) -> str:
    """Look a word up."""
    return word * 3


def asked(script: Any, **more: Any) -> list[dict[str, Any]]:
    """Return the requests of a run."""
    model = ScriptedModel(script)
    with outlast.Outlast("memory://", model=model) as app:
        app.run(agent(look, **more), "Go.", run_id="r").result()
    return [msgspec.json.decode(call) for call in model.calls]


def marks(value: Any, path: str = "") -> dict[str, Any]:
    """Return every breakpoint of a request, by its place."""
    if isinstance(value, dict):
        own = {path: value["cache_control"]} if "cache_control" in value else {}
        return own | {
            k: v for name in value for k, v in marks(value[name], f"{path}.{name}").items()
        }
    if isinstance(value, list):
        return {k: v for at, one in enumerate(value) for k, v in marks(one, f"{path}.{at}").items()}
    return {}


def three_turns(request: dict[str, Any], attempt: int) -> Any:
    turn = turn_number(request)
    return (
        say(tool_use("look", {"word": "a"}), tool_use("look", {"word": "b"}))
        if turn < 3
        else say("x")
    )


@pytest.mark.parametrize(("cache", "mark"), [("5m", FIVE), ("1h", HOUR)])
def test_three_breakpoints_that_move_on(cache: Any, mark: dict[str, str]) -> None:
    """The frozen head, what the last call wrote, and the end: three, wherever the API looks."""
    places = [
        marks(request)
        for request in asked(
            three_turns, cache=cache, model="claude-opus-5-5", instructions="Be brief. " * 300
        )
    ]
    assert [list(one) for one in places] == [
        [".system.0", ".messages.0.content.0"],
        [".system.0", ".messages.0.content.0", ".messages.2.content.1"],
        [".system.0", ".messages.2.content.1", ".messages.4.content.1"],
    ]
    assert {tuple(one.items()) for found in places for one in found.values()} == {
        tuple(mark.items())
    }


def test_without_instructions_the_last_tool_is_marked() -> None:
    """Without a system prompt the breakpoint that all runs share stands on the last tool."""
    (request,) = asked(asking())
    assert list(marks(request)) == [".tools.0", ".messages.0.content.0"]


def test_no_caching() -> None:
    """`cache=None` sets no breakpoint at all."""
    assert not any(marks(request) for request in asked(three_turns, cache=None))


def test_a_marker_is_all_that_is_added() -> None:
    """A request is the same with breakpoints as without, markers aside, and so is its hash."""
    with_, without = asked(three_turns), asked(three_turns, cache=None)
    plain = [canonical(unmarked(msgspec.json.encode(one))) for one in with_]
    assert plain == [canonical(msgspec.json.encode(one)) for one in without]
    specs = [agent(look, cache=cache).spec() for cache in ("5m", "1h", None)]
    assert len({request_hash(opened("a", spec), 5) for spec in specs}) == 1


@pytest.mark.parametrize(
    "message",
    [
        b'{"role":"assistant","content":[{"type":"thinking","thinking":"","signature":"x"}]}',
        b'{"role":"assistant","content":[{"type":"redacted_thinking","data":"x"}]}',
        b'{"role":"assistant","content":[{"type":"text","text":""}]}',
        b'{"role":"assistant","content":[{"type":"zebra","text":5}]}',
        b'{"role":"assistant","content":[]}',
    ],
)
def test_what_can_carry_no_marker_carries_none(message: bytes) -> None:
    """Thinking and empty text take no marker, and neither does what nobody knows."""
    assert marked(message, "5m") == message


def test_a_pause_is_kept_too() -> None:
    """A paused reply is sent back with a breakpoint at its end."""

    def paused(request: dict[str, Any], attempt: int) -> Any:
        return say("Wait.", stop_reason="pause_turn") if turn_number(request) == 1 else say("Done.")

    *_, last = asked(paused)
    assert ".messages.1.content.0" in marks(last)


def test_a_blank_system_prompt_is_left_out() -> None:
    """The API takes no block of blanks, so a blank system prompt is none."""
    assert b"system" not in head(agent(instructions=" \n").spec(), marked=True)


@pytest.mark.parametrize("cache", ["10m", "", 5, True])
def test_a_lifetime_the_api_does_not_have(cache: Any) -> None:
    """A lifetime that the prompt cache does not have is refused when the agent is declared."""
    with pytest.raises(InvalidAgent, match="'5m' or '1h'"):
        agent(cache=cache)


@pytest.mark.parametrize("name", ["cache_control", "container"])
def test_markers_of_ones_own(name: str) -> None:
    """Parameters may not set what the run itself sets."""
    with pytest.raises(InvalidAgent, match=name):
        agent(parameters={name: {"type": "ephemeral"}})


def missed(wait_s: int, cache: str = "5m") -> list[CacheMissed]:
    """Return what a run writes down that waits so long before its second turn."""
    wait = Fault(kind="status", status=429, headers={"retry-after": str(wait_s)})
    journal = open_store("memory://")
    patient = outlast.Agent("a", model="claude-opus-5-5", tools=[], cache=cache)  # type: ignore[arg-type]
    state, _ = run(World(faulty(cut_off, once(2, wait))), journal, patient, "Tell me more. " * 400)
    assert state.status == "completed", state.why
    return [r.event for r in journal.read(run_stream("r")) if isinstance(r.event, CacheMissed)]


@pytest.mark.parametrize(
    ("wait_s", "cache", "reasons"),
    [(200, "5m", []), (400, "5m", ["expired"]), (400, "1h", []), (4000, "1h", ["expired"])],
)
def test_a_prompt_that_was_kept_for_too_short(wait_s: int, cache: str, reasons: list[str]) -> None:
    """A run that idles for longer than the cache keeps its prompt says so, and what it cost."""
    found = missed(wait_s, cache)
    assert [event.reason for event in found] == reasons
    for event in found:
        assert event.read_tokens == 0 < event.expected_tokens
        assert event.idle_ns >= wait_s * 10**9
        price = {"5m": 5_000, "1h": 8_000}[cache]
        assert event.extra_nano == event.expected_tokens * (price - 200)


def test_a_prompt_that_was_thrown_out() -> None:
    """A prompt that the cache should still have had is written down as evicted, once."""

    class Forgetful(World):
        def point(self, name: str) -> None:
            super().point(name)
            if name == "before ask-1.m2":
                self.model._claude._cache = PromptCache()

    journal = open_store("memory://")
    world = Forgetful(cut_off)
    run(world, journal, crash_agent(Effects()), "Tell me more. " * 4_000)
    found = [r.event for r in journal.read(run_stream("r")) if isinstance(r.event, CacheMissed)]
    assert [(event.call_id, event.reason) for event in found] == [("ask-1.m2", "evicted")]
    assert MODEL == "claude-haiku-5-5"
    assert found[0].extra_nano == found[0].expected_tokens * (125 - 10)
