"""Part 5: what goes wrong when it is logged."""

import outlast
from outlast.events import ModelCallSucceeded, RunStarted
from outlast.models.script import say
from outlast.models.scripted import ScriptedModel
from stubs import agent


def test_5_05_the_models_name_is_what_was_asked_and_who_answered() -> None:
    """The journal names the model that was asked for, and the one that the reply names."""
    with outlast.Outlast("memory://", model=ScriptedModel(lambda r, a: say("Yes."))) as app:
        app.run(agent(model="claude-sonnet-5-5"), "Well?", run_id="r")
        events = [record.event for record in app.log("r")]
    asked = [event.spec.model for event in events if isinstance(event, RunStarted)]
    answered = [event.model for event in events if isinstance(event, ModelCallSucceeded)]
    assert asked == answered == ["claude-sonnet-5-5"]
