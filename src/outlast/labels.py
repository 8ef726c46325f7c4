"""Which answer a person labels, and what is written of it.

| the answer | the label |
|---|---|
| has none of this person | counts |
| was called the same by this person, and that is the last word | changes nothing |
| was called otherwise | counts: it is the last word now |

Labels are about what Claude gave, by the call whose reply it is; whatever became of it since.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from msgspec import Raw

from outlast.errors import UsageError
from outlast.events import (
    NULL,
    AnswerProposed,
    ApprovalGiven,
    ApprovalRequested,
    AskAnswered,
    AskStarted,
    LabelGiven,
    ModelCallSucceeded,
)
from outlast.journal import Record


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """What a person says, and of which answer."""

    good: bool
    attempt: int | None = None
    """The number of the answer among those to its question; `None` is the accepted one."""
    ask: str | None = None
    """The question; `None` is the last one."""
    call_id: str = ""
    """The call whose reply the answer is, where that is known; empty goes by `attempt`."""
    why: str = ""
    by: str = ""


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that Claude gave in a run."""

    ask_id: str
    call_id: str
    """The call whose reply it is."""
    answer: Raw
    attempt: int = 1
    accepted: bool = False


class Answers:
    """The answers of a run and what people say of them, read from its records one by one.

    Attributes:
        given: the answers by call, the first one first; what judges say of them is none.
        labels: the last word on each, by call.
        labelled_at: when that was said, in nanoseconds since the epoch.
        asked_last: the question that an answer came to last; empty where there is none.

    """

    def __init__(self) -> None:
        self.given: dict[str, Given] = {}
        self.labels: dict[str, LabelGiven] = {}
        self.labelled_at: dict[str, int] = {}
        self.asked_last = ""
        self._own: dict[tuple[str, str], LabelGiven] = {}
        self._judging: set[str] = set()
        self._replies: dict[str, str] = {}
        self._escalated: dict[tuple[str, str], str] = {}

    def take(self, record: Record) -> None:
        """Read a record."""
        match record.event:
            case AskStarted(ask_id=ask_id, judges=judges) if judges:
                self._judging.add(ask_id)
            case ModelCallSucceeded(ask_id=ask_id, call_id=call_id):
                self._replies[ask_id] = call_id
            case AnswerProposed() as proposed:
                self._proposed(proposed)
            case AskAnswered() as answered if answered.ask_id not in self._judging:
                self._answered(answered)
            case ApprovalRequested() as asked if asked.ask_id and not asked.tool:
                self._escalated[asked.name, asked.call_id] = self._last_of(asked.ask_id)
            case ApprovalGiven() as said if said.approved and said.answer != NULL:
                self._edited(said, record.at)
            case LabelGiven() as label:
                self._labelled(label, record.at)
            case _:
                pass

    def last_by(self, call_id: str, by: str) -> LabelGiven | None:
        """Return what somebody said of an answer last."""
        return self._own.get((call_id, by))

    def to(self, ask_id: str | None = None) -> list[Given]:
        """Return the answers to a question; by default to the one that an answer came to last."""
        asked = self.asked_last if ask_id is None else ask_id
        return [one for one in self.given.values() if one.ask_id == asked]

    def _proposed(self, event: AnswerProposed) -> None:
        self.given[event.call_id] = Given(
            ask_id=event.ask_id, call_id=event.call_id, answer=event.answer, attempt=event.attempt
        )
        self.asked_last = event.ask_id

    def _answered(self, event: AskAnswered) -> None:
        self.asked_last = event.ask_id
        proposed = [one for one in self.given.values() if one.ask_id == event.ask_id]
        if proposed:
            # Where a person made another one of it, none that Claude gave was accepted.
            same = [one for one in proposed if one.answer == event.answer]
            if not same:
                return
            one = msgspec.structs.replace(same[-1], accepted=True)
        elif event.ask_id in self._replies:
            call_id = self._replies[event.ask_id]
            one = Given(ask_id=event.ask_id, call_id=call_id, answer=event.answer, accepted=True)
        else:
            return
        self.given[one.call_id] = one

    def _edited(self, said: ApprovalGiven, at: int) -> None:
        """A person who makes another answer of one says that it was not good."""
        call_id = self._escalated.pop((said.name, said.call_id), "")
        if call_id in self.given:
            told = {"why": said.note, "by": said.by}
            ask_id = self.given[call_id].ask_id
            self._labelled(LabelGiven(ask_id=ask_id, call_id=call_id, good=False, **told), at)

    def _labelled(self, label: LabelGiven, at: int) -> None:
        self.labelled_at[label.call_id] = at
        self.labels[label.call_id] = label
        self._own[label.call_id, label.by] = label

    def _last_of(self, ask_id: str) -> str:
        found = [one.call_id for one in self.given.values() if one.ask_id == ask_id]
        return found[-1] if found else ""


def read(records: Iterable[Record]) -> Answers:
    """Return the answers of a run."""
    answers = Answers()
    for record in records:
        answers.take(record)
    return answers


def meant(
    answers: Answers,
    run_id: str,
    attempt: int | None,
    below: Sequence[str] = (),
    *,
    ask: str | None = None,
) -> Given:
    """Return the answer that a label is about: by default the accepted one, else the last.

    Args:
        answers: those of the run.
        run_id: its name.
        attempt: the number of the answer among those to its question.
        ask: the question; by default the one that an answer came to last.
        below: the runs below it that have answers, for whoever meant one of those.

    Raises:
        UsageError: there is none, or none of this number.

    """
    found = answers.to(ask)
    if not found and ask is not None and answers.given:
        there = ", ".join(dict.fromkeys(one.ask_id for one in answers.given.values()))
        raise UsageError(
            f"run {run_id!r} has no answer to a question {ask!r}; there are answers to {there}"
        )
    if not found and below:
        raise UsageError(
            f"run {run_id!r} has no answer of Claude's itself, but below it there are, in "
            f"{', '.join(below)}; `outlast label {below[0]}` labels it"
        )
    if not found:
        raise UsageError(
            f"run {run_id!r} has no answer yet, so there is nothing to label; "
            f"`outlast show {run_id}` says how far it is"
        )
    if attempt is None:
        return next((one for one in reversed(found) if one.accepted), found[-1])
    if (one := next((one for one in found if one.attempt == attempt), None)) is None:
        there = ", ".join(str(number) for number in sorted({one.attempt for one in found}))
        raise UsageError(
            f"run {run_id!r} has no attempt {attempt} at question {found[0].ask_id!r}; there is "
            f"{there}"
        )
    return one


def written(
    answers: Answers, run_id: str, said: Word, below: Sequence[str] = ()
) -> LabelGiven | None:
    """Return what is written of what a person says; `None` where it was said before.

    Raises:
        UsageError: there is no such answer.

    """
    known = answers.given.get(said.call_id)
    one = known or meant(answers, run_id, said.attempt, below, ask=said.ask)
    label = LabelGiven(
        ask_id=one.ask_id, call_id=one.call_id, good=said.good, why=said.why, by=said.by
    )
    last, own = answers.labels.get(one.call_id), answers.last_by(one.call_id, said.by)
    is_told = last is not None and last.good == said.good
    return None if is_told and own is not None and _adds_nothing(label, own) else label


def _adds_nothing(label: LabelGiven, own: LabelGiven) -> bool:
    return label.good == own.good and label.why in ("", own.why)
