"""`outlast replay`: a run decided again, or its answers checked again; nothing is called."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from outlast.actions import World
from outlast.agent import Agent
from outlast.checks import Check
from outlast.cli import exits, shapes, words
from outlast.cli.agents import app_of, declared_at, here, imported
from outlast.cli.reading import read_runs
from outlast.cli.screen import Screen, screen
from outlast.cli.stores import opened, row_of
from outlast.errors import JournalDamaged, JournalTooNew, UsageError
from outlast.events import AnyEvent, RunStarted, encode, tag
from outlast.findings import Past, answers
from outlast.forking import shared_until
from outlast.journal import Journal, Record, run_stream
from outlast.limits import STREAM as BUDGETS
from outlast.limits import Budgets, of_run
from outlast.limits import evolve as evolve_budgets
from outlast.rechecking import Judging, Rechecked, plain, recheck
from outlast.replaying import Difference, Known, Replayed, replay
from outlast.starting import Who

Unreadable: TypeAlias = JournalDamaged | JournalTooNew

_SHOWN: Final = 20
"""So many differences, or answers, are shown to people; programs get all."""


# ── decided again ───────────────────────────────────────────────────────────────────────────────


def replay_run(store: str, run_id: str, *, location: str | None, as_json: bool) -> int:
    """Decide a run again, print what would be decided otherwise, and return the exit code."""
    with opened(store) as journal:
        row_of(journal, run_id)
        records = journal.read(run_stream(run_id))
        who = _who(run_id, records, location)
        redact = app_of(who, journal)._redact  # noqa: SLF001  (as its module has it)
        known = _known(journal, run_id, who, World(redact=redact))
        found = replay(records, who, run_id=run_id, agents=_beside(who), known=known)
    if as_json:
        sys.stdout.write(shapes.encode(_shape(run_id, found)).decode() + "\n")
    else:
        _print(screen(), run_id, found)
    return exits.FAILED if found.differences else exits.DONE


def _who(run_id: str, records: Sequence[Record], location: str | None) -> Who:
    started = records[0].event
    assert isinstance(started, RunStarted), f"{run_id} does not begin"  # noqa: S101
    code = location or started.code
    if not code:
        raise UsageError(
            f"run {run_id!r} was started with {started.agent!r}, and nobody can tell where that is "
            "declared; give --agent MODULE:AGENT"
        )
    who = declared_at(code)
    if ("agent" if isinstance(who, Agent) else "flow") != started.kind:
        raise UsageError(f"run {run_id!r} is of a {started.kind}, and {code!r} is none")
    return who


def _beside(who: Who) -> dict[str, Agent]:
    """Return the agents that the module of a flow knows, by name."""
    module = sys.modules.get(who.declared_in)
    known = vars(module).values() if module is not None else ()
    return {one.name: one for one in known if isinstance(one, Agent)}


def _known(journal: Journal, run_id: str, who: Who, world: World) -> Known:
    """Return what is known of budgets as of a time: those that were set for the run itself."""
    declared = who.budget.limits
    at, budgets = [0], [Budgets()]
    for record in journal.read(BUDGETS):
        at.append(record.at)
        budgets.append(evolve_budgets(budgets[-1], record))

    def known(now: int) -> World:
        then = budgets[sum(1 for one in at if one <= now) - 1]
        limits = of_run(then, run_id, declared)
        own = None if limits is declared else limits
        return msgspec.structs.replace(world, limits=own, factors=then.factors)

    return known


def _shape(run_id: str, found: Replayed) -> dict[str, Any]:
    return {
        "run": run_id,
        "decisions": found.decisions,
        "same": found.same,
        "untold": found.untold,
        "not_replayed": found.skipped,
        "differences": [
            {
                "seq": one.seq,
                "at": shapes.moment(one.at),
                "recorded": [_event(event) for event in one.recorded],
                "decided": [_event(event) for event in one.decided],
                "instead": one.instead,
            }
            for one in found.differences
        ],
    }


def _event(event: AnyEvent) -> msgspec.Raw:
    return msgspec.Raw(encode(event))


def _print(on: Screen, run_id: str, found: Replayed) -> None:
    differ = len(found.differences)
    told = words.count(found.decisions, "decision")
    if differ:
        on.line((f"{told}, {differ} of them otherwise now:", "bad"))
    else:
        on.line((f"{told}, all as recorded.", "good"))
    for one in found.differences[:_SHOWN]:
        _print_one(on, one)
    if differ > _SHOWN:
        on.line((f"… and {differ - _SHOWN} more; --json has all of them", "quiet"))
    if found.untold:
        rest = f"{found.untold} more rest on what others did, and could not be told."
        on.line((rest, "doubt"))
    if found.skipped:
        of = f"{found.skipped} more are the flow's own, or its agents are not at hand."
        on.line((of, "doubt"))
    if differ:
        first = found.differences[0].seq
        on.line((f"Next: outlast log {run_id}   (event {first} is the first)", "quiet"))
    else:
        on.line((f"Next: outlast log {run_id}", "quiet"))


def _print_one(on: Screen, one: Difference) -> None:
    on.line((f"event {one.seq}", "strong"), (f"  {words.day(one.at)}", "quiet"))
    for event in one.recorded:
        on.line(("  recorded  ", "quiet"), (_line(event), ""))
    for event in one.decided:
        on.line(("  now       ", "quiet"), (_line(event), "bad"))
    if one.instead:
        on.line(("  now       ", "quiet"), (one.instead, "bad"))


def _line(event: AnyEvent) -> str:
    fields: dict[str, msgspec.Raw] = msgspec.json.decode(encode(event), type=dict[str, msgspec.Raw])
    told = ", ".join(
        f"{name}={bytes(value).decode()}"
        for name, value in fields.items()
        if name not in ("type", "ask_id", "request_hash")
    )
    return words.line(f"{tag(event)} {told}", 1_000)


# ── checked again ───────────────────────────────────────────────────────────────────────────────


def recheck_runs(
    store: str, run_id: str | None, location: str, *, agent: str | None, as_json: bool
) -> int:
    """Run checks over recorded answers, print what they say, and return the exit code."""
    checks, owner = _checks(location)
    name = agent or (None if owner is None else owner.name)
    if run_id is None and name is None:
        raise UsageError("say whose answers are to be checked: a run's id, or --agent NAME")
    on = screen()
    with opened(store) as journal:
        rows = [row_of(journal, run_id)] if run_id is not None else journal.runs()
        reading = _Reading(name, owner)
        ids = [row.id for row in reversed(rows)]
        unreadable = read_runs(journal, reading, ids, None if as_json else on)
        tenants = {row.id: row.tenant for row in rows}
        who = owner or next((one for one in reading.agents.values() if one is not None), None)
        deps = None if who is None else app_of(who, journal)._deps  # noqa: SLF001
    said = recheck(
        reading.past,
        checks,
        parse=reading.parse,
        deps=deps,
        tenants=lambda one: tenants.get(one, ""),
    )
    if as_json:
        sys.stdout.write(shapes.encode(_checked_shape(said, unreadable)).decode() + "\n")
    else:
        _print_checked(on, said, unreadable)
    return max(map(exits.of_error, unreadable), default=exits.DONE)


class _Reading:
    """The answers of an agent, or of all, in the runs that it is given; a flow's have many."""

    def __init__(self, name: str | None, owner: Agent | None) -> None:
        self.past: list[Past] = []
        self.agents: dict[tuple[str, str], Agent | None] = {}
        """Who gave an answer, by where the run's code is and by name; `None` if nobody can tell."""
        self._name = name
        self._owner = owner
        self._codes: dict[str, str] = {}

    def take(self, run_id: str, records: Iterable[Record]) -> None:
        """Read all records of a run."""
        whole = list(records)
        found = answers(run_id, whole, shared=shared_until(whole))
        self.past += (mine := [one for one in found if self._name in (None, one.agent)])
        if mine and self._owner is None:
            started = whole[0].event
            self._codes[run_id] = code = started.code if isinstance(started, RunStarted) else ""
            for agent in {one.agent for one in mine}:
                if (code, agent) not in self.agents:
                    self.agents[code, agent] = _agent(code, agent)

    def parse(self, past: Past) -> Any:
        """Return an answer as its agent's checks get it."""
        who = self._owner or self.agents.get((self._codes.get(past.run_id, ""), past.agent))
        return plain(past) if who is None or who.answers is None else who.answers.read(past.answer)


