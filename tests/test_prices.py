"""Prices: the list, exact sums, worst cases, and the bound on tokens nobody has counted yet."""

from __future__ import annotations

import subprocess
import sys
import unicodedata
from decimal import Decimal

import genai_prices
import msgspec
import pytest
from genai_prices.data import providers
from hypothesis import given
from hypothesis import strategies as st

import outlast
from outlast import prices
from outlast.errors import UnknownModel, UsageError
from outlast.events import ModelCallStarted
from outlast.prices import Terms
from stubs import Answers, reply

# USD per million tokens, from the price page: in, out, cache read, write 5m, write 1h.
LIST = {
    "claude-fable-5-2": ("8", "40", "0.20", "10", "16"),
    "claude-mythos-5-2": ("8", "40", "0.20", "10", "16"),
    "claude-opus-5-5": ("4", "20", "0.20", "5", "8"),
    "claude-opus-5": ("5", "25", "0.50", "6.25", "10"),
    "claude-opus-4-8": ("5", "25", "0.50", "6.25", "10"),
    "claude-opus-4-7": ("5", "25", "0.50", "6.25", "10"),
    "claude-opus-4-6": ("5", "25", "0.50", "6.25", "10"),
    "claude-opus-4-5": ("5", "25", "0.50", "6.25", "10"),
    "claude-sonnet-5-5": ("2", "10", "0.10", "2.5", "4"),
    "claude-sonnet-4-6": ("3", "15", "0.30", "3.75", "6"),
    "claude-sonnet-4-5": ("3", "15", "0.30", "3.75", "6"),
    "claude-haiku-5-5": ("0.1", "0.5", "0.01", "0.125", "0.2"),
    "claude-haiku-4-5": ("1", "5", "0.10", "1.25", "2"),
}


def counted(**members: object) -> bytes:
    usual = {"input_tokens": 0, "output_tokens": 0, "inference_geo": "global"}
    return msgspec.json.encode(usual | members)


def written(short: int, long: int) -> dict[str, object]:
    split = {"ephemeral_5m_input_tokens": short, "ephemeral_1h_input_tokens": long}
    return {"cache_creation_input_tokens": short + long, "cache_creation": split}


@pytest.mark.parametrize("model", LIST)
def test_rates_are_the_list_prices(model):
    """A token costs, in nano-dollars, a thousand times its price in dollars per million."""
    tier = prices.rates(model).tiers[0]
    listed = [int(Decimal(dollars) * 1000) for dollars in LIST[model]]
    compiled = (
        tier.input,
        tier.output,
        tier.cache_read,
        tier.cache_write_5m,
        tier.cache_write_1h,
    )
    assert list(compiled) == listed


def test_no_listed_price_had_to_be_rounded():
    """Every price of every model is a whole number of nano-dollars per token."""
    for info in prices._listed().values():
        found = prices._prices(info, "")
        for tier in prices._tiers(found):
            for price, nano in zip(found, msgspec.structs.astuple(tier)[1:], strict=True):
                assert prices._at(price, tier.above) * 1000 == nano


def test_of_a_price_that_changed_the_newest_counts():
    """Prices with a history are listed oldest first, and their last entry is taken."""
    for info in prices._listed().values():
        if isinstance(info.prices, list):
            begins = [entry.constraint and entry.constraint.start_date for entry in info.prices]
            assert begins[0] is None
            assert begins[1:] == sorted(begins[1:])
    assert prices.worst_case("claude-opus-4-6", 300_000, 0) == 300_000 * 11_000  # no cliff any more


