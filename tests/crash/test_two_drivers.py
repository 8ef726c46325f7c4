"""Two drivers on one run, and people who write into it while a call is in flight."""

from collections import Counter
from functools import cache

import pytest
from agents import QUESTION, Effects, agent, claude
from hypothesis import given, settings
from hypothesis import strategies as st
from test_everywhere import DID_NOT, Played, check

from conftest import SOAK
from outlast.events import ModelCallInDoubt, ModelCallSucceeded, NoteAdded, encode, tag
from outlast.journal import Commit, Journal, Record, run_stream
from outlast.starting import begin
from outlast.state import fold
from outlast.stores import open_store
from outlast.testing.simulation import Driver, World, canonical, run

HISTORIES = 2_500 if SOAK else 400


class Duel:
    """Two drivers of one run; the second takes over while the first may still live."""

    def __init__(self) -> None:
        self.effects = Effects()
        self.world = World(claude())
        self.journal: Journal = open_store("memory://")
        begin(self.journal, "r", agent(self.effects), QUESTION, at=self.world.tick(), nonce="n")
        self.drivers = [self.driver()]

    def driver(self) -> Driver:
        return Driver(self.world, self.journal, agent(self.effects), "r")

    def note(self) -> None:
        note = NoteAdded(text="I am watching", by="ann")
        self.journal.append(Commit(stream="run:r", events=(note,), at=self.world.tick()))

    def play(self, moves: list[int], takeover: int) -> None:
        for turn, move in enumerate(moves):
            if turn == takeover:
                self.drivers.append(self.driver())
            if move % 11 == 0:
                self.note()
            choices = [choice for driver in self.drivers for choice in driver.choices()]
            if choices:
                choices[move % len(choices)]()
        for driver in self.drivers:
            while not driver.done:
                driver.choices()[0]()


@pytest.mark.timeout(900)
@settings(max_examples=HISTORIES)
@given(
    moves=st.lists(st.integers(min_value=0, max_value=1_000), max_size=70),
    takeover=st.integers(min_value=0, max_value=69),
)
def test_two_drivers(moves: list[int], takeover: int) -> None:
    """Whatever the order of their steps, two drivers double no effect and lose no paid call."""
    duel = Duel()
    duel.play(moves, takeover)
    effects, records = duel.effects, duel.journal.read(run_stream("r"))
    assert [driver.state for driver in duel.drivers if driver.state] == [fold(records)]
    assert fold(records).status == "completed"
    assert len(effects.sent) <= 1, "a once tool ran twice"
    assert list(effects.saved.values()) == ["a"], "one effect for one key"
    count = Counter(tag(record.event) for record in records)
    asked = len(duel.world.requests)
    assert asked <= count["model_call_started"], "a request left without an intent"
    outcomes = sum(count[f"model_call_{end}"] for end in ("succeeded", "failed", "in_doubt"))
    assert outcomes == count["model_call_started"], "a paid call has no outcome"
    billed = sum(charge.nano_usd for charge in duel.world.model.bill)
    assert billed <= fold(records).spend.nano
    assert asked <= 6 + len(duel.drivers) - 1, "a takeover repeats one call at most"
    if DID_NOT not in json_text(records):
        # In whatever order the tools answered, Claude is sent the one history.
        assert {*map(canonical, duel.world.requests)} <= expected_requests()


@cache
def expected_requests() -> frozenset[str]:
    """Return the requests of a run that nobody disturbs."""
    return frozenset(Played(open_store("memory://")).requests)


def json_text(records: list[Record]) -> str:
    return "".join(encode(record.event).decode() for record in records)


def test_second_driver_is_only_needed_after_the_first() -> None:
    """A driver that was taken over starts no effect any more."""
    duel = Duel()
    first = duel.drivers[0]
    first.choices()[0]()  # its first intent is durable
    second = duel.driver()
    asked = len(duel.world.requests)
    while not first.done:
        first.choices()[-1]()
    assert first.fenced
    # The one call whose intent it had written may have left; nothing after it.
    assert len(duel.world.requests) == asked + 1
    assert second.run().status == "completed"


def test_outside_appends_at_every_point() -> None:
    """Whoever writes into a run at whatever moment: no call is added, and no outcome is dropped."""
    uninterrupted = Played(open_store("memory://"))
    for point in range(3, uninterrupted.world.points + 1):
        journal = open_store("memory://")
        note = Commit(stream="run:r", events=(NoteAdded(text="hello"),), at=1)
        effects = Effects()
        world = World(claude(), at={point: lambda j=journal, n=note: j.append(n)})
        state, crashes = run(world, journal, agent(effects), QUESTION)
        assert crashes == 0
        assert list(map(canonical, world.requests)) == list(
            map(canonical, uninterrupted.world.requests)
        )
        assert state.answer == uninterrupted.state.answer
        assert effects.sent == ["b"]
        assert effects.saves == 1
        records = journal.read(run_stream("r"))
        assert [r.event.text for r in records if isinstance(r.event, NoteAdded)] == ["hello"]
        assert state == fold(records) or point == world.points
        kinds = Counter(type(record.event) for record in records)
        paid = len(world.model.bill)
        assert kinds[ModelCallSucceeded] + kinds[ModelCallInDoubt] == paid


def test_a_crash_after_a_note_is_like_any_other() -> None:
    """A note in front of a crash changes nothing of what the next driver does."""
    uninterrupted = Played(open_store("memory://"))
    for point in range(3, uninterrupted.world.points + 1):
        journal = open_store("memory://")
        note = Commit(stream="run:r", events=(NoteAdded(text="hello"),), at=1)
        played = Played.__new__(Played)
        played.effects, played.journal = Effects(), journal
        played.world = World(
            claude(), crash_at=(point,), at={point: lambda j=journal, n=note: j.append(n)}
        )
        played.state, played.crashes = run(played.world, journal, agent(played.effects), QUESTION)
        if point < uninterrupted.world.points - 1:
            check(played, uninterrupted)
