"""The public names: complete, documented, and imported only when they are used."""

import ast
import inspect
import pickle
import re
import subprocess
import sys
from types import FunctionType
from typing import Any

import pytest

import outlast
import outlast.errors
from outlast.events import FailureKind

ERRORS = {
    name: value
    for name, value in vars(outlast.errors).items()
    if isinstance(value, type) and issubclass(value, outlast.OutlastError)
}
PUBLIC = {name: getattr(outlast, name) for name in outlast.__all__ if name != "__version__"}

# ── imported when used ────────────────────────────────────────────────────────────────────────

HEAVY = [
    "anthropic",
    "anyio",
    "apsw",
    "cronsim",
    "docstring_parser",
    "genai_prices",
    "httpx",
    "httpx2",
    "jinja2",
    "jsonschema",
    "mcp",
    "pydantic",
    "pydantic_core",
    "rich",
    "sqlite3",
    "ssl",
    "starlette",
    "typer",
    "uvicorn",
]
"""What takes long to import, and what not every program needs."""


def imported(program: str) -> set[str]:
    """Return the modules that are loaded after `program`, in a process of its own."""
    command = f"{program}\nimport sys\nprint(*sys.modules)"
    ended = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=True, timeout=60
    )
    return set(ended.stdout.split())


def test_importing_outlast_imports_next_to_nothing() -> None:
    """`import outlast` brings none of what it stands on, and none of its own modules."""
    loaded = imported("import outlast; dir(outlast); outlast.__version__")
    assert loaded.isdisjoint([*HEAVY, "asyncio", "msgspec", "inspect"])
    assert {name for name in loaded if name.startswith("outlast")} == {"outlast"}


def test_declaring_an_agent_waits_for_nothing_heavy() -> None:
    """A module that declares agents and tools imports without pydantic and without the client."""
    loaded = imported(
        "import outlast\n"
        "@outlast.tool(effect='read')\n"
        "def look(word: str) -> str: ...\n"
        "outlast.Agent('a', model='claude-haiku-5-5', tools=[look], budget=outlast.Budget(turns=1))"
    )
    assert loaded.isdisjoint([*HEAVY, "asyncio"])


def test_the_application_waits_for_nothing_it_does_not_use() -> None:
    """An application in memory, with a model of its own, needs no client and no SQLite."""
    loaded = imported("import outlast\noutlast.Outlast('memory://', model=object()).close()")
    assert loaded.isdisjoint({*HEAVY} - {"ssl"})  # which comes with asyncio


# ── complete, and documented ──────────────────────────────────────────────────────────────────


def test_every_public_name_is_there() -> None:
    """Every name that is listed can be had, from its own module, and `dir` shows it."""
    assert outlast.__all__ == sorted(outlast.__all__, key=lambda name: (name.islower(), name))
    assert set(outlast.__all__) <= set(dir(outlast))
    for name, value in PUBLIC.items():
        assert value.__name__ == name
        assert value.__module__.startswith("outlast.")
    with pytest.raises(AttributeError, match="module 'outlast' has no attribute 'nothing'"):
        outlast.nothing  # noqa: B018


