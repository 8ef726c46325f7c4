"""`outlast budget set` and `outlast budget show`: who may spend how much."""

from __future__ import annotations

import sys
import time
from typing import Any

from outlast.app import Outlast
from outlast.cli import exits, shapes, words
from outlast.cli.screen import columns, screen
from outlast.cli.stores import opened
from outlast.errors import UsageError
from outlast.journal import Journal
from outlast.limits import STREAM, Budgets, Rule, fold, rolling, since, window_key


def set_budget(store: str, scope: str, *, notify: str, as_json: bool, **given: Any) -> int:
    """Give a scope a budget, or take it away, and return the exit code."""
    given["notify"] = _percents(notify) or ([] if given["binding"] else [100])
    with Outlast("memory://") as nowhere:
        nowhere.set_budget(scope, **given)  # so that what cannot be set leaves no store behind
    with opened(store, create=True) as journal:
        Outlast(journal).set_budget(scope, **given)
        rules = _rules(_budgets(journal))
        if as_json:
            listed = [_shape(journal, rule) for rule in rules if rule.scope == scope]
            sys.stdout.write(shapes.encode(listed).decode() + "\n")
            return exits.DONE
    on = screen()
    is_set = any(given[name] is not None for name in ("usd", "tokens", "calls", "turns"))
    told = "has this budget from now on" if is_set else "has no such budget any more"
    more = "a run that it stopped goes on with `resume`."
    if is_set and not given["binding"]:
        told, more = "is watched from now on", "nothing is refused for it."
    on.line((scope, "strong"), (f" {told}; {more}", ""))
    on.line(("Next: outlast budget show", "quiet"))
    return exits.DONE


def _percents(notify: str) -> list[int]:
    try:
        return [int(each.strip().removesuffix("%")) for each in notify.split(",") if each.strip()]
    except ValueError as error:
        raise UsageError(f"--notify {notify}: give percentages, such as 50,80") from error


def show_budgets(store: str, *, as_json: bool) -> int:
    """Print every budget and what is used of it, and return the exit code."""
    with opened(store) as journal:
        budgets = _budgets(journal)
        shown = [_shape(journal, rule) for rule in _rules(budgets)]
    if as_json:
        sys.stdout.write(shapes.encode([*shown, *_factors(budgets)]).decode() + "\n")
        return exits.DONE
    on = screen()
    for factor in _factors(budgets):
        more = words.times(factor["bound_percent"])
        told = f" calls hold {more} their bound: prompts were longer than their bytes allow."
        on.line((factor["scope"], "strong"), (told, "bad"))
    if not shown:
        on.line((f"No budget is set in {store}; agents have those they declare.", ""))
        on.line(("Next: outlast budget set fleet --usd 100 --window month --reason …", "quiet"))
        return exits.DONE
    heads = ("SCOPE", "WINDOW", "UNIT", "LIMIT", "USED", "IN DOUBT", "HELD", "", "")
    table = [[(head, "quiet") for head in heads]]
    for rule in shown:
        for unit, amount in rule["amounts"].items():
            table.append(_line(rule, unit, amount))
    columns(on, table, right=range(3, 7))
    on.line((f"Next: outlast costs --by {'tenant' if len(shown) > 1 else 'agent'}", "quiet"))
    return exits.DONE


def _line(rule: dict[str, Any], unit: str, amount: dict[str, int]) -> list[words.Part]:
    def said(number: int) -> str:
        return words.money(number) if unit == "nano" else f"{number:,}"

    used = (amount["settled"] + amount["in_doubt"] + amount["held"]) / max(1, amount["limit"])
    bar = "█" * min(10, round(used * 10))
    return [
        (rule["scope"], "strong"),
        (rule["account"], ""),
        ({"nano": "usd"}.get(unit, unit), ""),
        (said(amount["limit"]), "money"),
        (said(amount["settled"]), ""),
        (said(amount["in_doubt"]) if amount["in_doubt"] else "", "doubt"),
        (said(amount["held"]) if amount["held"] else "", ""),
        (f"{bar:░<10} {used:.0%}", "bad" if used >= 1 else "good"),
        (_notes(rule, used), "quiet"),
    ]


def _notes(rule: dict[str, Any], used: float) -> str:
    told = [f"{percent} %" for percent in rule["notify"] if used * 100 >= percent]
    notes = [] if rule["binding"] else ["only watched"]
    return ", ".join([*notes, *([f"past {told[-1]}"] if told else [])])


def _budgets(journal: Journal) -> Budgets:
    return fold(journal.read(STREAM), Budgets())


def _rules(budgets: Budgets) -> list[Rule]:
    return [budgets.rules[key] for key in sorted(budgets.rules)]


def _factors(budgets: Budgets) -> list[dict[str, Any]]:
    return [
        {"scope": f"model:{model}", "bound_percent": percent}
        for model, percent in sorted(budgets.factors.items())
    ]


def _shape(journal: Journal, rule: Rule) -> dict[str, Any]:
    account = window_key(rule, time.time_ns())
    amounts = {}
    for unit, limit in rule.amounts.items():
        first = since(rule, time.time_ns())
        balance = journal.balance(rule.scope, window=account, unit=unit, since=first)
        amounts[unit] = {
            "limit": limit,
            "settled": balance.settled,
            "in_doubt": balance.in_doubt,
            "held": balance.held,
        }
    return {
        "scope": rule.scope,
        "window": rule.window,
        "tz": rule.tz,
        "account": rule.window if rolling(rule.window) else account,
        "notify": list(rule.notify),
        "binding": rule.binding,
        "limit_usd": None if rule.nano is None else shapes.dollars(rule.nano),
        "amounts": amounts,
    }
