"""The rules that keep a budget, and how each is broken, to see that its tests would notice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from msgspec.structs import replace

from outlast import decide, decide_flow, prices, runner
from outlast.journal import Hold

Patch = Callable[[Any, str, Any], None]
"""`setattr`, or what undoes it later."""


def list_price(patch: Patch) -> None:
    """Hold what a prompt costs that is neither cached nor resident, instead of the dearest."""

    def dearest(model: str, input_tokens_bound: int, _: Any) -> tuple[int, int, int]:
        found = prices.rates(model)
        tier = found.tier(input_tokens_bound)
        return tier.input // found.per, tier.output // found.per, 10

    patch(prices, "_dearest", dearest)


def doubt_is_free(patch: Patch) -> None:
    """Charge nothing for a call whose outcome nobody knows."""
    not_answered, lost_call = runner.not_answered, decide.lost_call

    def unanswered(*args: Any) -> Any:
        event = not_answered(*args)
        return replace(event, cost_nano=0, tokens=0) if hasattr(event, "cost_nano") else event

    def lost(call: Any) -> Any:
        step = lost_call(call)
        return replace(step, events=(replace(step.events[0], cost_nano=0, tokens=0),))

    patch(runner, "not_answered", unanswered)
    patch(decide, "lost_call", lost)
    patch(decide_flow, "lost_call", lost)


def first_scope_only(patch: Patch) -> None:
    """Hold a call in one of the scopes that pay for it."""
    holds = runner.holds

    def first(*args: Any, **more: Any) -> Iterator[Hold]:
        lines = list(holds(*args, **more))
        return (line for line in lines if line.scope == lines[0].scope)

    patch(runner, "holds", first)


def retries_are_free(patch: Patch) -> None:
    """Hold a request once, however often it is sent."""
    holds = runner.holds

    def once(rules: Any, intent: Any, **more: Any) -> Iterator[Hold]:
        return holds(rules, intent, **more) if intent.attempt == 1 else iter(())

    patch(runner, "holds", once)


def each_for_itself(patch: Patch) -> None:
    """Let children pay from no budget of the runs above them."""
    paying = runner.paying
    patch(runner, "paying", lambda budgets, scopes, *_: paying(budgets, scopes, ()))


BROKEN: Final[Mapping[str, Callable[[Patch], None]]] = {
    "dearest price": list_price,
    "in doubt is spent": doubt_is_free,
    "all scopes atomically": first_scope_only,
    "per attempt": retries_are_free,
    "tree": each_for_itself,
}
"""What breaks each rule."""
