"""Journals of every version so far are read by this one, and those of a later one refused."""

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import apsw
import pytest

from golden.make import RUNS, known
from outlast.errors import JournalTooNew
from outlast.events import JOURNAL_VERSION, AnyEvent, tag
from outlast.journal import GENESIS, Journal, commitment, record_hash, run_stream
from outlast.stores import open_store

GOLDEN = Path(__file__).parent / "golden"
VERSIONS = sorted(int(path.name[1:-6]) for path in GOLDEN.glob("v*.db.gz"))


def unpacked(version: int, folder: Path) -> Path:
    path = folder / f"v{version}.db"
    path.write_bytes(gzip.decompress((GOLDEN / f"v{version}.db.gz").read_bytes()))
    return path


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture
def journal(version: int, tmp_path: Path) -> Iterator[Journal]:
    opened = open_store(f"sqlite:///{unpacked(version, tmp_path)}")
    yield opened
    opened.close()


def expected(version: int) -> dict[str, Any]:
    return json.loads((GOLDEN / f"v{version}.json").read_text())


def test_there_is_one_for_every_version() -> None:
    """Whoever raises the journal's version leaves a golden journal of it."""
    assert list(range(1, JOURNAL_VERSION + 1)) == VERSIONS


def test_all_of_it_is_read_as_it_was_written(version: int, journal: Journal) -> None:
    """Events, places, messages, money and rows are what they were when they were written."""
    # A field that a later version adds may be there, too; none may change or go.
    assert narrowed(known(journal), expected(version)) == expected(version)


def narrowed(value: Any, like: Any) -> Any:
    """Return `value` without the members that `like` does not have."""
    if isinstance(value, dict) and isinstance(like, dict):
        return {key: narrowed(value[key], like[key]) for key in like if key in value}
    if isinstance(value, list) and isinstance(like, list) and len(value) == len(like):
        return [narrowed(a, b) for a, b in zip(value, like, strict=True)]
    return value


def test_its_chain_holds(journal: Journal) -> None:
    """Every record's hash is that of its columns, and follows from the record before."""
    for run_id in RUNS:
        prev = GENESIS
        for proof in journal.proofs(run_stream(run_id)):
            assert proof.salt is not None
            assert proof.body is not None
            assert proof.prev == prev
            assert proof.commitment == commitment(salt=proof.salt, body=proof.body)
            prev = record_hash(
                prev=proof.prev,
                stream=proof.stream,
                seq=proof.seq,
                position=proof.position,
                at=proof.at,
                epoch=proof.epoch,
                type=proof.type,
                meta=proof.meta,
                commitment=proof.commitment,
            )
            assert proof.hash == prev
        assert prev != GENESIS


def test_it_holds_every_event_of_its_version() -> None:
    """The newest golden journal has an event of every type there is."""
    runs = expected(VERSIONS[-1]).values()
    written = {event["type"] for run in runs for event in run["events"]}
    assert written == {tag(event) for event in get_args(AnyEvent)}


def test_a_newer_journal_is_refused(tmp_path: Path) -> None:
    """A run of a newer version is neither read nor driven, and the sentence says what to do."""
    path = unpacked(VERSIONS[-1], tmp_path)
    file = apsw.Connection(str(path))
    newer = f'{{"journal_version":{JOURNAL_VERSION + 1},"agent":"sender"}}'.encode()
    file.execute("UPDATE events SET meta = ? WHERE stream = 'run:whole' AND seq = 1", (newer,))
    file.close()
    journal = open_store(f"sqlite:///{path}")
    told = f"journal version {JOURNAL_VERSION + 1}, this outlast reads up to {JOURNAL_VERSION}"
    for use in (journal.read, journal.claim):
        with pytest.raises(JournalTooNew, match=re.escape(told)) as refused:
            use(run_stream("whole"))
        assert "upgrade this worker" in str(refused.value)
    assert journal.read(run_stream("killed")), "other runs are not affected"
    journal.close()
