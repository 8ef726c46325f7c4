"""`outlast`, by a clock that is `skew_s` of `SHOP_PLAN` off."""

import json
import os
import time

SKEW_NS = int(json.loads(os.environ.get("SHOP_PLAN", "{}")).get("skew_s", 0) * 1_000_000_000)
if SKEW_NS:  # before anything asks for the time
    true_ns, true = time.time_ns, time.time
    time.time_ns = lambda: true_ns() + SKEW_NS
    time.time = lambda: true() + SKEW_NS / 1e9

from outlast.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
