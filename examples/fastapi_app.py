"""Ask an agent over HTTP, and watch its answer come: FastAPI, `arun` and `astream`.

    $ pip install outlast fastapi
    $ uvicorn --app-dir examples fastapi_app:api
    $ curl localhost:8000/ask --json '{"question": "Who funds dementia cafés?", "run_id": "one"}'
    $ curl -N 'localhost:8000/stream/two?question=Who+funds+dementia+cafés'

Press Ctrl-C in the middle of the last one and repeat it: what was said comes again, and then the
rest; only the turn that was cut off is asked again.  Kill the server instead, and it is the same.

Without ANTHROPIC_API_KEY a simulated Claude on this machine answers; see claude.yaml.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anthropic
import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel

import outlast
from outlast.demo import grants
from outlast.testing import simulator

STORE = os.environ.get("OUTLAST_STORE", "sqlite:///fastapi.db")
SCRIPT = Path(__file__).with_name("claude.yaml")


@outlast.tool(effect="read", timeout_s=10)
def search_grants(keyword: str, limit: int = 5) -> list[str]:
    """Search grants that UK foundations made, the best match first."""
    return [f"{g.recipient}: £{g.amount_gbp:,.0f}" for g in grants.search(keyword, None, limit)]


researcher = outlast.Agent(
    "grant-researcher",
    model="claude-haiku-5-5",
    instructions="You are a grant researcher. Name only grants you found with the tool.",
    tools=[search_grants],
    budget=outlast.Budget(turns=10),
)


# ── one application for the whole server ────────────────────────────────────────────────────────


@asynccontextmanager
async def claude() -> AsyncIterator[anthropic.AsyncAnthropic]:
    """Lend a client: of Claude where a key is set, else of one simulated on this machine."""
    if "ANTHROPIC_API_KEY" in os.environ:
        async with anthropic.AsyncAnthropic() as client:  # ANTHROPIC_BASE_URL counts, too
            yield client
        return
    # A proxy that the environment names would not find this machine's simulator.
    direct = anthropic.DefaultAsyncHttpxClient(trust_env=False)
    with simulator.start(str(SCRIPT)) as simulated:
        async with anthropic.AsyncAnthropic(
            base_url=simulated.url, api_key="simulated", http_client=direct
        ) as client:
            yield client


@asynccontextmanager
async def lifespan(api: FastAPI) -> AsyncIterator[None]:
    """Open the store when the server starts, and close it when the last request is done."""
    async with claude() as client, outlast.Outlast(STORE, client=client) as app:
        api.state.outlast = app
        yield


api = FastAPI(lifespan=lifespan)


# ── what can be asked ───────────────────────────────────────────────────────────────────────────


class Question(BaseModel):
    """What to ask; with the `run_id` of an earlier question, its answer comes back for nothing."""

    question: str
    run_id: str | None = None


@api.post("/ask")
async def ask(asked: Question, request: Request) -> dict[str, Any]:
    """Run the agent to its end, and return the run."""
    app: outlast.Outlast = request.app.state.outlast
    return shown(await app.arun(researcher, asked.question, run_id=asked.run_id))


@api.get("/stream/{run_id}")
async def stream(run_id: str, question: str, request: Request) -> StreamingResponse:
    """Stream the run as server-sent events: its parts, and at last the run."""
    app: outlast.Outlast = request.app.state.outlast
    # The stream would do this first; done here, what is wrong with it is still an HTTP status.
    await asyncio.to_thread(app.start, researcher, question, run_id=run_id)
    return StreamingResponse(events(app, question, run_id), media_type="text/event-stream")


async def events(app: outlast.Outlast, question: str, run_id: str) -> AsyncIterator[bytes]:
    """Yield server-sent events; when the client hangs up, the run waits until it comes back."""
    async with app.astream(researcher, question, run_id=run_id) as parts:
        async for part in parts:
            yield event(part.kind, part)
    yield event("run", shown(parts.run))


def event(kind: str, data: Any) -> bytes:
    """Return one server-sent event."""
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), msgspec.json.encode(data))


def shown(run: outlast.Run) -> dict[str, Any]:
    """Return what a client is told of a run."""
    return {
        "id": run.id,
        "status": run.status,
        "answer": run.answer,
        "why": run.why,
        "cost_usd": str(run.cost_usd),
    }


@api.exception_handler(outlast.RunConflict)
async def taken(_: Request, __: Exception) -> JSONResponse:
    """Tell a client that its run id is another question's, and not which."""
    return JSONResponse({"detail": "this run id belongs to another question"}, 409)


@api.exception_handler(outlast.InvalidInput)
async def refused(_: Request, error: Exception) -> JSONResponse:
    """Tell a client what is wrong with its question or its run id."""
    return JSONResponse({"detail": str(error)}, 422)
