"""The run loop: what it wants, in what order, whatever comes of it and whoever interferes."""

from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

import outlast
from conftest import SOAK
from outlast.actions import Action, CallModel
from outlast.drive import Append, Appended, Behind, Loop, Outcomes, Perform, Sent, drive
from outlast.events import (
    Event,
    ModelCallFailed,
    ModelCallStarted,
    ModelCallSucceeded,
    NoteAdded,
    Outcome,
    RunFinished,
    ToolCallStarted,
    ToolCallSucceeded,
    tag,
)
from outlast.journal import GENESIS, Commit, Record, commitment, record_hash
from outlast.models.script import Fault, Script, Turn, say, tool_use, turn_number
from outlast.starting import begin
from outlast.state import RunState, fold
from outlast.stores import open_store
from outlast.testing.simulation import World, run
from stubs import agent

AT = 1_790_000_000 * 10**9
STREAM = "run:r"


@outlast.tool(effect="read")
def look(word: str = "") -> str:
    return "seen"


@outlast.tool(effect="idempotent")
def save(word: str = "") -> str:
    return "saved"


@outlast.tool(effect="once")
def send(word: str = "") -> str:
    return "sent"


@outlast.tool(effect="read")
def broken(word: str = "") -> str:
    raise ValueError("broken")


AGENT = agent(look, save, send, broken, max_tokens=50)


def begun() -> list[Record]:
    """Return the records of a run that was only asked."""
    journal = open_store("memory://")
    begin(journal, "r", AGENT, "Go.", at=AT, nonce="n")
    return journal.read(STREAM)


class Pump:
    """Pumps the loop by hand, and keeps what it wanted and what it wrote."""

    def __init__(self, records: list[Record] | None = None, driven: outlast.Agent = AGENT) -> None:
        self.records = begun() if records is None else records
        self.commits: list[list[str]] = []
        self.started: list[Action] = []
        self.state: RunState | None = None
        self.now = AT
        self._loop: Loop = drive(fold(self.records), driven, stream=STREAM, epoch=1, now=AT)
        self.wanted: Any = None
        self.send(None)

    def send(self, sent: Sent) -> None:
        """Tell the loop what came, and see what it wants next."""
        try:
            self.wanted = self._loop.send(sent)
        except StopIteration as stop:
            self.wanted, self.state = None, stop.value
        if isinstance(self.wanted, Perform):
            self.started += self.wanted.actions

    def append(self) -> None:
        """Write what the loop wants written."""
        wanted = self.wanted
        assert isinstance(wanted, Append)
        assert wanted.expected_seq == len(self.records) + 1
        self.add(1, *wanted.events)
        assert fold(self.records) == wanted.state
        self.commits.append([tag(event) for event in wanted.events])
        self.send(Appended())

    def note(self) -> None:
        """Write a remark before the loop can write."""
        assert isinstance(self.wanted, Append)
        self.add(0, NoteAdded(text="hello"))
        self.send(Behind((self.records[-1],), self.now))

    def add(self, epoch: int, *events: Any) -> None:
        """Append to the journal."""
        for event in events:
            seq = len(self.records) + 1
            self.records.append(Record(STREAM, seq, seq, self.now, epoch, event))

    def came(self, *outcomes: Outcome) -> None:
        """Tell the loop what came of its calls."""
        assert isinstance(self.wanted, Perform)
        self.send(Outcomes(outcomes, self.now))

    def last(self, of: type[Event]) -> Any:
        """Return the last event of that type."""
        return next(r.event for r in reversed(self.records) if isinstance(r.event, of))

    def reply(self, *blocks: Any) -> ModelCallSucceeded:
        """Return the success of the model call in flight."""
        uses = any(block["type"] == "tool_use" for block in blocks)
        return ModelCallSucceeded(
            ask_id="ask-1",
            call_id=self.last(ModelCallStarted).call_id,
            content=Raw(msgspec.json.encode(blocks)),
            stop_reason="tool_use" if uses else "end_turn",
            usage=Raw(b'{"input_tokens":1,"output_tokens":1}'),
            cost_nano=1,
            tokens=2,
        )


def use(name: str, number: int = 1) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_{number}", "name": name, "input": {}}


def done(number: int, call_id: str) -> ToolCallSucceeded:
    return ToolCallSucceeded(
        ask_id="ask-1", call_id=call_id, tool_use_id=f"toolu_{number}", content=Raw(b'"ok"')
    )


DONE = {"type": "text", "text": "done"}


def test_a_turn_with_a_tool_is_two_commits() -> None:
    """The reply is written with the tool's intent, and its result with the next call's intent."""
    pump = Pump()
    pump.append()
    pump.came(pump.reply(use("look")))
    pump.append()
    pump.came(done(1, "ask-1.m1.t1"))
    pump.append()
    pump.came(pump.reply(DONE))
    pump.append()
    assert pump.commits == [
        ["model_call_started"],
        ["model_call_succeeded", "tool_call_started"],
        ["tool_call_succeeded", "model_call_started"],
        ["model_call_succeeded", "ask_answered", "run_finished"],
    ]
    assert pump.state == fold(pump.records)
    assert pump.state.status == "completed"


