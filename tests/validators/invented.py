"""Answers about real grants, and answers that are nearly right, with one thing invented."""

import gzip
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, make_dataclass
from importlib import resources
from typing import Any

import msgspec
import pydantic

from outlast.checks import Evidence, Finding
from outlast.validators.tokens import words_of

GRANTS: list[dict[str, Any]] = [
    json.loads(line)
    for line in gzip.decompress(
        (resources.files("outlast.demo") / "grants.jsonl.gz").read_bytes()
    ).splitlines()
]
TASK = "Find grants of under £500,000 for charities, and say who paid how much for what."


@dataclass(frozen=True)
class Told:
    """An answer with the evidence of its run, and what is wrong with it, if anything is."""

    answer: Any
    evidence: Evidence
    lie: str = ""


# ── what tools returned ────────────────────────────────────────────────────────────────────────


def _as_demo(grant: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": grant["id"],
        "recipient": grant["recipient"],
        "locality": grant["recipient_locality"],
        "amount_gbp": grant["amount_awarded"],
        "awarded": grant["award_date"],
        "funder": grant["funder"],
        "purpose": grant["description"],
        "url": page(grant),
    }


def _as_nested(grant: dict[str, Any]) -> dict[str, Any]:
    return {
        "identifier": grant["id"],
        "title": grant["title"],
        "description": grant["description"],
        "awardDate": f"{grant['award_date']}T00:00:00Z",
        "amount": {"value": grant["amount_awarded"], "currency": "GBP"},
        "fundingOrganization": [{"name": grant["funder"]}],
        "recipientOrganization": [
            {"name": grant["recipient"], "location": grant["recipient_locality"]}
        ],
        "grantProgramme": [{"title": grant["programme"]}],
        "website": page(grant),
    }


def _as_line(grant: dict[str, Any]) -> str:
    return (
        f"- {grant['recipient']} | {grant['recipient_locality']} | £{grant['amount_awarded']:,}"
        f" | {grant['award_date']} | {grant['funder']} | {page(grant)} | {grant['id']}"
    )


def page(grant: dict[str, Any]) -> str:
    return f"https://grants.example.org/awards/{grant['id']}"


def _demo(grants: list[dict[str, Any]]) -> Any:
    return [_as_demo(grant) for grant in grants]


def _nested(grants: list[dict[str, Any]]) -> Any:
    return {"total": len(grants), "results": [_as_nested(grant) for grant in grants]}


def _by_id(grants: list[dict[str, Any]]) -> Any:
    return {grant["id"]: {**grant, "url": page(grant)} for grant in grants}


def _lines(grants: list[dict[str, Any]]) -> Any:
    return "Grants:\n\n" + "\n".join(_as_line(grant) for grant in grants)


SHAPES: list[Callable[[list[dict[str, Any]]], Any]] = [_demo, _nested, _by_id, _lines]


def evidence_of(dice: random.Random, grants: list[dict[str, Any]]) -> Evidence:
    """Return what two tools said of grants, each in some shape."""
    half = len(grants) // 2
    findings = []
    for number, part in enumerate((grants[:half], grants[half:])):
        value = dice.choice(SHAPES)(part)
        text = value if isinstance(value, str) else json.dumps(value)
        findings.append(Finding(tool="search", text=text, value=value, seq=number))
    return Evidence(task=TASK, findings=tuple(findings))


# ── what an answer says of a grant ─────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Facts:
    """What is said of one grant; `sign` and `code` are its currency."""

    name: str
    funder: str
    amount: float
    day: str
    url: str
    sign: str = "£"
    code: str = "gbp"


def facts_of(grant: dict[str, Any]) -> Facts:
    return Facts(
        " ".join(grant["recipient"].split()),
        grant["funder"],
        grant["amount_awarded"],
        grant["award_date"],
        page(grant),
    )


def amount_text(dice: random.Random, facts: Facts) -> str:
    """Return an amount in one of the forms that people write."""
    amount, sign = facts.amount, facts.sign
    exact = f"{amount:,.0f}" if amount == int(amount) else f"{amount:,.2f}"
    forms = [f"{sign}{exact}", f"{facts.code.upper()} {exact}", f"{exact} {facts.code.upper()}"]
    if amount == int(amount):
        forms += [f"{sign}{int(amount)}", f"{sign}{exact}.00"]
    if amount % 1000 == 0 and amount >= 1000:
        forms += [f"{sign}{int(amount) // 1000}k", f"{sign}{int(amount) // 1000}K"]
        forms += [f"{sign}{int(amount) // 1000} thousand"]
    if amount % 100_000 == 0 and amount >= 1_000_000:
        forms += [f"{sign}{amount / 1_000_000:g} million", f"{sign}{amount / 1_000_000:g}m"]
    return dice.choice(forms)


_MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]


