"""What the API tells one run of its rate limit holds for every run and process of the store."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import anthropic
import pytest

import outlast
from flow_stubs import NS, events, named, of_kind, opened
from outages.limited import AWAY_S
from outlast import decide, pacing
from outlast.events import RateFrozen, RunParked
from outlast.journal import Commit, Record
from outlast.models.anthropic import AnthropicModel
from outlast.models.script import Fault, Script, last_text, once, say
from outlast.models.scripted import ScriptedModel
from outlast.pacing import GRAIN_NS, SPREAD_NS, Freeze, Pacing, evolve, frozen, group
from outlast.testing import simulator
from stubs import MODEL, reply
from worker.worked import Clock, live, store_at

TESTS = Path(__file__).parents[1]
ONE = named("one")
OTHER = outlast.Agent("other", model="claude-opus-5-5")
DAY_S = 86_400


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def limited(after_s: float, *, attempts: Any = (1,)) -> Script:
    """Refuse the question `limited` at first, and answer everything else."""
    fault = Fault(kind="status", status=429, headers={"retry-after": f"{after_s:g}"})

    def script(request: dict[str, Any], attempt: int) -> Any:
        refused = last_text(request) == "limited" and attempt in attempts
        return fault if refused else say(f"re: {last_text(request)}")

    return script


# ── alone ───────────────────────────────────────────────────────────────────────────────────────


def test_a_day_is_waited_for_without_a_process(clock: Clock, tmp_path: Path) -> None:
    """`retry-after: 86400` parks at once, says until when, survives a restart, wakes in time."""
    store, script, began = store_at(tmp_path / "s.db"), limited(DAY_S), clock.now
    asked: list[int] = []

    def heard(request: dict[str, Any], attempt: int) -> Any:
        if attempt:  # 0 is what it would have said
            asked.append(clock.now)
        return script(request, attempt)

    model = ScriptedModel(heard)
    with outlast.Outlast(store, model=model) as app:
        app.start(ONE, "limited", run_id="r")
        live(outlast.Worker(app, [ONE]), clock, 0)
        run = app.get("r")
        assert (run.status, len(asked)) == ("parked", 1)
        assert run.wake_at is not None
        assert run.wake_at >= began + DAY_S * NS
        assert run.why.startswith("waiting for Claude's rate limit until 2027-01-16T08:00")
        assert "run_parked" in events(app)
    with outlast.Outlast(store_at(tmp_path / "s.db"), model=model) as app:
        worker = outlast.Worker(app, [ONE])
        live(worker, clock, DAY_S - 1)
        assert (app.get("r").status, len(asked)) == ("parked", 1)
        live(worker, clock, 1 + SPREAD_NS / NS)
        assert app.get("r").answer == "re: limited"
        assert len(of_kind(app, RunParked)) == 1, "it is woken once"
    assert began + DAY_S * NS <= asked[1] <= began + DAY_S * NS + SPREAD_NS + 2 * GRAIN_NS
    assert len(asked) == 2


def test_a_rate_limit_is_waited_for_as_long_as_it_lasts(clock: Clock) -> None:
    """However often Claude says to come back later, a run does."""
    with opened(script=limited(20, attempts=range(1, 31))) as app:
        app.start(ONE, "limited", run_id="r")
        live(outlast.Worker(app, [ONE]), clock, 3_600)
        assert app.get("r").answer == "re: limited"
        assert len(app.claude.calls) == 31


class Counting(ScriptedModel):
    """A Claude that counts only at the second attempt."""

    counts = 0

    async def count_tokens(self, request: Any) -> int:
        self.counts += 1
        if self.counts == 1:
            raise outlast.errors.ModelFailure("unavailable", "HTTP 503", status=503)
        return await super().count_tokens(request)


def test_a_count_is_tried_again() -> None:
    """What may pass says nothing of the length of a prompt."""
    model = Counting(lambda request, _: say("Read."))
    with outlast.Outlast("memory://", model=model) as app:
        run = app.run(ONE, [outlast.Document(b"%PDF-1.7"), "Read."], run_id="r")
        assert (run.status, model.counts) == ("completed", 2)
        (counted,) = of_kind(app, outlast.events.TokensCounted)
        assert not counted.why


def test_nothing_is_counted_while_nobody_asks(clock: Clock) -> None:
    """A count is a request as well."""
    model = Counting(limited(600))
    with outlast.Outlast("memory://", model=model) as app:
        app.run(ONE, "limited", run_id="r", wait_s=0)
        given = [outlast.Document(b"%PDF-1.7"), "Read."]
        assert app.run(ONE, given, run_id="d", wait_s=0).status == "parked"
        assert model.counts == 0


def test_a_clock_far_ahead_freezes_nobody(clock: Clock) -> None:
    """A freeze that was told a year from now is not believed, and the next one takes its place."""
    with opened(script=limited(60)) as app:
        clock.jump(365 * DAY_S)
        app.run(ONE, "limited", run_id="ahead", wait_s=0)
        clock.jump(-365 * DAY_S)
        assert app.run(ONE, "x", run_id="x", wait_s=0).answer == "re: x"
        app.run(ONE, "limited", run_id="r", wait_s=0)
        assert app.run(ONE, "y", run_id="y", wait_s=0).answer in (None, "re: y")


# ── shared ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("where", ["the same", "another"])
def test_nobody_asks_before(where: str, clock: Clock, tmp_path: Path) -> None:
    """A first attempt of another run waits as well, in any application; another model does not."""
    path, script, began = tmp_path / "s.db", limited(600), clock.now
    with (
        opened(store_at(path), script) as app,
        opened(store_at(path), script) as second,
    ):
        other = app if where == "the same" else second
        other.run(ONE, "before", run_id="before")
        assert app.run(ONE, "limited", run_id="r", wait_s=0).status == "parked"
        waits = other.run(ONE, "x", run_id="x", wait_s=0)
        assert waits.status == "parked"
        assert waits.wake_at is not None
        assert waits.wake_at >= began + 600 * NS
        assert waits.why.startswith("waiting for Claude's rate limit until ")
        assert other.run(OTHER, "y", run_id="y", wait_s=0).answer == "re: y"
        asked = len(app.claude.calls) + len(second.claude.calls)
        assert asked == 3, "before, the one that was refused, and of the other model"
        clock.jump(600 + SPREAD_NS / NS + 1)
        assert other.run(ONE, "x", run_id="x", wait_s=0).answer == "re: x"
        (told,) = (record.event for record in app.journal.read(pacing.STREAM))
        assert (told.group, told.run_id, told.key) == (group(MODEL), "r", "")


def test_one_refusal_stops_nobody_else_for_years(clock: Clock) -> None:
    """Whatever a proxy says, others ask again after a day; who was told it waits as it was told."""
    began = clock.now
    with opened(script=limited(10**8)) as app:
        assert app.run(ONE, "limited", run_id="r", wait_s=0).status == "parked"
        (told,) = (record.event for record in app.journal.read(pacing.STREAM))
        assert began < told.until <= began + DAY_S * NS + GRAIN_NS
        clock.jump(DAY_S + SPREAD_NS / NS + 1)
        assert app.run(ONE, "x", run_id="x", wait_s=0).answer == "re: x"
        wake_at = app.get("r").wake_at
        assert wake_at is not None
        assert wake_at >= began + 10**8 * NS


def test_a_batch_is_not_concerned(clock: Clock) -> None:
    """Batches have limits of their own."""

    @outlast.flow
    async def batched(run: outlast.Run) -> Any:
        return await run.map(ONE, ["x"], batch=True)

    with opened(script=limited(600)) as app:
        app.run(ONE, "limited", run_id="r", wait_s=0)
        assert app.run(batched, None, run_id="b", wait_s=0).answer == ["re: x"]


@pytest.mark.parametrize("fault", [
    Fault(kind="status", status=429),
    Fault(kind="status", status=429, headers={"retry-after": "0"}),
    Fault(kind="status", status=529, headers={"retry-after": "600"}),
    Fault(kind="status", status=402, headers={"retry-after": "600"}),
    Fault(kind="status", status=429, error_code="enforced_spend_limit_reached",
          headers={"retry-after": "600"}),
], ids=["no time", "at once", "529", "402", "spend limit"])  # fmt: skip
def test_what_freezes_nobody(fault: Fault, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a rate limit that says when to come back is everybody's."""
    monkeypatch.setattr(decide, "BACKOFF_S", (600.0,))  # no clock moves while it is slept through
    rule = once(1, fault)

    def script(request: dict[str, Any], attempt: int) -> Any:
        found = rule(request, attempt) if last_text(request) == "limited" else None
        return found or say(f"re: {last_text(request)}")

    with opened(script=script) as app:
        assert app.run(ONE, "limited", run_id="r", wait_s=0).status == "parked"
        assert app.journal.read(pacing.STREAM) == []
        assert app.run(ONE, "x", run_id="x", wait_s=0).answer == "re: x"


