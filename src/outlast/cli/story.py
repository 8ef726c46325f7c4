"""Tells a run's journal to people: a sentence for each record, in the light of those before it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import msgspec
from msgspec import Raw

from outlast import budget
from outlast.actions import moment
from outlast.budget import Spend
from outlast.cli import verdicts, words
from outlast.cli.words import Part
from outlast.conversation import blocks
from outlast.events import (
    NULL,
    AnswerProposed,
    AnswerRejected,
    ApprovalGiven,
    ApprovalRequested,
    AskAnswered,
    AskFailed,
    AskRejected,
    AskResampled,
    AskStarted,
    BoundExceeded,
    BoundRaised,
    BreakerChanged,
    BudgetPassed,
    BudgetRefused,
    BudgetSet,
    CacheMissed,
    ChildStarted,
    CompactionRequested,
    ControlGiven,
    Degradation,
    FeedbackGiven,
    LabelGiven,
    LoopDetected,
    MessageReceived,
    ModelCallBatched,
    ModelCallFailed,
    ModelCallInDoubt,
    ModelCallReconciled,
    ModelCallStarted,
    ModelCallSucceeded,
    ModelSwitched,
    NoteAdded,
    PhaseEntered,
    RateFrozen,
    RateLimitsTold,
    ReconcileStarted,
    RunFinished,
    RunForked,
    RunLeft,
    RunParked,
    RunStarted,
    RunWoken,
    ScheduleFired,
    ScheduleSet,
    StepFinished,
    StepStarted,
    TokensCounted,
    ToolCallFailed,
    ToolCallGivenUp,
    ToolCallInDoubt,
    ToolCallReconciled,
    ToolCallStarted,
    ToolCallSucceeded,
    TreeJoined,
    UndoFinished,
    UndoStarted,
    VerdictGiven,
)
from outlast.journal import Record

STATUS_TONES = {
    "completed": "good",
    "failed": "bad",
    "rejected": "bad",
    "stopped": "doubt",
    "cancelled": "doubt",
    "running": "live",
    "parked": "live",
    "paused": "doubt",
}
"""The tone of a run's status."""