def _agent(code: str, name: str) -> Agent | None:
    """Return the agent of a name where a run's code is; `None` if it is not there."""
    try:
        who = declared_at(code)
    except UsageError:
        return None
    return who if isinstance(who, Agent) and who.name == name else _beside(who).get(name)


def _checks(location: str) -> tuple[tuple[Check[..., Any] | Judging, ...], Agent | None]:
    """Return the checks that a place names, and the agent whose they are.

    It names an agent, one check, or several in a list.
    """
    here()
    name, _, attribute = location.partition(":")
    found = getattr(imported(name, location), attribute, None) if name and attribute else None
    if isinstance(found, Agent):
        checks: tuple[Any, ...] = tuple(found.checks)
        if not checks and found.answers is None:
            raise UsageError(f"agent {found.name!r} of {location!r} has no checks")
        return checks, found
    several = tuple(found) if isinstance(found, list | tuple) else (found,)
    if not several or not all(isinstance(one, Check | Judging) for one in several):
        raise UsageError(
            f"{location!r} is no agent with checks, no check and no list of checks; write "
            "MODULE:NAME of one of them"
        )
    return several, None


def _checked_shape(said: Sequence[Rechecked], unreadable: Sequence[Unreadable]) -> dict[str, Any]:
    return {
        "unreadable": [str(error) for error in unreadable],
        "answers": len(said),
        "changed": sum(one.changed for one in said),
        "says": dict(Counter(one.says for one in said)),
        "results": [
            {
                "run": one.past.run_id,
                "agent": one.past.agent,
                "ask_id": one.past.ask_id,
                "call_id": one.past.call_id,
                "seq": one.past.seq,
                "attempt": one.past.attempt,
                "recorded": one.past.became,
                "now": one.says,
                "changed": one.changed,
                "answer": one.past.answer,
                "checks": [
                    {
                        "check": check.check,
                        "verdict": check.verdict or None,
                        "issues": check.issues,
                        "why": check.why,
                    }
                    for check in one.said
                ],
            }
            for one in said
        ],
    }