def test_a_freeze_that_is_on_its_way_counts(clock: Clock) -> None:
    """A call is not begun whose intent was decided before others wrote a freeze."""
    with opened() as app:
        append = app.journal.append
        until = clock.now + 600 * NS
        told = RateFrozen(group=group(MODEL), until=until)

        def slowly(commit: Commit) -> Any:
            if commit.seen and not app.journal.read(pacing.STREAM):
                append(Commit(stream=pacing.STREAM, events=(told,), at=clock.now))
            return append(commit)

        async def aslowly(commit: Commit) -> Any:
            return slowly(commit)

        app.journal.append, app.journal.aappend = slowly, aslowly
        assert app.run(ONE, "x", run_id="r", wait_s=0).status == "parked"
        assert app.claude.calls == []


def test_no_process_asks_before_its_time(tmp_path: Path) -> None:
    """Of many runs in three processes none reaches Claude between a 429 and its `retry-after`."""
    url = f"sqlite:///{tmp_path}/s.db"
    with simulator.start("outages.limited:script", path=[TESTS]) as claude:
        env = os.environ | {
            "ANTHROPIC_BASE_URL": claude.url,
            "ANTHROPIC_API_KEY": "any-key-will-do",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        started = [
            subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("client.py")), url, name, count],
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for name, count in (("first", "1"), ("second", "8"), ("third", "8"))
        ]
        try:
            for process in started:
                assert process.stdout is not None
                assert process.stdout.readline() == "open\n"
            _go(started[0])
            give_up_at = time.monotonic() + 30
            while not claude.requests() and time.monotonic() < give_up_at:
                time.sleep(0.01)
            _wait_for_freeze(url, give_up_at)
            for process in started[1:]:
                _go(process)
            for process in started:
                said, _ = process.communicate(timeout=60)
                assert said == "completed\n"
        finally:
            for process in started:
                process.kill()
                process.wait()
        requests = claude.requests()
    assert len(requests) == 18
    at = [datetime.fromisoformat(line["at"]).timestamp() for line in requests]
    assert requests[0]["status"] == 429
    assert {line["status"] for line in requests[1:]} == {200}
    # When the simulator got a request is a little before it answered it.
    assert min(at[1:]) - at[0] >= AWAY_S
    assert max(at[1:]) - min(at[1:]) > 0.1, "they do not start all at once"


