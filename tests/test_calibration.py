"""What labels make of what a check says, beside a world in which the truth is known."""

import math
from bisect import bisect_right
from itertools import product
from random import Random
from typing import Any, Literal, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import SOAK
from outlast.views.calibration import (
    LEAST,
    Calibration,
    Interval,
    Table,
    Uncalibrated,
    calibrate,
    pass_rate,
    wilson,
)

DRAWS = 4_000 if SOAK else 2_000

# ── shares ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("hits", "of", "low", "high"),
    [
        # Newcombe (1998), Stat Med 17:857, table I: Wilson's score interval.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_shares_have_wilsons_interval(hits: int, of: int, low: float, high: float) -> None:
    """The interval of a share is that of the published examples."""
    one = wilson(hits, of)
    assert one is not None
    assert (round(one.low, 4), round(one.high, 4)) == (low, high)
    assert wilson(0, 0) is None


def clopper_pearson(hits: int, of: int) -> tuple[float, float]:
    """Return what the interval is where everything was objected to, and so is one share."""
    rate = pass_rate(
        Table(objected=10**12, passed=1, caught=hits, false_alarms=of - hits, agreed=1)
    )
    return 1 - rate.high, 1 - rate.low


@pytest.mark.parametrize(
    ("hits", "of", "low", "high"),
    [
        # The same table: Clopper and Pearson's.
        (81, 263, 0.2527, 0.3676),
        (15, 148, 0.0578, 0.1617),
        (0, 20, 0.0000, 0.1684),
        (1, 29, 0.0009, 0.1776),
    ],
)
def test_of_one_share_the_interval_is_that_of_the_books(
    hits: int, of: int, low: float, high: float
) -> None:
    """Where one kind of answers is all there is, it is the exact interval of published examples."""
    assert clopper_pearson(hits, of) == (
        pytest.approx(low, abs=6e-5),
        pytest.approx(high, abs=6e-5),
    )


@given(st.integers(1, 120).flatmap(lambda of: st.tuples(st.integers(0, of), st.just(of))))
def test_intervals_end_where_the_tails_do(counts: tuple[int, int]) -> None:
    """At either limit, as many hits or more, or as few or fewer, have a chance of 2.5 %."""
    hits, of = counts
    low, high = clopper_pearson(hits, of)

    def chance(p: float, counted: range) -> float:
        return math.fsum(math.comb(of, k) * p**k * (1 - p) ** (of - k) for k in counted)

    assert -1e-9 <= low <= hits / of + 1e-9
    assert hits / of - 1e-9 <= high <= 1 + 1e-9
    assert hits == 0 or chance(low, range(hits, of + 1)) == pytest.approx(0.025, rel=1e-4)
    assert hits == of or chance(high, range(hits + 1)) == pytest.approx(0.025, rel=1e-4)


@pytest.mark.parametrize(("hits", "of"), [(1, 10**6), (40_000, 10**6), (10**6 - 1, 10**6)])
def test_intervals_of_many(hits: int, of: int) -> None:
    """Of a million, too, the limits lie on both sides, and close."""
    low, high = clopper_pearson(hits, of)
    assert low < hits / of < high
    assert high - low < 0.001


# ── one table ───────────────────────────────────────────────────────────────────────────────────

TABLE = Table(objected=40, passed=160, caught=15, false_alarms=5, missed=2, agreed=18)


def test_people_are_beside_the_check() -> None:
    """Precision, recall and disagreement are shares of the labelled answers."""
    shares = [TABLE.precision, TABLE.recall, TABLE.disagreement]
    assert [one and round(one.value, 4) for one in shares] == [0.75, 0.8824, 0.175]
    assert [one and (round(one.low, 4), round(one.high, 4)) for one in shares] == [
        (0.5313, 0.8881),
        (0.6566, 0.9671),
        (0.0875, 0.3195),
    ]
    assert (TABLE.labelled, TABLE.objected_labelled, TABLE.passed_labelled) == (40, 20, 20)
    assert Table().precision is Table().recall is Table().disagreement is None


def test_the_rate_is_corrected_as_by_rogan_and_gladen() -> None:
    """With sensitivity and specificity weighed by the verdict, the rate is that of their formula.

    Of 40 answers that were objected to 15 of 20 are bad, so 30; of 160 that passed 2 of 20, so 16.
    """
    told = calibrate(TABLE)
    assert isinstance(told, Calibration)
    assert told.sensitivity == pytest.approx(30 / 46)
    assert told.specificity == pytest.approx(144 / 154)
    assert told.pass_rate.value == pytest.approx(154 / 200)
    raw = 160 / 200
    corrected = (raw + told.sensitivity - 1) / (told.sensitivity + told.specificity - 1)
    assert told.pass_rate.value == pytest.approx(corrected)


@given(st.lists(st.integers(0, 40), min_size=6, max_size=6))
def test_an_interval_holds_its_value(counts: list[int]) -> None:
    """Whatever the table, the interval lies between 0 and 1, and the value in it."""
    a, b, c, d, more, most = counts
    table = Table(
        objected=a + b + more, passed=c + d + most, caught=a, false_alarms=b, missed=c, agreed=d
    )
    told = calibrate(table)
    if isinstance(told, Calibration):
        rate = told.pass_rate
        assert 0 <= rate.low <= rate.value <= rate.high <= 1
        assert told.sensitivity + told.specificity > 1
    else:
        assert told.why


@pytest.mark.parametrize(
    ("more", "why", "needed"),
    [
        ({"caught": 0, "false_alarms": 0}, "too few", (LEAST, 0)),
        ({"caught": 6, "false_alarms": 3}, "too few", (1, 0)),
        ({"missed": 0, "agreed": 3}, "too few", (0, 7)),
        ({"objected": 4, "caught": 3, "false_alarms": 0}, "too few", (1, 0)),
        ({"objected": 0, "caught": 0, "false_alarms": 0}, "objected to no answer", (0, 0)),
        ({"passed": 0, "missed": 0, "agreed": 0}, "let no answer pass", (0, 0)),
        ({"caught": 2, "false_alarms": 18}, "is no better than chance", (0, 0)),
        ({"caught": 6, "false_alarms": 14}, "may be no better than chance", (0, 0)),
    ],
)
def test_what_cannot_be_corrected_says_why(
    more: dict[str, int], why: str, needed: tuple[int, int]
) -> None:
    """Too few labels, or a check that may be no better than chance, give a reason and no number."""
    fields = {name: getattr(TABLE, name) for name in TABLE.__struct_fields__}
    told = calibrate(Table(**(fields | more)))
    assert isinstance(told, Uncalibrated)
    assert why in told.why
    assert (told.objected_needed, told.passed_needed) == needed


# ── a world in which the truth is known ─────────────────────────────────────────────────────────

Policy: TypeAlias = Literal["any", "half", "objected", "passed"]
SHARES: dict[Policy, float] = {"half": 0.5, "objected": 0.8, "passed": 0.2}
"""Which part of the labels is of answers that the check objected to; `any` does not look at it."""

GRID = [
    (policy, answers, bad, sensitivity, specificity, labels)
    for policy, answers, bad, sensitivity, specificity, labels in product(
        ("any", "half", "objected", "passed"),
        (100, 400, 2_000) if SOAK else (400,),
        (0.02, 0.1, 0.3, 0.6, 0.9) if SOAK else (0.02, 0.1, 0.3, 0.6),
        (0.55, 0.7, 0.95),
        (0.6, 0.8, 0.98),
        (30, 100, 300),
    )
    if labels <= answers
]


class World:
    """Answers, a check that judges them, and people who label some."""

    def __init__(self, bad: float, sensitivity: float, specificity: float, seed: Any) -> None:
        self.objects = bad * sensitivity + (1 - bad) * (1 - specificity)
        self.bad_objected = bad * sensitivity / self.objects
        self.bad_passed = bad * (1 - sensitivity) / (1 - self.objects)
        self.random = Random(str(seed))  # noqa: S311  (no secret)
        self.sums: dict[tuple[int, float], list[float]] = {}

    def table(self, policy: Policy, answers: int, labels: int) -> Table:
        if policy == "any":
            first = self.hits(labels, self.objects)
            objected = first + self.hits(answers - labels, self.objects)
            second = labels - first
        else:
            objected = self.hits(answers, self.objects)
            first = min(objected, round(labels * SHARES[policy]))
            second = min(answers - objected, labels - first)
        caught, missed = self.hits(first, self.bad_objected), self.hits(second, self.bad_passed)
        return Table(
            objected=objected,
            passed=answers - objected,
            caught=caught,
            false_alarms=first - caught,
            missed=missed,
            agreed=second - missed,
        )

    def hits(self, of: int, share: float) -> int:
        """Return how many of so many are hits: drawn from the binomial distribution."""
        return min(of, bisect_right(self._sums(of, share), self.random.random()))

    def _sums(self, of: int, share: float) -> list[float]:
        if (known := self.sums.get((of, share))) is None:
            whole, known = 0.0, []
            for k in range(of + 1):
                ways = math.lgamma(of + 1) - math.lgamma(k + 1) - math.lgamma(of - k + 1)
                whole += math.exp(ways + k * math.log(share) + (of - k) * math.log1p(-share))
                known.append(whole)
            self.sums[of, share] = known
        return known


class Count:
    """How often an interval covered the truth: whenever there is one, and where it is shown."""

    def __init__(self) -> None:
        self.made = self.made_right = self.shown = self.shown_right = 0

    def add(self, *, shown: bool, covers: bool) -> None:
        self.made, self.made_right = self.made + 1, self.made_right + covers
        self.shown, self.shown_right = self.shown + shown, self.shown_right + (shown and covers)


def made_of(table: Table) -> tuple[Interval, bool] | None:
    """Return the interval, and whether it is shown; `None` where there are too few labels."""
    told = calibrate(table)
    if isinstance(told, Calibration):
        return told.pass_rate, True
    return (pass_rate(table), False) if "chance" in told.why else None


def counted(draws: int, cell: Any) -> Count:
    policy, answers, bad, sensitivity, specificity, labels = cell
    world, count = World(bad, sensitivity, specificity, cell), Count()
    known: dict[Table, tuple[Interval, bool] | None] = {}
    for _ in range(draws):
        table = world.table(policy, answers, labels)
        if table not in known:
            known[table] = made_of(table)
        if (made := known[table]) is None:
            continue
        rate, shown = made
        covers = rate.low <= 1 - bad <= rate.high
        count.add(shown=shown, covers=covers)
    return count


@pytest.mark.timeout(3_600 if SOAK else 120)
def test_the_corrected_interval_covers() -> None:
    """Over true rates, sensitivities, specificities and numbers of labels, it covers in ≥ 94 %.

    It does whether people label whatever there is, or rather what the check objected to, or what
    it let pass; in each cell of which at least a tenth of the draws has labels enough.
    """
    # Every cell at once would take minutes, so by default each is drawn less often, and a cell
    # may be as far below as chance takes it; all draws of a kind together may not.
    draws = DRAWS if SOAK else 40
    slack = 0.0 if SOAK else 0.14
    whole: dict[Any, Count] = {}
    for cell in GRID:
        count = counted(draws, cell)
        if count.made < draws / 10:
            continue
        assert count.made_right / count.made >= 0.94 - slack, cell
        assert (count.shown - count.shown_right) / count.made <= 0.06 + slack, cell
        if count.shown >= draws / 2:
            assert count.shown_right / count.shown >= 0.94 - slack, cell
        for kind in cell:
            sum_ = whole.setdefault(kind, Count())
            for name, value in vars(count).items():
                setattr(sum_, name, getattr(sum_, name) + value)
    for kind, sum_ in whole.items():
        assert sum_.made_right / sum_.made >= 0.94, kind
        assert sum_.shown_right / sum_.shown >= 0.94, kind


TIGHT: list[tuple[Policy, int, float, float, float, int]] = [
    ("half", 2_000, 0.6, 0.95, 0.6, 300),
    ("half", 2_000, 0.6, 0.7, 0.6, 300),
    ("half", 2_000, 0.6, 0.7, 0.98, 300),
    ("objected", 400, 0.3, 0.55, 0.98, 300),
    ("any", 400, 0.6, 0.7, 0.6, 300),
    ("any", 400, 0.6, 0.95, 0.6, 300),
]
"""Where it covers least often, of the 1,440 cells of the whole grid: in some 96 %."""


@pytest.mark.parametrize("cell", TIGHT, ids=str)
def test_the_corrected_interval_covers_where_it_is_tightest(cell: Any) -> None:
    """Where it covers least often it covers in ≥ 94 % of two thousand worlds."""
    count = counted(DRAWS, cell)
    assert count.made == DRAWS
    assert count.shown >= 0.99 * DRAWS
    assert count.made_right / count.made >= 0.94


def of_lang_and_reiczigel(table: Table) -> Interval:
    """Return the pass rate as by Lang and Reiczigel (2014), equations 6, 7, 16 and 17."""
    z, answers = 1.96, table.objected + table.passed
    bad, good = table.caught + table.missed, table.agreed + table.false_alarms
    n = answers + z * z
    p = (table.objected + z * z / 2) / n
    se, sp = (table.caught + 1) / (bad + 2), (table.agreed + 1) / (good + 2)
    rate = (p + sp - 1) / (se + sp - 1)
    one, other = se * (1 - se) / (bad + 2), sp * (1 - sp) / (good + 2)
    shift = 2 * z * z * (rate * one - (1 - rate) * other)
    error = math.sqrt(p * (1 - p) / n + rate**2 * one + (1 - rate) ** 2 * other)
    half = z * error / abs(se + sp - 1)
    low, high = max(0.0, rate + shift - half), min(1.0, rate + shift + half)
    return Interval(1 - rate, 1 - high, 1 - low)


def test_labels_of_what_was_rejected_do_not_flatter() -> None:
    """Where people label what was objected to, the interval of Lang and Reiczigel misses; ours not.

    Where they label whatever there is, both cover, and ours is narrower.
    """
    covered: dict[Any, float] = {}
    width: dict[Any, float] = {}
    for policy in ("any", "objected"):
        world = World(0.2, 0.7, 0.9, policy)
        for _ in range(300):
            table = world.table("any" if policy == "any" else "objected", 400, 100)
            for name, rate in (("lr", of_lang_and_reiczigel(table)), ("ours", pass_rate(table))):
                covers = rate.low <= 0.8 <= rate.high
                covered[policy, name] = covered.get((policy, name), 0) + covers / 300
                width[policy, name] = width.get((policy, name), 0) + (rate.high - rate.low) / 300
    assert covered["any", "lr"] >= 0.94
    assert covered["any", "ours"] >= 0.94
    assert width["any", "ours"] < width["any", "lr"]
    assert covered["objected", "lr"] < 0.5
    assert covered["objected", "ours"] >= 0.94
