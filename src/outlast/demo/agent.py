"""The demo's flow: grants are found, a proposal is drafted, reviewed and saved.

It is what a user of outlast would write.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import outlast
from outlast.demo import grants
from outlast.demo.grants import Details, FunderTotal, Grant

QUESTION: Final = (
    "Find five grants of at most £20,000 for people with dementia, "
    "and say who got them, for what and when."
)
"""What `outlast demo` asks first."""

FINE: Final = "Nothing to change."
"""What a reviewer answers who has nothing to say."""


@outlast.tool(effect="read", timeout_s=10)
def search_grants(keyword: str, max_gbp: float | None = None, limit: int = 5) -> list[Grant]:
    """Search grants that UK foundations made, the best match first.

    Args:
        keyword: words that a grant must have, all of them, in any order.
        max_gbp: pounds at most; leave it out for any amount.
        limit: how many grants, 1 to 50.
    """
    return grants.search(keyword, max_gbp, limit)


@outlast.tool(effect="read", timeout_s=10)
def grant_details(grant_id: str) -> Details:
    """Look up everything that was published about one grant.

    Args:
        grant_id: such as 360G-LBFEW-100001.
    """
    return grants.details(grant_id)


@outlast.tool(effect="read", timeout_s=10)
def recipient_history(recipient: str) -> list[Grant]:
    """List every grant that one organisation received, the oldest first.

    Args:
        recipient: the organisation's name as a grant spells it.
    """
    return grants.history(recipient)


@outlast.tool(effect="read", timeout_s=10)
def funder_totals(keyword: str) -> list[FunderTotal]:
    """Sum up what each funder gave for a purpose, whatever the amount of a grant.

    Args:
        keyword: words that a grant must have, all of them, in any order.
    """
    return grants.totals(keyword)


@outlast.tool(effect="read", timeout_s=10)
def open_programmes(funder: str) -> list[str]:
    """Ask a funder's website which programmes take applications today.

    Args:
        funder: the funder's name as a grant spells it.
    """
    # Broken on purpose, in the demo's live mode too: real agents meet such a tool, and the run
    # must go on without it, knowing that it failed.
    raise ConnectionError(f"the website of {funder} does not answer")


researcher: Final = outlast.Agent(
    "grant-researcher",
    model="claude-opus-5-5",
    instructions=(
        "You are a grant researcher. Name only grants that you found with the tools, each with "
        "its id. Amounts are in pounds. When a tool fails, go on without it and say what could "
        "not be checked."
    ),
    tools=[search_grants, grant_details, recipient_history, funder_totals, open_programmes],
    # Five turns are enough; the rest is for calls in doubt, each of which counts as a turn,
    # so that the demo can be killed thirty times and more.
    budget=outlast.Budget(turns=60),
    max_tokens=4096,
)

writer: Final = outlast.Agent(
    "proposal-writer",
    model="claude-opus-5-5",
    instructions=(
        "You write proposals to foundations, of one page at most, in Markdown. Say nothing that "
        "the findings do not, and name each grant with its id. Answer with the proposal alone."
    ),
    budget=outlast.Budget(turns=60),
    max_tokens=4096,
)

reviewer: Final = outlast.Agent(
    "proposal-reviewer",
    model="claude-opus-5-5",
    instructions=(
        "You review proposals to foundations, and only the aspect you are asked about. Answer in "
        f"one or two sentences what has to change; if nothing has to, answer: {FINE}"
    ),
    budget=outlast.Budget(turns=60),
    max_tokens=1024,
)


@outlast.tool(effect="idempotent")
def save_proposal(text: str, context: outlast.ToolContext) -> str:
    """Write the proposal into the folder of the run, and return where it is."""
    path = Path(context.deps or ".") / "proposal.md"
    # The same text again changes nothing, and half of it never stands there.
    half = path.with_suffix(".tmp")
    half.write_text(text + "\n", encoding="utf-8")
    half.replace(path)
    return str(path)


@outlast.flow(
    name="grant-proposal",
    phases=["researching", "drafting", "reviewing"],
    budget=outlast.Budget(turns=60),
)
async def proposal(run: outlast.Run, question: str) -> str:
    """Find grants, write a proposal for more of their kind, have it reviewed, and save it."""
    run.enter("researching")
    found = await run.ask(researcher, question)

    run.enter("drafting")
    task = "Write a proposal to the funder of most of these grants, for more work of their kind."
    draft = await run.ask(writer, f"{task}\n\n{found}", name="draft", conversation="draft")

    run.enter("reviewing")
    shown = f"The findings:\n\n{found}\n\nThe proposal:\n\n{draft}"
    reviews = await asyncio.gather(
        run.ask(reviewer, f"Is every grant as in the findings?\n\n{shown}", name="facts"),
        run.ask(reviewer, f"Is it clear at once what is asked for?\n\n{shown}", name="clarity"),
    )
    changes = [review for review in reviews if not review.startswith(FINE)]
    if changes:
        told = "\n".join(["Mend the proposal:", *changes])
        draft = await run.ask(writer, told, name="revision", conversation="draft")

    await run.step("save", save_proposal, draft)
    return str(draft)
