"""Finds what `MODULE:ATTRIBUTE` names, and says plainly why it cannot."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType

from outlast.agent import Agent
from outlast.errors import OutlastError, UsageError


def agent_at(location: str) -> Agent:
    """Return the agent that `MODULE:AGENT` names; modules of the current directory count too.

    Raises:
        UsageError: there is no such agent, and what there is instead.

    """
    here()
    name, colon, attribute = location.partition(":")
    if not (name and colon and attribute):
        raise UsageError(_not_a_location(location))
    module = _imported(name, location)
    found = getattr(module, attribute, None)
    if isinstance(found, Agent):
        return found
    if hasattr(module, attribute):
        what = f"{location!r} is no outlast.Agent, but of type {type(found).__name__}"
    else:
        what = f"module {name!r} has no {attribute!r}"
    raise UsageError(f"{what}; {_agents_of(module)}")


def here() -> None:
    """Let modules of the current directory be imported, as `python -m` does."""
    if not {"", os.getcwd()} & set(sys.path):  # noqa: PTH109  (sys.path holds strings)
        sys.path.insert(0, os.getcwd())  # noqa: PTH109


def _not_a_location(location: str) -> str:
    if not location.strip():
        example = "research.agents:researcher"
    elif location.endswith(".py"):
        example = f"{Path(location).stem}:AGENT"
    else:
        example = f"{location.strip(':')}:AGENT"
    return (
        f"{location!r} is not MODULE:AGENT; write the module, a colon and the agent's name in it, "
        f"such as {example}"
    )


def _imported(name: str, location: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except OutlastError:
        raise  # a declaration that cannot work: it says so best itself
    except ModuleNotFoundError as error:
        raise UsageError(_not_found(name, error)) from error
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"module {name!r} of {location!r} cannot be imported: "
            f"{type(error).__name__}: {error}{_place(error)}"
        ) from error


def _not_found(name: str, error: ModuleNotFoundError) -> str:
    missing = error.name or name
    if name != missing and not name.startswith(f"{missing}."):
        return f"module {name!r} needs {missing!r}, which is not installed{_place(error)}"
    hint = ""
    if name.endswith(".py") or "/" in name:
        dotted = ".".join(Path(name).with_suffix("").parts).lstrip("./")
        hint = f"; write it as Python imports it: {dotted}:AGENT"
    return (
        f"there is no module {missing!r}, neither in {Path.cwd()} nor among what is installed{hint}"
    )


def _place(error: BaseException) -> str:
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<") and frame.filename != __file__
        if "importlib" not in frame.filename
    ]
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""


def _agents_of(module: ModuleType) -> str:
    names = [name for name, value in vars(module).items() if isinstance(value, Agent)]
    if not names:
        return "it declares no agent: write one with outlast.Agent(…) at its top level"
    return f"its agents are: {', '.join(f'{module.__name__}:{name}' for name in names)}"
