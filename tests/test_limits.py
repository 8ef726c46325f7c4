"""Budgets of operators: no process passes them, and nobody is stopped for what others only hold."""

import asyncio
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import outlast
from outlast.agent import Budget
from outlast.errors import UsageError
from outlast.events import BudgetRefused, BudgetSet, ModelCallStarted, RunStarted, Spec
from outlast.limits import Budgets, Rule, check_scope, payers, set_budget, window_key
from outlast.models.script import Fault, say, tool_use
from outlast.models.scripted import ScriptedModel
from outlast.stores import open_store
from stubs import agent

OPUS = "claude-opus-5-5"


@outlast.tool(effect="read")
def look(word: str) -> str:
    """Look a word up."""
    return word * 200


def looping(request: dict[str, Any], attempt: int) -> Any:
    return say("Once more. " * 20, tool_use("look", {"word": "a"}))


def answering(request: dict[str, Any], attempt: int) -> Any:
    return say("Fine.")


def spender(name: str = "tester", **more: Any) -> outlast.Agent:
    given = {"model": OPUS, "tools": [look], "max_tokens": 2_000, "stops_loops": False}
    return outlast.Agent(name, **(given | {"budget": Budget()} | more))


def billed(model: ScriptedModel) -> int:
    return sum(charge.nano_usd for charge in model.bill)


@pytest.mark.parametrize(
    "scope", ["fleet", "tenant:acme", "agent:tester", f"model:{OPUS}", "run:r"]
)
def test_no_run_passes_a_budget_of_its_scope(scope: str, url: str) -> None:
    """A loop is stopped by the budget of whoever pays for it, and says whose it was."""
    model = ScriptedModel(looping)
    with outlast.Outlast(url, model=model) as app:
        app.set_budget(scope, usd="0.2", reason="a test")
        run = app.run(spender(), "Go.", run_id="r", tenant="acme")
        assert run.status == "stopped"
        refused = [r.event for r in app.log("r") if isinstance(r.event, BudgetRefused)]
        assert [event.scope for event in refused] == ["run" if scope == "run:r" else scope]
        assert 10**8 < billed(model) <= run.cost_nano <= 2 * 10**8
        free = spender("other", model="claude-haiku-5-5", budget=Budget(turns=3))
        other = app.run(free, "Go.", run_id="s")
        assert other.turns == 3 or scope == "fleet", "nobody else is stopped by it"


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/a.db"


def test_a_stopped_run_goes_on_when_the_budget_is_raised(url: str) -> None:
    """What was refused goes on with more, or when the budget is taken away."""
    model = ScriptedModel(lambda request, attempt: say("Done."))
    with outlast.Outlast(url, model=model) as app:
        app.set_budget("fleet", calls=1, reason="one only")
        assert app.run(spender(), "Go.", run_id="a").status == "completed"
        run = app.run(spender(), "Go.", run_id="b")
        assert run.status == "stopped"
        assert run.why == (
            "stopped: fleet budget, needs 1 call, 0 calls left; "
            "`outlast budget set fleet …` and resume"
        )
        assert app.resume("b", spender()).status == "stopped"
        app.set_budget("fleet", calls=2, reason="one more")
        assert app.resume("b", spender()).status == "completed"
        app.set_budget("fleet", reason="no limit any more")
        assert app.run(spender(), "Go.", run_id="c").status == "completed"


def test_a_run_may_be_given_more_than_its_agent_declares() -> None:
    """A budget that is set for a run takes the place of the declared one."""
    with outlast.Outlast("memory://", model=ScriptedModel(looping)) as app:
        few = spender(budget=Budget(turns=2))
        assert app.run(few, "Go.", run_id="r").turns == 2
        app.set_budget("run:r", turns=5, reason="go on")
        assert app.resume("r", few).turns == 5


