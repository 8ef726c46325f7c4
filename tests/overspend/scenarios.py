"""Scenarios in which many runs spend too little money at once, drawn from a seed.

What is drawn is what every process needs to know of it, so only the seed travels.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace
from typing import Any, Final

from outlast.prices import worst_case

RUNS: Final = 64
WORKERS: Final = 4
NANO: Final = 10**9
HOUR_NS: Final = 3_600 * NANO
RARE: Final = 0.05
"""How often each thing goes wrong that may."""

MODELS: Final = (
    *("claude-haiku-5-5", "claude-haiku-5-5", "claude-sonnet-5-5", "claude-opus-5-5"),
    *("claude-haiku-4-5", "claude-opus-4-8"),
)
TENANTS: Final = ("t0", "t1", "t2")
UNITS: Final = ("nano", "tokens", "calls", "turns")
"""What is limited."""
ROLLING_H: Final = 2
"""Hours of the window that rolls on: clocks that jump are within it, and at its edges."""
ROLLING: Final = f"{ROLLING_H}h"
WINDOWS: Final = ("total", "day", "month", ROLLING)
ZONES: Final = ("UTC", "UTC", "Europe/Berlin", "Pacific/Auckland")

MONTHS_END: Final = 1_796_081_400 * NANO
"""2026-11-30 at 23:30 UTC: clocks that jump by an hour are in another day, and another month."""

MIDDAY: Final = 1_795_348_800 * NANO
"""2026-11-22 at noon, UTC."""


@dataclass(frozen=True, kw_only=True)
class AgentPlan:
    """An agent; `asks` is the one that it has as a tool."""

    name: str
    model: str
    max_tokens: int
    min_tokens: int
    cache: Any
    usd_of_first: float | None
    """How many times its first call fits into its own budget."""
    turns: int | None
    tokens: int | None
    asks: str = ""


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """A run, and what Claude does in it."""

    id: str
    tenant: str
    agent: str
    turns: int
    says: int
    dear: bool
    """Whether Claude uses all of `max_tokens`, and writes all of the prompt to the cache."""
    children: int = 0
    flow: bool = False
    """Whether it is a flow, which lets the agent answer several questions at once."""
    maps: bool = True
    """Whether each of them is a run of its own."""
    flow_usd: float | None = None
    """How many first calls of the agent fit into the budget of the flow."""

    def marker(self, seed: int, child: int = 0) -> str:
        """Return what is asked; whoever reads the bill knows the payers by it."""
        told = {
            "scenario": seed,
            "run": f"{self.id}/{child}" if child else self.id,
            "root": self.id,
            "tenant": self.tenant,
            "turns": min(self.turns, 2) if child else self.turns,
            "says": self.says,
            "dear": self.dear,
            "children": 0 if child or self.flow else self.children,
        }
        return json.dumps(told)


@dataclass(frozen=True, kw_only=True)
class BudgetPlan:
    """A budget that an operator sets."""

    scope: str
    window: str = "total"
    tz: str = "UTC"
    nano: int | None = None
    tokens: int | None = None
    calls: int | None = None
    turns: int | None = None
    tightened: bool = False
    """Whether it is much wider until the runs are under way."""

    def amounts(self, *, times: int = 1) -> dict[str, int | None]:
        """Return its limits by unit, or so many times of them."""
        limits = {unit: getattr(self, unit) for unit in UNITS}
        return {unit: limit and limit * times for unit, limit in limits.items()}


@dataclass(frozen=True, kw_only=True)
class WorkerPlan:
    """A process: what it drives, after how many appends each of its lives ends, and its clock."""

    drives: tuple[str, ...]
    takes_over: tuple[str, ...]
    """Runs of another process, which are driven by both at once."""
    dies_at: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Everything that is drawn."""

    seed: int
    begins_at: int
    agents: tuple[AgentPlan, ...]
    runs: tuple[RunPlan, ...]
    budgets: tuple[BudgetPlan, ...]
    workers: tuple[WorkerPlan, ...]

    def agent(self, name: str) -> AgentPlan:
        """Return the agent of that name."""
        return next(agent for agent in self.agents if agent.name == name)

    def run(self, run_id: str) -> RunPlan:
        """Return the run of that id."""
        return next(run for run in self.runs if run.id == run_id)