@dataclass
class Reader:
    """What one remembers of a journal while reading it, so that a record can be understood.

    Attributes:
        uses: what Claude asked for, by tool use: the tool's name and its arguments.
        in_flight: the calls without an outcome so far, by call id: when they started.
        epoch: the driver that wrote last.
        at: when it did.
        replies: how many of Claude's replies there are: the turns that need no repetition.
        is_flow: whether the run is a flow's, so that it matters which ask something is of.
        asks: the open asks, by id, and how many replies each has.
        steps: what a flow waits for besides, by name: a step, a sleep or a child run.
        phase: the phase a flow is in.
        judges: the asks of judges, and what each is called.
        instead: the model that the agent of an ask names, by ask, where another one was asked.

    """

    uses: dict[str, tuple[str, Raw]] = field(default_factory=dict)
    in_flight: dict[str, int] = field(default_factory=dict)
    spend: Spend = field(default_factory=Spend)
    epoch: int = 0
    at: int = 0
    seq: int = 0
    replies: int = 0
    agent: str = ""
    model: str = ""
    is_flow: bool = False
    asks: dict[str, int] = field(default_factory=dict)
    steps: dict[str, StepStarted | ChildStarted] = field(default_factory=dict)
    phase: str = ""
    judges: dict[str, str] = field(default_factory=dict)
    instead: dict[str, str] = field(default_factory=dict)

    def take(self, record: Record) -> None:
        """Read a record; after `tell`, which looks at what was before it."""
        self.spend = budget.evolve(self.spend, record)
        self.seq = record.seq
        if record.epoch:
            if record.epoch != self.epoch:
                # What an earlier driver had in flight, nobody waits for any more.
                self.in_flight.clear()
                self.steps.clear()
            self.epoch, self.at = record.epoch, record.at
        match record.event:
            case RunStarted() as event:
                self.agent, self.model = event.agent, event.spec.model
                self.is_flow = event.kind == "flow"
                self.at = record.at
            case ModelCallStarted() as event:
                self.in_flight[event.call_id] = record.at
            case ToolCallStarted() as event:
                self.uses.setdefault(event.tool_use_id, (event.tool, Raw(b"{}")))
                if event.arguments != NULL:  # a person changed them
                    self.uses[event.tool_use_id] = (event.tool, event.arguments)
                self.in_flight[event.call_id] = record.at
            case ModelCallSucceeded() as event:
                self.in_flight.pop(event.call_id, None)
                self.replies += event.ask_id not in self.judges
                self.asks[event.ask_id] = self.asks.get(event.ask_id, 0) + 1
                for block in blocks(event.content):
                    if block.type == "tool_use":
                        self.uses[block.id] = (block.name, block.input)
            case (
                ModelCallFailed()
                | ModelCallInDoubt()
                | ToolCallSucceeded()
                | ToolCallFailed()
                | ToolCallInDoubt()
            ) as event:
                self.in_flight.pop(event.call_id, None)
            case _:
                self._take_flow(record)

    def _take_flow(self, record: Record) -> None:
        match record.event:
            case PhaseEntered() as event:
                self.phase = event.phase
            case AskStarted() as event if event.judges:
                self.judges[event.ask_id] = event.check
            case AskStarted() as event:
                self.asks[event.ask_id] = 0
            case AskAnswered() | AskFailed() as event:
                self.asks.pop(event.ask_id, None)
            case ModelSwitched() as event:
                self.instead.setdefault(event.ask_id, event.before)
            case StepStarted() as event:
                self.steps[event.name] = event
            case ChildStarted() as event if not event.call_id:
                self.steps[event.name] = event
            case StepFinished() as event:
                self.steps.pop(event.name, None)

    def gap(self, record: Record) -> str:
        """Return how a new driver came in before `record`; empty if it is the same one."""
        if not record.epoch or not self.epoch or record.epoch == self.epoch:
            return ""
        after = words.duration(record.at - self.at)
        return f"— driver {record.epoch} took over after {after} —"

    def use(self, tool_use_id: str, edited: Raw = NULL) -> str:
        """Return a tool use as a call: `search(keyword="deaf")`."""
        name, arguments = self.uses.get(tool_use_id, ("a tool", Raw(b"{}")))
        return words.call(name, arguments if edited == NULL else edited, 200)

    def tool(self, tool_use_id: str) -> str:
        """Return the name of the tool of a tool use."""
        return words.line(self.uses.get(tool_use_id, ("a tool", Raw(b"{}")))[0], 80)

    def tell(self, record: Record) -> list[Part]:
        """Return the sentence for a record that comes next; in a flow it says of which ask."""
        told = self._told(record)
        ask_id = getattr(record.event, "ask_id", "")
        if ask_id in self.judges:
            if isinstance(record.event, MessageReceived):
                told = [("is asked whether the answer may be believed", "")]
            return [(f"{words.line(self.judges[ask_id], 80)}: ", "quiet"), *told]
        if self.is_flow and ask_id and not isinstance(record.event, AskStarted | AskFailed):
            return [(f"{words.line(ask_id, 80)}: ", "quiet"), *told]
        return told

    def _told(self, record: Record) -> list[Part]:  # noqa: PLR0911, PLR0912, PLR0915  (a table)
        match record.event:
            case RunForked() as event:
                return _run_forked(event)
            case TreeJoined() as event:
                told = f"{words.line(event.run_id, 200)} pays from the tree of "
                return [(told, ""), (words.line(event.tree, 200), "strong")]
            case RunStarted() as event:
                return _run_started(event)
            case AskStarted() as event:
                return _ask_started(event, self.instead.get(event.continues, ""))
            case MessageReceived() as event:
                return [(f"“{words.line(words.spoken(event.content), 400)}”", "")]
            case ModelCallStarted() as event:
                return self._model_started(event)
            case ModelCallSucceeded() as event:
                return _model_succeeded(event)
            case ModelCallFailed() as event:
                return _model_failed(event)
            case ModelCallInDoubt() as event:
                return _model_in_doubt(event)
            case ModelCallReconciled() as event:
                return _model_reconciled(event)
            case TokensCounted() as event:
                return _tokens_counted(event)
            case ModelSwitched() as event:
                return _model_switched(event)
            case CompactionRequested() as event:
                return _compaction_requested(event)
            case ModelCallBatched() as event:
                return [(f"sent with others as batch {words.line(event.batch_id, 80)}", "")]
            case PhaseEntered() as event:
                return [(event.phase, "strong")]
            case StepStarted() as event:
                return _step_started(event)
            case StepFinished() as event:
                return _step_finished(event)
            case ChildStarted() as event:
                return self._child_started(event)
            case RunParked() as event:
                return [(words.line(event.why, 200), "doubt")]
            case RunWoken():
                return [("goes on", "")]
            case RunLeft() as event:
                return [(words.line(event.why, 400), "doubt")]
            case ApprovalRequested() | ApprovalGiven() as event:
                return _approval(event)
            case BudgetSet() as event:
                return _budget_set(event)
            case BudgetPassed() as event:
                return _budget_passed(event)
            case ScheduleSet() as event:
                return _schedule_set(event)
            case ScheduleFired() as event:
                failed = f" was not begun: {words.line(event.error, 200)}" if event.error else ""
                return [(event.run_id, "strong"), (failed, "bad")]
            case BoundRaised() as event:
                told = f"calls of {event.model} hold {words.times(event.percent)} their bound"
                return [(f"{told} from now on", "doubt"), (f", as {event.run_id} found", "quiet")]
            case RateFrozen() as event:
                return _rate_frozen(event)
            case RateLimitsTold() as event:
                return _rate_limits(event)
            case BreakerChanged() as event:
                return _breaker_changed(event)
            case BoundExceeded() as event:
                return _bound_exceeded(event)
            case LoopDetected() as event:
                round_ = " → ".join(event.calls)
                told = "the run is stopped" if event.stops else "Claude is told"
                return [(f"{round_}, {event.times} times with nothing new; {told}", "doubt")]
            case AskFailed() as event:
                return [(f"{event.ask_id} has no answer: {words.line(event.why, 400)}", "bad")]
            case (
                AnswerProposed()
                | VerdictGiven()
                | AnswerRejected()
                | AskResampled()
                | AskRejected()
                | LabelGiven()
            ) as event:
                return verdicts.told(event)
            case CacheMissed() as event:
                return _cache_missed(event)
            case ToolCallStarted() as event:
                return self._tool_started(event)
            case ToolCallSucceeded() as event:
                return self._tool_succeeded(event)
            case ToolCallFailed() as event:
                return self._tool_failed(event)
            case ToolCallInDoubt() as event:
                return self._tool_in_doubt(event)
            case ReconcileStarted() as event:
                again = f" (attempt {event.attempt})" if event.attempt > 1 else ""
                told = f"a function looks what became of {self.tool(event.tool_use_id)}{again}"
                return [(told, "")]
            case ToolCallReconciled() as event:
                return self._tool_reconciled(event)
            case ToolCallGivenUp() as event:
                what = f"{self.tool(event.tool_use_id)} is given up"
                tries = f", after {words.count(event.attempts, 'attempt')}"
                return [(f"{what}{tries}; Claude is told", "bad")]
            case UndoStarted() as event:
                again = f" (attempt {event.attempt})" if event.attempt > 1 else ""
                return [(f"takes {words.line(event.call_id, 80)} back{again}", "")]
            case UndoFinished() as event:
                return _undo_finished(event)
            case FeedbackGiven() as event:
                told = words.line(words.spoken(event.content), 400)
                return [(f"Claude is told ({event.why}): ", "quiet"), (f"“{told}”", "")]
            case AskAnswered() as event:
                less = f"  degraded: {words.line(event.degraded, 200)}" if event.degraded else ""
                by = f"  decided by {words.line(event.by, 80)}" if event.by else ""
                said = f"“{words.opening(words.given(event.answer), 200)}”"
                return [(said, "good"), (less, "doubt"), (by, "quiet")]
            case NoteAdded() as event:
                by = f"  {words.line(event.by, 80)}" if event.by else ""
                return [(f"“{words.line(event.text, 400)}”", "strong"), (by, "quiet")]
            case ControlGiven() as event:
                by = f"  {words.line(event.by, 80)}" if event.by else ""
                why = f": {words.line(event.reason, 400)}" if event.reason else ""
                return [(f"told to {event.verb}{why}", "strong"), (by, "quiet")]
            case BudgetRefused() as event:
                needed = budget.amount(event.unit, event.needed)
                left = budget.amount(event.unit, event.left)
                need = f"{event.scope} needs {needed}, {left} left"
                return [(need, "doubt")]
            case RunFinished() as event:
                return self._finished(event)

    def _model_started(self, event: ModelCallStarted) -> list[Part]:
        again = f", attempt {event.attempt}" if event.attempt > 1 else ""
        # Asks of a flow go on side by side, so each counts its own turns.
        turn = self.asks.get(event.ask_id, 0) if self.is_flow else self.replies
        what = "judging" if event.ask_id in self.judges else f"turn {turn + 1}"
        return [
            (f"{what}{again}", ""),
            (f"  holds {words.money(event.hold_nano)}", "quiet"),
        ]

    def _tool_started(self, event: ToolCallStarted) -> list[Part]:
        again = f" (attempt {event.attempt})" if event.attempt > 1 else ""
        called = self.use(event.tool_use_id, event.arguments)
        instead = f"  asks {words.line(event.fallback, 80)} instead" if event.fallback else ""
        return [(called, ""), (instead, "doubt"), (f"  {event.effect}{again}", "quiet")]

    def _tool_succeeded(self, event: ToolCallSucceeded) -> list[Part]:
        whole = f", whole in blob {event.blob[:12]}" if event.blob else ""
        took = f"  {words.duration(event.latency_ms * 1_000_000)}{whole}"
        return [
            (f"{self.tool(event.tool_use_id)} → {words.result(event.content)}", ""),
            (_less(event.degraded), "doubt"),
            (took, "quiet"),
        ]

    def _tool_failed(self, event: ToolCallFailed) -> list[Part]:
        what = words.line(event.error or words.spoken(event.content), 200)
        name = self.tool(event.tool_use_id)
        if event.kind == "breaker":
            return [(f"{name} is not asked: {what}", "doubt")]
        kind = event.error_class or event.kind
        return [(f"{name} failed ({kind}): {what}", "bad")]

    def _tool_in_doubt(self, event: ToolCallInDoubt) -> list[Part]:
        told = "Claude is told that the outcome is unknown"
        then = "it is called again" if event.content == NULL else told
        then = "it is found out first whether it did" if event.open else then
        what = f" {self.tool(event.tool_use_id)} ({event.kind}): it may have happened; {then}"
        return [("IN DOUBT", "doubt"), (what, "")]

    def _tool_reconciled(self, event: ToolCallReconciled) -> list[Part]:
        said = _RECONCILED.get(event.outcome, ("cannot be told", "doubt"))
        note = f": {words.line(event.note, 200)}" if event.note else ""
        by = f"  {words.line(event.by, 80)}" if event.by else ""
        name = self.tool(event.tool_use_id)
        return [(f"{name} {said[0]}{note}", said[1]), (by, "quiet")]

    def _child_started(self, event: ChildStarted) -> list[Part]:
        what = f"for tool call {event.call_id}" if event.call_id else f"as {event.name}"
        return [
            (f"run {words.line(event.child, 200)}", ""),
            (f"  {words.line(what, 200)}", "quiet"),
        ]

    def _finished(self, event: RunFinished) -> list[Part]:
        spent = (
            f"  {words.money(self.spend.nano)}, {words.count(self.spend.turns, 'turn')}, "
            f"{words.count(self.spend.tokens, 'token')}"
        )
        told = words.line(event.why.removeprefix(f"{event.status}: "), 400)
        why = f": {told}" if told else ""
        return [(event.status, STATUS_TONES.get(event.status, "")), (why, ""), (spent, "quiet")]


