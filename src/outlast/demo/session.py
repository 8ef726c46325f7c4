"""A session of the demo: the simulator started, the flow driven, and what a journal saved.

The simulator is another process, so its faults and its bill survive a kill of the demo; what it
writes down stands in a folder beside the store, `outlast.db-demo`, one for each run, and so does
the proposal.
"""

from __future__ import annotations

import asyncio
import fcntl
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from outlast.app import Outlast
from outlast.errors import Busy, RunEnded, UsageError
from outlast.events import (
    ModelCallInDoubt,
    ModelCallSucceeded,
    RunFinished,
    RunParked,
    RunStarted,
)
from outlast.journal import Journal, Record, run_stream
from outlast.run import Run
from outlast.runner import Watch
from outlast.state import FINAL
from outlast.testing import simulator
from outlast.testing.simulator.state import LOCK

RUN_ID: Final = "demo"
_TAG: Final = "demo"
_SIMULATED: Final = "simulated"
_REAL: Final = "real"


def next_id(journal: Journal) -> str:
    """Return the id that `--again` plays: `demo-2`, `demo-3`, …; one that has not ended goes on."""
    number, last = 1, None
    while (row := journal.run(_numbered(number))) is not None:
        number, last = number + 1, row
    unfinished = last is not None and last.id != RUN_ID and last.status in ("queued", "running")
    return _numbered(number - 1 if unfinished else number)


def is_simulated(started: RunStarted) -> bool:
    """Return whether a run is one of the demo's, and its Claude the simulator."""
    return started.tags.get(_TAG) == _SIMULATED


def begin(journal: Journal, run_id: str, *, live: bool) -> None:
    """Write the run into the journal, unless it is there.

    Raises:
        UsageError: it is there, and is not the demo's, or its Claude is another one.

    """
    wanted = _REAL if live else _SIMULATED
    if journal.run(run_id) is None:
        from outlast.demo.agent import QUESTION, proposal  # noqa: PLC0415  (slow: pydantic)

        Outlast(journal).start(proposal, QUESTION, run_id=run_id, tags={_TAG: wanted})
        return
    began = _started(journal, run_id).tags.get(_TAG)
    if began is None:
        raise UsageError(
            f"run {run_id!r} in {journal.url} is not the demo's; give the demo another --store"
        )
    if began != wanted and (live or not _is_final(journal, run_id)):
        raise UsageError(
            f"run {run_id!r} keeps the Claude it began with, the {began} one: "
            f"`{command(run_id, live=began == _REAL)}` goes on with it, and "
            f"`outlast demo --again{' --live' if live else ''}` begins another"
        )


def command(run_id: str, *, live: bool) -> str:
    """Return what to type to go on with this run of the demo."""
    return f"outlast demo{'' if run_id == RUN_ID else ' --again'}{' --live' if live else ''}"


def drive(  # noqa: PLR0913  (the options of a drive)
    journal: Journal, run_id: str, *, pace: float, live: bool, wait_s: float, watch: Watch
) -> Run:
    """Drive a run that has begun, to rest, and return it; one that has ended is only looked at.

    Args:
        journal: the store.
        run_id: the run.
        pace: 1 takes about 16 seconds, 0 takes none.
        live: ask the real Claude, as the SDK finds it.
        wait_s: how long to wait for another process that drives the run.
        watch: who is told what happens.

    Raises:
        Busy: another process plays this run, and did not end in time.
        UsageError: the simulator did not start.

    """
    if _is_final(journal, run_id):
        return Outlast(journal).get(run_id)
    if live:
        _import_anthropic()
        with _folder(journal, run_id, wait_s) as folder:
            return asyncio.run(_resumed(Outlast(journal, deps=folder), run_id, wait_s, watch))
    with (
        _folder(journal, run_id, wait_s) as folder,
        _simulated(folder, pace=pace) as claude,
    ):
        return asyncio.run(_asking(claude, folder, journal, run_id, wait_s, watch))


async def _asking(  # noqa: PLR0913, PLR0917  (whom, where, and who watches)
    claude: simulator.Simulator,
    folder: Path,
    journal: Journal,
    run_id: str,
    wait_s: float,
    watch: Watch,
) -> Run:
    import anthropic  # noqa: PLC0415  (over a second)

    # A proxy that the environment names would not find this machine's simulator.
    direct = anthropic.DefaultAsyncHttpxClient(trust_env=False)
    async with anthropic.AsyncAnthropic(
        base_url=claude.url, api_key="simulated", http_client=direct
    ) as client:
        app = Outlast(journal, client=client, deps=folder)
        return await _resumed(app, run_id, wait_s, watch)


