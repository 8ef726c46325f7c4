"""What a cancelled run takes back: in which order, how often, and what is said of the rest."""

import itertools
import re
import time
from collections import Counter
from typing import Any

import pytest

import outlast
from conftest import SOAK
from outlast.errors import UsageError
from outlast.events import ControlGiven, RunFinished
from outlast.journal import Journal, run_stream
from outlast.models.script import say, tool_use, turn_number
from outlast.models.scripted import ScriptedModel
from outlast.state import RunState, fold
from outlast.stores import open_store
from outlast.telling import tell
from outlast.testing.simulation import World, run
from stubs import MODEL, agent

PLAIN = ControlGiven(verb="cancel")
UNDO = ControlGiven(verb="cancel", by="ann", undo=True)


class Desk:
    """Books rooms and cancels them; what it did outlives every crash."""

    def __init__(self, *, effect: Any = "once", fails: int = 0) -> None:
        self.booked: list[str] = []
        self.unbooked: list[str] = []
        self.keys: list[tuple[str, str]] = []
        self.fails = Counter[str]()
        self.journal = open_store("memory://")

        def unbook(room: str, result: str, context: outlast.ToolContext) -> None:
            """Cancel a booking."""
            self.keys.append((room, context.idempotency_key))
            self.fails[room] += 1
            if self.fails[room] <= fails and room == "b":
                raise RuntimeError(f"the desk is closed ({result})")
            self.unbooked.append(room)

        @outlast.tool(effect=effect, undo=unbook)
        def book(room: str) -> str:
            """Book a room."""
            self.booked.append(room)
            return f"booked {room}"

        @outlast.tool(effect="read")
        def look(room: str) -> str:
            """Look at a room."""
            return f"seen {room}"

        self.who = agent(book, look)

    def cancel(self, told: ControlGiven = UNDO) -> None:
        if self.journal.run("r") is not None:
            tell(self.journal, "r", told, strict=False)

    def play(self, world: World) -> RunState:
        state, _ = run(world, self.journal, self.who, "Go.", run_id="r")
        return state


def booking(request: dict[str, Any], attempt: int) -> Any:
    turn = turn_number(request)
    if turn == 1:
        return say(
            tool_use("book", {"room": "a"}),
            tool_use("look", {"room": "x"}),
            tool_use("book", {"room": "b"}),
        )
    return say(tool_use("book", {"room": "c"})) if turn == 2 else say("Done.")


def whole() -> int:
    """Return how many points a run has that nobody cancels."""
    world = World(booking)
    Desk().play(world)
    return world.points


POINTS = range(1, whole() + 1)


def check(desk: Desk, state: RunState, *, crashes: int) -> None:
    """Compare what was booked with what was cancelled, and with what is said of it."""
    assert state.status == "cancelled", state.why
    unknown = [room for room, n in (("a", "1.t1"), ("b", "1.t3"), ("c", "2.t1")) if _lost(state, n)]
    known = [room for room in dict.fromkeys(desk.booked) if room not in unknown]
    assert list(dict.fromkeys(desk.unbooked)) == known[::-1], state.why
    assert len(desk.unbooked) <= len(known) + crashes
    assert len(unknown) <= 2 * crashes, "no more than were in flight when the process died"
    assert len(dict(desk.keys)) == len(set(desk.keys)), "one key, however often it is tried"
    assert len({key for _, key in desk.keys}) == len(known)
    for room in set(desk.booked) - set(known):
        assert room in unknown


def _lost(state: RunState, number: str) -> bool:
    named = re.search(r"of ([^;]*) nobody knows whether it happened", state.why)
    return named is not None and f"ask-1.m{number}" in named[1].split(", ")


@pytest.mark.parametrize("point", POINTS)
def test_it_is_taken_back_newest_first(point: int) -> None:
    """Told at any point, everything booked is cancelled, the newest first, each exactly once."""
    desk = Desk()
    state = desk.play(World(booking, at={point: desk.cancel}))
    if state.status == "completed":
        assert desk.unbooked == []
        return
    check(desk, state, crashes=0)
    booked = len(desk.booked)
    assert (f"{booked} of {booked} call" in state.why) == bool(booked)


