"""Claude agents that outlast crashes, outages and runaway bills."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from outlast.agent import Agent, Budget, WorstCase
    from outlast.anthropic_tools import ServerTool, server_tool
    from outlast.app import Outlast
    from outlast.breaker import Breaker
    from outlast.checks import Check, Evidence, Finding, Verdict, check
    from outlast.content import Document, File, Image
    from outlast.errors import (
        AskFailed,
        AskRejected,
        BatchNotFetched,
        BudgetTooSmall,
        FlowChanged,
        IllegalPhase,
        InvalidAgent,
        InvalidFlow,
        InvalidInput,
        InvalidTool,
        MCPServerLost,
        MCPServerRefused,
        MCPServerUnreachable,
        ModelFailure,
        NameRequired,
        OutlastError,
        RunCancelled,
        RunConflict,
        RunEnded,
        RunFailed,
        RunNotFound,
        RunRejected,
        RunStopped,
        RunWithoutAnswer,
        StepFailed,
        StoreError,
        ToolError,
        UnknownModel,
        UsageError,
        VersionChanged,
    )
    from outlast.events import Issue
    from outlast.flows import Flow, flow
    from outlast.judges import Judge
    from outlast.logs import LogContext
    from outlast.mcp_servers import MCPServer
    from outlast.models import Part
    from outlast.prices import declare_price
    from outlast.run import Approval, RejectedAnswer, Run
    from outlast.schedules import Schedule
    from outlast.sources import Degraded, LastGood, Reconciled
    from outlast.streaming import AsyncStream, Stream
    from outlast.tools import Tool, ToolContext, tool
    from outlast.worker import Worker

__version__ = "0.1.0"

__all__ = [
    "Agent",
    "Approval",
    "AskFailed",
    "AskRejected",
    "AsyncStream",
    "BatchNotFetched",
    "Breaker",
    "Budget",
    "BudgetTooSmall",
    "Check",
    "Degraded",
    "Document",
    "Evidence",
    "File",
    "Finding",
    "Flow",
    "FlowChanged",
    "IllegalPhase",
    "Image",
    "InvalidAgent",
    "InvalidFlow",
    "InvalidInput",
    "InvalidTool",
    "Issue",
    "Judge",
    "LastGood",
    "LogContext",
    "MCPServer",
    "MCPServerLost",
    "MCPServerRefused",
    "MCPServerUnreachable",
    "ModelFailure",
    "NameRequired",
    "Outlast",
    "OutlastError",
    "Part",
    "Reconciled",
    "RejectedAnswer",
    "Run",
    "RunCancelled",
    "RunConflict",
    "RunEnded",
    "RunFailed",
    "RunNotFound",
    "RunRejected",
    "RunStopped",
    "RunWithoutAnswer",
    "Schedule",
    "ServerTool",
    "StepFailed",
    "StoreError",
    "Stream",
    "Tool",
    "ToolContext",
    "ToolError",
    "UnknownModel",
    "UsageError",
    "Verdict",
    "VersionChanged",
    "Worker",
    "WorstCase",
    "__version__",
    "check",
    "declare_price",
    "flow",
    "server_tool",
    "tool",
]

_HOMES = {
    "Agent": "agent",
    "Approval": "run",
    "AsyncStream": "streaming",
    "Breaker": "breaker",
    "Budget": "agent",
    "Check": "checks",
    "check": "checks",
    "Evidence": "checks",
    "Finding": "checks",
    "Issue": "events",
    "Judge": "judges",
    "RejectedAnswer": "run",
    "Verdict": "checks",
    "Degraded": "sources",
    "Document": "content",
    "File": "content",
    "Image": "content",
    "LastGood": "sources",
    "LogContext": "logs",
    "MCPServer": "mcp_servers",
    "Outlast": "app",
    "Part": "models",
    "Reconciled": "sources",
    "Flow": "flows",
    "flow": "flows",
    "Run": "run",
    "Schedule": "schedules",
    "ServerTool": "anthropic_tools",
    "Stream": "streaming",
    "Tool": "tools",
    "ToolContext": "tools",
    "declare_price": "prices",
    "server_tool": "anthropic_tools",
    "tool": "tools",
    "Worker": "worker",
    "WorstCase": "agent",
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
