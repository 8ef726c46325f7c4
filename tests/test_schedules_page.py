"""What docs/schedules.md shows works, and what it says of the clock is so."""

import re
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

import outlast
from outlast.models.scripted import ScriptedModel
from outlast.schedules import NANO, following, moments
from stubs import asking

PAGE = (Path(__file__).parents[1] / "docs" / "schedules.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_every_block_runs(number: int) -> None:
    """Each block runs by itself, given `outlast` and an `app`."""
    with outlast.Outlast("memory://", model=ScriptedModel(asking(answer="Fine."))) as app:
        names = {"outlast": outlast, "app": app}
        exec(compile(BLOCKS[number], "schedules.md", "exec"), names)  # noqa: S102  (the page's code)


def of_day(cron: str, month: int, day: int) -> list[str]:
    """Return when an expression is run on a day in Berlin, between one and four in the morning."""
    first = int(datetime(2027, month, day, 1, tzinfo=BERLIN).timestamp()) * NANO
    found = []
    for at in moments(cron, "Europe/Berlin", first):
        moment = datetime.fromtimestamp(at // NANO, BERLIN)
        if (moment.day, moment.hour) >= (day, 4) or moment.day != day:
            return found
        found.append(f"{moment:%H:%M}")
    return found


def test_the_table_of_the_clock_is_so() -> None:
    """Each line of the table is what the expression names on those days."""
    march = {cron: of_day(cron, 3, 28) for cron in ("30 2 * * *", "30 * * * *", "*/30 2 * * *")}
    october = {cron: of_day(cron, 10, 31) for cron in march}
    assert march == {"30 2 * * *": ["03:00"], "30 * * * *": ["01:30", "03:30"], "*/30 2 * * *": []}
    assert october["30 2 * * *"] == ["02:30"]
    assert october["30 * * * *"] == ["01:30", "02:30", "02:30", "03:30"]
    assert len(october["*/30 2 * * *"]) == 4
    assert of_day("0,30 2 * * *", 3, 28) == ["03:00"]
    assert all(f"| `{cron}` |" in PAGE for cron in march)


@pytest.mark.parametrize(
    ("cron", "day"),
    [
        ("0 0 * * 7", "2026-11-29"),
        ("0 0 * * 0", "2026-11-29"),
        ("0 0 L * *", "2026-11-30"),
        ("0 0 LW * *", "2026-11-30"),
        ("0 0 * * 5L", "2026-11-27"),
        ("0 0 * * MON#1", "2026-12-07"),
        ("0 0 1,15 * *", "2026-12-01"),
        ("0 0 25 * MON", "2026-11-25"),
        ("0 0 * JAN *", "2027-01-01"),
    ],
)
def test_what_the_page_says_of_the_fields_is_so(cron: str, day: str) -> None:
    """Each way to write a field means what the page says."""
    at = following(cron, "UTC", int(datetime(2026, 11, 24, tzinfo=UTC).timestamp()) * NANO)
    assert at is not None
    assert f"{datetime.fromtimestamp(at // NANO, UTC):%Y-%m-%d}" == day


def test_one_sentence_a_line() -> None:
    """Prose stands one sentence a line, so that diffs read well."""
    prose = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
    for line in prose.splitlines():
        if not line.startswith(("|", "#")):
            assert not re.search(r"[.!?] [A-Z]", line), line
