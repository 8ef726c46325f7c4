"""Claude agents that outlast crashes, outages and runaway bills."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from outlast.agent import Agent, Budget
    from outlast.app import Outlast, Run
    from outlast.errors import (
        InvalidAgent,
        InvalidInput,
        InvalidTool,
        OutlastError,
        RunConflict,
        RunEnded,
        RunFailed,
        RunNotFound,
        RunStopped,
        RunWithoutAnswer,
        StoreError,
        ToolError,
        UnknownModel,
        UsageError,
    )
    from outlast.tools import Tool, ToolContext, tool

__version__ = "0.1.0"

__all__ = [
    "Agent",
    "Budget",
    "InvalidAgent",
    "InvalidInput",
    "InvalidTool",
    "Outlast",
    "OutlastError",
    "Run",
    "RunConflict",
    "RunEnded",
    "RunFailed",
    "RunNotFound",
    "RunStopped",
    "RunWithoutAnswer",
    "StoreError",
    "Tool",
    "ToolContext",
    "ToolError",
    "UnknownModel",
    "UsageError",
    "__version__",
    "tool",
]

_HOMES = {
    "Agent": "agent",
    "Budget": "agent",
    "Outlast": "app",
    "Run": "app",
    "Tool": "tools",
    "ToolContext": "tools",
    "tool": "tools",
}
"""Where public names live; every other one is an error's."""


def __getattr__(name: str) -> Any:
    """Import a public name on its first use, so that a program waits only for what it uses."""
    if name not in __all__:
        raise AttributeError(f"module 'outlast' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415  (see above)

    value = getattr(import_module(f"outlast.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
