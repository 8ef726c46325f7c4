"""What a run has spent, what its calls in flight hold, and when it has had enough.

Money is integers of nano-dollars.  The worst case of a call is held with its intent; the outcome
settles it.  In doubt is spent, and no crash widens a budget.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec.structs import replace

from outlast.events import (
    ModelCallFailed,
    ModelCallInDoubt,
    ModelCallStarted,
    ModelCallSucceeded,
)
from outlast.journal import Posting, Record
from outlast.prices import exact

HOUR_NS: Final = 3_600_000_000_000


class Spend(msgspec.Struct, frozen=True):
    """What a run has used up: money in nano-dollars, tokens, and turns."""

    settled_nano: int = 0
    in_doubt_nano: int = 0
    tokens: int = 0
    turns: int = 0
    """Model calls that were billed, may have been billed, or are in flight."""
    held: dict[str, tuple[int, int]] = {}
    """Nano-dollars and tokens held by each call in flight."""

    @property
    def nano(self) -> int:
        """What counts as spent, in nano-dollars."""
        return self.settled_nano + self.in_doubt_nano

    @property
    def held_nano(self) -> int:
        """What calls in flight may yet cost, in nano-dollars."""
        return sum(nano for nano, _ in self.held.values())


def evolve(spend: Spend, record: Record) -> Spend:
    """Return what `record` makes of the spend."""
    match record.event:
        case ModelCallStarted() as call:
            held = {**spend.held, call.call_id: (call.hold_nano, call.hold_tokens)}
            return replace(spend, held=held, turns=spend.turns + 1)
        case ModelCallSucceeded() as call:
            return replace(
                spend,
                settled_nano=spend.settled_nano + call.cost_nano,
                tokens=spend.tokens + call.tokens,
                held=_without(spend.held, call.call_id),
            )
        case ModelCallInDoubt() as call:
            return replace(
                spend,
                in_doubt_nano=spend.in_doubt_nano + call.cost_nano,
                tokens=spend.tokens + call.tokens,
                held=_without(spend.held, call.call_id),
            )
        case ModelCallFailed() as call:
            # Surely unbilled: the turn is given back with the money.
            return replace(spend, turns=spend.turns - 1, held=_without(spend.held, call.call_id))
    return spend


def refusal(spend: Spend, turns: int | None) -> tuple[int, int] | None:
    """Return how many turns one more call needs and how many are left, if it must not be made."""
    if turns is None or spend.turns < turns:
        return None
    return 1, max(0, turns - spend.turns)


def posting(record: Record, *, agent: str, version: str, tenant: str, model: str) -> Posting | None:
    """Return the line that `record` adds to the hourly cost roll-up, if it adds one."""
    line = Posting(
        hour=record.at - record.at % HOUR_NS,
        agent=agent,
        version=version,
        tenant=tenant,
        model=model,
    )
    match record.event:
        case ModelCallSucceeded() as call:
            cost = exact(call.model or model, call.usage)
            return replace(
                line,
                calls=1,
                input_tokens=cost.input_tokens,
                cache_read_tokens=cost.cache_read_tokens,
                cache_write_tokens=cost.cache_write_tokens,
                output_tokens=cost.output_tokens,
                settled_nano=call.cost_nano,
            )
        case ModelCallInDoubt() as call:
            return replace(line, calls_in_doubt=1, in_doubt_nano=call.cost_nano)
        case ModelCallFailed():
            return replace(line, calls_failed=1)
    return None


def _without(held: dict[str, tuple[int, int]], call_id: str) -> dict[str, tuple[int, int]]:
    return {key: value for key, value in held.items() if key != call_id}
