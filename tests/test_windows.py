"""Windows of budgets: hours that roll on, attempts and turns, and who is told before it is late."""

import logging
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import outlast
from flow_stubs import Clock
from outlast.budget import HOUR_NS
from outlast.errors import Refused, UsageError
from outlast.events import BudgetPassed, ModelCallStarted
from outlast.journal import Commit, Hold
from outlast.limits import LONGEST_H, Rule, check_window, holds, rolling, since, window_key
from outlast.models.script import Fault, say
from outlast.models.scripted import ScriptedModel
from outlast.stores import open_store
from outlast.testing.commits import begin, driven
from stubs import agent

OPUS = "claude-opus-5-5"


def answering(request: dict[str, Any], attempt: int) -> Any:
    return say("Fine. " * 50)


def asker(**more: Any) -> outlast.Agent:
    return agent(model=OPUS, max_tokens=2_000, budget=outlast.Budget(), **more)


# ── hours that roll on ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("window", "hours"),
    [
        ("1h", 1),
        ("24h", 24),
        (f"{LONGEST_H}h", LONGEST_H),
        (f"{LONGEST_H + 1}h", None),
        ("0h", None),
        ("h", None),
        ("-1h", None),
        ("1.5h", None),
        ("1 h", None),
        ("²h", None),
        ("24", None),
        ("day", None),
    ],
)
def test_hours(window: str, hours: int | None) -> None:
    """A window that rolls on is a whole number of hours, and no other window is one."""
    assert rolling(window) == hours


@pytest.mark.parametrize("window", ["week", "0h", "1d", "", None, 24, "99999h"])
def test_a_window_that_is_none(window: Any) -> None:
    """What is no window is refused, with those that are."""
    with pytest.raises(UsageError, match=r"total, day, month, and hours"):
        check_window("fleet", window)


@pytest.mark.parametrize("scope", ["run:r", "tree:r"])
def test_what_has_one_budget_for_all_of_it(scope: str) -> None:
    """A run and a tree have no windows."""
    with pytest.raises(UsageError, match="leave the window out"):
        check_window(scope, "24h")


GAP_S = st.one_of(st.integers(0, 5_400), st.integers(3_530, 3_600))
GAPS = st.lists(st.tuples(GAP_S, st.integers(1, 30)), min_size=1, max_size=40)


