"""`stream` and `astream`: every part of a run once, wherever it comes from, and nothing leaks."""

import asyncio
import gc
import json
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Raw

import outlast
from outlast.errors import Conflict, StoreError
from outlast.events import (
    AnyEvent,
    ModelCallFailed,
    ModelCallInDoubt,
    ModelCallStarted,
    ModelCallSucceeded,
    NoteAdded,
)
from outlast.journal import Record, run_stream
from outlast.models import Part, Reply, Request
from outlast.models.script import (
    Fault,
    Turn,
    faulty,
    once,
    redacted_thinking,
    say,
    server_tool_result,
    server_tool_use,
    text_of,
    thinking,
    tool_results,
    tool_use,
    turn_number,
)
from outlast.models.scripted import ScriptedModel
from outlast.models.stream import Accumulator
from outlast.runner import Runner, Watch
from outlast.stores import open_store
from outlast.stores.memory import MemoryJournal
from outlast.streaming import Feed, Telling, parts_of
from outlast.testing import simulator
from stubs import USAGE, agent, asking, reply

PATIENCE_S = 60
AGENT = agent()


@outlast.tool(effect="read")
def look(word: str) -> str:
    return word.upper()


LOOKING = agent(look)


def told(parts: Iterable[Part]) -> list[tuple[str, str, str]]:
    """Return what the parts come to: call, kind and text, without what was discarded.

    Neighbours of a call that are both text, or both thinking, are joined: in how many pieces they
    came is chance.
    """
    kept: list[tuple[str, str, str]] = []
    for part in parts:
        if part.kind == "discarded":
            kept = [each for each in kept if each[0] != part.call_id]
        elif kept and part.kind != "tool_use" and kept[-1][:2] == (part.call_id, part.kind):
            kept[-1] = (part.call_id, part.kind, kept[-1][2] + part.text)
        else:
            kept.append((part.call_id, part.kind, part.text))
    return kept


def said(parts: Iterable[Part]) -> str:
    """Return the texts that count, joined."""
    return "".join(text for _, kind, text in told(parts) if kind == "text")


def until(condition: Callable[[], object]) -> None:
    """Wait until `condition` holds."""
    give_up_at = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up_at, "waited in vain"
        time.sleep(0.005)


async def auntil(condition: Callable[[], object]) -> None:
    """Wait until `condition` holds, which no event of this loop says."""
    while not condition():  # noqa: ASYNC110  (threads and tasks elsewhere set it)
        await asyncio.sleep(0.005)


# ── live is what is replayed ──────────────────────────────────────────────────────────────────

texts = st.text(st.sampled_from('ab"\\\né\N{PILE OF POO}'), max_size=6)


@st.composite
def a_block(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Draw a block as it begins, and the deltas that bring the rest."""
    kind = draw(
        st.sampled_from(
            ["text", "thinking", "redacted_thinking", "tool_use", "server_tool_use", "unheard_of"]
        )
    )
    if kind in ("text", "thinking"):
        pieces = draw(st.lists(texts, max_size=3))
        deltas = [{"type": f"{kind}_delta", kind: piece} for piece in pieces]
        return {"type": kind, kind: draw(texts)}, deltas
    if kind.endswith("tool_use"):
        return {"type": kind, "id": "t", "name": draw(texts), "input": {}}, []
    strange: Any = draw(st.sampled_from([7, None, ["x"], "said"]))
    return {"type": kind, "data": "x", "text": strange, "name": strange}, []


def streamed(
    blocks: list[tuple[dict[str, Any], list[dict[str, Any]]]],
) -> tuple[list[tuple[str, str]], Raw]:
    """Return the pieces that a watcher sees of a reply, and the reply's content."""
    pieces: list[tuple[str, str]] = []
    accumulator = Accumulator(lambda kind, text: pieces.append((kind, text)))
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"content": [], "usage": json.loads(bytes(USAGE))}}
    ]
    for index, (begun, deltas) in enumerate(blocks):
        events.append({"type": "content_block_start", "index": index, "content_block": begun})
        events += [{"type": "content_block_delta", "index": index, "delta": d} for d in deltas]
        events.append({"type": "content_block_stop", "index": index})
    delta = {"stop_reason": "end_turn"}
    events.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 1}})
    for event in [*events, {"type": "message_stop"}]:
        accumulator.event(event["type"], json.dumps(event, ensure_ascii=False).encode())
    return pieces, accumulator.reply().content


calls = st.lists(
    st.tuples(
        st.lists(a_block(), max_size=4),
        st.sampled_from(["heard", "unheard", "failed", "cut", "taken over"]),
    ),
    max_size=5,
)
"""Calls: what Claude said, and what came of it."""


