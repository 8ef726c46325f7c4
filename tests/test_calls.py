"""Tool calls: whatever a function does, the run goes on and the model reads what came of it."""

import asyncio
import contextvars
import dataclasses
import datetime as dt
import subprocess
import sys
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel

import outlast
from outlast.events import (
    ToolCallFailed,
    ToolCallInDoubt,
    ToolCallStarted,
    ToolCallSucceeded,
)
from outlast.models.script import tool_use
from outlast.models.scripted import ScriptedModel
from outlast.tools import MAX_RESULT_BYTES, MAX_RESULT_TOKENS
from stubs import MODEL, agent, asking, results

TEXT = "what only people may read"
PATIENCE_S = 60
"""How long a test waits before it says that something hangs; nothing is expected to take it."""


class Played:
    """A run of an agent whose Claude calls every tool once, in their order, and then answers."""

    def __init__(self, *tools: outlast.Tool[..., Any], **more: Any) -> None:
        uses = [tool_use(tool.name, {}) for tool in tools]
        self.model = ScriptedModel(asking(*uses))
        with outlast.Outlast("memory://", model=self.model) as app:
            self.run = app.run(agent(*tools), "Call them.", run_id="r", **more)
            self.records = app.log("r")
            self.blobs = {e.blob: app.journal.blob(e.blob) for e in self.of(ToolCallSucceeded)}

    def of(self, *types: type) -> list[Any]:
        """Return the events of these types."""
        return [record.event for record in self.records if isinstance(record.event, types)]

    @property
    def result(self) -> dict[str, Any]:
        """The only result that Claude was given."""
        assert self.run.status == "completed", self.run.why
        (only,) = results(self.model)
        return only


def sync_and_async(function: Any, **options: Any) -> list[outlast.Tool[..., Any]]:
    """Return a tool that calls `function` in a thread, and one that does so in a coroutine."""

    async def work() -> Any:
        return function()

    def thread() -> Any:
        return function()

    return [
        outlast.tool(name="work", **options)(thread),
        outlast.tool(name="work", **options)(work),
    ]


def throwing(error: BaseException) -> Any:
    def throw() -> None:
        raise error

    return throw


class Odd(BaseException):
    """An exception that `except Exception` does not see."""


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even that")


