"""Whether a value is what a JSON schema asks for: the part of it that structured outputs use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "array": (list,),
    "boolean": (bool,),
    "integer": (int,),
    "null": (type(None),),
    "number": (int, float),
    "object": (dict,),
    "string": (str,),
}


def misfit(value: Any, schema: Mapping[str, Any], place: str = "$") -> str:
    """Return where and why `value` does not fit, empty when it does.

    Looked at are `type`, `enum`, `const`, `anyOf`, `properties`, `required`,
    `additionalProperties`, `items`, and references to `$defs` of the whole; whatever else a schema
    says is taken for fulfilled.
    """
    return _misfit(value, schema, place, schema.get("$defs", {}))


def _misfit(
    value: Any, schema: Mapping[str, Any], place: str, named: Mapping[str, Mapping[str, Any]]
) -> str:
    if isinstance(reference := schema.get("$ref"), str):
        schema = named.get(reference.removeprefix("#/$defs/"), {})
    if choices := schema.get("anyOf"):
        fits = any(not _misfit(value, each, place, named) for each in choices)
        return "" if fits else f"{place}: fits no anyOf"
    kinds = schema.get("type", [])
    if kinds and not any(_is(value, kind) for kind in ([kinds] if _is_text(kinds) else kinds)):
        return f"{place}: {value!r} is not of type {kinds}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{place}: {value!r} is none of {schema['enum']}"
    if "const" in schema and value != schema["const"]:
        return f"{place}: {value!r} is not {schema['const']!r}"
    if isinstance(value, list) and isinstance(items := schema.get("items"), dict):
        found = (_misfit(each, items, f"{place}[{at}]", named) for at, each in enumerate(value))
        return next(filter(None, found), "")
    return _misfit_of_object(value, schema, place, named) if isinstance(value, dict) else ""


def _misfit_of_object(
    value: dict[str, Any],
    schema: Mapping[str, Any],
    place: str,
    named: Mapping[str, Mapping[str, Any]],
) -> str:
    known = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            return f"{place}: {name!r} is required"
    for name, member in value.items():
        if name in known:
            if found := _misfit(member, known[name], f"{place}.{name}", named):
                return found
        elif schema.get("additionalProperties") is False:
            return f"{place}: {name!r} is not allowed"
    return ""


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _TYPES.get(kind, (object,)))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
