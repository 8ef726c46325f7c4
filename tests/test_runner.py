"""The runner: what it makes of models and stores that fail, by a clock that jumps."""

import asyncio
import math
from typing import Any

import msgspec
import pytest
from msgspec import Raw

import outlast
from outlast.breaker import DEFAULT, Breaker
from outlast.decide import ATTEMPTS, BACKOFF_S
from outlast.errors import Conflict, Fenced, ModelFailure, StoreFull
from outlast.events import (
    ModelCallFailed,
    ModelCallInDoubt,
    ModelCallStarted,
    ModelCallSucceeded,
    NoteAdded,
    RunFinished,
    ToolCallStarted,
    ToolCallSucceeded,
)
from outlast.journal import Commit
from outlast.models import Model, Part, Reply, Request
from outlast.models.script import Fault, Turn, faulty, once, say, tool_use
from outlast.models.scripted import ScriptedModel
from outlast.runner import LOOKS_S, Runner, Things, Watch, first_of
from outlast.starting import begin
from outlast.state import RunState, fold
from outlast.stores.memory import MemoryJournal
from stubs import Answers, agent, asking, reply

NS = 1_000_000_000
STREAM = "run:r"


class Clock:
    """A clock that only moves when somebody waits for it; it knows who waited how long."""

    def __init__(self) -> None:
        self.now = 1_790_000_000 * NS
        self.waits: list[float] = []

    def __call__(self) -> int:
        return self.now

    async def wait(self, things: Things, wait_s: float | None) -> Things:
        if wait_s is None or len(things) > 1:
            return await first_of(things, wait_s)
        self.sleep(wait_s)
        return set()

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += math.ceil(seconds * NS)


@pytest.fixture
def clock() -> Clock:
    """Return a clock that the runner waits by."""
    return Clock()


def drive(
    model: Model,
    clock: Clock | None = None,
    *,
    tools: Any = (),
    journal: MemoryJournal | None = None,
    breaker: Breaker | None = DEFAULT,
    **watch: Any,
) -> RunState:
    """Drive a run `r` to rest, whether it is there or not, and return its state."""
    journal = MemoryJournal() if journal is None else journal
    tester = agent(*tools)
    if journal.run("r") is None:
        begin(journal, "r", tester, "Go.", at=1, nonce="n")
    clock = clock or Clock()
    runner = Runner(journal, model, clock=clock, wait=clock.wait, breaker=breaker)
    epoch = journal.claim(STREAM, force=True)
    state = asyncio.run(driven(runner, tester, epoch, Watch(**watch), clock))
    assert state == fold(journal.read(STREAM))
    return state


async def driven(runner: Runner, tester: Any, epoch: int, watch: Watch, clock: Clock) -> RunState:
    """Drive a run, and again where it is parked, once its time has come."""
    while True:
        state = await runner.drive("r", tester, epoch=epoch, watch=watch)
        if not state.parking.until:
            return state
        clock.sleep((state.parking.until - clock()) / NS)


def events(journal: MemoryJournal, *types: type) -> list[Any]:
    """Return the events of these types in the journal of the run."""
    return [r.event for r in journal.read(STREAM) if isinstance(r.event, types)]


class SetBack(MemoryJournal):
    """A journal during whose append of a failure the clock is set back by an hour."""

    def __init__(self, clock: Clock) -> None:
        super().__init__("memory://")
        self.clock = clock

    def append(self, commit: Commit) -> Any:
        if any(isinstance(event, ModelCallFailed) for event in commit.events):
            self.clock.now -= 3_600 * NS
        return super().append(commit)

    async def aappend(self, commit: Commit) -> Any:
        return self.append(commit)


def test_a_clock_that_is_set_back_keeps_no_run_waiting(clock: Clock) -> None:
    """What is decided to be waited for a moment lasts no hour, whatever happens to the clock."""
    claude = ScriptedModel(faulty(lambda r, a: say("Yes."), once(1, status(529))))
    assert drive(claude, clock, journal=SetBack(clock)).answer is not None
    assert len(claude.calls) == 2
    assert sum(clock.waits) <= LOOKS_S


# ── failures that may pass ────────────────────────────────────────────────────────────────────


def status(code: int, **more: Any) -> Fault:
    return Fault(kind="status", status=code, **more)


def limited(retry_after: str) -> Fault:
    return status(429, headers={"retry-after": retry_after})


UNTIL_NEXT = (BACKOFF_S[0], BACKOFF_S[0] * 1.5)


