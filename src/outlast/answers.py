"""The type that an answer is to have: how Claude is told of it, and how a reply is read.

| the models of an agent | how the answer is given |
|---|---|
| all have structured outputs | as JSON of the schema, which the API keeps to |
| one has not | by calling a tool with a strict schema |

The API keeps to the schema, but not to what a schema cannot say, such as a validator; so whatever
comes is read by pydantic, and what does not fit is an issue of the answer, not an error.

https://platform.claude.com/docs/en/build-with-claude/structured-outputs
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from hashlib import sha256
from typing import Any, Final

import msgspec
from msgspec import Raw

from outlast.errors import InvalidAgent
from outlast.events import Issue

TOOL: Final = "give_answer"
"""The tool by whose call an answer is given, where a model has no structured outputs."""

MEMBER: Final = "answer"
"""The member of an object that an answer is which is no object itself."""

MOST_ISSUES: Final = 20
"""So many faults of one reply are told: a list of thousands would only cost tokens."""

_NAMED: Final = re.compile(r"claude-[a-z]+-(\d+)(?:-(\d{1,2})(?!\d))?")
_FIRST: Final = (4, 5)
"""The first version of Claude that has structured outputs in general availability."""

_FORMATS: Final = frozenset(
    {
        "date-time",
        "time",
        "date",
        "duration",
        "email",
        "hostname",
        "uri",
        "ipv4",
        "ipv6",
        "uuid",
    }
)
_KEPT: Final = frozenset({"type", "enum", "const", "title", "description", "$ref", "required"})
_NESTED: Final = frozenset({"$defs", "properties", "items", "additionalProperties"})
_LISTED: Final = _NESTED | {"type"}

_SAYING: Final = frozenset({"type", "anyOf", "oneOf", "allOf", "enum", "const", "$ref"})
"""Without any of them a schema says nothing."""

_MANY: Final = {"anyOf": "anyOf", "oneOf": "anyOf", "allOf": "allOf"}


def structured(model: str) -> bool:
    """Return whether a model has structured outputs; of unknown ones nobody knows that."""
    named = _NAMED.search(model)
    return named is not None and (int(named[1]), int(named[2] or 0)) >= _FIRST


class InvalidAnswer(Exception):
    """A reply is not of the type that an answer is to have.

    Attributes:
        issues: in what.

    """

    def __init__(self, issues: list[Issue]) -> None:
        """See the class."""
        self.issues = issues
        super().__init__("; ".join(f"{one.path}: {one.message}".lstrip(": ") for one in issues))


class AnswerType:
    """The type that an answer is to have.

    Args:
        kind: any type that pydantic has a JSON schema for.
        agent: whose answers they are, for what is said of it.

    """

    def __init__(self, kind: Any, *, agent: str) -> None:
        self.kind = kind
        self._agent = agent

    @cached_property
    def _adapter(self) -> Any:
        from pydantic import TypeAdapter  # noqa: PLC0415  (a tenth of a second)

        try:
            return TypeAdapter(self.kind)
        except Exception as error:
            why = str(error).partition(". ")[0]
            raise InvalidAgent(
                f"agent {self._agent!r}: nothing can be read as answer={self.kind!r}: {why}; give "
                "a pydantic model, a dataclass, a list of them, or another type of pydantic's"
            ) from error

    @cached_property
    def _own(self) -> dict[str, Any]:
        try:
            own: dict[str, Any] = self._adapter.json_schema(mode="validation")
        except InvalidAgent:
            raise
        except Exception as error:
            why = str(error).partition(". ")[0]
            raise InvalidAgent(
                f"agent {self._agent!r}: answer={self.kind!r} has no JSON schema: {why}"
            ) from error
        if wrong := _unsayable(own):
            raise InvalidAgent(f"agent {self._agent!r}: answer={self.kind!r} {wrong}")
        return own

    @cached_property
    def wrapped(self) -> bool:
        """Whether the answer is a member of an object, since it is none itself."""
        return _resolved(self._own).get("type") != "object"

    @cached_property
    def schema(self) -> dict[str, Any]:
        """The JSON schema that the API is given: strict, and always of an object.

        Raises:
            InvalidAgent: a schema cannot say what the type is.

        """
        own = dict(self._own)
        if not self.wrapped:
            # At its root the API wants an object, and not a reference to one.
            return strict({**own, **_resolved(own)} if "$ref" in own else own)
        definitions = own.pop("$defs", None)
        whole = {
            "type": "object",
            "properties": {MEMBER: own},
            "required": [MEMBER],
        }
        return strict({**whole, "$defs": definitions} if definitions else whole)

    @cached_property
    def version(self) -> str:
        """What changes with the type: 12 hex digits of a SHA-256."""
        return sha256(msgspec.json.encode(self._own, order="deterministic")).hexdigest()[:12]

    @cached_property
    def format(self) -> dict[str, Any]:
        """The member `output_config.format` of a request."""
        return {"type": "json_schema", "schema": self.schema}

    @cached_property
    def tool(self) -> dict[str, Any]:
        """The tool by whose call the answer is given."""
        return {
            "name": TOOL,
            "description": "Give your answer: call this once you have it, and only then.",
            "strict": True,
            "input_schema": self.schema,
        }

    def given(self, text: str | bytes, *, wrapped: bool) -> Raw:
        """Return the answer in a reply, as JSON; what is no JSON of that kind, as a text.

        Args:
            text: what Claude gave.
            wrapped: whether it was told to give it as a member of an object.

        """
        return given(text, wrapped=wrapped)

    def read(self, answer: Raw) -> Any:
        """Return an answer as an object of the type.

        Raises:
            InvalidAnswer: it is none, and where.

        """
        try:
            return self._adapter.validate_json(bytes(answer))
        except KeyboardInterrupt:
            raise  # Ctrl-C, which may strike anywhere
        except BaseException as error:
            # A validator of the user's own may raise anything, and brings nobody down.
            raise InvalidAnswer(_issues(error, bytes(answer))) from error


def is_json(text: str) -> bool:
    """Return whether a reply is JSON, and not a text with some in it."""
    try:
        msgspec.json.decode(text.encode())
    except (ValueError, RecursionError):
        return False
    return True


def given(text: str | bytes, *, wrapped: bool) -> Raw:
    """Return the answer in a reply; see `AnswerType.given`."""
    raw = text.encode() if isinstance(text, str) else bytes(text)
    try:
        msgspec.json.decode(raw)
    except (ValueError, RecursionError):
        return Raw(msgspec.json.encode(raw.decode("utf-8", "replace")))
    if not wrapped:
        return Raw(raw.strip())
    try:
        members = msgspec.json.decode(raw, type=dict[str, Raw])
    except ValueError:
        return Raw(raw.strip())
    return Raw(bytes(members[MEMBER])) if members.keys() == {MEMBER} else Raw(raw.strip())


def _issues(error: BaseException, answer: bytes) -> list[Issue]:
    from pydantic import ValidationError  # noqa: PLC0415  (loaded by now)

    if not isinstance(error, ValidationError):  # a validator of the user's own
        return [Issue(f"checking it failed with {type(error).__name__}", rule="schema")]
    wrong = error.errors(include_url=False, include_context=False)
    if not error.error_count():
        return [Issue("it is not what was asked for", rule="schema")]
    is_text = answer[:1] == b'"'
    issues = [_issue(one, is_text=is_text) for one in wrong[:MOST_ISSUES]]
    if len(wrong) > MOST_ISSUES:
        issues.append(Issue(f"and {len(wrong) - MOST_ISSUES} more faults", rule="schema"))
    return issues


def _issue(wrong: Any, *, is_text: bool) -> Issue:
    path = _cut(path_of(wrong["loc"]))
    got = None
    if wrong["type"] != "missing":
        got = _short(wrong.get("input"))
    message = _cut(wrong["msg"])
    if is_text and not path:
        message = f"the answer is not JSON of the schema: {message}"
    return Issue(message, path=path, rule=f"schema:{wrong['type']}", got=got)


def _short(value: Any) -> Any:
    """Return what stands there, as far as it helps to see it."""
    if value is None or isinstance(value, bool | int | float):
        return value
    return _cut(value if isinstance(value, str) else repr(value), 200)


def _cut(text: str, most: int = 2_000) -> str:
    """Return the beginning of what a validator, or the answer itself, may have made long."""
    return text if len(text) <= most else text[: most - 1] + "…"


def path_of(loc: Iterator[Any] | tuple[Any, ...]) -> str:
    """Return a place in JSON as it is written: `[0].eligibility`."""
    path = ""
    for part in loc:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.lstrip(".")


# ── what the API is told ────────────────────────────────────────────────────────────────────────


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON schema as the API takes it: what it cannot hold to is said in words instead.

    The SDK has the same rules (`anthropic.transform_schema`), but importing it takes a second.
    """
    if "$ref" in schema:
        told = {"$ref": schema["$ref"]}
        return told | _definitions(schema)
    told, rest = _definitions(schema), {}
    # What is listed value by value has no type beside.
    skipped = _LISTED if {"enum", "const"} & schema.keys() else _NESTED
    for key, value in schema.items():
        if key in skipped:
            continue
        if key in _MANY and isinstance(value, list):
            told[_MANY[key]] = [strict(one) for one in value]
        elif key in _KEPT or _is_held(key, value):
            told[key] = value
        elif key != "default":
            rest[key] = value
    if schema.get("type") == "object":
        members = schema.get("properties", {})
        told["properties"] = {name: strict(one) for name, one in members.items()}
        told["additionalProperties"] = False
    if schema.get("type") == "array" and isinstance(schema.get("items"), dict):
        told["items"] = strict(schema["items"])
    rest.pop("discriminator", None)
    if rest:
        words = ", ".join(f"{name}: {_said(value)}" for name, value in rest.items())
        before = f"{told['description']} " if "description" in told else ""
        told["description"] = f"{before}({words})"
    return told


