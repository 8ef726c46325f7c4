"""How tools do, as it is read from the journal, beside what the tools themselves counted."""

import json
import math
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

import outlast
from cli.console import typed
from conftest import SOAK
from outlast import breaker
from outlast.cli import exits, health
from outlast.cli.reading import read_runs
from outlast.errors import JournalTooNew
from outlast.events import (
    NULL,
    AnyEvent,
    AskFailed,
    BreakerChanged,
    Degradation,
    ModelCallSucceeded,
    NoteAdded,
    RateFrozen,
    RunFinished,
    ToolCallFailed,
    ToolCallGivenUp,
    ToolCallInDoubt,
    ToolCallReconciled,
    ToolCallStarted,
    ToolCallSucceeded,
)
from outlast.journal import Commit, Posting, Record, run_stream
from outlast.models.script import Block, say, tool_use, turn_number
from outlast.models.scripted import ScriptedModel
from outlast.stores import open_store
from outlast.stores.memory import MemoryJournal
from outlast.testing.commits import begin
from outlast.testing.simulation import World, run
from outlast.views.health import CAME, ENDS, Latency, Reading, Tool, standing, troubled
from stubs import MODEL, results

HOUR = 3_600 * 10**9


# ── a world in which tools fail ─────────────────────────────────────────────────────────────────


class Stage:
    """What the tools do, and how often each was asked; it outlives every crash."""

    calls: ClassVar[Counter[str]] = Counter()
    came: ClassVar[Counter[tuple[str, str]]] = Counter()
    does: ClassVar[dict[tuple[str, int], list[str]]] = {}
    asked: ClassVar[set[tuple[str, int]]] = set()


def act(source: str, n: int) -> list[int]:
    """Do what is next on the plan for this use at this source."""
    Stage.calls[source] += 1
    Stage.asked.add((source, n))
    plan = Stage.does[source, n]
    does = plan.pop(0) if len(plan) > 1 else plan[0]
    Stage.came[source, does] += 1
    if does in _RAISES:
        raise _RAISES[does]
    return [] if does == "empty" else [n]


_RAISES: dict[str, Exception] = {
    "unavailable": ConnectionResetError("gone"),
    "unsent": ConnectionRefusedError("nobody there"),
    "bug": KeyError("x"),
    "refused": outlast.ToolError("not that"),
}
CLASSES = {"unavailable": "unavailable", "unsent": "timeout_before_sending", "bug": "bug"}


@outlast.tool(effect="read")
def mirror(n: int) -> list[int]:
    """Look it up elsewhere."""
    return act("mirror", n)


@outlast.tool(effect="read")
def archive(n: int) -> list[int]:
    """Look it up where it was kept."""
    return act("archive", n)


@outlast.tool(effect="read", attempts=3, fallbacks=[mirror, archive], source="db")
def search(n: int) -> list[int]:
    """Look it up."""
    return act("search", n)


@outlast.tool(effect="read")
def plain(n: int) -> list[int]:
    """Look it up, and give up at once."""
    return act("plain", n)


def did_it(n: int) -> bool:
    """Say whether it happened: what has an even number did."""
    return n % 2 == 0


@outlast.tool(effect="once", reconcile=did_it)
def pay(n: int) -> list[int]:
    """Do something that must not be done twice."""
    return act("pay", n)


AGENT = outlast.Agent("tester", model=MODEL, tools=[search, plain, pay])
USES = 8


def drawn(seed: int) -> list[tuple[str, int]]:
    """Set the stage, and return which tools Claude uses in a run."""
    random = Random(seed)  # noqa: S311  (no secret)
    uses = [(random.choice(["search", "plain", "pay"]), n) for n in range(USES)]
    likely = ["ok", "ok", "empty", *_RAISES]
    Stage.calls, Stage.came, Stage.asked = Counter(), Counter(), set()
    Stage.does = {
        (source, n): random.choices(likely, k=5)
        for source in ("search", "mirror", "archive", "plain", "pay")
        for n in range(USES)
    }
    return uses


