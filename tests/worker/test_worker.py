"""What a worker drives, what it leaves and why, and that nothing ends it but who stops it."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from worked import WORLD, Clock, app_at, live, naps, once, settle, store_at, until

import outlast
from flow_stubs import NS, named
from outlast.errors import StoreError, UsageError
from outlast.events import RunLeft
from outlast.journal import RunRow, run_stream
from outlast.worker import AGAIN_S, LEFT_S, LIMIT, LOOK_S, RETRY_S, Worker

reader = named("reader")


@outlast.flow
async def strange(run: outlast.Run, word: str) -> str:
    """Be known to no worker."""
    WORLD.act(word)
    return word


@outlast.flow
async def approved(run: outlast.Run) -> bool:
    """Ask a person."""
    decision = await run.approval("Ship it?")
    WORLD.act("decided")
    return decision.approved


@outlast.flow
async def above(run: outlast.Run) -> list[Any]:
    """Wait for a run below that asks a person."""
    return await run.map(asking, ["x"])


@outlast.flow
async def asking(run: outlast.Run, word: str) -> bool:
    """Ask a person."""
    return (await run.approval(f"{word}?")).approved


@pytest.fixture(autouse=True)
def _calm() -> Iterator[None]:
    """See that nothing is left of a test: no act, and no thread."""
    WORLD.clear()
    before = ours()  # those of other tests, whose applications may not be collected yet
    yield
    until(lambda: ours() <= before, "the end of every thread")


def ours() -> set[threading.Thread]:
    names = ("outlast-worker", "outlast-workshop", "outlast-loop", "outlast-signals")
    return {one for one in threading.enumerate() if one.name in names}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def app() -> Iterator[outlast.Outlast]:
    with app_at("memory://") as one:
        yield one


def status(app: outlast.Outlast, run_id: str = "r") -> str:
    return app.get(run_id).status


def lefts(app: outlast.Outlast, run_id: str = "r") -> list[str]:
    return [one.event.why for one in app.log(run_id) if isinstance(one.event, RunLeft)]


# ── what is due ─────────────────────────────────────────────────────────────────────────────────


def test_a_new_run_is_begun_at_once(clock: Clock, app: outlast.Outlast) -> None:
    """A run that is started in this process is driven before the worker would have looked."""
    with Worker(app, [once, reader]):  # its clock stands still, so only a nudge makes it look
        app.start(once, "now", run_id="r")
        until(lambda: status(app) == "completed")
        app.start(reader, "Hello?", run_id="a")
        until(lambda: status(app, "a") == "completed")
    assert app.get("a").answer == "re: Hello?"


def test_a_run_from_elsewhere_is_found_at_the_next_look(tmp_path: Path, clock: Clock) -> None:
    """What another process has started is begun within a look, and not before anybody asked."""
    with app_at(store_at(tmp_path / "r.db")) as here, app_at(store_at(tmp_path / "r.db")) as there:
        worker = Worker(here, [once])
        settle(worker, clock)
        there.start(once, "elsewhere", run_id="r")
        worker.step(clock.moment())
        assert not worker.driven()
        live(worker, clock, LOOK_S)
        assert status(here) == "completed"


def test_run_at_begins_then_and_not_before(clock: Clock, app: outlast.Outlast) -> None:
    """A run of a time to come begins then, one of a time that has gone by at once."""
    worker = Worker(app, [once])
    app.start(once, "later", run_id="later", run_at=clock.after(90))
    app.start(once, "past", run_id="past", run_at=clock.after(-90))
    assert (status(app, "later"), app.get("later").wake_at) == ("parked", clock.now + 90 * NS)
    live(worker, clock, 89.9)
    assert (status(app, "later"), status(app, "past")) == ("parked", "completed")
    live(worker, clock, 0.2)
    assert status(app, "later") == "completed"
    assert worker.wake_at is None
    again = app.start(once, "later", run_id="later", run_at=clock.after(500))
    assert again.status == "completed"


@pytest.mark.parametrize(
    "wrong",
    [
        datetime(2026, 12, 24, 18),  # noqa: DTZ001  (that is the point)
        "2026-12-24",
        5,
    ],
)
def test_run_at_needs_a_zone(app: outlast.Outlast, wrong: Any) -> None:
    """A time without a zone is no time, and nothing is written."""
    with pytest.raises(UsageError, match="with a time zone"):
        app.start(once, "x", run_id="r", run_at=wrong)
    assert app.runs() == []


def test_run_at_counts_by_its_own_zone(app: outlast.Outlast) -> None:
    """The same moment in another zone is the same moment, to the microsecond."""
    here = datetime(2030, 1, 1, 12, 0, 0, 123_456, tzinfo=UTC)
    there = here.astimezone(ZoneInfo("Asia/Kolkata"))
    for run_id, at in (("here", here), ("there", there)):
        app.start(once, "x", run_id=run_id, run_at=at)
    assert app.get("here").wake_at == app.get("there").wake_at == 1_893_499_200_123_456_000


def test_what_a_person_decided_goes_on(clock: Clock, app: outlast.Outlast) -> None:
    """A run that waits for a person goes on once that has answered, and it or a child is told."""
    worker = Worker(app, [approved, above, asking])
    app.start(approved, run_id="r")
    app.start(above, run_id="top")
    live(worker, clock, 2)
    assert (status(app), status(app, "top")) == ("waiting", "waiting")
    (below,) = app.journal.below("top")
    app.approve("r")
    app.approve(below.id)
    live(worker, clock, 2)
    assert (app.get("r").answer, app.get("top").answer) == (True, [True])


def test_a_child_that_is_resumed_wakes_the_run_above(clock: Clock, app: outlast.Outlast) -> None:
    """A run whose child was paused goes on when the child is told to."""
    worker = Worker(app, [above, asking])
    app.start(above, run_id="top")
    live(worker, clock, 2)
    (below,) = app.journal.below("top")
    app.pause(below.id)
    app.approve(below.id)
    live(worker, clock, 5)
    assert status(app, "top") in {"parked", "waiting"}
    app._control(below.id, "resume", "", "")
    live(worker, clock, 5)
    assert app.get("top").answer == [True]


def test_a_schedule_is_fired_on_time(clock: Clock, app: outlast.Outlast) -> None:
    """Each occurrence begins a run within a moment of its time."""
    app.schedule("hourly", once, "tick", cron="0 * * * *")
    worker = Worker(app, [once])
    live(worker, clock, 3 * 3_600 + 1)
    assert len(app.runs()) == 3
    assert {run.status for run in app.runs()} == {"completed"}
    assert all(at % (3_600 * NS) < NS // 10 for _, at in WORLD.acts)


def test_beside_calls_in_the_same_process(tmp_path: Path) -> None:
    """A worker leaves alone what this process drives itself, and both come to their ends."""
    seen: list[str] = []
    with app_at(store_at(tmp_path / "r.db")) as app:
        told: Callable[[RunRow, Any], None] = lambda one, run: seen.append(one.id)  # noqa: E731
        with Worker(app, [once, reader], on_change=told):
            for n in range(20):
                assert app.run(reader, f"q{n}", run_id=f"a{n}").answer == f"re: q{n}"
            app.start(once, "w", run_id="w")
            until(lambda: status(app, "w") == "completed")
    assert seen.count("w") == 2
    assert WORLD.counted() == {"w": 1}


def test_calls_go_on_after_a_worker_has_ended(app: outlast.Outlast) -> None:
    """Who stops a worker can run agents as before, and start another worker."""
    for n in range(2):
        worker = Worker(app, [once])
        worker.start()
        worker.stop()
        assert app.run(reader, "Hello?", run_id=f"a{n}").answer == "re: Hello?"


def test_a_worker_that_was_never_started_stops_nothing(app: outlast.Outlast) -> None:
    """To stop it is nothing, and other runs go on."""
    Worker(app, [once]).stop()
    assert app.run(reader, "Hello?").status == "completed"


# ── what cannot be driven ───────────────────────────────────────────────────────────────────────


def test_unknown_code_is_left_with_a_reason(clock: Clock, app: outlast.Outlast) -> None:
    """It is left to others at first, then it is said; who knows it drives it, and says no more."""
    app.start(strange, "s", run_id="r")
    worker = Worker(app, [once])
    live(worker, clock, LEFT_S - 0.1)
    assert lefts(app) == []
    live(worker, clock, LEFT_S + 1)
    (why,) = lefts(app)
    assert app.get("r").why == why
    assert why.startswith("no worker has ")
    assert ":strange; start one that does: outlast worker " in why
    live(worker, clock, 3 * RETRY_S)
    assert len(lefts(app)) == 1, "said once"
    live(Worker(app, [strange]), clock, 1)
    assert (status(app), app.get("r").why) == ("completed", "")


def test_what_is_unknown_takes_nobodys_turn(clock: Clock, app: outlast.Outlast) -> None:
    """Behind any number of runs that cannot be driven here, one that can is begun at once."""
    for n in range(3 * LIMIT):
        app.start(strange, "s", run_id=f"s{n}")
    worker = Worker(app, [once], at_once=4)
    live(worker, clock, 20)
    app.start(once, "known", run_id="r")
    live(worker, clock, LOOK_S)
    assert status(app) == "completed"
    app.start(strange, "s", run_id="another")
    app.start(once, "known", run_id="r2")
    live(worker, clock, LOOK_S)
    assert status(app, "r2") == "completed"


def test_a_cancelled_run_is_ended_without_its_code(clock: Clock, app: outlast.Outlast) -> None:
    """A run that was told to end while nobody could drive it is ended by whoever comes."""
    app.start(strange, "s", run_id="r", run_at=clock.after(1_000))
    end = app._end_cancelled

    async def died(run_id: str) -> None:
        """Die before the run is ended."""

    app._end_cancelled = died  # type: ignore[method-assign]
    app.cancel("r", reason="enough")
    app._end_cancelled = end  # type: ignore[method-assign]
    assert status(app) not in {"cancelled", "completed"}
    live(Worker(app, [once]), clock, LOOK_S)
    assert status(app) == "cancelled"
    assert not WORLD.acts


def test_what_fails_to_be_driven_is_left_and_tried_again(tmp_path: Path, clock: Clock) -> None:
    """It is tried once, and again when something happens to it, and after a minute."""
    tries = 0
    with app_at(store_at(tmp_path / "r.db"), on_change="refuse") as app:
        worked = app._worked

        async def broken(
            run_id: str, who: Any, *, force: bool = False, worker: str = ""
        ) -> outlast.Run:
            nonlocal tries
            tries += 1
            if mended:
                return await worked(run_id, who, force=force)
            raise LookupError("no flow fits")

        mended = False
        app._worked = broken  # type: ignore[method-assign]
        app.start(once, "x", run_id="r")
        app.start(once, "y", run_id="other")
        worker = Worker(app, [once])
        live(worker, clock, RETRY_S - 5)
        assert (tries, len(lefts(app))) == (2, 1)
        assert app.get("r").why == "cannot be driven: LookupError: no flow fits"
        app.note("r", "look at this")
        live(worker, clock, 2)
        assert tries == 3
        live(worker, clock, RETRY_S - 5)
        assert (tries, len(lefts(app))) == (4, 1)
        mended = True
        live(worker, clock, RETRY_S + 5)
        assert {run.status for run in app.runs()} == {"completed"}


def test_two_that_cannot_drive_it_do_not_take_turns_in_saying_so(
    tmp_path: Path, clock: Clock
) -> None:
    """Who has the code and fails, and who has none, each say so once, and the former stays."""
    path = tmp_path / "r.db"
    with app_at(store_at(path)) as has, app_at(store_at(path)) as lacks:

        async def broken(
            run_id: str, who: Any, *, force: bool = False, worker: str = ""
        ) -> outlast.Run:
            raise LookupError("no flow fits")

        has._worked = broken  # type: ignore[method-assign]
        has.start(strange, "x", run_id="r")
        workers = Worker(has, [strange]), Worker(lacks, [once])
        for _ in range(int(5 * RETRY_S)):
            for worker in workers:
                settle(worker, clock)
            clock.jump(1.0)
        assert len(lefts(has)) <= 3
        assert has.get("r").why.startswith("cannot be driven:")


def test_a_run_that_cannot_be_read_keeps_nobody_else(
    clock: Clock, app: outlast.Outlast, caplog: pytest.LogCaptureFixture
) -> None:
    """A damaged journal, or one of a newer version, is passed over, and that is said."""
    app.start(once, "bad", run_id="bad")
    app.start(once, "good", run_id="good")
    read = app.journal.read

    def reading(stream: str, **more: Any) -> Any:
        if stream == run_stream("bad"):
            raise outlast.errors.JournalDamaged(stream, seq=1, why="its body is none")
        return read(stream, **more)

    app.journal.read = reading  # type: ignore[method-assign]
    worker = Worker(app, [once])
    with caplog.at_level(logging.ERROR, "outlast"):
        live(worker, clock, 10)
    assert status(app, "good") == "completed"
    said = [one.getMessage() for one in caplog.records]
    assert len(said) == 1
    assert said[0].startswith("run bad cannot be driven: ")


def test_a_run_whose_why_cannot_be_written_is_not_tried_again_and_again(
    clock: Clock, app: outlast.Outlast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing can be said in a run's journal either, it still waits for its minute."""
    tries = 0

    async def broken(
        run_id: str, who: Any, *, force: bool = False, worker: str = ""
    ) -> outlast.Run:
        nonlocal tries
        tries += 1
        raise LookupError("no flow fits")

    def unsaid(*_: Any) -> None:
        raise outlast.errors.JournalDamaged("run:r", seq=2, why="it is gone")

    app._worked = broken  # type: ignore[method-assign]
    monkeypatch.setattr("outlast.worker.leave", unsaid)
    app.start(once, "x", run_id="r")
    live(Worker(app, [once]), clock, 10)
    assert tries == 1


