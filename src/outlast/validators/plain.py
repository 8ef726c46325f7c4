"""Answers as plain data, and the places in them.

A path names a place: fields, `[n]`, and `[*]` for every element, as in `grants[*].funder.name`.
The empty path is the answer itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any, Final, TypeAlias

from outlast.errors import InvalidAgent

DEEPEST: Final = 200
"""Levels of an answer that are looked into."""

Step: TypeAlias = str | int
Place: TypeAlias = tuple[Step, ...]

EVERY: Final = "*"
_STEP: Final = re.compile(r"\.?([^.\[\]*]+)|\[(\d{1,9}|\*)\]")


class TooDeep(ValueError):
    """An answer is nested deeper than anybody looks."""


def opened(value: Any) -> Any:
    """Return one level of a value: a dict, a list or a scalar that JSON has, or a `Decimal`.

    Models, dataclasses and structs become dicts by the names of their fields; what nobody knows
    becomes its text.
    """
    if isinstance(value, Enum):
        value = value.value
    if value is None or isinstance(value, bool | int | float | str | Decimal | dict):
        return _plain(value)
    if (names := _field_names(value)) is not None:
        return {name: getattr(value, name, None) for name in names}
    if isinstance(value, Mapping):
        return _plain(dict(value))
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    if isinstance(value, list | tuple):
        return list(value)
    return value.isoformat() if isinstance(value, date | datetime | time) else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): inner for key, inner in value.items()}
    return str(value) if isinstance(value, str) else value


def _field_names(value: Any) -> list[str] | None:
    """Return what the fields of a model, a dataclass, a struct or a named tuple are called."""
    kind = type(value)
    if is_dataclass(kind):
        return [field.name for field in fields(kind)]
    declared = getattr(kind, "model_fields", None)  # pydantic, without importing it
    if isinstance(declared, dict):
        return [*declared, *(getattr(value, "model_extra", None) or {})]
    struct = getattr(kind, "__struct_fields__", None) or getattr(kind, "_fields", None)
    return list(struct) if isinstance(struct, tuple) else None


def is_blank(value: Any) -> bool:
    """Return whether there is nothing in a value: 0 and False are something."""
    waiting = [(value, 0)]
    while waiting:
        inner, depth = waiting.pop()
        match opened(inner):
            case None:
                continue
            case str(text):
                if text.strip(_BLANKS):
                    return False
            case dict(members):
                waiting += [(one, depth + 1) for one in members.values()]
            case list(elements):
                waiting += [(one, depth + 1) for one in elements]
            case _:
                return False
        if depth > DEEPEST:
            raise TooDeep(f"the answer is nested more than {DEEPEST} levels deep")
    return True


_BLANKS: Final = " \t\r\n\v\f\u00a0\u200b\u200c\u200d\u2060\ufeff\u00ad\u2003\u2002\u2009\u3000"


def shown(place: Place) -> str:
    """Return a place as a path."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)
    return text.removeprefix(".")


@dataclass(frozen=True, slots=True)
class Path:
    """Where to look in an answer."""

    text: str
    steps: tuple[Step, ...]

    @classmethod
    def of(cls, text: str) -> Path:
        """Read a path.

        Raises:
            InvalidAgent: it is none.

        """
        steps: list[Step] = []
        at = 0
        while isinstance(text, str) and at < len(text):
            if not (step := _STEP.match(text, at)):
                break
            name, index = step.groups()
            steps.append(name or (EVERY if index == EVERY else int(index)))
            at = step.end()
        if not isinstance(text, str) or at < len(text):
            raise InvalidAgent(
                f"{text!r} is no path into an answer; write one such as 'grants[0].name', "
                "'[*].max_usd' or '' for all of it"
            )
        return cls(text, tuple(steps))

    def matches(self, answer: Any) -> Iterator[tuple[Place, Any]]:
        """Yield every place that the path names and that is there, with the value as plain data."""
        found: list[tuple[Place, Any]] = [((), opened(answer))]
        for step in self.steps:
            found = [
                ((*outer, key), opened(value))
                for outer, inside in found
                for key, value in _members(inside, step)
            ]
        yield from found


def _members(inside: Any, step: Step) -> Iterator[tuple[Step, Any]]:
    if isinstance(inside, dict):
        if step == EVERY:
            yield from inside.items()
        elif step in inside:
            yield step, inside[step]
    elif isinstance(inside, list):
        if step == EVERY:
            yield from enumerate(inside)
        elif isinstance(step, int) and step < len(inside):
            yield step, inside[step]
