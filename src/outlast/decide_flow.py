"""What the run of a flow does next, as one pure function of what it knows and what it wants.

| the function of the flow | the next step |
|---|---|
| entered a phase | written down |
| wants something that the journal does not have | begun, with its intent first |
| wants a step that was begun, and nobody waits for it | by its effect: begun again, or in doubt |
| has a child run that was stopped | stopped with it, once nothing else is in flight |
| wants a child run | driven, from wherever its own journal ends |
| asks an agent | as for any question; see `decide`; its failure fails the ask, not the run |
| wants a person's approval | asked, and waited for; late is denied |
| wants only sleeps and approvals, and nothing is in flight | parked until the first is over |
| raised | the run fails, saying what |
| returned | the run is completed, with what it returned |
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from outlast import wants
from outlast.actions import (
    NS,
    REST,
    WAIT,
    Action,
    CallStep,
    DriveChild,
    Sleep,
    Step,
    World,
    awaited,
    moment,
)
from outlast.approvals import Given
from outlast.conversation import Conversation
from outlast.decide import (
    CAUTION,
    Shared,
    ask_step,
    exceeded_step,
    failed,
    lost_call,
    may_go_on,
    park,
    stopped_child,
    wake,
)
from outlast.events import (
    ApprovalRequested,
    AskFailed,
    AskStarted,
    ChildStarted,
    MessageReceived,
    PhaseEntered,
    RunFinished,
    StepFinished,
    StepStarted,
)
from outlast.flows import Flow
from outlast.recovery import REPEATS
from outlast.state import RunState
from outlast.steps import Begun

NAP_NS: Final = NS
"""What a flow sleeps at most without being parked, in nanoseconds."""


def decide_flow(  # noqa: PLR0911  (the rows of the table)
    state: RunState, flow: Flow[..., Any], now: int, world: World
) -> Step:
    """Return the next step of a flow's run; see `decide.decide`."""
    if state.parking.status:
        return wake(state, now, world)
    if state.finished and not may_go_on(state, world.limits or flow.budget.limits):
        return REST
    wanted = world.wants
    if wanted is not wants.NOTHING and (step := exceeded_step(state)):
        return step
    for call_id in state.spend.held if wanted is not wants.NOTHING else ():
        if call_id not in world.in_flight:
            # Nobody waits for it, and perhaps nobody asks for it any more.  But before the function
            # has run, nothing is written: its code may not fit.
            return _let_go(state, call_id)
    if len(wanted.phases) > len(state.phases.entered):
        return Step((PhaseEntered(phase=wanted.phases[len(state.phases.entered)]),))
    if wanted.raised or wanted.returned is not None:
        return _end(state, now, world)
    if wanted.halted or world.halted:
        return _halt(world)
    actions: tuple[Action, ...] = ()
    for step in _wanted_steps(state, flow, now, world):
        if step.events:
            return step
        actions += step.actions
    parked = park(actions, now, world) if wanted.quiet else None
    return parked or Step(actions=actions)


def _let_go(state: RunState, call_id: str) -> Step:
    call = state.asks[call_id.rpartition(".m")[0]].call
    assert call is not None, f"{call_id} is held, and in flight nowhere"  # noqa: S101
    return lost_call(call)


def _halt(world: World) -> Step:
    """Return the stop of a run with its child, once nothing else is in flight."""
    halted = world.wants.halted
    if world.at_work - {f"step {name}" for name in halted}:
        return WAIT
    return stopped_child(next(iter((*halted.values(), *world.halted))))


def _end(state: RunState, now: int, world: World) -> Step:
    """Return the end of a flow whose function is done, once nothing is open that was begun."""
    wanted = world.wants
    values = [
        (name, want)
        for name, want in wanted.steps.items()
        if isinstance(want, wants.Value) and name not in state.steps.finished
    ]
    if values:
        return Step(tuple(_drawn(name, value) for name, value in values))
    actions: tuple[Action, ...] = ()
    for name, want in wanted.steps.items():
        # Without a crash it would be in flight, and waited for.
        if name in state.steps.begun and not isinstance(want, wants.Nap | wants.Approval):
            step = _want_step(state, name, want, now, world)
            if step.events:
                return step
            actions += step.actions
    if actions or world.in_flight:
        return park(actions, now, world) or Step(actions=actions)
    if wanted.returned is None:
        return failed(wanted.raised)
    return Step((RunFinished(status="completed", answer=wanted.returned),))


def _drawn(name: str, value: wants.Value) -> StepFinished:
    return StepFinished(name=name, kind="value", result=value.result)


