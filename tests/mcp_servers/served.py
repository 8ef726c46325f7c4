"""MCP servers of tests: where they leave what they did, and how they are begun and killed."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import outlast

SERVER = Path(__file__).with_name("server.py")
PATIENCE_S = 60.0


def until(is_so: Callable[[], Any]) -> None:
    """Wait until something is so, for a minute at most."""
    end = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


class Home:
    """What a server leaves, whichever of its processes."""

    def __init__(self, path: Path) -> None:
        path.mkdir(exist_ok=True)
        self.path = path

    def lines(self, name: str) -> list[str]:
        file = self.path / name
        return file.read_text().splitlines() if file.exists() else []

    @property
    def done(self) -> list[str]:
        """What was really done, in order."""
        return self.lines("done")

    @property
    def pids(self) -> list[int]:
        """Every process that there was."""
        return [int(line) for line in self.lines("pids")]

    def down(self, what: str) -> None:
        (self.path / "down").write_text(what)

    def release(self) -> None:
        (self.path / "release").touch()

    def command(self, *options: str) -> list[str]:
        return [sys.executable, str(SERVER), str(self.path), *options]

    def server(self, *options: str, **more: Any) -> outlast.MCPServer:
        """Return the server as one that is spoken to over its standard input and output."""
        return outlast.MCPServer(command=self.command(*options), **more)


class Port:
    """A server behind a port of this machine, which can be killed and begun again."""

    def __init__(self, home: Home, *options: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.number = free.getsockname()[1]
        self.home = home
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.number}/mcp"

    def begin(self) -> None:
        command = self.home.command("--port", str(self.number), *self.options)
        self.process = subprocess.Popen(command)
        until(self._answers)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(PATIENCE_S)
            self.process = None

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, "the server has ended"
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", self.number)) == 0


def is_gone(pid: int) -> bool:
    """Return whether there is no such process any more."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False
