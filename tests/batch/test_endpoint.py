"""The batches of the simulator, as a client of the real SDK sees them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import msgspec
import pytest

from batch.mapped import TESTS
from batch.scripts import sending
from outlast.models import catalogue
from outlast.models.claude import Claude
from outlast.models.script import Fault, last_text, say
from outlast.testing import simulator


@pytest.fixture(scope="module")
def claude() -> Iterator[simulator.Simulator]:
    with simulator.start("batch.scripts:script", path=[TESTS]) as running:
        yield running


def client_of(running: simulator.Simulator) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=running.url, api_key="k", max_retries=0, timeout=20)


@pytest.fixture(scope="module")
def client(claude: simulator.Simulator) -> Iterator[anthropic.Anthropic]:
    with client_of(claude) as made:
        yield made


def params(question: str, **more: Any) -> Any:
    message = {"role": "user", "content": question}
    return {"model": "claude-opus-5-5", "max_tokens": 100, "messages": [message]} | more


def entries(*questions: str, **more: Any) -> Any:
    return [
        {"custom_id": f"n-{number}", "params": params(question, **more)}
        for number, question in enumerate(questions)
    ]


def test_the_sdk_sends_waits_and_fetches(client: anthropic.Anthropic) -> None:
    """What the SDK knows of a batch is there, and its results come in another order."""
    sent = client.messages.batches.create(
        requests=entries("hello", "invalid", "expired", "canceled")
    )
    seen = client.messages.batches.retrieve(sent.id)
    assert (seen.type, seen.processing_status) == ("message_batch", "ended")
    counts = seen.request_counts
    assert (counts.succeeded, counts.errored, counts.expired, counts.canceled) == (1, 1, 1, 1)
    assert seen.ended_at is not None
    assert (seen.expires_at - seen.created_at).total_seconds() == 86_400
    results = list(client.messages.batches.results(sent.id))
    assert [each.custom_id for each in results] == ["n-3", "n-2", "n-1", "n-0"]
    canceled, expired, errored, succeeded = (each.result for each in results)
    assert (canceled.type, expired.type) == ("canceled", "expired")
    assert errored.type == "errored"
    assert errored.error.error.type == "invalid_request_error"
    assert succeeded.type == "succeeded"
    assert succeeded.message.content[0].text == "re: hello"  # type: ignore[union-attr]
    assert succeeded.message.usage.service_tier == "batch"


def test_the_bill_is_half_of_the_list_price(
    claude: simulator.Simulator, client: anthropic.Anthropic
) -> None:
    """What was answered is billed when it comes, at half price; what was not is not billed."""
    before = len(claude.bill())
    client.messages.batches.create(requests=entries("a question", "overloaded", "missing"))
    client.messages.create(**params("a question"))
    lines = {
        (line["outcome"], line["usage"]["service_tier"]): line for line in claude.bill()[before:]
    }
    half, whole = lines["complete", "batch"], lines["complete", "standard"]
    assert 2 * half["nano_usd"] == whole["nano_usd"]
    counts = half["usage"]["input_tokens"], half["usage"]["output_tokens"]
    assert half["nano_usd"] == counts[0] * 2_000 + counts[1] * 10_000, "opus-5-5: $2 and $10"
    assert set(lines) == {("complete", "batch"), ("complete", "standard"), ("missing", "batch")}


def test_half_a_nano_is_a_whole_one() -> None:
    """A sum with half a nano-dollar is rounded up, and a web search is not halved."""
    usage = {
        "input_tokens": 0,
        "cache_creation_input_tokens": 3,
        "output_tokens": 0,
        "service_tier": "batch",
        "server_tool_use": {"web_search_requests": 1},
    }
    assert catalogue.cost_nano("claude-haiku-5-5", usage) == 188 + 10_000_000  # 3 * 62.5


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "not a batch"),
        ({"requests": []}, "0 is not between 1 and 100000"),
        ({"requests": entries("a") * 2}, "must be unique"),
        ({"requests": [{"custom_id": "a b", "params": params("a")}]}, "should match pattern"),
        ({"requests": [{"custom_id": "a" * 65, "params": params("a")}]}, "should match pattern"),
        ({"requests": [{"custom_id": "a"}]}, "not a batch"),
        ({"requests": entries("a"), "model": "claude-opus-5-5"}, "not a batch"),
    ],
)
def test_a_batch_that_is_refused(claude: simulator.Simulator, body: Any, told: str) -> None:
    """A body that is no batch is a 400 that names what is wrong, and nothing is billed."""
    before = claude.billed_nano
    headers = {"x-api-key": "k", "anthropic-version": "2023-06-01"}
    answer = httpx2.post(f"{claude.url}/v1/messages/batches", json=body, headers=headers)
    assert answer.status_code == 400
    assert told in answer.json()["error"]["message"]
    assert claude.billed_nano == before


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"stream": True}, "stream: not available in a batch"),
        ({"max_tokens": 0.5}, "max_tokens"),
        ({"model": "claude-none"}, "claude-none"),
        ({"zebra": 1}, "zebra"),
    ],
)
def test_an_entry_is_checked_as_a_message_is(
    client: anthropic.Anthropic, more: Any, told: str
) -> None:
    """What the API would refuse as a message is an entry that errored, and the others go on."""
    wrong, right = entries("x", **more)[0], entries("y")[0] | {"custom_id": "right"}
    sent = client.messages.batches.create(requests=[wrong, right])
    results = {each.custom_id: each.result for each in client.messages.batches.results(sent.id)}
    assert results["right"].type == "succeeded"
    errored = results["n-0"]
    assert errored.type == "errored"
    assert told in errored.error.error.message


def test_a_batch_that_does_not_exist(client: anthropic.Anthropic) -> None:
    """A batch that nobody sent is a 404."""
    with pytest.raises(anthropic.NotFoundError):
        client.messages.batches.retrieve("msgbatch_none")


def test_a_batch_outlives_the_simulator(tmp_path: Path) -> None:
    """A simulator that is started again on the same directory has the batches of the one before."""

    def started() -> simulator.Simulator:
        return simulator.start("batch.scripts:script", path=[TESTS], state=tmp_path)

    with started() as first, client_of(first) as client:
        sent = client.messages.batches.create(requests=entries("hello"))
    with started() as second, client_of(second) as client:
        (result,) = client.messages.batches.results(sent.id)
        assert result.result.type == "succeeded"
        assert len(second.bill()) == 1


def test_a_batch_takes_as_long_as_its_slowest_answer() -> None:
    """It ends when the last answer would have come, and its entries do not use up any quota."""
    clock = time.time_ns()

    def slow(request: Any, attempt: int) -> Any:
        return say("so", total_s=float(last_text(request)))

    model = Claude(slow, clock=lambda: clock, batch_faults=sending)

    sent = model.batch(msgspec.json.encode({"requests": entries("1", "60", "5")}))
    assert sent.batch is not None
    assert sent.batch.ends_at - clock == 60 * 10**9
    refused = model.batch(b"{}")
    assert isinstance(refused.fault, Fault)
    assert refused.batch is None


def test_a_fault_of_batches_befalls_no_message() -> None:
    """A script that lets a message expire is told so."""
    model = Claude(lambda request, attempt: Fault(kind="expired", turn=say("x")))

    with pytest.raises(ValueError, match="entries of batches only"):
        model.answer(msgspec.json.encode(params("a")))