def _wanted_steps(state: RunState, flow: Flow[..., Any], now: int, world: World) -> Iterator[Step]:
    for name, want in world.wants.steps.items():
        if name not in state.steps.finished:
            yield _want_step(state, name, want, now, world)
    for name, asked in world.wants.asks.items():
        ask = state.asks.get(name)
        if ask is None:
            yield _opened(name, asked)
        elif ask.answer is None and not ask.failed:
            step = ask_step(state, asked.agent, ask, now, world, Shared(flow.budget.limits))
            yield _contained(step, ask, world)


def _opened(name: str, asked: wants.Ask) -> Step:
    spec = None if asked.continues else asked.agent.spec()
    return Step(
        (
            AskStarted(ask_id=name, spec=spec, continues=asked.continues, version=asked.version),
            MessageReceived(ask_id=name, content=asked.content),
        )
    )


def _contained(step: Step, ask: Conversation, world: World) -> Step:
    """Return a step in which the failure of an ask fails no more than the ask."""
    last = step.events[-1] if step.events else None
    if not isinstance(last, RunFinished):
        return step
    if last.status == "failed":
        return Step((*step.events[:-1], AskFailed(ask_id=ask.ask_id, why=last.why)))
    if last.status == "rejected":
        return Step(step.events[:-1])  # the ask is lost by itself
    # A stop ends the leg, and with it what is in flight: its outcome is waited for.
    return WAIT if world.at_work else step


def _want_step(state: RunState, name: str, want: wants.Step, now: int, world: World) -> Step:
    """Return the next step of something that a flow wants and that is not finished."""
    begun = state.steps.begun.get(name)
    match want:
        case wants.Value():
            return Step((_drawn(name, want),))
        case wants.Nap():
            return _nap_step(name, begun, want, now)
        case wants.Approval():
            return _approval_step(state, name, want, now)
        case wants.Child():
            return _child_step(name, begun, want, world)
        case wants.Call():
            return _function_step(state, name, begun, want, world)


def _nap_step(name: str, begun: Begun | None, want: wants.Nap, now: int) -> Step:
    if begun is None:
        return Step((StepStarted(name=name, kind="sleep", effect="read", until=now + want.length),))
    if now >= begun.until:
        return Step((StepFinished(name=name, kind="sleep"),))
    why = f"sleeping until {moment(begun.until)}"
    return Step(actions=(Sleep(until=begun.until, why=why, least=NAP_NS),))


def _approval_step(state: RunState, name: str, want: wants.Approval, now: int) -> Step:
    asked = state.approvals.of_name(name)
    if asked is None:
        request = ApprovalRequested(
            question=want.question,
            name=name,
            context=want.context,
            given=want.given,
            expires_at=now + want.length if want.length else 0,
        )
        return Step((request,))
    if asked.given is None and not asked.late(now):
        return Step(actions=(replace(awaited(asked), least=NAP_NS),))
    said = asked.given or Given(approved=False, note="nobody decided in time")
    result = Raw(msgspec.json.encode({"approved": said.approved, "by": said.by, "note": said.note}))
    return Step((StepFinished(name=name, kind="approval", result=result),))


def _child_step(name: str, begun: Begun | None, want: wants.Child, world: World) -> Step:
    # Its own journal says how far it came, so to drive it twice is to drive it once.
    child = begun.child if begun is not None else want.run_id
    action = DriveChild(name=name, run_id=child)
    if begun is None:
        born = ChildStarted(name=name, child=child, given=want.given, agent=want.agent)
        return Step((born,), (action,))
    return WAIT if action.call_id in world.in_flight else Step(actions=(action,))


def _function_step(
    state: RunState, name: str, begun: Begun | None, want: wants.Call, world: World
) -> Step:
    attempt = 1 if begun is None else begun.attempts + 1
    nonce = state.started.nonce if state.started else ""
    action = CallStep(name=name, attempt=attempt, place=f"{nonce}:step:{name}")
    if action.call_id in world.in_flight:
        return WAIT
    if begun is not None and not _repeatable(begun, want):
        unknown = "it was interrupted, and it may or may not have happened; it was not repeated"
        return Step((StepFinished(name=name, kind="step", status="in_doubt", error=unknown),))
    intent = StepStarted(
        name=name,
        effect=want.effect,
        given=want.given,
        attempt=attempt,
        function=want.function,
    )
    return Step((intent,), (action,))


def _repeatable(begun: Begun, want: wants.Call) -> bool:
    effect = max(begun.effect, want.effect, key=CAUTION.index)
    return effect == "idempotent" or (effect == "read" and begun.attempts <= REPEATS)