_RECONCILED: Final = {"happened": ("happened", "good"), "did_not": ("did not happen", "doubt")}


def _less(degraded: Degradation | None) -> str:
    """Return in what an answer is less than what was asked for; empty where it is not."""
    if degraded is None:
        return ""
    as_of = f" as of {words.day(degraded.as_of)}" if degraded.as_of else ""
    dropped = f", without {', '.join(degraded.dropped)}" if degraded.dropped else ""
    return f"  degraded: {words.line(degraded.source, 80)}{as_of}{words.line(dropped, 200)}"


def _undo_finished(event: UndoFinished) -> list[Part]:
    called = words.line(event.call_id, 80)
    if event.status == "succeeded":
        return [(f"{called} is undone", "good")]
    then = "" if event.last else "; it is tried again"
    return [(f"{called} could not be undone: {words.line(event.error, 200)}{then}", "bad")]


def _budget_passed(event: BudgetPassed) -> list[Part]:
    spent, limit = (budget.amount(event.unit, n) for n in (event.spent, event.limit))
    told = f"{event.scope}: {event.percent} % are spent, {spent} of {limit}"
    return [(told, "doubt"), (f" ({event.window})", "quiet")]


def _approval(event: ApprovalRequested | ApprovalGiven) -> list[Part]:
    if isinstance(event, ApprovalRequested):
        what = event.context if event.name else event.arguments
        shown = "" if what == NULL else f"  {words.line(bytes(what).decode(), 200)}"
        until = f"  until {words.day(event.expires_at)}" if event.expires_at else ""
        asked = f"asks a person: {words.line(event.question, 400)}"
        return [(asked, "doubt"), (shown, ""), (until, "quiet")]
    verb, tone = ("approved", "good") if event.approved else ("denied", "bad")
    which = words.line(event.name or event.call_id, 80)
    edited = "" if event.arguments == NULL else f" with {words.given(event.arguments)}"
    edited += "" if event.answer == NULL else f", with “{words.given(event.answer)}” instead"
    edited = words.line(edited, 200)
    note = f": {words.line(event.note, 400)}" if event.note else ""
    by = f"  {words.line(event.by, 80)}" if event.by else ""
    return [(f"{verb} {which}{edited}{note}", tone), (by, "quiet")]


