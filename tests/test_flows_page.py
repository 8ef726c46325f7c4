"""What docs/flows.md shows works."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

import outlast
from outlast.events import NoteAdded
from outlast.models.script import last_text, say
from outlast.models.scripted import ScriptedModel

PAGE = (Path(__file__).parents[1] / "docs" / "flows.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
MODEL = "claude-haiku-5-5"


def names(app: outlast.Outlast) -> dict[str, Any]:
    """Return what each block of the page is given."""
    agents = {
        name: outlast.Agent(name, model=MODEL) for name in ("researcher", "writer", "checker")
    }
    return {"outlast": outlast, "asyncio": asyncio, "app": app, **agents}


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_every_block_runs(number: int) -> None:
    """Each block runs, and each flow that it declares comes to its end, again without a call."""
    claude = ScriptedModel(lambda request, _: say(f"On {last_text(request)}"))
    with outlast.Outlast("memory://", model=claude) as app:
        given = names(app)
        exec(compile(BLOCKS[number], "flows.md", "exec"), given)  # noqa: S102  (the page's code)
        shown = [run for run in app.runs() if not run.parent]
        assert all(run.status in ("completed", "parked") for run in shown), shown
        flows = [one for one in given.values() if isinstance(one, outlast.Flow)]
        assert flows or shown
        for flow in flows:
            if flow.name == "reminded":
                assert app.get("remind-ada").status == "parked"
                continue
            run = app.run(flow, "black tea", run_id=flow.name)
            assert run.status == "completed", run.why
            calls = len(claude.calls)
            assert app.run(flow, "black tea", run_id=flow.name) == run
            assert len(claude.calls) == calls


def test_the_blocks_say_what_the_page_says() -> None:
    """The first block goes through its phases, and the conversation is one history."""
    claude = ScriptedModel(lambda request, _: say(f"On {last_text(request)}"))
    with outlast.Outlast("memory://", model=claude) as app:
        given = names(app)
        exec(compile(BLOCKS[0], "flows.md", "exec"), given)  # noqa: S102  (the page's code)
        assert given["run"].phase == "COMPLETE"
        assert given["run"].answer == ("On Write a proposal from this: On Dementia cafés in Leeds")
        (mended,) = [block for block in BLOCKS if 'conversation="draft"' in block]
        exec(compile(mended, "flows.md", "exec"), given)  # noqa: S102  (the page's code)
        app.run(given["mended"], "tea", run_id="mended")
        assert claude.calls[-1].count(b'"role":"assistant"') == 1


DONE: list[str] = []


def flow_of(
    *,
    asks: tuple[tuple[str, str | None], ...] = (("first", None), ("second", None)),
    step: tuple[str, str] = ("keep", "a"),
    phases: tuple[str, ...] = ("one", "two"),
    turns: int = 40,
    writer: str = "Write.",
) -> Any:
    """Return a flow `changing` as it is described; at last it asks `last`."""
    agent = outlast.Agent("writer", model=MODEL, instructions=writer)

    def kept(what: str) -> str:
        DONE.append(what)
        return what

    budget = outlast.Budget(turns=turns)

    @outlast.flow(
        name="changing",
        phases={"one": ["two"], "two": ["one", "three"], "three": []},
        budget=budget,
    )
    def changing(run: outlast.Run, _topic: str) -> list[str]:
        run.enter(phases[0])
        answers = [run.ask(agent, question, name=name) for question, name in asks]
        for phase in phases[1:]:
            run.enter(phase)
        answers.append(run.step(step[0], kept, step[1]))
        return [*answers, run.ask(agent, "last", name="last")]

    return changing


@pytest.mark.parametrize(
    ("change", "comes_to"),
    [
        ({}, []),
        ({"asks": (("new", "new"), ("first", None), ("second", None))}, ["new"]),
        ({"asks": (("first", None), ("new", "new"), ("second", None))}, ["new"]),
        ({"asks": (("first", None), ("second", None), ("third", None))}, ["third"]),
        ({"asks": (("first", None),)}, []),
        ({"asks": (("first", None), ("second", "renamed"))}, ["second"]),
        ({"asks": (("new", None), ("first", None), ("second", None))}, "'writer-1'"),
        ({"asks": (("first", None), ("other", None))}, "'writer-2'"),
        ({"step": ("renamed", "a")}, ["step a"]),
        ({"step": ("keep", "b")}, "'keep'"),
        ({"asks": (("second", "keep"),)}, "'keep'"),
        ({"phases": ("one", "two", "three")}, []),
        ({"phases": ("two", "one")}, "'phase'"),
        ({"writer": "Rhyme."}, []),
    ],
    ids=str,
)
def test_the_table_of_changes_is_so(change: dict[str, Any], comes_to: list[str] | str) -> None:
    """A run that was stopped before its last ask does with each change what the page says."""
    claude = ScriptedModel(lambda request, _: say(f"On {last_text(request)}"))
    with outlast.Outlast("memory://", model=claude) as app:
        assert app.run(flow_of(turns=2), "tea", run_id="one").status == "stopped"
        calls = len(claude.calls)
        DONE.clear()
        if isinstance(comes_to, list):
            run = app.run(flow_of(**change), "tea", run_id="one")
            assert run.status == "completed", run.why
            asked = [last_text(json.loads(call)) for call in claude.calls[calls:]]
            assert asked + [f"step {what}" for what in DONE] in (
                [*comes_to, "last"],
                ["last", *comes_to],
            )
            noted = [one.event.text for one in app.log("one") if isinstance(one.event, NoteAdded)]
            assert any("writer was changed (instructions)" in note for note in noted) == (
                "writer" in change
            )
        else:
            with pytest.raises(outlast.FlowChanged, match=comes_to):
                app.run(flow_of(**change), "tea", run_id="one")
            assert len(claude.calls) == calls
            assert not DONE


def test_one_sentence_a_line() -> None:
    """Prose stands one sentence a line, so that diffs read well."""
    prose = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
    for line in prose.splitlines():
        if not line.startswith(("|", "#")):
            assert not re.search(r"[.!?] [A-Z]", line), line
