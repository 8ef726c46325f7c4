"""`Outlast`: an application's way to its journal, and to the runs in it."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import re
import secrets
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import partial
from hashlib import sha256
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, ParamSpec, Protocol, Self, TypeVar, get_args

from msgspec import Raw
from msgspec.structs import replace

from outlast import logs
from outlast.agent import Agent
from outlast.answering import Answer, as_answer, as_arguments, check_names, check_shape
from outlast.answers import InvalidAnswer
from outlast.approvals import Request
from outlast.background import Background
from outlast.branching import branch, fork_id
from outlast.breaker import DEFAULT, Breaker
from outlast.budget import Limits
from outlast.claims import claimed
from outlast.content import Input, rendered
from outlast.control import Control
from outlast.conversation import Conversation
from outlast.decide_control import NOBODY
from outlast.errors import (
    Busy,
    Conflict,
    Fenced,
    InvalidInput,
    RunConflict,
    RunEnded,
    RunNotFound,
    UsageError,
    VersionChanged,
    shortened,
)
from outlast.events import NULL, ApprovalGiven, ControlGiven, NoteAdded, ScheduleSet, Verb
from outlast.firing import schedules, set_schedule
from outlast.journal import PARKED, Commit, Journal, Record, RunRow, run_stream
from outlast.labels import Word as Label
from outlast.limits import set_budget
from outlast.models import Model, Part
from outlast.operators import budget_set, check_label, check_schedule
from outlast.operators import check_text as _check_text
from outlast.redaction import checked, same, within
from outlast.results import as_content
from outlast.run import Run, run_of
from outlast.runner import PATIENCE_S, Resting, Runner, Watch, first_request
from outlast.schedules import Schedule
from outlast.settling import Said, word
from outlast.signals import Signals
from outlast.starting import (
    OnChange,
    Who,
    ancestors,
    as_declared,
    begin,
    check_affordable,
    check_ask,
    check_same,
    check_who,
    code_location,
    fork,
    input_of,
    located,
    question,
)
from outlast.state import ENDED, FINAL, WAITING, RunState, fold, owes, row
from outlast.stores import open_store
from outlast.streaming import AsyncStream, Feed, Stream
from outlast.telling import answer, label, mend, reconcile, tell
from outlast.tools import InvalidArguments
from outlast.workshop import Workshop

if TYPE_CHECKING:
    from outlast.models.clouds import Client

P = ParamSpec("P")
T = TypeVar("T")

_RUN_ID: Final = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._:@/-]{0,199}(~([0-9a-f]{12}|[1-9][0-9]{0,7})){0,9}"
)
"""What a run can be called, one of another version beside it, and forks of all these."""
_FIRST: Final = 1971
_LAST: Final = 2200
"""The years of which a time fits into nanoseconds, with some room."""
_POLL_S: Final = 0.1
AT_ONCE_S: Final = -1.0
"""How long a worker waits for a run that somebody else drives: not at all, and it is told so."""
_BEGINNING: Final = 3
"""How many records `begin` writes."""


class Outlast:
    """An application: a store, a model, and the runs in between.

    Args:
        store: where runs are recorded: `sqlite:///relative.db` (the default is
            `sqlite:///outlast.db`), `sqlite:////absolute.db`, `memory://`, or a `Journal`.
        client: a configured `anthropic.AsyncAnthropic`, or the asynchronous client for Bedrock,
            Vertex, Foundry, AWS or Google Cloud; by default one is made as the SDK does, from
            `ANTHROPIC_API_KEY` and `ANTHROPIC_BASE_URL`, when the first call needs it.  It works
            from `run` and from `arun` on any event loop; one that was made with an `http_client`
            works on the first loop only (`run` has a loop of its own), and a run on another stops
            before anything is sent.
        model: what to ask instead of Claude: anything that has the method of `models.Model`.
        deps: whatever tools need of the application; they find it in `ToolContext.deps`.
        redact: what every text from outside goes through before it is journalled and before Claude
            sees it: inputs, results and errors of tools and steps, what validators say, tags and
            notes.  It has to give the same for the same text.  Names, instructions and schemas of
            tools, what Claude says, images and PDFs are kept as they are.
        on_change: what happens to a run whose agent or flow was changed since it was started:
            `recorded` (the default) goes on with what the model saw then and the functions of now,
            and notes the change in the journal; `refuse` raises `VersionChanged`; `fork` leaves
            the run as it is and runs `ID~VERSION` instead, a run of its own of the same input.
            A run that is completed is returned in any case, for nothing of it goes on.

    Raises:
        StoreError: the store cannot be opened.

    """

    def __init__(  # noqa: PLR0913  (all but one are keywords with defaults)
        self,
        store: str | Journal = "sqlite:///outlast.db",
        *,
        client: Client | None = None,
        model: Model | None = None,
        deps: Any = None,
        redact: Callable[[str], str] | None = None,
        on_change: OnChange = "recorded",
        breaker: Breaker | None = DEFAULT,
    ) -> None:
        if breaker is not None and not isinstance(breaker, Breaker):
            raise UsageError(f"breaker={breaker!r}: give an outlast.Breaker(…), or None for none")
        self._client, self._given, self._deps = client, model, deps
        self._redact = same if redact is None else checked(redact)
        self._on_change = _checked_change(on_change)
        self._seen: dict[str, Who] = {}
        self._declared: dict[str, Limits] = {}
        """The budgets, as they are declared now, of the runs that are driven here."""
        self._journal = open_store(store) if isinstance(store, str) else store
        self._farewell: Callable[[], Coroutine[Any, Any, None]] | None = None
        if model is None:
            from outlast.models.anthropic import AnthropicModel  # noqa: PLC0415  (only when needed)

            model = AnthropicModel(client)
            self._farewell = model.aclose
        self._background = Background()
        self._forced: set[str] = set()
        """The runs that a worker took from a driver that was frozen, with all below them."""
        self._leased: dict[str, str] = {}
        """Which worker has the lease of a run that is driven here."""
        self._employed: Employed | None = None
        """The worker of this application, where there is one."""
        self._waiting: dict[str, _Waiting] = {}
        """Who waits for parked runs, by run: the last to come, who knows of those before."""
        self._signals = Signals(
            self._journal, lambda: self._own.live | self._guest.live | self._waiting
        )
        self._own, self._guest = (
            Runner(
                self._journal,
                model,
                deps=deps,
                inline=inline,
                redact=self._redact,
                look=self._signals.look,
                breaker=breaker,
            )
            for inline in (True, False)
        )
        # On the caller's own loop, tools are called where the caller's other things are.
        self._own.workshop = Workshop()

    def _beside(self, journal: Journal, model: Model | None) -> Outlast:
        """Return another application with the same settings, on another store.

        It asks what this one was given, and `model` where it was given nothing.
        """
        own = self._given is not None or self._client is not None
        return Outlast(
            journal,
            client=self._client,
            model=self._given if own else model,
            deps=self._deps,
            redact=None if self._redact is same else self._redact,
            on_change=self._on_change,
        )

    @property
    def journal(self) -> Journal:
        """The store, to read from."""
        return self._journal

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def close(self) -> None:
        """Stop driving and close the store; runs stay where their journal is."""
        if self._employed is not None:
            self._employed.end()  # it would look for work in a store that is closed
        self._background.close(self._farewell)
        if self._own.workshop is not None:
            self._own.workshop.close()
        self._signals.close()
        self._journal.close()

    async def aclose(self) -> None:
        """Do what `close` does, and close the connections of the caller's event loop, too.

        What still runs on that loop is the caller's to end first.
        """
        try:
            if self._farewell is not None:
                await self._farewell()
        finally:
            await asyncio.to_thread(self.close)

    # ── running ─────────────────────────────────────────────────────────────────────────────────

    def start(  # noqa: PLR0913  (all but two are keywords with defaults)
        self,
        agent: Who,
        input: Any = None,  # noqa: A002  (what it is)
        *,
        run_id: str | None = None,
        tenant: str = "",
        tags: Mapping[str, str] | None = None,
        run_at: datetime | None = None,
    ) -> Run:
        """Write a run into the journal without driving it, and return it: a worker does.

        The same `run_id` with the same agent and input again is the same run.

        Args:
            agent: as for `run`, like the other arguments.
            input: what to ask it.
            run_id: the run's name.
            tenant: for whom the run is.
            tags: what it is to be found with.
            run_at: when it is to begin, with a time zone; by default as soon as a worker can.  Of a
                run that exists, the time is not changed.

        Raises:
            InvalidInput: the input is empty, or the run id cannot be one.
            UnknownModel: no price is known for the agent's model.
            RunConflict: the run id is taken by another input or agent.
            UsageError: `run_at` has no time zone.

        """
        run_id = _checked_id(_named(agent) if run_id is None else run_id)
        kept = self._labels(f"run {run_id!r}", tenant, tags)
        more = {} if run_at is None else {"run_at": _instant(run_at)}
        run = self._started(run_id, agent, input, tenant=tenant, tags=kept, **more)
        return run._left(  # noqa: SLF001  (nobody else leaves runs)
            lambda wait_s: self._whole(self._ended(run.id, wait_s), agent)
        )

    def _labels(self, what: str, tenant: str, tags: Mapping[str, str] | None) -> dict[str, str]:
        """Return the tags as they are kept, and refuse a tenant that could not be kept as it is."""
        _check_text(what, tenant, *(tags or {}).keys(), *(tags or {}).values())
        if tenant and self._redact(tenant) != tenant:
            raise InvalidInput(
                f"{what}: redact= takes something out of its tenant, which is a name, and "
                "would be another one then; give one that may be kept"
            )
        return {self._redact(key): self._redact(value) for key, value in (tags or {}).items()}

    def _started(self, run_id: str, who: Who, given: Any, **more: Any) -> Run:
        """Write a run into the journal, or find that it is there."""
        content = input_of(who, given, put=self._journal.put_blob, redact=self._redact)
        self._seen[who.name] = who
        existing = self._journal.run(run_id)
        if existing is None:
            if isinstance(who, Agent):
                check_affordable(who, content, batch=bool(more.get("batch")))
            try:
                begin(self._journal, run_id, who, content, **more)
            except Conflict:
                existing = self._journal.run(run_id)  # somebody was faster with the same id
            else:
                if logs.wanted():
                    logs.tell(self._journal.read(run_stream(run_id), limit=_BEGINNING))
        if existing is not None:
            check_same(self._journal, run_id, who, content)
        if self._employed is not None:
            self._employed.nudge()
        return self.get(run_id)

    def _ended(self, run_id: str, wait_s: float | None) -> Run:
        """Return a run once it has ended, or as it is when the time is over."""
        give_up_at = math.inf if wait_s is None else time.monotonic() + wait_s
        seen = None
        while True:
            changes = self._journal.changes()
            if changes != seen:
                seen, run = changes, self._glance(run_id)
            if run.status in ENDED or run.status == "stopped" or time.monotonic() >= give_up_at:
                return run
            time.sleep(_POLL_S)

    def run(  # noqa: PLR0913  (all but two are keywords with safe defaults)
        self,
        agent: Who,
        input: Any = None,  # noqa: A002  (what it is)
        *,
        run_id: str | None = None,
        tenant: str = "",
        tags: Mapping[str, str] | None = None,
        wait_s: float = 30.0,
        on_change: OnChange | None = None,
        on_record: Callable[[Record], None] | None = None,
        on_part: Callable[[Part], None] | None = None,
    ) -> Run:
        """Run the agent on the input, to rest, and return the run.

        With the `run_id` of a run that exists, go on where its journal ends; of one that is
        finished, return it without a single call.  The input is the one the run was started with,
        whatever was said with `send` since; the answer is the latest.

        Args:
            agent: the agent.
            input: what to ask it: text, or a list of texts, images, documents, files and content
                blocks as the API takes them.
            run_id: the run's name; by default one is made.
            tenant: for whom the run is.
            tags: whatever should be found with the run later.
            wait_s: seconds to wait where another process is driving the run, and for a parked run
                to go on, default 30; a run that is parked for longer is returned as it is.
            on_change: what happens if the agent was changed since the run was started; by default
                what the application says.
            on_record: told of every record as it becomes durable, on the driving thread.
            on_part: told of every part of a reply as it comes, on the driving thread.

        Raises:
            InvalidInput, UnknownModel, RunConflict: as `start`.
            VersionChanged: the agent or flow was changed, and `on_change` is `refuse`.
            StoreError: the store failed; what was committed is safe, and the same call goes on.

        """
        return self._background.run(
            self.arun(
                agent,
                input,
                run_id=run_id,
                tenant=tenant,
                tags=tags,
                wait_s=wait_s,
                on_change=on_change,
                on_record=on_record,
                on_part=on_part,
            )
        )

    async def arun(  # noqa: PLR0913  (as run)
        self,
        agent: Who,
        input: Any = None,  # noqa: A002  (what it is)
        *,
        run_id: str | None = None,
        tenant: str = "",
        tags: Mapping[str, str] | None = None,
        wait_s: float = 30.0,
        on_change: OnChange | None = None,
        on_record: Callable[[Record], None] | None = None,
        on_part: Callable[[Part], None] | None = None,
    ) -> Run:
        """Do what `run` does, on the caller's event loop."""
        policy = self._on_change if on_change is None else _checked_change(on_change)
        run = await self._aside(self.start, agent, input, run_id=run_id, tenant=tenant, tags=tags)
        await self._aside(self._check_root, run)
        return await self._driven(run.id, agent, wait_s, Watch(on_record, on_part), policy)

    def resume(  # noqa: PLR0913  (as run)
        self,
        run_id: str,
        agent: Who,
        *,
        wait_s: float = 30.0,
        reason: str = "",
        by: str = "",
        on_change: OnChange | None = None,
        on_record: Callable[[Record], None] | None = None,
        on_part: Callable[[Part], None] | None = None,
    ) -> Run:
        """Go on with a run that exists, to rest, and return it.

        A run that was paused, or that waits for somebody to mend something, such as a spend limit,
        is told to go on, with the reason and by whom, and so are the runs below it; but what was
        paused below a run that is not paused itself stays so.  A run whose parent is parked until
        it goes on is left to whoever drives the parent: a worker, or `resume` of the first run of
        its tree.

        Raises:
            RunNotFound: there is no such run.
            RunEnded: it is completed, failed, rejected or cancelled.
            UsageError: the agent is another one, or lacks a tool that the run knows.
            VersionChanged: it was changed, and `on_change` is `refuse`.

        """
        return self._background.run(
            self.aresume(
                run_id,
                agent,
                reason=reason,
                by=by,
                wait_s=wait_s,
                on_change=on_change,
                on_record=on_record,
                on_part=on_part,
            )
        )

    async def aresume(  # noqa: PLR0913  (as run)
        self,
        run_id: str,
        agent: Who,
        *,
        wait_s: float = 30.0,
        reason: str = "",
        by: str = "",
        on_change: OnChange | None = None,
        on_record: Callable[[Record], None] | None = None,
        on_part: Callable[[Part], None] | None = None,
    ) -> Run:
        """Do what `resume` does, on the caller's event loop."""
        policy = self._on_change if on_change is None else _checked_change(on_change)
        run = await self._aside(self.get, run_id)
        if run.status in ENDED:
            raise RunEnded(run_id, status=run.status)
        if run.status in (*PARKED, "paused"):
            say = self._control if run.status == "paused" else self._mend
            before, run = run.status, await self._aside(say, run_id, "resume", reason, by)
            if run.status != before and await self._aside(self._above, run) is not None:
                return run  # whoever drives the runs above it goes on with it
        await self._aside(self._check_root, run)
        return await self._driven(run_id, agent, wait_s, Watch(on_record, on_part), policy)

    # ── control ─────────────────────────────────────────────────────────────────────────────────

    def pause(self, run_id: str, *, reason: str = "", by: str = "") -> Run:
        """Tell a run to begin nothing more, and return it; what is in flight has its outcome first.

        The runs below it are told the same.  It stays `paused`, also through restarts, until it is
        resumed; to pause it again changes nothing.

        Raises:
            RunNotFound: there is no such run.
            UsageError: it has ended, or was stopped: there is nothing to pause.

        """
        return self._control(run_id, "pause", reason, by)

    def cancel(self, run_id: str, *, reason: str = "", by: str = "", undo: bool = False) -> Run:
        """End a run for good, and return it; nothing that was paid for is lost.

        An answer of Claude's that is on its way is given up, and charged as in doubt; tools and
        steps have 30 seconds to end.  The runs below it are told the same.  Where another process
        drives the run, that ends it.  To cancel it again changes nothing.

        With `undo`, what its tools did is taken back first, the newest first, where they have an
        `undo=`; the run's `why` says what was, and what could not be.  What failed is tried three
        times.  Where its code cannot be imported here, a worker that has it does that.

        Raises:
            RunNotFound: there is no such run.
            UsageError: it is completed, failed or rejected: there is nothing to cancel.  Or it has
                ended, cancelled without `undo`, and something could have been taken back.

        """
        return self._background.run(self.acancel(run_id, reason=reason, by=by, undo=undo))

    async def acancel(
        self, run_id: str, *, reason: str = "", by: str = "", undo: bool = False
    ) -> Run:
        """End a run for good, and return it.  Async; as `cancel`."""
        run = await self._aside(self._control, run_id, "cancel", reason, by, undo=undo)
        if await self._aside(self._above, run) is None:
            await self._end_cancelled(run_id)
        return await self._aside(self.get, run_id)

    def approve(  # noqa: PLR0913  (all but one are keywords with defaults)
        self,
        run_id: str,
        *,
        call: str | None = None,
        name: str | None = None,
        arguments: Mapping[str, Any] | None = None,
        answer: Any = None,
        note: str = "",
        by: str = "",
    ) -> Run:
        """Allow what a run asks a person for, and return the run; nothing is driven here.

        A worker goes on with it, or `resume`.  To approve it again changes nothing.

        Args:
            run_id: the run that asks.
            call: the call of a tool that is meant; with neither this nor `name`, the only open
                question.
            name: the question of a flow that is meant.
            arguments: what the tool is called with instead; Claude is told of that.
            answer: what is the answer instead, where the run asks whether one is.
            note: what there is to say to it.
            by: who allows it.

        Raises:
            RunNotFound: there is no such run.
            UsageError: nothing like that is asked, somebody said something else before, its time
                is over, or the run has ended.  Nothing was written.
            InvalidInput: the arguments do not fit the tool, or the answer is not of the agent's
                type.  Nothing was written.

        """
        given = NULL if arguments is None else as_arguments(arguments)
        edited = NULL if answer is None else as_answer(answer)
        said = Answer(
            approved=True, call=call, name=name, arguments=given, answer=edited, note=note, by=by
        )
        return self._answered(run_id, said)

    def deny(
        self,
        run_id: str,
        *,
        call: str | None = None,
        name: str | None = None,
        note: str = "",
        by: str = "",
    ) -> Run:
        """Refuse what a run asks a person for, and return the run; nothing is driven here.

        A tool is not called, and Claude is told, with the note; a flow gets an `Approval` that is
        false.  The rest is as for `approve`.
        """
        return self._answered(
            run_id, Answer(approved=False, call=call, name=name, note=note, by=by)
        )

    def reconcile(  # noqa: PLR0913  (all but one are keywords)
        self,
        run_id: str,
        *,
        outcome: Said,
        call: str | None = None,
        result: Any = None,
        note: str = "",
        by: str = "",
    ) -> Run:
        """Say what became of a call of a tool in doubt, and return the run; nothing is driven here.

        A worker goes on with the run, or `resume`, and Claude is told then.  To say it again
        changes nothing.  It may be said before the tool's own `reconcile=` has found it out.

        Args:
            run_id: the run that waits to hear it.
            outcome: `happened` or `did-not`.
            call: which call; by default the only one in doubt.
            result: what the call gave, where it happened: a text, or anything that can be written
                as JSON.  Claude gets it as it gets results, cut where it is too long.
            note: what there is to say to it; Claude is told it, too.
            by: who says so.

        Raises:
            RunNotFound: there is no such run.
            UsageError: nothing like that is in doubt, somebody said something else before, the run
                has ended, or what did not happen is given a result.  Nothing was written.
            InvalidInput: the result cannot be shown.  Nothing was written.

        """
        self.get(run_id)
        said = word(outcome, result=result, call=call, note=note, by=by)
        _check_text("the note", note, by)
        _check_text("the call", call or "")
        hidden = replace(said, note=self._redact(note), by=self._redact(by))
        put, redact = self._journal.put_blob, self._redact

        def render(limit: int) -> Raw:
            return as_content(result, limit=limit, put=put, redact=redact)

        reconcile(self._journal, run_id, hidden, render)
        self._nudge(run_id)
        return self.get(run_id)

    def label(  # noqa: PLR0913  (all but one are keywords)
        self,
        run_id: str,
        *,
        good: bool,
        why: str = "",
        by: str = "",
        attempt: int | None = None,
        ask: str | None = None,
    ) -> Run:
        """Say whether an answer is good, and return the run, which goes on as it would.

        `outlast judge report` compares checks and judges with it.  What was labelled may be
        labelled again, and the last word counts; the same by the same person changes nothing.

        Args:
            run_id: the run, which may have ended.
            good: whether the answer is.
            why: what there is to say to it.
            by: who says so.
            attempt: which answer to the question, from 1; by default the accepted one, and where
                none was accepted the last.
            ask: which question: the name of an ask in a flow, or such as `ask-1` in a
                conversation; by default the one that an answer came to last.

        Raises:
            RunNotFound: there is no such run.
            UsageError: it has no answer yet, or no such question or attempt.  Nothing was written.
            InvalidInput: what is said is not text.  Nothing was written.

        """
        self.get(run_id)
        check_label(good, attempt)
        _check_text("the label", why, by, ask or "")
        why, by = self._redact(why), by and self._redact(by)
        said = Label(good=good, attempt=attempt, ask=ask, why=why, by=by)
        label(self._journal, run_id, said)
        return self.get(run_id)

    def _answered(self, run_id: str, said: Answer) -> Run:
        self.get(run_id)
        _check_text("the note", said.note, said.by)
        _check_text("what is answered", said.call or "", said.name or "")
        hidden = replace(
            said,
            note=self._redact(said.note),
            by=self._redact(said.by),
            arguments=self._hidden(said.arguments),
            answer=self._hidden(said.answer),
        )
        answer(self._journal, run_id, hidden, partial(self._check_answer, run_id))
        self._nudge(run_id)
        return self.get(run_id)

    def _hidden(self, given: Raw) -> Raw:
        return Raw(within(bytes(given).decode(), self._redact).encode())

    def _check_answer(
        self, run_id: str, state: RunState, asked: Request, event: ApprovalGiven
    ) -> None:
        if not asked.of_answer and event.arguments != NULL:
            self._check_arguments(run_id, state, asked, event.arguments)
        started = state.started
        assert started is not None, "a run without its first event"  # noqa: S101
        if not asked.of_answer or not event.approved:
            return
        # The agents that a flow asks are known to its function only.
        who = self._code(run_id, state) if started.kind == "agent" else None
        answers = who.answers if isinstance(who, Agent) else None
        given = asked.answer if event.answer == NULL else event.answer
        if answers is None:
            check_shape(state, asked, given)
            return
        try:
            answers.read(given)
        except InvalidAnswer as error:
            raise InvalidInput(
                f"nothing was written: the answer is not of the type that {started.agent} "
                f"declares: {error}; give another one (on the command line: --edit-answer)"
            ) from error

    def _check_arguments(
        self, run_id: str, state: RunState, asked: Request, arguments: Raw
    ) -> None:
        started = state.started
        assert started is not None, "a run without its first event"  # noqa: S101
        who = self._code(run_id, state) if started.kind == "agent" else None
        # The agents that a flow asks are known to its function only.
        tool = who.tool(asked.tool) if isinstance(who, Agent) else None
        if started.kind != "agent" or tool is None:
            check_names(state, asked, arguments)
            return
        try:
            tool.arguments(bytes(arguments))
        except InvalidArguments as error:
            raise InvalidInput(f"nothing was written: {error}") from error

    def _control(self, run_id: str, verb: Verb, reason: str, by: str, *, undo: bool = False) -> Run:
        told = replace(self._order(run_id, verb, reason, by), undo=undo)
        self._tell(run_id, told, strict=True)
        self._tell_below(run_id, told)
        return self.get(run_id)

    def _mend(self, run_id: str, verb: Verb, reason: str, by: str) -> Run:
        """Tell what waits for somebody in a tree to go on; what is paused by itself stays so."""
        told = self._order(run_id, verb, reason, by)
        for each in (run_id, *(one.id for one in self._journal.below(run_id))):
            mend(self._journal, each, told)
            self._nudge(each)
        return self.get(run_id)

    def _order(self, run_id: str, verb: Verb, reason: str, by: str) -> ControlGiven:
        self.get(run_id)
        _check_text("the reason", reason, by)
        return ControlGiven(verb=verb, reason=self._redact(reason), by=self._redact(by))

    def _tell_below(self, run_id: str, told: ControlGiven) -> None:
        # One that is begun meanwhile is told by the driver of the run above, once that has ended.
        for one in self._journal.below(run_id):
            self._tell(one.id, told, strict=False)

    def _tell(self, run_id: str, told: ControlGiven, *, strict: bool) -> None:
        tell(self._journal, run_id, told, strict=strict)
        self._nudge(run_id)

    def _nudge(self, run_id: str) -> None:
        for runner in (self._own, self._guest):
            if (leg := runner.live.get(run_id)) is not None:
                leg.nudge()
        if (waiting := self._waiting.get(run_id)) is not None:
            waiting.nudge()
        if self._employed is not None:
            self._employed.nudge()

    async def _end_cancelled(self, run_id: str) -> None:
        """End a run that was cancelled and all below it, as far as nobody drives them."""
        below = await self._aside(self._journal.below, run_id)
        # What is below it was mostly begun later, and what was done last is taken back first.
        for each in (*(one.id for one in reversed(below)), run_id):
            with suppress(Busy, Fenced):  # then its driver does
                await self._end_one(each)

    async def _end_one(self, run_id: str) -> None:
        """End a run that was cancelled, unless a worker is needed that has its code."""
        stream = run_stream(run_id)
        while True:
            state = fold(await self._aside(self._journal.read, stream))
            if not state.control.cancelled or state.status in FINAL:
                return
            if (who := await self._aside(self._ender, run_id, state)) is None:
                return
            forced = bool(self._forced) and await self._aside(self._is_forced, run_id)
            epoch = await self._claimed(stream, force=forced)
            try:
                # Told meanwhile to take back what it did, it is left by whoever has not its code.
                after = await self._runner().drive(run_id, who, epoch=epoch, watch=Watch())
            finally:
                self._journal.release(stream)
            if who is not NOBODY or not owes(after):
                return

    def _ender(self, run_id: str, state: RunState) -> Who | None:
        """Return whom a cancelled run is ended with; `None` where its code is needed for that."""
        return self._code(run_id, state) if owes(state) else NOBODY

    def _code(self, run_id: str, state: RunState) -> Who | None:
        """Return what a run was started with, where that is known or can be imported."""
        started = state.started
        assert started is not None, "a run without its first event"  # noqa: S101
        who = self._seen.get(started.agent)
        if who is None:
            with suppress(Exception):  # it is the user's module, and may be anything or nowhere
                who = located(run_id, started)
        return who

    async def _end_below(self, run_id: str, control: Control) -> None:
        """Tell the runs below one that was cancelled: it may have begun some meanwhile."""
        told = ControlGiven(verb="cancel", reason=control.reason, by=control.by, undo=control.undo)
        await self._aside(self._tell_below, run_id, told)
        give_up_at = time.monotonic() + 2 * PATIENCE_S
        while any(
            one.status not in ENDED for one in await self._aside(self._journal.below, run_id)
        ):
            await self._end_cancelled(run_id)
            if time.monotonic() >= give_up_at:
                return  # another process drives one of them, and ends it
            await asyncio.sleep(_POLL_S)

    # ── time travel ─────────────────────────────────────────────────────────────────────────────

    def fork(
        self, run_id: str, *, at: int, new_id: str | None = None, reason: str = "", by: str = ""
    ) -> Run:
        """Write a run that shares what another one did up to an event, and return it.

        Nothing is driven here, and nothing that is shared is done or paid again.  The new run is
        `queued`: a worker goes on with it, or `resume`; one that is forked after its answer is
        `completed`, and goes on with `send`.  What people told the other run, or allowed it, counts
        for that one only.  What the new run spends is paid from the tree of the other one, too.

        The same fork again is the same run.

        Args:
            run_id: the run that is forked; it may be at work, or over.
            at: the last event that is shared, by its number in the journal; nothing may be in
                flight after it.
            new_id: what the new run is called; by default `ID~AT`.
            reason: why, for the journal.
            by: who says so.

        Raises:
            RunNotFound: there is no such run.
            UsageError: it cannot be forked there; what is in flight is named, and where nothing is.
            RunConflict: `new_id` is taken by something else.
            InvalidInput: `new_id` cannot be the name of a run.

        """
        self.get(run_id)
        _check_text("the reason", reason, by)
        fork = fork_id(run_id, at) if new_id is None else _checked_id(new_id)
        told = {"reason": self._redact(reason), "by": self._redact(by)}
        found = branch(self._journal, run_id, at, fork, now=time.time_ns(), **told)
        if self._employed is not None:
            self._employed.nudge()
        run = self._told_of(found)
        return run._left(  # noqa: SLF001  (nobody else leaves runs)
            lambda wait_s: self._whole(self._ended(run.id, wait_s), self._seen.get(run.agent))
        )

    # ── budgets ─────────────────────────────────────────────────────────────────────────────────

    def set_budget(  # noqa: PLR0913  (all but one are keywords with defaults)
        self,
        scope: str,
        *,
        usd: Decimal | float | str | None = None,
        tokens: int | None = None,
        calls: int | None = None,
        turns: int | None = None,
        window: str = "total",
        tz: str = "UTC",
        notify: Iterable[int] = (),
        binding: bool = True,
        reason: str,
        by: str = "",
    ) -> None:
        """Give a scope a budget, or take it away where no amount is given.

        From then on every call, of every process, has to fit into it before it is made.  What was
        spent before counts, as far as the hourly roll-up knows it.

        Args:
            scope: `fleet`, `tenant:NAME`, `agent:NAME`, `agent:NAME@VERSION`, `model:NAME`;
                `run:ID`, which takes the place of what the run's agent declares; or `tree:ID`, for
                a run and all below it.
            usd: US dollars.
            tokens: of prompts and replies together.
            calls: attempts at calls of the model.
            turns: those of them that were billed, or may have been.
            window: `total`, for ever; `day` or `month`, for each of them; or hours that roll on,
                such as `24h`.
            tz: the time zone whose days and months count.
            notify: at how many percent of an amount somebody is told, such as `[50, 80]`: by a
                warning of the logger `outlast`, and an event in the stream `~budgets`.
            binding: whether calls have to fit; otherwise they are only counted, and told of.
            reason: why, for the journal; not empty.
            by: who says so.

        Raises:
            UsageError: an argument is not what it has to be, or `notify` or `binding=False` is
                given without an amount; nothing was written.

        """
        event = budget_set(
            scope,
            usd=usd,
            tokens=tokens,
            calls=calls,
            turns=turns,
            window=window,
            tz=tz,
            notify=notify,
            binding=binding,
            reason=reason,
            by=by,
        )
        logs.tell(set_budget(self._journal, event, at=time.time_ns()))

    # ── schedules ───────────────────────────────────────────────────────────────────────────────

    def schedule(  # noqa: PLR0913  (all but three are keywords with defaults)
        self,
        name: str,
        agent: Who,
        input: Any = None,  # noqa: A002  (what it is)
        *,
        cron: str,
        tz: str = "UTC",
        tenant: str = "",
        tags: Mapping[str, str] | None = None,
        reason: str = "",
        by: str = "",
    ) -> Schedule:
        """Run an agent or a flow at the times of a cron expression, and return the schedule.

        Workers start the runs; each is called like its moment, as in `digest@2026-11-24T08:00Z`.
        The first is that of the first time after now; of times that went by while no worker ran
        only the latest is run.  One that is set again with something else counts from then; set
        again as it is, it stays as it is.

        Args:
            name: what the schedule is called: letters, digits, `.`, `_` and `-`.
            agent: what to run.  Workers import it from where it is declared; what is declared in
                a script, or inside a function, they have to know by its name.
            input: what to ask it, as for `run`.
            cron: minute, hour, day of the month, month and day of the week, such as `0 9 * * MON`;
                with a sixth field in front, that is the second.
            tz: the time zone whose clock counts, such as `Europe/Berlin`.
            tenant: for whom the runs are.
            tags: whatever should be found with the runs later.
            reason: why, for the journal.
            by: who says so.

        Raises:
            UsageError: the name, the expression or the zone is none, or names no time to come.
            InvalidInput, UnknownModel, BudgetTooSmall: as `start`; nothing was written.

        """
        now = time.time_ns()
        kept = self._labels(f"schedule {name!r}", tenant, tags)
        event = ScheduleSet(name=name, cron=cron, tz=tz, reason=reason, by=by)
        check_schedule(event, at=now)
        if not cron:
            raise UsageError(f"schedule {name!r} has no cron expression; see `unschedule`")
        content = input_of(agent, input, put=self._journal.put_blob, redact=self._redact)
        if isinstance(agent, Agent):
            check_affordable(agent, content)
        self._seen[agent.name] = agent
        event = replace(
            event,
            agent=agent.name,
            kind="agent" if isinstance(agent, Agent) else "flow",
            code=code_location(agent),
            input=content,
            tenant=tenant,
            tags=kept,
            reason=self._redact(reason),
            by=by and self._redact(by),
        )
        found = set_schedule(self._journal, event, at=now)
        assert found is not None, "a schedule that was set"  # noqa: S101
        return found

    def unschedule(self, name: str, *, reason: str = "", by: str = "") -> None:
        """Take a schedule away; its runs stay, and those that were begun go on.

        Raises:
            UsageError: there is none of that name.

        """
        now = time.time_ns()
        event = check_schedule(ScheduleSet(name=name, reason=reason, by=by), at=now)
        if name not in (known := schedules(self._journal).of):
            there = ", ".join(sorted(known)) or "none"
            raise UsageError(f"there is no schedule {name!r}; those that are set: {there}")
        kept = replace(event, reason=self._redact(reason), by=by and self._redact(by))
        set_schedule(self._journal, kept, at=now)

    def schedules(self) -> list[Schedule]:
        """Return the schedules that are set, by name, each with its next time and its last run."""
        return [one for _, one in sorted(schedules(self._journal).of.items())]

    # ── counting ────────────────────────────────────────────────────────────────────────────────

    def count_tokens(self, agent: Agent, input: Input) -> int:  # noqa: A002  (what it is)
        """Return how many tokens the first request of such a run would have, as the API counts.

        It costs nothing, and nothing is written.

        Raises:
            InvalidInput: the API would not take the input.
            ModelFailure: the API did not count, or the model cannot.

        """
        return self._background.run(self.acount_tokens(agent, input))

    async def acount_tokens(self, agent: Agent, input: Input) -> int:  # noqa: A002  (what it is)
        """Do what `count_tokens` does, on the caller's event loop."""
        blobs: dict[str, bytes] = {}

        def put(data: bytes) -> str:
            digest = sha256(data).hexdigest()
            blobs[digest] = data
            return digest

        content = rendered(input, put=put, redact=self._redact)
        return await self._runner().count(first_request(agent.spec(), content, blobs.get))

    # ── streaming ───────────────────────────────────────────────────────────────────────────────

    def stream(  # noqa: PLR0913  (as run)
        self,
        agent: Who,
        input: Any = None,  # noqa: A002  (what it is)
        *,
        run_id: str | None = None,
        tenant: str = "",
        tags: Mapping[str, str] | None = None,
        wait_s: float = 30.0,
    ) -> Stream:
        """Run the agent on the input as `run` does, and return its parts to iterate over.

        What the journal holds of the run comes first, so who comes again with the same `run_id`
        sees the whole; of a run that is finished everything comes, without a single call.  Each
        part names its call and attempt; one of the kind `discarded` says that this attempt came to
        nothing, and that what was shown of it does not count.

            with app.stream(agent, "Find five grants.", run_id="grants-001") as stream:
                for part in stream:
                    if part.kind == "text":
                        print(part.text, end="")
                    elif part.kind == "discarded":
                        print(" [once more] ")  # what was shown of part.call_id does not count
            print(stream.run.status)

        Nothing happens before the first part is asked for; what `run` raises is raised then, or
        where it happens.  Leaving early stops driving the run; see `Stream`.
        """
        stream = self.astream(agent, input, run_id=run_id, tenant=tenant, tags=tags, wait_s=wait_s)
        return Stream(stream, self._background)

    def astream(  # noqa: PLR0913  (as run)
        self,
        agent: Who,
        input: Any = None,  # noqa: A002  (what it is)
        *,
        run_id: str | None = None,
        tenant: str = "",
        tags: Mapping[str, str] | None = None,
        wait_s: float = 30.0,
    ) -> AsyncStream:
        """Do what `stream` does, on the caller's event loop; iterate with `async for`."""
        run_id = _named(agent) if run_id is None else run_id

        async def driven(feed: Feed) -> Run:
            await self._aside(self.start, agent, input, run_id=run_id, tenant=tenant, tags=tags)
            watch = Watch(feed.read, feed.hear)
            return await self._driven(run_id, agent, wait_s, watch, self._on_change, feed)

        return AsyncStream(run_id, driven)

    # ── looking ─────────────────────────────────────────────────────────────────────────────────

    def get(self, run_id: str) -> Run:
        """Return the run as it is now.

        Raises:
            RunNotFound: there is no such run.

        """
        return self._told_of(self._row(run_id))

    def _row(self, run_id: str) -> RunRow:
        if (found := self._journal.run(run_id)) is None:
            raise RunNotFound(run_id, store=self._journal.url)
        return found

    def _glance(self, run_id: str) -> Run:
        """Return a run as its row tells of it, for whoever looks again and again."""
        return run_of(self._row(run_id))

    def _whole(self, run: Run, who: Who | None = None) -> Run:
        """Return a run with all that is told of it, its answer as its agent declares it."""
        row = self._row(run.id)
        if run.status == row.status and row.rejections:
            run = dataclasses.replace(run, rejected_answers=self._told_of(row).rejected_answers)
        is_answered = run.status == row.status == "completed" and row.answer is not None
        if who is None or not is_answered:
            return run
        return as_declared(run, Raw(str(row.answer).encode()), who)

    def _told_of(self, found: RunRow) -> Run:
        """Return a run as its row tells of it; what only its journal knows is read there."""
        if not found.rejections:
            return run_of(found)
        return run_of(found, fold(self._journal.read(run_stream(found.id))).validation.rejected)

    def runs(
        self, *, status: str | None = None, agent: str | None = None, limit: int | None = None
    ) -> list[Run]:
        """Return the runs of the store, newest first."""
        return [
            self._told_of(found)
            for found in self._journal.runs(status=status, agent=agent, limit=limit)
        ]

    def log(self, run_id: str, *, after: int = 0) -> list[Record]:
        """Return the records of a run whose seq is above `after`.

        Raises:
            RunNotFound: there is no such run.

        """
        self.get(run_id)
        return self._journal.read(run_stream(run_id), after=after)

    def note(self, run_id: str, text: str, *, by: str = "") -> None:
        """Write a remark into a run's journal, whoever is driving it.

        Raises:
            RunNotFound: there is no such run.
            InvalidInput: the remark is not text.

        """
        self.get(run_id)
        _check_text("the note", text, by)
        note = NoteAdded(text=self._redact(text), by=by and self._redact(by))
        noted = Commit(stream=run_stream(run_id), events=(note,), at=time.time_ns())
        logs.tell(self._journal.append(noted))

    # ── inside ──────────────────────────────────────────────────────────────────────────────────

    async def _driven(  # noqa: PLR0913, PLR0917  (what a drive is of, and who is told)
        self,
        run_id: str,
        who: Who,
        wait_s: float,
        watch: Watch,
        on_change: OnChange,
        feed: Feed | None = None,
        resting: Resting | None = None,
    ) -> Run:
        """Drive a run, or its fork, where one that was changed is to be left as it is."""
        driven = {run_id}
        first = run_id
        while True:
            try:
                if on_change == "fork":
                    await self._aside(self._check_before, run_id, who)
                run = await self._drive(
                    run_id, who, wait_s, watch, on_change, feed, resting=resting
                )
                return await self._aside(self._whole, run, who)
            except VersionChanged as changed:
                if on_change != "fork" or (feed is not None and feed.seq):
                    raise
                run_id = await self._aside(fork, self._journal, first, who, changed.given)
                if run_id in driven:
                    raise
                driven.add(run_id)

    def _check_before(self, run_id: str, who: Who) -> None:
        """Find a run that is not to be gone on with before anything of it is shown."""
        status = self.get(run_id).status
        if status not in ENDED:
            self._checked_who(run_id, who, "fork")

    def _checked_who(self, run_id: str, who: Who, on_change: OnChange) -> OnChange:
        """Refuse to go on with a run that was changed; return what holds for its asks."""
        try:
            check_who(self._journal, run_id, who, on_change)
        except VersionChanged:
            # One that is to end goes on with nothing; and only functions of now take back anything.
            if not fold(self._journal.read(run_stream(run_id))).control.cancelled:
                raise
            return "recorded"
        return on_change

    async def _drive(  # noqa: PLR0911, PLR0912, PLR0913, PLR0917  (what a drive is of, and who is told)
        self,
        run_id: str,
        who: Who,
        wait_s: float,
        watch: Watch,
        on_change: OnChange,
        feed: Feed | None = None,
        message: _Message | None = None,
        resting: Resting | None = None,
    ) -> Run:
        give_up_at = time.monotonic() + wait_s
        fenced = False
        while True:
            run = await self._aside(self._glance, run_id)
            await self._read_on(run_id, feed)
            unsaid = message is not None and not message.said
            if unsaid and run.status in FINAL:
                raise RunEnded(run_id, status=run.status)
            if run.status in FINAL or (run.status == "completed" and not unsaid):
                return run
            if run.status == "paused" and not unsaid and resting is None:
                return run
            if resting is not None and self._runner().draining:
                resting.asleep(run)
                return run
            if fenced and run.status == "stopped" and not unsaid:
                return run  # whoever took it over has come to its end
            left_s = _left_s(run)
            if run.status in PARKED:
                left_s = await self._aside(self._left_below_s, run)
            called = run.status in PARKED and left_s <= 0
            if not unsaid and left_s > 0:
                if left_s > wait_s or self._runner().draining:
                    return run
                await self._told_within(run, left_s, resting)
                if resting is not None:
                    await resting.awake()
                continue
            try:
                if not fenced:
                    run = await self._drive_claimed(
                        run_id, who, watch, on_change, feed, message, called=called
                    )
                    waits = run.status in PARKED or (run.status == "paused" and resting is not None)
                    if resting is not None and self._runner().draining:
                        continue  # whoever waits for it is told
                    if not waits or _left_s(run) > wait_s or self._runner().draining:
                        return run
                    continue
                holder = "another process"
            except Busy as busy:
                if wait_s == AT_ONCE_S:
                    raise
                holder = busy.holder
            except Fenced:
                if wait_s == AT_ONCE_S:
                    raise
                # Whoever took the run over is not to lose it again: from here on, only look.
                fenced, holder = True, "another process"
            if time.monotonic() >= give_up_at:
                if message is not None and not message.said:
                    raise UsageError(
                        f"run {run_id!r} was driven by {holder} for all of wait_s={wait_s:g}, so "
                        "nothing was said; wait for it, then send again"
                    )
                return _because(self._glance(run_id), f"driven by {holder}")
            await asyncio.sleep(_POLL_S)
            if fenced and await self._aside(self._journal.abandoned, run_stream(run_id)):
                fenced = False  # whoever took it over is gone, and nobody would lose it

    async def _told_within(self, run: Run, left_s: float, resting: Resting | None) -> None:
        """Let the time of a run that waits go by, unless somebody writes something.

        It may be written into the run, or into one below it.
        """
        rows = await self._aside(self._journal.below, run.id)
        row = await self._aside(self._journal.run, run.id)
        now = time.time_ns()
        below = _awaited(run.id, rows) if run.status in PARKED else []
        if row is None or row.status != run.status or any(one.is_due(now) for one in below):
            return
        told = asyncio.Event()
        loop = asyncio.get_running_loop()
        news = {
            one.id: _Waiting(loop, told, one.next_seq - 1, self._waiting.get(one.id))
            for one in (row, *rows)
        }
        self._waiting.update(news)
        self._signals.look()
        if resting is not None:
            resting.asleep(run)
        try:
            # Not `wait_for`, which takes no notice of being cancelled where it is told as well.
            async with asyncio.timeout(None if math.isinf(left_s) else left_s):
                await told.wait()
        except TimeoutError:
            return
        finally:
            for run_id, waiting in news.items():
                waiting.gone = True
                if self._waiting.get(run_id) is waiting:
                    del self._waiting[run_id]
                    if (before := waiting.before()) is not None:
                        self._waiting[run_id] = before

    async def _worked(self, run_id: str, who: Who, *, force: bool = False, worker: str = "") -> Run:
        """Drive a run to rest, as a worker does: at once, or not at all.

        The `worker` of that id has its lease meanwhile.  With `force` it is taken from a driver
        that may still live, too, and so are all runs below.  Where somebody else drives it, or
        takes it over, that is raised as `Busy` or `Fenced`.
        """
        if force:
            self._forced.add(run_id)
        try:
            self._leased[run_id] = worker
            return await self._driven(run_id, who, AT_ONCE_S, Watch(), self._on_change)
        finally:
            self._leased.pop(run_id, None)
            self._forced.discard(run_id)

    def _begin_work(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Let a worker's coroutine run on the application's own loop; return its future."""
        return self._background.begin(work)

    def _employ(self, worker: Employed) -> None:
        """Take note of a worker, which is told when there is something to drive.

        Raises:
            UsageError: there is one; it would be drained with the other.

        """
        if self._employed is not None:
            raise UsageError(
                "this application has a worker at work; give a second one an Outlast of its own, "
                "or the first one a greater at_once"
            )
        self._employed = worker
        self._own.employed, self._own.draining = True, False

    def _dismiss(self) -> None:
        """Forget the worker, which has ended."""
        self._employed = None
        self._own.employed = self._own.draining = False

    def _drain(self) -> None:
        """Begin nothing more on the application's own loop: its runs are parked."""
        self._own.drain()
        for waiting in [*self._waiting.values()]:
            waiting.nudge()

    async def _end_told(self, run_id: str, *, force: bool = False) -> Run:
        """End a run that was cancelled, which takes none of its code; `force` as for `_worked`."""
        if force:
            self._forced.add(run_id)
        try:
            await self._end_cancelled(run_id)
        finally:
            self._forced.discard(run_id)
        return await self._aside(self.get, run_id)

    def _above(self, run: Run) -> RunRow | None:
        """Return the root of a run whose parent is parked until it goes on; `None` for others."""
        parent = self._journal.run(run.parent) if run.parent else None
        if parent is None or parent.status not in (*PARKED, "paused"):
            return None
        return self._journal.run(parent.root)

    def _check_root(self, run: Run) -> None:
        """Refuse to drive a run behind the back of the one that waits for it."""
        if run.status not in ENDED and (root := self._above(run)) is not None:
            raise UsageError(
                f"run {run.id!r} is below run {root.id!r}, which waits for it and goes on with it; "
                f"go on with that one: outlast resume {root.id}"
            )

    def _left_below_s(self, run: Run) -> float:
        """Return for how long a run that is parked, and all below it, are to be left alone."""
        now = time.time_ns()
        rows = _awaited(run.id, self._journal.below(run.id))
        if any(row.is_due(now) for row in rows):
            return 0.0
        waits = [run_of(row) for row in rows if row.status in PARKED]
        return min(map(_left_s, (run, *waits)))

    def _runner(self) -> Runner:
        return self._own if self._at_home() else self._guest

    async def _drive_claimed(  # noqa: PLR0913, PLR0917  (as _drive)
        self,
        run_id: str,
        who: Who,
        watch: Watch,
        on_change: OnChange,
        feed: Feed | None,
        message: _Message | None,
        *,
        called: bool,
    ) -> Run:
        self._seen[who.name] = who
        on_change = await self._aside(self._checked_who, run_id, who, on_change)
        runner = self._runner()
        stream = run_stream(run_id)
        forced = bool(self._forced) and await self._aside(self._is_forced, run_id)
        worker = self._leased.get(run_id, "")
        epoch = await self._claimed(stream, force=forced, worker=worker)
        self._declared[run_id] = who.budget.limits
        try:
            if message is not None and not message.said:
                await self._aside(self._say, run_id, message, epoch)
            await self._read_on(run_id, feed)  # what others wrote until the run was claimed
            state = await runner.drive(
                run_id,
                who,
                epoch=epoch,
                watch=watch,
                check=partial(self._check_ask, run_id, on_change),
                spawn=partial(self._spawned, on_change),
                above=await self._aside(ancestors, self._journal, run_id, self._declared),
                called=called,
            )
        finally:
            self._declared.pop(run_id, None)
            self._journal.release(stream)
        if state.status == "cancelled":
            await self._end_below(run_id, state.control)
        return run_of(row(state, run_id))

    def _check_ask(
        self, run_id: str, on_change: OnChange, ask: Conversation, agent: Agent, version: str
    ) -> None:
        check_ask(self._journal, run_id, ask, agent, version, on_change)

    async def _spawned(  # noqa: PLR0913  (what a child is of)
        self,
        on_change: OnChange,
        run_id: str,
        who: Who,
        given: Any,
        *,
        parent: str,
        root: str,
        tenant: str,
        resting: Resting,
        batch: bool = False,
    ) -> Run:
        """Drive a child run to its end, from wherever its journal ends."""
        more = {"parent": parent, "root": root, "tenant": tenant, "batch": batch}
        run = await self._aside(partial(self._started, run_id, who, given, **more))
        if run.parent != parent:
            raise RunConflict(run_id, what="parent", recorded=run.parent, given=parent)
        return await self._driven(run_id, who, math.inf, Watch(), on_change, resting=resting)

    # ── talking on ──────────────────────────────────────────────────────────────────────────────

    def send(  # noqa: PLR0913  (all but two are keywords with defaults)
        self,
        run_id: str,
        input: Input,  # noqa: A002  (what it is)
        *,
        agent: Agent | None = None,
        wait_s: float = 30.0,
        on_record: Callable[[Record], None] | None = None,
        on_part: Callable[[Part], None] | None = None,
    ) -> Run:
        """Say something more to the agent of a run, drive it to rest, and return the run.

        The conversation goes on with its whole history.  Where the last question has no answer
        yet, as after a crash or a refused key, the same input again is that question: it is asked
        once.

        Args:
            run_id: the run.
            input: what to say: as for `run`.
            agent: the run's agent; by default the one this application knows by its name, or else
                imported from where it was declared.
            wait_s: as for `run`.
            on_record: as for `run`.
            on_part: as for `run`.

        Raises:
            RunNotFound: there is no such run.
            RunEnded: it failed, was rejected or cancelled.
            UsageError: it is a flow's, its last question is another one and has no answer yet, or
                others drove it for all of `wait_s`; nothing was said.
            InvalidInput: the API would not take the input.
            VersionChanged: the agent was changed, and `Outlast(on_change=…)` is not `recorded`: a
                conversation cannot be forked.

        """
        return self._background.run(
            self.asend(
                run_id, input, agent=agent, wait_s=wait_s, on_record=on_record, on_part=on_part
            )
        )

    async def asend(  # noqa: PLR0913  (as send)
        self,
        run_id: str,
        input: Input,  # noqa: A002  (what it is)
        *,
        agent: Agent | None = None,
        wait_s: float = 30.0,
        on_record: Callable[[Record], None] | None = None,
        on_part: Callable[[Part], None] | None = None,
    ) -> Run:
        """Do what `send` does, on the caller's event loop."""
        run = await self._aside(self.get, run_id)
        if run.status in FINAL:
            raise RunEnded(run_id, status=run.status)
        if run.parent:
            # Its answer is its parent's to hear, and another question would have another one.
            raise UsageError(
                f"run {run_id!r} is a child of run {run.parent!r}, which waits for its answer, so "
                "nothing can be said to it; start a run of your own"
            )
        who = await self._aside(self._agent_of, run_id, agent)
        content = await self._aside(
            partial(input_of, who, input, put=self._journal.put_blob, redact=self._redact)
        )
        watch, message = Watch(on_record, on_part), _Message(content)
        run = await self._drive(run_id, who, wait_s, watch, self._on_change, None, message)
        return await self._aside(self._whole, run, who)

    def _agent_of(self, run_id: str, given: Agent | None) -> Agent:
        """Return the agent to talk to: as given, as this application knows it, or as declared."""
        started = fold(self._journal.read(run_stream(run_id), limit=1)).started
        assert started is not None, "a run without its first event"  # noqa: S101
        if started.kind == "flow":
            raise UsageError(
                f"run {run_id!r} is of flow {started.agent!r}, which says itself what it asks; "
                "`send` is for the run of an agent"
            )
        who = given or self._seen.get(started.agent)
        who = who if isinstance(who, Agent) else located(run_id, started)
        if not isinstance(who, Agent):
            raise UsageError(
                f"run {run_id!r} was started with agent {started.agent!r}, and {started.code} is a "
                "flow now; give agent=…"
            )
        return who

    def _say(self, run_id: str, message: _Message, epoch: int) -> None:
        """Open another question in a claimed run, unless its last one is the same and open."""
        while not message.said:
            with suppress(Conflict):  # somebody wrote a note, and now it is read
                self._try_to_say(run_id, message.content, epoch)
                message.said = True

    def _try_to_say(self, run_id: str, content: Raw, epoch: int) -> None:
        stream = run_stream(run_id)
        state = fold(self._journal.read(stream))
        asks = [ask for ask in state.asks.values() if not ask.judges]
        last = asks[-1]
        if last.answer is None:
            if last.asked == content:
                return
            raise UsageError(
                f"run {run_id!r} has not answered {shortened(last.asked)} yet, so nothing more can "
                "be said; go on with `resume`, and then say it"
            )
        events = question(f"ask-{len(asks) + 1}", content, continues=last.ask_id)
        now = time.time_ns()
        after = fold(
            [
                Record(stream, state.next_seq + n, 0, now, epoch, event)
                for n, event in enumerate(events)
            ],
            state,
        )
        logs.tell(
            self._journal.append(
                Commit(
                    stream=stream,
                    events=events,
                    at=now,
                    expected_seq=state.next_seq,
                    epoch=epoch,
                    row=row(after, run_id),
                )
            )
        )

    async def _read_on(self, run_id: str, feed: Feed | None) -> None:
        """Feed what the journal holds and was not fed yet."""
        if feed is not None:
            stream = run_stream(run_id)
            for record in await self._aside(self._journal.read, stream, after=feed.seq):
                feed.read(record)

    def _at_home(self) -> bool:
        """Return whether this is outlast's own loop, which serves nobody else."""
        return self._background.owns(asyncio.get_running_loop())

    async def _aside(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do blocking work without holding up a loop that serves others, such as a web server."""
        if self._at_home():
            return work(*args, **kwargs)
        return await asyncio.to_thread(work, *args, **kwargs)

    def _is_forced(self, run_id: str) -> bool:
        """Return whether whoever holds a run was frozen when the root of its tree was taken."""
        row = self._journal.run(run_id)
        return row is not None and (row.root or row.id) in self._forced

    async def _claimed(self, stream: str, *, force: bool = False, worker: str = "") -> int:
        how: dict[str, Any] = {"force": True} if force else {}
        how |= {"worker": worker} if worker else {}
        claim = partial(self._journal.claim, stream, **how)
        if self._at_home():
            await asyncio.sleep(0)  # whoever is just letting go of it comes first
            return claim()
        return await claimed(claim, partial(self._journal.release, stream))


class Employed(Protocol):
    """A worker, as its application knows it."""

    def nudge(self) -> None:
        """Look for work at once."""

    def end(self) -> None:
        """Begin nothing more, and end soon."""


class _Waiting:
    """Somebody who waits for a parked run, and is told when others write into it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        told: asyncio.Event,
        seq: int,
        before: _Waiting | None,
    ) -> None:
        self.seq = seq
        self.gone = False
        self._told = told
        self._loop = loop
        self._before = before

    def before(self) -> _Waiting | None:
        """Return the last one that came before and still waits."""
        while self._before is not None and self._before.gone:
            self._before = self._before._before  # noqa: SLF001
        return self._before

    def nudge(self) -> None:
        with suppress(RuntimeError):  # the loop is closed, and nobody waits
            self._loop.call_soon_threadsafe(self._told.set)
        if (before := self.before()) is not None:
            before.nudge()


@dataclass
class _Message:
    """What is to be said in a run before it is driven, and whether that is done."""

    content: Raw
    said: bool = False


def _checked_change(on_change: OnChange) -> OnChange:
    if on_change not in get_args(OnChange):
        raise UsageError(f"on_change={on_change!r}: give 'recorded', 'refuse' or 'fork'")
    return on_change


def _instant(run_at: datetime) -> int:
    """Return a time in nanoseconds since the epoch."""
    if not isinstance(run_at, datetime) or run_at.tzinfo is None:
        raise UsageError(
            f"run_at={run_at!r}: give a datetime with a time zone, such as "
            "datetime(2026, 12, 24, 18, tzinfo=ZoneInfo('Europe/Berlin'))"
        )
    if not _FIRST <= run_at.year <= _LAST:
        raise UsageError(f"run_at={run_at}: give a time between the years {_FIRST} and {_LAST}")
    return int(run_at.timestamp()) * 1_000_000_000 + run_at.microsecond * 1_000


def _named(who: Who) -> str:
    return f"{getattr(who, 'name', 'run')}-{secrets.token_hex(4)}"


def _awaited(run_id: str, rows: Iterable[RunRow]) -> list[RunRow]:
    """Return the runs below one that it reaches when it is driven: none below a paused one."""
    below: dict[str, list[RunRow]] = {}
    for each in rows:
        below.setdefault(each.parent, []).append(each)
    found: list[RunRow] = []
    above = [run_id]
    while above:
        nearest = below.get(above.pop(), [])
        found += nearest
        above += [row.id for row in nearest if row.status in WAITING]
    return found


def _left_s(run: Run) -> float:
    """Return for how long a run is to be left alone; without an end where that is for others."""
    if run.status not in (*PARKED, "paused"):
        return 0.0
    if run.status == "paused" or run.wake_at is None:
        return math.inf
    return (run.wake_at - time.time_ns()) / 1_000_000_000


def _because(run: Run, why: str) -> Run:
    return dataclasses.replace(run, why=why)


def _checked_id(run_id: str) -> str:
    if not isinstance(run_id, str) or not _RUN_ID.fullmatch(run_id):
        raise InvalidInput(
            f"run id {run_id!r}: a run id is 1 to 200 letters, digits or any of '._:@/-', "
            "and begins with a letter or digit"
        )
    return run_id
