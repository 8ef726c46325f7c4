"""How far a check can be trusted, and how many answers are good, by what people say of some.

People label some of the answers that a check has judged.  Four counts of those, and how many there
are in all of both kinds, make a `Table`:

|                    | people say bad | people say good |
|--------------------|----------------|-----------------|
| the check objected | caught         | false_alarms    |
| it let it pass     | missed         | agreed          |

- precision: caught ÷ (caught + false_alarms), Wilson's interval
- recall: caught ÷ (caught + missed), likewise
- disagreement: (false_alarms + missed) ÷ all four, likewise

What share of all answers is good is corrected as by Rogan and Gladen (1978), with a sensitivity and
a specificity from labels.  People look at what was rejected rather than at what passed, so labels
are weighed by the verdict, as by Begg and Greenes (1983): what comes out is the same as to ask of
the answers that were rejected which share is bad, of those that passed likewise, and to add both up
in proportion, which is the estimate of Tenenbein (1970) from two samples.

The interval of Lang and Reiczigel (2014) for the formula of Rogan and Gladen needs answers that are
labelled whatever the check says of them.  Where that is not so it mostly misses, and where
it is so it is wider.  So this one is that of a rate that is added up of several, as by Fay and
Feuer (1997), of shares: as the limits of Clopper and Pearson (1934) for one share are quantiles of
two beta distributions, its limits are those of the beta distributions that have the mean and the
variance of the sum.  That it covers is simulated, for several ways to label.

Sources: Wilson, J Am Stat Assoc 22:209.  Clopper, Pearson, Biometrika 26:404.  Tenenbein, J Am Stat
Assoc 65:1350.  Rogan, Gladen, Am J Epidemiol 107:71.  Begg, Greenes, Biometrics 39:207.  Fay,
Feuer, Stat Med 16:791.  Newcombe (1998), Stat Med 17:873.  Lang, Reiczigel, Prev Vet Med 113:13.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

LEAST: Final = 10
"""So many labels are needed of answers that a check objected to, and of those that it let pass.

