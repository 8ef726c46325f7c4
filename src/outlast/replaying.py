"""Decides a recorded run again, and compares: pure, and nothing is asked, called or written.

    what stood before ──fold──▶ state ──decide──▶ the same event as then?

| a recorded event | what is done |
|---|---|
| the beginning, and what others wrote | folded |
| the outcome of something in flight | folded |
| anything else the driver wrote | decided again, as of then, and compared |
| the same, and what it rests on stands in no journal of the run | counted as not told |
| what the function of a flow asked for | counted as not replayed |

A run's journal does not hold what others did: breakers, rate limits, budgets of others, children.
Where that could have made the difference, nothing is said of the decision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias, TypeGuard

import msgspec
from msgspec.structs import replace

from outlast.actions import Interrupt, Sleep, Step, World, moment
from outlast.agent import Agent
from outlast.breaker import State, source_key
from outlast.budget import BILLED
from outlast.conversation import request_hash
from outlast.decide import Shared, ask_step, exceeded_step, lost_call, wake
from outlast.decide_control import decide_control
from outlast.drive import decided, outcome_id
from outlast.events import (
    OUTSIDE,
    AnswerRejected,
    AnyEvent,
    ApprovalRequested,
    AskAnswered,
    AskFailed,
    AskRejected,
    AskResampled,
    AskStarted,
    BoundExceeded,
    BudgetRefused,
    ChildStarted,
    FeedbackGiven,
    LabelGiven,
    LoopDetected,
    MessageReceived,
    ModelCallInDoubt,
    ModelCallStarted,
    ModelSwitched,
    Outcome,
    ReconcileStarted,
    RunFinished,
    RunForked,
    RunParked,
    RunStarted,
    RunWoken,
    StepStarted,
    TokensCounted,
    ToolCallFailed,
    ToolCallReconciled,
    ToolCallStarted,
    UndoStarted,
    VerdictGiven,
    encode,
)
from outlast.flows import Flow
from outlast.journal import Record
from outlast.pacing import Freeze, group
from outlast.state import RunState, evolve

Known: TypeAlias = Callable[[int], World]
"""What is known beside the run's journal, as of a time in nanoseconds since the epoch."""

_HOUR_NS: Final = 3_600_000_000_000


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A decision that would be another one now."""

    seq: int
    at: int
    """When it was made, in nanoseconds since the epoch."""
    recorded: tuple[AnyEvent, ...]
    decided: tuple[AnyEvent, ...]
    """What would be written instead; empty where nothing would be."""
    instead: str = ""
    """What would be done then, where nothing would be written."""


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """What came of deciding a run again."""

    same: int = 0
    """Events that would be written as they were."""
    differences: tuple[Difference, ...] = ()
    untold: int = 0
    """Events that rest on what the run's journal does not hold."""
    skipped: int = 0
    """Events of which a flow's function decides, or an agent that is not at hand."""

    @property
    def decisions(self) -> int:
        """How many events were decided again, and could be compared."""
        return self.same + sum(len(one.recorded) for one in self.differences)


_WITH: Final[Mapping[type[Any], tuple[type[Any], ...]]] = {
    BudgetRefused: (RunFinished,),
    LoopDetected: (FeedbackGiven, RunFinished),
    ToolCallStarted: (ChildStarted,),
    AskStarted: (MessageReceived,),
    AnswerRejected: (FeedbackGiven, AskResampled, AskRejected, AskAnswered, ApprovalRequested),
}
"""What is decided together with the event before it."""


_OF_OTHERS: Final = ("waiting for Claude's rate limit", "waiting for run ", "waiting for batch ")
"""What a run says of waits that others may have made longer."""


def replay(
    records: Sequence[Record],
    who: Agent | Flow[..., Any],
    *,
    run_id: str,
    agents: Mapping[str, Agent] | None = None,
    known: Known = lambda _: World(),
) -> Replayed:
    """Decide a recorded run again.

    What a fork shares is left to the run that decided it.

    Args:
        records: the whole journal of the run.
        who: its agent or flow, as it is declared now.
        run_id: what it is called.
        agents: those that a flow asks, by name, as far as they are at hand.
        known: what is known beside the journal, as of a time.

    """
    playing = _Playing(records, who, run_id, agents or {}, known)
    return playing.play()


