"""`rota`: whose turn it is, as properties over everything that may be due."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from outlast.journal import RunRow
from outlast.rota import Caps, chosen, is_full

TENANTS = ("", "acme", "big", "zoo")
AGENTS = ("reader", "writer", "flow")


def row(n: int, tenant: str, agent: str = "reader") -> RunRow:
    return RunRow(
        id=f"r{n}", agent=agent, tenant=tenant, status="queued", created_at=n, updated_at=n
    )


@st.composite
def rows(draw: st.DrawFn, first: int) -> list[RunRow]:
    kinds = st.tuples(st.sampled_from(TENANTS), st.sampled_from(AGENTS))
    return [row(first + n, *kind) for n, kind in enumerate(draw(st.lists(kinds, max_size=25)))]


def some(names: tuple[str, ...]) -> st.SearchStrategy[dict[str, int]]:
    return st.dictionaries(st.sampled_from(names), st.integers(1, 4), max_size=2)


most = st.none() | st.integers(1, 5)
caps = st.builds(
    Caps,
    at_once=st.integers(1, 12),
    each_agent=most,
    each_tenant=most,
    agents=some(AGENTS),
    tenants=some(TENANTS),
)


def fits(one: RunRow, at_work: list[RunRow], caps: Caps) -> bool:
    """Say from the caps alone whether one more may be driven."""
    agents = sum(other.agent == one.agent for other in at_work)
    tenants = sum(other.tenant == one.tenant for other in at_work)
    agent = caps.agents.get(one.agent, caps.each_agent)
    tenant = caps.tenants.get(one.tenant, caps.each_tenant)
    return (
        len(at_work) < caps.at_once
        and (agent is None or agents < agent)
        and (tenant is None or tenants < tenant)
    )


@given(rows(100), rows(0), caps)
def test_no_cap_is_passed_and_none_of_the_room_is_left(
    due: list[RunRow], driven: list[RunRow], caps: Caps
) -> None:
    """Each that is chosen fits when its turn comes, and whoever is passed over would not fit."""
    found = chosen(due, driven, caps)
    at_work = list(driven)
    for one in found:
        assert fits(one, at_work, caps)
        at_work.append(one)
    ids = [one.id for one in found]
    assert len(set(ids)) == len(ids)
    assert set(ids) <= {one.id for one in due}
    assert not [one.id for one in due if one.id not in ids and fits(one, at_work, caps)]


@given(rows(100), rows(0), caps)
def test_the_oldest_comes_first(due: list[RunRow], driven: list[RunRow], caps: Caps) -> None:
    """Of one agent of one tenant, no run comes before an older one."""
    found = chosen(due, driven, caps)
    ids = {one.id for one in found}
    for one in found:
        older = [
            other
            for other in due
            if (other.tenant, other.agent) == (one.tenant, one.agent)
            and other.created_at < one.created_at
        ]
        assert {other.id for other in older} <= ids
    for tenant in TENANTS:
        for agent in AGENTS:
            ages = [one.created_at for one in found if (one.tenant, one.agent) == (tenant, agent)]
            assert ages == sorted(ages)


@given(rows(100), rows(0), caps)
def test_nobody_is_given_more_while_another_has_less(
    due: list[RunRow], driven: list[RunRow], caps: Caps
) -> None:
    """Whoever gets a turn has no more at work than any other tenant who could have used it."""
    at_work = list(driven)
    left = {one.id: one for one in due}
    for one in chosen(due, driven, caps):
        counts = Counter(other.tenant for other in at_work)
        for other in left.values():
            if fits(other, at_work, caps):
                assert counts[one.tenant] <= counts[other.tenant]
        at_work.append(left.pop(one.id))


@given(rows(0), caps)
def test_full_is_where_a_cap_is_reached(driven: list[RunRow], caps: Caps) -> None:
    """`is_full` says whether one more of somebody at work would be too many, but for the total."""
    unbounded = Caps(
        at_once=1_000,
        each_agent=caps.each_agent,
        each_tenant=caps.each_tenant,
        agents=caps.agents,
        tenants=caps.tenants,
    )
    assert is_full(driven, caps) == any(not fits(one, driven, unbounded) for one in driven)


@given(rows(100), rows(0), caps)
def test_turns_go_round(due: list[RunRow], driven: list[RunRow], caps: Caps) -> None:
    """Of tenants with as many at work, the one comes first that had a turn the longest ago."""
    turns = {"zoo": 1, "big": 2}  # the others had none
    at_work = list(driven)
    left = {one.id: one for one in due}
    for turn, one in enumerate(chosen(due, driven, caps, turns), 3):
        counts = Counter(other.tenant for other in at_work)
        for other in left.values():
            if fits(other, at_work, caps) and counts[one.tenant] == counts[other.tenant]:
                assert turns.get(one.tenant, 0) <= turns.get(other.tenant, 0)
        at_work.append(left.pop(one.id))
        turns[one.tenant] = turn


@given(
    st.integers(0, 2**32),
    st.integers(2, 6),
    st.integers(1, 6),
    st.integers(0, 40),
    st.none() | st.integers(1, 3),
)
def test_nobody_starves(
    seed: int, tenants: int, at_once: int, backlog: int, cap: int | None
) -> None:
    """Before the run of a tenant that has none at work, every other tenant gets one turn at most.

    However many runs the others have, however many more they are given, in whatever order those at
    work end, and although all are older; also where all want one agent that has a cap.
    """
    random = Random(seed)  # noqa: S311  (no secret)
    caps = Caps(at_once=at_once, agents={} if cap is None else {"reader": cap})
    others = [f"t{n}" for n in range(tenants - 1)]
    lone = row(10_000, "lone")
    turns: dict[str, int] = {}
    driven: list[RunRow] = []
    due = [row(n, random.choice(others)) for n in range(backlog)]
    begun: list[str] = []
    for n in range(40):
        if n == 5:
            due.append(lone)
            turns["lone"] = len(turns) + 100  # it has just had a turn, too
        due.append(row(100 + n, random.choice(others)))
        if driven:
            driven.remove(random.choice(driven))
        for one in chosen(due, driven, caps, turns):
            turns[one.tenant] = max(turns.values(), default=0) + 1
            driven.append(one)
            due.remove(one)
            if n >= 5:
                begun.append(one.tenant)
        if lone in driven:
            break
    before = Counter(begun[: begun.index("lone")])
    assert max(before.values(), default=0) <= 1
    assert n - 5 <= tenants, "a turn comes with every run that ends"


def test_an_agent_that_is_full_holds_up_nobody_else() -> None:
    """Behind a hundred runs of an agent that has no room, one of another comes at once."""
    due = [*(row(n, "", "writer") for n in range(100)), row(100, "")]
    at_work = [row(-1, "", "writer")]
    caps = Caps(at_once=2, agents={"writer": 1})
    assert [one.id for one in chosen(due, at_work, caps)] == ["r100"]
