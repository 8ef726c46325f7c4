"""What the API says of a whole organization: its rate limits, before anything is asked."""

from __future__ import annotations

from typing import Any, Final

from outlast.errors import UsageError
from outlast.pacing import group

_UNITS: Final = {
    "requests_per_minute": "requests",
    "input_tokens_per_minute": "input_tokens",
    "input_tokens_per_minute_cache_aware": "input_tokens",
    "output_tokens_per_minute": "output_tokens",
}


def rate_limits(admin_key: str) -> dict[str, dict[str, int]]:
    """Return how much each group of models takes in a minute, by unit.

    Args:
        admin_key: an Admin API key, which no other request is sent with.

    Raises:
        UsageError: the API did not say, and why.

    """
    import anthropic  # noqa: PLC0415  (slow)

    client = anthropic.Anthropic(api_key=admin_key, auth_token=None, max_retries=0)
    try:
        entries = list(client.organization.rate_limits.list(group_type="model_group"))
    except anthropic.APIError as error:
        status = getattr(error, "status_code", 0)
        what = f"HTTP {status}" if status else type(error).__name__
        raise UsageError(
            f"the rate limits could not be fetched ({what}); ANTHROPIC_ADMIN_KEY has to be an "
            "Admin API key of the organization, which the console makes"
        ) from error
    finally:
        client.close()
    return _by_group(entries)


def _by_group(entries: list[Any]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for entry in entries:
        limits = {_UNITS[limit.type]: limit.value for limit in entry.limits if limit.type in _UNITS}
        for model in entry.models or ():
            found[group(model)] = limits
    return found