def day_text(dice: random.Random, day: str) -> str:
    year, month, date = (int(part) for part in day.split("-"))
    name = _MONTHS[month - 1]
    return dice.choice(
        [
            day,
            f"{date} {name} {year}",
            f"{name} {date}, {year}",
            f"{name} {year}",
            f"{date}/{month:02}/{year}",
            f"{date} {name[:3]} {year}",
        ]
    )


def name_text(dice: random.Random, name: str) -> str:
    """Return a name in one of the forms that look different and are the same."""
    return dice.choice(
        [
            name,
            name,
            name,
            name.replace(" & ", " and "),
            name.replace("'", "\u2019"),
            name.replace("-", "\u2011"),
            name.replace(" ", "\u00a0"),
        ]
    )


def described(dice: random.Random, facts: Facts) -> str:
    """Return a sentence in words that no tool used."""
    return dice.choice(
        [
            f"The money goes to work that {facts.name} does for people who need it.",
            "It pays for staff and running costs, so that more people are reached.",
            f"Awarded in {facts.day[:4]}; supports local people over the coming years.",
            f"A contribution of {amount_text(dice, facts)} towards what the charity does.",
        ]
    )


# ── typed answers ──────────────────────────────────────────────────────────────────────────────


class Model(pydantic.BaseModel):
    name: str
    funder: str
    max_gbp: float
    summary: str


class Struct(msgspec.Struct):
    organisation: str
    funder: str
    amount: str
    awarded: str


Grant = make_dataclass("Grant", ["recipient", "funder", "amount_gbp", "source"])


def typed(dice: random.Random, facts: Facts) -> Any:
    """Return an object that says it."""
    name = name_text(dice, facts.name)
    unit = facts.code
    forms: list[Callable[[], Any]] = [
        lambda: {"name": name, "funder": facts.funder, f"max_{unit}": facts.amount},
        lambda: {
            "recipient": name,
            "funder": facts.funder.upper() if dice.random() < 0.2 else facts.funder,
            "amount": amount_text(dice, facts),
            "date": day_text(dice, facts.day),
            "link": facts.url,
        },
        lambda: {
            "grantee": {"name": name},
            "funding": {"by": facts.funder, "amount": facts.amount, "currency": unit.upper()},
            "why": described(dice, facts),
            "source": facts.url,
        },
        lambda: Struct(name, facts.funder, amount_text(dice, facts), facts.day),
    ]
    if unit == "gbp":
        forms += [
            lambda: Model(
                name=name,
                funder=facts.funder,
                max_gbp=facts.amount,
                summary=described(dice, facts),
            ),
            lambda: Grant(name, facts.funder, facts.amount, facts.url),
        ]
    return dice.choice(forms)()


# ── text answers ───────────────────────────────────────────────────────────────────────────────


def sentence(dice: random.Random, facts: Facts) -> str:
    name, amount = name_text(dice, facts.name), amount_text(dice, facts)
    day, funder, url = day_text(dice, facts.day), facts.funder, facts.url
    return dice.choice(
        [
            f"{name} received {amount} from the {funder} in {facts.day[:4]} ({url}).",
            f"The {funder} awarded {amount} to {name} on {day}. See {url}.",
            f"**{name}** – {amount}, {funder}, {day}: {url}.",
            f"{name}: {amount} ({funder}; {day}; [details]({url})).",
            f"A grant of {amount} went to {name}. It was paid by the {funder}; more at {url}.",
            f"In {facts.day[:4]}, the {funder} gave {name} a grant of {amount}: <{url}>.",
        ]
    )


def text(dice: random.Random, many: list[Facts]) -> str:
    """Return an answer in words about several grants."""
    form = dice.randrange(4)
    opening = dice.choice(
        [
            f"I found {len(many)} grants under £500,000:",
            "Here is what the tools returned.",
            "## Recommended grants",
            "Summary of the grants that fit:",
        ]
    )
    if form == 0:
        rows = [
            f"| {one.name} | {amount_text(dice, one)} | {one.funder} | {one.day} | {one.url} |"
            for one in many
        ]
        table = ["| Recipient | Amount | Funder | Awarded | Source |", "|---|---:|---|---|---|"]
        return "\n".join([opening, "", *table, *rows])
    if form == 1:
        items = [f"{n}. {sentence(dice, one)}" for n, one in enumerate(many, start=1)]
        return "\n".join([opening, "", *items])
    if form == 2:
        blocks = [
            f"### {one.name}\n\n- **Funder**: {one.funder}\n- **Amount**: {amount_text(dice, one)}"
            f"\n- **Awarded**: {day_text(dice, one.day)}\n- Source: {one.url}\n"
            for one in many
        ]
        return "\n".join([opening, "", *blocks])
    return opening + "\n\n" + " ".join(sentence(dice, one) for one in many)


# ── lies ───────────────────────────────────────────────────────────────────────────────────────


