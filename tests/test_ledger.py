"""The ledger is the bill: to the nano-dollar where nothing is in doubt, and never less."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import anthropic
import pytest

import outlast
from conftest import SOAK
from ledger_scripts import CLIFF, Drawn, drawn, script
from outlast.events import BoundExceeded, ModelCallInDoubt, ModelCallSucceeded
from outlast.models import catalogue
from outlast.stores import open_store
from outlast.testing import simulator
from outlast.testing.simulation import World
from outlast.testing.simulation import run as simulate

TESTS = Path(__file__).parent
CALLS = 10_000 if SOAK else 400
OVER_HTTP = 1_000 if SOAK else 40
MET = {
    *(f"geo {geo}" for geo in ("us", "global", None)),
    *(f"cache {cache}" for cache in (None, "5m", "1h")),
    *(f"claude-haiku-5-5 {prompt}" for prompt in CLIFF),
    *("tier standard", "tier batch", "tier priority", "speed", "iterations"),
}


def charged(events: list[Any]) -> list[int]:
    """Return what each billed call was charged, in doubt or not."""
    spent = (ModelCallSucceeded, ModelCallInDoubt)
    return [event.cost_nano for event in events if isinstance(event, spent)]


def played(plan: Drawn, journal: Any, run_id: str) -> tuple[list[int], list[int]]:
    """Play a run, and return what its calls were charged, and what they were billed."""
    world = World(script)
    state, _ = simulate(world, journal, plan.agent, plan.question, run_id=run_id)
    assert state.status == "completed", state.why
    events = [record.event for record in journal.read(f"run:{run_id}")]
    if "search" not in plan.kinds:
        assert not any(isinstance(event, BoundExceeded) for event in events)
    return charged(events), [line.nano_usd for line in world.model.bill]


@pytest.mark.timeout(1_800 if SOAK else 120)
@pytest.mark.parametrize("way", ["answered", "faulty"])
def test_what_is_charged_is_what_is_billed(way: str, record_property: Any) -> None:
    """Equal, call by call, where the bill is certain; where it is not, never less."""
    journal, calls, seed = open_store("memory://"), 0, 0
    met: Counter[str] = Counter()
    ledger = equal = over = 0
    while calls < CALLS:
        seed += 1
        plan = drawn(seed, faulty=way == "faulty")
        paid, billed = played(plan, journal, f"r{seed}")
        assert sum(paid) >= sum(billed), f"seed {seed}"
        if plan.is_certain:
            assert paid == billed, f"seed {seed}"
            equal += len(billed)
        over += sum(paid) - sum(billed)
        calls += plan.calls
        ledger += sum(paid)
        met.update(plan.kinds)
    wanted = (
        MET
        | set(catalogue.MODELS)
        | ({"cut", "reset", "billed 500"} if way == "faulty" else {"search"})
    )
    assert wanted - met.keys() == set()
    assert sum(line.settled_nano + line.in_doubt_nano for line in journal.rollup()) == ledger
    record_property(
        "told", f"{calls} calls, {equal} certain, ${over / 1e9:.2f} of ${ledger / 1e9:.2f} in doubt"
    )


@pytest.mark.timeout(1_800 if SOAK else 120)
def test_what_is_charged_is_what_another_process_billed(tmp_path: Path) -> None:
    """Over HTTP, streamed, with a budget in the ledger: the bill's file and the accounts agree."""
    with simulator.start("ledger_scripts:script", path=[TESTS], state=tmp_path) as claude:
        client = anthropic.AsyncAnthropic(base_url=claude.url, api_key="k", max_retries=0)
        with outlast.Outlast(f"sqlite:///{tmp_path}/a.db", client=client) as app:
            app.set_budget("fleet", usd=1_000_000, reason="a test")
            calls = seed = billed = 0
            while calls < OVER_HTTP:
                seed += 1
                plan = drawn(seed, faulty=False)
                if not plan.is_certain:
                    continue
                run = app.run(plan.agent, plan.question, run_id=f"r{seed}")
                assert run.status == "completed", run.why
                lines = claude.bill()
                assert run.cost_nano == sum(line["nano_usd"] for line in lines[calls:]), seed
                calls += plan.calls
                billed = sum(line["nano_usd"] for line in lines)
            account = app.journal.balance("fleet")
            assert (account.settled, account.in_doubt, account.held) == (billed, 0, 0)
