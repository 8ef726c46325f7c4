"""What docs/budgets.md shows works."""

import re
from pathlib import Path
from typing import Any

import pytest

import outlast
from outlast.models.scripted import ScriptedModel
from stubs import asking

PAGE = (Path(__file__).parents[1] / "docs" / "budgets.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_every_block_runs(number: int) -> None:
    """Each block runs by itself, given `outlast` and an `app`."""
    with outlast.Outlast("memory://", model=ScriptedModel(asking(answer="Fine."))) as app:
        names: dict[str, Any] = {"outlast": outlast, "app": app}
        exec(compile(BLOCKS[number], "budgets.md", "exec"), names)  # noqa: S102  (the page's code)
        if "careful" in names:
            assert app.run(names["careful"], "Well?").answer == "Fine."
