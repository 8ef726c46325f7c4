"""What the scripted Claude says in the demo: nine turns that follow the conversations.

Every word about a grant is read from what the request holds, the results of tools or the findings,
so a changed result changes the proposal.  The researcher's Claude is overloaded once and limits the
rate once; a tool is broken too, which is the agent's own doing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median_low
from typing import Any, Final

import msgspec

from outlast.models.script import (
    Block,
    Fault,
    Script,
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

Found = dict[str, Any]
"""A grant as a tool result tells it."""

_NUMBERS: Final = {"three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8}
_COMMON: Final = frozenset(
    """about aims also area areas around center centre charity charities continue cost costs fund
    funding grant have help helping including needs offer officer other people person project
    provide provides providing range running salary service services suffering support supported
    supporting that their them these they this through towards which will with within work working
    """.split()  # noqa: SIM905  (a list of words)
)
"""Words that say nothing about what a grant is for."""


def script(pace: float = 1.0) -> Script:
    """Return the script; at pace 1 the replies take about 16 seconds in all, at 0 no time.

    The pace lies in the replies alone: an interrupted run waits for nothing when it goes on.
    """

    def speak(request: dict[str, Any], attempt: int) -> Turn:  # noqa: ARG001  (a script's signature)
        said = _SPEAKERS[_role(request)]
        return _at(pace, said[min(turn_number(request), len(said)) - 1](Talk(request)))

    overloaded = Fault(kind="status", status=529, message="Overloaded")
    limited = Fault(
        kind="status",
        status=429,
        message="This request would exceed the rate limit of 50 requests a minute.",
        headers={"retry-after": f"{pace:g}"},
    )
    faults = any_of(once(2, overloaded), once(5, limited))

    def rule(request: dict[str, Any], attempt: int) -> Fault | None:
        return faults(request, attempt) if _role(request) == "researcher" else None

    return faulty(speak, rule)


paced: Final = script()
"""The script at demo pace, for `outlast.demo.script:paced`."""

fast: Final = script(0)
"""The script without waiting, for `outlast.demo.script:fast`."""


def _at(pace: float, blocks: Sequence[Block | str]) -> Turn:
    characters = sum(len(str(block)) for block in blocks)
    return say(*blocks, first_token_s=0.4 * pace, total_s=(0.7 + characters / 500) * pace)


# ── what the conversation holds so far ─────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Answered:
    """A tool call and what came back; `value` is `None` when the tool failed."""

    tool: str
    arguments: dict[str, Any]
    value: Any


class Talk:
    """The conversation in a request, read anew each time."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.question = last_text(request)
        self.first = text_of(request["messages"][0]["content"])
        self.answered = list(_answered(request["messages"]))

    def values(self, tool: str) -> list[Any]:
        """Return what the calls of `tool` returned, in order, failed calls left out."""
        return [a.value for a in self.answered if a.tool == tool and a.value is not None]

    @property
    def failed(self) -> list[Answered]:
        """The calls that came to nothing."""
        return [answered for answered in self.answered if answered.value is None]

    @cached_property
    def how_many(self) -> int:
        """How many grants are asked for; five if the question does not say."""
        word = re.search(rf"\b(\d{{1,2}}|{'|'.join(_NUMBERS)})\b", self.question.lower())
        return (_NUMBERS.get(word[1]) or int(word[1])) if word else 5

    @cached_property
    def max_gbp(self) -> int | None:
        """The pounds a grant may have, if the question says."""
        pounds = re.search(r"£\s?(\d[\d,]*)(k?)", self.question, re.IGNORECASE)
        return int(pounds[1].replace(",", "")) * (1000 if pounds[2] else 1) if pounds else None

    @cached_property
    def topic(self) -> str:
        """What the grants are to be for."""
        topic = re.search(r"\bfor (?:people with )?([^,.?!]+)", self.question)
        return topic[1].removesuffix(" and say").strip() if topic else self.question

    @cached_property
    def chosen(self) -> list[Found]:
        """The grants to name: of the first searches, one a recipient, none too large."""
        chosen: dict[str, Found] = {}
        for grant in (grant for found in self.values("search_grants")[:3] for grant in found):
            if self.max_gbp is None or grant["amount_gbp"] <= self.max_gbp:
                chosen.setdefault(grant["recipient"], grant)
        return list(chosen.values())[: self.how_many]


def _answered(messages: Sequence[dict[str, Any]]) -> Iterator[Answered]:
    calls: dict[str, Block] = {}
    for message in messages:
        for block in [] if isinstance(message["content"], str) else message["content"]:
            if block["type"] == "tool_use":
                calls[block["id"]] = block
            elif block["type"] == "tool_result":
                call = calls[block["tool_use_id"]]
                yield Answered(call["name"], call["input"], _value(block))


