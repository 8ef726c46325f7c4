"""Standard output, kept for JSON: what agents and their tools print goes to standard error.

A program that reads `--json` gets one document, whatever a tool prints: by `print`, by the file
descriptor, or by a process that it starts.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Final, ParamSpec, TextIO, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_OUT: Final[list[TextIO]] = []
_STDOUT: Final = 1
_STDERR: Final = 2


def out() -> TextIO:
    """Return where our own JSON goes."""
    return _OUT[-1] if _OUT else sys.stdout


def alone(command: Callable[P, R]) -> Callable[P, R]:
    """Return a command that runs code of the user's, whose `as_json` keeps standard output."""

    @wraps(command)
    def kept(*args: P.args, **kwargs: P.kwargs) -> R:
        if not kwargs["as_json"]:
            return command(*args, **kwargs)
        with aside():
            return command(*args, **kwargs)

    return kept


@contextmanager
def aside() -> Iterator[None]:
    """Let what is printed go to standard error; `out` is what standard output was.

    In a process of our own that stays so, because a thread of a tool that was given up may print
    until the very end.
    """
    ours = sys.stdout
    ours.flush()
    is_own = _number(ours) == _STDOUT
    _OUT.append(_moved(ours) if is_own else ours)
    sys.stdout = sys.stderr
    stays = False
    try:
        yield
        out().flush()
        stays = is_own
    finally:
        if not stays:
            _put_back(ours, _OUT.pop())


def _moved(ours: TextIO) -> TextIO:
    """Return standard output under another descriptor; its own is standard error from now on."""
    kept = os.fdopen(os.dup(_STDOUT), "w", encoding=ours.encoding, errors=ours.errors)
    try:
        os.dup2(_STDERR, _STDOUT)
    except OSError:  # it is closed, so nobody wants to read what is printed
        os.dup2(os.open(os.devnull, os.O_WRONLY), _STDOUT)
    return kept


def _put_back(ours: TextIO, kept: TextIO) -> None:
    sys.stdout = ours
    if kept is ours:
        return
    os.dup2(kept.fileno(), _STDOUT)
    with suppress(OSError):  # nobody reads it any more
        kept.close()


def _number(stream: TextIO) -> int:
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return -1
