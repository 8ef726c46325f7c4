"""A run of fifty turns: its agent, its Claude, and a process that is killed in the middle of it."""

import os
import signal
import sys

import outlast
from outlast.models.script import say, tool_use, turn_number

TURNS = 50
INSTRUCTIONS = "You read a long book page by page, and tell what is in it. " * 80


@outlast.tool(effect="read")
def read_page(number: int) -> str:
    """Read a page of the book."""
    return f"Page {number}. " + f"It says something about {number}. " * (5 + number % 7 * 10)


def agent(cache: str | None = "5m") -> outlast.Agent:
    """Return the reader."""
    return outlast.Agent(
        "reader",
        model="claude-opus-5-5",
        instructions=INSTRUCTIONS,
        tools=[read_page],
        cache=cache,
        budget=outlast.Budget(turns=2 * TURNS),
    )


def script(request, attempt):
    """Read page after page, and then say so; once, read so many that the API looks back in vain."""
    turn = turn_number(request)
    if turn == TURNS:
        return say("I have read it.")
    pages = 30 if turn == 10 else 1
    return say(f"Turn {turn}.", *(tool_use("read_page", {"number": turn}) for _ in range(pages)))


def main(store: str, cache: str, kill_at: int) -> None:
    """Drive the run; die by SIGKILL in the middle of a reply."""
    seen = set()

    def on_part(part):
        seen.add(part.call_id)
        if len(seen) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    with outlast.Outlast(store) as app:
        app.run(agent(cache or None), "What is in it?", run_id="book", on_part=on_part)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
