"""Tools: what Claude is told of a function, and what the function is given of Claude's."""

import asyncio
import functools
import inspect
import json
import os
import textwrap
from datetime import date
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import msgspec
import mypy.api
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, Field

import forward
import outlast
from outlast.tools import InvalidArguments


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Author(BaseModel):
    """Who wrote it."""

    name: str


class Book(BaseModel):
    title: str
    authors: list[Author] = []


REQUIRED = object()


def declared(hint: Any, default: Any = REQUIRED) -> outlast.Tool[..., Any]:
    """Return a tool `take` with one parameter `value`."""

    def take(value):
        return value

    take.__annotations__ = {"value": hint}
    if default is not REQUIRED:
        take.__defaults__ = (default,)
    return outlast.tool(effect="read")(take)


def complaint(tool: outlast.Tool[..., Any], arguments: Any) -> str:
    """Return what Claude is told of these arguments."""
    raw = arguments if isinstance(arguments, bytes) else msgspec.json.encode(arguments)
    with pytest.raises(InvalidArguments) as raised:
        tool.arguments(raw)
    return str(raised.value)


# ── the schema ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("hint", "default", "schema"),
    [
        pytest.param(str, REQUIRED, {"type": "string"}, id="str"),
        pytest.param(int, REQUIRED, {"type": "integer"}, id="int"),
        pytest.param(float, 2.5, {"type": "number", "default": 2.5}, id="default"),
        pytest.param(bool, True, {"type": "boolean", "default": True}, id="bool"),
        pytest.param(Any, REQUIRED, {}, id="any"),
        pytest.param(
            list[int], REQUIRED, {"type": "array", "items": {"type": "integer"}}, id="list"
        ),
        pytest.param(
            dict[str, str],
            {"title": "x"},
            {
                "type": "object",
                "additionalProperties": {"type": "string"},
                "default": {"title": "x"},
            },
            id="a default that says title",
        ),
        pytest.param(
            Optional[int],  # noqa: UP045  (people still write it)
            None,
            {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
            id="optional",
        ),
        pytest.param(
            str | None, REQUIRED, {"anyOf": [{"type": "string"}, {"type": "null"}]}, id="union"
        ),
        pytest.param(
            Literal["a", "b"], REQUIRED, {"enum": ["a", "b"], "type": "string"}, id="literal"
        ),
        pytest.param(
            Literal["title"], REQUIRED, {"const": "title", "type": "string"}, id="one literal"
        ),
        pytest.param(Colour, REQUIRED, {"$ref": "#/$defs/Colour"}, id="enum"),
        pytest.param(date, REQUIRED, {"type": "string", "format": "date"}, id="date"),
        pytest.param(
            Annotated[int, Field(gt=0, description="how many")],
            REQUIRED,
            {"type": "integer", "exclusiveMinimum": 0, "description": "how many"},
            id="annotated",
        ),
        pytest.param(Book, REQUIRED, {"$ref": "#/$defs/Book"}, id="model"),
    ],
)
def test_the_schema_follows_the_hint(hint: Any, default: Any, schema: dict[str, Any]) -> None:
    """A parameter's schema is that of its type hint, with its default, and free of titles."""
    told = declared(hint, default).schema["input_schema"]
    assert told["properties"] == {"value": schema}
    assert told.get("required", []) == (["value"] if default is REQUIRED else [])
    assert told["type"] == "object"
    assert told["additionalProperties"] is False


def test_nested_models_are_told_in_full() -> None:
    """Models within models are told with their own docstrings, and a field `title` stays one."""
    definitions = declared(Book).schema["input_schema"]["$defs"]
    assert definitions["Book"]["properties"]["title"] == {"type": "string"}
    assert definitions["Book"]["required"] == ["title"]
    assert definitions["Author"] == {
        "description": "Who wrote it.",
        "type": "object",
        "properties": {"name": {"type": "string"}},
        "required": ["name"],
    }


def test_the_docstring_is_told() -> None:
    """What the docstring says of the function and of each parameter reaches Claude, once."""

    @outlast.tool(effect="read")
    def search(  # noqa: D417  (one is left out on purpose)
        word: str, limit: Annotated[int, Field(description="hidden")] = 5, deep: str = ""
    ):
        """Search the shelves.

        Only what stands on them is found.

        Args:
            word: what to look for,
                in any language
            limit (int): how many to return

        Returns:
            The titles.

        Raises:
            ToolError: the library is closed.

        """

    assert search.schema["description"] == (
        "Search the shelves.\n\nOnly what stands on them is found."
    )
    properties = search.schema["input_schema"]["properties"]
    assert properties["word"]["description"] == "what to look for,\nin any language"
    assert properties["limit"]["description"] == "how many to return"
    assert "description" not in properties["deep"]


