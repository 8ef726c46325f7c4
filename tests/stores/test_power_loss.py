"""What was acknowledged survives a power loss, wherever it strikes."""

import asyncio
import itertools

import apsw
import pytest

from outlast.errors import Fenced
from outlast.events import NoteAdded
from outlast.journal import Balance, Commit, Hold, Posting, Settlement
from outlast.stores._connect import PAGE_SIZE
from outlast.stores.sqlite import SqliteJournal
from outlast.testing.commits import begin, driven, note, row
from outlast.testing.journal_contract import check_chain
from outlast.testing.power_loss import Disk


class Witness:
    """What was acknowledged, kept outside the journal."""

    def __init__(self):
        self.records = []
        self.fence = 0
        self.blobs = []
        self.settled = 0

    def now(self):
        return len(self.records), self.fence, len(self.blobs), self.settled


def work(journal, witness):
    """Use everything that writes: appends of both kinds, claims, holds, blobs, large bodies."""
    stream = begin(journal, "a")
    witness.records += journal.read(stream)
    for turn in range(6):
        witness.fence = epoch = journal.claim(stream)
        seq = len(witness.records) + 1
        hold = [Hold(call_id=str(turn), scope="s", needed=9)]
        witness.records += journal.append(
            driven(stream, epoch, seq, row=row("a", turns=turn), holds=hold)
        )
        spent = [Settlement(call_id=str(turn), amount=5)]
        line = [Posting(hour=turn % 2, agent="researcher", calls=1)]
        large = NoteAdded(text="x" * 700 * turn)
        commit = driven(stream, epoch, seq + 1, large, settlements=spent, postings=line)
        witness.records += journal.append(commit)
        witness.settled += 5
        witness.blobs.append(journal.put_blob(bytes([turn]) * 3000))
        for records in asyncio.run(together(journal, stream)):
            witness.records += records
        journal.release(stream)


async def together(journal, stream):
    return await asyncio.gather(*[journal.aappend(note(stream)) for _ in range(3)])


def remains(tmp_path, *, loss, log_pages=40, every=1, **options):
    """Return what power cuts during `work` leave, each with what was acknowledged before it."""
    witness, left, moments = Witness(), [], itertools.count()
    path = tmp_path / "journal.db"

    def cut(_what, _file):
        moment = next(moments)
        if moment % every == 0:
            known = witness.now()
            into = tmp_path / str(moment)
            left.append((disk.cut(path, into=into, loss=loss, seed=moment), known))

    with Disk() as disk:
        disk.on_change = cut
        size = log_pages * PAGE_SIZE
        journal = SqliteJournal(path, vfs=disk.vfs, checkpoint_bytes=size, **options)
        work(journal, witness)
        left.append((disk.cut(path, into=tmp_path / "before the end", loss=loss), witness.now()))
        journal.close()
        left.append((disk.cut(path, into=tmp_path / "after the end", loss=loss), witness.now()))
    return witness, left


def check(witness, path, known):
    """Open what a power cut left, and find everything that was acknowledged before it."""
    count, fence, blobs, settled = known
    journal = SqliteJournal(path, synchronous="OFF")
    try:
        found = journal.read_all()
        assert found[:count] == witness.records[:count]
        assert check_chain(journal.proofs("run:a")) == len(found)
        if found:
            run = journal.run("a")
            assert run.next_seq == len(found) + 1
            assert run.fence >= fence
            if fence:
                with pytest.raises(Fenced):
                    journal.append(driven("run:a", fence - 1, 1))
        assert [journal.blob(digest) is None for digest in witness.blobs[:blobs]] == [False] * blobs
        balance = journal.balance("s")
        assert balance.settled >= settled
        whole = [Balance(settled=5 * n, held=held) for n in range(7) for held in (0, 9)]
        assert balance in whole
        journal.append(Commit(stream="~after", events=[NoteAdded(text="on")], at=1))
    finally:
        journal.close()
    other = apsw.Connection(str(path))
    assert other.pragma("integrity_check") == "ok"
    other.close()


@pytest.mark.parametrize("loss", ["everything", "tail", "some"])
def test_what_was_acknowledged_is_there(tmp_path, loss):
    """Whatever unsynced writes are lost, reordered or torn, no acknowledged append is."""
    witness, left = remains(tmp_path, loss=loss, every=5)
    assert len(left) > 80
    for path, known in left:
        check(witness, path, known)
    assert len(witness.records) == 31


@pytest.mark.parametrize("synchronous", ["NORMAL", "OFF"])
def test_a_store_that_does_not_sync_is_found_out(tmp_path, synchronous):
    """The disk really forgets: without a sync per commit, acknowledged appends are lost."""
    witness, left = remains(
        tmp_path, loss="everything", log_pages=100_000, every=20, synchronous=synchronous
    )
    lost = 0
    for path, known in left:
        try:
            check(witness, path, known)
        except AssertionError:
            lost += 1
    assert lost > len(left) / 2


@pytest.mark.parametrize("loss", ["everything", "tail", "some"])
def test_power_may_fail_while_a_store_is_made(tmp_path, loss):
    """A store that was only half made is finished when it is opened again."""
    path, moments, left = tmp_path / "journal.db", itertools.count(), []
    with Disk() as disk:

        def cut(_what, _file):
            for seed in range(2):
                into = tmp_path / f"{next(moments)}"
                left.append(disk.cut(path, into=into, loss=loss, seed=seed))

        disk.on_change = cut
        SqliteJournal(path, vfs=disk.vfs).close()
    for remaining in left:
        journal = SqliteJournal(remaining, synchronous="OFF")
        begin(journal, "a")
        journal.close()
