"""The models as `GET /v1/models` and `GET /v1/models/{id}` tell them."""

from __future__ import annotations

from typing import Any, Final

from outlast.models import catalogue
from outlast.models.catalogue import MODELS, ClaudeModel
from outlast.models.quotas import Quota

_YES: Final = {"supported": True}

_CAPABILITIES: Final[dict[str, Any]] = {
    "batch": {"supported": False},
    "citations": _YES,
    "code_execution": _YES,
    "context_management": {
        "supported": True,
        "clear_thinking_20251015": {"supported": False},
        "clear_tool_uses_20250919": {"supported": False},
        "compact_20260112": _YES,
    },
    "effort": {"supported": True} | dict.fromkeys(("low", "medium", "high", "xhigh", "max"), _YES),
    "image_input": _YES,
    "pdf_input": _YES,
    "server_tools": {"supported": True, "code_execution": _YES, "web_search": _YES},
    "structured_outputs": _YES,
    "thinking": {
        "supported": True,
        "types": dict.fromkeys(("adaptive", "between_tools", "disabled", "enabled"), _YES),
    },
}
"""What the simulator takes, of every model alike; the real ones differ."""


def one(name: str) -> dict[str, Any] | None:
    """Return the model of that id or alias, `None` when there is none."""
    known = catalogue.ALIASES.get(name, name)
    return _told(known, MODELS[known]) if known in MODELS else None


def page(limit: int, after: str | None, before: str | None) -> dict[str, Any]:
    """Return at most `limit` models, newest first, after or before the one of that id."""
    names = list(MODELS)
    if after and after in MODELS:
        names = names[names.index(after) + 1 :]
    if before and before in MODELS:
        names = names[: names.index(before)]
    rest, names = len(names) > limit, names[:limit]
    return {
        "data": [_told(name, MODELS[name]) for name in names],
        "has_more": rest,
        "first_id": names[0] if names else None,
        "last_id": names[-1] if names else None,
    }


def rate_limits(quota: Quota) -> dict[str, Any]:
    """Return the limits of an organization whose every key may ask so much of each line."""
    said = {
        "requests_per_minute": quota.rpm,
        "input_tokens_per_minute_cache_aware": quota.itpm,
        "output_tokens_per_minute": quota.otpm,
    }
    limits = [{"type": kind, "value": value} for kind, value in said.items() if value]
    lines: dict[str, list[str]] = {}
    for name in MODELS:
        lines.setdefault(name.split("-")[1], []).append(name)
    entries = [
        {
            "type": "rate_limit",
            "id": f"rl_{line}",
            "group": {"type": "model_group", "id": line},
            "models": names,
            "limits": limits,
        }
        for line, names in lines.items()
    ]
    return {"data": entries, "has_more": False, "next_page": None}


def _told(name: str, model: ClaudeModel) -> dict[str, Any]:
    retires = catalogue.RETIRES.get(name)
    return {
        "type": "model",
        "id": name,
        "display_name": name.replace("-", " ").title(),
        "line": name.split("-")[1],
        "created_at": "1970-01-01T00:00:00Z",  # as the API says of a date it does not tell
        "lifecycle": "deprecated" if retires else "active",
        "deprecated_at": retires[0] if retires else None,
        "retires_at": retires[1] if retires else None,
        "max_input_tokens": model.context,
        "max_tokens": model.max_output,
        "capabilities": _CAPABILITIES,
    }