@pytest.mark.parametrize(
    "docstring",
    [
        None,
        "",
        "Args:",
        "Args:\n    :",
        ":param x",
        "Args:\n  value",
        "-----\nvalue : str",
        "\0 🦊",
    ],
)
def test_any_docstring_will_do(docstring: str | None) -> None:
    """However a docstring is written, or if there is none, the tool has a schema."""

    def take(value: str) -> None: ...

    take.__doc__ = docstring
    schema = outlast.tool(take).schema
    assert schema["input_schema"]["required"] == ["value"]
    assert docstring or "description" not in schema


RESERVED = "json schema model_config copy dict construct validate model_fields p0 self class_ _x"


def test_a_parameter_may_have_any_name() -> None:
    """Names that pydantic keeps for itself are told and given as they are."""
    names = RESERVED.split()

    def take(**given):
        return given

    take.__signature__ = inspect.Signature(
        [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, annotation=int) for n in names]
    )
    tool = outlast.tool(take)
    assert list(tool.schema["input_schema"]["properties"]) == names
    given = {name: number for number, name in enumerate(names)}
    assert tool.arguments(msgspec.json.encode(given)) == given
    assert tool.function(**tool.arguments(msgspec.json.encode(given))) == given
    assert "- model_config: Input should be a valid integer" in complaint(
        tool, given | {"model_config": "x"}
    )


@pytest.mark.parametrize(
    "hint",
    [
        outlast.ToolContext,
        outlast.ToolContext | None,
        Annotated[outlast.ToolContext, "who asks"],
    ],
    ids=["plain", "optional", "annotated"],
)
def test_the_context_is_not_claudes_to_give(hint: Any) -> None:
    """A parameter for the `ToolContext` is not told, and refused when Claude gives it."""

    def take(word, context=None): ...

    take.__annotations__ = {"word": str, "context": hint}
    tool = outlast.tool(take)
    assert tool.context_parameter == "context"
    assert list(tool.schema["input_schema"]["properties"]) == ["word"]
    assert "$defs" not in tool.schema["input_schema"]
    assert tool.arguments(b'{"word":"a"}') == {"word": "a"}
    assert "context: Extra inputs" in complaint(tool, {"word": "a", "context": {"run_id": "mine"}})


def test_hints_may_name_what_comes_later() -> None:
    """Hints are read on first use, so types may stand further down; that of the result is not."""
    tool = forward.find
    assert tool.context_parameter == "context"
    assert tool.schema["input_schema"]["required"] == ["place"]
    given = tool.arguments(b'{"place":{"lat":1,"lon":2,"within":{"lat":0,"lon":0}}}')
    assert given["place"].within == forward.Place(lat=0, lon=0)


def test_sync_async_and_bound_functions_are_told_alike() -> None:
    """Sync, async, wrapped and bound functions have the same schema; `self` is not part of it."""

    def take(value: int, more: str = "") -> str:
        """Take it."""
        return more

    async def take_async(value: int, more: str = "") -> str:
        """Take it."""
        return more

    @functools.wraps(take)
    def wrapped(*args, **kwargs):
        return take(*args, **kwargs)

    class Shelf:
        def take(self, value: int, more: str = "") -> str:
            """Take it."""
            return more

    functions = [take, take_async, wrapped, Shelf().take]
    tools = [outlast.tool(name="take")(function) for function in functions]
    assert [tool.schema for tool in tools] == [tools[0].schema] * 4
    assert [tool.is_async for tool in tools] == [False, True, False, False]
    assert tools[3](1, more="x") == "x"
    assert asyncio.run(tools[1](1, more="x")) == "x"


# ── what cannot be declared ───────────────────────────────────────────────────────────────────


def plain(word: str) -> str: ...
def no_hint(word, other: str): ...
def star(*words: str): ...
def stars(**words: str): ...
def positional(word: str, /): ...


