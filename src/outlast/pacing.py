"""What the API told one run of its rate limit, for every run and process of the store.

    a 429 with `retry-after` ──rate_frozen──▶ nobody asks this model with this key until then

It is a fold over the stream `~limits`.  A freeze is never taken back; it is over when its time is,
and those who waited start one after the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Final

import msgspec

from outlast.events import RateFrozen
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


class Freeze(msgspec.Struct, frozen=True, gc=False):
    """A time during which nobody asks."""

    until: int
    """Nanoseconds since the epoch."""
    spread: int = 0
    """Over how much time those start who waited, in nanoseconds."""

    def over_for(self, who: str) -> int:
        """Return when one of those who waited starts: always the same for the same one."""
        # Jitter without randomness: who is resumed meanwhile waits as long as he would have.
        part = int.from_bytes(sha256(f"{who}:{self.until}".encode()).digest()[:4], "big")
        return self.until + self.spread * part // 2**32


THAWED: Final = Freeze(0)


class Pacing(msgspec.Struct, frozen=True):
    """Every freeze there is, by key and group of models."""

    freezes: Mapping[tuple[str, str], Freeze] = {}
    seq: int = 0
    """How far the stream was read."""

    def of_key(self, key: str) -> Mapping[str, Freeze]:
        """Return the freezes of one key, by group."""
        return {group: freeze for (whose, group), freeze in self.freezes.items() if whose == key}


def evolve(pacing: Pacing, record: Record) -> Pacing:
    """Return what `record` makes of the freezes."""
    event = record.event
    if not isinstance(event, RateFrozen):
        return msgspec.structs.replace(pacing, seq=record.seq)
    place = (event.key, event.group)
    freezes = pacing.freezes
    if event.until > freezes.get(place, THAWED).until:
        # As with a backoff, up to half as much again.
        spread = min(SPREAD_NS, max(0, event.until - record.at) // 2)
        freezes = {**freezes, place: Freeze(event.until, spread)}
    return Pacing(freezes, record.seq)


def fold(records: Iterable[Record], pacing: Pacing) -> Pacing:
    """Return what `records` make of the freezes."""
    for record in records:
        pacing = evolve(pacing, record)
    return pacing


def group(model: str) -> str:
    """Return what a model shares its rate limits with: its family and generation, of any date."""
    return undated(_RELEASE.sub("", model.rpartition("anthropic.")[2]))


def frozen(
    pacing: Pacing, *, key: str, model: str, until: int, run_id: str
) -> tuple[RateFrozen, ...]:
    """Return what is to be told of a 429, if that is not known already.

    Args:
        pacing: what is known.
        key: whose 429 it is; see `RateFrozen.key`.
        model: which model was asked.
        until: when that may be asked again, in nanoseconds since the epoch.
        run_id: the run that asked.

    """
    whose = group(model)
    until = -(-until // GRAIN_NS) * GRAIN_NS
    if pacing.freezes.get((key, whose), THAWED).until >= until:
        return ()
    return (RateFrozen(group=whose, until=until, key=key, run_id=run_id),)
