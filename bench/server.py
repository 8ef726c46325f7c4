"""A Claude on the loopback: `server.py` prints two ports and serves until it is ended.

At the first port a streamed reply comes as a whole, at the second event by event, as it does from
the real one.

It looks at nothing it is asked but the length and whether a stream is wanted, and answers everybody
the same.  It is a process of its own, so what it takes is in nobody's figures.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from typing import Any

import work

PIECE = 24
"""Characters of a text, or of a tool's input, that come in one event: some six tokens."""

PACE_S = 0.001
"""Between two events that come one by one: enough for the client to be woken by each."""

FIRST = 1_000_001
"""The number of the first reply: none that a conversation began with has it."""

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_STREAMED = re.compile(rb'"stream": ?true')
_HEADERS = (
    b"HTTP/1.1 200 OK\r\n"
    b"request-id: req_%b\r\n"
    b"anthropic-organization-id: bench\r\n"
    b"anthropic-ratelimit-requests-limit: 4000\r\n"
    b"anthropic-ratelimit-requests-remaining: 3999\r\n"
    b"anthropic-ratelimit-requests-reset: 2026-11-22T12:00:00Z\r\n"
    b"anthropic-ratelimit-tokens-limit: 4000000\r\n"
    b"anthropic-ratelimit-tokens-remaining: 3999000\r\n"
    b"anthropic-ratelimit-tokens-reset: 2026-11-22T12:00:00Z\r\n"
)
_JSON = b"content-type: application/json\r\ncontent-length: %d\r\n\r\n"
_EVENTS = (
    b"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


def message(number: int, read: int = 0) -> dict[str, Any]:
    """Return the reply to request `number`: a text and one tool use.

    Args:
        number: of the request; makes the ids unique.
        read: tokens of the prompt that were in the cache.

    """
    return {
        "model": work.MODEL,
        "id": f"msg_01Bench{number:012}",
        "type": "message",
        "role": "assistant",
        "content": json.loads(work.content(number)),
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "stop_details": None,
        "usage": json.loads(work.usage(read)),
    }


def events(whole: dict[str, Any]) -> list[bytes]:
    """Return a reply as server-sent events."""
    usage = whole["usage"] | {"output_tokens": 1}
    begun = whole | {"content": [], "stop_reason": None, "usage": usage}
    ended = {"stop_reason": "tool_use", "stop_sequence": None, "stop_details": None}
    told: list[dict[str, Any]] = [
        {"type": "message_start", "message": begun},
        {"type": "ping"},
        *_of_text(0, whole["content"][0]),
        *_of_tool_use(1, whole["content"][1]),
        {"type": "message_delta", "delta": ended, "usage": whole["usage"]},
        {"type": "message_stop"},
    ]
    return [f"event: {one['type']}\ndata: {json.dumps(one)}\n\n".encode() for one in told]


def _of_text(index: int, block: dict[str, Any]) -> list[dict[str, Any]]:
    deltas = [{"type": "text_delta", "text": piece} for piece in _pieces(block["text"])]
    return _of_block(index, block | {"text": ""}, deltas)


def _of_tool_use(index: int, block: dict[str, Any]) -> list[dict[str, Any]]:
    pieces = _pieces(json.dumps(block["input"]))
    deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    return _of_block(index, block | {"input": {}}, deltas)


def _of_block(
    index: int, begun: dict[str, Any], deltas: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    return [
        {"type": "content_block_start", "index": index, "content_block": begun},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def _pieces(text: str) -> list[str]:
    return [text[at : at + PIECE] for at in range(0, len(text), PIECE)]


class Server:
    """Answers requests.

    Args:
        pace_s: seconds from one event of a stream to the next; 0 sends them all at once.

    """

    def __init__(self, pace_s: float) -> None:
        self._pace_s = pace_s
        self._numbers = itertools.count(FIRST)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until the client closes it."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                found = _LENGTH.search(head)
                body = await reader.readexactly(int(found[1]) if found else 0)
                # Near either end, as the members before and after the messages are short.
                streamed = _STREAMED.search(body[:4096]) or _STREAMED.search(body[-4096:])
                # More than any turn before has read and written.
                reply = message(next(self._numbers), read=len(body) // 2)
                await self._answer(writer, reply, streamed=streamed is not None)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def _answer(
        self, writer: asyncio.StreamWriter, reply: dict[str, Any], *, streamed: bool
    ) -> None:
        head = _HEADERS % reply["id"].encode()
        if streamed:
            chunks = [b"%x\r\n%b\r\n" % (len(event), event) for event in events(reply)]
            parts = [head + _EVENTS, *chunks, b"0\r\n\r\n"]
        else:
            whole = json.dumps(reply).encode()
            parts = [head + _JSON % len(whole) + whole]
        for part in parts if self._pace_s else [b"".join(parts)]:
            writer.write(part)
            await asyncio.sleep(self._pace_s)
        await writer.drain()


async def main() -> None:
    """Print the ports, and serve until this process is ended."""
    listening = [
        await asyncio.start_server(Server(pace_s).serve, "127.0.0.1", 0, limit=1 << 26)
        for pace_s in (0, PACE_S)
    ]
    print(*(each.sockets[0].getsockname()[1] for each in listening), flush=True)
    await asyncio.gather(*(each.serve_forever() for each in listening))


if __name__ == "__main__":
    asyncio.run(main())
