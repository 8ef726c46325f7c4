"""Schedules: which moments they name, and that each is run once, whoever fires it and who dies."""

import logging
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import cronsim
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

import outlast
from outlast.errors import StoreError, UsageError
from outlast.events import RunStarted, ScheduleFired, ScheduleSet
from outlast.firing import Firing, schedules, set_schedule
from outlast.journal import Commit, Journal
from outlast.models.script import say
from outlast.models.scripted import ScriptedModel
from outlast.schedules import STREAM, following, latest, moments
from outlast.stores import open_store
from stubs import agent

NANO = 1_000_000_000
MINUTE = 60 * NANO
HOUR = 60 * MINUTE
DAY = 24 * HOUR
TESTER = agent()


def at(text: str) -> int:
    """Return a time of UTC in nanoseconds since the epoch."""
    return int(datetime.fromisoformat(f"{text}+00:00").timestamp()) * NANO


def told(moment: int | None) -> str:
    return "" if moment is None else f"{datetime.fromtimestamp(moment // NANO, UTC):%m-%dT%H:%M}"


def opened(journal: Journal | str = "memory://", **more: Any) -> outlast.Outlast:
    answering = ScriptedModel(lambda request, attempt: say("Fine."))
    return outlast.Outlast(journal, model=answering, **more)


def put(journal: Journal, name: str, cron: str, when: str | int, **more: Any) -> None:
    """Set a schedule at a time of our own."""
    given = {"agent": TESTER.name, "input": Raw(b'"Go."')} | more
    event = ScheduleSet(name=name, cron=cron, **given)
    set_schedule(journal, event, at=at(when) if isinstance(when, str) else when)


def firing(app: outlast.Outlast, **more: Any) -> Firing[Any]:
    return Firing(app.journal, more.get("find", lambda schedule: TESTER), app.start)


def begun(journal: Journal) -> list[str]:
    """Return the runs that exist, in the order in which they were begun."""
    return [
        record.stream.removeprefix("run:")
        for record in journal.read_all(limit=100_000)
        if isinstance(record.event, RunStarted)
    ]


def fired(journal: Journal) -> list[ScheduleFired]:
    return [r.event for r in journal.read(STREAM) if isinstance(r.event, ScheduleFired)]


# ── which moments an expression names ───────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("cron", "after", "named"),
    [
        # In March the clock goes from 02:00 to 03:00, which is at 01:00 UTC.
        ("30 1 * * *", "2027-03-27T12:00", ["03-28T00:30", "03-28T23:30"]),
        ("30 2 * * *", "2027-03-27T12:00", ["03-28T01:00", "03-29T00:30"]),
        ("0 2,3 * * *", "2027-03-27T12:00", ["03-28T01:00", "03-29T00:00"]),
        ("30 * * * *", "2027-03-27T23:45", ["03-28T00:30", "03-28T01:30"]),
        ("*/30 2 * * *", "2027-03-27T12:00", ["03-29T00:00", "03-29T00:30"]),
        # In October it goes from 03:00 back to 02:00, which is at 01:00 UTC.
        ("30 2 * * *", "2027-10-30T12:00", ["10-31T00:30", "11-01T01:30"]),
        ("30 2 * * *", "2027-10-31T00:45", ["11-01T01:30", "11-02T01:30"]),
        ("30 2 * * *", "2027-10-31T01:15", ["11-01T01:30", "11-02T01:30"]),
        ("0 3 * * *", "2027-10-30T12:00", ["10-31T02:00", "11-01T02:00"]),
        ("30 * * * *", "2027-10-31T00:15", ["10-31T00:30", "10-31T01:30"]),
        ("*/30 2 * * *", "2027-10-30T12:00", ["10-31T00:00", "10-31T00:30"]),
    ],
)
def test_the_clock_of_a_zone_is_put_forward_and_back(
    cron: str, after: str, named: list[str]
) -> None:
    """At the switches of a zone, a time that is skipped is run at once, and one shown twice once.

    Only what has `*` in its minutes or hours goes by the time that goes by.
    """
    found = islice(moments(cron, "Europe/Berlin", at(after)), len(named))
    assert list(map(told, found)) == named


@pytest.mark.parametrize("cron", ["*/30 2 * * *", "30 * * * *", "30 2 * * *"])
def test_what_is_shown_twice_is_counted_from_anywhere(cron: str) -> None:
    """From every minute of the switch on, the moments are the same, and all of them are later."""
    first = at("2027-10-30T23:00")
    whole = list(islice(moments(cron, "Europe/Berlin", first), 40))
    for begin in range(first, first + 5 * HOUR, MINUTE):
        some = list(islice(moments(cron, "Europe/Berlin", begin), 10))
        assert some == [moment for moment in whole if moment > begin][:10]