def _value(result: Block) -> Any:
    if result.get("is_error"):
        return None
    try:
        return msgspec.json.decode(text_of(result["content"]))
    except msgspec.DecodeError:
        return None  # truncated: as good as failed


# ── the researcher's turns, in order ───────────────────────────────────────────────────────────


def _look(talk: Talk) -> list[Block | str]:
    return [
        f"I will look for grants for {talk.topic}, and at who pays for it.",
        _search(talk, talk.topic),
        tool_use("funder_totals", {"keyword": talk.topic}),
    ]


def _widen(talk: Talk) -> list[Block | str]:
    words = Counter(
        word
        for grant in talk.chosen
        for word in set(re.findall(r"[a-z]{4,}", grant["purpose"].lower()))
        if word not in _COMMON and word not in talk.topic.lower()
    )
    often = sorted(words, key=lambda word: (-words[word], word))[:2]
    if not often:
        return _answer(talk)
    words_too = " and ".join(often)
    return [
        f"Found some. Grants like these also speak of {words_too}, so I look there too.",
        *(_search(talk, f"{talk.topic} {word}") for word in often),
    ]


def _look_closely(talk: Talk) -> list[Block | str]:
    if not talk.chosen:
        return _answer(talk)
    funder, _ = _main_funder(talk.chosen)
    return [
        (
            f"Let me read the whole record of all {len(talk.chosen)}. "
            f"Most are from the {funder}: does it take applications today?"
        ),
        *(tool_use("grant_details", {"grant_id": grant["id"]}) for grant in talk.chosen),
        tool_use("open_programmes", {"funder": funder}),
    ]


def _compare(talk: Talk) -> list[Block | str]:
    failed = any(answered.tool == "open_programmes" for answered in talk.failed)
    opening = "That lookup failed, so I go on without it." if failed else "Good."
    return [
        f"{opening} Were these their only grants, and what is on record without the limit?",
        *(tool_use("recipient_history", {"recipient": g["recipient"]}) for g in talk.chosen),
        tool_use("search_grants", {"keyword": talk.topic, "limit": 50}),
    ]


def _answer(talk: Talk) -> list[Block | str]:
    if not talk.chosen:
        searched = [answered for answered in talk.answered if answered.tool == "search_grants"]
        if any(answered.value is None for answered in searched):
            return [f"The search for {talk.topic} failed, so I cannot name any grant."]
        return [f"No grant for {talk.topic} that fits is on record."]
    table = [
        "| grant | recipient | place | amount | awarded | for |",
        "|---|---|---|---:|---|---|",
        *(_line(grant) for grant in talk.chosen),
    ]
    remarks = [*_remarks(talk)]
    return ["\n".join([_opening(talk), "", *table, "", *remarks]).strip()]


def _search(talk: Talk, keyword: str) -> Block:
    limit = {} if talk.max_gbp is None else {"max_gbp": talk.max_gbp}
    return tool_use("search_grants", {"keyword": keyword, **limit, "limit": 10})


def _main_funder(grants: Sequence[Found]) -> tuple[str, int]:
    """Return who paid for most of the grants, and for how many."""
    return Counter(grant["funder"] for grant in grants).most_common(1)[0]


# ── the findings ─────────────────────────────────────────────────────────────────────────────────


def _opening(talk: Talk) -> str:
    limit = "" if talk.max_gbp is None else f" of at most {_pounds(talk.max_gbp)}"
    opening = f"{len(talk.chosen)} grants{limit} for {talk.topic}"
    for funders in talk.values("funder_totals"):
        grants = sum(funder["grants"] for funder in funders)
        total = sum(funder["total_gbp"] for funder in funders)
        opening += f", out of {grants} for it on record ({_pounds(total)} in all)"
    return f"{opening}:"


