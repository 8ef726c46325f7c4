"""What is taken out of a text before anybody keeps it or sees it: `Outlast(redact=…)`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, TypeAlias

import msgspec

from outlast.errors import UsageError

Redact: TypeAlias = Callable[[str], str]


def same(text: str) -> str:
    """Return the text as it is: what redacts nothing."""
    return text


def checked(redact: Redact) -> Redact:
    """Return a function that does the same, and surely returns text.

    Raises:
        UsageError: when it is called, and `redact` returns something else.

    """

    def texts_only(text: str) -> str:
        made = redact(text)
        if not isinstance(made, str):
            raise UsageError(
                f"redact= returned {type(made).__name__}; it is given a text, and has to return "
                "what may be kept of it"
            )
        return made

    return texts_only


def redacted(text: str, redact: Redact) -> str:
    """Return what may be kept of an error's text: nothing, where that cannot be told."""
    try:
        return str(redact(text))
    except Exception as error:  # noqa: BLE001  (a user's function)
        return f"[withheld: redact= raised {type(error).__name__}]"


# In strides, not letter by letter: a result may have 50 MB.
_STRING: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"')


def within(json: str, redact: Redact) -> str:
    """Return JSON with its texts redacted: every string and name by itself, then the whole.

    A secret with a quotation mark in it is spelled otherwise in JSON, and so is found only by
    itself; a number, or what stands in two members, is found only in the whole.
    """
    if redact is same:
        return json

    def one(at: re.Match[str]) -> str:
        text = msgspec.json.decode(at[0])
        made = redact(text)
        return at[0] if made == text else msgspec.json.encode(made).decode()

    return redact(_STRING.sub(one, json))