@pytest.mark.parametrize(
    ("declared", "given", "more"),
    [
        (Budget(turns=9), {"turns": 2}, {"turns": 3}),
        (Budget(turns=2), {"turns": 2}, {"turns": 3}),
        (Budget(), {"tokens": 6_000}, {"tokens": 60_000}),
        (Budget(usd=1), {"usd": "0.07"}, {"usd": 1}),
    ],
)
@pytest.mark.parametrize("kind", ["agent", "flow"])
def test_who_can_give_more_is_told(
    declared: Budget, given: dict[str, Any], more: dict[str, Any], kind: str
) -> None:
    """What somebody set for a run is raised where it was set: a larger `Budget` changes nothing."""
    one = spender(budget=Budget())
    who: Any = spender(budget=declared)
    if kind == "flow":

        @outlast.flow(budget=declared)
        def asking(run: outlast.Run) -> Any:
            return run.ask(one, "Go.")

        who = asking
    asked = None if kind == "flow" else "Go."
    with outlast.Outlast("memory://", model=ScriptedModel(looping)) as app:
        app.set_budget("run:r", **given, reason="a test")
        stopped = app.run(who, asked, run_id="r")
        assert stopped.why.startswith("stopped: run budget, needs ")
        assert stopped.why.endswith(" left; `outlast budget set run:r …` and resume")
        app.set_budget("run:r", **more, reason="as it said")
        assert app.resume("r", who).turns > stopped.turns


def test_who_can_give_more_calls_of_tools_is_told() -> None:
    """Calls of tools are only ever declared, whatever else is set for the run."""
    with outlast.Outlast("memory://", model=ScriptedModel(looping)) as app:
        app.set_budget("run:r", turns=9, reason="a test")
        run = app.run(spender(budget=Budget(tool_calls=1)), "Go.", run_id="r")
        assert run.why.endswith("give a larger Budget(tool_calls=…) and resume")
        assert app.resume("r", spender(budget=Budget(tool_calls=2))).turns > run.turns


def test_many_runs_share_what_fits_fewer(url: str) -> None:
    """Runs that only hold more than there is wait for each other; none is stopped for that."""
    model = ScriptedModel(answering)
    with outlast.Outlast(url, model=model) as app:
        app.set_budget("fleet", usd="0.08", reason="a test")

        async def all_of_them() -> list[outlast.Run]:
            runs = [app.arun(spender(f"a{n}", tools=[]), "Go.", run_id=f"r{n}") for n in range(10)]
            return await asyncio.gather(*runs)

        runs = asyncio.run(all_of_them())
        held = [
            record.event.hold_nano
            for run in runs
            for record in app.log(run.id)
            if isinstance(record.event, ModelCallStarted)
        ]
        assert {run.status for run in runs} == {"completed"}
        assert sum(held) > 8 * 10**7 >= sum(run.cost_nano for run in runs) >= billed(model)
        balance = app.journal.balance("fleet")
        assert balance.held == 0
        assert balance.settled == billed(model)


def test_forty_runs_share_what_fits_thirty() -> None:
    """Thirty of forty runs finish on a budget of thirty calls, and the others are stopped."""
    with outlast.Outlast("memory://", model=ScriptedModel(answering)) as app:
        app.set_budget("tenant:acme", calls=30, reason="a test")

        async def all_of_them() -> list[outlast.Run]:
            runs = (
                app.arun(spender(tools=[]), "Go.", run_id=f"r{n}", tenant="acme") for n in range(40)
            )
            return await asyncio.gather(*runs)

        statuses = [run.status for run in asyncio.run(all_of_them())]
        assert (statuses.count("completed"), statuses.count("stopped")) == (30, 10)


def test_what_was_spent_before_counts() -> None:
    """A budget that is set later counts what the roll-up knows of its scope, once."""
    model = ScriptedModel(answering)
    with outlast.Outlast("memory://", model=model) as app:
        app.run(spender(tools=[]), "Go.", tenant="acme").result()
        app.run(spender(tools=[]), "Go.").result()
        for _ in range(2):
            app.set_budget("tenant:acme", usd=1, window="month", reason="a test")
        month = f"{datetime.now(UTC):month:%Y-%m}"
        assert app.journal.balance("tenant:acme", window=month).taken == model.bill[0].nano_usd
        app.set_budget("fleet", calls=2, reason="used up")
        assert app.run(spender(tools=[]), "Go.").status == "stopped"


