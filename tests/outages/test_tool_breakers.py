"""What a tool depends on has a circuit breaker: while it answers nobody, it is not called."""

from __future__ import annotations

import asyncio
import errno
import http.client
import itertools
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

import outlast
from flow_stubs import Clock as Running
from flow_stubs import Dying, before, events, of_kind, opened
from outages.trying import asking_for
from outlast import decide_control
from outlast.breaker import Breaker
from outlast.errors import InvalidTool, StoreError, ToolError
from outlast.events import (
    BreakerChanged,
    NoteAdded,
    RunParked,
    ToolCallFailed,
    ToolCallInDoubt,
    ToolCallStarted,
    ToolCallSucceeded,
    tag,
)
from outlast.models.script import Script, Turn, text_of, tool_use
from outlast.unanswered import unanswered
from outlast.versions import version_of
from stubs import agent, asking
from worker.worked import Clock, store_at

TESTS = Path(__file__).parents[1]
TRIPS = Breaker(calls=4, open_s=60, probes=2)
STREAM = "~breaker:tool:grants-db"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Running:
    """Return a clock that goes on by itself, so that whoever waits in vain is parked some time."""
    return Running(monkeypatch)


class Source:
    """What tools depend on: it counts who asks it, and raises what it is told to."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.asked: list[str] = []

    def ask(self, who: str = "") -> str:
        self.asked.append(who)
        if self.error is not None:
            raise self.error
        return "found"

    def tool(self, name: str = "look", source: str = "grants-db", **more: Any) -> Any:
        """Return a tool that asks it."""

        async def look() -> str:
            return self.ask(name)

        def was_asked() -> outlast.Reconciled:
            return outlast.Reconciled(happened=bool(self.asked), result="found")

        options: dict[str, Any] = {"name": name, "source": source, "effect": "read"} | more
        if options["effect"] == "once":
            options["reconcile"] = was_asked
        return outlast.tool(**options)(look)


def changes(app: outlast.Outlast, stream: str = STREAM) -> list[str]:
    """Return what became of a breaker, in order."""
    events = [record.event for record in app.journal.read(stream)]
    return [event.status for event in events if isinstance(event, BreakerChanged)]


def using(*names: str) -> Script:
    """Return a Claude that uses these tools at once, or those that it is asked to."""

    def script(request: dict[str, Any], attempt: int) -> Turn:
        asked = text_of(request["messages"][0]["content"])
        told = asked.removeprefix("use ").split() if asked.startswith("use ") else names
        return asking(*[tool_use(name, {}) for name in told])(request, attempt)

    return script


@contextmanager
def tripped(
    source: Source, who: outlast.Agent, *names: str, url: Any = "memory://"
) -> Iterator[Any]:
    """Give an application for whom the breaker of a source is open."""
    source.error = ConnectionRefusedError("refused")
    with opened(url, using(*names), breaker=TRIPS) as app:
        for n in range(4):
            assert app.run(who, "x", run_id=f"before-{n}", wait_s=0).status == "completed"
        assert changes(app) == ["open"]
        source.asked.clear()
        yield app


# ── what is no answer ───────────────────────────────────────────────────────────────────────────


def http_error(status: int) -> httpx2.HTTPStatusError:
    request = httpx2.Request("GET", "http://127.0.0.1/")
    response = httpx2.Response(status, request=request)
    return httpx2.HTTPStatusError("no", request=request, response=response)


def telling(name: str, base: type[Exception] = Exception, **told: Any) -> Exception:
    """Return an exception of a class of that name, with these attributes."""
    error = type(name, (base,), {})(told.pop("says", "no"))
    vars(error).update(told)
    return error


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


def url_error(status: int) -> urllib.error.HTTPError:
    return urllib.error.HTTPError(
        "http://127.0.0.1/", status, "no", http.client.HTTPMessage(), None
    )


class Broken(Exception):
    """One that is not even to be asked."""

    @property
    def response(self) -> Any:
        raise RuntimeError("not to be asked")

    def __str__(self) -> str:
        raise RuntimeError("nor this")


def looped() -> Exception:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    return one


SILENT: dict[str, BaseException] = {
    "refused": ConnectionRefusedError("no"),
    "reset": ConnectionResetError("no"),
    "pipe": BrokenPipeError("no"),
    "timeout": TimeoutError("no"),
    "name": socket.gaierror(-2, "no such name"),
    "tls": ssl.SSLError(1, "no"),
    "no route": OSError(errno.EHOSTUNREACH, "no"),
    "no network": OSError(errno.ENETUNREACH, "no"),
    "hung up": http.client.RemoteDisconnected("no"),
    "httpx ConnectError": httpx2.ConnectError("no"),
    "httpx ConnectTimeout": httpx2.ConnectTimeout("no"),
    "httpx ReadTimeout": httpx2.ReadTimeout("no"),
    "httpx ReadError": httpx2.ReadError("no"),
    "httpx RemoteProtocolError": httpx2.RemoteProtocolError("no"),
    "httpx 500": http_error(500),
    "httpx 503": http_error(503),
    "httpx 529": http_error(529),
    "urllib 502": url_error(502),
    "urllib": urllib.error.URLError(ConnectionRefusedError("no")),
    "requests ConnectionError": telling("ConnectionError", OSError, response=None),
    "requests Timeout": telling("Timeout", OSError),
    "urllib3 NewConnectionError": telling("NewConnectionError"),
    "urllib3 MaxRetryError": telling("MaxRetryError", says="Max retries exceeded"),
    "urllib3 503": telling("MaxRetryError", says="too many 503 error responses"),
    "aiohttp ServerDisconnected": telling(
        "ServerDisconnectedError", type("ClientConnectionError", (Exception,), {})
    ),
    "aiohttp 500": telling("ClientResponseError", status=500),
    "status_code": telling("ApiError", status_code=504),
    "code": telling("ApiError", code=500),
    "cause": caused(ValueError("no"), httpx2.ConnectError("no")),
    "cause of cause": caused(KeyError("no"), caused(ValueError("no"), http_error(503))),
    "a ToolError because of it": caused(ToolError("it is down"), ConnectionResetError("no")),
    "a group": ExceptionGroup("tasks", [ValueError("no"), httpx2.ReadTimeout("no")]),
}
"""What says that nobody answered."""

ANSWERS: dict[str, BaseException] = {
    **{
        f"httpx {status}": http_error(status) for status in (400, 401, 403, 404, 408, 409, 429, 499)
    },
    "urllib 404": url_error(404),
    "aiohttp 429": telling("ClientResponseError", status=429),
    "status_code": telling("ApiError", status_code=422),
    "a 404 because of a timeout": caused(http_error(404), TimeoutError("no")),
    "because of a 404": caused(ConnectionError_ := ValueError("no"), http_error(404)),
    "urllib3 429": telling("MaxRetryError", says="too many 429 error responses"),
    "ValueError": ValueError("no"),
    "ToolError": ToolError("there is none"),
    "KeyError": KeyError("no"),
    "no file": FileNotFoundError(errno.ENOENT, "no"),
    "no space": OSError(errno.ENOSPC, "no"),
    "permission": PermissionError(errno.EACCES, "no"),
    "httpx LocalProtocolError": httpx2.LocalProtocolError("no"),
    "httpx InvalidURL": httpx2.UnsupportedProtocol("no"),
    "httpx PoolTimeout": httpx2.PoolTimeout("no"),
    "a bool": telling("ApiError", status=True),
    "a code of another kind": telling("OperationalError", code=1146),
    "a text": telling("ApiError", code="503"),
    "exit": SystemExit(503),
    "broken": Broken(),
    "in a circle": looped(),
    "a group": ExceptionGroup("tasks", [ValueError("no"), KeyError("no")]),
}
"""What is an answer, or says nothing of that."""


@pytest.mark.parametrize("name", SILENT)
def test_what_says_that_nobody_answered(name: str) -> None:
    """No connection, no reply and 5xx, of whatever client, and whatever it led to."""
    assert unanswered(SILENT[name])


@pytest.mark.parametrize("name", ANSWERS)
def test_what_is_an_answer(name: str) -> None:
    """Every 4xx, and every other exception."""
    assert not unanswered(ANSWERS[name])


@pytest.mark.parametrize("name", [*SILENT])
def test_what_is_no_answer_opens(name: str, clock: Clock) -> None:
    """Each opens the breaker, and the next run calls nothing."""
    source = Source(SILENT[name])
    who = agent(source.tool())
    with opened(script=using("look"), breaker=TRIPS) as app:
        for n in range(4):
            app.run(who, "x", run_id=f"r{n}", wait_s=0)
        assert app.run(who, "x", run_id="next", wait_s=0).status == "parked"
        assert len(source.asked) == 4
        assert all(one.unanswered for one in of_kind(app, ToolCallFailed, "r0"))


@pytest.mark.parametrize("name", [*ANSWERS])
def test_an_answer_never_opens(name: str, clock: Clock) -> None:
    """However often it comes."""
    source = Source(ANSWERS[name])
    who = agent(source.tool())
    with opened(script=using("look"), breaker=TRIPS) as app:
        for n in range(8):
            assert app.run(who, "x", run_id=f"r{n}", wait_s=0).status == "completed"
        assert len(source.asked) == 8
        assert changes(app) == []


@pytest.mark.parametrize("effect", ["read", "idempotent", "once"])
def test_a_timeout_opens(effect: str) -> None:
    """The tool's own timeout is no answer, whatever the call does to the world."""
    hangs = threading.Event()
    asked: list[int] = []

    def look() -> str:
        asked.append(1)
        hangs.wait(30)
        return "late"

    declared: Any = outlast.tool(effect=effect, source="grants-db", timeout_s=0.05)(look)  # type: ignore[call-overload]
    with opened(script=using("look"), breaker=TRIPS) as app:
        for n in range(4):
            app.run(agent(declared), "x", run_id=f"r{n}", wait_s=0)
        assert app.run(agent(declared), "x", run_id="next", wait_s=0).status == "parked"
        assert len(asked) == 4
        hangs.set()


