"""Forks: what is shared was done and paid once, and what comes after is another run's."""

from __future__ import annotations

import itertools
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from forked import EFFECTS, World, agent, billed, paid, writing

import outlast
from flow_stubs import named, opened
from outlast.agent import Budget
from outlast.doubts import doubts
from outlast.errors import InvalidInput, RunConflict, RunNotFound, StoreError, UsageError
from outlast.events import (
    ApprovalRequested,
    ControlGiven,
    LabelGiven,
    ModelCallStarted,
    RunForked,
    RunStarted,
    encode,
    tag,
)
from outlast.forking import in_flight
from outlast.journal import Commit, run_stream
from outlast.models.script import Fault, say, tool_use, turn_number
from outlast.models.scripted import ScriptedModel
from outlast.state import fold
from outlast.views.health import Reading
from outlast.worker import Worker
from stubs import asking


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/a.db"


@pytest.fixture
def world(tmp_path: Path) -> World:
    (tmp_path / "files").mkdir()
    return World(tmp_path / "files")


def forkable(app: outlast.Outlast, run_id: str = "r") -> list[int]:
    """Return the events at which a run can be forked."""
    found = []
    for record in app.log(run_id):
        with suppress(UsageError):
            app.fork(run_id, at=record.seq, new_id=f"probe/{record.seq}")
            found.append(record.seq)
    return found


# ── what is shared ──────────────────────────────────────────────────────────────────────────────


def test_nothing_that_is_shared_is_done_or_paid_again(world: World, url: str) -> None:
    """Forked anywhere, a run makes only the calls that were not made by then, under other keys."""
    model = ScriptedModel(writing)
    who = agent(*world.tools)
    with outlast.Outlast(url, model=model) as app:
        app.run(who, "Go.", run_id="r")
        assert len(world.written()) == len(EFFECTS)
        points = forkable(app)
        assert len(points) == 10, points
        for at in points[:-1]:
            before, calls = len(world.written()), len(model.calls)
            state = fold(app.log("r")[:at])
            fork = app.fork("r", at=at)
            assert (fork.status, fork.cost_nano) == ("queued", state.spend.nano)
            assert (len(world.written()), len(model.calls)) == (before, calls), "it did something"
            fork = app.resume(fork.id, who)
            assert (fork.status, fork.answer) == ("completed", "Written."), fork
            made = state.spend.tool_calls
            assert len(world.written()) - before == len(EFFECTS) - made
            assert len(model.calls) - calls == 4 - state.spend.turns
            assert fork.cost_nano == app.get("r").cost_nano, "its row has the whole of it"
        assert len({*world.keys()}) == len(world.keys()), "a key was used twice"
        assert paid(app) == billed(model)
        assert app.journal.balance("tree:r").taken == billed(model)
        assert app.journal.balance("tree:r").held == 0


def test_the_prefix_is_copied_as_it_is(world: World, url: str) -> None:
    """Bodies and times of what is shared are those of the original; only its first event is new."""
    with outlast.Outlast(url, model=ScriptedModel(writing)) as app:
        app.run(agent(*world.tools), "Go.", run_id="r", tenant="acme", tags={"k": "v"})
        fork = app.fork("r", at=9, reason="why not", by="ann")
        ours, theirs = app.log("r"), app.log(fork.id)
        assert [one.seq for one in theirs] == [*range(1, 11)]
        bodies = [
            [one.body for one in app.journal.proofs(run_stream(run_id))]
            for run_id in ("r", fork.id)
        ]
        assert bodies[0][1:9] == bodies[1][1:9]
        assert [one.at for one in ours[1:9]] == [one.at for one in theirs[1:9]]
        was, now = ours[0].event, theirs[0].event
        assert isinstance(was, RunStarted)
        assert isinstance(now, RunStarted)
        assert now.nonce != was.nonce
        assert (now.forked_from, now.forked_at, now.root) == ("r", 9, fork.id)
        assert (now.tenant, now.tags, now.spec) == (was.tenant, was.tags, was.spec)
        assert theirs[-1].event == RunForked(reason="why not", by="ann")
        meta = next(iter(app.journal.proofs(run_stream(fork.id)))).meta
        assert b'"forked_from":"r"' in meta
        assert b'"forked_at":9' in meta


