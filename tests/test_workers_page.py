"""What docs/workers.md shows works."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import outlast
from outlast.models.script import say
from outlast.models.scripted import ScriptedModel

PAGE = (Path(__file__).parents[1] / "docs" / "workers.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_page_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that was left to a worker is driven by one, and its result is waited for."""
    monkeypatch.chdir(tmp_path)
    model = ScriptedModel(lambda request, attempt: say("Monday."))
    monkeypatch.setattr(outlast, "Outlast", partial(outlast.Outlast, model=model))
    names: dict[str, Any] = {}
    for block in BLOCKS:
        exec(compile(block, "workers.md", "exec"), names)  # noqa: S102  (the page's code)
    names["app"].close()
    assert capsys.readouterr().out == "Monday.\n"
    assert len(BLOCKS) == 2