@pytest.mark.parametrize(
    ("members", "nano"),
    [
        pytest.param({"input_tokens": 3}, 12_000, id="input"),
        pytest.param({"output_tokens": 3}, 60_000, id="output"),
        pytest.param({"cache_read_input_tokens": 3}, 600, id="cache-read"),
        pytest.param(written(3, 0), 15_000, id="write-5m"),
        pytest.param(written(0, 3), 24_000, id="write-1h"),
        pytest.param(written(3, 3), 39_000, id="write-both"),
        pytest.param({"cache_creation_input_tokens": 3}, 24_000, id="write-of-unsaid-lifetime"),
        pytest.param(
            {**written(1, 1), "cache_creation_input_tokens": 3}, 21_000, id="write-partly-unsaid"
        ),
        pytest.param(
            {"cache_creation": None, "cache_read_input_tokens": None}, 0, id="null-members"
        ),
        pytest.param({"server_tool_use": {"web_search_requests": 3}}, 30_000_000, id="web-search"),
        pytest.param({"server_tool_use": None, "service_tier": None}, 0, id="null-terms"),
        pytest.param({"input_tokens": 3, "service_tier": "standard"}, 12_000, id="standard-tier"),
        pytest.param({"input_tokens": 3, "service_tier": "priority"}, 12_000, id="priority-tier"),
        pytest.param({"input_tokens": 3, "service_tier": "batch"}, 6_000, id="batch"),
        pytest.param({"input_tokens": 3, "speed": "fast"}, 24_000, id="fast"),
        pytest.param({"input_tokens": 3, "speed": "standard"}, 12_000, id="standard-speed"),
        pytest.param({"input_tokens": 3, "inference_geo": "us"}, 13_200, id="us"),
        pytest.param({"cache_read_input_tokens": 3, "inference_geo": "us"}, 660, id="us-read"),
        pytest.param({"input_tokens": 3, "inference_geo": "global"}, 12_000, id="global"),
        pytest.param({"input_tokens": 3, "inference_geo": None}, 13_200, id="residency-unsaid"),
        pytest.param({"input_tokens": 3, "inference_geo": "eu"}, 13_200, id="residency-unheard-of"),
        pytest.param({"input_tokens": 3, "inference_geo": "not_available"}, 12_000, id="no-geo"),
    ],
)
def test_exact_prices_every_member_of_the_usage(members, nano):
    """Each kind of token, and each search, costs what the list says."""
    assert prices.exact("claude-opus-5-5", counted(**members)).nano == nano


def test_a_fraction_of_a_nano_dollar_is_rounded_up():
    """1.1 times 11 x 125 nano-dollars is 1512.5 nano-dollars, and 1513 are charged."""
    usage = counted(**written(11, 0), inference_geo="us")
    assert prices.exact("claude-haiku-5-5", usage).nano == 1513


@pytest.mark.parametrize(
    ("fresh", "read", "wrote", "each"),
    [
        (99_999, 0, 0, 100),
        (100_000, 0, 0, 100),
        (100_001, 0, 0, 500),
        (1, 50_000, 49_999, None),
        (2, 50_000, 49_999, None),
    ],
)
def test_a_prompt_beyond_the_cliff_costs_more_for_all_of_its_tokens(fresh, read, wrote, each):
    """Haiku 5.5 costs five times as much once the prompt, cached parts included, passes 100,000."""
    usage = counted(
        input_tokens=fresh, output_tokens=7, cache_read_input_tokens=read, **written(wrote, 0)
    )
    factor = 5 if fresh + read + wrote > 100_000 else 1
    expected = factor * (fresh * 100 + 7 * 500 + read * 10 + wrote * 125)
    assert prices.exact("claude-haiku-5-5", usage).nano == expected
    assert each is None or each == factor * 100


def test_iterations_are_summed_each_with_its_own_model():
    """Totals leave compaction out, so the iterations count where there are any."""
    usage = counted(
        input_tokens=10,
        output_tokens=5,
        server_tool_use={"web_search_requests": 1},
        iterations=[
            {"type": "compaction", "input_tokens": 100, "output_tokens": 20},
            {"type": "message", "input_tokens": 10, "output_tokens": 5},
            {
                "type": "advisor_message",
                "model": "claude-haiku-5-5",
                "input_tokens": 1000,
                "output_tokens": 10,
            },
        ],
    )
    cost = prices.exact("claude-opus-5-5", usage)
    assert cost.nano == (110 * 4000 + 25 * 20_000) + (1000 * 100 + 10 * 500) + 10_000_000
    assert (cost.input_tokens, cost.output_tokens, cost.tokens) == (1110, 35, 1145)