async def _resumed(app: Outlast, run_id: str, wait_s: float, watch: Watch) -> Run:
    from outlast.demo.agent import proposal  # noqa: PLC0415  (slow: pydantic)

    try:
        return await app.aresume(
            run_id, proposal, wait_s=wait_s, on_record=watch.on_record, on_part=watch.on_part
        )
    except RunEnded:
        return app.get(run_id)  # another process was faster


# ── what a journal saved ───────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What did not have to be done again, because it was in the journal.

    Attributes:
        drivers: how often another process took the run over.
        turns: replies that were there each time, added up: starting over repeats them.
        nano: what they had cost, in nano-dollars.
        doubts: replies that were cut off by an interruption.
        doubts_nano: what those are counted at; it is at least what was billed for them.

    """

    drivers: int = 0
    turns: int = 0
    nano: int = 0
    doubts: int = 0
    doubts_nano: int = 0


def saved(records: Iterable[Record]) -> Saved:
    """Return what the journal of a run saved, compared with starting over at each interruption."""
    drivers = turns = nano = doubts = doubts_nano = 0
    epoch = replies = settled = 0
    rests = False
    for record in records:
        if epoch and record.epoch > epoch and not rests:  # who goes on after a park takes over none
            drivers, turns, nano = drivers + 1, turns + replies, nano + settled
        if record.epoch:
            epoch, rests = record.epoch, isinstance(record.event, RunParked | RunFinished)
        if isinstance(record.event, ModelCallSucceeded):
            replies, settled = replies + 1, settled + record.event.cost_nano
        elif isinstance(record.event, ModelCallInDoubt) and record.event.kind == "crash":
            doubts, doubts_nano = doubts + 1, doubts_nano + record.event.cost_nano
    return Saved(drivers=drivers, turns=turns, nano=nano, doubts=doubts, doubts_nano=doubts_nano)


# ── the simulator ──────────────────────────────────────────────────────────────────────────────


@contextmanager
def _simulated(folder: Path, *, pace: float) -> Iterator[simulator.Simulator]:
    """Start the simulator for a run, and import what asks it in the meantime."""
    # The SDK takes a second and more to import, and so does the simulator to start.
    early = threading.Thread(target=_import_anthropic, daemon=True)
    early.start()
    script = "outlast.demo.script:paced" if pace else "outlast.demo.script:fast"
    with simulator.start(script, state=folder) as claude:
        early.join()
        yield claude


def _import_anthropic() -> None:
    import anthropic  # noqa: F401, PLC0415  (for later)


@contextmanager
def _folder(journal: Journal, run_id: str, wait_s: float) -> Iterator[Path]:
    """Lend the folder of a run, where its simulator and its proposal are.

    Raises:
        Busy: another simulator has it, so another process plays this run.

    """
    path = _path(journal)
    if path is None:
        with tempfile.TemporaryDirectory(prefix="outlast-demo-") as name:
            yield Path(name)
        return
    # By the run's own random number: a new store in the same place begins with new faults.
    folder = path / f"{run_id}-{_started(journal, run_id).nonce[:8]}"
    for made in (path, folder):
        made.mkdir(mode=0o700, exist_ok=True)
    give_up = time.monotonic() + wait_s
    while _in_use(folder / LOCK):
        if time.monotonic() >= give_up:
            raise Busy(run_stream(run_id), holder="another `outlast demo`")
        time.sleep(0.05)
    yield folder


def _path(journal: Journal) -> Path | None:
    scheme, separator, path = journal.url.partition(":///")
    return Path(f"{path}-demo") if scheme == "sqlite" and separator else None


def _in_use(lock: Path) -> bool:
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


# ── inside ─────────────────────────────────────────────────────────────────────────────────────


def _numbered(number: int) -> str:
    return RUN_ID if number == 1 else f"{RUN_ID}-{number}"


def _started(journal: Journal, run_id: str) -> RunStarted:
    (record,) = journal.read(run_stream(run_id), limit=1)
    assert isinstance(record.event, RunStarted), "a run without its first event"  # noqa: S101
    return record.event


def _is_final(journal: Journal, run_id: str) -> bool:
    row = journal.run(run_id)
    return row is not None and (row.status == "completed" or row.status in FINAL)
