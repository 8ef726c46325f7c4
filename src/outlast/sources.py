"""Where an answer is from when it is not the tool's own, and in what it is less than that.

Degraded    an answer that is older, or less exact, than what was asked for, and says so
LastGood    what the same call brought last time, if that is not too old
Reconciled  what became of a call in doubt, as a function of the tool's found out
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Generic, TypeVar

from outlast.durations import expiry
from outlast.errors import InvalidTool, UsageError
from outlast.events import Degradation, Effect

T = TypeVar("T")


@dataclass(frozen=True)
class Degraded(Generic[T]):
    """An answer that is less than what was asked for.

    A tool, a fallback or a step may return it.  Claude is told of it before the answer itself, and
    the run says that it is degraded.

    Attributes:
        value: the answer.
        source: where it is from; by default the name of the function that gave it.
        as_of: when it was true, aware of its time zone; `None` is not known, and told so.
        note: what else is to be known of it.
        dropped_filters: the arguments that were given and not heeded.

    Raises:
        InvalidTool: a field is not what it has to be.

    """

    value: T
    source: str = ""
    as_of: datetime | None = None
    note: str = ""
    dropped_filters: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Refuse what would not be told rightly."""
        for name in ("source", "note"):
            if not isinstance(getattr(self, name), str):
                raise InvalidTool(f"Degraded({name}={getattr(self, name)!r}): give a text")
        if self.as_of is not None and (
            not isinstance(self.as_of, datetime) or self.as_of.tzinfo is None
        ):
            raise InvalidTool(
                f"Degraded(as_of={self.as_of!r}): give a datetime with a time zone, such as "
                "datetime.now(UTC), or None where it is not known"
            )
        try:
            _nanoseconds(self.as_of)
        except (ValueError, OverflowError) as error:
            raise InvalidTool(
                f"Degraded(as_of={self.as_of!r}): give a time between the years 1678 and 2261"
            ) from error
        dropped = self.dropped_filters
        names = () if isinstance(dropped, str) else tuple(dropped)  # once: it may be a generator
        if isinstance(dropped, str) or not all(isinstance(one, str) for one in names):
            raise InvalidTool(f"Degraded(dropped_filters={dropped!r}): give a list of names")
        object.__setattr__(self, "dropped_filters", names)


@dataclass(frozen=True, kw_only=True)
class LastGood:
    """A fallback: the last good answer to the same call, of any run of the store and tenant.

    It is found in the journal by the tool's name and its arguments.  Answers that were degraded
    themselves are not good ones.

    Attributes:
        max_age: how old it may be, as seconds, a `timedelta` or such as `"6h"`; `None`, the
            default, is for ever.  One that is older counts as `stale`, and is not given.

    """

    max_age: float | str | timedelta | None = None

    name: str = "last_good"
    effect: Effect = "read"
    attempts: int = 1
    source: str = ""
    retry_on: frozenset[str] = frozenset()

    @property
    def max_age_ns(self) -> int:
        """The same in nanoseconds; 0 is for ever."""
        try:
            return expiry(self.max_age)
        except UsageError as error:
            raise InvalidTool(f"LastGood(max_age={self.max_age!r}): {error}") from error


@dataclass(frozen=True, kw_only=True)
class Reconciled:
    """What became of a call in doubt.

    Attributes:
        happened: whether it did; `None` where that cannot be told, so a person is asked.
        result: what the call would have returned; `None` where that is lost.
        note: what else Claude should know.

    """

    happened: bool | None
    result: Any = None
    note: str = ""


def degradation(answer: Degraded[Any], source: str, dropped: Sequence[str]) -> Degradation:
    """Return what is written of an answer that is less than what was asked for."""
    names = dict.fromkeys((*dropped, *answer.dropped_filters))
    as_of = _nanoseconds(answer.as_of)
    return Degradation(
        source=answer.source or source, as_of=as_of, note=answer.note, dropped=tuple(names)
    )


def _nanoseconds(as_of: datetime | None) -> int:
    """Return a time as it is written, 0 where there is none.

    Raises:
        ValueError, OverflowError: it cannot be written.

    """
    at = 0 if as_of is None else int(as_of.timestamp() * NS)
    if abs(at) >= MOST_NS:
        raise OverflowError(f"{at} ns do not fit into 64 bits")
    return at


def told(degraded: Degradation) -> str:
    """Return what Claude is told of an answer that is less than what was asked for."""
    as_of = "at a time that is not known"
    if degraded.as_of:
        as_of = datetime.fromtimestamp(degraded.as_of // NS, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        as_of = f"as of {as_of}"
    parts = [f"[degraded answer: from {degraded.source}, {as_of}"]
    if degraded.dropped:
        parts.append(f"not filtered by {', '.join(degraded.dropped)}")
    if degraded.note:
        parts.append(degraded.note)
    return "; ".join(parts) + ". Say so in whatever you make of it.]"


NS: Final = 1_000_000_000
MOST_NS: Final = 1 << 63