# ── caps ────────────────────────────────────────────────────────────────────────────────────────


def held(app: outlast.Outlast) -> tuple[threading.Event, list[str]]:
    """Let no run end before an event; return that, and the runs that were begun."""
    open_, begun = threading.Event(), []
    worked = app._worked

    async def waiting(
        run_id: str, who: Any, *, force: bool = False, worker: str = ""
    ) -> outlast.Run:
        begun.append(run_id)
        while not open_.is_set():  # noqa: ASYNC110  (another thread says so)
            await asyncio.sleep(0.001)
        return await worked(run_id, who, force=force)

    app._worked = waiting  # type: ignore[method-assign]
    return open_, begun


def test_caps_hold_and_hide_nobody(clock: Clock, app: outlast.Outlast) -> None:
    """No more are driven than may be, and whoever has room is found behind any backlog."""
    open_, begun = held(app)
    many = 12 * LIMIT  # more than are looked at, even where some agent is full
    for n in range(many):
        app.start(once, f"{n}", run_id=f"o{n}", tenant="big")
    for n in range(3):
        app.start(naps, (f"{n}", 0, 1.0), run_id=f"n{n}", tenant="big")
    app.start(once, "lone", run_id="lone", tenant="small")
    worker = Worker(app, [once, naps], at_once=5, agents={"once": 2}, each_tenant=3)
    for _ in range(20):
        worker.step(clock.moment())
        clock.jump(LOOK_S)
        worker.nudge()
    until(lambda: len(begun) >= 4)
    agents = [one.agent for one in worker.driven()]
    tenants = [one.tenant for one in worker.driven()]
    open_.set()
    until(lambda: not worker.driven())
    assert sorted(begun) == ["lone", "n0", "n1", "o0"]
    assert agents.count("once") == 2
    assert tenants.count("big") == 3


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"at_once": 0}, "at_once=0"),
        ({"at_once": None}, "at_once=None"),
        ({"each_agent": True}, "each_agent=True"),
        ({"agents": {"a": 0}}, r"agents\['a'\]=0"),
        ({"tenants": {"t": 1.5}}, r"tenants\['t'\]=1.5"),
        ({"lease": 0.1}, "lease=0.1"),
    ],
)
def test_what_is_no_number_is_refused(
    app: outlast.Outlast, wrong: dict[str, Any], said: str
) -> None:
    """A cap of none or of nothing is a mistake that is said."""
    with pytest.raises(UsageError, match=said):
        Worker(app, [once], **wrong)
    with pytest.raises(UsageError, match="drives nothing"):
        Worker(app, [])


