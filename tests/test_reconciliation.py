"""Calls in doubt come to be what was billed: all of it, no more than once, and nowhere else."""

import asyncio
import gzip
import json
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

import outlast
from cli.console import finished, process, typed
from outlast.agent import Budget
from outlast.cli import exits
from outlast.doubts import doubts
from outlast.errors import Busy, JournalDamaged
from outlast.events import ModelCallReconciled, NoteAdded
from outlast.journal import Balance, Commit, Journal, run_stream
from outlast.models.script import Fault, any_of, faulty, once, say, tool_use, turn_number
from outlast.models.scripted import ScriptedModel
from outlast.reconciliation import Corrected, apply, shares
from outlast.state import fold, row
from outlast.stores import open_store
from outlast.testing.simulation import World, run
from outlast.views.bill import Report, read_report
from outlast.views.costs import GROUPS, costs, total
from stubs import agent

OPUS = "claude-opus-5-5"
DAY = "2026-11-09"
NOON = int(datetime(2026, 11, 9, 12, tzinfo=UTC).timestamp()) * 10**9
NEXT = NOON + 24 * 3_600 * 10**9
FAR = NOON + 30 * 24 * 3_600 * 10**9


@outlast.tool(effect="read")
def look(word: str) -> str:
    """Look a word up."""
    return word * 100


def claude(request: dict[str, Any], attempt: int) -> Any:
    return say(tool_use("look", {"word": "ab"})) if turn_number(request) < 3 else say("Done.")


CUT = faulty(
    claude,
    any_of(
        once(1, Fault(kind="cut", after_events=4)),
        once(3, Fault(kind="status", status=500)),
    ),
)
"""Each run has two calls in doubt, of which the first was billed."""


def spender(name: str = "tester", **more: Any) -> outlast.Agent:
    return agent(look, **({"model": OPUS, "max_tokens": 900, "budget": Budget()} | more))


def timed(app: outlast.Outlast) -> outlast.Outlast:
    """Let an application live on a day that is over."""
    began = time.monotonic_ns()
    for runner in (app._own, app._guest):
        runner._clock = lambda: NOON + time.monotonic_ns() - began
    return app


def billed(bill: dict[str, int], day: str = DAY) -> bytes:
    """Return the cost report of a day, in nano-dollars by model."""
    start = datetime.fromisoformat(f"{day}T00:00:00+00:00")
    end = datetime.fromtimestamp(start.timestamp() + 86_400, UTC)
    results = [
        {"currency": "USD", "amount": format(Decimal(nano) / 10**7, "f"), "model": model}
        for model, nano in bill.items()
    ]
    bucket = {
        "starting_at": f"{start:%Y-%m-%dT%H:%M:%SZ}",
        "ending_at": f"{end:%Y-%m-%dT%H:%M:%SZ}",
    }
    return json.dumps({"data": [bucket | {"results": results}], "has_more": False}).encode()


def applied(journal: Journal, report: Report, **more: Any) -> Corrected:
    given = {"exported_at": NEXT, "now": FAR, "by": "a test", "reason": "the bill"}
    return apply(journal, report, **(given | more))


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/a.db"


SCOPES = [("fleet", "total"), ("fleet", f"day:{DAY}"), ("tenant:acme", "month:2026-11")]


def played(url: str, runs: int = 4) -> tuple[outlast.Outlast, ScriptedModel]:
    """Run several runs side by side, whose calls the budgets of three accounts hold."""
    model = ScriptedModel(CUT)
    app = timed(outlast.Outlast(url, model=model))
    app.set_budget("fleet", usd=100, tokens=10**9, calls=1_000, turns=1_000, reason="a test")
    app.set_budget("fleet", usd=100, window="day", reason="a test")
    app.set_budget("tenant:acme", usd=100, window="month", reason="a test")

    async def all_of_them() -> None:
        await asyncio.gather(
            *[app.arun(spender(), f"Go {n}.", run_id=f"r{n}", tenant="acme") for n in range(runs)]
        )

    asyncio.run(all_of_them())
    assert [one.status for one in app.runs()] == ["completed"] * runs
    return app, model


