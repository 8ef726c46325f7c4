"""The scripted Claude of the demo: what it says follows what tools return."""

import json
import re

import pytest
from pydantic_core import to_json

import outlast
from outlast.demo import grants
from outlast.demo.agent import FINE, QUESTION, open_programmes, proposal, researcher
from outlast.demo.script import _facts, script
from outlast.models.script import Fault, Turn, text_of
from outlast.models.scripted import ScriptedModel


def converse(question=QUESTION, *, change=lambda call, result: result, pace=0.0):
    """Return the answer, the conversation, the faults met and the seconds the replies took."""
    speak, messages, faults, seconds = (
        script(pace),
        [{"role": "user", "content": question}],
        [],
        0.0,
    )
    for _ in range(20):
        said, attempt = None, 0
        while not isinstance(said, Turn):
            attempt += 1
            said = speak({"messages": messages}, attempt)
            faults += [(said.status, said.headers)] if isinstance(said, Fault) else []
        seconds += said.total_s
        blocks = [{"id": f"call-{len(messages)}-{n}", **b} for n, b in enumerate(said.content)]
        messages.append({"role": "assistant", "content": blocks})
        calls = [block for block in blocks if block["type"] == "tool_use"]
        if not calls:
            return said.content[0]["text"], messages, faults, seconds
        messages.append({"role": "user", "content": [change(c, result(c)) for c in calls]})
    raise AssertionError("the script does not come to an end")


def result(call):
    """Return the tool_result of a call that really is made."""
    tool = researcher.tool(call["name"])
    block = {"type": "tool_result", "tool_use_id": call["id"]}
    try:
        value = tool(**tool.arguments(json.dumps(call["input"]).encode()))
    except Exception as error:  # noqa: BLE001  (whatever a tool raises)
        return {**block, "content": f"{type(error).__name__}", "is_error": True}
    return {**block, "content": to_json(value).decode()}


def table(answer):
    """Return the cells of the answer's table."""
    rows = [line for line in answer.splitlines() if line.startswith("| 360G")]
    return [[cell.strip() for cell in row.strip("| ").split(" | ")] for row in rows]


def test_the_answer_is_true():
    """The answer names five real grants of at most £20,000, each as the data has it."""
    rows = table(converse()[0])
    assert len({row[0] for row in rows}) == 5
    for grant_id, recipient, place, amount, awarded, purpose in rows:
        grant = grants.details(grant_id)
        assert (recipient, place, awarded) == (grant.recipient, grant.locality, grant.awarded)
        assert amount == f"£{grant.amount_gbp:,}"
        assert grant.amount_gbp <= 20_000
        assert purpose.removesuffix(" …") in " ".join(grant.purpose.split())
        assert "dementia" in f"{grant.purpose} {grant.recipient}".lower()


def test_the_answer_comes_from_the_results():
    """What the tools return is what the answer says: change a result, and the answer changes."""

    def renamed(call, block):
        text = block["content"].replace("Age UK Bristol", "The Moon Society")
        return {**block, "content": text}

    assert "Age UK Bristol" in converse()[0]
    changed = converse(change=renamed)[0]
    assert "The Moon Society" in changed
    assert "Age UK Bristol" not in changed


def test_everything_goes_wrong_once():
    """One overload, one rate limit with a retry-after, one broken tool; and calls in parallel."""
    answer, messages, faults, _ = converse(pace=0.1)
    assert faults == [(529, {}), (429, {"retry-after": "0.1"})]
    results = [b for m in messages[2::2] if m["role"] == "user" for b in m["content"]]
    assert len([block for block in results if block.get("is_error")]) == 1
    assert "Not checked, because open_programmes failed" in answer
    assert max(len(m["content"]) for m in messages[2::2]) == 6
    assert len(messages) == 10


def test_the_broken_tool_is_broken():
    """The website lookup fails for real, whoever asks."""
    with pytest.raises(ConnectionError, match="does not answer"):
        open_programmes("Wolfson Foundation")


def test_the_same_request_is_answered_the_same():
    """The script is a function of the request: nothing else changes what it says."""
    assert converse() == converse()


