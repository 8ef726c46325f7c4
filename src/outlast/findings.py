"""What tools returned in a run, read from its records, and the answers that were given to it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, TypeAlias

import msgspec
from msgspec import Raw

from outlast.checks import Finding
from outlast.events import AnswerProposed, AnswerRejected, AskAnswered, VerdictGiven
from outlast.evidence import gathered
from outlast.journal import Record
from outlast.state import RunState, evolve

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


_BECAME: Final[dict[str, Became]] = {"escalate": "escalated", "degrade": "degraded"}


class Reading:
    """Reads the records of a run, in order, for the answers that it was given."""

    def __init__(self, run_id: str) -> None:
        self.past: list[Past] = []
        """Every answer so far."""
        self._run_id = run_id
        self._state = RunState()

    def take(self, record: Record) -> None:
        """Read one record."""
        self._state = evolve(self._state, record)
        match record.event:
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

    def _proposed(self, seq: int, event: AnswerProposed) -> None:
        if self._of(event.call_id) is None:  # it was not, before its checks were begun again
            self.past.append(
                self._past(event.ask_id, event.call_id, seq, event.answer, event.attempt)
            )

    def _answered(self, seq: int, event: AskAnswered) -> None:
        ask = self._state.asks[event.ask_id]
        if ask.judges:
            return
        call_id = ask.asked_by.call_id if ask.asked_by is not None else ""
        past = self._of(call_id)
        if past is None:
            self.past.append(self._past(event.ask_id, call_id, seq, event.answer))
            self.past[-1].became = "not checked"
        elif past.became in ("open", "escalated"):
            # A person may have made another answer of it, and said so.
            past.became = "degraded" if event.degraded else "accepted"

    def _past(self, ask_id: str, call_id: str, seq: int, answer: Raw, attempt: int = 1) -> Past:
        ask = self._state.asks[ask_id]
        evidence = gathered(self._state.asks, ask, attempt)
        return Past(
            run_id=self._run_id,
            agent=ask.spec.agent,
            ask_id=ask_id,
            call_id=call_id,
            seq=seq,
            answer=answer,
            attempt=attempt,
            task=evidence.task,
            findings=evidence.findings,
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
