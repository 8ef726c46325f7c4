"""Ready-made checks, for an agent's `checks=[…]`.

    checks=[not_empty, required_fields("name", "eligibility"), grounded_in_tools]

Each compares an answer with rules or with what tools returned; none calls a model.
"""

from __future__ import annotations

from outlast.validators.grounding import grounded_in_tools
from outlast.validators.rules import (
    cites_sources,
    no_duplicates,
    not_empty,
    regex,
    required_fields,
    within,
)

__all__ = [
    "cites_sources",
    "grounded_in_tools",
    "no_duplicates",
    "not_empty",
    "regex",
    "required_fields",
    "within",
]
