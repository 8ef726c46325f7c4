"""What a run does next that was told to pause or to end, as one pure function.

| the run was told | what it has | the next step |
|---|---|---|
| anything | a call that nobody waits for | in doubt, charged in full |
| to pause | something in flight | wait for its outcome; nothing more is begun |
| | nothing in flight | rest |
| to end | an answer of Claude's in flight | given up: in doubt, charged in full |
| | a tool or a step in flight | given up when its time is over |
| | calls of tools that are to be taken back | one by one, the newest first |
| | the same, and a driver without its code | left to one that has it |
| | nothing of all that | the run is cancelled |
"""

from __future__ import annotations

from typing import Final

from outlast.actions import NS, REST, WAIT, CallUndo, Interrupt, Sleep, Step, World
from outlast.agent import Agent, Budget
from outlast.decide import lost_call
from outlast.events import RunFinished, RunParked, UndoFinished, UndoStarted
from outlast.state import ENDED, RunState
from outlast.undoing import ATTEMPTS, CRASHES, left, told

NOBODY: Final = Agent("nobody", model="none", budget=Budget())
"""Whom a run is ended with that was cancelled, where its own code is not needed for that."""

GRACE_NS: Final = 30 * NS
"""How long what is in flight may go on in a run that is cancelled, answers of Claude's aside."""


def decide_control(
    state: RunState, now: int, world: World, *, has_code: bool = True
) -> Step | None:
    """Return the next step of a run that was told something, `None` where it was told nothing.

    What a run's tools did is taken back by a driver that `has_code`, the run's own.
    """
    control = state.control
    if control.verb is None or state.status in ENDED:
        return None
    for call_id in state.spend.held:
        ask = state.asks[call_id.rpartition(".m")[0]]
        if call_id in world.in_flight or (control.paused and ask.batched is not None):
            continue  # the result of a batch is fetched when the run goes on
        assert ask.call is not None, f"{call_id} is held, and in flight nowhere"  # noqa: S101
        return lost_call(ask.call)
    if control.paused:
        return WAIT if world.at_work else REST
    return _cancel(state, now, world, has_code=has_code)


def _cancel(state: RunState, now: int, world: World, *, has_code: bool) -> Step:
    if not world.in_flight:
        if state.control.undo and (step := _undo(state, now, has_code=has_code)) is not None:
            return step
        undone = told(state.undoing, state.asks.values(), undo=state.control.undo)
        why = f"{state.control.why}; {undone}" if undone else state.control.why
        return Step((RunFinished(status="cancelled", why=why),))
    if any(one.startswith("undo ") for one in world.in_flight):
        return WAIT  # it has a time limit of its own
    late = now >= state.control.at + GRACE_NS
    paid = frozenset(state.spend.held)
    given_up = world.in_flight if late else world.in_flight & paid
    if given_up - world.interrupted:
        return Step(actions=(Interrupt(given_up - world.interrupted),))
    return WAIT if late else Step(actions=(Sleep(until=state.control.at + GRACE_NS),))


def _undo(state: RunState, now: int, *, has_code: bool) -> Step | None:
    """Take back the last thing that a tool did and that is not taken back; `None` is nothing."""
    done = next(iter(left(state.undoing, state.asks.values())), None)
    if done is None:
        return None
    if not has_code:
        return REST
    known = state.undoing.of(done.call_id)
    if known.attempts - known.failures >= CRASHES:
        why = f"the process ended under it {CRASHES} times"
        event = UndoFinished(call_id=done.call_id, status="failed", error=why, last=True)
        return Step((event,))
    until = known.at + PAUSE_NS * known.failures if known.failures else 0
    if until > now:
        return Step(actions=(Sleep(until=until, why=f"undoing {done.tool} failed, so far"),))
    call = CallUndo(
        undone=done.call_id,
        ask_id=done.ask_id,
        tool=done.tool,
        rank=done.rank,
        arguments=done.arguments,
        content=done.content,
        attempt=known.attempts + 1,
        place=state.started.nonce if state.started else "",
        last=known.failures + 1 >= ATTEMPTS,
    )
    return Step((UndoStarted(call_id=done.call_id, attempt=call.attempt),), (call,))


PAUSE_NS: Final = NS
"""How long is waited before a call is taken back again, times the failures, in nanoseconds."""


def decide_drain(state: RunState, now: int, world: World) -> Step | None:
    """Return the next step of a run whose driver is about to end, `None` where it is not.

    What is in flight has its outcome first; then the run is parked, for the next driver.
    """
    if not world.draining or state.status not in ("queued", "running"):
        return None
    if world.at_work:
        return WAIT
    if state.status == "queued":
        return REST
    return Step((RunParked(until=now, why="its worker was shut down"),))
