"""What only a store in a file can get wrong."""

import asyncio
import os
import shutil
import sqlite3
import stat
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import apsw
import pytest

from outlast.errors import Busy, JournalDamaged, NotAStore, StoreError, StoreFull
from outlast.journal import Lease
from outlast.stores import _connect, _writer, open_store, sqlite
from outlast.stores._connect import PAGE_SIZE
from outlast.stores._queries import queries
from outlast.stores.memory import MemoryJournal
from outlast.stores.sqlite import SqliteJournal
from outlast.testing.commits import begin, driven, note, row
from outlast.testing.journal_contract import check_chain

NOBODY = 65534


@pytest.fixture
def path(tmp_path):
    """Give the path of a store that does not exist yet."""
    return tmp_path / "journal.db"


@contextmanager
def as_nobody():
    """Do without the rights of root, which may write everywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def files(folder):
    return {entry.name: entry.read_bytes() for entry in folder.iterdir()}


# ── opening ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("memory://", MemoryJournal),
        ("sqlite:///relative.db", SqliteJournal),
        ("sqlite:///{folder}/absolute.db", SqliteJournal),
        ("sqlite:///with space & 100%.db", SqliteJournal),
    ],
    ids=["memory", "relative", "absolute", "odd name"],
)
def test_a_url_names_a_store(tmp_path, monkeypatch, url, kind):
    """The kinds of stores there are, and the url is the one that was given."""
    monkeypatch.chdir(tmp_path)
    url = url.format(folder=tmp_path)
    journal = open_store(url)
    assert isinstance(journal, kind)
    assert journal.url == url
    if kind is SqliteJournal:
        assert (tmp_path / url.rpartition("/")[2]).stat().st_size > 0
    journal.close()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://x", "known are sqlite:///relative.db, sqlite:////absolute.db and memory://"),
        ("postgresql://host/db", "PostgreSQL is not in this version of outlast; known are"),
        ("agents.db", "known are"),
        ("sqlite://agents.db", "known are"),
        ("sqlite:///", "known are"),
        ("sqlite:///:memory:", "known are"),
        ("memory://x", "known are"),
        ("", "known are"),
    ],
)
def test_an_unknown_url_says_what_is_known(tmp_path, monkeypatch, url, says):
    """Nothing is opened, and nothing made."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError) as caught:
        open_store(url)
    assert says in str(caught.value)
    assert repr(url) in str(caught.value)
    assert files(tmp_path) == {}


def test_only_the_owner_may_read(path):
    """Every file of a store has mode 0600 from the start, whatever the umask."""
    old = os.umask(0)
    try:
        journal = SqliteJournal(path)
        begin(journal, "a")
        modes = {e.name: stat.S_IMODE(e.stat().st_mode) for e in path.parent.iterdir()}
        journal.close()
    finally:
        os.umask(old)
    suffixes = ("", "-lock", "-shm", "-wal")
    assert modes == {f"journal.db{suffix}": 0o600 for suffix in suffixes}


def test_an_empty_file_becomes_a_store(path):
    """A file made beforehand is taken, and closed to others before anything is in it."""
    path.touch(0o644)
    journal = SqliteJournal(path)
    begin(journal, "a")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    journal.close()


def test_a_link_is_the_store_it_leads_to(tmp_path):
    """A symbolic link opens the file behind it, there or not, with that file's one lock file."""
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.db"
    link.symlink_to(tmp_path / "real" / "journal.db")
    one, two = SqliteJournal(link), SqliteJournal(tmp_path / "real" / "journal.db")
    stream = begin(one, "a")
    one.claim(stream)
    with pytest.raises(Busy):
        two.claim(stream)
    one.close()
    two.close()
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == ["link.db"]
    assert one.url == f"sqlite:///{link}"