@pytest.mark.parametrize(
    ("fault", "outcome", "kind", "wait"),
    [
        pytest.param(limited("7"), ModelCallFailed, "rate_limited", (7, 10.75), id="429 after 7"),
        pytest.param(limited("0.01"), ModelCallFailed, "rate_limited", UNTIL_NEXT, id="429 soon"),
        pytest.param(limited("-5"), ModelCallFailed, "rate_limited", UNTIL_NEXT, id="429 before"),
        pytest.param(limited("inf"), ModelCallFailed, "rate_limited", UNTIL_NEXT, id="429 never"),
        pytest.param(limited("nan"), ModelCallFailed, "rate_limited", UNTIL_NEXT, id="429 nan"),
        pytest.param(status(429), ModelCallFailed, "rate_limited", UNTIL_NEXT, id="429"),
        pytest.param(status(529), ModelCallFailed, "overloaded", UNTIL_NEXT, id="529"),
        pytest.param(status(500), ModelCallInDoubt, "unavailable", UNTIL_NEXT, id="500"),
        pytest.param(status(503), ModelCallInDoubt, "unavailable", UNTIL_NEXT, id="503"),
        pytest.param(Fault(kind="cut"), ModelCallInDoubt, "cut", UNTIL_NEXT, id="cut"),
        pytest.param(Fault(kind="truncated"), ModelCallInDoubt, "cut", UNTIL_NEXT, id="truncated"),
        pytest.param(Fault(kind="reset"), ModelCallInDoubt, "unavailable", UNTIL_NEXT, id="reset"),
        pytest.param(Fault(kind="error_event"), ModelCallInDoubt, "cut", UNTIL_NEXT, id="event"),
        pytest.param(Fault(kind="html"), ModelCallInDoubt, "malformed", UNTIL_NEXT, id="html"),
    ],
)
def test_a_failure_that_may_pass_is_tried_again(
    fault: Fault, outcome: type, kind: str, wait: tuple[float, float], clock: Clock
) -> None:
    """The same request goes again after its time; what may have been billed counts as spent."""
    model = ScriptedModel(faulty(asking(), once(1, fault)))
    journal = MemoryJournal()
    state = drive(model, clock, journal=journal)
    assert state.status == "completed", state.why
    assert len(model.calls) == 2
    assert model.calls[0] == model.calls[1]
    (lost,) = events(journal, ModelCallFailed, ModelCallInDoubt)
    assert (type(lost), lost.kind) == (outcome, kind)
    first, second = events(journal, ModelCallStarted)
    assert (first.attempt, second.attempt) == (1, 2)
    in_doubt = outcome is ModelCallInDoubt
    assert state.spend.in_doubt_nano == (first.hold_nano if in_doubt else 0)
    assert state.spend.turns == (2 if in_doubt else 1)
    assert state.spend.nano >= model.billed_nano
    (waited,) = clock.waits
    assert wait[0] <= waited <= wait[1] + 1e-6


@pytest.mark.parametrize(
    ("fault", "kind"), [(status(529), "overloaded"), (Fault(kind="cut"), "cut")]
)
def test_a_failure_that_does_not_pass_ends_the_run(fault: Fault, kind: str, clock: Clock) -> None:
    """After eight attempts, with ever longer waits between them, the run fails and says why."""
    model = ScriptedModel(faulty(asking(), once(1, fault, attempts=range(1, 100))))
    journal = MemoryJournal()
    state = drive(model, clock, journal=journal, breaker=None)
    assert state.status == "failed"
    assert state.why == f"8 attempts came to nothing, the last one ({kind}): a fault of the script"
    assert [call.attempt for call in events(journal, ModelCallStarted)] == list(range(1, 9))
    assert len(model.calls) == ATTEMPTS == 8
    assert len(clock.waits) == 7
    for waited, backoff in zip(clock.waits, BACKOFF_S, strict=True):
        assert backoff <= waited <= backoff * 1.5 + 1e-6
    assert state.spend.held_nano == 0
    assert state.spend.nano >= model.billed_nano


def test_waits_differ_but_not_after_a_resume(clock: Clock) -> None:
    """Two runs do not wait in step; the same run waits the same again, whoever resumes it."""

    def waits(nonce: str) -> list[float]:
        clock.waits.clear()
        journal, tester = MemoryJournal(), agent()
        begin(journal, "r", tester, "Go.", at=1, nonce=nonce)
        model = ScriptedModel(faulty(asking(), once(1, status(529), attempts=(1, 2, 3))))
        runner = Runner(journal, model, clock=clock, wait=clock.wait)
        epoch = journal.claim(STREAM)
        asyncio.run(driven(runner, tester, epoch, Watch(), clock))
        return [round(wait, 6) for wait in clock.waits]

    assert waits("a") == waits("a")
    assert waits("a") != waits("b")