@pytest.mark.parametrize("cron", ["* * * * *", "0 9 * * MON", "0 0 29 2 *", "30 2 * * *"])
@pytest.mark.parametrize("tz", ["UTC", "Europe/Berlin"])
def test_the_latest_is_found_however_long_nobody_looked(cron: str, tz: str) -> None:
    """The last of all moments that went by is the same as by going through all of them."""
    since = at("2027-10-25T07:59")
    for days in (0, 1, 6, 9):
        until = since + days * DAY + 90 * MINUTE
        passed = [*_until(cron, tz, since, until)]
        assert latest(cron, tz, since, until) == (passed[-1] if passed else None)
    assert told(latest("0 0 29 2 *", "UTC", since, at("2030-01-01T00:00"))) == "02-29T00:00"
    assert latest("* * * * * *", tz, at("1990-01-01T00:00"), since) == since  # of a billion


def _until(cron: str, tz: str, since: int, until: int) -> Iterator[int]:
    for moment in moments(cron, tz, since):
        if moment > until:
            return
        yield moment


@given(st.text("0123456789*/,-#LWMON @äٱ", max_size=30) | st.text(max_size=600))
def test_anything_that_is_typed_is_an_expression_or_refused(text: str) -> None:
    """What is no cron expression is refused as wrong usage, whatever it is."""
    try:
        found = following(text, "UTC", at("2027-01-01T00:00"))
    except UsageError as error:
        assert "is no cron expression" in str(error)  # noqa: PT017  (either is right)
    else:
        assert found is None or found > at("2027-01-01T00:00")


# ── firing ──────────────────────────────────────────────────────────────────────────────────────


def test_the_first_is_after_it_was_set_and_each_is_run_once() -> None:
    """A schedule begins with its first time after now; later looks begin nothing again."""
    app = opened()
    put(app.journal, "digest", "0 9 * * MON", "2026-11-23T08:00", tz="Europe/Berlin")
    worker = firing(app)
    monday = at("2026-11-30T08:00")
    assert worker.fire(at("2026-11-23T08:00")) == monday
    assert worker.fire(monday - 1) == monday
    assert begun(app.journal) == []
    assert worker.fire(monday) == monday + 7 * DAY
    assert worker.fire(monday + HOUR) == monday + 7 * DAY
    assert begun(app.journal) == ["digest@2026-11-30T08:00Z"]
    assert app.run(TESTER, "Go.", run_id="digest@2026-11-30T08:00Z").answer == "Fine."


def test_seconds_are_in_the_id_where_there_are_some() -> None:
    """An expression of six fields names seconds, and so does the id of its run."""
    app = opened()
    put(app.journal, "tick", "*/30 * * * * *", "2026-11-23T08:00")
    worker = firing(app)
    for second in (30, 60):
        worker.fire(at("2026-11-23T08:00") + second * NANO)
    assert begun(app.journal) == ["tick@2026-11-23T08:00:30Z", "tick@2026-11-23T08:01Z"]


def test_of_what_was_missed_only_the_latest_is_run() -> None:
    """Three days without a worker are one run, and not three."""
    app = opened()
    put(app.journal, "daily", "0 8 * * *", "2026-11-23T09:00")
    assert firing(app).fire(at("2026-11-26T20:00")) == at("2026-11-27T08:00")
    assert begun(app.journal) == ["daily@2026-11-26T08:00Z"]


def test_one_that_is_set_again_counts_from_then() -> None:
    """What was missed before a change is not run after it; the same again changes nothing."""
    app = opened()
    put(app.journal, "daily", "0 8 * * *", "2026-11-23T09:00")
    put(app.journal, "same", "0 8 * * *", "2026-11-23T09:00")
    put(app.journal, "daily", "0 8 * * *", "2026-11-24T09:00", tags={"a": "b"})
    put(app.journal, "same", "0 8 * * *", "2026-11-24T09:00", reason="for another reason")
    worker = firing(app)
    worker.fire(at("2026-11-24T10:00"))
    assert begun(app.journal) == ["same@2026-11-24T08:00Z"]
    worker.fire(at("2026-11-25T10:00"))
    assert app.journal.run("daily@2026-11-25T08:00Z") is not None
    put(app.journal, "daily", "0 8 * * *", "2026-11-26T09:00", tags={"a": "c"})
    assert worker.fire(at("2026-11-26T10:00")) == at("2026-11-27T08:00")
    assert app.journal.run("daily@2026-11-26T08:00Z") is None


