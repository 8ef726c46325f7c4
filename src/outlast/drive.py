"""The run loop: a generator that says what it wants done and is told what came of it.

It yields only two things.  `Append`: make these events durable; it is sent `Appended`, or `Behind`
with the records it had not seen.  `Perform`: start these actions, and come back with whatever
finishes next, of these or of those started before.

It touches nothing itself.  A runner that stops pumping is all that a crash is, so the whole
product can be killed at every point without a process.
"""

from __future__ import annotations

from collections.abc import Generator
from operator import attrgetter
from typing import Final, TypeAlias

import msgspec

from outlast.agent import Agent
from outlast.decide import Action, Sleep, Step, World, decide
from outlast.events import AnyEvent, Outcome, RunFinished
from outlast.journal import Record
from outlast.state import RunState, evolve, fold


class Append(msgspec.Struct, frozen=True, kw_only=True):
    """Make `events` durable at `expected_seq`; afterwards the run is `state`."""

    events: tuple[AnyEvent, ...]
    expected_seq: int
    at: int
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


class Outcomes(msgspec.Struct, frozen=True):
    """What came of actions: one outcome event each; none when only a `Sleep` is over."""

    events: tuple[Outcome, ...]
    now: int


Wanted: TypeAlias = Append | Perform
Sent: TypeAlias = Appended | Behind | Outcomes | None
Loop: TypeAlias = Generator[Wanted, Sent, RunState]


def drive(state: RunState, agent: Agent, *, stream: str, epoch: int, now: int) -> Loop:
    """Drive a run to rest and return its state.

    Args:
        state: the fold of the run's journal so far.
        agent: what to drive it with.
        stream: the run's stream.
        epoch: this driver's epoch.
        now: nanoseconds since the epoch, UTC.

    """
    outcomes: tuple[Outcome, ...] = ()
    in_flight: frozenset[str] = frozenset()
    while True:
        plan = _plan(state, agent, outcomes, in_flight, _Place(stream, epoch, now))
        if plan.events:
            sent = yield Append(
                events=plan.events, expected_seq=state.next_seq, at=now, state=plan.state
            )
            if isinstance(sent, Behind):
                # What was paid for is kept, and everything decided from it is decided again in
                # the light of the news.
                state, now = fold(sent.records, state), sent.now
                continue
            state = plan.state
        if plan.rest:
            return state
        sent = yield Perform(actions=plan.actions)
        assert isinstance(sent, Outcomes), f"a Perform was answered with {sent!r}"  # noqa: S101
        outcomes, now = sent.events, sent.now
        in_flight = plan.in_flight.difference(map(_call_id, outcomes))


_call_id: Final = attrgetter("call_id")


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
    agent: Agent,
    outcomes: tuple[Outcome, ...],
    in_flight: frozenset[str],
    place: _Place,
) -> _Plan:
    """Fold the outcomes, and decide until nothing more is to be said."""
    state = _folded(state, outcomes, place)
    events: tuple[AnyEvent, ...] = outcomes
    actions: tuple[Action, ...] = ()
    while True:
        step: Step = decide(state, agent, place.now, World(in_flight=in_flight))
        actions += step.actions
        if not step.events:
            begun = [action.call_id for action in step.actions if not isinstance(action, Sleep)]
            return _Plan(events, actions, state, in_flight.union(begun), step.rest)
        state = _folded(state, step.events, place)
        events += step.events
        if isinstance(events[-1], RunFinished):  # the leg is over, whatever the next one may do
            return _Plan(events, actions, state, in_flight, rest=True)
        # What comes with an intent is a call; a `Sleep` comes with nothing.
        in_flight = in_flight.union(map(_call_id, step.actions))
        if step.last:
            return _Plan(events, actions, state, in_flight, rest=False)


def _folded(state: RunState, events: tuple[AnyEvent, ...], place: _Place) -> RunState:
    for event in events:
        # The position is the store's to give, and no slice looks at it.
        record = Record(place.stream, state.next_seq, 0, place.now, place.epoch, event)
        state = evolve(state, record)
    return state
