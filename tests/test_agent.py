"""Agents: what can be declared, what the model sees of it, and what is refused at once."""

import dataclasses
from typing import Any

import msgspec
import pytest

import outlast
from outlast.events import RunStarted, decode, encode
from outlast.starting import code_location
from stubs import MODEL, agent


@outlast.tool(effect="read")
def look(word: str) -> str:
    """Look a word up."""
    return word


@outlast.tool(effect="read", name="look")
def look_again(word: str) -> str:
    return word


DECLARED = outlast.Agent("declared", model=MODEL)


def plain() -> None: ...


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({"name": ""}, "agent '': a name is 1 to 128 letters, digits"),
        ({"name": "-a"}, "agent '-a': a name is"),
        ({"name": "a b"}, "agent 'a b': a name is"),
        ({"name": "a\n"}, r"agent 'a\n': a name is"),
        ({"name": "x" * 129}, "a name is 1 to 128"),
        ({"name": None}, "agent None: a name is"),
        ({"model": ""}, "agent 'a': model is ''; name a Claude model"),
        ({"model": None}, "agent 'a': model is None"),
        ({"instructions": None}, "instructions is None, but must be a string; leave it out"),
        ({"instructions": "half \ud800"}, "cannot be sent as JSON: 'utf-8' codec can't encode"),
        ({"max_tokens": 0}, "max_tokens is 0, but must be a whole number of at least 1"),
        ({"max_tokens": 1.5}, "max_tokens is 1.5"),
        ({"max_tokens": True}, "max_tokens is True"),
        ({"tools": look}, "tools is <tool 'look', effect 'read'>; give a list of tools"),
        ({"tools": [plain]}, "is not a tool; decorate it with @outlast.tool"),
        (
            {"tools": [look, look_again]},
            "two tools are named 'look', and Claude could not tell them apart; give one another",
        ),
        ({"parameters": [1]}, "parameters is [1], but must be a dict"),
        ({"parameters": {"model": "x", "stream": 1}}, "parameters may not set model, stream"),
        ({"parameters": {"a": float("nan")}}, "cannot be sent as JSON: Out of range float"),
        ({"parameters": {"a": object()}}, "cannot be sent as JSON: Object of type object"),
        ({"parameters": {"a": "\ud800"}}, "cannot be sent as JSON: 'utf-8' codec"),
    ],
)
def test_what_cannot_work_is_refused(declared: dict[str, Any], said: str) -> None:
    """A declaration that cannot work is refused where it stands, with the value and a way out."""
    with pytest.raises(outlast.InvalidAgent) as raised:
        outlast.Agent(**({"name": "a", "model": MODEL} | declared))
    assert said in str(raised.value)


@pytest.mark.parametrize("turns", [0, -1, 1.5, "3", True])
def test_a_budget_is_a_whole_number(turns: Any) -> None:
    """A budget that could only be a mistake is refused."""
    with pytest.raises(outlast.InvalidAgent) as raised:
        outlast.Budget(turns=turns)
    assert str(raised.value) == (
        f"Budget(turns={turns!r}): a budget is a whole number of at least 1, or None for no limit"
    )


def test_safe_defaults() -> None:
    """An agent that says nothing of it runs at most 50 turns, and a budget sets no other limit."""
    assert agent().budget == outlast.Budget(turns=50)
    assert agent().max_tokens == 8192
    assert outlast.Budget().turns is None


def test_an_agent_does_not_change() -> None:
    """A declared agent is fixed; its list of tools is its own."""
    tools = [look]
    declared = agent(*tools)
    tools.clear()
    assert declared.tools == (look,)
    assert declared.tool("look") is look
    assert declared.tool("nobody") is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        declared.model = "other"  # type: ignore[misc]
    bigger = dataclasses.replace(declared, budget=outlast.Budget(turns=60))
    assert bigger.tools == declared.tools
    assert bigger.declared_in == declared.declared_in


def test_the_spec_is_what_the_model_sees() -> None:
    """What is recorded of an agent is all that the model sees of it, and survives being written."""
    spec = agent(look, instructions="Be brief. 🦊", parameters={"temperature": 0.5}).spec()
    assert (spec.agent, spec.model, spec.max_tokens) == ("tester", MODEL, 8192)
    assert spec.system == "Be brief. 🦊"
    assert msgspec.json.decode(spec.tools) == [look.schema]
    assert bytes(spec.parameters) == b'{"temperature":0.5}'
    started = RunStarted(journal_version=1, agent="tester", nonce="n", spec=spec)
    assert decode(encode(started)) == started


def test_an_agent_knows_where_it_is_declared() -> None:
    """An agent that can be imported says as what; one made on the way says nothing."""
    assert code_location(DECLARED) == f"{__name__}:DECLARED"
    assert code_location(outlast.Agent("other", model=MODEL)) == ""
    anywhere = dataclasses.replace(DECLARED, declared_in="no.such.module")
    assert code_location(anywhere) == ""