def test_each_tool_that_finishes_apart_is_a_commit_of_its_own() -> None:
    """An outcome is written when it comes; those that come together are written together."""
    pump = Pump()
    pump.append()
    pump.came(pump.reply(use("look", 1), use("save", 2), use("send", 3)))
    pump.append()
    assert len(pump.wanted.actions) == 3, "all are started at once"
    pump.came(done(3, "ask-1.m1.t3"))
    pump.append()
    assert pump.wanted == Perform(actions=()), "nothing is started again"
    pump.came(done(2, "ask-1.m1.t2"), done(1, "ask-1.m1.t1"))
    pump.append()
    assert pump.commits[1:] == [
        ["model_call_succeeded", *["tool_call_started"] * 3],
        ["tool_call_succeeded"],
        ["tool_call_succeeded", "tool_call_succeeded", "model_call_started"],
    ]


def test_a_failed_call_is_waited_for_and_made_again() -> None:
    """After a failure that may pass nothing is wanted but to sleep, and then the same call."""
    pump = Pump()
    pump.append()
    pump.came(
        ModelCallFailed(
            ask_id="ask-1", call_id="ask-1.m1", kind="overloaded", message="", retry_after_s=4
        )
    )
    pump.append()
    (sleep,) = pump.wanted.actions
    assert sleep.until == AT + 4 * 10**9
    pump.came()
    assert pump.wanted.actions == (sleep,), "it was woken too early"
    pump.now = sleep.until
    pump.came()
    pump.append()
    first, second = (a for a in pump.started if isinstance(a, CallModel))
    assert (first.head, first.messages) == (second.head, second.messages)
    assert [first.attempt, second.attempt] == [1, 2]


def test_a_run_at_rest_wants_nothing() -> None:
    """A run that has ended is returned as it is, without a commit or an effect."""
    records = begun()
    end = RunFinished(status="failed", why="enough")
    records.append(Record(STREAM, 4, 4, AT, 1, end))
    pump = Pump(records)
    assert pump.wanted is None
    assert pump.state == fold(records)
    assert pump.commits == []


def test_a_stopped_run_stops_once_a_leg() -> None:
    """A leg that ends in a stop ends there, even when the next leg might go on."""
    pump = Pump(driven=agent(look, max_tokens=50, budget=outlast.Budget(turns=1)))
    pump.append()
    pump.came(pump.reply(use("look")))
    pump.append()
    pump.came(done(1, "ask-1.m1.t1"))
    pump.append()
    assert pump.commits[-1] == ["tool_call_succeeded", "budget_refused", "run_finished"]
    assert pump.state is not None
    assert pump.state.status == "stopped"
    more = Pump(pump.records)
    more.append()
    assert more.commits == [["model_call_started"]]


def test_what_a_person_must_mend_is_not_tried_again_in_the_same_leg() -> None:
    """A key that was refused ends the leg, although there is budget left for another call."""
    pump = Pump()
    pump.append()
    pump.came(ModelCallFailed(ask_id="ask-1", call_id="ask-1.m1", kind="auth", message="no"))
    pump.append()
    assert pump.commits[-1] == ["model_call_failed", "run_finished"]
    assert pump.state is not None
    assert pump.state.status == "stopped"


def test_what_others_write_drops_no_outcome() -> None:
    """An outcome that meets a note is written after it, with everything decided anew."""
    pump = Pump()
    pump.note()
    pump.append()
    pump.came(pump.reply(use("look")))
    pump.note()
    pump.note()
    assert pump.wanted.expected_seq == len(pump.records) + 1
    pump.append()
    assert pump.commits == [["model_call_started"], ["model_call_succeeded", "tool_call_started"]]
    assert len(pump.started) == 2, "the note started nothing"


# ── any script, any order, any interference ───────────────────────────────────────────────────

NAMES = ["look", "save", "send", "broken", "nobody"]
FAULTS = [
    Fault(kind="status", status=529),
    Fault(kind="status", status=429, headers={"retry-after": "2"}),
    Fault(kind="status", status=500),
    Fault(kind="cut"),
    Fault(kind="html"),
    Fault(kind="status", status=400),
    Fault(kind="status", status=401),
]
ENDS = ["end_turn", "stop_sequence", "max_tokens", "refusal", None]

scripts = st.fixed_dictionaries(
    {
        "turns": st.lists(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4), max_size=4),
        "faults": st.dictionaries(
            st.integers(1, 4), st.lists(st.sampled_from(FAULTS), max_size=3), max_size=3
        ),
        "end": st.sampled_from(ENDS),
    }
)


def script(turns: list[list[str]], faults: dict[int, list[Fault]], end: Any) -> Script:
    """Return the script of these turns, each with its faults first."""

    def answer(request: dict[str, Any], attempt: int) -> Turn | Fault:
        turn = turn_number(request)
        before = faults.get(turn, [])
        if 0 < attempt <= len(before):
            return before[attempt - 1]
        if turn <= len(turns):
            return say(*[tool_use(name, {"word": name}) for name in turns[turn - 1]])
        return say("done", stop_reason=end)

    return answer


