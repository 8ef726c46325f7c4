"""What is to happen in one history, drawn from a seed: what Claude says, and what befalls the run.

A plan is plain data, so it can be printed, and made smaller while it still shows what is wrong.
Blocks are kept as they are spelled, because a client must give back what it cannot spell itself.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Final, Literal, TypeAlias

import msgspec
from msgspec.structs import replace

from outlast.models import faults
from outlast.models.script import Fault, Script, Turn

How: TypeAlias = Literal["crash", "before append", "after append", "cancel", "overtake"]


class Message(msgspec.Struct, frozen=True):
    """A message from outside; `content` is JSON."""

    role: Literal["user", "system"]
    content: str


class Saying(msgspec.Struct, frozen=True):
    """A turn of Claude's: its blocks, each as JSON, after the attempts that come to nothing."""

    blocks: tuple[str, ...]
    stop_reason: str | None = "auto"
    extra: dict[str, Any] = {}
    faults: tuple[Fault, ...] = ()
    seconds: float = 0.0


class Break(msgspec.Struct, frozen=True):
    """How and when a driver's work is broken off, and what happens until the next one comes.

    `after` counts appends for the two kinds that die in one, else steps of the event loop.
    """

    how: How
    after: int
    down_s: float = 0.0
    message: Message | None = None


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A whole history."""

    seed: int
    model: str
    parameters: dict[str, Any]
    max_tokens: int
    instructions: str
    cache: str | None
    turns: int | None
    redacts: bool
    opening: tuple[Message, ...]
    sayings: tuple[Saying, ...]
    breaks: tuple[Break, ...]
    fallbacks: tuple[str, ...] = ()
    """The models that are asked instead; the first three faults of a turn do not befall them, and
    they refuse nothing."""


LAST: Final = Saying(('{"type":"text","text":"That is all."}',))
"""What Claude says when the plan has nothing more for it to say."""


def script(plan: Plan) -> Script:
    """Return the Claude of a plan."""

    def answer(request: dict[str, Any], attempt: int) -> Turn | Fault:
        at = said_before(request)
        saying = plan.sayings[at] if at < len(plan.sayings) else LAST
        is_other = request["model"] != plan.model
        befallen = saying.faults[3 if is_other else 0 :]
        if 1 <= attempt <= len(befallen):
            return befallen[attempt - 1]
        if is_other and saying.stop_reason == "refusal":
            saying = LAST
        # A compaction says how many turns it stands for, so that its place is known afterwards.
        blocks = ",".join(saying.blocks).replace('"before":0', f'"before":{at}')
        return Turn(
            content=f"[{blocks}]".encode(),
            stop_reason=saying.stop_reason,
            extra=saying.extra,
            total_s=saying.seconds,
        )

    return answer


def said_before(request: dict[str, Any]) -> int:
    """Return how many turns Claude had; a compaction says how many it stands for."""
    messages = request["messages"]
    said = [message["role"] for message in messages].count("assistant")
    first = messages[0]["content"][0] if messages[0]["role"] == "assistant" else {}
    return int(said + first.get("before", 0))


def drawn(seed: int) -> Plan:
    """Return the plan that belongs to `seed`."""
    return _with_fallbacks(_Draw(seed).plan())


def _with_fallbacks(plan: Plan) -> Plan:
    """Return the plan, perhaps with other models, and then with a turn that needs them."""
    # Drawn apart, so that everything else of a seed stays what it was.
    random = Random(f"{plan.seed} fallbacks")  # noqa: S311  (no secret)
    if random.random() > FALLS_BACK:
        return plan
    others = sorted(set(MODELS) - {plan.model})
    sayings = list(plan.sayings)
    if sayings and random.random() < 0.5:
        at = random.randrange(len(sayings))
        sayings[at] = replace(sayings[at], faults=(BUSY,) * 3 + sayings[at].faults[:1])
    fallbacks = tuple(random.sample(others, random.choice((1, 1, 2))))
    return replace(plan, fallbacks=fallbacks, sayings=tuple(sayings))


FALLS_BACK: Final = 0.25
"""In how many plans there are other models to ask."""

BUSY: Final = Fault(kind="status", status=529)


# ── what there is to draw from ──────────────────────────────────────────────────────────────────

MODELS: Final = (
    "claude-opus-5-5",
    "claude-opus-5-5",
    "claude-fable-5-2",
    "claude-sonnet-5-5",
    "claude-haiku-5-5",
    "claude-haiku-4-5",
)

WORDS: Final = (
    "grant", "Ångström", "🦊 owl", "ﷺ", "0", "null", "\\u00e9t\\u00e9", "\\ud83d\\ude00", "a\\/b",
    '\\"', "\\n\\t", "\\\\u0041", "\\u0000", "\\u2028",
)  # fmt: skip
"""Pieces of JSON strings, as they may be spelled."""

VALUES: Final = (
    "0", "-0.0", "1E+2", "1e-7", "0.1000000000000000055511151231257827", "12345678901234567890123",
    "9007199254740993", "1.0", "true", "null", "{}", "[]", '""', '{"":{}}', '{"a":1,"a":2}',
    "[[[[{}]]]]", '{ "b" : [ 1 , 2 ] , "a" : 0 }', '"\\ud83d\\ude00"', '"\\u0000"',
    '{"type":"tool_use","id":"x","cache_control":{"type":"ephemeral"}}',
)  # fmt: skip
"""JSON values that are rarely spelled the same way twice."""

DOES: Final = (
    *("return",) * 8, *("odd",) * 3, "raise", "refuse", "refuse silently", "hang", "stubborn",
    "exit", "long",
)  # fmt: skip
"""What a tool may be told to do."""

PASSING: Final[tuple[Callable[[], Fault], ...]] = (
    faults.overloaded,
    lambda: faults.overloaded(20),
    lambda: faults.rate_limited(5),
    faults.rate_limited,
    lambda: faults.ramp_limit(1),
    faults.server_error,
    lambda: faults.server_error(billed=True),
    lambda: faults.unavailable(billed=True),
    faults.gateway_timeout,
    lambda: faults.timed_out(billed=True),
    faults.reset_after_send,
    faults.conflict,
    faults.cut,
    lambda: faults.cut(2),
    faults.truncated,
    faults.sse_error,
    lambda: faults.stall(3),
    lambda: faults.pings_only(3),
    faults.html,
    faults.no_usage,
    lambda: faults.late(2),
    lambda: faults.slow_drip(2),
)
"""What may befall an attempt without being the end of the run."""

LASTING: Final[tuple[Callable[[], Fault], ...]] = (
    faults.auth,
    faults.forbidden,
    faults.billing,
    faults.spend_limit,
    faults.not_found,
    faults.too_large,
    lambda: faults.conflict(code="thread_busy"),
)
"""What ends a leg of the run."""

_IMAGE: Final = (
    '{"type":"image","source":{"type":"base64","media_type":"image/png","data":"iVBORw0KGgo="}}'
)
_DOCUMENT: Final = (
    '{"type":"document","source":{"type":"text","media_type":"text/plain","data":"A page."}}'
)
_PDF: Final = (
    '{"type":"document","source":{"type":"base64","media_type":"application/pdf",'
    '"data":"JVBERi0xLjcK"},"title":"A grant"}'
)
_ELSEWHERE: Final = '{"type":"document","source":{"type":"url","url":"https://example.com/a.pdf"}}'
_FILE: Final = '{"type":"image","source":{"type":"file","file_id":"file_1"}}'
_FOUND: Final = (
    '{"type":"search_result","source":"https://example.com","title":"t",'
    '"content":[{"type":"text","text":"found"}]}'
)

MESSAGES: Final = (
    Message("user", '"And be quick."'),
    Message("user", f'[{{"type":"text","text":"Look at this:"}},{_IMAGE}]'),
    Message("user", f'[{_DOCUMENT},{{"type":"text","text":"\\ud83d\\ude00"}}]'),
    Message("user", f"[{_FOUND}]"),
    Message("user", f"[{','.join([_IMAGE] * 9)}]"),
    Message("user", f"[{_PDF}]"),
    Message("user", f"[{_ELSEWHERE},{_FILE}]"),
    Message("system", '"From now on, answer in French."'),
    Message("system", '[{"type":"text","text":"The user has\\u0020gone."}]'),
)
"""What may come from outside, at the beginning or later."""

_TEXTS: Final = (
    '{{"type":"text","text":"{0}"}}',
    '{{"type":"text","text":"{0}","citations":null}}',
    '{{"text":"{0}","type":"text","mood":{1}}}',
    '{{ "type" : "text" ,\n "text" : "{0}" }}',
    '{{"type":"text","text":"never said","text":"{0}"}}',
    '{{"type":"text","text":"{0}","citations":[{{"type":"char_location","cited_text":"{0}","n":{1}}}]}}',
)
_THOUGHTS: Final = (
    '{{"type":"thinking","thinking":"{0}"}}',
    '{{"type":"thinking","thinking":"{0}","depth":{1}}}',
    '{{"type":"thinking","thinking":""}}',
    '{{"type":"thinking","thinking":"{0}","signature":"EqQBCgIYAhIM{2}"}}',
    '{{"type":"redacted_thinking"}}',
    '{{"type":"redacted_thinking","data":"EmwKAhgB{2}","why":{1}}}',
)
_UNKNOWN: Final = (
    '{{"type":"hologram","beams":{1}}}',
    '{{"type":"hologram","id":7,"name":{1},"text":{{"a":{1}}},"input":[]}}',
    '{{"type":"advisor_tool_result","tool_use_id":"srvtoolu_a{2}","content":{1}}}',
    '{{"type":"fallback","from":{{"model":"claude-opus-5-5"}},"to":null,"x":{1}}}',
)
_SERVED: Final = (
    '{{"type":"server_tool_use","id":"srvtoolu_{2}","name":"web_fetch","input":{{"url":{1}}}}}',
    '{{"type":"web_fetch_tool_result","tool_use_id":"srvtoolu_{2}","content":{{"type":"web_fetch_result","x":{1}}}}}',
    '{{"type":"server_tool_use","id":"srvtoolu_{2}","name":"code_execution","input":{{}},"caller":{{"type":"direct"}}}}',
    '{{"type":"code_execution_tool_result","tool_use_id":"srvtoolu_{2}","content":{{"stdout":"{0}","return_code":0}}}}',
)


class _Draw:
    """Draws a plan; everything comes from one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = Random(seed)  # noqa: S311  (nothing is secret here)
        self.uses = 0

    def plan(self) -> Plan:
        parameters = self.parameters()
        sayings = [self.saying() for _ in range(self.random.choice((0, 1, 1, 2, 2, 3, 4, 6)))]
        return Plan(
            seed=self.seed,
            model=self.random.choice(MODELS),
            parameters=parameters,
            max_tokens=self.max_tokens(parameters),
            instructions=self.random.choice(("", "Be brief.", "Be careful. " * 400)),
            cache=self.random.choice((None, "5m", "1h")),
            turns=self.random.choice((*(50,) * 9, None, 4)),
            redacts=self.chance(0.2),
            opening=tuple(self.some(MESSAGES, (0, 0, 0, 1, 2))),
            sayings=(*self.stuck(sayings), self.ending()),
            breaks=tuple(self.breaks()),
        )  # fmt: skip

    def some(self, what: tuple[Any, ...], counts: tuple[int, ...]) -> list[Any]:
        return [self.random.choice(what) for _ in range(self.random.choice(counts))]

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def parameters(self) -> dict[str, Any]:
        thinking: list[dict[str, Any]] = [
            {},
            {"thinking": {"type": "adaptive"}},
            {"thinking": {"type": "adaptive", "display": "omitted"}},
            {"thinking": {"type": "enabled", "budget_tokens": 1024}},
        ]
        stops = {"stop_sequences": ["grant", "🦊"]} if self.chance(0.1) else {}
        return self.random.choice(thinking) | stops

    def max_tokens(self, parameters: dict[str, Any]) -> int:
        if parameters.get("thinking", {}).get("type") == "enabled":
            return self.random.choice((1025, 8192))
        return self.random.choice((20, 60, 200, *(8192,) * 12))

    # ── blocks ──────────────────────────────────────────────────────────────────────────────────

    def filled(self, form: str, number: int) -> str:
        told = " ".join(self.some(WORDS, (1, 2, 3, 5)))
        return form.format(told, self.random.choice(VALUES), number)

    def words(self) -> list[str]:
        """Return blocks that say something, and perhaps how Claude came to it."""
        number = self.random.randrange(10**9)
        blocks = []
        if self.chance(0.4):
            blocks += [self.filled(self.random.choice(_THOUGHTS), number) for _ in range(2)]
        if self.chance(0.15):
            pair = self.random.choice((0, 2))
            blocks += [self.filled(form, number) for form in _SERVED[pair : pair + 2]]
        if self.chance(0.15):
            blocks.append(self.filled(self.random.choice(_UNKNOWN), number))
        if self.chance(0.7):
            blocks.append(self.filled(self.random.choice(_TEXTS), number))
        if self.chance(0.05):
            blocks.append('{"type":"text","text":""}')
        return blocks

    def use(self) -> str:
        """Return a call of a tool, now and then one that cannot be made."""
        self.uses += 1
        name = self.random.choice(
            ("look", "look", "keep", "keep", "send", "send", "nothing_like_it")
        )
        after = self.random.choice((0, 0, 0.5, 1, 2.5))
        members = [f'"n":{self.uses}', f'"does":"{self.random.choice(DOES)}"', f'"after":{after}']
        if self.chance(0.4):
            members.append(f'"load":{self.random.choice(VALUES)}')
        if self.chance(0.1):
            members.append(self.random.choice(('"n":"many"', '"wrong":1', '"after":null')))
        self.random.shuffle(members)
        given = self.random.choice((",", " , ", ",\n")).join(members)
        given = "{}" if self.chance(0.05) else f"{{{given}}}"
        more = self.random.choice(("", "", ',"caller":{"type":"direct"}', ',"hue":[1.50]'))
        if self.chance(0.2):
            return f'{{"input":{given},"name":"{name}"{more},"type":"tool_use"}}'
        own = f'"id":"toolu_own_{self.seed}_{self.uses}",' if self.chance(0.2) else ""
        return f'{{"type":"tool_use",{own}"name":"{name}","input":{given}{more}}}'

    def uses_of(self, counts: tuple[int, ...]) -> list[str]:
        return [self.use() for _ in range(self.random.choice(counts))]

    def extra(self) -> dict[str, Any]:
        extra: dict[str, Any] = {}
        if self.chance(0.1):
            place = self.random.randrange(3)
            extra["container"] = {"id": f"container_{place}", "expires_at": "2026-11-30T00:00:00Z"}
        if self.chance(0.1):
            extra["weather"] = {"sky": [0.5, None]}
        return extra

    # ── turns ───────────────────────────────────────────────────────────────────────────────────

    def saying(self) -> Saying:
        """Return a turn after which the conversation goes on."""
        kinds = (self.tools, self.tools, self.tools, self.pause, self.cut, self.compaction)
        blocks, stop_reason = self.random.choice(kinds)()
        return self.troubled(blocks, stop_reason)

    def troubled(
        self, blocks: list[str], stop_reason: str | None, extra: dict[str, Any] | None = None
    ) -> Saying:
        befalls = [fault() for fault in self.some(PASSING, (0, 0, 0, 0, 1, 1, 2))]
        if self.chance(0.03):
            befalls.append(self.random.choice(LASTING)())
        if self.chance(0.01):
            befalls += [faults.overloaded()] * 8
        return Saying(
            blocks=tuple(blocks),
            stop_reason=stop_reason,
            extra=self.extra() | (extra or {}),
            faults=tuple(befalls),
            seconds=self.random.choice((0, 0, 1, 30)),
        )

    def tools(self) -> tuple[list[str], str | None]:
        blocks = [*self.words(), *self.uses_of((1, 1, 2, 3, 4))]
        if self.chance(0.1):
            self.random.shuffle(blocks)
        if self.chance(0.05):
            # Its result comes with the next reply.
            blocks.append(self.filled(_SERVED[0], self.random.randrange(10**9)))
        return blocks, "auto"

    def pause(self) -> tuple[list[str], str | None]:
        blocks = self.words()
        if not blocks or self.chance(0.5):
            blocks.append(self.filled(_SERVED[0], self.random.randrange(10**9)))
        return blocks, "pause_turn"

    def cut(self) -> tuple[list[str], str | None]:
        return [*self.words(), *self.uses_of((0, 1, 2))], "max_tokens"

    def compaction(self) -> tuple[list[str], str | None]:
        summary = self.random.choice(('"They spoke of owls."', '"\\ud83d\\ude00"', "null"))
        more = self.random.choice(("", ',"encrypted_content":null', ',"tool_changes":[]'))
        block = f'{{"type":"compaction","content":{summary},"before":0{more}}}'
        if self.chance(0.6):
            return [block], "compaction"
        return [block, *self.words(), *self.uses_of((1, 2))], "tool_use"

    def ending(self) -> Saying:
        """Return a turn after which there is nothing more to say, most often an answer."""
        if self.chance(0.6):
            return self.troubled(['{"type":"text","text":"So it is."}'], "auto")
        kinds: list[tuple[list[str], str | None, dict[str, Any]]] = [
            ([], "end_turn", {}),
            (['{"type":"text","text":" "}'], "end_turn", {}),
            (self.words(), "refusal", {"stop_details": {"type": "refusal", "category": "cyber"}}),
            ([*self.words(), *self.uses_of((1,))], "refusal", {}),
            (self.words(), None, {}),
            (self.words(), "daydreaming", {}),
            ([*self.words(), *self.uses_of((1,))], "daydreaming", {}),
            ([*self.words(), *self.uses_of((0, 1))], "model_context_window_exceeded", {}),
            (self.words(), "stop_sequence", {"stop_sequence": "STOP"}),
            ([*self.words(), *self.uses_of((1,))], "end_turn", {}),
            (self.words(), "tool_use", {}),
            ([], "pause_turn", {}),
            ([], "max_tokens", {}),
            ([self.filled(_UNKNOWN[0], 0)], "end_turn", {}),
            (self.words(), "end_turn", {}),
        ]  # fmt: skip
        return self.troubled(*self.random.choice(kinds))

    def stuck(self, sayings: list[Saying]) -> list[Saying]:
        """Let Claude make calls that fail alike, again and again, now and then."""
        dice = Random(f"stuck {self.seed}")  # noqa: S311  (a draw of its own)
        if dice.random() > 0.03:
            return sayings
        form = '{{"type":"tool_use","name":"look","input":{{"n":{},"does":"raise","after":0}}}}'
        uses = [form.format(900 + number) for number in range(dice.randint(3, 6))]
        alike = [
            Saying(blocks=(use,), stop_reason="auto", extra={}, faults=(), seconds=0)
            for use in uses
        ]
        return [*sayings, *alike]

    # ── what befalls the drivers ────────────────────────────────────────────────────────────────

    def breaks(self) -> list[Break]:
        hows: tuple[How, ...] = (
            "crash",
            "crash",
            "before append",
            "after append",
            "cancel",
            "overtake",
        )
        drawn = []
        for _ in range(self.random.choice((0, 0, 1, 1, 2, 3, 5))):
            how = self.random.choice(hows)
            after = self.random.randint(1, 5 if "append" in how else 14)
            message = self.random.choice(MESSAGES) if self.chance(0.4) else None
            drawn.append(Break(how, after, self.random.choice((0, 1, 400, 4_000)), message))
        return drawn
