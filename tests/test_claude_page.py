"""What docs/claude.md shows works."""

import re
from pathlib import Path
from typing import Any

import pytest

import outlast
from outlast.models.scripted import ScriptedModel
from stubs import agent, asking

PAGE = (Path(__file__).parents[1] / "docs" / "claude.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_every_block_runs(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Each block runs by itself, given `outlast`, an `app` and an `agent`."""
    with outlast.Outlast("memory://", model=ScriptedModel(asking(answer="Fine."))) as app:
        names: dict[str, Any] = {"outlast": outlast, "app": app, "agent": agent()}
        exec(compile(BLOCKS[number], "claude.md", "exec"), names)  # noqa: S102  (the page's code)
        if "run" in names:
            assert names["run"].status == "completed", names["run"].why
        if "stream" in names:
            assert capsys.readouterr().out == "Fine.completed\n"
        if "careful" in names:
            names["careful"].close()
