"""Exit codes: what a program that started outlast learns without reading a word.

| code | means |
|---|---|
| 0 | done |
| 1 | the run failed or was rejected, or something broke |
| 2 | wrong usage: nothing was done |
| 3 | stopped by a budget, a switch or a person |
| 4 | integrity broken: the journal is not what was written |
| 5 | not at its end: parked, waiting, paused, or driven by another process |
| 130 | interrupted with Ctrl-C |
| 141 | nobody reads the output any more |
"""

from __future__ import annotations

from typing import Final

from outlast import errors

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
STOPPED: Final = 3
DAMAGED: Final = 4
WAITING: Final = 5
INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141


class Interrupted(errors.OutlastError):
    """A command was interrupted with Ctrl-C; for programs, which are told so with `--json`.

    Attributes:
        run_id: the run it was driving, empty when there was none.

    """

    def __init__(self, message: str = "interrupted with Ctrl-C", *, run_id: str = "") -> None:
        super().__init__(message)
        self.run_id = run_id


_STATUSES: Final = {
    "completed": DONE,
    "failed": FAILED,
    "rejected": FAILED,
    "stopped": STOPPED,
    "cancelled": STOPPED,
}

_ERRORS: Final[tuple[tuple[type[BaseException], int], ...]] = (
    (errors.UsageError, USAGE),
    (errors.RunEnded, USAGE),
    (errors.NotAStore, USAGE),
    (errors.JournalDamaged, DAMAGED),
    (errors.Busy, WAITING),
    (errors.Fenced, WAITING),
    (errors.Conflict, WAITING),
    (Interrupted, INTERRUPTED),
)


def of_status(status: str) -> int:
    """Return the exit code of a command that leaves a run in `status`."""
    return _STATUSES.get(status, WAITING)


def of_error(error: BaseException) -> int:
    """Return the exit code of a command that ended with `error`."""
    return next((code for kind, code in _ERRORS if isinstance(error, kind)), FAILED)
