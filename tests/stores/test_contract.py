"""Both stores keep the same contract."""

import apsw
import msgspec
import pytest

from outlast.stores.memory import MemoryJournal
from outlast.stores.sqlite import SqliteJournal
from outlast.testing.journal_contract import JournalContract


class TestMemory(JournalContract):
    """In memory."""

    persistent = False

    def open(self, place):
        return MemoryJournal()

    def tamper(self, journal, stream, seq, what):
        if what == "record gone":
            pytest.skip("nothing takes a record out of memory")
        proofs, everything = journal._streams[stream], journal._all
        proof = proofs[seq - 1]
        body = None if what == "body gone" else b'{"type":"from_the_future"}'
        changed = msgspec.structs.replace(proof, body=body)
        proofs[seq - 1] = everything[everything.index(proof)] = changed


class TestSqlite(JournalContract):
    """In a file."""

    def open(self, place):
        return SqliteJournal(place / "journal.db")

    def tamper(self, journal, stream, seq, what):
        where = (stream, seq)
        other = apsw.Connection(str(journal._path))
        if what == "record gone":
            other.execute("DELETE FROM events WHERE stream = ? AND seq = ?", where)
        elif what == "body gone":
            other.execute("UPDATE event_bodies SET body = NULL WHERE stream = ? AND seq = ?", where)
        else:
            body = b'{"type":"from_the_future"}'
            other.execute(
                "UPDATE event_bodies SET body = ? WHERE stream = ? AND seq = ?", (body, *where)
            )
        other.close()
