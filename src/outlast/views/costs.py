"""What was spent, by month, day, agent, version, tenant or model: the hourly roll-up, added up.

The roll-up is written in the same transaction as the outcome of every call, so it is never behind,
and its sum is that of the settled calls to the nano-dollar.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Final, Literal, TypeAlias

import msgspec

from outlast.journal import Posting

By: TypeAlias = Literal["month", "day", "agent", "version", "tenant", "model"]

_NS: Final = 1_000_000_000


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """One line: what was spent under one name, in nano-dollars and tokens."""

    name: str
    calls: int = 0
    calls_failed: int = 0
    calls_in_doubt: int = 0
    input_tokens: int = 0
    """Fresh: neither read from the prompt cache nor written to it."""
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    settled_nano: int = 0
    in_doubt_nano: int = 0

    @property
    def nano(self) -> int:
        """What counts as spent."""
        return self.settled_nano + self.in_doubt_nano

    @property
    def tokens(self) -> int:
        """All tokens that were metered."""
        prompt = self.input_tokens + self.cache_read_tokens + self.cache_write_tokens
        return prompt + self.output_tokens

    @property
    def cached(self) -> float:
        """The part of all prompts that came from the cache, from 0 to 1."""
        prompt = self.input_tokens + self.cache_read_tokens + self.cache_write_tokens
        return self.cache_read_tokens / prompt if prompt else 0.0


_FIELDS: Final = tuple(name for name in Cost.__struct_fields__ if name != "name")

_NAMES: Final[dict[By, Callable[[Posting], str]]] = {
    "month": lambda line: f"{_date(line):%Y-%m}",
    "day": lambda line: f"{_date(line):%Y-%m-%d}",
    "agent": lambda line: line.agent,
    "version": lambda line: f"{line.agent}@{line.version}",
    "tenant": lambda line: line.tenant or "(none)",
    "model": lambda line: line.model,
}

GROUPS: Final[tuple[By, ...]] = tuple(_NAMES)
"""By what costs can be added up."""


def costs(lines: Iterable[Posting], by: By) -> list[Cost]:
    """Return the costs of each month, agent and so on: times in order, others dearest first."""
    name_of = _NAMES[by]
    sums: dict[str, dict[str, int]] = {}
    for line in lines:
        sum_ = sums.setdefault(name_of(line), dict.fromkeys(_FIELDS, 0))
        for field in _FIELDS:
            sum_[field] += getattr(line, field)
    found = [Cost(name=name, **sum_) for name, sum_ in sums.items()]
    if by in {"month", "day"}:
        return sorted(found, key=lambda cost: cost.name)
    return sorted(found, key=lambda cost: (-cost.nano, cost.name))


def total(costs: Iterable[Cost]) -> Cost:
    """Return the sum of costs."""
    listed = list(costs)
    return Cost(
        name="total", **{field: sum(getattr(one, field) for one in listed) for field in _FIELDS}
    )


def forecast(lines: Iterable[Posting], *, now: int) -> int:
    """Return what this month will have cost if it goes on as until now, in nano-dollars.

    Months are those of UTC.
    """
    at = datetime.fromtimestamp(now / _NS, UTC)
    start = at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    end = start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)
    month = next((c for c in costs(lines, "month") if c.name == f"{at:%Y-%m}"), None)
    gone = max((at - start).total_seconds(), 3_600.0)
    return 0 if month is None else int(month.nano * ((end - start).total_seconds() / gone))


def _date(line: Posting) -> datetime:
    return datetime.fromtimestamp(line.hour // _NS, UTC)
