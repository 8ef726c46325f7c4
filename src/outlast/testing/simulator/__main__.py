"""`python -m outlast.testing.simulator`: prints its base URL in one line, then answers."""

from __future__ import annotations

import argparse
import os
import sys

from outlast.errors import UsageError
from outlast.models.quotas import Quota
from outlast.testing.simulator.listen import end_with_parent, serve


def main() -> int:
    """Serve until told to stop; return the exit code."""
    options = _parser().parse_args()
    sys.path[:0] = options.path
    if options.parent_pipe:
        end_with_parent()
    # Whoever started this reads one line, the URL; what a script prints goes to the log.
    said = os.dup(1)
    os.dup2(2, 1)

    def ready(url: str) -> None:
        os.write(said, url.encode() + b"\n")
        os.close(said)

    try:
        serve(
            options.script,
            host=options.host,
            port=options.port,
            state=options.state,
            faults=options.faults,
            batch_faults=options.batch_faults,
            check_history=not options.any_history,
            later_s=options.later,
            quota=Quota(rpm=options.rpm, itpm=options.itpm, otpm=options.otpm),
            on_ready=ready,
        )
    except UsageError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m outlast.testing.simulator", description=__doc__
    )
    parser.add_argument(
        "--script", metavar="MODULE:ATTRIBUTE|FILE.py|FILE.yaml", help="what Claude says"
    )
    parser.add_argument("--faults", metavar="MODULE:ATTRIBUTE", help="the rule of what goes wrong")
    parser.add_argument(
        "--batch-faults",
        metavar="MODULE:ATTRIBUTE",
        help="the rule of what goes wrong with batches",
    )
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address")
    parser.add_argument("--port", type=int, default=0, help="by default a free one")
    parser.add_argument("--state", metavar="DIR", help="where requests and the bill are written")
    parser.add_argument("--path", action="append", default=[], help="where modules may be, too")
    parser.add_argument("--any-history", action="store_true", help="do not compare the history")
    parser.add_argument("--later", type=float, default=0.0, help="seconds the clock is ahead")
    parser.add_argument("--rpm", type=_count, help="requests a minute of each key")
    parser.add_argument("--itpm", type=_count, help="input tokens a minute of each key")
    parser.add_argument("--otpm", type=_count, help="output tokens a minute of each key")
    parser.add_argument("--parent-pipe", action="store_true", help="end when stdin ends")
    return parser


def _count(given: str) -> int:
    count = int(given)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{given} is not at least 1")
    return count


if __name__ == "__main__":
    sys.exit(main())
