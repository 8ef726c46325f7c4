"""The last good answers of tools: found again in the journal by what was asked.

Nothing is kept twice.  Of each question a number that all processes share says where in the journal
its last good answer stands.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from outlast.actions import CallTool
from outlast.calls import degraded_call, failure, success, unless_more
from outlast.events import Degradation, ToolCallFailed, ToolCallSucceeded
from outlast.journal import Advance, Journal, Record
from outlast.redaction import same
from outlast.results import cut, json_text
from outlast.sources import LastGood
from outlast.tools import Tool

NS = 1_000_000_000


class NoAnswerKept(Exception):
    """There is no earlier answer to a call, or only one that is too old."""


def keeps(tool: Tool[..., Any], call: CallTool) -> bool:
    """Return whether what comes of a call is to be found again."""
    return not call.rank and any(isinstance(one, LastGood) for one in tool.sources)


def name(call: CallTool, tenant: str) -> str:
    """Return under which name it is known where the answer to a call stands; empty is nowhere."""
    given = call.given if call.asked is None else call.asked
    try:
        asked = json_text([tenant, call.tool, given])
    except Exception:  # noqa: BLE001  (arguments that cannot be written)
        return ""
    return f"good:{sha256(asked.encode('utf-8', 'replace')).hexdigest()[:40]}"


def kept(under: str, record: Record) -> list[Advance]:
    """Return how it is remembered where an answer stands; nothing, where it is no good one."""
    event = record.event
    if not under or not isinstance(event, ToolCallSucceeded) or event.degraded is not None:
        return []
    return [Advance(name=under, least=record.position)]


def found(journal: Journal, call: CallTool, tenant: str) -> Record | None:
    """Return the record of the last good answer to a call."""
    if not (under := name(call, tenant)):
        return None
    (position,) = journal.numbers([under])
    if not position:
        return None
    return next(iter(journal.read_all(after=position - 1, limit=1)), None)


def _fitting(good: ToolCallSucceeded, call: CallTool, tool: Tool[..., Any]) -> Raw:
    """Return a text that was kept as there is room for it now."""
    kept = msgspec.json.decode(good.content)
    most = min(tool.max_result_tokens, call.most_tokens or tool.max_result_tokens)
    return Raw(msgspec.json.encode(cut(kept, most))) if isinstance(kept, str) else good.content


def last_good(
    call: CallTool, tool: Tool[..., Any], record: Record | None, now: int
) -> ToolCallSucceeded | ToolCallFailed:
    """Return the answer to the same call that was kept, if there is one that is not too old.

    Args:
        call: the call.
        tool: the tool that was asked for.
        record: where the answer stands; `None` is nowhere.
        now: nanoseconds since the epoch.

    """
    source = tool.sources[call.rank]
    assert isinstance(source, LastGood), f"{source} is called, not looked up"  # noqa: S101
    good = None if record is None else record.event
    is_good = isinstance(good, ToolCallSucceeded) and not (good.empty and tool.empty_is_failure)
    if record is None or not isinstance(good, ToolCallSucceeded) or not is_good:
        none = NoAnswerKept("there is no earlier answer to this call")
        return unless_more(failure(call, "raised", "", none, 0, same), call, tool, "not_found")
    age = max(0, now - record.at)
    if source.max_age_ns and age > source.max_age_ns:
        old = NoAnswerKept(f"the last good answer is {age // NS} s old")
        return unless_more(failure(call, "raised", "", old, 0, same), call, tool, "stale")
    done = replace(success(call, _fitting(good, call, tool), good.blob, 0), empty=good.empty)
    less = Degradation(source=f"the last good answer of {call.tool}", as_of=record.at)
    return degraded_call(done, less)
