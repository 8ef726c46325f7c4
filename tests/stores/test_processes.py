"""Several processes share one file, and each may die at any moment."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from outlast.errors import Busy, StoreError
from outlast.journal import Lease
from outlast.stores import open_store as open_synced
from outlast.stores.sqlite import SqliteJournal
from outlast.testing.commits import begin, driven, note
from outlast.testing.journal_contract import check_chain

SCRIPT = Path(__file__).with_name("process.py")


def open_store(url):
    """Open a store without syncs; only power cuts could tell."""
    return open_synced(url, synchronous="OFF")


class Process:
    """A process of `process.py`, ended with the test."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid

    def says(self):
        return self.process.stdout.readline().strip()

    def go_on(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self):
        self.process.kill()
        self.process.wait(30)

    def rest(self):
        return self.process.communicate(timeout=60)[0].split("\n")


@pytest.fixture
def start():
    """Start processes, and end those that are left."""
    started = []

    def start(*arguments):
        started.append(Process(*arguments))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.process.stdout.close()
        process.process.stdin.close()


@pytest.fixture
def store(tmp_path):
    """Give the url of a store that does not exist yet."""
    return f"sqlite:///{tmp_path / 'journal.db'}"


def together(processes):
    """Let all go at once, when all are ready, and wait until all are done."""
    assert [process.says() for process in processes] == ["ready"] * len(processes)
    for process in processes:
        process.go_on()
    assert [process.says() for process in processes] == ["done"] * len(processes)


@pytest.mark.parametrize("how", ["append", "aappend"])
def test_processes_lose_nothing(start, store, how):
    """Appends of four processes, to runs of their own and to a shared one, are all there, once."""
    journal = open_store(store)
    begin(journal, "shared")
    count = 60 if how == "append" else 12
    together([start(how, store, f"p{n}", count) for n in range(4)])
    records = journal.read_all(limit=10_000)
    assert [record.position for record in records] == list(range(1, len(records) + 1))
    streams = Counter(record.stream for record in records)
    shared = streams.pop("run:shared")
    assert shared == 1 + 4 * count * (1 if how == "append" else 5)
    assert set(streams.values()) == {count + 1}
    for stream in ["run:shared", *streams]:
        check_chain(journal.proofs(stream))
    journal.close()


def test_no_process_is_starved(start, store):
    """When the first of four processes is done, each of the others has had its share too."""
    journal = open_store(store)
    begin(journal, "shared")
    count = 50
    together([start("append_synced", store, f"p{n}", count) for n in range(4)])
    done = Counter()
    for record in journal.read_all(limit=10_000):
        if record.epoch:
            done[record.stream] += 1
            if done[record.stream] == count:
                break
    journal.close()
    assert len(done) == 4
    assert min(done.values()) > count // 5, done


def test_a_new_store_may_be_opened_by_several(start, store):
    """Whoever comes first makes the store, the others find it whole."""
    together([start("create", store, f"p{n}") for n in range(4)])
    for number in range(20):
        journal = open_store(f"{store}-{number}")
        assert sorted(run.id for run in journal.runs()) == [f"p{n}" for n in range(4)]
        journal.close()


def test_what_a_living_process_drives_is_busy(start, store):
    """The message names the process; once it is killed, the run is free at once."""
    journal = open_store(store)
    stream = begin(journal, "a")
    driver = start("drive", store, "a")
    assert driver.says() == "claimed 1"
    with pytest.raises(Busy, match=f"process {driver.pid} on this machine"):
        journal.claim(stream)
    driver.kill()
    assert journal.claim(stream) == 2
    journal.close()


def test_a_frozen_driver_is_taken_over_by_force(start, store):
    """It lets go at its next append, whenever it wakes."""
    journal = open_store(store)
    stream = begin(journal, "a")
    driver = start("drive", store, "a")
    assert driver.says() == "claimed 1"
    driver.go_on()
    assert driver.says() == "appended"
    os.kill(driver.pid, signal.SIGSTOP)
    epoch = journal.claim(stream, force=True)
    journal.append(driven(stream, epoch, 3))
    driver.go_on()
    os.kill(driver.pid, signal.SIGCONT)
    assert driver.says() == "Fenced"
    assert [record.epoch for record in journal.read(stream)] == [0, 1, 2]
    journal.close()


def test_another_journal_of_the_same_process_is_another_driver(store):
    """Locks of the operating system belong to a process, so it tells its own apart in memory."""
    one, two = open_store(store), open_store(store)
    stream = begin(one, "a")
    epoch = one.claim(stream)
    with pytest.raises(Busy, match=str(os.getpid())):
        two.claim(stream)
    two.release(stream)
    with pytest.raises(Busy):
        two.claim(stream)
    two.append(note(stream))
    one.append(driven(stream, epoch, 3))
    one.close()
    assert two.claim(stream) == epoch + 1
    two.close()


def test_closing_one_journal_keeps_the_locks_of_another(start, store):
    """Closing a file drops every lock the process has on it, so the file stays open."""
    one, two = open_store(store), open_store(store)
    stream = begin(one, "a")
    one.claim(stream)
    two.close()
    driver = start("drive", store, "a")
    assert driver.says() == ""
    one.close()
    driver = start("drive", store, "a")
    assert driver.says() == "claimed 2"