def test_type_checkers_see_the_same_names() -> None:
    """What is imported for type checkers is what is listed."""
    source = inspect.getsource(outlast)
    (block,) = (node for node in ast.parse(source).body if isinstance(node, ast.If))
    seen = {
        alias.name
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == set(outlast.__all__) - {"__version__"}


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_documented(name: str) -> None:
    """Every public name, and whatever of it can be called, says what it is in a sentence."""
    value = PUBLIC[name]
    documented = {name: value}
    if isinstance(value, type) and not issubclass(value, BaseException):
        documented |= {
            member: found
            for member, found in inspect.getmembers_static(value)
            if not member.startswith("_") and isinstance(found, FunctionType | property)
        }
    for member, found in documented.items():
        said = inspect.getdoc(found) or ""
        assert said.partition("\n")[0].rstrip().endswith((".", ":")), f"{name}.{member}"


def test_what_is_raised_is_public() -> None:
    """Every error that a public docstring promises to raise can be had from `outlast` itself."""
    owed = {"RunRejected"}  # of statuses that no run has yet
    promised = set()
    for value in PUBLIC.values():
        for found in (value, *vars(value).values()) if isinstance(value, type) else (value,):
            said = inspect.getdoc(found) or ""
            raises = re.search(r"Raises:\n((?: +.*\n?)+)", said)
            promised |= (
                set(re.findall(r"\b[A-Z]\w+\b", raises[1])) & ERRORS.keys() if raises else set()
            )
    assert promised
    assert promised - owed <= set(outlast.__all__)


# ── errors ────────────────────────────────────────────────────────────────────────────────────

KIND: FailureKind = "cut"
EXAMPLES: dict[str, Any] = {
    "UnknownModel": (("claude-9",), {"near": ("claude-opus-5-5",)}),
    "RunNotFound": (("r",), {"store": "memory://"}),
    "RunConflict": (("r",), {"what": "input", "recorded": "a", "given": "b"}),
    "BudgetTooSmall": (("a",), {"given": "$0.0001", "smallest_usd": "0.0200"}),
    "NameRequired": (("ask of a",), {"why": "another one is open"}),
    "FlowChanged": (("r",), {"name": "a-1", "recorded": "an ask", "given": "a step"}),
    "VersionChanged": (("r",), {"name": "a", "recorded": "1", "given": "2", "what": "tools"}),
    "IllegalPhase": ((), {"now": "a", "wanted": "c", "legal": ("b",)}),
    "AskFailed": (("a-1",), {"why": "it was refused"}),
    "AskRejected": (("a-1",), {"why": "the list is empty"}),
    "StepFailed": (("send",), {"why": "nobody knows", "in_doubt": True}),
    "RunEnded": (("r",), {"status": "failed"}),
    "RunWithoutAnswer": (("r",), {"status": "failed", "why": "no"}),
    "RunFailed": (("r",), {"status": "failed", "why": "no"}),
    "RunStopped": (("r",), {"status": "stopped", "why": "no"}),
    "RunRejected": (("r",), {"status": "rejected", "why": "no"}),
    "RunCancelled": (("r",), {"status": "cancelled", "why": "no"}),
    "Conflict": (("run:r",), {"expected_seq": 1, "actual_seq": 2}),
    "Fenced": (("run:r",), {"epoch": 1, "fence": 2}),
    "Busy": (("run:r",), {"holder": "process 1"}),
    "TooSoon": ((), {"name": "n", "value": 2, "most": 1}),
    "Refused": ((), {"scope": "run:r", "unit": "nano", "needed": 2, "left": 1, "held": 1}),
    "JournalTooNew": (("run:r",), {"version": 2, "ours": 1}),
    "JournalDamaged": (("run:r",), {"seq": 3, "why": "a record is missing"}),
    "BatchNotFetched": (("msgbatch_1", outlast.ModelFailure("auth", "no key")), {}),
    "MCPServerRefused": (("the server refused",), {"status_code": 401}),
    "ModelFailure": ((KIND, "the stream ended"), {"status": 200, "retry_after_s": 1.5}),
}
"""How to make each error that takes more than a sentence."""


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_survives_its_way_to_another_process(name: str) -> None:
    """Every error can be pickled: text, class and values arrive as they were."""
    args, values = EXAMPLES.get(name, (("what happened",), {}))
    error = ERRORS[name](*args, **values)
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301  (made here)
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
    assert len(str(error)) > 5
    for key, value in values.items():
        if hasattr(error, key):
            assert getattr(error, key) == value


def tree(docstring: str) -> dict[str, str]:
    """Return each name of the tree drawn in `docstring`, with the name above it."""
    above: list[tuple[int, str]] = []
    parents = {}
    for line in docstring.splitlines():
        drawn = re.match(r"    ([│ ├└─]*)((?:[A-Z]\w+)(?:, [A-Z]\w+)*)(?:  |$)", line)
        if not drawn:
            continue
        depth = len(drawn[1])
        above = [(other, name) for other, name in above if other < depth]
        for name in drawn[2].split(", "):
            parents[name] = above[-1][1] if above else "Exception"
        above.append((depth, name))
    return parents


def test_the_tree_of_errors_is_drawn_as_it_grows() -> None:
    """The drawing in `errors` has every error, each under the one that it is a kind of."""
    drawn = tree(outlast.errors.__doc__ or "")
    assert drawn.keys() >= {"OutlastError", "UsageError", "InvalidAgent", "ToolError"}
    families = {name: {base.__name__ for base in kind.__mro__} for name, kind in ERRORS.items()}
    assert drawn.keys() == ERRORS.keys() - (drawn_together := {"RunWithoutAnswer"})
    for name, parent in drawn.items():
        assert parent in families[name], f"{name} is drawn under {parent}"
        direct = ERRORS[name].__bases__[0].__name__
        assert parent == direct or direct in drawn_together
