"""Makes the golden journal of this version: every type of event, in runs that met everything.

    python tests/golden/make.py v1

It is run once for a version of the journal, and again only for a new one: what a version wrote is
what later versions have to read.  Beside the store stand its events as JSON lines, and what this
version made of them, so that a later version can be held to it.
"""

import gzip
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

import outlast
from outlast import events
from outlast.branching import branch
from outlast.events import (
    ApprovalGiven,
    ApprovalRequested,
    BoundRaised,
    BreakerChanged,
    BudgetPassed,
    CompactionRequested,
    ControlGiven,
    LabelGiven,
    NoteAdded,
    RateFrozen,
    RateLimitsTold,
    RunLeft,
    RunParked,
    ScheduleFired,
    ScheduleSet,
    encode,
)
from outlast.journal import Commit, Journal, run_stream
from outlast.models.script import (
    Fault,
    Script,
    Turn,
    any_of,
    faulty,
    once,
    refuse,
    say,
    text_of,
    turn_number,
)
from outlast.models.scripted import ScriptedModel
from outlast.reconciliation import apply
from outlast.starting import begin
from outlast.state import RunState, fold
from outlast.stores import open_store
from outlast.testing.simulation import World, run
from outlast.views.bill import Report, day_of

HERE = Path(__file__).parent
MODEL = "claude-haiku-5-5"
QUESTION = 'Wie heißt das Buch? 🦊 \\ " \u0007'

STRANGE = (
    b'[{"type":"thinking","thinking":"","signature":"EqQB\\/x=="},'
    b'{"type":"zebra","id":5,"stripes":[1.0,1e5,-0.0,0.10,12345678901234567890]},'
    b'{"type":"text","text":"\\u00e4\\ud83e\\udd8a ","citations":null},'
    b'{"type":"tool_use","id":"toolu_look","name":"look","input":{ "word" : "b\\u00fccher" }},'
    b'{"type":"tool_use","id":"toolu_wrong","name":"look","input":{"wort":1.50}},'
    b'{"type":"tool_use","id":"toolu_nobody","name":"nobody","input":{}},'
    b'{"type":"tool_use","id":"toolu_broken","name":"broken","input":{}}]'
)
"""A reply as no encoder would write it, with blocks and fields that nobody has heard of."""


@outlast.tool(effect="read", max_result_tokens=100)
def look(word: str) -> str:
    """Look a word up."""
    return f"{word}: " + "é" * 200


@outlast.tool(effect="idempotent")
def save(text: str) -> dict[str, Any]:
    """Save a text."""
    return {"saved": text, "at": None}


@outlast.tool(effect="once", reconcile=lambda: False)
def send(text: str) -> str:
    """Send a text."""
    return "sent"


@outlast.tool(effect="read")
def broken() -> str:
    """Fail, always."""
    raise ValueError("the shelf is empty")


def agent(turns: int | None) -> outlast.Agent:
    """Return the agent of every golden run."""
    return outlast.Agent(
        "librarian",
        model=MODEL,
        instructions="Be brief.\nBe kind.",
        tools=[look, save, send, broken],
        max_tokens=400,
        budget=outlast.Budget(turns=turns),
        parameters={"thinking": {"type": "adaptive"}, "metadata": {"user_id": "ä"}},
    )


def lead(request: dict[str, Any], attempt: int) -> Turn:
    """Say what Claude says in the run `story`."""
    turn = turn_number(request)
    if turn == 1:
        return Turn(content=STRANGE, stop_reason="tool_use", extra={"container": {"id": "c"}})
    if turn == 2:
        uses = [("save", {"text": "a"}), ("send", {"text": "b"}), ("look", {"word": "again"})]
        return say(*({"type": "tool_use", "name": name, "input": given} for name, given in uses))
    return say("It is ", "the third one.", stop_reason="stop_sequence")


STORY: Script = faulty(
    lead,
    any_of(
        once(1, Fault(kind="status", status=529, error_code="overloaded")),
        once(1, Fault(kind="cut", after_events=4), attempts=(2,)),
        once(2, Fault(kind="status", status=429, headers={"retry-after": "7"})),
    ),
)


