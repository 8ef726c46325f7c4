"""One client, several event loops: what is sent is answered, and what cannot be is not sent."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import psutil
import pytest

import outlast
from outlast.errors import ModelFailure
from outlast.events import ModelCallFailed, ModelCallInDoubt
from outlast.models import UNBILLED
from outlast.models.anthropic import AnthropicModel
from outlast.testing import simulator
from stubs import agent

KEY = "any-key-will-do"


@pytest.fixture(scope="module")
def claude() -> Iterator[simulator.Simulator]:
    with simulator.start() as started:
        yield started


CLIENTS = {
    "anthropic": lambda url, **more: anthropic.AsyncAnthropic(base_url=url, api_key=KEY, **more),
    "foundry": lambda url, **more: anthropic.AsyncAnthropicFoundry(
        base_url=url, api_key=KEY, **more
    ),
    "mantle": lambda url, **more: anthropic.AsyncAnthropicBedrockMantle(
        base_url=url, api_key=KEY, aws_region="eu-west-1", **more
    ),
    "google-cloud": lambda url, **more: anthropic.AsyncAnthropicGoogleCloud(
        base_url=url,
        project="p",
        location="eu",
        workspace_id="w",
        token_provider=lambda: KEY,
        **more,
    ),
}


def lost(app: outlast.Outlast, run: outlast.Run) -> list[str]:
    """Return what was said of the calls of a run that came to nothing."""
    events = (record.event for record in app.log(run.id))
    return [e.message for e in events if isinstance(e, ModelCallFailed | ModelCallInDoubt)]


def connections(claude: simulator.Simulator) -> int:
    """Return how many connections this process has to the simulator."""
    found = psutil.Process().net_connections(kind="tcp")
    return sum(bool(one.raddr) and one.raddr.port == claude.port for one in found)


@pytest.mark.parametrize("cloud", CLIENTS)
def test_a_client_serves_every_loop(claude: simulator.Simulator, cloud: str) -> None:
    """A client given works from `run`, from one `asyncio.run` after another, and from both."""
    before, billed = len(claude.requests()), claude.billed_nano
    client = CLIENTS[cloud](claude.url)
    runs = []
    with outlast.Outlast("memory://", client=client) as app:
        for _ in range(2):
            runs += [app.run(agent(), "Well?"), asyncio.run(app.arun(agent(), "Well?"))]

        async def both() -> list[outlast.Run]:
            here = [app.arun(agent(), "Well?") for _ in range(2)]
            return await asyncio.gather(*here, asyncio.to_thread(app.run, agent(), "Well?"))

        runs += asyncio.run(both())
        assert [lost(app, run) for run in runs] == [[]] * 7
    assert [run.status for run in runs] == ["completed"] * 7
    assert len(claude.requests()) == before + 7
    assert sum(run.cost_nano for run in runs) == claude.billed_nano - billed


def test_a_loop_takes_its_connections_with_it(claude: simulator.Simulator) -> None:
    """When a loop ends, or the application is closed on it, nothing of ours stays connected."""
    app = outlast.Outlast("memory://", client=CLIENTS["anthropic"](claude.url))
    for _ in range(3):
        asyncio.run(app.arun(agent(), "Well?"))
        assert connections(claude) == 0
    app.run(agent(), "Well?")
    assert connections(claude) == 1

    async def within() -> None:
        await app.arun(agent(), "Well?")
        assert connections(claude) == 2
        await app.aclose()
        assert connections(claude) == 0

    asyncio.run(within())


def test_the_client_stays_its_owners(claude: simulator.Simulator) -> None:
    """Whoever gave a client can use it before, meanwhile and after, on a loop of their own."""
    client = CLIENTS["anthropic"](claude.url)
    body = {"model": "claude-opus-5-5", "max_tokens": 9}
    asked = {**body, "messages": [{"role": "user", "content": "Well?"}]}

    async def main() -> None:
        await client.messages.create(**asked)
        with outlast.Outlast("memory://", client=client) as app:
            run = await asyncio.to_thread(app.run, agent(), "Well?")
            assert (run.status, lost(app, run)) == ("completed", [])
            await client.messages.create(**asked)
            await app.arun(agent(), "Well?")
        await client.messages.create(**asked)
        await client.close()

    asyncio.run(main())


def test_settings_of_a_client_hold_on_every_loop(claude: simulator.Simulator) -> None:
    """Headers, middleware and timeouts of the client given are those of every request."""
    seen: list[tuple[str | None, object]] = []

    async def watch(request, call_next):
        response = await call_next(request)
        sent = response.http_response.request
        seen.append((sent.headers.get("anthropic-beta"), sent.extensions["timeout"]))
        return response

    client = CLIENTS["anthropic"](
        claude.url, default_headers={"anthropic-beta": "zebra-1"}, timeout=77.0, middleware=[watch]
    )
    with outlast.Outlast("memory://", client=client) as app:
        app.run(agent(), "Well?")
        asyncio.run(app.arun(agent(), "Well?"))
    waits = dict.fromkeys(("connect", "read", "write", "pool"), 77.0)
    assert seen == [("zebra-1", waits)] * 2


def test_an_http_client_serves_one_loop_and_says_so(claude: simulator.Simulator) -> None:
    """On a second loop a given `http_client` is refused before anything is sent."""
    before = len(claude.requests())

    async def main() -> None:
        async with httpx2.AsyncClient() as mine:
            client = CLIENTS["anthropic"](claude.url, http_client=mine)
            with outlast.Outlast("memory://", client=client) as app:
                assert (await app.arun(agent(), "Well?")).status == "completed"
                for _ in range(2):
                    run = await asyncio.to_thread(app.run, agent(), "And?", run_id="and")
                    assert (run.status, run.cost_nano) == ("stopped", 0)
                    assert "nothing was sent" in run.why
                    assert "give a client without http_client" in run.why
                with pytest.raises(ModelFailure, match="http_client") as refused:
                    await asyncio.to_thread(app.count_tokens, agent(), "Well?")
                assert refused.value.kind in UNBILLED
                assert len(claude.requests()) == before + 1
                assert (await app.aresume("and", agent())).status == "completed"
        assert len(claude.requests()) == before + 2

    asyncio.run(main())


def test_the_first_loop_may_be_over(claude: simulator.Simulator) -> None:
    """A loop that ended does not hand its `http_client` on: its connections are dead."""
    mine = httpx2.AsyncClient()
    app = outlast.Outlast("memory://", client=CLIENTS["anthropic"](claude.url, http_client=mine))

    async def main() -> str:
        run = await app.arun(agent(), "Well?")
        for connection in mine._transport._pool.connections:  # or asyncio would warn of them
            await connection.aclose()
        return run.status

    assert [asyncio.run(main()) for _ in range(3)] == ["completed", "stopped", "stopped"]
    app.close()


def test_calls_at_the_same_moment_make_one_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred first calls of a loop do not make a hundred clients, each of which holds it up."""
    made = []

    class Counted(anthropic.AsyncAnthropic):
        def __init__(self, **given: Any) -> None:
            made.append(given)
            super().__init__(**given)

    monkeypatch.setattr(anthropic, "AsyncAnthropic", Counted)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "any-key-will-do")
    model = AnthropicModel()

    async def main() -> set[int]:
        clients = await asyncio.gather(*(model._client() for _ in range(100)))
        return {id(client) for client in clients}

    assert len(asyncio.run(main())) == 1
    assert len(made) <= 2, "one, and its copy with a transport of this loop"
