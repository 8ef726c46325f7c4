"""`outlast run`, `resume` and `send`: drive a run to rest, and show it."""

from __future__ import annotations

import asyncio
import os
import secrets
import shlex
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from outlast.agent import Agent, WorstCase
from outlast.app import Outlast
from outlast.cli import exits, shapes, verdicts, words
from outlast.cli.agents import agent_at, app_of, declared_at
from outlast.cli.aside import alone, out
from outlast.cli.inputs import input_of
from outlast.cli.progress import Progress
from outlast.cli.screen import Screen, screen
from outlast.cli.show import next_step, print_answer
from outlast.cli.stores import opened, row_of
from outlast.cli.story import STATUS_TONES
from outlast.cli.waits import open_in
from outlast.content import Input
from outlast.demo.session import is_simulated
from outlast.errors import RunEnded, UsageError
from outlast.events import RunStarted
from outlast.journal import Journal, RunRow, run_stream
from outlast.models.anthropic import AnthropicModel
from outlast.run import Run
from outlast.runner import Watch
from outlast.starting import Who
from outlast.state import FINAL

NO_KEY: Final = (
    "there is no key for Claude: set ANTHROPIC_API_KEY. To try without one, start "
    "`outlast simulate`, and set ANTHROPIC_BASE_URL and ANTHROPIC_API_KEY as it says."
)


Drive: TypeAlias = Callable[[Watch], Run]
"""Drives a run to rest, telling what happens, and returns it."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a drive ended: the run's row, and why it is not done where only the driver knows."""

    row: RunRow
    why: str


@alone
def run_declared(  # noqa: PLR0913  (the options of a command)
    store: str,
    location: str,
    typed: str | None,
    *,
    attached: Sequence[str],
    run_id: str | None,
    tenant: str,
    wait_s: float,
    as_json: bool,
) -> int:
    """Start a run, or go on with the one of that id, and return the exit code."""
    who = declared_at(location)
    given = input_of(who, typed, attached)
    run_id = run_id or f"{who.name}-{secrets.token_hex(4)}"
    _rehearse(who, given, run_id)
    with opened(store) as journal:
        row = journal.run(run_id)
    if row is None or not is_final(row):
        check_key()
    if not as_json and row is None and (worst := _worst_case(who)) is not None:
        screen().line((str(worst), "quiet"))
    with opened(store, create=True) as journal:
        app_of(who, journal).start(who, given, run_id=run_id, tenant=tenant)

        def drive(watch: Watch) -> Run:
            return _resumed(journal, run_id, who, wait_s, watch)

        return driven(journal, run_id, drive, as_json=as_json)


def _worst_case(who: Who) -> WorstCase | None:
    """Return the most that a run can cost; `None` of a flow that has no limit in dollars."""
    if isinstance(who, Agent):
        return who.worst_case()
    nano = who.budget.limits.nano
    return None if nano is None else WorstCase(nano=nano, why=f"the budget of {who.name}")


@alone
def resume_run(  # noqa: PLR0913  (the options of a command)
    store: str,
    run_id: str,
    *,
    location: str | None,
    wait_s: float,
    told: Mapping[str, str],
    as_json: bool,
) -> int:
    """Go on with a run that has not ended, and return the exit code."""
    with opened(store) as journal:
        row = row_of(journal, run_id)
        if is_final(row):
            raise RunEnded(run_id, status=row.status)
        started = started_with(journal, run_id)
        if is_simulated(started):
            from outlast.cli.demo import play  # noqa: PLC0415  (its Claude is the simulator)

            return play(journal, run_id, pace=1.0, live=False, as_json=as_json)
        who = _declared(run_id, started, location)
        check_key()

        def drive(watch: Watch) -> Run:
            return _resumed(journal, run_id, who, wait_s, watch, told)

        return driven(journal, run_id, drive, as_json=as_json)


