"""The policy: for everything a run can know, the one next step, and nothing else."""

from typing import Any

import msgspec
import pytest
from msgspec import Raw

import outlast
from outlast.conversation import request_hash
from outlast.decide import (
    BACKOFF_S,
    NS,
    REPEATS,
    REST,
    WAIT,
    CallModel,
    CallTool,
    Sleep,
    Step,
    World,
    decide,
)
from outlast.events import (
    NULL,
    AnyEvent,
    AskAnswered,
    AskStarted,
    BudgetRefused,
    MessageReceived,
    ModelCallFailed,
    ModelCallInDoubt,
    ModelCallStarted,
    ModelCallSucceeded,
    NoteAdded,
    RunFinished,
    RunParked,
    RunStarted,
    ToolCallFailed,
    ToolCallInDoubt,
    ToolCallStarted,
    ToolCallSucceeded,
)
from outlast.journal import Record
from outlast.state import RunState, evolve
from stubs import MODEL, agent

AT = 1_790_000_000 * NS
NOBODY = World()
SECOND = NS


@outlast.tool(effect="read")
def look(word: str) -> str: ...
@outlast.tool(effect="idempotent")
def save(word: str) -> str: ...
@outlast.tool(effect="once")
def send(word: str) -> str: ...


AGENT = agent(look, save, send, max_tokens=100)


def known(*events: AnyEvent, asked: outlast.Agent = AGENT) -> RunState:
    """Return what a run knows that was started, asked, and to which these events happened."""
    begun = (
        RunStarted(journal_version=1, agent=asked.name, nonce="n", spec=asked.spec()),
        AskStarted(ask_id="a"),
        MessageReceived(ask_id="a", content=Raw(b'"Go."')),
    )
    return after(RunState(), *begun, *events)


def after(state: RunState, *events: AnyEvent, epoch: int = 1) -> RunState:
    """Return what `events` make of `state`."""
    for event in events:
        state = evolve(state, Record("run:r", state.next_seq, 0, AT, epoch, event))
    return state


def intent(state: RunState, world: World = NOBODY, now: int = AT) -> ModelCallStarted:
    """Return the model call that the run starts next."""
    (event,) = decide(state, AGENT, now, world).events
    assert isinstance(event, ModelCallStarted)
    return event


def called(state: RunState) -> RunState:
    """Return the run with its next model call started."""
    return after(state, intent(state))


def replied(state: RunState, *blocks: Any, stop_reason: str | None = None) -> RunState:
    """Return the run with its next model call answered with these blocks."""
    state = called(state)
    call = state.asks["a"].call
    assert call is not None
    content = Raw(msgspec.json.encode(blocks))
    reason = stop_reason or (
        "tool_use" if any(b["type"] == "tool_use" for b in blocks) else "end_turn"
    )
    return after(
        state,
        ModelCallSucceeded(
            ask_id="a",
            call_id=call.call_id,
            content=content,
            stop_reason=reason,
            usage=Raw(b'{"input_tokens":1,"output_tokens":1}'),
            cost_nano=1,
            tokens=2,
        ),
    )


