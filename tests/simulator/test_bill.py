"""What it costs, to the nano-dollar, and that it is written before anything is answered."""

from __future__ import annotations

from datetime import UTC, datetime

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
