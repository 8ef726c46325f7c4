# ruff: noqa: S101  (the contract is made of assertions)
"""What every store has to pass, as a class of pytest tests.

Derive from `JournalContract`, say how the store is opened and tampered with, and pytest runs the
whole suite:

    class TestMine(JournalContract):
        def open(self, place: Path) -> Journal:
            return MyJournal(place / "journal")
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Literal

import pytest
from msgspec.structs import replace

from outlast.errors import (
    Busy,
    Conflict,
    Fenced,
    JournalDamaged,
    JournalTooNew,
    Refused,
    RunNotFound,
    StoreError,
    TooSoon,
    UsageError,
)
from outlast.events import (
    JOURNAL_VERSION,
    MessageReceived,
    ModelCallStarted,
    NoteAdded,
    decode,
    encode,
)
from outlast.journal import (
    COUNTED,
    GENESIS,
    Advance,
    Balance,
    Commit,
    Hold,
    Journal,
    Lease,
    Posting,
    Proof,
    Record,
    RunRow,
    Settlement,
    commitment,
    record_hash,
    run_stream,
)
from outlast.testing.commits import AT, begin, driven, encode_text, message, note, row, started

Tampering = Literal["body gone", "body garbled", "record gone"]

NOT_DRIVEN: Final = ("running", "paused", "stopped", "completed", "failed", "cancelled")
"""The statuses in which a run waits for no worker, whatever time its row names."""


def root(journal: Journal, run_id: str, status: str, **more: Any) -> str:
    """Create a run that no other has asked for, and return its stream."""
    return begin(journal, run_id, status=status, root=run_id, **more)


def _ids(rows: Iterable[RunRow]) -> list[str]:
    return [found.id for found in rows]


def check_chain(proofs: Iterable[Proof]) -> int:
    """Assert that the proofs of one stream are a whole chain, and return how many there are."""
    prev, count = GENESIS, 0
    for count, proof in enumerate(proofs, 1):
        assert proof.seq == count
        assert proof.prev == prev
        assert proof.salt is not None
        assert proof.body is not None
        assert proof.commitment == commitment(salt=proof.salt, body=proof.body)
        assert proof.hash == record_hash(
            prev=prev,
            stream=proof.stream,
            seq=proof.seq,
            position=proof.position,
            at=proof.at,
            epoch=proof.epoch,
            type=proof.type,
            meta=proof.meta,
            commitment=proof.commitment,
        )
        prev = proof.hash
    return count


class JournalContract:
    """The suite.  A store says how it is opened, and how to tamper with what it holds."""

    persistent = True
    """Whether what was appended is there when the same place is opened again."""

    def open(self, place: Path) -> Journal:
        """Open the journal at `place`, an empty folder the first time."""
        raise NotImplementedError

    def tamper(self, journal: Journal, stream: str, seq: int, what: Tampering) -> None:
        """Damage one record behind the journal's back."""
        raise NotImplementedError

    @pytest.fixture
    def journal(self, tmp_path: Path) -> Iterator[Journal]:
        """Open an empty journal, and close it afterwards."""
        journal = self.open(tmp_path)
        yield journal
        journal.close()

    # ── appending and reading ──────────────────────────────────────────────────────────────────

    def test_records_say_where_they_are(self, journal: Journal) -> None:
        """What `append` returns is what `read` returns: the events, in their places."""
        stream = begin(journal, "a")
        epoch = journal.claim(stream)
        records = journal.append(driven(stream, epoch, 2, message("x"), message("y")))
        assert [(r.stream, r.seq, r.position, r.at, r.epoch) for r in records] == [
            (stream, 2, 2, AT, epoch),
            (stream, 3, 3, AT, epoch),
        ]
        assert journal.read(stream, after=1) == list(records)

    def test_the_first_append_has_no_epoch(self, journal: Journal) -> None:
        """Before any driver, and in outside events, the epoch is 0."""
        stream = begin(journal, "a")
        journal.claim(stream)
        (record,) = journal.append(note(stream))
        assert [record.epoch for record in journal.read(stream)] == [0, 0]
        assert record.seq == 2

    def test_reading_goes_on_where_it_stopped(self, journal: Journal) -> None:
        """`after` and `limit` cut the stream into pieces that make up the whole."""
        stream = begin(journal, "a")
        for text in "bcde":
            journal.append(note(stream, text))
        assert [r.seq for r in journal.read(stream)] == [1, 2, 3, 4, 5]
        assert [r.seq for r in journal.read(stream, limit=2)] == [1, 2]
        assert [r.seq for r in journal.read(stream, after=2, limit=2)] == [3, 4]
        assert [r.seq for r in journal.read(stream, after=4)] == [5]
        assert journal.read(stream, after=5) == []
        assert journal.read(stream, after=9) == []

    def test_a_stream_nobody_began_is_empty(self, journal: Journal) -> None:
        """Reading what does not exist is not an error."""
        assert journal.read("run:none") == []
        assert list(journal.proofs("run:none")) == []
        assert journal.run("none") is None
        assert journal.read_all() == []

    def test_streams_are_apart(self, journal: Journal) -> None:
        """Each stream has its own sequence; the positions are those of the store."""
        one, two = begin(journal, "one"), begin(journal, "two")
        for stream in (one, two, two, one):
            journal.append(note(stream))
        assert [(r.seq, r.position) for r in journal.read(one)] == [(1, 1), (2, 3), (3, 6)]
        assert [(r.seq, r.position) for r in journal.read(two)] == [(1, 2), (2, 4), (3, 5)]

    def test_the_whole_store_is_read_in_commit_order(self, journal: Journal) -> None:
        """`read_all` returns every record once, by position, without gaps."""
        for name in "abc":
            begin(journal, name)
        for name in "cab":
            journal.append(note(run_stream(name)))
        records = journal.read_all()
        assert [r.position for r in records] == [1, 2, 3, 4, 5, 6]
        assert [r.stream for r in records][3:] == ["run:c", "run:a", "run:b"]
        assert journal.read_all(after=2, limit=2) == records[2:4]
        assert journal.read_all(after=6) == []

    @pytest.mark.parametrize(
        "text",
        [r"\u00e9 \ud83d\ude00", "é 😀", "", r"a\u0000b", " ", r"1.0 \/ 1e2"],
        ids=["escaped", "unicode", "empty", "nul", "separator", "slash"],
    )
    def test_json_keeps_its_spelling(self, journal: Journal, text: str) -> None:
        """What came as JSON is read back byte for byte."""
        stream = begin(journal, "a")
        event = message(text)
        journal.append(driven(stream, journal.claim(stream), 2, event))
        read = journal.read(stream)[1].event
        assert isinstance(read, MessageReceived)
        assert bytes(read.content) == encode_text(text)

    def test_a_large_event_comes_back_whole(self, journal: Journal) -> None:
        """An event larger than any page is one record like every other."""
        stream = begin(journal, "a")
        text = "x" * 300_000
        journal.append(note(stream, text))
        event = journal.read(stream)[1].event
        assert isinstance(event, NoteAdded)
        assert event.text == text

    # ── preconditions ──────────────────────────────────────────────────────────────────────────

    def test_the_wrong_seq_is_a_conflict(self, journal: Journal) -> None:
        """An append that expects another seq writes nothing and says where the stream is."""
        stream = begin(journal, "a")
        epoch = journal.claim(stream)
        journal.append(note(stream))
        with pytest.raises(Conflict) as caught:
            journal.append(driven(stream, epoch, 2))
        assert (caught.value.expected_seq, caught.value.actual_seq) == (2, 3)
        assert len(journal.read(stream)) == 2
        journal.append(driven(stream, epoch, 3))

    def test_what_was_seen_may_not_have_grown(self, journal: Journal) -> None:
        """An append that depends on another stream is refused once that one has grown."""
        stream = begin(journal, "a")
        other = Commit(stream="~other", events=[message()], at=AT)
        journal.append(replace(note(stream), seen=(("~other", 0),)))
        journal.append(other)
        with pytest.raises(Conflict) as caught:
            journal.append(replace(note(stream), seen=(("~other", 0),)))
        assert (caught.value.stream, caught.value.actual_seq) == ("~other", 2)
        assert len(journal.read(stream)) == 2
        journal.append(replace(note(stream), seen=(("~none", 0), ("~other", 1))))
        assert len(journal.read(stream)) == 3

    def test_a_run_begins_once(self, journal: Journal) -> None:
        """Creating a run that exists is a conflict."""
        begin(journal, "a")
        with pytest.raises(Conflict):
            begin(journal, "a")
        assert len(journal.read("run:a")) == 1

    def test_an_older_driver_is_fenced(self, journal: Journal) -> None:
        """Once somebody else has claimed the run, the driver before can append nothing."""
        stream = begin(journal, "a")
        old = journal.claim(stream)
        journal.release(stream)
        new = journal.claim(stream)
        assert new == old + 1
        with pytest.raises(Fenced) as caught:
            journal.append(driven(stream, old, 2))
        assert (caught.value.epoch, caught.value.fence) == (old, new)
        journal.append(driven(stream, new, 2))

    def test_being_fenced_is_told_before_a_conflict(self, journal: Journal) -> None:
        """A driver that is out of date in both ways must let go, not read on."""
        stream = begin(journal, "a")
        old = journal.claim(stream)
        journal.claim(stream, force=True)
        with pytest.raises(Fenced):
            journal.append(driven(stream, old, 9))

    def test_outside_events_need_no_driver(self, journal: Journal) -> None:
        """Anybody may add a note at any time; the driver's next append conflicts with it."""
        stream = begin(journal, "a")
        journal.append(note(stream, "queued"))
        epoch = journal.claim(stream)
        journal.append(note(stream, "running"))
        with pytest.raises(Conflict):
            journal.append(driven(stream, epoch, 3))
        journal.append(driven(stream, epoch, 4))
        journal.append(note(stream, "later"))
        assert [r.seq for r in journal.read(stream)] == [1, 2, 3, 4, 5]

    def test_only_outside_events_need_no_driver(self, journal: Journal) -> None:
        """A driver's event without its epoch is refused, whatever the seq."""
        stream = begin(journal, "a")
        for expected in (None, 2):
            commit = Commit(stream=stream, events=[message()], at=AT, expected_seq=expected)
            with pytest.raises(UsageError, match="claim the stream"):
                journal.append(commit)
        assert len(journal.read(stream)) == 1

    @pytest.mark.parametrize(
        ("commit", "says"),
        [
            (Commit(stream="run:a", events=[], at=AT), "without events"),
            (Commit(stream="run:a", events=[message()], at=AT, epoch=1), "which seq"),
            (Commit(stream="a", events=[NoteAdded(text="x")], at=AT), "run:ID or ~NAME"),
            (Commit(stream="run:", events=[NoteAdded(text="x")], at=AT), "run:ID or ~NAME"),
            (
                Commit(stream="run:a", events=[NoteAdded(text="x")], at=AT, row=row("b")),
                "row is that of run 'b'",
            ),
        ],
        ids=["no events", "no seq", "no stream", "no id", "other row"],
    )
    def test_a_commit_that_makes_no_sense(
        self, journal: Journal, commit: Commit, says: str
    ) -> None:
        """A mistake of the caller is told as such, and nothing is written."""
        begin(journal, "a")
        with pytest.raises(UsageError, match=says):
            journal.append(commit)
        assert len(journal.read_all()) == 1

    def test_nothing_is_added_to_a_run_that_is_not_there(self, journal: Journal) -> None:
        """Only the append that expects seq 1 begins a run."""
        for commit in (note("run:none"), driven("run:none", 1, 1), driven("run:none", 1, 5)):
            with pytest.raises(RunNotFound, match="none"):
                journal.append(commit)
        assert journal.read_all() == []

    def test_the_store_has_streams_of_its_own(self, journal: Journal) -> None:
        """A stream that begins with `~` needs no driver and begins with its first append."""
        for seq in (1, 2):
            (record,) = journal.append(Commit(stream="~fleet", events=[message()], at=AT))
            assert record.seq == seq
        journal.append(Commit(stream="~fleet", events=[message()], at=AT, expected_seq=3))
        with pytest.raises(Conflict):
            journal.append(Commit(stream="~fleet", events=[message()], at=AT, expected_seq=3))
        assert [r.seq for r in journal.read("~fleet")] == [1, 2, 3]
        assert journal.runs() == []

    # ── driving ────────────────────────────────────────────────────────────────────────────────

    def test_a_run_has_one_driver(self, journal: Journal) -> None:
        """Claiming what a living driver holds is refused, and says who it is."""
        stream = begin(journal, "a")
        epoch = journal.claim(stream)
        with pytest.raises(Busy, match=r"process \d+ on this machine"):
            journal.claim(stream)
        journal.append(driven(stream, epoch, 2))

    def test_a_released_run_can_be_claimed(self, journal: Journal) -> None:
        """The fence only rises; releasing twice, or what was never claimed, does nothing."""
        stream = begin(journal, "a")
        begin(journal, "b")
        epochs = []
        for _ in range(3):
            epochs.append(journal.claim(stream))
            journal.release(stream)
            journal.release(stream)
        journal.release("run:b")
        journal.release("run:none")
        assert epochs == [1, 2, 3]

    def test_a_run_can_be_taken_by_force(self, journal: Journal) -> None:
        """`force` fences a driver that still lives."""
        stream = begin(journal, "a")
        old = journal.claim(stream)
        new = journal.claim(stream, force=True)
        assert new > old
        with pytest.raises(Fenced):
            journal.append(driven(stream, old, 2))
        journal.append(driven(stream, new, 2))
        with pytest.raises(Busy):
            journal.claim(stream)

    def test_runs_are_claimed_one_by_one(self, journal: Journal) -> None:
        """Holding one run keeps nobody from another."""
        one, two = begin(journal, "one"), begin(journal, "two")
        assert journal.claim(one) == journal.claim(two) == 1

    def test_only_what_exists_can_be_claimed(self, journal: Journal) -> None:
        """There is nothing to drive in a run that was never begun."""
        with pytest.raises(RunNotFound, match="none"):
            journal.claim("run:none")

    # ── the run's row and the roll-up ──────────────────────────────────────────────────────────

    def test_the_row_is_written_with_the_events(self, journal: Journal) -> None:
        """The store fills in where the stream is and who may drive it."""
        stream = begin(journal, "a", tenant="acme")
        epoch = journal.claim(stream)
        given = row("a", tenant="acme", status="parked", wake_at=5, degraded=True, why="because")
        journal.append(driven(stream, epoch, 2, message(), message(), row=given))
        found = journal.run("a")
        assert found is not None
        assert (found.next_seq, found.fence) == (4, epoch)
        expected = row(
            "a",
            tenant="acme",
            status="parked",
            wake_at=5,
            degraded=True,
            why="because",
            next_seq=4,
            fence=epoch,
        )
        assert found == expected

    def test_every_field_of_the_row_is_kept(self, journal: Journal) -> None:
        """Whatever changes from one append to the next is read back."""
        stream = begin(journal, "a")
        epoch = journal.claim(stream)
        rows = [
            row("a", cost_nano=5, in_doubt_nano=2, tokens=6, turns=1),
            row("a", cost_nano=7, in_doubt_nano=1, tokens=7, turns=1),
            row("a", cost_nano=9, tokens=9, turns=2, phase="drafting", updated_at=AT + 5),
            row("a", status="completed", answer='"42"', version="v2", parent="p", root="q"),
        ]
        for seq, given in enumerate(rows, 2):
            journal.append(driven(stream, epoch, seq, row=given))
            found = journal.run("a")
            assert found is not None
            for name in RunRow.__struct_fields__:
                if name not in {"next_seq", "fence"}:
                    assert getattr(found, name) == getattr(given, name), name

    def test_an_outside_event_leaves_the_row_to_the_driver(self, journal: Journal) -> None:
        """It moves the stream on, and says when; nothing else."""
        stream = begin(journal, "a")
        before = journal.run("a")
        journal.append(note(stream, at=AT + 7))
        after = journal.run("a")
        assert before is not None
        assert after is not None
        assert (after.next_seq, after.updated_at) == (3, AT + 7)
        assert (after.status, after.cost_nano) == (before.status, before.cost_nano)

    def test_a_failed_append_changes_no_row(self, journal: Journal) -> None:
        """The row, the roll-up and the ledger stand or fall with the events."""
        stream = begin(journal, "a")
        epoch = journal.claim(stream)
        before = journal.run("a")
        commit = driven(
            stream,
            epoch,
            9,
            row=row("a", status="completed"),
            postings=[Posting(hour=0, agent="researcher", calls=1)],
            holds=[Hold(call_id="c", scope="fleet", needed=1)],
        )
        with pytest.raises(Conflict):
            journal.append(commit)
        assert journal.run("a") == before
        assert journal.rollup() == []
        assert journal.balance("fleet") == Balance()

    def test_runs_are_listed_newest_first(self, journal: Journal) -> None:
        """Runs can be chosen by status, by agent, by both, and cut short."""
        for name, agent, status in [
            ("a", "x", "running"),
            ("b", "y", "running"),
            ("c", "x", "parked"),
            ("d", "x", "running"),
        ]:
            begin(journal, name, agent=agent, status=status)

        def ids(**chosen: Any) -> list[str]:
            return [found.id for found in journal.runs(**chosen)]

        assert ids() == ["d", "c", "b", "a"]
        assert ids(limit=2) == ["d", "c"]
        assert ids(status="running") == ["d", "b", "a"]
        assert ids(agent="x") == ["d", "c", "a"]
        assert ids(agent="x", status="running") == ["d", "a"]
        assert ids(agent="x", status="running", limit=1) == ["d"]
        assert ids(status="failed") == []

    def test_how_many_runs_are_in_each_status(self, journal: Journal) -> None:
        """Each run counts once, under its latest status; of one agent or in all."""
        assert journal.statuses() == {}
        for name, agent, status in [("a", "x", "running"), ("b", "y", "running"), ("c", "x", "x")]:
            stream = begin(journal, name, agent=agent, status="queued")
            epoch = journal.claim(stream)
            journal.append(driven(stream, epoch, 2, row=row(name, agent=agent, status=status)))
        assert journal.statuses() == {"running": 2, "x": 1}
        assert journal.statuses(agent="x") == {"running": 1, "x": 1}
        assert journal.statuses(agent="nobody") == {}

    def test_runs_that_were_written_to_since(self, journal: Journal) -> None:
        """What was appended at a moment or later counts, whoever appended it; newest run first."""
        for name, agent in [("a", "x"), ("b", "y"), ("c", "x")]:
            begin(journal, name, agent=agent)
        assert journal.updated(AT) == ["c", "b", "a"]
        assert journal.updated(AT, agent="x") == ["c", "a"]
        assert journal.updated(AT + 1) == []
        for name in ("a", "b"):
            journal.append(note(run_stream(name), at=AT + 5))
        assert journal.updated(AT + 5) == ["b", "a"]
        assert journal.updated(AT + 5, agent="x") == ["a"]
        assert journal.updated(AT + 6) == []

    def test_streams_by_the_beginning_of_their_names(self, journal: Journal) -> None:
        """Exactly those that begin so, whatever is in the name, in order of their bytes."""
        assert journal.streams("") == []
        for name in ("a", "b%", "bé", "b", "B"):
            begin(journal, name)
        journal.append(note("~b:1"))
        journal.append(note("~c"))
        assert journal.streams("run:b") == ["run:b", "run:b%", "run:bé"]
        assert journal.streams("run:b%") == ["run:b%"]
        assert journal.streams("~b:") == ["~b:1"]
        assert journal.streams("~") == ["~b:1", "~c"]
        assert journal.streams("z") == []
        assert journal.streams("\U0010ffff") == []

    def test_runs_below_a_run(self, journal: Journal) -> None:
        """All of them, parents before their children, and nobody else's."""
        for name, parent in [("r", ""), ("s", ""), ("b", "r"), ("c", "s"), ("a", "r"), ("d", "b")]:
            begin(journal, name, parent=parent)
        assert [row.id for row in journal.below("r")] == ["b", "a", "d"]
        assert [row.id for row in journal.below("b")] == ["d"]
        assert journal.below("d") == []
        assert journal.below("nobody") == []
        assert journal.below("") == []

    def test_runs_that_have_grown(self, journal: Journal) -> None:
        """A run has grown that has records beyond what is known of it."""
        for name in ("a", "b", 'c"ä'):
            journal.append(note(begin(journal, name)))
        known = {"a": 1, "b": 2, 'c"ä': 1, "nobody": 0}
        assert sorted(journal.grown(known)) == ["a", 'c"ä']
        assert journal.grown({}) == []

    def test_whether_anybody_has_written(self, journal: Journal) -> None:
        """The number of changes is the same until there is something new to read."""
        seen = [journal.changes()]
        for name in ("a", "b"):
            assert journal.changes() == seen[-1]
            stream = begin(journal, name)
            seen.append(journal.changes())
            journal.append(note(stream))
            seen.append(journal.changes())
        assert len(set(seen)) == len(seen), seen

    def test_a_run_is_listed_under_its_latest_status(self, journal: Journal) -> None:
        """A change of status is seen at once by whoever looks for it."""
        stream = begin(journal, "a", status="queued")
        epoch = journal.claim(stream)
        journal.append(driven(stream, epoch, 2, row=row("a", status="running")))
        assert [r.id for r in journal.runs(status="running")] == ["a"]
        assert journal.runs(status="queued") == []

    def test_the_roll_up_adds_up(self, journal: Journal) -> None:
        """Postings with the same key become one line; others stay apart, oldest hour first."""
        stream = begin(journal, "a")
        epoch = journal.claim(stream)
        line = Posting(hour=7, agent="x", model="m", calls=1, output_tokens=10, settled_nano=100)
        other = Posting(hour=3, agent="x", model="m", calls_failed=1)
        journal.append(driven(stream, epoch, 2, postings=[line, other, line]))
        journal.append(driven(stream, epoch, 3, postings=[line]))
        total = Posting(hour=7, agent="x", model="m", calls=3, output_tokens=30, settled_nano=300)
        assert journal.rollup() == [other, total]

    def test_every_amount_of_the_roll_up_is_kept(self, journal: Journal) -> None:
        """Each member has a sum of its own, a tool has a line of its own, and less can be said."""
        stream = begin(journal, "a")
        epoch = journal.claim(stream)
        amounts: dict[str, Any] = {name: number for number, name in enumerate(COUNTED, 1)}
        lines = [Posting(hour=7, agent="x", tool=tool, **amounts) for tool in ("", "b", "b")]
        less = Posting(hour=7, agent="x", tool="b", in_doubt_nano=-3, calls_in_doubt=-1)
        journal.append(driven(stream, epoch, 2, postings=[*lines, less]))
        one, two = journal.rollup()
        assert one == lines[0]
        twice: dict[str, Any] = {name: 2 * number for name, number in amounts.items()}
        twice["in_doubt_nano"] -= 3
        twice["calls_in_doubt"] -= 1
        assert two == Posting(hour=7, agent="x", tool="b", **twice)

    # ── what workers look for ──────────────────────────────────────────────────────────────────

    @pytest.mark.parametrize(
        ("status", "wake_at", "is_due"),
        [
            ("queued", None, True),
            ("parked", 9, True),
            ("parked", 10, True),
            ("parked", 11, False),
            ("parked", None, False),
            ("waiting", 9, True),
            ("waiting", 10, True),
            ("waiting", 11, False),
            ("waiting", None, False),
            *((status, wake_at, False) for status in NOT_DRIVEN for wake_at in (None, 9)),
        ],
    )
    def test_when_a_root_is_due(
        self, journal: Journal, *, status: str, wake_at: int | None, is_due: bool
    ) -> None:
        """When it is queued, or sleeps until now at the latest, and in no other status."""
        root(journal, "r", status, wake_at=wake_at)
        assert _ids(journal.due(10)) == ["r"] * is_due

    @pytest.mark.parametrize(
        ("status", "wake_at", "is_due"),
        [
            ("queued", None, True),
            ("parked", 10, True),
            ("parked", 11, False),
            ("parked", None, False),
            ("waiting", 10, True),
            ("waiting", 11, False),
            *((status, 9, False) for status in NOT_DRIVEN),
        ],
    )
    @pytest.mark.parametrize("depth", [1, 3])
    @pytest.mark.parametrize("asleep", ["parked", "waiting"])
    def test_when_a_root_is_due_for_a_run_below_it(  # noqa: PLR0913  (a table)
        self,
        journal: Journal,
        *,
        asleep: str,
        depth: int,
        status: str,
        wake_at: int | None,
        is_due: bool,
    ) -> None:
        """A root that sleeps is due for any run below it that is; and it is listed, not the run."""
        root(journal, "r", asleep, wake_at=99)
        root(journal, "other", asleep, wake_at=99)
        for level in range(1, depth):
            begin(journal, f"c{level}", status=asleep, root="r", parent=f"c{level - 1}")
        begin(journal, "c", status=status, wake_at=wake_at, root="r", parent=f"c{depth - 1}")
        assert _ids(journal.due(10)) == ["r"] * is_due

    @pytest.mark.parametrize("status", NOT_DRIVEN)
    def test_no_run_below_makes_a_root_due_that_does_not_sleep(
        self, journal: Journal, status: str
    ) -> None:
        """What is below a root that is driven, paused, stopped or over waits with it."""
        root(journal, "r", status)
        for name, given in [("a", "queued"), ("b", "parked"), ("c", "waiting")]:
            begin(journal, name, status=given, wake_at=9, root="r", parent="r")
        begin(journal, "orphan", status="queued", root="nobody", parent="nobody")
        assert journal.due(10) == []

    def test_what_is_due_comes_oldest_first(self, journal: Journal) -> None:
        """Each row once and whole, in the order of creation, whatever it is due for."""
        due = [("z", "queued", None), ("b", "parked", 9), ("y", "waiting", 5), ("a", "parked", 99)]
        for name, status, wake_at in due:
            root(journal, name, status, wake_at=wake_at)
        for name, below in [("c", "a"), ("d", "a"), ("e", "b")]:
            begin(journal, name, status="queued", root=below, parent=below)
        journal.append(note("run:z", at=AT + 9))
        assert journal.due(10) == [journal.run(name) for name, _, _ in due]

    def test_no_tenant_hides_another(self, journal: Journal) -> None:
        """Of each tenant the oldest that are due are listed, at most `limit` of them."""
        kinds = [("queued", None), ("parked", 5), ("parked", 99)]
        for number in range(9):
            for tenant in ("acme", "bolt"):
                status, wake_at = kinds[number % 3]
                root(journal, f"{tenant}{number}", status, wake_at=wake_at, tenant=tenant)
        for number in (2, 5):
            below = f"bolt{number}"
            begin(journal, f"c{number}", status="queued", root=below, parent=below, tenant="x")
        root(journal, "late", "queued")
        root(journal, "c", "parked", tenant="d", wake_at=10)
        given = "acme0 bolt0 acme1 bolt1 bolt2 acme3 late c"
        assert _ids(journal.due(10, limit=3)) == given.split()
        assert _ids(journal.due(10, limit=1)) == ["acme0", "bolt0", "late", "c"]
        assert len(journal.due(10)) == 6 + 8 + 2

    def test_a_hundred_of_each_tenant_unless_told(self, journal: Journal) -> None:
        """`limit` is 100."""
        for number in range(202):
            root(journal, f"r{number}", "queued", tenant=str(number % 2))
        assert _ids(journal.due(0)) == [f"r{number}" for number in range(200)]

    def test_what_is_due_follows_the_row(self, journal: Journal) -> None:
        """Whatever a driver's append makes of a run is seen at once by whoever looks for work."""
        stream = root(journal, "r", "queued")
        epoch = journal.claim(stream)
        seen = [(_ids(journal.due(10)), journal.next_wake(0), _ids(journal.running()))]
        for seq, (status, wake_at) in enumerate(
            [("running", None), ("parked", 20), ("parked", 5), ("running", 5), ("stopped", None)], 2
        ):
            given = row("r", root="r", status=status, wake_at=wake_at)
            journal.append(driven(stream, epoch, seq, row=given))
            seen.append((_ids(journal.due(10)), journal.next_wake(0), _ids(journal.running())))
        assert seen == [
            (["r"], None, []),
            ([], None, ["r"]),
            ([], 20, []),
            (["r"], 5, []),
            ([], None, ["r"]),
            ([], None, []),
        ]

    def test_when_the_next_one_wakes(self, journal: Journal) -> None:
        """The earliest time beyond the given one, of roots and of runs below them that sleep."""
        assert journal.next_wake(0) is None
        root(journal, "never", "waiting")
        assert journal.next_wake(0) is None
        root(journal, "b", "waiting", wake_at=30)
        root(journal, "a", "parked", wake_at=10)
        begin(journal, "c", status="parked", wake_at=20, root="a", parent="a")
        begin(journal, "d", status="waiting", wake_at=40, root="a", parent="a")
        for number, status in enumerate(("queued", *NOT_DRIVEN)):
            root(journal, f"r{number}", status, wake_at=15)
            begin(journal, f"s{number}", status=status, wake_at=15, root="a", parent="a")
        times = [journal.next_wake(after) for after in (0, 9, 10, 19, 20, 30, 39, 40)]
        assert times == [10, 10, 20, 20, 30, 40, 40, None]

    def test_which_roots_are_running(self, journal: Journal) -> None:
        """Roots only, oldest first, in no other status, driven or not."""
        for name in ("b", "a", "c"):
            root(journal, name, "running")
        for status in ("queued", "parked", "waiting", *NOT_DRIVEN[1:]):
            root(journal, status, status)
        begin(journal, "d", status="running", root="a", parent="a")
        journal.claim("run:a")
        journal.append(note("run:b", at=AT + 9))
        assert journal.running() == [journal.run(name) for name in ("b", "a", "c")]

    def test_which_streams_nobody_holds(self, journal: Journal) -> None:
        """Those that nobody claimed or that were let go of, in the order they were asked in."""
        streams = [begin(journal, name) for name in "dcba"]
        for stream in streams[1:]:
            journal.claim(stream)
        journal.release(streams[2])
        journal.claim(streams[3], force=True)
        assert journal.unheld(iter(streams)) == ["run:d", "run:b"]
        assert journal.unheld(reversed(streams)) == ["run:b", "run:d"]
        assert journal.unheld([]) == []
        assert journal.unheld(["run:none", streams[1]]) == ["run:none"]
        with pytest.raises(Busy):
            journal.claim(streams[1])
        assert journal.claim(streams[0]) == 1
        assert journal.unheld(streams) == ["run:b"]

    def test_a_worker_has_the_leases_of_its_last_beat(self, journal: Journal) -> None:
        """Each beat raises the counter of what it names, and drops what it does not."""
        c, a, b = (begin(journal, name) for name in "cab")
        assert journal.leases() == []
        for stream in (a, b, c):
            journal.claim(stream, worker="w")
        journal.beat("w", iter([b, c, b]))
        assert journal.leases() == [Lease(c, "w", 2), Lease(b, "w", 2)]
        journal.beat("w", [b, a])
        assert journal.leases() == [Lease(b, "w", 3)], "what was dropped takes a claim"
        journal.beat("w", [])
        assert journal.leases() == []

    def test_a_lease_goes_with_the_claim(self, journal: Journal) -> None:
        """Who claims a stream for a worker gives it the lease; without one nobody has it."""
        a, b = begin(journal, "a"), begin(journal, "b")
        for stream in (a, b):
            journal.claim(stream, worker="one")
        journal.claim(b, force=True, worker="two")
        assert journal.leases() == [Lease(a, "one", 1), Lease(b, "two", 2)]
        journal.claim(a, force=True)
        assert journal.leases() == [Lease(b, "two", 2)]
        journal.release(b)
        assert journal.leases() == [Lease(b, "two", 2)], "to let go says nothing of who moves"

    def test_a_beat_takes_nothing_from_others(self, journal: Journal) -> None:
        """Who was frozen and wakes up raises no counter but those of leases that it still has."""
        a, b = begin(journal, "a"), begin(journal, "b")
        for stream in (a, b):
            journal.claim(stream, worker="one")
        journal.claim(b, force=True, worker="two")
        journal.beat("one", [a, b])
        assert journal.leases() == [Lease(a, "one", 2), Lease(b, "two", 2)]
        journal.beat("two", [])
        assert journal.leases() == [Lease(a, "one", 2)]

    def test_what_does_not_exist_has_no_lease(self, journal: Journal) -> None:
        """A beat names what the worker drives; of a stream that is not there nothing is kept."""
        stream = begin(journal, "a")
        journal.claim(stream, worker="w")
        journal.beat("w", ["run:none", stream])
        assert journal.leases() == [Lease(stream, "w", 2)]

    def test_a_beat_changes_no_run(self, journal: Journal) -> None:
        """Neither records nor rows nor fences know of leases."""
        stream = begin(journal, "a")
        epoch = journal.claim(stream, worker="w")
        before = journal.read_all(), journal.runs()
        journal.beat("w", [stream])
        assert (journal.read_all(), journal.runs()) == before
        journal.append(driven(stream, epoch, 2))

    # ── the ledger ─────────────────────────────────────────────────────────────────────────────

    def test_who_let_go_has_abandoned_it(self, journal: Journal) -> None:
        """A stream that is driven is not abandoned, and one that was let go of is."""
        stream = begin(journal, "a")
        journal.claim(stream)
        assert not journal.abandoned(stream)
        journal.release(stream)
        assert journal.abandoned(stream)
        journal.claim(stream, force=True)
        assert not journal.abandoned(stream)

    def test_who_holds_a_scope(self, journal: Journal) -> None:
        """Calls in flight are named, and neither those that are settled nor those in doubt."""
        stream = begin(journal, "a")
        epoch = journal.claim(stream)
        holds = [
            Hold(call_id=call_id, scope=scope, unit=unit, needed=5)
            for call_id, scope, unit in [
                ("a/c1", "s", "nano"),
                ("a/c2", "s", "nano"),
                ("a/c2", "s", "tokens"),
                ("a/c3", "t", "nano"),
                ("a/c4", "s", "nano"),
            ]
        ]
        journal.append(driven(stream, epoch, 2, holds=holds))
        over = [
            Settlement(call_id="a/c1", amount=1),
            Settlement(call_id="a/c4", amount=5, in_doubt=True),
        ]
        journal.append(driven(stream, epoch, 3, settlements=over))
        assert journal.holders("s") == ["a/c2"]
        assert journal.holders("nobody") == []

    def test_a_hold_is_taken_and_settled(self, journal: Journal) -> None:
        """What was held is replaced by what was spent, in every scope that held it."""
        stream = begin(journal, "a")
        epoch = journal.claim(stream)
        holds = [
            Hold(call_id="c1", scope="fleet", needed=40, limit=100),
            Hold(call_id="c1", scope="fleet", window="2026-01-01", needed=40, limit=50),
            Hold(call_id="c1", scope="tenant:acme", needed=40),
        ]
        journal.append(driven(stream, epoch, 2, holds=holds))
        assert journal.balance("fleet") == Balance(held=40)
        assert journal.balance("fleet", window="2026-01-01") == Balance(held=40)
        assert journal.balance("tenant:acme").taken == 40
        journal.append(driven(stream, epoch, 3, settlements=[Settlement(call_id="c1", amount=25)]))
        assert journal.balance("fleet") == Balance(settled=25)
        assert journal.balance("fleet", window="2026-01-01") == Balance(settled=25)
        assert journal.balance("tenant:acme") == Balance(settled=25)

    def test_in_doubt_is_spent(self, journal: Journal) -> None:
        """A settlement in doubt counts against the limit like any other."""
        stream = begin(journal, "a")
        epoch = journal.claim(stream)
        journal.append(driven(stream, epoch, 2, holds=[Hold(call_id="c", scope="s", needed=60)]))
        doubt = Settlement(call_id="c", amount=60, in_doubt=True)
        journal.append(driven(stream, epoch, 3, settlements=[doubt]))
        assert journal.balance("s") == Balance(in_doubt=60)
        again = Hold(call_id="d", scope="s", needed=50, limit=100)
        with pytest.raises(Refused) as caught:
            journal.append(driven(stream, epoch, 4, holds=[again]))
        assert (caught.value.needed, caught.value.left, caught.value.held) == (50, 40, 0)

    def test_what_is_in_doubt_is_settled_once_somebody_knows(self, journal: Journal) -> None:
        """A later settlement moves it from in doubt to settled, everywhere, and only once."""
        stream = begin(journal, "a")
        epoch = journal.claim(stream)
        holds = [
            Hold(call_id="c", scope="s", needed=60),
            Hold(call_id="c", scope="t", window="day:2026-01-01", needed=60),
            Hold(call_id="d", scope="s", needed=7),
        ]
        journal.append(driven(stream, epoch, 2, holds=holds))
        doubt = Settlement(call_id="c", amount=50, in_doubt=True)
        for seq in (3, 4):  # said twice, it is the same doubt
            journal.append(driven(stream, epoch, seq, settlements=[doubt]))
        assert journal.balance("s") == Balance(in_doubt=50, held=7)
        for seq in (5, 6):
            paid = [Settlement(call_id="c", amount=20)]
            journal.append(driven(stream, epoch, seq, settlements=paid))
        assert journal.balance("s") == Balance(settled=20, held=7)
        assert journal.balance("t", window="day:2026-01-01") == Balance(settled=20)
        again = Hold(call_id="e", scope="s", needed=73, limit=100)
        journal.append(driven(stream, epoch, 7, holds=[again]))
        assert journal.balance("s") == Balance(settled=20, held=80)

    def test_a_hold_may_be_in_doubt_at_once(self, journal: Journal) -> None:
        """What was in doubt before an account was opened is entered there as it is."""
        stream = begin(journal, "a")
        epoch = journal.claim(stream)
        holds = [Hold(call_id=c, scope="s", needed=6, in_doubt=c == "c") for c in "cd"]
        journal.append(driven(stream, epoch, 2, holds=holds))
        assert journal.balance("s") == Balance(in_doubt=6, held=6)
        paid = [Settlement(call_id=c, amount=2) for c in "cd"]
        journal.append(driven(stream, epoch, 3, settlements=paid))
        assert journal.balance("s") == Balance(settled=4)

    def test_what_is_in_doubt_may_come_to_be_less(self, journal: Journal) -> None:
        """A settlement in doubt replaces an earlier one of the same call, also in one commit."""
        stream = begin(journal, "a")
        epoch = journal.claim(stream)
        journal.append(driven(stream, epoch, 2, holds=[Hold(call_id="c", scope="s", needed=60)]))
        doubts = [Settlement(call_id="c", amount=n, in_doubt=True) for n in (60, 40)]
        journal.append(driven(stream, epoch, 3, settlements=doubts))
        assert journal.balance("s") == Balance(in_doubt=40)
        again = Hold(call_id="c", scope="s", needed=1)
        with pytest.raises(UsageError, match="every attempt has a call id of its own"):
            journal.append(driven(stream, epoch, 4, holds=[again]))
        journal.append(driven(stream, epoch, 4, settlements=[Settlement(call_id="c", amount=0)]))
        assert journal.balance("s") == Balance()

    def test_a_call_is_settled_once(self, journal: Journal) -> None:
        """Settling what holds nothing changes nothing."""
        stream = begin(journal, "a")
        epoch = journal.claim(stream)
        journal.append(driven(stream, epoch, 2, holds=[Hold(call_id="c", scope="s", needed=9)]))
        for seq in (3, 4):
            settled = [Settlement(call_id="c", amount=5), Settlement(call_id="x", amount=5)]
            journal.append(driven(stream, epoch, seq, settlements=settled))
        assert journal.balance("s") == Balance(settled=5)

    @pytest.mark.parametrize(
        ("needed", "limit", "left", "held"),
        [(41, 100, 40, 50), (91, 100, 40, 50), (1, 50, 0, 40), (1, 5, 0, 0)],
        ids=["others hold it", "spent", "nothing left", "over the limit already"],
    )
    def test_a_hold_that_does_not_fit(
        self, journal: Journal, needed: int, limit: int, left: int, held: int
    ) -> None:
        """`Refused` says how much waiting for others would help.  10 are settled, 50 held."""
        stream = begin(journal, "a")
        epoch = journal.claim(stream)
        first = Hold(call_id="c1", scope="s", needed=10)
        journal.append(driven(stream, epoch, 2, holds=[first]))
        journal.append(
            driven(
                stream,
                epoch,
                3,
                settlements=[Settlement(call_id="c1", amount=10)],
                holds=[Hold(call_id="c2", scope="s", needed=50)],
            )
        )
        fits = Hold(call_id="c3", scope="other", needed=5)
        hold = Hold(call_id="c3", scope="s", needed=needed, limit=limit)
        with pytest.raises(Refused) as caught:
            journal.append(driven(stream, epoch, 4, holds=[fits, hold]))
        refused = caught.value
        assert (refused.scope, refused.unit, refused.needed) == ("s", "nano", needed)
        assert (refused.left, refused.held) == (left, held)
        assert journal.balance("s") == Balance(settled=10, held=50)
        assert journal.balance("other") == Balance()
        assert len(journal.read(stream)) == 3

    def test_what_is_given_back_can_be_taken_at_once(self, journal: Journal) -> None:
        """A commit settles before it holds; several holds of one commit add up."""
        stream = begin(journal, "a")
        epoch = journal.claim(stream)
        journal.append(
            driven(stream, epoch, 2, holds=[Hold(call_id="c", scope="s", needed=9, limit=10)])
        )
        back = [Settlement(call_id="c", amount=1)]
        two = [Hold(call_id=c, scope="s", needed=5, limit=10) for c in ("d", "e")]
        with pytest.raises(Refused):
            journal.append(driven(stream, epoch, 3, settlements=back, holds=two))
        assert journal.balance("s") == Balance(held=9)
        journal.append(driven(stream, epoch, 3, settlements=back, holds=two[:1]))
        assert journal.balance("s") == Balance(settled=1, held=5)

    def test_units_are_apart(self, journal: Journal) -> None:
        """Tokens and money of one call are held and settled independently."""
        stream = begin(journal, "a")
        epoch = journal.claim(stream)
        holds = [
            Hold(call_id="c", scope="s", needed=7),
            Hold(call_id="c", scope="s", unit="tokens", needed=900),
        ]
        journal.append(driven(stream, epoch, 2, holds=holds))
        spent = Settlement(call_id="c", unit="tokens", amount=100)
        journal.append(driven(stream, epoch, 3, settlements=[spent]))
        assert journal.balance("s") == Balance(held=7)
        assert journal.balance("s", unit="tokens") == Balance(settled=100)

    def test_numbers_are_moved_on(self, journal: Journal) -> None:
        """Each becomes `max(number, least) + by`; they begin at 0, and may go below it."""
        moves = [
            Advance(name="a", by=5),
            Advance(name="a", by=1, least=100),
            Advance(name="b", by=-3),
            Advance(name="a", by=1, least=7),
        ]
        assert journal.advance(moves) == [5, 101, -3, 102]
        assert journal.advance([Advance(name="a", by=1, most=0)]) == [103]
        assert journal.numbers(["b", "none", "a"]) == [-3, 0, 103]
        assert journal.advance([]) == []
        assert asyncio.run(journal.aadvance(moves[:2])) == [108, 109]

    def test_a_commit_moves_numbers_on(self, journal: Journal) -> None:
        """With its events, or not at all; one that would be beyond what it may be refuses it."""
        stream = begin(journal, "a")
        epoch = journal.claim(stream)
        fits = Advance(name="a", by=10, least=1_000, most=1_010)
        journal.append(driven(stream, epoch, 2, advances=[fits]))
        other = Advance(name="b", by=1)
        with pytest.raises(TooSoon) as caught:
            journal.append(driven(stream, epoch, 3, advances=[other, fits]))
        assert (caught.value.name, caught.value.value, caught.value.most) == ("a", 1_020, 1_010)
        full = Hold(call_id="c", scope="s", needed=2, limit=1)
        with pytest.raises(Refused):
            journal.append(driven(stream, epoch, 3, holds=[full], advances=[other]))
        with pytest.raises(TooSoon):
            journal.append(
                driven(stream, epoch, 3, holds=[replace(full, limit=5)], advances=[fits])
            )
        assert journal.numbers(["a", "b"]) == [1_010, 0]
        assert journal.balance("s") == Balance()
        assert len(journal.read(stream)) == 2
        journal.append(driven(stream, epoch, 3, advances=[other, other]))
        assert journal.numbers(["b"]) == [2]

    def test_numbers_are_everybodys(self, journal: Journal) -> None:
        """Who moves one on sees what all threads have made of it; nobody gets the same twice."""

        def take(_: int) -> list[int]:
            return [journal.advance([Advance(name="n", by=1)])[0] for _ in range(25)]

        with ThreadPoolExecutor(4) as threads:
            taken = [value for values in threads.map(take, range(4)) for value in values]
        assert sorted(taken) == list(range(1, 101))

    def test_a_call_holds_once(self, journal: Journal) -> None:
        """Holding again for the same call would lose the first hold, so it is refused."""
        stream = begin(journal, "a")
        epoch = journal.claim(stream)
        hold = Hold(call_id="c", scope="s", needed=7)
        journal.append(driven(stream, epoch, 2, holds=[hold]))
        with pytest.raises(UsageError, match="holds nano of s"):
            journal.append(driven(stream, epoch, 3, holds=[hold]))
        assert journal.balance("s") == Balance(held=7)

    def test_what_is_paid_is_settled_at_once(self, journal: Journal) -> None:
        """An amount that is paid counts as spent, and no settlement is waited for."""
        stream = begin(journal, "a")
        epoch = journal.claim(stream)
        paid = Hold(call_id="c", scope="s", needed=7, paid=True)
        journal.append(driven(stream, epoch, 2, holds=[paid]))
        assert journal.balance("s") == Balance(settled=7)
        journal.append(driven(stream, epoch, 3, settlements=[Settlement(call_id="c", amount=1)]))
        assert journal.balance("s") == Balance(settled=7)

    def test_windows_that_roll_on_count_together(self, journal: Journal) -> None:
        """From `since` on, every window of the kind counts against the limit, and no other."""
        stream = begin(journal, "a")
        epoch = journal.claim(stream)

        def rolling(call_id: str, window: str, needed: int, **more: Any) -> Hold:
            return Hold(call_id=call_id, scope="s", window=window, needed=needed, **more)

        begun = [
            rolling("c1", "6h:0003", 100),  # before all that counts
            rolling("c2", "6h:0004", 10),
            rolling("c3", "6h:0009", 20),  # of a clock that was ahead
            rolling("c4", "12h:0004", 500),
            rolling("c5", "total", 500),
            Hold(call_id="c6", scope="t", window="6h:0005", needed=500),
            rolling("c7", "6h:0004", 500, unit="tokens"),
        ]
        journal.append(driven(stream, epoch, 2, holds=begun))
        paid = [Settlement(call_id="c2", amount=10)]
        journal.append(driven(stream, epoch, 3, settlements=paid))
        assert journal.balance("s", since="6h:0004") == Balance(settled=10, held=20)
        for needed in (41, 61):
            hold = rolling("d", "6h:0005", needed, limit=70, since="6h:0004")
            with pytest.raises(Refused) as caught:
                journal.append(driven(stream, epoch, 4, holds=[hold]))
            assert (caught.value.left, caught.value.held) == (40, 20)
        two = [rolling(c, "6h:0005", 20, limit=70, since="6h:0004") for c in ("d", "e")]
        journal.append(driven(stream, epoch, 4, holds=two))
        full = rolling("f", "6h:0006", 1, limit=70, since="6h:0004")
        with pytest.raises(Refused):
            journal.append(driven(stream, epoch, 5, holds=[full]))
        freed = rolling("f", "6h:0010", 30, limit=70, since="6h:0005")
        with pytest.raises(Refused):
            journal.append(driven(stream, epoch, 5, holds=[freed]))
        journal.append(driven(stream, epoch, 5, holds=[replace(freed, needed=10)]))

    # ── the chain ──────────────────────────────────────────────────────────────────────────────

    def test_every_stream_is_a_chain(self, journal: Journal) -> None:
        """Each record carries the hash of the one before, from the first on."""
        one, two = begin(journal, "one"), begin(journal, "two")
        epoch = journal.claim(one)
        journal.append(driven(one, epoch, 2, message("x"), message("y")))
        for stream in (two, one, two):
            journal.append(note(stream))
        assert check_chain(journal.proofs(one)) == 4
        assert check_chain(journal.proofs(two)) == 3

    def test_proofs_hold_what_was_appended(self, journal: Journal) -> None:
        """Body, type and kept fields are those of the event; salts are never the same."""
        stream = begin(journal, "a")
        call = ModelCallStarted(
            ask_id="main",
            call_id="c1",
            max_tokens=5,
            request_hash="00",
            hold_nano=12,
            hold_tokens=3,
        )
        (record, _) = journal.append(driven(stream, journal.claim(stream), 2, call, message()))
        proof, plain = list(journal.proofs(stream, after=1))
        assert proof.body == encode(call)
        assert decode(proof.body) == record.event
        assert (proof.type, proof.meta) == (
            "model_call_started",
            b'{"call_id":"c1","hold_nano":12}',
        )
        assert (plain.type, plain.meta) == ("message_received", b"")
        assert proof.salt is not None
        assert len(proof.salt) == 16
        assert proof.salt != plain.salt

    def test_proofs_can_be_read_from_anywhere(self, journal: Journal) -> None:
        """A long stream comes whole, and in order, whatever the size of the steps."""
        for count in (1500, 600):
            notes = [NoteAdded(text=str(n)) for n in range(count)]
            journal.append(Commit(stream="~log", events=notes, at=AT))
        assert check_chain(journal.proofs("~log")) == 2100
        assert [p.seq for p in journal.proofs("~log", after=2098)] == [2099, 2100]

    # ── blobs ──────────────────────────────────────────────────────────────────────────────────

    def test_a_blob_is_stored_once_under_its_hash(self, journal: Journal) -> None:
        """Storing the same content again is the same blob."""
        content = bytes(range(256)) * 5000
        digest = journal.put_blob(content)
        assert digest == sha256(content).hexdigest() == journal.put_blob(content)
        assert journal.blob(digest) == content
        assert journal.blob(journal.put_blob(b"")) == b""

    def test_a_blob_that_is_not_there(self, journal: Journal) -> None:
        """An unknown hash, or what is none, finds nothing."""
        assert journal.blob("00" * 32) is None
        assert journal.blob("not a hash") is None

    # ── what cannot be read ────────────────────────────────────────────────────────────────────

    def test_a_newer_journal_is_refused(self, journal: Journal) -> None:
        """A run that a newer version writes is neither read nor driven, and says what to do."""
        newer = JOURNAL_VERSION + 1
        commit = Commit(
            stream="run:a",
            events=[started(journal_version=newer)],
            at=AT,
            expected_seq=1,
            row=row("a"),
        )
        journal.append(commit)
        # Its bodies may be of types that this version does not know.
        self.tamper(journal, "run:a", 1, "body garbled")
        for refused in (
            lambda: journal.read("run:a"),
            lambda: journal.read("run:a", after=1),
            lambda: journal.claim("run:a"),
            journal.read_all,
        ):
            with pytest.raises(JournalTooNew, match="upgrade this worker") as caught:
                refused()
            assert (caught.value.version, caught.value.ours) == (newer, JOURNAL_VERSION)

    @pytest.mark.parametrize("what", ["body gone", "body garbled", "record gone"])
    @pytest.mark.parametrize("seq", [1, 2, 4], ids=["first", "middle", "last"])
    def test_damage_is_told(self, journal: Journal, what: Tampering, seq: int) -> None:
        """What cannot have been written is never skipped, and the message says where it is."""
        stream = begin(journal, "a")
        for _ in range(3):
            journal.append(note(stream))
        self.tamper(journal, stream, seq, what)
        with pytest.raises(JournalDamaged, match=f"seq {seq}") as caught:
            journal.read(stream)
        assert (caught.value.stream, caught.value.seq) == (stream, seq)
        with pytest.raises(JournalDamaged, match=f"seq {seq}"):
            journal.read(stream, after=seq - 1, limit=1)
        with pytest.raises(JournalDamaged):
            journal.read_all()

    # ── many at once ───────────────────────────────────────────────────────────────────────────

    def test_threads_lose_nothing(self, journal: Journal) -> None:
        """Threads that append to one stream and to their own never lose, double or mix records."""
        shared = begin(journal, "shared")
        own = [begin(journal, f"own{n}") for n in range(4)]
        ready = threading.Barrier(4)

        def work(stream: str) -> None:
            epoch = journal.claim(stream)
            ready.wait(30)
            for seq in range(2, 22):
                journal.append(driven(stream, epoch, seq))
                journal.append(note(shared, f"{stream} {seq}"))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, own))
        assert check_chain(journal.proofs(shared)) == 81
        assert all(check_chain(journal.proofs(stream)) == 21 for stream in own)
        assert [r.position for r in journal.read_all()] == list(range(1, 166))

    def test_readers_see_no_gap(self, journal: Journal) -> None:
        """Whoever follows the positions while others append misses none."""
        streams = [begin(journal, str(n)) for n in range(3)]
        seen: list[Record] = []
        done = threading.Event()

        def follow() -> None:
            while len(seen) < 63:
                seen.extend(journal.read_all(after=len(seen), limit=7))
                if done.is_set() and len(journal.read_all(after=len(seen))) == 0:
                    return

        def work(stream: str) -> None:
            for _ in range(20):
                journal.append(note(stream))

        with ThreadPoolExecutor(4) as pool:
            follower = pool.submit(follow)
            list(pool.map(work, streams))
            done.set()
            follower.result(30)
        assert [r.position for r in seen] == list(range(1, 64))

    def test_one_refusal_fails_one_append(self, journal: Journal) -> None:
        """Of appends that are written together, those that are refused harm no other."""
        streams = [begin(journal, f"r{n}") for n in range(20)]
        epochs = {stream: journal.claim(stream) for stream in streams}
        good = [driven(stream, epochs[stream], 2) for stream in streams]
        bad: list[Commit] = [
            driven(streams[0], epochs[streams[0]], 7),
            driven(streams[1], 9, 2),
            driven(
                streams[2],
                epochs[streams[2]],
                3,
                holds=[Hold(call_id="c", scope="s", needed=2, limit=1)],
            ),
            note("run:none"),
        ]
        expected: Sequence[type[Exception]] = (Conflict, Fenced, Refused, RunNotFound)

        async def together() -> list[Any]:
            mixed = [*good[:10], *bad, *good[10:]]
            return await asyncio.gather(*map(journal.aappend, mixed), return_exceptions=True)

        outcomes = asyncio.run(together())
        assert [type(o) for o in outcomes[10:14]] == list(expected)
        assert all(o[0].seq == 2 for o in outcomes[:10] + outcomes[14:])
        assert all(check_chain(journal.proofs(stream)) == 2 for stream in streams)
        assert [r.position for r in journal.read_all()] == list(range(1, 41))
        assert journal.balance("s") == Balance()

    def test_appends_of_one_group_build_on_each_other(self, journal: Journal) -> None:
        """Commits to one stream that are written together are in the order they were given."""
        stream = begin(journal, "a")
        epoch = journal.claim(stream)
        hold = [Hold(call_id=f"c{n}", scope="s", needed=4, limit=10) for n in range(3)]
        parked = [row("a", status="parked", turns=n) for n in range(4)]

        def together(*given: Commit) -> list[str]:
            async def append() -> list[Any]:
                appends = map(journal.aappend, given)
                return await asyncio.gather(*appends, return_exceptions=True)

            return [type(outcome).__name__ for outcome in asyncio.run(append())]

        def found() -> tuple[str, int, int, int]:
            run = journal.run("a")
            assert run is not None
            return run.status, run.turns, run.next_seq, run.updated_at

        assert together(
            driven(stream, epoch, 2, row=parked[1], holds=hold[:1]),
            note(stream, at=AT + 3),
            driven(stream, epoch, 3, holds=hold[1:2]),
            driven(stream, epoch, 4, row=parked[2], holds=hold[1:2]),
            driven(stream, epoch, 5, holds=hold[2:3]),
        ) == ["tuple", "tuple", "Conflict", "tuple", "Refused"]
        assert found() == ("parked", 2, 5, AT)
        assert together(driven(stream, epoch, 5, row=parked[3]), note(stream, at=AT + 9)) == [
            "tuple",
            "tuple",
        ]
        assert found() == ("parked", 3, 7, AT + 9)
        assert journal.balance("s") == Balance(held=8)
        assert check_chain(journal.proofs(stream)) == 6

    def test_loops_of_several_threads(self, journal: Journal) -> None:
        """Every event loop of the process may append, each gets its own answers."""
        streams = [begin(journal, str(n)) for n in range(3)]

        def work(stream: str) -> list[int]:
            async def appends() -> list[int]:
                given = [await journal.aappend(note(stream)) for _ in range(10)]
                return [records[0].seq for records in given]

            return asyncio.run(appends())

        with ThreadPoolExecutor(3) as pool:
            assert list(pool.map(work, streams)) == [list(range(2, 12))] * 3

    # ── the end ────────────────────────────────────────────────────────────────────────────────

    def test_a_closed_journal_says_so(self, tmp_path: Path) -> None:
        """Using it after `close` is an error; closing it twice, or letting go of a run, is none."""
        journal = self.open(tmp_path)
        stream = begin(journal, "a")
        journal.claim(stream)
        journal.unheld([stream])
        journal.close()
        journal.close()
        journal.release(stream)
        for use in (
            lambda: journal.append(note(stream)),
            lambda: journal.read(stream),
            lambda: journal.claim(stream),
            lambda: journal.due(0),
            lambda: journal.unheld([stream]),
            lambda: journal.beat("w", [stream]),
            lambda: asyncio.run(journal.aappend(note(stream))),
        ):
            with pytest.raises(StoreError, match="closed"):
                use()

    def test_what_was_accepted_is_written_before_the_end(self, tmp_path: Path) -> None:
        """`close` waits for appends that are under way."""
        journal = self.open(tmp_path)
        stream = begin(journal, "a")

        async def append_and_close() -> list[Any]:
            tasks = [asyncio.ensure_future(journal.aappend(note(stream))) for _ in range(5)]
            await asyncio.sleep(0)
            journal.close()
            return await asyncio.gather(*tasks)

        outcomes = asyncio.run(append_and_close())
        assert [records[0].seq for records in outcomes] == [2, 3, 4, 5, 6]

    def test_everything_is_there_after_opening_again(self, tmp_path: Path) -> None:
        """Events, rows, roll-up, ledger, blobs, leases, fence and chain outlive the process."""
        if not self.persistent:
            pytest.skip("this store ends with its process")
        journal = self.open(tmp_path)
        stream = begin(journal, "a")
        epoch = journal.claim(stream, worker="w")
        journal.append(
            driven(
                stream,
                epoch,
                2,
                row=row("a", turns=3),
                holds=[Hold(call_id=c, scope="s", needed=7) for c in "cd"],
                postings=[Posting(hour=1, agent="researcher", calls=1)],
            )
        )
        doubt = [Settlement(call_id="d", amount=7, in_doubt=True)]
        journal.append(driven(stream, epoch, 3, settlements=doubt))
        digest = journal.put_blob(b"content")
        journal.beat("w", [stream])
        before = self._everything(journal, digest)
        journal.close()
        journal = self.open(tmp_path)
        try:
            assert self._everything(journal, digest) == before
            assert journal.claim(stream) == epoch + 1
            with pytest.raises(Fenced):
                journal.append(driven(stream, epoch, 4))
            given = [Settlement(call_id="c", amount=2), Settlement(call_id="d", amount=3)]
            journal.append(driven(stream, epoch + 1, 4, settlements=given))
            assert journal.balance("s") == Balance(settled=5)
            assert check_chain(journal.proofs(stream)) == 4
        finally:
            journal.close()

    def _everything(self, journal: Journal, digest: str) -> tuple[Any, ...]:
        return (
            journal.read_all(),
            list(journal.proofs("run:a")),
            journal.runs(),
            journal.balance("s"),
            journal.rollup(),
            journal.blob(digest),
            journal.leases(),
        )
