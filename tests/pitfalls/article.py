"""The article's usage example of its first pattern, on outlast, in a process that may be killed.

Run as `python article.py STORE CALLS [EVENT]`: the run's journal is in the file STORE, a line is
added to the file CALLS for every question that reaches Claude, and the process kills itself when
an event of the type EVENT was written.
"""

import os
import signal
import sys

import outlast
from outlast.events import tag
from outlast.journal import Record
from outlast.models.script import last_text, say
from outlast.models.scripted import ScriptedModel

assistant = outlast.Agent(
    "research-assistant",
    model="claude-opus-5-5",
    instructions="You are a research assistant for nonprofits. Find grants.",
)


@outlast.flow(phases=["researching", "drafting", "reviewing"])
def research(run: outlast.Run, question: str) -> str:
    """Do what the article's agent was to do, and go on to its next phase."""
    run.enter("researching")
    found = run.ask(assistant, question, conversation="research")
    run.enter("drafting")
    draft: str = run.ask(assistant, f"Summarise {found}", conversation="research")
    return draft


def main(store: str, calls: str, dies_after: str = "") -> None:
    """Run it, or go on with it, and print what it came to."""

    def claude(request: dict[str, object], attempt: int) -> object:
        if attempt:  # and not a look at what was said before
            with open(calls, "a", encoding="utf-8") as file:  # noqa: PTH123  (appended, and closed)
                file.write(f"{last_text(request)}\n")
        return say(f"[{last_text(request)}]")

    def watch(record: Record) -> None:
        if tag(record.event) == dies_after:
            os.kill(os.getpid(), signal.SIGKILL)

    with outlast.Outlast(f"sqlite:///{store}", model=ScriptedModel(claude)) as app:  # type: ignore[arg-type]
        run = app.run(
            research,
            "What foundation grants exist for HIV cure research?",
            run_id="research_agent_001",
            on_record=watch,
        )
        sys.stdout.write(f"{run.status} {run.phase} {run.answer}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