def said(event: ModelCallSucceeded) -> tuple[str, list[str]]:
    """Return what a reply says, and the names of the tools it asks for."""
    found = blocks(event.content)
    text = " ".join(block.text for block in found if block.type == "text")
    return text, [words.line(block.name, 80) for block in found if block.type == "tool_use"]


def _run_forked(event: RunForked) -> list[Part]:
    by = f"  {words.line(event.by, 80)}" if event.by else ""
    why = f": {words.line(event.reason, 400)}" if event.reason else ""
    return [(f"here the fork begins{why}", "strong"), (by, "quiet")]


def _run_started(event: RunStarted) -> list[Part]:
    limit = "" if event.turns is None else f", at most {words.count(event.turns, 'turn')}"
    who = f" for {words.line(event.tenant, 80)}" if event.tenant else ""
    child = f", child of run {words.line(event.parent, 200)}" if event.parent else ""
    if event.forked_at:
        child = f", run {words.line(event.forked_from, 200)} up to its event {event.forked_at}"
    if event.kind == "agent":
        return [(event.agent, "strong"), (f" on {event.spec.model}{who}{limit}{child}", "")]
    phases = f": {' → '.join(words.line(one, 40) for one in event.phases)}" if event.phases else ""
    given = "" if event.input == NULL else f"  “{words.line(words.given(event.input), 200)}”"
    return [
        ("flow ", ""),
        (event.agent, "strong"),
        (f"{phases}{who}{limit}{child}", ""),
        (given, "quiet"),
    ]


