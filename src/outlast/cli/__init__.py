"""The command line: `outlast`, one module for each command.

Heavy imports wait until a command needs them, so that `outlast --help` answers at once; and what
only wants the JSON shapes need not import a command line.
"""

from __future__ import annotations

from typing import Any


def main() -> None:
    """Run `outlast` with the arguments of this process, and exit with its code."""
    from outlast.cli.commands import main as run  # noqa: PLC0415  (see above)

    run()


def __getattr__(name: str) -> Any:
    if name == "app":
        from outlast.cli.commands import app  # noqa: PLC0415  (see above)

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
