"""Conversations: what is resent is what came, to the byte, and anything else is noticed."""

import shutil
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw
from msgspec.structs import replace

import outlast
from conftest import SOAK
from outlast.conversation import Block, Pending, Trail, Try, blocks, opened, request_hash
from outlast.errors import JournalDamaged
from outlast.events import Spec
from outlast.journal import run_stream
from outlast.models import Reply, Request
from outlast.models.script import tool_use
from outlast.models.scripted import ScriptedModel
from outlast.state import fold
from stubs import MODEL, Answers, agent, asking, reply, unmarked

# ── the bytes of a reply ──────────────────────────────────────────────────────────────────────

SPELLED = [
    b"0",
    b"-0",
    b"-0.0",
    b"1.0",
    b"0.10",
    b"1e5",
    b"1E+2",
    b"1.50e-3",
    b"1e-400",
    b"12345678901234567890123456789",
    b"3.141592653589793238462643383279",
]
"""Numbers that no encoder would write like this after having read them."""


def spelled_string(value: str) -> st.SearchStrategy[bytes]:
    """Return ways to write a string as JSON: plain, escaped throughout, or in part."""
    plain = msgspec.json.encode(value)
    units = value.encode("utf-16-be")
    escaped = b"".join(
        b"\\u%04x" % int.from_bytes(units[n : n + 2]) for n in range(0, len(units), 2)
    )
    return st.sampled_from([plain, b'"%b"' % escaped, plain.replace(b"/", b"\\/")])


characters = st.characters(exclude_categories=("Cs",))
strings = st.text(characters, max_size=12).flatmap(spelled_string)
space = st.sampled_from([b"", b" ", b"\n\t"])


def spelled_members(members: dict[str, bytes], between: bytes) -> bytes:
    written = [b'"%b":%b%b' % (name.encode(), between, value) for name, value in members.items()]
    return b"{%b%b}" % (between, (between + b"," + between).join(written))


def spelled_list(items: list[bytes], between: bytes) -> bytes:
    return b"[%b%b]" % (between, (b"," + between).join(items))


scalars = st.sampled_from([b"null", b"true", *SPELLED]) | strings
lists = st.builds(spelled_list, st.lists(scalars, max_size=3), space)
objects = st.builds(
    spelled_members, st.dictionaries(st.sampled_from("abcé"), scalars | lists, max_size=3), space
)
json = scalars | lists | objects
unheard_of = st.dictionaries(
    st.sampled_from(["cache", "citations", "ångström", "x-1"]), json, max_size=2
)


@st.composite
def block(draw: st.DrawFn, kind: str = "", number: int = 0) -> bytes:
    """Draw a block of a reply as bytes: members in any order, some that nobody has heard of."""
    kind = kind or draw(st.sampled_from(["text", "thinking", "redacted_thinking", "zebra"]))
    members: dict[str, bytes] = {"type": b'"%b"' % kind.encode()}
    if kind == "text":
        members["text"] = draw(strings)
    elif kind == "thinking":
        members |= {"thinking": draw(strings), "signature": draw(strings)}
    elif kind == "tool_use":
        members |= {
            "id": b'"toolu_%d"' % number,
            "name": b'"anything"',
            "input": draw(objects),
        }
    else:
        members |= draw(
            st.fixed_dictionaries({}, optional={"id": json, "text": json, "name": json})
        )
    members |= draw(unheard_of)
    order = draw(st.permutations(list(members)))
    return spelled_members({name: members[name] for name in order}, draw(space))


@st.composite
def replies(draw: st.DrawFn) -> list[bytes]:
    """Draw the contents of some replies, each with at least one tool use."""
    contents = []
    for turn in range(draw(st.integers(1, 3))):
        others = draw(st.lists(block(), max_size=3))
        uses = [draw(block("tool_use", 10 * turn + n)) for n in range(draw(st.integers(1, 2)))]
        contents.append(b"[%b]" % b",".join(draw(st.permutations([*others, *uses]))))
    return contents


ANSWER = b'[{"type":"text","text":"done"}]'


def saying(contents: list[bytes]) -> Answers:
    """Return the model that replies with these contents, and then with an answer."""

    def answer(request: Request) -> Reply:
        assert request.attempt == 1, "a reply was not understood, and paid for again"
        turn = sum(message.startswith(b'{"role":"assistant"') for message in request.messages)
        if turn < len(contents):
            return reply(contents[turn], "tool_use")
        return reply(ANSWER)

    return Answers(answer)


