"""`outlast demo`: a run to interrupt, to kill, and to watch as it goes on."""

from __future__ import annotations

import os

from outlast.cli import exits, words
from outlast.cli.run import check_key, conclude, is_final, print_json, started_with, watched
from outlast.cli.screen import Screen, screen
from outlast.cli.stores import opened, row_of
from outlast.demo import session
from outlast.journal import Journal, run_stream
from outlast.run import Run
from outlast.runner import Watch

WAIT_S = 5.0
"""How long to wait for a demo that is being killed just now."""


def play_demo(store: str, *, fast: bool, again: bool, live: bool, as_json: bool) -> int:
    """Play the demo, or go on with it, and return the exit code."""
    with opened(store, create=True) as journal:
        run_id = session.next_id(journal) if again else session.RUN_ID
        if live and not os.environ.get("ANTHROPIC_API_KEY"):
            check_key()
        session.begin(journal, run_id, live=live)
        return play(journal, run_id, pace=0.0 if fast else 1.0, live=live, as_json=as_json)


def play(journal: Journal, run_id: str, *, pace: float, live: bool, as_json: bool) -> int:
    """Drive a run of the demo before people's eyes, and return the exit code."""

    def drive(watch: Watch) -> Run:
        return session.drive(journal, run_id, pace=pace, live=live, wait_s=WAIT_S, watch=watch)

    again = session.command(run_id, live=live)
    if as_json:
        return print_json(journal, run_id, drive, again=again)
    on = screen()
    if not is_final(row_of(journal, run_id)):
        _introduce(on, journal, run_id, live=live)
    ended = watched(on, journal, run_id, drive)
    if ended is None:
        on.line(("Interrupted. ", "strong"), ("Everything so far is in the journal.", ""))
        on.line((f"Next: {again}   (it goes on right here)", "quiet"))
        return exits.INTERRUPTED
    conclude(on, journal, ended)
    code = exits.of_status(ended.row.status)
    if code == exits.WAITING:
        on.line((f"Next: {again}   (when the other process has ended)", "quiet"))
        return code
    _count_savings(on, session.saved(journal.read(run_stream(run_id))))
    on.line(
        (f"Next: outlast log {run_id}   (every decision, every tool call, every token)", "quiet")
    )
    return code


def _introduce(on: Screen, journal: Journal, run_id: str, *, live: bool) -> None:
    started = started_with(journal, run_id)
    claude = "the real Claude" if live else "a simulated Claude with faults, over HTTP"
    on.page(
        f"Three agents ask {claude}: one finds grants, one drafts a proposal, one reviews it. "
        f"Press Ctrl-C or kill -9 {os.getpid()} whenever you like, and run it again: it goes on."
    )
    on.line(("", ""))
    on.page(f"“{words.line(words.given(started.input))}”", tone="strong")
    on.line((f"run {run_id}, flow {started.agent}: {' → '.join(started.phases)}", "quiet"))
    on.line(("", ""))


def _count_savings(on: Screen, saved: session.Saved) -> None:
    if not saved.drivers:
        on.line(("It was never interrupted, so nothing had to be saved: kill it next time.", ""))
        return
    times = "once" if saved.drivers == 1 else f"{saved.drivers} times"
    on.line((f"Interrupted {times}, and it went on where it was.", "strong"))
    if saved.turns:
        on.line(
            ("Saved against starting over: ", ""),
            (f"{words.count(saved.turns, 'turn')} not repeated, ", "good"),
            (f"{words.money(saved.nano)} not paid twice", "good"),
            (".", ""),
        )
    else:
        on.line(("No turn was finished by then, so none had to be saved: kill it later.", ""))
    if saved.doubts:
        were = "reply was" if saved.doubts == 1 else "replies were"
        on.line(
            (f"{saved.doubts} {were} cut off by it: counted as ", ""),
            (words.money(saved.doubts_nano), "money"),
            (", the most that can have cost.", ""),
        )
