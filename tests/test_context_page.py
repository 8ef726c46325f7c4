"""What docs/context.md shows works."""

import re
from pathlib import Path

import outlast
from outlast import context
from outlast.results import TAIL
from outlast.tools import MAX_RESULT_TOKENS

PAGE = (Path(__file__).parents[1] / "docs" / "context.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_every_block_runs() -> None:
    """Each block runs by itself, given `outlast`."""
    assert BLOCKS
    for block in BLOCKS:
        exec(block, {"outlast": outlast})  # noqa: S102  (our own page)


def test_the_numbers_are_those_of_the_code() -> None:
    """The page says what the code does."""
    assert f"{MAX_RESULT_TOKENS:,} unless given" in PAGE
    assert (context.HEADROOM, TAIL, context.FRUITLESS) == (5, 4, 2)
    assert f"{context.LEAST_RESULT:,} tokens each at least" in PAGE
    assert context.compacts("claude-opus-4-6")
    assert not context.compacts("claude-sonnet-4-5-20250929")
    assert not context.compacts("claude-opus-4-20250514")
    assert context.compacts("eu.anthropic.claude-opus-5-5-v1:0")
    assert not context.compacts("house-model")
