"""Holding and settling: what a budget adds to an append, how many pairs go by, and the month view.

A pair is what a call of the model writes: its intent, which holds its worst case, and its outcome,
which settles that.
"""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import recording
import work
from msgspec import Raw

from outlast.budget import HOUR_NS
from outlast.events import ModelCallInDoubt, ModelCallStarted, ModelCallSucceeded
from outlast.journal import Commit, Hold, Journal, Posting, RunRow, Settlement, run_stream
from outlast.starting import begin
from outlast.stores.sqlite import SqliteJournal
from outlast.views.costs import costs

SCOPES = ("fleet", "tenant:acme", "agent:bench", "model:claude-opus-5-5")
HELD, PAID, LIMIT = 100_000_000, 12_345_678, 10**15
WARM = 100
AT = 1_790_000_000 * 10**9
_USAGE = Raw(work.usage(0))
_CONTENT = Raw(work.content(1))


@dataclass
class Pairs:
    """What a run writes, pair by pair."""

    run_id: str
    epoch: int
    scopes: tuple[str, ...] = SCOPES
    seq: int = 4

    def next(self, number: int) -> tuple[Commit, Commit]:
        """Return the commits of the next pair."""
        call_id = f"ask-1.m{number}"
        held = [
            Hold(call_id=f"{self.run_id}/{call_id}", scope=scope, needed=HELD, limit=LIMIT)
            for scope in self.scopes
        ]
        paid = [Settlement(call_id=f"{self.run_id}/{call_id}", amount=PAID)] if held else []
        intent = ModelCallStarted(
            ask_id="ask-1",
            call_id=call_id,
            max_tokens=8192,
            request_hash="0" * 64,
            hold_nano=HELD,
            hold_tokens=20_000,
        )
        outcome = ModelCallSucceeded(
            ask_id="ask-1",
            call_id=call_id,
            content=_CONTENT,
            stop_reason="tool_use",
            usage=_USAGE,
            cost_nano=PAID,
            tokens=1_217,
        )
        return (
            self._commit(intent, holds=held),
            self._commit(outcome, settlements=paid, postings=[_line(AT)]),
        )

    def _commit(self, event: Any, **more: Any) -> Commit:
        expected, self.seq = self.seq, self.seq + 1
        row = RunRow(
            id=self.run_id,
            agent="bench",
            status="running",
            turns=expected,
            created_at=AT,
            updated_at=AT,
        )
        return Commit(
            stream=run_stream(self.run_id),
            events=(event,),
            at=AT,
            expected_seq=expected,
            epoch=self.epoch,
            row=row,
            **more,
        )


def _line(at: int) -> Posting:
    return Posting(
        hour=at - at % HOUR_NS,
        agent="bench",
        tenant="acme",
        model=work.MODEL,
        calls=1,
        input_tokens=412,
        cache_write_tokens=618,
        output_tokens=187,
        settled_nano=PAID,
    )


def _begun(journal: Journal, run_id: str, scopes: tuple[str, ...] = SCOPES) -> Pairs:
    begin(journal, run_id, work.agent(), work.ASKED, tenant="acme")
    return Pairs(run_id, journal.claim(run_stream(run_id)), scopes)


def appends(store: Path, pairs: int, scopes: int, synchronous: str) -> dict[str, float]:
    """Append pairs one by one, and return what one took."""
    journal = SqliteJournal(store, synchronous=synchronous)  # type: ignore[arg-type]
    run = _begun(journal, "run-0", SCOPES[:scopes])
    commits = [commit for number in range(WARM + pairs) for commit in run.next(number)]
    for commit in commits[: 2 * WARM]:
        journal.append(commit)
    gc.freeze()
    cpu, wall = time.process_time_ns(), time.perf_counter_ns()
    for commit in commits[2 * WARM :]:
        journal.append(commit)
    cpu, wall = time.process_time_ns() - cpu, time.perf_counter_ns() - wall
    journal.close()
    return {"cpu_us": cpu / pairs / 1e3, "wall_us": wall / pairs / 1e3}


def record(folder: Path, pairs: int) -> None:
    """Record what pairs write, one commit after the other."""
    recorder = recording.Recorder()
    journal = SqliteJournal(folder / "recorded-pairs.db", synchronous="OFF")
    run = _begun(journal, "run-0")
    recorder.transactions.clear()
    for number in range(pairs):
        for commit in run.next(number):
            journal.append(commit)
    recorder.save(folder / "pairs.pickle")
    journal.close()


