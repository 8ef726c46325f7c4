"""How much a key may ask for: requests and tokens per minute, as buckets that refill all the time.

Each key has a bucket of each kind for each line of models, as large as a minute's worth, full at
first.  A request is taken while there is one request, its own input, and any output left; what it
wrote is taken off afterwards, so a long answer may leave a debt.  Input that is read from the
prompt cache does not count.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from outlast.models.script import Fault

MINUTE_S: Final = 60
NS: Final = 10**9


class Quota(msgspec.Struct, frozen=True, kw_only=True):
    """What one key may ask of one line of models in a minute; `None` is no limit.

    Attributes:
        rpm: requests.
        itpm: input tokens, those read from the cache aside.
        otpm: output tokens.

    """

    rpm: int | None = None
    itpm: int | None = None
    otpm: int | None = None


# What the headers of a key without limits say.
_PLENTY: Final = {"requests": 4_000, "input-tokens": 4_000_000, "output-tokens": 800_000}


class _Bucket(msgspec.Struct):
    """So much is left at a time; it refills by its size in a minute."""

    size: int
    left: float
    at: int

    def refill(self, now: int) -> None:
        passed_s = max(0, now - self.at) / NS
        self.left = min(self.size, self.left + self.size * passed_s / MINUTE_S)
        self.at = now

    def wait_s(self, need: float) -> float:
        """Return how long it takes until so much is there; what never fits takes a minute."""
        if need > self.size:
            return MINUTE_S
        return max(0.0, need - self.left) * MINUTE_S / self.size


class Quotas:
    """The buckets of all keys.

    Args:
        quota: what each key may ask of each line of models.

    """

    def __init__(self, quota: Quota) -> None:
        self._sizes = {
            kind: size
            for kind, size in (
                ("requests", quota.rpm),
                ("input-tokens", quota.itpm),
                ("output-tokens", quota.otpm),
            )
            if size is not None
        }
        self._buckets: dict[tuple[str, str], dict[str, _Bucket]] = {}

    def refusal(self, key: str, model: str, input_tokens: int, now: int) -> Fault | None:
        """Return the 429 with which a request is turned away, `None` when it is taken."""
        needs = {"requests": 1, "input-tokens": input_tokens, "output-tokens": 1}
        for kind, bucket in self._filled(key, model, now).items():
            if bucket.left < needs[kind]:
                wait_s = max(1, math.ceil(bucket.wait_s(needs[kind])))
                return Fault(
                    kind="status",
                    status=429,
                    message=f"This request would exceed the rate limit of {bucket.size} "
                    f"{kind.replace('-', ' ')} per minute: {max(0, int(bucket.left))} are left "
                    f"and it needs {needs[kind]}. Try again in {wait_s} s.",
                    headers={"retry-after": str(wait_s)},
                )
        return None

    def take(self, key: str, model: str, usage: Mapping[str, Any], now: int) -> None:
        """Take off what a request used, by what it is billed for."""
        parts = usage.get("iterations") or [usage]
        used = {
            "requests": 1,
            "input-tokens": sum(
                (part.get("input_tokens") or 0) + (part.get("cache_creation_input_tokens") or 0)
                for part in parts
            ),
            "output-tokens": sum(part.get("output_tokens") or 0 for part in parts),
        }
        for kind, bucket in self._filled(key, model, now).items():
            bucket.left -= used[kind]

    def headers(self, key: str, model: str, now: int) -> dict[str, str]:
        """Return the headers that tell a client what is left, and when all of it is back."""
        buckets = self._filled(key, model, now)
        told = {
            kind: buckets.get(kind) or _Bucket(size, size, now) for kind, size in _PLENTY.items()
        }
        both = [told["input-tokens"], told["output-tokens"]]
        told["tokens"] = _Bucket(
            sum(each.size for each in both), sum(max(0, each.left) for each in both), now
        )
        headers = {}
        for kind, bucket in told.items():
            back = max(each.wait_s(each.size) for each in (both if kind == "tokens" else [bucket]))
            reset = datetime.fromtimestamp(math.ceil(now / NS + back), UTC)
            headers[f"anthropic-ratelimit-{kind}-limit"] = str(bucket.size)
            headers[f"anthropic-ratelimit-{kind}-remaining"] = str(max(0, int(bucket.left)))
            headers[f"anthropic-ratelimit-{kind}-reset"] = reset.strftime("%Y-%m-%dT%H:%M:%SZ")
        return headers

    def _filled(self, key: str, model: str, now: int) -> dict[str, _Bucket]:
        line = model.split("-")[1] if "-" in model else model
        buckets = self._buckets.setdefault(
            (key, line), {kind: _Bucket(size, size, now) for kind, size in self._sizes.items()}
        )
        for bucket in buckets.values():
            bucket.refill(now)
        return buckets