def events_of(
    number: int, content: Raw, pieces: list[tuple[str, str]], fate: str
) -> list[Part | AnyEvent]:
    """Return what a driver has to say of one call, in its order."""
    at: dict[str, Any] = {"ask_id": "a", "call_id": f"a.m{number}"}
    live: list[Part | AnyEvent] = [
        Part(run_id="r", attempt=number, kind=kind, text=text, **at) for kind, text in pieces
    ]
    gone = Part(run_id="r", attempt=number, kind="discarded", text="", **at)
    started = ModelCallStarted(
        max_tokens=1, request_hash="", hold_nano=1, hold_tokens=1, attempt=number, **at
    )
    doubt = ModelCallInDoubt(kind="cut", message="", cost_nano=1, tokens=1, **at)
    ended = ModelCallSucceeded(
        content=content, stop_reason="end_turn", usage=USAGE, cost_nano=1, tokens=1, **at
    )
    outcomes: dict[str, list[Part | AnyEvent]] = {
        "heard": [*live, ended],
        "unheard": [ended],  # by another process, or a model that says nothing before its end
        "failed": [gone, ModelCallFailed(kind="overloaded", message="", **at)],
        "cut": [*live[: len(live) // 2], gone, doubt],
        "taken over": [*live, doubt, *live],
    }
    return [started, *outcomes[fate], NoteAdded(text="between")]


@given(calls, st.integers(0, 40))
@example([([({"type": "text", "text": "a"}, [])], "taken over")], 0)
def test_what_is_told_live_is_what_is_replayed(
    made: list[tuple[list[tuple[dict[str, Any], list[dict[str, Any]]]], str]], from_seq: int
) -> None:
    """Whatever comes of its calls, and wherever it is joined, a run is told as it is replayed."""
    records: list[Record] = []
    parts: list[Part] = []
    telling = Telling()
    for number, (blocks, fate) in enumerate(made, start=1):
        pieces, content = streamed(blocks)
        for news in events_of(number, content, pieces, fate):
            if not isinstance(news, Part):
                records.append(Record("run:r", len(records) + 1, 0, 0, 0, news))
            if len(records) <= from_seq:
                continue  # the consumer is not here yet
            if isinstance(news, Part):
                parts += telling.hear(news)
            else:
                # Read on as a stream does: what was missed first, some of it twice.
                for record in records[max(0, telling.seq - 1) :]:
                    parts += telling.read(record)
    for record in records:
        parts += telling.read(record)
    assert told(parts) == told(parts_of(records))
    assert {part.run_id for part in parts} <= {"r"}
    assert all(part.attempt == int(part.call_id.removeprefix("a.m")) for part in parts)
    assert not any(part.kind == "discarded" for part in parts_of(records))


def test_what_nobody_can_show_is_skipped() -> None:
    """Blocks whose text or name is none are carried by the journal, and have no part."""
    content = (
        b'[{"type":"thinking","thinking":null},{"type":"text","text":""},{"type":"text"},'
        b'{"type":"mcp_tool_use","name":7},{"type":"new","text":"x"},{"type":"text","text":"y"}]'
    )
    (started, ended, _) = events_of(1, Raw(content), [], "unheard")
    assert not isinstance(started, Part)
    assert not isinstance(ended, Part)
    records = [Record("run:r", 1, 0, 0, 0, started), Record("run:r", 2, 0, 0, 0, ended)]
    assert [(part.kind, part.text) for part in parts_of(records)] == [("text", "y")]


def everything(request: dict[str, Any], attempt: int) -> Turn:
    """Think, search and look first; then answer."""
    if turn_number(request) == 1:
        return say(
            thinking("Owls, then. " * 5),
            redacted_thinking(),
            "I will look at owls.",
            server_tool_use("web_search", {"query": "owls"}),
            server_tool_result("web_search_tool_result", []),
            tool_use("look", {"word": "owls"}),
        )
    return say("I found " + text_of(tool_results(request)[0]["content"]) + " in 3 places.")


cut_short = faulty(everything, once(2, Fault(kind="cut", after_events=6)))
"""A Claude whose last answer breaks off the first time, for the simulator's process."""


@pytest.fixture
def claude(monkeypatch: pytest.MonkeyPatch) -> Iterator[simulator.Simulator]:
    """Start a Claude over HTTP that every application finds, as the SDK finds the real one."""
    with simulator.start("test_streaming:cut_short", path=[Path(__file__).parent]) as claude:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", claude.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "simulated")
        yield claude


def test_over_http_a_run_is_told_as_it_is_replayed(claude: simulator.Simulator) -> None:
    """Thinking, tools, a cut attempt: what came live over HTTP is what the journal replays."""
    with outlast.Outlast("memory://") as app:
        live = list(app.stream(LOOKING, "Owls?", run_id="r"))
        requests = len(claude.requests())
        again = list(app.stream(LOOKING, "Owls?", run_id="r"))
        assert len(claude.requests()) == requests == 3
        assert told(live) == told(again)
        assert again == list(parts_of(app.log("r")))
    kinds = [part.kind for part in again]
    assert kinds == ["thinking", "text", "tool_use", "tool_use", "text"]
    assert [part.text for part in again][2:] == ["web_search", "look", "I found OWLS in 3 places."]
    assert len(live) > len(again), "it came in pieces"
    (gone,) = (part for part in live if part.kind == "discarded")
    assert any(part.call_id == gone.call_id and part.text for part in live)
    assert live[-1].attempt == gone.attempt + 1 == 2


def test_connections_of_both_loops_are_closed(claude: simulator.Simulator) -> None:
    """`async with Outlast(…)` leaves no connection open: not outlast's own, nor the caller's."""

    async def main() -> None:
        async with outlast.Outlast("memory://") as app:
            first = said(app.stream(LOOKING, "Owls?"))
            assert first == said([part async for part in app.astream(LOOKING, "Owls?")])
            model: Any = app._guest._model
            clients = [opened.client for opened in model._open.values()]
            assert [client.is_closed() for client in clients] == [False] * 2
        assert [client.is_closed() for client in clients] == [True] * 2
        with pytest.raises(StoreError, match="is closed"):
            app.runs()

    asyncio.run(main())


# ── a Claude that speaks when it is told to ───────────────────────────────────────────────────


class Speaker:
    """A model of a coroutine, which gets the request and a function that says a piece of text."""

    def __init__(self, speak: Callable[[Request, Callable[[str], None]], Awaitable[Reply]]) -> None:
        self.calls = 0
        self._speak = speak

    async def call(self, request: Request, *, on_part: Callable[[Part], None] | None) -> Reply:
        self.calls += 1

        def hear(text: str) -> None:
            if on_part is not None:
                on_part(
                    Part(
                        run_id=request.run_id,
                        ask_id=request.ask_id,
                        call_id=request.call_id,
                        attempt=request.attempt,
                        kind="text",
                        text=text,
                    )
                )

        return await self._speak(request, hear)


class Halting:
    """A model that says `one `, waits until it is let, and says `two`."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.let = threading.Event()
        self.given_up = threading.Event()
        self.model = Speaker(self._speak)

    async def _speak(self, request: Request, hear: Callable[[str], None]) -> Reply:
        hear("one ")
        self.asked.set()
        try:
            await auntil(self.let.is_set)
        except asyncio.CancelledError:
            self.given_up.set()
            raise
        hear("two")
        return reply(b'[{"type":"text","text":"one two"}]')


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the url of a new store, of each kind."""
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/a.db"


@pytest.fixture
def file(tmp_path: Path) -> str:
    """Return the url of a new store that several applications can share."""
    return f"sqlite:///{tmp_path}/a.db"


@pytest.fixture
def halting() -> Halting:
    return Halting()


# ── the whole, and the run at the end ─────────────────────────────────────────────────────────


def test_a_stream_ends_with_its_run(url: str) -> None:
    """A stream says its run's id before it begins, and gives the run when it is at its end."""
    with outlast.Outlast(url, model=ScriptedModel(asking(answer="forty-two"))) as app:
        stream = app.stream(AGENT, "Go.", tenant="acme")
        assert stream.run_id.startswith("tester-")
        assert app.runs() == [], "nothing happens before the first part is asked for"
        with pytest.raises(outlast.UsageError, match=f"{stream.run_id}.*has not come to its end"):
            stream.run  # noqa: B018
        (part,) = stream
        assert (part.run_id, part.kind, part.text) == (stream.run_id, "text", "forty-two")
        assert stream.run == app.get(stream.run_id)
        assert stream.run.answer == "forty-two"
        assert list(stream) == [], "an end is an end"


def test_a_finished_run_is_replayed_without_a_call(url: str) -> None:
    """Streaming a run that is finished tells all of it, and asks nobody."""
    model = ScriptedModel(everything)
    with outlast.Outlast(url, model=model) as app:
        live = list(app.stream(LOOKING, "Owls?", run_id="r"))
        with app.stream(LOOKING, "Owls?", run_id="r") as stream:
            parts = list(stream)
        assert stream.run == app.get("r")
    assert told(parts) == told(live)
    assert said(parts) == "I will look at owls.I found OWLS in 3 places."
    assert len(model.calls) == 2


def test_a_failed_run_streams_to_its_end(url: str) -> None:
    """A run that fails is no error of the stream: the run says so, as it does after `run`."""
    model = ScriptedModel(lambda request, attempt: say("No", stop_reason="refusal"))
    with outlast.Outlast(url, model=model) as app:
        stream = app.stream(AGENT, "Go.")
        assert said(stream) == "No"
        assert stream.run.status == "failed"


def test_a_model_that_says_nothing_before_its_end_is_told_from_the_journal(url: str) -> None:
    """Where a model has no parts, its replies are told when they are written."""

    async def mute(request: Request, hear: Callable[[str], None]) -> Reply:
        return reply(b'[{"type":"text","text":"at once"}]')

    with outlast.Outlast(url, model=Speaker(mute)) as app:
        assert [part.text for part in app.stream(AGENT, "Go.")] == ["at once"]


def test_an_attempt_that_came_to_nothing_is_announced(url: str) -> None:
    """What was shown of an attempt that broke off is followed by a part that says it is gone."""
    model = ScriptedModel(faulty(asking(), once(1, Fault(kind="status", status=529))))
    with outlast.Outlast(url, model=model) as app:
        parts = list(app.stream(AGENT, "Go.", run_id="r"))
        assert [(part.kind, part.attempt) for part in parts] == [("discarded", 1), ("text", 2)]
        assert [part.kind for part in app.stream(AGENT, "Go.", run_id="r")] == ["text"]


# ── coming again ──────────────────────────────────────────────────────────────────────────────


def test_who_comes_again_sees_the_whole(url: str) -> None:
    """After an early end the same call goes on: what was said comes again, then what is new."""
    asked, let = threading.Event(), threading.Event()

    async def speak(request: Request, hear: Callable[[str], None]) -> Reply:
        if len(request.messages) == 1:
            hear("first ")
            return reply(
                b'[{"type":"text","text":"first "},'
                b'{"type":"tool_use","id":"t1","name":"look","input":{"word":"x"}}]',
                "tool_use",
            )
        hear("sec")
        asked.set()
        await auntil(let.is_set)
        hear("ond")
        return reply(b'[{"type":"text","text":"second"}]')

    model = Speaker(speak)
    with outlast.Outlast(url, model=model) as app:
        with app.stream(LOOKING, "Go.", run_id="r") as stream:
            seen = [next(stream).text, next(stream).text]
        assert seen == ["first ", "sec"]
        with pytest.raises(outlast.UsageError, match="has not come to its end"):
            stream.run  # noqa: B018
        assert app.get("r").status == "running"
        let.set()
        with app.stream(LOOKING, "Go.", run_id="r") as stream:
            parts = list(stream)
        assert stream.run.status == "completed"
        doubts = [r.event for r in app.log("r") if isinstance(r.event, ModelCallInDoubt)]
    assert [part.text for part in parts] == ["first ", "look", "sec", "ond"]
    assert model.calls == 3
    assert [event.kind for event in doubts] == ["crash"], "the call in flight is in doubt"


def test_what_is_written_between_looking_and_claiming_is_told(url: str) -> None:
    """What another driver wrote after the first look, and before the claim, is not missed."""
    journal = open_store(url)
    claim = journal.claim
    calls = 0

    def late(stream: str, **more: Any) -> int:
        nonlocal calls
        if calls == 0:
            calls += 1
            epoch = claim(stream)
            one_turn(epoch)
            journal.release(stream)
        return claim(stream, **more)

    def one_turn(epoch: int) -> None:
        def turn_is_over(record: Record) -> None:
            if isinstance(record.event, ModelCallSucceeded):
                raise KeyboardInterrupt  # as a process ends

        runner = Runner(journal, ScriptedModel(everything))
        watch = Watch(on_record=turn_is_over)
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(runner.drive("r", LOOKING, epoch=epoch, watch=watch))

    journal.claim = late  # type: ignore[method-assign]
    with outlast.Outlast(journal, model=ScriptedModel(everything)) as app:

        async def main() -> list[Part]:
            return [part async for part in app.astream(LOOKING, "Owls?", run_id="r")]

        parts = asyncio.run(main())
        assert list(parts_of(app.log("r"))) == parts
    assert said(parts) == "I will look at owls.I found OWLS in 3 places."


def test_a_run_that_another_application_drives_is_told_as_it_is_written(
    file: str, halting: Halting
) -> None:
    """Where somebody else drives the run, a stream waits and tells what that one writes."""
    other = ScriptedModel(asking())
    with (
        outlast.Outlast(file, model=halting.model) as first,
        outlast.Outlast(file, model=other) as second,
        ThreadPoolExecutor(2) as pool,
    ):
        driving = pool.submit(first.run, AGENT, "Go.", run_id="r")
        assert halting.asked.wait(PATIENCE_S)
        with second.stream(AGENT, "Go.", run_id="r", wait_s=0.05) as stream:
            assert list(stream) == []
        assert stream.run.status == "running"
        assert "driven by" in stream.run.why
        with second.stream(AGENT, "Go.", run_id="r", wait_s=PATIENCE_S) as stream:
            reading = pool.submit(list, stream)
            halting.let.set()
            assert said(reading.result(PATIENCE_S)) == "one two"
        assert stream.run == driving.result(PATIENCE_S)
    assert other.calls == []


def test_what_a_fenced_driver_heard_is_discarded(file: str, halting: Halting) -> None:
    """When another driver takes the run over, what was heard is taken back, and its story told."""
    with outlast.Outlast(file, model=halting.model) as app:
        stream = app.stream(AGENT, "Go.", run_id="r", wait_s=PATIENCE_S)
        parts = [next(stream)]
        other = open_store(file)
        epoch = other.claim(run_stream("r"), force=True)
        runner = Runner(other, ScriptedModel(asking(answer="theirs")))
        asyncio.run(runner.drive("r", AGENT, epoch=epoch, watch=Watch()))
        other.close()
        halting.let.set()
        parts += stream
        assert stream.run.answer == "theirs"
    assert [part.text for part in parts] == ["one ", "two", "", "theirs"]
    assert [part.kind for part in parts] == ["text", "text", "discarded", "text"]
    assert parts[2].call_id == parts[0].call_id != parts[3].call_id


# ── at its own pace ───────────────────────────────────────────────────────────────────────────


def test_a_slow_consumer_holds_nothing_up_and_loses_nothing(url: str) -> None:
    """A run ends while nobody takes its parts, and all of them are there afterwards."""
    pieces = [f"{number} " for number in range(1000)]

    async def speak(request: Request, hear: Callable[[str], None]) -> Reply:
        for piece in pieces:
            hear(piece)
        return reply(json.dumps([{"type": "text", "text": "".join(pieces)}]).encode())

    with outlast.Outlast(url, model=Speaker(speak)) as app:
        with app.stream(AGENT, "Go.", run_id="r") as stream:
            first = next(stream)
            until(lambda: app.get("r").status == "completed")
            assert [first.text, *(part.text for part in stream)] == pieces
        assert stream.run.status == "completed"


def counting(request: dict[str, Any], attempt: int) -> Turn:
    """Look four times, saying the question each time."""
    question = text_of(request["messages"][0]["content"])
    if (number := turn_number(request)) < 5:
        return say(f"{question}{number} ", tool_use("look", {"word": question}))
    return say(f"{question}done")


def test_two_consumers_do_not_mix(url: str) -> None:
    """Every stream of an application has the parts of its own run, all of them, in order."""
    names = [f"run-{number}" for number in range(4)]

    async def many(app: outlast.Outlast) -> list[list[Part]]:
        async def one(name: str) -> list[Part]:
            return [part async for part in app.astream(LOOKING, f"{name}:", run_id=f"a-{name}")]

        return await asyncio.gather(*map(one, names))

    with (
        outlast.Outlast(url, model=ScriptedModel(counting)) as app,
        ThreadPoolExecutor(4) as pool,
    ):
        streams = [app.stream(LOOKING, f"{name}:", run_id=f"s-{name}") for name in names]
        told_sync = list(pool.map(list, streams))
        told_async = asyncio.run(many(app))
    for prefix, streamed_parts in (("s", told_sync), ("a", told_async)):
        for name, parts in zip(names, streamed_parts, strict=True):
            assert {part.run_id for part in parts} == {f"{prefix}-{name}"}
            assert said(parts) == "".join(f"{name}:{n} " for n in range(1, 5)) + f"{name}:done"


def test_one_stream_may_have_several_consumers(url: str) -> None:
    """Each part goes to one of those who iterate, and none of them ends before the run does."""
    pieces = [f"{number} " for number in range(60)]
    taken = threading.Semaphore(0)

    async def speak(request: Request, hear: Callable[[str], None]) -> Reply:
        # One by one: the next is said when somebody has this one, while the others wait for it.
        for piece in pieces:
            hear(piece)
            await auntil(lambda: taken.acquire(blocking=False))
        return reply(json.dumps([{"type": "text", "text": "".join(pieces)}]).encode())

    def take(stream: Iterable[Part]) -> tuple[list[str], str]:
        texts = []
        for part in stream:
            texts.append(part.text)
            taken.release()
        return texts, stream.run.status  # type: ignore[attr-defined]

    async def atake(stream: outlast.AsyncStream) -> tuple[list[str], str]:
        texts = []
        async for part in stream:
            texts.append(part.text)
            taken.release()
        return texts, stream.run.status

    async def many(app: outlast.Outlast) -> list[tuple[list[str], str]]:
        stream = app.astream(AGENT, "Go.", run_id="a")
        return await asyncio.gather(*(atake(stream) for _ in range(3)))

    with outlast.Outlast(url, model=Speaker(speak)) as app, ThreadPoolExecutor(3) as pool:
        stream = app.stream(AGENT, "Go.", run_id="s")
        for shares in (list(pool.map(take, [stream] * 3)), asyncio.run(many(app))):
            assert sorted(text for texts, _ in shares for text in texts) == sorted(pieces)
            # A consumer asks for the run when its own iteration is over: so the run was, too.
            assert [status for _, status in shares] == ["completed"] * 3


def test_a_part_that_another_thread_was_faster_to_take_is_not_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever is woken for a part, and finds that another thread has it, waits for the next one."""
    ready, stolen = Feed.ready, []

    async def thief(feed: Feed) -> None:
        await ready(feed)
        if not stolen:
            stolen.append(feed.parts.popleft().text)

    async def speak(request: Request, hear: Callable[[str], None]) -> Reply:
        hear("one ")
        await auntil(lambda: stolen)
        hear("two")
        return reply(b'[{"type":"text","text":"one two"}]')

    monkeypatch.setattr(Feed, "ready", thief)
    with outlast.Outlast("memory://", model=Speaker(speak)) as app:
        stream = app.stream(AGENT, "Go.", run_id="r")
        assert [part.text for part in stream] == ["two"]
        assert stream.run.status == "completed"
    assert stolen == ["one "]


def test_an_error_ends_the_stream_for_every_consumer() -> None:
    """What the run raises reaches one of those who iterate; for the others the stream is over."""

    async def speak(request: Request, hear: Callable[[str], None]) -> Reply:
        hear("one")
        return reply(b'[{"type":"text","text":"one"}]')

    def take(stream: outlast.Stream) -> str:
        try:
            return "".join(part.text for part in stream)
        except StoreError as error:
            return type(error).__name__

    with (
        outlast.Outlast(Full(1), model=Speaker(speak)) as app,
        ThreadPoolExecutor(3) as pool,
    ):
        stream = app.stream(AGENT, "Go.", run_id="s")
        found = list(pool.map(take, [stream] * 3))
    assert found.count("StoreError") == 1


def test_it_streams_where_a_loop_is_running(url: str) -> None:
    """In a notebook or a web handler, with a loop running already, `stream` works as anywhere."""
    with outlast.Outlast(url, model=ScriptedModel(everything)) as app:

        async def main() -> tuple[str, str]:
            sync = said(app.stream(LOOKING, "Owls?"))
            return sync, said([part async for part in app.astream(LOOKING, "Owls?")])

        first, second = asyncio.run(main())
    assert first == second == "I will look at owls.I found OWLS in 3 places."


# ── what the run raises ───────────────────────────────────────────────────────────────────────


class Full(MemoryJournal):
    """A store that takes so many commits of a driver, and no more."""

    def __init__(self, takes: int = 0) -> None:
        super().__init__()
        self.takes = takes

    def append(self, commit: Any) -> Any:
        if commit.epoch is not None:
            self.takes -= 1
            if self.takes < 0:
                raise StoreError("no space is left")
        return super().append(commit)

    async def aappend(self, commit: Any) -> Any:
        return self.append(commit)


@pytest.mark.parametrize(
    ("question", "run_id", "error"),
    [
        pytest.param("Something else.", "taken", outlast.RunConflict, id="conflict"),
        pytest.param("", "r", outlast.InvalidInput, id="input"),
        pytest.param("Go.", "not an id", outlast.InvalidInput, id="run id"),
        pytest.param("Go.", "r", StoreError, id="store"),
    ],
)
def test_what_the_run_raises_is_raised_to_the_consumer(
    question: str, run_id: str, error: type[Exception]
) -> None:
    """An error reaches whoever asks for the next part, once, and `run` says it again."""
    with outlast.Outlast(Full(), model=ScriptedModel(asking())) as app:
        app.start(AGENT, "Go.", run_id="taken")
        with app.stream(AGENT, question, run_id=run_id) as stream:
            with pytest.raises(error) as raised:
                next(stream)
            assert not isinstance(raised.value, Conflict)
            assert list(stream) == []
            with pytest.raises(error):
                stream.run  # noqa: B018

        async def main() -> None:
            async with app.astream(AGENT, question, run_id=run_id) as stream:
                with pytest.raises(error):
                    await anext(stream)
                assert [part async for part in stream] == []
                with pytest.raises(error):
                    stream.run  # noqa: B018

        asyncio.run(main())


# ── leaving early ─────────────────────────────────────────────────────────────────────────────


def loop_of(app: outlast.Outlast) -> asyncio.AbstractEventLoop:
    loop = app._background._loop
    assert loop is not None
    return loop


def goes_on(app: outlast.Outlast, halting: Halting) -> None:
    """Check that the run was let go of, its call is in doubt, and the same call goes on."""
    halting.let.set()
    assert app.run(AGENT, "Go.", run_id="r").answer == "one two"
    doubts = [r.event for r in app.log("r") if isinstance(r.event, ModelCallInDoubt)]
    assert [event.kind for event in doubts] == ["crash"]
    assert halting.model.calls == 2


def closed(app: outlast.Outlast, stream: outlast.Stream) -> None:
    next(stream)
    stream.close()
    stream.close()
    assert list(stream) == []


def left(app: outlast.Outlast, stream: outlast.Stream) -> None:
    with stream:
        for _ in stream:
            break


def generated(app: outlast.Outlast, stream: outlast.Stream) -> None:
    def lines() -> Iterator[str]:
        with stream:
            for part in stream:
                yield part.text

    made = lines()
    assert next(made) == "one "
    made.close()  # GeneratorExit


def interrupted(app: outlast.Outlast, stream: outlast.Stream) -> None:
    next(stream)
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        until(lambda: app._background._waiting)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        next(stream)
    thread.join()
    assert list(stream) == []


@pytest.mark.parametrize("leave", [closed, left, generated, interrupted])
def test_leaving_early_stops_driving(
    url: str, halting: Halting, leave: Callable[[outlast.Outlast, outlast.Stream], None]
) -> None:
    """Whoever leaves a stream has let the run go by then: no task and no thread is left over."""
    with outlast.Outlast(url, model=halting.model) as app:
        before = set(threading.enumerate())
        leave(app, app.stream(AGENT, "Go.", run_id="r"))
        assert halting.given_up.is_set()
        assert asyncio.all_tasks(loop_of(app)) == set()
        new = {thread.name for thread in set(threading.enumerate()) - before}
        assert new <= {"outlast-loop", "outlast-signals"}, "the application's own"
        until(lambda: len(set(threading.enumerate()) - before) <= 1)  # the second ends by itself
        assert app.get("r").status == "running"
        goes_on(app, halting)


def test_a_stream_that_is_dropped_stops_driving(url: str, halting: Halting) -> None:
    """A `break` without a word drops the stream, and with it the run soon stops being driven."""
    with outlast.Outlast(url, model=halting.model) as app:
        for _ in app.stream(AGENT, "Go.", run_id="r"):
            break
        gc.collect()
        assert halting.given_up.wait(PATIENCE_S)
        until(lambda: not asyncio.all_tasks(loop_of(app)))
        goes_on(app, halting)


def test_a_stream_that_nobody_asks_does_nothing(url: str) -> None:
    """A stream that is never iterated makes no run, no call and no thread."""
    model = ScriptedModel(asking())
    threads = threading.active_count()
    with outlast.Outlast(url, model=model) as app:
        app.stream(AGENT, "Go.").close()
        with app.stream(AGENT, "Go.") as stream:
            pass
        assert list(stream) == []
        assert app.runs() == model.calls == []
        assert app._background._loop is None
    assert threading.active_count() <= threads


@asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """Check that no task of this loop is left over."""
    before = asyncio.all_tasks()
    yield
    assert asyncio.all_tasks() <= before


async def aclosed(stream: outlast.AsyncStream, halting: Halting) -> None:
    await anext(stream)
    await stream.aclose()
    await stream.aclose()


async def aleft(stream: outlast.AsyncStream, halting: Halting) -> None:
    async with stream:
        async for _ in stream:
            break


async def agenerated(stream: outlast.AsyncStream, halting: Halting) -> None:
    async def lines() -> AsyncIterator[str]:
        async with stream:
            async for part in stream:
                yield part.text

    made = lines()
    assert await anext(made) == "one "
    await made.aclose()  # type: ignore[attr-defined]


async def acancelled(stream: outlast.AsyncStream, halting: Halting) -> None:
    async def reading() -> None:
        async for _ in stream:
            pass

    task = asyncio.create_task(reading())
    await asyncio.to_thread(halting.asked.wait, PATIENCE_S)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def atimed(stream: outlast.AsyncStream, halting: Halting) -> None:
    await anext(stream)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(stream), 0.05)


@pytest.mark.parametrize("leave", [aclosed, aleft, agenerated, acancelled, atimed])
def test_leaving_early_stops_driving_async(
    url: str,
    halting: Halting,
    leave: Callable[[outlast.AsyncStream, Halting], Awaitable[None]],
) -> None:
    """Leaving, cancelling and timing out let the run go at once: no task is left over."""
    with outlast.Outlast(url, model=halting.model) as app:

        async def main() -> None:
            async with nothing_left():
                stream = app.astream(AGENT, "Go.", run_id="r")
                await leave(stream, halting)
                assert halting.given_up.is_set()
                assert [part async for part in stream] == []
                with pytest.raises(outlast.UsageError, match="has not come to its end"):
                    stream.run  # noqa: B018

        asyncio.run(main())
        assert app.get("r").status == "running"
        goes_on(app, halting)


def test_an_async_stream_that_is_dropped_stops_driving(url: str, halting: Halting) -> None:
    """A `break` out of `async for` drops the stream, and the run soon stops being driven."""
    with outlast.Outlast(url, model=halting.model) as app:

        async def main() -> None:
            before = asyncio.all_tasks()
            async for _ in app.astream(AGENT, "Go.", run_id="r"):
                break
            gc.collect()
            await auntil(lambda: asyncio.all_tasks() <= before)
            assert halting.given_up.is_set()

        asyncio.run(main())
        goes_on(app, halting)


def test_leaving_after_the_end_changes_nothing(url: str) -> None:
    """Whoever leaves when the run is over, whether all parts were taken or not, has the run."""
    with outlast.Outlast(url, model=ScriptedModel(everything)) as app:
        with app.stream(LOOKING, "Owls?", run_id="r") as stream:
            next(stream)
            until(lambda: not asyncio.all_tasks(loop_of(app)))
        assert stream.run.status == "completed"
        assert list(stream) == []


def test_an_error_behind_the_back_of_who_left_is_no_noise(
    halting: Halting, caplog: pytest.LogCaptureFixture
) -> None:
    """A run that breaks while nobody asks for parts leaves no complaint of the event loop's."""
    journal = Full(takes=1)
    with outlast.Outlast(journal, model=halting.model) as app:
        stream = app.stream(AGENT, "Go.", run_id="r")
        next(stream)
        halting.let.set()
        until(lambda: not asyncio.all_tasks(loop_of(app)))
        del stream
        gc.collect()
    assert "never retrieved" not in caplog.text


def test_closing_the_application_ends_its_streams(file: str, halting: Halting) -> None:
    """Who waits for a part when the application is closed is told so, and so is who asks later."""
    app = outlast.Outlast(file, model=halting.model)
    waiting = app.stream(AGENT, "Go.", run_id="r")
    idle = app.stream(AGENT, "Go.", run_id="r")
    next(waiting)
    with ThreadPoolExecutor(1) as pool:
        taking = pool.submit(next, waiting)
        idling = app.stream(AGENT, "Other.", run_id="s")
        next(idling)
        app.close()
        error = taking.exception(PATIENCE_S)
    assert isinstance(error, outlast.UsageError)
    assert "closed while" in str(error)
    threads = threading.active_count()
    with pytest.raises(outlast.UsageError, match="closed while it streamed run 's'"):
        next(idling)
    idling.close()
    waiting.close()
    idle.close()
    assert threading.active_count() == threads, "closing twice starts nothing"
    halting.let.set()
    with outlast.Outlast(file, model=halting.model) as again:
        assert said(again.stream(AGENT, "Go.", run_id="r")) == "one two"


def test_parts_are_in_the_order_of_the_journal(url: str) -> None:
    """Parts of a later call never come before those of an earlier one."""
    with outlast.Outlast(url, model=ScriptedModel(counting)) as app:
        parts = list(app.stream(LOOKING, "q", run_id="r"))
        order = [r.event.call_id for r in app.log("r") if isinstance(r.event, ModelCallStarted)]
    places = [order.index(part.call_id) for part in parts]
    assert all(a <= b for a, b in pairwise(places))
    assert sorted(set(places)) == list(range(5))
