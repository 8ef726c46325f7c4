"""The prompt cache: what of a request is read from it, what is written to it, and what neither.

    tools ─▶ system ─▶ messages      the order in which blocks are joined to a prefix
         ▲         ▲       ▲
         └─────────┴───────┴──── at most four breakpoints, each of 5 minutes or an hour

A breakpoint writes one entry: the hash of everything up to and including its block.  A request
reads the longest entry that ends at one of its breakpoints or at one of the 19 blocks before one;
of what follows, everything up to its last breakpoint is written, and the rest is plain input.  An
entry lives for its time, from when it was written or last used.

What Anthropic does not say is decided here: an entry can be read as soon as the request that wrote
it was accepted; a request uses the entry it reads and every live one that ends at a breakpoint of
its own before that; all keys share one cache, as in one workspace; a marker of an hour does not
lengthen the life of a five-minute entry that is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

import msgspec

from outlast.models import catalogue
from outlast.models.identity import NESTING, canonical, nested, plain_blocks, weight

BYTES_PER_TOKEN: Final = 4

LOOKBACK: Final = 20
"""At so many positions an entry is looked for, for each breakpoint, its own the first."""

LIFE_NS: Final[Mapping[str, int]] = {"5m": 300 * 10**9, "1h": 3_600 * 10**9}
"""How long an entry lives unused, in nanoseconds, by its `ttl`."""

UNMARKABLE: Final = frozenset({"thinking", "redacted_thinking"})
"""Blocks that cannot carry a marker."""

_BEFORE_MESSAGES: Final = ("tool_choice", "thinking", "output_config")
"""Members that, when they change, leave only the entries of tools and system to be read."""


class Position(msgspec.Struct, frozen=True):
    """The end of a block, and the prefix up to there.

    Attributes:
        digest: the hash of the prefix.
        tokens: how long it is.
        ttl: the breakpoint's, `None` where there is none.

    """

    digest: str
    tokens: int
    ttl: str | None = None


class Caching(msgspec.Struct, frozen=True, kw_only=True):
    """What the cache makes of one request, in tokens.

    Attributes:
        read: what is read from it.
        written_5m: what is written for five minutes.
        written_1h: what is written for an hour.
        used: the digest and `ttl` of each entry that is written, read or kept alive.

    """

    read: int = 0
    written_5m: int = 0
    written_1h: int = 0
    used: Mapping[str, str] = {}

    def usage(self, total: int) -> dict[str, Any]:
        """Return the input side of the API's `usage` for a prompt of `total` tokens."""
        written = self.written_5m + self.written_1h
        return {
            "input_tokens": total - self.read - written,
            "cache_creation_input_tokens": written,
            "cache_read_input_tokens": self.read,
            "cache_creation": {
                "ephemeral_5m_input_tokens": self.written_5m,
                "ephemeral_1h_input_tokens": self.written_1h,
            },
        }


NOTHING: Final = Caching()
"""Of a request without breakpoints."""


