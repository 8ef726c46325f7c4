"""Golden journals: what each version wrote is read by this one, and means the same."""

import gzip
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import apsw
import msgspec
import pytest
from msgspec import Raw

import outlast
from outlast.errors import JournalTooNew
from outlast.events import JOURNAL_VERSION, AnyEvent, RunStarted, decode, encode, tag
from outlast.journal import GENESIS, Commit, Journal, commitment, record_hash, run_stream
from outlast.limits import paid
from outlast.models.scripted import ScriptedModel
from outlast.state import fold
from outlast.stores import open_store
from outlast.stores._queries import migrations
from outlast.views.costs import GROUPS, costs, total
from stubs import unmarked

GOLDEN = Path(__file__).parent / "golden"
VERSIONS = sorted(path.stem for path in GOLDEN.glob("*.jsonl"))


class Line(msgspec.Struct):
    """A line of the dump: a record, and the bytes of its event."""

    stream: str
    seq: int
    position: int
    at: int
    epoch: int
    event: Raw


def make() -> ModuleType:
    """Return the program that made the golden journals."""
    spec = importlib.util.spec_from_file_location("make", GOLDEN / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def lines(version: str) -> list[Line]:
    text = (GOLDEN / f"{version}.jsonl").read_bytes()
    return [msgspec.json.decode(line, type=Line) for line in text.splitlines()]


def expected(version: str) -> dict[str, Any]:
    made: dict[str, Any] = msgspec.json.decode((GOLDEN / f"{version}.json").read_bytes())
    return made


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    """Return each version of which there is a journal."""
    return str(request.param)


@pytest.fixture
def path(version: str, tmp_path: Path) -> Path:
    """Return a copy of the store of that version."""
    path = tmp_path / "golden.db"
    path.write_bytes(gzip.decompress((GOLDEN / f"{version}.db.gz").read_bytes()))
    return path


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    """Return that store, opened."""
    journal = open_store(f"sqlite:///{path}")
    yield journal
    journal.close()


def test_every_version_has_a_golden_journal() -> None:
    """Whoever raises the journal's version leaves a journal of it."""
    for number in range(1, JOURNAL_VERSION + 1):
        assert f"v{number}" in VERSIONS


def test_every_event_that_exists_is_golden() -> None:
    """Every type of event is in a golden journal; for a new one another has to be made."""
    seen = {
        msgspec.json.decode(line.event)["type"] for version in VERSIONS for line in lines(version)
    }
    assert {tag(event) for event in get_args(AnyEvent)} - seen == set()


def test_every_event_is_read_in_full(version: str) -> None:
    """What was written is read, and written again it is the same to the byte: no field is lost."""
    for line in lines(version):
        event = decode(bytes(line.event))
        assert encode(event) == bytes(line.event), f"{line.stream} {line.seq}"


def test_the_store_holds_what_was_dumped(version: str, journal: Journal) -> None:
    """The store gives the records as they were written, each in its place."""
    dumped = lines(version)
    records = journal.read_all(limit=10_000)
    assert len(records) == len(dumped)
    for record, line in zip(records, dumped, strict=True):
        for name in ("stream", "seq", "position", "at", "epoch"):
            assert getattr(record, name) == getattr(line, name)
        assert encode(record.event) == bytes(line.event)


def test_every_run_means_what_it_meant(version: str, journal: Journal) -> None:
    """A run that an earlier version wrote has the status, the money and the messages it had."""
    for run_id, made in expected(version).items():
        state = fold(journal.read(run_stream(run_id)))
        assert state.status == made["status"]
        assert msgspec.to_builtins(state.spend).items() >= made["spend"].items()
        assert bytes(state.answer or b"null").decode() == (made["answer"] or "null")
        assert state.next_seq == made["next_seq"]
        ask = next(iter(state.asks.values()))
        assert ask.head.decode() == made["head"]
        assert [message.decode() for message in ask.messages] == made["messages"]
        assert msgspec.to_builtins(journal.run(run_id)).items() >= made["row"].items()


def test_a_store_is_brought_up_to_date(path: Path, journal: Journal) -> None:
    """Opened by this version, a store has this schema, and what it did not keep apart is known."""
    assert apsw.Connection(str(path)).pragma("user_version") == len(migrations())
    for row in journal.runs():
        spend = fold(journal.read(run_stream(row.id))).spend
        assert (row.cost_nano, row.in_doubt_nano) == (spend.nano, spend.in_doubt_nano)
    rows = paid(journal)
    assert sum(row.in_doubt_nano for row in rows) > 0
    for by in GROUPS:
        whole = total(costs(journal.rollup(), by))
        assert whole.nano == sum(row.cost_nano for row in rows)
        assert whole.in_doubt_nano == sum(row.in_doubt_nano for row in rows)


def test_workers_find_what_an_earlier_version_left(path: Path) -> None:
    """Runs of before are due when they were queued or slept, and nobody has a lease."""
    store = apsw.Connection(str(path))
    asleep = {"stopped": 7, "flown/librarian-map-1/1": 8, "locked": None}
    for run_id, wake_at in asleep.items():
        given = (wake_at, run_id)
        store.execute("UPDATE runs SET status = 'parked', wake_at = ? WHERE id = ?", given)
    store.execute("UPDATE runs SET status = 'waiting' WHERE id = 'flown'")
    store.execute("UPDATE runs SET status = 'running' WHERE id = 'cut'")
    queued = [run_id for (run_id,) in store.execute("SELECT id FROM runs WHERE status = 'queued'")]
    store.close()
    journal = open_store(f"sqlite:///{path}")
    assert queued
    for at, woken in [(6, []), (7, ["stopped"]), (8, ["stopped", "flown"])]:
        assert [row.id for row in journal.due(at)] == [*woken, *queued]
    assert [journal.next_wake(after) for after in (0, 7, 8)] == [7, 8, None]
    assert [row.id for row in journal.running()] == ["cut"]
    assert journal.unheld(["run:cut"]) == ["run:cut"]
    assert journal.leases() == []
    journal.claim("run:cut", worker="w")
    assert [lease.beats for lease in journal.leases()] == [1]
    journal.close()


def test_the_chain_holds(journal: Journal) -> None:
    """The hashes that an earlier version wrote are those that this one computes."""
    streams = {record.stream for record in journal.read_all(limit=10_000)}
    for stream in streams:
        prev = GENESIS
        for proof in journal.proofs(stream):
            assert proof.salt is not None
            assert proof.body is not None
            assert proof.commitment == commitment(salt=proof.salt, body=proof.body)
            assert proof.prev == prev
            prev = record_hash(
                prev=prev,
                stream=stream,
                seq=proof.seq,
                position=proof.position,
                at=proof.at,
                epoch=proof.epoch,
                type=proof.type,
                meta=proof.meta,
                commitment=proof.commitment,
            )
            assert proof.hash == prev


def test_what_was_too_long_is_still_there(journal: Journal) -> None:
    """The blobs that an earlier version stored can be had under their hashes."""
    digests = [
        event.blob
        for record in journal.read(run_stream("story"))
        if (event := record.event) and getattr(event, "blob", "")
    ]
    assert len(digests) == 2
    for digest in digests:
        whole = journal.blob(digest)
        assert whole is not None
        assert whole.decode().endswith("é" * 200)


@pytest.mark.parametrize("run_id", ["stopped", "locked", "queued"])
def test_a_run_is_gone_on_with(version: str, path: Path, run_id: str) -> None:
    """A run of an earlier version goes on, with the history it had, and its chain goes on too."""
    golden = make()
    model = ScriptedModel(golden.lead)
    with outlast.Outlast(f"sqlite:///{path}", model=model) as app:
        run = app.resume(run_id, golden.agent(None))
        assert run.result() == "It is the third one."
        begun = msgspec.json.decode(unmarked(model.calls[0]))
        made = expected(version)[run_id]
        assert begun["messages"] == [msgspec.json.decode(said) for said in made["messages"]]
        assert app.run(golden.agent(None), "A new one.").status == "completed"
        test_the_chain_holds(app.journal)


UPGRADE = (
    "run:story was written with journal version 99, this outlast reads up to "
    f"{JOURNAL_VERSION}: upgrade this worker (pip install -U outlast)"
)


def test_a_newer_journal_is_refused_on_disk(version: str, path: Path) -> None:
    """A run of a newer version is neither read nor driven, and the error says what to do."""
    store = apsw.Connection(str(path))
    first = "stream = 'run:story' AND seq = 1"
    ((meta,),) = store.execute(f"SELECT meta FROM events WHERE {first}")  # noqa: S608
    newer = meta.replace(b'"journal_version":1', b'"journal_version":99')
    assert newer != meta
    store.execute(f"UPDATE events SET meta = ? WHERE {first}", (newer,))  # noqa: S608
    # An event that this version has never heard of, as a newer one may well have written.
    unknown = b'{"type":"something_new"}'
    store.execute(
        "UPDATE event_bodies SET body = ? WHERE stream = 'run:story' AND seq = 5", (unknown,)
    )
    store.close()
    golden, model = make(), ScriptedModel(make().lead)
    with outlast.Outlast(f"sqlite:///{path}", model=model) as app:
        uses: list[Callable[[], Any]] = [
            lambda: app.log("story"),
            lambda: app.run(golden.agent(None), golden.QUESTION, run_id="story"),
            lambda: app.journal.claim(run_stream("story")),
        ]
        for use in uses:
            with pytest.raises(JournalTooNew) as raised:
                use()
            assert str(raised.value) == UPGRADE
        assert len(app.runs()) == len(expected(version)), "it is still listed"
        assert app.resume("queued", golden.agent(None)).status == "completed"
    assert len(model.calls) == 3


@pytest.mark.parametrize("url", ["memory://", "sqlite:///{path}"])
def test_a_newer_journal_is_refused_everywhere(url: str, tmp_path: Path) -> None:
    """Whatever the store, a run that names a newer version is refused before it is decoded."""
    golden = make()
    journal = open_store(url.format(path=tmp_path / "a.db"))
    newer = RunStarted(
        journal_version=99, agent="librarian", nonce="n", spec=golden.agent(None).spec()
    )
    journal.append(Commit(stream="run:story", events=(newer,), at=1, expected_seq=1))
    for use in (journal.read, journal.claim):
        with pytest.raises(JournalTooNew) as raised:
            use("run:story")
        assert str(raised.value) == UPGRADE
        assert (raised.value.version, raised.value.ours) == (99, JOURNAL_VERSION)
    journal.close()
