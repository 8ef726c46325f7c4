"""What docs/approvals.md shows works."""

import re
from pathlib import Path

import outlast
from flow_stubs import opened

PAGE = (Path(__file__).parents[1] / "docs" / "approvals.md").read_text()


def test_every_block_runs() -> None:
    """The blocks run one after the other, and end with what a person said."""
    with opened() as app:
        names = {"outlast": outlast, "app": app}
        for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
            exec(compile(block, "approvals.md", "exec"), names)  # noqa: S102  (the page's code)
        assert app.get("cafes").answer == "sent, as ada said"
    assert names["pay"].needs_approval({"amount": 101, "to": "a"})
    assert not names["pay"].needs_approval({"amount": 100, "to": "a"})