def played(journal: Journal, crash_at: Iterable[int]) -> World:
    """Play `story` to a stop, with a note on the way, and to its end with a larger budget."""
    world = World(STORY, crash_at=crash_at)
    note = NoteAdded(text="hurry up", by="ann")
    world.at = {9: lambda: journal.append(Commit(stream="run:story", events=(note,), at=world.now))}
    run(world, journal, agent(turns=2), QUESTION, run_id="story")
    run(world, journal, agent(turns=None), QUESTION, run_id="story")
    return world


def story(journal: Journal) -> None:
    """Play `story`, which dies while its tools are in flight, and again in its last call."""
    points: list[int] = []
    for name in ("after ask-1.m5.t2", "before ask-1.m6"):
        trace = played(open_store("memory://"), points).trace
        points.append(1 + trace.index(name))
    played(journal, points)


def cut(request: dict[str, Any], attempt: int) -> Turn:
    """Be cut off, pause, and be cut off in a call, before the answer."""
    turn = turn_number(request)
    stops = {1: "max_tokens", 2: "pause_turn", 3: "max_tokens"}
    call = [{"type": "tool_use", "name": "send", "input": {"text": "never"}}] if turn == 3 else []
    return say(f"Part {turn}. ", *call, stop_reason=stops.get(turn, "end_turn"))


def make(journal: Journal) -> None:
    """Write every golden run into `journal`."""
    story(journal)
    refusal = World(lambda request, attempt: say("No.", stop_reason="refusal"))
    run(refusal, journal, agent(None), "Do what you must not.", run_id="failed")
    run(World(STORY), journal, agent(1), "Look it up.", run_id="stopped")
    locked = World(lambda request, attempt: Fault(kind="status", status=401, message="no key"))
    run(locked, journal, agent(None), "Open the door.", run_id="locked")
    run(World(cut), journal, agent(None), "At length, please.", run_id="cut")
    late = Fault(kind="status", status=429, headers={"retry-after": "400"})
    idle = faulty(lead, once(2, late))
    run(World(idle), journal, agent(None), "Take your time. " * 1_000, run_id="idle")
    shown = outlast.Document(b"%PDF-1.7 /Type /Page"), outlast.Image(b"GIF89a"), "What is it?"
    run(World(lead), journal, agent(None), shown, run_id="shown")
    flown(journal)
    again = World(
        lambda request, attempt: say({"type": "tool_use", "name": "look", "input": {"word": "a"}})
    )
    run(again, journal, agent(None), "Look for ever.", run_id="loop")
    corrected(journal)
    passed = BudgetPassed(scope="fleet", window="total", unit="nano", percent=50, spent=5, limit=10)
    journal.append(Commit(stream="~budgets", events=(passed,), at=2))
    longer = World(lambda request, attempt: say("So long.", usage={"input_tokens": 9_999}))
    run(longer, journal, agent(None), "How long is it?", run_id="longer")
    raised = BoundRaised(model="claude-haiku-5-5", percent=600, run_id="longer")
    journal.append(Commit(stream="~budgets", events=(raised,), at=3))
    key = "0123456789abcdef"
    frozen = RateFrozen(group=MODEL, until=9, key=key, run_id="longer", ramp=True)
    limits = RateLimitsTold(group=MODEL, key=key, requests=50, input_tokens=4_000)
    journal.append(Commit(stream="~limits", events=(frozen, limits), at=3))
    tripped(journal)
    scheduled(journal)
    cheap = World(lambda request, attempt: say("Half of it."))
    run(cheap, journal, agent(None), "What does it cost?", run_id="batched", batch=True)
    begin(journal, "paused", agent(None), "Later.", at=1, nonce="n")
    told = ControlGiven(verb="pause", reason="first the bill", by="ann")
    journal.append(Commit(stream="run:paused", events=(told,), at=4))
    asked(journal)
    switched(journal)
    condensed(journal)
    recovered(journal)
    undone(journal)
    checked(journal)
    branch(journal, "cut", 6, "cut~6", now=7, reason="another end", by="ann")
    begin(journal, "queued", agent(None), "Later.", tenant="acme", tags={"a": "ä"}, at=1, nonce="n")


