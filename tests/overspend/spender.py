"""A process that drives its share of a scenario, with a clock of its own, until it is killed.

All of them are forked from one, because importing the SDK takes seconds.  A life comes as a line of
JSON over a socket; how it ended, as the exit code that a shell would know, is the answer.
"""

from __future__ import annotations

import time
from contextvars import ContextVar


class Clock:
    """What this process takes for the time; it jumps."""

    began = time.monotonic_ns()
    begins_at = time.time_ns()
    skew = 0

    def __call__(self) -> int:
        return self.begins_at + self.skew + time.monotonic_ns() - self.began


CLOCK = Clock()
time.time_ns = CLOCK  # type: ignore[assignment]  # before anybody has a reference to the real one

import asyncio  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import random  # noqa: E402
import signal  # noqa: E402
import socket  # noqa: E402
import sys  # noqa: E402
import traceback  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import anthropic  # noqa: E402
import scenarios  # noqa: E402
from rules import BROKEN  # noqa: E402
from scenarios import HOUR_NS, RARE, RunPlan, Scenario, WorkerPlan, drawn  # noqa: E402
from spenders import agents_of, flow_of  # noqa: E402

import outlast  # noqa: E402
from outlast import app as apps  # noqa: E402
from outlast import decide, limiter, runner  # noqa: E402
from outlast.errors import BudgetTooSmall  # noqa: E402
from outlast.events import ModelCallStarted, tag  # noqa: E402
from outlast.journal import Commit, Journal  # noqa: E402
from outlast.models.anthropic import AnthropicModel  # noqa: E402
from outlast.stores import open_store  # noqa: E402

# Nothing is learned from waiting longer.
# Nor from waiting for a turn by clocks that differ by an hour: see tests/outages.
limiter.draws = lambda *_, **__: []  # type: ignore[assignment]
decide.BACKOFF_S = (0.005,) * 7  # type: ignore[misc, assignment]
decide.RETRY_NS = 30_000_000  # type: ignore[misc]
apps._POLL_S = 0.03  # type: ignore[misc]
if hasattr(runner, "LOOKS_S"):
    runner.LOOKS_S = 0.2

CLIENT = anthropic.AsyncAnthropic(api_key="none", max_retries=0)
WHO: ContextVar[str] = ContextVar("WHO", default="")
"""What the request that is on its way says of itself, where the simulator writes it down."""

anthropic.AsyncAnthropic.user_agent = property(lambda _: WHO.get())  # type: ignore[assignment, method-assign]

LONGEST_S = 100
"""After so many seconds something hangs."""


class Fate:
    """Counts what this life appends, ends it at one append, and lets the clock jump at others."""

    def __init__(self, dies_at: int, seed: str, log: Path) -> None:
        self.dies_at = dies_at
        self.dice = random.Random(seed)  # noqa: S311  (a scenario, not a secret)
        self.before = self.dice.random() < 0.5
        self.appends = 0
        self.jumps = 0
        self.log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def begins(self, commit: Commit) -> int:
        self.appends += 1
        if self.dice.random() < RARE:
            CLOCK.skew = self.dice.choice([-HOUR_NS, 0, HOUR_NS])
            self.jumps += 1
        if self.before:
            self._die(self.appends, "before", commit)
        return self.appends

    def ends(self, number: int, commit: Commit) -> None:
        if not self.before:
            self._die(number, "after", commit)

    def _die(self, number: int, where: str, commit: Commit) -> None:
        if number == self.dies_at:
            names = "+".join(tag(event) for event in commit.events)
            os.write(self.log, f"{where} {names}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)  # never reached


class Doomed:
    """The real journal, at whose appends this process may die."""

    def __init__(self, journal: Journal, fate: Fate, takes_over: frozenset[str]) -> None:
        self._journal = journal
        self._fate = fate
        self._takes_over = takes_over
        self.began_at: dict[tuple[str, str], int] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)

    def claim(self, stream: str, *, force: bool = False) -> int:
        force = force or stream.removeprefix("run:").partition("/")[0] in self._takes_over
        return self._journal.claim(stream, force=force)

    def append(self, commit: Commit) -> Any:
        number = self._fate.begins(commit)
        records = self._journal.append(commit)
        self._noted(commit)
        self._fate.ends(number, commit)
        return records

    async def aappend(self, commit: Commit) -> Any:
        number = self._fate.begins(commit)
        records = await self._journal.aappend(commit)
        self._noted(commit)
        self._fate.ends(number, commit)
        return records

    def _noted(self, commit: Commit) -> None:
        for event in commit.events:
            if isinstance(event, ModelCallStarted):
                self.began_at[commit.stream, event.call_id] = commit.at


