"""An MCP server that dies is begun anew; what it was asked and did not answer is in doubt."""

import asyncio
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from served import Home, Port, is_gone, until

import outlast
from outlast import mcp_servers, mcp_session
from outlast.classes import classify, retry_after
from outlast.models.script import say, tool_use, turn_number
from outlast.models.scripted import ScriptedModel
from stubs import agent, asking, results

Tools = dict[str, outlast.Tool[..., Any]]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Return where the server of a test leaves what it did."""
    return Home(tmp_path / "home")


@pytest.fixture
def server(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[outlast.MCPServer]:
    """Return a server that is begun anew almost at once."""
    monkeypatch.setattr(mcp_servers, "FIRST_WAIT_S", 0.01)
    with home.server() as server:
        yield server


@pytest.fixture
def port(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[Port]:
    """Return a server behind a port, which was begun."""
    monkeypatch.setattr(mcp_servers, "FIRST_WAIT_S", 0.01)
    port = Port(home)
    port.begin()
    yield port
    port.kill()


def named(server: outlast.MCPServer, **more: Any) -> Tools:
    return {tool.name: tool for tool in server.tools(**more)}


def called(tool: outlast.Tool[..., Any], **arguments: Any) -> Any:
    return asyncio.run(tool(**arguments))


def begun(tool: outlast.Tool[..., Any], **arguments: Any) -> Future[Any]:
    """Call a tool in a thread, and return what will come of it."""
    future: Future[Any] = Future()

    def work() -> None:
        try:
            future.set_result(called(tool, **arguments))
        except BaseException as error:  # noqa: BLE001  (raised to whoever asks)
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future


def kill(server: outlast.MCPServer, home: Home) -> None:
    """Kill the process of a server, and wait until that is known."""
    session = server._line._session
    os.kill(home.pids[-1], signal.SIGKILL)
    until(lambda: not session.is_open)


# ── in the middle of a call ───────────────────────────────────────────────────────────────────


def test_a_server_that_ends_in_a_call(server, home):
    """The call is lost after it was sent, the next one finds a new process; each is done once."""
    tools = named(server)
    with pytest.raises(outlast.MCPServerLost, match="was asked, and there is no answer") as lost:
        called(tools["die"], text="first")
    assert isinstance(lost.value, ConnectionError)
    assert not isinstance(lost.value, ConnectionRefusedError)
    assert called(tools["note"], text="second") == "noted second"
    assert home.done == ["first", "second"]
    assert len(home.pids) == 2


def test_a_server_that_is_killed_in_calls(server, home):
    """Each call in flight is lost, and none is sent again."""
    tools = named(server)
    calls = [begun(tools["hang"], text=text) for text in "abc"]
    until(lambda: len(home.done) == 3)
    os.kill(home.pids[0], signal.SIGKILL)
    for call in calls:
        with pytest.raises(outlast.MCPServerLost):
            call.result(60)
    assert called(tools["note"], text="d") == "noted d"
    assert sorted(home.done) == ["a", "b", "c", "d"]


def test_a_run_never_does_it_twice(server, home):
    """A run whose server dies in a `once` call has done it once, and goes on with a new one."""
    tools = named(server)

    def script(request: dict[str, Any], attempt: int) -> Any:
        if turn_number(request) == 1:
            return say(tool_use("die", {"text": "once"}), tool_use("add", {"a": 1}))
        return say("done")

    with outlast.Outlast("memory://", model=ScriptedModel(script)) as app:
        run = app.run(agent(*tools.values()), "Go.", run_id="r")
        assert run.status == "waiting", run.why
        app.resume("r", agent(*tools.values()))
    assert home.done == ["once"]


@pytest.mark.parametrize("effect", ["read", pytest.param("idempotent", marks=pytest.mark.soak)])
def test_a_run_tries_again_what_may_be_repeated(effect, server, home):
    """A `read` and an `idempotent` call are made again in a new process, as `attempts` says."""
    (die,) = server.tools(effects={"die": effect}, only=["die"], attempts=2)
    model = ScriptedModel(asking(tool_use("die", {"text": "and then live"})))
    with outlast.Outlast("memory://", model=model) as app:
        assert app.run(agent(die), "Go.").status == "completed"
    assert results(model)[0]["content"] == "still here"
    assert home.done == ["and then live"] * 2


def test_another_tool_answers_for_one_of_a_dead_server(server, home):
    """A tool of a server can have fallbacks, which take its arguments, and can be one."""

    @outlast.tool(effect="read")
    def least(a: int) -> str:
        return f"at least {a}"

    (plain,) = server.tools(effect="read", only=["add"])
    (add,) = server.tools(effect="read", only=["add"], fallbacks=[least])
    assert add.takes({"a": 1, "c": 2}) == ({"a": 1}, ("c",))
    home.down("start")
    kill(server, home)
    model = ScriptedModel(asking(tool_use("add", {"a": 1, "b": 2})))
    with outlast.Outlast("memory://", model=model) as app:
        assert app.run(agent(add), "Go.").status == "completed"
    assert "at least 1" in str(results(model)[0]["content"])
    with pytest.raises(outlast.InvalidTool, match="needs 'a', which is no argument"):
        outlast.tool(name="x", effect="read", fallbacks=[plain])(lambda: "")


def test_a_server_behind_an_address_that_is_killed(port, home):
    """Over HTTP, calls in flight are lost likewise, and once it is back the next one is served."""
    with outlast.MCPServer(url=port.url) as server:
        tools = named(server)
        calls = [begun(tools["hang"], text=text) for text in "ab"]
        until(lambda: len(home.done) == 2)
        port.kill()
        for call in calls:
            with pytest.raises(outlast.MCPServerLost) as lost:
                call.result(60)
            assert not isinstance(lost.value, ConnectionRefusedError)
        with pytest.raises(outlast.MCPServerUnreachable):
            called(tools["note"], text="nobody hears it")
        port.begin()
        assert called(tools["note"], text="c") == "noted c"
    assert sorted(home.done) == ["a", "b", "c"]


def test_what_is_no_answer(port, home):
    """Half an answer and a status of 500 are none, one of 400 refuses; others are not disturbed."""
    with outlast.MCPServer(url=port.url) as server:
        tools = named(server)
        other = begun(tools["hang"], text="other")
        until(lambda: home.done)
        home.down("break")
        with pytest.raises(outlast.MCPServerLost):
            called(tools["note"], text="broken")
        home.down("")
        assert called(tools["add"], a=1) == "1"
        home.down("status 503")
        with pytest.raises(outlast.MCPServerLost) as lost:
            called(tools["note"], text="lost")
        assert lost.value.status_code == 503
        home.down("status 401")
        with pytest.raises(outlast.MCPServerRefused) as refused:
            called(tools["note"], text="refused")
        assert refused.value.status_code == 401
        with pytest.raises(outlast.MCPServerRefused):
            server.tools()
        home.down("")
        home.release()
        assert other.result(60) == "released"
        assert called(tools["note"], text="heard") == "noted heard"
    assert home.done == ["other", "heard"]


NO_ANSWERS = [
    "200 text/html <html>log in</html>",
    "200 application/json {",
    "200 application/json {}",
    "202 application/json ",
    "204 application/json ",
    "303 text/html see other",
    "408 text/html too late",
    "200 text/event-stream event: message\ndata: {\n\n",
]


@pytest.mark.parametrize("said", NO_ANSWERS)
def test_what_cannot_be_read_is_no_answer(said, port, home):
    """What was answered with something that is no answer is in doubt, and no error."""
    with outlast.MCPServer(url=port.url) as server:
        note = named(server, only=["note"])["note"]
        home.down(f"says {said}")
        with pytest.raises(outlast.MCPServerLost, match="was asked"):
            called(note, text="x")
        home.down("")
        assert called(note, text="y") == "noted y"


def test_an_address_that_has_moved(port, home):
    """A redirect that is not followed names the address, and nothing was asked."""
    with outlast.MCPServer(url=port.url) as server:
        note = named(server, only=["note"])["note"]
        home.down("says 307 text/html moved")
        with pytest.raises(outlast.MCPServerUnreachable, match=r"https://elsewhere\.test/"):
            called(note, text="x")


@pytest.mark.parametrize(("status", "kind"), [(429, "rate_limited"), (503, "unavailable")])
def test_when_to_come_again(status, kind, port, home):
    """What a server says of when to be asked again is known of its refusal, as of any client's."""
    with outlast.MCPServer(url=port.url) as server:
        note = named(server, only=["note"])["note"]
        home.down(f"says {status} text/plain no")
        with pytest.raises((outlast.MCPServerRefused, outlast.MCPServerLost)) as raised:
            called(note, text="x")
    assert (classify(raised.value), retry_after(raised.value)) == (kind, 7)


