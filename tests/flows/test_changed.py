"""The code of a flow is changed between a crash and the resume: each case ends as its row says."""

# ruff: noqa: E501  (a row of the table is a line)

from __future__ import annotations

import itertools
import linecache
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import kinds
import msgspec
import pytest
from kinds import answer, look, script, user
from playing import World, lived

import outlast
from outlast.errors import FlowChanged, OutlastError, RunConflict, UsageError, VersionChanged
from outlast.events import NoteAdded
from outlast.journal import run_stream

LINES = [
    'run.enter("early")',
    'one = await run.ask(helper, "one")',
    'found = await run.step("find", look, "owls")',
    'kept = await run.step("keep", keep, "owls")',
    'await run.sleep("1h")',
    'drawn = run.uuid(name="drawn")',
    'kids = await run.map(helper, ["k1", "k2"], name="kids")',
    'hello = await run.ask(talker, "hello", conversation="c")',
    'run.enter("late")',
    'used = await run.ask(user, "use tools")',
    'again = await run.ask(talker, "again", conversation="c")',
    'two = await run.ask(helper, "two")',
    "return [one, found, kept, kids, hello, used, again, two]",
]
"""The code that the run is begun with; it dies at `two`, unless a row says where."""

talker = kinds.agent("talker")
_versions = itertools.count(1)


def flow(*lines: str, **names: Any) -> outlast.Flow[..., Any]:
    """Return the flow of these lines, as if they had stood in a file."""
    table = '{"early": ["middle", "late"], "middle": ["late"], "late": ["end"], "end": []}'
    head = [f"@outlast.flow(name='f', phases={table})", "async def f(run, word):"]
    code = [line + "\n" for line in (*head, *(f"    {line}" for line in lines))]
    file = f"<version {next(_versions)} of a flow>"
    linecache.cache[file] = (0, None, code, file)
    space = vars(kinds) | {"talker": talker, "__name__": "flow_of_a_test"} | names
    exec(compile("".join(code), file, "exec"), space)  # noqa: S102  (our own text)
    made: outlast.Flow[..., Any] = space["f"]
    return made


# ── the table ───────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Case:
    """A change, and what it comes to.

    Attributes:
        name: of the case.
        was: lines, or parts of them, of the code before.
        now: what stands in their place afterwards.
        ends: what the resume raises; `None`: it goes on.
        says: what the message says of both sides.
        differs: what the answer has in another way than without the change, by its place.
        names: what the code means by other names than before.
        at: the ask at which the process dies.
        noted: what the journal notes of the change.
        given: another input of the run.

    """

    name: str
    was: tuple[str, ...] = ()
    now: tuple[str, ...] = ()
    ends: type[OutlastError] | None = None
    says: tuple[str, ...] = ()
    differs: dict[int, Any] = field(default_factory=dict)
    names: dict[str, Any] = field(default_factory=dict)
    at: str = '"two"'
    noted: str = "f was changed (its code)"
    given: str = "x"


def changed(name: str, was: str, now: str, *says: str, **more: Any) -> Case:
    return Case(name, (was,), (now,), FlowChanged, says, **more)


def goes_on(name: str, was: str, now: str, **more: Any) -> Case:
    return Case(name, (was,), (now,), **more)


ONE, FIND, TWO = LINES[1], LINES[2], LINES[11]
NEW = 'await run.ask(helper, "new", name="new")'
BARE = 'await run.ask(helper, "new")'
STEP = 'await run.step("new", look, "new")'

other_model = outlast.Agent(
    "helper", model="claude-sonnet-5-5", instructions="helper", max_tokens=512
)
other_words = outlast.Agent("helper", model=kinds.MODEL, instructions="Be rude.", max_tokens=512)
fewer_tools = kinds.agent("user", look)
more_tools = kinds.agent(
    "user", *user.tools, outlast.tool(effect="read", name="more")(kinds.broken)
)