# ── going on, and stopping ──────────────────────────────────────────────────────────────────────


def test_a_store_that_fails_for_a_while(
    app: outlast.Outlast, caplog: pytest.LogCaptureFixture
) -> None:
    """The worker says so once, and goes on when the store does; so with any other error."""
    changes, failing = app.journal.changes, list[Exception]()
    asked = 0

    def trouble() -> int:
        nonlocal asked
        asked += 1
        if failing:
            raise failing[0]
        return changes()

    app.journal.changes = trouble  # type: ignore[method-assign]
    with caplog.at_level(logging.ERROR, "outlast"), Worker(app, [once]) as worker:
        for error in (StoreError("the disk is gone"), ZeroDivisionError("a bug")):
            failing.append(error)
            before = asked
            worker.nudge()
            until(lambda: asked > before + 1)  # noqa: B023
            failing.clear()
            app.start(once, "x", run_id=type(error).__name__)
            until(lambda: status(app, type(error).__name__) == "completed")  # noqa: B023
    said = [one.getMessage() for one in caplog.records]
    assert len(said) == 2
    assert "the disk is gone" in said[0]
    assert "a bug" in said[1]


def test_a_listener_that_raises_harms_nobody(
    app: outlast.Outlast, caplog: pytest.LogCaptureFixture
) -> None:
    """`on_change` may fail at every run: all are driven, and it is said where it failed."""
    told: list[tuple[str, str]] = []

    def listener(one: RunRow, run: outlast.Run | None) -> None:
        told.append((one.id, "begun" if run is None else run.status))
        raise RuntimeError("the dashboard is down")

    with caplog.at_level(logging.ERROR, "outlast"), Worker(app, [once], on_change=listener):
        for n in range(3):
            app.start(once, "x", run_id=f"r{n}")
        until(lambda: len(told) == 6)
        until(lambda: {run.status for run in app.runs()} == {"completed"})
    for n in range(3):
        assert [what for run_id, what in told if run_id == f"r{n}"] == ["begun", "completed"]
    assert all("on_change failed at run r" in one.getMessage() for one in caplog.records)