def test_the_same_fork_again_is_the_same_run(world: World) -> None:
    """A repeated fork writes nothing; an id that something else has is refused."""
    with outlast.Outlast("memory://", model=ScriptedModel(writing)) as app:
        who = agent(*world.tools)
        app.run(who, "Go.", run_id="r")
        fork = app.fork("r", at=5)
        written = len(app.journal.read_all())
        assert app.fork("r", at=5) == fork
        assert len(app.journal.read_all()) == written
        other = app.fork("r", at=5, new_id="other")
        assert (fork.id, other.id) == ("r~5", "other")
        for run_id, at, new_id in (("r", 7, "other"), ("other", 5, "r~5"), ("r", 5, "r")):
            with pytest.raises(RunConflict, match="exists with another fork"):
                app.fork(run_id, at=at, new_id=new_id)
        deeper = app.fork("r~5", at=6)
        assert deeper.id == "r~5~6"
        assert app.resume(deeper.id, who).status == "completed"
        assert app.run(who, "Go.", run_id=deeper.id).id == deeper.id, "an id like any other"


@pytest.mark.parametrize(
    ("at", "told"),
    [
        (0, "from 2 to 19"),
        (1, "from 2 to 19"),
        (-3, "from 2 to 19"),
        (20, "from 2 to 19"),
        (True, "from 2 to 19"),
        (2, "ask-1 is opened and not asked yet; nothing is in flight at 3"),
        (4, "the model call ask-1.m1 is in flight; nothing is in flight at 3 and at 5"),
        (6, "the call ask-1.m1.t1 of read_it is in flight; nothing is in flight at 5 and at 7"),
    ],
)
def test_where_it_cannot_be_forked(at: int, told: str, world: World) -> None:
    """What is in flight is named, with the nearest events at which nothing is."""
    with outlast.Outlast("memory://", model=ScriptedModel(writing)) as app:
        app.run(agent(*world.tools), "Go.", run_id="r")
        written = len(app.journal.read_all())
        with pytest.raises(UsageError, match=told):
            app.fork("r", at=at)
        assert len(app.journal.read_all()) == written
        with pytest.raises(RunNotFound):
            app.fork("nothing", at=at)
        with pytest.raises(InvalidInput, match="a run id is"):
            app.fork("r", at=3, new_id="~/x")


def test_a_completed_run_is_forked_to_say_something_else() -> None:
    """Forked after its answer, a run of an agent is completed, and can be talked to."""
    app = opened()
    with app:
        who = named("talker")
        app.run(who, "one", run_id="r")
        last = app.log("r")[-1].seq
        fork = app.fork("r", at=last)
        assert (fork.status, fork.answer) == ("completed", "re: one")
        assert app.send(fork.id, "two", agent=who).answer == "re: two"
        assert app.send("r", "three", agent=who).answer == "re: three"
        sent = [text for text in map(bytes, app.claude.calls) if b"three" in text]
        assert b"two" not in sent[0]
        assert paid(app) == billed(app.claude)


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_what_has_failed_is_forked_before_that(status: str) -> None:
    """After its end nothing of a run can go on, so it is forked before."""

    def script(request: dict[str, Any], _: int) -> Any:
        return Fault(kind="status", status=400)

    with opened(script=script) as app:
        if status == "failed":
            app.run(named("a"), "x", run_id="r")
        else:
            app.start(named("a"), "x", run_id="r")
            app.cancel("r")
        assert app.get("r").status == status
        last = app.log("r")[-1].seq
        app.note("r", "a pity")
        for at in (last, last + 1):
            with pytest.raises(UsageError, match="fork it before that"):
                app.fork("r", at=at)
        assert app.fork("r", at=3).status == "queued"