def test_each_request_has_attempts_of_its_own(clock: Clock) -> None:
    """What failed before a reply came does not count against the next request."""

    def rule(request: dict[str, Any], attempt: int) -> Fault | None:
        return status(529) if attempt < ATTEMPTS else None

    model = ScriptedModel(faulty(asking(tool_use("nobody", {})), rule))
    assert drive(model, clock).status == "completed"
    assert len(model.calls) == 2 * ATTEMPTS


# ── failures that do not pass ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("fault", "kind", "end"),
    [
        (status(400), "invalid_request", "failed"),
        (status(401), "auth", "stopped"),
        (status(402), "spend_limit", "parked"),
        (status(403), "auth", "stopped"),
        (status(404), "not_found", "failed"),
        (status(413), "too_large", "failed"),
        (status(422), "invalid_request", "failed"),
        (status(429, error_code="enforced_spend_limit_reached"), "spend_limit", "parked"),
        (status(429, error_code="contract_spend_limit_reached"), "spend_limit", "parked"),
    ],
    ids=lambda value: f"{value.status}{value.error_code}" if isinstance(value, Fault) else value,
)
def test_a_failure_that_stays_is_not_repeated(
    fault: Fault, kind: str, end: str, clock: Clock
) -> None:
    """A request that cannot succeed is sent exactly once, and costs nothing."""
    model = ScriptedModel(faulty(asking(), once(1, fault, attempts=range(1, 100))))
    state = drive(model, clock)
    assert state.status == end
    assert f"Claude did not take the request ({kind}): a fault of the script" in state.why
    assert len(model.calls) == 1
    assert clock.waits == []
    assert (state.spend.nano, state.spend.turns, state.spend.held_nano) == (0, 0, 0)


class Broken(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even that")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ZeroDivisionError("a bug"), "ZeroDivisionError: a bug"),
        (Broken(), "Broken: its text cannot be had (RuntimeError)"),
        (KeyError("\ud800"), "KeyError: '\\ud800'"),
        (UnicodeError("half \ud800"), "UnicodeError: half ?"),
        (ModelFailure("strange", "of no kind"), "of no kind"),  # type: ignore[arg-type]
        (ModelFailure("bug", None, status="x", request_id=None), ""),  # type: ignore[arg-type]
    ],
    ids=["exception", "mute", "repr", "half a pair", "unknown kind", "no text"],
)
def test_a_bug_of_the_model_is_in_doubt(error: Exception, said: str, clock: Clock) -> None:
    """Whatever an adapter raises, the call counts as spent, the run fails, nothing is lost."""

    def fail(request: Request) -> Reply:
        raise error

    journal, model = MemoryJournal(), Answers(fail)
    state = drive(model, clock, journal=journal)
    assert state.status == "failed"
    assert state.why.endswith(f"(bug): {said}")
    assert len(model.calls) == 1
    (lost,) = events(journal, ModelCallInDoubt)
    (intent,) = events(journal, ModelCallStarted)
    assert lost.kind == "bug"
    assert lost.cost_nano == intent.hold_nano == state.spend.in_doubt_nano > 0


TEXT = b'[{"type":"text","text":"hi"}]'


def used(**members: Any) -> dict[str, Any]:
    return {"usage": Raw(msgspec.json.encode(members))}


@pytest.mark.parametrize(
    ("content", "more"),
    [
        (b'{"type":"text"}', {}),
        (b"[1]", {}),
        (b'[{"text":"of no type"}]', {}),
        (b'[{"type":"text","text":"cut', {}),
        (b"", {}),
        (b'[{"type":"tool_use","name":"a","input":{}}]', {"stop_reason": "tool_use"}),
        (
            b"[%b,%b]" % ((b'{"type":"tool_use","id":"t","name":"a","input":{}}',) * 2),
            {"stop_reason": "tool_use"},
        ),
        (TEXT, {"usage": Raw(b"{}")}),
        (TEXT, {"usage": Raw(b"null")}),
        (TEXT, used(input_tokens=-1, output_tokens=1)),
        (TEXT, {"extra": Raw(b"[]")}),
        (TEXT, {"extra": Raw(b"")}),
    ],
)
def test_a_reply_that_is_none_is_tried_again(
    content: bytes, more: dict[str, Any], clock: Clock
) -> None:
    """A reply that is not what the API promises is never an answer: in doubt, and asked again."""
    good = reply(TEXT)
    model = Answers(lambda request: reply(content, **more) if request.attempt == 1 else good)
    journal = MemoryJournal()
    state = drive(model, clock, journal=journal)
    assert state.status == "completed", state.why
    (lost,) = events(journal, ModelCallInDoubt)
    assert lost.kind == "malformed"
    assert lost.message.startswith("the ")
    assert lost.cost_nano > 0