def test_until_idle_ends_when_all_is_done(app: outlast.Outlast) -> None:
    """It drives every run there is, one after the other if need be, and then returns."""
    for n in range(40):
        app.start(once, f"{n}", run_id=f"r{n}")
    app.start(naps, ("n", 1, 1_000.0), run_id="sleeps")
    Worker(app, [once, naps], at_once=1).run(until_idle=True)
    assert set(WORLD.counted().values()) == {1}
    assert len(WORLD.acts) == 40
    assert status(app, "sleeps") == "parked"


def test_what_comes_to_a_rest_during_a_look_is_looked_after(
    clock: Clock, app: outlast.Outlast
) -> None:
    """A worker that had no room at its look is not idle when its run ends during that look."""
    for n in range(2):
        app.start(once, f"{n}", run_id=f"r{n}")
    open_, begun = held(app)
    worker = Worker(app, [once], at_once=1)
    worker.step(clock.moment())
    until(lambda: begun)
    next_wake = app.journal.next_wake

    def ends(after: int) -> int | None:
        open_.set()
        until(lambda: not worker.driven())
        return next_wake(after)

    app.journal.next_wake = ends  # type: ignore[method-assign]
    clock.jump(LOOK_S)
    worker._changes = -1
    worker.step(clock.moment())
    assert not worker.is_idle()
    app.journal.next_wake = next_wake  # type: ignore[method-assign]
    settle(worker, clock)
    assert worker.is_idle()
    assert begun == ["r0", "r1"]


