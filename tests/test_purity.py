"""The core decides and computes; it never looks at a clock, a die, a disk or the network."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "outlast"

CORE = frozenset(
    # from the ground up; of the package `models` its `__init__`, which declares the protocol
    """errors redaction events journal anthropic_tools prices caching context history media loops
    conversation budget steps phases durations sources tools control parking approvals pacing turns
    breaker undoing recovery
    validators validators.plain validators.tokens validators.names validators.records
    validators.told validators.grounding validators.rules
    agent flows wants models models.schema state actions decide decide_control decide_flow drive
    answering settling answers checks judges validation evidence decide_answer
    """.split()  # noqa: SIM905  (a list of words)
)
PURE_MODULES = frozenset(
    # What is not listed is refused: a list of forbidden modules would have gaps.
    """__future__ abc bisect collections copy csv dataclasses datetime decimal difflib enum
    fractions functools hashlib hmac inspect itertools json math operator re string struct sys
    types typing typing_extensions unicodedata docstring_parser genai_prices msgspec pydantic
    """.split()  # noqa: SIM905
)
IMPURE_CALLS = frozenset(
    # `hash` and `id` differ from process to process: no jitter and no key may come from them.
    "open print input exec eval compile __import__ breakpoint hash id".split()  # noqa: SIM905
)


def impurities(source: str) -> list[str]:
    """Return what in `source` reaches for the world, each with its line."""
    tree = ast.parse(source)
    excused = {id(inner) for node in ast.walk(tree) for inner in _excused(node)}
    clocks = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
        if "datetime" in (alias.name, getattr(node, "module", None))
    }
    return [
        f"line {node.lineno}: {what}"
        for node in ast.walk(tree)
        if id(node) not in excused
        for what in _reaches(node, clocks)
    ]


def _excused(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.If() if ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for statement in node.body:
                yield from ast.walk(statement)
        case ast.FunctionDef(name="__hash__"):
            yield from ast.walk(node)
        case ast.FunctionDef(args=args):
            # A parameter of that name is no function that reaches for the world.
            given = {one.arg for one in (*args.posonlyargs, *args.args, *args.kwonlyargs)}
            for inner in ast.walk(node):
                if isinstance(inner, ast.Name) and inner.id in given:
                    yield inner


def _reaches(node: ast.AST, clocks: set[str]) -> Iterator[str]:
    match node:
        case ast.Import(names):
            for alias in names:
                yield from _refused(alias.name)
        case ast.ImportFrom(level=level) if level:
            yield "a relative import, whose module cannot be told"
        case ast.ImportFrom("outlast", names):
            for alias in names:
                yield from _refused(f"outlast.{alias.name}")
        case ast.ImportFrom("sys"):
            yield "a part of sys, by name"
        case ast.ImportFrom(module):
            yield from _refused(module or "")
        case ast.Attribute(value, "now" | "utcnow" | "today" as attr):
            if ast.unparse(value).split(".")[0] in clocks:
                yield f"the clock, by .{attr}"
        case ast.Attribute(ast.Name("sys"), attr) if attr not in ("_getframe", "intern"):
            yield f"sys.{attr}"
        case ast.Name(name, ast.Load()) if name in IMPURE_CALLS:
            yield f"{name}()"
        case ast.Await() | ast.AsyncFor() | ast.AsyncWith():
            yield "waits, which only the runner may"


def _refused(module: str) -> Iterator[str]:
    root, _, rest = module.partition(".")
    if root == "outlast":
        if rest not in CORE:
            yield f"imports {module}, which is not core"
    elif root not in PURE_MODULES:
        yield f"imports {module}"


def path_of(module: str) -> Path:
    """Return where a module of outlast, or the `__init__` of a package of it, is written."""
    place = SOURCE.joinpath(*module.split("."))
    flat = place.with_suffix(".py")
    return flat if flat.exists() else place / "__init__.py"


@pytest.mark.parametrize("module", sorted(CORE))
def test_the_core_is_pure(module):
    """No module of the core reaches for time, chance, threads, files, databases or the network."""
    assert impurities(path_of(module).read_text()) == []


@pytest.mark.parametrize(
    "planted",
    [
        "import time",
        "import random as dice",
        "from uuid import uuid4",
        "import sqlite3",
        "import apsw",
        "import asyncio.events",
        "from threading import Lock",
        "import anthropic",
        "from os import urandom",
        "import secrets",
        "def f():\n    import time",
        "def f():\n    from anthropic import Anthropic",
        "class C:\n    import random",
        "try:\n    import time\nexcept ImportError:\n    pass",
        "from datetime import datetime\nx = datetime.now()",
        "import datetime as d\nx = d.datetime.utcnow()",
        "from datetime import date as day\nx = [day.today]",
        "x = open('f')",
        "x = __import__('time').time()",
        "import importlib",
        "import sys\nx = sys.stdin.read()",
        "from sys import stdin",
        "x = hash('run') % 7",
        "from outlast.stores import sqlite",
        "from outlast import runner",
        "from . import runner",
        "import outlast.app",
        "async def f(): await g()",
    ],
)
def test_the_check_sees(planted):
    """However the world is reached for, imports inside functions and calls included, it is seen."""
    assert impurities(planted)


@pytest.mark.parametrize(
    "innocent",
    [
        "from datetime import UTC, datetime, timedelta",
        "def decide(state, agent, now, world):\n    return now + 1",
        "from outlast.events import Event",
        "from outlast import events",
        "from datetime import datetime\ndef f(place): return place.now",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import anthropic",
        "class C:\n    id: str = ''\n    def __hash__(self): return 1",
    ],
)
def test_the_check_is_fair(innocent):
    """What only computes, or is only a type, passes."""
    assert impurities(innocent) == []