def played(seed: int, crashes: Sequence[int] = ()) -> tuple[World, Reading, list[tuple[str, int]]]:
    """Play a run in which Claude uses tools, four at once."""
    uses = drawn(seed)
    halves = uses[: USES // 2], uses[USES // 2 :]

    def script(request: dict[str, Any], attempt: int) -> Any:
        turn = turn_number(request)
        if turn > len(halves):
            return say("done")
        made = [tool_use(name, {"n": n}) for name, n in halves[turn - 1]]
        return say(*made, tool_use("plain", {"wrong": 1}), tool_use("nothing", {}))

    world, journal = World(script, crash_at=crashes), open_store("memory://")
    state, _ = run(world, journal, AGENT, "Go.")
    assert state.status == "completed", state.why
    reading = Reading()
    reading.take("r", journal.read(run_stream("r")))
    return world, reading, uses


def told(world: World) -> list[Block]:
    """Return every result that Claude was given."""
    messages = json.loads(world.requests[-1])["messages"]
    return [
        block
        for message in messages
        if message["role"] == "user" and isinstance(message["content"], list)
        for block in message["content"]
        if block["type"] == "tool_result"
    ]


def ends(reading: Reading) -> Counter[str]:
    """Return how the uses of all tools ended."""
    found: Counter[str] = Counter()
    for tool in reading.tools.values():
        found.update(tool.ends)
    return found


def check_told(world: World, reading: Reading) -> None:
    """Compare with what Claude was told of each use."""
    said = Counter(
        "error"
        if block.get("is_error")
        else "degraded"
        if "[degraded answer" in str(block["content"])
        else "empty"
        if block["content"] == "[]"
        else "ok"
        for block in told(world)
    )
    found = ends(reading)
    assert found.total() == said.total() == USES + 4
    for end in ("ok", "empty", "degraded"):
        assert found[end] == said[end], end
    not_answered = sum(
        found[end] for end in ("failed", "given_up", "in_doubt", "happened", "did_not")
    )
    assert not_answered == said["error"]
    assert found["open_doubts"] == found["unfinished"] == 0


@pytest.mark.parametrize("seed", range(400 if SOAK else 40))
def test_figures_are_what_the_tools_counted(seed: int) -> None:
    """Uses, attempts, errors and degraded answers are those of the functions and of Claude."""
    world, reading, uses = played(seed)
    check_told(world, reading)
    asked = Counter(name for name, _ in uses)
    for name in asked:
        tool = reading.tools[name]
        extra = 2 if name == "plain" else 0  # with arguments that do not fit
        assert (tool.uses, tool.called) == (asked[name] + extra, asked[name])
        sources = {"search": ("search", "mirror", "archive")}.get(name, (name,))
        made = sum(Stage.calls[source] for source in sources)
        assert tool.attempts == made
        assert tool.amplification == made / asked[name]
        for rank, source in enumerate(sources):
            of_rank = tool.ranks.get(rank)
            assert (of_rank.attempts if of_rank else 0) == Stage.calls[source]
            if of_rank is not None:
                assert of_rank.uses == sum(name == source for name, _ in Stage.asked)
                assert of_rank.name == (source if rank else "")
                check_came(source, of_rank.came, of_rank.errors)
    assert reading.tools["nothing"].errors == {"unknown_tool": 2}
    if asked["search"]:
        assert reading.sources["db"].attempts == Stage.calls["search"]
        assert reading.sources["db"].uses == asked["search"]
    assert set(reading.sources) == ({"db"} if asked["search"] else set())


def check_came(source: str, came: dict[str, int], errors: dict[str, int]) -> None:
    """Compare what came of attempts with what the function did."""
    did = {does: times for (name, does), times in Stage.came.items() if name == source}
    is_fallback = source in ("mirror", "archive")
    answers = Counter({"ok": did.get("ok", 0), "empty": did.get("empty", 0)})
    if is_fallback:
        answers = Counter({"degraded": answers.total()})
    assert {one: came.get(one, 0) for one in ("ok", "empty", "degraded")} == {
        one: answers[one] for one in ("ok", "empty", "degraded")
    }
    raised = Counter({CLASSES.get(does, does): did.get(does, 0) for does in _RAISES})
    assert errors == +raised
    doubtful = did.get("unavailable", 0) if source == "pay" else 0
    assert came.get("in_doubt", 0) == doubtful
    assert came.get("failed", 0) == raised.total() - doubtful


@pytest.mark.parametrize("seed", range(100 if SOAK else 10))
def test_a_crash_makes_no_use_and_no_attempt_appear_twice(seed: int) -> None:
    """However often the process dies, each use ends once, and each intent is one attempt."""
    points = played(seed)[0].points
    random = Random(seed)  # noqa: S311  (no secret)
    for _ in range(5):
        crashes = random.sample(range(1, points), 3)
        world, reading, _ = played(seed, crashes)
        check_told(world, reading)
        attempts = sum(tool.attempts for tool in reading.tools.values())
        assert attempts == world.emitted["tool_call_started"]
        assert attempts >= sum(Stage.calls.values())


def test_what_a_breaker_skips_is_no_attempt() -> None:
    """A source whose breaker is open is not asked: it is skipped, and the fallback is asked."""
    drawn(0)
    Stage.does = {("search", 1): ["bug"], ("mirror", 1): ["ok"]}

    @outlast.tool(effect="read", fallbacks=[mirror], source="db")
    def found(n: int) -> list[int]:
        """Look it up."""
        Stage.calls["found"] += 1
        raise ConnectionRefusedError

    def script(request: dict[str, Any], attempt: int) -> Any:
        return say(tool_use("found", {"n": 1})) if turn_number(request) <= 12 else say("done")

    agent = outlast.Agent("tester", model=MODEL, tools=[found], stops_loops=False)
    model = ScriptedModel(script)
    with outlast.Outlast(
        "memory://", model=model, breaker=outlast.Breaker(calls=3, open_s=60)
    ) as app:
        app.run(agent, "Go.", run_id="r")
        reading = Reading()
        reading.take("r", app.journal.read(run_stream("r")))
    tool = reading.tools["found"]
    assert 3 <= Stage.calls["found"] < 12
    assert tool.ranks[0].attempts == Stage.calls["found"]
    assert tool.ranks[0].skipped == 12 - Stage.calls["found"]
    assert tool.ranks[1].attempts == Stage.calls["mirror"] == 12
    assert tool.ends == {"degraded": 12}
    assert tool.degraded_share == 1.0
    assert tool.amplification == (12 + Stage.calls["found"]) / 12
    assert "degraded" in str(results(model))


# ── any journal ─────────────────────────────────────────────────────────────────────────────────


def place(n: int, attempt: int = 1) -> dict[str, Any]:
    """Return the members that name a use."""
    call_id = f"a.m1.t{n}" + (f".{attempt}" if attempt > 1 else "")
    return {"ask_id": "a", "call_id": call_id, "tool_use_id": f"u{n}"}


def started(n: int, attempt: int = 1, **more: Any) -> ToolCallStarted:
    """Return an intent."""
    given = {"tool": f"tool{n % 2}", "effect": "read", "attempt": attempt} | more
    return ToolCallStarted(**place(n, attempt), **given)


TEXT = Raw(b'"told"')
KINDS = ["raised", "crash", "cancelled", "denied", "breaker", "timeout", "unknown_tool"]


def events() -> st.SearchStrategy[AnyEvent]:
    """Return any event of a tool, whether or not it could come next."""
    n, attempt, rank = st.integers(1, 3), st.integers(1, 3), st.integers(0, 2)
    content, latency = st.sampled_from([NULL, TEXT]), st.integers(0, 10_000)
    classes = st.sampled_from(["", "unavailable", "bug"])
    known = st.builds(place, n, attempt)

    def made(of: Any, /, **fields: Any) -> st.SearchStrategy[AnyEvent]:
        return st.tuples(known, st.fixed_dictionaries(fields)).map(
            lambda one: of(**one[0], **one[1])
        )

    kinds = st.sampled_from(KINDS)
    return st.one_of(
        st.builds(started, n, attempt, rank=rank, source=st.sampled_from(["", "s", "t"])),
        made(
            ToolCallSucceeded,
            content=st.just(TEXT),
            empty=st.booleans(),
            degraded=st.sampled_from([None, Degradation(source="x")]),
            latency_ms=latency,
        ),
        made(
            ToolCallFailed,
            kind=kinds,
            content=content,
            error_class=classes,
            latency_ms=latency,
            rank=rank,
        ),
        made(ToolCallInDoubt, kind=kinds, content=content, open=st.booleans(), error_class=classes),
        made(ToolCallReconciled, outcome=st.sampled_from(["happened", "did_not", "unknown"])),
        made(ToolCallGivenUp, content=st.just(TEXT), error_class=classes),
        st.just(AskFailed(ask_id="a", why="x")),
        st.sampled_from(["completed", "stopped"]).map(lambda one: RunFinished(status=one, why="x")),
        st.just(NoteAdded(text="x")),
    )


def journal_of(*said: AnyEvent, at: Sequence[int] = ()) -> list[Record]:
    """Return a run of these events."""
    times = at or range(1, len(said) + 1)
    return [
        Record("run:r", seq, seq, when, 1, event)
        for seq, (when, event) in enumerate(zip(times, said, strict=True), start=1)
    ]


def check_sums(reading: Reading) -> None:
    """Check what has to add up in any reading."""
    for tool in reading.tools.values():
        asked = tool.ranks.values()
        assert sum(tool.ends.values()) == tool.uses >= tool.called
        assert sum(one.attempts for one in asked) == tool.attempts >= tool.called
        assert set(tool.ends) <= set(ENDS)
        lost = tool.ends.get("failed", 0) + tool.ends.get("given_up", 0)
        assert sum(tool.errors.values()) == lost
        assert 0 <= tool.degraded_share <= 1
        assert tool.amplification >= 1 or not tool.called
        measured = sum(sum(one.latency.counts.values()) for one in asked)
        assert sum(tool.latency.counts.values()) == measured <= tool.attempts
    ranks = [one for tool in reading.tools.values() for one in tool.ranks.values()]
    for one in (*ranks, *reading.sources.values()):
        assert sum(one.came.values()) == one.attempts >= one.uses
        assert set(one.came) <= set(CAME)
        lost = one.came.get("failed", 0) + one.came.get("in_doubt", 0)
        assert sum(one.errors.values()) == lost
    opened = sum(tool.ends.get("open_doubts", 0) for tool in reading.tools.values())
    assert len(reading.doubts) == opened
    assert [one.at for one in reading.doubts] == sorted(one.at for one in reading.doubts)


@given(st.lists(st.lists(events(), max_size=25), max_size=3), st.integers(0, 20))
def test_sums_agree_over_any_journal(runs: list[list[AnyEvent]], since: int) -> None:
    """Whatever is in journals, uses, attempts, errors and doubts add up; in parts of them, too."""
    reading, later = Reading(), Reading(since)
    parts = {name: Reading(tool=name) for name in ("tool0", "tool1", "(unknown)")}
    for number, said in enumerate(runs):
        for one in (reading, later, *parts.values()):
            one.take(f"r{number}", journal_of(*said))
    for one in (reading, later, *parts.values()):
        check_sums(one)
    begun = sum(isinstance(event, ToolCallStarted) for said in runs for event in said)
    assert sum(tool.attempts for tool in reading.tools.values()) == begun
    for name, part in parts.items():
        assert part.tools.get(name) == reading.tools.get(name)
    for name, tool in later.tools.items():
        assert tool.uses <= reading.tools[name].uses


# ── the definitions, one by one ─────────────────────────────────────────────────────────────────


def read(*said: AnyEvent, **more: Any) -> Tool:
    """Return what is told of the only tool of a run."""
    reading = Reading(**more)
    reading.take("r", journal_of(*said))
    (tool,) = reading.tools.values()
    return tool


def failed(n: int, **more: Any) -> ToolCallFailed:
    """Return a failure of which the model is told."""
    return ToolCallFailed(**place(n), **({"kind": "raised", "content": TEXT} | more))


def doubt(n: int, **more: Any) -> ToolCallInDoubt:
    """Return an open doubt."""
    return ToolCallInDoubt(**place(n), **({"kind": "timeout", "open": True} | more))


def said_so(n: int, outcome: Any) -> ToolCallReconciled:
    """Return what somebody says of a call in doubt."""
    return ToolCallReconciled(**place(n), outcome=outcome)


@pytest.mark.parametrize(
    ("said", "end"),
    [
        ([doubt(1)], "open_doubts"),
        ([doubt(1), said_so(1, "unknown")], "open_doubts"),
        ([doubt(1), said_so(1, "happened")], "happened"),
        ([doubt(1), said_so(1, "did_not"), said_so(1, "happened")], "did_not"),
        ([doubt(1), RunFinished(status="cancelled", why="x")], "in_doubt"),
        ([doubt(1), RunFinished(status="stopped", why="x")], "open_doubts"),
        ([doubt(1), AskFailed(ask_id="a", why="x")], "in_doubt"),
        ([doubt(1, open=False, content=TEXT)], "in_doubt"),
        ([doubt(1, open=False)], "unfinished"),
        ([failed(1)], "failed"),
        ([failed(1, content=NULL)], "unfinished"),
        ([failed(1, content=NULL), ToolCallGivenUp(**place(1), content=TEXT)], "given_up"),
        ([], "unfinished"),
    ],
)
def test_how_a_use_ends(said: list[AnyEvent], end: str) -> None:
    """Each use is in one row; the first answer to a doubt counts, and none after the run's end."""
    assert read(started(1), *said).ends == {end: 1}


def test_a_call_that_was_not_made_has_the_name_claude_gave_it() -> None:
    """Of what was never begun, the reply that asked for it tells the tool; it is no attempt."""
    content = msgspec.json.encode([{"type": "tool_use", "id": "u1", "name": "pay", "input": {}}])
    reply = ModelCallSucceeded(
        ask_id="a",
        call_id="a.m1",
        content=Raw(content),
        stop_reason="tool_use",
        usage=Raw(b"{}"),
        cost_nano=0,
        tokens=0,
    )
    tool = read(reply, failed(1, kind="denied"))
    assert (tool.name, tool.uses, tool.called, tool.attempts) == ("pay", 1, 0, 0)
    assert (tool.amplification, tool.errors) == (0.0, {"denied": 1})
    assert tool.latency.percentile(50) is None


def test_an_id_that_claude_repeats_is_another_use() -> None:
    """What is over is over: the same tool use id in a later turn is a use of its own."""
    over = ToolCallSucceeded(**place(1), content=TEXT)
    assert read(started(1), over, started(1), over).uses == 2
    settled = doubt(1), said_so(1, "happened")
    assert read(started(1), *settled, started(1), over).ends == {"happened": 1, "ok": 1}


def test_an_outcome_that_nobody_waits_for_is_no_use() -> None:
    """What comes of a call after its use was over changes nothing."""
    over = ToolCallSucceeded(**place(1), content=TEXT)
    late = [over, failed(1), doubt(1), said_so(1, "happened")]
    assert read(started(1), over, *late).ends == {"ok": 1}


def test_the_degraded_share_is_of_the_answers() -> None:
    """What failed is no answer; an empty one is; and a degraded one is degraded, empty or not."""
    answers = [
        ToolCallSucceeded(**place(1), content=TEXT),
        ToolCallSucceeded(**place(1), content=TEXT, empty=True),
        ToolCallSucceeded(**place(1), content=TEXT, empty=True, degraded=Degradation(source="x")),
        ToolCallSucceeded(**place(1), content=TEXT),
        *(failed(1),) * 3,
    ]
    tool = read(*(event for answer in answers for event in (started(1), answer)))
    assert tool.ends == {"ok": 2, "empty": 1, "degraded": 1, "failed": 3}
    assert (tool.answered, tool.trouble, tool.degraded_share) == (4, 3, 0.25)


def test_the_oldest_doubt_and_the_newest_failure_come_first() -> None:
    """In whatever order runs are read."""
    reading = Reading()
    for run_id, at in [("b", 20), ("a", 10), ("c", 30), ("b2", 20)]:
        said = started(1), doubt(1), started(2), failed(2, error_class="bug")
        reading.take(run_id, journal_of(*said, at=(at, at + 1, at + 2, at + 3)))
    assert [(one.run, one.at) for one in reading.doubts] == [
        *(("a", 11), ("b", 21)),
        *(("b2", 21), ("c", 31)),
    ]
    failure = reading.failure
    assert failure is not None
    assert (failure.run, failure.at, failure.error_class) == ("c", 33, "bug")


def test_of_a_time_only_what_was_written_in_it_counts() -> None:
    """A use counts whole if anything of it is recent, or if it is an open doubt of any age."""
    over = ToolCallSucceeded(**place(1), content=TEXT)
    old = journal_of(started(1), over, at=(10, 20))
    across = journal_of(
        started(1), failed(1, content=NULL), started(1, 2), over, at=(10, 11, 12, 99)
    )
    waiting = journal_of(started(1), doubt(1), at=(10, 11))
    reading = Reading(50)
    reading.take("old", old)
    assert not reading.tools
    reading.take("across", across)
    reading.take("waiting", waiting)
    (tool,) = reading.tools.values()
    assert (tool.uses, tool.attempts) == (2, 3)
    assert [(one.run, one.at) for one in reading.doubts] == [("waiting", 11)]


def test_what_was_broken_off_has_no_latency() -> None:
    """Nobody knows how long a call would have taken that a crash or a cancellation ended."""
    for kind in ("crash", "cancelled"):
        assert not read(started(1), doubt(1, kind=kind, latency_ms=7)).latency.counts
    assert read(started(1), doubt(1, latency_ms=7)).latency.counts == {7: 1}


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=60), st.sampled_from([50, 95, 100]))
def test_percentiles_are_right_to_three_digits(taken: list[int], percent: int) -> None:
    """A percentile is the nearest rank, rounded up by less than a percent; the longest is exact."""
    latency = Latency()
    for ms in taken:
        latency.add(ms)
    exact = sorted(taken)[math.ceil(len(taken) * percent / 100) - 1]
    found = latency.percentile(percent)
    assert found is not None
    assert exact <= found <= exact * 1.01
    assert latency.percentile(100) == max(taken)