def test_to_stop_is_to_park_what_runs(app: outlast.Outlast) -> None:
    """What is at work has its outcome, and its run is parked for the next worker."""
    entered, may_end = threading.Event(), threading.Event()

    def slow(word: str) -> str:
        entered.set()
        may_end.wait(20)
        WORLD.act(word)
        return word

    @outlast.flow
    async def slowly(run: outlast.Run) -> str:
        await run.step("first", slow, "first")
        return await run.step("second", slow, "second")

    app.start(slowly, run_id="r")
    with Worker(app, [slowly]) as worker:
        until(entered.is_set)
        assert [one.id for one in worker.driven()] == ["r"]
        ends = threading.Thread(target=worker.stop)
        ends.start()
        until(lambda: app._own.draining)
        may_end.set()
        ends.join(20)
    assert (status(app), app.get("r").why) == ("parked", "its worker was shut down")
    assert WORLD.counted() == {"first": 1}
    with pytest.raises(UsageError, match="started before"):
        worker.start()
    Worker(app, [slowly]).run(until_idle=True)
    assert WORLD.counted() == {"first": 1, "second": 1}


def test_stop_from_another_thread_ends_run(app: outlast.Outlast) -> None:
    """`run` works until somebody stops it."""
    worker = Worker(app, [once])
    thread = threading.Thread(target=worker.run)
    thread.start()
    app.start(once, "x", run_id="r")
    until(lambda: status(app) == "completed")
    worker.end()
    thread.join(20)
    assert not thread.is_alive()
    worker.stop()  # again is nothing