def _ask_started(event: AskStarted, declared: str) -> list[Part]:
    asked = words.line(event.ask_id, 80)
    if event.judges and event.spec is not None:
        return [
            (f"{words.line(event.check, 80)} judges", "strong"),
            (f", on {event.spec.model}", ""),
        ]
    if event.spec is not None:
        return [(asked, "strong"), (f" asks {event.spec.agent} on {event.spec.model}", "")]
    if event.continues:
        again = f", and asks {words.line(declared, 80)} again" if declared else ""
        return [(asked, "strong"), (f" goes on from {words.line(event.continues, 80)}{again}", "")]
    return [(f"a question is opened: {asked}", "")]


def _model_succeeded(event: ModelCallSucceeded) -> list[Part]:
    text, tools = said(event)
    parts: list[Part] = [(words.money(event.cost_nano), "money")]
    if text.strip():
        parts.append((f"  “{words.opening(text, 200)}”", ""))
    if tools:
        parts.append((f" → {', '.join(tools)}", ""))
    elif event.stop_reason != "end_turn":
        parts.append((f" ({event.stop_reason})", "doubt"))
    if left_out := _left_out(event.extra):
        parts.append((f"  {left_out}", "doubt"))
    took = words.duration(event.latency_ms * 1_000_000)
    return [*parts, (f"  {words.count(event.tokens, 'token')}, {took}", "quiet")]