def test_latencies_take_no_more_room_the_more_there_are() -> None:
    """There are at most 1,000 different ones below a second, and 900 for each digit beyond."""
    latency = Latency()
    for ms in range(100_000):
        latency.add(ms)
    assert len(latency.counts) <= 1_000 + 2 * 900 + 1


def test_the_breaker_of_a_source_is_the_worst_of_any_tenant() -> None:
    """Open is worse than half-open, and what was never changed is closed."""
    state = breaker.State
    states = [
        state(key="tool:db:tenant:a", status="half_open"),
        state(key="tool:web", status="closed"),
        state(key="tool:mail:tenant:a", status="open"),
        state(key="tool:mail:tenant:b", status="half_open"),
        state(key="model:db", status="open"),
    ]
    found = [standing(name, states) for name in ("db", "web", "mail", "nothing")]
    assert found == ["half_open", "closed", "open", "closed"]
    assert [one.key for one in troubled(states)] == [
        *("tool:db:tenant:a", "tool:mail:tenant:a"),
        *("tool:mail:tenant:b", "model:db"),
    ]


# ── the command ─────────────────────────────────────────────────────────────────────────────────


@outlast.tool(effect="once")
def transfer(n: int) -> str:
    """Move money."""
    if n == 2:
        raise TimeoutError
    return "done"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with a run that failed over, one in doubt, and one of another agent."""
    url = f"sqlite:///{tmp_path_factory.mktemp('health')}/runs.db"
    Stage.does = {("search", 1): ["ok"], ("search", 2): ["bug"], ("mirror", 2): ["ok"]}
    Stage.does["plain", 1] = ["bug"]

    def script(request: dict[str, Any], attempt: int) -> Any:
        asked = str(request["messages"][0]["content"])
        if turn_number(request) > 1:
            return say("done")
        if "doubt" in asked:
            return say(tool_use("transfer", {"n": 2}))
        return say(*(tool_use("search", {"n": n}) for n in (1, 2)), tool_use("plain", {"n": 1}))

    tools = [search, plain, transfer]
    with outlast.Outlast(url, model=ScriptedModel(script)) as app:
        app.run(outlast.Agent("finder", model=MODEL, tools=tools), "Go.", run_id="over")
        paying = outlast.Agent("payer", model=MODEL, tools=tools)
        assert app.run(paying, "A doubt.", run_id="doubtful", wait_s=0).status == "waiting"
        changed = BreakerChanged(
            key="tool:db", status="open", until=time.time_ns() + HOUR, rounds=1
        )
        now = time.time_ns()
        frozen = [
            RateFrozen(group=name, until=now + hours * HOUR, key="k", run_id="over")
            for name, hours in [("thawed", -1), ("frozen", 1)]
        ]
        before = Posting(hour=now // HOUR * HOUR - 72 * HOUR, agent="finder", settled_nano=10**12)
        for commit in (
            Commit(stream="~breaker:tool:db", events=[changed], at=now),
            Commit(stream="~limits", events=frozen, at=now - 2 * HOUR),
            Commit(
                stream=run_stream("over"), events=[NoteAdded(text="x")], at=now, postings=[before]
            ),
        ):
            app.journal.append(commit)
    return url


def test_people_see_one_screen(store: str) -> None:
    """The store, each tool, its fallbacks, its sources, what is in doubt, and what to do next."""
    shown = typed("health", "--store", store)
    assert shown.exit_code == exits.DONE
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert "Runs: 1 completed   1 waiting" in shown.stdout
    assert "1 run waits for a person" in shown.stdout
    assert "Spent today: $0.0" in shown.stdout
    assert "tool:db: circuit breaker open until " in shown.stdout
    assert "frozen: nobody asks until " in shown.stdout
    assert "thawed" not in shown.stdout
    assert ["search", "2", "3", "1.50×", "1", "1", "(50%)"] in [line[:7] for line in lines]
    assert ["mirror", "1", "1", "1.00×", "1"] in [line[:5] for line in lines]
    assert any(line[:4] == ["db", "2", "2", "1.00×"] and "open" in line for line in lines)
    assert any(line[:1] == ["plain"] and line[-2:] == ["bug", "1"] for line in lines)
    assert "▒" in shown.stdout
    assert "doubtful  did transfer (ask-1.m1.t1) happen? in doubt for" in shown.stdout
    assert lines[-1] == ["Next:", "outlast", "reconcile", "doubtful"]


def test_programs_get_one_document(store: str) -> None:
    """Its names are stable, and nothing is left out of it that people see."""
    found = json.loads(typed("health", "--json", "--store", store).stdout)
    assert list(found) == [
        *("since", "at", "runs", "today_usd", "today_nano", "breakers", "freezes"),
        *("tools", "sources", "doubts", "newest_failure"),
    ]
    assert found["runs"] == {
        "read": 2,
        "unreadable": [],
        "waiting": 1,
        "statuses": {"completed": 1, "waiting": 1},
    }
    assert found["today_nano"] < 10**9
    assert [(one["group"], one["key"]) for one in found["freezes"]] == [("frozen", "k")]
    assert [(one["key"], one["status"]) for one in found["breakers"]] == [("tool:db", "open")]
    tools = {tool["tool"]: tool for tool in found["tools"]}
    tool = tools["search"]
    assert list(tool) == [
        *("tool", "uses", "called", "attempts", "amplification", *ENDS),
        *("degraded_share", "errors", "latency_ms", "asked"),
    ]
    assert (tool["uses"], tool["attempts"], tool["amplification"]) == (2, 3, 1.5)
    assert (tool["ok"], tool["degraded"], tool["degraded_share"]) == (1, 1, 0.5)
    assert [list(one) for one in tool["asked"]] == 2 * [
        [
            *("rank", "fallback", "source", "uses", "attempts", *CAME),
            *("errors", "latency_ms", "skipped"),
        ]
    ]
    assert [(one["rank"], one["fallback"], one["source"]) for one in tool["asked"]] == [
        (0, None, "db"),
        (1, "mirror", None),
    ]
    assert set(tool["latency_ms"]) == {"p50", "p95", "max"}
    (source,) = found["sources"]
    assert (source["source"], source["breaker"], source["errors"]) == ("db", "open", {"bug": 1})
    (doubted,) = found["doubts"]
    assert doubted["run"] == "doubtful"
    assert doubted["error_class"] == "timeout_after_sending"
    assert set(doubted) == {"run", "tool", "call_id", "at", "error_class"}
    assert found["newest_failure"]["run"] == "over"


def test_one_tool_and_one_agent(store: str) -> None:
    """What is shown can be one tool, or the runs of one agent; and the next step is theirs."""
    shown = typed("health", "--tool", "plain", "--store", store)
    assert "plain" in shown.stdout
    assert "search" not in shown.stdout
    found = json.loads(typed("health", "--agent", "finder", "--json", "--store", store).stdout)
    assert found["runs"]["statuses"] == {"completed": 1}
    assert {tool["tool"] for tool in found["tools"]} == {"search", "plain"}
    shown = typed("health", "--agent", "finder", "--store", store)
    assert shown.stdout.endswith("Next: outlast show over\n")
    shown = typed("health", "--tool", "none", "--store", store)
    assert "No use of none in the last 24 h." in shown.stdout
    assert shown.stdout.endswith("Next: outlast runs --waiting\n")


def test_nothing_yet_is_said_kindly(tmp_path: Path) -> None:
    """A store without runs is no error, and none is made."""
    url = f"sqlite:///{tmp_path}/none.db"
    shown = typed("health", "--store", url)
    assert shown.exit_code == exits.DONE
    assert shown.stdout == (
        f"There is no run in {url} yet, so nothing is wrong.\nNext: outlast demo\n"
    )
    assert json.loads(typed("health", "--json", "--store", url).stdout)["tools"] == []
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize("since", ["yesterday", "", "24 hours", "-1h", "nan"])
def test_how_far_back_is_a_length_of_time(store: str, since: str) -> None:
    """What is none is refused before anything is read, with what would be one."""
    refused = typed("health", f"--since={since}", "--store", store)
    assert refused.exit_code == exits.USAGE
    assert "is not a length of time; write 30s" in refused.stderr


def test_only_what_was_written_to_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten thousand runs only those are read that were written to since, page by page."""
    journal = MemoryJournal()
    for number in range(10_000):
        begin(journal, f"r{number}")
    recent = {"r3", "r77", "r9999"}
    for name in recent:
        said = (NoteAdded(text="x"),) * 2_500
        journal.append(Commit(stream=run_stream(name), events=said, at=time.time_ns()))
    opened: Counter[str] = Counter()
    pages: list[int] = []
    reads = journal.read

    def read(stream: str, **more: Any) -> list[Record]:
        opened[stream] += 1
        pages.append(len(found := reads(stream, **more)))
        return found

    @contextmanager
    def lent(url: str) -> Iterator[MemoryJournal]:
        yield journal

    def everything(**_: Any) -> None:
        pytest.fail("the whole store was read")

    monkeypatch.setattr(journal, "read", read)
    monkeypatch.setattr(journal, "read_all", everything)
    monkeypatch.setattr(health, "opened", lent)
    found = json.loads(typed("health", "--json", "--since", "1h").stdout)
    assert found["runs"]["read"] == 3
    assert found["runs"]["statuses"] == {"running": 10_000}
    assert {name for name in opened if name.startswith("run:")} == {f"run:{one}" for one in recent}
    assert max(pages) <= 1_000
    assert max(opened.values()) == 4