def books(journal: Journal) -> set[tuple[int, int]]:
    """Return what is settled and in doubt, everywhere that it is kept: one pair, if all agree."""
    rows = journal.runs()
    doubt = sum(one.in_doubt_nano for one in rows)
    found = {(sum(one.cost_nano for one in rows) - doubt, doubt)}
    for one in rows:  # a row is what the journal says
        said = row(fold(journal.read(run_stream(one.id))), one.id)
        assert replace(said, next_seq=one.next_seq, fence=one.fence) == one
    for by in GROUPS:
        whole = total(costs(journal.rollup(), by))
        found.add((whole.settled_nano, whole.in_doubt_nano))
        assert whole.calls_in_doubt == len(list(doubts(journal)))
    for scope, window in SCOPES:
        balance = journal.balance(scope, window=window)
        assert balance.held == 0
        found.add((balance.settled, balance.in_doubt))
    return found


# ── sharing out ─────────────────────────────────────────────────────────────────────────────────


@given(
    st.lists(st.integers(0, 10**12), max_size=20).flatmap(
        lambda counted: st.tuples(st.just(counted), st.integers(0, sum(counted)))
    ),
    st.integers(0, 20),
)
def test_shares(given: tuple[list[int], int], first: int) -> None:
    """Nothing is lost, none gets more than it was counted at, and a half done is gone on with."""
    counted, amount = given
    found = shares(amount, counted)
    assert sum(found) == amount
    assert all(0 <= share <= one for share, one in zip(found, counted, strict=True))
    for share, one in zip(found, counted, strict=True):
        exact = Fraction(amount * one, sum(counted) or 1)
        assert abs(share - exact) < 2, "in proportion"
    assert shares(amount - sum(found[:first]), counted[first:]) == found[first:]


# ── applying ────────────────────────────────────────────────────────────────────────────────────


def test_what_was_in_doubt_is_what_was_billed(url: str) -> None:
    """After it, the months, the runs and every account are the bill, to the nano-dollar."""
    app, model = played(url)
    with app:
        before = books(app.journal)
        assert len(before) == 1
        ((settled, doubt),) = before
        assert settled < model.billed_nano < settled + doubt
        done = applied(app.journal, read_report(billed({OPUS: model.billed_nano})))
        assert done == Corrected(calls=8, counted_nano=doubt, cost_nano=model.billed_nano - settled)
        assert books(app.journal) == {(model.billed_nano, 0)}
        lost = total(costs(app.journal.rollup(), "tool")).lost_nano
        assert lost == model.billed_nano - settled
        assert app.journal.balance("fleet", unit="calls").in_doubt == 0
        assert app.journal.balance("fleet", unit="tokens").in_doubt == 0
        assert app.journal.balance("fleet", unit="calls").settled == 4 * 5


def test_applying_twice_changes_nothing(url: str) -> None:
    """The second time not even a note is written."""
    app, model = played(url, runs=2)
    with app:
        report = read_report(billed({OPUS: model.billed_nano}))
        applied(app.journal, report)
        written = app.journal.read_all(limit=10_000)
        (note,) = [one.event for one in written if one.stream == "~costs"]
        assert isinstance(note, NoteAdded)
        assert "4 calls in doubt are corrected by the bill of 2026-11-09" in note.text
        assert applied(app.journal, report) == Corrected()
        assert app.journal.read_all(limit=10_000) == written


