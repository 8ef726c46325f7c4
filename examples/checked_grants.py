"""Grants that are checked before anyone believes them.

    $ python examples/checked_grants.py dementia
    $ outlast log checked-dementia --store sqlite:///checked_grants.db
    $ outlast judge report --store sqlite:///checked_grants.db

Kill it whenever you like and run it again: nothing is asked, checked or judged twice.  Without
ANTHROPIC_API_KEY a scripted Claude answers, and hallucinates: first an amount, then a funder.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import msgspec
from pydantic import BaseModel

import outlast
from outlast.demo import grants
from outlast.models.script import Turn, say, text_of, tool_results, tool_use
from outlast.models.scripted import ScriptedModel
from outlast.validators import grounded_in_tools, no_duplicates, not_empty

STORE = os.environ.get("OUTLAST_STORE", "sqlite:///checked_grants.db")


class Found(BaseModel):
    """A grant as the answer names it."""

    recipient: str
    funder: str
    amount_gbp: int


@outlast.tool(effect="read", timeout_s=10)
def search_grants(keyword: str, limit: int = 3) -> list[grants.Grant]:
    """Search grants that UK foundations made, the best match first."""
    return grants.search(keyword, 1_000_000, limit)


@outlast.check
def gives_something(answer: list[Found]) -> list[outlast.Issue]:
    """Every grant has an amount."""
    return [
        outlast.Issue("a grant of nothing is none", path=f"[{number}].amount_gbp")
        for number, grant in enumerate(answer)
        if grant.amount_gbp <= 0
    ]


researcher = outlast.Agent(
    "careful-researcher",
    model="claude-opus-5-5",
    instructions="You are a grant researcher. Name only grants you found with the tools.",
    tools=[search_grants],
    answer=list[Found],
    checks=[
        not_empty,
        no_duplicates(key="recipient"),
        grounded_in_tools,
        gives_something,
        outlast.Judge("Do the grants fit the task?"),
    ],
    last_resort="escalate",
    budget=outlast.Budget(usd=0.50, turns=12),
)


def main(topic: str) -> None:
    """Ask for grants, and say what was rejected on the way."""
    with outlast.Outlast(STORE, model=claude()) as app:
        run = app.run(researcher, f"Find grants for {topic}.", run_id=f"checked-{topic}")
        for rejected in run.rejected_answers:
            for issue in rejected.issues:
                print(f"✗ answer {rejected.attempt}: {issue.message}")
        for grant in run.result():
            print(f"✓ {grant.recipient}, {grant.funder}, £{grant.amount_gbp:,}")
        print(f"{run.status}, {run.turns} turns, ${run.cost_usd}")


# ── a Claude for trying without a key ───────────────────────────────────────────────────────────


def claude() -> ScriptedModel | None:
    """Return a scripted Claude, or none where a key for the real one is set."""
    return None if "ANTHROPIC_API_KEY" in os.environ else ScriptedModel(script)


def script(request: dict[str, Any], attempt: int) -> Turn:  # noqa: ARG001  (a script's signature)
    """Search, answer with a wrong amount, with a wrong funder, and then with what was found."""
    if "You judge an answer" in text_of(request.get("system")):
        return say('{"issues":[],"valid":true,"confidence":0.95,"suggestion":""}', total_s=0.2)
    messages = request["messages"]
    results = [found for end in range(1, len(messages) + 1) for found in _results(messages[:end])]
    if not results:
        topic = text_of(messages[0]["content"]).partition(" for ")[2].rstrip(".")
        return say(tool_use("search_grants", {"keyword": topic}), total_s=0.2)
    found = msgspec.json.decode(text_of(results[0]["content"]))
    answer = [
        {
            "recipient": one["recipient"],
            "funder": one["funder"],
            "amount_gbp": int(one["amount_gbp"]),
        }
        for one in found
    ]
    times = sum("is not accepted" in text_of(message["content"]) for message in messages)
    if times == 0:
        answer[0]["amount_gbp"] *= 1_000
    elif times == 1:
        answer[0]["funder"] = "The Generous Foundation"
    return say(msgspec.json.encode({"answer": answer}).decode(), total_s=0.2)


def _results(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return tool_results({"messages": messages})


if __name__ == "__main__":
    main(*(sys.argv[1:2] or ["dementia"]))
