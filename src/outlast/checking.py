"""How a check is run: an answer and evidence in, a verdict out, whatever the function does."""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final

import msgspec

from outlast.actions import CheckAnswer
from outlast.agent import Agent
from outlast.answers import InvalidAnswer
from outlast.calls import contained, printable, words
from outlast.checks import MOST_ISSUES, Check, Evidence, Verdict, verdict_of
from outlast.events import Issue, VerdictGiven
from outlast.redaction import Redact, redacted, same, within
from outlast.workshop import Shop

MOST_MADE: Final = 10_000
"""So many issues are made by a check that makes them one by one."""

LONGEST: Final = 4_096
"""Bytes of a value that an issue names; of a longer one the beginning is kept."""


@dataclass(frozen=True)
class _Look:
    """What is run, as `contained` wants it."""

    check: Check[..., Any]
    answer: Any
    evidence: Evidence

    @property
    def timeout_s(self) -> float | None:
        return self.check.timeout_s

    @property
    def is_async(self) -> bool:
        return self.check.is_async

    def function(self) -> Any:
        args, kwargs = self.check.arguments(self.answer, self.evidence)
        came = self.check.function(*args, **kwargs)
        return _later(came) if inspect.isawaitable(came) else _lazy(came)


async def _later(came: Awaitable[Any]) -> Any:
    return _lazy(await came)


def _lazy(came: Any) -> Any:
    """Return what a check found as something that is made where, and while, the check may run."""
    is_there = isinstance(came, str | bytes | dict | list | tuple | set | frozenset)
    return came if is_there or not isinstance(came, Iterable) else islice(came, MOST_MADE)


async def run_check(  # noqa: PLR0913  (what a call needs from outside)
    action: CheckAnswer,
    agent: Agent,
    *,
    run_id: str,
    tenant: str,
    deps: Any,
    redact: Redact = same,
    workshop: Shop | None = None,
) -> VerdictGiven:
    """Call a check and return its verdict; only a cancellation is raised."""
    rule = next((one for one in agent.rules if one.name == action.check), None)
    began = time.monotonic()
    if rule is None:
        found = Verdict.unverified("the agent has no such check any more")
    else:
        evidence = replace(action.evidence, run_id=run_id, tenant=tenant, deps=deps)
        found = await _looked(rule, agent, action, evidence, workshop)
    latency_ms = int((time.monotonic() - began) * 1000)
    try:
        return given(action, rule, found, redact, latency_ms)
    except (Exception, SystemExit) as error:  # noqa: BLE001  (what it found is of its own making)
        told = f"what it returned cannot be written: {type(error).__name__}"
        return given(action, rule, Verdict.unverified(told), redact, latency_ms)


async def _looked(
    rule: Check[..., Any],
    agent: Agent,
    action: CheckAnswer,
    evidence: Evidence,
    workshop: Shop | None,
) -> Verdict:
    try:
        answer = answer_of(agent, action)
    except InvalidAnswer as error:
        return Verdict.unverified(f"the answer cannot be read: {error}")
    return await found_by(rule, answer, evidence, workshop)


async def found_by(
    rule: Check[..., Any], answer: Any, evidence: Evidence, workshop: Shop | None = None
) -> Verdict:
    """Return what a check finds of an answer, whatever its function does.

    Args:
        rule: the check.
        answer: as the check gets it.
        evidence: what there is to check it against.
        workshop: where coroutine functions are called; by default right here.

    """
    try:
        came, raised = await contained(_Look(rule, answer, evidence), {}, workshop)
    except TimeoutError:
        return Verdict.unverified(f"it did not return within {rule.timeout_s:g} s")
    if raised is not None:
        return Verdict.unverified(f"it raised {type(raised).__name__}: {words(raised)}")
    try:
        return verdict_of(rule, came)
    except (Exception, SystemExit) as error:  # noqa: BLE001  (what it returned is its own code)
        return Verdict.unverified(f"what it returned cannot be read: {type(error).__name__}")


def answer_of(agent: Agent, action: CheckAnswer) -> Any:
    """Return an answer as its checks get it.

    Raises:
        InvalidAnswer: it is not of the type that the agent declares.

    """
    if agent.answers is not None and action.typed:
        return agent.answers.read(action.answer)
    return msgspec.json.decode(action.answer)


def given(
    action: CheckAnswer,
    rule: Check[..., Any] | None,
    found: Verdict,
    redact: Redact,
    latency_ms: int,
) -> VerdictGiven:
    """Return a verdict as it is journalled."""
    return VerdictGiven(
        ask_id=action.ask_id,
        call_id=action.answered_by,
        check=action.check,
        kind="rule",
        version=rule.version if rule is not None else "",
        verdict=found.kind,
        issues=kept(found.issues, redact),
        why=printable(redacted(found.why, redact)),
        evidence=[one.seq for one in action.evidence.findings],
        latency_ms=latency_ms,
    )


def kept(issues: Iterable[Issue], redact: Redact) -> list[Issue]:
    """Return issues as they are journalled: what a check says may be anything, of any length."""
    every = [*issues]
    told = [
        Issue(
            _short(redacted(str(one.message), redact)),
            path=_short(redacted(str(one.path), redact)),
            rule=_short(redacted(str(one.rule), redact)),
            got=_value(one.got, redact),
            expected=_value(one.expected, redact),
        )
        for one in every[:MOST_ISSUES]
    ]
    if len(every) > MOST_ISSUES:
        more = Issue(f"and {len(every) - MOST_ISSUES} more issues", rule=told[-1].rule)
        told.append(more)
    return told


def _short(text: str) -> str:
    whole = text.encode("utf-8", "replace")
    return whole.decode() if len(whole) <= LONGEST else whole[:LONGEST].decode("utf-8", "ignore")


def _value(value: Any, redact: Redact) -> Any:
    """Return a value as JSON has it; what cannot be written is told by its words."""
    if value is None:
        return None
    from pydantic_core import to_json  # noqa: PLC0415  (not needed to import outlast)

    try:
        whole = within(to_json(value).decode(), redact)
        if len(whole.encode()) <= LONGEST:
            return msgspec.json.decode(whole)
        return _short(whole)
    except (Exception, SystemExit):  # noqa: BLE001  (an object of the user's own)
        return _short(redacted(type(value).__name__, redact))
