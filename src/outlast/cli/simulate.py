"""`outlast simulate`: a Claude on this machine that follows a script."""

from __future__ import annotations

import sys

from outlast.cli import exits, shapes
from outlast.cli.agents import here
from outlast.cli.screen import screen
from outlast.testing.simulator import serve


def simulate_claude(
    script: str | None, *, host: str, port: int, state: str | None, as_json: bool
) -> int:
    """Serve until told to stop, and return the exit code."""
    here()

    def ready(url: str) -> None:
        if as_json:
            sys.stdout.write(shapes.encode({"url": url}).decode() + "\n")
        else:
            _explain(url)
        sys.stdout.flush()

    serve(script, host=host, port=port, state=state, on_ready=ready)
    return exits.DONE


def _explain(url: str) -> None:
    on = screen()
    on.line(("A simulated Claude answers at ", ""), (url, "strong"), (" until Ctrl-C.", ""))
    on.line(("Point any client at it, in another terminal:", ""))
    on.line((f"  export ANTHROPIC_BASE_URL={url} ANTHROPIC_API_KEY=anything", ""))
    on.line(("Next: outlast run MODULE:AGENT INPUT", "quiet"))