def test_a_worker_ends_with_its_application(tmp_path: Path) -> None:
    """`run` returns once the application is closed, rather than to look into a closed store."""
    app = app_at(store_at(tmp_path / "r.db"))
    worker = Worker(app, [once])
    running = threading.Thread(target=worker.run)
    running.start()
    until(lambda: worker.wake_at is None and worker.is_idle())
    app.close()
    running.join(30)
    assert not running.is_alive()


def test_one_worker_of_an_application(tmp_path: Path) -> None:
    """A second one would be drained with the first, so it is refused."""
    second = pytest.raises(UsageError, match="has a worker at work")
    with app_at(store_at(tmp_path / "r.db")) as app, Worker(app, [once]), second:
        Worker(app, [once]).start()


def test_what_waits_for_a_child_is_tried_again_soon(tmp_path: Path, clock: Clock) -> None:
    """A parked run at which nothing could be done is not left alone for long: see below it."""
    with app_at(store_at(tmp_path / "r.db")) as app:
        worker = Worker(app, [once])
        row = RunRow(id="r", agent="a", status="parked", created_at=1, updated_at=1, next_seq=5)
        app.journal.run = lambda run_id: row  # type: ignore[method-assign]
        worker._without_progress(row)
        _, at = worker._left["r"]
        assert at - time.monotonic() <= AGAIN_S


@pytest.mark.parametrize("year", [1900, 3000, 9999])
def test_a_time_that_no_column_holds_is_refused(tmp_path: Path, year: int) -> None:
    """`run_at` is between 1971 and 2200."""
    with app_at(store_at(tmp_path / "r.db")) as app:
        with pytest.raises(UsageError, match="between the years"):
            app.start(once, "x", run_at=datetime(year, 1, 1, tzinfo=UTC))
        assert app.runs() == []
