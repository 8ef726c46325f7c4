"""What tests of flows need: an echoing Claude, an application around it, and what was done."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import outlast
from outlast.errors import StoreError
from outlast.events import tag
from outlast.models.script import Fault, Rule, Script, Turn, last_text, say
from outlast.models.scripted import ScriptedModel
from outlast.runner import Runner
from stubs import MODEL

NS = 1_000_000_000
SOON_S = 1.3
"""Longer than what is slept through without a park, and as short as that allows."""


def named(name: str, **more: Any) -> outlast.Agent:
    """Return an agent of that name."""
    return outlast.Agent(name, **({"model": MODEL} | more))


def echo(request: dict[str, Any], _attempt: int) -> Turn:
    """Answer each question with itself."""
    return say(f"re: {last_text(request)}")


def failing(word: str, *, status: int = 400) -> Rule:
    """Return the rule that every question with `word` in it fails."""

    def rule(request: dict[str, Any], attempt: int) -> Fault | None:
        return Fault(kind="status", status=status) if word in last_text(request) else None

    return rule


def opened(url: Any = "memory://", script: Script = echo, **more: Any) -> Any:
    """Return an application whose Claude says `script`; as `app.claude`, too."""
    claude = ScriptedModel(script)
    app: Any = outlast.Outlast(url, model=claude, **more)
    app.claude = claude
    return app


def events(app: outlast.Outlast, run_id: str = "r") -> list[str]:
    """Return the types of a run's events, in order."""
    return [tag(record.event) for record in app.log(run_id)]


def of_kind(app: outlast.Outlast, kind: type[Any], run_id: str = "r") -> list[Any]:
    """Return a run's events of one type."""
    return [record.event for record in app.log(run_id) if isinstance(record.event, kind)]


class Deeds:
    """What functions really did, which no crash forgets; and a way to die in the middle."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self._lock = threading.Lock()

    def do(self, what: str) -> str:
        """Do it."""
        with self._lock:
            self.done[what] += 1
        return f"did {what}"


class Dying:
    """A journal that dies before the append whose events `dies` says so of, and stays dead."""

    def __init__(self, journal: Any, dies: Callable[[tuple[Any, ...]], bool]) -> None:
        self._journal = journal
        self._dies = dies
        self.dead = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)

    def append(self, commit: Any) -> Any:
        self._check(commit)
        return self._journal.append(commit)

    async def aappend(self, commit: Any) -> Any:
        self._check(commit)
        return await self._journal.aappend(commit)

    def close(self) -> None:
        """Leave the real journal open: another life goes on with it."""

    def end(self) -> None:
        """Close the real journal."""
        self._journal.close()

    def _check(self, commit: Any) -> None:
        self.dead = self.dead or self._dies(commit.events)
        if self.dead:
            raise StoreError("the process died here")


def before(kind: type[Any], **fields: Any) -> Callable[[tuple[Any, ...]], bool]:
    """Return what dies before an event of that type, with those fields, is written."""
    return lambda events: any(
        isinstance(one, kind) and all(getattr(one, key) == value for key, value in fields.items())
        for one in events
    )


class Clock:
    """The time of every runner made after it, which jumps when it is told to.

    Give it pytest's `monkeypatch`.
    """

    def __init__(self, patch: Any) -> None:
        self._ahead = 0
        self._real = time.time_ns
        patch.setattr(time, "time_ns", self)
        patch.setitem(Runner.__init__.__kwdefaults__, "clock", self)

    def __call__(self) -> int:
        """Return nanoseconds since the epoch."""
        return self._real() + self._ahead

    def jump(self, seconds: float) -> None:
        """Let so much time go by at once."""
        self._ahead += int(seconds * NS)
