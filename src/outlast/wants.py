"""What the function of a flow wants at the moment, as a frozen snapshot.

The function runs outside the pure core.  Where it waits, what it has asked for so far is handed to
`decide`, which turns every want that is not in the journal yet into events; so the function never
writes anything itself, and a want that was answered before is answered from the journal.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, TypeAlias

import msgspec
from msgspec import Raw

from outlast.agent import Agent
from outlast.events import NULL, Effect


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """An agent is to answer a question."""

    agent: Agent
    content: Raw
    continues: str = ""
    """The ask whose conversation is to go on."""
    version: str = ""


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A function is to be called."""

    effect: Effect
    given: str = ""
    """Hex SHA-256 of its arguments as JSON."""
    function: str = ""
    """What it is called; empty for one without a name of its own."""


class Nap(msgspec.Struct, frozen=True, kw_only=True):
    """Time is to go by, in nanoseconds."""

    length: int


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """Something that was drawn just now is to be kept."""

    result: Raw


class Child(msgspec.Struct, frozen=True, kw_only=True):
    """A run of its own is to be driven to its end."""

    run_id: str
    given: str = ""
    agent: str = ""
    """What the agent or flow is called that it is a run of."""


class Approval(msgspec.Struct, frozen=True, kw_only=True):
    """A person is to say yes or no."""

    question: str
    context: Raw = NULL
    given: str = ""
    """Hex SHA-256 of both."""
    length: int = 0
    """For how long somebody may, in nanoseconds; 0 is for ever."""


Step: TypeAlias = Call | Nap | Value | Child | Approval


class Wants(msgspec.Struct, frozen=True, kw_only=True):
    """All that a flow asked for since it was started from the top."""

    asks: Mapping[str, Ask] = MappingProxyType({})
    steps: Mapping[str, Step] = MappingProxyType({})
    phases: tuple[str, ...] = ()
    """Every phase it entered, in order."""
    returned: Raw | None = None
    """What it returned, as JSON; `None` while it has not."""
    raised: str = ""
    """What it raised; empty while it has not."""
    halted: Mapping[str, str] = MappingProxyType({})
    """Why child runs came to a stop that may be lifted, by name."""
    quiet: bool = False
    """It waits, and has asked for nothing new for a moment."""


NOTHING: Final = Wants()

NO_ANSWER: Final = NULL
"""What a flow without a result returned."""