@pytest.mark.parametrize(
    ("bill", "true"),
    [
        (lambda settled, doubt: settled - settled // 200, lambda doubt: 0),
        (lambda settled, doubt: settled, lambda doubt: 0),
        (lambda settled, doubt: settled + 1, lambda doubt: 1),
        (lambda settled, doubt: settled + doubt, lambda doubt: doubt),
        (lambda settled, doubt: settled + 2 * doubt, lambda doubt: doubt),
    ],
    ids=["half a percent less", "settled only", "one nano", "all", "more than all"],
)
def test_what_they_cost_is_between_nothing_and_what_they_counted(
    bill: Callable[[int, int], int], true: Callable[[int], int]
) -> None:
    """Whatever was billed, calls are corrected to no more than they were counted at."""
    app, _ = played("memory://", runs=1)
    with app:
        ((settled, doubt),) = books(app.journal)
        done = applied(app.journal, read_report(billed({OPUS: bill(settled, doubt)})))
        assert done == Corrected(calls=2, counted_nano=doubt, cost_nano=true(doubt))
        assert books(app.journal) == {(settled + true(doubt), 0)}
        events = [one.event for one in app.log("r0")]
        mended = [one for one in events if isinstance(one, ModelCallReconciled)]
        unbilled = sum(one.cost_nano == 0 for one in mended)
        assert app.get("r0").turns == 5 - unbilled, "what was not billed was no turn"
        assert all((one.tokens == 0) == (one.cost_nano == 0) for one in mended)
        assert app.journal.balance("fleet", unit="calls") == Balance(settled=5)
        assert app.journal.balance("fleet", unit="turns") == Balance(settled=5 - unbilled)
        whole = total(costs(app.journal.rollup(), "month"))
        assert (whole.calls, whole.calls_failed, whole.calls_in_doubt) == (
            *(5 - unbilled, unbilled, 0),
        )


def test_only_days_that_were_over_are_corrected() -> None:
    """A report that was written on the same day may lack a call, so its calls stay in doubt."""
    app, model = played("memory://", runs=1)
    with app:
        before = books(app.journal)
        report = read_report(billed({OPUS: model.billed_nano}))
        assert applied(app.journal, report, exported_at=NOON + 10**9) == Corrected()
        other = read_report(billed({OPUS: 5}, day="2026-11-08"))
        assert applied(app.journal, other) == Corrected()
        assert books(app.journal) == before
        assert app.journal.read("~costs") == []


def test_models_are_corrected_apart() -> None:
    """What was billed for one model corrects no call of another."""
    model = ScriptedModel(CUT)
    with timed(outlast.Outlast("memory://", model=model)) as app:
        for name in (OPUS, "claude-haiku-5-5"):
            app.run(spender(model=name), "Go.", run_id=name)
        bill = dict.fromkeys((OPUS, "claude-haiku-5-5"), 0)
        for charge in model.bill:
            bill[charge.model] += charge.nano_usd
        applied(app.journal, read_report(billed(bill)))
        assert {one.id: one.cost_nano for one in app.runs()} == bill


def test_a_run_that_was_stopped_by_doubt_goes_on() -> None:
    """A budget that was full of doubt has room again for the run, once the bill is known."""

    def dear(request: dict[str, Any], attempt: int) -> Any:
        return say("Done.")

    model = ScriptedModel(faulty(dear, once(1, Fault(kind="cut", after_events=4))))
    with timed(outlast.Outlast("memory://", model=model)) as app:
        tight = spender(budget=Budget(usd="0.035"), max_tokens=1_000, min_tokens=1_000)
        assert app.run(tight, "Go.", run_id="r").status == "stopped"
        assert app.resume("r", tight).status == "stopped"
        applied(app.journal, read_report(billed({OPUS: model.billed_nano})))
        assert app.get("r").status == "stopped"
        ended = app.resume("r", tight)
        assert (ended.status, ended.cost_nano) == ("completed", model.billed_nano)


@pytest.mark.parametrize("scope", ["fleet", "tenant:acme", f"model:{OPUS}", "tree:r0"])
def test_a_budget_that_is_set_later_knows_what_is_in_doubt(scope: str, url: str) -> None:
    """What was in doubt before counts in it as such, until it is corrected like the rest."""
    model = ScriptedModel(CUT)
    with timed(outlast.Outlast(url, model=model)) as app:
        app.run(spender(), "Go.", run_id="r0", tenant="acme")
        (one,) = app.runs()
        app.set_budget(scope, usd=1, tokens=10**9, calls=99, reason="late")
        balance = app.journal.balance(scope)
        assert (balance.settled + balance.in_doubt, balance.held) == (one.cost_nano, 0)
        tokens = app.journal.balance(scope, unit="tokens")
        assert tokens.taken == one.tokens
        assert app.journal.balance(scope, unit="calls").taken == 5
        applied(app.journal, read_report(billed({OPUS: model.billed_nano})))
        assert app.journal.balance(scope) == Balance(settled=model.billed_nano)
        assert app.journal.balance(scope, unit="tokens").in_doubt == 0
        assert app.journal.balance(scope, unit="calls") == Balance(settled=5)


def test_a_budget_can_be_set_beside_a_run_that_cannot_be_read(tmp_path: Path) -> None:
    """What such a run has in doubt counts as spent, and no correction passes it over."""
    app, model = played(f"sqlite:///{tmp_path}/a.db", runs=1)
    with app:
        spent = app.runs()[0].cost_nano
        other = apsw.Connection(f"{tmp_path}/a.db")
        other.execute("UPDATE event_bodies SET body = x'7b' WHERE stream = 'run:r0' AND seq = 2")
        other.close()
        app.set_budget(f"agent:{app.runs()[0].agent}", usd=1, reason="late")
        balance = app.journal.balance(f"agent:{app.runs()[0].agent}")
        assert balance == Balance(settled=spent)
        with pytest.raises(JournalDamaged):
            applied(app.journal, read_report(billed({OPUS: model.billed_nano})))


class Died(Exception):
    """The process of a correction is gone."""


class Dying:
    """A journal whose process dies at one of its appends, before it or after it."""

    def __init__(self, journal: Journal, at: int) -> None:
        self._journal = journal
        self.left = at

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)

    def append(self, commit: Commit) -> Any:
        self.left -= 1
        if self.left == 0:
            raise Died
        written = self._journal.append(commit)
        self.left -= 1
        if self.left == 0:
            raise Died
        return written