def _line(grant: Found) -> str:
    purpose = " ".join(grant["purpose"].split())
    if len(purpose) > 90:
        purpose = purpose[:90].rsplit(" ", 1)[0] + " …"
    cells = (
        grant["id"],
        grant["recipient"],
        grant["locality"],
        _pounds(grant["amount_gbp"]),
        grant["awarded"],
        purpose,
    )
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _remarks(talk: Talk) -> Iterator[str]:
    funder, number = _main_funder(talk.chosen)
    yield f"- {number} of the {len(talk.chosen)} are from the {funder}."
    for grants in talk.values("recipient_history"):
        if len(grants) > 1:
            total = _pounds(sum(grant["amount_gbp"] for grant in grants))
            yield f"- {grants[0]['recipient']} received {len(grants)} grants, {total} in all."
    for grants in talk.values("search_grants")[3:]:
        largest = max(grants, key=lambda grant: (grant["amount_gbp"], grant["id"]))
        yield (
            f"- The largest grant for {talk.topic} on record is {_pounds(largest['amount_gbp'])}, "
            f"to {largest['recipient']} ({largest['id']})."
        )
    for answered in talk.failed:
        about = ", ".join(map(str, answered.arguments.values()))
        yield f"- Not checked, because {answered.tool} failed: {about}."


def _pounds(amount: float) -> str:
    return f"£{amount:,.0f}" if float(amount).is_integer() else f"£{amount:,.2f}"


# ── the writer and the reviewer ────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Listed:
    """A grant as the findings list it."""

    id: str
    recipient: str
    amount: str
    awarded: str
    purpose: str

    @property
    def pounds(self) -> float:
        """The amount."""
        return float(self.amount.replace("£", "").replace(",", ""))


def _listed(findings: str) -> list[Listed]:
    rows = re.findall(r"^\| (360G\S*) \|(.*)\|$", findings, re.MULTILINE)
    cells = [(key, [cell.strip() for cell in row.split("|")]) for key, row in rows]
    return [Listed(key, row[0], row[2], row[3], row[4]) for key, row in cells]


def _draft(talk: Talk) -> list[Block | str]:
    return ["\n\n".join(_paragraphs(talk.question))]


def _revise(talk: Talk) -> list[Block | str]:
    # What to mend is asked for last; the findings stand where the draft was asked for.
    opening, to, *between, sum_ = _paragraphs(talk.first)
    return ["\n\n".join([opening, to, sum_, *between])]


def _paragraphs(findings: str) -> list[str]:
    """Return the title, to whom, what was done, and at last what is asked for."""
    grants = _listed(findings)
    topic = re.search(r"^\d+ grants\b.*? for ([^,:\n]+)", findings, re.MULTILINE)
    about = topic[1] if topic else "the same purpose"
    if not grants:
        return [f"# No proposal for {about}", "To nobody.", "There is no grant to build it on."]
    funder = re.search(r"are from the (.+)\.$", findings, re.MULTILINE)
    middle = median_low(grant.pounds for grant in grants)
    done = "\n".join(
        f"- {grant.recipient} received {grant.amount} in {grant.awarded[:4]} ({grant.id}): "
        f"{grant.purpose}"
        for grant in grants
    )
    return [
        f"# Proposal: more work for {about}",
        f"To the {funder[1] if funder else 'funder'}.",
        f"What was done with grants that are on record:\n\n{done}",
        (
            f"We ask for {_pounds(middle)}, the middle of what these {len(grants)} received, "
            "for a year of such work in another town."
        ),
    ]


def _review(talk: Talk) -> list[Block | str]:
    findings, _, text = talk.question.partition("The proposal:")
    review = _clarity(text) if "clear at once" in findings else _facts(findings, text)
    return [review]


def _facts(findings: str, text: str) -> str:
    known = {grant.id: grant for grant in _listed(findings)}
    wrong = [
        key
        for key, line in re.findall(r"^- (?=.*\((360G\S*)\))(.*)$", text, re.MULTILINE)
        if key not in known or known[key].amount not in line
    ]
    if wrong:
        return f"Not as in the findings: {', '.join(wrong)}. Leave them out, or correct them."
    return f"Nothing to change. All {len(known)} grants are as in the findings."


def _clarity(text: str) -> str:
    paragraphs = [part for part in text.strip().split("\n\n") if not part.startswith("#")]
    asks = [n for n, part in enumerate(paragraphs, start=1) if "We ask for £" in part]
    if not asks or asks[0] <= 2:
        return "Nothing to change. The sum asked for stands at the beginning."
    return f"The sum asked for comes only in paragraph {asks[0]}: say it right at the beginning."


def _role(request: dict[str, Any]) -> str:
    """Return which of the three agents is asking."""
    system = text_of(request.get("system") or "")
    if "You write proposals" in system:
        return "writer"
    return "reviewer" if "You review proposals" in system else "researcher"


_SPEAKERS: Final[dict[str, tuple[Callable[[Talk], list[Block | str]], ...]]] = {
    "researcher": (_look, _widen, _look_closely, _compare, _answer),
    "writer": (_draft, _revise),
    "reviewer": (_review,),
}
"""What each agent's Claude says, turn by turn."""
