"""What it costs, to the nano-dollar, and that it is written before anything is answered."""

from __future__ import annotations

from datetime import UTC, datetime
from fractions import Fraction
from math import ceil

import genai_prices
import httpx2
import msgspec
import pytest

from outlast.models import catalogue
from outlast.testing import simulator
from simulator.asking import HEADERS, TESTS, body, client_of, told

# dollars per million tokens: in, out, cache read, write 5m, write 1h
LIST = {
    "claude-fable-5-2": (8, 40, 0.20, 10, 16),
    "claude-mythos-5-2": (8, 40, 0.20, 10, 16),
    "claude-opus-5-5": (4, 20, 0.20, 5, 8),
    "claude-opus-5": (5, 25, 0.50, 6.25, 10),
    "claude-opus-4-8": (5, 25, 0.50, 6.25, 10),
    "claude-opus-4-7": (5, 25, 0.50, 6.25, 10),
    "claude-opus-4-6": (5, 25, 0.50, 6.25, 10),
    "claude-opus-4-5": (5, 25, 0.50, 6.25, 10),
    "claude-sonnet-5-5": (2, 10, 0.10, 2.5, 4),
    "claude-sonnet-4-6": (3, 15, 0.30, 3.75, 6),
    "claude-sonnet-4-5": (3, 15, 0.30, 3.75, 6),
    "claude-haiku-5-5": (0.1, 0.5, 0.01, 0.125, 0.2),
    "claude-haiku-4-5": (1, 5, 0.10, 1.25, 2),
}


def test_the_list_has_every_model():
    """No model is billed that is not in the table."""
    assert LIST.keys() == catalogue.MODELS.keys()


@pytest.mark.parametrize("model", LIST)
def test_every_kind_of_token_has_its_list_price(model):
    """A hundred thousand tokens of one kind cost a tenth of the price per million."""
    kinds = (
        {"input_tokens": 100_000},
        {"output_tokens": 100_000},
        {"cache_read_input_tokens": 100_000},
        {"cache_creation_input_tokens": 100_000},
        {
            "cache_creation_input_tokens": 100_000,
            "cache_creation": {"ephemeral_1h_input_tokens": 100_000},
        },
    )
    costs = [catalogue.cost_nano(model, usage) for usage in kinds]
    assert costs == [round(price * 100_000_000) for price in LIST[model]]


def test_a_long_prompt_of_haiku_costs_five_times_as_much():
    """Above 100,000 tokens of prompt, cached or not, every token of the request costs 5 x."""
    usage = {"input_tokens": 60_000, "cache_read_input_tokens": 40_000, "output_tokens": 10}
    small = catalogue.cost_nano("claude-haiku-5-5", usage)
    large = catalogue.cost_nano("claude-haiku-5-5", usage | {"input_tokens": 60_001})
    assert large == 5 * (small + 100)


KINDS = {
    "input_tokens": 1_001,
    "output_tokens": 303,
    "cache_read_input_tokens": 207,
    "cache_creation_input_tokens": 111,
    "cache_creation": {"ephemeral_1h_input_tokens": 11, "ephemeral_5m_input_tokens": 100},
}

# what the usage says, and what a token then costs for each nano-dollar of its list price
TERMS = {
    "standard": ({"speed": "standard", "inference_geo": "global"}, Fraction(1)),
    "unsaid": ({"inference_geo": None, "service_tier": None}, Fraction(1)),
    "fast": ({"speed": "fast"}, Fraction(2)),
    "us": ({"inference_geo": "us"}, Fraction(11, 10)),
    "batch": ({"service_tier": "batch"}, Fraction(1, 2)),
    "fast, us": ({"speed": "fast", "inference_geo": "us"}, Fraction(22, 10)),
    "us, batch": ({"inference_geo": "us", "service_tier": "batch"}, Fraction(11, 20)),
}


@pytest.mark.parametrize(("said", "factor"), TERMS.values(), ids=TERMS)
@pytest.mark.parametrize("model", ["claude-opus-5-5", "claude-fable-5-2"])
def test_the_terms_of_a_reply_change_what_tokens_cost_and_nothing_else(model, said, factor):
    """Fast is twice the list price, the US 1.1 times, a batch half; a search costs what it does."""
    searched = {"server_tool_use": {"web_search_requests": 2}}
    price = [round(dollars * 1_000) for dollars in LIST[model]]
    tokens = 1_001 * price[0] + 303 * price[1] + 207 * price[2] + 100 * price[3] + 11 * price[4]
    cost = catalogue.cost_nano(model, KINDS | searched | said)
    assert cost == ceil(tokens * factor) + 2 * 10_000_000


def test_a_fraction_of_a_nano_dollar_is_rounded_up_once():
    """Three writes of Haiku in a batch, 62.5 nano-dollars each, are 188 and not 189."""
    written = {
        "cache_creation_input_tokens": 3,
        "cache_creation": {"ephemeral_5m_input_tokens": 3},
        "service_tier": "batch",
    }
    assert catalogue.cost_nano("claude-haiku-5-5", written) == 188


def test_iterations_cost_what_their_models_do_on_the_terms_of_the_reply():
    """Each iteration has its own model's price, and all of them the terms."""
    parts = [{"model": name} | KINDS for name in ("claude-opus-5-5", "claude-haiku-4-5")]
    apart = [catalogue.cost_nano(part["model"], part) for part in parts]
    said = KINDS | {"iterations": parts, "inference_geo": "us"}
    assert catalogue.cost_nano("claude-fable-5-2", said) == ceil(sum(apart) * Fraction(11, 10))