class _Transformation(msgspec.Struct):
    type: str = ""
    reason: str = ""


class _Transformed(msgspec.Struct):
    input_transformations: list[_Transformation] | None = None


def _left_out(extra: Raw) -> str:
    """Return what the API left out of the prompt, such as another model's thinking."""
    if b'"input_transformations"' not in bytes(extra):
        return ""
    try:
        made = msgspec.json.decode(extra, type=_Transformed).input_transformations or []
    except msgspec.DecodeError:
        return ""
    dropped = [one.reason for one in made if one.type == "thinking_dropped"]
    if not dropped:
        return ""
    why = ", ".join(words.line(reason, 60) for reason in dict.fromkeys(dropped) if reason)
    what = words.count(len(dropped), "block")
    return f"without {what} of earlier thinking" + (f" ({why})" if why else "")


_SWITCHED = {
    "overloaded": "was overloaded",
    "refusal": "refused to answer",
    "breaker": "keeps failing",
}


def _model_switched(event: ModelSwitched) -> list[Part]:
    told = _SWITCHED.get(event.why, event.why)
    times = f" {words.count(event.times, 'time')}" if event.times else ""
    category = f" ({words.line(event.category, 40)})" if event.category else ""
    recommended = " and recommended it" if event.recommended else ""
    return [
        (f"asked {words.line(event.model, 80)}", "strong"),
        (f" instead of {words.line(event.before, 80)}, which {told}", "doubt"),
        (f"{times}{category}{recommended}", "doubt"),
    ]


def _model_failed(event: ModelCallFailed) -> list[Part]:
    return [("not billed", "quiet"), (f"  {trouble(event)}", "bad")]


def _model_in_doubt(event: ModelCallInDoubt) -> list[Part]:
    return [
        ("IN DOUBT", "doubt"),
        (", counted as ", ""),
        (words.money(event.cost_nano), "money"),
        (f": {trouble(event)}", ""),
    ]


def _model_reconciled(event: ModelCallReconciled) -> list[Part]:
    why = f"  {words.line(event.reason, 200)}" if event.reason else ""
    return [
        (f"{words.line(event.call_id, 80)} was in doubt, and cost ", ""),
        (words.money(event.cost_nano), "money"),
        (f" of {words.money(event.counted_nano)}", ""),
        (why, "quiet"),
    ]


def _rate_frozen(event: RateFrozen) -> list[Part]:
    told = f"nobody asks {event.group} until {moment(event.until)}"
    then = ", and then one call after the other" if event.ramp else ""
    return [(told + then, "doubt"), (f", as {event.run_id} was told", "quiet")]


def _breaker_changed(event: BreakerChanged) -> list[Part]:
    counted = f"{event.failures} of {words.count(event.calls, 'call')} failed"
    if event.slow:
        counted += f", {event.slow} were slow"
    told = [(event.status, "strong"), (f": {counted}", "quiet")]
    if event.status == "open":
        told[0] = (f"open until {moment(event.until)}", "doubt")
    elif event.status == "half_open":
        told = [(f"tried with {words.count(event.probes, 'call')}", "doubt")]
    return [(f"the breaker of {event.key} is ", ""), *told]


def _rate_limits(event: RateLimitsTold) -> list[Part]:
    amounts = [
        words.count(event.requests, "request") if event.requests else "",
        words.count(event.input_tokens, "token") + " of prompts" if event.input_tokens else "",
        words.count(event.output_tokens, "token") + " of replies" if event.output_tokens else "",
    ]
    told = ", ".join(filter(None, amounts)) or "no limit"
    return [(f"{event.group} takes {told} a minute", "strong")]


