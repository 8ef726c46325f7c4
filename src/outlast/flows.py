"""A flow: a function that asks several agents, in one durable piece of ordinary Python.

The function is executed again from the top at every wake.  What it asked for before is answered
from the journal by name, so it may hold any Python between two asks that gives the same again.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import update_wrapper
from typing import Any, Final, Generic, ParamSpec, TypeVar, overload

from outlast.agent import NAME, Budget
from outlast.errors import InvalidFlow
from outlast.phases import table

P = ParamSpec("P")
R = TypeVar("R")

TURNS: Final = 500
"""The turns of a flow whose budget is not given, of all its agents together."""


class Flow(Generic[P, R]):
    """A function declared as a flow.  Give it to `Outlast.run` as you would an agent.

    Attributes:
        name: the function's name unless another was given.
        phases: which phases may follow each, the first one first; empty for a flow without.
        budget: what all its agents together may use.
        function: the function itself; its first parameter is the run, its second the input.

    """

    def __init__(
        self,
        function: Callable[P, R],
        *,
        name: str | None = None,
        phases: Sequence[str] | Mapping[str, Sequence[str]] = (),
        budget: Budget | None = None,
    ) -> None:
        update_wrapper(self, function)
        self.function = function
        self.name: str = name or str(getattr(function, "__name__", ""))
        self.phases = table(phases) if phases else {}
        self.budget = budget or Budget(turns=TURNS)
        self.declared_in = str(getattr(function, "__module__", ""))
        self.takes_input = _takes_input(self.name, function)
        if not NAME.fullmatch(self.name):
            raise InvalidFlow(
                f"flow {self.name!r}: a name is 1 to 128 letters, digits, '.', '_' or '-', "
                "and begins with a letter or digit; give one with @outlast.flow(name=…)"
            )

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function itself, with whatever run it is given."""
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<flow {self.name!r}>"

    @property
    def is_async(self) -> bool:
        """Whether the function is a coroutine function."""
        return inspect.iscoroutinefunction(self.function)


def _takes_input(name: str, function: Callable[..., Any]) -> bool:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as error:
        raise InvalidFlow(f"flow {name!r} is no function: {error}") from error
    needed = [one for one in parameters if one.default is one.empty]
    if not parameters or len(needed) > 2:
        raise InvalidFlow(
            f"flow {name!r} has the parameters ({', '.join(map(str, parameters))}); "
            "it takes the run, and at most one more without a default: its input"
        )
    return len(parameters) > 1


@overload
def flow(function: Callable[P, R], /) -> Flow[P, R]: ...
@overload
def flow(
    *,
    name: str | None = None,
    phases: Sequence[str] | Mapping[str, Sequence[str]] = (),
    budget: Budget | None = None,
) -> Callable[[Callable[P, R]], Flow[P, R]]: ...
def flow(
    function: Callable[P, R] | None = None,
    /,
    *,
    name: str | None = None,
    phases: Sequence[str] | Mapping[str, Sequence[str]] = (),
    budget: Budget | None = None,
) -> Flow[P, R] | Callable[[Callable[P, R]], Flow[P, R]]:
    """Declare a function, sync or async, as a flow.

        @outlast.flow(phases=["researching", "drafting"])
        async def proposal(run: outlast.Run, brief: str) -> str:
            run.enter("researching")
            grants = await run.ask(researcher, brief)
            run.enter("drafting")
            return await run.ask(writer, f"Write a proposal for {grants}")

    Args:
        function: the function; its first parameter is the run, its second, if any, the input.
        name: what the flow is called, by default as the function is.
        phases: its phases: a list, each of which the next may follow, or a mapping of each to
            those that may.
        budget: what all its agents together may use; by default 500 turns.

    Raises:
        InvalidFlow: the declaration cannot work; the message says why.

    """

    def declared(function: Callable[P, R]) -> Flow[P, R]:
        return Flow(function, name=name, phases=phases, budget=budget)

    return declared if function is None else declared(function)
