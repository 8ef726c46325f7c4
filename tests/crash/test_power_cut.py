"""The power fails at the moment an effect starts: the disk must already know of it."""

import asyncio
import itertools
from pathlib import Path
from typing import Any

import pytest
from agents import QUESTION, lead

import outlast
from outlast.events import ModelCallStarted, ToolCallStarted
from outlast.journal import run_stream
from outlast.models.scripted import ScriptedModel
from outlast.stores.sqlite import SqliteJournal
from outlast.testing.power_loss import Disk


class Forgetful:
    """A machine whose power is cut, in a copy, whenever an effect starts."""

    def __init__(self, disk: Disk, path: Path) -> None:
        self.disk = disk
        self.path = path
        self.cuts = itertools.count()
        self.started: list[str] = []
        self.unknown: list[str] = []

    def effect(self, call_id: str) -> None:
        """Note whether, after a power cut right now, the intent of this call would be there."""
        into = self.path.parent / f"cut-{next(self.cuts)}"
        into.mkdir()
        journal = SqliteJournal(self.disk.cut(self.path, into=into))
        intents = [
            record.event.call_id
            for record in journal.read(run_stream("r"))
            if isinstance(record.event, ModelCallStarted | ToolCallStarted)
        ]
        journal.close()
        self.started.append(call_id)
        if call_id not in intents:
            self.unknown.append(call_id)


class Watched(ScriptedModel):
    """A model that cuts the power when a request arrives."""

    machine: Forgetful

    async def call(self, request: Any, *, on_part: Any) -> Any:
        self.machine.effect(request.call_id)
        return await super().call(request, on_part=on_part)


def agent(machine: Forgetful) -> outlast.Agent:
    @outlast.tool(effect="read")
    def look_up(word: str, context: outlast.ToolContext) -> str:
        """Look a word up."""
        machine.effect(context.call_id)
        return word

    @outlast.tool(effect="idempotent")
    async def save(text: str, context: outlast.ToolContext) -> str:
        """Save a text."""
        machine.effect(context.call_id)
        return "saved"

    @outlast.tool(effect="once")
    async def send(text: str, context: outlast.ToolContext) -> str:
        """Send a text."""
        machine.effect(context.call_id)
        return "sent"

    @outlast.tool(effect="read")
    async def broken() -> str:
        """Fail, always."""
        raise ValueError

    tools = [look_up, save, send, broken]
    return outlast.Agent("sender", model="claude-haiku-5-5", tools=tools, max_tokens=512)


def play(tmp_path: Path, *, synchronous: Any, guest: bool) -> Forgetful:
    path = tmp_path / "s.db"
    with Disk() as disk:
        machine = Forgetful(disk, path)
        claude = Watched(lead)
        claude.machine = machine
        journal = SqliteJournal(path, vfs=disk.vfs, synchronous=synchronous)
        with outlast.Outlast(journal, model=claude) as app:
            if guest:
                run = asyncio.run(app.arun(agent(machine), QUESTION, run_id="r"))
            else:
                run = app.run(agent(machine), QUESTION, run_id="r")
        assert run.status == "completed", run.why
    return machine


@pytest.mark.parametrize("loop", ["its own", "the caller's"])
def test_no_effect_before_its_intent_is_on_the_disk(tmp_path: Path, loop: str) -> None:
    """No request leaves, and no tool runs, before a power cut could not lose its intent."""
    machine = play(tmp_path, synchronous="FULL", guest=loop == "the caller's")
    assert len(machine.started) == 3 + 1 + 3, "three model calls, four tools that ran"
    assert machine.unknown == []


def test_the_disk_does_forget(tmp_path: Path) -> None:
    """Without syncs the same machine loses intents: the test above can fail."""
    machine = play(tmp_path, synchronous="OFF", guest=False)
    assert machine.unknown == machine.started