def _go(process: Any) -> None:
    process.stdin.write("\n")
    process.stdin.flush()


def _wait_for_freeze(url: str, give_up_at: float) -> None:
    with outlast.Outlast(url) as app:
        while not app.journal.read(pacing.STREAM):
            assert time.monotonic() < give_up_at
            time.sleep(0.01)


# ── the rules by themselves ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("model", "whose"),
    [
        ("claude-opus-5-5", "claude-opus-5-5"),
        ("claude-opus-5-5-20260101", "claude-opus-5-5"),
        ("claude-opus-5-5-latest", "claude-opus-5-5"),
        ("claude-opus-5-5@20260101", "claude-opus-5-5"),
        ("us.anthropic.claude-opus-5-5-20260101-v1:0", "claude-opus-5-5"),
        ("claude-haiku-5-5", "claude-haiku-5-5"),
        ("claude-opus-5", "claude-opus-5"),
    ],
)
def test_the_group_of_a_model(model: str, whose: str) -> None:
    """A model shares its limits with itself under every date and in every cloud."""
    assert group(model) == whose


def known(*told: RateFrozen, at: int = 0) -> Pacing:
    found = Pacing()
    for seq, event in enumerate(told, start=1):
        found = evolve(found, Record(pacing.STREAM, seq, 0, at, 0, event))
    return found


