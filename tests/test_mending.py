"""What only a person can mend stops a run, and does not end it."""

import pytest

import outlast
from outlast.models.script import Fault, faulty, once, say
from outlast.models.scripted import ScriptedModel

ANSWERER = outlast.Agent("answerer", model="claude-haiku-5-5")


@pytest.mark.parametrize(
    "status",
    [401, 403],
)
def test_goes_on_once_mended(status: int) -> None:
    """A refused key is asked about once; then the run waits for a resume."""
    fault = Fault(kind="status", status=status, message="no")
    claude = ScriptedModel(faulty(lambda request, attempt: say("Yes."), once(1, fault)))
    with outlast.Outlast("memory://", model=claude) as app:
        run = app.run(ANSWERER, "Well?", run_id="r")
        assert run.status == "stopped"
        assert "(auth): no" in run.why
        assert "mend it, then resume" in run.why
        assert len(claude.calls) == 1, "exactly one attempt"
        assert run.cost_nano == 0, "surely unbilled"
        with pytest.raises(outlast.RunStopped):
            run.result()
        mended = app.resume("r", ANSWERER)
        assert mended.result() == "Yes."
        assert len(claude.calls) == 2


def test_not_mended() -> None:
    """Every resume is one attempt, as long as nothing was mended."""
    fault = Fault(kind="status", status=401, message="no")
    claude = ScriptedModel(lambda request, attempt: fault)
    with outlast.Outlast("memory://", model=claude) as app:
        app.run(ANSWERER, "Well?", run_id="r")
        assert app.resume("r", ANSWERER).status == "stopped"
        assert len(claude.calls) == 2


@pytest.mark.parametrize("name", ["speed", "service_tier", "inference_geo"])
def test_what_changes_the_price_in_an_unknown_way_is_refused(name: str) -> None:
    """A parameter that changes what a call costs is refused where nobody knows by how much."""
    with pytest.raises(outlast.InvalidAgent, match=name):
        outlast.Agent("a", model="claude-haiku-5-5", parameters={name: "quick"})
