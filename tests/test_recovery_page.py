"""What docs/recovery.md shows works."""

import re
from pathlib import Path
from typing import get_args

import msgspec

import outlast
from outlast.actions import NAP_NS
from outlast.classes import STATUSES
from outlast.events import UNDONE, ErrorClass
from outlast.models.script import tool_results, tool_use
from outlast.models.scripted import ScriptedModel
from outlast.recovery import BACKOFF_S, GOES_ON, LONGEST_S, PASSES, RETRIES, SHARE
from stubs import asking

PAGE = (Path(__file__).parents[1] / "docs" / "recovery.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_example_does_what_the_page_says() -> None:
    """The tool fails, the fallback answers, and Claude is told of how much that is worth."""
    given = {"outlast": outlast}
    for block in BLOCKS:
        exec(block, given)  # noqa: S102  (our own page)
    use = tool_use("search_grants", {"keyword": "AI", "max_usd": 50_000})
    claude = ScriptedModel(asking(use))
    with outlast.Outlast("memory://", model=claude) as app:
        run = app.run(given["researcher"], "Find grants.", run_id="r")
        assert (run.status, run.turns, run.degraded) == ("completed", 2, True)
        tags = [record.event.__struct_config__.tag for record in app.log("r")]
    assert tags.count("tool_call_started") == 3 + 2
    (result,) = tool_results(msgspec.json.decode(claude.calls[-1]))
    note, answer = (block["text"] for block in result["content"])
    assert "from last week's export, as of 2026-11-16T00:00:00Z; not filtered by max_usd" in note
    assert answer == '["AI for Good","Open Data Fund"]'


def rows() -> dict[str, list[str]]:
    lines = [line.strip("|").split("|") for line in PAGE.splitlines() if line.startswith("| `")]
    return {cells[0].strip(" `"): [cell.strip() for cell in cells[1:]] for cells in lines}


def test_the_table_is_that_of_the_code() -> None:
    """Every class stands in the table, with what is done about it."""
    assert set(rows()) == set(get_args(ErrorClass))
    for name, (sources, again, once, goes_on) in rows().items():
        assert again.startswith("again") == (name in PASSES), name
        assert once.startswith("again") == (name in PASSES & UNDONE), name
        assert (once == "in doubt") == (name in PASSES - UNDONE), name
        further = "no: back to Claude"
        if name in GOES_ON:
            further = "yes" if name in UNDONE else "of a read"
        assert goes_on == further, name
        for status in re.findall(r"\b4\d\d\b", sources):
            assert STATUSES.get(int(status), "invalid_arguments") == name, status


def test_the_numbers_are_those_of_the_code() -> None:
    """The page says what the code does."""
    *first, last = (f"{wait_s:g}" for wait_s in BACKOFF_S)
    assert f"{', '.join(first)} and {last} seconds" in PAGE
    assert LONGEST_S == 60
    assert NAP_NS == 5_000_000_000
    assert (RETRIES, SHARE) == (10, 5)
