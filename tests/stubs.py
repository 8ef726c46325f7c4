"""What many tests need: an agent, a Claude that calls the tools it is told, and one of bytes."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from msgspec import Raw

import outlast
from outlast.models import Part, Reply, Request
from outlast.models.script import Block, Script, Turn, say, turn_number
from outlast.models.scripted import ScriptedModel

MODEL = "claude-haiku-5-5"
USAGE = Raw(b'{"input_tokens":10,"output_tokens":5}')


def agent(*tools: outlast.Tool[..., Any], **more: Any) -> outlast.Agent:
    """Return an agent `tester` with these tools."""
    return outlast.Agent("tester", **({"model": MODEL, "tools": tools} | more))


def asking(*uses: Block, answer: str = "done") -> Script:
    """Return the script of a Claude that makes these tool calls at once, and then answers."""

    def script(request: dict[str, Any], attempt: int) -> Turn:
        return say(*uses) if turn_number(request) == 1 and uses else say(answer)

    return script


def results(model: ScriptedModel) -> list[Block]:
    """Return the results that Claude was given with the last request."""
    message = msgspec.json.decode(model.calls[-1])["messages"][-1]
    assert message["role"] == "user"
    assert {block["type"] for block in message["content"]} == {"tool_result"}
    return message["content"]


def unmarked(body: bytes) -> bytes:
    """Return a request without its breakpoints for the prompt cache."""
    return body.replace(b',"cache_control":{"type":"ephemeral"}', b"")


def reply(content: bytes, stop_reason: str | None = "end_turn", **more: Any) -> Reply:
    """Return a reply of these bytes, and a usage that costs something."""
    return Reply(content=Raw(content), stop_reason=stop_reason, **({"usage": USAGE} | more))


class Answers:
    """A model that gives what a function makes of each request; it keeps the bodies."""

    def __init__(self, answer: Callable[[Request], Reply | Awaitable[Reply]]) -> None:
        self.calls: list[bytes] = []
        self._answer = answer

    async def call(self, request: Request, *, on_part: Callable[[Part], None] | None) -> Reply:
        self.calls.append(request.body())
        answer = self._answer(request)
        return await answer if isinstance(answer, Awaitable) else answer
