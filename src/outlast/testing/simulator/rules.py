"""A script as a list of rules in a YAML file, for those who would rather not write a function.

The first rule that fits says what Claude does: it answers, or with `fault` an attempt fails.  The
page about the simulator shows one; the two structures below are all there is.
"""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import msgspec

from outlast.errors import UsageError
from outlast.models import faults
from outlast.models.script import (
    Block,
    Fault,
    Script,
    Turn,
    compaction,
    last_text,
    refuse,
    say,
    text,
    text_of,
    thinking,
    tool_results,
    tool_use,
    turn_number,
)


class When(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a request must be like; everything given must hold.

    Attributes:
        turn: the number of the turn that is asked for, from 1, or some of them.
        attempt: how often this very request came, from 1; for faults only, and there 1 by default.
        heard: what the last text of the user contains, in whatever case.
        system: what the system prompt contains, likewise.
        result: what the results of tools in the last message contain, likewise.
        called: a tool that has a result in the last message.
        model: the model that is asked.

    """

    turn: int | list[int] | None = None
    attempt: int | list[int] | None = None
    heard: str | None = None
    system: str | None = None
    result: str | None = None
    called: str | None = None
    model: str | None = None


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What happens to a request that fits; `fault` stands alone, the others add up to one reply.

    Attributes:
        when: which requests it is for; by default all.
        think: a block of thinking.
        say: a text or several, or blocks as the API writes them.  `{heard}`, `{results}` and
            `{turn}` in a text stand for what the request holds.
        call: the tools that are called, each with its input.
        refuse: the category of a refusal.
        compact: the summary of a compaction.
        fault: the name of a fault, or a name and its arguments.
        stop_reason, usage, extra, first_token_s, total_s: see `models.script.Turn`.

    """

    when: When = When()
    think: str | None = None
    say: str | list[str | dict[str, Any]] = []
    call: dict[str, dict[str, Any] | None] | list[dict[str, dict[str, Any] | None]] = []
    refuse: str | None = None
    compact: str | None = None
    fault: str | dict[str, dict[str, Any] | None] | None = None
    stop_reason: str | None = "auto"
    usage: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    first_token_s: float = 0.0
    total_s: float = 0.0


def read(path: Path) -> Script:
    """Return the script that a YAML file spells out.

    Raises:
        UsageError: it cannot be read, or is not a list of rules, and which one is wrong.

    """
    try:
        rules = msgspec.yaml.decode(path.read_bytes(), type=list[Rule])
    except OSError as error:
        raise UsageError(f"cannot read the rules of {path}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise UsageError(f"{path} is not a list of rules: {error}") from error
    broken = [_fault(rule, f"rule {number} of {path}") for number, rule in enumerate(rules, 1)]

    def script(request: dict[str, Any], attempt: int) -> Turn | Fault:
        for rule, fault in zip(rules, broken, strict=True):
            if fault and attempt and _is_attempt(rule.when, attempt) and _fits(rule.when, request):
                return fault
            if not fault and _fits(rule.when, request):
                return _turn(rule, request)
        heard = last_text(request)[:100]
        raise LookupError(f"no rule of {path} fits turn {turn_number(request)}, after {heard!r}")

    return script


def _fault(rule: Rule, place: str) -> Fault | None:
    if rule.fault is None:
        if rule.when.attempt is not None:
            raise UsageError(f"{place}: `attempt` is for faults only; what is said never changes")
        return None
    named = {rule.fault: None} if isinstance(rule.fault, str) else rule.fault
    if len(named) != 1:
        raise UsageError(f"{place}: give one fault, not {len(named)}")
    ((name, arguments),) = named.items()
    if name not in faults.__all__:
        raise UsageError(f"{place}: no fault {name!r}; there are {', '.join(faults.__all__)}")
    make = getattr(faults, name)
    try:
        fault: Fault = make(**(arguments or {}))
    except TypeError as error:
        raise UsageError(f"{place}: {name}{signature(make)} was given {arguments}") from error
    return fault


def _is_attempt(when: When, attempt: int) -> bool:
    return attempt in _listed(1 if when.attempt is None else when.attempt)


def _fits(when: When, request: dict[str, Any]) -> bool:
    results = tool_results(request)
    asked = [
        when.turn is None or turn_number(request) in _listed(when.turn),
        when.model in (None, request["model"]),
        _is_in(when.heard, last_text(request)),
        _is_in(when.system, text_of(request.get("system"))),
        _is_in(when.result, _told(results)),
        when.called is None or when.called in _called(request, results),
    ]
    return all(asked)


def _listed(numbers: int | list[int]) -> list[int]:
    return numbers if isinstance(numbers, list) else [numbers]


def _is_in(part: str | None, whole: str) -> bool:
    return part is None or part.lower() in whole.lower()


def _told(results: Sequence[Block]) -> str:
    return ", ".join(text_of(result.get("content")) for result in results)


def _called(request: dict[str, Any], results: Sequence[Block]) -> set[str]:
    answered = {result["tool_use_id"] for result in results}
    before = request["messages"][-2]["content"] if answered else []
    return {block["name"] for block in before if block.get("id") in answered}


def _turn(rule: Rule, request: dict[str, Any]) -> Turn:
    blocks = [thinking(_filled(rule.think, request))] if rule.think is not None else []
    blocks += [compaction(rule.compact)] if rule.compact is not None else []
    for part in [rule.say] if isinstance(rule.say, str) else rule.say:
        blocks.append(text(_filled(part, request)) if isinstance(part, str) else part)
    for calls in [rule.call] if isinstance(rule.call, dict) else rule.call:
        blocks += [tool_use(name, given or {}) for name, given in calls.items()]
    if rule.refuse is not None:
        return refuse(*blocks, category=rule.refuse or None)
    return say(
        *blocks,
        stop_reason=rule.stop_reason,
        usage=rule.usage,
        extra=rule.extra,
        first_token_s=rule.first_token_s,
        total_s=rule.total_s,
    )


def _filled(said: str, request: dict[str, Any]) -> str:
    # Not `format`: a text may be JSON, and nothing but these three is meant.
    return (
        said.replace("{heard}", last_text(request))
        .replace("{results}", _told(tool_results(request)))
        .replace("{turn}", str(turn_number(request)))
    )