def together(store: Path, runs: int, pairs: int) -> dict[str, float]:
    """Write the pairs of many runs at once, with every fsync, and return how many a second."""

    async def drive(run: Pairs) -> None:
        for number in range(pairs):
            for commit in run.next(number):
                await journal.aappend(commit)

    async def drive_all() -> int:
        everyone = [_begun(journal, f"run-{number}") for number in range(runs)]
        gc.freeze()
        began = time.perf_counter_ns()
        await asyncio.gather(*map(drive, everyone))
        return time.perf_counter_ns() - began

    journal = SqliteJournal(store, synchronous="FULL")
    wall = asyncio.run(drive_all())
    balance = journal.balance("fleet")
    assert (balance.held, balance.settled) == (0, runs * pairs * PAID), balance
    journal.close()
    return {"pairs_per_s": runs * pairs / wall * 1e9}


def raw(folder: Path, store: Path) -> dict[str, float]:
    """Replay recorded pairs, a transaction for each commit, with every fsync."""
    transactions, _ = recording.load(folder / "pairs.pickle")
    replay = recording.Replay(store, "FULL")
    # The first transactions are those of claiming, and the last pairs as good as any.
    gc.freeze()
    _cpu, wall = replay.play(transactions[-2 * (len(transactions) // 2) :])
    return {"pairs_per_s": len(transactions) // 2 / wall * 1e9}


# ── several processes ───────────────────────────────────────────────────────────────────────────


def beside(store: Path, processes: int, pairs: int, per_s: float) -> dict[str, float]:
    """Let processes write pairs at a pace, and return how long a pair took: median and 99th."""
    SqliteJournal(store).close()
    here = str(Path(__file__).resolve())
    command = [sys.executable, here, str(store), str(pairs), str(per_s / processes)]
    begun = [
        subprocess.Popen([*command, str(number)], stdout=subprocess.PIPE, text=True)
        for number in range(processes)
    ]
    took = sorted(ms for process in begun for ms in json.loads(process.communicate()[0]))
    return {"p50_ms": took[len(took) // 2], "p99_ms": took[len(took) * 99 // 100]}


def _paced(store: Path, pairs: int, per_s: float, number: int) -> list[float]:
    journal = SqliteJournal(store, synchronous="FULL")
    run = _begun(journal, f"run-{number}")
    took, due = [], time.perf_counter()
    for pair in range(pairs):
        due += 1 / per_s
        time.sleep(max(0.0, due - time.perf_counter()))
        began = time.perf_counter()
        for commit in run.next(pair):
            journal.append(commit)
        took.append((time.perf_counter() - began) * 1e3)
    journal.close()
    return took


# ── the month ───────────────────────────────────────────────────────────────────────────────────


def month(store: Path, events: int) -> dict[str, float]:
    """Return what the month view takes from the roll-up, and from the events themselves."""
    journal = SqliteJournal(store, synchronous="OFF")
    for commit in _year(journal, events):
        journal.append(commit)
    began = time.perf_counter_ns()
    found = costs(journal.rollup(), "month")
    rolled = time.perf_counter_ns() - began
    began = time.perf_counter_ns()
    spent = _added_up(journal)
    added = time.perf_counter_ns() - began
    assert {line.name: line.nano for line in found} == spent
    journal.close()
    return {"rollup_ms": rolled / 1e6, "raw_ms": added / 1e6}


def _year(journal: Journal, events: int) -> Iterator[Commit]:
    """Yield commits of many calls each, spread over a year."""
    each = 200
    run = _begun(journal, "run-0", ())
    for number in range(events // (2 * each)):
        at = AT + number * 365 * 24 * HOUR_NS // (events // (2 * each))
        intent, outcome = run.next(number)
        run.seq += 2 * each - 2
        yield Commit(
            stream=intent.stream,
            events=[*intent.events, *outcome.events] * each,
            at=at,
            expected_seq=intent.expected_seq,
            epoch=run.epoch,
            row=outcome.row,
            postings=[_line(at)] * each,
        )


def _added_up(journal: Journal) -> dict[str, int]:
    spent: dict[str, int] = {}
    position = 0
    while records := journal.read_all(after=position, limit=10_000):
        position = records[-1].position
        for record in records:
            if isinstance(record.event, ModelCallSucceeded | ModelCallInDoubt):
                at = time.gmtime(record.at // 10**9)
                name = f"{at.tm_year}-{at.tm_mon:02}"
                spent[name] = spent.get(name, 0) + record.event.cost_nano
    return spent


if __name__ == "__main__":
    print(
        json.dumps(
            _paced(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
        )
    )