def patiently(holds):
    """Wait for what the system does with a process that was killed, which takes it a moment."""
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_killed_driver_holds_nothing(start, store):
    """It is told at once, though nobody has waited for its process; a frozen one holds its run."""
    journal = open_store(store)
    streams = [begin(journal, name) for name in ("a", "b", "c")]
    driver, other = start("drive", store, "a"), start("drive", store, "c")
    assert driver.says() == other.says() == "claimed 1"
    assert journal.unheld(streams) == ["run:b"]
    os.kill(driver.pid, signal.SIGSTOP)
    assert journal.unheld(streams) == ["run:b"]
    os.kill(driver.pid, signal.SIGKILL)
    patiently(lambda: journal.unheld(streams) == ["run:a", "run:b"])
    os.kill(driver.pid, 0)  # it is still there, as a zombie: nobody has waited for it
    if Path("/proc/self/stat").exists():
        assert journal.abandoned("run:a"), "a zombie drives nothing"
    assert journal.claim("run:a") == 2
    assert journal.unheld(streams) == ["run:b"]
    journal.close()


def test_to_look_who_holds_a_run_lets_go_of_none(start, store):
    """Locks of the operating system end with any close or unlock; a look does neither."""
    journal, other = open_store(store), open_store(store)
    stream = begin(journal, "a")
    journal.claim(stream)
    for _ in range(3):
        assert journal.unheld([stream]) == other.unheld([stream]) == []
    other.close()
    assert start("drive", store, "a").says() == "", "it could claim the run"
    journal.close()


def test_to_look_who_holds_a_run_turns_nobody_away(start, store):
    """Whoever claims a run at the same moment gets it."""
    journal = open_store(store)
    stream = begin(journal, "a")
    process = start("claim_often", store, "a", 1000)
    assert process.says() == "ready"
    process.go_on()
    held = 0
    while journal.run("a").fence < 1000 and process.process.poll() is None:
        for _ in range(50):
            held += not journal.unheld([stream])
    assert process.says() == "refused 0"
    assert held, "it was never looked at while it was claimed"
    journal.close()


def test_who_took_a_run_by_force_holds_it_once_the_other_is_dead(start, store):
    """Its lock was the frozen driver's; what is left of that by SIGKILL goes to nobody else."""
    journal = open_store(store)
    stream = begin(journal, "a")
    frozen = start("drive", store, "a")
    assert frozen.says() == "claimed 1"
    os.kill(frozen.pid, signal.SIGSTOP)
    taker = start("take_over", store, "a")
    assert taker.says() == "claimed"
    os.kill(frozen.pid, signal.SIGKILL)
    patiently(lambda: journal.unheld([stream]) == [stream])
    taker.go_on()
    assert taker.says() == "held"
    assert journal.unheld([stream]) == []
    with pytest.raises(Busy):
        journal.claim(stream)
    taker.kill()
    assert journal.unheld([stream]) == [stream]
    journal.close()


def test_of_many_streams_those_that_are_held(start, store):
    """Whatever is asked for together, and however the held ones lie among each other."""
    journal = open_store(store)
    names = [f"r{number}" for number in range(24)]
    streams = {name: begin(journal, name) for name in names}
    held = [names[3:6], [names[6], names[9]], [names[0], names[20], names[23]]]
    for taken in held:
        assert start("hold", store, *taken).says() == "claimed"
    journal.claim(streams["r12"])
    taken = {"r12", *(name for group in held for name in group)}
    for asked in (names, names[::-1], names[1::2], names[4:7], names[1:3], *([n] for n in names)):
        free = [streams[name] for name in asked if name not in taken]
        assert journal.unheld([streams[name] for name in asked]) == free
    journal.close()


def test_workers_see_each_other_s_leases(start, store):
    """What one process beats, another reads, and may take."""
    one, two = open_store(store), open_store(store)
    stream = begin(one, "a")
    one.claim(stream, worker="one")
    for beats in (2, 3):
        one.beat("one", [stream])
        assert two.leases() == [Lease(stream, "one", beats)]
    two.claim(stream, force=True, worker="two")
    assert one.leases() == [Lease(stream, "two", 4)]
    one.close()
    two.close()


def test_an_acknowledged_append_survives_a_kill(start, store):
    """Whatever a process said it had appended is there after SIGKILL."""
    journal = open_store(store)
    begin(journal, "a")
    for _ in range(3):
        process = start("acknowledge", store, "a")
        for _ in range(15):
            acknowledged = int(process.says())
        process.process.send_signal(signal.SIGKILL)
        said = [line for line in process.rest() if line]
        acknowledged = max([acknowledged, *map(int, said[:-1])])
        assert check_chain(journal.proofs("run:a")) >= acknowledged
    journal.close()


def test_a_process_that_never_finishes_writing(start, tmp_path, store):
    """Waiting for it ends with an error that says so, and nothing is wedged."""
    journal = SqliteJournal(tmp_path / "journal.db", busy_timeout_s=0.3)
    stream = begin(journal, "a")
    hog = start("hog", store)
    assert hog.says() == "writing"
    with pytest.raises(StoreError, match="has been writing for"):
        journal.append(note(stream))
    assert len(journal.read(stream)) == 1
    hog.go_on()
    assert hog.says() == "over"
    journal.append(note(stream))
    journal.close()


def test_a_forked_process_is_told_to_open_the_store_itself(start, store):
    """A copy of the parent's store would break its locks; one opened after the fork works."""
    process = start("fork", store, "a")
    used, read, opened, parent, fresh = process.rest()[:5]
    for said in (used, read):
        assert said.startswith("StoreError")
        assert "open the store after the fork" in said
    assert "was open when this process was forked" in opened
    assert parent == fresh == "it worked"