def test_the_cliff_is_judged_per_iteration():
    """Two prompts of 60,000 tokens are not one of 120,000."""
    part = {"type": "message", "input_tokens": 60_000, "output_tokens": 0}
    usage = counted(input_tokens=120_000, iterations=[part, part])
    assert prices.exact("claude-haiku-5-5", usage).nano == 120_000 * 100


def test_tokens_are_everything_the_api_counted():
    """Input, cache reads, cache writes and output make up the tokens of a call."""
    usage = counted(
        input_tokens=1, output_tokens=20, cache_read_input_tokens=300, **written(4000, 50_000)
    )
    cost = prices.exact("claude-opus-5-5", usage)
    assert cost.tokens == 54_321
    assert cost.cache_read_tokens == 300
    assert cost.cache_write_tokens == 54_000


@pytest.mark.parametrize("form", [bytes, msgspec.Raw, msgspec.json.decode])
def test_usage_is_taken_in_every_form_it_is_held_in(form):
    """Bytes, raw JSON and a dict of the same usage cost the same."""
    usage = counted(input_tokens=3, unheard_of={"a": [1]})
    assert prices.exact("claude-opus-5-5", form(usage)).nano == 12_000


@pytest.mark.parametrize(
    "usage",
    [
        b"",
        b"null",
        b"{}",
        b'{"input_tokens":1}',
        b'{"input_tokens":-1,"output_tokens":1}',
        b'{"input_tokens":null,"output_tokens":1}',
        b'{"input_tokens":"1","output_tokens":1}',
    ],
)
def test_usage_without_possible_counts_is_refused(usage):
    """What cannot be read is never taken for free."""
    with pytest.raises(msgspec.DecodeError):
        prices.exact("claude-opus-5-5", usage)


@pytest.mark.parametrize(
    ("model", "bound", "most", "nano"),
    [
        # the hour's cache write is the dearest input; 1.1 for US residency
        pytest.param("claude-opus-5-5", 1000, 10, (8_000_000 + 200_000) * 1.1, id="plain"),
        pytest.param("claude-haiku-5-5", 100_000, 10, (20_000_000 + 5000) * 1.1, id="at-cliff"),
        pytest.param(
            "claude-haiku-5-5", 100_001, 10, (100_001_000 + 25_000) * 1.1, id="past-cliff"
        ),
        pytest.param("claude-opus-5-5", 0, 0, 0, id="nothing"),
    ],
)
def test_the_worst_case_takes_the_dearest_price_that_can_apply(model, bound, most, nano):
    """A hold is computed at the cache write's price, past the cliff if it can be reached."""
    assert prices.worst_case(model, bound, most) == round(nano)


counts = st.integers(0, 150_000)


@given(
    model=st.sampled_from(sorted(LIST)),
    tokens=st.tuples(counts, counts, counts, counts, counts),
    geo=st.sampled_from(["us", "global", None]),
    spare=st.integers(0, 1000),
)
def test_no_call_costs_more_than_its_worst_case(model, tokens, geo, spare):
    """Whatever mix of tokens comes within the bounds, the hold covers it."""
    fresh, read, short, long, output = tokens
    usage = counted(
        input_tokens=fresh,
        output_tokens=output,
        cache_read_input_tokens=read,
        inference_geo=geo,
        **written(short, long),
    )
    bound = fresh + read + short + long + spare
    assert prices.exact(model, usage).nano <= prices.worst_case(model, bound, output + spare)


def test_a_fast_request_is_held_at_fast_prices():
    """The speed of a request is priced before the call as it is after it."""
    usage = counted(input_tokens=1000, output_tokens=10, speed="fast")
    cost = prices.exact("claude-opus-5-5", usage).nano
    assert prices.worst_case("claude-opus-5-5", 1000, 10) == 9_020_000
    fast = Terms(speed="fast")
    assert cost <= prices.worst_case("claude-opus-5-5", 1000, 10, fast) == 18_040_000


