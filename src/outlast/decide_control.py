"""What a run does next that was told to pause or to end, as one pure function.

| the run was told | what it has | the next step |
|---|---|---|
| anything | a call that nobody waits for | in doubt, charged in full |
| to pause | something in flight | wait for its outcome; nothing more is begun |
| | nothing in flight | rest |
| to end | an answer of Claude's in flight | given up: in doubt, charged in full |
| | a tool or a step in flight | given up when its time is over |
| | nothing of all that | the run is cancelled |
"""

from __future__ import annotations

from typing import Final

from outlast.actions import NS, REST, WAIT, Interrupt, Sleep, Step, World
from outlast.decide import lost_call
from outlast.events import RunFinished, RunParked
from outlast.state import ENDED, RunState

GRACE_NS: Final = 30 * NS
"""How long what is in flight may go on in a run that is cancelled, answers of Claude's aside."""


def decide_control(state: RunState, now: int, world: World) -> Step | None:
    """Return the next step of a run that was told something, `None` where it was told nothing."""
    told = state.control
    if told.verb is None or state.status in ENDED:
        return None
    for call_id in state.spend.held:
        ask = state.asks[call_id.rpartition(".m")[0]]
        if call_id in world.in_flight or (told.paused and ask.batched is not None):
            continue  # the result of a batch is fetched when the run goes on
        assert ask.call is not None, f"{call_id} is held, and in flight nowhere"  # noqa: S101
        return lost_call(ask.call)
    if told.paused:
        return WAIT if world.at_work else REST
    return _cancel(state, now, world)


def _cancel(state: RunState, now: int, world: World) -> Step:
    if not world.in_flight:
        return Step((RunFinished(status="cancelled", why=state.control.why),))
    late = now >= state.control.at + GRACE_NS
    paid = frozenset(state.spend.held)
    given_up = world.in_flight if late else world.in_flight & paid
    if given_up - world.interrupted:
        return Step(actions=(Interrupt(given_up - world.interrupted),))
    return WAIT if late else Step(actions=(Sleep(until=state.control.at + GRACE_NS),))


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
