"""Shows a run while it is driven: a line per reply, tool call and wait, and what goes on now."""

from __future__ import annotations

import time
from collections.abc import Iterable

from outlast.cli import words
from outlast.cli.screen import Screen, Showing
from outlast.cli.story import Reader, said, trouble
from outlast.cli.words import Part
from outlast.events import (
    NULL,
    BudgetRefused,
    CacheMissed,
    FeedbackGiven,
    ModelCallFailed,
    ModelCallInDoubt,
    ModelCallStarted,
    ModelCallSucceeded,
    NoteAdded,
    ToolCallFailed,
    ToolCallInDoubt,
    ToolCallStarted,
    ToolCallSucceeded,
)
from outlast.journal import Record
from outlast.models import Part as ReplyPart


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
        self._doing = "starting"
        self._heard = ""
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
            self._heard = ""
        elif part.kind == "text":
            self._heard += part.text
            self._doing = "Claude writes"
        elif part.kind == "tool_use":
            self._doing = f"Claude asks for {words.line(part.text, 60)}"
        else:
            self._doing = "Claude thinks"

    # ── lines that stay ─────────────────────────────────────────────────────────────────────────

    def _show(self, record: Record) -> None:
        match record.event:
            case ModelCallSucceeded() as event:
                self._replied(event)
            case ModelCallFailed() as event:
                self._mark("↻", "doubt", trouble(event), [("not billed", "quiet")])
            case ModelCallInDoubt() as event:
                told = f"in doubt: the reply of turn {self.reader.replies + 1} was never written"
                if event.kind != "crash":
                    told = f"in doubt: {trouble(event)}"
                cost = [("counted ", "quiet"), (words.money(event.cost_nano), "money")]
                self._mark("?", "doubt", told, cost)
            case CacheMissed():
                self._mark("○", "doubt", words.plain(self.reader.tell(record)), [])
            case ToolCallSucceeded() as event:
                took = words.duration(event.latency_ms * 1_000_000)
                right = [(f"{_size(event)}  ", ""), (f"{took:>6}", "quiet")]
                self._mark("✓", "good", self.reader.use(event.tool_use_id), right)
            case ToolCallFailed() as event:
                why = words.line(event.error or words.spoken(event.content), 200)
                self._mark("✗", "bad", self.reader.use(event.tool_use_id), [(event.kind, "bad")])
                self._on.line(("       ", ""), (why, "quiet"))
            case ToolCallInDoubt() as event:
                then = "called again" if event.content == NULL else "Claude is told so"
                told = f"in doubt: {self.reader.use(event.tool_use_id)}"
                self._mark("?", "doubt", told, [(then, "quiet")])
            case FeedbackGiven() as event:
                told = words.line(words.spoken(event.content), 160)
                self._mark("→", "doubt", f"Claude is told: {told}", [(event.why, "quiet")])
            case NoteAdded() as event:
                self._mark("✎", "strong", f"{words.line(event.by or 'note', 60)}: {event.text}", [])
            case BudgetRefused():
                self._mark("■", "doubt", words.plain(self.reader.tell(record)), [])

    def _replied(self, event: ModelCallSucceeded) -> None:
        text, tools = said(event)
        if not tools and event.stop_reason == "end_turn":
            text = "The answer."
        elif not text.strip():
            text = "→ " + ", ".join(tools) if tools else f"({event.stop_reason})"
        number = self.reader.replies + 1
        self._on.line(
            (f"{number:>3}  ", "strong"),
            (words.line(text, 160), "strong"),
            right=[(words.money(event.cost_nano), "money")],
        )

    def _mark(self, mark: str, tone: str, text: str, right: list[Part]) -> None:
        self._on.line(("     ", ""), (f"{mark} ", tone), (words.line(text, 200), ""), right=right)

    # ── the line that lives ─────────────────────────────────────────────────────────────────────

    def _turn_to(self, record: Record) -> None:
        match record.event:
            case ModelCallStarted():
                self._doing, self._heard = "asking Claude", ""
            case ModelCallFailed():
                self._doing, self._heard = "waiting before the next attempt", ""
            case ToolCallStarted():
                self._doing, self._heard = "tools at work", ""
            case _:
                return
        self._since = time.monotonic_ns()

    def _now(self) -> list[Part]:
        spend = self.reader.spend
        for_s = words.duration(time.monotonic_ns() - self._since)
        parts: list[Part] = [
            (words.money(spend.nano), "money"),
            (f" · turn {self.reader.replies + 1} · {self._doing} ", ""),
            (f"{for_s}", "quiet"),
        ]
        if self._heard.strip():
            parts.append((f"  …{words.line(self._heard[-48:])}", "quiet"))
        return parts


def _size(event: ToolCallSucceeded) -> str:
    return words.line(words.result(event.content), 40)
