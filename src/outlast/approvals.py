"""What people are asked to allow, and what they said.

    asked ──▶ approved, perhaps with other arguments
      │  └──▶ denied
      └─ its time is over ──▶ denied: whoever comes later is late

The first answer that comes in time counts, and none after it changes anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from outlast.events import NULL, ApprovalGiven, ApprovalRequested, Event
from outlast.journal import Record


class Given(msgspec.Struct, frozen=True, gc=False):
    """What a person said."""

    approved: bool
    by: str = ""
    note: str = ""
    arguments: Raw = NULL
    """What a tool is to be called with instead; null where nothing was changed."""
    answer: Raw = NULL
    """What is to be the answer instead; null where nothing was changed."""
    at: int = 0
    """When, in nanoseconds since the epoch."""


class Request(msgspec.Struct, frozen=True, gc=False):
    """What a person is asked."""

    question: str
    asked_at: int
    expires_at: int = 0
    """From when on it counts as denied; 0 is never."""
    name: str = ""
    call_id: str = ""
    ask_id: str = ""
    tool: str = ""
    arguments: Raw = NULL
    context: Raw = NULL
    answer: Raw = NULL
    """The answer that is asked about; also null where it is something else: see `of_answer`."""
    given: Given | None = None

    @property
    def of_answer(self) -> bool:
        """Whether it asks if an answer is one, which may be null itself."""
        return bool(self.ask_id) and not self.tool

    def late(self, now: int) -> bool:
        """Return whether nobody can answer it any more."""
        return 0 < self.expires_at <= now

    def open(self, now: int) -> bool:
        """Return whether somebody is to answer it."""
        return self.given is None and not self.late(now)


class Approvals(msgspec.Struct, frozen=True):
    """Everything that people were asked."""

    requests: dict[tuple[str, str], Request] = {}
    """By the name that a flow gave it, or by the call of a tool; the other one is empty."""

    def of_call(self, call_id: str) -> Request | None:
        """Return what was asked about a call of a tool."""
        return self.requests.get(("", call_id))

    def of_name(self, name: str) -> Request | None:
        """Return what a flow asked by a name."""
        return self.requests.get((name, ""))

    def open(self, now: int) -> tuple[Request, ...]:
        """Return what somebody is to answer, the first asked first."""
        return tuple(one for one in self.requests.values() if one.open(now))


def evolve(approvals: Approvals, record: Record) -> Approvals:
    """Return what `record` makes of them."""
    rule = _RULES.get(type(record.event))
    return approvals if rule is None else rule(approvals, record.event, record)


def _requested(approvals: Approvals, event: ApprovalRequested, record: Record) -> Approvals:
    key = (event.name, event.call_id)
    if key in approvals.requests:
        return approvals
    asked = Request(
        question=event.question,
        asked_at=record.at,
        expires_at=event.expires_at,
        name=event.name,
        call_id=event.call_id,
        ask_id=event.ask_id,
        tool=event.tool,
        arguments=event.arguments,
        context=event.context,
        answer=event.answer,
    )
    return Approvals({**approvals.requests, key: asked})


def _given(approvals: Approvals, event: ApprovalGiven, record: Record) -> Approvals:
    key = (event.name, event.call_id)
    asked = approvals.requests.get(key)
    if asked is None or not asked.open(record.at):
        return approvals
    given = Given(event.approved, event.by, event.note, event.arguments, event.answer, record.at)
    return Approvals({**approvals.requests, key: replace(asked, given=given)})


def asked_again(approvals: Approvals, now: int) -> Approvals:
    """Return what a fork still asks: whether an answer is one, whatever was said to it.

    Its time counts from the fork on.
    """
    kept = {key: one for key, one in approvals.requests.items() if one.of_answer}
    return Approvals({key: _from(one, now) for key, one in kept.items()})


def _from(asked: Request, now: int) -> Request:
    until = now + asked.expires_at - asked.asked_at if asked.expires_at else 0
    return replace(asked, given=None, asked_at=now, expires_at=until)


_RULES: Final[dict[type[Event], Callable[[Approvals, Any, Record], Approvals]]] = {
    ApprovalRequested: _requested,
    ApprovalGiven: _given,
}
"""What each event makes of them; every other one leaves them as they are."""
