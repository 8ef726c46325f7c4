"""Whose turn it is to ask the API, where more want to than its limits let.

Turns are numbers that processes share.  For each limit there is one: the time at which all that was
taken of it is there again, if nothing more is taken (the generic cell rate algorithm; ITU-T I.371).
Whoever asks moves it on by what the call needs, and its turn is when no more than a burst is taken
ahead.  So those who wait do so in the order in which they came, and nobody looks again and again.
"""

from __future__ import annotations

from typing import Final

import msgspec

from outlast.conversation import Conversation
from outlast.events import (
    ModelCallFailed,
    ModelCallInDoubt,
    ModelCallStarted,
    ModelCallSucceeded,
    RateLimitsTold,
    Turn,
)
from outlast.journal import Advance
from outlast.pacing import NS, RAMP_NS, UNITS, Pacing, Ramp, Told, group
from outlast.prices import usage

BYTES: Final = 3
"""How many bytes of a prompt are taken for a token where nothing was metered yet."""

TURN_NS: Final = 60 * NS
"""How long a turn that came is kept for who does not take it."""

BURST_NS: Final = 30 * NS
"""How much may be taken ahead of a limit: what comes in within this time, in nanoseconds.

The API's buckets hold a minute's worth; half of that leaves room for what others use of the key,
and for a call whose length was guessed too short."""


MOST_NS: Final = 3_600 * NS
"""How far away a turn is at most: whoever would wait longer queues up again by then."""


