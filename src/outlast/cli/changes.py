"""Compares what a run was started with and what can be imported now from the same place."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from typing import Any

from outlast.agent import Agent
from outlast.cli.agents import agents_beside, declared_at
from outlast.cli.words import Part
from outlast.errors import OutlastError
from outlast.events import AskStarted, RunStarted, Spec
from outlast.flows import Flow
from outlast.journal import Record
from outlast.starting import Who
from outlast.versions import differences, version_of


def since(records: Sequence[Record]) -> dict[str, Any]:
    """Return what has changed since a run was started: a member of `show --json`.

    Its `status` is `same`, `changed`, `not_found`, or `unknown` where the run does not say where
    its code is; `version` is that of now; `what` lists what changed, or says why nothing was found.
    """
    started = next(r.event for r in records if isinstance(r.event, RunStarted))
    if not started.code:
        return _shape("unknown", [])
    try:
        # What a module prints while it is imported is not for whoever reads this page.
        with redirect_stdout(sys.stderr):
            who = declared_at(started.code)
    except OutlastError as error:
        return _shape("not_found", [str(error)])
    now, what = version_of(who), list(_differences(who, started, records))
    is_same = now == started.version and not what
    return _shape("same" if is_same else "changed", what, now)


def told(version: str, changed: dict[str, Any]) -> Part:
    """Return the version of a run and what has changed since, for people."""
    what = ", ".join(changed["what"])
    match changed["status"]:
        case "same":
            return f"{version}, unchanged", ""
        case "changed":
            return f"{version}; now {changed['version']}, changed: {what}", "doubt"
        case "not_found":
            return f"{version}; what is there now cannot be told: {what}", "doubt"
    return version, ""


def _shape(status: str, what: list[str], version: str | None = None) -> dict[str, Any]:
    return {"status": status, "version": version, "what": what}


def _differences(who: Who, started: RunStarted, records: Sequence[Record]) -> Iterator[str]:
    if isinstance(who, Agent):
        yield from _of_agent(started.version, started.spec, who)
        return
    if version_of(who) != started.version:
        yield "phases" if _phases(who) != started.phases else "its code"
    for event in _asks(records):
        assert event.spec is not None, "asked of nobody"  # noqa: S101  (only such are chosen)
        agent = agents_beside(who, event.spec.agent)
        if agent is not None:
            for part in _of_agent(event.version, event.spec, agent):
                yield f"{part} of {agent.name}"


def _of_agent(version: str, recorded: Spec, agent: Agent) -> list[str]:
    if not version or version == version_of(agent):
        return []
    return differences(recorded, agent.spec()) or ["its code"]


def _phases(flow: Flow[..., Any]) -> dict[str, list[str]]:
    return {name: list(after) for name, after in flow.phases.items()}


def _asks(records: Sequence[Record]) -> list[AskStarted]:
    """Return the last ask of each agent of a flow."""
    events = [record.event for record in records]
    asks = [one for one in events if isinstance(one, AskStarted) and one.spec is not None]
    return list({one.spec.agent: one for one in asks if one.spec is not None}.values())
