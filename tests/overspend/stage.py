"""Plays scenarios: the simulator and the workers, each in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from scenarios import RUNS, UNITS, WORKERS, BudgetPlan, Scenario, WorkerPlan, drawn

from outlast.events import BudgetSet
from outlast.limits import set_budget
from outlast.stores import open_store
from outlast.testing import simulator
from outlast.testing.simulator.state import BILL, REQUESTS

HERE = Path(__file__).parent

UNDER_WAY_S = 0.4
"""After so many seconds budgets are tightened; nothing is judged by what has happened until then.
"""


@dataclass(frozen=True, kw_only=True)
class Billed:
    """A request that was billed, and who was to pay for it."""

    run: str
    root: str
    tenant: str
    agent: str
    model: str
    began_at: int
    """When its intent was written, by the clock of the worker."""
    nano: int
    tokens: int
    calls: int = 1
    turns: int = 1


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a scenario, as the world outside of it has it."""

    scenario: Scenario
    store: str
    bill: list[Billed]
    requests: int
    kills: list[str]
    jumps: int
    taken: dict[tuple[str, str], int] = field(default_factory=dict)
    """What was taken of a budget, by scope and unit, when it was tightened."""
    too_small: set[str] = field(default_factory=set)


class Worker:
    """A process that forks one life after the other."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.lines = channel.makefile("rw")

    def live(self, life: dict[str, Any]) -> bool:
        """Let a life begin, and return whether it was killed."""
        self.lines.write(json.dumps(life) + "\n")
        self.lines.flush()
        ended = json.loads(self.lines.readline())
        assert ended in (0, -signal.SIGKILL), (ended, life)
        return bool(ended)

    def close(self) -> None:
        self.lines.close()
        self.channel.close()


def hired(workers: int) -> tuple[subprocess.Popen[bytes], list[Worker]]:
    """Start the workers, and the process that they are forked from."""
    pairs = [socket.socketpair() for _ in range(workers)]
    fds = [theirs.fileno() for _, theirs in pairs]
    process = subprocess.Popen(
        [sys.executable, str(HERE / "spender.py"), *map(str, fds)],
        pass_fds=fds,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])},
    )
    for _, theirs in pairs:
        theirs.close()
    return process, [Worker(ours) for ours, _ in pairs]


class Stage:
    """One simulator and some workers, for any number of scenarios."""

    def __init__(self, home: Path, *, workers: int = WORKERS, broken: Sequence[str] = ()) -> None:
        self.home = home
        self.broken = broken
        self.process, self.workers = hired(workers)
        self.claude = self._started()
        self.read = {REQUESTS: 0, BILL: 0}
        self.played = 0

    def _started(self) -> simulator.Simulator:
        return simulator.start(script="claude_of:faulty_script", path=[HERE])

    def close(self) -> None:
        for worker in self.workers:
            worker.close()
        try:
            self.process.wait(30)
        finally:
            self.process.kill()
            self.process.wait()
            self.claude.stop()

    def renew(self) -> None:
        """Forget what the simulator wrote down, which grows."""
        self.claude.stop()
        self.claude = self._started()
        self.read = {REQUESTS: 0, BILL: 0}

    def play(self, seed: int, *, runs: int = RUNS) -> Outcome:
        """Play a scenario to its end."""
        scenario = drawn(seed, runs=runs)
        self.played += 1
        home = self.home / f"{self.played}"
        home.mkdir()
        store = f"sqlite:///{home}/s.db"
        self._set_budgets(scenario, store)
        taken: dict[tuple[str, str], int] = {}
        began = time.monotonic_ns()
        common = {
            "seed": seed,
            "runs": runs,
            "broken": self.broken,
            "store": store,
            "claude": self.claude.url,
            "began": began,
        }
        with ThreadPoolExecutor(len(self.workers)) as pool:
            lives = pool.map(
                lambda number: self._live(number, scenario.workers[number], home, common),
                range(len(self.workers)),
            )
            if any(plan.tightened for plan in scenario.budgets):
                time.sleep(UNDER_WAY_S)
                taken = self._tighten(scenario, store)
            list(lives)
        # Whoever was left by all its drivers is driven to rest by one more.
        left = self._unfinished(scenario, store)
        if left:
            last = WorkerPlan(drives=tuple(left), takes_over=(), dies_at=())
            self._live(0, last, home, common | {"last": True})
        return self._outcome(scenario, store, home, taken)

    def _live(self, number: int, plan: WorkerPlan, home: Path, common: dict[str, Any]) -> None:
        for life, dies_at in enumerate((*plan.dies_at, 0)):
            told = common | {
                "worker": number,
                "life": life + 10 * ("last" in common),
                "drives": plan.drives,
                "takes_over": plan.takes_over,
                "dies_at": dies_at,
                "log": str(home / f"kills-{number}"),
                "ended": str(home / f"ended-{number}-{life}"),
            }
            if not self.workers[number].live(told):
                return

    def _set_budgets(self, scenario: Scenario, store: str) -> None:
        journal = open_store(store, synchronous="OFF")
        for plan in scenario.budgets:
            wide = plan.amounts(times=1_000 if plan.tightened else 1)
            set_budget(journal, _set(plan, wide), at=scenario.begins_at)
        journal.close()

    def _tighten(self, scenario: Scenario, store: str) -> dict[tuple[str, str], int]:
        """Set what was wide until now, and return what was taken of it then, and may be more."""
        taken = {}
        journal = open_store(store, synchronous="OFF")
        for plan in scenario.budgets:
            if plan.tightened:
                set_budget(journal, _set(plan, plan.amounts()), at=scenario.begins_at)
                for unit in UNITS:
                    taken[plan.scope, unit] = journal.balance(plan.scope, unit=unit).taken
        journal.close()
        return taken

    def _unfinished(self, scenario: Scenario, store: str) -> list[str]:
        journal = open_store(store, synchronous="OFF")
        rows = {row.id: row.status for row in journal.runs()}
        journal.close()
        ends = ("completed", "stopped", "failed")
        return [run.id for run in scenario.runs if rows.get(run.id) not in ends]

    def _outcome(
        self, scenario: Scenario, store: str, home: Path, taken: dict[tuple[str, str], int]
    ) -> Outcome:
        requests = {
            (line["key"], line["attempt"]): line for line in self._news(REQUESTS) if line["attempt"]
        }
        ended = [json.loads(path.read_text()) for path in home.glob("ended-*")]
        return Outcome(
            scenario=scenario,
            store=store,
            bill=[
                _billed(line, requests[line["key"], line["attempt"]]) for line in self._news(BILL)
            ],
            requests=len(requests),
            kills=[line for path in home.glob("kills-*") for line in path.read_text().splitlines()],
            jumps=sum(one["jumps"] for one in ended),
            taken=taken,
            too_small={run for one in ended for run in one["too_small"]},
        )

    def _news(self, name: str) -> list[dict[str, Any]]:
        with (self.claude.state / name).open("rb") as file:
            file.seek(self.read[name])
            whole = file.read()
        self.read[name] += len(whole)
        return [msgspec.json.decode(line) for line in whole.splitlines()]


def _set(plan: BudgetPlan, amounts: dict[str, int | None]) -> BudgetSet:
    return BudgetSet(
        scope=plan.scope, window=plan.window, tz=plan.tz, reason="a scenario", **amounts
    )


def _billed(line: dict[str, Any], request: dict[str, Any]) -> Billed:
    body = msgspec.json.decode(request["body"])
    content = body["messages"][0]["content"]
    told = json.loads(content if isinstance(content, str) else content[0]["text"])
    run, at = request["headers"]["user-agent"].split()
    system = body["system"]
    usage = line["usage"]
    return Billed(
        run=run,
        root=told["root"],
        tenant=told["tenant"],
        agent=(system if isinstance(system, str) else system[0]["text"]).removeprefix("agent "),
        model=line["model"],
        began_at=int(at),
        nano=line["nano_usd"],
        tokens=sum(usage.get(name) or 0 for name in TOKENS),
    )


TOKENS: Sequence[str] = (
    "input_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "output_tokens",
)
