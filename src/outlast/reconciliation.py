"""Calls in doubt, corrected by Anthropic's bill.

What was billed for a model on a day beyond what is settled is what the calls in doubt of that day
cost, all together; which of them it was, nobody can say.  So it is shared out over them in
proportion to what they were counted at, to the last nano-dollar.

Each call is corrected in a commit of its own: an outside event in its run's stream, the run's row,
the roll-up's line of the hour in which it was made, and every account that held it.  A correction
that was interrupted is finished by the next one, which shares out the rest over those that are left
and comes to the same amounts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, Final

import msgspec

from outlast.budget import line
from outlast.doubts import Doubt, doubts, of_run
from outlast.errors import Conflict
from outlast.events import ModelCallReconciled, NoteAdded
from outlast.journal import Commit, Journal, Posting, Record, Settlement, run_stream
from outlast.state import RunState, fold, row
from outlast.views.bill import Line, Report, canonical, compared, day_of, unfinished

STREAM: Final = "~costs"
"""Where it is written down that corrections were made; who holds it makes them."""


class Corrected(msgspec.Struct, frozen=True, kw_only=True):
    """What was corrected, all calls together."""

    calls: int = 0
    counted_nano: int = 0
    """What they had been counted at."""
    cost_nano: int = 0
    """What they are counted at now."""


def shares(amount: int, counted: Sequence[int]) -> list[int]:
    """Share out an amount in proportion to what is counted, which it must not exceed.

    The shares are whole, make up the amount, and none is above what is counted.  Without the first
    of both, the others are the same.
    """
    rest, whole = amount, sum(counted)
    found: list[int] = []
    for one in counted:
        share = (2 * rest * one + whole) // (2 * whole) if whole else 0  # to the nearest
        found.append(share)
        rest, whole = rest - share, whole - one
    return found


def apply(  # noqa: PLR0913  (all but two are keywords)
    journal: Journal, report: Report, *, exported_at: int, now: int, by: str, reason: str
) -> Corrected:
    """Correct the calls in doubt of the days that a report covers, and return what that changed.

    Args:
        journal: where they are.
        report: what Anthropic billed.
        exported_at: when, in nanoseconds since the epoch; days that were not over then are left.
        now: nanoseconds since the epoch.
        by: who says so, for the journal.
        reason: why, for the journal.

    Raises:
        Busy: another process is at it.

    """
    closed = sorted(set(report.days).difference(unfinished(report, exported_at)))
    count = sum(_line(doubt)[0] in closed for doubt in doubts(journal))
    if not count:
        return Corrected()
    told = f"{count} calls in doubt are corrected by the bill of {closed[0]} to {closed[-1]}"
    note = NoteAdded(text=f"{told}: {reason}" if reason else told, by=by)
    journal.append(Commit(stream=STREAM, events=(note,), at=now))
    journal.claim(STREAM)
    try:
        bill = compared(Report({day: report.days[day] for day in closed}), journal.rollup())
        return _apply(journal, bill, now=now, by=by, reason=reason)
    finally:
        journal.release(STREAM)


def _apply(journal: Journal, bill: Iterable[Line], **said: Any) -> Corrected:
    # A bill of less than is settled is not the whole of it, so it says nothing of what is in doubt.
    whole = [one for one in bill if not one.partial]
    beyond = {(one.day, one.model): one.beyond_nano for one in whole}
    plan = _planned([doubt for doubt in doubts(journal) if _line(doubt) in beyond], beyond)
    calls = counted = cost = 0
    for run_id, of_one in groupby(plan, key=lambda planned: planned[0].run_id):
        books = _Books(journal, run_id)
        for doubt, nano in of_one:
            if books.correct(doubt, nano, **said):
                calls, counted, cost = calls + 1, counted + doubt.nano, cost + nano
    return Corrected(calls=calls, counted_nano=counted, cost_nano=cost)


def _planned(
    found: Iterable[Doubt], beyond: Mapping[tuple[str, str], int]
) -> list[tuple[Doubt, int]]:
    """Return what each call cost, always in the same order."""
    lines: dict[tuple[str, str], list[Doubt]] = {}
    for doubt in sorted(found, key=_place):
        lines.setdefault(_line(doubt), []).append(doubt)
    plan: list[tuple[Doubt, int]] = []
    for of, listed in lines.items():
        counted = [doubt.nano for doubt in listed]
        amount = min(beyond[of], sum(counted))
        plan += zip(listed, shares(amount, counted), strict=True)
    return sorted(plan, key=lambda planned: _place(planned[0]))


def _place(doubt: Doubt) -> tuple[str, int]:
    return doubt.run_id, doubt.seq


def _line(doubt: Doubt) -> tuple[str, str]:
    """Return the day and the model that a call is billed under."""
    return day_of(doubt.where[0]), canonical(doubt.payer.model)


class _Books:
    """A run that is corrected."""

    def __init__(self, journal: Journal, run_id: str) -> None:
        self._journal = journal
        self._run_id = run_id
        self._read()

    def _read(self) -> None:
        records = self._journal.read(run_stream(self._run_id))
        self._state = fold(records)
        self._open = {doubt.call_id for doubt in of_run(self._run_id, records)}

    def correct(self, doubt: Doubt, nano: int, *, now: int, by: str, reason: str) -> bool:
        """Write down what a call cost, and return whether it was in doubt until then."""
        # Nobody knows how many tokens it had: as many in proportion, rounded against us.
        tokens = -(-doubt.tokens * nano // doubt.nano) if doubt.nano else 0
        event = ModelCallReconciled(
            ask_id=doubt.ask_id,
            call_id=doubt.call_id,
            cost_nano=nano,
            tokens=tokens,
            counted_nano=doubt.nano,
            counted_tokens=doubt.tokens,
            by=by,
            reason=reason,
        )
        while doubt.call_id in self._open:
            try:
                records = self._journal.append(_commit(self._state, doubt, event, now))
            except Conflict:
                self._read()  # its driver was faster, so the row has to be computed anew
            else:
                self._state = fold(records, self._state)
                self._open.remove(doubt.call_id)
                return True
        return False


def _commit(state: RunState, doubt: Doubt, event: ModelCallReconciled, now: int) -> Commit:
    stream = run_stream(doubt.run_id)
    record = Record(stream, state.next_seq, 0, now, 0, event)
    billed = int(event.cost_nano > 0)
    amounts = {"nano": event.cost_nano, "tokens": event.tokens, "calls": 1, "turns": billed}
    return Commit(
        stream=stream,
        events=(event,),
        at=now,
        expected_seq=state.next_seq,
        row=row(fold((record,), state), doubt.run_id),
        settlements=[
            Settlement(call_id=doubt.holder, unit=unit, amount=amount)
            for unit, amount in amounts.items()
        ],
        postings=(_posting(doubt, event),),
    )


def _posting(doubt: Doubt, event: ModelCallReconciled) -> Posting:
    billed = event.cost_nano > 0
    return line(
        doubt.payer,
        doubt.where,
        calls=int(billed),
        calls_failed=int(not billed),
        calls_in_doubt=-1,
        in_doubt_nano=-doubt.nano,
        settled_nano=event.cost_nano,
        lost_nano=event.cost_nano,
    )
