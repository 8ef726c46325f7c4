"""Which Claude models there are, what they allow, and what they cost at list price.

Written down from Anthropic's pages by hand and kept apart from `prices`, which reads genai-prices:
the bill of the simulator is the judge of our ledger, so the two must not share a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from math import ceil
from typing import Any, Final

import msgspec

WEB_SEARCH_NANO: Final = 10_000_000
"""Nano-dollars of one web search: $10 per 1000."""

FAST: Final = 2
"""Where a model has a fast mode, every token costs so many times as much."""

BATCH: Final = Fraction(1, 2)
"""In a batch every token costs half; a web search costs what it does."""

US: Final = Fraction(11, 10)
"""Inference in the US alone costs 1.1 times as much."""


class ClaudeModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model: its limits in tokens, its prices in nano-dollars per token.

    `cliff` is `(tokens, factor)`: a prompt longer than that multiplies every price of the request.
    `cacheable` is the shortest prefix that the prompt cache takes.  `binds` says that thinking is
    only taken back after the very system, tools and messages that it followed.  `fast` says that it
    has a fast mode.
    """

    context: int
    max_output: int
    input: int
    output: int
    cache_read: int
    cache_write_5m: int
    cache_write_1h: int
    cliff: tuple[int, int] | None = None
    cacheable: int = 1_024
    binds: bool = False
    fast: bool = False


def _model(*prices: int, context: int = 1_000_000, **more: Any) -> ClaudeModel:
    return ClaudeModel(
        context=context,
        max_output=more.pop("max_output", 128_000),
        input=prices[0],
        output=prices[1],
        cache_read=prices[2],
        cache_write_5m=prices[3],
        cache_write_1h=prices[4],
        **more,
    )


_SMALL: Final = 200_000

# In, out, cache read, cache write 5m, cache write 1h; 1000 nano-dollars a token are $1 a million.
# No `cacheable` is published for the 5.5 models: taken is that of the model before in its line.
MODELS: Final[Mapping[str, ClaudeModel]] = {
    "claude-fable-5-2": _model(
        8_000, 40_000, 200, 10_000, 16_000, cacheable=512, binds=True, fast=True
    ),
    "claude-mythos-5-2": _model(
        8_000, 40_000, 200, 10_000, 16_000, cacheable=512, binds=True, fast=True
    ),
    "claude-opus-5-5": _model(
        4_000, 20_000, 200, 5_000, 8_000, cacheable=512, binds=True, fast=True
    ),
    "claude-opus-5": _model(5_000, 25_000, 500, 6_250, 10_000, cacheable=512, fast=True),
    "claude-opus-4-8": _model(5_000, 25_000, 500, 6_250, 10_000, fast=True),
    "claude-opus-4-7": _model(5_000, 25_000, 500, 6_250, 10_000, cacheable=2_048),
    "claude-opus-4-6": _model(5_000, 25_000, 500, 6_250, 10_000, context=_SMALL, cacheable=4_096),
    "claude-opus-4-5": _model(5_000, 25_000, 500, 6_250, 10_000, context=_SMALL, cacheable=4_096),
    "claude-sonnet-5-5": _model(2_000, 10_000, 100, 2_500, 4_000, binds=True),
    "claude-sonnet-4-6": _model(
        3_000, 15_000, 300, 3_750, 6_000, context=_SMALL, max_output=32_000
    ),
    "claude-sonnet-4-5": _model(
        3_000, 15_000, 300, 3_750, 6_000, context=_SMALL, max_output=32_000
    ),
    "claude-haiku-5-5": _model(
        100, 500, 10, 125, 200, cliff=(100_000, 5), cacheable=4_096, binds=True
    ),
    "claude-haiku-4-5": _model(
        1_000, 5_000, 100, 1_250, 2_000, context=_SMALL, max_output=32_000, cacheable=4_096
    ),
}
"""By id, newest first."""

ALIASES: Final[Mapping[str, str]] = {
    "claude-opus-4-5-20251101": "claude-opus-4-5",
    "claude-sonnet-4-5-20250929": "claude-sonnet-4-5",
    "claude-haiku-4-5-20251001": "claude-haiku-4-5",
}
"""Dated ids of the same models."""


RETIRES: Final[Mapping[str, tuple[str, str]]] = {
    # The SDK names the end; that it was told two months before is Anthropic's promise.
    "claude-sonnet-4-5": ("2026-09-30T00:00:00Z", "2026-11-30T00:00:00Z"),
}
"""Deprecated models: since when, and when they are planned to retire."""


def find(model: str) -> ClaudeModel | None:
    """Return the model of that id, `None` when there is none."""
    return MODELS.get(ALIASES.get(model, model))


def cost_nano(model: str, usage: Mapping[str, Any]) -> int:
    """Return what `usage` costs at list price, in whole nano-dollars.

    Where it has `iterations` the tokens are theirs, each at the price of its own model: what a
    compaction costs is nowhere else.  What it says of `speed`, `inference_geo` and `service_tier`
    counts for all of them; a fraction of a nano-dollar is rounded up, once a request.

    Raises:
        KeyError: the model is not in the catalogue.

    """
    parts = usage.get("iterations") or [usage]
    fast = usage.get("speed") == "fast"
    tokens = sum(_tokens_nano(part.get("model") or model, part, fast=fast) for part in parts)
    searches = (usage.get("server_tool_use") or {}).get("web_search_requests") or 0
    return ceil(tokens * _factor(usage)) + int(searches * WEB_SEARCH_NANO)


def _factor(usage: Mapping[str, Any]) -> Fraction:
    where = US if usage.get("inference_geo") == "us" else Fraction(1)
    return where * (BATCH if usage.get("service_tier") == "batch" else 1)


def _tokens_nano(model: str, usage: Mapping[str, Any], *, fast: bool) -> int:
    price = MODELS[ALIASES.get(model, model)]
    fresh, read, written = (
        usage.get(name) or 0
        for name in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    )
    tiers = usage.get("cache_creation") or {}
    hour = tiers.get("ephemeral_1h_input_tokens") or 0
    nano: int = (
        fresh * price.input
        + read * price.cache_read
        + (written - hour) * price.cache_write_5m
        + hour * price.cache_write_1h
        + (usage.get("output_tokens") or 0) * price.output
    )
    if price.cliff and fresh + read + written > price.cliff[0]:
        nano *= price.cliff[1]
    return nano * FAST if fast and price.fast else nano