def test_the_terms_of_a_request_are_on_its_bill_and_in_its_usage(menu, client):
    """What a request asks for is what it gets, streamed or not; otherwise it is global."""
    asked = body("terms") | {"betas": ["fast-mode-2026-02-01"]}
    plain = client.beta.messages.create(**asked).usage
    assert (plain.inference_geo, plain.speed) == ("global", None)
    whole = client.beta.messages.create(**asked, speed="fast", inference_geo="us").usage
    with client.beta.messages.stream(**asked, speed="fast", inference_geo="us") as stream:
        streamed = stream.get_final_message().usage
    usual, fast, again = (line["nano_usd"] for line in menu.bill()[-3:])
    for usage in (whole, streamed):
        assert (usage.inference_geo, usage.speed, usage.service_tier) == ("us", "fast", "standard")
    assert fast == again == ceil(usual * Fraction(22, 10))


def test_a_script_says_the_terms_of_a_reply(menu, client):
    """A workspace that is not global, a batch, searches and iterations are the script's to say."""
    usage = client.beta.messages.create(**body("on-terms"), betas=["x"]).usage
    assert (usage.inference_geo, usage.service_tier) == ("us", "batch")
    assert [part.model for part in usage.iterations] == ["claude-opus-5-5", "claude-haiku-4-5"]
    tokens = 10 * 4_000 + 5 * 20_000 + 20 * 1_000 + 6 * 5_000
    assert menu.bill()[-1]["nano_usd"] == tokens * 11 // 20 + 10_000_000


@pytest.mark.parametrize("model", LIST)
@pytest.mark.parametrize("prompt", [1_000, 150_000])
def test_two_tables_made_apart_agree(model, prompt):
    """Our list and the one of genai-prices, which was made by others, give the same sum."""
    usage = genai_prices.Usage(
        input_tokens=prompt + 70,  # there, cached tokens are part of the input
        cache_read_tokens=50,
        cache_write_tokens=20,
        output_tokens=333,
    )
    theirs = genai_prices.calc_price(
        usage, model, provider_id="anthropic", genai_request_timestamp=datetime.now(UTC)
    )
    ours = catalogue.cost_nano(
        model,
        {
            "input_tokens": prompt,
            "cache_read_input_tokens": 50,
            "cache_creation_input_tokens": 20,
            "output_tokens": 333,
        },
    )
    assert theirs.total_price * 1_000_000_000 == ours


def test_the_bill_is_exact(tmp_path):
    """Cache tiers and web searches are on the bill, in whole nano-dollars."""
    with (
        simulator.start("simulator.scripts:menu", path=[TESTS], state=tmp_path) as running,
        client_of(running) as client,
    ):
        client.messages.create(**body("cached"))
        message = client.messages.create(**body("search-cost"))
        first, second = running.bill()
        tokens = message.usage.input_tokens * 4_000 + message.usage.output_tokens * 20_000
        assert (
            first["nano_usd"] == 11 * 4_000 + 1_000 * 200 + 100 * 5_000 + 200 * 8_000 + 7 * 20_000
        )
        assert second["nano_usd"] == tokens + 3 * 10_000_000
        assert running.billed_nano == first["nano_usd"] + second["nano_usd"]


def test_tokens_are_a_quarter_of_the_bytes(tmp_path):
    """The count is what the page says: canonical bytes of system, tools, messages, over four."""
    asked = body("hello", system="Bé.", stream=False, metadata={"user_id": "u" * 500})
    with (
        simulator.start("simulator.scripts:menu", path=[TESTS], state=tmp_path) as running,
        client_of(running) as client,
    ):
        message = client.messages.create(**asked)
    system = '[[{"text":"Bé.","type":"text"}],null]'.encode()
    said = b'{"content":[{"text":"hello","type":"text"}],"role":"user"}'
    answer = told(message.content[0])
    assert message.usage.input_tokens == -(-(len(system) + len(said)) // 4)
    assert message.usage.output_tokens == -(-len(msgspec.json.encode(answer)) // 4)


def test_the_bill_is_written_before_the_answer_leaves(menu):
    """Whoever reads the first byte of an answer finds its line on the bill."""
    asked = body("early bill", stream=True)
    before = len(menu.bill())
    with httpx2.stream("POST", f"{menu.url}/v1/messages", json=asked, headers=HEADERS) as answer:
        next(answer.iter_raw())
        assert len(menu.bill()) == before + 1
        line = menu.requests()[-1]
        assert msgspec.json.decode(line["body"]) == asked


def test_secrets_are_not_written_down(menu):
    """No key reaches the state directory."""
    headers = {
        "x-api-key": "sk-secret",
        "authorization": "Bearer sk-secret",
        "x-other": "sk-secret",
    }
    headers |= {"anthropic-version": "2023-06-01", "x-claude-code-session-id": "s-1"}
    httpx2.post(f"{menu.url}/v1/messages", json=body("secret"), headers=headers)
    assert menu.requests()[-1]["headers"]["x-claude-code-session-id"] == "s-1"
    for file in menu.state.iterdir():
        assert b"sk-secret" not in file.read_bytes()