def test_residency_is_not_held_where_the_request_excludes_it():
    """A request for `global` is held at the list price, and settled so whatever is reported."""
    anywhere = Terms(geo="global")
    assert prices.worst_case("claude-opus-5-5", 1000, 10, anywhere) == 8_200_000
    assert prices.worst_case("claude-opus-5-5", 1000, 10, Terms(geo="us")) == 9_020_000
    silent = counted(input_tokens=3, inference_geo=None)
    assert prices.exact("claude-opus-5-5", silent, anywhere).nano == 12_000
    told = counted(input_tokens=3, inference_geo="us")
    assert prices.exact("claude-opus-5-5", told, anywhere).nano == 13_200


@pytest.mark.parametrize(("cache", "dearest"), [("", 4_000), ("5m", 5_000), ("1h", 8_000)])
def test_only_what_a_request_asks_of_the_cache_is_held(cache, dearest):
    """A prompt that is kept for 5 minutes is not written for an hour, nor one that is not kept."""
    terms = Terms(geo="global", cache=cache)
    assert prices.worst_case("claude-opus-5-5", 1000, 0, terms) == 1000 * dearest
    unsaid = counted(cache_creation_input_tokens=3)
    price = 5_000 if cache == "5m" else 8_000
    assert prices.exact("claude-opus-5-5", unsaid, terms).nano == 3 * price


def test_a_tier_that_nobody_priced_is_refused():
    """A service tier nobody has heard of is not taken for the standard one."""
    with pytest.raises(UnknownModel, match="service tier 'turbo'"):
        prices.exact("claude-opus-5-5", counted(service_tier="turbo"))


@pytest.mark.parametrize(
    ("parameters", "terms"),
    [
        ({}, Terms()),
        ({"speed": "standard", "service_tier": "auto"}, Terms()),
        ({"speed": "fast", "inference_geo": "us"}, Terms(speed="fast", geo="us")),
        ({"context_management": {"edits": [{"type": "compact_20260112"}]}}, Terms(passes=2)),
        ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, Terms()),
        (
            {"fallbacks": [{"model": "claude-opus-5-5"}]},
            Terms(passes=2, others=("claude-opus-5-5",)),
        ),
    ],
)
def test_what_a_request_says_of_its_price(parameters, terms):
    """Speed, residency, compaction and models to fall back to are read from the request."""
    assert prices.terms_of(msgspec.json.encode(parameters)) == terms


def test_a_prompt_that_is_read_again_is_held_again():
    """Compaction reads the prompt, and then what it wrote; each pass may be billed."""
    once = prices.worst_case("claude-opus-5-5", 1000, 10)
    again = prices.worst_case("claude-opus-5-5", 1000, 10, Terms(passes=2))
    assert again == 2 * once + 10 * 8_000 * 11 // 10
    assert prices.worst_tokens(1000, 10, Terms(passes=2)) == 2030
    usage = counted(
        iterations=[
            {"type": "compaction", "input_tokens": 1000, "output_tokens": 10},
            {"type": "message", "input_tokens": 1010, "output_tokens": 10},
        ],
        inference_geo="us",
    )
    cost = prices.exact("claude-opus-5-5", usage)
    assert cost.nano <= again
    assert cost.tokens <= 2030


@given(
    model=st.sampled_from(sorted(LIST)),
    bound=st.integers(0, 300_000),
    nano=st.integers(0, 10**10),
    passes=st.integers(1, 4),
    geo=st.sampled_from(["", "us", "global"]),
)
def test_what_is_affordable_is_the_most_that_fits(model, bound, nano, passes, geo):
    """One token more would not fit, under any terms."""
    terms = Terms(passes=passes, geo=geo)
    most = prices.affordable(model, bound, nano, terms)
    if most >= 0:
        assert prices.worst_case(model, bound, most, terms) <= nano
    assert prices.worst_case(model, bound, max(0, most + 1), terms) > nano
    fits = prices.affordable_tokens(bound, nano, terms)
    assert prices.worst_tokens(bound, fits, terms) <= nano
    assert prices.worst_tokens(bound, fits + 1, terms) > nano


