"""Tools that do what no tool should: the run goes on, and so does everything beside it."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Awaitable, Iterator
from fractions import Fraction
from typing import Any, TypedDict

import msgspec
import pytest

import outlast
from outlast.events import ToolCallFailed, ToolCallSucceeded
from outlast.models.script import tool_use
from outlast.models.scripted import ScriptedModel
from stubs import agent, asking, results

SECRET = "sk-ant-api03-WHAT-NOBODY-MAY-READ"  # noqa: S105  (it opens nothing)
MB = 1_000_000
PATIENCE_S = 60


class Played:
    """A run in which Claude uses each tool once, at once."""

    def __init__(self, *tools: outlast.Tool[..., Any], **more: Any) -> None:
        self.model = ScriptedModel(asking(*[tool_use(tool.name, {}) for tool in tools]))
        with outlast.Outlast("memory://", model=self.model, **more) as app:
            run = app.run(agent(*tools), "Go.", run_id="r")
            assert run.answer == "done", run.why
            self.events = [record.event for record in app.log("r")]
            self.blobs = [
                app.journal.blob(one.blob)
                for one in self.events
                if isinstance(one, ToolCallSucceeded) and one.blob
            ]
        self.results = results(self.model)

    @property
    def journal(self) -> bytes:
        """All that was written."""
        return b"\n".join(map(msgspec.json.encode, self.events))


def reading(function: Any, **more: Any) -> outlast.Tool[..., Any]:
    return outlast.tool(**({"name": "find", "effect": "read"} | more))(function)


# ── a result that is far too long ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "value",
    [lambda: "x" * 50 * MB, lambda: ["x" * MB] * 50, lambda: "é" * 25 * MB],
    ids=["text", "data", "beyond ASCII"],
)
def test_50_megabytes(value: Any) -> None:
    """Claude gets what fits, with a note; the journal is as small; and the whole is kept."""
    played = Played(reading(value), reading(lambda: "beside it", name="other"))
    first, second = played.results
    assert len(first["content"].encode()) < 70_000
    assert "bytes are missing here" in first["content"]
    assert second["content"] == "beside it"
    assert len(played.journal) < 200_000
    (whole,) = played.blobs
    assert whole is not None
    assert len(whole) >= 50 * MB


def test_50_megabytes_of_an_error() -> None:
    """An exception, and a `ToolError`, may say as much: neither Claude nor the journal gets it."""

    def fail() -> None:
        raise ValueError("x" * 50 * MB)

    def say() -> None:
        raise outlast.ToolError("x" * 50 * MB)

    played = Played(reading(fail), reading(say, name="other"))
    assert all(result["is_error"] for result in played.results)
    assert sum(len(body) for body in played.model.calls) < 200_000
    assert len(played.journal) < 300_000


# ── an exception that holds a secret ────────────────────────────────────────────────────────────


def leak(kind: type[BaseException]) -> Any:
    def fail() -> None:
        try:
            {}[SECRET]
        except KeyError as error:
            raise kind(f"401 for key {SECRET}") from error

    return fail


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("attempts", [1, 2])
@pytest.mark.parametrize(
    "kind", [ValueError, ConnectionRefusedError, SystemExit, outlast.ToolError]
)
def test_a_secret_reaches_neither_claude_nor_the_journal(
    kind: type[BaseException],
    attempts: int,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With `redact=` no text of an exception holds it: not to Claude, in the journal, or a log."""

    def redact(text: str) -> str:
        return text.replace(SECRET, "[key]")

    for fallbacks in ([], [reading(leak(kind), name="other")]):
        tool = reading(leak(kind), attempts=attempts, fallbacks=fallbacks)
        with caplog.at_level("DEBUG"):
            played = Played(tool, redact=redact)
        assert played.results[0]["is_error"] is True
        said = b"".join(played.model.calls) + played.journal + caplog.text.encode()
        assert SECRET.encode() not in said + "".join(capfd.readouterr()).encode()
        failed = [one for one in played.events if isinstance(one, ToolCallFailed)]
        assert all("[key]" in one.error for one in failed)


def test_of_a_secret_claude_hears_nothing_anyway() -> None:
    """Without `redact=` people can read it in the journal, and Claude still cannot."""
    for fallbacks in ([], [reading(leak(ValueError), name="other")]):
        played = Played(reading(leak(ValueError), fallbacks=fallbacks))
        assert SECRET.encode() not in b"".join(played.model.calls)
        assert SECRET.encode() in played.journal


# ── leaving, printing, never returning ──────────────────────────────────────────────────────────