def test_one_that_is_changed_while_another_is_begun_is_run_as_it_is_now() -> None:
    """What is set while a worker is busy with another schedule counts, and not what it had read."""
    journal = open_store("memory://")
    put(journal, "first", "0 8 * * *", "2026-11-23T09:00")
    put(journal, "second", "0 8 * * *", "2026-11-23T09:00")
    changes = [lambda: put(journal, "second", "0 7 * * *", "2026-11-24T07:59")]

    def change(point: str) -> None:
        if point == "after begin" and changes:
            changes.pop()()

    app = opened(Points(journal, change))  # type: ignore[arg-type]
    assert firing(app).fire(at("2026-11-24T08:00")) == at("2026-11-25T07:00")
    assert begun(journal) == ["first@2026-11-24T08:00Z"]


def test_an_older_moment_takes_nothing_back() -> None:
    """That an earlier moment was fired, written late, does not make a later one due again."""
    app = opened()
    put(app.journal, "daily", "0 8 * * *", "2026-11-23T09:00")
    for day in ("25", "24"):
        late = ScheduleFired(name="daily", at=at(f"2026-11-{day}T08:00"), run_id=day)
        app.journal.append(Commit(stream=STREAM, events=(late,), at=1))
    assert [one.last_run_id for one in app.schedules()] == ["25"]
    assert firing(app).fire(at("2026-11-25T09:00")) == at("2026-11-26T08:00")
    assert begun(app.journal) == []


def test_a_clock_that_is_ahead_and_one_that_is_behind_run_it_once() -> None:
    """Five minutes early is its one time, and a change before the hour itself changes nothing."""
    app = opened()
    put(app.journal, "daily", "0 8 * * *", "2026-11-23T09:00")
    ahead, behind = firing(app), firing(app)
    ahead.fire(at("2026-11-24T08:00"))  # its own time; it is 07:55
    put(app.journal, "daily", "0 8 * * *", "2026-11-24T07:57", tags={"a": "b"})
    assert behind.fire(at("2026-11-24T08:00")) == at("2026-11-25T08:00")
    assert begun(app.journal) == ["daily@2026-11-24T08:00Z"]
    assert [event.error for event in fired(app.journal)] == [""]


def test_what_is_taken_away_is_fired_no_more() -> None:
    """A schedule that was taken away begins nothing, also in a worker that had read it."""
    app = opened()
    put(app.journal, "daily", "0 8 * * *", "2026-11-23T09:00")
    worker = firing(app)
    assert worker.fire(at("2026-11-23T10:00"))
    put(app.journal, "daily", "", "2026-11-23T11:00")
    assert worker.fire(at("2026-11-24T10:00")) is None
    assert begun(app.journal) == []


def test_what_is_not_known_here_is_left_to_others() -> None:
    """A worker without the code, or without the zone, leaves it, and has nothing to wait for."""
    app = opened()
    put(app.journal, "daily", "0 8 * * *", "2026-11-23T09:00")
    put(app.journal, "mars", "0 8 * * *", "2026-11-23T09:00", tz="Mars/Olympus")
    elsewhere = firing(app, find=lambda schedule: None)
    assert elsewhere.fire(at("2026-11-24T10:00")) is None
    assert fired(app.journal) == []
    assert firing(app).fire(at("2026-11-24T10:00")) == at("2026-11-25T08:00")
    assert elsewhere.fire(at("2026-11-24T11:00")) == at("2026-11-25T08:00")
    assert begun(app.journal) == ["daily@2026-11-24T08:00Z"]