def test_an_open_breaker_may_be_tried_once_its_time_is_over(store: str) -> None:
    """A breaker stays open until somebody tries what it is for, and that is said."""
    url = f"{store}.tried"
    with outlast.Outlast(url, model=ScriptedModel(lambda *_: say("done"))) as app:
        app.run(AGENT, "Go.", run_id="r")
        now = time.time_ns()
        over = BreakerChanged(key="tool:db", status="open", until=now - 1, rounds=1)
        app.journal.append(Commit(stream="~breaker:tool:db", events=[over], at=now - HOUR))
    shown = typed("health", "--store", url).stdout
    assert "tool:db: circuit breaker open, and may be tried" in shown


def test_today_begins_at_midnight_utc() -> None:
    """What was spent is that of the present day and agent, in the hours of the roll-up."""
    journal, midnight = MemoryJournal(), 20_000 * 24 * HOUR
    stream = begin(journal, "r")
    spent = [(-1, "a", 1), (0, "a", 10), (5, "a", 100), (5, "b", 1_000)]
    lines = [
        Posting(hour=midnight + hour * HOUR, agent=agent, settled_nano=nano)
        for hour, agent, nano in spent
    ]
    journal.append(Commit(stream=stream, events=[NoteAdded(text="x")], at=1, postings=lines))

    def today(now: int, agent: str | None = None) -> int:
        return health._read(journal, Reading(), now, 60.0, agent, None).today_nano

    assert today(midnight + 6 * HOUR) == 1_110
    assert today(midnight + 6 * HOUR, "a") == 110
    assert today(midnight - 1) == 1