@pytest.mark.parametrize("effect", ["idempotent", "once"])
def test_a_broken_connection_opens(effect: str, clock: Clock) -> None:
    """A call that is in doubt because its connection broke is no answer either."""
    source = Source(ConnectionResetError("cut"))
    who = agent(source.tool(effect=effect))
    with opened(script=using("look"), breaker=TRIPS) as app:
        for n in range(4):
            app.run(who, "x", run_id=f"r{n}", wait_s=0)
            assert len(of_kind(app, ToolCallInDoubt, f"r{n}")) == 1
        assert changes(app) == ["open"]


# ── what it does ────────────────────────────────────────────────────────────────────────────────


def test_nobody_calls_what_answers_nobody(clock: Clock) -> None:
    """Runs wait without a process, saying for what; then few try it, and all go on."""
    source = Source()
    who = agent(source.tool())
    with tripped(source, who, "look") as app:
        for n in range(5):
            run = app.run(who, "x", run_id=f"r{n}", wait_s=0)
            assert run.status == "parked"
            assert run.why.startswith("waiting for grants-db, which does not answer, until 2027-")
        assert source.asked == []
        assert len(of_kind(app, RunParked, "r0")) == 1
        assert of_kind(app, ToolCallStarted, "r0") == [], "no intent of what is not begun"
        source.error = None
        clock.jump(120)
        for n in range(5):
            assert app.run(who, "x", run_id=f"r{n}", wait_s=0).status == "completed"
        assert len(source.asked) == 5
        probes = [of_kind(app, ToolCallStarted, f"r{n}")[0].probe for n in range(5)]
        assert changes(app) == ["open", "half_open", "closed"]
        # With one of two in doubt it may yet be either; two good ones close it.
        assert probes == [True, True, False, False, False]


