"""More calls than a rate limit takes wait for their turn, in every process of the store."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import anthropic
import msgspec
import pytest

import outlast
from flow_stubs import NS, named, of_kind, opened
from outlast import decide, pacing
from outlast.actions import Step
from outlast.events import RunParked
from outlast.models.quotas import Quota
from outlast.models.script import Fault, Turn, last_text, say
from outlast.models.scripted import ScriptedModel
from outlast.pacing import Pacing, Ramp
from outlast.testing import simulator
from outlast.turns import Need, draws
from stubs import MODEL
from worker.worked import Clock, live, store_at

TESTS = Path(__file__).parents[1]
ONE = named("one")
SOAK = os.environ.get("OUTLAST_SOAK") == "1"
Record = Callable[[str, object], None]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Give a clock on which every wait is parked: nothing moves it while a run sleeps."""
    waits = decide._wait

    def parked(*given: Any) -> Step:
        (sleep,) = waits(*given).actions
        return Step(actions=(msgspec.structs.replace(sleep, least=0),))

    monkeypatch.setattr(decide, "_wait", parked)
    return Clock(monkeypatch)


def answers(request: dict[str, Any], _attempt: int) -> Turn:
    """Answer at some length."""
    return say(f"re: {last_text(request)} " + "and so on, " * 30)


class Limited(ScriptedModel):
    """A Claude that takes so much a minute, and remembers when it was asked, and what came."""

    def __init__(self, clock: Clock, quota: Quota) -> None:
        super().__init__(
            lambda request, _: say(f"re: {last_text(request)}"), clock=clock, quota=quota
        )
        self.asked: list[int] = []
        self.refused: list[int] = []
        self._now = clock

    async def call(self, request: Any, *, on_part: Any) -> Any:
        try:
            reply = await super().call(request, on_part=on_part)
        except outlast.errors.ModelFailure:
            self.refused.append(self._now.now)
            raise
        self.asked.append(self._now.now)
        return reply


@pytest.mark.parametrize(
    "quota", [Quota(rpm=60), Quota(itpm=600), Quota(otpm=3000)], ids=["rpm", "itpm", "otpm"]
)
def test_calls_take_turns(quota: Quota, clock: Clock, tmp_path: Path) -> None:
    """Of 200 runs that start at once none is refused, and nearly all of the limit is used."""
    model = Limited(clock, quota)
    with outlast.Outlast(store_at(tmp_path / "s.db"), model=model) as app:
        for n in range(10):  # so that it is known what a prompt holds
            app.run(ONE, f"question x{n}", run_id=f"first-{n}")
            clock.jump(60)
        began, billed = clock.now, len(model.bill)
        for n in range(200):
            app.start(ONE, f"question {n:03}", run_id=f"r{n:03}")
        worker = outlast.Worker(app, [ONE])
        live(worker, clock, 1)
        waits = app.get("r199")
        assert waits.status == "parked"
        assert waits.why.startswith("waiting for Claude's rate limit until ")
        live(worker, clock, 3_600)
        assert {run.status for run in app.runs()} == {"completed"}
        assert model.refused == []
        assert max(len(of_kind(app, RunParked, f"r{n:03}")) for n in range(200)) <= 5
    used = model.bill[billed:]
    assert len(used) == 200
    amounts = {
        "rpm": 200,
        "itpm": sum(line.usage["input_tokens"] for line in used),
        "otpm": sum(line.usage["output_tokens"] for line in used),
    }
    (name,) = (name for name in amounts if getattr(quota, name))
    least_s = (amounts[name] / getattr(quota, name) - 0.5) * 60
    assert least_s * 0.9 <= (max(model.asked) - began) / NS <= least_s * 1.2 + 15


def test_who_came_first_goes_first(clock: Clock, tmp_path: Path) -> None:
    """A run that comes later has its turn after all that wait, in another application as well."""
    model, path = Limited(clock, Quota(rpm=60)), tmp_path / "s.db"
    with (
        outlast.Outlast(store_at(path), model=model) as app,
        outlast.Outlast(store_at(path), model=model) as other,
    ):
        app.run(ONE, "x", run_id="first")
        for n in range(60):
            app.start(ONE, f"{n}", run_id=f"r{n}")
        worker = outlast.Worker(app, [ONE])
        live(worker, clock, 3)
        late = other.run(ONE, "late", run_id="late", wait_s=0)
        assert late.status == "parked"
        assert late.wake_at is not None
        assert late.wake_at >= max(run.wake_at or 0 for run in app.runs() if run.id != "late")
        live(worker, clock, 120)
        assert bytes(model.calls[-1]).count(b'"late"') == 1
        assert model.refused == []