def test_a_flow_that_is_completed_is_forked_before_that() -> None:
    """What was noted afterwards is no event at which it could go on."""
    with opened() as app:
        app.run(quick, run_id="r")
        app.note("r", "fine")
        last = app.log("r")[-1].seq
        for at in (last - 1, last):
            with pytest.raises(UsageError, match="nothing can be said to a flow"):
                app.fork("r", at=at)


@outlast.flow
async def quick(run: outlast.Run) -> str:
    """Be over."""
    return "done"


# ── what people told the other run ──────────────────────────────────────────────────────────────


def test_what_people_told_the_original_is_not_told_the_fork(world: World) -> None:
    """A pause is the original's; a cancel before the point is refused, one after it is nobody's."""
    model = ScriptedModel(writing)
    with outlast.Outlast("memory://", model=model) as app:
        who = agent(*world.tools, budget=Budget(turns=1))
        assert app.run(who, "Go.", run_id="r").status == "stopped"
        app.note("r", "a note")
        fork = app.fork("r", at=app.log("r")[-1].seq)
        assert fork.status == "queued"
        app.pause(fork.id, by="ann")
        paused = app.fork(fork.id, at=app.log(fork.id)[-1].seq)
        assert (app.get(fork.id).status, paused.status) == ("paused", "queued")
        app.cancel(fork.id, by="ann")
        told = next(
            record.seq
            for record in app.log(fork.id)
            if isinstance(record.event, ControlGiven) and record.event.verb == "cancel"
        )
        with pytest.raises(UsageError, match="told to end"):
            app.fork(fork.id, at=told)
        more = agent(*world.tools)
        assert app.resume(paused.id, more).status == "completed"
        again = app.fork(fork.id, at=told - 1, new_id="again")
        assert app.resume(again.id, more).status == "completed"
        assert app.get("r").status == "stopped", "no fork is its child"
        app.cancel("r")
        assert app.get(again.id).status == "completed"


def test_an_approval_is_for_one_run(world: World) -> None:
    """What a person allowed the original, and it had not done by then, the fork asks again."""
    acts: list[str] = []

    @outlast.tool(effect="once", approval="always")
    def act(word: str) -> str:
        """Act."""
        acts.append(word)
        return word

    with opened(script=asking(tool_use("act", {"word": "a"}))) as app:
        who = named("a", tools=[act])
        assert app.run(who, "x", run_id="r", wait_s=0).status == "waiting"
        open_at = app.log("r")[-1].seq
        app.approve("r", by="ann")
        given_at = app.log("r")[-1].seq
        app.resume("r", who)
        assert acts == ["a"]
        for at in (open_at, given_at):
            fork = app.fork("r", at=at)
            fork = app.resume(fork.id, who, wait_s=0)
            assert (fork.status, acts) == ("waiting", ["a"])
            asked = [one.event for one in app.log(fork.id) if type(one.event) is ApprovalRequested]
            assert len(asked) == 2
            app.deny(fork.id)
            assert app.resume(fork.id, who).status == "completed"
        assert acts == ["a"]
        used = app.fork("r", at=app.log("r")[-1].seq)
        assert used.status == "completed"


def test_a_fork_takes_back_only_what_it_did_itself() -> None:
    """Cancelled with undo, a fork leaves what the original did."""
    acts: list[str] = []

    def back(word: str) -> None:
        acts.append(f"undo {word}")

    @outlast.tool(effect="once", undo=back)
    def act(word: str) -> str:
        """Act."""
        acts.append(f"do {word}")
        return word

    def script(request: dict[str, Any], _: int) -> Any:
        number = turn_number(request)
        return say(tool_use("act", {"word": f"w{number}"})) if number < 3 else say("done")

    with opened(script=script) as app:
        who = named("a", tools=[act], budget=Budget(turns=2))
        app.run(who, "x", run_id="r")
        assert acts == ["do w1", "do w2"]
        at = next(one.seq for one in app.log("r") if tag(one.event) == "tool_call_succeeded")
        fork = app.fork("r", at=at)
        assert app.resume(fork.id, who).status == "stopped"
        assert acts == ["do w1", "do w2", "do w2"]
        app.cancel(fork.id, undo=True)
        assert acts == ["do w1", "do w2", "do w2", "undo w2"]
        app.cancel("r", undo=True)
        assert acts[4:] == ["undo w2", "undo w1"]


