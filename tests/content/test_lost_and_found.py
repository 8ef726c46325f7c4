"""When the store fails: nothing is billed that was not sent, nothing is done twice."""

from hashlib import sha256
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest
from msgspec import Raw

import outlast
from outlast import conversation
from outlast.conversation import opened
from outlast.errors import StoreError, StoreFull
from outlast.events import (
    MessageReceived,
    ModelCallFailed,
    ModelCallInDoubt,
    ModelCallSucceeded,
    Spec,
    TokensCounted,
    ToolCallInDoubt,
    ToolCallSucceeded,
)
from outlast.journal import Record
from outlast.models.script import tool_use
from outlast.models.scripted import ScriptedModel
from outlast.stores import open_store
from stubs import MODEL, USAGE, agent, asking

PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)
PDF = b"%PDF-1.7\n/Type /Page\n"
ASKED = [outlast.Image(PNG), "What is it?"]


class Failing:
    """A store whose blobs cannot be read, or not be written."""

    def __init__(self) -> None:
        self._store = open_store("memory://")
        self.unreadable = self.full = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def blob(self, digest: str) -> bytes | None:
        if self.unreadable:
            raise StoreError("disk I/O error")
        return self._store.blob(digest)

    def put_blob(self, data: bytes) -> str:
        if self.full:
            raise StoreFull("no space is left")
        return self._store.put_blob(data)


def test_a_store_that_cannot_be_read_is_no_failure_of_claude() -> None:
    """The store's error is raised, nothing is sent or billed, and the same call goes on later."""
    store, model = Failing(), ScriptedModel(asking())
    with outlast.Outlast(store, model=model) as app:  # type: ignore[arg-type]
        store.unreadable = True
        with pytest.raises(StoreError, match="disk I/O error"):
            app.run(agent(), ASKED, run_id="r")
        assert model.calls == []
        run = app.get("r")
        assert (run.status, run.cost_nano) == ("stopped", 0)
        assert "nothing was sent (store): StoreError: disk I/O error; mend it" in run.why
        store.unreadable = False
        assert app.run(agent(), ASKED, run_id="r").status == "completed"
        events = [record.event for record in app.log("r")]
    assert [event.kind for event in events if isinstance(event, ModelCallFailed)] == ["store"]
    assert not any(isinstance(event, ModelCallInDoubt) for event in events)
    assert len(model.calls) == 1


def test_a_count_that_the_store_prevents_is_not_written() -> None:
    """A prompt is not held as a whole context for ever because a blob could not be read once."""
    store, model = Failing(), ScriptedModel(asking())
    with outlast.Outlast(store, model=model) as app:  # type: ignore[arg-type]
        store.unreadable = True
        with pytest.raises(StoreError, match="disk I/O error"):
            app.run(agent(), outlast.Document(PDF), run_id="r")
        assert app.get("r").status != "stopped"
        store.unreadable = False
        assert app.run(agent(), outlast.Document(PDF), run_id="r").status == "completed"
        counts = [each.event for each in app.log("r") if isinstance(each.event, TokensCounted)]
    assert [count.why for count in counts] == [""]


@pytest.mark.parametrize(
    "value",
    [outlast.Image(PNG), [outlast.Image(PNG), "a"], "x" * 100_000],
    ids=["an image", "images and texts", "a long text"],
)
def test_a_full_store_is_not_told_as_a_bad_result(value: Any) -> None:
    """What a tool returned and the store has no room for is in doubt, and not lost."""
    store, ran = Failing(), []

    @outlast.tool(effect="once")
    def work() -> Any:
        ran.append(1)
        store.full = len(ran) == 1
        return value

    model = ScriptedModel(asking(tool_use("work", {})))
    with outlast.Outlast(store, model=model) as app:  # type: ignore[arg-type]
        with pytest.raises(StoreFull, match="no space is left"):
            app.run(agent(work), "Go.", run_id="r")
        store.full = False
        assert app.run(agent(work), "Go.", run_id="r").status == "waiting", "for a person"
        events = [record.event for record in app.log("r")]
    assert len(ran) == 1, "it is never repeated"
    assert [event.kind for event in events if isinstance(event, ToolCallInDoubt)] == ["crash"]
    assert not any(isinstance(event, ToolCallSucceeded) for event in events)