def use(name: str, number: int = 1, **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_{number}", "name": name, "input": arguments}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def lost(state: RunState, kind: Any, *, doubt: bool = False, **more: Any) -> RunState:
    """Return the run with its next model call come to nothing."""
    state = called(state)
    facts = {"ask_id": "a", "call_id": "a.m1", "kind": kind, "message": "no", **more}
    event = ModelCallInDoubt(**facts, cost_nano=7, tokens=9) if doubt else ModelCallFailed(**facts)
    return after(state, event)


# ── the model ─────────────────────────────────────────────────────────────────────────────────


def test_a_new_run_asks() -> None:
    """A run that was only asked calls the model, with the intent, its hash and its hold first."""
    state = known()
    step = decide(state, AGENT, AT, NOBODY)
    (event,), (action,) = step.events, step.actions
    ask = state.asks["a"]
    assert isinstance(event, ModelCallStarted)
    assert isinstance(action, CallModel)
    assert (event.call_id, event.attempt, event.max_tokens) == ("a.m1", 1, 100)
    assert event.request_hash == request_hash(ask, 100)
    assert event.hold_tokens >= 100 + len(ask.head) + len(ask.messages[0])
    assert event.hold_nano > 0
    assert (action.call_id, action.hold_nano, action.model) == ("a.m1", event.hold_nano, MODEL)
    said = b'{"role":"user","content":[{"type":"text","text":"Go."}]}'
    assert (action.head, list(action.messages)) == (ask.head, [said])


def test_who_waits_for_a_call_goes_on_waiting() -> None:
    """A call that this driver started is waited for."""
    assert decide(called(known()), AGENT, AT, World(in_flight=frozenset({"a.m1"}))) == WAIT


def test_a_call_that_nobody_waits_for_is_in_doubt_and_made_again() -> None:
    """A call of a driver that died counts as spent in full; the same request goes out again."""
    state = called(known())
    started = state.asks["a"].call
    assert started is not None
    (doubt,) = decide(state, AGENT, AT, NOBODY).events
    assert doubt == ModelCallInDoubt(
        ask_id="a",
        call_id="a.m1",
        kind="crash",
        message="the process ended before the outcome was written",
        cost_nano=started.hold_nano,
        tokens=started.hold_tokens,
    )
    again = intent(after(state, doubt))
    assert (again.call_id, again.attempt) == ("a.m2", 1)
    assert again.request_hash == started.request_hash


@pytest.mark.parametrize("retry_after_s", [None, 0.1, 4.0])
def test_a_failed_call_waits_for_its_time(retry_after_s: float | None) -> None:
    """The next attempt waits for its backoff or for what the API asks, and not a moment longer."""
    state = lost(known(), "rate_limited", retry_after_s=retry_after_s)
    (sleep,) = decide(state, AGENT, AT, NOBODY).actions
    assert isinstance(sleep, Sleep)
    waited = sleep.until - AT
    if retry_after_s == 4.0:
        assert waited == 4 * SECOND
    else:
        assert BACKOFF_S[0] * SECOND <= waited <= 1.5 * BACKOFF_S[0] * SECOND
    assert decide(state, AGENT, sleep.until - 1, NOBODY).actions == (sleep,)
    assert intent(state, now=sleep.until).attempt == 2


def test_a_crash_is_not_a_failure_of_the_api() -> None:
    """A call that died with its process makes nobody wait and counts as no attempt."""
    state = called(known())
    for _ in range(20):
        state = after(state, *decide(state, AGENT, AT, NOBODY).events)
        state = after(state, event := intent(state))
        assert event.attempt == 1
    state = lost(known(), "overloaded")
    (wait,) = decide(state, AGENT, AT, NOBODY).actions
    state = after(state, intent(state, now=AT + 60 * SECOND))
    state = after(state, *decide(state, AGENT, AT, NOBODY).events)
    assert state.asks["a"].failures == 1
    (still,) = decide(state, AGENT, AT, NOBODY).actions
    assert isinstance(still, Sleep)
    assert isinstance(wait, Sleep)


@pytest.mark.parametrize(
    ("kind", "doubt", "status"),
    [
        ("auth", False, "stopped"),
        ("store", False, "stopped"),
        ("not_found", False, "failed"),
        ("too_large", False, "failed"),
        ("invalid_request", False, "failed"),
        ("bug", True, "failed"),
    ],
)
def test_a_failure_that_stays_ends_the_leg(kind: str, doubt: bool, status: str) -> None:  # noqa: FBT001
    """What another attempt cannot mend stops the run for a person, or ends it; it says why."""
    (end,) = decide(lost(known(), kind, doubt=doubt), AGENT, AT, NOBODY).events
    assert isinstance(end, RunFinished)
    assert end.status == status
    assert f"({kind}): no" in end.why


def test_an_answer_ends_the_ask_and_then_the_run() -> None:
    """A reply that ended its turn is the answer, and with its last ask answered a run completes."""
    state = replied(known(), text("One, "), text("two."))
    answer = AskAnswered(ask_id="a", answer=Raw(b'"One, two."'))
    assert decide(state, AGENT, AT, NOBODY) == Step((answer,))
    state = after(state, answer)
    assert decide(state, AGENT, AT, NOBODY) == Step((RunFinished(status="completed"),))


@pytest.mark.parametrize("status", ["completed", "failed", "rejected", "cancelled"])
def test_a_run_that_ended_rests(status: Any) -> None:
    """What is over stays over, however large the budget of whoever asks."""
    state = known(RunFinished(status=status))
    assert decide(state, agent(budget=outlast.Budget()), AT, NOBODY) == REST


# ── the budget ────────────────────────────────────────────────────────────────────────────────


def test_a_budget_that_is_used_up_stops_the_run() -> None:
    """No call is made beyond the turns; the run says what it has used and what to do."""
    small = agent(look, budget=outlast.Budget(turns=1))
    state = replied(known(), use("look", wrong=1))
    state = after(state, *decide(state, small, AT, NOBODY).events)
    refused, stopped = decide(state, small, AT, NOBODY).events
    assert refused == BudgetRefused(ask_id="a", scope="run", unit="turns", needed=1, left=0)
    assert isinstance(stopped, RunFinished)
    assert stopped.status == "stopped"
    assert stopped.why == (
        "stopped: run budget, needs 1 turn, 0 turns left; give a larger Budget(turns=…) and resume"
    )
    state = after(state, refused, stopped)
    assert decide(state, small, AT, NOBODY) == REST, "as long as nobody raises it"
    assert intent(state).call_id == "a.m2", "and then it goes on"


def test_no_crash_widens_the_budget() -> None:
    """Calls in doubt count as turns: a process that dies again and again comes to an end."""
    small = agent(look, budget=outlast.Budget(turns=3))
    state = known()
    for _ in range(3):
        state = called(state)
        state = after(state, *decide(state, small, AT, NOBODY).events)
    refused, stopped = decide(state, small, AT, NOBODY).events
    assert isinstance(refused, BudgetRefused)
    assert isinstance(stopped, RunFinished)


def test_a_turn_that_was_not_billed_is_given_back() -> None:
    """A call that surely was not billed takes no turn."""
    small = agent(look, budget=outlast.Budget(turns=1))
    state = lost(known(), "overloaded")
    (event,) = decide(state, small, AT + 60 * SECOND, NOBODY).events
    assert isinstance(event, ModelCallStarted)


# ── tools ─────────────────────────────────────────────────────────────────────────────────────


def test_every_tool_use_is_started() -> None:
    """Each tool use of a reply becomes a call with its own id and key, one step after another."""
    state = replied(known(), use("look", 1, word="a"), text("and"), use("send", 2, word="b"))
    calls = []
    in_flight: frozenset[str] = frozenset()
    for number in (1, 2):
        step = decide(state, AGENT, AT, World(in_flight=in_flight))
        (event,), (action,) = step.events, step.actions
        assert isinstance(event, ToolCallStarted)
        assert isinstance(action, CallTool)
        assert event.call_id == action.call_id == f"a.m1.t{number}"
        state, in_flight = after(state, event), in_flight | {event.call_id}
        calls.append((event.tool, event.effect, bytes(action.arguments), action.idempotency_key))
    assert decide(state, AGENT, AT, World(in_flight=in_flight)) == WAIT
    assert [call[:3] for call in calls] == [
        ("look", "read", b'{"word":"a"}'),
        ("send", "once", b'{"word":"b"}'),
    ]
    assert calls[0][3] != calls[1][3]


def test_an_outcome_does_not_start_the_others_again() -> None:
    """While one call is still waited for, its sibling's outcome changes nothing for it."""
    state = replied(known(), use("look", 1, word="a"), use("look", 2, word="b"))
    for _ in range(2):
        world = World(
            in_flight=frozenset({"a.m1.t1"} if state.asks["a"].pending[0].call_id else ())
        )
        state = after(state, *decide(state, AGENT, AT, world).events)
    answer = ToolCallSucceeded(ask_id="a", call_id="a.m1.t2", tool_use_id="toolu_2", content=NULL)
    state = after(state, answer)
    assert decide(state, AGENT, AT, World(in_flight=frozenset({"a.m1.t1"}))) == WAIT


@pytest.mark.parametrize(
    ("name", "arguments", "kind", "told"),
    [
        ("nobody", {}, "unknown_tool", "This agent has no tool of that name"),
        ("look", {"word": 1}, "invalid_arguments", "- word: Input should be a valid string"),
        ("look", {}, "invalid_arguments", "- word: Field required"),
    ],
)
def test_what_cannot_be_called_is_answered_without_an_intent(
    name: str, arguments: Any, kind: str, told: str
) -> None:
    """An unknown tool or wrong arguments are told to Claude; nothing was going to happen."""
    step = decide(replied(known(), use(name, **arguments)), AGENT, AT, NOBODY)
    (event,) = step.events
    assert isinstance(event, ToolCallFailed)
    assert event.kind == kind
    assert told in msgspec.json.decode(event.content)
    assert step.actions == ()


@pytest.mark.parametrize(
    ("name", "attempt", "repeated"),
    [
        ("look", 1, True),
        ("look", REPEATS, True),
        ("look", REPEATS + 1, False),
        ("save", 1, True),
        ("save", 10, True),
        ("send", 1, False),
    ],
)
def test_a_tool_call_in_doubt_follows_its_effect(name: str, attempt: int, repeated: bool) -> None:  # noqa: FBT001
    """A `read` is repeated twice at most, `idempotent` with its key, `once` never."""
    state = replied(known(), use(name, word="a"))
    keys = set()
    for _ in range(attempt):
        step = decide(state, AGENT, AT, NOBODY)
        (event,), (action,) = step.events, step.actions
        assert isinstance(action, CallTool)
        keys.add(action.idempotency_key)
        state = after(state, event)
        (doubt,) = decide(state, AGENT, AT, NOBODY).events
        assert isinstance(doubt, ToolCallInDoubt)
        state = after(state, doubt)
    assert len(keys) == 1, "every attempt has the key of the first"
    assert (doubt.content == NULL) == (repeated or name == "send")
    step = decide(state, AGENT, AT, NOBODY)
    if repeated:
        (again,) = step.events
        assert isinstance(again, ToolCallStarted)
        assert again.attempt == attempt + 1
        assert again.call_id == f"a.m1.t1.{attempt + 1}"
    elif name == "send":
        assert doubt.open
        (parked,) = step.events
        assert isinstance(parked, RunParked)
        assert (parked.until, parked.person) == (0, True)
        assert "waiting for a person: did send (a.m1.t1) happen?" in parked.why
    else:
        assert "outcome of this call of " + name in msgspec.json.decode(doubt.content)
        assert isinstance(step.events[0], ModelCallStarted), "the run goes on"


def test_a_tool_that_is_gone_is_not_called_again() -> None:
    """A call in doubt of a tool that the agent no longer has is not repeated."""
    state = replied(known(), use("look", word="a"))
    state = after(state, *decide(state, AGENT, AT, NOBODY).events)
    (doubt,) = decide(state, agent(), AT, NOBODY).events
    assert isinstance(doubt, ToolCallInDoubt)
    assert doubt.content != NULL


def test_a_repeated_id_is_another_call() -> None:
    """Claude may use an id again in a later turn; it is another call, with another key."""
    state, seen = known(), []
    for _ in range(2):
        state = replied(state, use("send", 1, word="a"))
        step = decide(state, AGENT, AT, NOBODY)
        (event,), (action,) = step.events, step.actions
        assert isinstance(event, ToolCallStarted)
        assert isinstance(action, CallTool)
        seen.append((action.idempotency_key, event.call_id))
        done = ToolCallSucceeded(
            ask_id="a", call_id=event.call_id, tool_use_id="toolu_1", content=Raw(b'"ok"')
        )
        state = after(state, event, done)
    assert len({key for key, _ in seen}) == len({call_id for _, call_id in seen}) == 2


# ── what does not matter ──────────────────────────────────────────────────────────────────────

STATES = {
    "new": known(),
    "calling": called(known()),
    "failed": lost(known(), "overloaded"),
    "asked for a tool": replied(known(), use("look", word="a")),
    "answered": replied(known(), text("done")),
    "stopped": known(RunFinished(status="stopped")),
    "completed": known(RunFinished(status="completed")),
}


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_a_note_decides_nothing(state: RunState) -> None:
    """A remark in the journal changes no decision, whatever the run is at."""
    noted = after(state, NoteAdded(text="hello"), epoch=0)
    assert decide(noted, AGENT, AT, NOBODY) == decide(state, AGENT, AT, NOBODY)
    assert noted.status == state.status


def test_what_the_model_sees_is_as_recorded() -> None:
    """An agent that was changed since does not change what a run sends."""
    other = outlast.Agent(
        "tester",
        model="claude-opus-5-5",
        instructions="Be brief.",
        max_tokens=9,
        parameters={"temperature": 1},
    )
    assert decide(known(), other, AT, NOBODY) == decide(known(), AGENT, AT, NOBODY)