def test_it_opens_again_for_longer(clock: Clock) -> None:
    """Those that try it in vain open it, twice as long; exactly so many are made each time."""
    source = Source()
    who = agent(source.tool())
    with tripped(source, who, "look") as app:
        for rounds in (1, 2, 3):
            clock.jump(60 * 2**rounds)
            for n in range(5):
                app.run(who, "x", run_id=f"r{rounds}.{n}", wait_s=0)
            assert 1 <= len(source.asked) <= TRIPS.probes
            source.asked.clear()
            (last,) = [record.event for record in app.journal.read(STREAM)][-1:]
            assert isinstance(last, BreakerChanged)
            assert (last.status, last.rounds) == ("open", rounds)
            assert last.until == clock.now + min(300, 60 * 2**rounds) * 10**9


def test_others_in_the_same_reply_go_on(clock: Clock) -> None:
    """Tools of other sources, and of none, are called while one waits; that one is called later."""
    source, other = Source(), Source()
    tools = [source.tool(), other.tool("fetch", "mail"), other.tool("count", "")]
    who = agent(*tools)
    with tripped(source, agent(source.tool()), "look") as app:
        run = app.run(who, "use look fetch count", run_id="r", wait_s=0)
        assert (run.status, source.asked, sorted(other.asked)) == ("parked", [], ["count", "fetch"])
        source.error = None
        clock.jump(120)
        assert app.resume("r", who, wait_s=0).status == "completed"
        assert (source.asked, sorted(other.asked)) == (["look"], ["count", "fetch"])


