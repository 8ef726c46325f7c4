"""What docs/outages.md shows works."""

import re
from pathlib import Path

import outlast
from outlast.actions import NAP_NS
from outlast.decide import ATTEMPTS, BACKOFF_S
from outlast.pacing import SPREAD_NS

PAGE = (Path(__file__).parents[1] / "docs" / "outages.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_every_block_runs() -> None:
    """Each block runs by itself, given `outlast`."""
    for block in BLOCKS:
        exec(block, {"outlast": outlast})  # noqa: S102  (our own page)


def test_the_numbers_are_those_of_the_code() -> None:
    """The page says what the code does."""
    *first, last = (f"{wait_s:g}" for wait_s in BACKOFF_S)
    assert ATTEMPTS == 8
    assert f"up to eight times, after {', '.join(first)} and {last} seconds" in PAGE
    assert NAP_NS == 5_000_000_000
    assert SPREAD_NS == 30_000_000_000
    assert "at most 30 seconds" in PAGE
    assert "600 unless given" in PAGE