def corrections(journal: Journal) -> dict[tuple[str, str], int]:
    return {
        (one.stream, one.event.call_id): one.event.cost_nano
        for one in journal.read_all(limit=10_000)
        if isinstance(one.event, ModelCallReconciled)
    }


def simulated(runs: int = 3) -> tuple[Journal, int]:
    """Return a journal with calls in doubt, and what was billed for its runs."""
    journal, bill = open_store("memory://"), 0
    for number in range(runs):
        world = World(CUT)
        world.now = NOON
        run(world, journal, spender(), f"Go {number}.", run_id=f"r{number}")
        bill += world.model.billed_nano
    return journal, bill


def test_a_correction_that_died_is_finished_by_the_next() -> None:
    """Wherever it dies, the next one comes to the same amounts, call by call."""
    journal, bill = simulated()
    report = read_report(billed({OPUS: bill}))
    whole = applied(journal, report)
    expected = corrections(journal)
    assert len(expected) == whole.calls == 6
    for point in range(1, 2 * 7 + 1):
        again, _ = simulated()
        with pytest.raises(Died):
            applied(Dying(again, point), report)  # type: ignore[arg-type]
        applied(again, report)
        assert corrections(again) == expected
        assert {row.cost_nano for row in again.runs()} == {row.cost_nano for row in journal.runs()}
        assert total(costs(again.rollup(), "day")).nano == bill


class Meddled:
    """A journal in which somebody does something before each correction."""

    def __init__(self, journal: Journal, deed: Callable[[], None]) -> None:
        self._journal = journal
        self._deed = deed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)

    def append(self, commit: Commit) -> Any:
        if isinstance(commit.events[0], ModelCallReconciled):
            deed, self._deed = self._deed, lambda: None
            deed()
        return self._journal.append(commit)


def test_a_run_that_grows_meanwhile_is_read_again() -> None:
    """A correction of a run that its driver has gone on with is computed anew."""
    journal, world = open_store("memory://"), World(CUT)
    world.now = NOON
    state, _ = run(world, journal, spender(budget=Budget(turns=2)), "Go.")
    assert state.status == "stopped"
    meddled = Meddled(journal, lambda: void(run(world, journal, spender(), "Go.")))
    done = applied(meddled, Report({DAY: {OPUS: 10**12}}))  # type: ignore[arg-type]
    assert done.calls == 1
    (one,) = journal.runs()
    assert one.status == "completed"
    said = row(fold(journal.read("run:r")), "r")
    assert replace(said, next_seq=one.next_seq, fence=one.fence) == one
    assert total(costs(journal.rollup(), "month")).nano == one.cost_nano


def void(_: object) -> None:
    pass