CASES = [
    Case("nothing", noted=""),
    # ── added
    goes_on("a named ask added before", ONE, f"{NEW}\n    {ONE}"),
    goes_on("a named ask added between", FIND, f"{NEW}\n    {FIND}"),
    goes_on("a named ask added after", TWO, f"{TWO}\n    {NEW}"),
    goes_on("an ask without a name added after", TWO, f"{TWO}\n    {BARE}"),
    changed("an ask without a name added before", ONE, f"{BARE}\n    {ONE}", '"one"', '"new"'),
    changed("an ask without a name added between", TWO, f"{BARE}\n    {TWO}", '"two"', '"new"'),
    goes_on("a step added before", ONE, f"{STEP}\n    {ONE}"),
    goes_on("a step added between", TWO, f"{STEP}\n    {TWO}"),
    goes_on("a step added after", TWO, f"{TWO}\n    {STEP}"),
    # ── removed
    changed("the first ask without a name removed", ONE, "one = 1", '"one"', '"two"'),
    goes_on("the last ask removed, which is open", TWO, "two = 2", differs={7: 2}),
    goes_on("a step removed", FIND, "found = 3", differs={1: 3}),
    goes_on("a sleep removed", LINES[4], "pass"),
    goes_on("children removed", LINES[6], "kids = 4", differs={3: 4}),
    goes_on("a value removed", LINES[5], "pass"),
    # ── renamed
    goes_on("a step renamed", '"find"', '"seek"'),
    Case("an ask renamed", (ONE, TWO), (ONE.replace('"one"', '"one", name="uno"'), TWO.replace('"two"', '"two", name="helper-2"'))),
    goes_on("children renamed", '"kids"', '"children"'),
    # ── swapped
    Case("two steps swapped", (FIND, LINES[3]), (LINES[3], FIND)),
    Case("the names of two steps swapped", ('"find", look', '"keep", keep'), ('"keep", look', '"find", keep'), FlowChanged, ("'look'", "'keep'")),
    changed("the function of a step", '"find", look', '"find", keep', "'look'", "'keep'"),
    changed("the agent of children", "run.map(helper", "run.map(talker", "'helper'", "'talker'"),
    goes_on("a function without a name", '"find", look, "owls"', '"find", lambda word: None, "owls"'),
    changed("two asks without a name swapped", '"one"', '"two"', '"one"', '"two"'),
    changed("the agent of an ask", 'run.ask(helper, "one")', 'run.ask(user, "one", name="helper-1")', "helper", "user"),
    # ── given something else
    changed("the question of an ask", '"one"', '"one more"', '"one"', '"one more"'),
    changed("the question of an open ask", '"two"', '"two more"', '"two"', '"two more"'),
    changed("the argument of a step", '"owls")', '"mice")', "something else", "other arguments"),
    changed("the argument of a step, by keyword", 'look, "owls"', 'look, word="owls"', "other arguments"),
    changed("the input of a child", '"k1"', '"k3"', "something else", "other arguments"),
    goes_on("more children", '"k2"]', '"k2", "k3"]', differs={3: [answer(f"k{n}") for n in (1, 2, 3)]}),
    goes_on("fewer children", ', "k2"]', "]", differs={3: [answer("k1")]}),
    Case("the input of the run", ends=RunConflict, says=('"x"', '"y"'), given="y", noted=""),
    goes_on("a sleep shortened", '"1h"', '"1s"'),
    goes_on("a sleep lengthened", '"1h"', '"2d"'),
    # ── of another kind
    goes_on("another effect", 'look, "owls"', 'look, "owls", effect="once"'),
    changed("a step becomes an ask", FIND, 'found = await run.ask(helper, "find", name="find")', "a step", "an ask"),
    changed("an ask becomes a step", ONE, 'one = await run.step("helper-1", look, "one")', "an ask", "a step"),
    changed("a step becomes a sleep", FIND, 'found = await run.sleep(1, name="find")', "a step", "a sleep"),
    changed("a step becomes a value", FIND, 'found = run.random(name="find")', "a step", "a value"),
    changed("a value becomes a step", LINES[5], 'await run.step("drawn", look, "x")', "a value", "a step"),
    changed("a value of another kind", "run.uuid", "run.random", "the value", "random"),
    changed("a time becomes an id", "run.uuid", "run.now", "the value", "now"),
    changed("a child becomes a step", LINES[6], 'kids = await run.step("kids/1", look, "k1")', "a child", "a step"),
    # ── phases
    goes_on("a phase added after", TWO, f'run.enter("end")\n    {TWO}'),
    changed("a phase added between", LINES[8], f'run.enter("middle")\n    {LINES[8]}', "late", "middle"),
    changed("a phase added before", LINES[0], f'run.enter("middle")\n    {LINES[0]}', "early", "middle"),
    changed("the first phase removed", LINES[0], "pass", "early", "late"),
    goes_on("the last phase removed", LINES[8], "pass"),
    changed("a phase renamed", '"late"', '"middle"', "late", "middle"),
    # ── agents
    goes_on("another model", "", "", names={"helper": other_model}, noted="helper was changed (model)"),
    goes_on("other instructions", "", "", names={"helper": other_words}, noted="helper was changed (instructions)"),
    goes_on("a tool added", "", "", names={"user": more_tools}, noted="user was changed (tools)"),
    goes_on("a tool removed, when it was used", "", "", names={"user": fewer_tools}, noted="user was changed (tools)"),
    Case("a tool removed, while it may be used", ends=UsageError, says=("keep, send",), names={"user": fewer_tools}, at="use tools", noted=""),
    # ── conversations
    goes_on("a conversation renamed throughout", ', conversation="c"', ', conversation="d"'),
    changed("an ask taken out of its conversation", '"again", conversation="c"', '"again"', "goes on after 'talker-1'", "on its own"),
    changed("an ask moved to another conversation", '"again", conversation="c"', '"again", conversation="d"', "goes on after 'talker-1'", "on its own", at="again"),
    goes_on("an ask brought into a new conversation", '"two")', '"two", conversation="c")'),
]  # fmt: skip
"""One row for each way to change the code."""


