"""Whose turn it is: which of the runs that are due a worker drives next.  Pure.

Tenants take turns: whoever has the fewest runs at work comes next; of those with as many, whoever
had a turn the longest ago; and of each the oldest run.  So a tenant with ten thousand runs keeps
nobody waiting who has one: before the run of a tenant that has none at work, every other tenant
gets one turn at most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from outlast.journal import RunRow


class Caps(msgspec.Struct, frozen=True, kw_only=True):
    """How many runs are driven at the same time, at most; `None` is no limit of its own."""

    at_once: int
    each_agent: int | None = None
    each_tenant: int | None = None
    agents: Mapping[str, int] = {}
    """Of agents that have a limit of their own, by name."""
    tenants: Mapping[str, int] = {}

    def agent(self, name: str) -> int | None:
        """Return how many runs of an agent or flow."""
        return self.agents.get(name, self.each_agent)

    def tenant(self, name: str) -> int | None:
        """Return how many runs of a tenant."""
        return self.tenants.get(name, self.each_tenant)


def chosen(
    due: Sequence[RunRow],
    driven: Iterable[RunRow],
    caps: Caps,
    turns: Mapping[str, int] | None = None,
) -> list[RunRow]:
    """Return the runs to begin with, in order.

    Args:
        due: those that are to be driven, the oldest first.
        driven: those that are at work.
        caps: how many may be.
        turns: when each tenant had its last turn, as a number that grows; those that are missing
            had none.

    """
    at_work = list(driven)
    agents = Counter(row.agent for row in at_work)
    tenants = Counter(row.tenant for row in at_work)
    waiting: dict[str, list[RunRow]] = {}
    for each in due:
        waiting.setdefault(each.tenant, []).append(each)
    found: list[RunRow] = []
    last = dict(turns or {})
    turn = max(last.values(), default=0)
    while waiting and len(at_work) + len(found) < caps.at_once:
        # Where that says nothing, the one whose oldest run waits longest.
        tenant = min(waiting, key=lambda name: (tenants[name], last.get(name, 0)))
        row = _next(waiting[tenant], agents, caps) if _room(tenants, caps.tenant, tenant) else None
        if row is None:
            del waiting[tenant]
            continue
        waiting[tenant].remove(row)
        agents[row.agent] += 1
        tenants[tenant] += 1
        turn += 1
        last[tenant] = turn
        found.append(row)
    return found


def is_full(driven: Iterable[RunRow], caps: Caps) -> bool:
    """Return whether some agent or tenant has no room, so that many may be passed over."""
    at_work = list(driven)
    agents = Counter(row.agent for row in at_work)
    tenants = Counter(row.tenant for row in at_work)
    return not (
        all(_room(agents, caps.agent, name) for name in agents)
        and all(_room(tenants, caps.tenant, name) for name in tenants)
    )


def _next(rows: list[RunRow], agents: Counter[str], caps: Caps) -> RunRow | None:
    return next((row for row in rows if _room(agents, caps.agent, row.agent)), None)


def _room(counted: Counter[str], cap: Callable[[str], int | None], name: str) -> bool:
    most = cap(name)
    return most is None or counted[name] < most
