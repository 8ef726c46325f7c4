"""Circuit breakers at work: what a process knows of them, and how its calls keep to them.

`breaker` says what is to be done; here it is read, counted and told.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from typing import TypeAlias

from outlast import logs
from outlast.breaker import (
    PROBES,
    Breaker,
    Over,
    State,
    begun,
    counts,
    fold,
    judged,
    mended,
    model_key,
    probe_names,
    source_key,
    tallied,
    tried,
    tripped,
    verdict,
    window_names,
)
from outlast.drive import Append
from outlast.errors import Conflict
from outlast.events import AnyEvent, BreakerChanged, ModelCallStarted, ToolCallStarted
from outlast.journal import Advance, Commit, Hold, Journal, Record
from outlast.pacing import group

Intent: TypeAlias = ModelCallStarted | ToolCallStarted
"""What a call begins with that has a breaker, or may."""


class Breakers:
    """What a process knows of the breakers of a store.

    Args:
        journal: where they are.
        settings: when they open, and for how long; `None` is never.
        key: whose limits calls count against.
        commit: appends.
        clock: nanoseconds since the epoch, UTC.

    """

    def __init__(
        self,
        journal: Journal,
        settings: Breaker | None,
        *,
        key: Callable[[], str],
        commit: Callable[[Commit], Awaitable[tuple[Record, ...]]],
        clock: Callable[[], int],
    ) -> None:
        self._journal = journal
        self._commit = commit
        self._clock = clock
        self._key = key
        self._states: dict[str, State] = {}
        self.settings = settings

    def of_model(self, model: str, tenant: str) -> State | None:
        """Return the breaker of a model as far as it is known; `None` where there are none."""
        if self.settings is None:
            return None
        whose = tenant if self.settings.per_tenant else ""
        return self._known(model_key(model, key=self._key(), tenant=whose))

    def of_source(self, source: str, tenant: str) -> State | None:
        """Return the breaker of a source of tools, likewise."""
        if self.settings is None:
            return None
        return self._known(source_key(source, tenant=tenant if self.settings.per_tenant else ""))

    def _known(self, key: str) -> State:
        state = self._states.get(key)
        return self.read(State(key=key)) if state is None else state

    def read(self, state: State) -> State:
        """Read what others changed since, and return what it is."""
        news = self._journal.read(state.stream, after=state.seq)
        state = self._states[state.key] = fold(news, state)
        return state

    def reread(self, stream: str) -> bool:
        """Read a stream that has grown; return whether it is that of a breaker."""
        for state in self._states.values():
            if state.stream == stream:
                self.read(state)
                return True
        return False

    async def begin(self, state: State, run_id: str) -> State:
        """Let calls try a dependency, if it is time for that; return what the breaker is."""
        assert self.settings is not None, "a breaker that is none"  # noqa: S101
        return await self._change(
            state, begun(state, self.settings, now=self._clock(), run_id=run_id)
        )

    async def judge(self, key: str, run_id: str) -> None:
        """Change a breaker if what came of calls by now says so."""
        settings, now = self.settings, self._clock()
        assert settings is not None, "a breaker that is none"  # noqa: S101
        state = self.read(self._states[key])
        change = None
        if state.status == "half_open":
            tally = tried(self._journal.numbers(probe_names(state)), state)
            change = judged(state, tally, settings, now=now, run_id=run_id)
        elif state.status == "closed":
            names = window_names(state, settings, now)
            values = self._journal.numbers(names)
            if back := mended(names, values, settings, now):
                self._journal.advance(back)
            change = tripped(
                state, tallied(values, settings, now), settings, now=now, run_id=run_id
            )
        await self._change(state, change)

    async def _change(self, state: State, change: BreakerChanged | None) -> State:
        if change is not None:
            place = state.seq + 1
            commit = Commit(
                stream=state.stream, events=(change,), at=self._clock(), expected_seq=place
            )
            with suppress(Conflict):  # somebody was faster, perhaps with the same
                logs.tell(await self._commit(commit))
        return self.read(state)


class Trial:
    """The calls of one drive of one run, as the breakers know them."""

    def __init__(self, breakers: Breakers, *, run_id: str, tenant: str) -> None:
        self._breakers = breakers
        self._run_id = run_id
        self._tenant = tenant
        self._asked: dict[str, tuple[State, bool]] = {}
        """The breaker of each call in flight as it was then, and whether it tries it."""

    def states(self, models: Iterable[str], sources: Iterable[str]) -> dict[str, State]:
        """Return the breakers of models, by group, and of sources; see `World.breakers`."""
        found = {group(model): self._breakers.of_model(model, self._tenant) for model in models}
        for source in sources:
            found[source_key(source)] = self._breakers.of_source(source, self._tenant)
        return {name: state for name, state in found.items() if state is not None}

    async def entered(
        self, events: Iterable[AnyEvent], wanted: Append, now: int
    ) -> dict[str, State] | None:
        """Return the breaker of each call, by `call_id`; `None` where one is not what it was.

        An open one whose time is over lets those try the dependency that come first.
        """
        found = {}
        for intent in events:
            if not isinstance(intent, Intent):
                continue
            state = self._of(intent, wanted)
            if state is None:
                continue
            if state.status == "open" and state.is_tried(now):
                state = await self._breakers.begin(state, self._run_id)
            if intent.probe != state.is_tried(now) or state.status == "open":
                return None
            found[intent.call_id] = state
        return found

    def holds(self, states: Mapping[str, State], events: Iterable[AnyEvent]) -> list[Hold]:
        """Return the places that calls hold among those that try a dependency."""
        return [
            Hold(
                call_id=f"{self._run_id}/{intent.call_id}",
                scope=state.scope,
                window=state.window,
                unit=PROBES,
                needed=1,
                limit=state.probes,
            )
            for intent in events
            if isinstance(intent, Intent)
            and intent.probe
            and (state := states.get(intent.call_id)) is not None
        ]

    def moves(self, events: Iterable[AnyEvent], now: int) -> list[Advance]:
        """Return what is counted of the calls that are over."""
        settings, moves = self._breakers.settings, []
        for event in events:
            if not isinstance(event, Over) or event.call_id not in self._asked or settings is None:
                continue
            state, probe = self._asked[event.call_id]
            if (said := verdict(event, settings)) is not None:
                moves += counts(state, said, probe=probe, breaker=settings, now=now)
        return moves

    async def settle(self, events: Iterable[AnyEvent], states: Mapping[str, State]) -> None:
        """Remember the calls that are begun, and judge what came of those that are over."""
        settings = self._breakers.settings
        if settings is None:
            return
        doubtful: set[str] = set()
        for event in events:
            if isinstance(event, Intent) and event.call_id in states:
                self._asked[event.call_id] = states[event.call_id], event.probe
            elif isinstance(event, Over) and event.call_id in self._asked:
                state, probe = self._asked.pop(event.call_id)
                if probe or verdict(event, settings) in ("failure", "slow"):
                    doubtful.add(state.key)
        for key in doubtful:
            await self._breakers.judge(key, self._run_id)

    async def refused(self, scope: str) -> None:
        """Judge a dependency that nobody may try any more, should nobody have done so."""
        await self._breakers.judge(scope.removeprefix("breaker:"), self._run_id)

    def _of(self, intent: Intent, wanted: Append) -> State | None:
        if isinstance(intent, ToolCallStarted):
            return self._breakers.of_source(intent.source, self._tenant) if intent.source else None
        if intent.batch:  # those go another way
            return None
        model = wanted.state.asks[intent.ask_id].spec.model
        return self._breakers.of_model(model, self._tenant)
