"""Circuit breakers in an application: whose they are, who waits, and who need not."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

import outlast
from flow_stubs import NS, named, of_kind, opened
from outlast import decide
from outlast.actions import Step
from outlast.breaker import model_key, stream
from outlast.events import BreakerChanged, ModelCallStarted, RunParked
from outlast.journal import Commit
from outlast.models.script import Fault, last_text, say
from outlast.models.scripted import ScriptedModel
from stubs import MODEL
from worker.worked import Clock, live

ONE = named("one")
OTHER = outlast.Agent("other", model="claude-opus-5-5")
BREAKER = outlast.Breaker(calls=2, open_s=60, longest_s=60, probes=2)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(decide, "BACKOFF_S", (60.0,) * 7)  # each attempt is parked for

    def parking(waits: Any) -> Any:
        def parked(*given: Any) -> Any:
            (sleep,) = waits(*given).actions
            return Step(actions=(msgspec.structs.replace(sleep, least=0),))

        return parked

    # Nothing moves the clock while a run naps.
    for name in ("_wait", "_closed_off"):
        monkeypatch.setattr(decide, name, parking(getattr(decide, name)))
    return Clock(monkeypatch)


class Down:
    """A Claude one of whose models does not answer while `down` is set."""

    def __init__(self) -> None:
        self.down = True
        self.asked: list[str] = []

    def __call__(self, request: dict[str, Any], attempt: int) -> Any:
        if attempt:
            self.asked.append(f"{request['model']} {last_text(request)}")
        if self.down and request["model"] == MODEL:
            return Fault(kind="status", status=529)
        return say(f"re: {last_text(request)}")


def trip(app: outlast.Outlast, **more: Any) -> None:
    for n in range(BREAKER.calls):
        name = f"trips-{more.get('tenant', '')}{n}"
        app.run(ONE, f"{n}", run_id=name, wait_s=0, **more)


def changes(app: outlast.Outlast, key: str = model_key(MODEL)) -> list[str]:
    return [record.event.status for record in app.journal.read(stream(key))]  # type: ignore[union-attr]


def test_while_it_is_open_nobody_asks(clock: Clock) -> None:
    """Runs that come later are parked without a call, say why, and go on when it is closed."""
    claude = Down()
    with opened(script=claude, breaker=BREAKER) as app:
        trip(app)
        assert changes(app) == ["open"]
        asked = len(claude.asked)
        for n in range(20):
            run = app.run(ONE, f"later {n}", run_id=f"r{n}", wait_s=0)
            assert run.status == "parked"
            assert run.why.startswith(f"waiting for {MODEL}, which does not answer, until ")
            assert run.wake_at is not None
            assert 60 * NS <= run.wake_at - clock.now <= 90 * NS
        assert len(claude.asked) == asked
        claude.down = False
        live(outlast.Worker(app, [ONE]), clock, 300)
        assert {run.status for run in app.runs()} == {"completed"}
        assert changes(app) == ["open", "half_open", "closed"]
        assert len(claude.asked) == asked + 22, "each once"
        probes = [
            event
            for run in app.runs()
            for event in of_kind(app, ModelCallStarted, run.id)
            if event.probe
        ]
        assert len(probes) == 2


def test_a_model_that_answers_is_asked(clock: Clock) -> None:
    """A flow with questions to two models goes on with the one whose breaker is closed."""
    claude = Down()
    reached: list[str] = []

    @outlast.flow
    async def both(run: outlast.Run) -> list[Any]:
        async def second() -> Any:
            first = await run.ask(OTHER, "a")
            reached.append(str(first))
            return await run.ask(OTHER, f"again {first}", name="again")

        return list(await asyncio.gather(run.ask(ONE, "b"), second()))

    with opened(script=claude, breaker=BREAKER) as app:
        trip(app)
        asked = len(claude.asked)
        run = app.run(both, None, run_id="f", wait_s=0)
        assert run.status == "parked"
        assert claude.asked[asked:] == [f"{OTHER.model} a", f"{OTHER.model} again re: a"]
        claude.down = False
        live(outlast.Worker(app, [both, ONE]), clock, 300)
        assert app.get("f").answer == ["re: b", "re: again re: a"]
        assert changes(app, model_key(OTHER.model)) == []


def test_without_breakers_nobody_waits_for_others(clock: Clock) -> None:
    """With `breaker=None` each run finds out by itself, whatever others of the store know."""
    claude = Down()
    with opened(script=claude, breaker=BREAKER) as app:
        trip(app)
        asked = len(claude.asked)
        with outlast.Outlast(app.journal, model=ScriptedModel(claude), breaker=None) as other:
            for n in range(3):
                run = other.run(ONE, f"x{n}", run_id=f"x{n}", wait_s=0)
                assert run.why.startswith("waiting for Claude, which is overloaded, ")
            assert len(claude.asked) == asked + 3
            assert changes(app) == ["open"], "and it counts nothing"


@pytest.mark.parametrize("per_tenant", [True, False])
def test_tenants_have_breakers_of_their_own(per_tenant: Any, clock: Clock) -> None:
    """With `per_tenant` what one tenant meets stops no other one."""
    claude, breaker = Down(), outlast.Breaker(calls=2, open_s=60, per_tenant=per_tenant)
    with opened(script=claude, breaker=breaker) as app:
        trip(app, tenant="acme")
        claude.down = False
        acme = app.run(ONE, "x", run_id="x", tenant="acme", wait_s=0)
        assert acme.status == "parked"
        zeta = app.run(ONE, "y", run_id="y", tenant="zeta", wait_s=0)
        assert zeta.status == ("completed" if per_tenant else "parked")
        key = model_key(MODEL, tenant="acme" if per_tenant else "")
        assert changes(app, key) == ["open"]


def test_a_success_alone_opens_nothing(clock: Clock) -> None:
    """It is judged when a call failed or was slow, so the answer of one that works stops nobody."""
    claude = Down()
    with opened(script=claude, breaker=outlast.Breaker(calls=2, failure_rate=0.5)) as app:
        app.run(ONE, "a", run_id="a", wait_s=0)
        claude.down = False
        assert app.run(ONE, "b", run_id="b", wait_s=0).answer == "re: b"
        assert changes(app) == []
        claude.down = True
        app.run(ONE, "c", run_id="c", wait_s=0)
        assert changes(app) == ["open"]


def test_a_breaker_that_opens_meanwhile_counts(clock: Clock) -> None:
    """A call is not begun whose intent was decided before another process opened the breaker."""
    claude = Down()
    claude.down = False
    with opened(script=claude, breaker=BREAKER) as app:
        append = app.journal.append
        key = model_key(MODEL)
        change = BreakerChanged(key=key, status="open", until=clock.now + 600 * NS)

        def slowly(commit: Commit) -> Any:
            if commit.seen and not app.journal.read(stream(key)):
                append(Commit(stream=stream(key), events=(change,), at=clock.now))
            return append(commit)

        async def aslowly(commit: Commit) -> Any:
            return slowly(commit)

        app.journal.append, app.journal.aappend = slowly, aslowly
        run = app.run(ONE, "x", run_id="r", wait_s=0)
        assert run.why.startswith(f"waiting for {MODEL}, which does not answer")
        assert claude.asked == []
        assert len(of_kind(app, RunParked)) == 1


class Reached:
    """Says when a call is in flight, and holds it for ever."""

    def __init__(self) -> None:
        self.calls = 0
        self.hangs = False

    async def call(self, request: Any, *, on_part: Any) -> Any:
        self.calls += 1
        if self.hangs:
            await asyncio.Event().wait()
        raise outlast.ModelFailure("overloaded", "busy", status=529)


def test_a_prober_that_is_cancelled_frees_its_place(clock: Clock) -> None:
    """What a call that was cancelled holds of the trial is free for the next one."""
    model: Any = Reached()
    breaker = outlast.Breaker(calls=1, open_s=60, probes=1)
    with outlast.Outlast("memory://", model=model, breaker=breaker) as app:
        app.run(ONE, "x", run_id="x", wait_s=0)
        assert changes(app) == ["open"]
        clock.jump(100)
        model.hangs = True

        async def cancelled() -> None:
            tries = asyncio.create_task(app.arun(ONE, "y", run_id="y"))
            while model.calls < 2:  # noqa: ASYNC110  (another thread's)
                await asyncio.sleep(0.01)
            clock.jump(20)  # so that whoever waits for it does so for long
            waits = await app.arun(ONE, "z", run_id="z", wait_s=0)
            assert (waits.status, model.calls) == ("parked", 2), "the only place is taken"
            await asyncio.to_thread(app.cancel, "y", reason="a test")
            await asyncio.wait([tries], timeout=20)

        asyncio.run(cancelled())
        assert app.get("y").status == "cancelled"
        assert changes(app) == ["open", "half_open"], "it said nothing"
        model.hangs = False
        app.run(ONE, "w", run_id="w", wait_s=0)
        assert model.calls == 3
        assert changes(app) == ["open", "half_open", "open"]


def test_whose_outcome_was_not_judged_any_more(clock: Clock) -> None:
    """A process that died between an outcome and its judgement leaves that to the next one."""
    model: Any = Reached()
    breaker = outlast.Breaker(calls=1, open_s=60, probes=1)
    with outlast.Outlast("memory://", model=model, breaker=breaker) as app:
        app.run(ONE, "x", run_id="x", wait_s=0)
        clock.jump(100)
        append = app.journal.append

        def dying(commit: Commit) -> Any:
            if any(
                isinstance(one, BreakerChanged) and one.status == "open" for one in commit.events
            ):
                raise outlast.StoreError("the process died here")
            return append(commit)

        app.journal.append = dying
        with pytest.raises(outlast.StoreError):
            app.run(ONE, "y", run_id="y", wait_s=0)
        app.journal.append = append
        assert (changes(app), model.calls) == (["open", "half_open"], 2)
        run = app.run(ONE, "z", run_id="z", wait_s=0)
        assert run.status == "parked"
        assert (changes(app), model.calls) == (["open", "half_open", "open"], 2), "nobody asks"