def _is_held(key: str, value: Any) -> bool:
    """Return whether the API holds to it."""
    return (key == "format" and value in _FORMATS) or (key == "minItems" and value in (0, 1))


def _said(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _definitions(schema: dict[str, Any]) -> dict[str, Any]:
    if "$defs" not in schema:
        return {}
    return {"$defs": {name: strict(one) for name, one in schema["$defs"].items()}}


def _resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """Return what a schema says at its root."""
    name = schema.get("$ref", "").removeprefix("#/$defs/")
    found: dict[str, Any] = schema.get("$defs", {}).get(name, schema) if name else schema
    return {key: value for key, value in found.items() if key != "$ref"} if name else found


def _unsayable(schema: dict[str, Any]) -> str:
    """Return why no strict schema can say what this one does; empty where one can."""
    definitions = schema.get("$defs", {})
    uses = {name: set(_references(one)) for name, one in definitions.items()}
    for name in uses:
        reached, left = set[str](), [name]
        while left:
            for one in uses.get(left.pop(), ()):
                if one == name:
                    return f"refers to itself by {name}, which structured outputs cannot"
                if one not in reached:
                    reached.add(one)
                    left.append(one)
    for one in (schema, *definitions.values()):
        if (open_ := next(_open(one), None)) is not None:
            return (
                f"holds a dict of any keys, or anything at all{open_}, which structured outputs "
                "cannot; declare its fields, or a list of pairs"
            )
    return ""


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(reference := schema.get("$ref"), str):
            yield reference.removeprefix("#/$defs/")
        for value in schema.values():
            yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)


def _open(schema: Any, path: str = "") -> Iterator[str]:
    """Yield where an object may have members that nobody declared, or a value be anything."""
    if not isinstance(schema, dict):
        return
    if schema.keys().isdisjoint(_SAYING):
        yield f" at {path}" if path else ""
    if schema.get("type") == "object" and not schema.get("properties") and not _is_empty(schema):
        yield f" at {path}" if path else ""
    for name, one in schema.get("properties", {}).items():
        yield from _open(one, f"{path}.{name}".lstrip("."))
    for key in ("anyOf", "oneOf", "allOf"):
        for one in schema.get(key, ()):
            yield from _open(one, path)
    if schema.get("type") == "array":
        yield from _open(schema.get("items", {}), f"{path}[]")


def _is_empty(schema: dict[str, Any]) -> bool:
    """Return whether an object is declared to have no members at all."""
    return (
        schema.get("additionalProperties") is not True
        and "title" in schema
        and (not isinstance(schema.get("additionalProperties"), dict))
    )