def _swapped(dice: random.Random, name: str) -> str:
    letters = list(name)
    places = [
        n
        for n in range(len(letters) - 1)
        if letters[n].isalpha()
        and letters[n + 1].isalpha()
        and letters[n].casefold() != letters[n + 1].casefold()
    ]
    if places:
        at = dice.choice(places)
        letters[at], letters[at + 1] = letters[at + 1], letters[at]
        if letters[at].islower() and letters[at + 1].isupper():
            letters[at], letters[at + 1] = letters[at].upper(), letters[at + 1].lower()
    return "".join(letters)


def _dropped(dice: random.Random, name: str) -> str:
    words = name.split()
    if len(words) < 3 or "(" in name:
        return name
    words.pop(dice.choice([n for n, word in enumerate(words) if word[:1].isupper()] or [0]))
    left = " ".join(words).strip(" -&")
    return left if left[:1].isupper() else name


def _added(dice: random.Random, name: str) -> str:
    word = dice.choice(["Trust", "International", "Northern", "Alliance", "Plus", "Society"])
    words = name.split()
    words.insert(dice.choice([0, len(words)]), word)
    return " ".join(words)


def _replaced(dice: random.Random, name: str) -> str:
    words = name.split()
    at = dice.choice([n for n, word in enumerate(words) if word[:1].isupper()] or [0])
    words[at] = dice.choice(["Harbour", "Meridian", "Kestrel", "Association", "Coalition"])
    return " ".join(words)


def _digit(dice: random.Random, amount: float) -> float:
    digits = list(str(int(amount)))
    at = dice.randrange(len(digits))
    digits[at] = dice.choice([one for one in "123456789" if one != digits[at]])
    return float("".join(digits))


def lies(
    dice: random.Random, facts: Facts, grants: list[dict[str, Any]]
) -> Iterator[tuple[str, Facts]]:
    """Yield what is nearly said of a grant, with what is wrong with it; some are true by chance."""

    def with_(**changes: Any) -> Facts:
        return Facts(**{**vars(facts), **changes})

    funders = sorted({grant["funder"] for grant in grants} - {facts.funder})
    others = [one for one in grants if one["recipient"].split() != facts.name.split()]
    yield "letters swapped", with_(name=_swapped(dice, facts.name))
    yield "word dropped", with_(name=_dropped(dice, facts.name))
    yield "word added", with_(name=_added(dice, facts.name))
    yield "word replaced", with_(name=_replaced(dice, facts.name))
    yield "thousandfold", with_(amount=facts.amount * 1000)
    yield "a thousandth", with_(amount=facts.amount / 1000)
    yield "a digit", with_(amount=_digit(dice, facts.amount))
    yield "the amount of another", with_(amount=dice.choice(others)["amount_awarded"])
    if funders:
        yield "funder of another", with_(funder=dice.choice(funders))
    yield "funder invented", with_(funder="Esmeralda Fairbairn Foundation")
    yield "currency", with_(sign="$", code="usd")
    yield "url invented", with_(url=facts.url + dice.choice("0123456789"))
    yield "url of nobody", with_(url="https://www.grantfinder.example.com/apply")


def is_true(facts: Facts, grants: list[dict[str, Any]]) -> bool:
    """Return whether a grant is just as it is said to be."""
    return any(
        words_of(grant["recipient"]) == words_of(facts.name)
        and grant["funder"] == facts.funder
        and grant["amount_awarded"] == facts.amount
        and facts.code == "gbp"
        and facts.url in [page(one) for one in grants]
        for grant in grants
    )


# ── all together ───────────────────────────────────────────────────────────────────────────────


def answers(seed: int, count: int, *, size: int = 40) -> Iterator[Told]:
    """Yield answers, every other one with exactly one lie in it."""
    dice = random.Random(seed)  # noqa: S311  (the same answers each time)
    for number in range(count):
        grants = _sample(dice, size)
        evidence = evidence_of(dice, grants)
        many = [facts_of(one) for one in dice.sample(grants, dice.randint(1, 4))]
        lie, said = "", many[0]
        if number % 2:
            at = dice.randrange(len(many))
            options = [
                (what, said)
                for what, said in lies(dice, many[at], grants)
                if said != many[at] and not is_true(said, grants)
            ]
            what, said = dice.choice(options)
            lie = f"{what}: {said} instead of {many[at]}"
            many[at] = said
        if dice.random() < 0.5:
            answer: Any = [typed(dice, one) for one in many]
            if len(many) == 1 and dice.random() < 0.5:
                answer = answer[0]
            # Not every form says everything, and what is not said is no lie.
            if lie.startswith("url") and said.url not in repr(answer):
                answer = text(dice, many)
        else:
            answer = text(dice, many)
        yield Told(answer, evidence, lie)


def _sample(dice: random.Random, size: int) -> list[dict[str, Any]]:
    """Return some grants of both funders, with at least two from each."""
    small = [grant for grant in GRANTS if grant["funder"].startswith("Wolfson")]
    chosen = [*dice.sample(small, 8), *dice.sample(GRANTS, size - 8)]
    unique = {grant["id"]: grant for grant in chosen if grant["amount_awarded"] > 0}
    grants = list(unique.values())
    dice.shuffle(grants)
    return grants