@alone
def send_message(  # noqa: PLR0913  (the options of a command)
    store: str,
    run_id: str,
    text: str,
    *,
    attached: Sequence[str],
    location: str | None,
    wait_s: float,
    as_json: bool,
) -> int:
    """Say something more to the agent of a run, and return the exit code."""
    with opened(store) as journal:
        row = row_of(journal, run_id)
        if row.status in FINAL:
            raise RunEnded(run_id, status=row.status)
        started = started_with(journal, run_id)
        if started.kind == "flow":
            raise UsageError(
                f"run {run_id!r} is of flow {started.agent!r}, which says itself what it asks; "
                "`send` is for the run of an agent"
            )
        agent = _declared(run_id, started, location)
        given = input_of(agent, text, attached)
        _rehearse(agent, given, run_id)
        check_key()

        def drive(watch: Watch) -> Run:
            return _sent(journal, run_id, agent, given, wait_s, watch)

        return driven(journal, run_id, drive, as_json=as_json, again=_send_again(run_id, text))


def _send_again(run_id: str, text: str) -> str:
    return f"outlast send {run_id} {shlex.quote(text)}"


def driven(journal: Journal, run_id: str, drive: Drive, *, as_json: bool, again: str = "") -> int:
    """Drive a run, show it as asked for, and return the exit code of where it came to rest.

    Args:
        journal: the store.
        run_id: the run.
        drive: drives it.
        as_json: whether to print JSON rather than a page.
        again: what to type when it was interrupted; by default `outlast resume`.  Where it is
            given, even a run that has ended goes on.

    """
    if as_json:
        return print_json(journal, run_id, drive, again=again or f"outlast resume {run_id}")
    on = screen()
    ended = watched(on, journal, run_id, drive, more=bool(again))
    if ended is None:
        on.line(("Interrupted. ", "strong"), ("Everything so far is in the journal.", ""))
        on.line((f"Next: {again or f'outlast resume {run_id}'}", "quiet"))
        return exits.INTERRUPTED
    conclude(on, journal, ended)
    on.line((f"Next: {next_step(ended.row, open_in(journal, ended.row))}", "quiet"))
    return exits.of_status(ended.row.status)


def print_json(journal: Journal, run_id: str, drive: Drive, *, again: str) -> int:
    """Drive a run in silence, print it as JSON and return its exit code.

    Raises:
        Interrupted: Ctrl-C was pressed; it says that `again` goes on.

    """
    try:
        run = drive(Watch())
    except KeyboardInterrupt as interrupt:
        raise exits.Interrupted(
            f"interrupted with Ctrl-C; everything so far is in the journal: `{again}` goes on",
            run_id=run_id,
        ) from interrupt
    row = row_of(journal, run_id)
    shape = verdicts.run_shape(journal, row) | {"why": run.why or row.why}
    out().write(shapes.encode(shape).decode() + "\n")
    return exits.of_status(row.status)


def watched(
    on: Screen, journal: Journal, run_id: str, drive: Drive, *, more: bool = False
) -> Ended | None:
    """Drive a run before people's eyes; `None` when it was interrupted.

    With `more` it goes on even when it has ended, because something more is said.
    """
    before = journal.read(run_stream(run_id))
    progress = Progress(on, before)
    if progress.reader.epoch:
        _recap(on, progress, row_of(journal, run_id), more=more)
    try:
        with progress.showing():
            run = drive(Watch(progress.on_record, progress.on_part))
    except KeyboardInterrupt:
        return None
    row = row_of(journal, run_id)
    return Ended(row=row, why=run.why or row.why)


def conclude(on: Screen, journal: Journal, ended: Ended) -> None:
    """Print how a run ended: its answer, or why there is none, and what it cost."""
    row = ended.row
    if row.answer is not None:
        on.line(("", ""))
        print_answer(on, row)
    on.line(("", ""))
    on.line(
        (row.status, STATUS_TONES.get(row.status, "")),
        (f": {words.line(ended.why.removeprefix(f'{row.status}: '))}" if ended.why else "", ""),
    )
    if row.degraded:
        told = "degraded: it rests on an answer that is less than what was asked for"
        on.line((told, "doubt"), (f"; outlast show {row.id}", "quiet"))
    on.line(
        (words.money(row.cost_nano), "money"),
        (f", {words.count(row.turns, 'turn')}, {words.count(row.tokens, 'token')}, ", ""),
        (words.duration(row.updated_at - row.created_at), ""),
    )
    on.line((f"journal: run {row.id} in {journal.url}", "quiet"))


