"""Logging: a line of a tool leads to its place in the journal, and a journal can be watched."""

import asyncio
import contextvars
import importlib
import json
import logging
import threading
import types
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

import outlast
from outlast import logs
from outlast.events import ToolCallStarted, tag
from outlast.models.script import Fault, Turn, faulty, once, say, text, tool_use, turn_number
from outlast.models.scripted import ScriptedModel
from stubs import agent, asking

SECRET = "the-question-nobody-may-read"  # noqa: S105  (what must not be logged)
TOOLS = logging.getLogger("tests.tools")


class Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def listening(name: str, level: int) -> Iterator[list[logging.LogRecord]]:
    """Listen to a logger with the filter that users add, and put everything back."""
    logger, lines = logging.getLogger(name), Lines()
    before = logger.level
    lines.addFilter(outlast.LogContext())
    logger.addHandler(lines)
    logger.setLevel(level)
    try:
        yield lines.records
    finally:
        logger.removeHandler(lines)
        logger.setLevel(before)


def where(record: logging.LogRecord) -> tuple[str, int]:
    return vars(record)["run_id"], vars(record)["seq"]


# ── inside tools ──────────────────────────────────────────────────────────────────────────────


@outlast.tool(effect="read")
def in_thread(word: str) -> str:
    TOOLS.info(word)
    return word


@outlast.tool(effect="read")
async def in_loop(word: str) -> str:
    await asyncio.sleep(0)
    TOOLS.info(word)
    await asyncio.create_task(later(word))
    return word


async def later(word: str) -> None:
    TOOLS.info(word)


@outlast.tool(effect="read")
def handed_out(word: str) -> Any:
    return in_loop.function(word=word)


ALL = agent(in_thread, in_loop, handed_out)
USES = [tool_use(tool.name, {"word": tool.name}) for tool in ALL.tools]


def run(app: outlast.Outlast, of: outlast.Agent, question: str, run_id: str) -> None:
    app.run(of, question, run_id=run_id)


def arun(app: outlast.Outlast, of: outlast.Agent, question: str, run_id: str) -> None:
    asyncio.run(app.arun(of, question, run_id=run_id))


def stream(app: outlast.Outlast, of: outlast.Agent, question: str, run_id: str) -> None:
    list(app.stream(of, question, run_id=run_id))


def astream(app: outlast.Outlast, of: outlast.Agent, question: str, run_id: str) -> None:
    async def main() -> None:
        async for _ in app.astream(of, question, run_id=run_id):
            pass

    asyncio.run(main())


WAYS = [run, arun, stream, astream]
Way = Callable[[outlast.Outlast, outlast.Agent, str, str], None]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("uses", [USES[:1], USES[1:2], USES], ids=["sync", "async", "beside"])
def test_what_a_tool_logs_leads_to_its_intent(way: Way, uses: list[dict[str, Any]]) -> None:
    """Whatever a tool logs, in threads and tasks too, has the run and the seq of its intent."""
    with (
        listening("tests.tools", logging.INFO) as lines,
        outlast.Outlast("memory://", model=ScriptedModel(asking(*uses))) as app,
    ):
        TOOLS.info("outside")
        way(app, ALL, "Go.", "r")
        TOOLS.info("outside")
        intents = {
            r.event.tool: r.seq for r in app.log("r") if isinstance(r.event, ToolCallStarted)
        }
    assert len(intents) == len(uses)
    assert [where(line) for line in lines if line.msg == "outside"] == [("", 0)] * 2
    inside = [line for line in lines if line.msg != "outside"]
    for line in inside:
        name = "in_loop" if line.msg == "handed_out" else line.msg
        assert where(line) in {("r", intents[tool]) for tool in (name, line.msg) if tool in intents}
    assert {line.msg for line in inside} == {use["input"]["word"] for use in uses}


def test_the_place_names_run_ask_call_and_seq() -> None:
    """Code inside a tool can know its run, ask, call and seq; outside it is nowhere."""
    places = []

    @outlast.tool(effect="read")
    def look(word: str, context: outlast.ToolContext) -> str:
        places.append((logs.place(), context.call_id))
        return word

    script = asking(tool_use("look", {"word": "a"}), tool_use("look", {"word": "b"}))
    with outlast.Outlast("memory://", model=ScriptedModel(script)) as app:
        app.run(agent(look), "Go.", run_id="r")
        intents = {
            r.event.call_id: (r.event.ask_id, r.seq)
            for r in app.log("r")
            if isinstance(r.event, ToolCallStarted)
        }
    assert len(places) == len(intents) == 2
    for here, call_id in places:
        ask_id, seq = intents[call_id]
        assert here == ("r", ask_id, call_id, seq)
    assert logs.place() == ("", "", "", 0)