def test_a_reply_by_a_model_without_a_price_is_not_asked_for_again(clock: Clock) -> None:
    """What nobody can price would cost as much again, so the run ends, and names the model."""
    model = Answers(lambda request: reply(TEXT, model="gpt-17"))
    state = drive(model, clock)
    assert state.status == "failed"
    assert "'gpt-17'" in state.why
    assert len(model.calls) == 1
    assert state.spend.in_doubt_nano > 0


@pytest.mark.parametrize(
    "more",
    [{"stop_reason": 5}, {"model": 5}, {"request_id": None}, {"message_id": b"x"}],
    ids=lambda more: next(iter(more)),
)
def test_a_reply_that_could_not_be_read_again_is_not_written(
    more: dict[str, Any], clock: Clock
) -> None:
    """What a journal could not be read with is the adapter's bug, and never gets into it."""
    journal = MemoryJournal()
    state = drive(Answers(lambda request: reply(TEXT, **more)), clock, journal=journal)
    assert state.status == "failed"
    assert "(bug): the model gave names that are not strings" in state.why
    assert [event.kind for event in events(journal, ModelCallInDoubt)] == ["bug"]


# ── why Claude stopped ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "stop_reason",
    [
        "zebra",
        "",
        None,
    ],
)
@pytest.mark.parametrize("use", [False, True], ids=["text", "tool use"])
def test_a_stop_reason_that_is_no_answer_fails(stop_reason: str | None, use: bool) -> None:  # noqa: FBT001
    """Only the stop reasons that are known to be an answer are one; no tool of any other is run."""
    called = []

    @outlast.tool(effect="once")
    def send() -> None:
        called.append(True)

    blocks = ["Some text.", *([tool_use("send", {})] if use else [])]
    model = ScriptedModel(lambda request, attempt: say(*blocks, stop_reason=stop_reason))
    state = drive(model, tools=[send])
    assert state.status == "failed"
    assert state.why == (f"Claude stopped with stop_reason {stop_reason!r}, which is not an answer")
    assert state.answer is None
    assert len(model.calls) == 1
    assert called == []


@pytest.mark.parametrize(
    ("turn", "said"),
    [
        (Turn(content=[]), "without a word"),
        (Turn(content=[], stop_reason="stop_sequence"), "(stop_sequence) without a word"),
        (say(" \n"), "without a word"),
        (say({"type": "thinking", "thinking": "…", "signature": "x"}), "without a word"),
        (say("Text.", tool_use("send", {}), stop_reason="end_turn"), "with a tool use left open"),
        (say("No tool.", stop_reason="tool_use"), "stop_reason 'tool_use', which is not an answer"),
    ],
    ids=["empty", "stop sequence", "blank", "thinking", "open tool use", "no tool use"],
)
def test_a_reply_without_an_answer_fails(turn: Turn, said: str) -> None:
    """A turn that ends without a word, or with something left open, is no answer."""
    model = ScriptedModel(lambda request, attempt: turn)
    state = drive(model)
    assert state.status == "failed"
    assert said in state.why
    assert len(model.calls) == 1


@pytest.mark.parametrize("stop_reason", ["end_turn", "stop_sequence"])
def test_the_answer_is_the_text(stop_reason: str) -> None:
    """The answer is the text of the last reply, all of it, and nothing of its other blocks."""
    thinking = {"type": "thinking", "thinking": "hm", "signature": "s"}
    said = say(thinking, "One, ", "two.", stop_reason=stop_reason)
    state = drive(ScriptedModel(lambda request, attempt: said))
    assert state.status == "completed"
    assert state.answer == Raw(b'"One, two."')


# ── those who watch ───────────────────────────────────────────────────────────────────────────