def drawn(seed: int, *, runs: int = RUNS) -> Scenario:
    """Return the scenario of a seed."""
    dice = random.Random(seed)  # noqa: S311  (a scenario, not a secret)
    agents = tuple(_agent(dice, f"a{number}") for number in range(3))
    agents = (replace(agents[0], asks="a1"), *agents[1:])
    planned = tuple(_run(dice, f"r{number}") for number in range(runs))
    return Scenario(
        seed=seed,
        begins_at=dice.choice((MONTHS_END, MIDDAY)),
        agents=agents,
        runs=planned,
        budgets=tuple(_budgets(dice, agents, planned)),
        workers=tuple(_workers(dice, [run.id for run in planned])),
    )


def _agent(dice: random.Random, name: str) -> AgentPlan:
    most = dice.choice((256, 512, 1_024, 2_048))
    return AgentPlan(
        name=name,
        model=dice.choice(MODELS),
        max_tokens=most,
        min_tokens=dice.choice((128, 200, most)),
        cache=dice.choice(("5m", "1h", None)),
        usd_of_first=dice.choice((None, None, 1.0 + 6 * dice.random())),
        turns=dice.choice((None, None, dice.randint(2, 5))),
        tokens=dice.choice((None, None, dice.randint(4_000, 16_000))),
    )


def _run(dice: random.Random, run_id: str) -> RunPlan:
    agent = dice.choice(("a0", "a1", "a2"))
    flow = dice.random() < RARE
    return RunPlan(
        id=run_id,
        tenant=dice.choice(TENANTS),
        agent="a1" if flow else agent,
        turns=dice.randint(1, 3),
        says=dice.choice((10, 60, 400)),
        dear=dice.random() < 0.4,
        children=dice.randint(2, 3) if flow else int(agent == "a0" and dice.random() < 0.2),
        flow=flow,
        maps=dice.random() < 0.5,
        flow_usd=dice.choice((None, 1 + 6 * dice.random())),
    )


def _workers(dice: random.Random, ids: list[str]) -> list[WorkerPlan]:
    shares = [ids[number::WORKERS] for number in range(WORKERS)]
    workers = []
    for number, share in enumerate(shares):
        others = shares[(number + 1) % WORKERS]
        lives = dice.choice((0, 1, 1, 2, 2))
        workers.append(
            WorkerPlan(
                drives=tuple(share),
                takes_over=tuple(run for run in others if dice.random() < RARE),
                dies_at=tuple(dice.randint(1, 50) for _ in range(lives)),
            )
        )
    return workers


def _budgets(
    dice: random.Random, agents: tuple[AgentPlan, ...], runs: tuple[RunPlan, ...]
) -> list[BudgetPlan]:
    scopes = [
        "fleet",
        *(f"tenant:{name}" for name in TENANTS),
        *(f"agent:{agent.name}" for agent in agents),
        *(f"model:{agent.model}" for agent in agents),
        *(f"run:{dice.choice(runs).id}" for _ in range(2)),
        *(f"tree:{run.id}" for run in runs if run.children and dice.random() < 0.5),
        f"tree:{dice.choice(runs).id}",
    ]
    chosen = dice.sample(list(dict.fromkeys(scopes)), dice.randint(1, 4))
    return [_budget(dice, scope, agents, runs) for scope in chosen]


def _budget(
    dice: random.Random,
    scope: str,
    agents: tuple[AgentPlan, ...],
    runs: tuple[RunPlan, ...],
) -> BudgetPlan:
    by_name = {agent.name: agent for agent in agents}
    kind, _, name = scope.partition(":")
    calls = nano = tokens = 0
    for run in runs:
        agent = by_name[run.agent]
        whose = {
            "fleet": "",
            "tenant": run.tenant,
            "agent": run.agent,
            "model": agent.model,
            "run": run.id,
            "tree": run.id,
        }
        if whose[kind] != name:
            continue
        turns = run.turns * (1 + run.children)
        prompt, reply = (1_400, agent.max_tokens) if run.dear else (300, min(run.says, 200))
        calls += turns
        tokens += turns * (prompt + reply)
        nano += turns * worst_case(agent.model, prompt // 2, reply)
    share = dice.uniform(0.4, 1.6)
    units = dice.choice(
        (("nano",), ("nano",), ("nano",), ("nano", "calls"), ("tokens",), ("turns",))
    )
    window = "total" if kind in ("run", "tree") else dice.choice(WINDOWS)
    return BudgetPlan(
        scope=scope,
        window=window,
        tz=dice.choice(ZONES) if window in ("day", "month") else "UTC",
        nano=max(1, int(nano * share)) if "nano" in units else None,
        tokens=max(1, int(tokens * share)) if "tokens" in units else None,
        calls=max(1, int(calls * share)) if "calls" in units else None,
        turns=max(1, int(calls * share)) if "turns" in units else None,
        tightened=window == "total" and kind != "run" and dice.random() < 0.3,
    )