@pytest.mark.parametrize("effect", ["once", "idempotent"])
def test_a_crash_anywhere_goes_on_with_it(effect: Any) -> None:
    """Wherever the process dies after it was told, what is known to have happened is taken back."""
    seen = 0
    for told in POINTS if SOAK else POINTS[3::6]:
        for later in itertools.count(0):
            desk = Desk(effect=effect)
            world = World(booking, at={told: desk.cancel}, crash_at=[told + later])
            state = desk.play(world)
            if state.control.cancelled:
                check(desk, state, crashes=1)
                seen += 1
            if world.points < told + later:
                break
    assert seen > 50


def test_what_was_in_flight_is_named() -> None:
    """A call whose process died is not undone, and said to be unknown, also where it happened."""
    trace = World(booking)
    Desk().play(trace)
    point = trace.trace.index("after ask-1.m1.t1") + 1
    desk = Desk()
    state = desk.play(World(booking, at={point: desk.cancel}, crash_at=[point]))
    assert desk.booked == ["a"]
    assert desk.unbooked == []
    assert state.why.endswith("; of ask-1.m1.t1, ask-1.m1.t3 nobody knows whether it happened")


@pytest.mark.parametrize(("fails", "gave_up"), [(1, False), (2, False), (3, True), (9, True)])
def test_a_failing_undo_is_tried_three_times(fails: int, gave_up: bool) -> None:  # noqa: FBT001
    """With the same key; then it is named with its error, and the older ones are still undone."""
    desk = Desk(fails=fails)
    state = desk.play(World(booking, at={POINTS[-1] - 2: desk.cancel}))
    assert desk.unbooked == (["c", "a"] if gave_up else ["c", "b", "a"])
    of_b = [key for room, key in desk.keys if room == "b"]
    assert len(of_b) == min(fails + 1, 3)
    assert len(set(of_b)) == 1
    assert ("book (ask-1.m1.t3) was not: RuntimeError: the desk is closed" in state.why) == gave_up
    assert f"{3 - gave_up} of 3 calls were undone" in state.why


def test_crashes_are_not_failures() -> None:
    """A process that ends under it thrice leaves the function its three tries; five are enough."""
    for crashes in (3, 5, 8):
        desk = Desk()
        last = POINTS[-1] - 2
        world = World(booking, at={last: desk.cancel})
        real, left = world.point, [crashes]

        def point(name: str, real: Any = real, left: Any = left, world: Any = world) -> None:
            if name == "after undo ask-1.m2.t1" and left[0]:
                left[0] -= 1
                world.crash_at = world.crash_at | {world.points + 1}
            real(name)

        world.point = point  # type: ignore[method-assign]
        state = desk.play(world)
        assert desk.unbooked == ["c"] * (crashes + 1 if crashes < 5 else 5) + ["b", "a"]
        assert ("the process ended under it 5 times" in state.why) == (crashes >= 5)


def test_a_plain_cancel_takes_nothing_back() -> None:
    """Without undo nothing is cancelled, at whatever point it comes."""
    for point in POINTS:
        desk = Desk()
        state = desk.play(World(booking, at={point: lambda desk=desk: desk.cancel(PLAIN)}))
        assert desk.unbooked == []
        assert "undone" not in state.why


# ── the application ─────────────────────────────────────────────────────────────────────────────

did: list[str] = []


def unsend(to: str) -> None:
    """Take a letter back."""
    did.append(f"unsend {to}")


def ask_post(to: str) -> None:
    """Nobody knows."""


@outlast.tool(effect="once", undo=unsend, reconcile=ask_post)
def send(to: str) -> str:
    """Send a letter."""
    if to == "lost":
        raise TimeoutError("the post did not reply")
    did.append(f"send {to}")
    return f"sent to {to}"


@outlast.tool(effect="once", approval="always")
def sign(to: str) -> str:
    """Sign it."""
    return "signed"


clerk = outlast.Agent("clerk", model=MODEL, tools=[send, sign])


