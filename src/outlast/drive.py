"""The run loop: a generator that says what it wants done and is told what came of it.

It yields only two things.  `Append`: make these events durable; it is sent `Appended`, or `Behind`
with the records it had not seen.  `Perform`: start these actions, and come back with whatever
finishes next, of these or of those started before.

It touches nothing itself.  A runner that stops pumping is all that a crash is, so the whole
product can be killed at every point without a process.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, TypeAlias

import msgspec
from msgspec.structs import replace

from outlast.actions import Action, Interrupt, Short, Sleep, Step, Work, World, check_id
from outlast.agent import Agent
from outlast.breaker import State, source_of
from outlast.budget import Limits
from outlast.decide import decide
from outlast.decide_control import NOBODY, decide_control, decide_drain
from outlast.decide_flow import decide_flow
from outlast.events import (
    AnyEvent,
    ModelCallStarted,
    Outcome,
    RunFinished,
    RunParked,
    StepFinished,
    ToolCallStarted,
    Turn,
    UndoFinished,
    VerdictGiven,
)
from outlast.flows import Flow
from outlast.journal import Record
from outlast.pacing import Freeze
from outlast.redaction import Redact, same
from outlast.state import RunState, evolve, fold
from outlast.wants import NOTHING, Wants


class Append(msgspec.Struct, frozen=True, kw_only=True):
    """Make `events` durable at `expected_seq`; what was `before` is `state` afterwards."""

    events: tuple[AnyEvent, ...]
    expected_seq: int
    at: int
    before: RunState
    state: RunState


class Perform(msgspec.Struct, frozen=True, kw_only=True):
    """Start `actions`, and wait until something in flight finishes."""

    actions: tuple[Action, ...]


class Appended(msgspec.Struct, frozen=True):
    """The events of an `Append` are durable."""


class Behind(msgspec.Struct, frozen=True):
    """Nothing was appended: others appended `records`, all of them outside events."""

    records: tuple[Record, ...]
    now: int


class Denied(msgspec.Struct, frozen=True):
    """Nothing was appended: a call does not fit into a budget beyond the run."""

    short: Short
    now: int
    breakers: Mapping[str, State] = {}
    """What the circuit breakers are now; see `World.breakers`."""


class Queued(msgspec.Struct, frozen=True):
    """Nothing was appended: it is not yet the turn of calls, which a rate limit has in a queue."""

    turns: Mapping[str, Turn]
    """When it is, by `call_id`; see `World.turns`."""
    now: int


class Relimited(msgspec.Struct, frozen=True):
    """Nothing was appended: what the run may use, or when, was changed just now."""

    limits: Limits | None
    now: int
    factors: Mapping[str, int] = {}
    """By how much bounds are multiplied now; see `World.factors`."""
    freezes: Mapping[str, Freeze] = {}
    """Until when nobody asks now; see `World.freezes`."""
    breakers: Mapping[str, State] = {}
    """What the circuit breakers are now; see `World.breakers`."""


class Outcomes(msgspec.Struct, frozen=True):
    """What came of actions: one outcome event each; none when only a `Sleep` is over."""

    events: tuple[Outcome, ...]
    now: int
    wants: Wants = NOTHING
    """What the function of a flow asks for by now."""
    news: tuple[Record, ...] = ()
    """What others appended since, all of them outside events."""
    asleep: Mapping[str, Sleep] = {}
    """Those in flight that wait themselves."""
    draining: bool = False
    """The driver is about to end."""
    freezes: Mapping[str, Freeze] = {}
    """Until when nobody asks now; see `World.freezes`."""
    breakers: Mapping[str, State] = {}
    """What the circuit breakers are now; see `World.breakers`."""
    halted: tuple[tuple[str, str], ...] = ()
    """The calls that have no outcome because the runs that they are were stopped, and why."""


Wanted: TypeAlias = Append | Perform
Sent: TypeAlias = Appended | Behind | Denied | Queued | Relimited | Outcomes | None
Loop: TypeAlias = Generator[Wanted, Sent, RunState]


def drive(  # noqa: PLR0913  (all but two are keywords)
    state: RunState,
    who: Agent | Flow[..., Any],
    *,
    stream: str,
    epoch: int,
    now: int,
    limits: Limits | None = None,
    factors: Mapping[str, int] | None = None,
    freezes: Mapping[str, Freeze] | None = None,
    breakers: Mapping[str, State] | None = None,
    called: bool = False,
    redact: Redact = same,
) -> Loop:
    """Drive a run to rest and return its state.

    Args:
        state: the fold of the run's journal so far.
        who: what to drive it with: an agent, or a flow.
        stream: the run's stream.
        epoch: this driver's epoch.
        now: nanoseconds since the epoch, UTC.
        limits: what the run may use, where somebody set that.
        factors: by how much bounds are multiplied in every run; see `World.factors`.
        freezes: until when nobody asks; see `World.freezes`.
        breakers: what the circuit breakers are; see `World.breakers`.
        called: whether it goes on though it is parked, because of a run below it.
        redact: what a text goes through that the decisions have of the user's code.

    """
    outcomes: tuple[Outcome, ...] = ()
    in_flight: frozenset[str] = frozenset()
    short: tuple[Short, ...] = ()
    turns: Mapping[str, Turn] = state.parking.turns
    alone = False
    halted: tuple[str, ...] = ()
    interrupted: frozenset[str] = frozenset()
    asleep: Mapping[str, Sleep] = {}
    draining = False
    wants, run_id = NOTHING, stream.partition(":")[2]
    while True:
        world = World(
            in_flight=in_flight,
            wants=wants,
            run_id=run_id,
            limits=limits,
            factors=factors or {},
            freezes=freezes or {},
            breakers=breakers or {},
            turns=turns,
            short=short,
            alone=alone,
            halted=halted,
            interrupted=interrupted,
            asleep=asleep,
            called=called,
            draining=draining,
            redact=redact,
        )
        plan = _plan(state, who, outcomes, world, _Place(stream, epoch, now))
        if plan.events:
            sent = yield Append(
                events=plan.events,
                expected_seq=state.next_seq,
                at=now,
                before=state,
                state=plan.state,
            )
            if isinstance(sent, Behind):
                # What was paid for is kept, and everything decided from it is decided again in
                # the light of the news.
                state, now = fold(sent.records, state), sent.now
                continue
            if isinstance(sent, Denied):
                # What was paid for is kept, and the call is decided again with less, or later.
                now, breakers = sent.now, sent.breakers or breakers
                if _calls(plan, sent.short) > 1:
                    alone = True  # what one would leave was taken for what there is
                else:
                    short = (*short, sent.short)
                continue
            if isinstance(sent, Queued):
                turns, now = {**turns, **sent.turns}, sent.now
                continue
            if isinstance(sent, Relimited):
                limits, factors, now = sent.limits, sent.factors, sent.now
                freezes, breakers = sent.freezes, sent.breakers
                continue
            short, alone = (), False
            state = plan.state
        if plan.rest:
            return state
        sent = yield Perform(actions=plan.actions)
        assert isinstance(sent, Outcomes), f"a Perform was answered with {sent!r}"  # noqa: S101
        short, alone = (), False
        outcomes, now, wants = sent.events, sent.now, sent.wants
        in_flight = plan.in_flight.difference(map(outcome_id, outcomes))
        given_up = [one.call_ids for one in plan.actions if isinstance(one, Interrupt)]
        interrupted = interrupted.union(*given_up) & in_flight
        asleep, draining = sent.asleep, sent.draining
        freezes, breakers = sent.freezes, sent.breakers
        if sent.news:
            state = fold(sent.news, state)
        if sent.halted:
            in_flight = in_flight.difference([call_id for call_id, _ in sent.halted])
            halted = tuple(why for _, why in sent.halted)


def _calls(plan: _Plan, short: Short) -> int:
    """Return how many calls of a plan want what is short."""
    if not (source := source_of(short.scope)):
        return sum(isinstance(event, ModelCallStarted) for event in plan.events)
    started = [event for event in plan.events if isinstance(event, ToolCallStarted)]
    return sum(event.probe and event.source == source for event in started)


def outcome_id(outcome: Outcome | Work) -> str:
    """Return by what an action is known while it is in flight, by itself or by its outcome."""
    if isinstance(outcome, StepFinished):
        return f"step {outcome.name}"
    if isinstance(outcome, VerdictGiven):
        return check_id(outcome.call_id, outcome.check)
    return f"undo {outcome.call_id}" if isinstance(outcome, UndoFinished) else outcome.call_id


class _Place(msgspec.Struct, frozen=True):
    stream: str
    epoch: int
    now: int


class _Plan(msgspec.Struct, frozen=True):
    """One commit, the state after it, and what to do then."""

    events: tuple[AnyEvent, ...]
    actions: tuple[Action, ...]
    state: RunState
    in_flight: frozenset[str]
    rest: bool


def _plan(
    state: RunState,
    who: Agent | Flow[..., Any],
    outcomes: tuple[Outcome, ...],
    world: World,
    place: _Place,
) -> _Plan:
    """Fold the outcomes, and decide until nothing more is to be said."""
    state = _folded(state, outcomes, place)
    events: tuple[AnyEvent, ...] = outcomes
    actions: tuple[Action, ...] = ()
    in_flight = world.in_flight
    while True:
        step = decided(state, who, place.now, _with(world, in_flight, uncommitted=bool(events)))
        actions += step.actions
        if not step.events:
            begun = [one.call_id for one in step.actions if not isinstance(one, Sleep | Interrupt)]
            return _Plan(events, actions, state, in_flight.union(begun), step.rest)
        state = _folded(state, step.events, place)
        events += step.events
        if isinstance(
            events[-1], RunFinished | RunParked
        ):  # the leg is over, whatever the next one may do
            return _Plan(events, actions, state, in_flight, rest=True)
        # What comes with an intent is a call; a `Sleep` comes with nothing.
        begun = [one.call_id for one in step.actions if not isinstance(one, Sleep | Interrupt)]
        in_flight = in_flight.union(begun)
        if step.last or ((world.short or world.alone) and begun):
            # Where there is little left, one call at a time is tried.
            return _Plan(events, actions, state, in_flight, rest=False)


def decided(state: RunState, who: Agent | Flow[..., Any], now: int, world: World) -> Step:
    """Return the next step of a run, whatever it is of and whatever it was told."""
    if (told := decide_control(state, now, world, has_code=who is not NOBODY)) is not None:
        return told
    if (drained := decide_drain(state, now, world)) is not None:
        return drained
    if isinstance(who, Flow):
        return decide_flow(state, who, now, world)
    return decide(state, who, now, world)


def _with(world: World, in_flight: frozenset[str], *, uncommitted: bool) -> World:
    return replace(world, in_flight=in_flight, uncommitted=uncommitted)


def _folded(state: RunState, events: tuple[AnyEvent, ...], place: _Place) -> RunState:
    for event in events:
        # The position is the store's to give, and no slice looks at it.
        record = Record(place.stream, state.next_seq, 0, place.now, place.epoch, event)
        state = evolve(state, record)
    return state