def test_one_that_cannot_be_begun_is_told_and_holds_up_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A run that fails to begin is journalled with the error, tried once, and others go on."""
    app = opened()
    tried = []

    def find(schedule: outlast.Schedule) -> outlast.Agent:
        tried.append(schedule.name)
        if schedule.name == "broken":
            raise RuntimeError("no agent \ud800 here")
        if schedule.name == "poor":
            return agent(budget=outlast.Budget(usd="0.0001"))
        return TESTER

    app.start(TESTER, "Something else.", run_id="taken@2026-11-24T08:00Z")
    for name in ("broken", "poor", "taken", "zebra"):
        put(app.journal, name, "0 8 * * *", "2026-11-23T09:00")
    worker = firing(app, find=find)
    with caplog.at_level(logging.WARNING, "outlast"):
        for minute in range(3):
            assert worker.fire(at("2026-11-24T08:00") + minute * MINUTE) == at("2026-11-25T08:00")
    assert tried == ["broken", "poor", "taken", "zebra"]
    errors = {event.name: event.error.partition(":")[0] for event in fired(app.journal)}
    assert errors == {
        "broken": "RuntimeError",
        "poor": "BudgetTooSmall",
        "taken": "RunConflict",
        "zebra": "",
    }
    assert len(caplog.records) == 3
    assert [one.last_error[:12] for one in app.schedules()] == [
        "RuntimeError", "BudgetTooSma", "RunConflict:", "",
    ]  # fmt: skip
    worker.fire(at("2026-11-25T08:00"))
    assert tried[4:] == ["broken", "poor", "taken", "zebra"]
    assert "taken@2026-11-25T08:00Z" in begun(app.journal)


def test_what_a_store_does_not_take_is_due_again() -> None:
    """A store that fails says nothing about a schedule: the same occurrence is begun later."""
    app = opened()
    put(app.journal, "daily", "0 8 * * *", "2026-11-23T09:00")
    failing = [True]

    def start(*given: Any, **more: Any) -> Any:
        if failing.pop() if failing else False:
            raise StoreError("the disk is away")
        return app.start(*given, **more)

    worker = Firing(app.journal, lambda schedule: TESTER, start)
    with pytest.raises(StoreError):
        worker.fire(at("2026-11-24T08:00"))
    assert fired(app.journal) == []
    worker.fire(at("2026-11-24T08:01"))
    assert begun(app.journal) == ["daily@2026-11-24T08:00Z"]


# ── whoever fires it, and whoever dies ──────────────────────────────────────────────────────────


class Died(BaseException):
    """The process is gone."""


class Points:
    """A journal that at each of its appends lets something happen, before and after."""

    def __init__(self, journal: Journal, pass_by: Callable[[str], None]) -> None:
        self._journal = journal
        self._pass_by = pass_by

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)

    def append(self, commit: Commit) -> Any:
        what = "fired" if commit.stream == STREAM else "begin"
        self._pass_by(f"before {what}")
        records = self._journal.append(commit)
        self._pass_by(f"after {what}")
        return records


class Fleet:
    """Two workers whose clocks differ, one of which may die, or the other come in, at a point."""

    def __init__(self, cron: str, tz: str, start: int, offsets: tuple[int, int]) -> None:
        self.journal = open_store("memory://")
        self.offsets = offsets
        self.clock = start
        self.plan: dict[str, str] = {}
        self.looked: list[int] = []
        """The clocks of whoever looked, also of those who died."""
        put(self.journal, "one", cron, start, tz=tz)
        self._workers = [self._worker(0), self._worker(1)]
        self._named = cronsim.CronSim(cron, datetime.fromtimestamp(start // NANO, ZoneInfo(tz)))
        self._moments: list[int] = []
        self._start = start

    def _worker(self, who: int) -> Firing[Any]:
        journal: Any = Points(self.journal, lambda point: self._passes(who, point))
        return Firing(journal, lambda schedule: TESTER, opened(journal).start)

    def _passes(self, who: int, point: str) -> None:
        happens = self.plan.pop(point, "")
        if happens == "dies":
            raise Died
        if happens == "other":
            self.look(1 - who)

    def look(self, who: int) -> None:
        """Let a worker look, which must then have begun what was the latest for its clock."""
        now = self.clock + self.offsets[who]
        self.looked.append(now)
        before = schedules(self.journal).of["one"].last_at or 0
        try:
            upcoming = self._workers[who].fire(now)
        except Died:
            self._workers[who] = self._worker(who)
            return
        assert upcoming is None or upcoming > now
        named = self.latest(now)
        assert named is None or named <= before or self.run_id(named) in begun(self.journal)

    def latest(self, now: int) -> int | None:
        """Return the latest moment that the expression names, by going through all of them."""
        while not self._moments or self._moments[-1] <= now:
            moment = int(next(self._named).timestamp()) * NANO
            self._moments += [moment] if moment > self._start else []
        return max((moment for moment in self._moments if moment <= now), default=None)

    def run_id(self, moment: int) -> str:
        return f"one@{datetime.fromtimestamp(moment // NANO, UTC):%Y-%m-%dT%H:%MZ}"


POINTS = ["before begin", "after begin", "before fired", "after fired"]
CRONS = st.builds(
    "{} {} {} * {}".format,
    st.sampled_from(["*", "*/7", "0", "30", "0,30", "15-17"]),
    st.sampled_from(["*", "*/2", "2", "2,3", "0-12", "23"]),
    st.sampled_from(["*", "*", "1,15", "L", "*/2"]),
    st.sampled_from(["*", "*", "SUN", "MON-FRI", "0L"]),
)
ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"])
STARTS = st.sampled_from(
    ["2027-03-27T22:58", "2027-10-30T22:00", "2027-10-31T00:59", "2026-11-30T12:00"]
)
OFFSETS = st.sampled_from([-300, -60, -1, 0, 7, 300])
LOOKS = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 30, 60, 600, 3600, 86_400]),
        st.sampled_from([0, 1]),
        st.dictionaries(st.sampled_from(POINTS), st.sampled_from(["dies", "other"]), max_size=2),
    ),
    min_size=1,
    max_size=8,
)


@given(cron=CRONS, tz=ZONES, start=STARTS, offsets=st.tuples(OFFSETS, OFFSETS), looks=LOOKS)
def test_every_occurrence_is_run_once_whoever_fires_it(
    cron: str,
    tz: str,
    start: str,
    offsets: tuple[int, int],
    looks: list[tuple[int, int, dict[str, str]]],
) -> None:
    """Wherever one of two workers dies, or the other comes in, and however their clocks differ.

    What was the latest when somebody looked is run, once, and nothing else is.
    """
    fleet = Fleet(cron, tz, at(start), (offsets[0] * NANO, offsets[1] * NANO))
    for seconds, who, plan in looks:
        fleet.clock += seconds * NANO
        fleet.plan = dict(plan)
        fleet.look(who)
    fleet.plan = {}
    fleet.look(0)
    fleet.look(1)
    runs = begun(fleet.journal)
    assert len(runs) == len(set(runs))
    wanted = {fleet.latest(now) for now in fleet.looked} - {None}
    assert set(runs) <= {fleet.run_id(moment) for moment in wanted if moment}
    assert all(count == 1 for count in Counter(e.at for e in fired(fleet.journal)).values())
    assert not any(event.error for event in fired(fleet.journal))


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("happens", ["dies", "other"])
def test_every_minute_is_run_though_a_worker_dies_at_each(point: str, happens: str) -> None:
    """Where somebody looks every minute, no occurrence is passed over, and none is run twice."""
    fleet = Fleet("* * * * *", "Europe/Berlin", at("2027-10-31T00:50"), (0, 0))
    for _ in range(20):
        fleet.clock += MINUTE
        fleet.plan = {point: happens}
        fleet.look(0)
        fleet.look(1)
    first = at("2027-10-31T00:51")
    assert begun(fleet.journal) == [fleet.run_id(first + n * MINUTE) for n in range(20)]


FIRE = """
import sys
import outlast
from outlast.firing import Firing
tester = outlast.Agent("tester", model="claude-haiku-5-5")
app = outlast.Outlast(sys.argv[1], model=object())
worker = Firing(app.journal, lambda schedule: tester, app.start)
now, end = int(sys.argv[2]), int(sys.argv[3])
sys.stdin.read(1)
while now < end:
    now += 60_000_000_000
    worker.fire(now)
