"""What the README shows works."""

import re
from pathlib import Path

import outlast
from outlast.models.script import say, text_of, tool_results, tool_use, turn_number
from outlast.models.scripted import ScriptedModel

README = (Path(__file__).parents[1] / "README.md").read_text()


def _claude(request, attempt):
    if turn_number(request) == 1:
        return say(tool_use("search_grants", {"keyword": "AI"}))
    return say("Found: " + text_of(tool_results(request)[0]["content"]))


def test_the_agent_of_the_readme_runs(tmp_path):
    """The README's agent answers, and answers again without a call."""
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
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
