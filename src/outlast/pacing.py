"""How fast the API may be asked, for every run and process of the store.

    a 429 with `retry-after` ──rate_frozen───────▶ nobody asks this model with this key until then
    its headers              ──rate_limits_told──▶ calls take turns, as many a minute as it takes
    a 429 for asking for more and more too fast ─▶ calls begin one by one, and faster with time

It is a fold over the stream `~limits`.  A freeze is never taken back; it is over when its time is,
and those who waited start one after the other.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final, TypeAlias

import msgspec

from outlast.events import RateFrozen, RateLimitsTold
from outlast.journal import Record
from outlast.prices import undated

STREAM: Final = "~limits"

GRAIN_NS: Final = 250_000_000
"""A freeze ends on a multiple of this, so that a thousand refusals do not make a thousand."""

MOST_S: Final = 86_400.0
"""For how long one refusal holds for everybody at most, in seconds.

What a broken proxy says must not stop a whole fleet for years; after a day somebody asks again."""

SPREAD_NS: Final = 30 * 1_000_000_000
"""Over how much time those who waited start at most."""

_RELEASE: Final = re.compile(r"-v\d+(:\d+)?$")
"""What Bedrock adds to the id of a model."""


NS: Final = 1_000_000_000

SKEW_NS: Final = 60 * NS
"""By how much clocks may differ, in nanoseconds."""

UNITS: Final = ("requests", "input_tokens", "output_tokens")
"""What is limited, as `RateLimitsTold` names it."""

FIRST_S: Final = 1.0
"""How many calls a second begin where a ramp does."""

DOUBLED_S: Final = 10.0
"""How long it takes on a ramp until twice as many do."""

RAMP_NS: Final = 120 * NS
"""After how long a ramp is over: four thousand calls a second begin then."""

Told: TypeAlias = Mapping[str, tuple[int, int]]
"""What headers say: of each unit what the API takes in a minute, and what it has left."""


class Freeze(msgspec.Struct, frozen=True, gc=False):
    """A time during which nobody asks."""

    until: int
    """Nanoseconds since the epoch."""
    spread: int = 0
    """Over how much time those start who waited, in nanoseconds."""
    at: int = 0
    """When it was told, by the clock of who did."""

    def holds(self, now: int) -> bool:
        """Return whether it is to be believed: a clock that was far ahead must stop nobody."""
        return self.at <= now + SKEW_NS

    def over_for(self, who: str) -> int:
        """Return when one of those who waited starts: always the same for the same one."""
        # Jitter without randomness: who is resumed meanwhile waits as long as he would have.
        part = int.from_bytes(sha256(f"{who}:{self.until}".encode()).digest()[:4], "big")
        return self.until + self.spread * part // 2**32


THAWED: Final = Freeze(0)


class Ramp(msgspec.Struct, frozen=True, gc=False):
    """A time from which on calls begin one by one, and more and more."""

    since: int
    """Nanoseconds since the epoch."""
    number: int
    """What tells it from others: where it stands in the stream."""
    whose: str = ""
    """The breaker that closed, where it is one's."""

    def begun(self, at: int) -> int:
        """Return how many calls may have begun by a moment."""
        if at < self.since:
            return 0
        passed = (at - self.since) / NS / DOUBLED_S
        return 1 + int(FIRST_S * DOUBLED_S / math.log(2) * (2**passed - 1))

    def turn(self, number: int) -> int:
        """Return when the call of this number, from 1, may begin."""
        passed = math.log2(1 + (number - 1) * math.log(2) / (FIRST_S * DOUBLED_S))
        return self.since + int(passed * DOUBLED_S * NS)


class Pacing(msgspec.Struct, frozen=True):
    """Every freeze, limit and ramp there is, by key and group of models."""

    freezes: Mapping[tuple[str, str], Freeze] = {}
    limits: Mapping[tuple[str, str], RateLimitsTold] = {}
    ramps: Mapping[tuple[str, str], Ramp] = {}
    seq: int = 0
    """How far the stream was read."""

    def of_key(self, key: str) -> Mapping[str, Freeze]:
        """Return the freezes of one key, by group."""
        return {group: freeze for (whose, group), freeze in self.freezes.items() if whose == key}


def evolve(pacing: Pacing, record: Record) -> Pacing:
    """Return what `record` makes of it."""
    event = record.event
    changes: dict[str, Any] = {}
    if isinstance(event, RateLimitsTold):
        changes["limits"] = {**pacing.limits, (event.key, event.group): event}
    if isinstance(event, RateFrozen):
        changes = _frozen(pacing, event, record)
    return msgspec.structs.replace(pacing, seq=record.seq, **changes)


def _frozen(pacing: Pacing, event: RateFrozen, record: Record) -> dict[str, Any]:
    place = (event.key, event.group)
    changes: dict[str, Any] = {}
    known = pacing.freezes.get(place, THAWED)
    if event.until > known.until or not known.holds(record.at):
        # As with a backoff, up to half as much again.
        spread = min(SPREAD_NS, max(0, event.until - record.at) // 2)
        changes["freezes"] = {**pacing.freezes, place: Freeze(event.until, spread, record.at)}
    if event.ramp:
        changes["ramps"] = {**pacing.ramps, place: Ramp(event.until, record.seq)}
    return changes


def fold(records: Iterable[Record], pacing: Pacing) -> Pacing:
    """Return what `records` make of the freezes."""
    for record in records:
        pacing = evolve(pacing, record)
    return pacing


@lru_cache(maxsize=256)
def group(model: str) -> str:
    """Return what a model shares its rate limits with: its family and generation, of any date."""
    return undated(_RELEASE.sub("", model.rpartition("anthropic.")[2]))


def frozen(  # noqa: PLR0913  (keywords)
    pacing: Pacing, *, key: str, model: str, until: int, run_id: str, ramp: bool, now: int
) -> tuple[RateFrozen, ...]:
    """Return what is to be told of a 429, if that is not known already.

    Args:
        pacing: what is known.
        key: whose 429 it is; see `RateFrozen.key`.
        model: which model was asked.
        until: when that may be asked again, in nanoseconds since the epoch.
        run_id: the run that asked.
        ramp: whether calls are to begin gradually from then on.
        now: nanoseconds since the epoch.

    """
    whose = group(model)
    until = -(-until // GRAIN_NS) * GRAIN_NS
    known = pacing.freezes.get((key, whose), THAWED)
    if known.until >= until and known.holds(now):
        return ()
    return (RateFrozen(group=whose, until=until, key=key, run_id=run_id, ramp=ramp),)


def limited(pacing: Pacing, told: Told, *, key: str, model: str) -> tuple[RateLimitsTold, ...]:
    """Return what is to be told of the limits that headers name, if that is not known already."""
    whose = group(model)
    news = RateLimitsTold(
        group=whose, key=key, **{unit: told[unit][0] for unit in UNITS if unit in told}
    )
    return () if pacing.limits.get((key, whose)) == news else (news,)