def test_a_place_survives_a_restart(clock: Clock, tmp_path: Path) -> None:
    """Who has waited need not queue up again, and takes nothing twice."""
    model, path = Limited(clock, Quota(rpm=6)), tmp_path / "s.db"
    with outlast.Outlast(store_at(path), model=model) as app:
        app.run(ONE, "x", run_id="first")
        for n in range(20):
            app.start(ONE, f"{n}", run_id=f"r{n}")
        live(outlast.Worker(app, [ONE]), clock, 5)
        places = {run.id: run.wake_at for run in app.runs(status="parked")}
        assert len(places) >= 15
    with outlast.Outlast(store_at(path), model=model) as app:
        began = len(model.asked)
        live(outlast.Worker(app, [ONE]), clock, 400)
        assert {run.status for run in app.runs()} == {"completed"}
        assert all(len(of_kind(app, RunParked, run_id)) == 1 for run_id in places)
    asked = sorted(model.asked[began:])
    for at, due in zip(asked, sorted(at for at in places.values() if at), strict=True):
        assert 0 <= at - due <= 2 * NS
    assert model.refused == []


def test_who_missed_its_turn_queues_up_again(clock: Clock) -> None:
    """Runs that were kept from asking for long do not all ask at once."""
    model = Limited(clock, Quota(rpm=60))
    with outlast.Outlast("memory://", model=model) as app:
        app.run(ONE, "x", run_id="first")
        for n in range(100):
            app.start(ONE, f"{n}", run_id=f"r{n}")
        worker = outlast.Worker(app, [ONE])
        live(worker, clock, 2)
        asked = len(model.asked)
        clock.jump(3_600)  # nobody was there
        live(worker, clock, 1)
        assert len(model.asked) - asked <= 32
        live(worker, clock, 120)
        assert {run.status for run in app.runs()} == {"completed"}
        assert model.refused == []


def test_others_who_use_the_key_count(clock: Clock) -> None:
    """What headers say is left is believed where that is less than what we took."""
    model = Limited(clock, Quota(rpm=60))
    with outlast.Outlast("memory://", model=model) as app:
        app.run(ONE, "x", run_id="first")
        for _ in range(45):  # somebody else, of whom we know nothing
            model._claude._quotas.take("", MODEL, {}, clock.now)
        app.run(ONE, "y", run_id="second")
        for n in range(30):
            app.start(ONE, f"{n}", run_id=f"r{n}")
        live(outlast.Worker(app, [ONE]), clock, 120)
        assert {run.status for run in app.runs()} == {"completed"}
    assert model.refused == []


def test_callers_queue_up_on_any_loop(clock: Clock, tmp_path: Path) -> None:
    """One application serves one event loop after the other, each with many who wait."""
    model = Limited(clock, Quota(rpm=6))
    with outlast.Outlast(store_at(tmp_path / "s.db"), model=model) as app:
        app.run(ONE, "x", run_id="first")

        async def many(name: str) -> set[str]:
            runs = (app.arun(ONE, f"{name}{n}", run_id=f"{name}{n}", wait_s=0) for n in range(20))
            return {run.status for run in await asyncio.gather(*runs)}

        for name in ("a", "b", "c"):
            assert asyncio.run(many(name)) <= {"completed", "parked"}
    assert model.refused == []


def test_a_clock_that_was_wrong_stops_nobody(clock: Clock) -> None:
    """What a process took whose clock was years ahead is put right by the next one that comes."""
    model = Limited(clock, Quota(rpm=60))
    with outlast.Outlast("memory://", model=model) as app:
        app.run(ONE, "x", run_id="first")
        clock.jump(10 * 365 * 86_400)
        app.run(ONE, "y", run_id="second")
        clock.jump(-10 * 365 * 86_400)
        for n in range(40):
            app.start(ONE, f"{n}", run_id=f"r{n}")
        live(outlast.Worker(app, [ONE]), clock, 60)
        assert {run.status for run in app.runs()} == {"completed"}
        (number,) = app.journal.numbers([f"rate::{MODEL}:requests"])
        assert number <= clock.now + 3_600 * NS


def test_a_queue_of_more_than_an_hour(clock: Clock) -> None:
    """Who would wait longer queues up again by then, so that no limit is given out twice."""
    model = Limited(clock, Quota(rpm=4))
    with outlast.Outlast("memory://", model=model) as app:
        app.run(ONE, "x", run_id="first")
        for n in range(300):
            app.start(ONE, f"{n}", run_id=f"r{n}")
        live(outlast.Worker(app, [ONE]), clock, 3 * 3_600)
        assert {run.status for run in app.runs()} == {"completed"}
    assert len(model.refused) <= 3


def test_every_breaker_has_a_ramp_of_its_own() -> None:
    """Of two that share a model and a key, none waits for the other's calls."""
    names = {
        draw.advance.name
        for whose in ("model:m:tenant:a", "model:m:tenant:b")
        for draw in draws(Pacing(), Need(), key="", model="m", now=0, ramp=Ramp(0, 1, whose))
    }
    assert len(names) == 2