def test_a_label_is_shared_and_changes_nothing() -> None:
    """What a person said of an answer before the point stands in both journals."""
    with opened() as app:
        app.run(named("a"), "x", run_id="r")
        label = LabelGiven(ask_id="ask-1", call_id="ask-1.m1", good=True, by="ann")
        app.journal.append(Commit(stream=run_stream("r"), events=(label,), at=1))
        fork = app.fork("r", at=app.log("r")[-1].seq)
        assert fork.status == "completed"
        assert app.log(fork.id)[-2].event == label


# ── budgets ─────────────────────────────────────────────────────────────────────────────────────


def spending(request: dict[str, Any], _: int) -> Any:
    return say("word " * 200, tool_use("look", {"word": "a"}))


@outlast.tool(effect="read")
def look(word: str) -> str:
    """Look a word up."""
    return word * 100


@pytest.mark.parametrize("how", ["declared", "set", "set for the run"])
def test_forks_pay_from_the_tree_of_the_original(how: str, url: str) -> None:
    """However often a run is forked, it and all its forks spend no more than it may."""
    limit = {"declared": Budget(usd="0.05")}.get(how, Budget(turns=10_000))
    model = ScriptedModel(spending)
    who = agent(look, budget=limit, stops_loops=False)
    with outlast.Outlast(url, model=model) as app:
        first = agent(look, budget=Budget(turns=5) if how != "declared" else limit)
        if how != "declared":
            scope = "tree:r" if how == "set" else "run:r"
            app.set_budget(scope, usd="0.05", reason="test")
        app.run(first, "Go.", run_id="r")
        spent = app.get("r").cost_nano
        forks = [app.fork("r", at=at).id for at in (3, 5, 7)]
        forks.append(app.fork(forks[-1], at=8, new_id="deeper").id)
        for fork in forks:
            assert app.resume(fork, who).status == "stopped"
        assert spent <= billed(model) <= 50_000_000
        assert paid(app) == billed(model)
        tree = app.journal.balance("tree:r")
        assert (tree.taken, tree.held) == (billed(model), 0)
        if how == "declared":
            assert "tree budget" in app.get(forks[0]).why


def test_forks_at_work_at_the_same_time_spend_no_more(tmp_path: Path) -> None:
    """A run and two forks of it, each in an application of its own, keep to one budget."""
    url = f"sqlite:///{tmp_path}/a.db"
    model = ScriptedModel(spending)
    who = agent(look, budget=Budget(usd="0.04"), stops_loops=False)
    reached, go = threading.Event(), threading.Event()

    def slow(request: dict[str, Any], attempt: int) -> Any:
        if turn_number(request) == 3:
            reached.set()
            assert go.wait(30)
        return spending(request, attempt)

    first = ScriptedModel(slow)
    ended: list[Any] = []

    def drive(run_id: str, claude: Any) -> None:
        with outlast.Outlast(url, model=claude) as app:
            if run_id == "r":
                ended.append(app.run(who, "Go.", run_id="r"))
            else:
                ended.append(app.resume(run_id, who))

    threads = [threading.Thread(target=drive, args=("r", first))]
    threads[0].start()
    assert reached.wait(30)
    with outlast.Outlast(url, model=model) as app:
        forks = [app.fork("r", at=at).id for at in (3, 7)]
        held = app.journal.balance("tree:r")
        assert held.held > 0, "the call in flight holds nothing"
        assert held.settled == app.get("r").cost_nano
        threads += [threading.Thread(target=drive, args=(one, model)) for one in forks]
        for thread in threads[1:]:
            thread.start()
        go.set()
        for thread in threads:
            thread.join(60)
        assert [run.status for run in ended] == ["stopped"] * 3
        whole = billed(model) + billed(first)
        assert 20_000_000 < whole <= 40_000_000
        assert paid(app) == whole
        tree = app.journal.balance("tree:r")
        assert (tree.taken, tree.held) == (whole, 0)


