"""What a user of outlast writes, for mypy and pyright to judge; nothing here is run.

Strict checkers must have nothing to say about it: what is public has types, and a decorated
function keeps its own.
"""

from decimal import Decimal
from typing import Any, assert_type

import outlast


@outlast.tool(effect="read", timeout_s=10)
def search_grants(keyword: str, max_gbp: float = 20_000) -> list[str]:
    """Search grants."""
    return [f"{keyword} {max_gbp}"]


@outlast.tool(effect="once")
async def send(to: str, context: outlast.ToolContext) -> None:
    """Send a letter."""
    raise outlast.ToolError(f"{to} has moved: {context.idempotency_key}")


files = outlast.MCPServer(command=["python", "files.py"], env={"ROOT": "."})
assert_type(files.tools(effects={"read_file": "read"}), list[outlast.Tool[..., Any]])


@outlast.tool
def shout(text: str) -> str:
    """Say it louder."""
    return text.upper()


@outlast.tool(client={"type": "bash"}, timeout_s=5)
def shell(command: str = "", *, restart: bool = False) -> str:
    """Run a command."""
    return "" if restart else command


assert_type(shell("ls"), str)
assert_type(outlast.server_tool("web_search", max_uses=2), outlast.ServerTool)
assert_type(search_grants("dementia", max_gbp=5), list[str])
assert_type(shout("grants"), str)

researcher = outlast.Agent(
    "grant-researcher",
    model="claude-opus-5-5",
    instructions="You are a grant researcher.",
    tools=[search_grants, send, shout, shell, outlast.server_tool("web_search", max_uses=2)],
    budget=outlast.Budget(turns=25),
    max_tokens=4096,
)


def main() -> None:
    """Run the agent, and look at the run."""
    with outlast.Outlast("sqlite:///agents.db") as app:
        run = app.run(researcher, "Find five grants.", run_id="grants-001", tenant="acme")
        assert_type(run, outlast.Run)
        assert_type(run.status, str)
        assert_type(run.cost_usd, Decimal)
        for other in app.runs(status="completed"):
            assert_type(other.id, str)
        with app.stream(researcher, "Find five grants.") as stream:
            assert_type(stream, outlast.Stream)
            for part in stream:
                assert_type(part, outlast.Part)
        assert_type(stream.run, outlast.Run)


async def amain(app: outlast.Outlast) -> None:
    """Do the same in an event loop."""
    await send("the funder", outlast.ToolContext(run_id="r", call_id="c", idempotency_key="k"))
    assert_type(await app.arun(researcher, "Find five grants."), outlast.Run)
    async with app.astream(researcher, "Find five grants.") as stream:
        assert_type(stream, outlast.AsyncStream)
        async for part in stream:
            assert_type(part, outlast.Part)
    assert_type(stream.run, outlast.Run)
