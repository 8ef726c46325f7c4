"""What tokens cost, in whole nano-dollars: the worst case before a call, the exact sum after it.

The list prices are those that `genai-prices` bundles for the provider Anthropic, compiled once per
model into integers; its arithmetic and its network refresh are not used, so a price never changes
under a running process.  No clock is consulted: of a price that changed over time the newest entry
of the table counts, so a change that is announced for a later day counts from the release of
genai-prices that brings it.

Whatever is not certain is rounded up: a fraction of a nano-dollar, a cache write whose lifetime the
API did not report, a batch or priority discount.  A price that is not known is never made up.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias, cast

import msgspec

from outlast.errors import UnknownModel

if TYPE_CHECKING:  # importing it takes a quarter of a second, so it waits for the first price
    from decimal import Decimal

    from genai_prices.types import ModelInfo, ModelPrice, TieredPrices

    _Price: TypeAlias = Decimal | TieredPrices

NANO: Final = 1_000_000_000
"""Nano-dollars in a dollar."""

BATCH: Final = "batch"
"""What `service_tier` says of a call that was one of a batch, and genai-prices of its prices."""

WEB_SEARCH_NANO: Final = 10_000_000
"""One web search: $10 per 1,000, the same for every model and in every processing mode."""

US_TENTHS: Final = 11
"""US residency makes tokens cost 1.1 times the list price; genai-prices does not know the factor.

https://platform.claude.com/docs/en/about-claude/pricing#data-residency-pricing
"""

FRAMING_TOKENS: Final = 1_024
"""What the API may add to a request by itself, beside the bytes that are sent.

The system prompt that comes with tools has been between 159 and 935 tokens from model to model.
Role markers need no allowance of their own where the *JSON* of a message is counted: its syntax,
`{"role":"user","content":…}`, is longer than any marker.
"""


class Tier(msgspec.Struct, frozen=True, gc=False):
    """Prices of one request's tokens, in nano-dollars each, for prompts longer than `above`."""

    above: int
    input: int
    output: int
    cache_read: int
    cache_write_5m: int
    cache_write_1h: int

    @property
    def dearest_input(self) -> int:
        """The most that a token of the prompt can cost."""
        return max(self.input, self.cache_read, self.cache_write_5m, self.cache_write_1h)


class Rates(msgspec.Struct, frozen=True, gc=False):
    """The prices of a model: a cliff, not a slope, so one tier holds for all of a request."""

    model: str
    """The id under which the price table has the model, not necessarily the one asked for."""
    tiers: tuple[Tier, ...]
    """Sorted by `above`; the first one has `above=-1` and so always applies."""
    per: int = 1
    """What the prices are to be divided by: 2 for a batch, whose prices may have halves."""

    def tier(self, prompt_tokens: int) -> Tier:
        """Return the prices of a request whose whole prompt, cached or not, has so many tokens."""
        found = self.tiers[0]
        for tier in self.tiers:
            if prompt_tokens > tier.above:
                found = tier
        return found


class Cost(msgspec.Struct, frozen=True, gc=False):
    """What a call came to."""

    nano: int
    tokens: int
    """Everything the API counted: input, cache reads, cache writes and output."""
    input_tokens: int
    """Without what was read from or written to the cache."""
    cache_read_tokens: int
    cache_write_tokens: int
    output_tokens: int


_Count = Annotated[int, msgspec.Meta(ge=0, le=10**10)]
"""A count beyond ten thousand million is no count of tokens, and would not fit into a ledger."""


class _CacheCreation(msgspec.Struct, frozen=True, gc=False):
    ephemeral_5m_input_tokens: _Count | None = None
    ephemeral_1h_input_tokens: _Count | None = None


class _ServerToolUse(msgspec.Struct, frozen=True, gc=False):
    web_search_requests: _Count | None = None


class _Iteration(msgspec.Struct, frozen=True, gc=False):
    input_tokens: _Count
    output_tokens: _Count
    cache_read_input_tokens: _Count | None = None
    cache_creation_input_tokens: _Count | None = None
    cache_creation: _CacheCreation | None = None
    model: str | None = None


class Usage(_Iteration, frozen=True, gc=False):
    """The members of the API's usage object that cost money; every other one is ignored."""

    server_tool_use: _ServerToolUse | None = None
    iterations: list[_Iteration] | None = None
    speed: str | None = None
    inference_geo: str | None = None
    service_tier: str | None = None


_USAGE: Final = msgspec.json.Decoder(Usage)


def usage(raw: bytes | msgspec.Raw | dict[str, Any]) -> Usage:
    """Return what the API's usage object says.

    Raises:
        msgspec.ValidationError: it has no token counts, or impossible ones.
        msgspec.DecodeError: it is not JSON.

    """
    return msgspec.convert(raw, Usage) if isinstance(raw, dict) else _USAGE.decode(raw)


