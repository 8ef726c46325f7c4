"""Claude agents that outlast crashes, outages and runaway bills."""

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
from outlast.tool import Tool, ToolContext, tool

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
