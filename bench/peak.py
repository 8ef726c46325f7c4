"""The peak memory of this process, in MB of a million bytes."""

from __future__ import annotations

import resource
import sys
from pathlib import Path


def mb() -> float:
    """Return the peak resident size."""
    status = Path("/proc/self/status")
    if status.exists():
        # What getrusage says on Linux includes the process that this one was forked from.
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


if __name__ == "__main__":
    print(mb())