def tripped(journal: Journal) -> None:
    """Write what a circuit breaker says of itself."""
    key = f"model:{MODEL}"
    changes = (
        BreakerChanged(key=key, status="open", until=9, calls=8, failures=5, slow=1, run_id="cut"),
        BreakerChanged(key=key, status="half_open", probes=3, run_id="cut"),
        BreakerChanged(key=key, status="open", until=19, rounds=1, calls=3, failures=2),
        BreakerChanged(key=key, status="closed", calls=3, run_id="idle"),
    )
    journal.append(Commit(stream=f"~breaker:{key}", events=changes, at=3))


def reluctant(request: dict[str, Any], attempt: int) -> Turn | Fault:
    """Look a word up; then one model is overloaded, and the next one refuses."""
    if turn_number(request) == 1:
        return lead(request, attempt)
    if request["model"] == MODEL and attempt:
        return Fault(kind="status", status=529, error_code="overloaded")
    if request["model"] == "claude-sonnet-5-5":
        return refuse("No, ", category="bio", recommended_model="claude-opus-5-5")
    return say("It is ", "the third one.")


def switched(journal: Journal) -> None:
    """Play a run that goes through three models."""
    others = ["claude-sonnet-5-5", "claude-opus-5-5"]
    who = replace(agent(None), fallback_models=others)
    run(World(reluctant), journal, who, QUESTION, run_id="switched")


def asked(journal: Journal) -> None:
    """Write that a person was asked, and what was said, and that a worker left the run."""
    begin(journal, "asked", agent(None), "Later.", at=1, nonce="n")
    call = {"ask_id": "ask-1", "call_id": "ask-1.m1.t1", "tool": "send"}
    arguments = msgspec.Raw(b'{"text":"b\xc3\xbccher"}')
    question = ApprovalRequested(
        question="May send be called?", arguments=arguments, expires_at=9, **call
    )
    place = events.Turn(at=9, group=MODEL, places={"input_tokens": 7}, took={"input_tokens": 2_000})
    turns = {"ask-1.m2": place}
    parked = RunParked(until=9, why="waiting for a person", person=True, turns=turns)
    given = ApprovalGiven(
        call_id="ask-1.m1.t1",
        approved=True,
        arguments=msgspec.Raw(b'{ "text": "a" }'),
        note="shorter",
        by="ann",
    )
    left = RunLeft(why="no worker here has library:librarian")
    stream = run_stream("asked")
    driven = Commit(
        stream=stream,
        events=(question, parked),
        at=5,
        expected_seq=4,
        epoch=journal.claim(stream),
        row=journal.run("asked"),
    )
    journal.append(driven)
    journal.release(stream)
    journal.append(Commit(stream=stream, events=(given, left), at=6))


def condensed(journal: Journal) -> None:
    """Write that a conversation is to be condensed, as its driver does before it calls Claude."""
    begin(journal, "condensed", agent(None), "At length.", at=1, nonce="n")
    stream = run_stream("condensed")
    near = CompactionRequested(
        ask_id="ask-1", tokens=950_000, window=1_000_000, trigger=500_000, why="window_exceeded"
    )
    driven = Commit(
        stream=stream,
        events=(near,),
        at=5,
        expected_seq=4,
        epoch=journal.claim(stream),
        row=journal.run("condensed"),
    )
    journal.append(driven)
    journal.release(stream)


def older(word: str) -> outlast.Degraded[str]:
    """Look a word up in last year's book."""
    at = datetime(2025, 10, 1, tzinfo=UTC)
    return outlast.Degraded(f"{word}, once", source="the old book", as_of=at, note="ä")


@outlast.tool(effect="read", fallbacks=[older])
def newest(word: str, year: int = 2026) -> list[str]:
    """Look a word up in the newest book."""
    raise ConnectionError("the shelf is empty")


@outlast.tool(effect="read", attempts=2, empty_is_failure=True)
def hopeless() -> list[str]:
    """Find nothing."""
    return []


def was_paid(text: str) -> outlast.Reconciled:
    """Look whether it was paid."""
    return outlast.Reconciled(happened=True, result="paid", note="it stood in the book")


def give_back(text: str, result: str) -> None:
    """Give it back, which fails."""
    raise ValueError("the book is closed")


