"""What an operator says of a budget, a schedule or an answer, checked before it is written."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from outlast.agent import NAME, dollars
from outlast.errors import InvalidInput, UsageError
from outlast.events import BudgetSet, ScheduleSet
from outlast.limits import check_notify, check_scope, check_window, zone
from outlast.prices import NANO
from outlast.schedules import following

_LEAST = Decimal("1e-9")
_MOST = 10**18


def check_text(what: str, *values: object) -> None:
    """Refuse what is no text: the journal would take it, and could not be read with it any more.

    Raises:
        InvalidInput: one of the values is no string, or cannot be written as UTF-8.

    """
    for value in values:
        if not isinstance(value, str):
            raise InvalidInput(f"{what}: {value!r} is not a string; give its text, such as str(…)")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(f"{what}: {value!r} cannot be written as UTF-8: {error}") from error


def budget_set(  # noqa: PLR0913  (all but one are keywords)
    scope: str,
    *,
    usd: Decimal | float | str | None,
    tokens: int | None,
    calls: int | None,
    turns: int | None,
    window: str,
    tz: str,
    notify: Iterable[int],
    binding: bool,
    reason: str,
    by: str,
) -> BudgetSet:
    """Return what is written of a budget; the arguments are those of `Outlast.set_budget`.

    Raises:
        UsageError: one of them is not what it has to be.

    """
    for what, value in (("scope", scope), ("window", window), ("time zone", tz)):
        check_text(f"the {what} of a budget", value)
    check_text(f"the budget of {scope}: who sets it, and the reason", by, reason)
    check_window(check_scope(scope), window)
    zone(tz)
    if not isinstance(binding, bool):
        raise UsageError(
            f"binding={binding!r} of {scope}: give True, so that calls have to fit, or False, so "
            "that they are only counted"
        )
    if not reason.strip():
        raise UsageError(
            f"the reason for the budget of {scope} is {reason!r}; say in a few words why it is set"
        )
    nano = None if usd is None else _nano(usd)
    counts = {"tokens": tokens, "calls": calls, "turns": turns}
    for name, number in counts.items():
        _check_count(name, number)
    percents = check_notify(notify)
    if nano is None and not any(counts.values()) and (percents or not binding):
        raise UsageError(
            f"at what to warn, and whether calls have to fit, are said with the amount of a "
            f"budget, and none is given for {scope}: give it again, such as usd=10 (on the command "
            "line --usd 10); with nothing at all the budget is taken away"
        )
    return BudgetSet(
        scope=scope,
        window=window,
        tz=tz,
        nano=nano,
        **counts,
        notify=percents,
        binding=binding,
        reason=reason,
        by=by,
    )


def _nano(usd: Decimal | float | str) -> int:
    if (amount := dollars(usd)) < _LEAST:
        raise UsageError(
            f"usd={usd!r}: give an amount of US dollars above 0 and below a billion, such as 0.50, "
            "or leave it out"
        )
    return int(amount * NANO)


def _check_count(name: str, number: object) -> None:
    if number is None:
        return
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number < _MOST:
        raise UsageError(
            f"{name}={number!r}: give a whole number of at least 1, and below 10**18, or leave it "
            "out"
        )


def check_schedule(event: ScheduleSet, *, at: int) -> ScheduleSet:
    """Return a schedule that can be set, or taken away.

    Raises:
        UsageError: its name, its expression or its zone is none, or it names no time after `at`.

    """
    for what, value in (("name", event.name), ("cron", event.cron), ("time zone", event.tz)):
        check_text(f"the {what} of a schedule", value)
    check_text(f"schedule {event.name!r}: who sets it, and the reason", event.by, event.reason)
    if not NAME.fullmatch(event.name):
        raise UsageError(
            f"{event.name!r} is no name of a schedule; give 1 to 128 letters, digits or any of "
            "'._-', beginning with a letter or digit"
        )
    if event.cron and following(event.cron, event.tz, at) is None:
        raise UsageError(
            f"schedule {event.name!r}: no day of the next fifty years is one of {event.cron!r}; "
            "look at its day, month and day of the week"
        )
    return event


def check_label(good: object, attempt: object) -> None:
    """Refuse what is no label of an answer.

    Raises:
        UsageError: `good` is not whether it is good, or `attempt` no number of an answer.

    """
    if not isinstance(good, bool):
        raise UsageError(f"good={good!r}: give True for a good answer, or False for a bad one")
    if attempt is None:
        return
    if isinstance(attempt, bool) or not isinstance(attempt, int) or attempt < 1:
        raise UsageError(f"attempt={attempt!r}: answers are counted from 1")
