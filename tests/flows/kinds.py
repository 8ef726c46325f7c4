"""Flows that together use every way to ask, and a Claude that answers them."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from playing import World

import outlast
from outlast.errors import AskFailed, StepFailed
from outlast.models.script import (
    Fault,
    Turn,
    any_of,
    faulty,
    last_text,
    once,
    say,
    text_of,
    tool_use,
    turn_number,
)

MODEL = "claude-haiku-5-5"
UNKNOWN = "in doubt"


@outlast.tool(effect="read")
async def look(word: str) -> str:
    """Look a word up."""
    await asyncio.sleep(0.2)
    World.now.act(f"look {word}")
    return f"what {word} means"


@outlast.tool(effect="idempotent")
async def keep(word: str, context: outlast.ToolContext) -> str:
    """Keep a word."""
    await asyncio.sleep(0.1)
    World.now.act(f"keep {word}", context.idempotency_key)
    await asyncio.sleep(0.1)
    return f"kept {word}"


def was_sent(word: str) -> outlast.Reconciled:
    """Look whether a word was sent."""
    return outlast.Reconciled(happened=f"send {word}" in World.now.ran, result=f"sent {word}")


@outlast.tool(effect="once", reconcile=was_sent)
async def send(word: str) -> str:
    """Send a word."""
    await asyncio.sleep(0.15)
    World.now.act(f"send {word}")
    await asyncio.sleep(0.1)
    return f"sent {word}"


async def broken(word: str) -> str:
    """Fail, always."""
    World.now.act(f"broken {word}")
    raise ValueError(word)


def agent(name: str, *tools: outlast.Tool[..., Any]) -> outlast.Agent:
    return outlast.Agent(name, model=MODEL, instructions=name, tools=tools, max_tokens=512)


helper = agent("helper")
user = agent("user", look, keep, send)
boss = agent("boss", helper.as_tool())


# ── Claude ──────────────────────────────────────────────────────────────────────────────────────


def _results(request: dict[str, Any]) -> list[str]:
    return [
        text_of(block["content"])
        for message in request["messages"]
        if message["role"] == "user"
        for block in message["content"]
        if block["type"] == "tool_result"
    ]


def answer(question: str, *before: str) -> str:
    """Return what Claude answers to a question, after what was asked before in its history."""
    return f"re: {' > '.join((*before, question))}"


def lead(request: dict[str, Any], attempt: int) -> Turn:
    """Say back what was asked, after the tools that the question is about."""
    asked = last_text(request)
    pace = 0.1 + len(asked) % 7 / 10  # so that parallel answers come in their own order
    if "impossible" in asked:
        return say("No.", stop_reason="refusal", total_s=pace)
    if asked.startswith("use") and turn_number(request) == 1:
        word = asked.removeprefix("use ")
        uses = [tool_use(name, {"word": word}) for name in ("look", "keep", "send")]
        return say(*uses, total_s=pace)
    if asked.startswith("delegate") and turn_number(request) == 1:
        word = asked.removeprefix("delegate ")
        uses = [tool_use("ask_helper", {"question": f"{word} {part}"}) for part in ("one", "two")]
        return say(*uses, total_s=pace)
    if results := _results(request):
        return say(f"results: {msgspec.json.encode(results).decode()}", total_s=pace)
    questions = [
        text_of(message["content"]) for message in request["messages"] if message["role"] == "user"
    ]
    return say(answer(questions[-1], *questions[:-1]), total_s=pace)


def _stumble(request: dict[str, Any], attempt: int) -> Fault | None:
    if "stumble" not in last_text(request):
        return None
    overloaded = once(1, Fault(kind="status", status=529))
    return any_of(overloaded, once(1, Fault(kind="cut", after_events=4), attempts=(2,)))(
        request, attempt
    )


script = faulty(lead, _stumble)


# ── flows ───────────────────────────────────────────────────────────────────────────────────────


@outlast.flow(phases=["asking", "using", "done"])
async def asks(run: outlast.Run, word: str) -> list[Any]:
    """Ask in parallel and in sequence, with tools, in a conversation, and in vain."""
    run.enter("asking")
    pair = await asyncio.gather(
        run.ask(helper, f"left {word}", name="left"),
        run.ask(helper, f"stumble right {word}", name="right"),
    )
    after = await run.ask(helper, f"then {pair[0]}")
    run.enter("using")
    named = {
        f"n-{n}": run.ask(
            user if n == 1 else helper, f"{'use' if n == 1 else 'say'} {n}", name=f"n-{n}"
        )
        for n in range(3)
    }
    try:
        failed = await run.ask(helper, "impossible", name="vain", conversation="talk")
    except AskFailed as error:
        failed = "refusal" in error.why
    hello = await run.ask(helper, "hello", name="hello", conversation="talk")
    again = await run.ask(helper, "again", name="again", conversation="talk")
    run.enter("done")
    rest = dict(zip(named, await asyncio.gather(*named.values()), strict=True))
    return [pair, after, failed, hello, again, rest]


@outlast.flow
async def steps(run: outlast.Run, word: str) -> list[Any]:
    """Call functions of every effect, in parallel and in sequence; sleep, and draw values."""
    drawn = [str(run.uuid()), run.now().isoformat(), run.random()]
    told = msgspec.json.encode(drawn).decode()
    found = await asyncio.gather(
        run.step("look", look, word),
        run.step("keep", keep, word),
        _doubtful(run.step("send", send, word)),
    )
    await run.sleep(0.5)
    later = str(run.uuid())
    kept = await run.step("keep values", keep, f"{told} {later}")
    await asyncio.gather(run.sleep("2h", name="long"), run.sleep("1h", name="less"))
    try:
        failed = await run.step("broken", broken, "glass", effect="idempotent")
    except StepFailed as error:
        failed = error.why
    last = await _doubtful(run.step("send again", send, "again"))
    return [drawn, later, found, kept, failed, last]


async def _doubtful(step: Any) -> str:
    try:
        return await step
    except StepFailed as error:
        if not error.in_doubt:
            raise
        return UNKNOWN


@outlast.flow
async def nested(run: outlast.Run, number: int) -> str:
    """Be a child: ask, step and sleep."""
    said = await run.ask(helper, f"child {number}")
    await run.sleep("10m")
    sent = await _doubtful(run.step("send", send, f"child {number}"))
    return f"{said}, {sent}"


@outlast.flow
async def children(run: outlast.Run, word: str) -> list[Any]:
    """Have children of every kind."""
    mapped = await run.map(helper, [f"one {word}", f"two {word}"])
    both = await asyncio.gather(
        run.map(nested, [1, 2, 3], at_once=2),
        run.ask(boss, "delegate it"),
    )
    try:
        failed = await run.map(helper, ["fine", "impossible"], name="vain")
    except StepFailed as error:
        failed = "refusal" in error.why
    return [mapped, both, failed]


@outlast.flow
async def hasty(run: outlast.Run, word: str) -> str:
    """Be over while a child, a step and an ask of it are not."""
    try:
        await asyncio.gather(
            run.map(nested, [1]),
            run.ask(helper, f"something that takes its time {word}", name="slow"),
            run.ask(helper, "impossible", name="vain"),
            run.step("keep", slowly, word, effect="idempotent"),
        )
    except AskFailed:
        return "hasty"
    return "patient"


async def slowly(word: str) -> None:
    """Take longer than an ask."""
    await asyncio.sleep(5)
    World.now.act(f"slowly {word}")


@outlast.flow(phases=["one", "two"])
def blocking(run: outlast.Run, word: str) -> list[Any]:
    """Do everything in a thread, one after the other."""
    run.enter("one")
    drawn = str(run.uuid())
    said = run.ask(helper, f"first {word}")
    kept = run.step("keep", keep, f"[{drawn}]")
    run.enter("two")
    run.sleep("1h")
    try:
        sent = run.step("send", send, word)
    except StepFailed as error:
        sent = UNKNOWN if error.in_doubt else "failed"
    mapped = run.map(helper, ["one", "two"])
    return [kept == f"kept [{drawn}]", said, sent, mapped, run.ask(helper, f"last {said}")]
