"""A process that trips the breaker of a source, tries it again, and hangs while it does.

`TRYING` is a folder; the store is the first argument.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import outlast
from outlast.breaker import Breaker
from outlast.models.script import Script, tool_use
from outlast.models.scripted import ScriptedModel
from stubs import agent, asking


def asking_for(name: str) -> Script:
    """Return a Claude that uses a tool once."""
    return asking(tool_use(name, {}))


def main(path: str) -> None:
    """Trip the breaker, and hang as the one who tries."""
    calls: list[int] = []

    @outlast.tool(source="grants-db", effect="read")
    def look() -> str:
        calls.append(1)
        if len(calls) <= 2:
            raise ConnectionRefusedError("no")
        print("trying", flush=True)  # noqa: T201  (for who waits for it)
        time.sleep(60)
        return "never"

    few: Any = Breaker(calls=2, open_s=0.5, probes=1)
    model = ScriptedModel(asking_for("look"))
    with outlast.Outlast(f"sqlite:///{path}", model=model, breaker=few) as app:
        for n in range(2):
            app.run(agent(look), "x", run_id=f"before-{n}")
        app.run(agent(look), "x", run_id="prober")


if __name__ == "__main__":
    main(sys.argv[1])
