"""What was spent, by month, day, agent, version, tenant, model, tool or run.

All but the last add up the hourly roll-up, which is written in the same transaction as the outcome
of every call, so it is never behind; by run, the rows of the runs are listed, which are, too.  Both
sums are that of the settled calls and of those in doubt, to the nano-dollar.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Final, Literal, TypeAlias

import msgspec

from outlast.journal import COUNTED, Posting, RunRow

By: TypeAlias = Literal["month", "day", "agent", "version", "tenant", "model", "tool"]

_NS: Final = 1_000_000_000
_HOUR_NS: Final = 3_600 * _NS


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """One line: what was spent under one name, in nano-dollars and tokens."""

    name: str
    calls: int = 0
    """Calls that were billed."""
    calls_failed: int = 0
    """Calls that were not billed, and came to nothing."""
    calls_in_doubt: int = 0
    input_tokens: int = 0
    """Fresh: neither read from the prompt cache nor written to it."""
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    settled_nano: int = 0
    in_doubt_nano: int = 0
    search_nano: int = 0
    """Of what is settled: the fees of web searches."""
    loops_nano: int = 0
    """Of what is settled: calls that asked again for what had been done, with nothing new."""
    missed_nano: int = 0
    """Of what is settled: what prompts cost more because the cache did not answer."""
    rejected_nano: int = 0
    """Of what is settled: answers that were rejected."""
    lost_nano: int = 0
    """Of what is settled: calls that were in doubt, and turned out to be billed."""

    @property
    def nano(self) -> int:
        """What counts as spent."""
        return self.settled_nano + self.in_doubt_nano

    @property
    def wasted_nano(self) -> int:
        """What was spent, or may have been, and brought nothing; no part of it counts twice."""
        wasted: int = sum(getattr(self, name) for name in WASTE)
        return self.in_doubt_nano + wasted

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


WASTE: Final = ("lost_nano", "loops_nano", "missed_nano", "rejected_nano")
"""What of the settled was wasted; what is in doubt comes on top of it."""

_NAMES: Final[dict[By, Callable[[Posting], str]]] = {
    "month": lambda line: f"{_date(line):%Y-%m}",
    "day": lambda line: f"{_date(line):%Y-%m-%d}",
    "agent": lambda line: line.agent,
    "version": lambda line: f"{line.agent}@{line.version}",
    "tenant": lambda line: line.tenant or "(none)",
    "model": lambda line: line.model,
    "tool": lambda line: line.tool or "(none)",
}

GROUPS: Final[tuple[By, ...]] = tuple(_NAMES)
"""By what the roll-up can be added up."""


def costs(lines: Iterable[Posting], by: By) -> list[Cost]:
    """Return the costs of each month, agent and so on: times in order, others dearest first."""
    name_of = _NAMES[by]
    sums: dict[str, dict[str, int]] = {}
    for line in lines:
        sum_ = sums.setdefault(name_of(line), dict.fromkeys(COUNTED, 0))
        for field in COUNTED:
            sum_[field] += getattr(line, field)
    found = [Cost(name=name, **sum_) for name, sum_ in sums.items()]
    if by in {"month", "day"}:
        return sorted(found, key=lambda cost: cost.name)
    return sorted(found, key=lambda cost: (-cost.nano, cost.name))


def total(costs: Iterable[Cost]) -> Cost:
    """Return the sum of costs."""
    listed = list(costs)
    sums = {field: sum(getattr(one, field) for one in listed) for field in COUNTED}
    return Cost(name="total", **sums)


def dearest(rows: Sequence[RunRow]) -> list[RunRow]:
    """Return the rows of runs, dearest first; a child's cost is its own, not its parent's."""
    return sorted(rows, key=lambda row: (-row.cost_nano, row.id))


def forecast(lines: Iterable[Posting], *, now: int) -> int:
    """Return what this month will have cost if it goes on as until now, in nano-dollars.

    Months are those of UTC.  In its first hour a month is taken to be an hour old.
    """
    at = datetime.fromtimestamp(now // _NS, UTC)
    first = at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    end = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
    month = next((c for c in costs(lines, "month") if c.name == f"{at:%Y-%m}"), None)
    gone = max(now - int(first.timestamp()) * _NS, _HOUR_NS)
    whole = int((end - first).total_seconds()) * _NS
    return 0 if month is None else month.nano * whole // gone


def _date(line: Posting) -> datetime:
    return datetime.fromtimestamp(line.hour // _NS, UTC)