def test_a_dearer_model_to_fall_back_to_is_held():
    """Whoever may answer, the hold covers it."""
    terms = Terms(passes=2, others=("claude-opus-5-5",))
    held = prices.worst_case("claude-haiku-5-5", 1000, 10, terms)
    assert held == prices.worst_case("claude-opus-5-5", 1000, 10, Terms(passes=2))
    with pytest.raises(UnknownModel, match="claude-next"):
        prices.check_priced("claude-opus-5-5", b'{"fallbacks":[{"model":"claude-next"}]}')


# ── other clouds, and prices of one's own ───────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("model", "nano"),
    [
        ("global.anthropic.claude-opus-5-5", 4_000),
        ("global.anthropic.claude-opus-5-5-v1:0", 4_000),
        ("global.anthropic.claude-opus-4-5-20251101-v1:0", 5_000),
        ("anthropic.claude-opus-5-5", 4_400),
        ("us.anthropic.claude-opus-5-5", 4_400),
        ("us-gov.anthropic.claude-opus-5-5", 4_400),
        ("eu.anthropic.claude-haiku-4-5-20251001-v1:0", 1_100),
        ("arn:aws:bedrock:eu-west-1:1:inference-profile/eu.anthropic.claude-opus-5-5", 4_400),
    ],
)
def test_bedrock_has_prices_of_its_own(model, nano):
    """An id of Bedrock has the price of its endpoint, and no residency on top."""
    tier = prices.rates(model).tier(1)
    assert tier.input == nano
    assert prices.worst_case(model, 1000, 0) == 2_000 * nano
    usage = counted(input_tokens=1000, inference_geo=None)
    assert prices.exact(model, usage).nano == 1000 * nano
    assert prices.billed_as(model, "claude-next") == "claude-next"
    assert prices.context_window(model) >= 200_000


def test_a_reply_from_bedrock_is_billed_as_it_was_asked():
    """Claude says its own name there, which is not what is billed."""
    asked = "global.anthropic.claude-opus-5-5"
    assert prices.billed_as(asked, "claude-opus-5-5-20261001") == asked
    assert prices.billed_as(asked, "claude-haiku-5-5") == "claude-haiku-5-5"
    assert prices.billed_as("claude-opus-5-5", "claude-opus-5-5") == "claude-opus-5-5"


@pytest.mark.parametrize(
    "model", ["us.anthropic.claude-opus-9", "anthropic.", "x.anthropic.gpt-5", "anthropic.claude-"]
)
def test_an_id_of_bedrock_without_a_price_is_refused(model):
    """Nor is a price guessed there."""
    assert not prices.known(model)


def test_vertex_charges_what_anthropic_does():
    """Every model that Google lists with all five prices has Anthropic's, so one table will do."""
    listed = next(provider for provider in providers if provider.id == "google").models
    compared = 0
    for info in listed:
        theirs, ours = prices._prices(info, ""), prices._listed_as(info.id)
        if theirs is not None and ours is not None:
            assert theirs == prices._prices(ours, "")
            compared += 1
    assert compared >= 10


def test_a_price_that_is_declared_counts():
    """A model nobody lists can be asked once somebody said what it costs, with all on top."""
    assert not prices.known("my-model")
    prices.declare_price("my-model", input="1.5", output=3, context_window=50_000)
    tier = prices.rates("my-model").tier(1)
    assert [tier.input, tier.output, tier.cache_read] == [1_500, 3_000, 1_500]
    assert [tier.cache_write_5m, tier.cache_write_1h] == [3_000, 3_000]
    assert prices.worst_case("my-model", 1000, 10) == 3_030_000
    assert prices.exact("my-model", counted(input_tokens=2, inference_geo=None)).nano == 3_000
    assert prices.context_window("my-model") == 50_000
    assert prices.version("my-model").startswith("declared:")
    assert prices.version("claude-opus-5-5") == genai_prices.__version__
    with pytest.raises(UnknownModel, match="at speed 'fast'"):
        prices.rates("my-model", "fast")