def test_the_latest_end_counts() -> None:
    """A freeze is never shortened, and is of one key and one group."""
    late, soon = RateFrozen(group="a", until=9 * NS), RateFrozen(group="a", until=2 * NS)
    other = RateFrozen(group="a", until=99 * NS, key="k")
    found = known(late, soon, other)
    assert found.seq == 3
    assert found.of_key("") == {"a": Freeze(9 * NS, 9 * NS // 2)}
    assert found.of_key("k") == {"a": Freeze(99 * NS, SPREAD_NS)}
    assert found.of_key("another") == {}


def test_what_is_known_is_not_told_again() -> None:
    """A thousand refusals at about the same moment are one freeze, which ends after them all."""
    given = {"key": "", "model": MODEL, "run_id": "r", "ramp": False, "now": 0}
    (first,) = frozen(Pacing(), until=7 * NS + 1, **given)  # type: ignore[arg-type]
    assert first.until == 7 * NS + GRAIN_NS
    now = known(first)
    assert frozen(now, until=7 * NS + GRAIN_NS, **given) == ()  # type: ignore[arg-type]
    assert frozen(now, until=7 * NS + GRAIN_NS + 1, **given) != ()  # type: ignore[arg-type]


def test_starts_are_spread() -> None:
    """Each who waited has a moment of its own, always the same, and never before the end."""
    freeze = Freeze(100 * NS, 10 * NS)
    starts = [freeze.over_for(f"run-{n}") for n in range(1_000)]
    assert starts == [freeze.over_for(f"run-{n}") for n in range(1_000)]
    assert all(100 * NS <= start < 110 * NS for start in starts)
    tenths = [sum(start // NS == second for start in starts) for second in range(100, 110)]
    assert min(tenths) > 50


def test_the_key_is_told_by_no_name() -> None:
    """Two keys are told apart, one is the same everywhere, and nobody can read it."""
    secret = "sk-ant-api03-an-example"  # noqa: S105  (nobody's)
    one, same, other = (
        AnthropicModel(anthropic.AsyncAnthropic(api_key=key)).key()
        for key in (secret, secret, "sk-ant-api03-another")
    )
    assert one == same != other
    assert len(one) == 16
    assert secret not in one


def test_the_key_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model without a client has the key that its client will have, or none."""
    assert AnthropicModel().key() == ""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-api03-an-example")
    given = anthropic.AsyncAnthropic(api_key="sk-ant-api03-an-example")
    assert AnthropicModel().key() == AnthropicModel(given).key() != ""


class Odd:
    """A model of somebody's own, which says odd things of its limits."""

    def __init__(self, key: Any = "k", told: Any = None, *, refuses: bool = False) -> None:
        self._key, self._told, self._refuses = key, told, refuses

    def key(self) -> Any:
        return self._key

    async def call(self, _request: Any, *, on_part: Any) -> Any:
        assert on_part is None
        if self._refuses:
            raise outlast.errors.ModelFailure("rate_limited", "x", status=429, retry_after_s=60.0)
        return reply(b'[{"type":"text","text":"hi"}]', told=self._told)


@pytest.mark.parametrize(
    "model",
    [
        Odd(told={"requests": (50.0, 49.0)}),
        Odd(told={"requests": ("a", "b"), "input_tokens": (5, 5, 5), "other": (1, 1)}),
        Odd(told={"requests": (5, -(10**18))}),
        Odd(told={"requests": (0, 0), "input_tokens": (True, 1)}),
        Odd(told=None),
        Odd(told=[1]),
        Odd(None, {"requests": (10**308, 9)}),
        Odd(5, {"requests": (1000, 9)}),
        Odd("\ud800", {"requests": (1000, 9)}),
        Odd(None, refuses=True),
    ],
)
def test_what_a_model_says_of_its_limits_breaks_no_store(model: Any, tmp_path: Path) -> None:
    """What cannot be written of a key or of limits is left out, and everybody can go on."""
    url = f"sqlite:///{tmp_path}/s.db"
    for n in range(2):
        with outlast.Outlast(url, model=model) as app:
            assert app.run(ONE, "x", run_id=f"r{n}", wait_s=0).status in ("completed", "parked")
            app.journal.read("~limits")
    with opened(url) as app:
        assert app.run(ONE, "x", run_id="b", wait_s=0).status in ("completed", "parked")