CHILD = """
import sys
sys.path[:0] = sys.argv[3:]
import outlast
from outlast.models.scripted import ScriptedModel
from test_limits import looping, spender
with outlast.Outlast(sys.argv[1], model=ScriptedModel(looping)) as app:
    app.run(spender(), "Go.", run_id=sys.argv[2])
"""


def test_four_processes_share_one_budget(tmp_path: Path) -> None:
    """Loops in four processes, one of them killed, do not pass the budget that all pay from."""
    url = f"sqlite:///{tmp_path}/a.db"
    with outlast.Outlast(url, model=ScriptedModel(looping)) as app:
        app.set_budget("fleet", usd="1", reason="a test")
        paths = [str(Path(__file__).parent), str(Path(outlast.__file__).parents[1])]
        processes = [
            subprocess.Popen([sys.executable, "-c", CHILD, url, f"r{n}", *paths]) for n in range(4)
        ]
        for process in processes:
            process.wait(timeout=100)
        runs = app.runs()
        assert [run.status for run in runs] == ["stopped"] * 4
        spent = sum(run.cost_nano for run in runs)
        assert 8 * 10**8 < spent <= 10**9
        assert app.journal.balance("fleet").taken == spent


class Overtaken:
    """A journal in front of whose first intent somebody sets a budget."""

    def __init__(self, journal: Any) -> None:
        self._journal = journal
        self.set = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)

    def append(self, commit: Any) -> Any:
        if not self.set and any(isinstance(one, ModelCallStarted) for one in commit.events):
            self.set = True
            event = BudgetSet(scope="fleet", nano=1_000, reason="just now")
            set_budget(self._journal, event, at=commit.at)
        return self._journal.append(commit)

    async def aappend(self, commit: Any) -> Any:
        return self.append(commit)


def test_a_budget_that_is_set_while_an_intent_is_written_counts(url: str) -> None:
    """What is checked is what holds in the transaction, not what was read before it."""
    model = ScriptedModel(answering)
    with outlast.Outlast(Overtaken(open_store(url)), model=model) as app:
        run = app.run(spender(tools=[]), "Go.", run_id="r")
    assert run.status == "stopped"
    assert "fleet budget" in run.why
    assert model.bill == []


# ── rules ───────────────────────────────────────────────────────────────────────────────────────


def test_who_pays() -> None:
    """A call is paid by the fleet, its agent, the version of that, its model and its tenant."""
    started = RunStarted(
        journal_version=1,
        agent="a",
        nonce="n",
        spec=Spec(agent="a", model=OPUS, max_tokens=1),
        tenant="acme",
    )
    found = payers(started, "b", "v1", OPUS)
    assert found == {"fleet", "tenant:acme", "agent:b", "agent:b@v1", f"model:{OPUS}"}


@pytest.mark.parametrize(
    ("window", "tz", "key"),
    [
        ("total", "UTC", "total"),
        ("day", "UTC", "day:2026-11-30"),
        ("day", "Pacific/Auckland", "day:2026-12-01@Pacific/Auckland"),
        ("month", "UTC", "month:2026-11"),
        ("month", "Pacific/Auckland", "month:2026-12@Pacific/Auckland"),
    ],
)
def test_windows(window: Any, tz: str, key: str) -> None:
    """Days and months are those of the zone that was named."""
    at = int(datetime(2026, 11, 30, 12, tzinfo=UTC).timestamp()) * 10**9
    assert window_key(Rule(scope="fleet", window=window, tz=tz), at) == key


@pytest.mark.parametrize("scope", ["", "fleet:x", "agent:", "agent: a", "planet:earth", "r", None])
def test_a_scope_that_is_none(scope: Any) -> None:
    """What has no budget is refused, with what has."""
    with pytest.raises(UsageError, match="fleet, tenant:NAME"):
        check_scope(scope)


