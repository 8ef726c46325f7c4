"""Finds what `MODULE:ATTRIBUTE` names, and says plainly why it cannot."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType

from outlast.agent import Agent
from outlast.app import Outlast
from outlast.cli.options import DEFAULT_STORE
from outlast.errors import OutlastError, UsageError
from outlast.flows import Flow
from outlast.journal import Journal
from outlast.models import Model
from outlast.starting import Who


def agent_at(location: str) -> Agent:
    """Return the agent that `MODULE:AGENT` names; modules of the current directory count too.

    Raises:
        UsageError: there is no such agent, and what there is instead.

    """
    found = declared_at(location)
    if isinstance(found, Agent):
        return found
    raise UsageError(f"{location!r} is no outlast.Agent, but {found!r}; give the agent of the run")


def declared_at(location: str) -> Who:
    """Return the agent or flow that `MODULE:AGENT` or `MODULE:FLOW` names.

    Modules of the current directory count too.

    Raises:
        UsageError: there is no such thing, and what there is instead.

    """
    here()
    name, colon, attribute = location.partition(":")
    if not (name and colon and attribute):
        raise UsageError(_not_a_location(location))
    module = imported(name, location)
    found = getattr(module, attribute, None)
    if isinstance(found, Agent | Flow):
        return found
    if hasattr(module, attribute):
        what = f"{location!r} is no outlast.Agent and no flow, but of type {type(found).__name__}"
    else:
        what = f"module {name!r} has no {attribute!r}"
    raise UsageError(f"{what}; {_declared_in(module)}")


def agents_beside(who: Who, name: str) -> Agent | None:
    """Return the agent called `name` that the module of a declaration knows; `None` if none is."""
    module = sys.modules.get(who.declared_in)
    known = vars(module).values() if module is not None else ()
    return next((one for one in known if isinstance(one, Agent) and one.name == name), None)


def app_of(who: Who, journal: Journal, *, model: Model | None = None) -> Outlast:
    """Return an application on a store, as the module of a declaration has it, if it has one.

    So what is done from the command line goes through its `redact`, tools find its `deps`, and it
    asks its client or model; where it names none, or there is no application, it asks `model`.
    """
    theirs = _apps_beside(who)
    if len(theirs) == 1:
        return theirs[0]._beside(journal, model)  # noqa: SLF001
    return Outlast(journal, model=model)


def store_of(who: Who, given: str) -> str:
    """Return the store that was given, or that of the module's application where none was."""
    theirs = _apps_beside(who)
    return theirs[0].journal.url if given == DEFAULT_STORE and len(theirs) == 1 else given


def _apps_beside(who: Who) -> list[Outlast]:
    module = sys.modules.get(who.declared_in)
    known = vars(module).values() if module is not None else ()
    return [*{id(one): one for one in known if isinstance(one, Outlast)}.values()]


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


def imported(name: str, location: str) -> ModuleType:
    """Return a module, imported.

    Raises:
        UsageError: it cannot be, and why.

    """
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


def _declared_in(module: ModuleType) -> str:
    agents = [name for name, value in vars(module).items() if isinstance(value, Agent)]
    flows = [name for name, value in vars(module).items() if isinstance(value, Flow)]
    if not agents + flows:
        return (
            "it declares no agent and no flow: write one with outlast.Agent(…) or @outlast.flow "
            "at its top level"
        )
    told = [
        f"its {kind} are: {', '.join(f'{module.__name__}:{name}' for name in names)}"
        for kind, names in (("agents", agents), ("flows", flows))
        if names
    ]
    return "; ".join(told)