def test_a_link_that_leads_nowhere_says_so(tmp_path):
    """A link to itself is refused with the system's reason."""
    link = tmp_path / "link.db"
    link.symlink_to(link)
    with pytest.raises(StoreError, match="symbolic links"):
        SqliteJournal(link)


def other_application(path):
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA journal_mode = WAL")
        other.execute("CREATE TABLE theirs (x)")
    other.close()


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_text("a list of things to do\n" * 40),
        lambda path: path.write_bytes(b"\0"),
        other_application,
    ],
    ids=["text", "one byte", "another SQLite file"],
)
def test_a_file_that_is_something_else_is_left_alone(path, make):
    """It is refused by name, not a byte of it changes, and nothing is put beside it."""
    make(path)
    before = files(path.parent)
    with pytest.raises(NotAStore, match="left alone") as caught:
        SqliteJournal(path)
    assert str(path) in str(caught.value)
    assert files(path.parent) == before


def test_a_newer_store_is_refused(path):
    """A schema this version does not know is not touched, and the message says what to do."""
    SqliteJournal(path).close()
    other = apsw.Connection(str(path))
    other.pragma("user_version", 99)
    other.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"schema 99.*upgrade outlast"):
        SqliteJournal(path)
    assert path.read_bytes() == before


def test_the_folder_must_exist(tmp_path):
    """The message names it."""
    with pytest.raises(StoreError, match="there is no folder") as caught:
        SqliteJournal(tmp_path / "missing" / "journal.db")
    assert str(tmp_path / "missing") in str(caught.value)