def test_what_was_declared_is_billed_so_whatever_the_reply_is_called(monkeypatch):
    """A date, or a name of whoever serves it, makes no other model; one that is known does."""
    prices.declare_price("served-model", input=1, output=2)
    declared = prices._DECLARED["served-model"]
    monkeypatch.setitem(prices._DECLARED, "claude-sonnet-5-5", declared)
    for asked, replied, billed in [
        ("claude-sonnet-5-5", "claude-sonnet-5-5-20261001", "claude-sonnet-5-5"),
        ("served-model", "served-model-v2", "served-model"),
        ("served-model", "claude-opus-5-5", "claude-opus-5-5"),
        ("claude-opus-5-5", "unheard-of", "unheard-of"),
    ]:
        assert prices.billed_as(asked, replied) == billed
    usage = counted(
        input_tokens=2, iterations=[{"model": "x-1", "input_tokens": 2, "output_tokens": 0}]
    )
    assert prices.exact("served-model", usage).nano == 2_000


def test_a_price_does_not_change_under_a_running_process():
    """The same again is the same; other prices are refused."""
    for _ in range(2):
        prices.declare_price("twice-declared", input=1, output=2)
    with pytest.raises(UsageError, match="other prices before"):
        prices.declare_price("twice-declared", input=1, output=3)


@pytest.mark.parametrize("price", [0, -1, "free", float("nan"), float("inf"), True, None, 10**7])
def test_a_price_that_is_none(price):
    """What is no amount of money is refused, and nothing is declared."""
    with pytest.raises(UsageError, match="US dollars per million"):
        prices.declare_price("never-declared", input=price, output=1)
    with pytest.raises(UsageError, match="US dollars per million"):
        prices.declare_price("never-declared", input=1, output=1, cache_read=price or "")
    assert not prices.known("never-declared")


def test_the_table_is_journalled_with_every_call():
    """Whose prices were held stands in the intent; a declared model is run like any other."""
    prices.declare_price("journalled-model", input=1, output=1)
    for model in ("claude-opus-5-5", "journalled-model"):
        claude = Answers(lambda request: reply(b'[{"type":"text","text":"Fine."}]'))
        with outlast.Outlast("memory://", model=claude) as app:
            app.run(outlast.Agent("a", model=model), "Go.", run_id="r")
            calls = [r.event for r in app.log("r") if isinstance(r.event, ModelCallStarted)]
            assert [call.prices for call in calls] == [prices.version(model)]


@pytest.mark.parametrize(
    ("asked", "listed"),
    [
        ("claude-opus-5-5", "claude-opus-5-5"),
        ("claude-opus-5-5-20261001", "claude-opus-5-5"),
        ("claude-opus-4-5-20251101", "claude-opus-4-5"),
        ("claude-sonnet-4-20250514", "claude-sonnet-4-0"),
        ("claude-sonnet-4-5@20250929", "claude-sonnet-4-5"),
        ("claude-3-5-haiku-latest", "claude-3-5-haiku-latest"),
    ],
)
def test_dated_and_latest_names_have_the_price_of_their_model(asked, listed):
    """A date or `-latest` at the end of an id does not change what it costs."""
    assert prices.known(asked)
    assert prices.rates(asked).model == listed