def test_an_answer_of_megabytes(port, home):
    """A result in a stream of events may be of any size."""
    result = {"content": [{"type": "text", "text": "x" * 2_000_000}], "resultType": "complete"}
    answer = json.dumps({"jsonrpc": "2.0", "id": 1, "result": result})
    with outlast.MCPServer(url=port.url) as server:
        note = named(server, only=["note"])["note"]
        home.down(f"says 200 text/event-stream event: message\ndata: {answer}\n\n")
        assert len(called(note, text="x")) == 2_000_000


def test_a_server_that_prints_what_is_no_text(home):
    """A line on standard output that is no UTF-8 is passed over, and the session goes on."""
    line = f"printf '\\377\\n'; exec {shlex.join(home.command())}"
    with outlast.MCPServer(command=["sh", "-c", line], connect_timeout_s=10) as server:
        assert called(named(server)["add"], a=1) == "1"


def test_a_server_that_begins_too_slowly(server, home):
    """A call whose time ends before it was sent was not made: that is no doubt."""
    (note,) = server.tools(only=["note"], timeout_s=0.3)
    home.down("slowly")
    kill(server, home)
    model = ScriptedModel(asking(tool_use("note", {"text": "x"})))
    with outlast.Outlast("memory://", model=model) as app:
        run = app.run(agent(note), "Go.")
    assert run.status == "completed", run.why
    assert results(model)[0]["content"].startswith("note failed with MCPServerUnreachable.")
    assert home.done == []


