"""What a run has spent, what its calls in flight hold, and when it has had enough.

Money is integers of nano-dollars.  The worst case of a call is held with its intent; the outcome
settles it.  In doubt is spent, and no crash widens a budget.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final, TypeAlias

import msgspec
from msgspec.structs import replace

from outlast.events import (
    Event,
    ModelCallFailed,
    ModelCallInDoubt,
    ModelCallReconciled,
    ModelCallStarted,
    ModelCallSucceeded,
    ToolCallStarted,
)
from outlast.journal import Posting, Record
from outlast.prices import (
    NANO,
    PLAIN,
    Terms,
    affordable,
    affordable_tokens,
    exact,
    search_fees,
    worst_case,
    worst_tokens,
)

HOUR_NS: Final = 3_600_000_000_000


class Spend(msgspec.Struct, frozen=True):
    """What a run has used up: money in nano-dollars, tokens, and turns."""

    settled_nano: int = 0
    in_doubt_nano: int = 0
    tokens: int = 0
    turns: int = 0
    """Model calls that were billed, may have been billed, or are in flight."""
    tool_calls: int = 0
    """Calls of tools that were begun."""
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
    rule = _RULES.get(type(record.event))
    return spend if rule is None else rule(spend, record.event)


def _held(spend: Spend, call: ModelCallStarted) -> Spend:
    held = {**spend.held, call.call_id: (call.hold_nano, call.hold_tokens)}
    return replace(spend, held=held, turns=spend.turns + 1)


def _settled(spend: Spend, call: ModelCallSucceeded) -> Spend:
    return replace(
        spend,
        settled_nano=spend.settled_nano + call.cost_nano,
        tokens=spend.tokens + call.tokens,
        held=_without(spend.held, call.call_id),
    )


def _doubted(spend: Spend, call: ModelCallInDoubt) -> Spend:
    return replace(
        spend,
        in_doubt_nano=spend.in_doubt_nano + call.cost_nano,
        tokens=spend.tokens + call.tokens,
        held=_without(spend.held, call.call_id),
    )


def _given_back(spend: Spend, call: ModelCallFailed) -> Spend:
    # Surely unbilled: the turn is given back with the money.
    return replace(spend, turns=spend.turns - 1, held=_without(spend.held, call.call_id))


def _called(spend: Spend, _: ToolCallStarted) -> Spend:
    return replace(spend, tool_calls=spend.tool_calls + 1)


def _corrected(spend: Spend, call: ModelCallReconciled) -> Spend:
    return replace(
        spend,
        in_doubt_nano=spend.in_doubt_nano - call.counted_nano,
        settled_nano=spend.settled_nano + call.cost_nano,
        tokens=spend.tokens - call.counted_tokens + call.tokens,
        # What was not billed was no turn.
        turns=spend.turns - (not call.cost_nano),
    )


def _without(held: dict[str, tuple[int, int]], call_id: str) -> dict[str, tuple[int, int]]:
    return {key: value for key, value in held.items() if key != call_id}


_RULES: Final[dict[type[Event], Callable[[Spend, Any], Spend]]] = {
    ModelCallStarted: _held,
    ModelCallSucceeded: _settled,
    ModelCallInDoubt: _doubted,
    ModelCallFailed: _given_back,
    ToolCallStarted: _called,
    ModelCallReconciled: _corrected,
}
"""What each event makes of the spend; every other one costs nothing."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How much may be used; `None` is no limit."""

    turns: int | None = None
    tokens: int | None = None
    nano: int | None = None
    """Nano-dollars."""
    tool_calls: int | None = None


class Used(msgspec.Struct, frozen=True, kw_only=True):
    """How much was used, and what calls in flight hold beside it."""

    turns: int = 0
    tokens: int = 0
    nano: int = 0
    held_tokens: int = 0
    held_nano: int = 0


class Next(msgspec.Struct, frozen=True, kw_only=True):
    """The call that is to be made next."""

    model: str
    input_bound: int
    most: int
    """Output tokens that it should have."""
    least: int
    """Output tokens below which it is of no use."""
    terms: Terms = PLAIN
    """What else says what it costs."""


class Shortage(msgspec.Struct, frozen=True, kw_only=True):
    """Why a call does not fit."""

    unit: str
    needed: int
    left: int
    passing: bool = False
    """It is only short because calls in flight hold more than they may come to use."""
    window: str = ""
    """Of the budget, where a scope may have several."""