@pytest.mark.parametrize("tool", [t.name for t in researcher.tools if t is not open_programmes])
def test_a_failed_tool_is_not_an_empty_answer(tool):
    """Whichever tool fails, the script comes to an end and says what could not be done."""

    def broken(call, block):
        return {**block, "content": "[]", "is_error": True} if call["name"] == tool else block

    answer = converse(change=broken)[0]
    assert re.search(rf"{tool} failed|The search for dementia failed", answer)


def test_nothing_found_is_said():
    """A search without a match ends in an answer that says so, and names no grant."""
    answer = converse("Find three grants for zeppelins.")[0]
    assert answer == "No grant for zeppelins that fits is on record."
    assert len(table(converse("Find three grants of at most £9k for carers.")[0])) == 3


# ── the whole flow ────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def proposed(tmp_path_factory):
    """The demo's flow without a simulator: its run, its requests, and the folder it saves into."""
    folder = tmp_path_factory.mktemp("proposed")
    claude = ScriptedModel(script(0))
    with outlast.Outlast("memory://", model=claude, deps=folder) as app:
        run = app.run(proposal, QUESTION, run_id="demo")
        return run, [json.loads(call) for call in claude.calls], folder


def test_the_flow_ends_with_a_saved_proposal(proposed):
    """In nine turns and three phases there is a proposal, and it stands in the folder."""
    run, requests, folder = proposed
    assert run.status == "completed", run.why
    assert (run.turns, run.phase) == (9, "COMPLETE")
    assert (folder / "proposal.md").read_text() == run.answer + "\n"
    assert [path.name for path in folder.iterdir()] == ["proposal.md"]
    assert len(requests) == 11, "nine turns and two faults"


def test_the_proposal_is_true(proposed):
    """Each of its five grants is real, and the sum asked for is the middle of theirs."""
    answer = proposed[0].answer
    listed = re.findall(r"^- (.+) received £([\d,]+) in (\d{4}) \((\S+)\)", answer, re.MULTILINE)
    assert len(listed) == 5
    amounts = []
    for recipient, amount, year, grant_id in listed:
        grant = grants.details(grant_id)
        assert (recipient, year) == (grant.recipient, grant.awarded[:4])
        assert amount == f"{grant.amount_gbp:,}"
        amounts.append(grant.amount_gbp)
    assert f"We ask for £{sorted(amounts)[2]:,}" in answer
    assert answer.startswith("# Proposal: more work for dementia\n\nTo the Lloyds Bank Foundation")


def test_the_review_changes_the_proposal(proposed):
    """One reviewer is content, what the other asks for is mended in the same conversation."""
    run, requests, _ = proposed
    revision = requests[-1]["messages"]
    assert [message["role"] for message in revision] == ["user", "assistant", "user"]
    assert "right at the beginning" in text_of(revision[2]["content"])
    assert FINE not in text_of(revision[2]["content"])
    draft = text_of(revision[1]["content"])
    assert draft.index("We ask for") > draft.index("What was done")
    assert run.answer.index("We ask for") < run.answer.index("What was done")


def test_the_reviewer_reads(proposed):
    """A grant that is not in the findings, or has another amount, does not pass the review."""
    answer = proposed[0].answer
    findings = converse()[0]
    assert _facts(findings, answer).startswith(FINE)
    assert "360G-wolfson-19884" in _facts(findings, answer.replace("£10,000", "£90,000"))
    assert "360G-moon-1" in _facts(findings, answer.replace("360G-wolfson-19884", "360G-moon-1"))


@pytest.mark.parametrize(("pace", "least", "most"), [(1.0, 14, 20), (0.0, 0, 0)])
def test_the_pace_is_about_twenty_seconds(proposed, pace, least, most):
    """At demo pace the replies, with a second's rate limit, take about that; fast takes none."""
    said = {str(request): script(pace)(request, 2) for request in proposed[1]}
    assert len(said) == 9
    # Of the two reviews, which go on at the same time, one counts.
    took = pace + sum(s.total_s for asked, s in said.items() if "clear at once" not in asked)
    assert least <= took <= most
