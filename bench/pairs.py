"""Fresh processes, interleaved: A B A B …, so that a slow minute of the machine hits both sides."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LONGEST_S = 120.0

Task = tuple[str, dict[str, Any]]
Result = dict[str, Any]


def run(name: str, **arguments: Any) -> Result:
    """Run one task of `worker.py` in a process of its own and return what it measured."""
    command = [sys.executable, str(HERE / "worker.py"), name, json.dumps(arguments, default=str)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_S, check=False)
    if done.returncode:
        sys.exit(f"bench: {name} failed\n{done.stderr}")
    result: Result = json.loads(done.stdout)
    return result


def interleaved(times: int, *tasks: Task, step: Callable[[], None]) -> list[list[Result]]:
    """Run all tasks, in turn, so many times; return the results of each task."""
    results: list[list[Result]] = [[] for _ in tasks]
    for _ in range(times):
        for (name, arguments), found in zip(tasks, results, strict=True):
            found.append(run(name, **arguments))
        step()
    return results


def ratios(above: list[Result], below: list[Result], key: str) -> list[float]:
    """Return the ratio of each pair."""
    return [a[key] / b[key] for a, b in zip(above, below, strict=True)]


def middle(results: list[Result], key: str) -> float:
    """Return the median of what was measured under `key`."""
    return statistics.median(result[key] for result in results)
