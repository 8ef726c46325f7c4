"""Calls in doubt: what they are counted at, and under what they are added up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
from msgspec.structs import replace

from outlast.budget import Payer, place
from outlast.conversation import Conversation, declared_spec
from outlast.errors import JournalDamaged, JournalTooNew
from outlast.events import (
    ModelCallInDoubt,
    ModelCallReconciled,
    ModelCallStarted,
    ModelSwitched,
    RunStarted,
)
from outlast.journal import Journal, Record, run_stream
from outlast.state import fold


class Doubt(msgspec.Struct, frozen=True, kw_only=True):
    """A call in doubt."""

    run_id: str
    ask_id: str
    call_id: str
    seq: int
    nano: int
    tokens: int
    payer: Payer
    where: tuple[int, str]
    """See `budget.place`."""

    @property
    def holder(self) -> str:
        """What the call is named in the ledger."""
        return f"{self.run_id}/{self.call_id}"


def doubts(journal: Journal, *, readable: bool = False) -> Iterator[Doubt]:
    """Yield every call in doubt of a store, or those of runs that are `readable`.

    Raises:
        JournalDamaged, JournalTooNew: a run is not.

    """
    for run in journal.runs():
        if run.in_doubt_nano:
            try:
                found = of_run(run.id, journal.read(run_stream(run.id)))
            except (JournalDamaged, JournalTooNew):
                if not readable:
                    raise
                continue
            yield from found


def of_run(run_id: str, records: Sequence[Record]) -> list[Doubt]:
    """Return the calls of a run that are in doubt, by its journal.

    Those that a fork shares are in doubt where they were made.
    """
    state = fold(records)
    assert state.started is not None, "a run without its first event"  # noqa: S101
    models = {ask_id: declared_spec(ask).model for ask_id, ask in state.asks.items()}
    shared = state.started.forked_at
    intents: dict[str, tuple[int, str | None]] = {}
    found: dict[str, Doubt] = {}
    for record in records:
        event = record.event
        if isinstance(event, ModelCallStarted):
            intents[event.call_id] = record.at, event.tool
        elif isinstance(event, ModelSwitched):
            models[event.ask_id] = event.model
        elif isinstance(event, ModelCallInDoubt) and record.seq > shared:
            found[event.call_id] = Doubt(
                run_id=run_id,
                ask_id=event.ask_id,
                call_id=event.call_id,
                seq=record.seq,
                nano=event.cost_nano,
                tokens=event.tokens,
                payer=replace(
                    payer_of(state.started, state.asks[event.ask_id]), model=models[event.ask_id]
                ),
                where=place(*intents[event.call_id], record.at),
            )
        elif isinstance(event, ModelCallReconciled):
            found.pop(event.call_id, None)
    return list(found.values())


def payer_of(started: RunStarted, ask: Conversation) -> Payer:
    """Return whose calls the calls of an ask are."""
    return Payer(
        agent=ask.spec.agent,
        version=ask.version or started.version,
        tenant=started.tenant,
        model=ask.spec.model,
    )