@outlast.tool(effect="once", reconcile=was_paid, undo=give_back)
def pay(text: str) -> str:
    """Pay."""
    return "paid"


@outlast.tool(effect="idempotent", undo=lambda: None)
def book() -> str:
    """Book a seat."""
    return "booked"


def troubled(request: dict[str, Any], attempt: int) -> Turn:
    """Ask for all of it, and then say so."""
    uses = [("newest", {"word": "ä", "year": 2026}), ("hopeless", {}), ("pay", {"text": "b"})]
    if turn_number(request) == 1:
        uses.append(("book", {}))
        return say(*({"type": "tool_use", "name": name, "input": given} for name, given in uses))
    return say("All of it.")


def helpless() -> outlast.Agent:
    """Return an agent whose tools fail."""
    return replace(agent(None), tools=[newest, hopeless, pay, book])


def recovered(journal: Journal) -> None:
    """Play a run whose tools fail, and which dies while one is called that is never repeated."""
    trace = World(troubled)
    run(trace, open_store("memory://"), helpless(), "Do it all.", run_id="recovered")
    died = 1 + trace.trace.index("after ask-1.m1.t3")
    run(World(troubled, crash_at=[died]), journal, helpless(), "Do it all.", run_id="recovered")


def undone(journal: Journal) -> None:
    """Play a run that is cancelled, and what it did taken back, as far as that can be."""
    trace = World(troubled)
    run(trace, open_store("memory://"), helpless(), "Do it all.", run_id="undone")
    told = ControlGiven(verb="cancel", reason="not now", by="ann", undo=True)
    world = World(troubled)
    at = 1 + trace.trace.index("before ask-1.m2")
    world.at = {at: lambda: journal.append(Commit(stream="run:undone", events=(told,), at=at))}
    run(world, journal, helpless(), "Do it all.", run_id="undone")


@outlast.check(name="is short")
def is_short(answer: list[str]) -> list[outlast.Issue]:
    """Be short."""
    long = [one for one in answer if len(one) > 6]
    return [outlast.Issue("ä: too long", path="[0]", got=one, expected=5) for one in long]


def strict(**more: Any) -> outlast.Agent:
    """Return an agent whose answers are checked."""
    judge = outlast.Judge("Is it in German?", name="german", at_least=0.75)
    return replace(agent(None), tools=[], answer=list[str], checks=[is_short, judge], **more)


def answering(request: dict[str, Any], attempt: int) -> Turn:
    """Answer at too great a length, then briefly, then in German; judge what is not."""
    said = str(request["messages"])
    if "You judge an answer" in str(request.get("system")):
        wrong = "Bücher" not in said
        told = {"issues": ["ä: no"] * wrong, "valid": not wrong, "confidence": 0.75}
        return say(msgspec.json.encode(told | {"suggestion": "say Bücher"}).decode())
    times = said.count("is not accepted") + said.count("What was wrong with answer")
    word = ("a long one", "books", "Bücher")[min(times, 2)]
    return say(f'{{"answer":["{word}"]}}')


def checked(journal: Journal) -> None:
    """Play runs whose answers are checked: in every way that another one is asked for, and none."""
    run(World(answering), journal, strict(), "Was ist das?", run_id="repaired")
    run(World(answering), journal, strict(retry="resample"), "Was?", run_id="resampled")
    label = LabelGiven(ask_id="ask-1", call_id="ask-1.m3", good=False, why="no", by="ann")
    for run_id in ("repaired", "resampled"):
        journal.append(Commit(stream=f"run:{run_id}", events=(label,), at=5))
    run(World(answering), journal, strict(answer_attempts=1), "Was?", run_id="rejected")
    asked = strict(answer_attempts=1, last_resort="escalate", answer_expires=None)
    given = ApprovalGiven(
        approved=True, call_id="ask-1.m1", by="ann", answer=msgspec.Raw(b'["gut"]')
    )
    begin(journal, "escalated", asked, "Was?", at=1, nonce="n")
    run(World(answering), journal, asked, "Was?", run_id="escalated")
    journal.append(Commit(stream="run:escalated", events=(given,), at=6))
    run(World(answering), journal, asked, "Was?", run_id="escalated")


