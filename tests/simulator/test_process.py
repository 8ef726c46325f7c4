"""The simulator's life: it remembers, it ends with its parent, and it says why it cannot start."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import anthropic
import psutil
import pytest

from outlast.errors import UsageError
from outlast.testing import simulator
from outlast.testing.simulator import state
from simulator.asking import TESTS, body, client_of

SRC = Path(state.__file__).parents[3]


def is_gone(pid: int) -> bool:
    """Say whether the process has ended, whoever should have waited for it."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_until_gone(pid: int) -> None:
    give_up = time.monotonic() + 30
    while not is_gone(pid):
        assert time.monotonic() < give_up, f"process {pid} is still there"
        time.sleep(0.01)


def test_a_restarted_simulator_goes_on_counting(tmp_path):
    """Attempts, replies and the bill are kept across a kill -9 of the simulator itself."""
    with (
        simulator.start("simulator.scripts:menu", path=[TESTS], state=tmp_path) as running,
        client_of(running) as client,
    ):
        with pytest.raises(anthropic.OverloadedError):
            client.messages.create(**body("overloaded"))
        cut = client.messages.create(**body("long", max_tokens=30))
        os.kill(running.pid, signal.SIGKILL)
    with (tmp_path / "requests.jsonl").open("ab") as file:
        file.write(b'{"torn":')
    with (
        simulator.start("simulator.scripts:menu", path=[TESTS], state=tmp_path) as running,
        client_of(running) as client,
    ):
        client.messages.create(**body("overloaded"))
        again = body("long")
        again["messages"] += [
            {"role": "assistant", "content": cut.content},
            {"role": "user", "content": "go on"},
        ]
        client.messages.create(**again)
        assert [line["attempt"] for line in running.requests()] == [1, 1, 2, 1]
        assert len(running.bill()) == 3


def test_the_same_port_can_be_had_again(tmp_path):
    """A simulator may come back where clients expect it."""
    with simulator.start(state=tmp_path) as running:
        port = running.port
    with simulator.start(state=tmp_path, port=port) as running:
        assert running.port == port


PARENT = """
import os, subprocess, sys, time
from outlast.testing import simulator
running = simulator.start()
other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
forked = os.fork()
if not forked:
    time.sleep(60)
    os._exit(0)
print(running.pid, running.url, other.pid, forked, flush=True)
time.sleep(60)
"""


def test_it_ends_with_its_parent_even_on_kill_9():
    """The parent is killed, a forked child of it lives on, and the simulator is gone."""
    parent = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", PARENT],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(SRC), path()]))},
    )
    with parent:
        pid, url, other, forked = parent.stdout.readline().split()
        port = int(url.rpartition(b":")[2])
        socket.create_connection(("127.0.0.1", port)).close()
        try:
            os.kill(parent.pid, signal.SIGKILL)
            wait_until_gone(int(pid))
            assert not is_gone(int(forked)), "the fork must have outlived it, to prove anything"
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))
        finally:
            for child in (int(other), int(forked)):
                if not is_gone(child):
                    os.kill(child, signal.SIGKILL)


def path() -> str:
    return os.environ.get("PYTHONPATH", "")


def test_it_outlives_a_ctrl_c_of_its_parent():
    """Ctrl-C goes to a whole process group; the simulator is not in it."""
    with simulator.start() as running:
        assert os.getpgid(running.pid) != os.getpgid(0)
        assert os.getpgid(running.pid) == running.pid


def test_stop_ends_it_and_keeps_what_was_written(tmp_path):
    """After stop the process is gone and its bill can be read; stopping twice is fine."""
    with simulator.start(state=tmp_path) as running, client_of(running) as client:
        client.messages.create(**body("hello"))
        running.stop()
        assert is_gone(running.pid)
        assert len(running.bill()) == 1
        running.stop()


