"""The phases of a flow: which there are, and which may follow which.

    (begin) ──▶ first ──▶ … ──▶ COMPLETE
                  └───────────▶ FAILED        from every phase, whatever is declared

A list of phases is a path: each may be followed by the next.  A mapping says it for each.  `FAILED`
and `COMPLETE` are entered by the run itself when it ends, so nobody can declare or enter them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from outlast.errors import IllegalPhase, InvalidFlow
from outlast.events import PhaseEntered, RunFinished
from outlast.journal import Record

COMPLETE: Final = "COMPLETE"
FAILED: Final = "FAILED"
ENDS: Final = frozenset({COMPLETE, FAILED})

_ENDED: Final = {"completed": COMPLETE, "failed": FAILED}
"""The phase that a run ends in; a run that was stopped or cancelled stays in the one it is in."""


class Phases(msgspec.Struct, frozen=True):
    """Which phases a run went through, and when it entered each, in nanoseconds since the epoch."""

    entered: tuple[tuple[str, int], ...] = ()

    @property
    def now(self) -> str:
        """The phase the run is in; empty before the first."""
        return self.entered[-1][0] if self.entered else ""


def evolve(phases: Phases, record: Record) -> Phases:
    """Return what `record` makes of the phases."""
    match record.event:
        case PhaseEntered() as event:
            return Phases((*phases.entered, (event.phase, record.at)))
        case RunFinished() as event if phases.entered and event.status in _ENDED:
            return Phases((*phases.entered, (_ENDED[event.status], record.at)))
    return phases


def table(declared: Sequence[str] | Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return which phases may follow each, the first one first.

    Raises:
        InvalidFlow: a name is none, or names a phase that does not exist.

    """
    if isinstance(declared, str):
        raise InvalidFlow(f"phases={declared!r} is one string; give a list of names, or a mapping")
    names = list(declared)
    following = (
        {name: list(after) for name, after in declared.items()}
        if isinstance(declared, Mapping)
        else dict(zip(names, [[name] for name in names[1:]] + [[]], strict=True))
    )
    for name in [*names, *(after for many in following.values() for after in many)]:
        _check(name, following)
    if len(following) != len(names):
        raise InvalidFlow(f"phases={names!r} names a phase twice; give a mapping for a way back")
    return following


def _check(name: object, following: Mapping[str, Sequence[str]]) -> None:
    if not isinstance(name, str) or not name.strip():
        raise InvalidFlow(f"a phase is called {name!r}; give it a name")
    if name in ENDS:
        raise InvalidFlow(f"the phase {name!r} is entered by the run itself; leave it out")
    if name not in following:
        raise InvalidFlow(
            f"the phase {name!r} may be entered, but the flow has only {', '.join(following)}"
        )


def legal(following: Mapping[str, Sequence[str]], now: str) -> list[str]:
    """Return the phases that may be entered from `now`; from none, the first."""
    return list(following.get(now, ())) if now else list(following)[:1]


def check_entry(following: Mapping[str, Sequence[str]], now: str, wanted: str) -> None:
    """Refuse a transition that was not declared.

    Raises:
        IllegalPhase: `wanted` may not follow `now`; the legal ones are listed.

    """
    allowed = legal(following, now)
    if wanted not in allowed:
        raise IllegalPhase(now=now, wanted=wanted, legal=(*allowed, COMPLETE, FAILED))