def test_several_tools_have_one_source(clock: Clock) -> None:
    """What one tool finds out holds for all that depend on the same."""
    source = Source()
    with tripped(source, agent(source.tool("look")), "look") as app:
        run = app.run(agent(source.tool("search")), "use search", run_id="r", wait_s=0)
        assert (run.status, source.asked) == ("parked", [])


@pytest.mark.parametrize("how", ["no source", "no breaker"])
def test_there_may_be_none(how: str, clock: Clock) -> None:
    """Without a source, or without breakers, everything is called."""
    source = Source(ConnectionRefusedError("no"))
    who = agent(source.tool(source="" if how == "no source" else "grants-db"))
    breaker = None if how == "no breaker" else TRIPS
    with opened(script=using("look"), breaker=breaker) as app:
        for n in range(8):
            assert app.run(who, "x", run_id=f"r{n}", wait_s=0).status == "completed"
    assert len(source.asked) == 8


def test_each_tenant_may_have_its_own(clock: Clock) -> None:
    """With `per_tenant`, what one tenant meets stops no other."""
    source = Source(ConnectionRefusedError("no"))
    who = agent(source.tool())
    mine = Breaker(calls=4, open_s=60, per_tenant=True)
    with opened(script=using("look"), breaker=mine) as app:
        for n in range(4):
            app.run(who, "x", run_id=f"r{n}", tenant="acme", wait_s=0)
        assert app.run(who, "x", run_id="a", tenant="acme", wait_s=0).status == "parked"
        assert app.run(who, "x", run_id="b", tenant="other", wait_s=0).status == "completed"
        assert changes(app, f"{STREAM}:tenant:acme") == ["open"]
        assert changes(app) == []
    assert len(source.asked) == 5


def test_slow_calls_open_it() -> None:
    """Where replies are slow, it opens as that of a model does."""
    asked: list[int] = []

    @outlast.tool(source="grants-db", effect="read")
    def look() -> str:
        asked.append(1)
        time.sleep(0.03)
        return "found"

    slow = Breaker(calls=4, slow_s=0.01, open_s=60)
    with opened(script=using("look"), breaker=slow) as app:
        runs = [app.run(agent(look), "x", run_id=f"r{n}", wait_s=0) for n in range(5)]
    assert [run.status for run in runs] == ["completed"] * 4 + ["parked"]
    assert len(asked) == 4