def test_stop_ends_it_while_it_answers(tmp_path):
    """A slow answer does not hold a simulator up."""
    script = tmp_path / "slow_script.py"
    script.write_text(
        "from outlast.models.script import say\n"
        "def script(request, attempt):\n"
        "    return say('slow', first_token_s=60)\n"
    )
    with (
        simulator.start("slow_script", path=[tmp_path], state=tmp_path) as running,
        socket.create_connection(("127.0.0.1", running.port)) as client,
    ):
        raw = json.dumps(body("x")).encode()
        head = f"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: {len(raw)}\r\n"
        client.sendall(
            (head + "x-api-key: k\r\nanthropic-version: 2023-06-01\r\n\r\n").encode() + raw
        )
        give_up = time.monotonic() + 30
        while not running.bill():
            assert time.monotonic() < give_up
            time.sleep(0.01)
        running.stop()
        assert is_gone(running.pid)


def test_the_pace_of_a_turn_is_kept(tmp_path):
    """`first_token_s` and `total_s` are lower bounds of what a client waits, streaming or not."""
    script = tmp_path / "paced_script.py"
    script.write_text(
        "from outlast.models.script import say\n"
        "def script(request, attempt):\n"
        "    slow = request['max_tokens'] == 1000\n"
        "    return say('one two three', first_token_s=0.1 * slow, total_s=0.4 * slow)\n"
    )
    with (
        simulator.start("paced_script:script", path=[tmp_path], state=tmp_path) as running,
        client_of(running) as client,
    ):
        client.messages.create(**body("warm up", max_tokens=999))
        for stream in (True, False):
            began = time.monotonic()
            answer = client.messages.with_raw_response.create(**body("x"), stream=stream)
            assert time.monotonic() - began >= (0.09 if stream else 0.39)
            answer.http_response.read()
            assert time.monotonic() - began >= 0.39  # a sleep may end a little early


def test_what_a_script_prints_goes_to_the_log(tmp_path):
    """A script may print, when it is loaded and later; whoever started it reads one URL."""
    (tmp_path / "loud_script.py").write_text(
        "from outlast.models.script import say\n"
        "print('loaded', flush=True)\n"
        "def script(request, attempt):\n"
        "    print('asked', flush=True)\n"
        "    return say('x')\n"
    )
    with (
        simulator.start("loud_script", path=[tmp_path], state=tmp_path) as running,
        client_of(running) as client,
    ):
        assert client.messages.create(**body("x")).content[0].text == "x"
    assert (tmp_path / "simulator.log").read_text() == "loaded\nasked\n"


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("no_such_module:script", "No module named 'no_such_module'"),
        ("simulator.scripts:no_such", "has no attribute 'no_such'"),
        ("simulator.scripts:NOT_A_FUNCTION", "is int, not a function"),
        ("", "Empty module name|cannot load ':'"),
    ],
)
def test_a_script_that_cannot_be_loaded_is_named(script, says):
    """The reason is in the exception, not in a log somewhere."""
    with pytest.raises(UsageError, match=says):
        simulator.start(script or ":", path=[TESTS])


def test_a_port_that_is_taken_is_named():
    """A port in use is an error that says what to do."""
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(UsageError, match="give another --port"),
    ):
        simulator.start(port=taken.getsockname()[1])


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.com"])  # noqa: S104  (refused)
def test_only_this_machine_is_served(host):
    """Whoever can connect is answered, so nobody else can."""
    with pytest.raises(UsageError, match="not a loopback address"):
        simulator.serve(host=host)


def test_two_simulators_never_share_a_directory(tmp_path, monkeypatch):
    """The second one is told so, instead of mixing up both bills."""
    monkeypatch.setattr(state, "LOCK_WAIT_S", 0.05)
    with simulator.start(state=tmp_path), pytest.raises(UsageError, match="another simulator uses"):
        state.State(tmp_path)


def test_serve_runs_in_this_process_until_it_is_told_to_stop(tmp_path):
    """What `outlast simulate` calls: the URL is announced, and SIGINT ends it."""
    code = (
        "import sys\n"
        "from outlast.testing import simulator\n"
        f"simulator.serve(state={str(tmp_path)!r}, on_ready=lambda url: print(url, flush=True))\n"
        "print('ended', flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(SRC), path()]))},
    ) as process:
        url = process.stdout.readline().decode().strip()
        with anthropic.Anthropic(base_url=url, api_key="k", max_retries=0) as client:
            assert client.messages.create(**body("hello")).stop_reason == "end_turn"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == b"ended\n"
        assert process.wait(30) == 0