# ── a tool that raises ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["thread", "coroutine"])
@pytest.mark.parametrize(
    "error",
    [
        ValueError(TEXT),
        SystemExit(TEXT),
        KeyboardInterrupt(TEXT),
        asyncio.CancelledError(TEXT),
        Odd(TEXT),
        RecursionError(TEXT),
        Mute(TEXT),
        ExceptionGroup(TEXT, [ValueError(TEXT)]),
        outlast.RunNotFound("r", store=TEXT),
        LookupError(f"{TEXT} \ud800 half a pair"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_of_an_exception_claude_learns_the_class(error: BaseException, kind: str) -> None:
    """A tool may raise anything: Claude is told the class, people the text, and the run goes on."""
    thread, coroutine = sync_and_async(throwing(error), effect="once")
    played = Played(thread if kind == "thread" else coroutine)
    assert played.result["content"] == (
        f"work failed with {type(error).__name__}. The call has no result. "
        "Nobody knows what it did before that."
    )
    assert played.result["is_error"] is True
    assert not any(TEXT.encode() in body for body in played.model.calls)
    (failed,) = played.of(ToolCallFailed)
    assert failed.kind == "raised"
    assert failed.error.startswith(f"{type(error).__name__}: ")
    assert isinstance(error, Mute) or TEXT in failed.error


@pytest.mark.parametrize("error", [StopIteration(TEXT), GeneratorExit(TEXT)])
def test_exceptions_that_steer_generators_are_contained(error: BaseException) -> None:
    """What ends a generator ends only the call of the tool that raises it."""
    played = Played(sync_and_async(throwing(error))[0])
    assert played.result["content"].startswith(f"work failed with {type(error).__name__}.")


@pytest.mark.parametrize("tool", sync_and_async(throwing(outlast.ToolError("Closed until 9."))))
def test_a_tool_error_speaks_to_claude(tool: outlast.Tool[..., Any]) -> None:
    """The text of a `ToolError`, and of it alone, is what Claude reads."""
    played = Played(tool)
    assert played.result["content"] == "Closed until 9."
    assert played.result["is_error"] is True
    assert [event.kind for event in played.of(ToolCallFailed)] == ["refused"]


@pytest.mark.parametrize("words", ["", " \n"])
def test_an_error_without_a_word_is_put_into_words(words: str) -> None:
    """Claude's API refuses an error that says nothing, so an empty `ToolError` is told as such."""
    played = Played(sync_and_async(throwing(outlast.ToolError(words)))[0])
    assert played.result["content"] == "work failed with ToolError. The call has no result."


def test_an_error_of_any_length_is_bounded() -> None:
    """Neither Claude nor the journal is given megabytes of an error."""
    played = Played(sync_and_async(throwing(outlast.ToolError("é" * 1_000_000)))[0])
    assert played.result["content"].startswith("ééé")
    content = played.result["content"]
    assert len(content.encode()) < MAX_RESULT_TOKENS + 100
    missing = 2_000_000 - MAX_RESULT_TOKENS
    assert f"[truncated: {missing} of 2000000 bytes are missing here; ask for less" in content
    (failed,) = played.of(ToolCallFailed)
    assert len(failed.error.encode()) < MAX_RESULT_BYTES + 200


def test_what_claude_asks_wrongly_is_answered() -> None:
    """A tool nobody has and arguments that do not fit are answered, and nothing is called."""
    called = []

    @outlast.tool(effect="once")
    def send(to: str) -> None:
        called.append(to)

    uses = [tool_use("nobody", {}), tool_use("send", {"to": 1}), tool_use("send", {"to": "ann"})]
    model = ScriptedModel(asking(*uses))
    with outlast.Outlast("memory://", model=model) as app:
        assert app.run(agent(send), "Go.", run_id="r").status == "completed"
        kinds = [r.event.kind for r in app.log("r") if isinstance(r.event, ToolCallFailed)]
    unknown, invalid, sent = results(model)
    assert unknown["content"] == "This agent has no tool of that name, and nothing was called."
    assert "- to: Input should be a valid string" in invalid["content"]
    assert unknown["is_error"] is invalid["is_error"] is True
    assert sent["content"] == "null"
    assert called == ["ann"]
    assert kinds == ["unknown_tool", "invalid_arguments"]


# ── a tool that hangs ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("effect", "event", "told"),
    [
        ("read", ToolCallFailed, "The call has no result."),
        ("idempotent", ToolCallInDoubt, "The outcome is unknown: it may or may not have happened."),
        ("once", ToolCallInDoubt, ""),
    ],
)
@pytest.mark.parametrize("kind", ["thread", "coroutine"])
def test_a_tool_that_hangs_is_given_up(effect: Any, event: type, told: str, kind: str) -> None:
    """A call is given up after its time; what could have changed the world is in doubt."""
    end, cleaned = threading.Event(), []

    def hang() -> None:
        end.wait(PATIENCE_S)

    async def hang_async() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(True)

    function = hang if kind == "thread" else hang_async
    try:
        played = Played(outlast.tool(name="work", effect=effect, timeout_s=0.05)(function))
    finally:
        end.set()
    (outcome,) = played.of(ToolCallFailed, ToolCallInDoubt)
    assert type(outcome) is event
    if not told:  # a person has to say what became of it first
        assert (played.run.status, len(played.model.calls)) == ("waiting", 1)
        return
    assert played.result["content"] == f"work did not return within 0.05 s. {told}"
    assert played.result["is_error"] is True
    assert outcome.kind == "timeout"
    assert len(played.of(ToolCallStarted)) == 1, "it is not called again"
    assert cleaned == ([True] if kind == "coroutine" else [])


def test_what_a_tool_makes_of_being_given_up_does_not_count() -> None:
    """A coroutine that raises something else when its time is over has timed out all the same."""

    @outlast.tool(effect="once", timeout_s=0.05)
    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            raise ConnectionError("lost") from error

    (outcome,) = Played(work).of(ToolCallFailed, ToolCallInDoubt)
    assert isinstance(outcome, ToolCallInDoubt)
    assert outcome.kind == "timeout"


HANGS = f"""
import threading, outlast
from outlast.models.script import say, tool_use, turn_number
from outlast.models.scripted import ScriptedModel

@outlast.tool(effect="read", timeout_s=0.05)
def hang():
    threading.Event().wait()

def script(request, attempt):
    return say(tool_use("hang", {{}})) if turn_number(request) == 1 else say("done")

agent = outlast.Agent("a", model="{MODEL}", tools=[hang])
print(outlast.Outlast("memory://", model=ScriptedModel(script)).run(agent, "Go.").answer)
"""


def test_a_thread_that_never_returns_does_not_keep_the_process() -> None:
    """The process ends although a tool hangs in its thread for ever, and nothing was closed."""
    ended = subprocess.run(
        [sys.executable, "-c", HANGS],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    assert ended.stdout == "done\n"
    assert ended.stderr == ""


# ── what a tool returns ───────────────────────────────────────────────────────────────────────


class Grant(BaseModel):
    name: str
    due: dt.date


@dataclasses.dataclass
class Point:
    x: int


@pytest.mark.parametrize(
    ("value", "content"),
    [
        ("as it is\n", "as it is\n"),
        ("", ""),
        ("ångström 🦊 \0", "ångström 🦊 \0"),
        (None, "null"),
        ({"a": [1, True, None]}, '{"a":[1,true,null]}'),
        (Grant(name="Ü", due=dt.date(2026, 11, 3)), '{"name":"Ü","due":"2026-11-03"}'),
        (Point(1), '{"x":1}'),
        ((1, Decimal("1.10")), '[1,"1.10"]'),
        (b"ASCII", '"ASCII"'),
        ([float("nan"), float("inf")], "[NaN,Infinity]"),
        (2**70, str(2**70)),
        ((n for n in (1, 2)), "[1,2]"),
    ],
)
def test_a_result_is_text_or_json(value: Any, content: str) -> None:
    """A string is given to Claude as it is, anything else as JSON."""
    played = Played(sync_and_async(lambda: value)[1])
    assert played.result["content"] == content
    assert "is_error" not in played.result


def circular() -> list[Any]:
    inner: list[Any] = []
    inner.append(inner)
    return inner


def nested() -> list[Any]:
    inner: list[Any] = []
    for _ in range(100_000):
        inner = [inner]
    return inner


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (object, "object"),
        (circular, "list"),
        (nested, "list"),
        (lambda: b"\xff", "bytes"),
        (lambda: "\ud800", "str"),
        (lambda: {"a": "\ud800"}, "dict"),
    ],
    ids=["object", "circular", "nested", "bytes", "half a pair", "within"],
)
def test_a_result_that_cannot_be_written_is_said_to_be_so(function: Any, name: str) -> None:
    """Claude learns that the tool was called although its result cannot be written."""
    played = Played(sync_and_async(function, effect="once")[0])
    assert played.result["content"] == (
        f"work was called and returned, but its result ({name}) cannot be written as JSON, so it "
        "is not known what it said."
    )
    assert played.result["is_error"] is True
    assert [event.kind for event in played.of(ToolCallFailed)] == ["bad_result"]


def test_a_function_that_hands_out_a_coroutine_is_awaited() -> None:
    """Decorators make plain functions of coroutine functions; the result is the coroutine's."""

    async def work() -> str:
        await asyncio.sleep(0)
        return "awaited"

    def plain() -> Any:
        return work()

    assert Played(outlast.tool(plain)).result["content"] == "awaited"

    async def fail() -> None:
        raise ValueError(TEXT)

    def plain_fail() -> Any:
        return fail()

    told = "plain_fail failed with ValueError. The call has no result."
    told += " Nobody knows what it did before that."
    assert Played(outlast.tool(plain_fail)).result["content"] == told


@pytest.mark.parametrize(
    ("value", "limit", "kept"),
    [
        ("abcdef", 6, ["abcdef"]),
        ("abcdef", 5, ["abcd", 1, "f"]),
        ("abcdefghijkl", 8, ["abcdef", 4, "kl"]),
        ("aéé", 4, ["aé", 2]),
        ("éééé", 7, ["ééé", 2]),
        ("🦊🦊", 7, ["🦊", 4]),
        ("🦊🦊", 1, [8]),
        ("aﷺb", 16, ["a", 3, "b"]),  # 3 bytes, which may be 33 tokens
        ([1, 2], 5, ["[1,2]"]),
        ([1, 2], 4, ["[1,", 1, "]"]),
    ],
)
def test_a_long_result_is_cut_where_a_character_ends(
    value: Any, limit: int, kept: list[Any]
) -> None:
    """Claude gets both ends, in whole characters, as long as the tool allows, and what is missing.

    A number stands for how many bytes are missing.
    """
    whole = value if isinstance(value, str) else "[1,2]"
    played = Played(outlast.tool(name="work", max_result_tokens=limit)(lambda: value))
    size = len(whole.encode())
    note = f"[truncated: {{}} of {size} bytes are missing here; ask for less at a time]"
    told = [note.format(part) if isinstance(part, int) else part for part in kept]
    assert played.result["content"] == "\n".join(told)
    (succeeded,) = played.of(ToolCallSucceeded)
    assert bool(succeeded.blob) == (kept != [whole])
    assert played.blobs[succeeded.blob] == (None if kept == [whole] else whole.encode())


def test_what_a_tool_prints_goes_nowhere_else(capfd: pytest.CaptureFixture[str]) -> None:
    """What a tool prints is printed, and is nothing to Claude."""
    played = Played(sync_and_async(lambda: print(TEXT))[0])  # noqa: T201  (the point of it)
    assert capfd.readouterr().out == TEXT + "\n"
    assert played.result["content"] == "null"


# ── many tools at once ────────────────────────────────────────────────────────────────────────


def test_ten_tools_at_once() -> None:
    """All calls of a reply run at once, and are answered in one message, in the order asked."""
    together = threading.Barrier(10, timeout=PATIENCE_S)
    turns = [threading.Event() for _ in range(11)]
    turns[10].set()

    def numbered(number: int) -> outlast.Tool[..., Any]:
        @outlast.tool(effect="read", name=f"tool_{number}", timeout_s=None)
        def work() -> int:
            together.wait()  # none returns before all have begun
            turns[number + 1].wait(PATIENCE_S)  # the last one asked returns first
            turns[number].set()
            if number % 4 == 1:
                raise ValueError(TEXT)
            return number

        return work

    played = Played(*map(numbered, range(10)))
    told = [result["content"] for result in results(played.model)]
    failed = {n: f"tool_{n} failed with ValueError. The call has no result." for n in (1, 5, 9)}
    assert told == [failed.get(number, str(number)) for number in range(10)]
    first = msgspec.json.decode(played.model.calls[-1])["messages"][1]["content"]
    assert [r["tool_use_id"] for r in results(played.model)] == [use["id"] for use in first]
    assert [r.get("is_error", False) for r in results(played.model)] == [
        n in failed for n in range(10)
    ]
    assert len(played.model.calls) == 2


def test_an_outcome_is_written_when_it_comes() -> None:
    """The outcome of a call is durable while another call of the same reply is still running."""
    written = threading.Event()

    @outlast.tool(effect="read")
    async def quick() -> str:
        return "quick"

    @outlast.tool(effect="read")
    def slow() -> str:
        return "slow" if written.wait(PATIENCE_S) else "the quick one was held back"

    def watch(record: Any) -> None:
        if isinstance(record.event, ToolCallSucceeded) and b"quick" in bytes(record.event.content):
            written.set()

    played = Played(slow, quick, on_record=watch)
    assert [result["content"] for result in results(played.model)] == ["slow", "quick"]


# ── what a tool knows of its call ─────────────────────────────────────────────────────────────

WHO = contextvars.ContextVar("WHO", default="nobody")


def test_context_variables_reach_every_tool() -> None:
    """What the caller's context holds is there in sync and in async tools, from run and arun."""
    tools = [
        outlast.tool(effect="read", name="thread")(sync_and_async(WHO.get)[0].function),
        sync_and_async(WHO.get, effect="read")[1],
    ]
    reset = WHO.set("ann")
    try:
        played = Played(*tools)
        assert [result["content"] for result in results(played.model)] == ["ann", "ann"]

        async def main() -> list[str]:
            model = ScriptedModel(asking(tool_use("thread", {}), tool_use("work", {})))
            with outlast.Outlast("memory://", model=model) as app:
                WHO.set("bob")
                await app.arun(agent(*tools), "Go.")
            return [result["content"] for result in results(model)]

        assert asyncio.run(main()) == ["bob", "bob"]
    finally:
        WHO.reset(reset)


def test_a_tool_knows_its_call() -> None:
    """The context says which run, which call, for whom, until when, and with what."""
    deps, seen = object(), []

    @outlast.tool(effect="once", timeout_s=5)
    def look(context: outlast.ToolContext) -> None:
        seen.append(context)

    @outlast.tool(effect="once", timeout_s=None)
    async def look_async(context: outlast.ToolContext) -> None:
        seen.append((context, asyncio.get_running_loop().time()))

    model = ScriptedModel(asking(tool_use("look", {}), tool_use("look_async", {})))
    with outlast.Outlast("memory://", model=model, deps=deps) as app:
        app.run(agent(look, look_async), "Go.", run_id="r", tenant="acme")
        calls = [r.event.call_id for r in app.log("r") if isinstance(r.event, ToolCallStarted)]
    seen.sort(key=lambda one: isinstance(one, tuple))
    first, (second, now) = seen
    assert [first.call_id, second.call_id] == calls
    assert (first.run_id, first.tenant, first.deps, first.attempt) == ("r", "acme", deps, 1)
    assert first.deadline is not None
    assert first.deadline - now <= 5
    assert second.deadline is None
    assert first.idempotency_key != second.idempotency_key


@pytest.mark.parametrize("effect", ["read", "idempotent"])
def test_the_idempotency_key_is_that_of_the_call(tmp_path: Path, effect: Any) -> None:
    """Each call has a key of its own, in every run, and keeps it when it is repeated."""
    seen: list[tuple[str, int, str]] = []
    both = asyncio.Event()

    @outlast.tool(effect=effect)
    async def save(text: str, context: outlast.ToolContext) -> None:
        seen.append((context.run_id, context.attempt, context.idempotency_key))
        if len(seen) == 2:
            both.set()
        if context.run_id == "a" and context.attempt == 1:
            await asyncio.Event().wait()

    uses = [tool_use("save", {"text": "same"}), tool_use("save", {"text": "same"})]
    model = ScriptedModel(asking(*uses))

    async def interrupted(app: outlast.Outlast) -> None:
        task = asyncio.create_task(app.arun(agent(save), "Go.", run_id="a"))
        await both.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert (await app.arun(agent(save), "Go.", run_id="a")).status == "completed"
        assert (await app.arun(agent(save), "Go.", run_id="b")).status == "completed"

    with outlast.Outlast(f"sqlite:///{tmp_path}/a.db", model=model) as app:
        asyncio.run(interrupted(app))
    keys = [key for _, _, key in seen]
    assert [(run, attempt) for run, attempt, _ in seen] == [
        *[("a", 1)] * 2,
        *[("a", 2)] * 2,
        *[("b", 1)] * 2,
    ]
    assert keys[:2] == keys[2:4], "a repeat has the key of the first attempt"
    assert len({*keys[:2], *keys[4:]}) == 4, "no other call has it"