class Need(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a call is taken to use of its limits."""

    requests: int = 1
    input_tokens: int = 0
    output_tokens: int = 0


OVER: Final = (ModelCallSucceeded, ModelCallFailed, ModelCallInDoubt)
"""What a call ends with."""


def needed(ask: Conversation, intent: ModelCallStarted) -> Need:
    """Return what a call is taken to use, before anybody knows.

    What is in the prompt cache does not count.  It is a guess, which is put right when the reply
    is there, and nothing rests on it but how long somebody waits.
    """
    bound = ask.input_bound
    if ask.cached is not None:
        bound -= ask.cached.tokens
    elif intent.attempt == 1 and ask.calls == 1:
        bound //= BYTES  # of the first prompt only its bytes are known
    return Need(input_tokens=max(0, bound), output_tokens=intent.max_tokens // 8)


def used(event: ModelCallSucceeded | ModelCallFailed | ModelCallInDoubt) -> Need | None:
    """Return what a call used of its limits; `None` where nobody knows."""
    if isinstance(event, ModelCallFailed):
        return Need()  # it was turned away, and may count as a request
    if isinstance(event, ModelCallInDoubt):
        return None
    said = usage(event.usage)
    parts = said.iterations or (said,)
    written = sum(part.cache_creation_input_tokens or 0 for part in parts)
    return Need(
        input_tokens=sum(part.input_tokens for part in parts) + written,
        output_tokens=sum(part.output_tokens for part in parts),
    )


class Draw(msgspec.Struct, frozen=True, gc=False):
    """What a call takes of one limit, if its turn is now.

    How many tokens it will use is a guess.  By how much all calls together have used more than was
    guessed, in the time that takes to come in again, is another shared number, `late`.  The place
    of who waits is given without it, so that it is true whatever `late` is when the turn comes.
    """

    advance: Advance
    now: int
    late: str = ""
    """The name of that number; empty where nothing is guessed."""
    unit: str = ""
    ramp: Ramp | None = None

    def turn(self, value: int) -> int:
        """Return when its turn is, by what the shared number is after it was moved on."""
        if self.ramp is not None:
            turn = self.ramp.turn(value - _base(self.ramp))
            return turn if turn <= self.now + MOST_NS else self.now
        return value - (self.advance.most or 0) + self.now

    def is_far(self, value: int) -> bool:
        """Return whether its turn is too far away."""
        return self.ramp is None and self.turn(value) - self.now > MOST_NS

    def given_back(self, value: int) -> Advance | None:
        """Return how what was taken is given back, since who waits queues up again.

        So no queue grows far beyond the longest wait; what is further was moved on by a clock that
        was wrong, and begins anew.
        """
        if self.ramp is not None:
            return None
        broken = self.turn(value) - self.now - self.advance.by > 2 * MOST_NS
        by = self.now - value if broken else -self.advance.by
        return Advance(name=self.advance.name, by=by)


def draws(  # noqa: PLR0913  (keywords)
    pacing: Pacing, need: Need, *, key: str, model: str, now: int, ramp: Ramp | None = None
) -> list[Draw]:
    """Return what a call takes of every limit that it counts against, and of a `ramp` beside."""
    place = (key, group(model))
    taken = []
    if ramp is not None and now < ramp.since + RAMP_NS:
        taken.append(_ramped(ramp, f"ramp:{ramp.whose}", now))
    if (limits := pacing.limits.get(place)) is not None:
        for unit in UNITS:
            if cost := _cost(limits, unit, getattr(need, unit)):
                # What is larger than a burst goes when all is there.
                most = now + max(BURST_NS, cost)
                advance = Advance(name=name(unit, place), by=cost, least=now, most=most)
                taken.append(Draw(advance, now, late(unit, place), unit))
    if (ramp := pacing.ramps.get(place)) is not None and now < ramp.since + RAMP_NS:
        taken.append(_ramped(ramp, name("ramp", place), now))
    return taken


def _ramped(ramp: Ramp, called: str, now: int) -> Draw:
    most = _base(ramp) + ramp.begun(now)
    return Draw(Advance(name=called, by=1, least=_base(ramp), most=most), now, ramp=ramp)


def corrected(  # noqa: PLR0913  (keywords)
    pacing: Pacing, took: Need, used: Need | None, told: Told, *, key: str, model: str, at: int
) -> list[Advance]:
    """Return how the shared numbers are put right once a call is over.

    Args:
        pacing: what is known.
        took: what was taken for it.
        used: what it used; `None` where nobody knows.
        told: what headers said was left.
        key: whose limits they are.
        model: which model was asked.
        at: when the headers came, in nanoseconds since the epoch.

    """
    place = (key, group(model))
    if (limits := pacing.limits.get(place)) is None:
        return []
    moves = []
    for unit in UNITS:
        more = 0
        if used is not None:
            more = _cost(limits, unit, getattr(used, unit) - getattr(took, unit))
        if more:
            moves += [
                Advance(name=name(unit, place), by=more),
                Advance(name=late(unit, place), by=more),
            ]
        # What others use of the key shows in what is left.
        limit, left = told.get(unit, (0, 0))
        least = at + _cost(limits, unit, max(0, limit - left)) if limit else 0
        if least > at:
            moves.append(Advance(name=name(unit, place), least=least))
    return moves


def is_stale(turn: Turn, now: int) -> bool:
    """Return whether a turn came so long ago that whoever had it must queue up again."""
    return turn.at + TURN_NS <= now


def checks(turn: Turn, *, key: str, model: str, now: int) -> list[Advance]:
    """Return the preconditions of a call whose turn should have come."""
    place = (key, group(model))
    return [Advance(name=late(unit, place), most=now - at) for unit, at in turn.places.items()]


def _cost(limits: RateLimitsTold, unit: str, amount: int) -> int:
    """Return how long it takes until so much is there again, in nanoseconds."""
    limit = getattr(limits, unit)
    return int(amount * 60 * NS / limit) if limit else 0


def name(unit: str, place: tuple[str, str]) -> str:
    """Return the name of the shared number of a limit."""
    return f"rate:{':'.join(place)}:{unit}"


def late(unit: str, place: tuple[str, str]) -> str:
    """Return the name of the number that says how far guesses were off; empty where none is."""
    return "" if unit == "requests" else name(f"{unit}:late", place)


def _base(ramp: Ramp) -> int:
    # A new ramp begins with its first call, whatever an old one counted to.
    return ramp.number << 32