def at_once() -> None:
    sys.exit()


def with_success() -> None:
    sys.exit(0)


async def in_a_coroutine() -> None:
    sys.exit(3)


@pytest.mark.parametrize("leave", [at_once, with_success, in_a_coroutine])
def test_one_that_leaves(leave: Any) -> None:
    """`sys.exit`, with whatever code, ends the call and nothing else."""
    played = Played(reading(leave), reading(lambda: "beside it", name="other"))
    first, second = played.results
    assert first["is_error"] is True
    assert first["content"] == "find failed with SystemExit. The call has no result."
    assert second["content"] == "beside it"


def lazily_done(end: Any) -> Any:
    def rows() -> Iterator[int]:
        yield 1
        end()

    return rows


def plainly(end: Any) -> Any:
    def find() -> Any:
        return lazily_done(end)()

    return find


def deep(end: Any) -> Any:
    return lambda: {"rows": lazily_done(end)()}


def degraded(end: Any) -> Any:
    return lambda: outlast.Degraded(lazily_done(end)())


def coroutine(end: Any) -> Any:
    async def rows() -> Iterator[int]:
        return lazily_done(end)()

    return rows


LAZY = [plainly, deep, degraded, coroutine]
LAZY_IDS = ["plain", "in a dict", "degraded", "coroutine"]


@pytest.mark.parametrize("lazy", LAZY, ids=LAZY_IDS)
def test_what_makes_its_result_later_leaves_no_further(lazy: Any) -> None:
    """What a result does when it is looked at is done where the tool is, and contained as that."""

    def reset() -> None:
        raise ConnectionResetError

    for end, told in ((sys.exit, "SystemExit"), (reset, "ConnectionResetError")):
        played = Played(reading(lazy(end)), reading(lambda: "beside it", name="other"))
        first, second = played.results
        assert first["content"] == f"find failed with {told}. The call has no result."
        assert (first["is_error"], second["content"]) == (True, "beside it")


@pytest.mark.parametrize("lazy", LAZY, ids=LAZY_IDS)
def test_what_makes_its_result_for_ever_is_given_up(lazy: Any) -> None:
    """A result that takes for ever to be looked at has the time of its tool, and blocks no loop."""
    end = threading.Event()
    try:
        played = Played(
            reading(lazy(lambda: end.wait(PATIENCE_S)), timeout_s=0.2),
            reading(lambda: "beside it", name="other"),
        )
    finally:
        end.set()
    first, second = played.results
    assert first["content"] == "find did not return within 0.2 s. The call has no result."
    assert (first["is_error"], second["content"]) == (True, "beside it")


def test_a_result_without_an_end_is_made_no_further() -> None:
    """Nobody waits for it after its time, so it takes no more memory then."""
    made, over = itertools.count(), threading.Event()

    def rows() -> Iterator[int]:
        try:
            for number in made:
                time.sleep(0.001)
                yield number
        finally:
            over.set()

    played = Played(reading(lambda: rows(), timeout_s=0.1))  # noqa: PLW0108  (no generator itself)
    assert played.results[0]["is_error"] is True
    assert over.wait(PATIENCE_S)


class Leaves(Exception):
    """Leaves when it is asked anything."""

    def __str__(self) -> str:  # noqa: PLE0307  (it does not come to that)
        sys.exit(3)

    @property
    def status_code(self) -> int:
        sys.exit(3)

    @property
    def retry_after(self) -> float:
        sys.exit(3)


def test_an_exception_that_leaves() -> None:
    """`sys.exit` in the text or an attribute of an exception ends the call and nothing else."""

    def fail() -> None:
        raise Leaves

    played = Played(reading(fail), reading(lambda: "beside it", name="other"))
    first, second = played.results
    assert first["content"] == "find failed with Leaves. The call has no result."
    assert (first["is_error"], second["content"]) == (True, "beside it")


def test_one_that_never_returns_holds_nobody_up() -> None:
    """Others of the reply have their results, and each call its own time."""
    end = threading.Event()
    played = Played(
        reading(lambda: end.wait(PATIENCE_S), timeout_s=0.1),
        reading(lambda: "beside it", name="other"),
    )
    end.set()
    first, second = played.results
    assert first["content"] == "find did not return within 0.1 s. The call has no result."
    assert (first["is_error"], second["content"]) == (True, "beside it")