@outlast.flow
async def letters(run: outlast.Run) -> str:
    await run.ask(clerk, "Send it to ann.", name="first")
    await run.ask(clerk, "Send it to bob.", name="second")
    await run.approval("Done?", name="done")
    return "done"


@outlast.flow
async def office(run: outlast.Run) -> Any:
    return await run.map(letters, [None])


def writing(request: dict[str, Any], attempt: int) -> Any:
    asked = str(request["messages"][0]["content"])
    turn = turn_number(request)
    to = next((name for name in ("ann", "bob", "dan", "lost") if name in asked), "ann")
    if turn == 1:
        return say(tool_use("send", {"to": to}))
    if turn == 2 and "sign" in asked:
        return say(tool_use("sign", {"to": to}))
    return say("Done.")


@pytest.fixture
def journal() -> Journal:
    did.clear()
    return open_store("memory://")


def app(journal: Journal) -> outlast.Outlast:
    return outlast.Outlast(journal, model=ScriptedModel(writing))


def waiting(journal: Journal, who: Any, given: Any = None) -> None:
    found = app(journal).run(who, given, run_id="r")
    assert found.status == "waiting", found.why


def test_a_run_that_waits_for_a_person(journal: Journal) -> None:
    """It is not driven by anybody, so who cancels it takes back what it did, there and then."""
    waiting(journal, clerk, "Send it to ann, and sign.")
    found = app(journal).cancel("r", by="ann", undo=True)
    assert did == ["send ann", "unsend ann"]
    assert found.why == "cancelled by ann; 1 of 1 calls were undone"


def test_a_paused_run(journal: Journal) -> None:
    """One that is paused, too; it need not be resumed for that."""
    waiting(journal, clerk, "Send it to ann, and sign.")
    app(journal).pause("r")
    assert app(journal).cancel("r", undo=True).status == "cancelled"
    assert did == ["send ann", "unsend ann"]


def test_a_call_in_doubt_is_named(journal: Journal) -> None:
    """What a person was to say of a call, nobody says any more: it is named as unknown."""
    waiting(journal, clerk, "Send it to lost.")
    found = app(journal).cancel("r", undo=True)
    assert did == []
    assert found.why.endswith("; of ask-1.m1.t1 nobody knows whether it happened")


def test_a_call_that_a_person_settled_is_taken_back(journal: Journal) -> None:
    """Said to have happened, it is undone as any other; said not to, it is not."""
    for outcome, undone in (("happened", ["unsend lost"]), ("did-not", [])):
        did.clear()
        fresh = open_store("memory://")
        waiting(fresh, clerk, "Send it to lost.")
        lent: Any = outcome
        app(fresh).pause("r")
        app(fresh).reconcile("r", outcome=lent)
        found = app(fresh).cancel("r", undo=True)
        assert did == undone
        assert "nobody knows" not in found.why


def test_the_agents_of_a_flow(journal: Journal) -> None:
    """A flow is executed again as far as it was, to know whose tools did it; in one try."""
    waiting(journal, letters)
    assert did == ["send ann", "send bob"]
    found = app(journal).cancel("r", undo=True)
    assert did[2:] == ["unsend bob", "unsend ann"]
    assert "2 of 2 calls were undone" in found.why
    events = [record.event for record in journal.read(run_stream("r"))]
    assert [getattr(one, "attempt", 0) for one in events if "Undo" in type(one).__name__] == [
        1,
        0,
        1,
        0,
    ]


def test_what_is_below_is_told_the_same(journal: Journal) -> None:
    """The runs below take back what they did, too."""
    waiting(journal, office)
    app(journal).cancel("r", undo=True)
    assert did[2:] == ["unsend bob", "unsend ann"]
    assert [one.status for one in journal.below("r")] == ["cancelled"]


@outlast.flow
async def branches(run: outlast.Run) -> Any:
    await run.ask(clerk, "Send it to ann.")
    return await run.map(clerk, ["Send it to bob, and sign.", "Send it to dan, and sign."])


