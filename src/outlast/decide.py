"""What a run does next: the whole policy, as one pure function of what it knows.

`decide` names one small step at a time: events to append and actions to start once those events
are durable.  The run loop asks again until nothing is left to say, so an outcome and the intent
that follows from it share one commit.

| the run knows | the next step |
|---|---|
| a call that used more than was held for it | written down; later calls hold more |
| a prompt that the cache did not answer, as it should | written down, with why and what it cost |
| a model call in a batch that was accepted | its reply is fetched, whoever sent the batch |
| a model call in flight that nobody waits for | in doubt, charged in full; asked again |
| the same of a judge that is asked no more | in doubt, charged in full |
| a tool call in flight that nobody waits for | by its effect: repeated, told as unknown, or open |
| a tool call that is open: nobody knows whether it happened | a function finds out, or a person |
| a tool use that failed, and may be tried again or elsewhere | see `recovery` |
| a tool use that failed, with nothing left to try | told, with what was tried |
| a tool use that was not started | check its arguments, then call it |
| a tool use whose source answers nobody: its breaker is open | the next source, or wait |
| a tool use without a result | wait |
| a tool use that is a run of its own, which was stopped | stopped with it |
| a failed attempt worth repeating | wait for its time, then ask again |
| a model that stays overloaded | the next of the fallback models is asked |
| a rate limit that any run met | wait for its time before anything is asked |
| a model that answers nobody: its circuit breaker is open | wait until it may be tried |
| more calls than a rate limit takes | each waits for its turn |
| nothing in flight that does not wait itself, and long to wait | the run is parked; see `park` |
| a tool use that a person has to allow | asked, and waited for |
| a failed attempt that only a person can mend | the run stops, saying why |
| a spend limit of Claude's that is reached | one attempt; then it waits for somebody to act |
| a failed attempt not worth repeating, or one too many | the run fails, saying why |
| a reply that ended its turn | the answer; where answers are checked, see `decide_answer` |
| a reply that paused, or compacted what was before | sent again as it is |
| a reply that was cut off at `max_tokens` | its tools never run; Claude is asked for the rest |
| a refusal | the fallback model that it recommends, or the next one, is asked |
| a reply that stopped for any other reason | the run fails, naming the reason |
| a document that only the API can count | have it counted |
| a prompt that may be near the end of the context window | have it counted |
| a prompt that is, and can be condensed | the API is asked for a summary of it; see `context` |
| a prompt that leaves no room for a reply | the run fails, saying how long it is |
| calls that repeat with nothing new coming back | Claude is told; then the run is stopped |
| otherwise | ask the model, if the budget has a turn left |
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any, Final, Literal

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from outlast import breaker as breakers
from outlast import budget, context, loops
from outlast.actions import (
    NS,
    REST,
    WAIT,
    Action,
    CallModel,
    CallTool,
    CountTokens,
    FetchReply,
    FindOut,
    Short,
    Sleep,
    Step,
    World,
    awaited,
    child_id,
    moment,
)
from outlast.agent import Agent
from outlast.answers import given
from outlast.approvals import Request
from outlast.breaker import PROBES
from outlast.budget import Limits
from outlast.caching import LIFE_NS
from outlast.conversation import (
    CUT,
    EXCEEDED,
    GOES_ON,
    Conversation,
    Exceeded,
    Failure,
    Missed,
    Pending,
    Tally,
    blocks,
    breakpoints,
    flaw,
    manages_context,
    next_call_id,
    request_hash,
    request_head,
    surely_not,
    switched,
    terms,
    tool_call_id,
    words,
)
from outlast.decide_answer import AskJudge, answer_step, is_answer, is_asked, proposal
from outlast.errors import UnknownModel
from outlast.events import (
    HELD_UP,
    NULL,
    RETRYABLE,
    AnyEvent,
    ApprovalRequested,
    AskAnswered,
    AskFailed,
    BoundExceeded,
    BudgetRefused,
    CacheMissed,
    ChildStarted,
    CompactionRequested,
    Effect,
    FailureKind,
    FeedbackGiven,
    LoopDetected,
    ModelCallInDoubt,
    ModelCallStarted,
    ModelSwitched,
    ReconcileStarted,
    RunFinished,
    RunParked,
    RunWoken,
    SwitchCause,
    ToolCallFailed,
    ToolCallGivenUp,
    ToolCallInDoubt,
    ToolCallReconciled,
    ToolCallStarted,
    ToolFailureKind,
)
from outlast.judges import Judge
from outlast.pacing import group
from outlast.prices import (
    FRAMING_TOKENS,
    Terms,
    check_priced,
    context_window,
    rates,
    undated,
    version,
    worst_case,
    worst_tokens,
)
from outlast.recovery import REPEATS, following, given_up
from outlast.redaction import redacted
from outlast.sources import LastGood
from outlast.state import RunState
from outlast.tools import InvalidArguments, Tool

ATTEMPTS: Final = 8
"""How often the same request is tried when it fails for a reason that may pass."""

OVERLOADS: Final = 3
"""After so many attempts in a row that met an overloaded model, another one is asked."""

BACKOFF_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Seconds before the second, third, … attempt; up to half as much again is added as jitter."""

KNOWN_BLOCKS: Final = frozenset(
    {
        "text",
        "thinking",
        "redacted_thinking",
        "tool_use",
        "server_tool_use",
        "web_search_tool_result",
        "web_fetch_tool_result",
        "advisor_tool_result",
        "code_execution_tool_result",
        "bash_code_execution_tool_result",
        "text_editor_code_execution_tool_result",
        "tool_search_tool_result",
        "mcp_tool_use",
        "mcp_tool_result",
        "mcp_tool_listing",
        "container_upload",
        "compaction",
        "fallback",
    }
)
"""Every block a reply may hold, as of the SDK's 2.12 (`BetaContentBlock`).

Any other is carried through a conversation as it came, but is never part of an answer.
"""

CUTS: Final = 3
"""How many replies in a row may be cut off at `max_tokens` and are gone on with."""

LOOKS: Final = 5
"""How often a process may die under a function that finds something out, before a person is asked.
"""

RETRY_NS: Final = NS // 4
"""How soon it is tried again whether calls of others were settled."""

MENDABLE: Final = frozenset({"auth", "store"})
"""Failures that say nothing about the run: it stops, and goes on when somebody has mended them."""

CAUTION: Final[tuple[Effect, ...]] = ("read", "idempotent", "once")
"""Effects in the order of what it would cost to repeat them wrongly."""


class Shared(msgspec.Struct, frozen=True):
    """From what else a question pays, beside the budget of the agent that is asked."""

    limits: Limits
    """Of the flow that asks, or of the run in which a judge is asked."""
    author: Agent | None = None
    """Whose answer is judged, where that agent is asked by a flow."""