def test_a_thread_that_blocks_leaves_the_loop_alone() -> None:
    """A plain function may block as it likes: coroutines beside it go on meanwhile."""
    let_go = threading.Event()

    async def other() -> str:
        await asyncio.sleep(0)
        let_go.set()
        return "beside it"

    def block() -> str:
        return "let go" if let_go.wait(PATIENCE_S) else "held up"

    played = Played(reading(block), reading(other, name="other"))
    assert [result["content"] for result in played.results] == ["let go", "beside it"]


def test_what_is_printed_is_no_result(capfd: pytest.CaptureFixture[str]) -> None:
    """By `print`, by the descriptor, or to standard error: it goes there, and Claude reads none."""

    def chat() -> str:
        print("aloud")  # noqa: T201  (the point of it)
        os.write(1, b"aloud, by the descriptor\n")
        print("aloud, as an error", file=sys.stderr)  # noqa: T201
        return "found"

    played = Played(reading(chat))
    assert played.results[0]["content"] == "found"
    out, err = capfd.readouterr()
    assert "aloud, by the descriptor" in out
    assert err == "aloud, as an error\n"


# ── what is promised of a result ────────────────────────────────────────────────────────────────


class Row(TypedDict):
    """A type that pydantic has no schema for before Python 3.12."""

    name: str


def rows(value: Any) -> Any:
    def find() -> list[Row]:
        return value  # type: ignore[no-any-return]

    return find


def plain(value: Any) -> Any:
    async def later() -> Any:
        return value

    def find() -> Awaitable[list[int]]:
        return later()

    return find


def lazily(value: Any) -> Any:
    def find() -> Iterator[int]:
        return iter(value)

    return find


def unknown(value: Any) -> Any:
    def find() -> list["Nowhere"]:  # type: ignore[name-defined]  # noqa: F821, UP037
        return value  # type: ignore[no-any-return]

    return find


def exact(value: Any) -> Any:
    def find() -> Fraction:
        return value  # type: ignore[no-any-return]

    return find


HINTS: dict[str, tuple[Any, bool]] = {
    "rows": (rows([{"name": "x"}]), False),
    "no rows": (rows([]), False),
    "an object for rows": (rows({}), True),
    "none for rows": (rows(None), True),
    "a text for rows": (rows("down"), True),
    "awaitable": (plain([1]), False),
    "an object for an awaitable": (plain({}), True),
    "iterator": (lazily([1]), False),
    "iterator of none": (lazily([]), False),
    "a type of nowhere": (unknown([1]), False),
    "a text for a class": (exact("down"), True),
}


@pytest.mark.parametrize("name", HINTS)
def test_a_result_is_checked_by_its_hint(name: str) -> None:
    """Whatever the hint, an answer of the type is one, and anything else is an error."""
    function, is_error = HINTS[name]
    (result,) = Played(reading(function)).results
    assert result.get("is_error", False) is is_error


@pytest.mark.parametrize(
    "value",
    [None, "", " \n", "{}", " []", "null", b"", [], {}, (), set(), iter(())],
    ids=lambda value: f"{type(value).__name__} {value!r:.8}",
)
def test_what_is_empty(value: Any) -> None:
    """Nothing, as data or as a text of data, is an answer, and a failure where it is said so."""
    (failed,) = Played(reading(lambda: value, empty_is_failure=True)).results
    assert failed["is_error"] is True
    assert "is empty, which counts as a failure" in failed["content"]
    played = Played(reading(lambda: value))
    assert "is_error" not in played.results[0]
    (done,) = [one for one in played.events if isinstance(one, ToolCallSucceeded)]
    assert done.empty


@pytest.mark.parametrize("value", [0, False, "0", "no", [[]], {"grants": []}, [None]], ids=repr)
def test_what_is_not_empty(value: Any) -> None:
    """A nought and a no are answers."""
    played = Played(reading(lambda: value, empty_is_failure=True))
    assert "is_error" not in played.results[0]
    expected = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    assert played.results[0]["content"] == expected


def test_a_tool_that_blocks_its_loop_is_given_up() -> None:
    """A coroutine that blocks is given up in time, and what is called beside it has its result."""
    free = threading.Event()

    @outlast.tool(effect="read", timeout_s=0.2)
    async def blocks() -> str:
        """Block the loop it runs on."""
        free.wait(PATIENCE_S)
        return "late"

    @outlast.tool(effect="read")
    async def beside() -> str:
        """Answer at once."""
        await asyncio.sleep(0)
        return "here"

    try:
        played = Played(blocks, beside)
    finally:
        free.set()
    blocked, other = played.results
    assert blocked["content"] == "blocks did not return within 0.2 s. The call has no result."
    assert (blocked["is_error"], other["content"]) == (True, "here")
