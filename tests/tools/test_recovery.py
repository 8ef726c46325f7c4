"""What is tried after a call came to nothing: which source, when, and how often."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from msgspec.structs import replace

from outlast.conversation import Pending, Tally, Try
from outlast.events import Effect, ErrorClass
from outlast.recovery import (
    BACKOFF_S,
    HINTS,
    LONGEST_S,
    NS,
    REPEATS,
    RETRIES,
    SHARE,
    Next,
    doubtful,
    following,
    given_up,
)

NOW = 1_790_000_000 * NS
FRESH = Tally(1, 0)


class Source:
    """A source that is asked three times."""

    def __init__(self, effect: Effect, attempts: int = 3, retry_on: tuple[str, ...] = ()) -> None:
        self.effect = effect
        self.attempts = attempts
        self.retry_on = frozenset(retry_on)


def failed(error_class: ErrorClass | str = "unavailable", *, rank: int = 0, **more: Any) -> Try:
    told: dict[str, Any] = {"kind": "raised", "at": NOW} | more
    return Try(rank=rank, error_class=error_class, **told)  # type: ignore[arg-type]


def after(*tried: Try, **more: Any) -> Pending:
    return Pending(tool_use_id="t", name="look", arguments=Raw(b"{}"), tried=tried, **more)


def asked_next(pending: Pending, *sources: Source, tally: Tally = FRESH) -> Next | None:
    return following(pending, sources, tally, "seed")


# ── the table: class × effect ───────────────────────────────────────────────────────────────────

AGAIN, ELSEWHERE, NOTHING = "again", "elsewhere", "nothing"

TABLE: dict[ErrorClass, tuple[str, str, str, bool]] = {
    # of a read, an idempotent one, a once; and whether it is in doubt unless it is a read
    "timeout_before_sending": (AGAIN, AGAIN, AGAIN, False),
    "timeout_after_sending": (AGAIN, AGAIN, NOTHING, True),
    "rate_limited": (AGAIN, AGAIN, AGAIN, False),
    "unavailable": (AGAIN, AGAIN, NOTHING, True),
    "auth": (ELSEWHERE, ELSEWHERE, ELSEWHERE, False),
    "forbidden": (ELSEWHERE, ELSEWHERE, ELSEWHERE, False),
    "not_found": (ELSEWHERE, ELSEWHERE, ELSEWHERE, False),
    "stale": (ELSEWHERE, ELSEWHERE, ELSEWHERE, False),
    "bad_output": (ELSEWHERE, NOTHING, NOTHING, False),
    "bug": (ELSEWHERE, NOTHING, NOTHING, False),
    "invalid_arguments": (NOTHING, NOTHING, NOTHING, False),
    "conflict": (NOTHING, NOTHING, NOTHING, False),
    "too_large": (NOTHING, NOTHING, NOTHING, False),
    "refused": (NOTHING, NOTHING, NOTHING, False),
}
EFFECTS: tuple[Effect, ...] = ("read", "idempotent", "once")
CELLS = [
    (error_class, effect, row[number], row[3] and effect != "read")
    for error_class, row in TABLE.items()
    for number, effect in enumerate(EFFECTS)
]


def test_the_table_is_whole() -> None:
    """Every class has a row, and something that Claude is told of it."""
    assert set(TABLE) == set(HINTS) == set(get_args(ErrorClass))


@pytest.mark.parametrize(("error_class", "effect", "then", "doubt"), CELLS)
def test_class_by_effect(error_class: ErrorClass, effect: Effect, then: str, doubt: bool) -> None:  # noqa: FBT001
    """What is repeated, goes elsewhere or goes back to Claude is as the table says."""
    sources = Source(effect), Source(effect)
    next_ = asked_next(after(failed(error_class)), *sources)
    said = NOTHING if next_ is None else (AGAIN, ELSEWHERE)[next_.rank]
    assert said == then
    assert doubtful(error_class, effect) is doubt
    if then == ELSEWHERE:
        assert next_ == Next(1), "and at once"


@pytest.mark.parametrize(("error_class", "effect", "then", "doubt"), CELLS)
def test_the_last_attempt_goes_elsewhere(
    error_class: ErrorClass,
    effect: Effect,
    then: str,
    doubt: bool,  # noqa: FBT001
) -> None:
    """Where the attempts are over, the next source is asked, unless the call may have happened."""
    sources = Source(effect, attempts=1), Source(effect)
    next_ = asked_next(after(failed(error_class)), *sources)
    surely = then != NOTHING and not (effect == "idempotent" and doubt)
    assert next_ == (Next(1) if surely else None)
    assert asked_next(after(failed(error_class)), sources[0]) is None


@pytest.mark.parametrize("error_class", ["not_found", "bad_output", "bug", "conflict"])
def test_further_classes_may_be_worth_it(error_class: ErrorClass) -> None:
    """`retry_on` adds classes; a `once` is repeated only where it surely did not happen."""
    for effect, again in (("read", True), ("idempotent", True), ("once", False)):
        source = Source(effect, retry_on=(error_class,))  # type: ignore[arg-type]
        next_ = asked_next(after(failed(error_class)), source)
        assert (next_ is not None) is again


# ── when ────────────────────────────────────────────────────────────────────────────────────────


@given(seed=st.text(max_size=20), made=st.integers(1, 19))
def test_the_pause_doubles_up_to_a_bound(seed: str, made: int) -> None:
    """Before attempt n + 1 there is the n-th pause, and at most half as much again."""
    tried = [failed(at=NOW + n) for n in range(made)]
    next_ = following(after(*tried), [Source("read", attempts=20)], Tally(100, 0), seed)
    assert next_ is not None
    assert next_.rank == 0
    wait_s = (next_.at - tried[-1].at) / NS
    pause_s = BACKOFF_S[min(made, len(BACKOFF_S)) - 1]
    assert pause_s <= wait_s <= pause_s * 1.5 < LONGEST_S
    assert following(after(*tried), [Source("read", attempts=20)], Tally(100, 0), seed) == next_


def test_pauses_differ() -> None:
    """Calls that failed together are not made again together."""
    ats = {following(after(failed()), [Source("read")], FRESH, f"{n}").at for n in range(50)}  # type: ignore[union-attr]
    assert len(ats) > 25


@pytest.mark.parametrize(
    ("told_s", "least_s"),
    [(0.0, 0.5), (0.1, 0.5), (5.0, 5.0), (59.0, 59.0), (LONGEST_S, LONGEST_S)],
)
def test_a_source_may_say_how_long(told_s: float, least_s: float) -> None:
    """A source that says when to come again is asked then, and not sooner than without."""
    next_ = asked_next(after(failed("rate_limited", retry_after_s=told_s)), Source("read"))
    assert next_ is not None
    assert (next_.at - NOW) / NS >= least_s
    assert (next_.at - NOW) / NS <= max(least_s, 0.75)


@pytest.mark.parametrize("told_s", [LONGEST_S + 0.001, 3_600.0, 1e12])
@pytest.mark.parametrize("effect", ["read", "idempotent", "once"])
def test_who_wants_to_be_left_alone_for_long_is(told_s: float, effect: Effect) -> None:
    """Beyond a minute nobody waits: the next source is asked at once, or Claude is told."""
    pending = after(failed("rate_limited", retry_after_s=told_s))
    assert asked_next(pending, Source(effect), Source("read")) == Next(1)
    assert asked_next(pending, Source(effect)) is None


# ── how often ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("attempts", [1, 2, 5, 20])
def test_a_source_has_so_many_attempts(attempts: int) -> None:
    """Of one tool use a source is asked as often as it says, and each of them by its own count."""
    sources = Source("read", attempts=attempts), Source("read", attempts=2)
    tried: list[Try] = []
    while (next_ := asked_next(after(*tried), *sources, tally=Tally(200, 0))) is not None:
        tried.append(failed(rank=next_.rank))
    assert [one.rank for one in tried] == [0] * attempts + [1] * 2


@pytest.mark.parametrize("calls", [0, 1, 4, 5, 200, 1_000])
def test_a_source_is_asked_again_so_often_in_a_run(calls: int) -> None:
    """Beside a few, each source has a share of repeats: then the next one is asked at once."""
    most = RETRIES + calls // SHARE
    pending = after(failed())
    for retries, again in ((most - 1, True), (most, False), (most + 1, False)):
        next_ = asked_next(pending, Source("read"), Source("read"), tally=Tally(calls, retries))
        assert next_ is not None
        assert (next_.rank == 0) is again


def test_a_breaker_is_no_attempt() -> None:
    """Where nobody asks a source, the next one is asked at once, whatever the effect."""
    skipped = failed(kind="breaker")
    for effect in EFFECTS:
        assert asked_next(after(skipped), Source(effect), Source(effect)) == Next(1)
        assert asked_next(after(skipped), Source(effect)) is None


@pytest.mark.parametrize(
    ("effect", "crashes", "next_"),
    [
        ("read", 1, Next(0)),
        ("read", REPEATS, Next(0)),
        ("read", REPEATS + 1, Next(1)),
        ("idempotent", 1, Next(0)),
        ("idempotent", 100, Next(0)),
        ("once", REPEATS + 1, None),
    ],
)
def test_a_crash_is_repeated_by_its_effect(
    effect: Effect, crashes: int, next_: Next | None
) -> None:
    """A read is repeated twice and goes elsewhere then, an idempotent call for ever."""
    pending = after(*[failed("", kind="crash")] * crashes)
    assert asked_next(pending, Source(effect, attempts=1), Source(effect)) == next_


def test_a_crash_is_no_attempt() -> None:
    """A process that died costs a source none of its attempts."""
    tried = [failed("", kind="crash"), failed(), failed("", kind="crash"), failed()]
    next_ = asked_next(after(*tried), Source("read", attempts=3))
    assert next_ is not None
    assert next_.rank == 0


def test_a_declaration_may_have_lost_a_source() -> None:
    """What was tried may be there no more; then there is nothing else."""
    assert asked_next(after(failed(rank=2)), Source("read")) is None
    assert asked_next(after(), Source("read")) == Next(0)


def test_a_declaration_may_have_become_a_read() -> None:
    """What was tried as something else may have happened, so nothing else does it then."""
    sources = [Source("read", attempts=1), Source("once")]
    assert asked_next(after(failed()), *sources) == Next(1)
    assert asked_next(after(failed(acted=True)), *sources) is None
    told = given_up("save", ["save", "other"], after(failed(acted=True)), ["read", "once"])
    assert "It may or may not have happened" in told


# ── what Claude is told ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("error_class", get_args(ErrorClass))
def test_claude_is_told_of_every_class(error_class: ErrorClass) -> None:
    """It reads that it is a failure and no empty answer, who was asked how often, and why not."""
    tried = [failed(error_class), failed(error_class), failed("stale", rank=1)]
    told = given_up("look", ["look", "last_good"], after(*tried), ["read"] * 4)
    assert told.startswith("look has no result: every source failed. This is a failure, not an ")
    assert f"- look: tried 2 times. {HINTS[error_class]} ({error_class})" in told
    assert "- last_good: What is kept of earlier answers is too old. (stale)" in told
    assert "may or may not" not in told


@pytest.mark.parametrize("error_class", get_args(ErrorClass))
def test_claude_is_told_of_doubt(error_class: ErrorClass) -> None:
    """Of what might have changed the world it is told so, unless it surely did not."""
    told = given_up("save", ["save"], after(failed(error_class)), ["idempotent"])
    sure = TABLE[error_class][2] != NOTHING or error_class in {
        "invalid_arguments",
        "conflict",
        "too_large",
        "refused",
    }
    assert ("It may or may not have happened" in told) is not sure


def test_claude_is_told_who_was_not_asked() -> None:
    """Where something else stood by and was not asked, Claude does not read that it failed."""
    refused = after(failed("invalid_arguments"))
    told = given_up("look", ["look", "attic"], refused, ["read"] * 2)
    assert told.startswith("look has no result: it failed, and nothing else was asked (attic). ")
    told = given_up("look", ["look"], refused, ["read"])
    assert told.startswith("look has no result: it failed. This is a failure, ")


def test_claude_is_told_in_the_tools_own_words() -> None:
    """What a tool says itself stands there instead of what is told of its class."""
    alone = after(failed("refused", hint="Closed until 9."))
    assert given_up("look", ["look"], alone, ["read"] * 4) == "Closed until 9."
    both = after(failed("unavailable", hint="Down until 9."), failed("bug", rank=1))
    assert "- look: Down until 9. (unavailable)" in given_up(
        "look", ["look", "b"], both, ["read"] * 4
    )


def test_claude_is_told_of_breakers_and_crashes() -> None:
    """It reads who was not asked at all, and that something was interrupted."""
    tried = [failed(kind="breaker"), failed("", kind="crash", rank=1)]
    told = given_up("look", ["look", "other"], after(*tried), ["read"] * 4)
    assert "- look: Nobody asks it at the moment, because it keeps failing." in told
    assert "- other: It was interrupted, and its outcome is unknown." in told
    gone = given_up("look", ["look"], replace(after(*tried), tried=(failed(rank=3),)), ["read"] * 4)
    assert "- a source that there is no more: It does not work at the moment." in gone
