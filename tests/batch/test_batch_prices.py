"""Prices of batches: half of the list price, where there is one, and never less than is known."""

from __future__ import annotations

from typing import Any

import pytest

from outlast.errors import UnknownModel
from outlast.models import catalogue
from outlast.prices import Terms, affordable, exact, rates, worst_case

BATCH = Terms(batch=True)


@pytest.mark.parametrize("model", catalogue.MODELS)
def test_every_model_costs_half(model: str) -> None:
    """All five prices of every tier are half of the standard ones, to half a nano-dollar."""
    whole, half = rates(model), rates(model, batch=True)
    assert (whole.per, half.per) == (1, 2)
    assert half.tiers == whole.tiers, "in halves of nano-dollars the numbers are the same"


@pytest.mark.parametrize(
    ("usage", "nano"),
    [
        ({}, 10 * 4_000 + 5 * 20_000),
        ({"service_tier": "standard"}, 10 * 4_000 + 5 * 20_000),
        ({"service_tier": "batch"}, 10 * 2_000 + 5 * 10_000),
        ({"service_tier": "priority"}, 10 * 4_000 + 5 * 20_000),
        ({"service_tier": "batch", "inference_geo": "us"}, (10 * 2_000 + 5 * 10_000) * 11 // 10),
        (
            {"service_tier": "batch", "server_tool_use": {"web_search_requests": 2}},
            10 * 2_000 + 5 * 10_000 + 2 * 10_000_000,
        ),
    ],
)
def test_it_is_settled_by_what_the_usage_says(usage: dict[str, Any], nano: int) -> None:
    """Only what says that it was a batch is at half price; searches cost what they cost."""
    counts = {"input_tokens": 10, "output_tokens": 5, "inference_geo": "global"}
    assert exact("claude-opus-5-5", counts | usage).nano == nano


@pytest.mark.parametrize("tokens", [99_999, 100_000, 100_001])
@pytest.mark.parametrize("written", [1, 2, 3])
def test_halves_and_the_cliff(tokens: int, written: int) -> None:
    """A sum that ends in half a nano-dollar is rounded up, once, on either side of the cliff."""
    usage = {
        "input_tokens": tokens - written,
        "cache_creation_input_tokens": written,
        "cache_creation": {"ephemeral_5m_input_tokens": written},
        "output_tokens": 7,
        "service_tier": "batch",
        "inference_geo": "global",
    }
    assert exact("claude-haiku-5-5", usage).nano == catalogue.cost_nano("claude-haiku-5-5", usage)


def test_a_model_without_a_price_for_batches() -> None:
    """It cannot be held, so it is refused; what came of one all the same costs the full price."""
    with pytest.raises(UnknownModel, match="claude-opus-4-1 in a batch"):
        worst_case("claude-opus-4-1", 10, 5, BATCH)
    usage = {"input_tokens": 10, "output_tokens": 5}
    full = exact("claude-opus-4-1", usage).nano
    assert exact("claude-opus-4-1", usage | {"service_tier": "batch"}).nano == full


@pytest.mark.parametrize("model", catalogue.MODELS)
def test_a_hold_is_enough_and_no_more_than_half(model: str) -> None:
    """The worst case of a batch covers the dearest bill, and what it affords is what it holds."""
    for bound, most in ((1, 1), (1_001, 333), (100_001, 8_191)):
        held = worst_case(model, bound, most, BATCH)
        dearest = {
            "input_tokens": 0,
            "cache_creation_input_tokens": bound,
            "cache_creation": {"ephemeral_1h_input_tokens": bound},
            "output_tokens": most,
            "service_tier": "batch",
            "inference_geo": "us",
        }
        assert exact(model, dearest).nano <= held
        assert 2 * held <= worst_case(model, bound, most) + 2 * (bound + most + 1)
        assert affordable(model, bound, held, BATCH) >= most
        assert affordable(model, bound, held - most, BATCH) <= most
