"""Starts the simulator in a process of its own, and reads what it wrote down.

The child's stdin is a pipe whose other end only this process holds.  When this process ends, in
whatever way, the kernel closes it, and the child reads end-of-file and ends too.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from outlast.errors import UsageError
from outlast.testing.simulator.state import BATCHES, BILL, LOG, REQUESTS, read_lines

if TYPE_CHECKING:
    from outlast.testing.simulator.placement import Judged

READY_S: Final = 30.0
"""How long a simulator may take to say that it is ready."""

STOP_S: Final = 5.0
"""How long it may take to end before it is killed."""

_running: Final[weakref.WeakSet[subprocess.Popen[bytes]]] = weakref.WeakSet()


def _let_go() -> None:
    # A forked child has a copy of every pipe; while it lives, the simulators would live on.
    for process in _running:
        if process.stdin:
            process.stdin.close()


os.register_at_fork(after_in_child=_let_go)


class Simulator:
    """A simulator that runs.  `start` makes one.

    Attributes:
        url: the base URL for a client.
        pid: its process.
        state: the directory it writes to.

    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        url: str,
        state: Path,
    ) -> None:
        self.url = url
        self.pid = process.pid
        self.state = state
        self._process = process

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.url.rpartition(":")[2])

    def bill(self) -> list[dict[str, Any]]:
        """Return the lines of its bill, oldest first; see `state.BillLine`."""
        return read_lines(self.state / BILL)

    @property
    def billed_nano(self) -> int:
        """The sum of its bill, in nano-dollars."""
        return sum(line["nano_usd"] for line in self.bill())

    def batches(self) -> list[dict[str, Any]]:
        """Return the batches it accepted, oldest first; see `state.BatchLine`."""
        return read_lines(self.state / BATCHES)

    def requests(self) -> list[dict[str, Any]]:
        """Return the requests it got, oldest first; see `state.Line`."""
        return read_lines(self.state / REQUESTS)

    def judged(self, *, ttl: str | None = None) -> Judged:
        """Return its bill, beside what the best breakpoints or none would have made of it.

        Args:
            ttl: `5m` or `1h` to compare with breakpoints of that kind only.

        Raises:
            ValueError: there are too many ways to set breakpoints; see `placement.cheapest`.

        """
        from outlast.testing.simulator.placement import judge  # noqa: PLC0415  (few ask)

        return judge(self.requests(), self.bill(), ttl=ttl)

    def stop(self) -> None:
        """End it; what it wrote down can still be read.  Stopping twice is fine."""
        stdin = self._process.stdin
        if stdin:
            stdin.close()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def start(  # noqa: PLR0913  (the options of the simulator)
    script: str | None = None,
    *,
    state: Path | str | None = None,
    port: int = 0,
    faults: str | None = None,
    batch_faults: str | None = None,
    path: Iterable[Path | str] = (),
    check_history: bool = True,
    later_s: float = 0.0,
    rpm: int | None = None,
    itpm: int | None = None,
    otpm: int | None = None,
) -> Simulator:
    """Start a simulator that ends with this process, and return it when it takes requests.

    Args:
        script: `module:attribute`, `FILE.py` or `FILE.yaml`; by default Claude says what it heard.
        state: where requests and the bill are written; given again, a new simulator goes on
            counting where the last one stopped.  By default a directory that is removed.
        port: 0 takes a free one.
        faults: `module:attribute` of a rule that makes attempts fail.
        batch_faults: likewise, of one that makes the sending of batches fail.
        path: directories in which modules are looked for, too.
        check_history: refuse an assistant message that Claude did not say.
        later_s: how many seconds the simulator's clock is ahead, to see what a pause would do.
        rpm: how many requests a minute each API key has, for each line of models.
        itpm: how many input tokens; what is read from the prompt cache does not count.
        otpm: how many output tokens.

    Raises:
        UsageError: it did not start, and what it said about it.

    """
    directory = Path(state or tempfile.mkdtemp(prefix="outlast-simulator-"))
    directory.mkdir(parents=True, exist_ok=True)
    command = _command(
        directory,
        port,
        path,
        script=script,
        faults=faults,
        batch_faults=batch_faults,
        later=later_s or None,
        rpm=rpm,
        itpm=itpm,
        otpm=otpm,
    )
    command += [] if check_history else ["--any-history"]
    with (directory / LOG).open("ab") as log:
        process = subprocess.Popen(  # noqa: S603  (our own module)
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=os.environ | {"PYTHONPATH": _python_path()},
            # Ctrl-C is for the program; its Claude must not be gone before it has finished.
            start_new_session=True,
        )
    _running.add(process)
    simulator = Simulator(process, _ready_line(process), directory)
    if state is None:
        # Not at stop: the bill is read after it.
        weakref.finalize(simulator, shutil.rmtree, directory, ignore_errors=True)
    if not simulator.url:
        simulator.stop()
        why = (directory / LOG).read_text(errors="replace").strip()[-2000:]
        raise UsageError(f"the simulator did not start: {why or 'it said nothing in time'}")
    return simulator


def _command(
    state: Path, port: int, path: Iterable[Path | str], **options: str | float | None
) -> list[str]:
    command = [sys.executable, "-m", "outlast.testing.simulator", "--parent-pipe"]
    command += ["--state", str(state), "--port", str(port)]
    for name, value in options.items():
        command += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
    for directory in path:
        command += ["--path", str(directory)]
    return command


def _python_path() -> str:
    # This very outlast, also when it was found through a sys.path that no child inherits.
    ours = str(Path(__file__).resolve().parents[3])
    return os.pathsep.join([ours, *filter(None, [os.environ.get("PYTHONPATH")])])


def _ready_line(process: subprocess.Popen[bytes]) -> str:
    """Return the line that says where it listens, empty when none comes in time."""
    assert process.stdout  # noqa: S101  (asked for by `start`)
    give_up = time.monotonic() + READY_S
    line = b""
    with process.stdout as out:
        while not line.endswith(b"\n") and (left := give_up - time.monotonic()) > 0:
            if select.select([out], [], [], left)[0]:
                more = os.read(out.fileno(), 4096)
                if not more:
                    return ""
                line += more
    return line.decode().strip()
