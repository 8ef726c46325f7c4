"""What docs/checks.md shows works."""

import re
from pathlib import Path
from typing import Any, get_args

import msgspec

import outlast
from outlast.decide_answer import LOOKS
from outlast.events import OnUnjudged
from outlast.models.script import Turn, say, tool_use, turn_number
from outlast.models.scripted import ScriptedModel

PAGE = (Path(__file__).parents[1] / "docs" / "checks.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
TRUE = {"name": "Ladder", "funder": "Rowan Trust", "max_usd": 72_000, "eligibility": "charities"}


def claude(request: dict[str, Any], attempt: int) -> Turn:
    """Answer with nothing, with an amount that nobody said, and then with what the tool said."""
    said = str(request["messages"])
    if "You judge an answer" in str(request.get("system")):
        return say('{"issues":[],"valid":true,"confidence":0.8,"suggestion":""}')
    if turn_number(request) == 1:
        return say(tool_use("search_grants", {"keyword": "AI"}))
    answers = [[], [TRUE | {"max_usd": 72}], [TRUE]]
    return say(msgspec.json.encode({"answer": answers[said.count("is not accepted")]}).decode())


def given() -> dict[str, Any]:
    names: dict[str, Any] = {"outlast": outlast, "__name__": "page"}
    for block in BLOCKS:
        exec(block, names)  # noqa: S102  (our own page)
    return names


def test_the_example_does_what_the_page_says() -> None:
    """An empty list and a wrong amount are rejected, and what the tool said is the answer."""
    names = given()
    with outlast.Outlast("memory://", model=ScriptedModel(claude)) as app:
        run = app.run(names["researcher"], "Find grants.", run_id="r")
    assert run.status == "completed", run.why
    assert run.answer == [names["Grant"](**TRUE)]
    empty, wrong = run.rejected_answers
    assert empty.answer == []
    assert [one.got for one in wrong.issues] == [72]
    assert run.turns == 1 + 3 + 1


def test_the_defaults_are_those_of_the_code() -> None:
    """Every number and every word that the page names as a default is one."""
    agent = outlast.Agent("a", model="claude-opus-5-5")
    judge = outlast.Judge("Is it right?")
    check = outlast.check(lambda answer: [])
    assert f"answer_attempts={agent.answer_attempts}" in PAGE
    assert f'answer_expires="{agent.answer_expires}"' in PAGE
    assert (agent.retry, agent.last_resort) == ("repair", "reject")
    assert (judge.on_unjudged, check.on_unverified) == ("reject", "reject")
    assert f"attempts={judge.attempts}" in PAGE
    assert f"`timeout_s={check.timeout_s:g}`" in PAGE
    assert LOOKS == 5
    assert " | ".join(f'"{one}"' for one in get_args(OnUnjudged)) in PAGE
    assert judge.model_for("claude-haiku-5-5") == "claude-sonnet-5-5"
