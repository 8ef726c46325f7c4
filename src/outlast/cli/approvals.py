"""`outlast approve`, `deny` and `runs --waiting`: what people are asked, and what they say."""

from __future__ import annotations

import getpass
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from outlast.app import Outlast
from outlast.approvals import Request
from outlast.cli import doubts, exits, shapes, verdicts, words
from outlast.cli.agents import here
from outlast.cli.screen import Screen, screen
from outlast.cli.stores import opened, row_of
from outlast.cli.waits import Open, open_in, waiting
from outlast.cli.words import Part
from outlast.errors import InvalidInput, UsageError
from outlast.events import NULL
from outlast.journal import RunRow


def answer_run(  # noqa: PLR0913  (the options of two commands)
    store: str,
    run_id: str,
    *,
    approved: bool,
    call: str | None,
    name: str | None,
    arguments: str | None,
    answer: str | None,
    note: str,
    by: str | None,
    as_json: bool,
) -> int:
    """Say yes or no to what a run asks, and return the exit code."""
    edited = None if arguments is None else _typed(arguments)
    instead = None if answer is None else _typed_answer(answer)
    who = login() if by is None else by
    here()  # the arguments are checked by the tool, where that can be imported
    with opened(store) as journal:
        row_of(journal, run_id)
        app = Outlast(journal)
        if approved:
            app.approve(
                run_id,
                call=call,
                name=name,
                arguments=edited,
                answer=instead,
                note=note,
                by=who,
            )
        else:
            app.deny(run_id, call=call, name=name, note=note, by=who)
        row = row_of(journal, run_id)
        still = open_in(journal, row).asked
        shape_of = verdicts.run_shape(journal, row)
    if as_json:
        sys.stdout.write(shapes.encode(shape_of).decode() + "\n")
        return exits.DONE
    on = screen()
    did, then = ("approved", "") if approved else ("denied", ", and it is told so")
    on.line((f"{did} ", "good" if approved else "bad"), (run_id, "strong"), (then, ""))
    for asked in still:
        on.line(("it still asks: ", "quiet"), *told(asked))
    on.line((f"Next: {_next(row, still)}", "quiet"))
    return exits.DONE


def _next(row: RunRow, still: tuple[Request, ...]) -> str:
    return command(row.id, still) if still else goes_on(row)


def goes_on(row: RunRow) -> str:
    """Return how a run goes on that was told what it waited to hear."""
    if row.status == "paused":
        return f"outlast resume {row.id}   (it is paused, and goes on from there)"
    if row.parent:
        return f"a worker goes on with it, or: outlast resume {row.root or row.parent}"
    return f"a worker goes on with it, or: outlast resume {row.id}"


def command(run_id: str, still: tuple[Request, ...], verb: str = "approve") -> str:
    """Return the command that answers the first of what a run asks."""
    first = still[0]
    if len(still) == 1:
        return f"outlast {verb} {run_id}"
    which = f"--name {shlex.quote(first.name)}" if first.name else f"--call {_quoted(first)}"
    return f"outlast {verb} {run_id} {which}"


def _quoted(asked: Request) -> str:
    return shlex.quote(asked.call_id)


def told(asked: Request) -> list[Part]:
    """Return a question as a line: what is asked, and with what."""
    shown = _seen(asked)
    until = f"  until {words.day(asked.expires_at)}" if asked.expires_at else ""
    return [
        (words.line(asked.question, 200), "doubt"),
        (f"  {shown}" if shown else "", ""),
        (until, "quiet"),
    ]


def _seen(asked: Request) -> str:
    if asked.of_answer:
        return words.line(words.given(asked.answer), 400)
    if asked.call_id:
        return words.call(asked.tool, asked.arguments, 400)
    return "" if asked.context == NULL else words.line(words.given(asked.context), 400)


# ── what waits ──────────────────────────────────────────────────────────────────────────────────


def shape(asked: Request) -> dict[str, Any]:
    """Return a question as programs get it."""
    return {
        "question": asked.question,
        "name": asked.name or None,
        "call_id": asked.call_id or None,
        "tool": asked.tool or None,
        "arguments": asked.arguments,
        "answer": asked.answer,
        "context": asked.context,
        "asked_at": shapes.moment(asked.asked_at),
        "expires_at": shapes.moment(asked.expires_at) if asked.expires_at else None,
    }


def list_waiting(
    store: str, *, status: str | None, agent: str | None, limit: int, as_json: bool
) -> int:
    """Print the runs that wait for a person, the oldest question first; return the exit code."""
    if status is not None:
        raise UsageError("--waiting is about runs that wait for a person; leave --status out")
    with opened(store) as journal:
        found = sorted(waiting(journal, agent), key=lambda one: one[1].since)
        listed = [
            verdicts.run_shape(journal, row)
            | {
                "waiting": [shape(one) for one in still.asked],
                "doubts": [doubts.shape(one) for one in still.doubts],
            }
            for row, still in (found[:limit] if as_json else ())
        ]
    if as_json:
        sys.stdout.write(shapes.encode(listed).decode() + "\n")
        return exits.DONE
    on = screen()
    if not found:
        on.line((f"No run in {store} waits for a person.", ""))
        on.line(("Next: outlast runs", "quiet"))
        return exits.DONE
    now = time.time_ns()
    for row, still in found[:limit]:
        _print(on, row, still, now)
    more = f"   (there are more: --limit {2 * limit})" if len(found) > limit else ""
    row, first = found[0]
    step = command(row.id, first.asked) if first.asked else doubts.command(row.id, first.doubts)
    on.line((f"Next: {step}{more}", "quiet"))
    return exits.DONE


def _print(on: Screen, row: RunRow, still: Open, now: int) -> None:
    on.line(
        (row.id, "strong"),
        (f"  {row.agent}", ""),
        (f"  {row.status}" if row.status != "waiting" else "", "quiet"),
        (f"  {words.duration(now - still.since)} ago", "quiet"),
    )
    for asked in still.asked:
        which = f"--name {asked.name}" if asked.name else f"--call {asked.call_id}"
        on.line(("  ", ""), *told(asked), (f"  {words.line(which, 200)}", "quiet"))
    for one in still.doubts:
        on.line(("  ", ""), *doubts.told(one), (f"  --call {one.call_id}", "quiet"))


# ── what is typed ───────────────────────────────────────────────────────────────────────────────


def login() -> str:
    """Return the name of whoever types, as this machine knows it."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a user without a name, as in some containers
        return ""


def _from_file(text: str, option: str) -> str:
    if not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{option}: {text[1:]!r} cannot be read: {error}") from error


def _typed_answer(text: str) -> Any:
    """Return an answer as it was typed: JSON, and what is none is a text."""
    text = _from_file(text, "--edit-answer")
    try:
        given = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
    # `None` from Python is that nothing was changed.
    return text if given is None else given


def _typed(text: str) -> Any:
    text = _from_file(text, "--edit-arguments")
    try:
        given = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise InvalidInput(
            "--edit-arguments is a JSON object with all arguments of the call, or @FILE with it; "
            f"this is none: {error}"
        ) from error
    # `None` from Python is that nothing was changed; who types null did not mean that.
    return [] if given is None else given
