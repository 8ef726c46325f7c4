"""How little the prompts of some requests could have cost, had every breakpoint been set best.

The optimum is over all ways to set at most four breakpoints, each of 5 minutes or an hour, in each
of the requests as they came, at the times they came, under the rules of `models.prompt_cache`.  It
knows the future, which no client does, so it is a bound to be measured against.  It does not
change what is sent, so it cannot tell what a shorter prompt would have saved.

It is found by going through the requests once, with the cheapest way into every state that the
cache can be in.  Two observations keep that small.  A written entry is only worth its price if a
later request begins with it; so the places to write to are where a request parts from a later one,
and, as the price is linear between them, the first place behind what is read already, where an
hour costs least.  And an entry is as good as gone when there is another that every later request
that begins with it also begins with, and that lives at least as long.  Reading the longest entry
there is costs least and keeps it alive, so that is always done.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, Final

import msgspec

from outlast.models import catalogue
from outlast.models.catalogue import ClaudeModel
from outlast.models.prompt_cache import LIFE_NS, Position, positions
from outlast.models.strict import MAX_BREAKPOINTS
from outlast.testing.simulator.state import nanoseconds

MAX_STATES: Final = 20_000
"""So many states of the cache are followed; what needs more is refused, not guessed."""


_PROMPT: Final = (
    "input_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "cache_creation",
)
"""Members of a usage that are about the prompt."""


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """The best breakpoints of some requests, and what the prompts cost with and without.

    Attributes:
        nano_usd: what all prompts cost with `breakpoints`, in nano-dollars.
        uncached_nano: what they cost without any breakpoint.
        breakpoints: for each request the number of each marked block, in the order tools, system,
            messages, and its `ttl`.

    """

    nano_usd: int
    uncached_nano: int
    breakpoints: tuple[tuple[tuple[int, str], ...], ...]


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """What a simulator billed, beside what it would have, in nano-dollars.

    Attributes:
        billed_nano: its bill.
        cheapest_nano: the same with the best breakpoints in every prompt.
        uncached_nano: the same without any.

    """

    billed_nano: int
    cheapest_nano: int
    uncached_nano: int


class _Asked(msgspec.Struct, frozen=True):
    at: int
    places: Sequence[Position]
    model: ClaudeModel
    ends: tuple[int, ...]
    """Where it parts from a later request, by the number of the last block they share."""

    @property
    def factor(self) -> int:
        cliff = self.model.cliff
        return cliff[1] if cliff and self.places[-1].tokens > cliff[0] else 1


class _Entry(msgspec.Struct, frozen=True):
    digest: str
    depth: int
    """The number of its last block."""
    expires: int
    ttl: str


class _Way(msgspec.Struct, frozen=True):
    """The cheapest way into a state: its price, its last step, and the way before that."""

    nano: int
    marks: tuple[tuple[int, str], ...] = ()
    before: _Way | None = None


_State = frozenset[_Entry]


def cheapest(
    requests: Iterable[tuple[int, Mapping[str, Any] | bytes]], *, ttl: str | None = None
) -> Placement:
    """Return the breakpoints with which the prompts of `requests` would have cost least.

    Args:
        requests: for each, oldest first, when it came, in nanoseconds since the epoch, and its
            body.  Markers in it are ignored.
        ttl: `5m` or `1h` where every breakpoint has to be of that kind; by default each may be of
            either.

    Raises:
        ValueError: there are too many ways to tell which is best.

    """
    if ttl not in (None, *LIFE_NS):
        raise ValueError(f"ttl={ttl!r}: give '5m' or '1h', or nothing for either")
    asked = _read(requests)
    future = _future(asked)
    ways: dict[_State, _Way] = {frozenset(): _Way(0)}
    for number, request in enumerate(asked):
        found: dict[_State, _Way] = {}
        for state, way in ways.items():
            for after, nano, marks in _steps(request, state, future, number, ttl):
                total = way.nano + nano
                if after not in found or total < found[after].nano:
                    found[after] = _Way(total, marks, way)
        ways = _best(found, future, number)
        if len(ways) > MAX_STATES:
            raise ValueError(
                f"after {number + 1} requests the cache can be in {len(ways)} states worth "
                "following; give fewer requests, or conversations that share less at a time"
            )
    best = min(ways.values(), key=lambda way: way.nano)
    plain = sum(
        request.places[-1].tokens * request.model.input * request.factor for request in asked
    )
    return Placement(nano_usd=best.nano, uncached_nano=plain, breakpoints=tuple(_told(best))[::-1])


def judge(
    requests: Iterable[Mapping[str, Any]],
    bill: Iterable[Mapping[str, Any]],
    *,
    ttl: str | None = None,
) -> Judged:
    """Return what the lines of a state directory cost, and could have; `ttl` as in `cheapest`.

    Only the prompts differ: what Claude said costs the same, however it was asked.

    Raises:
        ValueError: see `cheapest`.

    """
    bodies = {(line["key"], line["attempt"]): line for line in requests}
    billed = prompts = 0
    asked = []
    for line in bill:
        usage = {name: line["usage"].get(name) for name in _PROMPT}
        billed += line["nano_usd"]
        prompts += catalogue.cost_nano(line["model"], usage)
        request = bodies[line["key"], line["attempt"]]
        asked.append((nanoseconds(request["at"]), request["body"].encode()))
    best = cheapest(asked, ttl=ttl)
    rest = billed - prompts
    return Judged(
        billed_nano=billed,
        cheapest_nano=rest + best.nano_usd,
        uncached_nano=rest + best.uncached_nano,
    )


def _told(way: _Way) -> Iterator[tuple[tuple[int, str], ...]]:
    while way.before is not None:
        yield way.marks
        way = way.before


def _read(requests: Iterable[tuple[int, Mapping[str, Any] | bytes]]) -> list[_Asked]:
    read = []
    for at, body in requests:
        request = msgspec.json.decode(body) if isinstance(body, bytes) else body
        model = catalogue.find(request["model"])
        if model is None:
            raise ValueError(f"no model {request['model']!r} is known, so nor is its price")
        read.append((at, positions(request), model))
    paths = [[place.digest for place in places] for _, places, _ in read]
    return [
        _Asked(at, places, model, _partings(paths, number))
        for number, (at, places, model) in enumerate(read)
    ]


def _partings(paths: Sequence[Sequence[str]], number: int) -> tuple[int, ...]:
    where = {digest: at for at, digest in enumerate(paths[number])}
    ends: set[int] = set()
    for later in paths[number + 1 :]:
        low, high = 0, min(len(later), len(where))
        while low < high:  # a digest is of all before it, so what is shared comes first
            middle = (low + high + 1) // 2
            if where.get(later[middle - 1]) == middle - 1:
                low = middle
            else:
                high = middle - 1
        if low:
            ends.add(low - 1)
    return tuple(sorted(ends))


def _future(asked: Sequence[_Asked]) -> dict[str, int]:
    """Return for each entry the requests that begin with it, as a bit each."""
    future: dict[str, int] = {}
    for number, request in enumerate(asked):
        for place in request.places:
            future[place.digest] = future.get(place.digest, 0) | 1 << number
    return future


def _steps(
    request: _Asked, state: _State, future: Mapping[str, int], number: int, ttl: str | None
) -> Iterator[tuple[_State, int, tuple[tuple[int, str], ...]]]:
    """Yield what a request can make of the cache, what that costs, and with which breakpoints."""
    live = {entry.digest: entry for entry in state if request.at < entry.expires}
    known = [at for at, place in enumerate(request.places) if place.digest in live]
    hit = known[-1] if known else -1
    for written in _writings(request, hit, ttl):
        room = MAX_BREAKPOINTS - len(written) - (hit >= 0)
        if room < 0:
            continue
        below = [known[:-1]] if len(known) <= room + 1 else combinations(known[:-1], room)
        for kept in below:
            marks = [(at, ttl or "1h") for at in (*kept, *known[-1:])] + list(written)
            after = dict(live)
            for at in (*kept, *known[-1:]):
                digest = request.places[at].digest
                ttl = live[digest].ttl
                after[digest] = _Entry(digest, at, request.at + LIFE_NS[ttl], ttl)
            for at, ttl in written:
                digest = request.places[at].digest
                after[digest] = _Entry(digest, at, request.at + LIFE_NS[ttl], ttl)
            yield (
                _worth_keeping(after.values(), future, number),
                _price(request, hit, written),
                tuple(marks),
            )


def _writings(request: _Asked, hit: int, ttl: str | None) -> Iterator[tuple[tuple[int, str], ...]]:
    """Yield the breakpoints that may be worth writing to, those of an hour first."""
    yield ()
    long_enough = [
        at
        for at in range(hit + 1, len(request.places))
        if request.places[at].tokens >= request.model.cacheable
    ]
    ends = [at for at in request.ends if at in set(long_enough)]
    if not ends:
        return
    places = sorted({*ends, long_enough[0]})
    for size in range(1, MAX_BREAKPOINTS + 1):
        for chosen in combinations(places, size):
            for hours in _hours(size, ttl):
                yield tuple(
                    (at, "1h" if place < hours else "5m") for place, at in enumerate(chosen)
                )


def _hours(size: int, ttl: str | None) -> Iterable[int]:
    """Return how many of so many breakpoints may be of an hour."""
    return range(size + 1) if ttl is None else (size if ttl == "1h" else 0,)


def _price(request: _Asked, hit: int, written: Sequence[tuple[int, str]]) -> int:
    places, model = request.places, request.model
    read = places[hit].tokens if hit >= 0 else 0
    hour = max((places[at].tokens for at, ttl in written if ttl == "1h"), default=read)
    end = max((places[at].tokens for at, _ in written), default=read)
    return request.factor * (
        read * model.cache_read
        + (hour - read) * model.cache_write_1h
        + (end - hour) * model.cache_write_5m
        + (places[-1].tokens - end) * model.input
    )


def _worth_keeping(entries: Iterable[_Entry], future: Mapping[str, int], number: int) -> _State:
    wanted = [entry for entry in entries if future[entry.digest] >> number + 1]
    return frozenset(
        entry
        for entry in wanted
        if not any(other != entry and _is_as_good(other, entry, future, number) for other in wanted)
    )


def _is_as_good(one: _Entry, other: _Entry, future: Mapping[str, int], number: int) -> bool:
    """Say whether whatever `other` is good for, `one` is as well."""
    ours, theirs = (future[entry.digest] >> number + 1 for entry in (one, other))
    return (
        theirs & ~ours == 0
        and one.depth >= other.depth
        and one.expires >= other.expires
        and LIFE_NS[one.ttl] >= LIFE_NS[other.ttl]
    )


def _best(
    found: Mapping[_State, _Way], future: Mapping[str, int], number: int
) -> dict[_State, _Way]:
    """Leave out every state that another, no dearer, can do everything for."""
    kept: dict[_State, _Way] = {}
    for state, way in sorted(found.items(), key=lambda item: item[1].nano):
        if not any(_covers(better, state, future, number) for better in kept):
            kept[state] = way
    return kept


def _covers(better: _State, state: _State, future: Mapping[str, int], number: int) -> bool:
    return all(
        any(one == other or _is_as_good(one, other, future, number) for one in better)
        for other in state
    )