def test_a_budget_that_is_set_later_knows_of_forks() -> None:
    """What forks spent, and only that, counts in budgets that are set afterwards."""
    model = ScriptedModel(spending)
    who = agent(look, budget=Budget(turns=4), stops_loops=False)
    more = agent(look, budget=Budget(turns=7), stops_loops=False)
    with outlast.Outlast("memory://", model=model) as app:
        app.run(who, "Go.", run_id="r")
        app.resume(app.fork("r", at=7).id, more)
        app.fork("r~7", at=10)
        for scope in ("tree:r", "fleet", "agent:writer"):
            app.set_budget(scope, usd=1, reason="test")
            assert app.journal.balance(scope).taken == billed(model), scope


def test_a_call_in_doubt_is_settled_once() -> None:
    """What a fork shares in doubt is for the original to settle, and counted there alone."""

    def script(request: dict[str, Any], attempt: int) -> Any:
        return Fault(kind="cut", turn=say("lost")) if attempt == 1 else say("done")

    with opened(script=script) as app:
        who = named("a")
        app.run(who, "x", run_id="r")
        app.set_budget("fleet", usd=1, reason="test")
        kinds = [tag(one.event) for one in app.log("r")]
        at = kinds.index("model_call_in_doubt") + 1
        fork = app.fork("r", at=at)
        app.resume(fork.id, who)
        assert [one.run_id for one in doubts(app.journal)] == ["r"]
        before = app.journal.balance("fleet")
        assert before.taken == paid(app)
        (doubt,) = doubts(app.journal)
        assert paid(app) - doubt.nano + app.claude.bill[0].nano_usd == billed(app.claude)
        assert before.in_doubt == sum(one.nano for one in doubts(app.journal))


# ── flows ───────────────────────────────────────────────────────────────────────────────────────


def test_a_fork_of_a_flow_is_answered_from_what_it_shares(url: str) -> None:
    """Its function is executed again; steps, asks and children of before are done no more."""
    deeds: list[str] = []
    expert = named("expert")

    @outlast.flow
    async def work(run: outlast.Run) -> str:
        """Do a bit of everything."""
        token = run.uuid()
        await run.step("first", lambda: deeds.append("first"))
        answers = await run.map(expert, ["a", "b"])
        said = await run.ask(expert, "c")
        await run.step("last", lambda: deeds.append("last"))
        return f"{token} {answers} {said}"

    with opened(url) as app:
        whole = app.run(work, run_id="r")
        assert (deeds, len(app.claude.calls)) == (["first", "last"], 3)
        records = app.log("r")
        for record in records:
            if in_flight(fold(records[: record.seq]), record) or record.seq < 2:
                with pytest.raises(UsageError):
                    app.fork("r", at=record.seq)
                continue
            if record.seq == len(records):
                with pytest.raises(UsageError, match="nothing can be said to a flow"):
                    app.fork("r", at=record.seq)
                continue
            state, calls = fold(records[: record.seq]), len(app.claude.calls)
            del deeds[:]
            fork = app.resume(app.fork("r", at=record.seq).id, work)
            assert fork.status == "completed"
            finished = state.steps.finished
            assert deeds == [one for one in ("first", "last") if one not in finished]
            children = sum(one.kind == "child" for one in finished.values())
            asked = any(ask.turns for ask in state.asks.values())
            assert len(app.claude.calls) - calls == 3 - children - asked
            if any(one.kind == "value" for one in finished.values()):
                assert fork.answer == whole.answer
        assert paid(app) == billed(app.claude)


