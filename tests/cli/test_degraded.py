"""What people and programs are shown of an answer that is less than what was asked for."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import outlast
from cli.console import typed
from outlast.models.script import tool_use
from outlast.models.scripted import ScriptedModel
from stubs import MODEL, asking


def attic(word: str) -> Any:
    """Find it in the attic."""
    at = datetime(2026, 3, 1, tzinfo=UTC)
    return outlast.Degraded([word], source="the attic", as_of=at, note="dusty")


@outlast.tool(effect="read", fallbacks=[attic])
def find(word: str, most: int = 5) -> list[str]:
    """Find it."""
    raise ConnectionError("locked")


finder = outlast.Agent("finder", model=MODEL, tools=[find])


def test_show_says_in_what_an_answer_is_less(tmp_path: Path) -> None:
    """Which tool, from where, as of when, what was not heeded, in words and as data."""
    url = f"sqlite:///{tmp_path}/a.db"
    model = ScriptedModel(asking(tool_use("find", {"word": "owls"})))
    with outlast.Outlast(url, model=model) as app:
        app.run(finder, "Find owls.", run_id="r")
    shown = typed("show", "r", "--store", url).output
    (line,) = [line for line in shown.splitlines() if line.startswith("degraded")]
    told = "find from the attic, as of 2026-03-01T00:00:00Z, not filtered by most; dusty"
    assert line.removeprefix("degraded").strip() == told
    shape = json.loads(typed("show", "r", "--json", "--store", url).output)
    assert shape["degraded"] is True
    (less,) = shape["degradations"]
    assert less == {
        "tool": "find",
        "step": None,
        "call_id": "ask-1.m1.t1.2",
        "source": "the attic",
        "as_of": "2026-03-01T00:00:00.000000Z",
        "note": "dusty",
        "dropped_filters": ["most"],
        "ask": None,
    }
    logged = typed("log", "r", "--store", url).output
    assert "asks attic instead" in logged
    assert "degraded: the attic as of " in logged