def test_mistakes_are_refused_before_anything_is_written() -> None:
    """A window or a zone that is none, or an amount that is none, changes nothing."""
    with outlast.Outlast("memory://", model=ScriptedModel(answering)) as app:
        for more in (
            {"window": "day", "scope": "run:r"},
            {"window": "week"},
            {"window": "day", "tz": "Mars/Base"},
            {"usd": -1},
        ):
            with pytest.raises(UsageError):
                app.set_budget(**({"scope": "fleet", "usd": 1, "reason": "x"} | more))  # type: ignore[arg-type]
        assert app.journal.read("~budgets") == []
        assert Budgets().rules == {}


def test_children_pay_from_the_budgets_of_all() -> None:
    """A child run is stopped by a budget of the fleet as any other is."""
    asker = agent(model=OPUS, max_tokens=2_000, budget=Budget())

    @outlast.flow(budget=Budget())
    async def parent(run: outlast.Run) -> list[str]:
        return list(await run.map(asker, ["a", "b", "c"], at_once=1))

    with outlast.Outlast("memory://", model=ScriptedModel(answering)) as app:
        app.set_budget("fleet", calls=2, reason="a test")
        ended = app.run(parent, run_id="f")
        assert ended.status == "stopped"
        assert "fleet budget" in ended.why


@pytest.mark.timeout(60)
def test_asks_side_by_side_take_turns_at_what_others_leave() -> None:
    """Asks of a flow whose holds do not fit beside each other are made one after the other."""
    asker = spender(tools=[])

    @outlast.flow(budget=Budget())
    async def many(run: outlast.Run) -> list[str]:
        asks = [run.ask(asker, f"Question {n}?", name=f"q{n}") for n in range(5)]
        return list(await asyncio.gather(*asks))

    model = ScriptedModel(answering)
    with outlast.Outlast("memory://", model=model) as app:
        app.set_budget("fleet", usd="0.07", reason="fits one hold, and the cost of all")
        ended = app.run(many, run_id="f")
        assert ended.status == "completed", ended.why
        assert billed(model) <= 7 * 10**7
        assert app.journal.balance("fleet").held == 0


def test_a_budget_that_is_set_while_a_run_is_driven_counts_at_once() -> None:
    """A run that is at work keeps to what is set for it, from the next call on."""

    @outlast.tool(effect="read")
    def look(word: str) -> str:
        """Look a word up, while somebody takes the budget away."""
        app.set_budget("run:r", turns=1, reason="enough")
        return word

    with outlast.Outlast("memory://", model=ScriptedModel(looping)) as app:
        run = app.run(spender(tools=[look]), "Go.", run_id="r")
        assert (run.status, run.turns) == ("stopped", 1)


def test_what_a_flow_asked_counts_for_the_version_it_asked() -> None:
    """The roll-up names the version of the agent that was asked, not that of the flow."""
    asker = spender(tools=[])

    @outlast.flow
    async def asking(run: outlast.Run) -> str:
        return str(await run.ask(asker, "Go."))

    with outlast.Outlast("memory://", model=ScriptedModel(answering)) as app:
        app.run(asking).result()
        (line,) = app.journal.rollup()
        app.set_budget(f"agent:{line.agent}@{line.version}", calls=1, reason="used up")
        assert app.run(asker, "Go.").status == "stopped"


# ── budgets that come, go and change ────────────────────────────────────────────────────────────


@pytest.mark.parametrize("between", ["nothing", "another unit"])
@pytest.mark.parametrize("window", ["total", "month", "24h"])
def test_a_budget_that_was_taken_away_knows_what_was_spent_meanwhile(
    between: str, window: str
) -> None:
    """Whatever was set in between, a budget that is set again counts what was spent without it."""
    model = ScriptedModel(answering)
    with outlast.Outlast("memory://", model=model) as app:
        one = app.run(spender(tools=[]), "Go.", tenant="q").cost_nano
        limit = {"usd": 3 * one / 10**9, "window": window, "reason": "a test"}
        app.set_budget("tenant:q", **limit)
        app.run(spender(tools=[], min_tokens=1), "Go.", tenant="q")
        more = {"tokens": 10**6} if between == "another unit" else {}
        app.set_budget("tenant:q", window=window, reason="a test", **more)
        for _ in range(5):
            app.run(spender(tools=[]), "Go.", tenant="q").result()
        app.set_budget("tenant:q", **limit)
        spent = billed(model)
        assert app.run(spender(tools=[], min_tokens=1), "Go.", tenant="q").status == "stopped"
        assert billed(model) == spent