Where there are fewer such answers, all of them.
"""

_TAIL: Final = 0.025
_Z: Final = 1.959963984540054
"""The quantile of the normal distribution for 95 %."""


class Interval(msgspec.Struct, frozen=True):
    """A share, from 0 to 1, and between what it is with 95 % confidence."""

    value: float
    low: float
    high: float


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """What a check said of answers, and what people say of some of them."""

    objected: int = 0
    """To how many answers the check objected, labelled or not."""
    passed: int = 0
    """How many it let pass."""
    caught: int = 0
    false_alarms: int = 0
    missed: int = 0
    agreed: int = 0

    @property
    def objected_labelled(self) -> int:
        """How many labels there are of answers that the check objected to."""
        return self.caught + self.false_alarms

    @property
    def passed_labelled(self) -> int:
        """How many labels there are of answers that it let pass."""
        return self.missed + self.agreed

    @property
    def labelled(self) -> int:
        """How many labels there are."""
        return self.objected_labelled + self.passed_labelled

    @property
    def precision(self) -> Interval | None:
        """Of the labelled answers that it objected to, the share that is bad."""
        return wilson(self.caught, self.objected_labelled)

    @property
    def recall(self) -> Interval | None:
        """Of the labelled answers that are bad, the share that it objected to."""
        return wilson(self.caught, self.caught + self.missed)

    @property
    def disagreement(self) -> Interval | None:
        """Of the labelled answers, the share of which people say otherwise."""
        return wilson(self.false_alarms + self.missed, self.labelled)


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """What labels make of what a check says."""

    pass_rate: Interval
    """Which share of the answers that it judged is good."""
    sensitivity: float
    """Which share of the bad ones it objects to."""
    specificity: float
    """Which share of the good ones it lets pass."""


class Uncalibrated(msgspec.Struct, frozen=True, kw_only=True):
    """Why nothing can be said of all answers."""

    why: str
    objected_needed: int = 0
    """How many more labels it takes of answers that the check objected to."""
    passed_needed: int = 0
    """How many more of those that it let pass."""


# ── all answers ─────────────────────────────────────────────────────────────────────────────────


def calibrate(table: Table) -> Calibration | Uncalibrated:
    """Return which share of all answers is good, or why that cannot be told.

    It cannot where there are fewer labels than `LEAST` of either kind, where the check objects to
    everything or nothing, and where it may be no better than chance.
    """
    needed = {
        "objected_needed": max(0, min(LEAST, table.objected) - table.objected_labelled),
        "passed_needed": max(0, min(LEAST, table.passed) - table.passed_labelled),
    }
    if not table.objected or not table.passed:
        did = "let no answer pass" if table.objected else "objected to no answer"
        return Uncalibrated(why=f"it {did}, so nobody can tell how good it is at it", **needed)
    if any(needed.values()):
        return Uncalibrated(why="too few answers are labelled", **needed)
    if (why := _chance(table)) is not None:
        return Uncalibrated(why=why)
    share, objected, passed = _shares(table)
    caught, missed = share * objected, (1 - share) * passed
    false, agreed = share * (1 - objected), (1 - share) * (1 - passed)
    return Calibration(
        pass_rate=pass_rate(table),
        sensitivity=caught / (caught + missed),
        specificity=agreed / (agreed + false),
    )


def pass_rate(table: Table) -> Interval:
    """Return which share of all answers is good; there is a label of either kind."""
    share, objected, passed = _shares(table)
    bad = share * objected + (1 - share) * passed
    # One more that is bad of each kind for the upper limit, one more that is good for the lower.
    low, high = _limit(table, more_bad=0), _limit(table, more_bad=1)
    return Interval(1 - bad, 1 - high, 1 - low)


def _limit(table: Table, *, more_bad: int) -> float:
    """Return a limit of the share of all answers that is bad: the lower one, or the upper."""
    share, _, _ = _shares(table)
    more_good = 1 - more_bad
    one, spread = _beta(table.caught + more_bad, table.false_alarms + more_good)
    other, other_spread = _beta(table.missed + more_bad, table.agreed + more_good)
    mean = share * one + (1 - share) * other
    # To how many it objects is chance, too.
    chance = share * (1 - share) / (table.objected + table.passed)
    variance = share**2 * spread + (1 - share) ** 2 * other_spread + (one - other) ** 2 * chance
    if not variance:
        return mean
    size = mean * (1 - mean) / variance - 1
    return _quantile(1 - _TAIL if more_bad else _TAIL, mean * size, (1 - mean) * size)


def _beta(a: int, b: int) -> tuple[float, float]:
    """Return the mean and the variance of a beta distribution; of none of a kind it is a point."""
    return a / (a + b), a * b / ((a + b) ** 2 * (a + b + 1))


def _shares(table: Table) -> tuple[float, float, float]:
    """Return to which share it objected, and which share of that and of the rest is bad."""
    return (
        table.objected / (table.objected + table.passed),
        table.caught / table.objected_labelled,
        table.missed / table.passed_labelled,
    )


def _chance(table: Table) -> str | None:
    """Return why a check may be no better than chance; `None` where it is.

    Sensitivity and specificity add up to more than 1 just where of what it objected to a greater
    share is bad than of what it let pass.  The interval of that difference is Newcombe's (1998).
    """
    one = wilson(table.caught, table.objected_labelled)
    other = wilson(table.missed, table.passed_labelled)
    assert one is not None  # noqa: S101  (there are labels)
    assert other is not None  # noqa: S101
    lowest = one.value - other.value - math.hypot(one.value - one.low, other.high - other.value)
    if lowest > 0:
        return None
    return (
        f"it may be no better than chance: {one.value:.0%} of what it objected to is bad, and "
        f"{other.value:.0%} of what it let pass, and with so few labels that may be the same"
        if one.value > other.value
        else f"it is no better than chance: {one.value:.0%} of what it objected to is bad, and "
        f"{other.value:.0%} of what it let pass"
    )


# ── shares ──────────────────────────────────────────────────────────────────────────────────────


def wilson(hits: int, of: int) -> Interval | None:
    """Return a share with the interval of Wilson (1927); `None` of nothing."""
    if not of:
        return None
    share, square = hits / of, _Z * _Z
    centre = (share + square / (2 * of)) / (1 + square / of)
    half = _Z / (1 + square / of) * math.sqrt(share * (1 - share) / of + square / (4 * of * of))
    # At the ends it is the end itself, but for rounding.
    low = 0.0 if hits == 0 else max(0.0, centre - half)
    high = 1.0 if hits == of else min(1.0, centre + half)
    return Interval(share, low, high)


def _quantile(probability: float, a: float, b: float) -> float:
    """Return the quantile of a beta distribution: by Newton's steps, or by halves."""
    low, high, x = 0.0, 1.0, a / (a + b)
    for _ in range(100):
        below, slope = _below(a, b, x)
        if below < probability:
            low = x
        else:
            high = x
        before, x = x, x - (below - probability) / slope if slope else low
        if not low < x < high:
            x = (low + high) / 2
        if abs(x - before) <= 1e-12 * x:
            break
    return x


def _below(a: float, b: float, x: float) -> tuple[float, float]:
    """Return the regularized incomplete beta function (https://dlmf.nist.gov/8.17), and its slope.

    Where its mirror image converges faster, that is taken.
    """
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    front = math.exp(front + a * math.log(x) + b * math.log1p(-x))
    if x < (a + 1) / (a + b + 2):
        value = front * _fraction(a, b, x) / a
    else:
        value = 1 - front * _fraction(b, a, 1 - x) / b
    return value, front / (x * (1 - x))


def _fraction(a: float, b: float, x: float) -> float:
    """Return the continued fraction of https://dlmf.nist.gov/8.17.E22, as by Lentz."""
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    whole = d
    for m in range(1, 100_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for step in (even, odd):
            c, d = 1 + step / c, 1 / (1 + step * d)
            whole *= c * d
        if abs(c * d - 1) < 1e-12:
            break
    return whole