def test_two_corrections_at_once(tmp_path: Path) -> None:
    """The second one is told that the first is at it, and nothing is corrected twice."""
    url = f"sqlite:///{tmp_path}/a.db"
    app, model = played(url, runs=2)
    report = read_report(billed({OPUS: model.billed_nano}))
    with app:
        other = open_store(url)

        def second() -> None:
            with pytest.raises(Busy):
                applied(other, report)

        applied(Meddled(app.journal, second), report)  # type: ignore[arg-type]
        assert books(app.journal) == {(model.billed_nano, 0)}
        assert applied(other, report) == Corrected()
        other.close()


def test_a_correction_while_the_run_is_driven() -> None:
    """A driver that finds its call corrected goes on from there, and nothing is lost."""
    for point in range(14, 34):
        journal, world = open_store("memory://"), World(CUT)
        world.now = NOON
        report = Report({DAY: {OPUS: 10**9}})
        world.at = {point: lambda: void(applied(journal, report))}  # noqa: B023
        state, _ = run(world, journal, spender(), "Go.")
        assert state.status == "completed"
        assert len(corrections(journal)) in {1, 2}
        (one,) = journal.runs()
        said = row(fold(journal.read("run:r")), "r")
        assert replace(said, next_seq=one.next_seq, fence=one.fence) == one
        whole = total(costs(journal.rollup(), "month"))
        assert (whole.nano, whole.in_doubt_nano) == (one.cost_nano, one.in_doubt_nano)


