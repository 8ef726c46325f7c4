"""Which words of a text are a name.

A name is a run of capitalised words, joined by words such as "of" or "for the", that is not made
of what answers are made of anyway ("Summary", "Total amount").  Nothing here knows a language's
dictionary: an invented name in small letters is not seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

from outlast.validators.tokens import Token

Span: TypeAlias = tuple[int, int]
"""From the first token to the one after the last."""

LINKS: Final = frozenset(
    "of for and the in on at de la le du des von van der den del di da y e a an upon to".split()  # noqa: SIM905
)
ARTICLES: Final = frozenset("the a an this that these those its their our his her".split())  # noqa: SIM905

ORDINARY: Final = frozenset(
    """
    a an and any are as at be because been before below both but by can could did do does done each
    every few following for found from further gave gives given had has have he her here his how
    however i if in into is it its just last later least less like made many may more most much must
    my neither next no none nor not note nothing now of on once one only or other our out over own
    per please same see several she should since so some such than that the their them then there
    these they this those though through thus to together too two three four five six seven eight
    nine ten under until up us very was we were what when where whether which while who whom whose
    why will with within without would yes yet you your also although all after again against about
    above across additionally according along among another apart around based besides between
    beyond despite during either else elsewhere especially even finally first firstly second
    secondly third thirdly furthermore generally given hence i'm im indeed instead lastly likewise
    meanwhile moreover namely nevertheless nonetheless notably occasionally often otherwise overall
    perhaps previously recently regarding similarly sometimes specifically still subsequently
    therefore throughout together towards unfortunately unless unlike upon usually via well
    whenever whereas wherever

    summary overview introduction conclusion conclusions result results finding findings answer
    answers question questions recommendation recommendations recommended suggested background
    context detail details description descriptions information key main important notes remark
    remarks caveat caveats warning example examples list table section part option options item
    items row rows step steps source sources reference references link links url website web page
    contact email phone

    grant grants grantee grantees funder funders funding funded recipient recipients beneficiary
    beneficiaries applicant applicants organisation organisations organization organizations
    award awards awarded awarding amount amounts sum sums total totals value values maximum minimum
    max min average mean median budget cost costs price currency pounds dollars euros sterling
    date dates day days week weeks month months year years deadline deadlines period start end
    opening closing opens closes eligibility eligible ineligible criteria requirement requirements
    required purpose purposes aim aims goal goals use used uses programme programmes program
    programs place places location locations town city county region country name names title
    titles type types category status id ids number numbers charity registered registration code
    received receives receiving provides provided offers offered gets got went supports supported
    helps pays paid covers runs works delivers based match matches matching best top good better
    suitable relevant fit fits highest lowest largest smallest biggest high low medium open closed
    unknown available unavailable none true false

    apply visit check contact ask search searched look looking review read consider try show shown
    using find let here's heres thank thanks sorry hello dear regards

    monday tuesday wednesday thursday friday saturday sunday january february march april june july
    august september october november december english uk us usa eu gbp usd eur q1 q2 q3 q4 ok faq
    pdf api json csv n/a na tbc tbd vs etc
    """.split()  # noqa: SIM905
)
"""Words that answers are made of; none of them is a name by itself, or with its like."""

_ENDS: Final = frozenset(".!?;:")


def begins_sentence(tokens: Sequence[Token], at: int) -> bool:
    """Return whether a token is the first word of a sentence, a line or a cell."""
    while at > 0 and tokens[at - 1].text in ("*", "_", '"', "(", "[", "'", "`", "#", "~"):
        at -= 1
    if at == 0:
        return True
    before = tokens[at - 1]
    return before.kind == "mark" and before.text in ".!?;:|\n-•>→"


def runs(tokens: Sequence[Token], taken: Sequence[bool] = ()) -> Iterator[Span]:
    """Yield the longest runs of capitalised words; tokens that are `taken` end one."""
    at = 0
    while at < len(tokens):
        if not _is_capital(tokens, at, taken):
            at += 1
            continue
        end = _run_end(tokens, at, taken)
        yield at, end
        at = end


def _is_capital(tokens: Sequence[Token], at: int, taken: Sequence[bool]) -> bool:
    return tokens[at].capital and not (taken and taken[at])


def _run_end(tokens: Sequence[Token], start: int, taken: Sequence[bool]) -> int:
    end = at = start + 1
    links = 0
    while at < len(tokens) and not (taken and taken[at]):
        token = tokens[at]
        if token.capital:
            end, links = at + 1, 0
        elif token.text in LINKS and token.kind == "word":
            links += 1
        elif token.kind == "number" and links == 0 and _is_bare(token):
            pass  # Jigsaw 4 Kids: part of a name when a capital follows
        elif not _joins(tokens, at):
            break
        if links > 3:
            break
        at += 1
    return end


def _is_bare(token: Token) -> bool:
    return token.number is not None and not token.number.unit


def _joins(tokens: Sequence[Token], at: int) -> bool:
    """Return whether a mark stands inside a name, as in Home-Start, St. Mary's or A/B."""
    mark = tokens[at]
    if mark.kind != "mark" or at + 1 >= len(tokens):
        return False
    tight = tokens[at - 1].end == mark.start and mark.end == tokens[at + 1].start
    if mark.text in "-/@+'":
        return tight
    return mark.text == "." and (tight or len(tokens[at - 1].text) <= 2)


def ends_sentence(tokens: Sequence[Token], at: int) -> bool:
    """Return whether a mark ends a sentence: not the one of an abbreviation."""
    mark = tokens[at]
    if mark.kind != "mark" or mark.text not in ".!?;":
        return False
    if at + 1 < len(tokens) and tokens[at + 1].start == mark.end:
        return tokens[at + 1].kind == "mark"
    before = tokens[at - 1] if at else mark
    return not (
        mark.text == "." and before.kind == "word" and before.capital and len(before.text) <= 2
    )


def is_ordinary(words: Sequence[str]) -> bool:
    """Return whether all words are such as no name is made of alone."""
    return all(word in ORDINARY or word in LINKS or word.isdigit() for word in words)


def spoken(tokens: Sequence[Token], span: Span) -> tuple[str, ...]:
    """Return the words of a span, marks left out."""
    return tuple(token.text for token in tokens[span[0] : span[1]] if token.kind != "mark")
