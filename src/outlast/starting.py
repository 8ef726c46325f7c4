"""How a run begins, and whether what it is gone on with is still what it was begun with."""

from __future__ import annotations

import dataclasses
import importlib
import re
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import takewhile
from typing import Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Raw

from outlast import logs
from outlast.actions import moment
from outlast.agent import Agent, check_prices
from outlast.answers import TOOL, InvalidAnswer
from outlast.anthropic_tools import is_server
from outlast.budget import Limits, amount
from outlast.checks import Evidence
from outlast.content import Input, rendered
from outlast.conversation import Conversation, declared_spec, evolve, opened, terms
from outlast.errors import (
    BudgetTooSmall,
    Conflict,
    InvalidInput,
    RunConflict,
    UsageError,
    VersionChanged,
)
from outlast.events import (
    JOURNAL_VERSION,
    NULL,
    AnyEvent,
    AskStarted,
    MessageReceived,
    NoteAdded,
    RunParked,
    RunStarted,
    Spec,
)
from outlast.evidence import text_of
from outlast.flows import Flow
from outlast.journal import Commit, Journal, Record, run_stream
from outlast.limits import Tree
from outlast.prices import FRAMING_TOKENS, worst_case, worst_tokens
from outlast.redaction import Redact, same, within
from outlast.run import Run
from outlast.state import RunState, fold, row
from outlast.versions import differences, version_of

FIRST_ASK: Final = "ask-1"

_OF_VERSION: Final = re.compile(r"~[0-9a-f]{12}$")
"""The end of the id of a run that another version of it is run as."""

Who = Agent | Flow[..., Any]
"""Whatever a run can be of."""

OnChange: TypeAlias = Literal["recorded", "refuse", "fork"]
"""What happens to a run whose agent or flow was changed since it was started."""


def input_of(who: Who, given: Any, *, put: Callable[[bytes], str], redact: Redact = same) -> Raw:
    """Return what a run is given, as it is journalled.

    What this has returned before, as it stands in a schedule, is only checked.

    Raises:
        InvalidInput: the API would not take it, or it cannot be written as JSON.
        UnknownModel: no price is known for the agent's model.

    """
    if isinstance(who, Agent):
        check_prices(who)
        return given if isinstance(given, Raw) else rendered(given, put=put, redact=redact)
    if not isinstance(who, Flow):
        raise UsageError(f"{who!r} is neither an agent nor a flow")
    if not who.takes_input and given not in (None, NULL):
        raise InvalidInput(f"flow {who.name!r} takes no input, and was given {given!r}")
    whole = bytes(given) if isinstance(given, Raw) else _as_json(given, redact)
    who.arguments(whole)  # found wrong before anything is written, rather than by the run
    return Raw(whole)


def _as_json(given: Any, redact: Redact) -> bytes:
    from pydantic_core import to_json  # noqa: PLC0415  (not needed to import outlast)

    try:
        whole = within(to_json(given).decode(), redact).encode()
        msgspec.json.decode(whole)
    except Exception as error:
        raise InvalidInput(f"the input cannot be written as JSON: {error}") from error
    return whole