def exact(model: str, raw: bytes | msgspec.Raw | dict[str, Any]) -> Cost:
    """Return what a call of `model` cost, from the usage object as it came.

    Where the API lists `iterations`, those are summed, each with its own model: a compaction is in
    none of the totals.  Web searches are counted in the totals only.  It is at the prices of a
    batch where the usage says that it was one, and the model has such prices.

    Raises:
        UnknownModel: a model, or the speed it ran at, has no price.
        msgspec.DecodeError: the usage cannot be read; see `usage`.

    """
    return _exact(model, usage(raw)) if isinstance(raw, dict) else _remembered(model, bytes(raw))


@lru_cache(maxsize=64)
def _remembered(model: str, raw: bytes) -> Cost:
    # A reply is priced for its outcome and then for the roll-up: the second time costs nothing.
    return _exact(model, usage(raw))


def _exact(model: str, used: Usage) -> Cost:
    speed = used.speed or ""
    halves = fresh = read = written = output = 0
    for part in used.iterations or (used,):
        parts = _writes(part)
        hits = part.cache_read_input_tokens or 0
        total = part.input_tokens + hits + parts[0] + parts[1]
        priced = _settling(part.model or model, speed, batch=used.service_tier == BATCH)
        tier = priced.tier(total)
        halves += (2 // priced.per) * (
            part.input_tokens * tier.input
            + hits * tier.cache_read
            + parts[0] * tier.cache_write_5m
            + parts[1] * tier.cache_write_1h
            + part.output_tokens * tier.output
        )
        fresh += part.input_tokens
        read += hits
        written += parts[0] + parts[1]
        output += part.output_tokens
    nano = -(-halves // 2)
    if used.inference_geo == "us":
        nano = _resident(nano)
    if used.server_tool_use is not None:
        nano += (used.server_tool_use.web_search_requests or 0) * WEB_SEARCH_NANO
    return Cost(nano, fresh + read + written + output, fresh, read, written, output)


def _settling(model: str, speed: str, *, batch: bool) -> Rates:
    """Return the prices to settle at: the standard ones where a batch has none, as they are dearer.

    Raises:
        UnknownModel: see `rates`.

    """
    try:
        return rates(model, speed, batch=batch)
    except UnknownModel:
        if not batch:
            raise
        return rates(model, speed)


def worst_case(
    model: str, input_tokens_bound: int, max_tokens: int, *, speed: str = "", batch: bool = False
) -> int:
    """Return the most that one call can cost, in nano-dollars.

    Every token of the prompt is taken at the dearest price it can have (fresh, or written to the
    cache for an hour), beyond a cliff where the bound reaches it, and under US residency, which a
    workspace may have by default.  `speed` is the request's; `batch` says that it is one of a
    batch.  Fees of server tools are not in it.

    Raises:
        UnknownModel: the model, or that speed of it, or batches of it, have no price.

    """
    dearest_input, dearest_output = _dearest(model, input_tokens_bound, speed, batch=batch)
    return _resident(input_tokens_bound * dearest_input + max_tokens * dearest_output)


def affordable(
    model: str, input_tokens_bound: int, nano: int, *, speed: str = "", batch: bool = False
) -> int:
    """Return the most output tokens of a call whose worst case is within `nano`; see `worst_case`.

    It is below 0 where the prompt alone can cost more.

    Raises:
        UnknownModel: see `rates`.

    """
    dearest_input, dearest_output = _dearest(model, input_tokens_bound, speed, batch=batch)
    within = 10 * nano // US_TENTHS
    return (within - input_tokens_bound * dearest_input) // dearest_output


def _dearest(model: str, input_tokens_bound: int, speed: str, *, batch: bool) -> tuple[int, int]:
    """Return the most that a token of a prompt of so many can cost, and one of the reply."""
    dearest_input = dearest_output = 0
    priced = rates(model, speed, batch=batch)
    for tier in priced.tiers:
        if input_tokens_bound > tier.above:
            dearest_input = max(dearest_input, tier.dearest_input)
            dearest_output = max(dearest_output, tier.output)
    return -(-dearest_input // priced.per), -(-dearest_output // priced.per)


def input_bound(text: str | bytes) -> int:
    r"""Return a number of tokens that `text`, given as such or as UTF-8, cannot exceed.

    A byte-level tokenizer makes at most one token of a byte, but may normalise the text first
    (NFKC), which can lengthen it: U+FDFA is 3 bytes and becomes 33.  JSON may be passed as it is:
    what it hides behind `\uXXXX` is counted too.  Add `FRAMING_TOKENS` once a request.
    """
    if isinstance(text, bytes) and text.isascii() and not (b"\\" in text and b"\\u" in text):
        return len(text)  # nearly every message, and without decoding it
    plain = text if isinstance(text, str) else text.decode("utf-8", "replace")
    bound = _longest(plain, len(text)) if isinstance(text, bytes) else _longest(plain, 0)
    if "\\u" in plain:
        bound = max(bound, _longest(_unescaped(plain), 0))
    return bound


def known(model: str) -> bool:
    """Return whether there are prices for `model`, so that calls of it can be made."""
    try:
        rates(model)
    except UnknownModel:
        return False
    return True


_WIDEST: Final = 1_000_000
"""Tokens of the widest context that any model has, for those whose own is not told."""


def context_window(model: str) -> int:
    """Return how many tokens a prompt of `model` can have at most.

    Raises:
        UnknownModel: see `rates`.

    """
    window = _listed()[rates(model).model].context_window
    return window or _WIDEST


@cache
def rates(model: str, speed: str = "", *, batch: bool = False) -> Rates:
    """Return the prices of `model`, an id of the API: plain, dated or `-latest`.

    `speed` is the request's member of that name, where it is not the standard one; `batch` asks
    for the prices of the Message Batches API.

    Raises:
        UnknownModel: the table has no complete prices for it.

    """
    found = _listed().get(_UNDATED.sub("", model)) or _listed().get(model)
    prices = None if found is None else _prices(found, speed, batch=batch)
    if found is None or prices is None:
        unpriced = f" at speed {speed!r}" * bool(speed) + " in a batch" * batch
        raise UnknownModel(model if found is None else f"{model}{unpriced}", near=_near(model))
    per = 2 if batch else 1
    return Rates(found.id, tuple(_tiers(prices, per)), per)


_UNDATED: Final = re.compile(r"(-latest|[-@]\d{8}|-\d{4}-\d{2}-\d{2})$")

_KEYS: Final = (
    "input_mtok",
    "output_mtok",
    "cache_read_mtok",
    "cache_write_mtok",
    "cache_write_1h_mtok",
)
"""The prices of a tier in genai-prices' words, in the order of `Tier`; a plain write: 5 min."""


@cache
def _listed() -> dict[str, ModelInfo]:
    """Return the models of the price table that have all five prices, under every undated name.

    The table matches names by their beginning, so that `claude-opus-4-55` would get the prices of
    4.5.  Here only the names themselves count, and `rates` takes the date off.
    """
    from genai_prices.data import providers  # noqa: PLC0415  (a quarter of a second; see above)

    models = next(provider for provider in providers if provider.id == "anthropic").models
    whole = [model for model in models if _prices(model, "") is not None]
    return {name: model for model in whole for name in (*_literals(model.match), model.id)}


def _literals(clause: Any) -> Iterator[str]:
    for inner in getattr(clause, "or_", [clause]):
        name = getattr(inner, "equals", None) or getattr(inner, "starts_with", None)
        if name and not name.endswith("@"):
            yield name


def _near(model: str) -> tuple[str, ...]:
    ids = sorted({listed.id for listed in _listed().values()})
    return tuple(get_close_matches(model, ids, n=3, cutoff=0.6))


def _prices(
    model: ModelInfo, speed: str, *, batch: bool = False
) -> tuple[_Price, ...] | None:
    """Return the five prices in the order of `_KEYS`, or `None` where one is missing."""
    source: ModelPrice | None
    source = model.prices[-1].prices if isinstance(model.prices, list) else model.prices
    when = {"speed": speed} if speed not in ("", "standard") else {}
    when |= {"processing": BATCH} if batch else {}
    if when:
        variants = model.price_variants or ()
        source = next((v.prices for v in variants if v.when == when), None)
    found = [getattr(source, key, None) for key in _KEYS]
    prices = tuple(price for price in found if price is not None)
    return prices if len(prices) == len(_KEYS) else None


def _tiers(prices: tuple[_Price, ...], per: int = 1) -> Iterator[Tier]:
    starts = {tier.start for price in prices for tier in getattr(price, "tiers", ())}
    for above in (-1, *sorted(starts)):
        yield Tier(above, *(_nano(per * _at(price, above)) for price in prices))


def _at(price: _Price, above: int) -> Decimal:
    """Return what a token costs in a prompt of just over `above` tokens, in dollars per million."""
    found: Any = getattr(price, "base", price)
    for tier in getattr(price, "tiers", ()):
        if above >= tier.start:
            found = tier.price
    return cast("Decimal", found)


def _nano(dollars_per_million: Decimal) -> int:
    return -int(-dollars_per_million * 1000 // 1)


def _resident(nano: int) -> int:
    return -(-nano * US_TENTHS // 10)


def _writes(part: _Iteration) -> tuple[int, int]:
    """Return the tokens written to the cache for 5 minutes, and those for longer or unsaid."""
    told = part.cache_creation
    short = (told.ephemeral_5m_input_tokens or 0) if told is not None else 0
    long = (told.ephemeral_1h_input_tokens or 0) if told is not None else 0
    return short, max(long, (part.cache_creation_input_tokens or 0) - short)


def _longest(text: str, at_least: int) -> int:
    if text.isascii():
        return max(at_least, len(text))
    composed = unicodedata.normalize("NFKC", text)
    return max(at_least, len(_utf8(text)), len(_utf8(composed)))


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


_ESCAPE: Final = re.compile(r"\\(?:\\|u([0-9a-fA-F]{4}))")


def _unescaped(text: str) -> str:
    # An escaped backslash is stepped over, so that the `u` after it is not taken for an escape.
    plain = _ESCAPE.sub(lambda at: chr(int(at[1], 16)) if at[1] else at[0], text)
    # Two escaped halves make one character; a lonely half counts three bytes.
    return plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
