"""The addresses, headers and quotas of the API, as the real SDK sees them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import anthropic
import httpx2
import msgspec
import pytest

from outlast.errors import ModelFailure
from outlast.models import catalogue, prompt_cache
from outlast.models.claude import Claude
from outlast.models.identity import identify
from outlast.models.quotas import Quota, Quotas
from outlast.models.script import say
from outlast.models.scripted import ScriptedModel
from outlast.testing import simulator
from simulator.asking import HEADERS, TESTS, body, client_of
from simulator.test_faults import request
from simulator.test_prompt_cache import Clock

S = 10**9
MODEL = "claude-opus-5-5"


# ── count_tokens ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"system": "Be kind.", "tools": [{"name": "look", "input_schema": {"type": "object"}}]},
        {"system": "x" * 9_000, "cache_control": {"type": "ephemeral"}},
    ],
    ids=["plain", "tools", "cached"],
)
def test_tokens_are_counted_as_they_are_billed(menu, client, more):
    """`count_tokens` says what `usage` will say, cached or not, and costs nothing."""
    asked = body("hello", **more)
    usage = client.messages.create(**asked).usage
    del asked["max_tokens"]
    before = len(menu.bill())
    counted = client.messages.count_tokens(**asked).input_tokens
    assert counted == (
        usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens
    )
    assert len(menu.bill()) == before
    line = menu.requests()[-1]
    assert (line["outcome"], line["attempt"]) == ("counted", 0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"max_tokens": 10}, "max_tokens: Extra inputs are not permitted"),
        ({"messages": []}, "messages: at least one message is required"),
        ({"model": "claude-none"}, "model: claude-none"),
    ],
)
def test_what_cannot_be_asked_cannot_be_counted(menu, change, says):
    """A request that would be refused is refused here, and so are members that do not belong."""
    asked = {key: value for key, value in body("hi").items() if key != "max_tokens"}
    answer = httpx2.post(
        f"{menu.url}/v1/messages/count_tokens", json=asked | change, headers=HEADERS
    )
    assert answer.status_code in (400, 404)
    assert says in answer.json()["error"]["message"]


# ── models ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", [*catalogue.MODELS, *catalogue.ALIASES])
def test_every_model_tells_what_it_can(client, name):
    """A model is found by id or alias, with its limits, its lifecycle and what it is capable of."""
    model = client.models.retrieve(name)
    known = catalogue.find(name)
    assert known is not None
    assert model.id == catalogue.ALIASES.get(name, name)
    assert (model.max_input_tokens, model.max_tokens) == (known.context, known.max_output)
    assert model.line in ("opus", "sonnet", "haiku", "fable", "mythos")
    assert model.capabilities.thinking.types.adaptive.supported
    assert model.capabilities.context_management.compact_20260112.supported


def test_a_deprecated_model_says_when_it_retires(client):
    """`lifecycle`, `deprecated_at` and `retires_at` belong together."""
    models = {model.id: model for model in client.models.list()}
    assert models.keys() == catalogue.MODELS.keys()
    for name, model in models.items():
        retires = name in catalogue.RETIRES
        assert model.lifecycle == ("deprecated" if retires else "active")
        assert (model.retires_at is not None) == (model.deprecated_at is not None) == retires
    assert models["claude-sonnet-4-5"].retires_at == datetime(2026, 11, 30, tzinfo=UTC)


def test_models_come_in_pages(client):
    """A page is as long as asked for, and the SDK finds the next."""
    page = client.models.list(limit=5)
    assert len(page.data) == 5
    assert [model.id for model in page] == list(catalogue.MODELS)
    assert [model.id for model in client.models.list(before_id="claude-mythos-5-2").data] == [
        "claude-fable-5-2"
    ]


@pytest.mark.parametrize(
    ("path", "status"), [("/claude-none", 404), ("?limit=0", 400), ("?limit=x", 400)]
)
def test_a_model_that_is_not_there_is_named(menu, path, status):
    """An unknown model is a 404, an odd page a 400."""
    answer = httpx2.get(f"{menu.url}/v1/models{path}", headers=HEADERS)
    assert answer.status_code == status


# ── headers ─────────────────────────────────────────────────────────────────────────────────────

VERSION = {"anthropic-version": "2023-06-01"}

ACCEPTED = {
    "key, old version": {"x-api-key": "k"} | VERSION,
    "key, new version": {"x-api-key": "k", "anthropic-version": "2026-10-21"},
    "bearer": {"authorization": "Bearer k"} | VERSION,
    "both": {"authorization": "Bearer k", "x-api-key": "k"} | VERSION,
    "beta": {"x-api-key": "k", "anthropic-beta": "compact-2026-01-12"} | VERSION,
}

# the headers, the status, and what the answer says
TURNED_AWAY: dict[str, tuple[dict[str, str], int, str]] = {
    "no key": (VERSION, 401, "x-api-key header is required"),
    "an empty key": ({"x-api-key": ""} | VERSION, 401, "x-api-key header is required"),
    "no bearer": ({"authorization": "Basic k"} | VERSION, 401, "bearer token"),
    "no token": ({"authorization": "Bearer"} | VERSION, 401, "bearer token"),
    "no version": ({"x-api-key": "k"}, 400, "anthropic-version: header is required"),
    "an odd version": (
        {"x-api-key": "k", "anthropic-version": "2024-01-01"},
        400,
        "'2024-01-01' is not a valid version",
    ),
}

PATHS = {
    "/v1/messages": "POST",
    "/v1/messages?beta=true": "POST",
    "/v1/messages/count_tokens": "POST",
    "/v1/models": "GET",
    "/v1/models/claude-opus-5-5": "GET",
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("row", ACCEPTED)
def test_both_styles_of_headers_are_taken(menu, path, row):
    """Every address takes either key and either version, with or without beta."""
    asked = body("hello")
    if "count" in path:
        del asked["max_tokens"]
    sent = {"json": asked} if PATHS[path] == "POST" else {}
    answer = httpx2.request(PATHS[path], menu.url + path, headers=ACCEPTED[row], **sent)
    assert answer.status_code == 200


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("row", TURNED_AWAY)
def test_without_key_or_version_nothing_is_answered(menu, path, row):
    """Without a key it is 401, without a version that there is it is 400."""
    headers, status, says = TURNED_AWAY[row]
    sent = {"json": body("hello")} if PATHS[path] == "POST" else {}
    answer = httpx2.request(PATHS[path], menu.url + path, headers=headers, **sent)
    assert answer.status_code == status
    assert says in answer.json()["error"]["message"]


# ── quotas ──────────────────────────────────────────────────────────────────────────────────────


class Limited:
    """A Claude whose keys have a quota, and a clock to wait by."""

    def __init__(self, **quota: int) -> None:
        self.clock = Clock()
        self.claude = Claude(
            lambda request, attempt: say("x" * 100), clock=self.clock, quota=Quota(**quota)
        )

    def ask(self, key: str = "k", **more: Any) -> Any:
        return self.claude.answer(msgspec.json.encode(body("hi") | more), key)

    def left(self, kind: str, key: str = "k") -> int:
        limits = self.claude.limits(key, MODEL)
        return int(limits[f"anthropic-ratelimit-{kind}-remaining"])


INPUT = prompt_cache.tokens(identify(body("hi")).size)
OUTPUT = 32  # what a text of 100 letters is, in its JSON

# the quota, how many requests it is enough for, and which kind it is
QUOTAS = {
    "requests": ({"rpm": 3}, 3),
    "input tokens": ({"itpm": 2 * INPUT + 1}, 2),
    "output tokens": ({"otpm": OUTPUT + 1}, 2),  # the second leaves a debt
}


@pytest.mark.parametrize("kind", QUOTAS)
def test_a_quota_is_enough_for_so_many_requests(kind):
    """What is beyond the quota is 429 with `retry-after`; after that long it is answered."""
    quota, enough = QUOTAS[kind]
    limited = Limited(**quota)
    assert [limited.ask().outcome for _ in range(enough)] == ["complete"] * enough
    refused = limited.ask()
    assert (refused.outcome, refused.fault.status) == ("rate_limited", 429)
    assert refused.fault.type == "rate_limit_error"
    assert f"{kind} per minute" in refused.fault.message
    wait_s = int(refused.fault.headers["retry-after"])
    assert 1 <= wait_s <= 60
    limited.clock.later(wait_s - 1 if wait_s > 1 else 0)
    assert limited.ask().outcome == "rate_limited"
    limited.clock.later(1)
    assert limited.ask().outcome == "complete"


def test_a_refused_request_is_neither_billed_nor_counted():
    """A 429 of the quota is no attempt, so the faults of a script come where they should."""
    limited = Limited(rpm=1)
    assert limited.ask().attempt == 1
    assert limited.ask().usage is None
    limited.clock.later(60)
    assert limited.ask().attempt == 2


def test_every_key_and_line_of_models_has_its_own():
    """What one key or line used is not missing to another."""
    limited = Limited(rpm=1)
    assert limited.ask("a").outcome == "complete"
    assert limited.ask("b").outcome == "complete"
    assert limited.ask("a", model="claude-haiku-5-5").outcome == "complete"
    assert limited.ask("a", model="claude-opus-5").outcome == "rate_limited"


def test_a_bucket_refills_all_the_time():
    """In ten seconds a sixth of the quota is back, and never more than all of it."""
    limited = Limited(rpm=60)
    for _ in range(60):
        limited.ask()
    assert limited.left("requests") == 0
    limited.clock.later(10)
    assert limited.left("requests") == 10
    limited.clock.later(3_600)
    assert limited.left("requests") == 60


def test_what_is_read_from_the_cache_is_not_taken_off():
    """Input that is read from the cache costs no quota, what is written does."""
    limited = Limited(itpm=10_000)
    cached = {"system": "s" * 20_000, "cache_control": {"type": "ephemeral"}}
    limited.ask(**cached)
    left = limited.left("input-tokens")
    assert 4_000 < left < 5_000
    limited.ask(**cached)
    assert limited.left("input-tokens") == left


def test_the_headers_say_what_is_left_and_when_it_is_back():
    """Limit, remaining and reset of requests, input, output, and both together."""
    limited = Limited(rpm=10, itpm=6_000, otpm=600)
    limited.ask()
    headers = limited.claude.limits("k", MODEL)
    told = {
        kind: (
            int(headers[f"anthropic-ratelimit-{kind}-limit"]),
            int(headers[f"anthropic-ratelimit-{kind}-remaining"]),
        )
        for kind in ("requests", "input-tokens", "output-tokens", "tokens")
    }
    assert told == {
        "requests": (10, 9),
        "input-tokens": (6_000, 6_000 - INPUT),
        "output-tokens": (600, 600 - OUTPUT),
        "tokens": (6_600, 6_600 - INPUT - OUTPUT),
    }
    resets = {
        kind: datetime.fromisoformat(headers[f"anthropic-ratelimit-{kind}-reset"]) for kind in told
    }
    began = datetime.fromtimestamp(limited.clock.now // S, UTC)
    waits = {kind: (reset - began).total_seconds() for kind, reset in resets.items()}
    assert waits == {"requests": 6, "input-tokens": 1, "output-tokens": 4, "tokens": 4}


def test_what_never_fits_waits_a_minute():
    """A request larger than the whole quota is refused, however long one waits."""
    quotas = Quotas(Quota(itpm=100))
    refused = quotas.refusal("k", MODEL, 101, 0)
    assert refused
    assert refused.headers["retry-after"] == "60"
    assert quotas.refusal("k", MODEL, 101, 3_600 * S)


def test_in_process_a_quota_is_a_rate_limit():
    """`ScriptedModel` raises what the run loop waits out."""
    clock = Clock()
    model = ScriptedModel(lambda request, attempt: say("ok"), clock=clock, quota=Quota(rpm=1))
    asyncio.run(model.call(request("a"), on_part=None))
    with pytest.raises(ModelFailure) as caught:
        asyncio.run(model.call(request("b"), on_part=None))
    assert (caught.value.kind, caught.value.retry_after_s) == ("rate_limited", 60.0)
    assert len(model.bill) == 1


def test_the_sdk_is_told_of_its_quota():
    """Over HTTP every answer has the headers, and the one too many is a `RateLimitError`."""
    with (
        simulator.start("simulator.scripts:menu", path=[TESTS], rpm=2, itpm=5_000) as running,
        client_of(running) as client,
    ):
        first = client.messages.with_raw_response.create(**body("hello"))
        assert first.headers["anthropic-ratelimit-requests-limit"] == "2"
        assert first.headers["anthropic-ratelimit-requests-remaining"] == "1"
        assert first.headers["anthropic-ratelimit-input-tokens-limit"] == "5000"
        client.messages.create(**body("overloaded?"))
        with pytest.raises(anthropic.RateLimitError) as caught:
            client.messages.create(**body("hello"))
        assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60
        other = anthropic.Anthropic(base_url=running.url, api_key="other", max_retries=0)
        with other:
            other.messages.create(**body("hello"))
        assert [line["outcome"] for line in running.requests()] == [
            *["complete"] * 2,
            "rate_limited",
            "complete",
        ]
        assert [line["attempt"] for line in running.requests()] == [1, 1, 0, 2]
