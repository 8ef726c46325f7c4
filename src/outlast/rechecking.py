"""Runs checks over answers that were given before, offline: what would they have said?

| a check | what it says of a past answer |
|---|---|
| a function | what it returns now, of the answer and what tools had returned by then |
| a judge that was asked of that answer, by name and version | what it said then |
| any other judge | nothing: it is not asked |

No model is called and nothing is written; a check itself may do whatever its function does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Literal, Protocol, TypeAlias, runtime_checkable

import msgspec

from outlast.answers import InvalidAnswer
from outlast.checking import found_by
from outlast.checks import Check, Evidence
from outlast.events import Issue, OnUnjudged
from outlast.findings import Past

Says: TypeAlias = Literal["accepted", "degraded", "escalated", "rejected", "judge not asked"]
"""What new checks make of an answer, the mildest first."""

_ORDER: Final[tuple[Says, ...]] = (
    "accepted",
    "degraded",
    "judge not asked",
    "escalated",
    "rejected",
)
"""Of several checks the last one counts: what one rejects no judge would save."""

_UNSURE: Final[dict[OnUnjudged, Says]] = {
    "accept": "degraded",
    "escalate": "escalated",
    "reject": "rejected",
}

Parse: TypeAlias = Callable[[Past], Any]
"""Returns a past answer as checks get it; raises what says that it is none."""


def plain(past: Past) -> Any:
    """Return an answer as the JSON that it is."""
    return msgspec.json.decode(past.answer)


@runtime_checkable
class Judging(Protocol):
    """A judge, as far as it is known here."""

    @property
    def name(self) -> str:
        """What its verdicts are called by."""
        ...

    @property
    def version(self) -> str:
        """What changes with its prompt."""
        ...

    @property
    def on_unjudged(self) -> OnUnjudged:
        """What happens to an answer of which it cannot tell."""
        ...


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """What one check says of one answer."""

    check: str
    verdict: str
    issues: tuple[Issue, ...] = ()
    why: str = ""
    says: Says


class Rechecked(msgspec.Struct, frozen=True, kw_only=True):
    """What new checks say of a past answer."""

    past: Past
    says: Says
    said: tuple[Said, ...]

    @property
    def changed(self) -> bool:
        """Whether another thing would have become of it; nobody can tell of one not asked about."""
        if self.says == "judge not asked":
            return False
        was = "accepted" if self.past.became == "not checked" else self.past.became
        return was not in ("open", self.says)


def recheck(
    past: Iterable[Past],
    checks: Sequence[Check[..., Any] | Judging],
    *,
    parse: Parse = plain,
    deps: Any = None,
    tenants: Callable[[str], str] = lambda _: "",
) -> list[Rechecked]:
    """Return what checks say of past answers, in their order.

    Args:
        past: the answers, with what there was to check them against.
        checks: functions and judges; judges are not asked.
        parse: makes an answer what checks get.
        deps: what checks find in `Evidence.deps`.
        tenants: for whom a run is.

    """
    return asyncio.run(_rechecked(past, checks, parse, deps, tenants))


async def _rechecked(
    past: Iterable[Past],
    checks: Sequence[Check[..., Any] | Judging],
    parse: Parse,
    deps: Any,
    tenants: Callable[[str], str],
) -> list[Rechecked]:
    found = []
    for one in past:
        evidence = Evidence(
            task=one.task,
            findings=one.findings,
            attempt=one.attempt,
            run_id=one.run_id,
            tenant=tenants(one.run_id),
            deps=deps,
        )
        found.append(await _recheck(one, checks, parse, evidence))
    return found


async def _recheck(
    past: Past, checks: Sequence[Check[..., Any] | Judging], parse: Parse, evidence: Evidence
) -> Rechecked:
    try:
        answer = parse(past)
    except Exception as error:  # noqa: BLE001  (whatever it raises, it is no such answer)
        plain = [Issue(" ".join(str(error).split()), rule="schema")]
        issues = error.issues if isinstance(error, InvalidAnswer) else plain
        said = Said(check="schema", verdict="fixable", issues=tuple(issues), says="rejected")
        return Rechecked(past=past, says="rejected", said=(said,))
    every = [
        await _run(one, answer, evidence) if isinstance(one, Check) else _judged(one, past)
        for one in checks
    ]
    worst: Says = max((one.says for one in every), key=_ORDER.index, default="accepted")
    return Rechecked(past=past, says=worst, said=tuple(every))


async def _run(check: Check[..., Any], answer: Any, evidence: Evidence) -> Said:
    verdict = await found_by(check, answer, evidence)
    return Said(
        check=check.name,
        verdict=verdict.kind,
        issues=verdict.issues,
        why=verdict.why,
        says=_says(verdict.kind, check.on_unverified),
    )


def _judged(judge: Judging, past: Past) -> Said:
    """Return what a judge said of an answer then; it is not asked again."""
    for then in reversed(past.verdicts):
        if (then.check, then.version, then.kind) == (judge.name, judge.version, "judge"):
            return Said(
                check=judge.name,
                verdict=then.verdict,
                issues=tuple(then.issues),
                why=then.why,
                says=_says(then.verdict, judge.on_unjudged),
            )
    why = "no call is made, and it was not asked about this answer"
    return Said(check=judge.name, verdict="", why=why, says="judge not asked")


def _says(verdict: str, on_unsure: OnUnjudged) -> Says:
    match verdict:
        case "passed":
            return "accepted"
        case "needs_person":
            return "escalated"
        case "unverified":
            return _UNSURE[on_unsure]
    return "rejected"
