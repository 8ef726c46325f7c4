"""How large a request is, by whoever would bill it: over HTTP, in process, and in other clouds."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import anthropic
import httpx2
import msgspec
import pytest
from anthropic.types.beta import (
    message_count_tokens_params,
    message_create_params,
)

from models.test_clouds import CLOUDS, FRAMED, KEY, World, sent_by_the_sdk, told
from outlast.errors import ModelFailure
from outlast.models import UNBILLED, UNCOUNTED, Request
from outlast.models.anthropic import AnthropicModel
from outlast.models.script import say
from outlast.models.scripted import ScriptedModel
from outlast.testing import simulator

REQUEST = Request(
    run_id="r",
    ask_id="a",
    call_id="c",
    attempt=1,
    model="claude-opus-5-5",
    max_tokens=100,
    head=(
        '"model":"claude-opus-5-5","system":"é","tools":[{"name":"look","input_schema":'
        '{"type":"object"}}],"thinking":{"type":"adaptive"},"stop_sequences":["END"],'
        '"metadata":{"user_id":"u"},"container":"container_1"'
    ).encode(),
    messages=[b'{"role":"user","content":"caf\\u00e9"}'],
)
COUNTED = {"model", "system", "tools", "thinking", "messages"}


def script(request, attempt):
    return say("Yes.")


@pytest.fixture(scope="module")
def claude():
    with simulator.start("models.test_count_tokens:script", path=[Path(__file__).parents[1]]) as up:
        yield up


def counted(model, request: Request = REQUEST) -> int:
    return asyncio.run(model.count_tokens(request))


def failure_of(model, request: Request = REQUEST) -> ModelFailure:
    with pytest.raises(ModelFailure) as failed:
        counted(model, request)
    return failed.value


def test_a_count_is_what_the_bill_will_say(claude):
    """Over HTTP and in process the count is the same, and it is the input that is billed then."""

    async def ask():
        async with anthropic.AsyncAnthropic(api_key=KEY, base_url=claude.url) as client:
            model = AnthropicModel(client)
            count = await model.count_tokens(REQUEST)
            return count, await model.call(REQUEST, on_part=None)

    before = len(claude.requests())
    count, reply = asyncio.run(ask())
    assert count == counted(ScriptedModel(script))
    assert count == msgspec.json.decode(reply.usage)["input_tokens"]
    assert [line["outcome"] for line in claude.requests()[before:]] == ["counted", "complete"]
    assert len(claude.bill()) == 1  # counting costs nothing


def test_only_what_is_input_is_counted():
    """What says nothing of the input is left out; the rest is there byte for byte."""
    body = REQUEST.counted_body()
    assert json.loads(body).keys() == COUNTED
    assert body.startswith('{"model":"claude-opus-5-5","system":"é","tools":[{"name":'.encode())
    assert body.endswith(b'"messages":[{"role":"user","content":"caf\\u00e9"}]}')


def test_what_is_not_counted_is_what_the_sdk_does_not_count():
    """Of the members of a request, those are left out that the SDK's own method does not take."""
    known = message_create_params.MessageCreateParamsBase.__annotations__.keys()
    countable = message_count_tokens_params.MessageCountTokensParams.__annotations__.keys()
    retired = {"stream", "temperature", "top_k", "top_p"}  # older models take them still
    assert known - countable <= UNCOUNTED
    # The stable API counts without a billing policy, and knows no header to ask for another.
    assert UNCOUNTED - retired - {"billing_policy"} == known - countable


@pytest.mark.parametrize("cloud", [cloud for cloud in CLOUDS if cloud not in FRAMED])
def test_a_cloud_is_asked_as_the_sdk_would_ask(cloud):
    """Address, headers and members are those of the SDK's `messages.count_tokens`."""
    world = World(cloud, lambda asked: httpx2.Response(200, json={"input_tokens": 42}))
    assert counted(world.model) == 42
    (ours,) = world.sent
    theirs = sent_by_the_sdk(cloud, json.loads(REQUEST.counted_body()), counting=True)
    assert (ours.method, ours.url) == (theirs.method, theirs.url)
    assert json.loads(ours.content) == json.loads(theirs.content)
    own = {"anthropic-user-profile-id": "uprof_1"} if "profile" in cloud else {}
    assert told(ours) == told(theirs) | own
    assert b'"messages":[%b]' % REQUEST.messages[0] in ours.content


def test_a_cloud_that_cannot_count_says_so():
    """Bedrock's client does not count: nothing is sent, and the failure says it."""
    world = World("bedrock")
    failure = failure_of(world.model)
    assert (failure.kind, world.sent) == ("not_found", [])
    assert "AsyncAnthropicBedrock: Token counting is not supported in Bedrock yet" in str(failure)
    assert failure.kind in UNBILLED


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (httpx2.Response(200, html="<p>Log in"), "malformed", "<p>Log in"),
        (httpx2.Response(200, json={"input_tokens": "many"}), "malformed", "many"),
        (httpx2.Response(200, content=b"\xff"), "malformed", "�"),
        (httpx2.Response(404, json={"error": {"message": "no such path"}}), "not_found", "path"),
        (httpx2.Response(429, json={}, headers={"retry-after": "7"}), "rate_limited", "429"),
    ],
    ids=["page", "no number", "no text", "not found", "rate limited"],
)
def test_a_count_that_does_not_come_is_a_failure(answer, kind, said):
    """What is no number is never taken for one."""
    failure = failure_of(World("foundry", lambda asked: answer).model)
    assert failure.kind == kind
    assert said in failure.message
    assert failure.status == answer.status_code


def test_what_the_api_refuses_is_not_counted(claude):
    """A request that could not be sent cannot be counted, neither over HTTP nor in process."""
    wrong = msgspec.structs.replace(REQUEST, messages=[b'{"role":"user","content":""}'])

    async def ask() -> int:
        async with anthropic.AsyncAnthropic(api_key=KEY, base_url=claude.url) as client:
            return await AnthropicModel(client).count_tokens(wrong)

    with pytest.raises(ModelFailure) as over_http:
        asyncio.run(ask())
    in_process = failure_of(ScriptedModel(script), wrong)
    assert over_http.value.kind == in_process.kind == "invalid_request"
    assert over_http.value.message.endswith(in_process.message)
    assert "must have non-empty content" in in_process.message