def _budget_set(event: BudgetSet) -> list[Part]:
    amounts = [
        words.money(event.nano) if event.nano is not None else "",
        words.count(event.tokens, "token") if event.tokens is not None else "",
        words.count(event.calls, "call") if event.calls is not None else "",
        words.count(event.turns, "turn") if event.turns is not None else "",
    ]
    told = " and ".join(filter(None, amounts)) or "no budget"
    why = f"  {words.line(event.reason, 200)}" if event.reason else ""
    return [(f"{event.scope}: {told}", "strong"), (f" ({event.window}){why}", "quiet")]


def _schedule_set(event: ScheduleSet) -> list[Part]:
    why = f"  {words.line(event.reason, 200)}" if event.reason else ""
    if not event.cron:
        return [(f"{event.name}: no schedule", "strong"), (why, "quiet")]
    told = f"{event.name}: {event.cron} runs {event.agent}"
    return [(words.line(told, 200), "strong"), (f" ({event.tz}){why}", "quiet")]


def _step_started(event: StepStarted) -> list[Part]:
    name = words.line(event.name, 80)
    if event.kind == "sleep":
        return [(name, ""), (f"  until {words.day(event.until)}", "quiet")]
    again = f" (attempt {event.attempt})" if event.attempt > 1 else ""
    return [(name, ""), (f"  {event.effect}{again}", "quiet")]


def _step_finished(event: StepFinished) -> list[Part]:
    name = words.line(event.name, 80)
    if event.status == "in_doubt":
        return [("IN DOUBT", "doubt"), (f" {name}: {words.line(event.error, 200)}", "")]
    if event.status == "failed":
        return [(f"{name} failed: {words.line(event.error, 200)}", "bad")]
    if event.kind == "sleep":
        return [(f"{name} is over", "")]
    blob = f"blob {event.blob[:12]}" if event.blob else words.returned(event.result)
    return [(f"{name} → {blob}", "")]


def _tokens_counted(event: TokensCounted) -> list[Part]:
    if not event.why:
        return [(words.count(event.tokens, "token"), ""), (" in the prompt", "quiet")]
    told = f"not counted, so {words.count(event.tokens, 'token')} are held: "
    return [(told, "doubt"), (words.line(event.why, 200), "")]


def _compaction_requested(event: CompactionRequested) -> list[Part]:
    why = "a reply ran into the end of the context window"
    if event.why == "near_limit":
        why = "the context window is nearly full"
    what = f": {event.tokens:,} of {event.window:,} tokens; what was said is to be condensed"
    return [(why, "doubt"), (what, "")]


_MISSED = {
    "expired": "the run was idle for longer than the prompt cache keeps it",
    "evicted": "the prompt cache no longer had it, though nothing was changed",
}


def _cache_missed(event: CacheMissed) -> list[Part]:
    lost = event.expected_tokens - event.read_tokens
    return [
        (f"{words.count(lost, 'token')} sent again in full", "doubt"),
        (f": {_MISSED.get(event.reason, event.reason)} (idle {words.duration(event.idle_ns)})", ""),
        (f"  {words.money(event.extra_nano)} more", "quiet"),
    ]


def _bound_exceeded(event: BoundExceeded) -> list[Part]:
    told = f"{event.actual_tokens:,} tokens of a prompt that {event.bound_tokens:,} were held for"
    over = [(f", {words.money(event.over_nano)} beyond what was held", "")]
    return [
        (told, "bad"),
        *(over if event.over_nano else []),
        (f"; later calls hold {words.times(event.percent)} their bound", ""),
    ]


def trouble(event: ModelCallFailed | ModelCallInDoubt) -> str:
    """Return why an attempt came to nothing: `rate_limited (429): too many requests`."""
    status = f" ({event.status})" if event.status else ""
    told = event.message.removeprefix(f"HTTP {event.status} {event.error_type}".rstrip())
    wait = f" Wait {event.retry_after_s:g} s." if event.retry_after_s else ""
    return f"{event.kind}{status}: {words.line(told.lstrip(': ') or event.message, 200)}{wait}"
