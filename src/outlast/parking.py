"""Where a run waits that nobody drives: until when, and for whom.

running ──run_parked──▶ parked, or waiting for a person ──run_woken──▶ running
                          └── approved, denied, cancelled ──▶ queued: to be driven at once
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from outlast.events import Event, RunFinished, RunParked, RunWoken, Turn
from outlast.journal import Record


class Parking(msgspec.Struct, frozen=True):
    """Whether a run is parked."""

    status: str = ""
    """`parked`, `waiting` where it waits for a person, or empty where it is not."""
    until: int = 0
    """When it is to go on, in nanoseconds since the epoch; 0 is once somebody acts."""
    why: str = ""
    turns: dict[str, Turn] = {}
    """The places of calls that were waiting then; see `RunParked.turns`."""

    def due(self, now: int) -> bool:
        """Return whether its time has come."""
        return 0 < self.until <= now


def evolve(parking: Parking, record: Record) -> Parking:
    """Return what `record` makes of it."""
    rule = _RULES.get(type(record.event))
    return parking if rule is None else rule(parking, record.event)


def _parked(_: Parking, event: RunParked) -> Parking:
    status = "waiting" if event.person else "parked"
    return Parking(status, event.until, event.why, event.turns)


def _woken(parking: Parking, _: RunWoken) -> Parking:
    # Whoever has waited for its turn has it now, and need not queue up again.
    return Parking(turns=parking.turns)


def _over(_: Parking, _event: RunFinished) -> Parking:
    return Parking()


_RULES: Final[dict[type[Event], Callable[[Parking, Any], Parking]]] = {
    RunParked: _parked,
    RunWoken: _woken,
    RunFinished: _over,
}
"""What each event makes of it; every other one leaves it as it is."""