class Shown:
    """A screen that keeps what would be in its last line."""

    def __init__(self) -> None:
        self.now: Any = None

    def live(self, now: Any) -> None:
        self.now = now or self.now


def test_a_long_reading_shows_how_far_it_is() -> None:
    """Where many runs are read, a bar fills up; where few are, there is none."""
    journal = MemoryJournal()
    names = [f"r{number}" for number in range(200)]
    for name in names:
        begin(journal, name)
    on: Any = Shown()
    assert read_runs(journal, Reading(), names[:20], on) == []
    assert on.now is None
    assert read_runs(journal, Reading(), names, on) == []
    (full, _), (empty, _), (told_of, _) = on.now()
    assert (len(full), empty, told_of) == (40, "", " 200 of 200 runs")


def test_a_run_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    """It is named, the others are counted, and the exit code says that integrity is broken."""
    path = tmp_path / "runs.db"
    drawn(1)
    Stage.does["plain", 1] = ["ok"]

    def script(request: dict[str, Any], attempt: int) -> Any:
        return say(tool_use("plain", {"n": 1})) if turn_number(request) == 1 else say("done")

    with outlast.Outlast(f"sqlite:///{path}", model=ScriptedModel(script)) as app:
        for name in ("whole", "torn"):
            app.run(AGENT, "Go.", run_id=name)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE event_bodies SET body = x'00' WHERE stream = 'run:torn'")
    connection.close()
    shown = typed("health", "--store", f"sqlite:///{path}")
    assert shown.exit_code == exits.DAMAGED
    assert "run:torn" in shown.stdout or "'torn'" in shown.stdout
    assert ["plain", "1", "1"] in [line.split()[:3] for line in shown.stdout.splitlines()]
    found = json.loads(typed("health", "--json", "--store", f"sqlite:///{path}").stdout)
    assert len(found["runs"]["unreadable"]) == 1


def test_a_run_of_a_newer_version_is_not_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be read either, and the exit code says that something broke, not integrity."""
    journal = MemoryJournal()
    begin(journal, "r")

    def read(stream: str, **_: Any) -> list[Record]:
        if stream == "run:r":
            raise JournalTooNew(stream, version=2, ours=1)
        return []

    @contextmanager
    def lent(url: str) -> Iterator[MemoryJournal]:
        yield journal

    monkeypatch.setattr(journal, "read", read)
    monkeypatch.setattr(health, "opened", lent)
    shown = typed("health", "--since", "5000w")
    assert "upgrade this worker" in shown.stdout
    assert shown.exit_code == exits.FAILED