@pytest.mark.parametrize("part", [0, 50, 98])
def test_a_bill_that_is_not_whole_corrects_nothing(part: int) -> None:
    """Where less was billed than is settled, the rest may yet come, and doubts stay spent."""
    app, _ = played("memory://", runs=1)
    with app:
        ((settled, doubt),) = before = books(app.journal)
        done = applied(app.journal, read_report(billed({OPUS: settled * part // 100})))
        assert done == Corrected()
        assert books(app.journal) == before
        assert doubt > 0


# ── stores of earlier versions ──────────────────────────────────────────────────────────────────


@pytest.fixture
def golden(tmp_path: Path) -> Iterator[Journal]:
    path = tmp_path / "golden.db"
    path.write_bytes(gzip.decompress((Path(__file__).parent / "golden/v1.db.gz").read_bytes()))
    journal = open_store(f"sqlite:///{path}")
    yield journal
    journal.close()


def test_calls_that_an_earlier_version_doubted(golden: Journal) -> None:
    """Its calls are found where it added them up, and no line of the roll-up falls below zero."""
    assert len(list(doubts(golden))) >= 2
    before = sum(row.cost_nano - row.in_doubt_nano for row in golden.runs())
    days = {
        line.name: {"claude-haiku-5-5": line.settled_nano} for line in costs(golden.rollup(), "day")
    }
    applied(golden, Report(days), exported_at=2**62)
    assert list(doubts(golden)) == []
    assert all(
        getattr(line, name) >= 0
        for line in golden.rollup()
        for name in ("in_doubt_nano", "calls_in_doubt", "settled_nano", "calls")
    )
    assert total(costs(golden.rollup(), "month")).nano == before
    assert sum(row.cost_nano for row in golden.runs()) == before


# ── the command ─────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def filled(tmp_path: Path) -> tuple[str, int, Path]:
    """Return a store with calls in doubt, its bill, and the report of that."""
    url = f"sqlite:///{tmp_path}/a.db"
    app, model = played(url, runs=1)
    app.close()
    path = tmp_path / "report.json"
    path.write_bytes(billed({OPUS: model.billed_nano}))
    return url, model.billed_nano, path


def reconciled(store: str, path: Path, *more: str) -> tuple[int, dict[str, Any]]:
    words = ("costs", "--reconcile", str(path), "--json", "--store", store, *more)
    shown = typed(*words)
    return shown.exit_code, json.loads(shown.stdout)


def test_a_store_is_compared_and_corrected(filled: tuple[str, int, Path]) -> None:
    """Without `--apply` nothing is written; with it the bill and the store agree."""
    store, bill, path = filled
    journal = open_store(store)
    written = len(journal.read_all(limit=10_000))
    code, told = reconciled(store, path)
    assert code == exits.FAILED
    (line,) = told["lines"]
    assert (line["day"], line["model"], line["billed_nano"]) == (DAY, OPUS, bill)
    assert Decimal(line["billed_usd"]) * 10**9 == bill
    assert line["drift_nano"] == line["settled_nano"] + line["in_doubt_nano"] - bill > 0
    assert line["flagged"]
    assert (told["flagged"], told["applied"], told["corrected"]["calls"]) == (1, False, 0)
    assert len(journal.read_all(limit=10_000)) == written
    code, told = reconciled(store, path, "--apply", "--reason", "November")
    assert (code, told["flagged"], told["corrected"]["calls"]) == (exits.DONE, 0, 2)
    assert told["corrected"]["cost_nano"] == bill - line["settled_nano"]
    mended = [e.event for e in journal.read("run:r0") if isinstance(e.event, ModelCallReconciled)]
    assert [(e.by, e.reason) for e in mended] == [("outlast costs --reconcile", "November")] * 2
    journal.close()
    log = typed("log", "r0", "--store", store).stdout
    assert "was in doubt, and cost $" in log
    assert json.loads(typed("show", "r0", "--json", "--store", store).stdout)["in_doubt"] == []
    assert reconciled(store, path, "--apply")[1]["corrected"]["calls"] == 0


def test_people_are_told_what_differs(filled: tuple[str, int, Path]) -> None:
    """The table has a line for each day and model, and below it stands what is to be done."""
    store, _, path = filled
    shown = typed("costs", "--reconcile", str(path), "--store", store)
    assert shown.exit_code == exits.FAILED
    assert "in doubt" in shown.stdout
    assert f"Next: outlast costs --reconcile {path} --apply" in shown.stdout
    shown = typed("costs", "--reconcile", str(path), "--apply", "--store", store)
    assert shown.exit_code == exits.DONE, shown.output
    assert "Corrected 2 calls in doubt: $" in shown.stdout
    assert "Next: outlast costs --by day" in shown.stdout
    path.write_bytes(billed({OPUS: 10**9}, day="2026-11-08"))
    shown = typed("costs", "--reconcile", str(path), "--store", store)
    assert "2026-11-09: not in the report, and left out." in shown.stdout
    assert "billed to somebody else, or unknown to this store" in shown.stdout


def test_a_report_of_a_day_that_is_not_over(filled: tuple[str, int, Path]) -> None:
    """Such a day is compared; its calls stay in doubt, and that is said."""
    store, _, path = filled
    os.utime(path, ns=(NOON, NOON))
    code, told = reconciled(store, path, "--apply")
    assert (code, told["unfinished"], told["corrected"]["calls"]) == (exits.FAILED, [DAY], 0)
    shown = typed("costs", "--reconcile", str(path), "--store", store).stdout
    assert "2026-11-09: not over when the report was written" in shown
    assert "--apply" not in shown


@pytest.mark.parametrize(
    "words",
    [
        ("--apply",),
        ("--reason", "why"),
        ("--reconcile", "{file}", "--reason", "why"),
        ("--reconcile", "{file}", "--by", "day"),
        ("--reconcile", "{file}", "--csv"),
        ("--reconcile", "{file}", "--chart"),
        ("--reconcile", "nothing.json"),
        ("--reconcile", "."),
        ("--reconcile", "{wrong}"),
    ],
)
def test_wrong_usage(filled: tuple[str, int, Path], words: tuple[str, ...]) -> None:
    """Options that do not go together, and files that are no report, are told with exit 2."""
    store, _, path = filled
    wrong = path.with_name("wrong.json")
    wrong.write_bytes(billed({"claude-opus-9": 5}))
    given = [word.format(file=path, wrong=wrong) for word in words]
    assert typed("costs", *given, "--store", store).exit_code == exits.USAGE


def test_two_processes_correct_once(filled: tuple[str, int, Path], tmp_path: Path) -> None:
    """Commands in two processes at once come to one correction of each call."""
    store, bill, path = filled
    words = ("costs", "--reconcile", str(path), "--apply", "--json", "--store", store)
    both = [finished(one) for one in [process(*words, cwd=tmp_path) for _ in range(2)]]
    assert {code for code, _, _ in both} <= {exits.DONE, exits.WAITING}
    done = [json.loads(out)["corrected"]["calls"] for code, out, _ in both if code == exits.DONE]
    assert sum(done) == 2
    journal = open_store(store)
    assert books(journal) == {(bill, 0)}
    journal.close()
