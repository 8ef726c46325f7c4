"""The scripted Claude in process, and that it is the one over the network."""

from __future__ import annotations

import asyncio
import time

import pytest
from anthropic import AsyncAnthropic

from outlast.errors import ModelFailure
from outlast.models import Model, Part, Reply, Request
from outlast.models.anthropic import AnthropicModel
from outlast.models.script import Fault, faulty, once, say, text, tool_use
from outlast.models.scripted import ScriptedModel
from simulator import scripts
from simulator.test_faults import request


def ask(model: Model, asked: Request, parts: list[Part] | None = None) -> Reply | ModelFailure:
    try:
        return asyncio.run(model.call(asked, on_part=None if parts is None else parts.append))
    except ModelFailure as failure:
        return failure


APART = {"message", "told"}
"""What is said in other words; and a scripted Claude without a quota tells no limits."""


def facts(outcome: Reply | ModelFailure) -> dict[str, object]:
    """Return all that the run loop may go by, the sentence for people aside."""
    if isinstance(outcome, Reply):
        return {
            name: bytes(value) if hasattr(value, "copy") else value
            for name in outcome.__struct_fields__
            if name not in APART
            for value in [getattr(outcome, name)]
        }
    return {name: value for name, value in vars(outcome).items() if name not in APART}


@pytest.mark.parametrize("name", [*scripts.FAULTS, *(n for n in scripts.TURNS if n != "raw")])
def test_in_process_and_over_the_network_is_one_claude(menu, name):
    """For every fault and turn, the run loop is told the same by both models."""
    asked = request(name, model="claude-sonnet-5-5")

    async def over_http() -> Reply | ModelFailure:
        client = AsyncAnthropic(base_url=menu.url, api_key="any-key-will-do")
        async with client:
            try:
                return await AnthropicModel(client).call(asked, on_part=None)
            except ModelFailure as failure:
                return failure

    assert facts(ask(ScriptedModel(scripts.menu), asked)) == facts(asyncio.run(over_http()))


def test_the_bodies_of_all_calls_are_kept():
    """`calls` has every request to the byte, unless it is told not to keep them."""
    asked = request("hello")
    kept, not_kept = ScriptedModel(scripts.menu), ScriptedModel(scripts.menu, keep_calls=False)
    for model in (kept, not_kept):
        ask(model, asked)
    assert (kept.calls, not_kept.calls) == ([asked.body()], [])
    assert kept.bill == not_kept.bill


def test_parts_are_shown():
    """Text, thinking and the names of tools are shown, with whose they are."""
    model = ScriptedModel(
        lambda asked, attempt: say(
            {"type": "thinking", "thinking": "Hm.", "signature": ""},
            text("Yes."),
            {"type": "hologram"},
            tool_use("search", {}),
        )
    )
    parts: list[Part] = []
    ask(model, request("x"), parts)
    shown = [(part.kind, part.text) for part in parts]
    assert shown == [("thinking", "Hm."), ("text", "Yes."), ("tool_use", "search")]
    assert {(part.run_id, part.call_id, part.attempt) for part in parts} == {("r", "c1", 1)}


@pytest.mark.parametrize("paced", [True, False])
def test_time_passes_only_when_asked_for(paced):
    """A test is not slowed down by the pace of a script, unless it wants to be."""
    script = faulty(
        lambda asked, attempt: say("x", total_s=0.1),
        once(1, Fault(kind="delay", delay_s=30.0 if not paced else 0.1)),
    )
    began = time.monotonic()
    ask(ScriptedModel(script, paced=paced), request("x"))
    assert (time.monotonic() - began >= 0.19) == paced


def test_an_exception_of_the_script_is_passed_on():
    """A broken script is a broken test, not an outage that would be tried again."""
    with pytest.raises(LookupError, match="the script is broken"):
        ask(ScriptedModel(scripts.menu), request("raise"))


@pytest.mark.parametrize("given", [{}, {"retry-after": "soon"}, {"Retry-After": "1.5"}])
def test_retry_after_is_read_where_it_makes_sense(given):
    """A header that is no number says nothing."""
    rule = once(1, Fault(kind="status", status=429, headers=given))
    failure = ask(ScriptedModel(faulty(scripts.menu, rule)), request("x"))
    assert isinstance(failure, ModelFailure)
    assert failure.retry_after_s == (1.5 if "Retry-After" in given else None)