def test_what_was_done_last_is_taken_back_first_below_it_too(journal: Journal) -> None:
    """The runs below take back what they did first: they stood on what was done before."""
    waiting(journal, branches)
    done = {line.removeprefix("send ") for line in did}
    assert (did[0], done) == ("send ann", {"ann", "bob", "dan"})
    app(journal).cancel("r", undo=True)
    assert did[3:] == ["unsend dan", "unsend bob", "unsend ann"]
    rows = [journal.run("r"), *journal.below("r")]
    ends = [next(reversed([*journal.read(run_stream(row.id))])) for row in rows if row]
    assert max(ends, key=lambda record: record.position) is ends[0], "it ends after those below it"


def test_without_its_code_it_is_left_to_whoever_has_it(journal: Journal) -> None:
    """Nothing is given up where the code is not here: the run stays until a worker takes it."""

    @outlast.tool(effect="once", undo=unsend)
    def send(to: str) -> str:
        """Send a letter."""
        did.append(f"send {to}")
        return "sent"

    local = outlast.Agent("local", model=MODEL, tools=[send, sign])
    waiting(journal, local, "Send it to ann, and sign.")
    assert app(journal).cancel("r", undo=True).status == "queued"
    assert app(journal).cancel("r").status == "queued", "a plain one takes nothing of it back"
    assert did == ["send ann"]
    with outlast.Worker(app(journal), [local]) as worker:
        for _ in range(200):
            if app(journal).get("r").status == "cancelled":
                break
            worker.nudge()
            time.sleep(0.05)
    assert did == ["send ann", "unsend ann"]
    assert "1 of 1 calls were undone" in app(journal).get("r").why


@pytest.mark.parametrize("on_change", ["refuse", "fork"])
def test_a_changed_agent_still_takes_back(journal: Journal, on_change: Any) -> None:
    """Whatever happens to runs whose code was changed, one that is to end goes on with nothing."""

    def local(instructions: str) -> outlast.Agent:
        return outlast.Agent("loc", instructions=instructions, model=MODEL, tools=[send, sign])

    waiting(journal, local("Be kind."), "Send it to ann, and sign.")
    assert app(journal).cancel("r", undo=True).status == "queued"
    mine = outlast.Outlast(journal, model=ScriptedModel(writing), on_change=on_change)
    outlast.Worker(mine, [local("Be quick.")]).run(until_idle=True)
    assert did == ["send ann", "unsend ann"]
    assert [one.id for one in mine.runs()] == ["r"]
    assert mine.get("r").status == "cancelled"


def test_told_to_undo_while_a_plain_cancel_is_under_way(journal: Journal) -> None:
    """A second cancel, with undo, of a run that has not ended yet takes back what it did.

    Whoever is ending it without its code lets it go, and gives nothing up.
    """
    waiting(journal, clerk, "Send it to ann, and sign.")
    tell(journal, "r", ControlGiven(verb="cancel"), strict=True)
    real = journal.append

    def append(commit: Any) -> Any:
        if any(isinstance(event, RunFinished) for event in commit.events):
            journal.append = real  # type: ignore[method-assign]
            tell(journal, "r", UNDO, strict=True)
        return real(commit)

    journal.append = append  # type: ignore[method-assign]
    found = app(journal).cancel("r")
    assert did == ["send ann", "unsend ann"]
    assert "1 of 1 calls were undone" in found.why


def test_told_to_undo_too_late(journal: Journal) -> None:
    """A run that has ended without is refused, with what could have been undone; else it is not."""
    waiting(journal, clerk, "Send it to ann, and sign.")
    app(journal).cancel("r")
    with pytest.raises(UsageError, match=r"has ended without .*: send \(ask-1.m1.t1\)"):
        app(journal).cancel("r", undo=True)
    assert app(journal).cancel("r").status == "cancelled"
    assert did == ["send ann"]
    fresh = open_store("memory://")
    waiting(fresh, clerk, "Send it to ann, and sign.")
    for _ in range(2):
        assert app(fresh).cancel("r", undo=True).status == "cancelled"
    assert did.count("unsend ann") == 1
    assert fold(fresh.read(run_stream("r"))).undoing.calls.keys() == {"ask-1.m1.t1"}
