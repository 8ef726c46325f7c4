"""The schema that the API is given of an answer's type."""

import dataclasses
import enum
from typing import Annotated, Any, Literal

import anthropic
import msgspec
import pytest
from pydantic import BaseModel, Field, TypeAdapter

from outlast.answers import AnswerType, InvalidAnswer, given, strict, structured
from outlast.errors import InvalidAgent
from outlast.models.schema import misfit


class Kind(enum.Enum):
    """What a grant is for."""

    TRAVEL = "travel"
    RENT = "rent"


class Inner(BaseModel):
    """Something in something."""

    name: str = Field(min_length=2, pattern="^[A-Z]", description="A name.")
    kind: Kind = Kind.RENT


class Outer(BaseModel):
    """Everything that a type may hold."""

    one: Inner
    many: list[Inner] = Field(min_length=1, max_length=5)
    when: Annotated[str, Field(json_schema_extra={"format": "date"})]
    either: int | str | None = None
    word: Literal["a", "b"] = "a"
    sure: float = Field(0.5, ge=0, le=1)


@dataclasses.dataclass
class Plain:
    """A dataclass."""

    name: str
    amount: int = 0


KINDS = [Inner, Outer, Plain, list[Outer], list[str], int, bool, Literal["x"], int | None, Kind]


def without_words(schema: Any) -> Any:
    """Return a schema without what is only said to the model."""
    if isinstance(schema, dict):
        left = {k: v for k, v in schema.items() if k not in {"description", "title"}}
        return {k: without_words(v) for k, v in left.items()}
    return [without_words(one) for one in schema] if isinstance(schema, list) else schema


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_it_holds_to_what_the_sdk_holds_to(kind):
    """Words aside, both make the same of a type."""
    own = TypeAdapter(kind).json_schema()
    theirs = anthropic.transform_schema(own)
    assert without_words(strict(own)) == without_words(theirs)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_it_is_an_object(kind):
    """What is none is the member of one, and comes back as what it is."""
    answers = AnswerType(kind, agent="a")
    assert answers.schema["type"] == "object"
    assert answers.schema["additionalProperties"] is False
    assert answers.wrapped == ("answer" in answers.schema["properties"])


def test_what_the_schema_cannot_hold_to_is_said_in_words():
    """Claude is told of limits, which pydantic sees to."""
    schema = AnswerType(Inner, agent="a").schema
    told = schema["properties"]["name"]["description"]
    assert told == 'A name. (minLength: 2, pattern: "^[A-Z]")'
    answers = AnswerType(Inner, agent="a")
    with pytest.raises(InvalidAnswer, match="at least 2 characters"):
        answers.read(msgspec.Raw(b'{"name": "A"}'))


def test_whoever_keeps_to_the_schema_is_read():
    """A value that fits the schema, and keeps to its words, is an answer."""
    answers = AnswerType(list[Outer], agent="a")
    value = {
        "answer": [
            {"one": {"name": "Ab"}, "many": [{"name": "Cd", "kind": "rent"}], "when": "2026-11-23"}
        ]
    }
    assert not misfit(value, answers.schema)
    raw = given(msgspec.json.encode(value), wrapped=True)
    (outer,) = answers.read(raw)
    assert outer.many[0].kind is Kind.RENT


class Node(BaseModel):
    """A type that refers to itself."""

    children: list["Node"] = []


@pytest.mark.parametrize(
    "kind",
    [Node, dict, dict[str, int], list[dict[str, str]], Any, object, list, type, lambda: 1],
    ids=range(9),
)
def test_what_no_schema_can_say_is_refused(kind):
    """With the agent, the type and what to give instead."""
    with pytest.raises(InvalidAgent, match="agent 'a'"):
        _ = AnswerType(kind, agent="a").schema


@pytest.mark.parametrize(
    ("model", "has"),
    [
        ("claude-opus-5-5", True),
        ("claude-haiku-4-5-20251001", True),
        ("anthropic.claude-sonnet-4-5-20250929-v1:0", True),
        ("claude-sonnet-4-5@20250929", True),
        ("claude-opus-4-1", False),
        ("claude-sonnet-4-20250514", False),
        ("claude-3-5-haiku-latest", False),
        ("gpt-9", False),
    ],
)
def test_models_with_structured_outputs(model, has):
    """Claude 4.5 and later, however a cloud spells the name; of others nobody knows that."""
    assert structured(model) is has


@pytest.mark.parametrize(
    ("text", "wrapped", "answer"),
    [
        ('{"answer": [1]}', True, "[1]"),
        (' {"answer":\n[1.50]} ', True, "[1.50]"),
        ('{"answer": 1, "more": 2}', True, '{"answer": 1, "more": 2}'),
        ('{"a": 1}', False, '{"a": 1}'),
        ("words", True, '"words"'),
        ('"words"', True, '"words"'),
        ("", False, '""'),
        ("[" * 5_000, False, f'"{"[" * 5_000}"'),
    ],
    ids=range(8),
)
def test_what_is_given_is_kept_as_it_came(text, wrapped, answer):
    """Spelling of numbers included; what is no JSON is a text."""
    assert bytes(given(text, wrapped=wrapped)).decode() == answer


def test_faults_are_bounded():
    """A list of a thousand wrong elements does not cost a thousand lines."""
    answers = AnswerType(list[Inner], agent="a")
    with pytest.raises(InvalidAnswer) as raised:
        answers.read(msgspec.Raw(msgspec.json.encode([{}] * 1_000)))
    assert len(raised.value.issues) == 21
    assert raised.value.issues[-1].message == "and 980 more faults"


def test_a_validator_that_breaks_is_a_fault_of_the_answer():
    """Code of the user's own may raise anything; the answer is not accepted then."""
    from pydantic import AfterValidator  # noqa: PLC0415

    def breaks(value: str) -> str:
        raise KeyError(value)

    answers = AnswerType(Annotated[str, AfterValidator(breaks)], agent="a")
    with pytest.raises(InvalidAnswer, match="KeyError"):
        answers.read(msgspec.Raw(b'"x"'))
