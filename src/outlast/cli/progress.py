"""Shows a run while it is driven: a line per reply, tool call and wait, and what goes on now.

In a flow, phases, steps, sleeps and child runs have lines too.  While several asks are open at the
same time, each line says first of which ask it is.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from outlast.cli import words
from outlast.cli.screen import Screen, Showing
from outlast.cli.story import Reader, said, trouble
from outlast.cli.words import Part
from outlast.events import (
    NULL,
    AnswerRejected,
    ApprovalGiven,
    ApprovalRequested,
    AskAnswered,
    AskFailed,
    AskStarted,
    BoundExceeded,
    BudgetRefused,
    CacheMissed,
    ChildStarted,
    FeedbackGiven,
    ModelCallFailed,
    ModelCallInDoubt,
    ModelCallStarted,
    ModelCallSucceeded,
    ModelSwitched,
    NoteAdded,
    PhaseEntered,
    RunFinished,
    RunParked,
    StepFinished,
    StepStarted,
    ToolCallFailed,
    ToolCallInDoubt,
    ToolCallStarted,
    ToolCallSucceeded,
)
from outlast.journal import Record
from outlast.models import Part as ReplyPart

MOST = 3
"""How many things that go on at the same time the living line names."""


class Progress:
    """What a `Watch` is told, on a screen.

    Args:
        on: where to show it.
        before: the records of the run so far; they are read and not shown.

    """

    def __init__(self, on: Screen, before: Iterable[Record] = ()) -> None:
        self.reader = Reader()
        for record in before:
            self.reader.take(record)
        self._on = on
        self._doing: dict[str, str] = {}
        """What goes on: by the id of an ask, or by the name of a step."""
        self._heard: dict[str, str] = {}
        """What Claude has written so far, by the id of an ask."""
        self._since = time.monotonic_ns()

    def showing(self) -> Showing:
        """Return the context in which the living line is shown."""
        return Showing(self._on, self._now)

    # ── what the driver tells ───────────────────────────────────────────────────────────────────

    def on_record(self, record: Record) -> None:
        """Show a record that is durable now."""
        if record.seq <= self.reader.seq:
            return
        self._show(record)
        self.reader.take(record)
        self._turn_to(record)

    def on_part(self, part: ReplyPart) -> None:
        """Show a piece of a reply."""
        if part.kind == "discarded":
            self._heard.pop(part.ask_id, None)
        elif part.kind == "text":
            self._heard[part.ask_id] = self._heard.get(part.ask_id, "") + part.text
            self._doing[part.ask_id] = "Claude writes"
        elif part.kind == "tool_use":
            self._doing[part.ask_id] = f"Claude asks for {words.line(part.text, 60)}"
        else:
            self._doing[part.ask_id] = "Claude thinks"

    # ── lines that stay ─────────────────────────────────────────────────────────────────────────

    def _show(self, record: Record) -> None:
        match record.event:
            case (
                PhaseEntered()
                | AskStarted()
                | AskFailed()
                | StepStarted()
                | StepFinished()
                | ChildStarted()
                | RunParked()
                | ApprovalRequested()
                | ApprovalGiven()
                | AnswerRejected()
            ):
                self._show_flow(record)
            case NoteAdded() as event:
                self._mark("✎", "strong", f"{words.line(event.by or 'note', 60)}: {event.text}", [])
            case _:
                self._show_call(record)

    def _show_flow(self, record: Record) -> None:
        match record.event:
            case PhaseEntered() as event:
                self._on.line((f"── {words.line(event.phase, 80)} ", "strong"), ("──", "quiet"))
            case AskStarted() as event if self.reader.is_flow:
                self._mark("▸", "live", words.plain(self.reader.tell(record)), [])
            case AskFailed() as event:
                self._mark("✗", "bad", words.plain(self.reader.tell(record)), [])
            case StepStarted(kind="sleep") | RunParked():
                self._mark("◷", "live", words.plain(self.reader.tell(record)), [])
            case ApprovalRequested() | ApprovalGiven():
                self._mark("☞", "strong", words.plain(self.reader.tell(record)), [])
            case AnswerRejected(action="resample" | "degrade"):  # of others another line tells
                self._mark("→", "doubt", words.plain(self.reader.tell(record)), [])
            case ChildStarted():
                self._mark("⇢", "live", words.plain(self.reader.tell(record)), [])
            case StepFinished() as event if event.kind not in ("value", "approval"):
                mark, tone = _OUTCOMES[event.status]
                self._mark(mark, tone, words.plain(self.reader.tell(record)), [])

    def _show_call(self, record: Record) -> None:
        of = self._of(record)
        match record.event:
            case ModelCallSucceeded() as event:
                self._replied(event, of)
            case ModelCallFailed() as event:
                self._mark("↻", "doubt", of + trouble(event), [("not billed", "quiet")])
            case ModelCallInDoubt() as event:
                told = f"in doubt: the reply of turn {self.reader.replies + 1} was never written"
                if event.kind != "crash":
                    told = f"in doubt: {trouble(event)}"
                cost = [("counted ", "quiet"), (words.money(event.cost_nano), "money")]
                self._mark("?", "doubt", of + told, cost)
            case ModelSwitched():
                self._mark("⇄", "doubt", words.plain(self.reader.tell(record)), [])
            case CacheMissed():
                self._mark("○", "doubt", words.plain(self.reader.tell(record)), [])
            case BoundExceeded():
                self._mark("!", "bad", words.plain(self.reader.tell(record)), [])
            case ToolCallSucceeded() as event:
                took = words.duration(event.latency_ms * 1_000_000)
                right = [(f"{_size(event)}  ", ""), (f"{took:>6}", "quiet")]
                self._mark("✓", "good", of + self.reader.use(event.tool_use_id), right)
            case ToolCallFailed() as event:
                why = words.line(event.error or words.spoken(event.content), 200)
                use = of + self.reader.use(event.tool_use_id)
                self._mark("✗", "bad", use, [(event.kind, "bad")])
                self._on.line(("       ", ""), (why, "quiet"))
            case ToolCallInDoubt() as event:
                then = "called again" if event.content == NULL else "Claude is told so"
                told = f"in doubt: {self.reader.use(event.tool_use_id)}"
                self._mark("?", "doubt", of + told, [(then, "quiet")])
            case FeedbackGiven() as event:
                told = words.line(words.spoken(event.content), 160)
                self._mark("→", "doubt", f"{of}Claude is told: {told}", [(event.why, "quiet")])
            case BudgetRefused():
                self._mark("■", "doubt", words.plain(self.reader.tell(record)), [])

    def _of(self, record: Record) -> str:
        """Return of which ask a record is, where that cannot be told from the line before."""
        ask_id = getattr(record.event, "ask_id", "")
        return f"{words.line(ask_id, 80)}: " if ask_id and len(self.reader.asks) > 1 else ""

    def _replied(self, event: ModelCallSucceeded, of: str) -> None:
        text, tools = said(event)
        if event.ask_id in self.reader.judges:
            judge = words.line(self.reader.judges[event.ask_id], 80)
            told = f"{judge} judges: {words.opening(text, 160)}"
            self._mark("▸", "live", told, [(words.money(event.cost_nano), "money")])
            return
        if not tools and event.stop_reason == "end_turn":
            text = words.opening(text, 160) if self.reader.is_flow else "The answer."
        elif not text.strip():
            text = "→ " + ", ".join(tools) if tools else f"({event.stop_reason})"
        number = self.reader.replies + 1
        self._on.line(
            (f"{number:>3}  ", "strong"),
            (of, "quiet"),
            (words.line(text, 160), "strong"),
            right=[(words.money(event.cost_nano), "money")],
        )

    def _mark(self, mark: str, tone: str, text: str, right: list[Part]) -> None:
        self._on.line(("     ", ""), (f"{mark} ", tone), (words.line(text, 200), ""), right=right)

    # ── the line that lives ─────────────────────────────────────────────────────────────────────

    def _turn_to(self, record: Record) -> None:
        match record.event:
            case ModelCallStarted() as event:
                self._do(event.ask_id, "asking Claude")
            case ModelCallFailed() as event:
                self._do(event.ask_id, "waiting before the next attempt")
            case ToolCallStarted() as event:
                self._do(event.ask_id, "tools at work")
            case StepStarted() as event:
                what = f"until {words.clock(event.until)}" if event.kind == "sleep" else "at work"
                self._do(event.name, what)
            case ChildStarted() as event if not event.call_id:
                self._do(event.name, "a run of its own")
            case AskAnswered() | AskFailed() as event:
                self._doing.pop(event.ask_id, None)
            case StepFinished() as event:
                self._doing.pop(event.name, None)
            case RunParked() | RunFinished():
                self._doing.clear()

    def _do(self, key: str, what: str) -> None:
        self._doing[key] = what
        self._heard.pop(key, None)
        self._since = time.monotonic_ns()

    def _now(self) -> list[Part]:
        for_s = words.duration(time.monotonic_ns() - self._since)
        phase = f" · {words.line(self.reader.phase, 40)}" if self.reader.phase else ""
        parts: list[Part] = [
            (words.money(self.reader.spend.nano), "money"),
            (f"{phase} · turn {self.reader.replies + 1} · {self._what()} ", ""),
            (f"{for_s}", "quiet"),
        ]
        doing = list(self._doing)
        heard = self._heard.get(doing[0], "") if len(doing) == 1 else ""
        if heard.strip():
            parts.append((f"  …{words.line(heard[-48:])}", "quiet"))
        return parts

    def _what(self) -> str:
        # The driver adds to it in its own thread while the screen asks.
        doing = list(self._doing.items())
        if len(doing) <= 1 and not self.reader.steps:
            return doing[0][1] if doing else "starting"
        told = [f"{words.line(name, 40)}: {what}" for name, what in doing[:MOST]]
        more = f" and {len(doing) - MOST} more" if len(doing) > MOST else ""
        return ", ".join(told) + more


_OUTCOMES = {"succeeded": ("✓", "good"), "failed": ("✗", "bad"), "in_doubt": ("?", "doubt")}
"""How the outcome of a step is marked."""


def _size(event: ToolCallSucceeded) -> str:
    return words.line(words.result(event.content), 40)