def _print_checked(on: Screen, said: Sequence[Rechecked], unreadable: Sequence[Unreadable]) -> None:
    changed = [one for one in said if one.changed]
    for one in changed[:_SHOWN]:
        past = one.past
        on.line(
            (past.run_id, "strong"),
            (f"  event {past.seq}, attempt {past.attempt}: {past.became} → ", ""),
            (one.says, "good" if one.says == "accepted" else "bad"),
        )
        for check in one.said:
            for issue in check.issues:
                is_said = issue.message.startswith(issue.path)
                where = "" if is_said else f" at {words.line(issue.path, 80)}"
                on.line((f"  {check.check}{where}: {words.line(issue.message, 400)}", ""))
            if check.why:
                on.line((f"  {check.check}: {words.line(check.why, 400)}", "doubt"))
    if len(changed) > _SHOWN:
        on.line((f"… and {len(changed) - _SHOWN} more; --json has all of them", "quiet"))
    if said:
        on.line((f"{words.count(len(said), 'answer')}, {len(changed)} would change.", "strong"))
    else:
        on.line(
            ("There is no answer to check: nobody of that name was asked, or answered.", "doubt")
        )
    if unasked := sum(one.says == "judge not asked" for one in said):
        on.line((f"Of {unasked} a judge would have to say, which is not asked here.", "doubt"))
    for error in unreadable:
        on.line((words.line(str(error), 400), "bad"))
    then = f"outlast show {changed[0].past.run_id}" if changed else "outlast runs"
    on.line((f"Next: {then}", "quiet"))
