"""Each rule that keeps a budget, on a fit so tight that without the rule it would be overspent."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from claude_of import dear
from rules import BROKEN

import outlast
from outlast import decide
from outlast.agent import Budget
from outlast.models.script import Fault, faulty, once, say, tool_use, turn_number
from outlast.models.scripted import ScriptedModel

OPUS = "claude-opus-5-5"
BILLED = Fault(kind="status", status=500, billed=True)


def spender(name: str, *tools: Any, nano: int | None = None, model: str = OPUS) -> outlast.Agent:
    """Return an agent every call of which costs nearly what is held for it."""
    return outlast.Agent(
        name,
        model=model,
        tools=tools,
        cache="1h",
        max_tokens=500,
        min_tokens=500,
        budget=Budget(usd=f"{nano / 10**9:.9f}" if nano else None),
    )


def answering(request: dict[str, Any], attempt: int) -> Any:
    """Answer, and let that cost the most."""
    return say("Done.", usage=dear(request))


def delegating(request: dict[str, Any], attempt: int) -> Any:
    """Ask two others first, if there are any."""
    if "tools" in request and turn_number(request) == 1:
        uses = [tool_use("ask_child", {"question": text}) for text in ("One?", "Two?")]
        return say(*uses, usage=dear(request))
    return answering(request, attempt)


failing = faulty(answering, once(1, BILLED))


@dataclass(frozen=True)
class Scene:
    """Runs that want one call more than their budget has room for."""

    script: Any
    play: Callable[[outlast.Outlast, int], None]

    def billed(self, nano: int) -> int:
        """Return what is billed when there is so much to be spent."""
        model = ScriptedModel(self.script)
        with outlast.Outlast("memory://", model=model) as app:
            self.play(app, nano)
        return model.billed_nano


def for_a_tenant(app: outlast.Outlast, nano: int) -> None:
    """Let two runs at once pay from a tenant's budget, and from a wide one."""
    app.set_budget("fleet", usd=1_000, reason="wide")
    app.set_budget("tenant:acme", usd=f"{nano / 10**9:.9f}", reason="tight")

    async def both() -> None:
        runs = (app.arun(spender("one"), "Go.", run_id=f"r{n}", tenant="acme") for n in range(2))
        await asyncio.gather(*runs)

    asyncio.run(both())


def one_after_the_other(app: outlast.Outlast, nano: int) -> None:
    """Let two models be asked once each: what a model cost before tells nothing of the other."""
    app.set_budget("tenant:acme", usd=f"{nano / 10**9:.9f}", reason="tight")
    for model in ("claude-haiku-5-5", OPUS):
        app.run(spender("one", model=model), "Go.", tenant="acme")


def retrying(app: outlast.Outlast, nano: int) -> None:
    """Let one request fail, after it was billed, and be sent again, from a tenant's budget."""
    app.set_budget("tenant:acme", usd=f"{nano / 10**9:.9f}", reason="tight")
    app.run(spender("one"), "Go.", run_id="r", tenant="acme")


def with_children(app: outlast.Outlast, nano: int) -> None:
    """Let a run and two below it pay from what the first one declares."""
    child = spender("child").as_tool()
    app.run(spender("parent", child, nano=nano), "Go.", run_id="r")


SCENES = {
    "dearest price": Scene(answering, one_after_the_other),
    "in doubt is spent": Scene(failing, retrying),
    "all scopes atomically": Scene(answering, for_a_tenant),
    "per attempt": Scene(failing, retrying),
    "tree": Scene(delegating, with_children),
}
PLENTY = 10**12


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decide, "RETRY_NS", 5_000_000)
    monkeypatch.setattr(decide, "BACKOFF_S", (0.001,) * 7)


@pytest.mark.parametrize("rule", BROKEN)
def test_without_any_of_the_rules_a_budget_is_overspent(
    rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A budget that is too small by a nano-dollar holds, and not when the rule is switched off."""
    scene = SCENES[rule]
    needed = scene.billed(PLENTY)
    budget = needed - 1
    assert 0 < scene.billed(budget) <= budget
    BROKEN[rule](monkeypatch.setattr)
    assert scene.billed(budget) > budget


def test_every_rule_has_a_scene() -> None:
    """No rule is without a fit so tight."""
    assert SCENES.keys() == BROKEN.keys()