class _Playing:
    def __init__(
        self,
        records: Sequence[Record],
        who: Agent | Flow[..., Any],
        run_id: str,
        agents: Mapping[str, Agent],
        known: Known,
    ) -> None:
        self._records = records
        self._who = who
        self._run_id = run_id
        self._agents = agents
        self._known = known
        self._state = RunState()
        self._in_flight: frozenset[str] = frozenset()
        self._epoch = 0
        self._found = Replayed()

    def play(self) -> Replayed:
        first = self._records[0].event if self._records else None
        shared = first.forked_at if isinstance(first, RunStarted) else 0
        while self._state.next_seq <= len(self._records):
            record = self._records[self._state.next_seq - 1]
            if record.seq <= shared or self._is_told(record):
                self._fold(1)
                continue
            if record.epoch != self._epoch:  # nobody waits for what another driver began
                self._epoch, self._in_flight = record.epoch, frozenset()
            if self._is_over(record.event):
                self._fold(1)
                continue
            self._decide(record)
        return self._found

    def _is_told(self, record: Record) -> bool:
        """Return whether others wrote it than the run's driver, or nobody decided it."""
        event = record.event
        if isinstance(event, ToolCallReconciled):
            return not event.function
        if isinstance(event, LabelGiven) and record.epoch:
            return False  # what a person made of an answer is written with it
        if record.epoch == 0 or isinstance(event, (RunStarted, RunForked, *OUTSIDE)):
            return True
        said = isinstance(event, AskStarted) and not event.judges
        said |= isinstance(event, MessageReceived)
        return said and isinstance(self._who, Agent)  # by `send`

    def _is_over(self, event: AnyEvent) -> bool:
        if not _is_outcome(event):
            return False
        return outcome_id(event) in self._in_flight or self._is_begun_again(event)

    def _is_begun_again(self, event: Outcome) -> bool:
        """Return whether it is of something that is begun without an intent, in any epoch."""
        if isinstance(event, TokensCounted) or getattr(event, "kind", "") == "cancelled":
            return True
        if not isinstance(event, BILLED) or getattr(event, "kind", "") == "crash":
            return False
        return self._state.asks[event.ask_id].batched is not None

    def _fold(self, count: int) -> None:
        """Go on by so many records, with what they begin and end in flight."""
        at = self._state.next_seq - 1
        for record in self._records[at : at + count]:
            self._state = evolve(self._state, record)
            event = record.event
            if _is_outcome(event):
                self._in_flight -= {outcome_id(event)}
            self._in_flight |= _begun_by(event)

    # ── deciding ────────────────────────────────────────────────────────────────────────────────

    def _decide(self, record: Record) -> None:
        world = self._world(record.at)
        step = self._step(record, world)
        if step is None:
            self._found = replace(self._found, skipped=self._found.skipped + 1)
            self._fold(1)
            return
        if not step.events and (begun := _begun(step) - self._in_flight):
            # What has no intent is begun without a word: a count, a fetch, a child that goes on.
            self._in_flight |= begun
            if self._is_over(record.event):
                self._fold(1)
                return
        if isinstance(record.event, VerdictGiven) and not step.events:
            self._fold(1)  # what a check finds is no decision
            return
        self._compare(record, step, world)

    def _world(self, now: int) -> World:
        return replace(
            self._known(now),
            in_flight=self._in_flight,
            run_id=self._run_id,
            turns=self._state.parking.turns,
        )

    def _step(self, record: Record, world: World) -> Step | None:
        """Return what would be done as of a record; `None` where that is not for us to say."""
        who, now = self._who, record.at
        if isinstance(who, Agent):
            return decided(self._state, who, now, world)
        if (told := decide_control(self._state, now, world)) is not None:
            return told
        return self._flow_step(who, record.event, now, world)

    def _flow_step(  # noqa: PLR0911  (a row per kind of event)
        self, flow: Flow[..., Any], event: AnyEvent, now: int, world: World
    ) -> Step | None:
        if isinstance(event, RunWoken):
            return wake(self._state, now, world)
        if isinstance(event, BoundExceeded):
            return exceeded_step(self._state)
        ask_id = getattr(event, "ask_id", "")
        ask = self._state.asks.get(ask_id)
        if ask is None or isinstance(event, AskStarted | MessageReceived):
            return None
        if isinstance(event, ModelCallInDoubt) and ask.call is not None:
            return lost_call(ask.call)
        agent = self._agents.get(ask.spec.agent)
        if agent is None or agent.spec().agent != ask.spec.agent:
            return None
        step = ask_step(self._state, agent, ask, now, world, Shared(flow.budget.limits))
        last = step.events[-1] if step.events else None
        if isinstance(last, RunFinished) and last.status == "failed":
            return Step((*step.events[:-1], AskFailed(ask_id=ask_id, why=last.why)))
        return step

    # ── comparing ───────────────────────────────────────────────────────────────────────────────

    def _compare(self, record: Record, step: Step, world: World) -> None:
        then = self._then(len(step.events))
        if step.events and _same(then, step.events):
            self._found = replace(self._found, same=self._found.same + len(then))
            self._fold(len(then))
            self._in_flight |= _begun(step)
            return
        then = self._then(self._together())
        if self._rests_on_others(then, step, record.at, world):
            self._found = replace(self._found, untold=self._found.untold + len(then))
        else:
            found = Difference(
                seq=record.seq,
                at=record.at,
                recorded=then,
                decided=step.events,
                instead=_instead(step),
            )
            self._found = replace(self._found, differences=(*self._found.differences, found))
        self._fold(len(then))

    def _then(self, count: int) -> tuple[AnyEvent, ...]:
        at = self._state.next_seq - 1
        return tuple(one.event for one in self._records[at : at + count])

    def _together(self) -> int:
        """Return how many of the next records were decided together."""
        events = self._then(2)
        return len(events) if isinstance(events[-1], _WITH.get(type(events[0]), ())) else 1

    def _rests_on_others(  # noqa: PLR0911  (a row per thing that others do)
        self, then: tuple[AnyEvent, ...], step: Step, now: int, world: World
    ) -> bool:
        """Return whether what others did could have made the difference."""
        event, now_ = then[0], step.events[0] if step.events else None
        match event:
            case RunParked():
                return self._is_later(event, step)
            case RunWoken():
                return not step.events  # it was called because of a run below it
            case BudgetRefused(scope=scope):
                return scope != "run" and not scope.startswith("ask:")
            case ModelSwitched(why="breaker") | ToolCallFailed(kind="breaker"):
                return True
            case RunFinished(status="stopped", why=why) if self._in_flight:
                halted = replace(world, halted=(why.removeprefix("stopped: "),), asleep={})
                idle = replace(halted, in_flight=frozenset())
                return self._would(then, now, idle)
        if isinstance(event, ModelCallStarted) and isinstance(now_, ModelCallStarted):
            return self._is_less(event, now_)
        if isinstance(now_, ToolCallStarted):
            if isinstance(event, ToolCallStarted) and event.call_id == now_.call_id:
                return _same([replace(event, probe=now_.probe)], [now_])
            return self._would(then, now, self._closed_off(world, now))
        if isinstance(now_, ModelSwitched) and now_.why == "overloaded":
            return self._would(then, now, self._frozen(world, now_, now))
        return False

    def _would(self, then: tuple[AnyEvent, ...], now: int, world: World) -> bool:
        """Return whether it would be decided as it was, if the world was like that."""
        record = self._records[self._state.next_seq - 1]
        step = self._step(replace(record, at=now), world)
        return (
            step is not None and bool(step.events) and _same(then[: len(step.events)], step.events)
        )

    def _is_later(self, parked: RunParked, step: Step) -> bool:
        """Return whether a run merely waited longer than it would alone."""
        instead = step.events[0] if step.events else None
        if isinstance(instead, RunParked):
            others = parked.why.startswith(_OF_OTHERS) and parked.person == instead.person
            return others and parked.until > instead.until
        if isinstance(instead, RunFinished):
            return False
        return not any(isinstance(one, Sleep) and one.why == parked.why for one in step.actions)

    def _is_less(self, then: ModelCallStarted, now: ModelCallStarted) -> bool:
        """Return whether a call was merely made with less room, or held more, than it would be."""
        ask = self._state.asks[then.ask_id]
        if then.max_tokens > now.max_tokens:
            return False
        at_other_prices = then.prices != now.prices  # earlier versions did not say at which
        if not at_other_prices and then.max_tokens == now.max_tokens:
            # What other runs found of the bounds of prompts raises what is held.
            raised = then.hold_tokens >= now.hold_tokens and then.hold_nano >= now.hold_nano
            if not raised:
                return False
        alike = replace(
            now,
            max_tokens=then.max_tokens,
            request_hash=request_hash(ask, then.max_tokens),
            hold_nano=then.hold_nano,
            hold_tokens=then.hold_tokens,
            prices=then.prices,
            probe=then.probe,
            tool=None if then.tool is None else now.tool,
        )
        return _same([then], [alike])

    def _closed_off(self, world: World, now: int) -> World:
        """Return a world in which nobody asks the sources of the calls that are not begun."""
        agent = self._who
        if not isinstance(agent, Agent):
            return world
        wanted = self._then(1)[0]
        asked = wanted.source if isinstance(wanted, ToolCallStarted) else ""
        sources = {one.source for tool in agent.functions for one in tool.sources} - {asked, ""}
        broken = {
            source_key(source): State(
                key=source_key(source), status="open", until=now + _HOUR_NS, at=now
            )
            for source in sources
        }
        return replace(world, breakers={**world.breakers, **broken})

    def _frozen(self, world: World, switch: ModelSwitched, now: int) -> World:
        """Return a world in which nobody may ask the other models of a question."""
        ask = self._state.asks[switch.ask_id]
        then = self._then(1)[0]
        asked = {ask.spec.model, then.model if isinstance(then, ModelSwitched) else ""}
        others = {group(model) for model in {*ask.spec.fallback_models} - asked}
        frozen = dict.fromkeys(others, Freeze(until=now + _HOUR_NS, at=now))
        return replace(world, freezes={**world.freezes, **frozen})