# ── between calls ─────────────────────────────────────────────────────────────────────────────


def test_a_server_that_dies_between_calls(server, home):
    """A call that finds a dead server was not sent to it: a new one is begun, and asked."""
    tools = named(server)
    for number in range(2):
        kill(server, home)
        assert called(tools["note"], text=str(number)) == f"noted {number}"
    assert home.done == ["0", "1"]
    assert len(home.pids) == 3


def test_one_beginning_serves_all(server, home, monkeypatch):
    """Calls that meet a dead server wait for one new process, also when the first gives up."""
    held, asked = threading.Event(), []

    async def until_released(moment: float) -> None:
        asked.append(moment)
        while not held.is_set():  # noqa: ASYNC110  (of another thread)
            await asyncio.sleep(0.01)

    async def both() -> str:
        first, second = (asyncio.create_task(tools["note"](text=text)) for text in "ab")
        while not asked:  # noqa: ASYNC110  (of another thread)
            await asyncio.sleep(0.01)
        first.cancel()
        await asyncio.wait({first})
        await asyncio.sleep(0.05)
        held.set()
        return await second

    tools = named(server)
    monkeypatch.setattr(mcp_servers, "_until", until_released)
    kill(server, home)
    assert asyncio.run(both()) == "noted b"
    assert (home.done, len(home.pids), len(asked)) == (["b"], 2, 1)


