"""What a run knows: all slices, folded from its journal."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from outlast import (
    approvals,
    budget,
    control,
    conversation,
    parking,
    phases,
    steps,
    undoing,
    validation,
)
from outlast.approvals import Approvals
from outlast.budget import Spend
from outlast.control import Control
from outlast.conversation import Conversation, rested
from outlast.events import (
    AnswerProposed,
    AnswerRejected,
    ApprovalGiven,
    ApprovalRequested,
    AskAnswered,
    AskStarted,
    BoundExceeded,
    ChildStarted,
    ControlGiven,
    Event,
    LabelGiven,
    NoteAdded,
    PhaseEntered,
    RunFinished,
    RunForked,
    RunLeft,
    RunParked,
    RunStarted,
    RunWoken,
    StepFinished,
    StepStarted,
    ToolCallReconciled,
    UndoFinished,
    UndoStarted,
    VerdictGiven,
)
from outlast.journal import PARKED, Record, RunRow
from outlast.parking import Parking
from outlast.phases import Phases
from outlast.steps import Steps
from outlast.undoing import Undoing
from outlast.validation import Validation

FINAL: Final = frozenset({"failed", "rejected", "cancelled"})
"""Statuses after which nothing of a run can go on."""

WAITING: Final = PARKED | {"queued"}
"""Statuses in which a run waits for somebody to drive it, now or later."""

ENDED: Final = FINAL | {"completed"}
"""Statuses in which a run has nothing left to do, unless it is told more."""


class RunState(msgspec.Struct, frozen=True):
    """Everything a run knows, and nothing else does: the fold of its journal."""

    started: RunStarted | None = None
    asks: dict[str, Conversation] = {}
    spend: Spend = Spend()
    steps: Steps = Steps()
    phases: Phases = Phases()
    control: Control = Control()
    parking: Parking = Parking()
    approvals: Approvals = Approvals()
    undoing: Undoing = Undoing()
    validation: Validation = Validation()
    factors: dict[str, int] = {}
    """By how much bounds of prompts are multiplied, in whole percent, by the model that showed it.

    The greatest of them holds for every call of the run.
    """
    status: str = "queued"
    why: str = ""
    answer: Raw | None = None
    next_seq: int = 1
    created_at: int = 0
    updated_at: int = 0

    @property
    def finished(self) -> bool:
        """Whether the last leg of the run has ended."""
        return self.status not in ("queued", "running")


def held_up(state: RunState) -> bool:
    """Return whether something in the run waits for somebody to mend it, and to resume the run."""
    return any(map(conversation.held_up, state.asks.values()))


def owes(state: RunState) -> bool:
    """Return whether a run that is to end has calls to take back first, which takes its code."""
    is_told = state.control.cancelled and state.control.undo
    return is_told and bool(undoing.left(state.undoing, state.asks.values()))


def evolve(state: RunState, record: Record) -> RunState:
    """Return what `record` makes of the run."""
    return fold((record,), state)


def fold(records: Iterable[Record], state: RunState | None = None) -> RunState:
    """Return what `records` make of `state`, which is empty by default."""
    # Most records change their ask and the spend and nothing else.  Of a stretch of those, the run
    # is made once, at its end: a resume has tens of thousands.
    run = RunState() if state is None else state
    asks, spend, epoch, last = run.asks.copy(), run.spend, 0, None
    for record in records:
        event: Any = record.event
        rule = _RULES.get(type(event))
        if rule is None:
            ask_id = event.ask_id
            asks[ask_id] = conversation.evolve(asks[ask_id], record)
            spend = budget.evolve(spend, record)
            epoch = epoch or record.epoch
            last = record
        else:
            before = run if last is None else _stretched(run, asks, spend, epoch, last)
            run = _dated(rule(before, event, record), record)
            asks, spend, epoch, last = run.asks.copy(), run.spend, 0, None
    return run if last is None else _stretched(run, asks, spend, epoch, last)


def _stretched(
    run: RunState, asks: dict[str, Conversation], spend: Spend, epoch: int, last: Record
) -> RunState:
    return replace(
        run,
        asks=asks,
        spend=spend,
        **(_at_work(run) if epoch else {}),
        next_seq=last.seq + 1,
        updated_at=last.at,
    )


def _at_work(state: RunState) -> dict[str, str]:
    """Return what the run's status becomes by its driver's doing: what it was told, it stays."""
    return {"status": "running", "why": ""} if state.control.verb is None else {}


def _dated(state: RunState, record: Record) -> RunState:
    return replace(
        state,
        next_seq=record.seq + 1,
        created_at=state.created_at or record.at,
        updated_at=record.at,
    )


def _answered(state: RunState, event: AskAnswered, record: Record) -> RunState:
    ask = conversation.evolve(state.asks[event.ask_id], record)
    asks = {**state.asks, event.ask_id: ask}
    if not ask.judges:
        told = validation.evolve(state.validation, record)
        state = replace(state, answer=event.answer, validation=told)
    return _stretched(state, asks, state.spend, record.epoch, record)


def _checked(state: RunState, _: Event, record: Record) -> RunState:
    return replace(state, validation=validation.evolve(state.validation, record), **_at_work(state))


def _started(state: RunState, event: RunStarted, _: Record) -> RunState:
    return replace(state, started=event)


def _forked(state: RunState, _: RunForked, record: Record) -> RunState:
    # What people told the other run, or allowed it, they told and allowed that one.
    over = state.status == "completed"
    return replace(
        state,
        asks={key: conversation.shared(ask) for key, ask in state.asks.items()},
        steps=steps.asked_again(state.steps),
        control=Control(),
        parking=Parking(),
        approvals=approvals.asked_again(state.approvals, record.at),
        undoing=Undoing(),
        status="completed" if over else "queued",
        why=state.why if over else "",
    )


def _ask_started(state: RunState, event: AskStarted, _: Record) -> RunState:
    assert state.started is not None, "an ask before its run"  # noqa: S101  (a broken invariant)
    before = state.asks[event.continues] if event.continues else None
    asks = {**state.asks, event.ask_id: conversation.start(event, state.started.spec, before)}
    stays = state.status == "queued" or state.control.verb is not None
    return replace(state, asks=asks, status=state.status if stays else "running")


def _stepped(state: RunState, _: Event, record: Record) -> RunState:
    return replace(state, steps=steps.evolve(state.steps, record), **_at_work(state))


def _parked(state: RunState, _: RunParked, record: Record) -> RunState:
    parked = parking.evolve(state.parking, record)
    return replace(state, parking=parked, status=parked.status, why=parked.why)


def _woken(state: RunState, _: RunWoken, record: Record) -> RunState:
    return replace(state, parking=parking.evolve(state.parking, record), **_at_work(state))


def _requested(state: RunState, _: ApprovalRequested, record: Record) -> RunState:
    asked = approvals.evolve(state.approvals, record)
    begun = steps.evolve(state.steps, record)
    return replace(state, approvals=asked, steps=begun, **_at_work(state))


def _approved(state: RunState, _: ApprovalGiven, record: Record) -> RunState:
    told = approvals.evolve(state.approvals, record)
    if told == state.approvals:
        return state
    return _called(replace(state, approvals=told))


def _reconciled(state: RunState, event: ToolCallReconciled, record: Record) -> RunState:
    before = state.asks[event.ask_id]
    ask = conversation.evolve(before, record)
    asks = {**state.asks, event.ask_id: ask}
    told = _stretched(state, asks, state.spend, record.epoch, record)
    return told if event.function or ask is before else _called(told)


def _undone(state: RunState, _: Event, record: Record) -> RunState:
    return replace(state, undoing=undoing.evolve(state.undoing, record))


def _called(state: RunState) -> RunState:
    """Return a run that is to be driven at once, where nobody drives it."""
    if not state.parking.status:
        return state
    paused = state.control.paused
    status, why = (state.status, state.why) if paused else ("queued", state.control.why)
    return replace(state, parking=Parking(), status=status, why=why)


def _left(state: RunState, event: RunLeft, _: Record) -> RunState:
    left = state.status in WAITING or state.status == "running"
    return replace(state, why=event.why) if left else state


def _entered(state: RunState, _: PhaseEntered, record: Record) -> RunState:
    return replace(state, phases=phases.evolve(state.phases, record), **_at_work(state))


def _exceeded(state: RunState, event: BoundExceeded, record: Record) -> RunState:
    ask = conversation.evolve(state.asks[event.ask_id], record)
    asks = {**state.asks, event.ask_id: ask}
    model = ask.spec.model
    factors = {**state.factors, model: max(event.percent, state.factors.get(model, 100))}
    return _stretched(replace(state, factors=factors), asks, state.spend, record.epoch, record)


def _finished(state: RunState, event: RunFinished, record: Record) -> RunState:
    asks = {key: rested(ask) for key, ask in state.asks.items()}
    is_flow = state.started is not None and state.started.kind == "flow"
    answer = event.answer if is_flow and event.status == "completed" else state.answer
    return replace(
        state,
        asks=asks,
        status=event.status,
        why=event.why,
        answer=answer,
        phases=phases.evolve(state.phases, record),
        parking=parking.evolve(state.parking, record),
    )


def _told(state: RunState, event: ControlGiven, record: Record) -> RunState:
    if state.status in ENDED:
        return state
    told = control.evolve(state.control, record)
    if event.verb == "resume" and not told.cancelled and held_up(state):
        return _mended(replace(state, control=told))
    if told == state.control:
        return state
    if told.verb is None:
        # It is as it was before: parked, if its time has not come, and else to be driven.
        parked = state.parking
        return replace(state, control=told, status=parked.status or "queued", why=parked.why)
    if told.paused:
        return replace(state, control=told, status="paused", why=told.why)
    # Whoever finds it is to end it, whatever it waits for.
    status = "running" if state.status == "running" else "queued"
    return replace(state, control=told, status=status, why=told.why, parking=Parking())


def _mended(state: RunState) -> RunState:
    """Return a run that was held up, and is to go on at once."""
    held_up = conversation.held_up
    asks = {key: rested(ask) if held_up(ask) else ask for key, ask in state.asks.items()}
    status = "running" if state.status == "running" else "queued"
    return replace(state, asks=asks, parking=Parking(), status=status, why="")


def _unchanged(state: RunState, _event: NoteAdded | LabelGiven, _: Record) -> RunState:
    return state


_RULES: Final[dict[type[Event], Callable[[RunState, Any, Record], RunState]]] = {
    RunStarted: _started,
    RunForked: _forked,
    AskStarted: _ask_started,
    AskAnswered: _answered,
    AnswerProposed: _checked,
    VerdictGiven: _checked,
    AnswerRejected: _checked,
    LabelGiven: _unchanged,
    BoundExceeded: _exceeded,
    RunFinished: _finished,
    PhaseEntered: _entered,
    StepStarted: _stepped,
    StepFinished: _stepped,
    ChildStarted: _stepped,
    RunWoken: _woken,
    RunParked: _parked,
    RunLeft: _left,
    ApprovalRequested: _requested,
    ApprovalGiven: _approved,
    ToolCallReconciled: _reconciled,
    UndoStarted: _undone,
    UndoFinished: _undone,
    NoteAdded: _unchanged,
    ControlGiven: _told,
}
"""What each event makes of the run; every other one belongs to an ask."""


def row(state: RunState, run_id: str) -> RunRow:
    """Return the run's row: what listings show without reading the journal."""
    started = state.started
    assert started is not None, "a run without its first event"  # noqa: S101  (a broken invariant)
    return RunRow(
        id=run_id,
        agent=started.agent,
        version=started.version,
        status=state.status,
        phase=state.phases.now,
        wake_at=state.parking.until or None,
        answer=_answer(state),
        cost_nano=state.spend.nano,
        in_doubt_nano=state.spend.in_doubt_nano,
        tokens=state.spend.tokens,
        turns=state.spend.turns,
        created_at=state.created_at,
        updated_at=state.updated_at,
        why=state.why,
        degraded=state.steps.degraded or any(map(_is_less, state.asks.values())),
        tenant=started.tenant,
        parent=started.parent,
        root=started.root,
        rejections=len(state.validation.rejected),
    )


def _is_less(ask: Conversation) -> bool:
    return bool(ask.degraded or ask.less)


def _answer(state: RunState) -> str | None:
    """Return the answer of a run that is completed; what one ask of several came to is none."""
    if state.status != "completed" or state.answer is None:
        return None
    return bytes(state.answer).decode()