class PromptCache:
    """The entries, and until when each lives."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[int, str]] = {}

    def look(self, positions: Sequence[Position], minimum: int, now: int) -> Caching:
        """Return what the cache makes of a request, and change nothing.

        Args:
            positions: every block of the request.
            minimum: the shortest prefix that the model caches, in tokens.
            now: the time, in nanoseconds.

        """
        marked = [at for at, place in enumerate(positions) if place.ttl and place.tokens >= minimum]
        hit = max(self._found(positions, marked, now), default=-1)
        read = positions[hit].tokens if hit >= 0 else 0
        used = {
            positions[at].digest: self._entries[positions[at].digest][1]
            for at in {*(at for at in marked if at < hit), hit}
            if at >= 0 and self._lives(positions[at].digest, now)
        }
        ends = {"1h": read, "5m": read}
        for at in marked:
            if at > hit:
                ttl = positions[at].ttl or "5m"
                ends[ttl] = positions[at].tokens
                used[positions[at].digest] = ttl
        # Breakpoints of an hour come first, so what follows the last of them is for 5 minutes.
        return Caching(
            read=read,
            written_1h=ends["1h"] - read,
            written_5m=max(0, ends["5m"] - ends["1h"]),
            used=used,
        )

    def use(self, digest: str, ttl: str, now: int) -> None:
        """Let an entry live from now on, for as long as its `ttl` says."""
        self._entries[digest] = (now + LIFE_NS[ttl], ttl)

    def _lives(self, digest: str, now: int) -> bool:
        expires, _ = self._entries.get(digest, (now, ""))
        return now < expires

    def _found(
        self, positions: Sequence[Position], marked: Sequence[int], now: int
    ) -> Iterator[int]:
        for at in marked:
            for place in range(at, max(-1, at - LOOKBACK), -1):
                if self._lives(positions[place].digest, now):
                    yield place
                    break


def tokens(size: int) -> int:
    """Return how many tokens so many bytes are."""
    return -(-size // BYTES_PER_TOKEN)


def marks(request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the breakpoints a request asks for, in the order of the prefix, its own the last."""
    found: list[dict[str, Any]] = []
    for block in _blocks(request):
        # Nearly none has one, and a conversation may have thousands.
        if "cache_control" in block or block.get("type") in NESTING:
            found += _marks_of(block)
    automatic = request.get("cache_control")
    return found if automatic is None else [*found, automatic]


def automatic(request: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the block that the request's own `cache_control` marks: the last that can be."""
    if request.get("cache_control") is None:
        return None
    blocks = [block for block in _blocks(request) if is_markable(block)]
    return blocks[-1] if blocks else None


def is_markable(block: Mapping[str, Any]) -> bool:
    """Return whether a block may carry a marker: thinking and empty text may not."""
    kind = block.get("type")
    return kind not in UNMARKABLE and not (kind == "text" and not block.get("text"))


def positions(request: Mapping[str, Any]) -> list[Position]:
    """Return where each block of a request ends; the last has all the tokens of `identity`.

    The request is one that the API takes.  Brackets and names between blocks count for the block
    before them.
    """
    model = request["model"]
    rolling = sha256(catalogue.ALIASES.get(model, model).encode())
    found: list[tuple[dict[str, Any], str, int]] = []
    size = 0

    def add(seed: bytes, content: Any) -> None:
        nonlocal size
        rolling.update(seed)
        for block in _listed(content):
            plain = canonical(plain_blocks([block])[0])
            rolling.update(b"%d:%b" % (len(plain), plain))
            size += weight(block, plain) + 1
            found.append((block, rolling.copy().hexdigest(), size))

    def end(whole: int) -> None:
        nonlocal size
        size = whole
        if found:
            found[-1] = (*found[-1][:2], whole)

    tools, system = request.get("tools"), request.get("system")
    add(b"tools", tools)
    add(b"system", system)
    end(len(canonical([plain_blocks(system), plain_blocks(tools)])))
    rolling.update(canonical([request.get(name) for name in _BEFORE_MESSAGES]))
    for message in request["messages"]:
        start = size
        add(message["role"].encode(), message["content"])
        said = canonical(message | {"content": plain_blocks(message["content"])})
        end(start + weight(message, said))
    return list(_marked(found, request.get("cache_control")))


def _marked(
    found: Sequence[tuple[dict[str, Any], str, int]], mark: Mapping[str, Any] | None
) -> Iterator[Position]:
    last = max((at for at, (block, *_) in enumerate(found) if is_markable(block)), default=-1)
    for at, (block, digest, size) in enumerate(found):
        own = _marks_of(block) or ([mark] if at == last and mark else [])
        ttl = own[-1].get("ttl", "5m") if own else None
        yield Position(digest, tokens(size), ttl)


def _blocks(request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    yield from _listed(request.get("tools"))
    yield from _listed(request.get("system"))
    for message in request["messages"]:
        yield from _listed(message["content"])


def _listed(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return content or []


def _marks_of(block: Mapping[str, Any]) -> list[Any]:
    """Return a block's markers; those of blocks inside it count as its own."""
    found: list[Any] = []
    if block.get("type") in NESTING:
        for part in nested(block):
            found += _marks_of(part)
    own = block.get("cache_control")
    return found if own is None else [*found, own]