def _same(then: Sequence[AnyEvent], now: Sequence[AnyEvent]) -> bool:
    if len(then) != len(now):
        return False
    return all(encode(one) == encode(other) for one, other in zip(then, now, strict=True))


def _is_outcome(event: AnyEvent) -> TypeGuard[Outcome]:
    return isinstance(event, Outcome)


def _begun(step: Step) -> frozenset[str]:
    return frozenset(
        outcome_id(one) for one in step.actions if not isinstance(one, Sleep | Interrupt)
    )


def _begun_by(event: AnyEvent) -> frozenset[str]:
    """Return what an intent begins."""
    match event:
        case ModelCallStarted(call_id=name) | ToolCallStarted(call_id=name):
            return frozenset({name})
        case ReconcileStarted(call_id=name):
            return frozenset({name})
        case StepStarted(kind="step", name=name):
            return frozenset({f"step {name}"})
        case ChildStarted(name=name, call_id=""):
            return frozenset({f"step {name}"})
        case UndoStarted(call_id=name):
            return frozenset({f"undo {name}"})
    return frozenset()


def _instead(step: Step) -> str:
    """Return what would be done where nothing would be written."""
    if step.events:
        return ""
    waits = [one for one in step.actions if isinstance(one, Sleep)]
    if waits:
        until = f" until {moment(waits[0].until)}" if waits[0].until else ""
        return f"it would wait{until}{f': {waits[0].why}' if waits[0].why else ''}"
    return "it would rest" if step.rest else "it would wait for what is in flight"
