"""Ten tools of one reply: all at once, one message, also after the process died among them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

import outlast
from outlast.events import ToolCallFailed, ToolCallSucceeded
from outlast.journal import Record
from outlast.models.script import tool_use
from outlast.models.scripted import ScriptedModel
from stubs import agent, asking, results

PATIENCE_S = 60
"""How long a test waits before it says that something hangs; nothing is expected to take it."""

FAILING, SLOW, CRASHED = (1, 4, 7), (2, 8), 5


Pause = Callable[[int], object]


def tools(world: Path, pause: Pause = lambda number: None) -> list[outlast.Tool[..., Any]]:
    """Return ten tools, of which three fail; each begins by leaving a trace, and then pauses."""

    def numbered(number: int) -> outlast.Tool[..., Any]:
        def work() -> str:
            with (world / f"{number}.begun").open("a") as file:
                file.write(".")
            pause(number)
            if number in FAILING:
                raise ValueError("no")
            return f"slow {number}" if number in SLOW else f"found {number}"

        return outlast.tool(effect="read", name=f"tool_{number}", timeout_s=None)(work)

    return [numbered(number) for number in range(10)]


def told(model: ScriptedModel) -> list[tuple[str, bool]]:
    """Return what Claude is told, in one message, in the order in which it asked."""
    _, reply, answer = msgspec.json.decode(model.calls[-1])["messages"]
    uses = [block["id"] for block in reply["content"]]
    assert [block["tool_use_id"] for block in answer["content"]] == uses
    return [(one["content"], one.get("is_error", False)) for one in results(model)]


EXPECTED = [
    (f"tool_{number} failed with ValueError. The call has no result.", True)
    if number in FAILING
    else (f"slow {number}" if number in SLOW else f"found {number}", False)
    for number in range(10)
]


def script() -> Any:
    return asking(*[tool_use(f"tool_{number}", {}) for number in range(10)])


def test_the_slowest_is_all_that_is_waited_for(tmp_path: Path) -> None:
    """All ten run at the same time: none goes on before all have begun, the slow ones wait for all.

    One after another they would never end.
    """
    model = ScriptedModel(script())
    together = threading.Barrier(10, timeout=PATIENCE_S)
    quick = threading.Semaphore(0)

    def pause(number: int) -> None:
        together.wait()
        if number not in SLOW:
            quick.release()
        else:
            for _ in range(4):  # both of them, so all eight
                assert quick.acquire(timeout=PATIENCE_S)

    with outlast.Outlast("memory://", model=model) as app:
        assert app.run(agent(*tools(tmp_path, pause)), "Go.").answer == "done"
    assert len(model.calls) == 2
    assert told(model) == EXPECTED


def test_one_that_crashes_costs_the_others_nothing(tmp_path: Path) -> None:
    """The process is killed while three of ten are running: those alone are called again.

    Claude gets one message of ten results, in order, after one paid reply.
    """
    command = [sys.executable, "-P", __file__, str(tmp_path)]
    env = {"PYTHONPATH": os.pathsep.join(sys.path)}
    died = subprocess.run(command, env=env, timeout=PATIENCE_S, check=False, capture_output=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    model = ScriptedModel(script())
    with outlast.Outlast(f"sqlite:///{tmp_path}/a.db", model=model) as app:
        run = app.resume("r", agent(*tools(tmp_path)))
        assert run.answer == "done", run.why
    assert len(model.calls) == 1, "the reply is not bought again"
    assert told(model) == EXPECTED
    begun = [len((tmp_path / f"{number}.begun").read_text()) for number in range(10)]
    assert begun == [2 if number in {CRASHED, *SLOW} else 1 for number in range(10)]


def main(folder: str) -> None:
    """Begin the run, and be killed by one of the tools, once all but three have an outcome."""
    written = threading.Semaphore(0)

    def watch(record: Record) -> None:
        if isinstance(record.event, ToolCallSucceeded | ToolCallFailed):
            written.release()

    def pause(number: int) -> None:
        if number == CRASHED:
            for _ in range(7):
                assert written.acquire(timeout=PATIENCE_S)
            os.kill(os.getpid(), signal.SIGKILL)
        if number in SLOW:
            threading.Event().wait(PATIENCE_S)

    model = ScriptedModel(script())
    with outlast.Outlast(f"sqlite:///{folder}/a.db", model=model) as app:
        app.run(agent(*tools(Path(folder), pause)), "Go.", run_id="r", on_record=watch)


if __name__ == "__main__":
    main(sys.argv[1])