def test_a_cancelled_call_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who gives up did not wait for an answer."""
    monkeypatch.setattr(decide_control, "GRACE_NS", 0)
    began = threading.Event()
    over = threading.Event()

    def look() -> str:
        began.set()
        over.wait(30)
        raise ConnectionRefusedError("after all")

    declared = outlast.tool(source="grants-db", effect="idempotent")(look)
    with opened(script=using("look"), breaker=TRIPS) as app:
        for n in range(5):
            began.clear()
            going = threading.Thread(
                target=app.run, args=(agent(declared), "x"), kwargs={"run_id": f"r{n}"}
            )
            going.start()
            assert began.wait(30)
            app.cancel(f"r{n}")
            going.join(30)
            assert not going.is_alive()
            (doubt,) = of_kind(app, ToolCallInDoubt, f"r{n}")
            assert doubt.kind == "cancelled"
        over.set()
        assert changes(app) == []


def test_who_asks_twice_in_one_reply(running: Running) -> None:
    """Calls of one reply try it one after the other, so that one place is enough for all."""
    source = Source()
    who = agent(source.tool())
    one = Breaker(calls=4, open_s=60, probes=1)
    source.error = ConnectionRefusedError("no")
    with opened(script=using("look", "look", "look"), breaker=one) as app:
        app.run(who, "x", run_id="r0", wait_s=0)
        assert app.run(who, "x", run_id="r1", wait_s=0).status == "completed"
        assert changes(app) == ["open"]
        assert len(source.asked) == 6, "those of one reply are begun together"
        assert app.run(who, "x", run_id="r", wait_s=0).status == "parked"
        source.error = None
        source.asked.clear()
        running.jump(120)
        assert app.run(who, "x", run_id="r", wait_s=0).status == "completed"
        assert [one.probe for one in of_kind(app, ToolCallStarted)] == [True, False, False]
        assert len(source.asked) == 3


def test_those_of_one_reply_try_it_one_at_a_time(running: Running) -> None:
    """Though there are places for all of them: the first may find that it answers nobody."""
    down, at_work, most = [True], 0, []

    @outlast.tool(source="grants-db", effect="read")
    async def look() -> str:
        nonlocal at_work
        if down[0]:
            raise ConnectionRefusedError("no")
        at_work += 1
        most.append(at_work)
        await asyncio.sleep(0.05)
        at_work -= 1
        return "found"

    three = Breaker(calls=2, open_s=60, probes=3)
    with opened(script=using("look", "look", "look"), breaker=three) as app:
        assert app.run(agent(look), "x", run_id="before", wait_s=0).status == "completed"
        assert app.run(agent(look), "x", run_id="r", wait_s=0).status == "parked"
        down[0] = False
        running.jump(120)
        assert app.run(agent(look), "x", run_id="r", wait_s=0).status == "completed"
        assert changes(app) == ["open", "half_open", "closed"]
    assert most[:2] == [1, 1]


# ── shared ──────────────────────────────────────────────────────────────────────────────────────


def test_all_applications_see_the_same(clock: Clock, tmp_path: Path) -> None:
    """What one finds out, another one that had the run of it goes by at once; so with its end."""
    source = Source()
    who = agent(source.tool())
    with opened(store_at(tmp_path / "s.db"), using("look"), breaker=TRIPS) as second:
        assert second.run(who, "x", run_id="early", wait_s=0).status == "completed"
        source.asked.clear()
        path = store_at(tmp_path / "s.db")
        with opened(path, using("look"), breaker=TRIPS) as app:
            source.error = ConnectionRefusedError("no")
            app.run(who, "x", run_id="a", wait_s=0)
            second.run(who, "x", run_id="b", wait_s=0)
            assert changes(app) == []
            app.run(who, "x", run_id="c", wait_s=0)
            assert changes(second) == ["open"], "three of four, from two applications"
            assert len(source.asked) == 3
            for n, one in enumerate([app, second]):
                assert one.run(who, "x", run_id=f"w{n}", wait_s=0).status == "parked"
            assert len(source.asked) == 3
            source.error = None
            clock.jump(120)
            for n, one in enumerate([second, app, second]):
                assert one.run(who, "x", run_id=f"w{n}", wait_s=0).status == "completed"
            assert changes(app) == ["open", "half_open", "closed"]


@pytest.mark.parametrize("probes", [1, 3])
def test_exactly_so_many_try_it(probes: int, clock: Clock, tmp_path: Path) -> None:
    """Of 24 runs in 4 applications that come at once, exactly that many call it."""
    few = Breaker(calls=4, open_s=60, probes=probes)
    lock, release, at_work = threading.Lock(), threading.Event(), 0
    down, most = [True], []

    @outlast.tool(source="grants-db", effect="read")
    def look() -> str:
        nonlocal at_work
        if down[0]:
            raise ConnectionRefusedError("no")
        with lock:
            at_work += 1
            most.append(at_work)
        release.wait(60)
        return "found"

    who = agent(look)
    apps = [opened(store_at(tmp_path / "s.db"), using("look"), breaker=few) for _ in range(4)]
    for n in range(4):
        apps[n].run(who, "x", run_id=f"before-{n}", wait_s=0)
    ids = [f"r{n}" for n in range(24)]
    for n, run_id in enumerate(ids):
        assert apps[n % 4].run(who, "x", run_id=run_id, wait_s=0).status == "parked"
    down[0] = False
    clock.jump(120)

    def go(n: int) -> None:
        apps[n % 4].run(who, "x", run_id=ids[n])

    going = [threading.Thread(target=go, args=(n,)) for n in range(24)]
    for one in going:
        one.start()
    until = time.monotonic() + 60
    woken = 0
    while woken < 24 and time.monotonic() < until:
        woken = sum("run_woken" in events(apps[0], run_id) for run_id in ids)
        time.sleep(0.05)
    time.sleep(0.5)  # for whoever would call it all the same
    tried = at_work
    release.set()
    for one in going:
        one.join(60)
    for app in apps:
        app.close()
    assert tried == probes
    clock.jump(600)
    with opened(store_at(tmp_path / "s.db"), using("look"), breaker=few) as app:
        for run_id in ids:
            assert app.run(who, "x", run_id=run_id, wait_s=0).status == "completed"
    assert at_work == 24, "each run called it once"


def test_others_go_on_beside_a_place_that_is_taken(clock: Clock) -> None:
    """Where somebody else tries the source, the other tools of a reply are called at once."""
    release, trying, both = threading.Event(), threading.Event(), threading.Barrier(2)
    down = [True]

    def look() -> str:
        if down[0]:
            raise ConnectionRefusedError("no")
        trying.set()
        release.wait(60)
        return "found"

    def beside() -> str:
        both.wait(30)
        release.set()
        return "together"

    tools: list[Any] = [outlast.tool(source="grants-db", effect="read")(look)]
    tools += [outlast.tool(name=name, source=name)(beside) for name in ("fetch", "count")]
    who = agent(*tools)
    one = Breaker(calls=4, open_s=60, probes=1)
    with opened(script=using("look"), breaker=one) as app:
        for n in range(4):
            app.run(who, "x", run_id=f"before-{n}", wait_s=0)
        down[0] = False
        clock.jump(120)
        prober = threading.Thread(target=app.run, args=(who, "x"), kwargs={"run_id": "prober"})
        prober.start()
        assert trying.wait(30)
        app.run(who, "use look fetch count", run_id="r", wait_s=0)
        prober.join(30)
        clock.jump(600)
        assert app.run(who, "use look fetch count", run_id="r", wait_s=0).status == "completed"
        ended = [type(one.event) for one in app.log("r") if "tool_call" in tag(one.event)]
        assert ended.count(ToolCallSucceeded) == 3


def test_questions_of_a_flow_try_it_in_turn(running: Running) -> None:
    """Two questions that go on at once need one place each, and one is all there is."""
    source = Source(ConnectionRefusedError("no"))
    who = agent(source.tool())

    @outlast.flow
    async def both(run: outlast.Run) -> list[str]:
        return list(await asyncio.gather(run.ask(who, "x", name="a"), run.ask(who, "y", name="b")))

    one = Breaker(calls=4, open_s=60, probes=1)
    with opened(script=using("look"), breaker=one) as app:
        for n in range(4):
            app.run(who, "x", run_id=f"before-{n}", wait_s=0)
        assert app.run(both, None, run_id="r", wait_s=0).status == "parked"
        assert len(source.asked) == 4
        source.error = None
        for _ in range(2):
            running.jump(200)
            run = app.run(both, None, run_id="r")
        assert run.answer == ["done", "done"]
        assert len(source.asked) == 6
        assert changes(app) == ["open", "half_open", "closed"]


# ── deaths ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("its_run", ["is left", "is cancelled"])
def test_a_dead_prober_frees_its_place(its_run: str, tmp_path: Path) -> None:
    """A process that is killed while it tries the source leaves its place to a run of another."""
    path = tmp_path / "s.db"
    (tmp_path / "down").touch()
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]),
        "TRYING": str(tmp_path),
    }
    victim = subprocess.Popen(
        [sys.executable, "-m", "outages.trying", str(path)], env=env, stdout=subprocess.PIPE
    )
    try:
        assert victim.stdout is not None
        assert victim.stdout.readline() == b"trying\n"
        with opened(
            store_at(path), asking_for("look"), breaker=Breaker(calls=2, open_s=0.5, probes=1)
        ) as app:
            calls: list[int] = []

            @outlast.tool(source="grants-db", effect="read")
            def look() -> str:
                calls.append(1)
                return "found"

            who = agent(look)
            assert changes(app) == ["open", "half_open"]
            waiting = threading.Thread(target=app.run, args=(who, "x"), kwargs={"run_id": "r"})
            waiting.start()
            assert calls == [], "its place is taken"
            victim.send_signal(signal.SIGKILL)
            victim.wait(30)
            if its_run == "is cancelled":
                app.cancel("prober")
            waiting.join(30)
            assert not waiting.is_alive()
            assert app.get("r").status == "completed"
            assert calls == [1]
            assert changes(app) == ["open", "half_open", "closed"]
            if its_run == "is cancelled":
                return
            # Whoever goes on with the dead one's run says what became of its call, and calls again.
            (note,) = of_kind(app, NoteAdded, "prober")
            assert note.by == "outlast"
            assert app.run(who, "x", run_id="prober").status == "completed"
            (doubt,) = of_kind(app, ToolCallInDoubt, "prober")
            assert doubt.kind == "crash"
            assert calls == [1, 1]
    finally:
        victim.kill()
        victim.wait(30)
        if victim.stdout is not None:
            victim.stdout.close()


@pytest.mark.parametrize("effect", ["read", "idempotent", "once"])
def test_who_goes_on_frees_it_too(effect: str, running: Running) -> None:
    """The call in doubt of a dead prober counts for nothing, and whoever goes on may try it."""
    source = Source()
    who = agent(source.tool(effect=effect))
    journal: Any = None
    one = Breaker(calls=4, open_s=60, probes=1)
    with opened(script=using("look"), breaker=one) as app:
        journal, app.journal.close = app.journal, lambda: None
        source.error = ConnectionRefusedError("no")
        for n in range(4):
            app.run(who, "x", run_id=f"before-{n}", wait_s=0)
        assert app.run(who, "x", run_id="r", wait_s=0).status == "parked"
    source.error = None
    source.asked.clear()
    running.jump(120)
    dying: Any = Dying(journal, before(ToolCallSucceeded))
    with opened(dying, using("look"), breaker=one) as app, pytest.raises(StoreError):
        app.run(who, "x", run_id="r", wait_s=0)
    assert source.asked == ["look"]
    with opened(Dying(journal, lambda _: False), using("look"), breaker=one) as app:
        assert app.run(who, "x", run_id="r", wait_s=0).status == "completed"
        assert len(of_kind(app, ToolCallInDoubt)) == 1
        assert app.run(who, "x", run_id="next", wait_s=0).status == "completed"
        assert len(source.asked) == (2 if effect == "once" else 3)
        assert changes(app) == ["open", "half_open", "closed"]


@pytest.mark.parametrize("effect", ["read", "idempotent", "once"])
def test_killed_everywhere(effect: str, running: Running) -> None:
    """Wherever a run that meets an open breaker dies, it ends as if it had not."""
    for point in itertools.count(1):
        source = Source()
        other = Source()
        who = agent(source.tool(effect=effect), other.tool("fetch", "mail", effect="idempotent"))
        with tripped(source, agent(source.tool()), "look") as app:
            journal = app.journal
            appends = itertools.count(1)
            dying: Any = Dying(journal, lambda _: next(appends) == point)  # noqa: B023
            crashed = False
            for _ in range(4):
                with opened(dying, using("look", "fetch"), breaker=TRIPS) as life:
                    try:
                        status = life.run(who, "x", run_id="r", wait_s=0).status
                    except StoreError:
                        crashed, dying = True, Dying(journal, lambda _: False)
                        continue
                if status == "completed":
                    break
                assert source.asked == [], "it was called while it answered nobody"
                source.error = None
                running.jump(200)
            assert status == "completed", point
            assert len(source.asked) <= (1 if effect == "once" else 2)
            assert 1 <= len(other.asked) <= 2
            # Its place is free again: as many as may try it yet can.
            for n in range(2):
                assert life_after(app, who, f"next-{n}") == "completed"
            assert changes(app)[:3] == ["open", "half_open", "closed"]
        if not crashed:
            assert point > 6
            return


def life_after(app: Any, who: outlast.Agent, run_id: str) -> str:
    status: str = app.run(who, "x", run_id=run_id, wait_s=0).status
    return status


# ── what it is to others ────────────────────────────────────────────────────────────────────────


def test_nobody_else_sees_it() -> None:
    """A source is no part of what Claude sees, nor of the version."""
    source = Source()

    async def look() -> str:
        """Look."""
        return source.ask()

    plain, sourced = outlast.tool(look), outlast.tool(source="grants-db")(look)
    assert plain.schema == sourced.schema
    assert version_of(agent(plain)) == version_of(agent(sourced))


@pytest.mark.parametrize("source", ["a:b", "a b", "x" * 129, "é", None, 3, "a/b"])
def test_what_is_no_source(source: Any) -> None:
    """A source is a name, so that it can stand in others."""
    with pytest.raises(InvalidTool, match="source"):
        outlast.tool(source=source, name="look")(lambda: None)