def used(spend: Spend) -> Used:
    """Return what a run has used."""
    return Used(
        turns=spend.turns,
        tokens=spend.tokens,
        nano=spend.nano,
        held_tokens=sum(tokens for _, tokens in spend.held.values()),
        held_nano=spend.held_nano,
    )


def room(limits: Limits, spent: Used, call: Next) -> int | Shortage:
    """Return how many output tokens a call may have, or why it must not be made.

    A call shrinks to what fits, but not below its least.  What is in doubt counts as used, and what
    calls in flight hold is not there until they are settled.
    """
    if limits.turns is not None and spent.turns >= limits.turns:
        return Shortage(unit="turns", needed=1, left=max(0, limits.turns - spent.turns))
    most = call.most
    if limits.tokens is not None:
        free = limits.tokens - spent.tokens
        fits = affordable_tokens(call.input_bound, free - spent.held_tokens, call.terms)
        if fits < call.least:
            return Shortage(
                unit="tokens",
                needed=worst_tokens(call.input_bound, call.least, call.terms),
                left=max(0, free - spent.held_tokens),
                passing=spent.held_tokens > 0
                and affordable_tokens(call.input_bound, free, call.terms) >= call.least,
            )
        most = min(most, fits)
    if limits.nano is not None:
        free = limits.nano - spent.nano
        fits = affordable(call.model, call.input_bound, free - spent.held_nano, call.terms)
        if fits < call.least:
            return Shortage(
                unit="nano",
                needed=worst_case(call.model, call.input_bound, call.least, call.terms),
                left=max(0, free - spent.held_nano),
                passing=spent.held_nano > 0
                and affordable(call.model, call.input_bound, free, call.terms) >= call.least,
            )
        most = min(most, fits)
    return most


def amount(unit: str, number: int) -> str:
    """Return an amount as people write it: `$0.1234`, `1,234 tokens`."""
    if unit != "nano":
        return f"{number:,} {unit.removesuffix('s') if number == 1 else unit}".replace("_", " ")
    return f"${Decimal(number) / NANO:.4f}"


Billed: TypeAlias = ModelCallSucceeded | ModelCallFailed | ModelCallInDoubt
BILLED: Final = (ModelCallSucceeded, ModelCallFailed, ModelCallInDoubt)
"""The outcomes that the hourly roll-up counts."""


class Payer(msgspec.Struct, frozen=True, kw_only=True):
    """Whose calls are added up in one line of the hourly roll-up."""

    agent: str
    version: str = ""
    tenant: str = ""
    model: str = ""


def place(at: int, tool: str | None, ended_at: int) -> tuple[int, str]:
    """Return the hour and the tools under which a call is added up.

    It counts when it was made, whenever its outcome is known: a crash may be found out days later.
    What earlier versions wrote counts when it ended, and under no tool.

    Args:
        at: when it was made, in nanoseconds since the epoch.
        tool: see `ModelCallStarted.tool`.
        ended_at: when its outcome was written.

    """
    at = ended_at if tool is None else at
    return at - at % HOUR_NS, tool or ""


def line(payer: Payer, where: tuple[int, str], **amounts: int) -> Posting:
    """Return a line of the hourly roll-up."""
    hour, tool = where
    return Posting(
        hour=hour,
        agent=payer.agent,
        version=payer.version,
        tenant=payer.tenant,
        model=payer.model,
        tool=tool,
        **amounts,
    )


def posting(event: Billed, payer: Payer, where: tuple[int, str]) -> Posting:
    """Return the line that the outcome of a call adds to the hourly cost roll-up."""
    return line(payer, where, **_amounts(event, payer.model))


def _amounts(event: Billed, model: str) -> dict[str, int]:
    if isinstance(event, ModelCallFailed):
        return {"calls_failed": 1}
    if isinstance(event, ModelCallInDoubt):
        return {"calls_in_doubt": 1, "in_doubt_nano": event.cost_nano}
    cost = exact(event.model or model, event.usage)
    return {
        "search_nano": search_fees(event.usage),
        "calls": 1,
        "input_tokens": cost.input_tokens,
        "cache_read_tokens": cost.cache_read_tokens,
        "cache_write_tokens": cost.cache_write_tokens,
        "output_tokens": cost.output_tokens,
        "settled_nano": event.cost_nano,
    }