def test_a_server_that_has_forgotten_the_session(home, monkeypatch):
    """A server that knows a session no more has not looked at the call; it gets it in a new one."""
    monkeypatch.setattr(mcp_servers, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(mcp_session, "MODE", "legacy")
    port = Port(home, "--stateful")
    port.begin()
    try:
        with outlast.MCPServer(url=port.url) as server:
            tools = named(server)
            port.kill()
            port.begin()
            assert called(tools["note"], text="a") == "noted a"
    finally:
        port.kill()
    assert home.done == ["a"]


def test_headers_of_arguments_after_a_new_beginning(port, home):
    """A tool whose arguments are repeated in headers works in a session that listed no tools."""
    with outlast.MCPServer(url=port.url) as server:
        tools = named(server)
        assert called(tools["headed"], text="a") == "noted a"
        port.kill()
        with pytest.raises(outlast.MCPServerUnreachable):
            called(tools["headed"], text="b")
        port.begin()
        assert called(tools["headed"], text="c") == "noted c"
    assert home.done == ["a", "c"]


def test_a_server_that_cannot_be_begun(server, home):
    """Where there is no server, nothing was sent: that is a refused connection."""
    tools = named(server)
    home.down("start")
    kill(server, home)
    with pytest.raises(outlast.MCPServerUnreachable) as refused:
        called(tools["note"], text="unheard")
    assert isinstance(refused.value, ConnectionRefusedError)
    assert home.done == []


# ── later and later ───────────────────────────────────────────────────────────────────────────


def test_how_long_it_waits():
    """Half a second, then twice as long each time, half a minute at most."""

    async def waits() -> list[float]:
        line = mcp_servers._Line(mcp_session.Server(name="x", command=("x",)))
        found = []
        for _ in range(8):
            line._failed()
            found.append(line._wait_s)
        return found

    assert asyncio.run(waits()) == [0.5, 1, 2, 4, 8, 16, 30, 30]


def test_it_really_waits():
    """Until a moment of the loop's clock, and not at all for one that is over."""

    async def waited() -> float:
        loop = asyncio.get_running_loop()
        await mcp_servers._until(loop.time() - 60)
        began = loop.time()
        await mcp_servers._until(began + 0.05)
        return loop.time() - began

    assert asyncio.run(waited()) >= 0.049


def test_a_server_that_keeps_dying_is_begun_later_and_later(server, home, monkeypatch):
    """It waits before a new beginning, and begins to count anew once a call is answered."""
    waited = []

    async def until_then(moment: float) -> None:
        waited.append(moment)

    tools = named(server)
    monkeypatch.setattr(mcp_servers, "_until", until_then)
    with pytest.raises(outlast.MCPServerLost):
        called(tools["die"], text="x")
    assert server._line._wait_s == 0.01
    moment = server._line._not_before
    assert called(tools["add"], a=1) == "1"
    assert waited == [moment]
    assert server._line._wait_s == 0


# ── listing ───────────────────────────────────────────────────────────────────────────────────


def test_a_list_that_cannot_be_had_is_an_error(server, home):
    """Tools that cannot be listed are asked for three times, and are never no tools."""
    home.down("listing")
    with pytest.raises(outlast.MCPServerUnreachable, match=r"after 3 tries: .*the index is down"):
        server.tools()
    assert len(home.lines("listed")) == 3
    home.down("")
    assert len(server.tools()) == 22
    home.down("last page")  # which leads back to the first
    with pytest.raises(outlast.MCPServerUnreachable, match="its list of tools has no end"):
        server.tools()


@pytest.mark.parametrize(
    "given",
    [
        {"command": ["/nowhere/at/all"]},
        {"command": [sys.executable, "-c", ""]},
        {"url": "http://127.0.0.1:1/mcp"},
    ],
    ids=["no program", "ends at once", "nobody listens"],
)
def test_a_server_that_is_not_there(given, monkeypatch):
    """A program that is none, one that ends, a port that nobody listens at: an error, and why."""
    monkeypatch.setattr(mcp_servers, "FIRST_WAIT_S", 0.01)
    with (
        outlast.MCPServer(**given) as server,
        pytest.raises(outlast.MCPServerUnreachable, match="cannot be listed, after 3 tries"),
    ):
        server.tools()


def test_a_server_that_never_answers(monkeypatch):
    """A program that says nothing is given up in time, and ended."""
    monkeypatch.setattr(mcp_servers, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(mcp_servers, "TRIES", 1)
    silent = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with (
        outlast.MCPServer(command=silent, connect_timeout_s=0.2) as server,
        pytest.raises(outlast.MCPServerUnreachable, match=r"does not answer within 0\.2 s"),
    ):
        server.tools()


# ── its end ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["stdio", "http"])
def test_a_call_that_is_cancelled(kind, server, home, request):
    """A call that is given up is given up at the server, and the session serves others."""
    if kind == "http":
        server = outlast.MCPServer(url=request.getfixturevalue("port").url)
    with server as asked:
        tools = named(asked)

        async def given_up() -> None:
            call = asyncio.create_task(tools["hang"](text="x"))
            while not home.done:  # noqa: ASYNC110  (a file)
                await asyncio.sleep(0.01)
            call.cancel()
            await asyncio.wait({call})
            assert call.cancelled()

        asyncio.run(given_up())
        until(lambda: home.lines("cancelled") == ["x"])
        assert called(tools["add"], a=1) == "1"


def test_close(server, home):
    """`close` ends the process; what was under way has no answer, and nothing more is sent."""
    tools = named(server)
    call = begun(tools["hang"], text="x")
    until(lambda: home.done)
    server.close()
    with pytest.raises(outlast.MCPServerLost):
        call.result(60)
    assert is_gone(home.pids[0])
    with pytest.raises(outlast.UsageError, match="was closed"):
        called(tools["add"], a=1)
    with pytest.raises(outlast.UsageError, match="was closed"):
        server.tools()


PROGRAM = """
import asyncio, os, sys
import outlast
server = outlast.MCPServer(command=sys.argv[1:])
tools = {tool.name: tool for tool in server.tools()}
"""
FORK = """
if not (child := os.fork()):
    asyncio.run(tools["note"](text="child"))
    server.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
asyncio.run(tools["note"](text="parent"))
"""


def program(home: Home, code: str, *options: str) -> None:
    """Run a program that has a server, to its end."""
    command = [sys.executable, "-c", PROGRAM + code, *home.command(*options)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, sys.path))}
    subprocess.run(command, env=env, check=True, timeout=60)


def test_nothing_is_left_of_a_process_that_ends(home):
    """A program that ends without a word takes its server with it."""
    program(home, "")
    assert is_gone(*home.pids)


@pytest.mark.soak
def test_nothing_is_left_of_a_server_that_does_not_want_to_end(home):
    """Not even of a server that ignores that its input has ended, and that it is to end."""
    program(home, "", "--stubborn")
    assert is_gone(*home.pids)


@pytest.mark.soak
def test_a_process_that_was_forked_has_a_server_of_its_own(home):
    """A fork shares no connection: its calls go to another process of the server."""
    program(home, FORK)
    assert home.done == ["child", "parent"]
    assert len(home.pids) == 2
    assert all(map(is_gone, home.pids))
