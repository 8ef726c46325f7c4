"""Where breakpoints stand, that they change nothing else, and what is written of a missed cache."""

from typing import Any, get_args

import msgspec
import pytest
from agents import Effects, cut_off
from agents import agent as crash_agent
from anthropic.types import ContentBlockParam
from anthropic.types.beta import BetaContentBlockParam
from msgspec import Raw
from typing_extensions import get_type_hints, is_typeddict

import outlast
from outlast.caching import MARKABLE, head, marked
from outlast.conversation import opened, request_hash
from outlast.errors import InvalidAgent
from outlast.events import CacheMissed
from outlast.journal import run_stream
from outlast.models import Reply, Request
from outlast.models.prompt_cache import PromptCache
from outlast.models.script import Fault, faulty, once, say, tool_use, turn_number
from outlast.models.scripted import ScriptedModel
from outlast.stores import open_store
from outlast.testing.simulation import World, canonical, run
from stubs import MODEL, Answers, agent, asking, reply, unmarked

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
        b'{"role":"assistant","content":[{"type":"fallback","model":"x"}]}',
        b'{"role":"assistant","content":[{"type":"mcp_tool_listing","tools":[{}]}]}',
        b'{"role":"assistant","content":[{"type":"zebra","x":1}]}',
        b'{"role":"assistant","content":[{"type":"zebra","text":5}]}',
        b'{"role":"user","content":[{"type":"zebra","x":1}]}',
        b'{"role":"assistant","content":[]}',
    ],
)
def test_what_can_carry_no_marker_carries_none(message: bytes) -> None:
    """Thinking and empty text take no marker, and neither does what nobody knows."""
    assert marked(message, "5m") == message


@pytest.mark.parametrize("value", [b"null", b'{"type":"ephemeral"}'])
@pytest.mark.parametrize(
    "block",
    [
        b'{"type":"server_tool_use","id":"s","name":"web_search","input":{},"cache_control":%b}',
        b'{"cache_control":%b,"type":"text","text":"x"}',
        b'{"type":"tool_result","tool_use_id":"t","content":"x","cache_control":%b}',
    ],
)
@pytest.mark.parametrize("role", [b"assistant", b"user"])
def test_a_block_has_one_marker_at_most(role: bytes, block: bytes, value: bytes) -> None:
    """A block that came with the member, null or not, gets no second one: that is no JSON."""
    message = b'{"role":"%b","content":[%b]}' % (role, block % value)
    assert marked(message, "5m") == message


def test_a_result_that_speaks_of_markers_has_one() -> None:
    """What a tool found may hold the word, and the result takes its marker all the same."""
    said = msgspec.json.encode('{"cache_control": null}')
    block = b'{"type":"tool_result","tool_use_id":"t","content":%b' % said
    message = b'{"role":"user","content":[%b}]}' % block
    assert marked(message, "5m") == b'{"role":"user","content":[%b%b}]}' % (
        block,
        b',"cache_control":{"type":"ephemeral"}',
    )


def test_what_takes_a_marker_is_what_the_sdk_gives_one() -> None:
    """A block may carry a marker exactly where the SDK types what is sent of it with one."""
    found: dict[str, set[bool]] = {}
    for param in (*get_args(ContentBlockParam), *get_args(BetaContentBlockParam)):
        if is_typeddict(param):
            hints = get_type_hints(param)
            (kind,) = get_args(hints["type"])
            found.setdefault(kind, set()).add("cache_control" in hints)
    assert len(found) > 20
    assert {kind for kind, has in found.items() if has == {True}} == MARKABLE


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


def counts(read: int, written: int, **more: Any) -> dict[str, Any]:
    """Return a usage, or an iteration of one."""
    return {
        "input_tokens": 3,
        "output_tokens": 5,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": written,
        **more,
    }


SEARCHED = counts(
    2_000,
    2_500,
    iterations=[counts(0, 2_000, type="message"), counts(2_000, 500, type="message")],
)
FELL_BACK = counts(
    0,
    2_000,
    iterations=[
        counts(0, 2_000, type="message", model="claude-opus-5-5"),
        counts(0, 2_000, type="fallback", model="claude-opus-4-8"),
    ],
)


@pytest.mark.parametrize(
    ("usages", "expected"),
    [
        # what the first three calls were counted as, and what each CacheMissed expected
        ([counts(0, 2_000), counts(0, 2_050), counts(2_050, 9)], [2_000]),
        ([counts(0, 2_000, iterations=[counts(0, 2_000, type="message")]), counts(9, 0)], [2_000]),
        ([counts(0, 2_000, iterations=None), counts(9, 0)], [2_000]),
        ([SEARCHED, counts(2_500, 50)], []),
        ([SEARCHED, counts(2_500, 50), counts(9, 2_500)], [2_550]),
        ([FELL_BACK, counts(2_000, 50)], []),
        ([counts(0, 9_000), FELL_BACK], []),
        ([counts(0, 0, iterations=[counts(5_000, 0, type="compaction")]), counts(0, 9)], []),
    ],
    ids=[
        "a miss",
        "one prompt",
        "null",
        "server tools",
        "then a miss",
        "fallback",
        "a fallback reads nothing",
        "a failed compaction",
    ],
)
def test_a_miss_is_told_where_the_counts_prove_it(
    usages: list[dict[str, Any]], expected: list[int]
) -> None:
    """Counts that are sums over several prompts expect nothing, and are no miss themselves."""
    left = [*usages, counts(0, 0)]

    def answer(request: Request) -> Reply:
        usage = Raw(msgspec.json.encode(left.pop(0)))
        if len(left) > 1:
            use = b'[{"type":"tool_use","id":"t%d","name":"look","input":{"word":"a"}}]'
            return reply(use % len(left), "tool_use", usage=usage, model="claude-opus-5-5")
        return reply(b'[{"type":"text","text":"x"}]', usage=usage, model="claude-opus-5-5")

    with outlast.Outlast("memory://", model=Answers(answer)) as app:
        run = app.run(agent(look, model="claude-opus-5-5"), "Go.", run_id="r")
        assert run.status == "completed", run.why
        found = [r.event for r in app.log("r") if isinstance(r.event, CacheMissed)]
    assert [event.expected_tokens for event in found] == expected


def test_a_breakpoint_stands_where_a_sum_ended() -> None:
    """After counts that say nothing, a breakpoint still stands where that request ended."""
    usages = [SEARCHED, SEARCHED, counts(9, 9)]

    def answer(request: Request) -> Reply:
        usage = Raw(msgspec.json.encode(usages.pop(0)))
        if usages:
            use = b'[{"type":"tool_use","id":"t%d","name":"look","input":{"word":"a"}}]'
            return reply(use % len(usages), "tool_use", usage=usage)
        return reply(b'[{"type":"text","text":"x"}]', usage=usage)

    model = Answers(answer)
    with outlast.Outlast("memory://", model=model) as app:
        app.run(agent(look), "Go.").result()
    places = [list(marks(msgspec.json.decode(call)))[1:] for call in model.calls]
    ends = [f".messages.{at}.content.0" for at in (0, 2, 4)]
    assert places == [ends[:1], ends[:2], ends[1:]]
