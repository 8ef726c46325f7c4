"""The options that commands share, and how their values are read."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from outlast.durations import nanoseconds
from outlast.errors import UsageError

NANO: Final = 1_000_000_000
DEFAULT_STORE: Final = "sqlite:///outlast.db"


def seconds(text: str | float) -> float:
    """Return the seconds of `30s`, `500ms`, `2m`, `1h` or `30`."""
    given = str(text).strip()
    try:
        return nanoseconds(float(given) if given[-1:].isdigit() else given) / NANO
    except (UsageError, ValueError) as error:
        raise typer.BadParameter(
            f"{text!r} is not a length of time; write 30s, 500ms, 2m or 1h (30 is seconds)"
        ) from error


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

Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why.")]
Note = Annotated[str, typer.Option("--note", metavar="TEXT", help="What to say to it.")]
Login = Annotated[
    str | None, typer.Option("--by", metavar="NAME", help="Who says so; default: your login name.")
]
Call = Annotated[
    str | None, typer.Option("--call", metavar="CALL_ID", help="Which call of a tool is meant.")
]
Named = Annotated[
    str | None, typer.Option("--name", metavar="NAME", help="Which question of a flow is meant.")
]
By = Annotated[str, typer.Option("--by", metavar="NAME", help="Who says so.")]
