"""Reads what is typed as INPUT: text, or, for a flow that takes something else, JSON.

| INPUT is for | it is |
|---|---|
| an agent | text, as typed |
| a flow whose input is a `str`, or of no declared type | text, as typed |
| a flow whose input is anything else | JSON; `@FILE` is the JSON in that file |
| a flow that takes no input | left out |
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from outlast.content import attachment
from outlast.errors import InvalidInput, UsageError
from outlast.flows import Flow, hint
from outlast.starting import Who


def input_of(who: Who, typed: str | None, attached: Sequence[str]) -> Any:
    """Return what a run is to be given, as it would be given from Python.

    Raises:
        UsageError: there is none where one is needed, or it is not what the flow declares.

    """
    if not isinstance(who, Flow):
        if typed is None:
            raise UsageError(f"agent {who.name!r} needs an INPUT: what to ask it")
        return [*map(attachment, attached), typed] if attached else typed
    if attached:
        raise UsageError(f"flow {who.name!r}: --attach is for an agent; name the file in the INPUT")
    if typed is None and who.needs_input:
        raise UsageError(f"flow {who.name!r} needs an INPUT: its {who.parameter!r}")
    if typed is None or not who.takes_input or hint(who.function, who.parameter) in (str, Any):
        return typed
    return _typed(who, _read(who, typed))


def _read(flow: Flow[..., Any], typed: str) -> str:
    if not typed.startswith("@"):
        return typed
    try:
        return Path(typed[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"flow {flow.name!r}: {typed[1:]!r} cannot be read: {error}") from error


def _typed(flow: Flow[..., Any], text: str) -> Any:
    try:
        msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise InvalidInput(
            f"flow {flow.name!r}: its {flow.parameter!r} is no text, so the INPUT is JSON, or "
            f"@FILE with it; this is none: {error}"
        ) from error
    return next(iter(flow.arguments(text.encode())), None)