def test_a_blob_that_is_brought_back(tmp_path: Path) -> None:
    """A run whose image was lost stops, unbilled, and is completed once a backup is restored."""
    path, model = tmp_path / "a.db", ScriptedModel(asking())
    with outlast.Outlast(f"sqlite:///{path}", model=model) as app:
        app.start(agent(), ASKED, run_id="r")
    edited(path, "CREATE TABLE kept AS SELECT * FROM blobs; DELETE FROM blobs")
    with outlast.Outlast(f"sqlite:///{path}", model=model) as app:
        run = app.resume("r", agent=agent())
        assert (run.status, run.cost_nano) == ("stopped", 0)
        assert f"the journal has no blob {sha256(PNG).hexdigest()}" in run.why
    edited(path, "INSERT INTO blobs SELECT * FROM kept; DROP TABLE kept")
    with outlast.Outlast(f"sqlite:///{path}", model=model) as app:
        assert app.resume("r", agent=agent()).status == "completed"
    assert len(model.calls) == 1


def edited(path: Path, statements: str) -> None:
    connection = apsw.Connection(str(path))
    connection.execute(statements)
    connection.close()


# ── what is attached ────────────────────────────────────────────────────────────────────────────


def test_a_compaction_leaves_nothing_attached() -> None:
    """The summary stands for the images, too: no blob is put into the messages that follow."""
    ask = opened("a", Spec(agent="tester", model=MODEL, max_tokens=9))
    image = {"type": "base64", "media_type": "image/png", "data": {"blob": "0" * 64}}
    pages = {"type": "file", "file_id": "f"}
    content = [{"type": "image", "source": image}, {"type": "document", "source": pages}]
    said: list[Any] = [
        MessageReceived(ask_id="a", content=Raw(msgspec.json.encode(content))),
        ModelCallSucceeded(
            ask_id="a",
            call_id="a.m1",
            content=Raw(b'[{"type":"compaction","content":"An image."}]'),
            stop_reason="compaction",
            usage=USAGE,
            cost_nano=1,
            tokens=1,
        ),
    ]
    ask = folded(ask, said[0])
    assert (ask.attached, ask.uncounted) == ((0,), True)
    ask = folded(ask, said[1])
    assert (ask.attached, ask.uncounted) == ((), False)
    assert len(ask.messages) == 1
    ask = folded(ask, said[0])
    assert ask.attached == (1,), "and what comes later is"


def folded(ask: conversation.Conversation, event: Any) -> conversation.Conversation:
    return conversation.evolve(ask, Record("run:r", 1, 0, 0, 0, event))


# ── what is given again ─────────────────────────────────────────────────────────────────────────


def test_a_conflict_shows_where_two_inputs_differ() -> None:
    """Two images under one run id are told apart by their digests, two texts by their words."""
    other = PNG + b"x"
    with outlast.Outlast("memory://", model=ScriptedModel(asking())) as app:
        app.run(agent(), ASKED, run_id="r")
        with pytest.raises(outlast.RunConflict) as raised:
            app.run(agent(), [outlast.Image(other), "What is it?"], run_id="r")
        assert sha256(PNG).hexdigest()[:40] in raised.value.recorded
        assert sha256(other).hexdigest()[:40] in raised.value.given
        app.run(agent(), "a" * 500 + "b" * 500, run_id="s")
        with pytest.raises(outlast.RunConflict) as raised:
            app.run(agent(), "a" * 500 + "c" * 500, run_id="s")
        assert raised.value.recorded == f"…{'a' * 20}{'b' * 60}…"
        assert raised.value.given == f"…{'a' * 20}{'c' * 60}…"
        with pytest.raises(outlast.RunConflict) as raised:
            app.run(agent(), "z", run_id="s")
        assert raised.value.given == '"z"'
