"""The rate limiter: what a process knows of the API's limits, and how its calls keep to them.

`pacing` and `turns` say what is to be done; here it is read, told and taken.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final

import msgspec
from msgspec.structs import asdict, replace

from outlast import logs
from outlast.actions import NS, CallModel
from outlast.decide import BACKOFF_S
from outlast.drive import Append
from outlast.errors import ModelFailure, StoreError
from outlast.events import (
    AnyEvent,
    ModelCallStarted,
    ModelCallSucceeded,
    Turn,
)
from outlast.journal import Advance, Commit, Journal, Record
from outlast.pacing import (
    MOST_S,
    STREAM,
    UNITS,
    Pacing,
    Ramp,
    Told,
    fold,
    frozen,
    group,
    limited,
)
from outlast.turns import (
    MOST_NS,
    OVER,
    Draw,
    Need,
    checks,
    corrected,
    draws,
    is_stale,
    late,
    needed,
    used,
)

LONGEST_S: Final = 10 * 365 * 86_400.0
"""The longest wait that is believed, in seconds."""

GUESSED: Final = ("input_tokens", "output_tokens")
"""What is known only when a call is over."""

GUESSES: Final = 4
"""From about how many calls is learned how far guesses are off."""

MOST_OFF: Final = 4.0
"""How many times as much as was guessed is believed."""


class Draws(msgspec.Struct, frozen=True):
    """What a call takes of the limits."""

    model: str
    need: Need
    taken: Sequence[Draw] = ()
    checks: Sequence[Advance] = ()
    """What must hold where its turn has come."""
    turn: Turn | None = None
    """That turn."""

    @property
    def moves(self) -> list[Advance]:
        """The same as parts of a commit."""
        return [*self.checks, *(draw.advance for draw in self.taken)]


class Limiter:
    """What a process knows of the API's limits.

    Args:
        journal: where every process is told.
        key: whose limits calls count against.
        commit: appends.
        advance: moves shared numbers on.
        clock: nanoseconds since the epoch, UTC.

    """

    def __init__(
        self,
        journal: Journal,
        *,
        key: Callable[[], str],
        commit: Callable[[Commit], Awaitable[tuple[Record, ...]]],
        advance: Callable[[Sequence[Advance]], Awaitable[list[int]]],
        clock: Callable[[], int],
    ) -> None:
        self._journal = journal
        self._commit = commit
        self._advance = advance
        self._clock = clock
        self.key = key
        self.pacing = Pacing()
        """What the API told any run, as far as that was read."""
        self.guesses = Guesses()

    def read(self) -> None:
        """Read what the API told others since."""
        news = self._journal.read(STREAM, after=self.pacing.seq)
        self.pacing = fold(news, self.pacing)

    async def freeze(self, call: CallModel, failure: ModelFailure, run_id: str) -> None:
        """Tell every run until when the API wants to be asked nothing, where it said so."""
        wait_s = seconds(failure.retry_after_s)
        ramp = failure.error_code == "ramp_limit_exceeded"
        if failure.kind != "rate_limited" or not (wait_s or ramp):
            return
        now = self._clock()
        until = now + int(min(wait_s or BACKOFF_S[0], MOST_S) * NS)
        key, model = self.key(), call.model
        # Where nobody knows how much the API takes, it is found out step by step.
        ramp |= (key, group(model)) not in self.pacing.limits
        await self._tell(
            frozen(
                self.pacing, key=key, model=model, until=until, run_id=run_id, ramp=ramp, now=now
            )
        )

    async def learn(self, call: CallModel, told: Told) -> None:
        """Tell every run how much the API takes in a minute, where it said so."""
        if told:
            await self._tell(limited(self.pacing, told, key=self.key(), model=call.model))

    async def _tell(self, told: Sequence[AnyEvent]) -> None:
        if told:
            with suppress(StoreError):  # the run itself knows, and its own outcome may be written
                commit = Commit(stream=STREAM, events=told, at=self._clock())
                logs.tell(await self._commit(commit))
                self.read()

    async def wait(self, wanted: Mapping[str, Draws]) -> dict[str, Turn]:
        """Queue up for calls, and return when the turn of each is."""
        moves = []
        for draw in (draw for one in wanted.values() for draw in one.taken):
            moves += [draw.advance, *([Advance(name=draw.late)] if draw.late else [])]
        values = await self._advance(moves)
        turns = dict(_places(wanted, iter(values)))
        if back := [*_given_back(wanted, turns, iter(values))]:
            await self._advance(back)
        return turns

    def look(self, turn: Turn, model: str) -> Turn:
        """Return a turn as it is by now: those before it may have used more than was guessed."""
        place = (self.key(), group(model))
        names = [late(unit, place) for unit in turn.places]
        values = self._journal.numbers(names)
        pairs = zip(turn.places.values(), values, strict=True)
        at = max((at + more for at, more in pairs), default=turn.at)
        if at > self._clock() + MOST_NS:  # whatever was told then is not so any more
            return Turn(0, turn.group)
        return replace(turn, at=at)


def _places(wanted: Mapping[str, Draws], values: Iterator[int]) -> Iterator[tuple[str, Turn]]:
    """Yield the turn of each call, by what the shared numbers are after they were moved on."""
    for call_id, one in wanted.items():
        places, at = {}, 0
        for draw in one.taken:
            turn = draw.turn(next(values))
            at = max(at, turn)
            if draw.late:
                places[draw.unit] = turn - next(values)
        yield call_id, Turn(at, group(one.model), places, asdict(one.need))


def _given_back(
    wanted: Mapping[str, Draws], turns: dict[str, Turn], values: Iterator[int]
) -> Iterator[Advance]:
    """Yield what calls give back whose turn is too far away; they queue up again, in `turns`."""
    for call_id, one in wanted.items():
        found = []
        for draw in one.taken:
            found.append((draw, next(values)))
            if draw.late:
                next(values)
        if not any(draw.is_far(value) for draw, value in found):
            continue
        back = [move for draw, value in found if (move := draw.given_back(value)) is not None]
        # Where a clock was wrong nothing has to be waited for.
        taken = {draw.advance.name: draw.advance.by for draw, _ in found}
        waits = all(move.by == -taken[move.name] for move in back)
        now = one.taken[0].now
        turns[call_id] = Turn(now + MOST_NS if waits else now, group(one.model))
        yield from back


class Guesses:
    """How far guesses of what calls use were off lately, by model and unit."""

    def __init__(self) -> None:
        self._ratios: dict[tuple[str, str], float] = {}

    def improved(self, need: Need, model: str) -> Need:
        """Return a guess in the light of those before."""
        better = {
            unit: math.ceil(getattr(need, unit) * self._ratios.get((model, unit), 1.0))
            for unit in GUESSED
        }
        return replace(need, **better)

    def learn(self, guessed: Need, used: Need, model: str) -> None:
        """Learn from what a call used of what was guessed before anything was learned."""
        for unit in GUESSED:
            if guess := getattr(guessed, unit):
                ratio = self._ratios.get((model, unit), 1.0)
                seen = min(MOST_OFF, getattr(used, unit) / guess)
                self._ratios[model, unit] = ratio + (seen - ratio) / GUESSES


class Headers(msgspec.Struct, frozen=True):
    """What the headers of an answer said of the limits."""

    model: str
    """The one that was asked."""
    told: Told
    at: int
    """When they came, in nanoseconds since the epoch."""


class Line:
    """The calls of one drive of one run, as the limiter knows them."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self._turns: dict[str, Turn] = {}
        """Of those that have to wait for it."""
        self._took: dict[str, Need] = {}
        """What was taken for those in flight."""
        self._headers: dict[str, Headers] = {}
        """What came of them."""
        self._guessed: dict[str, Need] = {}
        """The same as it was guessed before anything was learned."""

    def draws(
        self,
        intents: Sequence[ModelCallStarted],
        wanted: Append,
        now: int,
        ramps: Mapping[str, Ramp],
    ) -> dict[str, Draws]:
        """Return what calls take of the limits; nothing more where their turn has come.

        By `ramps`, some begin gradually, since nobody was answered before.
        """
        found = {}
        pacing, key = self._limiter.pacing, self._limiter.key()
        for intent in intents:
            if intent.batch:  # those have limits of their own
                continue
            ask = wanted.state.asks[intent.ask_id]
            model = ask.spec.model
            guessed = self._guessed[intent.call_id] = needed(ask, intent)
            need = self._limiter.guesses.improved(guessed, model)
            turn = self._turns.get(intent.call_id, wanted.before.parking.turns.get(intent.call_id))
            ours = turn is not None and turn.group == group(model) and bool(turn.took)
            if turn is not None and ours and not is_stale(turn, now):
                need = Need(**turn.took)
                if checked := checks(turn, key=key, model=model, now=now):
                    found[intent.call_id] = Draws(model, need, checks=checked, turn=turn)
            elif taken := draws(
                pacing, need, key=key, model=model, now=now, ramp=ramps.get(intent.call_id)
            ):
                found[intent.call_id] = Draws(model, need, taken)
            self._took[intent.call_id] = need
        return found

    def moves(self, events: Iterable[AnyEvent], wanted: Mapping[str, Draws]) -> list[Advance]:
        """Return what is put right after the calls that are over, and what others take."""
        back = [move for event in events for move in self._corrected(event)]
        return back + [move for one in wanted.values() for move in one.moves]

    async def wait(self, wanted: Mapping[str, Draws]) -> dict[str, Turn]:
        """Queue up, and return when the turn of each call is that waits for it."""
        new = {call_id: one for call_id, one in wanted.items() if one.taken}
        if new:
            self._turns |= await self._limiter.wait(new)
        for call_id, one in wanted.items():
            if one.turn is not None:
                self._turns[call_id] = self._limiter.look(one.turn, one.model)
        return {**self._turns}

    async def learn(self, call: CallModel, told: Told) -> None:
        """Go by what headers said, and tell everybody of it."""
        told = sensible(told)
        at = self._limiter._clock()  # noqa: SLF001  (its own module)
        self._headers[call.call_id] = Headers(call.model, told, at)
        await self._limiter.learn(call, told)

    def settle(self, events: Iterable[AnyEvent]) -> None:
        """Forget the calls that are begun, or over, once that is written."""
        for event in events:
            if isinstance(event, ModelCallStarted):
                self._turns.pop(event.call_id, None)
            elif isinstance(event, OVER):
                self._took.pop(event.call_id, None)
                came = self._headers.pop(event.call_id, None)
                guessed, real = self._guessed.pop(event.call_id, None), used(event)
                answered = isinstance(event, ModelCallSucceeded)
                if answered and guessed is not None and came is not None and real is not None:
                    self._limiter.guesses.learn(guessed, real, came.model)

    def _corrected(self, event: AnyEvent) -> list[Advance]:
        if not isinstance(event, OVER):
            return []
        took, came = self._took.get(event.call_id), self._headers.get(event.call_id)
        pacing, key = self._limiter.pacing, self._limiter.key()
        if took is None or came is None or not pacing.limits:
            return []
        return corrected(
            pacing, took, used(event), came.told, key=key, model=came.model, at=came.at
        )


def seconds(value: object) -> float | None:
    """Return a number of seconds as it can be waited for, `None` where it is none."""
    # JSON has no infinity, and nobody can wait for it.
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return min(max(0.0, float(value)), LONGEST_S)


def sensible(told: object) -> Told:
    """Return what can be written of limits: a model of the user's own may say anything."""
    units = told.items() if isinstance(told, Mapping) else ()
    return {unit: pair for unit, pair in units if unit in UNITS and _is_limit(pair)}


def _is_limit(pair: object) -> bool:
    match pair:
        case (int(limit), int(left)):
            return bool not in (type(limit), type(left)) and limit >= 1 and left >= 0
    return False
