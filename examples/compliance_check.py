"""Check proposals against rules: every rule side by side, every proposal in a run of its own.

    $ python examples/compliance_check.py
    $ outlast runs --store sqlite:///compliance.db     (one run for all, and below it each proposal)

Kill it whenever you like and run it again: rules that were checked are not checked again.  Without
ANTHROPIC_API_KEY a scripted Claude answers.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from pydantic import BaseModel

import outlast
from outlast.models.script import Turn, last_text, say
from outlast.models.scripted import ScriptedModel

STORE = os.environ.get("OUTLAST_STORE", "sqlite:///compliance.db")

RULES = {
    "sum": "It says how much is asked for.",
    "charity": "It names a charity number.",
    "privacy": "It names no client of the charity.",
}


class Proposal(BaseModel):
    """What is to be checked."""

    title: str
    text: str


checker = outlast.Agent(
    "compliance-checker",
    model="claude-haiku-5-5",
    instructions="Answer YES if the proposal keeps the rule; else NO, and why, in one sentence.",
)


@outlast.flow(budget=outlast.Budget(turns=20))
async def check(run: outlast.Run, proposal: Proposal) -> dict[str, str]:
    """Return what breaks a rule, by the rule's name; nothing when all is well."""
    answers = await asyncio.gather(
        *(
            run.ask(checker, f"Rule: {rule}\n\nProposal: {proposal.text}", name=name)
            for name, rule in RULES.items()
        )
    )
    found = zip(RULES, answers, strict=True)
    return {name: answer for name, answer in found if not answer.startswith("YES")}


@outlast.flow
async def check_all(run: outlast.Run, proposals: list[Proposal]) -> dict[str, dict[str, str]]:
    """Return what breaks a rule, by the proposal's title."""
    checked = await run.map(check, proposals, name="proposal", at_once=4)
    return {one.title: found for one, found in zip(proposals, checked, strict=True)}


PROPOSALS = [
    Proposal(title="Café", text="We ask for £15,000 for a café. Charity number 1023456."),
    Proposal(title="Choir", text="We would like some money, so that Mrs Miller can sing."),
]


def main() -> None:
    """Check the proposals, and print what was found."""
    with outlast.Outlast(STORE, model=claude()) as app:
        run = app.run(check_all, PROPOSALS, run_id="check")
        for title, found in run.result().items():
            print(f"{title}: {found or 'keeps all rules'}")
        whole = sum(one.cost_usd for one in app.runs())
        print(f"{run.status}, ${whole} in {len(app.runs())} runs")


# ── a Claude for trying without a key ───────────────────────────────────────────────────────────


def claude() -> ScriptedModel | None:
    """Return a scripted Claude, or none where a key for the real one is set."""
    return None if "ANTHROPIC_API_KEY" in os.environ else ScriptedModel(script)


def script(request: dict[str, Any], attempt: int) -> Turn:  # noqa: ARG001  (a script's signature)
    """Look for what the rule is about."""
    rule, _, text = last_text(request).partition("Proposal: ")
    kept = {"how much": "£" in text, "charity number": "Charity number" in text}
    holds = next((is_kept for word, is_kept in kept.items() if word in rule), "Mrs" not in text)
    return say("YES" if holds else f"NO: “{text}” does not keep it.", total_s=0.2)


if __name__ == "__main__":
    main()