def test_a_run_inside_a_tool_has_a_place_of_its_own() -> None:
    """A tool that drives another run is where it was again when that one has ended."""
    inner = agent(in_thread)

    with outlast.Outlast("memory://", model=ScriptedModel(asking(*USES[:1]))) as other:

        @outlast.tool(name="in_thread", effect="read")
        async def outer(word: str) -> str:
            TOOLS.info("before")
            await other.arun(inner, "Go.", run_id="inner")
            TOOLS.info("after")
            return word

        with (
            listening("tests.tools", logging.INFO) as lines,
            outlast.Outlast("memory://", model=ScriptedModel(asking(*USES[:1]))) as app,
        ):
            app.run(agent(outer), "Go.", run_id="outer")
    assert [(line.msg, where(line)[0]) for line in lines] == [
        ("before", "outer"),
        ("in_thread", "inner"),
        ("after", "outer"),
    ]


def test_runs_at_the_same_time_do_not_mix() -> None:
    """Tools of many runs on one loop, and in many threads, each have their own run."""

    def script(request: dict[str, Any], attempt: int) -> Turn:
        question = request["messages"][0]["content"]
        word = question if isinstance(question, str) else question[0]["text"]
        uses = [tool_use(use["name"], {"word": word}) for use in USES]
        return say(*uses) if turn_number(request) < 4 else say("done")

    names = [f"run-{number}" for number in range(5)]
    with (
        listening("tests.tools", logging.INFO) as lines,
        outlast.Outlast("memory://", model=ScriptedModel(script)) as app,
        ThreadPoolExecutor(5) as pool,
    ):
        list(pool.map(lambda name: app.run(ALL, name, run_id=name), names))
        seqs = {
            name: {r.seq for r in app.log(name) if isinstance(r.event, ToolCallStarted)}
            for name in names
        }
    assert len(lines) == 5 * 3 * 5
    for line in lines:
        run_id, seq = where(line)
        assert run_id == line.msg
        assert seq in seqs[run_id]


def test_a_record_that_knows_its_place_keeps_it() -> None:
    """The filter adds what is missing, and overwrites nothing."""
    record = logging.makeLogRecord({"run_id": "mine"})
    assert outlast.LogContext().filter(record)
    assert where(record) == ("mine", 0)


def test_a_coroutine_that_is_dropped_is_dropped_quietly() -> None:
    """A call that nobody finishes may be dropped in any context, and says nothing about it."""

    @types.coroutine
    def nothing() -> Generator[None]:
        yield

    async def inside() -> None:
        with logs.placed(logs.Place("r")):
            await nothing()

    coroutine = inside()
    contextvars.copy_context().run(coroutine.send, None)
    contextvars.copy_context().run(coroutine.close)
    assert logs.place() == logs.Place()


CALLER: contextvars.ContextVar[str] = contextvars.ContextVar("caller", default="nobody")


@pytest.mark.parametrize("way", WAYS)
def test_what_the_caller_set_reaches_its_tools(way: Way) -> None:
    """Context variables of the caller, such as a request id, are seen in tools of every kind."""
    seen = []

    @outlast.tool(effect="read")
    def in_thread(word: str) -> str:
        seen.append((CALLER.get(), threading.current_thread() is threading.main_thread()))
        return word

    @outlast.tool(effect="read")
    async def in_loop(word: str) -> str:
        seen.append((CALLER.get(), False))
        return word

    script = asking(*USES[:2])
    with outlast.Outlast("memory://", model=ScriptedModel(script)) as app:
        for name in ("one", "two"):
            token = CALLER.set(name)
            way(app, agent(in_thread, in_loop), "Go.", f"r-{name}")
            CALLER.reset(token)
    assert sorted(seen) == [("one", False)] * 2 + [("two", False)] * 2


# ── the logger of outlast ─────────────────────────────────────────────────────────────────────


@outlast.tool(effect="read")
def broken(word: str) -> str:
    raise ValueError(SECRET)


def telling(app: outlast.Outlast) -> None:
    """Drive a run that has everything: a failed attempt, tools that work and fail, a remark."""
    app.run(agent(in_thread, broken, instructions=SECRET), SECRET, run_id="r")
    app.note("r", SECRET)


def told() -> ScriptedModel:
    uses = [tool_use("in_thread", {"word": SECRET}), tool_use("broken", {"word": SECRET})]
    script = asking(text(SECRET), *uses, answer=SECRET)
    return ScriptedModel(faulty(script, once(1, Fault(kind="status", status=529, message=SECRET))))