def test_parts_and_records_are_told(clock: Clock) -> None:
    """Every part is told as it comes, a lost attempt is discarded, every record is told once."""
    parts: list[Part] = []
    records: list[Any] = []
    model = ScriptedModel(faulty(asking(), once(1, Fault(kind="cut"))))
    journal = MemoryJournal()
    drive(model, clock, journal=journal, on_part=parts.append, on_record=records.append)
    assert [(part.attempt, part.kind, part.text) for part in parts] == [
        (1, "discarded", ""),
        (2, "text", "done"),
    ]
    assert records == journal.read(STREAM, after=3)


def test_a_note_is_told_to_those_who_watch() -> None:
    """What others write while a call is in flight is told in its place, and nothing is repeated."""
    journal, records = MemoryJournal(), []

    def answer(request: Request) -> Reply:
        journal.append(Commit(stream=STREAM, events=(NoteAdded(text="hello"),), at=5))
        return reply(TEXT)

    model = Answers(answer)
    state = drive(model, journal=journal, on_record=records.append)
    assert state.status == "completed"
    assert len(model.calls) == 1
    assert records == journal.read(STREAM, after=3)
    assert [type(record.event) for record in records[:3]] == [
        ModelCallStarted,
        NoteAdded,
        ModelCallSucceeded,
    ]


@pytest.mark.parametrize("what", ["on_part", "on_record"])
def test_a_watcher_that_breaks_costs_no_reply(what: str) -> None:
    """An exception of a watcher reaches the caller; the reply it saw is kept and not paid again."""

    def break_down(seen: Any) -> None:
        if isinstance(seen, Part) or isinstance(seen.event, ModelCallSucceeded):
            raise BrokenPipeError("nobody reads")

    journal, model = MemoryJournal(), ScriptedModel(asking())
    with pytest.raises(BrokenPipeError, match="nobody reads"):
        drive(model, journal=journal, **{what: break_down})
    assert len(events(journal, ModelCallSucceeded)) == 1
    assert drive(model, journal=journal).status == "completed"
    assert len(model.calls) == 1


# ── stores that fail, and others who drive ────────────────────────────────────────────────────


class Small(MemoryJournal):
    """A store that is full when it is to take an event of `type`, until there is room."""

    def __init__(self, type: type) -> None:  # noqa: A002
        super().__init__()
        self.type = type
        self.room = False

    def append(self, commit: Commit) -> Any:
        if not self.room and any(isinstance(event, self.type) for event in commit.events):
            raise StoreFull("no space is left, so nothing was written; free some and try again")
        return super().append(commit)


@pytest.mark.parametrize(
    ("type_", "calls"),
    [(ModelCallStarted, 0), (ToolCallStarted, 1), (ToolCallSucceeded, 1), (RunFinished, 2)],
)
def test_a_full_store_loses_nothing_that_was_written(type_: type, calls: int) -> None:
    """A store that is full stops the run with an error; with room again, the run completes."""
    called = []

    @outlast.tool(effect="read")
    def look() -> str:
        called.append(True)
        return "seen"

    journal, model = Small(type_), ScriptedModel(asking(tool_use("look", {})))
    with pytest.raises(StoreFull, match="no space is left"):
        drive(model, journal=journal, tools=[look])
    assert len(model.calls) == calls
    assert len(called) == (calls == 2 or type_ is ToolCallSucceeded), "an effect without an intent"
    journal.room = True
    state = drive(model, journal=journal, tools=[look])
    assert state.status == "completed"
    assert state.spend.nano >= model.billed_nano


def test_who_is_fenced_lets_go() -> None:
    """A driver that was taken over while it asked raises, and starts nothing more."""
    journal, model = MemoryJournal(), ScriptedModel(asking(tool_use("take", {})))

    @outlast.tool(effect="read")
    def take() -> None:
        journal.claim(STREAM, force=True)

    with pytest.raises(Fenced, match="another worker is driving this run"):
        drive(model, journal=journal, tools=[take])
    assert len(model.calls) == 1
    assert events(journal, ToolCallSucceeded) == []


def test_who_meets_a_driver_of_the_same_epoch_lets_go() -> None:
    """What others append is folded only if it is from outside; anything else is a conflict."""
    journal, model = MemoryJournal(), ScriptedModel(asking(tool_use("meddle", {})))

    @outlast.tool(effect="read")
    def meddle() -> None:
        last = journal.read(STREAM)[-1]
        end = RunFinished(status="failed", why="meddled")
        journal.append(
            Commit(stream=STREAM, events=(end,), at=9, expected_seq=last.seq + 1, epoch=last.epoch)
        )

    with pytest.raises(Conflict, match="expected the journal at seq 7, but it is at 8"):
        drive(model, journal=journal, tools=[meddle])
    assert len(model.calls) == 1
