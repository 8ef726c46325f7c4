"""The agents of a scenario."""

from __future__ import annotations

import asyncio
from typing import Any

from scenarios import AgentPlan, RunPlan, Scenario

import outlast
from outlast.budget import Limits
from outlast.prices import FRAMING_TOKENS, worst_case

INPUT_OF_FIRST = 700
"""Bytes that a first prompt has at least, with its system and tools."""


@outlast.tool(effect="read")
def look(word: str) -> str:
    """Look a word up."""
    return f"{word} means nothing. " * 8


def _usd(plan: AgentPlan, times: float | None) -> str | None:
    """Return so many times what a first call of an agent may cost."""
    if times is None:
        return None
    first = worst_case(plan.model, INPUT_OF_FIRST + FRAMING_TOKENS, plan.min_tokens)
    return f"{first * times / 10**9:.9f}"


def agents_of(scenario: Scenario) -> dict[str, outlast.Agent]:
    """Return the agents of a scenario, by name."""
    made: dict[str, outlast.Agent] = {}
    for plan in sorted(scenario.agents, key=lambda plan: bool(plan.asks)):
        made[plan.name] = outlast.Agent(
            plan.name,
            model=plan.model,
            instructions=f"agent {plan.name}",
            tools=[look, *([made[plan.asks].as_tool()] if plan.asks else [])],
            max_tokens=plan.max_tokens,
            min_tokens=plan.min_tokens,
            cache=plan.cache,
            budget=outlast.Budget(
                usd=_usd(plan, plan.usd_of_first), tokens=plan.tokens, turns=plan.turns
            ),
        )
    return made


def flow_of(
    scenario: Scenario, plan: RunPlan, agents: dict[str, outlast.Agent]
) -> outlast.Flow[..., Any]:
    """Return the flow of a run: it lets an agent answer what it is given, side by side."""
    agent, usd = agents[plan.agent], _usd(scenario.agent(plan.agent), plan.flow_usd)

    @outlast.flow(budget=outlast.Budget(usd=usd))
    async def mapping(run: outlast.Run, questions: list[str]) -> list[str]:
        return list(await run.map(agent, questions, at_once=2))

    @outlast.flow(budget=outlast.Budget(usd=usd))
    async def asking(run: outlast.Run, questions: list[str]) -> list[str]:
        asks = [run.ask(agent, question, name=f"q{n}") for n, question in enumerate(questions)]
        return list(await asyncio.gather(*asks))

    return mapping if plan.maps else asking


def declared_of(scenario: Scenario) -> dict[str, Limits]:
    """Return the budgets that the runs of a scenario declare, by run; those of children aside."""
    agents = agents_of(scenario)
    return {
        plan.id: (
            flow_of(scenario, plan, agents) if plan.flow else agents[plan.agent]
        ).budget.limits
        for plan in scenario.runs
    }
