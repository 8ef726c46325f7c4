"""What the README shows works."""

import re
from pathlib import Path

import outlast
from outlast.models.script import last_text, say, text_of, tool_results, tool_use, turn_number
from outlast.models.scripted import ScriptedModel

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def _claude(request, attempt):
    if turn_number(request) == 1:
        return say(tool_use("search_grants", {"keyword": "AI"}))
    return say("Found: " + text_of(tool_results(request)[0]["content"]))


def test_the_agent_of_the_readme_runs(tmp_path):
    """The README's agent answers, and answers again without a call."""
    block = BLOCKS[0]
    names = {"__name__": "readme"}
    exec(compile(block, "README.md", "exec"), names)  # noqa: S102  (the README's own code)
    claude = ScriptedModel(_claude)
    with outlast.Outlast(f"sqlite:///{tmp_path}/agents.db", model=claude) as app:
        asked = "Find 5 grants for AI nonprofits under $50K."
        run = app.run(names["researcher"], asked, run_id="grants-001")
        assert run.status == "completed", run.why
        assert '"name":"Imagine"' in run.answer
        assert app.run(names["researcher"], asked, run_id="grants-001") == run
    assert len(claude.calls) == 2


def test_the_flow_of_the_readme_runs():
    """The README's flow goes through its phases and sends once, however often it is run."""
    sent = []
    agents = {n: outlast.Agent(n, model="claude-opus-5-5") for n in ("researcher", "writer")}
    names = {"outlast": outlast, "send_mail": sent.append, **agents}
    exec(compile(BLOCKS[2], "README.md", "exec"), names)  # noqa: S102  (the README's own code)
    claude = ScriptedModel(lambda request, _: say(f"From {last_text(request)}"))
    with outlast.Outlast("memory://", model=claude) as app:
        run = app.run(names["proposal"], "tea", run_id="tea")
        assert (run.status, run.phase) == ("completed", "COMPLETE"), run.why
        assert app.run(names["proposal"], "tea", run_id="tea") == run
    assert sent == [run.answer] == ["From Write a proposal from this: From tea"]


def test_what_comes_before_the_first_command_is_short():
    """Under sixty words stand before the first thing to run."""
    assert len(README.split("```console")[0].split()) < 60
