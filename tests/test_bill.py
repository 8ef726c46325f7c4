"""Anthropic's cost report: what is read of it, and what it is compared with."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from outlast.errors import UsageError
from outlast.journal import Posting
from outlast.views.bill import Line, compared, left_out, read_report, unfinished

FIXTURE = Path(__file__).parent / "bills" / "cost_report.json"
OPUS, HAIKU = "claude-opus-5-5", "claude-haiku-4-5"


def at(*date: int) -> int:
    return int(datetime(*date, tzinfo=UTC).timestamp()) * 10**9  # type: ignore[misc]


def page(*results: dict[str, Any], **more: Any) -> dict[str, Any]:
    bucket = {"starting_at": "2026-11-09T00:00:00Z", "ending_at": "2026-11-10T00:00:00Z"}
    return {"data": [bucket | {"results": list(results)}], "has_more": False} | more


def result(**more: Any) -> dict[str, Any]:
    return {"currency": "USD", "amount": "1", "model": OPUS, "cost_type": "tokens"} | more


def read(document: Any, ours: tuple[str, ...] = ()) -> dict[str, dict[str, int]]:
    report = read_report(json.dumps(document).encode(), ours)
    return {day: dict(billed) for day, billed in report.days.items()}


def test_a_report_as_it_is_exported() -> None:
    """Amounts are cents, dates are dropped from models, and a fraction of a nano-dollar is one."""
    assert {
        day: dict(billed) for day, billed in read_report(FIXTURE.read_bytes()).days.items()
    } == {
        "2026-11-09": {OPUS: 1_237_891_201, HAIKU: 550_000_000, "web_search": 30_000_000},
        "2026-11-10": {},
    }


def test_several_pages() -> None:
    """All pages of a report may be given as one array; every day is in it once."""
    first, last = json.loads(FIXTURE.read_text()), page()
    last["data"][0] |= {
        "starting_at": "2026-11-11T01:00:00+01:00",
        "ending_at": "2026-11-12T01:00:00+01:00",
    }
    assert list(read([first | {"has_more": True}, last])) == [
        *("2026-11-09", "2026-11-10", "2026-11-11"),
    ]


def test_a_model_that_only_we_know() -> None:
    """A model without a price is known where runs of it are."""
    assert read(page(result(model="own-1")), ours=("own-1",)) == {"2026-11-09": {"own-1": 10**7}}


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ([], "it has no page"),
        ({"data": []}, "missing required field `has_more`"),
        ({"data": {}, "has_more": False}, "Expected `array`"),
        (page(has_more=True), "every page is needed"),
        ([page(has_more=True)], "every page is needed"),
        ([page(has_more=True), page()], "2026-11-09 twice"),
        (page(result(currency="EUR")), "is in 'EUR', and only USD"),
        (page(result(amount="-1")), "'-1' cents were not billed by anybody"),
        (page(result(amount="NaN")), "'NaN' cents were not billed by anybody"),
        (page(result(amount="1e99")), "'1e99' cents were not billed by anybody"),
        (page(result(amount="1E+99999999")), "'1E.99999999' cents were not billed by anybody"),
        (page(result(amount="1E+999999999999999999")), "1E.9*' cents were not billed by anybody"),
        (page(result(amount="1E+9999999999999999999")), "1E.9*' "),
        (page(result(amount="sNaN")), "'sNaN' is no amount"),
        (page(result(amount="1,00")), "'1,00' is no amount"),
        (page(result(amount=1)), "Expected `str`"),
        (page(result(), result(model="claude-opus-9")), "line 2 of 2026-11-09: .*claude-opus-9"),
        (page(result(model=None)), r"names no model; export it with group_by\[\]=description"),
        (page(result(model=None, cost_type=None)), "names no model"),
    ],
)
def test_what_is_no_report(document: Any, why: str) -> None:
    """What cannot be compared is refused, naming what is wrong with it."""
    with pytest.raises(UsageError, match=why):
        read(document)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2026-11-09T00:00:00Z", "2026-11-09T01:00:00Z"),
        ("2026-11-09T01:00:00Z", "2026-11-10T01:00:00Z"),
        ("2026-11-09T00:00:00Z", "2026-11-16T00:00:00Z"),
        ("2026-11-09T00:00:00", "2026-11-10T00:00:00"),
        ("yesterday", "today"),
        ("0001-01-01T00:00:00+05:00", "0001-01-02T00:00:00+05:00"),
        ("9999-12-31T00:00:00-05:00", "9999-12-31T23:59:59-05:00"),
    ],
)
def test_days_are_whole_days_of_utc(start: str, end: str) -> None:
    """Hours, weeks, and days of another zone are refused."""
    document = page()
    document["data"][0] |= {"starting_at": start, "ending_at": end}
    with pytest.raises(UsageError, match=r"day of UTC|RFC3339|timezone"):
        read(document)


@pytest.mark.parametrize("content", [b"", b"day,amount\n", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json(content: bytes) -> None:
    """A file that is something else is refused, whatever it is."""
    with pytest.raises(UsageError, match="not a cost report of Anthropic"):
        read_report(content)


# ── comparing ───────────────────────────────────────────────────────────────────────────────────


def line(hour: int, model: str, settled: int, **more: int) -> Posting:
    return Posting(hour=hour, agent="a", model=model, settled_nano=settled, **more)  # type: ignore[arg-type]


def test_every_day_and_model_is_compared() -> None:
    """Names of one model are one, searches are apart, and either side may be missing."""
    report = read_report(FIXTURE.read_bytes())
    ours = [
        line(at(2026, 11, 8, 23), OPUS, 5),
        line(at(2026, 11, 9, 0), OPUS, 7, in_doubt_nano=2),
        line(at(2026, 11, 9, 23), f"{HAIKU}-20251001", 9, search_nano=4),
        line(at(2026, 11, 9, 23), HAIKU, 1),
        line(at(2026, 11, 10, 3), "own", 3),
        line(at(2026, 11, 11, 3), "own", 3),
    ]
    assert [
        (one.day, one.model, one.billed_nano, one.settled_nano, one.in_doubt_nano)
        for one in compared(report, ours)
    ] == [
        ("2026-11-09", HAIKU, 550_000_000, 6, 0),
        ("2026-11-09", OPUS, 1_237_891_201, 7, 2),
        ("2026-11-09", "web_search", 30_000_000, 4, 0),
        ("2026-11-10", "own", 0, 3, 0),
    ]
    assert left_out(report, ours) == ["2026-11-08", "2026-11-11"]
    assert unfinished(report, at(2026, 11, 10, 23)) == ["2026-11-10"]
    assert unfinished(report, at(2026, 11, 11)) == []


@pytest.mark.parametrize(
    ("billed", "settled", "doubt", "percent", "flagged"),
    [
        (1_000, 1_000, 0, 0.0, False),
        (1_000, 1_009, 0, 0.9, False),
        (1_000, 1_010, 0, 1.0, True),
        (1_000, 1_000, 10, 1.0, True),
        (1_000, 991, 0, -0.9, False),
        (1_000, 990, 0, -1.0, True),
        (1_000, 0, 0, -100.0, True),
        (0, 1, 0, 100.0, True),
        (0, 0, 0, 0.0, False),
        (10**15, 10**15 + 10**13 - 1, 0, 0.9999999999999, False),
    ],
)
def test_what_is_flagged(billed, settled, doubt, percent, flagged):
    """One percent of the bill, more or less, is too much."""
    one = Line(day="d", model="m", billed_nano=billed, settled_nano=settled, in_doubt_nano=doubt)
    assert (one.drift_percent, one.flagged) == (percent, flagged)