def check_affordable(agent: Agent, content: Raw, *, batch: bool = False) -> None:
    """Refuse to start a run whose budget does not fit its first call, with what judges it.

    Raises:
        BudgetTooSmall: it names the smallest budget that would.

    """
    limits = agent.budget.limits
    asked = MessageReceived(ask_id=FIRST_ASK, content=content)
    ask = evolve(opened(FIRST_ASK, agent.spec()), Record("", 1, 0, 0, 0, asked))
    if ask.uncounted:
        return  # pages are counted when the run is driven
    bound = ask.input_bound + FRAMING_TOKENS
    asked_for = terms(ask, batch=batch)
    judging = judged_at_most(agent, content, batch=batch)
    calls = 1 + sum(judge.votes for judge in agent.judges)
    if limits.turns is not None and calls > limits.turns:
        raise BudgetTooSmall(agent.name, given=amount("turns", limits.turns), smallest_turns=calls)
    given, usd, tokens = [], "", 0
    if limits.nano is not None:
        needed = judging.nano + worst_case(agent.model, bound, agent.least_tokens, asked_for)
        if needed > limits.nano:
            given.append(amount("nano", limits.nano))
            smallest = -(-needed // 100_000)  # in tenths of a thousandth of a dollar
            usd = f"{smallest / 10_000:.4f}"
    if limits.tokens is not None:
        needed = judging.tokens + worst_tokens(bound, agent.least_tokens, asked_for)
        if needed > limits.tokens:
            given.append(amount("tokens", limits.tokens))
            tokens = needed
    if given:
        raise BudgetTooSmall(
            agent.name, given=" and ".join(given), smallest_usd=usd, smallest_tokens=tokens
        )


class Judging(msgspec.Struct, frozen=True):
    """What the judges of an answer cost at most, where no tool has returned anything."""

    nano: int
    tokens: int


def judged_at_most(agent: Agent, content: Raw, *, batch: bool = False) -> Judging:
    """Return what it costs at most to have the shortest answer judged."""
    evidence = Evidence(task=text_of(content))
    nano = tokens = 0
    for judge in agent.judges:
        spec = judge.spec(agent.name, agent.model)
        asked = MessageReceived(ask_id=FIRST_ASK, content=judge.question(NULL, evidence))
        ask = evolve(opened(FIRST_ASK, spec), Record("", 1, 0, 0, 0, asked))
        # Each token of the answer is so many bytes of the question at most, as bounds count them.
        bound = ask.input_bound + FRAMING_TOKENS + agent.least_tokens
        asked_for = terms(ask, batch=batch)
        nano += judge.votes * worst_case(spec.model, bound, judge.max_tokens, asked_for)
        tokens += judge.votes * worst_tokens(bound, judge.max_tokens, asked_for)
    return Judging(nano, tokens)


def begin(  # noqa: PLR0913  (all but four are keywords with defaults)
    journal: Journal,
    run_id: str,
    who: Who,
    asked: Input | Raw,
    *,
    tenant: str = "",
    tags: dict[str, str] | None = None,
    parent: str = "",
    root: str = "",
    batch: bool = False,
    at: int | None = None,
    run_at: int | None = None,
    nonce: str | None = None,
    forked_from: str = "",
) -> None:
    """Write the first records of a run: that it exists, and what it was asked.

    Args:
        journal: where.
        run_id: the run's name, which is checked already.
        who: whom it is for, or the flow it is of.
        asked: what it is asked, or that as `input_of` returned it.
        tenant: for whom it is.
        tags: what it is to be found with.
        parent: the run that starts it; empty for none.
        root: the first run of its tree; by default itself.
        batch: whether its model calls go through the Message Batches API.
        run_at: when it is to be driven, in nanoseconds since the epoch; by default at once.
        at: when it begins, in nanoseconds since the epoch; by default now.
        nonce: what its idempotency keys are made of; by default random.
        forked_from: the run from whose tree it pays, though it is not below it.

    Raises:
        Conflict: there is a run of that id.
        InvalidInput: the API would not take what is asked.

    """
    content = asked if isinstance(asked, Raw) else input_of(who, asked, put=journal.put_blob)
    is_flow = isinstance(who, Flow)
    started = RunStarted(
        journal_version=JOURNAL_VERSION,
        agent=who.name,
        nonce=nonce or secrets.token_hex(16),
        spec=Spec(agent=who.name, model="", max_tokens=0) if isinstance(who, Flow) else who.spec(),
        code=code_location(who),
        version=version_of(who),
        tenant=tenant,
        parent=parent,
        root=root or run_id,
        tags=tags or {},
        turns=who.budget.turns,
        nano=who.budget.limits.nano,
        tokens=who.budget.limits.tokens,
        kind="flow" if is_flow else "agent",
        input=content if is_flow else NULL,
        phases=who.phases if isinstance(who, Flow) else {},
        batch=batch,
        forked_from=forked_from,
    )
    events: tuple[AnyEvent, ...] = (started,)
    if not is_flow:
        events += question(FIRST_ASK, content)
    if run_at is not None:
        events += (RunParked(until=run_at, why=f"starts at {moment(run_at)}"),)
    now = time.time_ns() if at is None else at
    stream = run_stream(run_id)
    records = [Record(stream, n, 0, now, 0, event) for n, event in enumerate(events, start=1)]
    journal.append(
        Commit(stream=stream, events=events, at=now, expected_seq=1, row=row(fold(records), run_id))
    )


def ancestors(journal: Journal, run_id: str, declared: Mapping[str, Limits]) -> tuple[Tree, ...]:
    """Return the runs that a run is below, the first one first, and what each may use.

    A fork is below nobody, but pays like what is below the run that it was forked from.  What is
    `declared` now counts before what a run was started with.
    """
    found: list[Tree] = []
    started = _started(journal, run_id)
    while above := started.parent or started.forked_from:
        started = _started(journal, above)
        found.append(tree_of(above, started, declared))
    return tuple(reversed(found))


def tree_of(run_id: str, started: RunStarted, declared: Mapping[str, Limits]) -> Tree:
    """Return a run, and what it and all that pays with it may use."""
    limits = Limits(nano=started.nano, tokens=started.tokens, turns=started.turns)
    return Tree(run_id, declared.get(run_id, limits))


def _started(journal: Journal, run_id: str) -> RunStarted:
    first = next(iter(journal.read(run_stream(run_id), limit=1)), None)
    started = None if first is None else first.event
    assert isinstance(started, RunStarted), f"{run_id} does not begin"  # noqa: S101
    return started


def question(ask_id: str, content: Raw, *, continues: str = "") -> tuple[AnyEvent, ...]:
    """Return the events that open a question."""
    return (
        AskStarted(ask_id=ask_id, continues=continues),
        MessageReceived(ask_id=ask_id, content=content),
    )


def check_same(journal: Journal, run_id: str, who: Who, content: Raw) -> None:
    """Refuse a run id that is taken by something else.

    Raises:
        RunConflict: by another agent, or by another input.

    """
    for record in journal.read(run_stream(run_id), limit=3):
        event = record.event
        recorded: Raw | None = None
        if isinstance(event, RunStarted):
            if event.agent != who.name or (event.kind == "flow") != isinstance(who, Flow):
                raise RunConflict(run_id, what="agent", recorded=event.agent, given=who.name)
            recorded = event.input if event.kind == "flow" else None
        elif isinstance(event, MessageReceived) and event.ask_id == FIRST_ASK:
            recorded = event.content
        if recorded is not None and recorded != content:
            was, now = _apart(recorded, content)
            raise RunConflict(run_id, what="input", recorded=was, given=now)


def check_who(journal: Journal, run_id: str, who: Who, on_change: OnChange) -> None:
    """Refuse to go on with another agent or flow; of a changed one, do what `on_change` says.

    Raises:
        UsageError: it is another one, or lacks a tool that the run knows.
        VersionChanged: it was changed, and `on_change` is not `recorded`.

    """
    state: RunState = fold(journal.read(run_stream(run_id), limit=1))
    started = state.started
    assert started is not None, "a run without its first event"  # noqa: S101
    if started.agent != who.name or (started.kind == "flow") != isinstance(who, Flow):
        raise UsageError(
            f"run {run_id!r} was started with {started.kind} {started.agent!r}, not "
            f"{who.name!r}; give what it was started with"
        )
    now = version_of(who)
    if started.version and now != started.version:
        changed = differences(started.spec, who.spec()) if isinstance(who, Agent) else []
        _changed(journal, run_id, who.name, (started.version, now), changed, on_change)
    if isinstance(who, Agent):
        check_tools(run_id, started.spec, who)


def check_ask(  # noqa: PLR0913, PLR0917  (both sides of the comparison)
    journal: Journal,
    run_id: str,
    ask: Conversation,
    agent: Agent,
    version: str,
    on_change: OnChange,
) -> None:
    """Do the same for an agent that a flow asks again."""
    if ask.version and ask.version != version:
        changed = differences(declared_spec(ask), agent.spec())
        _changed(journal, run_id, agent.name, (ask.version, version), changed, on_change)
    if ask.answer is None and not ask.failed:
        check_tools(run_id, ask.spec, agent)


def _changed(  # noqa: PLR0913, PLR0917  (what is said of a change)
    journal: Journal,
    run_id: str,
    name: str,
    versions: tuple[str, str],
    parts: list[str],
    on_change: OnChange,
) -> None:
    was, now = versions
    what = f" ({', '.join(parts)})" if parts else " (its code)"
    if on_change != "recorded":
        raise VersionChanged(run_id, name=name, recorded=was, given=now, what=what.strip(" ()"))
    told = (
        f"{name} was changed{what}: version {was} when the run was started, now {now}. "
        "What the model sees stays as it was recorded; functions are those of now."
    )
    _note(journal, run_id, told)


def fork(journal: Journal, run_id: str, who: Who, version: str) -> str:
    """Begin a run of the same input beside one of another version, and return its id.

    The run itself is left as it is, but for a note; where there is the other one already, it is
    that.

    Raises:
        UsageError: the run holds more than one question, which would have to be asked again.

    """
    forked = f"{_OF_VERSION.sub('', run_id)}~{version}"
    state = fold(journal.read(run_stream(run_id)))
    started = state.started
    assert started is not None, "a run without its first event"  # noqa: S101
    asked_for = [ask for ask in state.asks.values() if not ask.judges]
    if started.kind == "agent" and len(asked_for) > 1:
        raise UsageError(
            f"run {run_id!r} is a conversation of {len(asked_for)} questions with version "
            f"{started.version} of {who.name}, which cannot be begun again with {version}; go on "
            "with on_change='recorded'"
        )
    if journal.run(forked) is None:
        asked = started.input if started.kind == "flow" else state.asks[FIRST_ASK].asked
        with suppress(Conflict):  # somebody else began it at the same time
            begin(
                journal,
                forked,
                who,
                asked,
                tenant=started.tenant,
                tags=started.tags,
                parent=started.parent,
                root="" if started.root == run_id else started.root,
                batch=started.batch,
                forked_from=started.forked_from,
            )
            logs.tell(journal.read(run_stream(forked), limit=2))
    was = f"version {started.version} of {started.agent}"
    _note(journal, run_id, f"Left as it is, with {was}: run {forked!r} has its input, and another.")
    _note(journal, forked, f"Begun with the input of run {run_id!r}, which is left with {was}.")
    return forked


def _note(journal: Journal, run_id: str, told: str) -> None:
    """Write something into a run's journal, unless it is there."""
    stream = run_stream(run_id)
    notes = [record.event for record in journal.read(stream)]
    if not any(isinstance(note, NoteAdded) and note.text == told for note in notes):
        note = NoteAdded(text=told, by="outlast")
        logs.tell(journal.append(Commit(stream=stream, events=(note,), at=time.time_ns())))


def check_tools(run_id: str, recorded: Spec, agent: Agent) -> None:
    """Refuse an agent that lacks a tool which the model was told of.

    Raises:
        UsageError: which ones.

    """
    known = msgspec.json.decode(recorded.tools, type=list[_Named])
    # What Anthropic runs needs nothing of ours, and the model is told of it as before.
    given = TOOL if recorded.answers == "tool" else ""
    ours = [tool.name for tool in known if not is_server(tool.type) and tool.name != given]
    if missing := [name for name in ours if agent.tool(name) is None]:
        raise UsageError(
            f"run {run_id!r} was started with tools that agent {agent.name!r} no longer has: "
            f"{', '.join(missing)}. Give them back, or start a new run."
        )


class _Named(msgspec.Struct):
    name: str
    type: str = ""


def as_declared(run: Run, answer: Raw, who: Who) -> Run:
    """Return a run with its answer as an object of the type that its agent declares.

    Args:
        run: a run that is completed.
        answer: its answer, as it was written.
        who: what it is of.

    """
    answers = who.answers if isinstance(who, Agent) else None
    if answers is None:
        return run
    with suppress(InvalidAnswer):  # the type was changed since, or a person took it as it is
        return dataclasses.replace(run, answer=answers.read(answer))
    return run


def code_location(who: Who) -> str:
    """Return where a declaration can be imported from, as `module:attribute`; empty if nowhere."""
    module = sys.modules.get(who.declared_in)
    if module is None or who.declared_in == "__main__":
        return ""
    for name, value in vars(module).items():
        if value is who:
            return f"{who.declared_in}:{name}"
    return ""


def located(run_id: str, started: RunStarted) -> Who:
    """Return what a run was started with, imported from where it was declared.

    Raises:
        UsageError: it is nowhere to be found.

    """
    module, _, name = started.code.partition(":")
    try:
        found = getattr(importlib.import_module(module), name) if module else None
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"run {run_id!r} was started with {started.code}, which cannot be imported: {error}; "
            "give agent=…"
        ) from error
    if not isinstance(found, Agent | Flow):
        raise UsageError(
            f"run {run_id!r} was started with {started.agent!r}, and nobody can tell where that "
            "is declared; give agent=…"
        )
    return found


_SHORT: Final = 80
"""So many characters of an input are shown."""


def _apart(recorded: Raw, given: Raw) -> tuple[str, str]:
    """Return two inputs, each in a few words, among them those in which they differ."""
    one, other = bytes(recorded).decode(), bytes(given).decode()
    pairs = zip(one, other, strict=False)
    alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    first = 0 if alike < _SHORT // 2 else alike - _SHORT // 4
    return _short(one, first), _short(other, first)


def _short(text: str, first: int) -> str:
    end = first + _SHORT
    return f"{'…' if first else ''}{text[first:end]}{'…' if end < len(text) else ''}"
