"""docs/streaming.md says what is so."""

import asyncio
import logging
import re
from pathlib import Path
from typing import Any

import pytest

import outlast
from outlast.models import Part
from outlast.models.scripted import ScriptedModel
from stubs import agent, asking

PAGE = (Path(__file__).parents[2] / "docs" / "streaming.md").read_text()
SYNC, ASYNC, LOGGING = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def run_block(block: str, **names: Any) -> dict[str, Any]:
    names |= {"outlast": outlast, "logging": logging}
    exec(compile(block, "docs/streaming.md", "exec"), names)  # noqa: S102  (the page's own code)
    return names


def test_the_streams_of_the_page_run(capsys: pytest.CaptureFixture[str]) -> None:
    """Both streams of the page print what Claude says, the second one without a call."""
    model = ScriptedModel(asking(answer="Five grants."))
    with outlast.Outlast("memory://", model=model) as app:
        run_block(SYNC, app=app, researcher=agent())
        run = app.get("grants-001")
        assert capsys.readouterr().out == f"Five grants.completed {run.cost_usd}\n"
        watch = run_block(ASYNC, app=app, researcher=agent())["watch"]
        assert asyncio.run(watch()) == run
        assert capsys.readouterr().out == "text Five grants.\n"
    assert len(model.calls) == 1


def test_the_logging_of_the_page_works(capsys: pytest.CaptureFixture[str]) -> None:
    """With the page's handler a line begins with its run and its seq."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers.clear()
    try:
        run_block(LOGGING)
        logging.getLogger("mine").info("hello")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    assert capsys.readouterr().err == "#0 mine: hello\n"


def test_the_page_names_the_parts() -> None:
    """The page lists every kind of part, and the attributes of a part in their order."""
    kinds = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert kinds == ["kind", "text", "thinking", "tool_use", "discarded"]
    assert f"outlast.Part({', '.join(Part.__struct_fields__)})" in PAGE


def test_one_sentence_a_line() -> None:
    """Prose stands one sentence a line, so that diffs read well."""
    prose = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
    for line in prose.splitlines():
        if not line.startswith(("|", "#")):
            assert not re.search(r"[.!?] [A-Z]", line), line
