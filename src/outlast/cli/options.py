"""The options that commands share, and how their values are read."""

from __future__ import annotations

import re
from typing import Annotated, Final

import typer

DEFAULT_STORE: Final = "sqlite:///outlast.db"

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|d)?")
_SECONDS: Final = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, None: 1}


def seconds(text: str | float) -> float:
    """Return the seconds of `30s`, `500ms`, `2m`, `1h` or `30`."""
    if isinstance(text, int | float):
        return float(text)
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise typer.BadParameter(
            f"{text!r} is not a length of time; write 30s, 500ms, 2m or 1h (30 is seconds)"
        )
    return float(match[1]) * _SECONDS[match[2]]


Store = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="OUTLAST_STORE",
        metavar="URL",
        help="Where runs are recorded: sqlite:///relative.db, sqlite:////absolute.db.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
RunId = Annotated[str, typer.Argument(metavar="ID", help="The run's id.")]
Attach = Annotated[
    list[str] | None,
    typer.Option("--attach", metavar="FILE", help="An image, a PDF or a text; repeatable."),
]
Wait = Annotated[
    float,
    typer.Option(
        "--wait",
        metavar="TIME",
        parser=seconds,
        help="How long to wait where the run cannot go on at once: 30s, 500ms, 2m.",
    ),
]