class Marked(AnthropicModel):
    """The real model over HTTP, whose requests say when their intent was written."""

    journal: Doomed

    async def call(self, request: Any, *, on_part: Any) -> Any:
        at = self.journal.began_at[f"run:{request.run_id}", request.call_id]
        WHO.set(f"{request.run_id} {at}")
        return await super().call(request, on_part=on_part)


class Share:
    """What one process drives of a scenario."""

    def __init__(self, scenario: Scenario, app: outlast.Outlast) -> None:
        self.scenario = scenario
        self.app = app
        self.agents = agents_of(scenario)
        self.too_small: list[str] = []

    async def drive(self, plan: RunPlan, *, after_s: float = 0.0) -> None:
        await asyncio.sleep(after_s)
        seed = self.scenario.seed
        who: Any = self.agents[plan.agent]
        given: Any = plan.marker(seed)
        if plan.flow:
            who = flow_of(self.scenario, plan, self.agents)
            given = [plan.marker(seed, child) for child in range(1, plan.children + 1)]
        try:
            await self.app.arun(who, given, run_id=plan.id, tenant=plan.tenant, wait_s=20)
        except BudgetTooSmall:
            self.too_small.append(plan.id)

    async def all(self, worker: WorkerPlan, seed: str) -> None:
        dice = random.Random(seed)  # noqa: S311  (a scenario, not a secret)
        work = [self.drive(self.scenario.run(run)) for run in worker.drives]
        work += [
            self.drive(self.scenario.run(run), after_s=dice.uniform(0.02, 0.4))
            for run in worker.takes_over
        ]
        await asyncio.gather(*work)


def live(life: dict[str, Any]) -> None:
    """Drive what a life is to drive, if nothing kills it, and say how it went."""
    for rule in life["broken"]:
        BROKEN[rule](setattr)
    scenario = drawn(life["seed"], runs=life["runs"])
    worker = WorkerPlan(
        drives=tuple(life["drives"]), takes_over=tuple(life["takes_over"]), dies_at=()
    )
    CLOCK.begins_at, CLOCK.began = scenario.begins_at, life["began"]
    seed = f"{life['seed']} {life['worker']} {life['life']}"
    fate = Fate(life["dies_at"], seed, Path(life["log"]))
    store = open_store(life["store"], synchronous="OFF")
    journal = Doomed(store, fate, frozenset(worker.takes_over))
    model = Marked(CLIENT.with_options(base_url=life["claude"]))
    model.journal = journal
    share = Share(scenario, outlast.Outlast(journal, model=model, breaker=None))  # type: ignore[arg-type]
    asyncio.run(share.all(worker, seed))
    ended = {"too_small": share.too_small, "jumps": fate.jumps, "appends": fate.appends}
    Path(life["ended"]).write_text(json.dumps(ended), encoding="utf-8")
    os._exit(0)


def serve(fd: int) -> None:
    """Fork a process for every life that comes over a socket, and say how it ended."""
    with socket.socket(fileno=fd) as channel, channel.makefile("rw") as lines:
        for line in lines:
            child = os.fork()
            if not child:
                signal.alarm(LONGEST_S)
                try:
                    live(json.loads(line))
                except BaseException:
                    traceback.print_exc()
                    raise
                finally:
                    os._exit(70)
            _, status = os.waitpid(child, 0)
            lines.write(json.dumps(os.waitstatus_to_exitcode(status)) + "\n")
            lines.flush()


def main() -> None:
    """Import everything once, and then be as many processes as there are sockets."""
    for agent in agents_of(scenarios.drawn(0)).values():
        agent.spec()
    open_store("memory://")
    import outlast.stores.sqlite  # noqa: F401, PLC0415

    fds = [int(fd) for fd in sys.argv[1:]]
    for fd in fds:
        if not os.fork():
            for other in fds:
                if other != fd:
                    os.close(other)
            serve(fd)
            os._exit(0)
    for fd in fds:
        os.close(fd)
    for _ in fds:
        os.wait()


if __name__ == "__main__":
    main()
