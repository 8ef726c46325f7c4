"""What tokens cost, in whole nano-dollars: the worst case before a call, the exact sum after it.

The list prices are those that `genai-prices` bundles for Anthropic, and for Bedrock under the ids
that models have there, compiled once per model into integers; its arithmetic and its network
refresh are not used, so a price never changes under a running process.  Vertex and Foundry charge
what Anthropic does.  No clock is consulted: of a price that changed over time the newest entry of
the table counts, so a change that is announced for a later day counts from the release of
genai-prices that brings it.  What the table does not know is laid over it here: US residency, and
the prices of models that users declare.

Whatever is not certain is rounded up: a fraction of a nano-dollar, a cache write whose lifetime the
API did not report, a batch or priority discount.  A price that is not known is never made up.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache, lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias, cast

import msgspec

from outlast import anthropic_tools
from outlast.errors import UnknownModel, UsageError

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


class Terms(msgspec.Struct, frozen=True):
    """What of a request, beside its model and its tokens, says what it costs."""

    speed: str = ""
    geo: str = ""
    """Where it is to be processed: `us`, `global`, or empty for what the workspace says."""
    batch: bool = False
    """It is one of a batch."""
    passes: int = 1
    """How often the prompt may be read: compaction, and each model to fall back to, reads again."""
    others: tuple[str, ...] = ()
    """Models that may answer instead."""
    cache: str = "1h"
    """For how long the prompt is to be kept in the cache: `5m`, `1h`, or empty for not at all."""
    loops: int = 0
    """How often server tools may have Claude asked again, in each pass."""
    window: int = 0
    """Tokens of a prompt that it is asked again with: nobody knows what the tools brought."""
    fees_nano: int = 0
    """The most that server tools charge beside tokens, in each pass."""

    @property
    def again_tokens(self) -> int:
        """Tokens of all the prompts that Claude may be asked again with."""
        return self.passes * self.loops * self.window

    @property
    def replies(self) -> int:
        """How often Claude may reply: once in each pass, and after each use of a server tool."""
        return self.passes * (1 + self.loops)

    @property
    def outputs(self) -> int:
        """How often `max_tokens` may be billed: written, and read in the passes after."""
        return self.replies + self.passes - 1


PLAIN: Final = Terms()


class Tier(msgspec.Struct, frozen=True, gc=False):
    """Prices of one request's tokens, in nano-dollars each, for prompts longer than `above`."""

    above: int
    input: int
    output: int
    cache_read: int
    cache_write_5m: int
    cache_write_1h: int

    def dearest_input(self, cache: str) -> int:
        """Return the most that a token of a prompt can cost that is kept in the cache so long."""
        dearest = max(self.input, self.cache_read)
        if cache:
            dearest = max(dearest, self.cache_write_5m)
        return max(dearest, self.cache_write_1h) if cache not in ("", "5m") else dearest


class Rates(msgspec.Struct, frozen=True, gc=False):
    """The prices of a model: a cliff, not a slope, so one tier holds for all of a request."""

    model: str
    """The id under which the price table has the model, not necessarily the one asked for."""
    tiers: tuple[Tier, ...]
    """Sorted by `above`; the first one has `above=-1` and so always applies."""
    per: int = 1
    """What the prices are to be divided by: 2 for a batch, whose prices may have halves."""
    resident: bool = True
    """Whether US residency is charged on top; elsewhere the region is in the price."""

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


def exact(model: str, raw: bytes | msgspec.Raw | dict[str, Any], terms: Terms = PLAIN) -> Cost:
    """Return what a call of `model` cost, from the usage object as it came.

    Where the API lists `iterations`, those are summed, each with its own model: a compaction is in
    none of the totals.  Web searches are counted in the totals only.  It is at the prices of a
    batch where the usage says that it was one, and the model has such prices.

    US residency is charged where the usage says `us`, and where it says nothing, unless the request
    asked for `global`.

    Raises:
        UnknownModel: a model, or the speed or tier it ran at, has no price.
        msgspec.DecodeError: the usage cannot be read; see `usage`.

    """
    if isinstance(raw, dict):
        return _exact(model, usage(raw), terms)
    return _remembered(model, bytes(raw), terms)


