"""The commands and their options, and what is the same for all: errors, exit codes, the version."""

from __future__ import annotations

import gc
import io
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from outlast.cli import exits
from outlast.cli.options import (
    DEFAULT_STORE,
    AsJson,
    Attach,
    By,
    Call,
    Login,
    Named,
    Note,
    Reason,
    RunId,
    Store,
    Wait,
    seconds,
)
from outlast.errors import OutlastError, UsageError

# Each command imports what it does when it is called: `outlast --help` reads this page alone.
# ruff: noqa: PLC0415, FBT002  (as above; typer makes flags of booleans)


class Commands(TyperGroup):
    """Commands that end with a sentence and an exit code, never with a traceback of ours."""

    def main(self, args: Sequence[str] | None = None, **extra: Any) -> NoReturn:  # type: ignore[override]
        """Run a command and exit with its code."""
        given = sys.argv[1:] if args is None else list(args)
        as_json = "--json" in given[: given.index("--") if "--" in given else None]
        try:
            code = super().main(given, **{**extra, "standalone_mode": False, "obj": as_json})
        except typer.TyperException as error:
            _refuse(error, as_json=as_json)
        except OutlastError as error:
            _report(error, str(error), exits.of_error(error), as_json=as_json)
        sys.exit(code or exits.DONE)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was chosen; quietly, when whoever reads the output has gone."""
        try:
            code = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # As in `outlast log ID | head`; and nothing is left for Python to complain about.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return exits.BROKEN_PIPE
        except KeyboardInterrupt as interrupt:
            if not ctx.obj:
                return exits.INTERRUPTED
            raise exits.Interrupted from interrupt
        return code


app = typer.Typer(
    name="outlast",
    cls=Commands,
    help="Claude agents that outlast crashes, outages and runaway bills.",
    epilog="Start with: outlast demo",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run `outlast` with the arguments of this process, and exit."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character must not cost the whole output.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        app(prog_name="outlast")
    finally:
        # Python would walk all that was imported once more before it ends: a second, with the SDK.
        gc.freeze()


def _version(value: bool) -> None:  # noqa: FBT001  (how typer calls it)
    if value:
        from outlast import __version__

        typer.echo(f"outlast {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    fast: Annotated[bool, typer.Option("--fast", help="Without pauses, in seconds.")] = False,
    again: Annotated[
        bool, typer.Option("--again", help="A new run: demo-2, demo-3, and so on.")
    ] = False,
    live: Annotated[
        bool, typer.Option("--live", help="Ask the real Claude; needs ANTHROPIC_API_KEY.")
    ] = False,
    store: Store = DEFAULT_STORE,
    as_json: AsJson = False,
) -> int:
    """Watch an agent; kill it whenever you like, and run it again."""
    from outlast.cli.demo import play_demo

    return play_demo(store, fast=fast, again=again, live=live, as_json=as_json)


@app.command()
def run(  # noqa: PLR0913, PLR0917  (the options of a command)
    agent: Annotated[
        str, typer.Argument(metavar="MODULE:AGENT", help="Where the agent or flow is declared.")
    ],
    text: Annotated[
        str | None,
        typer.Argument(
            metavar="INPUT",
            help="What to ask it; JSON or @FILE for a flow that takes something else than text.",
        ),
    ] = None,
    run_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="The run's id; default: a new one.")
    ] = None,
    attach: Attach = None,
    wait: Wait = 30.0,
    tenant: Annotated[str, typer.Option("--tenant", metavar="NAME", help="For whom.")] = "",
    store: Store = DEFAULT_STORE,
    as_json: AsJson = False,
) -> int:
    """Run an agent or a flow on an input, or go on with that --id."""
    from outlast.cli.run import run_declared

    return run_declared(
        store,
        agent,
        text,
        attached=attach or [],
        run_id=run_id,
        tenant=tenant,
        wait_s=wait,
        as_json=as_json,
    )


@app.command()
def resume(  # noqa: PLR0913, PLR0917  (the options of a command)
    run_id: RunId,
    agent: Annotated[
        str | None,
        typer.Option("--agent", metavar="MODULE:AGENT", help="Default: where it was declared."),
    ] = None,
    wait: Wait = 30.0,
    reason: Reason = "",
    by: By = "",
    store: Store = DEFAULT_STORE,
    as_json: AsJson = False,
) -> int:
    """Go on with a run that was interrupted, stopped, paused or parked."""
    from outlast.cli.run import resume_run

    told = {"reason": reason, "by": by}
    return resume_run(store, run_id, location=agent, wait_s=wait, told=told, as_json=as_json)


@app.command()
def start(  # noqa: PLR0913, PLR0917  (the options of a command)
    agent: Annotated[
        str, typer.Argument(metavar="MODULE:AGENT", help="Where the agent or flow is declared.")
    ],
    text: Annotated[
        str | None, typer.Argument(metavar="INPUT", help="What to ask it; as for `run`.")
    ] = None,
    run_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="The run's id; default: a new one.")
    ] = None,
    attach: Attach = None,
    run_at: Annotated[
        str | None,
        typer.Option("--at", metavar="TIME", help="When it begins: 2026-12-24T18:00+01:00."),
    ] = None,
    tenant: Annotated[str, typer.Option("--tenant", metavar="NAME", help="For whom.")] = "",
    store: Store = DEFAULT_STORE,
    as_json: AsJson = False,
) -> int:
    """Leave a run for a worker, now or at a time."""
    from outlast.cli.worker import start_run

    return start_run(
        store,
        agent,
        text,
        attached=attach or [],
        run_id=run_id,
        tenant=tenant,
        run_at=run_at,
        as_json=as_json,
    )


@app.command()
def worker(  # noqa: PLR0913, PLR0917  (the options of a command)
    modules: Annotated[
        list[str],
        typer.Argument(metavar="MODULE[:APP]…", help="Where agents, flows, an Outlast are."),
    ],
    at_once: Annotated[
        int, typer.Option("--at-once", metavar="N", min=1, help="So many runs at the same time.")
    ] = 32,
    per_agent: Annotated[
        int | None, typer.Option("--per-agent", metavar="N", min=1, help="Of each agent.")
    ] = None,
    per_tenant: Annotated[
        int | None, typer.Option("--per-tenant", metavar="N", min=1, help="Of each tenant.")
    ] = None,
    cap: Annotated[
        list[str] | None,
        typer.Option("--cap", metavar="SCOPE=N", help="agent:NAME=N, tenant:NAME=N; repeatable."),
    ] = None,
    lease: Annotated[
        float,
        typer.Option(
            "--lease", metavar="TIME", parser=seconds, help="When a frozen worker loses its runs."
        ),
    ] = 15.0,
    grace: Annotated[
        float,
        typer.Option(
            "--grace", metavar="TIME", parser=seconds, help="For runs to come to a rest at the end."
        ),
    ] = 30.0,
    until_idle: Annotated[
        bool, typer.Option("--until-idle", help="End once there is nothing to drive.")
    ] = False,
    store: Store = DEFAULT_STORE,
    as_json: AsJson = False,
) -> int:
    """Drive runs: new ones, woken ones, and those that others left."""
    from outlast.cli.worker import work

    return work(
        store,
        modules,
        at_once=at_once,
        caps=cap or [],
        per_agent=per_agent,
        per_tenant=per_tenant,
        lease_s=lease,
        grace_s=grace,
        until_idle=until_idle,
        as_json=as_json,
    )


@app.command()
def pause(
    run_id: RunId,
    reason: Reason = "",
    by: By = "",
    store: Store = DEFAULT_STORE,
    as_json: AsJson = False,
) -> int:
    """Tell a run to begin nothing more, until it is resumed."""
    from outlast.cli.control import pause_run

    return pause_run(store, run_id, reason=reason, by=by, as_json=as_json)


@app.command()
def cancel(  # noqa: PLR0913, PLR0917  (the options of a command)
    run_id: RunId,
    undo: Annotated[
        bool, typer.Option("--undo", help="Take back what its tools did, the newest first.")
    ] = False,
    reason: Reason = "",
    by: By = "",
    store: Store = DEFAULT_STORE,
    as_json: AsJson = False,
) -> int:
    """End a run for good, and all below it."""
    from outlast.cli.control import cancel_run

    return cancel_run(store, run_id, undo=undo, reason=reason, by=by, as_json=as_json)


@app.command()
def approve(  # noqa: PLR0913, PLR0917  (the options of a command)
    run_id: RunId,
    call: Call = None,
    name: Named = None,
    edit_arguments: Annotated[
        str | None,
        typer.Option(
            "--edit-arguments",
            metavar="JSON|@FILE",
            help="What the tool is called with instead: all of its arguments.",
        ),
    ] = None,
    edit_answer: Annotated[
        str | None,
        typer.Option(
            "--edit-answer",
            metavar="TEXT|JSON|@FILE",
            help="What the answer is instead, where the run asks whether one is.",
        ),
    ] = None,
    note: Note = "",
    by: Login = None,
    store: Store = DEFAULT_STORE,
    as_json: AsJson = False,
) -> int:
    """Allow what a run asks a person for."""
    from outlast.cli.approvals import answer_run

    return answer_run(
        store,
        run_id,
        approved=True,
        call=call,
        name=name,
        arguments=edit_arguments,
        answer=edit_answer,
        note=note,
        by=by,
        as_json=as_json,
    )


@app.command()
def deny(  # noqa: PLR0913, PLR0917  (the options of a command)
    run_id: RunId,
    call: Call = None,
    name: Named = None,
    note: Note = "",
    by: Login = None,
    store: Store = DEFAULT_STORE,
    as_json: AsJson = False,
) -> int:
    """Refuse what a run asks a person for; it goes on without."""
    from outlast.cli.approvals import answer_run

    return answer_run(
        store,
        run_id,
        approved=False,
        call=call,
        name=name,
        arguments=None,
        answer=None,
        note=note,
        by=by,
        as_json=as_json,
    )


@app.command()
def reconcile(  # noqa: PLR0913, PLR0917  (the options of a command)
    run_id: Annotated[
        str | None,
        typer.Argument(metavar="[ID]", help="The run's id; with --plan, the file to write."),
    ] = None,
    call: Call = None,
    outcome: Annotated[
        str | None,
        typer.Option("--outcome", metavar="WHAT", help="happened, or did-not."),
    ] = None,
    result: Annotated[
        str | None,
        typer.Option("--result", metavar="TEXT|JSON|@FILE", help="What the call gave."),
    ] = None,
    note: Note = "",
    plan: Annotated[
        bool, typer.Option("--plan", help="Write down all calls in doubt, to be filled in.")
    ] = False,
    tool: Annotated[
        str | None, typer.Option("--tool", metavar="NAME", help="With --plan: only this tool's.")
    ] = None,
    execute: Annotated[
        str | None, typer.Option("--execute", metavar="PLAN", help="Say what a plan says.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --execute: only show it.")
    ] = False,
    by: Login = None,
    store: Store = DEFAULT_STORE,
    as_json: AsJson = False,
) -> int:
    """Say whether a tool call in doubt happened, or show which are."""
    if plan or execute is not None:
        return _reconcile_many(
            store,
            run_id,
            plan=plan,
            execute=execute,
            dry_run=dry_run,
            alone={"--call": call, "--result": result, "--note": note},
            outcome=outcome,
            tool=tool,
            by=by,
            as_json=as_json,
        )
    if tool is not None or dry_run:
        raise UsageError("--tool is for --plan, and --dry-run for --execute")
    if run_id is None:
        raise UsageError(
            "reconcile needs the ID of a run, --plan or --execute; `outlast runs --waiting` lists "
            "the runs with calls in doubt"
        )
    from outlast.cli.doubts import reconcile_run

    return reconcile_run(
        store,
        run_id,
        call=call,
        outcome=outcome,
        result=result,
        note=note,
        by=by,
        as_json=as_json,
    )


def _reconcile_many(  # noqa: PLR0913  (the options of a command)
    store: str,
    file: str | None,
    *,
    plan: bool,
    execute: str | None,
    dry_run: bool,
    alone: dict[str, str | None],
    outcome: str | None,
    tool: str | None,
    by: str | None,
    as_json: bool,
) -> int:
    from outlast.cli.plans import execute_plan, write_plan

    if given := [name for name, value in alone.items() if value]:
        raise UsageError(f"{given[0]} is about one call; in a plan it stands beside each")
    if execute is None:
        if dry_run or by is not None:
            raise UsageError("--plan writes no answers; --dry-run and --by are for --execute")
        return write_plan(store, file, outcome=outcome, tool=tool, as_json=as_json)
    if plan or file is not None or outcome is not None or tool is not None:
        raise UsageError("--execute does what its plan says; leave the rest out")
    return execute_plan(store, execute, by=by, dry_run=dry_run, as_json=as_json)


@app.command()
def send(  # noqa: PLR0913, PLR0917  (the options of a command)
    run_id: RunId,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to say.")],
    agent: Annotated[
        str | None,
        typer.Option("--agent", metavar="MODULE:AGENT", help="Default: where it was declared."),
    ] = None,
    attach: Attach = None,
    wait: Wait = 30.0,
    store: Store = DEFAULT_STORE,
    as_json: AsJson = False,
) -> int:
    """Say something more to the agent of a run."""
    from outlast.cli.run import send_message

    return send_message(
        store,
        run_id,
        text,
        attached=attach or [],
        location=agent,
        wait_s=wait,
        as_json=as_json,
    )


@app.command()
def fork(  # noqa: PLR0913, PLR0917  (the options of a command)
    run_id: RunId,
    at: Annotated[
        int, typer.Option("--at", metavar="SEQ", help="The last event that is shared; see `log`.")
    ],
    new_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="The new run's id; default: ID~SEQ.")
    ] = None,
    reason: Reason = "",
    by: By = "",
    store: Store = DEFAULT_STORE,
    as_json: AsJson = False,
) -> int:
    """Begin a new run that shares what a run did up to an event."""
    from outlast.cli.forks import fork_run

    told = {"reason": reason, "by": by}
    return fork_run(store, run_id, at=at, new_id=new_id, as_json=as_json, **told)


@app.command()
def replay(
    run_id: Annotated[
        str | None, typer.Argument(metavar="ID", help="The run's id; with --checks, default: all.")
    ] = None,
    agent: Annotated[
        str | None,
        typer.Option(
            "--agent",
            metavar="MODULE:AGENT",
            help="Default: where it was declared.  With --checks, the NAME of an agent.",
        ),
    ] = None,
    checks: Annotated[
        str | None,
        typer.Option(
            "--checks",
            metavar="MODULE:AGENT",
            help="Run the checks of this agent, or this check, over recorded answers.",
        ),
    ] = None,
    store: Store = DEFAULT_STORE,
    as_json: AsJson = False,
) -> int:
    """Decide a recorded run again, offline, or check its answers again."""
    from outlast.cli.replays import recheck_runs, replay_run

    if checks is not None:
        return recheck_runs(store, run_id, checks, agent=agent, as_json=as_json)
    if run_id is None:
        raise UsageError("say which run is to be decided again, or which checks to run: --checks")
    return replay_run(store, run_id, location=agent, as_json=as_json)


@app.command()
def runs(  # noqa: PLR0913, PLR0917  (the options of a command)
    status: Annotated[
        str | None, typer.Option("--status", metavar="S", help="Only runs of this status.")
    ] = None,
    agent: Annotated[
        str | None, typer.Option("--agent", metavar="NAME", help="Only runs of this agent.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="At most N.")] = 50,
    waiting: Annotated[
        bool,
        typer.Option("--waiting", help="Only those that wait for a person, the oldest first."),
    ] = False,
    store: Store = DEFAULT_STORE,
    as_json: AsJson = False,
) -> int:
    """List the runs, newest first."""
    if waiting:
        from outlast.cli.approvals import list_waiting

        return list_waiting(store, status=status, agent=agent, limit=limit, as_json=as_json)
    from outlast.cli.runs import list_runs

    return list_runs(store, status=status, agent=agent, limit=limit, as_json=as_json)


@app.command()
def show(run_id: RunId, store: Store = DEFAULT_STORE, as_json: AsJson = False) -> int:
    """Show one run: its answer, its cost, what is in doubt."""
    from outlast.cli.show import show_run

    return show_run(store, run_id, as_json=as_json)


@app.command()
def log(
    run_id: RunId,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the run ends; exit by its status.")
    ] = False,
    store: Store = DEFAULT_STORE,
    as_json: AsJson = False,
) -> int:
    """Tell the story of a run, every decision and every call."""
    from outlast.cli.log import tell_log

    return tell_log(store, run_id, follow=follow, as_json=as_json)


@app.command()
def note(
    run_id: RunId,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The remark.")],
    by: Annotated[str, typer.Option("--by", metavar="NAME", help="Who writes it.")] = "",
    store: Store = DEFAULT_STORE,
    as_json: AsJson = False,
) -> int:
    """Write a remark into the journal of a run."""
    from outlast.cli.note import add_note

    return add_note(store, run_id, text, by=by, as_json=as_json)


@app.command()
def label(  # noqa: PLR0913, PLR0917  (the options of a command)
    run_id: RunId,
    good: Annotated[bool, typer.Option("--good", help="The answer is good.")] = False,
    bad: Annotated[bool, typer.Option("--bad", help="It is not.")] = False,
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="What there is to say.")] = "",
    attempt: Annotated[
        int | None,
        typer.Option("--attempt", metavar="N", min=1, help="Which answer; default: the accepted."),
    ] = None,
    ask: Annotated[
        str | None,
        typer.Option("--ask", metavar="NAME", help="To which question; default: the last."),
    ] = None,
    by: Login = None,
    store: Store = DEFAULT_STORE,
    as_json: AsJson = False,
) -> int:
    """Say whether the answer of a run is good; checks are compared with it."""
    from outlast.cli.label import label_run

    return label_run(
        store,
        run_id,
        good=good,
        bad=bad,
        why=why,
        attempt=attempt,
        ask=ask,
        by=by,
        as_json=as_json,
    )


@app.command()
def costs(  # noqa: PLR0913, PLR0917  (the options of a command)
    by: Annotated[
        str,
        typer.Option(
            "--by", metavar="WHAT", help="month, day, agent, version, tenant, model, tool, run."
        ),
    ] = "month",
    chart: Annotated[bool, typer.Option("--chart", help="Draw bars, too.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, for spreadsheets.")] = False,
    reconcile: Annotated[
        str | None,
        typer.Option("--reconcile", metavar="FILE", help="Compare with Anthropic's cost report."),
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Correct the calls in doubt by the report.")
    ] = False,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Why, with --apply; for the journal.")
    ] = "",
    store: Store = DEFAULT_STORE,
    as_json: AsJson = False,
) -> int:
    """Show what was spent, or compare it with what was billed."""
    if reconcile is not None or apply or reason:
        from outlast.cli.reconcile import reconcile_costs

        if chart or as_csv or by != "month":
            raise UsageError("--reconcile is by day and model; leave --by, --chart and --csv out")
        return reconcile_costs(store, reconcile, applies=apply, reason=reason, as_json=as_json)
    from outlast.cli.costs import show_costs

    return show_costs(store, by=by, chart=chart, as_csv=as_csv, as_json=as_json)


budget = typer.Typer(help="Say who may spend how much.", no_args_is_help=True)
app.add_typer(budget, name="budget")


@budget.command("set")
def budget_set(  # noqa: PLR0913, PLR0917  (the options of a command)
    scope: Annotated[
        str, typer.Argument(metavar="SCOPE", help="fleet, tenant:NAME, agent:NAME, run:ID, …")
    ],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why.")],
    usd: Annotated[str | None, typer.Option("--usd", metavar="X", help="US dollars.")] = None,
    tokens: Annotated[int | None, typer.Option("--tokens", metavar="N", help="Tokens.")] = None,
    calls: Annotated[
        int | None, typer.Option("--calls", metavar="N", help="Attempts at calls of the model.")
    ] = None,
    turns: Annotated[
        int | None, typer.Option("--turns", metavar="N", help="Calls that were or may be billed.")
    ] = None,
    window: Annotated[
        str, typer.Option("--window", metavar="W", help="total, day, month, or hours: 24h.")
    ] = "total",
    tz: Annotated[str, typer.Option("--tz", metavar="ZONE", help="Whose days count.")] = "UTC",
    notify: Annotated[
        str, typer.Option("--notify", metavar="P,…", help="Warn at so many percent: 50,80.")
    ] = "",
    only_notify: Annotated[
        bool, typer.Option("--only-notify", help="Refuse nothing; count and warn.")
    ] = False,
    by: Annotated[str, typer.Option("--by", metavar="NAME", help="Who says so.")] = "",
    store: Store = DEFAULT_STORE,
    as_json: AsJson = False,
) -> int:
    """Give a scope a budget; without an amount, take it away."""
    from outlast.cli.budgets import set_budget

    return set_budget(
        store,
        scope,
        usd=usd,
        tokens=tokens,
        calls=calls,
        turns=turns,
        window=window,
        tz=tz,
        notify=notify,
        binding=not only_notify,
        reason=reason,
        by=by,
        as_json=as_json,
    )


@budget.command("show")
def budget_show(store: Store = DEFAULT_STORE, as_json: AsJson = False) -> int:
    """Show every budget and what is used of it."""
    from outlast.cli.budgets import show_budgets

    return show_budgets(store, as_json=as_json)


@app.command("limits")
def limits(
    fetch: Annotated[
        bool, typer.Option("--fetch", help="Ask for them, with an Admin API key.")
    ] = False,
    store: Store = DEFAULT_STORE,
    as_json: AsJson = False,
) -> int:
    """Show how fast Claude may be asked, and how much of that is taken."""
    from outlast.cli.limits import show_limits

    return show_limits(store, fetch=fetch, as_json=as_json)


@app.command()
def health(
    since: Annotated[
        float,
        typer.Option("--since", metavar="TIME", parser=seconds, help="How far back: 24h, 7d."),
    ] = 86_400.0,
    tool: Annotated[
        str | None, typer.Option("--tool", metavar="NAME", help="Only this tool.")
    ] = None,
    agent: Annotated[
        str | None, typer.Option("--agent", metavar="NAME", help="Only runs of this agent.")
    ] = None,
    store: Store = DEFAULT_STORE,
    as_json: AsJson = False,
) -> int:
    """Show how runs and tools do: failures, doubts, fallbacks, retries, latency."""
    from outlast.cli.health import show_health

    return show_health(store, since_s=since, tool=tool, agent=agent, as_json=as_json)


judge = typer.Typer(help="Compare checks and judges with people.", no_args_is_help=True)
app.add_typer(judge, name="judge")


@judge.command("report")
def judge_report(
    agent: Annotated[
        str | None, typer.Option("--agent", metavar="NAME", help="Only answers of this agent.")
    ] = None,
    check: Annotated[
        str | None, typer.Option("--check", metavar="NAME", help="Only this check or judge.")
    ] = None,
    store: Store = DEFAULT_STORE,
    as_json: AsJson = False,
) -> int:
    """Show how often checks and judges are right, by what people say, and what they cost."""
    from outlast.cli.judge import show_report

    return show_report(store, agent=agent, check=check, as_json=as_json)


schedule = typer.Typer(help="Say what is run at which times.", no_args_is_help=True)
app.add_typer(schedule, name="schedule")


@schedule.command("set")
def schedule_set(  # noqa: PLR0913, PLR0917  (the options of a command)
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the schedule is called.")],
    agent: Annotated[
        str, typer.Argument(metavar="MODULE:AGENT", help="Where the agent or flow is declared.")
    ],
    cron: Annotated[
        str, typer.Option("--cron", metavar="EXPR", help='When, such as "0 9 * * MON".')
    ],
    text: Annotated[
        str | None, typer.Argument(metavar="INPUT", help="What to ask it, as for run.")
    ] = None,
    tz: Annotated[str, typer.Option("--tz", metavar="ZONE", help="Whose clock counts.")] = "UTC",
    tenant: Annotated[str, typer.Option("--tenant", metavar="NAME", help="For whom.")] = "",
    reason: Reason = "",
    by: By = "",
    store: Store = DEFAULT_STORE,
    as_json: AsJson = False,
) -> int:
    """Run an agent or a flow at the times that a cron expression names."""
    from outlast.cli.schedules import set_schedule

    given = {"cron": cron, "tz": tz, "tenant": tenant, "reason": reason, "by": by}
    return set_schedule(store, name, agent, text, as_json=as_json, **given)


@schedule.command("remove")
def schedule_remove(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The schedule.")],
    reason: Reason = "",
    by: By = "",
    store: Store = DEFAULT_STORE,
) -> int:
    """Take a schedule away; its runs stay."""
    from outlast.cli.schedules import remove_schedule

    return remove_schedule(store, name, reason=reason, by=by)


@schedule.command("show")
def schedule_show(store: Store = DEFAULT_STORE, as_json: AsJson = False) -> int:
    """Show every schedule, when it is due, and what it ran last."""
    from outlast.cli.schedules import show_schedules

    return show_schedules(store, as_json=as_json)


@app.command()
def simulate(
    script: Annotated[
        str | None,
        typer.Option(
            "--script",
            metavar="SCRIPT",
            help="MODULE:ATTR, FILE.py or FILE.yaml; default: an echo.",
        ),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="A loopback address.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", metavar="N", min=0, max=65535, help="0 takes a free one.")
    ] = 0,
    state: Annotated[
        str | None,
        typer.Option("--state", metavar="DIR", help="Where requests and the bill are written."),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Serve a simulated Claude, for trying without a key."""
    from outlast.cli.simulate import simulate_claude

    return simulate_claude(script, host=host, port=port, state=state, as_json=as_json)


def _refuse(error: typer.TyperException, *, as_json: bool) -> NoReturn:
    """Exit after wrong usage, saying how it would be right."""
    if as_json:
        _report(error, error.format_message(), error.exit_code, as_json=True)
    error.show()  # type: ignore[attr-defined]
    sys.exit(error.exit_code)


def _report(error: Exception, message: str, code: int, *, as_json: bool) -> NoReturn:
    if as_json:
        from outlast.cli import shapes

        shape = shapes.error_shape(error, message=message, exit_code=code)
        sys.stderr.write(shapes.encode(shape).decode() + "\n")
    else:
        sys.stderr.write(f"Error: {message}\n")
    sys.exit(code)