def edited(case: Case) -> outlast.Flow[..., Any]:
    text = "\n".join(LINES)
    for number, was in enumerate(case.was):
        assert was in text, was
        text = text.replace(was, f"\0{number}")
    for number, now in enumerate(case.now):
        text = text.replace(f"\0{number}", now)
    return flow(*text.replace("\n    ", "\n").split("\n"), **case.names)


def begun(world: World, at: str, **options: Any) -> outlast.Flow[..., Any]:
    """Begin a run with the code before, which dies when it asks that; return the code."""
    before = flow(*LINES)
    assert lived(world, driving(before), asked=at, **options) is None, "nobody asked that"
    return before


def driving(who: Any, given: str = "x") -> Callable[[outlast.Outlast], Any]:
    async def main(app: outlast.Outlast) -> Any:
        try:
            return await app.arun(who, given, run_id="r", wait_s=1e6)
        except OutlastError as error:
            return error

    return main


def written(world: World) -> list[Any]:
    """Return what all runs have in their journals, notes aside."""
    runs = sorted(world.states())
    records = [record for run_id in runs for record in world.journal.read(run_stream(run_id))]
    return [record.event for record in records if not isinstance(record.event, NoteAdded)]


def notes(world: World) -> list[str]:
    records = world.journal.read(run_stream("r"))
    return [record.event.text for record in records if isinstance(record.event, NoteAdded)]


EXPECTED = [
    answer("one"),
    "what owls means",
    "kept owls",
    [answer("k1"), answer("k2")],
    answer("hello"),
    'results: ["what tools means","kept tools","sent tools"]',
    answer("again", "hello"),
    answer("two"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_changed_code(case: Case) -> None:
    """A change of the code ends as its row says, and with the old code the run still goes on."""
    world = World(script)
    before = begun(world, case.at)
    had = written(world)
    came = lived(world, driving(edited(case), case.given))
    if case.ends is None:
        assert isinstance(came, outlast.Run), came
        assert came.status == "completed", came.why
        expected = [case.differs.get(place, value) for place, value in enumerate(EXPECTED)]
        assert came.answer == expected
        assert bool(case.noted) == bool(notes(world))
        assert case.noted in "".join(notes(world))
        check_models(world)
    else:
        assert type(came) is case.ends, came
        for side in case.says:
            assert side in str(came), came
        assert written(world) == had, "something was written"
        again = lived(world, driving(before))
        assert isinstance(again, outlast.Run), again
        assert again.answer == EXPECTED
    check_world_of(world)
    world.loop.close()


def check_models(world: World) -> None:
    """See that every conversation stays with the model and the instructions it began with."""
    for body in world.model.calls:
        request = msgspec.json.decode(body)
        assert request["model"] == kinds.MODEL
        assert "rude" not in str(request.get("system"))


def check_world_of(world: World) -> None:
    refused = [one.fault for one in world.answers if one.outcome == "refused"]
    assert not refused, refused
    assert world.ran["send tools"] == 1
    for state in world.states().values():
        assert state.spend.held_nano == 0


REFUSED = [
    *[case for case in CASES if case.noted.startswith(("helper", "user")) and case.ends is None],
    next(case for case in CASES if case.name == "a step added after"),
    next(case for case in CASES if case.name == "another effect"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_refused(case: Case) -> None:
    """With `on_change="refuse"` no changed code goes on and nothing is written; the old code does."""
    world = World(script)
    before = begun(world, case.at, on_change="refuse")
    had = written(world)
    came = lived(world, driving(edited(case)), on_change="refuse")
    assert type(came) is VersionChanged, came
    assert came.recorded in str(came)
    assert came.given in str(came)
    assert came.recorded != came.given
    assert written(world) == had
    assert not notes(world)
    again = lived(world, driving(before), on_change="refuse")
    assert again.answer == EXPECTED
    world.loop.close()
