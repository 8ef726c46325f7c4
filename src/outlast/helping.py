"""The functions that look after a tool's calls: one finds out what became of it, one takes it back.

Neither is told of to Claude, and neither may bring anything down: what they raise is written.
"""

from __future__ import annotations

from dataclasses import replace as changed
from typing import Any

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from outlast.actions import CallUndo, FindOut
from outlast.agent import Agent
from outlast.calls import Came, contained, printable, tool_of, words
from outlast.content import Put
from outlast.errors import StoreError
from outlast.events import NULL, Happened, ToolCallReconciled, UndoFinished
from outlast.redaction import Redact, redacted, same
from outlast.results import shown
from outlast.sources import Reconciled
from outlast.tools import InvalidArguments, Tool, ToolContext
from outlast.workshop import Shop


def finder(action: FindOut, agent: Agent) -> Tool[..., Any]:
    """Return the function that finds out what became of a call."""
    source = tool_of(agent, action.tool).sources[action.rank]
    helper = source.reconcile if isinstance(source, Tool) else None
    assert helper is not None, f"{action.tool} had a function for that"  # noqa: S101
    return helper


def found_out(
    action: FindOut, agent: Agent, came: Came, *, put_blob: Put, redact: Redact = same
) -> ToolCallReconciled:
    """Return what a function found out; where it cannot tell, that is unknown."""
    helper = finder(action, agent)
    value, error = came
    said = value if isinstance(value, Reconciled) else Reconciled(happened=value)
    happened: Any = said.happened  # whoever wrote the function may have returned anything
    told = ToolCallReconciled(
        ask_id=action.ask_id,
        call_id=action.call_id,
        tool_use_id=action.tool_use_id,
        outcome="unknown",
        by=helper.name,
        function=True,
    )
    wrong = "" if error is None else f"failed with {type(error).__name__}: {words(error)}"
    if not (happened is None or isinstance(happened, bool)):
        wrong = f"returned {type(value).__name__}, and no Reconciled, bool or None"
    if wrong:
        return replace(told, note=printable(redacted(f"{helper.name} {wrong}", redact)))
    note = redacted(_text(said.note), redact)
    if said.happened is None:
        return replace(told, note=printable(note))
    content = NULL
    if said.happened and said.result is not None:
        most = tool_of(agent, action.tool).max_result_tokens
        limit = min(most, action.most_tokens or most)
        try:
            content = shown(said.result, limit=limit, put=put_blob, redact=redact).content
        except StoreError:
            raise
        except Exception as unshowable:  # noqa: BLE001  (it happened, which is what was asked)
            note = f"{note} Its result cannot be shown ({type(unshowable).__name__}).".strip()
    outcome: Happened = "happened" if said.happened else "did_not"
    return replace(told, outcome=outcome, content=content, note=printable(note))


def _text(note: Any) -> str:
    """Return what a function says besides; whoever wrote it may have given anything."""
    try:
        return "" if note is None else str(note)
    except Exception as error:  # noqa: BLE001  (whether it happened is what was asked)
        return f"Its note cannot be had ({type(error).__name__})."


async def find_out(  # noqa: PLR0913  (what a call needs from outside)
    action: FindOut,
    agent: Agent,
    *,
    run_id: str,
    tenant: str,
    deps: Any,
    put_blob: Put,
    redact: Redact = same,
    workshop: Shop | None = None,
) -> ToolCallReconciled:
    """Ask a function what became of a call in doubt; only a cancellation is raised."""
    context = ToolContext(
        run_id=run_id,
        call_id=action.call_id,
        idempotency_key=action.idempotency_key,
        tenant=tenant,
        deps=deps,
    )
    came = await _helped(finder(action, agent), action.given, context, workshop)
    return found_out(action, agent, came, put_blob=put_blob, redact=redact)


class Taking(msgspec.Struct, frozen=True):
    """A function that takes a call back, and with what it is called."""

    helper: Tool[..., Any]
    given: dict[str, Any]


def taking_back(action: CallUndo, agent: Agent | None, redact: Redact = same) -> Taking | str:
    """Return what takes a call back; or why nothing does any more."""
    tool = None if agent is None else agent.tool(action.tool)
    source = tool.sources[action.rank] if tool and action.rank < len(tool.sources) else None
    helper = source.undo if isinstance(source, Tool) else None
    if tool is None or helper is None:
        return f"{action.tool} has no function any more that takes it back"
    try:
        given = tool.arguments(bytes(action.arguments))
    except InvalidArguments as error:
        return printable(redacted(str(error), redact))
    return Taking(helper, {**given, "result": plain(action.content)})


def taken_back(
    action: CallUndo, error: BaseException | None, redact: Redact = same
) -> UndoFinished:
    """Return what came of taking a call back."""
    if error is None:
        return UndoFinished(call_id=action.undone)
    why = printable(redacted(f"{type(error).__name__}: {words(error)}", redact))
    return UndoFinished(call_id=action.undone, status="failed", error=why, last=action.last)


async def call_undo(  # noqa: PLR0913  (what a call needs from outside)
    action: CallUndo,
    agent: Agent | None,
    *,
    run_id: str,
    tenant: str,
    deps: Any,
    redact: Redact = same,
    workshop: Shop | None = None,
) -> UndoFinished:
    """Take back what a call did, and return whether that worked; only a cancellation is raised."""
    taking = taking_back(action, agent, redact)
    if isinstance(taking, str):
        # A flow tells only on its way whom it asked, so it is tried again.
        last = agent is not None or action.last
        return UndoFinished(call_id=action.undone, status="failed", error=taking, last=last)
    context = ToolContext(
        run_id=run_id,
        call_id=action.undone,
        idempotency_key=action.idempotency_key,
        attempt=action.attempt,
        tenant=tenant,
        deps=deps,
    )
    _, error = await _helped(taking.helper, taking.given, context, workshop)
    return taken_back(action, error, redact)


def plain(content: Raw) -> str:
    """Return the text of what a call gave; what is no text of it is left out."""
    said = msgspec.json.decode(content)
    if isinstance(said, str):
        return said
    blocks = said if isinstance(said, list) else []
    return "\n".join(one["text"] for one in blocks if isinstance(one.get("text"), str))


async def _helped(
    helper: Tool[..., Any], given: dict[str, Any], context: ToolContext, workshop: Shop | None
) -> Came:
    arguments = bound(helper, given, context)
    try:
        return await contained(helper, arguments, workshop)
    except TimeoutError as error:
        return None, error


def bound(helper: Tool[..., Any], given: dict[str, Any], context: ToolContext) -> dict[str, Any]:
    """Return the arguments of a function that looks after a tool's calls."""
    arguments, _ = helper.takes(given)
    name = helper.context_parameter
    return {**arguments, name: changed(context)} if name else arguments
