"""Anthropic's bill beside ours: by day and model, what was billed, settled, and is in doubt.

The bill is Anthropic's cost report, exported with `group_by[]=description`, so that its lines name
their model.  Its form is that of https://platform.claude.com/docs/en/api/admin/cost_report: days of
UTC, amounts in cents as decimal strings.  What it charges for no model, such as web searches, has
lines of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING as UP
from decimal import Decimal, InvalidOperation
from typing import Annotated, Final

import msgspec

from outlast.errors import UnknownModel, UsageError
from outlast.journal import Posting
from outlast.prices import rates

CENT_NANO: Final = 10_000_000
FLAGGED_PERCENT: Final = 1
"""From so much on, a difference is more than days that begin and end a little apart."""

SEARCHES: Final = "web_search"
"""The `cost_type` of web searches, which name no model; ours are counted apart, too."""

_NS: Final = 1_000_000_000
_DAY: Final = timedelta(days=1)
_MOST_NANO: Final = 10**18

_Time = Annotated[datetime, msgspec.Meta(tz=True)]


class _Result(msgspec.Struct):
    amount: str
    currency: str
    model: str | None = None
    cost_type: str | None = None


class _Bucket(msgspec.Struct):
    starting_at: _Time
    ending_at: _Time
    results: list[_Result]


class _Page(msgspec.Struct):
    data: list[_Bucket]
    has_more: bool


class Report(msgspec.Struct, frozen=True):
    """What Anthropic billed."""

    days: Mapping[str, Mapping[str, int]]
    """Nano-dollars by day, such as `2026-11-22`, and by model."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """What was billed for a model on a day, and what we have of it, in nano-dollars."""

    day: str
    model: str
    billed_nano: int = 0
    settled_nano: int = 0
    in_doubt_nano: int = 0

    @property
    def drift_nano(self) -> int:
        """How much more we count as spent than was billed."""
        return self.settled_nano + self.in_doubt_nano - self.billed_nano

    @property
    def drift_percent(self) -> float:
        """The same in percent of the bill, or of what we count where nothing was billed."""
        whole = self.billed_nano or abs(self.drift_nano) or 1
        return 100 * self.drift_nano / whole

    @property
    def flagged(self) -> bool:
        """Whether it is too much to be let pass."""
        whole = self.billed_nano or abs(self.drift_nano)
        return self.drift_nano != 0 and 100 * abs(self.drift_nano) >= FLAGGED_PERCENT * whole

    @property
    def partial(self) -> bool:
        """Whether less was billed than is known to have been: by more than a price may be off."""
        return 100 * self.billed_nano < (100 - FLAGGED_PERCENT) * self.settled_nano

    @property
    def beyond_nano(self) -> int:
        """What was billed beyond what is settled: its calls in doubt, if it has any."""
        return max(0, self.billed_nano - self.settled_nano)


# ── reading the bill ────────────────────────────────────────────────────────────────────────────


def read_report(content: bytes, ours: Iterable[str] = ()) -> Report:
    """Return what a cost report says.

    Args:
        content: one page of it as JSON, or an array of all pages.
        ours: models that are known besides those that have a price.

    Raises:
        UsageError: it is none, a page is missing, or a line is not what it should be.

    """
    pages = _pages(content)
    names = {canonical(model) for model in ours}
    days: dict[str, dict[str, int]] = {}
    for bucket in (bucket for page in pages for bucket in page.data):
        day = _day(bucket)
        if day in days:
            raise _wrong(f"it has {day} twice")
        sums: dict[str, Decimal] = {}
        for number, result in enumerate(bucket.results, 1):
            name = _name(result, names, f"line {number} of {day}")
            sums[name] = sums.get(name, Decimal(0)) + _nano(result, f"line {number} of {day}")
        # Of what is smaller than a nano-dollar nobody keeps books; it is rounded against us.
        days[day] = {name: int(amount.to_integral_value(UP)) for name, amount in sums.items()}
    return Report(days)


def _pages(content: bytes) -> list[_Page]:
    try:
        read = msgspec.json.decode(content, type=_Page | list[_Page])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _wrong(str(error)) from error
    pages = read if isinstance(read, list) else [read]
    if not pages:
        raise _wrong("it has no page")
    if pages[-1].has_more:
        raise _wrong(
            "it goes on (has_more is true), and every page is needed; get the next one with "
            "page=next_page, and give all of them as a JSON array, or ask for limit=31 days"
        )
    return pages


def _day(bucket: _Bucket) -> str:
    try:
        start, end = bucket.starting_at.astimezone(UTC), bucket.ending_at.astimezone(UTC)
    except OverflowError as error:  # in the first or the last year that there is
        raise _wrong(f"{bucket.starting_at} is no day of UTC") from error
    if end - start != _DAY or start != start.replace(hour=0, minute=0, second=0, microsecond=0):
        raise _wrong(
            f"{start:%Y-%m-%dT%H:%M:%SZ} to {end:%Y-%m-%dT%H:%M:%SZ} is no whole day of UTC; "
            "export it with bucket_width=1d"
        )
    return f"{start:%Y-%m-%d}"


def _name(result: _Result, ours: set[str], where: str) -> str:
    if result.model is None:
        if result.cost_type in (None, "tokens"):
            raise _wrong(f"{where} names no model; export it with group_by[]=description")
        return str(result.cost_type)
    name = canonical(result.model)
    if name not in ours:
        try:
            rates(result.model)
        except UnknownModel as error:
            raise _wrong(f"{where}: {error}") from error
    return name


def _nano(result: _Result, where: str) -> Decimal:
    if result.currency != "USD":
        raise _wrong(f"{where} is in {result.currency!r}, and only USD can be compared")
    try:
        nano = Decimal(result.amount) * CENT_NANO
    except InvalidOperation as error:
        raise _wrong(f"{where}: {result.amount!r} is no amount") from error
    except ArithmeticError as error:
        raise _wrong(f"{where}: {result.amount!r} cents were not billed by anybody") from error
    if not nano.is_finite() or not 0 <= nano <= _MOST_NANO:
        raise _wrong(f"{where}: {result.amount!r} cents were not billed by anybody")
    return nano


def _wrong(why: str) -> UsageError:
    return UsageError(f"this is not a cost report of Anthropic that can be compared: {why}")


def canonical(model: str) -> str:
    """Return the name that all names of a model have in common, such as one without a date."""
    try:
        return rates(model).model
    except UnknownModel:
        return model


# ── comparing ───────────────────────────────────────────────────────────────────────────────────


def compared(report: Report, ours: Iterable[Posting]) -> list[Line]:
    """Return a line for each day that the report covers and each model, in order."""
    sums: dict[tuple[str, str], list[int]] = {}

    def add(day: str, name: str, **amounts: int) -> None:
        sum_ = sums.setdefault((day, name), [0, 0, 0])
        for at, key in enumerate(("billed", "settled", "in_doubt")):
            sum_[at] += amounts.get(key, 0)

    for day, billed in report.days.items():
        for name, nano in billed.items():
            add(day, name, billed=nano)
    for line in ours:
        if (day := day_of(line.hour)) in report.days:
            tokens = line.settled_nano - line.search_nano
            add(day, canonical(line.model), settled=tokens, in_doubt=line.in_doubt_nano)
            add(day, SEARCHES, settled=line.search_nano)
    return [
        Line(day=day, model=name, billed_nano=sum_[0], settled_nano=sum_[1], in_doubt_nano=sum_[2])
        for (day, name), sum_ in sorted(sums.items())
        if any(sum_)
    ]


def left_out(report: Report, ours: Iterable[Posting]) -> list[str]:
    """Return the days on which something was spent, and that the report does not cover."""
    return sorted({day_of(line.hour) for line in ours} - set(report.days))


def unfinished(report: Report, now: int) -> list[str]:
    """Return the days of the report that were not over at `now`: more may yet be billed."""
    return sorted(day for day in report.days if day >= day_of(now))


def day_of(at: int) -> str:
    """Return the day, of UTC, of a time in nanoseconds since the epoch."""
    return f"{datetime.fromtimestamp(at // _NS, UTC):%Y-%m-%d}"
