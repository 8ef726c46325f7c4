"""examples/fastapi_app.py, served over HTTP on loopback, with clients that come and go."""

import importlib.util
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx2
import pytest
import uvicorn

import outlast
from outlast.events import ModelCallInDoubt, ModelCallStarted

EXAMPLES = Path(__file__).parents[2] / "examples"
PATIENCE_S = 60
QUESTION = "Who funds dementia cafés?"


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the example as a module, with a store of its own."""
    monkeypatch.setenv("OUTLAST_STORE", f"sqlite:///{tmp_path}/fastapi.db")
    spec = importlib.util.spec_from_file_location("fastapi_app", EXAMPLES / "fastapi_app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "fastapi_app", module)
    spec.loader.exec_module(module)
    return module


class Served:
    """The example behind a server in a thread; entered again, it is a server that restarted."""

    def __init__(self, example: ModuleType) -> None:
        self._example = example

    def __enter__(self) -> httpx2.Client:
        config = uvicorn.Config(
            self._example.api, port=0, log_level="error", timeout_graceful_shutdown=10
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        give_up_at = time.monotonic() + PATIENCE_S
        while not self._server.started:
            assert self._thread.is_alive(), "the server did not start"
            assert time.monotonic() < give_up_at
            time.sleep(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        # A proxy of the environment would not find this machine.
        self._client = httpx2.Client(
            base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S, trust_env=False
        )
        return self._client

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._server.should_exit = True
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "the server did not end"


@pytest.fixture
def served(example: ModuleType) -> Iterator[httpx2.Client]:
    with Served(example) as client:
        yield client


def watched(client: httpx2.Client, run_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the server-sent events of a stream; leave it early to hang up."""
    with client.stream("GET", f"/stream/{run_id}", params={"question": QUESTION}) as reply:
        assert reply.status_code == 200, reply.read()
        assert reply.headers["content-type"].startswith("text/event-stream")
        kind = ""
        for line in reply.iter_lines():
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            elif line.startswith("data: "):
                yield kind, json.loads(line.removeprefix("data: "))


def text_of(events: list[tuple[str, dict[str, Any]]]) -> str:
    return "".join(data["text"] for kind, data in events if kind == "text")


def calls(example: ModuleType, run_id: str) -> tuple[int, int]:
    """Return how many calls of the model were started, and how many of them are in doubt."""
    app = example.api.state.outlast
    events = [record.event for record in app.log(run_id)]
    return (
        sum(isinstance(event, ModelCallStarted) for event in events),
        sum(isinstance(event, ModelCallInDoubt) for event in events),
    )


def test_a_question_is_answered_once(served: httpx2.Client, example: ModuleType) -> None:
    """POST /ask answers, and with the same run id answers again without a call."""
    asked = {"question": QUESTION, "run_id": "one"}
    first = served.post("/ask", json=asked).json()
    assert first["status"] == "completed"
    assert first["answer"].startswith("These are the best three: ")
    assert served.post("/ask", json=asked).json() == first
    assert calls(example, "one") == (2, 0)


def test_a_stream_tells_the_run_and_ends_with_it(served: httpx2.Client) -> None:
    """GET /stream tells thinking, texts and tools in order, and at last the run itself."""
    events = list(watched(served, "two"))
    kinds = [kind for kind, _ in events]
    order = list(dict.fromkeys(kinds))
    assert order == ["thinking", "text", "tool_use", "run"]
    assert kinds.count("run") == 1
    run = events[-1][1]
    assert run["status"] == "completed"
    assert text_of(events) == "I will look for that. " + run["answer"]


def test_what_cannot_be_asked_is_an_http_status(served: httpx2.Client) -> None:
    """A run id of another question is 409, an empty question 422, before any stream begins."""
    served.post("/ask", json={"question": "Something else?", "run_id": "taken"})
    for reply in (
        served.get("/stream/taken", params={"question": QUESTION}),
        served.post("/ask", json={"question": QUESTION, "run_id": "taken"}),
    ):
        assert reply.status_code == 409
        assert reply.json() == {"detail": "this run id belongs to another question"}
    assert served.get("/stream/new", params={"question": ""}).status_code == 422


STALLING = """
- when: {turn: 2}
  fault: {stall: {seconds: 100, after: 6}}
"""


@pytest.fixture
def stalling(example: ModuleType, tmp_path: Path) -> ModuleType:
    """Return the example with a Claude that falls silent the first time in its second turn."""
    script = tmp_path / "stalling.yaml"
    rules = (EXAMPLES / "claude.yaml").read_text()
    script.write_text(STALLING + rules)
    example.SCRIPT = script
    return example


def hang_up_in_the_second_turn(client: httpx2.Client, run_id: str) -> str:
    """Watch until the second turn speaks, hang up, and return the text so far."""
    seen = []
    events = watched(client, run_id)
    for kind, data in events:
        seen.append((kind, data))
        if kind == "text" and any(kind == "tool_use" for kind, _ in seen):
            break
    events.close()  # type: ignore[attr-defined]
    return text_of(seen)


def test_who_hangs_up_and_comes_back_misses_nothing(stalling: ModuleType) -> None:
    """A client that goes in mid-stream stops the run, and sees all of it when it is back."""
    with Served(stalling) as client:
        seen = hang_up_in_the_second_turn(client, "three")
        events = list(watched(client, "three"))
        assert calls(stalling, "three") == (3, 1), "only the turn that was cut off is asked again"
    run = events[-1][1]
    assert run["status"] == "completed"
    assert text_of(events) == "I will look for that. " + run["answer"]
    assert text_of(events).startswith(seen)
    assert len(seen) > len("I will look for that. ")
    assert [data["text"] for kind, data in events if kind == "tool_use"] == ["search_grants"]


def test_who_comes_back_after_a_restart_misses_nothing(stalling: ModuleType) -> None:
    """What was said before the server restarted is told again by the next one, and goes on."""
    with Served(stalling) as client:
        seen = hang_up_in_the_second_turn(client, "four")
    with outlast.Outlast(stalling.STORE) as app:
        assert app.get("four").status == "running"
    stalling.SCRIPT = EXAMPLES / "claude.yaml"  # another simulator has seen no attempt yet
    with Served(stalling) as client:
        events = list(watched(client, "four"))
    assert text_of(events).startswith(seen)
    assert events[-1][1]["status"] == "completed"
