"""The example of the article: grants that are checked before anyone believes them."""

import msgspec
import pytest

import outlast
from outlast.models.scripted import ScriptedModel
from validation.answering import EMPTY, GOOD, NOBODY, Grant, agent, answers


def run(*said, **more):
    model = ScriptedModel(answers(*said))
    with outlast.Outlast("memory://", model=model) as app:
        came = app.run(agent(**more), "Find grants.", run_id="r")
        return came, app.log("r"), model


def test_an_empty_list_is_rejected_with_an_issue():
    """A list without grants is no answer, though the API says success; Claude is told why."""
    came, log, model = run(EMPTY, GOOD)
    assert came.status == "completed"
    assert [one.issues[0].message for one in came.rejected_answers] == [
        "the list is empty, and tools returned grants"
    ]
    told = msgspec.json.decode(model.calls[1])["messages"][-1]["content"][0]["text"]
    assert "the list is empty, and tools returned grants" in told
    assert "thorough" not in told
    assert len(model.calls) == 2
    assert log


def test_missing_eligibility_is_rejected_with_that_issue():
    """A grant that does not say who may apply is named."""
    came, _, _ = run(NOBODY, GOOD)
    assert [one.issues[0].message for one in came.rejected_answers] == [
        "Ladder: eligibility is missing"
    ]
    assert came.rejected_answers[0].issues[0].rule == "says_who_is_eligible"


def test_a_good_answer_is_accepted():
    """What passes every check is the answer, as an object of its type; nothing was rejected."""
    came, _, model = run(GOOD)
    assert came.answer == [
        Grant(name="Ladder", funder="Trust", max_usd=10, eligibility="charities")
    ]
    assert came.rejected_answers == ()
    assert came.result() == came.answer
    assert len(model.calls) == 1


def test_three_bad_ones_end_rejected():
    """No answer is handed out; the three failures and the last response are there to be seen."""
    worse = [NOBODY, EMPTY, NOBODY.replace("Ladder", "Rung")]
    came, _, model = run(*worse)
    assert (came.status, came.answer) == ("rejected", None)
    assert [one.attempt for one in came.rejected_answers] == [1, 2, 3]
    assert all(one.issues for one in came.rejected_answers)
    assert came.rejected_answers[-1].answer[0]["name"] == "Rung"
    assert "Rung: eligibility is missing" in came.why
    assert len(model.calls) == 3
    with pytest.raises(outlast.RunRejected):
        came.result()
