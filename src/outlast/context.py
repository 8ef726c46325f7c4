"""The context window: what of it is left, and how Claude is asked to condense a conversation.

| a prompt, with room for a whole reply | what is done |
|---|---|
| leaves more than the headroom | sent |
| is known by its bytes only, and may leave less | counted by the API, which is exact and free |
| leaves less | sent so that the API puts a summary in the place of what was said |
| leaves less, and cannot be condensed | sent with what room for a reply there is |
| leaves not even the least room for a reply | not sent; the run ends, and says so |

The API condenses what it can still read, and no more: a prompt beyond the window is refused,
whatever is asked of it.  So it is done while there is room, and what tools return is cut to the
room there is, before it is sent for the first time.

https://platform.claude.com/docs/en/build-with-claude/compaction
"""

from __future__ import annotations

import re
from typing import Final

from outlast.prices import context_window, undated

HEADROOM: Final = 5
"""One part in so many of the window is kept free: for a summary, and for what comes next.

It is about what the API leaves by itself: 150,000 tokens of 200,000.
"""

SPARE: Final = 20
"""One part in so many stays free of results, for the API to condense what there is with them."""

LEAST_TRIGGER: Final = 50_000
"""A prompt of fewer tokens is not condensed: the API takes no smaller trigger."""

LEAST_RESULT: Final = 1_000
"""Tokens that a result may always have: with less, Claude would not know what came back."""

FRUITLESS: Final = 2
"""How often in a row the API may fail to condense a conversation, and is asked again."""

BETA: Final = "compact-2026-01-12"
"""What a request that asks for it has to name in the header `anthropic-beta`."""

_EDIT: Final = (
    b'"context_management":{"edits":[{"type":"compact_20260112",'
    b'"trigger":{"type":"input_tokens","value":%d},"pause_after_compaction":true}]}'
)

_NARROW: Final = {"claude-opus-4-6": 200_000, "claude-sonnet-4-6": 200_000}
"""Models whose window is wider only for those who ask for it; price tables tell the wide one."""

_NAMED: Final = re.compile(r"claude-[a-z]+-(\d+)(?:-(\d{1,2})(?!\d))?")
_FIRST: Final = (4, 6)
"""The first version of Claude that condenses conversations."""


def window(model: str, shown: int = 0) -> int:
    """Return how many tokens a prompt and its reply may have together.

    Args:
        model: the id of the model.
        shown: where a reply ran into its end before; 0 where none did.

    Raises:
        UnknownModel: see `prices.rates`.

    """
    told = min(context_window(model), _NARROW.get(undated(model), context_window(model)))
    return min(told, shown) if shown else told


def roomy(tokens: int, most: int, window: int) -> bool:
    """Return whether a prompt of so many tokens leaves the headroom, and `most` for the reply."""
    return tokens + most + window // HEADROOM <= window


def compacts(model: str) -> bool:
    """Return whether a model can condense a conversation; of unknown ones nobody knows that."""
    named = _NAMED.search(model)
    return named is not None and (int(named[1]), int(named[2] or 0)) >= _FIRST


def trigger(window: int) -> int:
    """Return from how many tokens on the API is to condense a prompt that it is asked to.

    A prompt that is near its limit is beyond it; one of which only the bytes seemed so many is not.
    """
    return max(LEAST_TRIGGER, window // 2)


def edit(trigger: int) -> bytes:
    """Return the member of a request that asks for it.

    The API answers with the summary alone: what it says after that is a call of its own, with an
    intent and a hold of its own, and its prompt is short.
    """
    return _EDIT % trigger


def share(tokens: int, most: int, window: int, results: int) -> int:
    """Return how many tokens each of so many results may have, for the next prompt to fit.

    What a result has is known by its bytes only, so this is less than what may really be free.
    """
    free = window - tokens - most - window // SPARE
    return max(LEAST_RESULT, free // max(1, results))