@pytest.mark.parametrize(
    ("model", "near"),
    [
        ("claude-opus-5-55", "claude-opus-5-5"),
        ("claude-opus-4-55", "claude-opus-4-5"),
        ("claude-opus-4-5-preview", "claude-opus-4-5"),
        ("claude-sonet-5-5", "claude-sonnet-5-5"),
        ("Claude-Opus-5-5", "claude-opus-5-5"),
        ("opus-5-5", "claude-opus-5-5"),
        ("claude-haiku-5-5@", "claude-haiku-5-5"),
        ("gpt-5", None),
        ("", None),
    ],
)
def test_a_model_without_a_price_is_refused_with_what_was_meant(model, near):
    """No price is guessed from the beginning of a name; close names are offered."""
    assert not prices.known(model)
    with pytest.raises(UnknownModel) as refused:
        prices.worst_case(model, 1, 1)
    assert refused.value.model == model
    assert (near in refused.value.near) if near else refused.value.near == ()


def test_a_speed_without_a_price_is_refused():
    """A speed nobody priced is not taken for the standard one, before the call or after it."""
    with pytest.raises(UnknownModel, match="ludicrous"):
        prices.worst_case("claude-opus-5-5", 1, 1, Terms(speed="ludicrous"))
    with pytest.raises(UnknownModel, match="ludicrous"):
        prices.exact("claude-opus-5-5", counted(speed="ludicrous"))


def test_an_iteration_of_a_model_without_a_price_is_refused():
    """A fallback to a model nobody priced is not taken for free."""
    part = {"model": "claude-next", "input_tokens": 1, "output_tokens": 1}
    with pytest.raises(UnknownModel):
        prices.exact("claude-opus-5-5", counted(iterations=[part]))


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("", 0),
        ("plain", 5),
        ("é", 2),
        ("\N{PILE OF POO}", 4),
        ("\ufdfa", 33),
        ("ﬁ", 3),
        ("e\u0301", 3),
        ("\ud800", 3),
    ],
)
def test_the_bound_is_the_longer_of_utf8_and_normalised_utf8(text, bound):
    """Normalising may lengthen a text, and a byte is at most one token."""
    assert prices.input_bound(text) == bound
    if text.isprintable():
        assert prices.input_bound(text.encode()) == bound


@pytest.mark.parametrize(
    ("raw", "decoded"),
    [
        (rb'"\ufdfa"', '"\ufdfa"'),
        (rb'"\uFDFA\\ufdfa"', '"\ufdfa\\ufdfa"'),
        (rb'"\ud83d\udca9"', '"\N{PILE OF POO}"'),
        (rb'"\\\ufdfa"', '"\\\ufdfa"'),
        (rb'"\ufdfa\\u0041\\u0041\\u0041"', '"\ufdfa\\u0041\\u0041\\u0041"'),
    ],
)
def test_what_json_escapes_is_counted(raw, decoded):
    """Six bytes of escape can stand for a character of 33 tokens."""
    assert prices.input_bound(raw) >= len(unicodedata.normalize("NFKC", decoded).encode())


@given(st.text(), st.booleans())
def test_the_bound_holds_for_any_text_however_it_is_written(text, ascii_only):
    """UTF-8, normalised UTF-8 and JSON of a text, escaped or not, never exceed the bound."""
    import json  # noqa: PLC0415  (msgspec does not escape)

    longest = max(
        len(form.encode(errors="surrogatepass"))
        for form in (text, unicodedata.normalize("NFKC", text))
    )
    assert prices.input_bound(text) >= longest
    assert prices.input_bound(json.dumps(text, ensure_ascii=ascii_only)) >= longest


def test_importing_prices_does_not_load_the_price_table():
    """The table takes a quarter of a second, and is read when the first price is asked for."""
    script = "import sys, outlast.prices; sys.exit('genai_prices' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode == 0


def test_a_refreshed_table_does_not_change_prices(monkeypatch):
    """Prices come from the bundled table, even where the process refreshes genai-prices' own."""
    from genai_prices import data_snapshot  # noqa: PLC0415  (slow)

    empty = data_snapshot.DataSnapshot(providers=[], from_auto_update=True)
    monkeypatch.setattr(data_snapshot, "_custom_snapshot", empty)
    prices.rates.cache_clear()
    prices._listed.cache_clear()
    assert prices.known("claude-opus-5-5")