def check_key() -> None:
    """Refuse to start what could not ask Claude.

    Raises:
        UsageError: there is no key, in none of the places where the SDK looks.

    """
    if os.environ.get("ANTHROPIC_API_KEY") or os.environ.get("ANTHROPIC_AUTH_TOKEN"):
        return
    import anthropic  # noqa: PLC0415  (over a second, and needed to ask Claude anyway)

    try:
        client = anthropic.AsyncAnthropic()
    except anthropic.AnthropicError as error:
        raise UsageError(f"{NO_KEY} ({error})") from error
    if not (client.api_key or client.auth_token or client.credentials):
        raise UsageError(NO_KEY)


def _resumed(  # noqa: PLR0913, PLR0917  (as `aresume`)
    journal: Journal,
    run_id: str,
    who: Who,
    wait_s: float,
    watch: Watch,
    told: Mapping[str, str] = MappingProxyType({}),
) -> Run:
    """Drive a run that has begun, to rest, and return it; one that has ended is only looked at."""
    if is_final(row_of(journal, run_id)):
        return Outlast(journal).get(run_id)

    async def drive(app: Outlast) -> Run:
        try:
            return await app.aresume(
                run_id,
                who,
                wait_s=wait_s,
                on_record=watch.on_record,
                on_part=watch.on_part,
                reason=told.get("reason", ""),
                by=told.get("by", ""),
            )
        except RunEnded:
            return app.get(run_id)  # another process was faster

    return _asking(journal, who, drive)


def _sent(  # noqa: PLR0913, PLR0917  (what is said to whom, and who watches)
    journal: Journal, run_id: str, agent: Who, given: Input, wait_s: float, watch: Watch
) -> Run:
    """Say something in a run, drive it to rest, and return it."""
    assert isinstance(agent, Agent), "only an agent is talked to"  # noqa: S101

    async def drive(app: Outlast) -> Run:
        return await app.asend(
            run_id,
            given,
            agent=agent,
            wait_s=wait_s,
            on_record=watch.on_record,
            on_part=watch.on_part,
        )

    return _asking(journal, agent, drive)


def _asking(
    journal: Journal, who: Who, drive: Callable[[Outlast], Coroutine[Any, Any, Run]]
) -> Run:
    """Lend an application that asks Claude to what drives a run, and return the run."""
    # Before the first intent is written rather than after it: for a second or more, a kill would
    # leave a call in doubt that was never sent.
    import anthropic  # noqa: F401, PLC0415

    async def lent() -> Run:
        model = AnthropicModel()
        try:
            return await drive(app_of(who, journal, model=model))
        finally:
            await model.aclose()

    return asyncio.run(lent())


def started_with(journal: Journal, run_id: str) -> RunStarted:
    """Return the first event of a run that exists."""
    (record,) = journal.read(run_stream(run_id), limit=1)
    assert isinstance(record.event, RunStarted), "a run without its first event"  # noqa: S101
    return record.event


def _declared(run_id: str, started: RunStarted, location: str | None) -> Who:
    if location is not None:
        return agent_at(location) if started.kind == "agent" else declared_at(location)
    if not started.code:
        raise UsageError(
            f"run {run_id!r} does not say where its {started.kind} {started.agent!r} is declared "
            "(in a script or a function, so it could not be imported); give --agent MODULE:AGENT"
        )
    try:
        return declared_at(started.code)
    except UsageError as error:
        raise UsageError(
            f"run {run_id!r} was started with {started.code!r}: {error}\n"
            "Run this where that module can be imported, or give --agent MODULE:AGENT."
        ) from error


def _rehearse(who: Who, given: Any, run_id: str) -> None:
    """Start the run in memory, so that what cannot start leaves nothing behind."""
    with Outlast("memory://") as nowhere:
        nowhere.start(who, given, run_id=run_id)


def is_final(row: RunRow) -> bool:
    """Return whether nothing of a run can go on."""
    return row.status == "completed" or row.status in FINAL


def _recap(on: Screen, progress: Progress, row: RunRow, *, more: bool) -> None:
    if is_final(row) and not more:
        told = "ended before, so nothing is asked again"
    else:
        turns = words.count(progress.reader.replies, "turn")
        told = f"goes on from its journal: {turns}, {words.money(row.cost_nano)}, none repeated"
    on.line((f"Run {row.id} {told}.", "strong"))