def test_children_of_a_fork_pay_from_the_tree_of_the_original() -> None:
    """A fork that asks others, and those it asks, keep to what the original may use."""
    expert = agent(look, budget=Budget(turns=3), stops_loops=False)

    @outlast.flow(budget=Budget(usd="0.03"))
    async def work(run: outlast.Run) -> int:
        """Ask many."""
        run.now()
        await run.step("a", lambda: 1)
        with suppress(outlast.OutlastError):
            await run.map(expert, ["x"] * 40, at_once=4)
        return 1

    model = ScriptedModel(spending)
    with outlast.Outlast("memory://", model=model) as app:
        app.run(work, run_id="r")
        for fork in ("f", "g"):
            app.fork("r", at=4, new_id=fork)
            app.resume(fork, work)
        assert billed(model) <= 30_000_000
        assert paid(app) == billed(model)
        assert app.journal.balance("tree:r").taken == billed(model)
        assert app.journal.below("r"), "nobody was asked"


def test_a_child_can_be_forked_and_is_nobodys_child_then() -> None:
    """A fork of a child run is a root, which a worker drives, and pays where the child did."""

    @outlast.flow(budget=Budget(usd=1))
    async def work(run: outlast.Run) -> Any:
        """Ask one."""
        return await run.map(named("expert"), ["a"])

    with opened() as app:
        app.run(work, run_id="r")
        (child,) = app.journal.below("r")
        fork = app.fork(child.id, at=3, new_id="f")
        row = app.journal.run("f")
        assert (fork.parent, row.root, row.status) == ("", "f", "queued")
        assert [one.id for one in app.journal.due(2**62)] == ["f"]
        app.resume("f", named("expert"))
        assert app.journal.balance("tree:r").taken == paid(app) == billed(app.claude)


def test_a_worker_goes_on_with_a_fork() -> None:
    """A fork is queued, and driven like any run that was started."""
    with opened() as app:
        who = named("a")
        app.run(who, "x", run_id="r")
        fork = app.fork("r", at=3)
        assert fork.status == "queued"
        Worker(app, [who]).run(until_idle=True)
        assert app.get(fork.id).status == "completed"


# ── crashes ─────────────────────────────────────────────────────────────────────────────────────


def test_a_fork_is_there_or_not(world: World) -> None:
    """Wherever its process dies, a fork is whole or missing, and the same again makes it whole."""
    for point in itertools.count():
        model = ScriptedModel(writing)
        with outlast.Outlast("memory://", model=model) as app:
            who = agent(*world.tools)
            app.run(who, "Go.", run_id="r")
            journal: Any = app.journal
            append, left = journal.append, [point]

            def dying(commit: Commit, append: Any = append, left: Any = left) -> Any:
                if not left[0]:
                    raise StoreError("died")
                left[0] -= 1
                return append(commit)

            journal.append = dying
            try:
                app.fork("r", at=9)
                died = False
            except StoreError:
                died = True
            journal.append = append
            assert (journal.run("r~9") is None) == died
            assert app.resume(app.fork("r", at=9).id, who).status == "completed"
            assert app.journal.balance("tree:r").taken == billed(model) == paid(app)
        if not died:
            assert point == 2
            break


def test_health_counts_shared_calls_once(world: World) -> None:
    """How a tool does is told of each call once, however many runs share it."""
    with outlast.Outlast("memory://", model=ScriptedModel(writing)) as app:
        app.run(agent(*world.tools), "Go.", run_id="r")
        app.fork("r", at=app.log("r")[-1].seq)
        seen: list[int] = []
        for run_ids in (["r"], ["r", "r~19"]):
            reading = Reading()
            for run_id in run_ids:
                reading.take(run_id, app.log(run_id))
            seen.append(sum(tool.uses for tool in reading.tools.values()))
        assert seen[0] == seen[1] == 3


def test_calls_of_a_fork_fold() -> None:
    """What a fork asks is hashed over what it shares: the request is that of the original."""
    with opened() as app:
        who = named("a")
        app.run(who, "x", run_id="r")
        fork = app.resume(app.fork("r", at=3).id, who)
        hashes = [
            [
                one.event.request_hash
                for one in app.log(run_id)
                if type(one.event) is ModelCallStarted
            ]
            for run_id in ("r", fork.id)
        ]
        assert hashes[0] == hashes[1]
        assert app.claude.calls[0] == app.claude.calls[1]
        assert all(encode(record.event) for record in app.log(fork.id))