@pytest.mark.parametrize("window", ["total", "day", "2h", "24h"])
def test_a_budget_that_is_raised_counts_once(window: str) -> None:
    """What was spent is not counted again when the amount changes."""
    with outlast.Outlast("memory://", model=ScriptedModel(answering)) as app:
        app.set_budget("fleet", turns=3, window=window, reason="a test")
        for _ in range(3):
            app.run(spender(tools=[]), "Go.").result()
        app.set_budget("fleet", turns=5, window=window, reason="two more")
        for _ in range(2):
            app.run(spender(tools=[]), "Go.").result()
        assert app.run(spender(tools=[]), "Go.").status == "stopped"


def test_setting_it_at_once_counts_once(tmp_path: Path) -> None:
    """However many set a budget at the same time, what was spent before is in it once."""
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415  (one use)

    url = f"sqlite:///{tmp_path}/a.db"
    with outlast.Outlast(url, model=ScriptedModel(answering)) as app:
        cost = app.run(spender(tools=[]), "Go.").cost_nano
        with ThreadPoolExecutor(8) as pool:
            for done in [
                pool.submit(app.set_budget, "fleet", usd=n, reason="x") for n in range(1, 9)
            ]:
                done.result()
        assert app.journal.balance("fleet").taken == cost


def test_a_model_has_one_budget_whatever_its_date() -> None:
    """A dated id pays from the budget of its model."""
    with outlast.Outlast("memory://", model=ScriptedModel(answering)) as app:
        app.set_budget("model:claude-haiku-4-5", turns=1, reason="a test")
        dated = spender(tools=[], model="claude-haiku-4-5-20251001")
        assert app.run(dated, "Go.").status == "completed"
        assert app.run(dated, "Go.").status == "stopped"


def test_the_attempts_of_a_run_are_limited() -> None:
    """Calls are attempts, whatever came of them; a run of its own has a limit on them, too."""

    def script(request: dict[str, Any], attempt: int) -> Any:
        return Fault(kind="status", status=529) if attempt < 5 else say("Fine.")

    model = ScriptedModel(script)
    with outlast.Outlast("memory://", model=model) as app:
        app.set_budget("run:r", calls=2, reason="a test")
        run = app.run(spender(tools=[]), "Go.", run_id="r")
        assert run.status == "stopped"
        assert "needs 1 call, 0 calls left" in run.why
        assert len(model.calls) == 2


def test_days_of_two_zones_are_not_the_same() -> None:
    """Another zone's days are other accounts, which know what was spent in them."""
    with outlast.Outlast("memory://", model=ScriptedModel(answering)) as app:
        for tz in ("UTC", "Pacific/Auckland", "UTC"):
            app.set_budget("fleet", turns=3, window="day", tz=tz, reason="a test")
            app.run(spender(tools=[]), "Go.").result()
        assert app.run(spender(tools=[]), "Go.").status == "stopped"


# ── who holds and is no more ────────────────────────────────────────────────────────────────────


class Hanging:
    """A Claude that answers nobody whose question it is told to keep waiting."""

    def __init__(self, word: str) -> None:
        self.model = ScriptedModel(answering)
        self.word = word.encode()
        self.asked = asyncio.Event()

    async def call(self, request: Any, *, on_part: Any) -> Any:
        if self.word in request.messages[0]:
            self.asked.set()
            await asyncio.sleep(600)
        return await self.model.call(request, on_part=on_part)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("room", [True, False])
