"""Write a proposal in phases: outlined, its sections drafted side by side, and edited.

    $ python examples/proposal_writing.py "a café for people with dementia" cafe
    $ outlast show cafe --store sqlite:///proposals.db     (its phases, and how long each took)

Kill it whenever you like and run it again: it goes on in the phase it was in, and no section that
is written is paid for twice.  Without ANTHROPIC_API_KEY a scripted Claude answers.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import outlast
from outlast.models.script import Turn, last_text, say
from outlast.models.scripted import ScriptedModel

STORE = os.environ.get("OUTLAST_STORE", "sqlite:///proposals.db")
FOLDER = Path(os.environ.get("PROPOSALS", "."))

planner = outlast.Agent(
    "planner",
    model="claude-opus-5-5",
    instructions="Name the sections of a proposal, one a line, three to five, and nothing else.",
)
writer = outlast.Agent(
    "writer",
    model="claude-opus-5-5",
    instructions="Write the section of a proposal you are asked for, in one paragraph.",
)


@outlast.flow(
    phases={"outlining": ["drafting"], "drafting": ["editing"], "editing": ["drafting"]},
    budget=outlast.Budget(turns=40),
)
async def proposal(run: outlast.Run, brief: str) -> str:
    """Outline, draft and edit a proposal, and save it under the run's id."""
    run.enter("outlining")
    outline = await run.ask(planner, brief)
    sections = [line.strip() for line in outline.splitlines() if line.strip()]

    run.enter("drafting")
    # Asked side by side, so each needs a name: whichever comes first, its answer is its own.
    drafts = await asyncio.gather(
        *(run.ask(writer, f"{brief}: {title}", name=f"section {title}") for title in sections)
    )

    run.enter("editing")
    whole = "\n\n".join(f"## {t}\n\n{d}" for t, d in zip(sections, drafts, strict=True))
    ending = await run.ask(writer, f"{brief}: an ending for\n\n{whole}", name="ending")
    day = run.now().date()  # the day the proposal was edited, also when the run goes on tomorrow
    text = f"# {brief}\n\n{day}\n\n{whole}\n\n{ending}\n"
    # The same text again changes nothing, so after a crash it may be written again.
    return str(await run.step("save", save, run.id, text, effect="idempotent"))


def save(name: str, text: str) -> str:
    """Write a proposal into its file, and return which."""
    path = FOLDER / f"{name}.md"
    path.write_text(text, encoding="utf-8")
    return str(path)


def main(brief: str, run_id: str) -> None:
    """Write the proposal, or go on with it."""
    with outlast.Outlast(STORE, model=claude()) as app:
        run = app.run(proposal, brief, run_id=run_id)
        print(run.result())
        print(f"{run.status}, {run.turns} turns, ${run.cost_usd}")


# ── a Claude for trying without a key ───────────────────────────────────────────────────────────


def claude() -> ScriptedModel | None:
    """Return a scripted Claude, or none where a key for the real one is set."""
    return None if "ANTHROPIC_API_KEY" in os.environ else ScriptedModel(script)


def script(request: dict[str, Any], attempt: int) -> Turn:  # noqa: ARG001  (a script's signature)
    """Name three sections, or write one."""
    asked = last_text(request)
    brief, _, title = asked.partition(": ")
    if not title:
        return say("The need\nWhat we will do\nWhat it costs", total_s=0.2)
    return say(f"This is about {title.partition(chr(10))[0].lower()}, for {brief}.", total_s=0.2)


if __name__ == "__main__":
    given = sys.argv[1:]
    main(given[0] if given else "a café for people with dementia", (given[1:] or ["cafe"])[0])
