"""An agent that reads a book of any length, and a Claude that condenses what it was asked to.

A summary says how many pages were read by then, so that Claude knows where it was.
"""

import random
from typing import Any

import msgspec

import outlast
from outlast.models.identity import identify
from outlast.models.prompt_cache import tokens
from outlast.models.script import Fault, Script, Turn, compaction, say, tool_use

QUESTION = "What is in the book?"


def length(request: dict[str, Any] | bytes) -> int:
    """Return how many tokens the API counts for a request."""
    body = msgspec.json.decode(request) if isinstance(request, bytes) else request
    return tokens(identify(body).size)


def asked(request: dict[str, Any]) -> int:
    """Return from how many tokens on a request is to be condensed; 0 where it is not."""
    edits = (request.get("context_management") or {}).get("edits", [])
    return next((edit["trigger"]["value"] for edit in edits), 0)


def read_before(request: dict[str, Any]) -> int:
    """Return how many pages were asked for so far, those of which only a summary tells included."""
    pages = 0
    for message in request["messages"]:
        for block in message["content"]:
            if block["type"] == "compaction" and block["content"]:
                pages += int(block["content"].split()[0])
            pages += block["type"] == "tool_use"
    return pages


def reads(pages: int, at_once: int = 1) -> Script:
    """Return a Claude that reads so many pages, and then says so."""

    def answer(request: dict[str, Any], attempt: int) -> Turn | Fault:
        read = read_before(request)
        if read >= pages:
            return say(f"I have read {read} pages.")
        return say(*(tool_use("read", {"page": read + one + 1}) for one in range(at_once)))

    return answer


def condensing(script: Script) -> Script:
    """Return a Claude that condenses the prompts it is asked to, as the API does."""

    def answer(request: dict[str, Any], attempt: int) -> Turn | Fault:
        trigger = asked(request)
        if trigger and length(request) >= trigger:
            return say(compaction(f"{read_before(request)} pages were read."))
        return script(request, attempt)

    return answer


def page(number: int, size: int) -> str:
    """Return a page: letters that hardly repeat."""
    letters = random.Random(number)  # noqa: S311  (nothing is secret)
    return f"Page {number}. " + letters.randbytes(size // 2).hex()


def reader(size: int, **more: Any) -> outlast.Agent:
    """Return an agent whose book has pages of so many bytes."""

    @outlast.tool(name="read", effect="read", max_result_tokens=more.pop("most", 1_000_000))
    def read(page: int) -> str:
        """Read a page."""
        return globals()["page"](page, size)

    given = {"model": "claude-opus-4-6", "max_tokens": 4_000, "budget": outlast.Budget(turns=400)}
    return outlast.Agent("reader", tools=[read], **(given | more))


book = condensing(reads(14))
"""The Claude of the simulator."""
