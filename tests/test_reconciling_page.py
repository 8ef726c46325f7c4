"""What docs/reconciling.md shows works."""

import re
from pathlib import Path
from typing import Any

import outlast
from outlast.models.script import say, tool_use, turn_number
from outlast.models.scripted import ScriptedModel

PAGE = (Path(__file__).parents[1] / "docs" / "reconciling.md").read_text()


def clerk(request: dict[str, Any], attempt: int) -> Any:
    """Pay, and then write."""
    turn = turn_number(request)
    if turn == 1:
        return say(tool_use("pay", {"to": "ada", "pounds": 5}))
    return say(tool_use("send_letter", {"to": "ada"})) if turn == 2 else say("Paid and written.")


def test_every_block_runs() -> None:
    """The blocks run one after the other: one call is found out, one is said, one taken back."""
    with outlast.Outlast("memory://", model=ScriptedModel(clerk)) as app:
        names: dict[str, Any] = {"outlast": outlast, "app": app}
        for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
            exec(compile(block, "reconciling.md", "exec"), names)  # noqa: S102  (the page's code)
        assert app.get("ada").answer == "Paid and written."
        assert list(names["book"].values()) == ["5 to ada"]
        assert app.get("grace").status == "cancelled"
        assert app.run(names["clerk"], "Pay.", run_id="again").status == "waiting"
        assert app.cancel("again", undo=True).why.startswith("cancelled; 1 of 1 calls were undone")
        assert names["book"]["back"] == "5 to ada, and back"