@pytest.mark.parametrize(
    ("function", "options", "said"),
    [
        (no_hint, {}, "'no_hint': parameter 'word' has no type hint, so Claude cannot be told"),
        (star, {}, "'star': parameter 'words' cannot be given by name"),
        (stars, {}, "'stars': parameter 'words' cannot be given by name"),
        (positional, {}, "'positional': parameter 'word' cannot be given by name"),
        (lambda: 1, {}, "'<lambda>': Claude's tool names are 1 to 128 letters"),
        (plain, {"name": "a b"}, "'a b': Claude's tool names"),
        (plain, {"name": "x" * 129}, "Claude's tool names"),
        (plain, {"name": "tool\n"}, "Claude's tool names"),
        (plain, {"effect": "write"}, "effect is 'write', but must be one of 'read', 'idem"),
        (plain, {"timeout_s": 0}, "timeout_s is 0, but must be above 0, or None"),
        (plain, {"timeout_s": -1.5}, "timeout_s is -1.5"),
        (plain, {"timeout_s": float("nan")}, "timeout_s is nan"),
        (plain, {"max_result_tokens": 0}, "max_result_tokens is 0, but must be at least 1"),
    ],
)
def test_what_cannot_work_is_refused_when_declared(function, options, said: str) -> None:
    """A declaration that cannot work is refused at once, with the value and what to do."""
    with pytest.raises(outlast.InvalidTool) as raised:
        outlast.tool(**options)(function)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("tool", "said"),
    [
        (forward.unresolved, "'unresolved': a type hint cannot be resolved: name 'Fraction'"),
        (declared("str["), "'take': a type hint cannot be resolved: Forward reference must be"),
        (declared(object()), "'take': a parameter's type has no JSON schema: Unable to generate"),
        (
            declared(type("Odd", (), {})),
            ".Odd'>. Use str, bool, numbers, lists, dicts, Literal",
        ),
    ],
    ids=["for type checkers only", "no expression", "an object", "a class"],
)
def test_a_type_that_cannot_be_told_is_refused(tool, said: str) -> None:
    """A hint that cannot be resolved, or has no JSON schema, is refused before anything runs."""
    for _ in range(2):
        with pytest.raises(outlast.InvalidTool) as raised:
            tool.schema  # noqa: B018  (it is built on first use)
        assert said in str(raised.value)


# ── the arguments ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("hint", "raw", "value"),
    [
        (int, b"5", 5),
        (int, b'"5"', 5),
        (int, b"123456789012345678901234567890", 123456789012345678901234567890),
        (float, b"1.50e2", 150.0),
        (Decimal, b'"0.10"', Decimal("0.10")),
        (date, b'"2026-11-03"', date(2026, 11, 3)),
        (Colour, b'"red"', Colour.RED),
        (set[int], b"[1,1,2]", {1, 2}),
        (tuple[int, str], b'[1,"a"]', (1, "a")),
        (str, '"ångström 🦊 \\u0000"'.encode(), "ångström 🦊 \0"),
        (Any, b'{"a":[null,1]}', {"a": [None, 1]}),
        (
            Book,
            b'{"title":"t","authors":[{"name":"n"}]}',
            Book(title="t", authors=[Author(name="n")]),
        ),
    ],
)
def test_arguments_arrive_as_the_hint_says(hint: Any, raw: bytes, value: Any) -> None:
    """The function is given what its hints promise, converted where JSON has no such type."""
    given = declared(hint).arguments(b'{"value":%b}' % raw)
    assert given == {"value": value}
    assert type(given["value"]) is type(value)


def test_what_claude_leaves_out_is_the_default() -> None:
    """A parameter that is not given has its default, and no call can change it for the next."""
    tool = declared(list[int], [1])
    tool.arguments(b"{}")["value"].append(2)
    assert tool.arguments(b"{}") == {"value": [1]}


NOT_JSON = "The arguments do not fit take, so it was not called:\n- they cannot be read as JSON: "


@pytest.mark.parametrize(
    ("hint", "arguments", "said"),
    [
        (str, {}, "- value: Field required"),
        (str, {"value": 1}, "- value: Input should be a valid string"),
        (str, {"value": "a", "colour": 1}, "- colour: Extra inputs are not permitted"),
        (
            Book,
            {"value": {"title": "t", "authors": [{}]}},
            "- value.authors.0.name: Field required",
        ),
        (Literal["a", "b"], {"value": "c"}, "- value: Input should be 'a' or 'b'"),
        (list[int], {"value": ["x"] * 50}, "- and 30 more"),
        (str, [], "- they must be a JSON object, with a member for each argument"),
        (str, None, "- they must be a JSON object"),
        (str, b"{", NOT_JSON),
        (float, b'{"value":1e999}', NOT_JSON),
        (str, b'{"value":"\\ud800"}', NOT_JSON),
        (Any, b'{"value":' + b"[" * 5000 + b"]" * 5000 + b"}", NOT_JSON),
    ],
)
def test_wrong_arguments_are_explained_to_claude(hint: Any, arguments: Any, said: str) -> None:
    """Claude is told the tool, that it was not called, each place and what was expected there."""
    told = complaint(declared(hint), arguments)
    assert told.startswith("The arguments do not fit take, so it was not called:\n- ")
    assert said in told
    assert len(told) < 2_000