def test_a_folder_is_no_store(tmp_path):
    """The message says what the path is."""
    with pytest.raises(StoreError, match="is a folder") as caught:
        SqliteJournal(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_folder_that_cannot_be_written(tmp_path):
    """The message names the folder, because the store needs files beside it."""
    tmp_path.chmod(0o555)
    with as_nobody(), pytest.raises(StoreError, match="must be writable") as caught:
        SqliteJournal(tmp_path / "journal.db")
    assert str(tmp_path) in str(caught.value)
    tmp_path.chmod(0o755)


def test_a_file_that_cannot_be_written(path):
    """A store of somebody else is refused when it is opened, not at the first append."""
    SqliteJournal(path).close()
    path.chmod(0o444)
    path.parent.chmod(0o777)
    path.with_name("journal.db-lock").unlink()
    with as_nobody(), pytest.raises(StoreError, match="give another --store") as caught:
        SqliteJournal(path)
    assert str(path) in str(caught.value)


def test_a_store_can_be_opened_after_a_failure(path, monkeypatch):
    """An open that failed holds nothing back."""
    monkeypatch.setattr(_connect, "migrations", lambda: ("CREATE TABLE broken (",))
    with pytest.raises(StoreError, match="SQLError: incomplete input"):
        SqliteJournal(path)
    monkeypatch.undo()
    journal = SqliteJournal(path)
    begin(journal, "a")
    journal.close()


def test_a_file_system_without_shared_memory(path):
    """A network file system cannot hold a write-ahead log, and the message says what can."""
    with pytest.raises(StoreError, match="put the store on a local disk"):
        SqliteJournal(path, vfs="unix-none")


def test_whoever_opens_a_store_waits_for_others_that_do(path):
    """Not for ever, and then the message says so."""
    journal = SqliteJournal(path)
    with (
        journal._locks.turn(time.monotonic() + 30),
        pytest.raises(StoreError, match="another process is opening it"),
    ):
        SqliteJournal(path, busy_timeout_s=0.1)
    SqliteJournal(path).close()
    journal.close()


# ── what goes wrong later ────────────────────────────────────────────────────────────────────────


def test_a_full_disk_loses_nothing(path):
    """The append that does not fit fails with `StoreFull`; once there is space, it goes on."""
    journal = SqliteJournal(path)
    stream = begin(journal, "a")
    epoch = journal.claim(stream)
    connection = journal._writer._connection
    connection.pragma("max_page_count", connection.pragma("page_count") + 5)
    large = note(stream, "x" * 50 * PAGE_SIZE)
    for _ in range(2):
        with pytest.raises(StoreFull, match="free some"):
            journal.append(large)
        with pytest.raises(StoreFull):
            journal.put_blob(b"x" * 50 * PAGE_SIZE)
    assert len(journal.read(stream)) == 1
    journal.append(driven(stream, epoch, 2, row=row("a", turns=1)))
    connection.pragma("max_page_count", 1_000_000)
    journal.append(large)
    assert check_chain(journal.proofs(stream)) == 3
    journal.close()


class FullDisk(apsw.VFS):
    """A disk that takes no more while `full` is set."""

    def __init__(self):
        self.full = False
        super().__init__("full-disk", "")

    def xOpen(self, name, flags):  # noqa: N802  (SQLite's name)
        return FullDiskFile(self, name, flags)


class FullDiskFile(apsw.VFSFile):
    """A file on it."""

    def __init__(self, disk, name, flags):
        self.disk = disk
        super().__init__("", name, flags)

    def xWrite(self, data, offset):  # noqa: N802  (SQLite's name)
        if self.disk.full:
            raise apsw.FullError
        super().xWrite(data, offset)


def test_a_disk_that_is_full_for_a_while(path):
    """Every append of a group says so, whoever waits for it; those after it are as before."""
    disk = FullDisk()
    journal = SqliteJournal(path, vfs="full-disk")
    stream = begin(journal, "a")

    async def together():
        given = [journal.aappend(note(stream)) for _ in range(5)]
        return await asyncio.gather(*given, return_exceptions=True)

    disk.full = True
    assert [type(outcome) for outcome in asyncio.run(together())] == [StoreFull] * 5
    disk.full = False
    assert [records[0].seq for records in asyncio.run(together())] == [2, 3, 4, 5, 6]
    assert check_chain(journal.proofs(stream)) == 6
    journal.close()
    disk.unregister()


def test_what_fails_alone_fails_one_append(path):
    """An append that does not fit spoils no other of its group."""
    journal = SqliteJournal(path)
    stream = begin(journal, "a")
    connection = journal._writer._connection
    connection.pragma("max_page_count", connection.pragma("page_count") + 20)
    texts = ["small", "x" * 100 * PAGE_SIZE, "small"]

    async def together():
        given = [journal.aappend(note(stream, text)) for text in texts]
        return await asyncio.gather(*given, return_exceptions=True)

    outcomes = asyncio.run(together())
    assert [type(outcome) for outcome in outcomes] == [tuple, StoreFull, tuple]
    assert check_chain(journal.proofs(stream)) == 3
    journal.close()


def test_a_damaged_file_is_told(path):
    """What SQLite cannot make sense of is a `StoreError` that says to restore a backup."""
    journal = SqliteJournal(path)
    stream = begin(journal, "a")
    for _ in range(50):
        journal.append(note(stream, "x" * 900))
    journal.close()
    content = bytearray(path.read_bytes())
    spared = len(content) // 2  # The schema lies before that.
    content[spared:] = b"\xff" * (len(content) - spared)
    path.write_bytes(content)
    journal = SqliteJournal(path)
    with pytest.raises(StoreError, match="backup"):
        journal.read(stream)
    with pytest.raises(StoreError, match="backup"):
        journal.append(note(stream))
    journal.close()


@pytest.mark.parametrize(
    ("error", "errno", "kind", "says"),
    [
        (apsw.IOError("disk I/O error"), 28, StoreFull, "no space"),
        (apsw.IOError("disk I/O error"), 5, StoreError, "unknown whether the last append is there"),
        (apsw.ReadOnlyError("readonly"), 0, StoreError, "must be writable"),
        (apsw.CantOpenError("unable to open"), 0, StoreError, "must be writable"),
        (apsw.NotADBError("not a database"), 0, StoreError, "restore it from a backup"),
        (apsw.BusyError("locked"), 0, StoreError, "locked by another program"),
        (apsw.TooBigError("too big"), 0, StoreError, "TooBigError: too big"),
    ],
)
def test_every_trouble_of_sqlite_says_what_to_do(path, error, errno, kind, says):
    """Whatever SQLite meets becomes a `StoreError` that names the file."""
    told = _connect.failed(error, path, system_errno=errno)
    assert type(told) is kind
    assert says in str(told)
    assert str(path) in str(told)


@pytest.mark.parametrize(
    ("replace", "says"),
    [
        (lambda path: path.unlink(), "was deleted while it was open"),
        (lambda path: path.rename(path.with_name("old.db")), "was deleted while it was open"),
        (lambda path: shutil.rmtree(path.parent), "was deleted while it was open"),
        (
            lambda path: shutil.copy(path, path.with_name("new.db")).replace(path),
            "was replaced by another file",
        ),
    ],
    ids=["deleted", "moved", "with its folder", "replaced"],
)
def test_nothing_is_appended_to_a_file_that_lost_its_name(tmp_path, monkeypatch, replace, says):
    """An append that nobody could find again is refused, each time, and says what to do."""
    monkeypatch.setattr(_writer, "_LOOK_S", 0.0)
    path = tmp_path / "folder" / "journal.db"
    path.parent.mkdir()
    journal = SqliteJournal(path)
    stream = begin(journal, "a")
    replace(path)
    for _ in range(2):
        with pytest.raises(StoreError, match=says) as caught:
            journal.append(note(stream))
        assert "put the right file in its place" in str(caught.value)
    journal.close()


def test_a_writer_looks_at_its_file_about_once_a_second(path, monkeypatch):
    """Looking costs a call into the system, so most appends do without."""
    looks = []
    look = _writer._file_at
    monkeypatch.setattr(_writer, "_file_at", lambda path: looks.append(path) or look(path))
    monkeypatch.setattr(_writer, "time", SimpleNamespace(monotonic=lambda: now))
    now = 100.0
    journal = SqliteJournal(path)
    stream = begin(journal, "a")
    looks.clear()
    for seconds in (0.1, 0.5, 0.99, 1.0, 1.5, 2.1):
        now = 100.0 + seconds
        journal.append(note(stream))
    journal.close()
    assert len(looks) == 2


def test_a_run_is_let_go_of_though_the_file_cannot_be_read(path, monkeypatch):
    """`release` needs no database, so it never hides the trouble that ended a drive."""
    journal = SqliteJournal(path)
    stream = begin(journal, "a")
    journal.claim(stream)
    with monkeypatch.context() as broken:
        broken.setattr(journal, "_reader", lambda: pytest.fail("the database was asked"))
        journal.release(stream)
    assert journal.claim(stream) == 2
    journal.close()


def test_the_row_and_the_records_must_agree(path):
    """A record that is missing at the end is noticed, because the run's row counts them."""
    journal = SqliteJournal(path)
    stream = begin(journal, "a")
    journal.append(note(stream))
    other = apsw.Connection(str(path))
    other.execute("DELETE FROM events WHERE seq = 2")
    other.execute("DELETE FROM event_bodies WHERE seq = 2")
    other.close()
    with pytest.raises(JournalDamaged, match="seq 2"):
        journal.read(stream, after=1)
    assert len(journal.read(stream, limit=1)) == 1
    journal.close()


def test_a_group_waits_once(path, monkeypatch):
    """When nobody can write, the members of a group do not wait one after the other."""
    journal = SqliteJournal(path, busy_timeout_s=0.1)
    stream = begin(journal, "a")
    waited = []
    turn = journal._locks.turn
    monkeypatch.setattr(journal._locks, "turn", lambda until: waited.append(until) or turn(until))
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")

    async def together():
        given = [journal.aappend(note(stream)) for _ in range(5)]
        return await asyncio.gather(*given, return_exceptions=True)

    assert [type(outcome) for outcome in asyncio.run(together())] == [StoreError] * 5
    assert len(waited) == 1
    other.execute("ROLLBACK")
    other.close()
    assert [records[0].seq for records in asyncio.run(together())] == [2, 3, 4, 5, 6]
    journal.close()


def test_a_value_that_cannot_be_stored_fails_one_append(path):
    """A number that is too large for SQLite spoils no other append of its group."""
    journal = SqliteJournal(path)
    one, two = begin(journal, "one"), begin(journal, "two")
    epoch = journal.claim(one)

    async def together():
        large = driven(one, epoch, 2, row=row("one", cost_nano=1 << 70))
        given = [journal.aappend(note(two)), journal.aappend(large), journal.aappend(note(two))]
        return await asyncio.gather(*given, return_exceptions=True)

    outcomes = asyncio.run(together())
    assert [type(outcome) for outcome in outcomes] == [tuple, OverflowError, tuple]
    journal.append(driven(one, epoch, 2))
    assert [check_chain(journal.proofs(stream)) for stream in (one, two)] == [2, 3]
    journal.close()


# ── what workers look for ────────────────────────────────────────────────────────────────────────


def copied(path, run_id, count, first):
    """Put copies of a run's row into the file, each a root if the run is one."""
    other = apsw.Connection(str(path))
    columns = [column for _, column, *_ in other.execute("PRAGMA table_info(runs)")]
    given = {"number": "n", "id": "id || '-' || n"}
    given["root"] = "CASE root WHEN id THEN id || '-' || n ELSE root END"
    taken = ", ".join(given.get(column, column) for column in columns)
    other.execute(
        "WITH RECURSIVE c (n) AS (VALUES (?1) UNION ALL SELECT n + 1 FROM c WHERE n < ?2)"  # noqa: S608  (the names are the table's own)
        f"INSERT INTO runs ({', '.join(columns)}) SELECT {taken} FROM runs, c WHERE id = ?3",
        (first, first + count - 1, run_id),
    )
    other.close()


def steps(journal, look):
    """Return what came of a look, and how many steps SQLite took for it."""
    connection = journal._reader()
    taken = []
    connection.set_progress_handler(lambda: bool(taken.append(1)), 1)
    journal._readers.append(connection)
    try:
        return look(), len(taken)
    finally:
        connection.set_progress_handler(None)


LOOKS = {
    "due": lambda journal: [run.id for run in journal.due(10, limit=3)],
    "next_wake": lambda journal: journal.next_wake(10),
    "running": lambda journal: [run.id for run in journal.running()],
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
@pytest.mark.parametrize(
    "many",
    [
        {"status": "parked", "wake_at": 50},
        {"status": "waiting"},
        {"status": "queued", "tenant": "b"},
        {"status": "paused", "wake_at": 5},
        {"status": "completed", "wake_at": 5},
        {"status": "parked", "wake_at": 50, "root": "r"},
        {"status": "queued", "root": "r"},
        {"status": "queued", "root": "s"},
        {"status": "completed", "wake_at": 5, "root": "r"},
    ],
    ids=str,
)
def test_what_is_not_due_is_not_read(path, look, many):
    """Beside 10,000 runs that are not asked for, it takes as many steps as beside ten."""
    journal = SqliteJournal(path, synchronous="OFF")
    for name, status in [("q", "queued"), ("r", "parked"), ("s", "running")]:
        begin(journal, name, root=name, status=status, tenant="a")
    begin(journal, "p", root="p", status="parked", wake_at=7, tenant="a")
    begin(journal, "t", status="parked", wake_at=7, root="r", parent="r")
    begin(journal, "u", status="parked", wake_at=60, root="r", parent="r")
    begin(journal, "m", **{"root": "m"} | many)
    copied(path, "m", 10, first=100)
    few, steps_few = steps(journal, lambda: look(journal))
    copied(path, "m", 10_000, first=200)
    many_found, steps_many = steps(journal, lambda: look(journal))
    assert few == many_found
    assert steps_few < 2000
    assert steps_many < steps_few + 50, (steps_few, steps_many)
    journal.close()


def test_who_holds_a_stream_is_asked_of_the_system_only(path, monkeypatch):
    """A stream's number is read once; what another connection has begun since is read, too."""
    one, two = SqliteJournal(path), SqliteJournal(path)
    streams = [begin(one, name) for name in "ab"]
    assert one.unheld(streams) == streams
    two.claim(streams[0])
    with monkeypatch.context() as broken:
        broken.setattr(one, "_reader", lambda: pytest.fail("the database was asked"))
        assert one.unheld(streams) == streams[1:]
        assert one.unheld(streams[:1]) == []
    streams.append(begin(two, "c"))
    assert one.unheld(streams) == streams[1:]
    one.close()
    two.close()


def test_the_numbers_that_are_remembered_are_not_ever_more(path, monkeypatch):
    """Beyond so many they are read anew, and are right."""
    monkeypatch.setattr(sqlite, "_MOST_NUMBERS", 3)
    journal = SqliteJournal(path, synchronous="OFF")
    streams = [begin(journal, name) for name in "abcde"]
    journal.claim("run:d")
    for asked in (streams[:2], streams[2:4], streams, streams[3:], streams[:3]):
        assert journal.unheld(asked) == [stream for stream in asked if stream != "run:d"]
        assert len(journal._numbers) <= max(3, len(asked))
    journal.close()


def test_a_beat_is_written_as_a_whole(path):
    """When one lease cannot be raised, none was, and none was dropped."""
    journal = SqliteJournal(path)
    a, b, c = (begin(journal, name) for name in "abc")
    for stream in (a, b, c):
        journal.claim(stream, worker="w")
    other = apsw.Connection(str(path))
    other.execute("UPDATE leases SET beats = ? WHERE number = 3", ((1 << 63) - 1,))
    other.close()
    before = journal.leases()
    with pytest.raises(StoreError):
        journal.beat("w", [b, c])
    assert journal.leases() == before
    journal.beat("w", [b])
    assert journal.leases()[:1] == [Lease(b, "w", 2)]
    journal.close()


# ── several connections ──────────────────────────────────────────────────────────────────────────


def test_two_journals_of_one_process(path):
    """What is remembered between appends is forgotten when anybody else wrote."""
    one, two = SqliteJournal(path), SqliteJournal(path)
    stream = begin(one, "a")
    epoch = one.claim(stream)
    seq = 2
    for journal in (one, two, two, one, two):
        journal.append(driven(stream, epoch, seq, row=row("a", turns=seq)))
        journal.append(note(stream))
        begin(journal, f"other-{seq}")
        seq += 2
    assert check_chain(one.proofs(stream)) == seq - 1
    assert [r.position for r in two.read_all()] == list(range(1, seq + 5))
    assert two.run("a") == one.run("a")
    one.close()
    two.close()


def test_whoever_died_waiting_holds_nobody_up(path):
    """The mark it left in the lock file is cleared by the next one that queues up."""
    journal = SqliteJournal(path)
    lock = path.with_name("journal.db-lock")
    with lock.open("r+b") as mark:  # Closing it drops the locks of this process; none is needed.
        mark.write(b"\1")
    assert journal._locks.someone_waits()
    begin(journal, "a")
    assert not journal._locks.someone_waits()
    journal.close()


def test_reading_does_not_wait_for_a_writer(path):
    """Readers see what was committed last while somebody else is writing."""
    journal = SqliteJournal(path, busy_timeout_s=0.1)
    stream = begin(journal, "a")
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")
    other.execute("DELETE FROM events")
    assert len(journal.read(stream)) == 1
    other.execute("ROLLBACK")
    other.close()
    journal.close()


class SlowDisk(apsw.VFS):
    """A disk that takes its time to sync: an append always comes in between, if one can."""

    def __init__(self, path):
        self.path = str(path)
        self.appended = threading.Event()
        super().__init__("slow-disk", "")

    def xOpen(self, name, flags):  # noqa: N802  (SQLite's name)
        return SlowDiskFile(self, name, flags)


class SlowDiskFile(apsw.VFSFile):
    """A file on it."""

    def __init__(self, disk, name, flags):
        self.disk = disk
        self.is_main = isinstance(name, apsw.URIFilename) or name == disk.path
        super().__init__("", name, flags)

    def xSync(self, flags):  # noqa: N802  (SQLite's name)
        if self.is_main and threading.current_thread().name == "outlast-checkpoint":
            self.disk.appended.clear()
            self.disk.appended.wait(0.05)
        super().xSync(flags)


def test_the_log_starts_over(path):
    """Though an append comes in during each checkpoint, the log is used again, not only longer."""
    disk = SlowDisk(path)
    journal = SqliteJournal(
        path, synchronous="NORMAL", vfs="slow-disk", checkpoint_bytes=50 * PAGE_SIZE
    )
    stream = begin(journal, "a")
    log = path.with_name("journal.db-wal")
    written = 0
    for _ in range(20_000):
        journal.append(note(stream, "x" * 2000))
        disk.appended.set()
        written += 2000
        if written > 3 * log.stat().st_size > 0:
            break
    else:
        pytest.fail(f"{written} bytes were appended, and the log has {log.stat().st_size}")
    assert check_chain(journal.proofs(stream)) == 1 + written // 2000
    journal.close()
    disk.unregister()


def test_closing_leaves_one_file(path):
    """The log is copied into the file, so that the file alone is the store."""
    journal = SqliteJournal(path)
    begin(journal, "a")
    journal.close()
    assert set(files(path.parent)) == {"journal.db", "journal.db-lock"}


def test_a_group_may_be_large(path):
    """More appends at once than fit one group are all written."""
    journal = SqliteJournal(path, synchronous="OFF")
    stream = begin(journal, "a")

    async def together():
        return await asyncio.gather(*[journal.aappend(note(stream)) for _ in range(1500)])

    outcomes = asyncio.run(together())
    assert [records[0].seq for records in outcomes] == list(range(2, 1502))
    journal.close()


def test_whoever_stops_waiting_harms_nobody(path):
    """An append whose task is cancelled may be written; a loop that ends early is no trouble."""
    journal = SqliteJournal(path)
    stream = begin(journal, "a")

    async def cancelled():
        task = asyncio.ensure_future(journal.aappend(note(stream)))
        await asyncio.sleep(0)
        task.cancel()
        await journal.aappend(note(stream))

    async def given_up():
        await asyncio.sleep(0)
        for _ in range(2):
            asyncio.ensure_future(journal.aappend(note(stream)))  # noqa: RUF006  (given up at once)

    asyncio.run(cancelled())
    for _ in range(10):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(given_up())
        loop.run_until_complete(asyncio.sleep(0))
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
    asyncio.run(cancelled())
    journal.append(note(stream))
    journal.close()
    journal = SqliteJournal(path)
    assert check_chain(journal.proofs(stream)) >= 6
    journal.close()


def test_every_query_says_what_it_is_for():
    """Each query in the file has a name and a sentence."""
    text = (_connect.Path(_connect.__file__).parent / "sql" / "queries.sql").read_text()
    for name, sql in queries().items():
        after = text.split(f"-- {name} --\n")[1]
        assert after.startswith("-- "), name
        assert after.split("\n")[0].endswith("."), name
        assert sql.split()[0] in {"WITH", "SELECT", "INSERT", "UPDATE", "DELETE"}, name
