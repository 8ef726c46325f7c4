"""Thank a donor by mail, once: whatever happens, nobody gets two letters for one gift.

    $ python examples/donor_mail.py
    $ cat outbox.jsonl
    $ python examples/donor_mail.py     (nothing is written or sent again)

The mail is a step with the effect `once`.  Kill the process in the middle of it, and nobody knows
whether the mail went out: outlast does not repeat it, and the flow looks into the outbox.  Without
ANTHROPIC_API_KEY a scripted Claude answers, and the outbox is a file.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import outlast
from outlast.models.script import Turn, last_text, say
from outlast.models.scripted import ScriptedModel

STORE = os.environ.get("OUTLAST_STORE", "sqlite:///donor_mail.db")
OUTBOX = Path(os.environ.get("OUTBOX", "outbox.jsonl"))


class Gift(BaseModel):
    """A gift, as the donor database has it."""

    id: str
    donor: str
    mail: str
    pounds: int


writer = outlast.Agent(
    "letter-writer",
    model="claude-haiku-5-5",
    instructions="Thank a donor in two warm sentences. Promise nothing.",
)


@outlast.flow(phases=["writing", "sending"], budget=outlast.Budget(turns=10))
def thank(run: outlast.Run, gift: Gift) -> str:
    """Write to the donor and send it; return how that went."""
    run.enter("writing")
    letter = run.ask(writer, f"{gift.donor} gave £{gift.pounds}.")

    run.enter("sending")
    try:
        run.step("send", send, gift.id, gift.mail, letter, effect="once")
    except outlast.StepFailed as failed:
        if not failed.in_doubt:
            return f"not sent: {failed.why}"
        # The process died while it was sent.  Looking changes nothing, so it may be repeated.
        if not run.step("look", is_in_outbox, gift.id, effect="read"):
            return "nobody knows whether it was sent; ask the mail provider, and do not send again"
    return "sent"


def send(gift_id: str, to: str, text: str) -> None:
    """Send a mail; here into a file, in your code to your provider."""
    with OUTBOX.open("a", encoding="utf-8") as outbox:
        outbox.write(json.dumps({"gift": gift_id, "to": to, "text": text}) + "\n")


def is_in_outbox(gift_id: str) -> bool:
    """Return whether the mail for a gift was sent."""
    sent = OUTBOX.read_text(encoding="utf-8").splitlines() if OUTBOX.exists() else []
    return any(json.loads(line)["gift"] == gift_id for line in sent)


GIFTS = [
    Gift(id="2031", donor="Ada", mail="ada@example.org", pounds=50),
    Gift(id="2032", donor="Grace", mail="grace@example.org", pounds=20),
]


def main() -> None:
    """Thank for every gift; the run's id is the gift's, so each is thanked for once."""
    with outlast.Outlast(STORE, model=claude()) as app:
        for gift in GIFTS:
            run = app.run(thank, gift, run_id=f"thank-{gift.id}")
            print(f"{gift.donor}: {run.result()}, ${run.cost_usd}")


# ── a Claude for trying without a key ───────────────────────────────────────────────────────────


def claude() -> ScriptedModel | None:
    """Return a scripted Claude, or none where a key for the real one is set."""
    return None if "ANTHROPIC_API_KEY" in os.environ else ScriptedModel(script)


def script(request: dict[str, Any], attempt: int) -> Turn:  # noqa: ARG001  (a script's signature)
    """Write a letter."""
    donor, _, gave = last_text(request).partition(" gave ")
    return say(f"Dear {donor}, thank you for {gave} It helps us a lot.", total_s=0.2)


if __name__ == "__main__":
    main()
