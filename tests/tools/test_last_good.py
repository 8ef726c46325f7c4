"""`LastGood`: the last good answer to the same call, and what is none."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

import outlast
from outlast.models.script import tool_use
from outlast.models.scripted import ScriptedModel
from stubs import agent, asking, results

DOWN = object()


class Shop:
    """A store in whose runs Claude asks one tool, which answers what it is told to."""

    def __init__(self) -> None:
        self.topic = "soil"
        self.model = ScriptedModel(self.script)
        self.app = outlast.Outlast("memory://", model=self.model)
        self.says: Any = DOWN

    def script(self, request: dict[str, Any], attempt: int) -> Any:
        return asking(tool_use("find", {"topic": self.topic}))(request, attempt)

    def told(self, *, topic: str = "soil", tenant: str = "", **more: Any) -> dict[str, Any]:
        """Return what Claude is told of a call."""

        @outlast.tool(effect="read", fallbacks=[outlast.LastGood(**more)])
        def find(topic: str) -> Any:
            if self.says is DOWN:
                raise ConnectionResetError("reset")
            return self.says

        self.topic = topic
        run = self.app.run(agent(find), "Go.", tenant=tenant)
        assert run.status == "completed", run.why
        (result,) = results(self.model)
        return result

    def after(self, said: Any, **more: Any) -> dict[str, Any]:
        """Return what Claude is told where the tool answered before, and does no more."""
        self.says = said
        self.told()
        self.says = DOWN
        return self.told(**more)


@pytest.fixture
def shop() -> Iterator[Shop]:
    made = Shop()
    with made.app:
        yield made


@pytest.mark.parametrize("said", ["beans", "[]", ""])
def test_what_was_answered_is_given_again(shop: Shop, said: str) -> None:
    """The answer is the same, also where it was that there is nothing, and says that it is old."""
    mark, *blocks = shop.after(said)["content"]
    assert mark["text"].startswith("[degraded answer: from the last good answer of find, as of 2")
    assert "".join(block["text"] for block in blocks) == said


@pytest.mark.parametrize("other", [{"topic": "water"}, {"tenant": "acme"}])
def test_another_call_has_another_answer(shop: Shop, other: dict[str, str]) -> None:
    """Neither other arguments nor another tenant are answered by it."""
    result = shop.after("beans", **other)
    assert result["is_error"] is True
    assert "beans" not in result["content"]


def test_what_was_less_is_no_good_answer(shop: Shop) -> None:
    """An answer that was degraded itself is not given again; the good one before it is."""
    assert shop.after(outlast.Degraded("peas", source="the mirror"))["is_error"] is True
    shop.after("beans")
    mark, block = shop.after(outlast.Degraded("peas", source="the mirror"))["content"]
    assert "the last good answer" in mark["text"]
    assert block["text"] == "beans"


def test_what_is_too_old_is_not_given(shop: Shop) -> None:
    """Beyond its age an answer is stale, and Claude is told that it is."""
    shop.after("beans")
    time.sleep(0.01)
    result = shop.told(max_age=0.001)
    assert result["is_error"] is True
    assert "(stale)" in result["content"]
    assert "beans" not in result["content"]
    assert "beans" in str(shop.told(max_age="1h")["content"])