def scheduled(journal: Journal) -> None:
    """Write that a schedule was set, and what came of it twice."""
    monday = ScheduleSet(
        name="digest",
        cron="0 9 * * MON",
        tz="Europe/Berlin",
        agent="librarian",
        code="library:librarian",
        input=msgspec.Raw(b'"Wie hei\xc3\x9ft es?"'),
        tags={"a": "ä"},
        reason="every week",
        by="ann",
    )
    at = 1_764_576_000 * 10**9
    fired = ScheduleFired(name="digest", at=at, run_id="digest@2025-12-01T08:00Z")
    week = 7 * 86_400 * 10**9
    failed = ScheduleFired(
        name="digest", at=at + week, run_id="digest@2025-12-08T08:00Z", error="no key"
    )
    journal.append(Commit(stream="~schedules", events=(monday, fired, failed), at=5))


def corrected(journal: Journal) -> None:
    """Play a run whose call in doubt turns out to have been billed, for a part."""
    cut_once = faulty(say_so, once(1, Fault(kind="cut", after_events=4)))
    world = World(cut_once)
    world.now -= 10 * 86_400 * 10**9
    run(world, journal, agent(None), "Say so.", run_id="corrected")
    bill = Report({day_of(world.now): {MODEL: 60_000}})
    apply(journal, bill, exported_at=2**62, now=world.now, by="ann", reason="the bill of März")


def say_so(request: dict[str, Any], attempt: int) -> Turn:
    """Answer every question but one."""
    refused = "refuse" in text_of(request["messages"][0]["content"])
    return say("No.", stop_reason="refusal") if refused else say("So be it.")


@outlast.flow(phases=["asking", "waiting"])
async def every_way(run: outlast.Run, brief: str) -> list[Any]:
    """Do everything that a flow can do."""
    run.enter("asking")
    run.now()
    quiet = agent(None)
    first = await run.ask(quiet, brief)
    try:
        await run.ask(quiet, "refuse this")
    except outlast.AskFailed as error:
        first += str(error)
    run.enter("waiting")
    await run.sleep(1.2)
    step = await run.step("save", save, "ä")
    return [first, step, await run.map(quiet, ["one"])]


def flown(journal: Journal) -> None:
    """Run a flow to its end, through a park."""
    app = outlast.Outlast(journal, model=ScriptedModel(say_so))
    assert app.run(every_way, "Wie heißt es?", run_id="flown").status == "completed"
    app.set_budget("tenant:acme", usd="12.50", window="month", tz="Europe/Berlin", reason="ä")


def line(record: Any) -> bytes:
    """Return a record as a line of JSON, its event's body as it was written."""
    place = {name: getattr(record, name) for name in ("stream", "seq", "position", "at", "epoch")}
    return b'%b,"event":%b}\n' % (msgspec.json.encode(place)[:-1], encode(record.event))


def made_of(state: RunState, journal: Journal, run_id: str) -> dict[str, Any]:
    """Return what this version makes of a run: its row, its money, and what Claude is told."""
    ask = next(iter(state.asks.values()))
    return {
        "row": msgspec.to_builtins(journal.run(run_id)),
        "head": ask.head.decode(),
        "messages": [message.decode() for message in ask.messages],
        "spend": msgspec.to_builtins(state.spend),
        "status": state.status,
        "answer": None if state.answer is None else bytes(state.answer).decode(),
        "next_seq": state.next_seq,
    }


def main(version: str) -> None:
    """Write the three files of a version."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "golden.db"
        journal = open_store(f"sqlite:///{path}")
        make(journal)
        records = journal.read_all(limit=10_000)
        ids = [row.id for row in journal.runs()]
        states = {run_id: fold(journal.read(run_stream(run_id))) for run_id in ids}
        made = {run_id: made_of(state, journal, run_id) for run_id, state in states.items()}
        journal.close()
        (HERE / f"{version}.db.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    (HERE / f"{version}.jsonl").write_bytes(b"".join(map(line, records)))
    expected = msgspec.json.format(msgspec.json.encode(made, order="sorted"), indent=1)
    (HERE / f"{version}.json").write_bytes(expected + b"\n")


if __name__ == "__main__":
    main(sys.argv[1])