@lru_cache(maxsize=64)
def _remembered(model: str, raw: bytes, terms: Terms) -> Cost:
    # A reply is priced for its outcome and then for the roll-up: the second time costs nothing.
    return _exact(model, usage(raw), terms)


def _exact(model: str, used: Usage, terms: Terms) -> Cost:
    if used.service_tier not in TIERS:
        raise UnknownModel(f"{model} in service tier {used.service_tier!r}", near=())
    is_resident = _is_resident(used, terms)
    fixed = resident = fresh = read = written = output = 0  # money in halves of nano-dollars
    for part in used.iterations or (used,):
        parts = _writes(part, terms.cache)
        hits = part.cache_read_input_tokens or 0
        total = part.input_tokens + hits + parts[0] + parts[1]
        billed = billed_as(model, part.model or model)
        priced = _settling(billed, used.speed or "", batch=used.service_tier == BATCH)
        tier = priced.tier(total)
        halves = (2 // priced.per) * (
            part.input_tokens * tier.input
            + hits * tier.cache_read
            + parts[0] * tier.cache_write_5m
            + parts[1] * tier.cache_write_1h
            + part.output_tokens * tier.output
        )
        if is_resident and priced.resident:
            resident += halves
        else:
            fixed += halves
        fresh += part.input_tokens
        read += hits
        written += parts[0] + parts[1]
        output += part.output_tokens
    nano = -(-(10 * fixed + US_TENTHS * resident) // 20)
    if used.server_tool_use is not None:
        nano += (used.server_tool_use.web_search_requests or 0) * WEB_SEARCH_NANO
    return Cost(nano, fresh + read + written + output, fresh, read, written, output)


TIERS: Final = frozenset({None, "standard", "priority", BATCH})
"""What `service_tier` may say of a call; what is committed to in advance is taken at list price."""

_ANYWHERE: Final = frozenset({"global", "not_available"})
"""What `inference_geo` says where residency is not charged; models before it have none to say."""


def _is_resident(used: Usage, terms: Terms) -> bool:
    """Return whether US residency is charged: said so, or not said at all."""
    said = used.inference_geo
    return said not in _ANYWHERE if said else terms.geo != "global"


def billed_as(asked: str, replied: str) -> str:
    """Return under which name a reply is billed.

    On Bedrock that is the one asked, which no reply says.  What a user declared the price of is
    billed so, too, whatever date or name of its own whoever serves it puts into the reply; another
    model that is known, such as one to fall back to, is billed as itself.
    """
    there = _on_bedrock(asked)
    if there and there[1] == undated(replied):
        return asked
    if asked in _DECLARED and (undated(replied) == undated(asked) or not known(replied)):
        return asked
    return replied


def search_fees(raw: bytes | msgspec.Raw) -> int:
    """Return what the web searches of a call cost, in nano-dollars: a part of its exact cost."""
    if b'"web_search_requests":' not in bytes(raw):
        return 0
    used = usage(raw).server_tool_use
    return 0 if used is None else (used.web_search_requests or 0) * WEB_SEARCH_NANO


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


def worst_case(model: str, input_tokens_bound: int, max_tokens: int, terms: Terms = PLAIN) -> int:
    """Return the most that one call can cost, in nano-dollars.

    Every token of the prompt is taken at the dearest price it can have (fresh, or written to the
    cache for as long as `terms` say), beyond a cliff where the bound reaches it, and under US
    residency, which a workspace may have by default, unless `terms` say `global`.  Where the prompt
    is read again, what the pass before wrote is part of it.  After each use of a server tool it is
    taken to fill the context window, and Claude to write as much again; the fees are in it.

    Raises:
        UnknownModel: the model, or that speed of it, or batches of it, have no price.

    """
    per_input, per_output, tenths = _dearest(model, input_tokens_bound, terms)
    again = terms.passes - 1
    nano = (terms.passes * input_tokens_bound + terms.again_tokens) * per_input
    nano += max_tokens * (terms.replies * per_output + again * per_input)
    return -(-nano * tenths // 10) + terms.passes * terms.fees_nano


def affordable(model: str, input_tokens_bound: int, nano: int, terms: Terms = PLAIN) -> int:
    """Return the most output tokens of a call whose worst case is within `nano`; see `worst_case`.

    It is below 0 where the prompt alone can cost more.

    Raises:
        UnknownModel: see `rates`.

    """
    per_input, per_output, tenths = _dearest(model, input_tokens_bound, terms)
    within = 10 * (nano - terms.passes * terms.fees_nano) // tenths
    within -= (terms.passes * input_tokens_bound + terms.again_tokens) * per_input
    return within // (terms.replies * per_output + (terms.passes - 1) * per_input)


def worst_tokens(input_tokens_bound: int, max_tokens: int, terms: Terms = PLAIN) -> int:
    """Return the most tokens, of prompts and replies together, that one call can be billed."""
    return terms.passes * input_tokens_bound + terms.again_tokens + terms.outputs * max_tokens


def bound_within(tokens: int, max_tokens: int, terms: Terms = PLAIN) -> int:
    """Return the bound of a prompt of which `tokens` are the `worst_tokens`; rounded up."""
    return -(-(tokens - terms.again_tokens - terms.outputs * max_tokens) // terms.passes)


def affordable_tokens(input_tokens_bound: int, tokens: int, terms: Terms = PLAIN) -> int:
    """Return the most output tokens of a call whose `worst_tokens` are within `tokens`."""
    return (tokens - terms.passes * input_tokens_bound - terms.again_tokens) // terms.outputs


@lru_cache(maxsize=256)
def _steps(model: str, terms: Terms) -> tuple[tuple[tuple[int, int, int], ...], int]:
    """Return the dearest prices of a token beyond each cliff, and residency in tenths."""
    each = [rates(one, terms.speed, batch=terms.batch) for one in (model, *terms.others)]
    starts = sorted({tier.above for one in each for tier in one.tiers})
    steps = []
    for above in starts:
        tiers = [(tier, one.per) for one in each for tier in one.tiers if tier.above <= above]
        steps.append(
            (
                above,
                max(-(-tier.dearest_input(terms.cache) // per) for tier, per in tiers),
                max(-(-tier.output // per) for tier, per in tiers),
            )
        )
    resident = terms.geo != "global" and any(one.resident for one in each)
    return tuple(steps), US_TENTHS if resident else 10


def _dearest(model: str, input_tokens_bound: int, terms: Terms) -> tuple[int, int, int]:
    """Return the most that a token of a prompt of so many can cost, and one of the reply.

    And what residency makes of a price, in tenths.
    """
    steps, tenths = _steps(model, terms)
    # What a pass before wrote, or a tool brought, comes on top of the bound, and may reach a cliff:
    # so any may count.
    found = steps[-1] if terms.replies > 1 else steps[0]
    for step in steps[1:]:
        if input_tokens_bound > step[0]:
            found = step
    return found[1], found[2], tenths


class _Edit(msgspec.Struct):
    type: str = ""


class _Edits(msgspec.Struct):
    edits: list[_Edit] = []


class _Fallback(msgspec.Struct):
    model: str = ""


class _Parameters(msgspec.Struct):
    speed: str | None = None
    inference_geo: str | None = None
    context_management: _Edits | None = None
    fallbacks: list[_Fallback] | None = None


def terms_of(
    parameters: bytes | msgspec.Raw,
    *,
    cache: str = "1h",
    batch: bool = False,
    tools: bytes | msgspec.Raw = b"[]",
    model: str = "",
) -> Terms:
    """Return what the members of a request, as JSON, say of its price.

    Args:
        parameters: the members.
        cache: for how long the prompt is to be kept in the cache.
        batch: whether it is one of a batch.
        tools: the rendered tools.
        model: who is asked, which says how wide a context window is that server tools may fill.

    Raises:
        msgspec.DecodeError: a member is not what the API takes.

    """
    terms = _terms_of(bytes(parameters), cache, batch)
    uses = anthropic_tools.uses(bytes(tools))
    if not uses.loops:
        return terms
    return msgspec.structs.replace(
        terms,
        loops=uses.loops,
        window=max(_window(one) for one in (model, *terms.others)),
        fees_nano=uses.searches * WEB_SEARCH_NANO,
    )


def _window(model: str) -> int:
    try:
        return context_window(model)
    except UnknownModel:  # no call of it is made, but a journal may have one
        return _WIDEST


@lru_cache(maxsize=256)
def _terms_of(parameters: bytes, cache: str, batch: bool) -> Terms:  # noqa: FBT001  (a key)
    if parameters == b"{}":
        return Terms(batch=batch, cache=cache)
    said = msgspec.json.decode(parameters, type=_Parameters)
    edits = said.context_management.edits if said.context_management else []
    others = tuple(one.model for one in said.fallbacks or () if one.model)
    compacts = any(edit.type.startswith("compact") for edit in edits)
    return Terms(
        speed=said.speed if said.speed and said.speed != "standard" else "",
        geo=said.inference_geo or "",
        batch=batch,
        passes=(2 if compacts else 1) * (1 + len(others)),
        others=others,
        cache=cache,
    )


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


def check_priced(model: str, parameters: bytes | msgspec.Raw, *, batch: bool = False) -> None:
    """Refuse a model, or what is asked of it, that has no price.

    Raises:
        UnknownModel: it has none.

    """
    _steps(model, terms_of(parameters, batch=batch))


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
    if (declared := _DECLARED.get(model)) is not None:
        return declared.context_window
    there = _on_bedrock(model)
    found = _bedrock()[there] if there else _listed()[rates(model).model]
    return found.context_window or _WIDEST


@cache
def rates(model: str, speed: str = "", *, batch: bool = False) -> Rates:
    """Return the prices of `model`, an id of the API: plain, dated or `-latest`.

    `speed` is the request's member of that name, where it is not the standard one; `batch` asks
    for the prices of the Message Batches API.

    Raises:
        UnknownModel: the table has no complete prices for it.

    """
    if (declared := _DECLARED.get(model)) is not None and speed == "" and not batch:
        return declared.rates
    there = _on_bedrock(model)
    found = _bedrock().get(there) if there else _listed_as(model)
    found = None if declared else found
    prices = None if found is None else _prices(found, speed, batch=batch)
    if found is None or prices is None:
        unpriced = f" at speed {speed!r}" * bool(speed) + " in a batch" * batch
        known = found is not None or declared is not None
        raise UnknownModel(f"{model}{unpriced}" if known else model, near=_near(model))
    per = 2 if batch else 1
    return Rates(found.id, tuple(_tiers(prices, per)), per, resident=not there)


class _Declared(msgspec.Struct, frozen=True):
    """The prices of a model as a user declared them."""

    rates: Rates
    context_window: int

    @property
    def version(self) -> str:
        """What tells them from any other prices."""
        return f"declared:{sha256(repr(self).encode()).hexdigest()[:8]}"


_DECLARED: Final[dict[str, _Declared]] = {}


def declare_price(  # noqa: PLR0913  (all but one are keywords)
    model: str,
    *,
    input: Decimal | float | str,  # noqa: A002  (what it is)
    output: Decimal | float | str,
    cache_read: Decimal | float | str | None = None,
    cache_write_5m: Decimal | float | str | None = None,
    cache_write_1h: Decimal | float | str | None = None,
    context_window: int = 1_000_000,
) -> None:
    """Say what a model costs that has no known price, or another one for you.

    All prices are US dollars per million tokens, with whatever is charged on top of them in them.
    Say it before the first run, such as where the agent is declared; it holds for the process.

    Args:
        model: its id, exactly as agents name it.
        input: fresh tokens of the prompt.
        output: tokens of the reply.
        cache_read: tokens read from the prompt cache; by default what fresh ones cost.
        cache_write_5m: tokens written there for 5 minutes; by default twice that.
        cache_write_1h: tokens written there for an hour; by default twice that.
        context_window: tokens that a prompt can have at most, default 1,000,000.

    Raises:
        UsageError: an amount or the name is none, or the model had other prices before.

    """
    if not isinstance(model, str) or not model.strip() or not model.isprintable():
        raise UsageError(
            f"{model!r} names no model; give its id as agents name it, such as 'house-model', each "
            "in a call of its own"
        )
    fresh = _amount(model, "input", input)
    given = {
        "output": output,
        "cache_read": fresh if cache_read is None else cache_read,
        "cache_write_5m": 2 * fresh if cache_write_5m is None else cache_write_5m,
        "cache_write_1h": 2 * fresh if cache_write_1h is None else cache_write_1h,
    }
    prices = [fresh, *(_amount(model, name, price) for name, price in given.items())]
    if not isinstance(context_window, int) or not 1_000 <= context_window <= 10**9:
        raise UsageError(
            f"context_window={context_window!r} of {model!r}: give a whole number of tokens"
        )
    tier = Tier(-1, *(_nano(price) for price in prices))
    declared = _Declared(Rates(model, (tier,), resident=False), context_window)
    if _DECLARED.setdefault(model, declared) != declared:
        raise UsageError(
            f"{model!r} was declared with other prices before, and a price does not change under a "
            "running process; declare it once"
        )
    rates.cache_clear()
    _steps.cache_clear()


def _amount(model: str, name: str, price: Decimal | float | str) -> Decimal:
    from decimal import Decimal, InvalidOperation  # noqa: PLC0415  (declaring is rare)

    try:
        amount = Decimal(str(price))
    except InvalidOperation:
        amount = Decimal(0)
    if isinstance(price, bool) or not amount.is_finite() or not 0 < amount <= 10**6:
        raise UsageError(
            f"{name}={price!r} of {model!r}: a price is an amount above 0 of US dollars per "
            "million tokens"
        )
    return amount


def version(model: str) -> str:
    """Return whose prices count for a model: the release of genai-prices, or `declared:…`."""
    if (declared := _DECLARED.get(model)) is not None:
        return declared.version
    return _release()


@cache
def _release() -> str:
    import genai_prices  # noqa: PLC0415  (slow, and there with the first price)

    return str(genai_prices.__version__)


_UNDATED: Final = re.compile(r"(-latest|[-@]\d{8}|-\d{4}-\d{2}-\d{2})$")

_BEDROCK: Final = re.compile(
    r"(?:.*/)?(?:(global)|[a-z]+(?:-gov)?)?\.?anthropic\.(claude-.+?)(?:-\d{8})?(?:-v\d+(?::\d+)?)?"
)
"""An id of Bedrock: of its global endpoint, of a region's, or of none; perhaps in an ARN."""


def undated(model: str) -> str:
    """Return the id of a model without the date or `-latest` at its end."""
    return _UNDATED.sub("", model)


def _on_bedrock(model: str) -> tuple[bool, str] | None:
    """Return whether an id of Bedrock is that of its global endpoint, and which model it is."""
    if "anthropic." not in model:
        return None
    found = _BEDROCK.fullmatch(model)
    return None if found is None else (found[1] is not None, found[2])


@cache
def _bedrock() -> dict[tuple[bool, str], ModelInfo]:
    from genai_prices.data import providers  # noqa: PLC0415  (see `_listed`)

    models = next(provider for provider in providers if provider.id == "aws").models
    return {there: model for model in models if (there := _on_bedrock(model.id)) is not None}


def _listed_as(model: str) -> ModelInfo | None:
    return _listed().get(undated(model)) or _listed().get(model)


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


def _prices(model: ModelInfo, speed: str, *, batch: bool = False) -> tuple[_Price, ...] | None:
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
    whole = int(dollars_per_million * 1000)
    return whole + (whole < dollars_per_million * 1000)


def _writes(part: _Iteration, cache: str) -> tuple[int, int]:
    """Return the tokens written to the cache for 5 minutes, and for an hour.

    What is not said counts as what was asked for.
    """
    told = part.cache_creation
    short = (told.ephemeral_5m_input_tokens or 0) if told is not None else 0
    long = (told.ephemeral_1h_input_tokens or 0) if told is not None else 0
    unsaid = max(0, (part.cache_creation_input_tokens or 0) - short - long)
    return (short + unsaid, long) if cache == "5m" else (short, long + unsaid)


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