def raising(error: BaseException) -> Any:
    def check(value: str) -> str:
        raise error

    return Annotated[str, AfterValidator(check)]


def test_a_validator_may_explain_itself() -> None:
    """A validator's ValueError is for Claude; of any other exception it learns the class only."""
    assert "- value: Value error, too short" in complaint(
        declared(raising(ValueError("too short"))), {"value": "a"}
    )
    told = complaint(declared(raising(KeyError("secret 1234"))), {"value": "a"})
    assert "KeyError" in told
    assert "1234" not in told
    told = complaint(declared(raising(ValueError("half a pair: \ud800"))), {"value": "a"})
    assert "UnicodeEncodeError" in told, "pydantic cannot write it, and that is no reason to die"


@given(
    st.binary()
    | st.text().map(str.encode)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("value"), inner),
    ).map(lambda value: json.dumps(value).encode())
)
def test_arguments_fit_or_are_refused(raw: bytes) -> None:
    """Whatever Claude sends as arguments, they fit or are refused: nothing else can happen."""
    try:
        given = declared(list[int] | Book | None).arguments(raw)
    except InvalidArguments as error:
        str(error).encode()
    else:
        assert given.keys() == {"value"}


# ── the function itself ───────────────────────────────────────────────────────────────────────


def test_a_tool_is_still_the_function() -> None:
    """A tool can be called, and looks, as the function it was."""

    @outlast.tool
    def add(a: int, b: int = 2) -> int:
        """Add."""
        return a + b

    assert add(1) == 3
    assert add(a=1, b=5) == 6
    assert add.__name__ == add.name == "add"
    assert add.__doc__ == "Add."
    assert list(inspect.signature(add).parameters) == ["a", "b"]
    assert add.effect == "once", "what is not said is the safe effect"
    assert repr(add) == "<tool 'add', effect 'once'>"


def test_attributes_of_the_function_change_nothing() -> None:
    """What a function carries of its own does not become what the tool is."""

    def send() -> None: ...

    send.effect, send.name, send.function, send.timeout_s = "read", "other", print, None
    tool = outlast.tool(effect="once")(send)
    assert (tool.effect, tool.name, tool.function) == ("once", "send", send)
    assert tool.timeout_s == 60.0


SNIPPET = """
    import outlast

    @outlast.tool(effect="read")
    def plain(word: str, limit: int = 3) -> list[str]:
        return [word] * limit

    @outlast.tool
    async def bare(word: str) -> bytes:
        return word.encode()

    async def use() -> None:
        reveal_type(plain("a", limit=1))
        reveal_type(await bare(word="a"))
        plain(1)
        await bare()
        outlast.tool(effect="write")
"""


def test_type_checkers_see_the_signature(tmp_path: Path) -> None:
    """For a type checker a tool has the parameters and the result of its function."""
    (tmp_path / "snippet.py").write_text(textwrap.dedent(SNIPPET))
    # What is revealed needs none of the skipped modules, and following them takes seconds.
    (tmp_path / "mypy.ini").write_text(
        f"[mypy]\nstrict = True\nmypy_path = {Path(outlast.__file__).parents[1]}\n"
        "[mypy-pydantic.*,asyncio.*,outlast.agent.*,outlast.app.*]\nfollow_imports = skip\n"
    )
    options = ["--config-file", f"{tmp_path}/mypy.ini", "--cache-dir", os.devnull]
    out, err, _ = mypy.api.run([*options, "--no-error-summary", f"{tmp_path}/snippet.py"])
    assert not err
    told = [line.split(": ", 1)[1].partition("  [")[0] for line in out.splitlines()]
    assert told[:5] == [
        'note: Revealed type is "list[str]"',
        'note: Revealed type is "bytes"',
        'error: Argument 1 to "__call__" of "Tool" has incompatible type "int"; expected "str"',
        'error: Missing positional argument "word" in call to "__call__" of "Tool"',
        'error: No overload variant of "tool" matches argument type "str"',
    ]
