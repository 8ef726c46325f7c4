"""Tools as users write them: every annotation a string, and the types further down."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel

import outlast

if TYPE_CHECKING:
    from fractions import Fraction


@outlast.tool(effect="read")
def find(place: Place, limit: int = 3, *, context: outlast.ToolContext) -> list[Fraction]:
    """Find what is near a place."""
    return []


@outlast.tool(effect="read")
def unresolved(share: Fraction) -> str:
    """Take a type that exists for type checkers only."""
    return ""


class Place(BaseModel):
    """Where something is."""

    lat: float
    lon: float
    within: Place | None = None
