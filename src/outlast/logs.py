"""What the standard library's `logging` is told: where the code is running, and what happened.

Two directions.  `LogContext` puts the run and the seq of the call onto whatever a tool logs, so
that a line of a log leads to its place in the journal.  And the logger `outlast` says in a line
what was written into a journal; the line holds nothing that anybody typed, and nothing that Claude
said.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Final, NamedTuple

from outlast.events import (
    HELD_UP,
    BoundExceeded,
    BudgetPassed,
    Event,
    ModelCallFailed,
    ModelCallInDoubt,
    ModelSwitched,
    RunFinished,
    RunStarted,
    ScheduleFired,
    ToolCallFailed,
    ToolCallInDoubt,
    tag,
)
from outlast.journal import Record

NOTABLE: Final[tuple[type[Event], ...]] = (
    RunStarted,
    RunFinished,
    ModelCallFailed,
    ModelCallInDoubt,
    ToolCallFailed,
    ToolCallInDoubt,
)
"""Events that are logged at `INFO`; every other one is logged at `DEBUG`."""

ALARMS: Final[dict[type[Event], int]] = {
    BudgetPassed: logging.WARNING,
    ModelSwitched: logging.WARNING,
    BoundExceeded: logging.ERROR,
}
"""Events that somebody should look at, and at what level they are logged."""

_LOGGER: Final = logging.getLogger("outlast")
if not _LOGGER.handlers:  # imported again, it would get a second one
    _LOGGER.addHandler(logging.NullHandler())


# ── where the code is running ───────────────────────────────────────────────────────────────────


class Place(NamedTuple):
    """The tool call that code is running for.

    Attributes:
        run_id: the run.
        ask_id: the ask that the call belongs to.
        call_id: this attempt of the call.
        seq: where in the run's journal the intent of the call stands.

    """

    run_id: str = ""
    ask_id: str = ""
    call_id: str = ""
    seq: int = 0


_NOWHERE: Final = Place()
_PLACE: Final[ContextVar[Place]] = ContextVar("outlast_place", default=_NOWHERE)


def place() -> Place:
    """Return the tool call that the caller is running for; outside of one, an empty place."""
    return _PLACE.get()


@contextmanager
def placed(here: Place) -> Iterator[None]:
    """Let the code inside, and the threads and tasks it starts, know that it runs for `here`."""
    token = _PLACE.set(here)
    try:
        yield
    finally:
        # A coroutine that nobody finished is dropped in whatever context the collector runs in.
        with suppress(ValueError):
            _PLACE.reset(token)


class LogContext(logging.Filter):
    """A filter that passes every log record, and says on it which run it was made for.

    A record made inside a tool gets `run_id`, and as `seq` the place of the call's intent in the
    run's journal, as `outlast log RUN` lists it; any other gets an empty `run_id` and 0.  A record
    that has these attributes keeps them, as those of the logger `outlast` do.

    Add it to a handler, not to a logger: a logger's filters see only what is logged on itself.
    Where a queue hands records to another thread, add it to the `QueueHandler`.

        handler = logging.StreamHandler()
        handler.addFilter(outlast.LogContext())
        handler.setFormatter(logging.Formatter("%(run_id)s#%(seq)d %(message)s"))
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Put the attributes onto `record`, and return that it passes."""
        here = _PLACE.get()
        record.__dict__.setdefault("run_id", here.run_id)
        record.__dict__.setdefault("seq", here.seq)
        return True


# ── what happened ───────────────────────────────────────────────────────────────────────────────


def wanted() -> bool:
    """Return whether anybody listens to the logger `outlast` at all, at `DEBUG` or `INFO`."""
    return _LOGGER.isEnabledFor(logging.INFO)


def tell(records: Iterable[Record]) -> None:
    """Log each record in a line: the run, the seq, the event, and what outlives an erasure of it.

    Every line carries `run_id` and `seq` as attributes of its log record.
    """
    all_of_them = wanted()
    for record in records:
        if all_of_them or _level(record.event) >= logging.WARNING:
            _tell(record)


def _level(event: Event) -> int:
    if isinstance(event, ScheduleFired) and event.error:
        return logging.WARNING
    if isinstance(event, ModelCallFailed) and event.kind in HELD_UP:
        return logging.WARNING
    usual = logging.INFO if isinstance(event, NOTABLE) else logging.DEBUG
    return ALARMS.get(type(event), usual)


def _tell(record: Record) -> None:
    event = record.event
    level = _level(event)
    if not _LOGGER.isEnabledFor(level):
        return
    run_id = record.stream.removeprefix("run:")
    facts = "".join(f" {name}={getattr(event, name)}" for name in event.kept)
    _LOGGER.log(
        level,
        "run %s seq %d %s%s",
        run_id,
        record.seq,
        tag(event),
        facts,
        extra={"run_id": run_id, "seq": record.seq},
    )
