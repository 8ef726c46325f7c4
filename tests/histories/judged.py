"""What is wrong with a history that was played, and what was in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
from msgspec.structs import replace
from plans import Plan
from played import STREAM, Played, decoded

from outlast.decide import KNOWN_BLOCKS
from outlast.events import (
    ModelCallFailed,
    ModelCallInDoubt,
    ToolCallFailed,
    ToolCallInDoubt,
    ToolCallSucceeded,
    tag,
)
from outlast.models.claude import Answer
from outlast.models.identity import canonical, plain_blocks
from outlast.models.script import SLOW
from outlast.models.signing import MARK
from outlast.state import fold

ENDS: Final = frozenset({"completed", "failed", "stopped"})
"""The statuses in which a run may come to rest."""


def wrong(played: Played) -> list[str]:
    """Return what is wrong, judged by what Claude and the tools saw; nothing, as it should be."""
    rules = (_refused, _unsettled, _unpaid, _misused, _misplaced)
    return [sentence for rule in rules for sentence in rule(played)]


def _refused(played: Played) -> Iterator[str]:
    for number, answer in enumerate(played.answers, start=1):
        if answer.outcome == "refused":
            assert answer.fault
            yield f"request {number} was refused: {answer.fault.message}"
    for message in played.counted_wrong:
        yield f"a request to count tokens was refused: {message}"


def _unsettled(played: Played) -> Iterator[str]:
    state = played.state
    if state.status not in ENDS:
        yield f"the run ended {state.status!r}"
    if state != fold(played.journal.read(STREAM)):
        yield "the journal tells another story than the driver"
    last = played.answers[-1] if played.answers else None
    if state.status == "completed" and (last is None or not may_end(last)):
        yield f"the run is completed, and Claude's last answer was {last}"
    if state.status == "failed" and last is not None and is_whole(last):
        yield f"the run failed ({state.why}), and Claude's last answer was {last.said}"
    if "cannot be sent" in state.why and "its last message is empty" not in state.why:
        yield f"nothing was refused only because nothing was sent: {state.why}"
    for record in played.journal.read(STREAM):
        if isinstance(record.event, ModelCallInDoubt) and record.event.kind == "bug":
            yield f"a call of the model met a bug: {record.event.message}"
    if state.status != "completed" and not state.why:
        yield "nobody says why the run is not completed"


def _failed(answer: Answer) -> bool:
    return answer.fault is not None and answer.fault.kind not in SLOW


def may_end(answer: Answer) -> bool:
    """Return whether a run can be completed with what Claude said last."""
    if _failed(answer) or answer.said is None:
        return False
    kinds = {block["type"] for block in spoken(answer)}
    stops = answer.said.stop_reason in ("end_turn", "stop_sequence")
    return stops and kinds <= KNOWN_BLOCKS - {"tool_use"}


def is_whole(answer: Answer) -> bool:
    """Return whether what Claude said last is an answer, or something to go on with."""
    if _failed(answer) or answer.said is None:
        return False
    kinds = {block["type"] for block in spoken(answer)}
    if answer.said.stop_reason == "tool_use":
        return "tool_use" in kinds
    if answer.said.stop_reason in ("pause_turn", "compaction"):
        return bool(kinds)
    told = [block["text"] for block in spoken(answer) if block["type"] == "text"]
    # Without a word it is an answer only if Claude was cut off before, which is hard to see here.
    return may_end(answer) and bool("".join(told).strip())


def spoken(answer: Answer) -> list[dict[str, Any]]:
    """Return the blocks of an answer."""
    assert answer.said
    blocks: list[dict[str, Any]] = msgspec.json.decode(answer.said.content)
    return blocks


def _unpaid(played: Played) -> Iterator[str]:
    spend = played.state.spend
    row = played.journal.run("r")
    assert row is not None
    if played.billed_nano > spend.nano:
        yield f"Claude billed {played.billed_nano} nano-dollars, the ledger charged {spend.nano}"
    if spend.held_nano:
        yield f"{spend.held_nano} nano-dollars are still held"
    if row.cost_nano != spend.nano:
        yield f"the run's row says {row.cost_nano} nano-dollars, its journal {spend.nano}"


def _misused(played: Played) -> Iterator[str]:
    asked = {
        (block["name"], block["input"].get("n"))
        for answer in played.answers
        if not _failed(answer) and answer.said and answer.said.stop_reason == "tool_use"
        for block in spoken(answer)
        if block["type"] == "tool_use"
    }
    for (name, number), times in played.ran.items():
        if (name, number) not in asked and (name, None) not in asked:
            yield f"{name}({number}) ran, and Claude never asked for it in a whole reply"
        if name == "send" and times > 1 and number >= 0:
            yield f"send({number}) ran {times} times"
    for number, keys in played.keys.items():
        if len(keys) > 1 and number >= 0:
            yield f"call {number} was made under {len(keys)} idempotency keys"


def _misplaced(played: Played) -> Iterator[str]:
    containers: dict[bytes, set[str]] = {}
    for answer in played.answers:
        if answer.said is not None and not _failed(answer):
            place = answer.said.extra.get("container", {}).get("id", "")
            containers.setdefault(_spelled(spoken(answer)), set()).add(place)
    for number, body in enumerate(played.bodies, start=1):
        request = decoded(body)
        said = [m["content"] for m in request["messages"] if m["role"] == "assistant"]
        places = [containers.get(_spelled(content), {""}) for content in said]
        # Words that were said in two places tell nothing about where Claude was.
        known = [min(place) for place in places if len(place) == 1 and min(place)]
        if (
            known
            and all(len(place) == 1 for place in places)
            and request.get("container") != known[-1]
        ):
            yield f"request {number} is for container {request.get('container')}, not {known[-1]}"


def _spelled(blocks: list[dict[str, Any]]) -> bytes:
    return canonical(plain_blocks(blocks))


# ── what was in it ──────────────────────────────────────────────────────────────────────────────


def contents(played: Played) -> Counter[str]:
    """Return what a history contained, by name."""
    found = Counter({name.replace("append", "an append"): n for name, n in played.tally.items()})
    found[f"ended {played.state.status}"] += 1
    for answer in played.answers:
        found.update(_answered(answer))
    for body in played.bodies:
        found.update(_asked(decoded(body)))
    found.update(_recorded(played))
    return +found


def _answered(answer: Answer) -> Iterator[str]:
    if answer.fault is not None:
        code = answer.fault.status if answer.fault.kind == "status" else ""
        yield f"fault {answer.fault.kind} {code}".strip()
    if answer.usage:
        for name in ("cache_read_input_tokens", "cache_creation_input_tokens"):
            if answer.usage.get(name):
                yield name.removesuffix("_input_tokens").replace("_", " ")
    if answer.said is None or _failed(answer):
        return
    blocks = spoken(answer)
    uses = [block for block in blocks if block["type"] == "tool_use"]
    stopped = answer.said.stop_reason
    yield f"stop reason {stopped if stopped != 'daydreaming' else 'unknown'}"
    if not blocks:
        yield "empty reply"
    if len(uses) > 1 and stopped == "tool_use":
        yield "parallel tool uses"
    if uses and stopped not in ("tool_use", None):
        yield f"tool uses of a reply that stopped for {stopped}"
    if answer.said.torn is not None:
        yield "torn input of a tool"
    if blocks and blocks[0]["type"] == "compaction" and stopped != "compaction":
        yield "compaction that goes on"
    for block in blocks:
        yield from _said(block)


def _said(block: dict[str, Any]) -> Iterator[str]:
    kind = block["type"]
    yield f"block {kind if kind in KNOWN_BLOCKS else 'unknown'}"
    if UNHEARD_OF & block.keys():
        yield "unknown field"
    if kind == "thinking":
        yield "thinking signed" if block["signature"].startswith(MARK) else "thinking of others"
        if not block["thinking"]:
            yield "thinking omitted"
    if kind == "compaction" and block["content"] is None:
        yield "compaction failed"


UNHEARD_OF: Final = {"mood", "depth", "why", "hue"}
"""Fields of blocks that the API does not have."""


def _asked(request: dict[str, Any]) -> Iterator[str]:
    last = request["messages"][-1]
    if thinking := request.get("thinking"):
        yield f"thinking {thinking['type']}"
    if "container" in request:
        yield "container"
    if last["role"] == "assistant":
        yield "sent again as it came"
    if last["role"] == "system":
        yield "message of the system last"
    kinds = {
        block["type"]
        for message in request["messages"]
        if message["role"] == "user" and isinstance(message["content"], list)
        for block in message["content"]
    }
    results = [
        part["type"]
        for message in request["messages"]
        if message["role"] == "user"
        for block in message["content"]
        if block["type"] == "tool_result" and isinstance(block["content"], list)
        for part in block["content"]
    ]
    for kind in results:
        yield f"result with {kind}"
    for kind in kinds - {"text"}:
        yield f"sent {kind}"


def _recorded(played: Played) -> Iterator[str]:
    asked: list[str] = []
    for record in played.journal.read(STREAM):
        event = record.event
        yield f"event {tag(event)}"
        if isinstance(event, ModelCallFailed | ModelCallInDoubt):
            yield f"call of the model lost {event.kind}"
        if isinstance(event, ToolCallFailed | ToolCallInDoubt):
            yield f"call of a tool lost {event.kind}"
        if isinstance(event, ToolCallSucceeded):
            if asked and event.call_id < asked[-1] and _turn(event.call_id) == _turn(asked[-1]):
                yield "results out of order"
            asked.append(event.call_id)
            if event.blob:
                yield "results cut short"


def _turn(call_id: str) -> list[str]:
    return call_id.split(".")[:2]


# ── the smallest plan that is still wrong ───────────────────────────────────────────────────────


def smallest(plan: Plan, is_wrong: Callable[[Plan], bool], tries: int = 2_000) -> Plan:
    """Return a plan from which nothing can be left out without its being right."""
    smaller = iter(_smaller(plan))
    for _ in range(tries):
        shorter = next(smaller, None)
        if shorter is None:
            break
        if is_wrong(shorter):
            plan, smaller = shorter, iter(_smaller(shorter))
    return plan


PLAIN: Final[dict[str, Any]] = {
    "fallbacks": (),
    "redacts": False,
    "parameters": {},
    "instructions": "",
    "cache": None,
    "turns": 50,
    "max_tokens": 8192,
}
"""What an agent is like of which there is nothing to be told."""


def _smaller(plan: Plan) -> Iterator[Plan]:
    for name in ("breaks", "sayings", "opening"):
        for fewer in _fewer(getattr(plan, name)):
            yield replace(plan, **{name: fewer})
    for at, said in enumerate(plan.sayings):
        for name in ("faults", "blocks"):
            for fewer in _fewer(getattr(said, name)):
                yield _with(plan, "sayings", at, **{name: fewer})
        if said.extra:
            yield _with(plan, "sayings", at, extra={})
        if said.seconds:
            yield _with(plan, "sayings", at, seconds=0.0)
    for at, broken in enumerate(plan.breaks):
        if broken.message is not None:
            yield _with(plan, "breaks", at, message=None)
        if broken.down_s:
            yield _with(plan, "breaks", at, down_s=0.0)
    for name, value in PLAIN.items():
        if getattr(plan, name) != value:
            yield replace(plan, **{name: value})


def _fewer(items: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    for at in range(len(items)):
        yield items[:at] + items[at + 1 :]


def _with(plan: Plan, name: str, at: int, **changes: Any) -> Plan:
    items = list(getattr(plan, name))
    items[at] = replace(items[at], **changes)
    return replace(plan, **{name: tuple(items)})