@settings(max_examples=100, deadline=None)
@given(GAPS, st.sampled_from([1, 2, 5]))
def test_no_stretch_of_hours_is_overspent(calls: list[tuple[int, int]], hours: int) -> None:
    """Whatever hours one looks at, no more was spent in them than the window allows."""
    journal = open_store("memory://")
    stream = begin(journal, "a")
    epoch = journal.claim(stream)
    rule = Rule(scope="fleet", window=f"{hours}h", calls=50)
    at, spent, refused = 1_790_000_000 * 10**9, [], 0
    for number, (gap_s, amount) in enumerate(calls):
        at += gap_s * hours * 10**9
        hold = Hold(
            call_id=str(number),
            scope=rule.scope,
            window=window_key(rule, at),
            unit="calls",
            needed=amount,
            limit=50,
            since=since(rule, at),
        )
        seq = len(journal.read(stream)) + 1
        try:
            journal.append(driven(stream, epoch, seq, holds=[hold]))
        except Refused:
            # It was refused for what was spent in this stretch and a sixtieth of it.
            refused += 1
            lately = sum(n for when, n in spent if at - when < hours * HOUR_NS * 61 // 60)
            assert lately + amount > 50
        else:
            spent.append((at, amount))
    for when, _ in spent:
        stretch = [n for other, n in spent if when <= other < when + hours * HOUR_NS]
        assert sum(stretch) <= 50


def test_a_clock_that_was_set_back_gives_nothing_back() -> None:
    """What was spent by a clock that was ahead counts, too."""
    rule = Rule(scope="fleet", window="6h", calls=1)
    ahead, back = 1_790_000_000 * 10**9 + HOUR_NS, 1_790_000_000 * 10**9
    journal = open_store("memory://")
    stream = begin(journal, "a")
    epoch = journal.claim(stream)
    intent = ModelCallStarted(
        ask_id="a", call_id="c", max_tokens=1, request_hash="", hold_nano=1, hold_tokens=1
    )
    first = list(holds([rule], intent, call_id="c1", at=ahead))
    journal.append(driven(stream, epoch, 2, holds=first))
    again = list(holds([rule], intent, call_id="c2", at=back))
    with pytest.raises(Refused):
        journal.append(driven(stream, epoch, 3, holds=again))


@pytest.mark.parametrize("store", ["memory://", "sqlite"])
def test_a_budget_by_the_hour(store: str, tmp_path: Any, monkeypatch: Any) -> None:
    """A run that a rolling budget stopped goes on when its hours are over."""
    clock = Clock(monkeypatch)
    url = store if store == "memory://" else f"sqlite:///{tmp_path}/a.db"
    with outlast.Outlast(url, model=ScriptedModel(answering)) as app:
        app.run(asker(), "Go.").result()
        app.set_budget("fleet", turns=2, window="3h", reason="slowly")
        assert app.run(asker(), "Go.").status == "completed"
        stopped = app.run(asker(), "Go.", run_id="r")
        assert stopped.status == "stopped"
        assert stopped.why.startswith("stopped: fleet budget of 3h, needs 1 turn, 0 turns left")
        clock.jump(2 * 3600)
        assert app.resume("r", asker()).status == "stopped"
        clock.jump(2 * 3600 + 240)
        assert app.resume("r", asker()).status == "completed"


def test_what_was_spent_before_leaves_a_rolling_window_as_late_as_it_may(monkeypatch: Any) -> None:
    """The roll-up knows the hour only, so what it tells of counts as of the end of that."""
    clock = Clock(monkeypatch)
    clock.jump(datetime(2027, 1, 30, 12, 50, tzinfo=UTC).timestamp() - clock() / 10**9)
    with outlast.Outlast("memory://", model=ScriptedModel(answering)) as app:
        app.run(asker(), "Go.").result()
        app.set_budget("fleet", turns=1, window="1h", reason="a test")
        clock.jump(55 * 60)
        assert app.run(asker(), "Go.", run_id="r").status == "stopped"
        clock.jump(20 * 60)
        assert app.resume("r", asker()).status == "completed"


# ── attempts and turns ──────────────────────────────────────────────────────────────────────────


def test_an_attempt_that_was_not_billed_is_a_call_and_no_turn() -> None:
    """Calls are attempts, whatever came of them; a turn was billed, or may have been."""

    def script(request: dict[str, Any], attempt: int) -> Any:
        return Fault(kind="status", status=529) if attempt < 3 else say("Fine.")

    with outlast.Outlast("memory://", model=ScriptedModel(script)) as app:
        app.set_budget("fleet", turns=1, reason="one")
        app.set_budget("tenant:t", calls=3, reason="three")
        app.run(asker(), "Go.", tenant="t").result()
        assert app.journal.balance("fleet", unit="turns").settled == 1
        assert app.journal.balance("tenant:t", unit="calls").settled == 3
        app.set_budget("fleet", reason="none any more")
        assert "needs 1 call, 0 calls left" in app.run(asker(), "Go.", tenant="t").why


# ── being told ──────────────────────────────────────────────────────────────────────────────────


def told(app: outlast.Outlast) -> list[tuple[str, int]]:
    events = (record.event for record in app.journal.read("~budgets"))
    return [(event.unit, event.percent) for event in events if isinstance(event, BudgetPassed)]


@pytest.mark.parametrize("scope", ["fleet", "tenant:t", "agent:tester", f"model:{OPUS}", "tree:r"])
def test_somebody_is_told_in_time(scope: str, caplog: Any) -> None:
    """At each percentage, once, with a warning that says what is spent of what."""

    @outlast.flow(budget=outlast.Budget())
    async def flow(run: outlast.Run) -> None:
        for name in "abcd":
            await run.ask(asker(), "Go.", name=name)

    with outlast.Outlast("memory://", model=ScriptedModel(answering)) as app:
        app.set_budget(scope, turns=4, notify=[50, 80], reason="a test")
        with caplog.at_level(logging.WARNING, logger="outlast"):
            app.run(flow, run_id="r", tenant="t").result()
        assert told(app) == [("turns", 50), ("turns", 80)]
        lines = [record.getMessage() for record in caplog.records]
        assert len(lines) == 2
        assert f"scope={scope} window=total unit=turns percent=50 spent=2 limit=4" in lines[0]


def test_what_is_only_watched_refuses_nothing() -> None:
    """A budget that does not bind is counted and told of, and calls go on beyond it."""
    with outlast.Outlast("memory://", model=ScriptedModel(answering)) as app:
        app.set_budget("fleet", turns=2, notify=[100, 150], binding=False, reason="watch")
        for _ in range(4):
            app.run(asker(), "Go.").result()
        assert told(app) == [("turns", 100), ("turns", 150)]
        app.set_budget("fleet", turns=5, notify=[80], binding=False, reason="another amount")
        app.run(asker(), "Go.").result()
        assert told(app)[2:] == [("turns", 80)]


def test_each_month_is_told_of_and_each_stretch_once(monkeypatch: Any) -> None:
    """A new month, or another stretch of hours, is told of anew."""
    clock = Clock(monkeypatch)
    clock.jump(datetime(2027, 1, 30, 12, tzinfo=UTC).timestamp() - clock() / 10**9)
    with outlast.Outlast("memory://", model=ScriptedModel(answering)) as app:
        app.set_budget("fleet", turns=9, window="month", notify=[10], reason="a test")
        app.set_budget("tenant:t", turns=9, window="2h", notify=[10], reason="a test")
        for days in (0, 0.01, 3, 0.01):
            clock.jump(days * 86_400)
            app.run(asker(), "Go.", tenant="t").result()
        events = [record.event for record in app.journal.read("~budgets")]
        windows = [event.window for event in events if isinstance(event, BudgetPassed)]
        assert windows == [
            "month:2027-01",
            "2h:2027-01-30T12Z",
            "month:2027-02",
            "2h:2027-02-02T12Z",
        ]


def test_two_processes_tell_once(tmp_path: Any) -> None:
    """Whoever passes a percentage, with others beside it, it is told of once."""
    url = f"sqlite:///{tmp_path}/a.db"
    with outlast.Outlast(url, model=ScriptedModel(answering)) as one:
        one.set_budget("fleet", turns=9, notify=[20], reason="a test")
        with outlast.Outlast(url, model=ScriptedModel(answering)) as other:
            for app in (one, other, one, other):
                app.run(asker(), "Go.").result()
        assert told(one) == [("turns", 20)]


class Faster:
    """A journal in which somebody else always tells first."""

    def __init__(self, journal: Any) -> None:
        self._journal = journal

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)

    def append(self, commit: Any) -> Any:
        if isinstance(commit.events[0], BudgetPassed):
            self._journal.append(Commit(stream="~budgets", events=commit.events, at=commit.at))
        return self._journal.append(commit)

    async def aappend(self, commit: Any) -> Any:
        return self.append(commit)


