"""Types at outlast: in this process, or in one of its own; and fills a store to look at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

import outlast
from outlast.cli import app
from outlast.models.script import Fault, say, tool_use, turn_number
from outlast.models.scripted import ScriptedModel

TESTS = Path(__file__).parents[1]
SOURCE = str(Path(outlast.__file__).parents[1])


def typed(*words: str, **env: str) -> Any:
    """Run a command in this process; what is not in `env` is not in its environment."""
    given = dict.fromkeys(("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "OUTLAST_STORE")) | env
    return CliRunner().invoke(app, list(words), env=given)


def documents(text: str) -> list[dict[str, Any]]:
    """Return the JSON of each line."""
    return [json.loads(line) for line in text.splitlines()]


def process(*words: str, cwd: Path, **env: str) -> subprocess.Popen[str]:
    """Start a command in a process of its own, its output in pipes."""
    return subprocess.Popen(
        [sys.executable, "-m", "outlast", *words],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": f"{SOURCE}{os.pathsep}{TESTS}"} | env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def finished(command: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Return the exit code, the output and the errors of a command, once it has ended."""
    with command:
        try:
            out, err = command.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            command.kill()
            raise
    return command.returncode, out, err


def read_until(command: subprocess.Popen[str], seen: Callable[[str], bool]) -> list[str]:
    """Return the lines of a command's output, up to one that is `seen` or to its end."""
    lines: list[str] = []
    assert command.stdout
    for line in command.stdout:
        lines.append(line)
        if seen(line):
            break
    return lines


@outlast.tool(effect="read")
def look_up(keyword: str, limit: int = 5) -> list[str]:
    """Look something up."""
    return [keyword] * limit


@outlast.tool(effect="read")
def ask_website(url: str) -> str:
    """Ask a website."""
    raise ConnectionError(f"{url} does not answer")


def agent(
    name: str = "finder", *, turns: int = 20, model: str = "claude-opus-5-5"
) -> outlast.Agent:
    """Return an agent with two tools, one of them broken."""
    return outlast.Agent(
        name, model=model, tools=[look_up, ask_website], budget=outlast.Budget(turns=turns)
    )


def claude(request: dict[str, Any], attempt: int) -> Any:
    """Call both tools after one overload, then answer; a question may ask to fail or to wait."""
    question = str(request["messages"][0]["content"])
    if "fail" in question:
        return Fault(kind="status", status=400, message="the request is not one")
    if "wait" in question:
        return say("At last.", total_s=60.0 if attempt == 1 else 0.0)
    if turn_number(request) > 1:
        return say("**Found** it.\n\nAll of it.")
    if attempt == 1:
        return Fault(kind="status", status=529, message="Overloaded")
    return say(
        "Let me look.",
        tool_use("look_up", {"keyword": "deaf", "limit": 2}),
        tool_use("ask_website", {"url": "example.org"}),
    )


def filled(store: str) -> Iterator[outlast.Outlast]:
    """Lend an app whose store holds a run of each ending: done, out-of-turns and refused."""
    with outlast.Outlast(store, model=ScriptedModel(claude)) as filling:
        filling.run(agent(), "What is there?", run_id="done", tenant="acme", tags={"a": "b"})
        filling.run(agent("miser", turns=1), "What is there?", run_id="out-of-turns")
        filling.run(agent(), "Please fail.", run_id="refused")
        filling.start(agent(), "Not yet.", run_id="queued")
        yield filling