def decide(  # noqa: PLR0911  (the rows of the table)
    state: RunState, agent: Agent, now: int, world: World
) -> Step:
    """Return the next step of the run.

    Args:
        state: what the run knows.
        agent: the declaration it is driven with: its tools, its budget.
        now: nanoseconds since the epoch.
        world: what lies outside the run.

    """
    if state.parking.status:
        return wake(state, now, world)
    if state.finished and not may_go_on(state, world.limits or agent.budget.limits):
        return REST
    if world.halted:
        return stopped_child(world.halted[0]) if not world.at_work else WAIT
    if step := exceeded_step(state) or _lost_vote(state, agent, world):
        return step
    actions: tuple[Action, ...] = ()
    waiting = False
    for ask in state.asks.values():
        if ask.answer is not None or ask.judges:
            continue
        step = ask_step(state, agent, ask, now, world)
        if step.events:
            return step
        waiting, actions = True, actions + step.actions
    if not waiting:
        return Step((RunFinished(status="completed"),))
    return park(actions, now, world) or Step(actions=actions)


def wake(state: RunState, now: int, world: World) -> Step:
    """Return the next step of a parked run: it goes on when its time has come, or when called."""
    return Step((RunWoken(),)) if world.called or state.parking.due(now) else REST


def park(actions: tuple[Action, ...], now: int, world: World) -> Step | None:
    """Return the park of a run that waits for nothing but time and people."""
    waits = [action for action in actions if isinstance(action, Sleep)]
    if len(waits) < len(actions) or world.at_work:
        return None
    waits += world.asleep.values()
    if not waits:
        return None
    until = min((wait.until for wait in waits if wait.until), default=0)
    if until and until - now <= min(wait.least for wait in waits if wait.until == until):
        return None
    first = next((wait for wait in waits if wait.person), None)
    first = first or next(wait for wait in waits if wait.until == until)
    turns = {call_id: turn for call_id, turn in world.turns.items() if turn.at > now}
    return Step((RunParked(until=until, why=first.why, person=first.person, turns=turns),))


def stopped_child(why: str) -> Step:
    """Return the stop of a run with its child."""
    return Step((RunFinished(status="stopped", why=f"stopped: {why}"),))


def may_go_on(state: RunState, limits: Limits) -> bool:
    """Return whether a run whose leg has ended may have another one, within these limits."""
    if state.status != "stopped":
        return False
    turns, tokens, nano = limits.turns, limits.tokens, limits.nano
    return (
        (turns is None or state.spend.turns < turns)
        and (tokens is None or state.spend.tokens < tokens)
        and (nano is None or state.spend.nano < nano)
    )


def ask_step(  # noqa: PLR0911, PLR0913, PLR0917  (the rows of the table)
    state: RunState,
    agent: Agent,
    ask: Conversation,
    now: int,
    world: World,
    shared: Shared | None = None,
) -> Step:
    """Return the next step of a question that has no answer yet."""
    if ask.missed is not None:
        return _missed(ask, ask.missed)
    if ask.call is not None:
        return WAIT if ask.call.call_id in world.in_flight else _unheard(ask, ask.call)
    if ask.pending:
        return _tools_step(state, agent, ask, now, world, shared)
    if ask.replied and ask.stop_reason not in GOES_ON:
        return _reply_step(state, agent, ask, now, world, shared)
    if ask.failure is not None:
        if ask.overloads >= OVERLOADS and (
            step := _another_model(state, agent, ask, now, world, shared, "overloaded")
        ):
            return step
        if step := _failure_step(state, ask, ask.failure, now, world):
            return step
    turn = world.turns.get(next_call_id(ask))
    is_ours = turn is not None and turn.group == group(ask.spec.model)
    until = max(_thaw(state, ask, now, world), turn.at if turn is not None and is_ours else 0)
    if until > now:
        return _wait("rate_limited", until)
    return _call_step(state, agent, ask, now, world, shared)


# ── the model ───────────────────────────────────────────────────────────────────────────────────


def _unheard(ask: Conversation, call: ModelCallStarted) -> Step:
    """Return what is done about a call that nobody waits for at the moment."""
    if ask.batched is None:
        return lost_call(call)
    fetch = FetchReply(
        ask_id=call.ask_id,
        call_id=call.call_id,
        batch_id=ask.batched.batch_id,
        custom_id=ask.batched.custom_id,
        model=ask.spec.model,
        hold_nano=call.hold_nano,
        hold_tokens=call.hold_tokens,
        called_at=ask.called_at,
        terms=_terms(ask, batch=True),
    )
    return Step(actions=(fetch,))


def lost_calls(state: RunState) -> tuple[ModelCallInDoubt, ...]:
    """Return what the calls in flight of a run are that nobody drives.

    The result of one that is in a batch can be fetched by whoever goes on with the run.
    """
    return tuple(
        event
        for ask in state.asks.values()
        if ask.call is not None and ask.batched is None
        for event in lost_call(ask.call).events
        if isinstance(event, ModelCallInDoubt)
    )


def lost_call(call: ModelCallStarted) -> Step:
    """Return what a call is that nobody waits for any more: in doubt, and charged in full."""
    # It may have been billed, so it is: no crash widens a budget.
    return Step(
        (
            ModelCallInDoubt(
                ask_id=call.ask_id,
                call_id=call.call_id,
                kind="crash",
                message="the process ended before the outcome was written",
                cost_nano=call.hold_nano,
                tokens=call.hold_tokens,
            ),
        )
    )


def _lost_vote(state: RunState, agent: Agent, world: World) -> Step | None:
    """Let go of a judge's call that nobody waits for, whether that judge is still asked or not."""
    for call_id in state.spend.held:
        vote = state.asks[call_id.rpartition(".m")[0]]
        if not vote.judges or vote.call is None or call_id in world.in_flight:
            continue
        if vote.batched is None or not is_asked(state, agent, vote):
            return lost_call(vote.call)
    return None


def exceeded_step(state: RunState) -> Step | None:
    """Write down the call that used more than was held for it, where there is one."""
    for ask in state.asks.values():
        if ask.exceeded is not None:
            return Step((_exceeded(ask, ask.exceeded, batch=is_batch(state)),))
    return None