@settings(max_examples=2_000 if SOAK else 150)
@given(
    told=scripts,
    crash_at=st.sets(st.integers(1, 60), max_size=4),
    notes=st.sets(st.integers(3, 60), max_size=4),
    turns=st.integers(1, 12),
)
def test_what_a_run_knows_is_the_fold_of_its_journal(
    told: Any, crash_at: set[int], notes: set[int], turns: int
) -> None:
    """Whatever Claude says, wherever it dies: state, row and ledger are those of the journal."""
    journal = open_store("memory://")
    note = Commit(stream=STREAM, events=(NoteAdded(text="hello"),), at=AT)
    world = World(
        script(**told), crash_at=crash_at, at=dict.fromkeys(notes, lambda: journal.append(note))
    )
    driven = agent(look, save, send, broken, budget=outlast.Budget(turns=turns))
    if 1 in crash_at | notes or 2 in notes:  # there is nothing to write into before the run exists
        notes = set()
        world.at.clear()
    state, _ = run(world, journal, driven, "Go.")
    records = journal.read(STREAM)
    assert fold(records).status == state.status
    assert state == fold(r for r in records if r.seq < state.next_seq)
    seen = journal.run("r")
    assert seen is not None
    assert (seen.status, seen.why) == (state.status, state.why)
    assert (seen.answer or "").encode() == bytes(state.answer or b"")
    assert (seen.cost_nano, seen.tokens) == (state.spend.nano, state.spend.tokens)
    assert (seen.turns, seen.created_at) == (state.spend.turns, state.created_at)
    lines = journal.rollup()
    assert sum(line.settled_nano + line.in_doubt_nano for line in lines) == state.spend.nano
    assert state.spend.nano >= world.model.billed_nano
    assert state.spend.held_nano == 0
    assert state.spend.turns <= turns
    check_calls(records, len(world.requests))
    check_chain(journal)


def check_calls(records: list[Record], asked: int) -> None:
    """Check that every call has one intent, then one outcome, and that no id is used twice."""
    open_calls: set[str] = set()
    ids = Counter(
        r.event.call_id for r in records if isinstance(r.event, ModelCallStarted | ToolCallStarted)
    )
    assert set(ids.values()) <= {1}, "an id names two calls"
    for record in records:
        event = record.event
        if isinstance(event, ModelCallStarted | ToolCallStarted):
            open_calls.add(event.call_id)
        elif isinstance(event, Outcome) and getattr(event, "kind", "") not in (
            "unknown_tool",
            "invalid_arguments",
        ):
            open_calls.remove(event.call_id)
    assert open_calls == set()
    assert asked <= sum(isinstance(r.event, ModelCallStarted) for r in records)


def check_chain(journal: Any) -> None:
    prev = GENESIS
    for proof in journal.proofs(STREAM):
        assert proof.prev == prev
        assert proof.commitment == commitment(salt=proof.salt, body=proof.body)
        prev = record_hash(
            prev=prev,
            stream=proof.stream,
            seq=proof.seq,
            position=proof.position,
            at=proof.at,
            epoch=proof.epoch,
            type=proof.type,
            meta=proof.meta,
            commitment=proof.commitment,
        )
        assert proof.hash == prev


@settings(max_examples=500 if SOAK else 60)
@given(
    uses=st.lists(st.sampled_from(NAMES), min_size=1, max_size=4),
    order=st.lists(st.integers(0, 100), min_size=30, max_size=30),
)
def test_no_order_of_outcomes_starts_anything_twice(uses: list[str], order: list[int]) -> None:
    """Whatever finishes first, and whoever writes in between: each intent is durable, and once."""
    pump, flying = Pump(), []
    durable: set[str] = set()
    for choice in order:
        if pump.wanted is None:
            break
        if isinstance(pump.wanted, Append):
            if choice % 3 == 0:
                pump.note()
                continue
            durable |= {e.call_id for e in pump.wanted.events if hasattr(e, "call_id")}
            pump.append()
        if isinstance(pump.wanted, Perform):
            flying += [a for a in pump.wanted.actions if a not in flying]
            assert {action.call_id for action in flying} <= durable, "an effect without an intent"
            assert flying, "nothing is in flight and nothing is wanted"
            action = flying.pop(choice % len(flying))
            if isinstance(action, CallModel):
                first = len(pump.commits) == 1
                blocks = [use(name, n) for n, name in enumerate(uses)] if first else [DONE]
                pump.came(pump.reply(*blocks))
            else:
                number = int(action.tool_use_id.removeprefix("toolu_"))
                pump.came(done(number, action.call_id))
    assert set(Counter(action.call_id for action in pump.started).values()) <= {1}


@pytest.mark.parametrize("sent", [None, Appended()])
def test_a_perform_is_answered_with_outcomes(sent: Any) -> None:
    """A runner that answers the wrong thing is stopped at once, loudly."""
    pump = Pump()
    pump.append()
    with pytest.raises(AssertionError, match="a Perform was answered with"):
        pump.send(sent)
