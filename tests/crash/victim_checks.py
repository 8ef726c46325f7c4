"""Runs an agent whose answers are checked, in processes that kill themselves with SIGKILL.

    python -c "import victim_checks; victim_checks.main()" FOLDER STEP

Every append of a run is a place to die before and after.  For each STEPth one run is begun by a
process that dies there, and ended by another one.  What Claude is asked is written to a file when
the request arrives.
"""

from __future__ import annotations

import os
import signal
import sys
from hashlib import sha256
from typing import Any

from pydantic import BaseModel
from victim_approvals import Deadly

import outlast
from outlast.models.script import Turn, say, tool_use, turn_number
from outlast.models.scripted import ScriptedModel

HOME = "CHECKS_HOME"


class Grant(BaseModel):
    """A grant."""

    name: str
    who: str = ""


@outlast.check
def says_who(answer: Grant) -> list[str]:
    """Say who may apply."""
    return [] if answer.who else ["who is missing"]


@outlast.tool(effect="read")
def search(word: str) -> str:
    """Search grants."""
    return "Ladder, for charities"


clerk = outlast.Agent(
    "clerk",
    model="claude-haiku-5-5",
    max_tokens=512,
    tools=[search],
    answer=Grant,
    checks=[says_who, outlast.Judge("Is it what the tool says?")],
)


def script(request: dict[str, Any], attempt: int) -> Turn:
    """Search, answer wrongly twice, and then rightly; judge the second one to be wrong."""
    if "You judge an answer" in str(request.get("system")):
        wrong = "schools" in str(request["messages"])
        issues = '["schools may not"]' if wrong else "[]"
        valid = "false" if wrong else "true"
        return say(f'{{"issues":{issues},"valid":{valid},"confidence":1,"suggestion":""}}')
    if turn_number(request) == 1:
        return say(tool_use("search", {"word": "ladder"}))
    times = str(request["messages"]).count("is not accepted")
    who = ("", "schools", "charities")[times]
    return say(f'{{"name":"Ladder","who":"{who}"}}')


class Heard(ScriptedModel):
    """Writes down what it is asked."""

    async def call(self, request: Any, *, on_part: Any) -> Any:
        file = os.open(f"{os.environ[HOME]}/asked", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        line = f"{request.run_id} {sha256(request.body()).hexdigest()}\n"
        os.write(file, line.encode())
        os.close(file)
        return await super().call(request, on_part=on_part)


def killed(run_id: str, kill_at: int) -> bool:
    """Drive a run in a forked process; return whether that was killed."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or status == 0, status
        return os.WIFSIGNALED(status)
    signal.alarm(60)
    try:
        store: Any = Deadly(f"sqlite:///{os.environ[HOME]}/s.db", kill_at)
        run = outlast.Outlast(store, model=Heard(script)).run(clerk, "Go.", run_id=run_id)
        os._exit(0 if run.status == "completed" else 71)
    finally:
        os._exit(70)


def main() -> None:
    os.environ[HOME] = sys.argv[1]
    assert not killed("whole", 0)
    point, step = 1, int(sys.argv[2])
    while killed(f"r{point}", point):
        assert not killed(f"r{point}", 0), point
        point += step