app.close()
"""


def test_two_processes_fire_each_occurrence_once(tmp_path: Path) -> None:
    """Two processes that fire the same schedules at once begin each run once, without an error."""
    url = f"sqlite:///{tmp_path}/runs.db"
    start = at("2026-11-23T08:00")
    with opened(url) as app:
        put(app.journal, "one", "* * * * *", start, tz="Europe/Berlin")
        put(app.journal, "two", "*/2 * * * *", start)
        command = [sys.executable, "-c", FIRE, url, str(start), str(start + 20 * MINUTE)]
        workers = [subprocess.Popen(command, stdin=subprocess.PIPE) for _ in range(2)]
        for worker in workers:
            assert worker.stdin
            worker.stdin.write(b"g")
            worker.stdin.close()
        assert [worker.wait(60) for worker in workers] == [0, 0]
        found = Counter(run_id.partition("@")[0] for run_id in begun(app.journal))
        assert found == {"one": 20, "two": 10}
        assert not any(event.error for event in fired(app.journal))


# ── setting ─────────────────────────────────────────────────────────────────────────────────────


def test_a_schedule_is_what_was_set() -> None:
    """What is given is kept, redacted like the input of any run, with the next time beside it."""
    app = opened(redact=lambda text: text.replace("secret", "***"))
    made = app.schedule(
        "digest",
        TESTER,
        "The secret of the week?",
        cron="0 9 * * MON",
        tz="Europe/Berlin",
        tenant="acme",
        tags={"kind": "secret"},
        reason="the secret plan",
        by="ada",
    )
    assert app.schedules() == [made]
    assert (made.agent, made.kind, made.tenant, made.by) == ("tester", "agent", "acme", "ada")
    assert (bytes(made.input), made.tags) == (b'"The *** of the week?"', {"kind": "***"})
    assert made.reason == "the *** plan"
    assert made.next_at is not None
    firing(app).fire(made.next_at)
    (run,) = app.runs()
    assert (run.tenant, run.agent) == ("acme", "tester")
    assert app.schedules()[0].last_run_id == run.id
    app.unschedule("digest", reason="no longer", by="ada")
    assert app.schedules() == []


def test_one_of_a_flow_and_one_with_an_image_are_begun_as_they_were_given() -> None:
    """JSON of a flow, and bytes of an image, come to the run through the schedule."""
    app = opened()
    seen = []

    @outlast.flow
    async def nightly(run: outlast.Run, given: dict[str, int]) -> int:
        seen.append(given)
        return len(given)

    flow_is = app.schedule("flow", nightly, {"a": 1}, cron="0 8 * * *")
    app.schedule("image", TESTER, [outlast.Image(b"GIF89a"), "What is it?"], cron="0 8 * * *")
    assert flow_is.next_at is not None
    find = {"flow": nightly, "image": TESTER}
    Firing(app.journal, lambda schedule: find[schedule.name], app.start).fire(flow_is.next_at)
    runs = {run.agent: run for run in app.runs()}
    assert app.resume(runs["nightly"].id, nightly).answer == 1
    assert seen == [{"a": 1}]
    assert app.resume(runs["tester"].id, TESTER).answer == "Fine."
    assert not any(event.error for event in fired(app.journal))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"cron": "0 9 * *"}, "is no cron expression"),
        ({"cron": ""}, "see `unschedule`"),
        ({"cron": "* * */20 * 1L"}, "no day of the next fifty years"),
        ({"tz": "Mars/Olympus"}, "is no time zone"),
        ({"tz": ""}, "is no time zone"),
        ({"name": "a@b"}, "is no name of a schedule"),
        ({"name": ""}, "is no name of a schedule"),
        ({"name": 5}, "is not a string"),
        ({"cron": None}, "is not a string"),
        ({"by": "\ud800"}, "cannot be written as UTF-8"),
        ({"input": ""}, "Claude cannot be asked nothing"),
        ({"agent": "tester"}, "neither an agent nor a flow"),
        ({"agent": agent(budget=outlast.Budget(usd="0.0001"))}, "0.0001"),
        ({"tags": {"a": 1}}, "is not a string"),
    ],
)
def test_what_cannot_be_a_schedule_is_refused(wrong: dict[str, Any], said: str) -> None:
    """What cannot work is refused when it is set, with what to do, and nothing is written."""
    app = opened()
    given = {"name": "a", "agent": TESTER, "input": "Go.", "cron": "0 9 * * *"} | wrong
    with pytest.raises(UsageError, match=said):
        app.schedule(**given)
    assert app.journal.read(STREAM) == []


def test_none_of_that_name_can_be_taken_away() -> None:
    """To take away what is not there is refused, and says what is."""
    app = opened()
    app.schedule("daily", TESTER, "Go.", cron="0 8 * * *")
    with pytest.raises(UsageError, match="no schedule 'dayly'; those that are set: daily"):
        app.unschedule("dayly")


@settings(max_examples=5)
@given(st.integers(0, 2))
def test_a_rival_who_sets_at_the_same_time_is_not_lost(rivals: int) -> None:
    """Of two who set schedules at once, both are set."""
    journal = open_store("memory://")
    left = list(range(rivals))

    def rival(point: str) -> None:
        if point == "before fired" and left:
            put(journal, f"rival{left.pop()}", "0 8 * * *", "2026-11-23T09:00")

    put(Points(journal, rival), "ours", "0 8 * * *", "2026-11-23T09:00")  # type: ignore[arg-type]
    assert len(schedules(journal).of) == rivals + 1
