"""What tools returned in a run, read from its records, and the answers that were given to it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Raw

from outlast.checks import Finding
from outlast.conversation import blocks
from outlast.events import (
    NULL,
    AnswerProposed,
    AnswerRejected,
    AskAnswered,
    AskStarted,
    MessageReceived,
    ModelCallSucceeded,
    RunStarted,
    ToolCallReconciled,
    ToolCallStarted,
    ToolCallSucceeded,
    VerdictGiven,
)
from outlast.journal import Record

Became: TypeAlias = Literal["accepted", "rejected", "escalated", "degraded", "not checked", "open"]
"""What a run made of an answer; `open` where it came no further."""


class Past(msgspec.Struct, kw_only=True):
    """An answer that a run was given, and what there was to check it against then."""

    run_id: str
    agent: str = ""
    """Whose answer it is."""
    ask_id: str
    call_id: str
    """The call whose reply it is."""
    seq: int
    """Where it stands in the journal."""
    answer: Raw
    """As Claude gave it: JSON, a string where it is text."""
    attempt: int = 1
    became: Became = "open"
    task: str = ""
    findings: tuple[Finding, ...] = ()
    verdicts: tuple[VerdictGiven, ...] = ()
    """What was said of it then."""


class _Use(msgspec.Struct):
    """A tool use of a reply."""

    name: str
    arguments: Raw


_BECAME: Final[dict[str, Became]] = {"escalate": "escalated", "degrade": "degraded"}


class Reading:
    """Reads the records of a run, in order, for what its tools returned and what it answered."""

    def __init__(self, run_id: str) -> None:
        self.past: list[Past] = []
        """Every answer so far."""
        self.findings: list[Finding] = []
        """What tools returned so far; failures are none."""
        self._run_id = run_id
        self._uses: dict[tuple[str, str], _Use] = {}
        self._tasks: dict[str, str] = {}
        self._agents: dict[str, str] = {}
        """Whom each ask is asked of; under no name, the run."""
        self._judges: set[str] = set()
        """The asks that are of judges."""
        self._calls: dict[str, str] = {}
        """The last call of each ask that was answered."""

    def take(self, record: Record) -> None:  # noqa: PLR0912  (a row per kind of event)
        """Read one record."""
        match record.event:
            case RunStarted() as event:
                self._agents[""] = event.agent
            case AskStarted() as event:
                named = self._agents.get(event.continues, self._agents[""])
                self._agents[event.ask_id] = named if event.spec is None else event.spec.agent
                if event.judges:
                    self._judges.add(event.ask_id)
            case MessageReceived() as event:
                self._tasks.setdefault(event.ask_id, text_of(event.content))
            case ModelCallSucceeded() as event:
                self._calls[event.ask_id] = event.call_id
                for block in blocks(event.content):
                    if block.type == "tool_use":
                        self._uses[event.ask_id, block.id] = _Use(block.name, block.input)
            case ToolCallStarted() as event:
                use = self._uses.get((event.ask_id, event.tool_use_id))
                if use is not None and event.arguments != NULL:
                    use.arguments = event.arguments  # a person changed them
            case ToolCallSucceeded() as event:
                self._found(record.seq, event, degraded=event.degraded is not None)
            case ToolCallReconciled() as event:
                if event.outcome == "happened" and event.content != NULL:
                    self._found(record.seq, event, degraded=False)
            case AnswerProposed() as event:
                self._proposed(record.seq, event)
            case VerdictGiven() as event:
                if (past := self._of(event.call_id)) is not None:
                    past.verdicts = (*past.verdicts, event)
            case AnswerRejected() as event:
                if (past := self._of(event.call_id)) is not None:
                    past.became = _BECAME.get(event.action, "rejected")
            case AskAnswered() as event:
                self._answered(record.seq, event)

    def _found(
        self, seq: int, event: ToolCallSucceeded | ToolCallReconciled, *, degraded: bool
    ) -> None:
        use = self._uses.get((event.ask_id, event.tool_use_id))
        if use is not None:
            self.findings.append(
                finding(use.name, use.arguments, event.content, seq=seq, degraded=degraded)
            )

    def _proposed(self, seq: int, event: AnswerProposed) -> None:
        if self._of(event.call_id) is None:  # it was not, before its checks were begun again
            self.past.append(self._past(event.ask_id, event.call_id, seq, event.answer))
            self.past[-1].attempt = event.attempt

    def _answered(self, seq: int, event: AskAnswered) -> None:
        if event.ask_id in self._judges:
            return
        call_id = self._calls.get(event.ask_id, "")
        past = self._of(call_id)
        if past is None:
            self.past.append(self._past(event.ask_id, call_id, seq, event.answer))
            self.past[-1].became = "not checked"
        elif past.became in ("open", "escalated"):
            # A person may have made another answer of it, and said so.
            past.became = "degraded" if event.degraded else "accepted"

    def _past(self, ask_id: str, call_id: str, seq: int, answer: Raw) -> Past:
        return Past(
            run_id=self._run_id,
            agent=self._agents[ask_id],
            ask_id=ask_id,
            call_id=call_id,
            seq=seq,
            answer=answer,
            task=self._tasks.get(ask_id, ""),
            findings=tuple(self.findings),
        )

    def _of(self, call_id: str) -> Past | None:
        return next((one for one in self.past if one.call_id == call_id), None)


def answers(run_id: str, records: Iterable[Record], *, shared: int = 0) -> list[Past]:
    """Return the answers of a run, the first one first.

    Args:
        run_id: the run.
        records: its whole journal.
        shared: up to where another run has answered, of which it is a fork.

    """
    reading = Reading(run_id)
    for record in records:
        reading.take(record)
    return [one for one in reading.past if one.seq > shared]


def finding(
    tool: str, arguments: Raw, content: Raw, *, seq: int, degraded: bool = False
) -> Finding:
    """Return what a tool returned, with its text as data where it is JSON."""
    text = text_of(content)
    return Finding(
        tool=tool,
        arguments=_members(arguments),
        text=text,
        value=_value(text),
        seq=seq,
        degraded=degraded,
    )


def text_of(content: Raw) -> str:
    """Return the text of a message or a result; images and documents are left out."""
    if bytes(content).startswith(b'"'):
        return str(msgspec.json.decode(content))
    return "\n".join(block.text for block in blocks(content) if block.type == "text")


def _members(arguments: Raw) -> dict[str, Any]:
    given = msgspec.json.decode(arguments)
    return given if isinstance(given, dict) else {}


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text