def test_who_is_slower_tells_nothing() -> None:
    """Where somebody told of it between the look and the telling, it is not told again."""
    journal: Any = Faster(open_store("memory://"))
    with outlast.Outlast(journal, model=ScriptedModel(answering)) as app:
        app.set_budget("fleet", turns=9, notify=[10], reason="a test")
        app.run(asker(), "Go.").result()
        assert told(app) == [("turns", 10)]


@pytest.mark.parametrize("notify", [[0], [-5], [50.5], [True], ["50"], [1001]])
def test_percentages_that_are_none(notify: Any) -> None:
    """What is no percentage is refused."""
    with (
        outlast.Outlast("memory://", model=ScriptedModel(answering)) as app,
        pytest.raises(UsageError, match="from 1 to 1000"),
    ):
        app.set_budget("fleet", turns=1, notify=notify, reason="a test")


@pytest.mark.parametrize(
    ("scope", "more"),
    [("run:r", {"notify": [50]}), ("run:r", {"binding": False}), ("tree:r", {"binding": False})],
)
def test_the_budget_of_a_run_binds(scope: str, more: Any) -> None:
    """A run keeps its own budget, so nobody else counts it; and a tree's is what it declares."""
    with (
        outlast.Outlast("memory://", model=ScriptedModel(answering)) as app,
        pytest.raises(UsageError, match="bind"),
    ):
        app.set_budget(scope, turns=1, reason="a test", **more)


def test_what_is_spent_already_is_told_at_once() -> None:
    """A budget that is set when some of it is spent says so, and not again with the next call."""
    with outlast.Outlast("memory://", model=ScriptedModel(answering)) as app:
        for _ in range(2):
            app.run(asker(), "Go.").result()
        app.set_budget("fleet", turns=4, notify=[50, 80], reason="a test")
        assert told(app) == [("turns", 50)]
        app.run(asker(), "Go.").result()
        assert told(app) == [("turns", 50)]


def test_another_budget_of_a_scope_tells_nothing_again() -> None:
    """What was told of a month stays told when a day gets a budget, or the month the same again."""
    with outlast.Outlast("memory://", model=ScriptedModel(answering)) as app:
        for window, limit in (("month", 2), ("day", 90), ("month", 2)):
            app.set_budget("fleet", turns=limit, window=window, notify=[50], reason="a test")
            app.run(asker(), "Go.", run_id=window)
        assert told(app) == [("turns", 50)]


def test_what_has_left_a_rolling_window_stays_out_when_the_amount_changes(monkeypatch: Any) -> None:
    """The account knows to the slice what the roll-up knows to the hour, so it is not asked."""
    clock = Clock(monkeypatch)
    clock.jump(datetime(2027, 1, 30, 12, 5, tzinfo=UTC).timestamp() - clock() / 10**9)
    with outlast.Outlast("memory://", model=ScriptedModel(answering)) as app:
        app.set_budget("fleet", turns=1, window="1h", reason="a test")
        app.run(asker(), "Go.").result()
        clock.jump(75 * 60)
        app.set_budget("fleet", turns=2, window="1h", reason="more")
        for _ in range(2):
            app.run(asker(), "Go.").result()
