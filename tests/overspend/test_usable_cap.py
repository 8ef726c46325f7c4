"""A budget can be used up: nobody is refused as long as one more call fits, for sure, into it."""

import asyncio
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import outlast
from conftest import SOAK
from outlast import decide
from outlast.agent import Budget
from outlast.events import BudgetRefused
from outlast.models.script import Fault, faulty, say, tool_use, turn_number
from outlast.models.scripted import ScriptedModel
from outlast.prices import FRAMING_TOKENS, Terms, worst_case
from outlast.state import fold

DRAWS = 3_000 if SOAK else 40
KEPT = Terms(cache="5m")
"""What agents ask of the prompt cache by default."""


def usd(nano: int) -> str:
    return f"{nano / 10**9:.9f}"


@outlast.tool(effect="read")
def read(page: int, size: int) -> str:
    """Read a page."""
    return f"Page {page}. " + "owls and more owls, " * (size // 20)


def reading(says: int, size: int) -> Any:
    """Return a Claude that reads page after page."""

    def script(request: dict[str, Any], attempt: int) -> Any:
        turn = turn_number(request)
        words = "I read on. " * min(says * 4 // 11, request["max_tokens"] * 2 // 11)
        return say(words or "On.", tool_use("read", {"page": turn, "size": size}))

    return script


def reader(model: str, *, most: int, least: int, budget: Budget) -> outlast.Agent:
    return outlast.Agent(
        "reader", model=model, tools=[read], max_tokens=most, min_tokens=least, budget=budget
    )


def lost_first(request: dict[str, Any], attempt: int) -> Fault | None:
    """Let the first attempt of every turn fail, after it was billed."""
    return Fault(kind="status", status=500, billed=True) if attempt == 1 else None


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decide, "RETRY_NS", 5_000_000)
    monkeypatch.setattr(decide, "BACKOFF_S", (0.0001,) * 7)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("scope", ["run", "tenant:acme"])
def test_what_is_left_is_less_than_one_call(scope: str) -> None:
    """When a run is refused, not even a call of `min_tokens` fits for sure into what is left."""
    for seed in range(DRAWS):
        dice = random.Random(f"{scope} {seed}")  # noqa: S311  (a draw, not a secret)
        most = dice.choice((256, 1_000, 4_000))
        least = dice.choice((64, 200, most))
        model = dice.choice(("claude-opus-5-5", "claude-haiku-4-5", "claude-sonnet-5-5"))
        asked = "What is in there? " * dice.choice((1, 20, 300))
        first = worst_case(model, len(asked.encode()) + 2_000, least, KEPT)
        nano = first * dice.randint(100, 600) // 100
        script = reading(dice.choice((5, 50, 1_000)), dice.choice((10, 500, 5_000)))
        if dice.random() < 0.5:
            script = faulty(script, lost_first)
        own = Budget(usd=usd(nano)) if scope == "run" else Budget()
        agent = reader(model, most=most, least=least, budget=own)
        claude = ScriptedModel(script)
        with outlast.Outlast("memory://", model=claude) as app:
            if scope != "run":
                app.set_budget(scope, usd=usd(nano), reason="a test")
            run = app.run(agent, asked, run_id="r", tenant="acme")
            records = app.log("r")
        assert run.status == "stopped", (seed, run.why)
        assert claude.billed_nano <= run.cost_nano <= nano, seed
        prompt = fold(records).asks["ask-1"].input_bound + FRAMING_TOKENS
        needed, left = worst_case(model, prompt, least, KEPT), nano - run.cost_nano
        assert left < needed, f"seed {seed}: refused, though {left} were left for {needed}"
        (refused,) = (r.event for r in records if isinstance(r.event, BudgetRefused))
        assert (refused.scope, refused.needed, refused.left) == (scope, needed, left)


LOOPS = [("0.50", 250, 1_600), ("2", 1_200, 4_000), ("10", 7_000, 34_000)]
"""Dollars, tokens of a reply and bytes of a result: 50 turns would cost a little more."""


@pytest.mark.parametrize(("dollars", "says", "size"), LOOPS)
def test_the_used_share_of_a_clean_loop(
    dollars: str, says: int, size: int, record_property: Any
) -> None:
    """A loop that has not enough for its 50 turns uses most of what it has."""
    cost, turns = looped(says, size, Budget(usd=dollars, turns=50))
    share = cost / (float(dollars) * 10**9)
    record_property("told", f"${dollars}: {share:.1%} used, in {turns} turns")
    assert turns < 50
    assert 0.55 < share <= 1
    if SOAK:
        assert looped(says, size, Budget(turns=50))[0] > float(dollars) * 10**9


def looped(says: int, size: int, budget: Budget) -> tuple[int, int]:
    claude = ScriptedModel(reading(says, size), keep_calls=False)
    agent = reader("claude-opus-5-5", most=8_192, least=1_024, budget=budget)
    with outlast.Outlast("memory://", model=claude) as app:
        run = app.run(agent, "Read it all.", run_id="r")
    assert run.status == "stopped"
    assert claude.billed_nano == run.cost_nano
    return run.cost_nano, run.turns


# ── runs that share a budget ────────────────────────────────────────────────────────────────────


def answering(request: dict[str, Any], attempt: int) -> Any:
    return say("Fine. " * 200, total_s=0.02)


def teller() -> outlast.Agent:
    """Return an agent whose calls hold five times of what they cost, and shrink."""
    return outlast.Agent(
        "teller", model="claude-opus-5-5", max_tokens=2_000, min_tokens=500, budget=Budget()
    )


async def told(app: outlast.Outlast, ids: list[str]) -> list[outlast.Run]:
    runs = (app.arun(teller(), "Go.", run_id=each, tenant="acme", wait_s=60) for each in ids)
    return await asyncio.gather(*runs)


def cost_and_floor() -> tuple[int, int]:
    """Return what a call costs, and the least that has to be left for one."""
    with outlast.Outlast("memory://", model=ScriptedModel(answering)) as app:
        (run,) = asyncio.run(told(app, ["r"]))
        app.set_budget("tenant:acme", usd=usd(run.cost_nano + 1), reason="a test")
        asyncio.run(told(app, ["s"]))
        (needed,) = (r.event.needed for r in app.log("s") if isinstance(r.event, BudgetRefused))
    return run.cost_nano, needed


@pytest.mark.parametrize(("short", "finish"), [(0, 30), (1, 29)])
def test_forty_runs_share_dollars_for_thirty(short: int, finish: int) -> None:
    """Of forty runs at once, as many finish as would one after the other: to the nano-dollar."""
    cost, floor = cost_and_floor()
    claude = ScriptedModel(answering, paced=True)
    with outlast.Outlast("memory://", model=claude) as app:
        app.set_budget("tenant:acme", usd=usd(29 * cost + floor - short), reason="a test")
        statuses = [run.status for run in asyncio.run(told(app, [f"r{n}" for n in range(40)]))]
    assert (statuses.count("completed"), statuses.count("stopped")) == (finish, 40 - finish)
    assert len(claude.bill) == finish


CHILD = """
import asyncio, sys
sys.path[:0] = sys.argv[3:]
import outlast
from outlast import decide
from outlast.models.scripted import ScriptedModel
from test_usable_cap import answering, told
decide.RETRY_NS = 5_000_000
claude = ScriptedModel(answering, paced=True)
with outlast.Outlast(sys.argv[1], model=claude) as app:
    asyncio.run(told(app, [f"{sys.argv[2]}-{n}" for n in range(10)]))
print(len(claude.bill))
"""


def test_forty_runs_of_four_processes_share_dollars_for_thirty(tmp_path: Path) -> None:
    """Ten runs in each of four processes, on the money of thirty: thirty finish."""
    cost, floor = cost_and_floor()
    url = f"sqlite:///{tmp_path}/a.db"
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    paths.append(str(Path(outlast.__file__).parents[1]))
    with outlast.Outlast(url, model=ScriptedModel(answering)) as app:
        app.set_budget("tenant:acme", usd=usd(29 * cost + floor), reason="a test")
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", CHILD, url, f"p{n}", *paths], stdout=subprocess.PIPE
            )
            for n in range(4)
        ]
        billed = sum(int(process.communicate(timeout=100)[0]) for process in processes)
        statuses = [run.status for run in app.runs()]
        balance = app.journal.balance("tenant:acme")
    assert (statuses.count("completed"), statuses.count("stopped")) == (30, 10)
    assert billed == 30
    assert (balance.settled, balance.held) == (30 * cost, 0)
