"""Scripts in YAML: every condition, every answer, and what is said of a file that is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anthropic
import msgspec
import pytest

from outlast.errors import UsageError
from outlast.models import faults
from outlast.models.script import Script, Turn, say, text, tool_use
from outlast.testing import simulator
from outlast.testing.simulator import rules
from simulator.asking import body, client_of

CALL = {"type": "tool_use", "id": "t1", "name": "look", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "Two OWLS"}
SECOND = body(
    "hi",
    messages=[
        {"role": "user", "content": "Look for owls"},
        {"role": "assistant", "content": [CALL]},
        {"role": "user", "content": [RESULT]},
    ],
)


def written(tmp_path: Path, yaml: str) -> Script:
    (tmp_path / "claude.yaml").write_text(yaml)
    return rules.read(tmp_path / "claude.yaml")


# a condition, a request that fits, and one that does not
CONDITIONS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "turn": ("{turn: 2}", SECOND, body("hi")),
    "turns": ("{turn: [1, 3]}", body("hi"), SECOND),
    "heard": ("{heard: OWLS}", body("two owls"), body("two mice")),
    "heard before": ("{heard: owls}", SECOND, body("mice")),
    "system": ("{system: kind}", body("hi", system="Be KIND."), body("hi")),
    "result": ("{result: two owls}", SECOND, body("two owls")),
    "called": ("{called: look}", SECOND, body("hi")),
    "called another": ("{turn: 1}", body("hi"), SECOND),
    "model": ("{model: claude-haiku-5-5}", body("hi", model="claude-haiku-5-5"), body("hi")),
    "several": ("{turn: 1, heard: owl}", body("owl"), body("mouse")),
}


@pytest.mark.parametrize("row", CONDITIONS)
def test_a_rule_is_for_requests_that_fit(tmp_path, row):
    """The first rule that fits answers, and a rule without `when` fits all."""
    when, fits, other = CONDITIONS[row]
    script = written(tmp_path, f"- when: {when}\n  say: yes!\n- say: no!\n")
    assert script(fits, 1).content == [text("yes!")]
    assert script(other, 1).content == [text("no!")]


# a rule, and what it says to a request for turn 2
ANSWERS: dict[str, tuple[str, Turn]] = {
    "a text": ("say: Hello.", say("Hello.")),
    "texts and blocks": (
        "say: [One., {type: hologram, x: 1}]",
        say("One.", {"type": "hologram", "x": 1}),
    ),
    "a call": ("{say: Hm., call: {look: {at: 1}}}", say("Hm.", tool_use("look", {"at": 1}))),
    "calls": (
        "call: [{look: {at: 1}}, {look: null}]",
        say(tool_use("look", {"at": 1}), tool_use("look", {})),
    ),
    "what was heard": (
        "say: 'Turn {turn}: {heard} gave {results}, and {this} stays.'",
        say("Turn 2: Look for owls gave Two OWLS, and {this} stays."),
    ),
    "thinking": ("{think: Hm., say: So.}", say({"type": "thinking", "thinking": "Hm."}, "So.")),
    "a compaction": ("compact: Owls.", say({"type": "compaction", "content": "Owls."})),
    "how it stops": (
        "{say: Hm., stop_reason: pause_turn, usage: {input_tokens: 1}, total_s: 2}",
        say("Hm.", stop_reason="pause_turn", usage={"input_tokens": 1}, total_s=2.0),
    ),
    "null": ("{say: Hm., stop_reason: null}", say("Hm.", stop_reason=None)),
    "extra": (
        "{say: Hm., extra: {container: {id: c}}}",
        say("Hm.", extra={"container": {"id": "c"}}),
    ),
}


@pytest.mark.parametrize("row", ANSWERS)
def test_a_rule_says(tmp_path, row):
    """What a rule spells out is the turn that a function would have returned."""
    rule, turn = ANSWERS[row]
    said = written(tmp_path, f"- {rule}\n")(SECOND, 1)
    assert msgspec.to_builtins(said) == msgspec.to_builtins(turn)


def test_a_refusal_has_its_category(tmp_path):
    """`refuse` is the category of the refusal, and what was said comes before it."""
    said = written(tmp_path, "- {say: No., refuse: bio}\n")(SECOND, 1)
    assert said.stop_reason == "refusal"
    assert said.extra["stop_details"]["category"] == "bio"


@pytest.mark.parametrize("name", faults.__all__)
def test_every_fault_can_be_named(tmp_path, name):
    """A fault befalls the first attempt by default, others by number, and never attempt 0."""
    seconds = name in ("late", "slow_drip", "stall", "pings_only")
    fault = f"{{{name}: {{seconds: 2}}}}" if seconds else name
    script = written(
        tmp_path,
        f"- fault: {fault}\n- when: {{attempt: [0, 3, 4]}}\n  fault: {fault}\n- say: Hello.\n",
    )
    made = getattr(faults, name)(*[2] * seconds)
    assert [script(body("hi"), attempt) for attempt in (1, 3, 4)] == [made] * 3
    assert [script(body("hi"), attempt).content for attempt in (0, 2, 5)] == [[text("Hello.")]] * 3


WRONG = {
    "- {sya: Hello.}": r"contains unknown field `sya` - at `\$\[0\]`",
    "- when: {tern: 1}": r"unknown field `tern` - at `\$\[0\].when`",
    "- when: {turn: one}": r"at `\$\[0\].when.turn`",
    "rules: []": "is not a list of rules: Expected `array`",
    "- [": "is not a list of rules",
    "- {fault: overlaoded}": "rule 1 of .*claude.yaml: no fault 'overlaoded'; there are auth,",
    "- say: a\n- fault: {cut: {before: 1}}": r"rule 2 of .*: cut\(after: .*was given {'before': 1}",
    "- fault: {cut: {}, html: {}}": "rule 1 of .*: give one fault, not 2",
    "- {when: {attempt: 1}, say: a}": "rule 1 of .*: `attempt` is for faults only",
}


@pytest.mark.parametrize("yaml", WRONG)
def test_a_file_that_is_wrong_is_told_where(tmp_path, yaml):
    """The rule and the member are named, before anything is served."""
    with pytest.raises(UsageError, match=WRONG[yaml]):
        written(tmp_path, yaml)


def test_a_file_that_is_not_there_is_named(tmp_path):
    """The reason is in the exception that `start` raises."""
    with pytest.raises(UsageError, match=r"cannot read the rules of .*none.yaml: No such file"):
        simulator.start(str(tmp_path / "none.yaml"))


def test_a_request_that_no_rule_fits_is_told(tmp_path):
    """Silence is a mistake of the file, and says what was asked."""
    script = written(tmp_path, "- when: {turn: 9}\n  say: Hello.\n")
    with pytest.raises(LookupError, match=r"no rule of .*fits turn 2, after 'Look for owls'"):
        script(SECOND, 1)


@pytest.mark.parametrize("attribute", ["", ":other"])
def test_a_script_may_be_a_python_file(tmp_path, attribute):
    """`FILE.py` is its function `script`, or the one that is named."""
    (tmp_path / "a_claude.py").write_text(
        "from outlast.models.script import say\n"
        "def script(request, attempt):\n"
        "    return say('I am script.')\n"
        "def other(request, attempt):\n"
        "    return say('I am other.')\n"
    )
    with (
        simulator.start(f"{tmp_path / 'a_claude.py'}{attribute}") as running,
        client_of(running) as client,
    ):
        said = client.messages.create(**body("hi")).content[0].text
    assert said == f"I am {attribute[1:] or 'script'}."


def test_rules_are_served_over_http(tmp_path):
    """`start` takes a file of rules as it takes a module."""
    (tmp_path / "claude.yml").write_text("- fault: overloaded\n- say: Hello.\n")
    with (
        simulator.start(str(tmp_path / "claude.yml")) as running,
        client_of(running) as client,
    ):
        with pytest.raises(anthropic.OverloadedError):
            client.messages.create(**body("hi"))
        assert client.messages.create(**body("hi")).content[0].text == "Hello."
