"""The demo's agent: a grant researcher, as a user of outlast would write one."""

from __future__ import annotations

from typing import Final

import outlast
from outlast.demo import grants
from outlast.demo.grants import Details, FunderTotal, Grant

QUESTION: Final = (
    "Find five grants of at most £20,000 for people with dementia, "
    "and say who got them, for what and when."
)
"""What `outlast demo` asks."""


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
    # Eight turns are enough; the rest is for calls in doubt, each of which counts as a turn,
    # so that the demo can be killed thirty times and more.
    budget=outlast.Budget(turns=60),
    max_tokens=4096,
)
