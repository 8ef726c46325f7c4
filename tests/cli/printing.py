"""An agent in whose module, and in whose tool, everything is printed that can be."""

import atexit
import os
import subprocess
import threading

import outlast
from outlast.models.script import tool_use
from stubs import asking

SAID = "said aloud"
atexit.register(print, f"{SAID} at the end", flush=True)
print(SAID, "on import")  # noqa: T201  (the point of it)


@outlast.tool(effect="read", timeout_s=5)
def look() -> str:
    """Look, and say everything."""
    print(SAID)  # noqa: T201  (the point of it)
    os.write(1, f"{SAID} by its descriptor\n".encode())
    subprocess.run(["echo", SAID, "by a process"], check=True)
    return "found"


@outlast.tool(effect="read", timeout_s=0.1)
def rest() -> None:
    """Go on after everything else."""
    said = threading.Event()
    while not said.wait(0.001):
        print(SAID, flush=True)  # noqa: T201  (the point of it)


chatty = outlast.Agent("chatty", model="claude-haiku-5-5", tools=[look, rest])
claude = asking(tool_use("look", {}), tool_use("rest", {}))