def check_resent(contents: list[bytes], calls: list[bytes]) -> None:
    """Check that every request is the one before, with what came and its results at the end."""
    calls = [unmarked(call) for call in calls]
    for content, before, now in zip(contents, calls[:-1], calls[1:], strict=True):
        assert before.endswith(b"]}")
        said = b',{"role":"assistant","content":%b},{"role":"user","content":[{"type":"tool_re'
        assert now.startswith(before.removesuffix(b"]}") + said % content)
    msgspec.json.decode(calls[-1])


@settings(max_examples=2_000 if SOAK else 60)
@given(replies())
def test_what_is_resent_is_what_came(contents: list[bytes]) -> None:
    """Whatever Claude says is resent to the byte: unknown blocks, spelling of numbers, escapes."""
    model = saying(contents)
    with outlast.Outlast("memory://", model=model) as app:
        run = app.run(agent(stops_loops=False), "Go.", run_id="r")
        assert run.status == "completed", run.why
        assert app.get("r") == run
    check_resent(contents, model.calls)


@settings(max_examples=300 if SOAK else 12)
@given(contents=replies())
def test_what_is_resent_after_a_restart_is_what_came(
    contents: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A store that is opened anew before every turn gives the same bytes again."""
    url = f"sqlite:///{tmp_path_factory.mktemp('store')}/a.db"
    model = saying(contents)
    for turns in range(1, len(contents) + 2):
        with outlast.Outlast(url, model=model) as app:
            run = app.run(
                agent(budget=outlast.Budget(turns=turns), stops_loops=False), "Go.", run_id="r"
            )
            assert run.status == ("completed" if turns > len(contents) else "stopped"), run.why
    check_resent(contents, model.calls)


@pytest.mark.parametrize(
    ("content", "read"),
    [
        (b"[]", []),
        (b'[{"type":"text","text":"a","citations":null}]', [Block("text", text="a")]),
        (b'[{"type":"zebra","id":5,"text":["x"],"name":null}]', [Block("zebra")]),
        (
            b'[{"type":"zebra","id":5},{"type":"tool_use","id":"t","name":"n","input":{ }}]',
            [Block("zebra"), Block("tool_use", id="t", name="n", input=Raw(b"{ }"))],
        ),
    ],
)
def test_blocks_are_read_for_what_is_needed(content: bytes, read: list[Block]) -> None:
    """Of a block only what the loop needs is read; a strange one may hold what it likes."""
    assert blocks(Raw(content)) == read


@pytest.mark.parametrize(
    "content",
    [
        b"{}",
        b"[1]",
        b"[{}]",
        b'[{"type":1}]',
        b'[{"type":"text","text":1}]',
        b'[{"type":"tool_use","id":1,"name":"n"}]',
        b'[{"type":"text","text":"a"}',
    ],
)
def test_what_are_no_blocks_is_refused(content: bytes) -> None:
    """Text that is no text and a tool use without a proper id are not taken for something else."""
    with pytest.raises(msgspec.DecodeError):
        blocks(Raw(content))


# ── the hash of a request ─────────────────────────────────────────────────────────────────────

SPEC = Spec(
    agent="a",
    model=MODEL,
    max_tokens=5,
    system="Be brief.",
    tools=Raw(b'[{"name":"t","input_schema":{"type":"object"}}]'),
    parameters=Raw(b'{"temperature":0.5}'),
)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "claude-opus-5-5"},
        {"system": "Be brief!"},
        {"tools": Raw(b"[]")},
        {"parameters": Raw(b"{}")},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_hash_covers_the_frozen_part(change: dict[str, Any]) -> None:
    """Whatever the model is shown besides the messages changes the hash of the request."""
    assert request_hash(opened("a", SPEC), 5) == request_hash(opened("b", replace(SPEC)), 5)
    assert request_hash(opened("a", SPEC), 5) != request_hash(
        opened("a", replace(SPEC, **change)), 5
    )
    assert request_hash(opened("a", SPEC), 5) != request_hash(opened("a", SPEC), 6)


def test_the_body_is_what_the_api_takes() -> None:
    """A request holds the frozen members as recorded, and leaves out those that say nothing."""

    def body(spec: Spec) -> dict[str, Any]:
        head = opened("a", spec).head
        request = Request(
            run_id="r",
            ask_id="a",
            call_id="c",
            attempt=1,
            model=spec.model,
            max_tokens=spec.max_tokens,
            head=head,
            messages=[b'{"role":"user","content":"Go."}'],
        )
        return msgspec.json.decode(request.body())

    frame = {
        "model": MODEL,
        "max_tokens": 5,
        "stream": True,
        "messages": [{"role": "user", "content": "Go."}],
    }
    assert body(Spec(agent="a", model=MODEL, max_tokens=5)) == frame
    assert body(SPEC) == frame | {
        "system": [{"type": "text", "text": "Be brief."}],
        "tools": [{"name": "t", "input_schema": {"type": "object"}}],
        "temperature": 0.5,
    }


TAMPERED = {
    "the question": ("message_received", b'"Go."', b'"Gas"'),
    "a reply": ("model_call_succeeded", b"First,", b"Last, "),
    "a result": ("tool_call_succeeded", b"seen", b"lost"),
    "the instructions": ("run_started", b"Be brief.", b"Be long. "),
    "a schema": ("run_started", b'"word"', b'"wort"'),
}


@pytest.mark.parametrize(("type_", "old", "new"), TAMPERED.values(), ids=TAMPERED)
def test_a_history_that_was_changed_is_not_gone_on_with(
    type_: str, old: bytes, new: bytes, tmp_path: Path
) -> None:
    """If what the journal gives is not what was sent, the run stops and says where."""

    @outlast.tool(effect="read")
    def look(word: str) -> str:
        return "seen"

    model = ScriptedModel(
        asking({"type": "text", "text": "First,"}, tool_use("look", {"word": "a"}))
    )

    def app(path: Path) -> outlast.Outlast:
        return outlast.Outlast(f"sqlite:///{path}", model=model)

    tester = agent(look, instructions="Be brief.", budget=outlast.Budget(turns=2))
    with app(tmp_path / "a.db") as whole:
        assert whole.run(tester, "Go.", run_id="r").status == "completed"
    shutil.copy(tmp_path / "a.db", tmp_path / "b.db")
    connection = apsw.Connection(str(tmp_path / "b.db"))
    where = "FROM event_bodies JOIN events USING (stream, seq) WHERE type = ?"
    query = f"SELECT event_bodies.position, body {where} ORDER BY 1"
    position, body = connection.execute(query, (type_,)).fetchall()[0]
    assert old in body
    changed = (body.replace(old, new), position)
    connection.execute("UPDATE event_bodies SET body = ? WHERE position = ?", changed)
    connection.close()
    with app(tmp_path / "b.db") as damaged, pytest.raises(JournalDamaged) as raised:
        fold(damaged.journal.read(run_stream("r")))
    assert "the request rebuilt from the journal is not the one that was sent" in str(raised.value)
    assert "restore the store from a backup" in str(raised.value)


# ── the trail of messages ─────────────────────────────────────────────────────────────────────


@given(st.lists(st.tuples(st.integers(0, 20), st.binary(max_size=3)), max_size=30))
def test_a_trail_never_changes(steps: list[tuple[int, bytes]]) -> None:
    """A trail grows as a tuple would: whichever version grows, every other one stays as it was."""
    trails: list[tuple[Trail, tuple[bytes, ...]]] = [(Trail(), ())]
    for which, item in steps:
        trail, items = trails[which % len(trails)]
        trails.append((trail.grown(item), (*items, item)))
    for trail, items in trails:
        assert tuple(trail) == items
        assert len(trail) == len(items)
        assert trail == Trail(items)
        assert trail[1:] == list(items)[1:]
        assert [trail[index] for index in range(-len(items), len(items))] == [*items, *items]
        with pytest.raises(IndexError):
            trail[len(items)]


def test_growing_copies_nothing() -> None:
    """The newest version of a trail shares its items with all before it."""
    trail = first = Trail([b"a"])
    for _ in range(100):
        trail = trail.grown(b"b")
    assert trail._items is first._items


def test_deaths_in_a_row_are_those_since_something_else_happened():
    """A source that answered in between, with whatever, is not one that kills its process."""

    def tried(*kinds: str) -> Pending:
        tries = tuple(Try(0, kind, "", at) for at, kind in enumerate(kinds))  # type: ignore[arg-type]
        return Pending("toolu_1", "look", Raw(b"{}"), tried=tries)

    assert tried("crash", "crash").crashes == 2
    assert tried("crash", "raised", "crash").crashes == 1
    assert tried("crash", "raised").crashes == 0
