"""A flow: a function that asks several agents, in one durable piece of ordinary Python.

The function is executed again from the top at every wake.  What it asked for before is answered
from the journal by name, so it may hold any Python between two asks that gives the same again.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import update_wrapper
from typing import Any, Final, Generic, ParamSpec, TypeVar, get_type_hints, overload

import msgspec

from outlast.agent import NAME, Budget, no_budget
from outlast.errors import InvalidFlow, InvalidInput, UsageError, shortened
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
        self.budget = Budget(turns=TURNS) if budget is None else budget
        if wrong := no_budget(self.budget):
            raise InvalidFlow(f"flow {self.name!r}: {wrong}")
        self.declared_in = str(getattr(function, "__module__", ""))
        parameter = _input_parameter(self.name, function)
        self.takes_input = parameter is not None
        self.parameter = "" if parameter is None else parameter.name
        self.needs_input = parameter is not None and parameter.default is parameter.empty
        """Whether its input has no default, which it is given for an input of `None`."""
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

    def arguments(self, given: bytes) -> tuple[Any, ...]:
        """Return the input, which is JSON, as the function takes it after the run.

        Raises:
            InvalidInput: it is not what the function's parameter is declared to be.

        """
        if not self.takes_input or (given == b"null" and not self.needs_input):
            return ()
        try:
            return (validated(given, hint(self.function, self.parameter)),)
        except UsageError as error:
            raise InvalidInput(
                f"flow {self.name!r}: its input {self.parameter!r} is not as declared: {error}"
            ) from error


_PLACES: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _input_parameter(name: str, function: Callable[..., Any]) -> inspect.Parameter | None:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as error:
        raise InvalidFlow(f"flow {name!r} is no function: {error}") from error
    placed = [one for one in parameters if one.kind in _PLACES]
    needed = [one for one in parameters if one.default is one.empty]
    if not placed or not set(needed) <= set(placed[:2]):
        raise InvalidFlow(
            f"flow {name!r} has the parameters ({', '.join(map(str, parameters))}); "
            "it takes the run, and at most one more without a default: its input"
        )
    return placed[1] if len(placed) > 1 else None


def hint(function: Callable[..., Any], name: str) -> Any:
    """Return the type of a parameter, or of `return`; `Any` where none can be told."""
    try:
        return get_type_hints(function).get(name, Any)
    except Exception:  # noqa: BLE001  (a hint that cannot be resolved is none)
        return Any


def validated(whole: bytes, declared: Any) -> Any:
    """Return JSON as what it was declared to be; as it is where that is no type of data.

    Raises:
        UsageError: it is something else.

    """
    if declared in (Any, None, type(None)):
        return msgspec.json.decode(whole)
    from pydantic import PydanticUserError, TypeAdapter, ValidationError  # noqa: PLC0415  (heavy)

    try:
        return TypeAdapter(declared).validate_json(whole)
    except (PydanticUserError, TypeError):
        return msgspec.json.decode(whole)  # a type that pydantic has no schema for
    except ValidationError as error:
        raise UsageError(
            f"{shortened(whole)} is no {_called(declared)}: {_first(error)}"
        ) from error


def _called(declared: Any) -> str:
    return str(getattr(declared, "__name__", declared))


def _first(error: Any) -> str:
    """Return what is wrong first, and where."""
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else str(first["msg"])


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