def test_a_ramp(clock: Clock) -> None:
    """After `ramp_limit_exceeded` calls begin one by one, and twice as many every ten seconds."""
    away: list[int] = []

    def script(request: dict[str, Any], attempt: int) -> Any:
        if not away:
            away.append(clock.now)
            return Fault(kind="status", status=429, error_code="ramp_limit_exceeded")
        if attempt:
            begun.append(clock.now)
        return say(f"re: {last_text(request)}")

    begun: list[int] = []
    with opened(script=script) as app:
        for n in range(300):
            app.start(ONE, f"{n}", run_id=f"r{n}")
        # Only one of them asks before the others know.
        assert app.run(ONE, "0", run_id="r0", wait_s=0).status == "parked"
        (told,) = (record.event for record in app.journal.read(pacing.STREAM))
        assert (told.ramp, told.run_id) == (True, "r0")
        live(outlast.Worker(app, [ONE]), clock, 120)
        assert {run.status for run in app.runs()} == {"completed"}
    seconds = [(at - told.until) / NS for at in begun]
    counts = [sum(10 * n <= at < 10 * n + 10 for at in seconds) for n in range(5)]
    assert min(seconds) >= 0
    assert 13 <= counts[0] <= 17
    assert all(1.6 <= more / less <= 2.4 for less, more in pairwise(counts[:4]))
    assert sum(counts) == 300


def asked(
    tmp_path: Path, processes: int, count: int, *, others: bool = False, **quota: int
) -> list[dict[str, Any]]:
    """Return the requests of runs in many processes, and of others who used the key before."""
    url = f"sqlite:///{tmp_path}/s.db"
    with simulator.start(path=[TESTS], **quota) as claude:
        env = os.environ | {
            "ANTHROPIC_BASE_URL": claude.url,
            "ANTHROPIC_API_KEY": "any-key-will-do",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        client = [sys.executable, str(Path(__file__).with_name("client.py"))]
        subprocess.run([*client, url, "warm", "5"], env=env, input="\n", text=True, check=True)
        started = [
            subprocess.Popen(
                [*client, url, f"p{n}", str(count)],
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for n in range(processes)
        ]
        try:
            for process in started:
                assert process.stdout is not None
                assert process.stdout.readline() == "open\n"
            if others:
                use_up(claude.url, lambda refusals: refusals > 0)
            for process in started:
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()
            if others:  # until one of ours was refused, however slowly they begin
                use_up(claude.url, lambda _: any(refused(claude.requests())))
            for process in started:
                said, _ = process.communicate(timeout=1_200 if SOAK else 120)
                assert set(said.split()) == {"completed"}, said
        finally:
            for process in started:
                process.kill()
                process.wait()
        return claude.requests()


def use_up(url: str, enough: Callable[[int], bool]) -> None:
    """Ask with the same key until it is `enough`, as somebody of whom we know nothing."""
    client = anthropic.Anthropic(base_url=url, api_key="any-key-will-do", max_retries=0)
    refusals = 0
    for n in range(5_000):
        if enough(refusals):
            return
        try:
            client.messages.create(
                model=MODEL, max_tokens=10, messages=[{"role": "user", "content": f"hog {n}"}]
            )
        except anthropic.RateLimitError:
            refusals += 1
    raise AssertionError(f"it is never enough: {refusals} of 5,000 requests were refused")


def refused(requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return those of our requests that were refused."""
    ours = [line for line in requests if "hog" not in line["body"]]
    return [line for line in ours if line["status"] == 429]


def test_eight_processes_keep_to_one_limit(tmp_path: Path, record_property: Record) -> None:
    """Of 500 calls at most one in a hundred is refused once the limits are known."""
    quota = {"rpm": 60, "itpm": 90_000} if SOAK else {"rpm": 600, "itpm": 40_000}
    requests = asked(tmp_path, 8, 63, **quota)
    refused = [line for line in requests if line["status"] == 429]
    record_property("told", f"{len(refused)} of {len(requests)} requests were refused")
    assert len(requests) - len(refused) == 8 * 63 + 5
    assert len(refused) <= 5


def test_nothing_is_tried_before_its_time(tmp_path: Path, record_property: Record) -> None:
    """Whoever is refused, because others use the key, waits as long as it was told."""
    requests = asked(tmp_path, 4, 6, others=True, rpm=240)
    refusals = refused(requests)
    record_property("told", f"{len(refusals)} of {len(requests)} requests were refused")
    assert refusals
    for line in refusals:
        again = [one for one in requests if one["key"] == line["key"] and one["at"] > line["at"]]
        waited_s = [(at(one) - at(line)) for one in again]
        assert min(waited_s, default=1.0) >= 0.99, "no `retry-after` is below a second"


def at(line: dict[str, Any]) -> float:
    return datetime.fromisoformat(line["at"]).timestamp()
