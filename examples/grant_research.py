"""Research grants with an agent that has tools, and go on talking to it.

    $ python examples/grant_research.py dementia
    $ python examples/grant_research.py dementia     (the same answer, without a single call)
    $ python examples/grant_research.py dementia "And under £10,000?"     (in the same conversation)

Kill it whenever you like and run it again: it goes on.  Without ANTHROPIC_API_KEY a scripted
Claude answers, from what the tools really return.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import outlast
from outlast.demo import grants
from outlast.models.script import Turn, last_text, say, text_of, tool_results, tool_use
from outlast.models.scripted import ScriptedModel

STORE = os.environ.get("OUTLAST_STORE", "sqlite:///grant_research.db")


@outlast.tool(effect="read", timeout_s=10)
def search_grants(keyword: str, max_gbp: float = 1_000_000, limit: int = 3) -> list[grants.Grant]:
    """Search grants that UK foundations made, the best match first."""
    return grants.search(keyword, max_gbp, limit)


@outlast.tool(effect="read", timeout_s=10)
def funder_totals(keyword: str) -> list[grants.FunderTotal]:
    """Sum up what each funder gave for a purpose."""
    return grants.totals(keyword)


researcher = outlast.Agent(
    "grant-researcher",
    model="claude-opus-5-5",
    instructions="You are a grant researcher. Name only grants you found with the tools.",
    tools=[search_grants, funder_totals],
    budget=outlast.Budget(turns=20),
)


def main(topic: str, more: str = "") -> None:
    """Ask for grants, and, in the same conversation, whatever else there is to ask."""
    run_id = f"research-{topic.replace(' ', '-')}"
    with outlast.Outlast(STORE, model=claude()) as app:
        run = app.run(researcher, f"Find three grants for {topic}.", run_id=run_id)
        if more and run.status == "completed":
            run = app.send(run_id, more, agent=researcher)
        print(run.result())
        print(f"{run.status}, {run.turns} turns, ${run.cost_usd}")


# ── a Claude for trying without a key ───────────────────────────────────────────────────────────


def claude() -> ScriptedModel | None:
    """Return a scripted Claude, or none where a key for the real one is set."""
    return None if "ANTHROPIC_API_KEY" in os.environ else ScriptedModel(script)


def script(request: dict[str, Any], attempt: int) -> Turn:  # noqa: ARG001  (a script's signature)
    """Search for what was asked first, and answer from what was found."""
    if found := tool_results(request):
        return say(f"These are the best: {text_of(found[0]['content'])}", total_s=0.2)
    topic = text_of(request["messages"][0]["content"]).partition(" for ")[2].rstrip(".")
    limit = {"max_gbp": 10_000} if "£10,000" in last_text(request) else {}
    search = tool_use("search_grants", {"keyword": topic, **limit})
    return say("I look for it.", search, total_s=0.2)


if __name__ == "__main__":
    main(*(sys.argv[1:3] or ["dementia"]))