def test_who_is_gone_keeps_nobody_waiting(room: bool, url: str) -> None:  # noqa: FBT001
    """A hold of a run that nobody drives any more is in doubt, and others go on or are stopped."""

    async def left(app: outlast.Outlast) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(app.arun(spender(tools=[]), "Hang.", run_id="a"), 1)

    with outlast.Outlast(url, model=Hanging("Hang")) as app:
        app.set_budget("fleet", usd="0.1010" if room else "0.06", reason="fits two holds, or one")
        asyncio.run(left(app))
        held = app.journal.balance("fleet").held
        assert held > 0
        run = app.run(spender(tools=[], min_tokens=2_000), "Go.", run_id="b")
        assert run.status == ("completed" if room else "stopped"), run.why
        if not room:
            assert app.journal.balance("fleet").held == 0
            assert app.journal.balance("fleet").in_doubt == held
            assert app.get("a").cost_nano == held, "the run that is gone was charged for it"


@pytest.mark.timeout(60)
def test_who_is_at_work_keeps_what_it_holds(tmp_path: Path) -> None:
    """A call that somebody waits for is not taken for lost, whoever needs what it holds."""
    url = f"sqlite:///{tmp_path}/a.db"
    with (
        outlast.Outlast(url, model=Hanging("Hang")) as one,
        outlast.Outlast(url, model=ScriptedModel(answering)) as other,
    ):
        one.set_budget("fleet", usd="0.06", reason="fits one hold")

        async def both() -> None:
            first = asyncio.create_task(one.arun(spender(tools=[]), "Hang.", run_id="a"))
            while not one.journal.balance("fleet").held:  # noqa: ASYNC110  (another loop)
                await asyncio.sleep(0.01)
            with suppress(TimeoutError):
                few = spender(tools=[], min_tokens=2_000)
                await asyncio.wait_for(other.arun(few, "Go.", run_id="b"), 3)
            assert one.journal.balance("fleet").in_doubt == 0
            assert one.journal.balance("fleet").held > 0
            first.cancel()
            with suppress(asyncio.CancelledError):
                await first

        asyncio.run(both())


def test_a_stop_names_the_window() -> None:
    """Of a scope with several budgets, the one that is used up is named."""
    with outlast.Outlast("memory://", model=ScriptedModel(answering)) as app:
        app.set_budget("fleet", turns=9, window="month", reason="a test")
        app.set_budget("fleet", turns=1, window="day", reason="a test")
        app.run(spender(tools=[]), "Go.").result()
        why = app.run(spender(tools=[]), "Go.", run_id="r").why
        today = f"{datetime.now(UTC):%Y-%m-%d}"
        assert why == (
            f"stopped: fleet budget of the day {today}, needs 1 turn, 0 turns left; "
            "`outlast budget set fleet --window day …` and resume, or resume when the day is over"
        )


KILLED = """
import asyncio, os, signal, sys
sys.path[:0] = sys.argv[2:]
import outlast
from test_limits import Hanging, spender
with outlast.Outlast(sys.argv[1], model=Hanging("Hang")) as app:
    async def die():
        task = asyncio.create_task(app.arun(spender(tools=[]), "Hang.", run_id="a"))
        while not app.journal.balance("fleet").held:
            await asyncio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    asyncio.run(die())
"""


@pytest.mark.timeout(60)
def test_a_process_that_was_killed_keeps_nobody_waiting(tmp_path: Path) -> None:
    """What a process held that is no more is in doubt as soon as somebody else needs it."""
    url = f"sqlite:///{tmp_path}/a.db"
    with outlast.Outlast(url, model=ScriptedModel(answering)) as app:
        app.set_budget("fleet", usd="0.06", reason="fits one hold")
        paths = [str(Path(__file__).parent), str(Path(outlast.__file__).parents[1])]
        ended = subprocess.run([sys.executable, "-c", KILLED, url, *paths], check=False)
        assert ended.returncode < 0
        assert app.journal.balance("fleet").held > 0
        run = app.run(spender(tools=[], min_tokens=2_000), "Go.", run_id="b")
        assert run.status == "stopped"
        assert app.journal.balance("fleet").held == 0