def _exceeded(ask: Conversation, over: Exceeded, *, batch: bool) -> BoundExceeded:
    # Money that was short is turned into the tokens of a prompt that would have brought it.
    model, terms = ask.spec.model, _terms(ask, batch=batch)
    more = worst_case(model, over.bound + 1_000, 0, terms) - worst_case(model, over.bound, 0, terms)
    short = max(0, over.over_nano - over.fees_nano)
    needed = max(over.actual, over.bound - (-1_000 * short // more))
    return BoundExceeded(
        ask_id=ask.ask_id,
        call_id=over.call_id,
        bound_tokens=over.bound,
        actual_tokens=over.actual,
        over_nano=over.over_nano,
        percent=-(-100 * needed // over.plain),
    )


def _input_bound(state: RunState, ask: Conversation, world: World) -> int:
    """Return how many tokens the next prompt of an ask can have at most."""
    percent = max(100, world.factors.get(ask.spec.model, 100), *state.factors.values())
    return -(-(ask.input_bound + FRAMING_TOKENS) * percent // 100)


def _missed(ask: Conversation, missed: Missed) -> Step:
    """Write down that the prompt cache did not answer, why, and what that cost."""
    lost = missed.cached.tokens - missed.read
    tier = rates(missed.model).tier(missed.read + missed.written)
    price = tier.cache_write_1h if ask.spec.cache == "1h" else tier.cache_write_5m
    event = CacheMissed(
        ask_id=ask.ask_id,
        call_id=missed.call_id,
        reason="expired" if missed.idle_ns > LIFE_NS[ask.spec.cache] else "evicted",
        expected_tokens=missed.cached.tokens,
        read_tokens=missed.read,
        idle_ns=missed.idle_ns,
        extra_nano=lost * (price - tier.cache_read),
    )
    return Step((event,))


def _count_step(ask: Conversation, world: World) -> Step:
    if wrong := flaw(ask):
        return _unsendable(wrong)
    count = CountTokens(
        ask_id=ask.ask_id,
        call_id=f"{ask.ask_id}.c{ask.counts + 1}",
        model=ask.spec.model,
        head=request_head(ask),
        messages=ask.messages,
        attached=ask.attached,
    )
    return WAIT if count.call_id in world.in_flight else Step(actions=(count,))


def _unsendable(why: str) -> Step:
    return failed(f"the conversation cannot be sent to Claude: {why}")


def _call_step(  # noqa: PLR0911, PLR0913, PLR0917  (everything a call depends on)
    state: RunState,
    agent: Agent,
    ask: Conversation,
    now: int,
    world: World,
    shared: Shared | None,
) -> Step:
    if wrong := flaw(ask):
        return _unsendable(wrong)
    if agent.stops_loops and (step := _loop_step(ask)) is not None:
        return step
    breaker = None if is_batch(state) else world.breaker(ask.spec.model)
    if breaker is not None and (until := _tripped(state, ask.ask_id, breaker, now, world)) > now:
        other = _another_model(state, agent, ask, now, world, shared, "breaker")
        return other or _closed_off(ask.spec.model, until)
    if ask.uncounted:
        return _count_step(ask, world)
    fits = _fitting(state, agent, ask, world)
    if isinstance(fits, Step):
        return fits
    room = _room(state, agent, ask, world, shared, fits)
    if not isinstance(room, int):
        return _short(ask, *room, now, world)
    max_tokens, bound = room, _input_bound(state, ask, world)
    batch = is_batch(state)
    terms = _terms(ask, batch=batch)
    intent = ModelCallStarted(
        ask_id=ask.ask_id,
        call_id=next_call_id(ask),
        max_tokens=max_tokens,
        request_hash=request_hash(ask, max_tokens),
        hold_nano=worst_case(ask.spec.model, bound, max_tokens, terms),
        hold_tokens=worst_tokens(bound, max_tokens, terms),
        attempt=ask.failures + 1,
        batch=batch,
        probe=breaker is not None and breaker.is_tried(now),
        prices=version(ask.spec.model),
        tool=ask.results_of,
    )
    return Step((intent,), (_call(agent, ask, intent),), last=len(state.asks) == 1)


def is_batch(state: RunState) -> bool:
    """Return whether the calls of a run go through the Message Batches API."""
    return state.started is not None and state.started.batch


def _terms(ask: Conversation, *, batch: bool = False) -> Terms:
    return terms(ask, batch=batch)


def _call(agent: Agent, ask: Conversation, intent: ModelCallStarted) -> CallModel:
    return CallModel(
        ask_id=ask.ask_id,
        call_id=intent.call_id,
        attempt=intent.attempt,
        max_tokens=intent.max_tokens,
        hold_nano=intent.hold_nano,
        hold_tokens=intent.hold_tokens,
        model=ask.spec.model,
        head=request_head(ask),
        messages=ask.messages,
        cache=ask.spec.cache,
        breakpoints=breakpoints(ask),
        attached=ask.attached,
        terms=_terms(ask, batch=intent.batch),
        batch=intent.batch,
        timeout_s=agent.call_timeout_s,
        quiet=bool(ask.judges),
    )


def _loop_step(ask: Conversation) -> Step | None:
    """Return what is done about calls that repeat: Claude is told, and then the run is stopped."""
    loop = loops.found(ask.made)
    if loop is None:
        return None
    stops = loop.times >= loops.STOP
    seen = LoopDetected(
        ask_id=ask.ask_id, calls=list(loop.calls), times=loop.times, error=loop.error, stops=stops
    )
    what = " → ".join(loop.calls)
    if stops:
        why = (
            f"stopped: Claude calls {what} again and again, {loop.times} times in a row with "
            "nothing new; start a run with better instructions, or with Agent(stops_loops=False)"
        )
        return Step((seen, RunFinished(status="stopped", why=why)))
    if ask.nudged == tuple(sorted(loop.calls)):
        return None  # it was told, and has two more rounds
    failing = "and it fails in the same way" if loop.error else "and nothing new comes back"
    told = (
        f"You have called {what} {loop.times} times in a row, {failing}. "
        "Do something else, or answer with what you have."
    )
    content = msgspec.json.encode([{"type": "text", "text": told}])
    return Step((seen, FeedbackGiven(ask_id=ask.ask_id, why="loop", content=Raw(content))))


def _fitting(state: RunState, agent: Agent, ask: Conversation, world: World) -> int | Step:
    """Return how many output tokens the context window leaves, or what is done before a call."""
    most = ask.spec.max_tokens
    if ask.uncountable:
        return most
    window = context.window(ask.spec.model, ask.shown)
    tokens = ask.input_bound + FRAMING_TOKENS
    bound = tokens if ask.measured else _input_bound(state, ask, world)
    if context.roomy(bound, most, window):
        return most
    if not ask.measured:
        return _count_step(ask, world)
    if not ask.compacts and not _cannot_compact(ask, tokens, window):
        return _compaction(ask, tokens, window)
    left = min(most, window - tokens)
    return left if left >= min(agent.least_tokens, most) else failed(_full(ask, tokens, window))


def _compaction(ask: Conversation, tokens: int, window: int) -> Step:
    why: Literal["near_limit", "window_exceeded"] = "near_limit"
    if ask.stop_reason == EXCEEDED:
        why = "window_exceeded"
    trigger = context.trigger(window)
    asked = CompactionRequested(
        ask_id=ask.ask_id, tokens=tokens, window=window, trigger=trigger, why=why
    )
    return Step((asked,))


def _cannot_compact(ask: Conversation, tokens: int, window: int) -> str:
    """Return why the API would not condense a prompt, or why that is not asked; empty if it is."""
    if manages_context(ask):
        return "what its context_management says is all that is done about it"
    if not context.compacts(ask.spec.model):
        return f"{ask.spec.model} is not known to condense conversations"
    if len(ask.messages) == 1:
        return "nothing was said yet that could be condensed"
    if tokens < context.trigger(window):
        return f"the API condenses no prompt of fewer than {context.trigger(window):,} tokens"
    if ask.fruitless >= context.FRUITLESS:
        return f"the API failed {ask.fruitless} times to condense it"
    return ""


def _full(ask: Conversation, tokens: int, window: int) -> str:
    """Return why a run ends whose conversation has no room for a reply."""
    why = _cannot_compact(ask, tokens, window) or "it was to be condensed, and was not"
    return (
        f"the conversation no longer fits into the context window of {ask.spec.model}: its prompt "
        f"may have {tokens:,} tokens, the window has {window:,}, and {why}; start a run with less "
        "to read, with tools that return less, or with a model that has a larger window"
    )


def _room(  # noqa: PLR0913, PLR0917  (everything a call depends on)
    state: RunState,
    agent: Agent,
    ask: Conversation,
    world: World,
    shared: Shared | None,
    most: int,
) -> int | tuple[str, budget.Shortage]:
    """Return how many output tokens the next call may have, or in what scope there is no room."""
    call = budget.Next(
        model=ask.spec.model,
        input_bound=_input_bound(state, ask, world),
        most=most,
        least=min(agent.least_tokens, most),
        terms=_terms(ask, batch=is_batch(state)),
    )
    for scope, limits, spent in _scopes(state, agent, ask, world, shared):
        fits = budget.room(limits, spent, call)
        if not isinstance(fits, int):
            return scope, fits
        call = replace(call, most=fits)
    for short in world.short:
        if short.unit == PROBES or _is_of_another(short, call.model):
            continue
        fits = _room_of(short, call)
        if not isinstance(fits, int):
            return short.scope, fits
        call = replace(call, most=fits)
    return call.most


def _scopes(
    state: RunState, agent: Agent, ask: Conversation, world: World, shared: Shared | None
) -> list[tuple[str, Limits, budget.Used]]:
    """Return the budgets that a call pays from within the run, and what of each is used.

    The asks of a flow pay from the flow's budget, and each from its own agent's.
    """
    run = world.limits or (shared.limits if shared else agent.budget.limits)
    tests = [("run", run, budget.used(state.spend))]
    if shared is not None:
        tests.append((f"ask:{ask.ask_id}", agent.budget.limits, _used(state, ask)))
    if shared is not None and shared.author is not None:
        author = state.asks[ask.judged]
        tests.append((f"ask:{ask.judged}", shared.author.budget.limits, _used(state, author)))
    return tests


def _used(state: RunState, ask: Conversation) -> budget.Used:
    """Return what a question used with its judges, or a judge in the whole run."""
    if ask.judges:
        own = [one for one in state.asks.values() if one.judges and one.check == ask.check]
    else:
        own = [ask, *(one for one in state.asks.values() if one.judged == ask.ask_id)]
    calls = [one.call for one in own if one.call is not None and one is not ask]
    return budget.Used(
        turns=sum(one.turns for one in own),
        tokens=sum(one.spent_tokens for one in own),
        nano=sum(one.spent_nano for one in own),
        held_tokens=sum(one.hold_tokens for one in calls),
        held_nano=sum(one.hold_nano for one in calls),
    )


def _is_of_another(short: Short, model: str) -> bool:
    """Return whether it is the budget of a model that is not the one to be asked."""
    kind, _, name = short.scope.partition(":")
    return kind == "model" and name not in (model, undated(model))


def _room_of(short: Short, call: budget.Next) -> int | budget.Shortage:
    """Return the room that is left in a budget beyond the run."""
    free = short.left + short.held
    if short.unit in ("calls", "turns"):
        return budget.Shortage(
            unit=short.unit, needed=1, left=short.left, passing=free >= 1, window=short.window
        )
    limit = Limits(nano=free) if short.unit == "nano" else Limits(tokens=free)
    fits = budget.room(limit, budget.Used(held_nano=short.held, held_tokens=short.held), call)
    return fits if isinstance(fits, int) else replace(fits, window=short.window)


def _short(ask: Conversation, scope: str, short: budget.Shortage, now: int, world: World) -> Step:
    """Return the stop of a run whose budget has no room left; what passes is waited for."""
    if short.passing:
        return WAIT if scope == "run" else Step(actions=(Sleep(until=now + RETRY_NS),))
    refusal = BudgetRefused(
        ask_id=ask.ask_id,
        scope=scope,
        unit=short.unit,
        needed=short.needed,
        left=short.left,
        window=short.window,
        compacts=bool(ask.compacts) and short.unit in ("nano", "tokens"),
    )
    why = _stopped(scope, short, world, "twice the prompt to condense it" * refusal.compacts)
    return Step((refusal, RunFinished(status="stopped", why=why)))


def _stopped(scope: str, short: budget.Shortage, world: World, of_it: str = "") -> str:
    needed, left = budget.amount(short.unit, short.needed), budget.amount(short.unit, short.left)
    needed += f" ({of_it})" if of_it else ""
    kind, span = scope.partition(":")[0], _span(short.window)
    what = f"stopped: {kind} budget{span[0]}, needs {needed}, {left} left; "
    name = {"nano": "usd"}.get(short.unit, short.unit)
    if scope == "run" and world.limits is not None and short.unit != "tool_calls":
        # What is set for a run comes before what is declared, which nobody need give anew.
        return f"{what}`outlast budget set run:{world.run_id} …` and resume"
    if scope == "run" or scope.startswith("ask:"):
        return f"{what}give a larger Budget({name}=…) and resume"
    if scope.startswith("tree:"):
        return (
            f"{what}give {scope.removeprefix('tree:')} a larger Budget({name}=…), or "
            f"`outlast budget set {scope} …`, and resume"
        )
    return f"{what}`outlast budget set {scope}{span[1]} …` and resume{span[2]}"


def _span(window: str) -> tuple[str, str, str]:
    """Return how a window is spoken of, how it is given, and when it is over."""
    kind, _, when = window.partition(":")
    if kind in ("", "total"):
        return "", "", ""
    if kind in ("day", "month"):
        return f" of the {kind} {when}", f" --window {kind}", f", or resume when the {kind} is over"
    return f" of {kind}", f" --window {kind}", ", or resume later"


def _failure_step(
    state: RunState, ask: Conversation, failure: Failure, now: int, world: World
) -> Step | None:
    """Return what a failed attempt means, `None` when it is time for the next one."""
    if failure.kind in MENDABLE:
        what = "nothing was sent" if failure.kind == "store" else "Claude did not take the request"
        why = f"stopped: {what} ({failure.kind}): {failure.message}"
        return Step((RunFinished(status="stopped", why=f"{why}; mend it, then resume"),))
    if failure.kind in HELD_UP:
        return Step(actions=(_held_up(state, failure, world),))
    if failure.kind not in RETRYABLE:
        # Nothing condenses what the API cannot even read.
        less = "; start a run with less to read" if failure.kind == "too_large" else ""
        return failed(f"Claude did not take the request ({failure.kind}): {failure.message}{less}")
    # What costs nothing and presses nobody is waited for as long as it lasts.
    waited_for = failure.kind == "rate_limited" or (
        failure.kind in ("overloaded", "unreachable")
        and world.breaker(ask.spec.model) is not None
        and not is_batch(state)
    )
    if ask.failures >= ATTEMPTS and not waited_for:
        return failed(
            f"{ask.failures} attempts came to nothing, the last one ({failure.kind}): "
            f"{failure.message}"
        )
    if failure.at > now:
        return None  # the clock was set back, and nobody knows by how much: waiting could be long
    until = max(_next_attempt(state, ask, failure), _thaw(state, ask, now, world))
    return _wait(failure.kind, until) if now < until else None


def fallback(
    state: RunState,
    ask: Conversation,
    why: SwitchCause,
    may: Callable[[Conversation], bool] = lambda _: True,
) -> Step | None:
    """Return the switch to the next model that can be asked instead, `None` where there is none.

    Args:
        state: what the run knows.
        ask: the question, with nothing in flight.
        why: why its model is asked no more.
        may: whether the question may go on as it would with another model.

    """
    if why != "refusal" and is_batch(state):
        return None  # what a batch meets, another model of the same batch would
    details = _stop_details(ask.stop_details) if why == "refusal" else None
    recommended = undated((details and details.recommended_model) or "")
    given_up = (ask.spec.model, *ask.given_up)
    left = [model for model in ask.spec.fallback_models if model not in given_up]
    for model in sorted(left, key=lambda one: undated(one) != recommended):
        if not _is_priced(state, ask, model):
            continue
        other = switched(ask, model)
        if _holds(ask, other) and may(other):
            event = ModelSwitched(
                ask_id=ask.ask_id,
                model=model,
                before=ask.spec.model,
                why=why,
                times=ask.overloads,
                category=(details and details.category) or "",
                recommended=undated(model) == recommended,
                call_id=ask.asked_by.call_id if why == "refusal" and ask.asked_by else "",
            )
            return Step((event,))
    return None


def _is_priced(state: RunState, ask: Conversation, model: str) -> bool:
    try:
        check_priced(model, ask.spec.parameters, batch=is_batch(state))
    except UnknownModel:  # it was declared where the run was begun, and is not here
        return False
    return True


def _holds(ask: Conversation, other: Conversation) -> bool:
    """Return whether the context window of another model is surely wide enough."""
    # Bytes say far more than there are tokens, but nothing of a document's pages; what one model
    # metered, another counts otherwise, but not by half.
    bound = (ask.input_bound + FRAMING_TOKENS) * 3 // 2
    if not other.uncounted:
        bound = min(bound, other.input_bound + FRAMING_TOKENS)
    return bound <= context_window(other.spec.model)


def _another_model(  # noqa: PLR0913, PLR0917  (everything a call depends on)
    state: RunState,
    agent: Agent,
    ask: Conversation,
    now: int,
    world: World,
    shared: Shared | None,
    why: Literal["overloaded", "breaker"],
) -> Step | None:
    """Return the switch away from a model that does not answer, to one that can be asked now."""

    def may(other: Conversation) -> bool:
        if _thaw(state, other, now, world) > now:
            return False
        # By its bytes the prompt is held for more: that must not stop a run that could wait.
        room = _room(state, agent, other, world, shared, other.spec.max_tokens)
        if not (isinstance(room, int) or room[1].passing):
            return False
        breaker = world.breaker(other.spec.model)
        return breaker is None or _tripped(state, other.ask_id, breaker, now, world) <= now

    return fallback(state, ask, why, may)


def _wait(kind: FailureKind, until: int) -> Step:
    why = f"{_WAITS.get(kind, 'waiting to ask Claude again')} until {moment(until)}"
    return Step(actions=(Sleep(until=until, why=why),))


def _thaw(state: RunState, ask: Conversation, now: int, world: World) -> int:
    """Return when the next attempt may begin of a question that the API made nobody ask."""
    freeze = world.frozen(ask.spec.model)
    if (
        not freeze.until or not freeze.holds(now) or is_batch(state)
    ):  # batches have limits of their own
        return 0
    nonce = state.started.nonce if state.started else ""
    return freeze.over_for(f"{nonce}:{ask.ask_id}")


def _tripped(state: RunState, name: str, breaker: breakers.State, now: int, world: World) -> int:
    """Return until when a question, or a call of a tool, waits for what answers nobody."""
    who = f"{state.started.nonce if state.started else ''}:{name}"
    if any(short.unit == PROBES and short.scope == breaker.scope for short in world.short):
        return breaker.waits_for_others(who, now)
    return breaker.waits(who, now)


def _closed_off(what: str, until: int) -> Step:
    why = f"waiting for {what}, which does not answer, until {moment(until)}"
    return Step(actions=(Sleep(until=until, why=why),))


def _held_up(state: RunState, failure: Failure, world: World) -> Sleep:
    """Return the wait for somebody to mend what no other attempt could."""
    root = (state.started.root if state.started else "") or world.run_id
    why = f"waiting for somebody: Claude did not take the request ({failure.kind}): "
    return Sleep(until=0, why=f"{why}{failure.message}; mend it, then: outlast resume {root}")


_WAITS: Final[dict[FailureKind, str]] = {
    "rate_limited": "waiting for Claude's rate limit",
    "overloaded": "waiting for Claude, which is overloaded,",
    "unavailable": "waiting for Claude, which is not available,",
    "unreachable": "waiting for Claude, which cannot be reached,",
}
"""What a run waits for after an attempt that failed."""


def _next_attempt(state: RunState, ask: Conversation, failure: Failure) -> int:
    nonce = state.started.nonce if state.started else ""
    seed = f"{nonce}:{ask.ask_id}:{ask.calls}".encode()
    # Jitter without randomness: a resumed run waits as long as it would have.
    jitter = int.from_bytes(sha256(seed).digest()[:4], "big") / 2**33
    wait_s = BACKOFF_S[min(max(1, ask.failures), len(BACKOFF_S)) - 1] * (1 + jitter)
    return failure.at + int(max(wait_s, failure.retry_after_s or 0.0) * NS)


def failed(why: str) -> Step:
    """Return the end of a run that can have no answer."""
    return Step((RunFinished(status="failed", why=why),))


def _reply_step(  # noqa: PLR0911, PLR0913, PLR0917  (the rows of the table)
    state: RunState,
    agent: Agent,
    ask: Conversation,
    now: int,
    world: World,
    shared: Shared | None,
) -> Step:
    if ask.stop_reason in CUT and not ask.judges:
        return _cut_step(ask)
    if ask.stop_reason == EXCEEDED:
        return _exceeded_window(ask)
    if ask.stop_reason == "refusal" and (step := fallback(state, ask, "refusal")):
        return step
    if ask.stop_reason not in ("end_turn", "stop_sequence"):
        return failed(_no_answer(ask))
    said = blocks(_content(ask))
    if unknown := [block.type for block in said if block.type not in KNOWN_BLOCKS]:
        return failed(
            f"Claude's last reply holds a block of type {unknown[0]!r}, which this version does "
            "not know, so nobody can tell whether it is an answer; upgrade outlast"
        )
    if any(block.type == "tool_use" for block in said):
        return failed(f"Claude ended its turn ({ask.stop_reason}) with a tool use left open")
    text = ask.before + words(said)
    if not text.strip():
        return failed(f"Claude ended its turn ({ask.stop_reason}) without a word")
    spec = ask.spec
    if ask.judges or not (agent.is_checked or spec.answers):
        answer = AskAnswered(ask_id=ask.ask_id, answer=Raw(msgspec.json.encode(text)))
        return Step((answer,))
    if spec.answers == "format":
        proposed = given(text, wrapped=spec.wrapped)
    else:  # where a tool is to be called, a text is an answer as well: one of another type
        proposed = Raw(msgspec.json.encode(text))
    judge = _judging(state, agent, now, world, shared)
    return answer_step(state, agent, ask, proposed, now, world, judge)


def _judging(
    state: RunState, agent: Agent, now: int, world: World, shared: Shared | None
) -> AskJudge:
    """Return what asks a judge of the answers to a question."""

    def step(judge: Judge, vote: Conversation) -> Step:
        return _judge_step(state, agent, judge, vote, now, world, shared)

    return step


def _judge_step(  # noqa: PLR0911, PLR0913, PLR0917  (everything a call depends on)
    state: RunState,
    agent: Agent,
    judge: Judge,
    vote: Conversation,
    now: int,
    world: World,
    shared: Shared | None,
) -> Step:
    """Return the next step of a vote; whatever keeps it from being one fails no more than that."""
    failure, model = vote.failure, vote.spec.model
    is_idle = vote.call is None and not vote.replied
    is_failing = failure is not None and failure.kind != "rate_limited"
    if is_idle and failure is not None and is_failing and vote.failures >= judge.attempts:
        told = f"{vote.failures} attempts came to nothing, the last one ({failure.kind})"
        return _unjudged(vote, f"{told}: {failure.message}")
    if vote.call is None and (vote.pending or (vote.replied and vote.stop_reason in GOES_ON)):
        return _unjudged(vote, _no_answer(vote))  # to ask for more could go on until all is spent
    if is_idle and not _is_priced(state, vote, model):
        return _unjudged(vote, f"no price is known for model {model!r}, so it is not asked")
    breaker = None if is_batch(state) else world.breaker(model)
    if is_idle and breaker is not None and _tripped(state, vote.ask_id, breaker, now, world) > now:
        return _unjudged(vote, f"{model} does not answer, and its circuit breaker is open")
    limits = shared.limits if shared else agent.budget.limits
    pays = Shared(limits, author=agent if shared else None)
    step = ask_step(state, agent.asker(judge), vote, now, world, pays)
    last = step.events[-1] if step.events else None
    if not isinstance(last, RunFinished):
        return step
    if last.status == "failed":
        return _unjudged(vote, last.why, step.events[:-1])
    for event in step.events:
        if isinstance(event, BudgetRefused):
            needed, left = (budget.amount(event.unit, n) for n in (event.needed, event.left))
            scope = judge.name if event.scope == f"ask:{vote.ask_id}" else event.scope
            why = f"it does not fit into the budget of {scope}: it needs {needed}, {left} left"
            return _unjudged(vote, why, step.events[:-1])
    return step


def _unjudged(vote: Conversation, why: str, events: tuple[AnyEvent, ...] = ()) -> Step:
    return Step((*events, AskFailed(ask_id=vote.ask_id, why=why)))


def _exceeded_window(ask: Conversation) -> Step:
    """Have what was said condensed before Claude is asked again; the reply that was cut is void."""
    window = context.window(ask.spec.model, ask.shown)
    why = _cannot_compact(ask, ask.input_bound, window)
    return failed(f"{_no_answer(ask)}; {why}") if why else _compaction(ask, ask.input_bound, window)


def _cut_step(ask: Conversation) -> Step:
    """Ask for the rest of a reply that was cut off; its tools never run."""
    if ask.cuts > CUTS:
        return failed(
            f"{ask.cuts} replies in a row were cut off at max_tokens={ask.spec.max_tokens}; "
            "start a run with a larger Agent(max_tokens=…)"
        )
    if flawed := flaw(ask) if bytes(_content(ask)) == b"[]" else "":
        return failed(f"Claude was cut off ({ask.stop_reason}) before it said anything: {flawed}")
    not_run = [
        {
            "type": "tool_result",
            "tool_use_id": block.id,
            "content": f"The reply was cut off, so this call of {block.name} was not made.",
            "is_error": True,
        }
        for block in blocks(_content(ask))
        if block.type == "tool_use"
    ]
    told = (
        f"Your reply was cut off at the limit of {ask.spec.max_tokens} tokens. "
        "Go on exactly where it stopped, without repeating anything."
    )
    if ask.spec.answers == "format":
        told = (
            f"Your reply was cut off at the limit of {ask.spec.max_tokens} tokens, so it is no "
            "whole answer. Give the whole answer again, with less text."
        )
    if not_run:
        told = (
            f"Your reply was cut off at the limit of {ask.spec.max_tokens} tokens before its calls "
            "were complete. Make them again, with less text or smaller arguments."
        )
    content = msgspec.json.encode([*not_run, {"type": "text", "text": told}])
    feedback = FeedbackGiven(ask_id=ask.ask_id, why=ask.stop_reason or "", content=Raw(content))
    return Step((feedback,))


class _StopDetails(msgspec.Struct, gc=False):
    category: str | None = None
    explanation: str | None = None
    recommended_model: str | None = None


def _no_answer(ask: Conversation) -> str:
    """Return why a reply is not an answer, naming its stop reason."""
    if ask.stop_reason == "refusal":
        return f"Claude refused to answer{_refusal(ask.stop_details)}"
    if ask.stop_reason == EXCEEDED:
        return (
            f"the conversation no longer fits into the context window of {ask.spec.model} "
            f"(stop_reason {EXCEEDED!r}), and the reply was cut off; "
            "start a new run with less"
        )
    return f"Claude stopped with stop_reason {ask.stop_reason!r}, which is not an answer"


def _stop_details(details: Raw) -> _StopDetails | None:
    """Return what is told of a refusal; `None` where that is nothing, or nothing that is known."""
    try:
        return msgspec.json.decode(details, type=_StopDetails | None)
    except msgspec.DecodeError:
        return None


def _refusal(details: Raw) -> str:
    read = _stop_details(details)
    if read is None and details != NULL:
        return f" (stop_reason 'refusal', {bytes(details).decode()})"
    parts = ["stop_reason 'refusal'"]
    if read is not None and read.category:
        parts.append(f"category {read.category!r}")
    if read is not None and read.recommended_model:
        parts.append(f"it recommends {read.recommended_model}")
    return f" ({', '.join(parts)})"


class _Message(msgspec.Struct, gc=False):
    content: Raw


_MESSAGE: Final = msgspec.json.Decoder(_Message)


def _content(ask: Conversation) -> Raw:
    return _MESSAGE.decode(ask.messages[-1]).content


# ── tools ───────────────────────────────────────────────────────────────────────────────────────


def lost_probes(state: RunState) -> tuple[str, ...]:
    """Return the calls of tools in flight, in a run that nobody drives, that try a source."""
    return tuple(
        pending.call_id
        for ask in state.asks.values()
        for pending in ask.pending
        if pending.call_id and pending.tries
    )


def _tools_step(  # noqa: PLR0911, PLR0913, PLR0917  (everything a call depends on)
    state: RunState,
    agent: Agent,
    ask: Conversation,
    now: int,
    world: World,
    shared: Shared | None,
) -> Step:
    actions: tuple[Action, ...] = ()
    for number, pending in enumerate(ask.pending, start=1):
        if pending.result or pending.call_id in world.in_flight:
            continue
        if is_answer(ask, pending):
            continue
        declared = agent.tool(pending.name)
        if pending.doubt:
            if pending.doubt not in world.in_flight:
                step = _find_out(state, ask, pending, declared, world)
                if step.events:
                    return step
                actions += step.actions
            continue
        if pending.call_id and declared is not None and declared.agent is not None:
            # Its own journal says how far it came, so to drive it twice is to drive it once.
            arguments = bytes(pending.arguments if pending.edited == NULL else pending.edited)
            try:
                given = declared.arguments(arguments)
            except InvalidArguments:  # it was changed since, and cannot be called again
                return _lost_tool(ask, pending, declared)
            actions += (_tool_call(state, ask, pending, pending.call_id, given, world),)
            continue
        if pending.call_id:
            return _lost_tool(ask, pending, declared)
        if (used_up := _no_more_tools(state, agent, ask, world, shared)) is not None:
            busy = any(one.call_id in world.in_flight for one in ask.pending if one.call_id)
            return WAIT if busy else used_up  # what is in flight may have an outcome yet
        call_id = tool_call_id(ask, number)
        step = _start_tool(state, ask, pending, declared, call_id, now, world)
        if step.events:
            return step
        actions += step.actions
    if (proposed := proposal(ask)) is not None:
        judge = _judging(state, agent, now, world, shared)
        return answer_step(state, agent, ask, proposed, now, world, judge)
    return Step(actions=actions)


def _no_more_tools(
    state: RunState, agent: Agent, ask: Conversation, world: World, shared: Shared | None
) -> Step | None:
    """Return the stop of a run that may make no more calls of tools; they are made on `resume`."""
    run = world.limits or (shared.limits if shared else agent.budget.limits)
    tests = [("run", run, state.spend.tool_calls)]
    if shared is not None:
        tests.append((f"ask:{ask.ask_id}", agent.budget.limits, ask.tool_calls))
    for scope, limits, made in tests:
        if limits.tool_calls is not None and made >= limits.tool_calls:
            short = budget.Shortage(unit="tool_calls", needed=1, left=0)
            return _short(ask, scope, short, 0, world)
    return None


def _lost_tool(ask: Conversation, pending: Pending, declared: Tool[..., object] | None) -> Step:
    # By what it was declared when it started, or by what it is now, whichever risks less.
    source = source_at(declared, pending.rank)
    effect = max(pending.effect, source.effect if source else "once", key=CAUTION.index)
    again = effect == "idempotent" or (effect == "read" and pending.crashes < REPEATS)
    # What is to be done instead is decided once it is known to be lost.
    more = effect == "read" and declared is not None and pending.rank + 1 < len(declared.sources)
    # Of one that changes nothing nobody has to say what became of it.
    is_open = "once" in (pending.effect, source and source.effect)
    unknown = (
        f"The outcome of this call of {pending.name} is unknown: it was interrupted, and it may or "
        "may not have happened. It was not repeated."
    )
    return Step(
        (
            ToolCallInDoubt(
                ask_id=ask.ask_id,
                call_id=pending.call_id,
                tool_use_id=pending.tool_use_id,
                kind="crash",
                content=NULL if again or more or is_open else _text(unknown),
                open=is_open,
            ),
        )
    )


def source_at(declared: Tool[..., object] | None, rank: int) -> Tool[..., object] | LastGood | None:
    """Return a source of a tool; `None` where the tool, or that source, is no more."""
    sources = () if declared is None else declared.sources
    return sources[rank] if rank < len(sources) else None


def _find_out(
    state: RunState,
    ask: Conversation,
    pending: Pending,
    declared: Tool[..., object] | None,
    world: World,
) -> Step:
    """Return how it is found out what became of a call in doubt: by a function, or by a person."""
    source = source_at(declared, pending.rank)
    helper = source.reconcile if isinstance(source, Tool) else None
    given = None
    if declared is not None and helper is not None and not pending.unsure:
        arguments = pending.arguments if pending.edited == NULL else pending.edited
        try:
            given = declared.arguments(bytes(arguments))
            if isinstance(source, Tool) and source is not declared:
                given, _ = source.takes(given)  # as it was called
        except InvalidArguments:  # it was changed since, so only a person can tell
            given = None
    if given is None or helper is None:
        told = f"waiting for a person: did {pending.name} ({pending.doubt}) happen?"
        run = f" `outlast reconcile {world.run_id}` says so" if world.run_id else ""
        return Step(actions=(Sleep(until=0, why=told + run, person=True),))
    if pending.looked >= LOOKS:
        why = f"the process ended under {helper.name} {pending.looked} times"
        unsure = ToolCallReconciled(
            ask_id=ask.ask_id,
            call_id=pending.doubt,
            tool_use_id=pending.tool_use_id,
            outcome="unknown",
            by="outlast",
            note=why,
            function=True,
        )
        return Step((unsure,))
    begun = ReconcileStarted(
        ask_id=ask.ask_id,
        call_id=pending.doubt,
        tool_use_id=pending.tool_use_id,
        attempt=pending.looked + 1,
    )
    look = FindOut(
        ask_id=ask.ask_id,
        call_id=pending.doubt,
        tool_use_id=pending.tool_use_id,
        tool=pending.name,
        rank=pending.rank,
        given=given,
        place=place_of(state, ask, pending),
        most_tokens=share_of(ask),
    )
    return Step((begun,), (look,))


def _start_tool(  # noqa: PLR0913, PLR0917  (what a call is made of)
    state: RunState,
    ask: Conversation,
    pending: Pending,
    declared: Tool[..., object] | None,
    call_id: str,
    now: int,
    world: World,
) -> Step:
    if declared is None:
        known = "This agent has no tool of that name, and nothing was called."
        return _not_called(ask, pending, call_id, "unknown_tool", known)
    asked = state.approvals.of_call(call_id)
    edited = NULL if asked is None or asked.given is None else asked.given.arguments
    try:
        given = declared.arguments(bytes(pending.arguments if edited == NULL else edited))
    except InvalidArguments as error:
        told = redacted(str(error), world.redact)
        if edited != NULL:
            told = f"A person changed the arguments, and nothing was called: {told}"
        return _not_called(ask, pending, call_id, "invalid_arguments", told)
    if asked is None and callable(declared.approval) and world.uncommitted:
        return Step(actions=(Sleep(until=now),))  # what was paid for is written before it is called
    if asked is None and declared.needs_approval(given):
        return _request(ask, pending, declared, call_id, now)
    if asked is not None and (step := _unapproved(ask, pending, call_id, asked, now)) is not None:
        return step
    return _try_tool(state, ask, pending, declared, call_id, given, edited, now, world)


def _try_tool(  # noqa: PLR0911, PLR0913, PLR0917  (what a call is made of)
    state: RunState,
    ask: Conversation,
    pending: Pending,
    declared: Tool[..., object],
    call_id: str,
    given: dict[str, Any],
    edited: Raw,
    now: int,
    world: World,
) -> Step:
    """Return the next attempt at a tool use that may be made, or that there is none."""
    tally = _tally(state, declared, pending)
    next_ = following(pending, declared.sources, tally, f"{_nonce(state)}:{call_id}")
    if next_ is None:
        return _given_up(ask, pending, declared)
    if next_.at > now:
        why = f"{pending.name} failed, and is tried again at {moment(next_.at)}"
        return Step(actions=(Sleep(until=next_.at, why=why),))
    source = declared.sources[next_.rank]
    breaker = world.breaker_of(source.source)
    probe = breaker is not None and breaker.is_tried(now)
    if breaker is not None and (until := _tripped(state, call_id, breaker, now, world)) > now:
        if len(declared.sources) > 1:
            return _skipped(ask, pending, next_.rank, call_id, source.source)
        return _closed_off(source.source, until)
    in_flight = [one for one in ask.pending if one.call_id in world.in_flight]
    if probe and any(one.tries == source.source for one in in_flight):
        return WAIT  # one by one: together they may be more than may try it
    if probe and world.uncommitted:
        return Step(actions=(Sleep(until=now),))  # what is not written yet may close the breaker
    attempt = pending.attempts + 1
    intent = ToolCallStarted(
        ask_id=ask.ask_id,
        call_id=call_id if attempt == 1 else f"{call_id}.{attempt}",
        tool_use_id=pending.tool_use_id,
        tool=pending.name,
        effect=source.effect,
        attempt=attempt,
        arguments=edited,
        source=source.source,
        probe=probe,
        rank=next_.rank,
        fallback=source.name if next_.rank else "",
        undoable=isinstance(source, Tool) and source.undo is not None,
    )
    is_child = declared.agent is not None
    call = _tool_call(state, ask, pending, intent.call_id, given, world if is_child else None)
    if next_.rank:
        call = _fallen_back(call, source, next_.rank)
    if is_child:
        born = ChildStarted(name=call_id, child=call.child, call_id=intent.call_id)
        return Step((intent, born), (call,))
    return Step((intent,), (call,), last=len(ask.pending) == 1 == len(state.asks))


def _tool_call(  # noqa: PLR0913, PLR0917  (what a call is made of)
    state: RunState,
    ask: Conversation,
    pending: Pending,
    call_id: str,
    given: dict[str, Any],
    world: World | None,
) -> CallTool:
    """Return the call of a tool; with `world` it is a run of its own, below the run."""
    attempt = pending.attempts if call_id == pending.call_id else pending.attempts + 1
    named = call_id if attempt == 1 else call_id.removesuffix(f".{attempt}")
    return CallTool(
        ask_id=ask.ask_id,
        call_id=call_id,
        tool_use_id=pending.tool_use_id,
        tool=pending.name,
        arguments=pending.arguments,
        given=given,
        attempt=attempt,
        place=place_of(state, ask, pending),
        child="" if world is None else child_id(world.run_id, named),
        most_tokens=share_of(ask),
    )


def _fallen_back(call: CallTool, source: Tool[..., object] | LastGood, rank: int) -> CallTool:
    """Return a call of a fallback, with what it takes of the tool's arguments."""
    if isinstance(source, LastGood):
        return replace(call, rank=rank, asked=call.given)
    given, dropped = source.takes(call.given)
    return replace(call, rank=rank, given=given, dropped=dropped, asked=call.given)


def _tally(state: RunState, declared: Tool[..., object], pending: Pending) -> Tally:
    """Return how often the source that was asked last was asked, in the whole run."""
    if not pending.tried or (source := source_at(declared, pending.tried[-1].rank)) is None:
        return Tally()
    name = source.source or source.name
    known = [ask.tallies[name] for ask in state.asks.values() if name in ask.tallies]
    return Tally(sum(one.calls for one in known), sum(one.retries for one in known))


def _skipped(ask: Conversation, pending: Pending, rank: int, call_id: str, source: str) -> Step:
    """Go on to the next source of a tool, since nobody asks this one at the moment."""
    event = ToolCallFailed(
        ask_id=ask.ask_id,
        call_id=call_id,
        tool_use_id=pending.tool_use_id,
        kind="breaker",
        content=NULL,
        error=f"{source} answers nobody, and its circuit breaker is open",
        error_class="unavailable",
        rank=rank,
    )
    return Step((event,))


def _given_up(ask: Conversation, pending: Pending, declared: Tool[..., object]) -> Step:
    """Tell Claude of a call that came to nothing, whatever was tried."""
    last = pending.tried[-1]
    names = [source.name for source in declared.sources]
    effects = [source.effect for source in declared.sources]
    event = ToolCallGivenUp(
        ask_id=ask.ask_id,
        call_id=tool_call_id(ask, ask.pending.index(pending) + 1),
        tool_use_id=pending.tool_use_id,
        content=_text(given_up(pending.name, names, pending, effects)),
        error_class=last.error_class,
        attempts=pending.attempts,
    )
    return Step((event,))


def _nonce(state: RunState) -> str:
    return state.started.nonce if state.started else ""


def share_of(ask: Conversation) -> int:
    """Return how much of the context window each result of the last reply may take."""
    if ask.uncountable:
        return 0
    window = context.window(ask.spec.model, ask.shown)
    bound = ask.input_bound + FRAMING_TOKENS
    return context.share(bound, ask.spec.max_tokens, window, len(ask.pending))


def _request(
    ask: Conversation, pending: Pending, declared: Tool[..., object], call_id: str, now: int
) -> Step:
    """Return the question whether a tool may be called."""
    length = declared.approval_ns
    return Step(
        (
            ApprovalRequested(
                question=f"May {pending.name} be called?",
                call_id=call_id,
                ask_id=ask.ask_id,
                tool=pending.name,
                arguments=pending.arguments,
                expires_at=now + length if length else 0,
            ),
        )
    )


def _unapproved(
    ask: Conversation, pending: Pending, call_id: str, asked: Request, now: int
) -> Step | None:
    """Return what is done about a call that nobody allowed; `None` where somebody did."""
    if asked.given is not None and asked.given.approved:
        return None
    if asked.given is not None:
        note = f": {asked.given.note}" if asked.given.note else "."
        told = f"A person did not allow this call of {pending.name}, and it was not made{note}"
        return _not_called(ask, pending, call_id, "denied", told)
    if asked.late(now):
        told = f"Nobody allowed this call of {pending.name} in time, and it was not made."
        return _not_called(ask, pending, call_id, "denied", told)
    return Step(actions=(awaited(asked),))


def _not_called(
    ask: Conversation, pending: Pending, call_id: str, kind: ToolFailureKind, text: str
) -> Step:
    # Nothing happens in the world, so there is no intent: only what the model is told.
    if pending.effect != "read" and not surely_not(pending, pending.rank):
        text += "\nAn attempt before this may or may not have happened."
    return Step(
        (
            ToolCallFailed(
                ask_id=ask.ask_id,
                call_id=call_id,
                tool_use_id=pending.tool_use_id,
                kind=kind,
                content=_text(text),
            ),
        )
    )


def place_of(state: RunState, ask: Conversation, pending: Pending) -> str:
    """Return what tells a call of a tool from every other one in the world."""
    nonce = _nonce(state)
    # The number of messages tells two turns apart even if Claude should repeat an id.
    return f"{nonce}:{ask.ask_id}:{len(ask.messages)}:{pending.tool_use_id}"


def _text(text: str) -> Raw:
    return Raw(msgspec.json.encode(text))