def test_every_record_is_a_line() -> None:
    """At DEBUG the logger `outlast` says every record of a run once, with its run and its seq."""
    with (
        listening("outlast", logging.DEBUG) as lines,
        outlast.Outlast("memory://", model=told()) as app,
    ):
        telling(app)
        records = app.log("r")
    assert [where(line) for line in lines] == [("r", record.seq) for record in records]
    for line, record in zip(lines, records, strict=True):
        said = line.getMessage()
        assert said.startswith(f"run r seq {record.seq} {tag(record.event)}")
        assert all(f" {name}=" in said for name in record.event.kept)


def test_nothing_that_anybody_said_is_logged() -> None:
    """No line holds a prompt, an answer, an argument, a result or an error's text."""
    with (
        listening("outlast", logging.DEBUG) as lines,
        outlast.Outlast("memory://", model=told()) as app,
    ):
        telling(app)
        assert SECRET in repr(app.log("r"))
    assert lines
    for line in lines:
        assert SECRET not in line.getMessage()
        assert SECRET not in json.dumps(vars(line), default=str)


def test_at_info_only_what_matters_is_logged() -> None:
    """At INFO there are lines for a run's beginning and end, and for what failed or is in doubt."""
    with (
        listening("outlast", logging.INFO) as lines,
        outlast.Outlast("memory://", model=told()) as app,
    ):
        telling(app)
    assert [line.getMessage().split()[4] for line in lines] == [
        "run_started",
        "model_call_failed",
        "tool_call_failed",
        "run_finished",
    ]
    assert {line.levelno for line in lines} == {logging.INFO}
    assert {tag(kind) for kind in logs.NOTABLE} == {
        "run_started",
        "run_finished",
        "model_call_failed",
        "model_call_in_doubt",
        "tool_call_failed",
        "tool_call_in_doubt",
    }


def test_what_others_write_meanwhile_is_a_line_too() -> None:
    """A remark that another thread writes into a driven run is logged once."""

    @outlast.tool(effect="read")
    def in_thread(word: str) -> str:
        app.note("r", "meanwhile")
        return word

    with (
        listening("outlast", logging.DEBUG) as lines,
        outlast.Outlast("memory://", model=ScriptedModel(asking(*USES[:1]))) as app,
    ):
        app.run(agent(in_thread), "Go.", run_id="r")
        seqs = [record.seq for record in app.log("r")]
    assert sorted(where(line)[1] for line in lines) == seqs


def test_what_is_not_wanted_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody listens, a commit costs one question, and no line is put together."""
    asked = []
    logger = logging.getLogger("outlast")
    monkeypatch.setattr(logger, "isEnabledFor", lambda level: asked.append(level) or False)
    monkeypatch.setattr(logs, "_tell", None)
    commits = 0
    with outlast.Outlast("memory://", model=ScriptedModel(asking(*USES[:1]))) as app:
        append = app.journal.append

        def counted(commit: Any) -> Any:
            nonlocal commits
            commits += 1
            return append(commit)

        monkeypatch.setattr(app.journal, "append", counted)
        app.run(ALL, "Go.", run_id="r")
    assert commits > 3
    assert asked == [logging.INFO] * commits


def test_importing_again_adds_no_handler() -> None:
    """The logger has one handler, which does nothing, however often the module is imported."""
    logger = logging.getLogger("outlast")
    before = list(logger.handlers)
    assert [type(handler) for handler in before] == [logging.NullHandler]
    module = vars(logs).copy()
    try:
        importlib.reload(logs)
        assert logger.handlers == before
    finally:
        vars(logs).update(module)
    assert logger.level == logging.NOTSET
    assert logger.propagate


def test_a_filter_that_raises_costs_no_call() -> None:
    """What a filter of the caller's raises is raised when the run is at rest, and not before."""

    class Broken(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            if "model_call_started" in record.getMessage():
                raise RuntimeError("a mistake in a filter")
            return True

    model = ScriptedModel(asking())
    logger, mistake = logging.getLogger("outlast"), Broken()
    logger.addFilter(mistake)
    try:
        with (
            listening("outlast", logging.DEBUG),
            outlast.Outlast("memory://", model=model) as app,
        ):
            with pytest.raises(RuntimeError, match="a mistake in a filter"):
                app.run(agent(), "Go.", run_id="r")
            assert app.get("r").status == "completed"
    finally:
        logger.removeFilter(mistake)
    assert len(model.calls) == 1
