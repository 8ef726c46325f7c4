"""Runs the simulator in this process, until it is told to stop."""

from __future__ import annotations

import asyncio
import importlib
import ipaddress
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from outlast.errors import UsageError

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import Scope

    from outlast.models.claude import Claude
    from outlast.models.quotas import Quota
    from outlast.models.script import Rule, Script
    from outlast.testing.simulator.state import State

DEFAULT_SCRIPT: Final = "outlast.testing.simulator.echo:script"


def serve(  # noqa: PLR0913  (the options of a command line)
    script: str | Script | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    state: Path | str | None = None,
    faults: str | Rule | None = None,
    batch_faults: str | Rule | None = None,
    check_history: bool = True,
    later_s: float = 0.0,
    quota: Quota | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Answer the Messages API on a loopback address, until SIGINT or SIGTERM.

    Args:
        script: a script, or what names one, see `load`; by default Claude says what it heard.
        host: where to listen; only this machine can be.
        port: 0 takes a free one.
        state: the directory that requests and the bill are written to; by default nothing is.
        faults: a rule, or `module:attribute` of one, that makes attempts fail.
        batch_faults: likewise, that makes the sending of batches fail.
        check_history: refuse an assistant message that Claude did not say.
        later_s: how many seconds the simulator's clock is ahead, to see what a pause would do.
        quota: what each API key may ask of each line of models; by default as much as it likes.
        on_ready: called with the base URL as soon as requests are taken.

    Raises:
        UsageError: the script cannot be loaded, the address cannot be had, or the state directory
            is in use.

    """
    # What only starts a simulator, in another process, need not wait for these.
    from outlast.models.claude import Claude  # noqa: PLC0415
    from outlast.models.script import faulty  # noqa: PLC0415
    from outlast.testing.simulator.state import State  # noqa: PLC0415

    said = load(script or DEFAULT_SCRIPT)
    ahead = int(later_s * 1_000_000_000)
    claude = Claude(
        faulty(said, load(faults)) if faults else said,
        check_history=check_history,
        clock=lambda: time.time_ns() + ahead,
        quota=quota,
        batch_faults=load(batch_faults) if batch_faults else None,
    )
    with (
        _listen(host, port) as listening,
        closing(State(Path(state) if state is not None else None)) as written,
        suppress(KeyboardInterrupt),
    ):
        written.remind(claude)
        server = _server(claude, written)
        if on_ready:
            on_ready(f"http://{_shown(host)}:{listening.getsockname()[1]}")
        server.run(sockets=[listening])


def _server(claude: Claude, state: State) -> uvicorn.Server:
    import uvicorn  # noqa: PLC0415
    from uvicorn.protocols.http.h11_impl import H11Protocol  # noqa: PLC0415

    from outlast.testing.simulator.server import application  # noqa: PLC0415

    def connection(scope: Scope) -> asyncio.Transport | None:
        for peer in server.server_state.connections:
            if isinstance(peer, H11Protocol) and peer.client == scope["client"]:
                return peer.transport
        return None

    # Its own log would report every cut that a script asked for as an error.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    server = uvicorn.Server(
        uvicorn.Config(
            application(claude, state, connection),
            http=H11Protocol,
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            # A connection that is dropped while it idles would look like a fault of the script.
            timeout_keep_alive=3_600,
            timeout_graceful_shutdown=1,
        )
    )
    return server


def load(what: str | Callable[..., Any]) -> Any:
    """Return what `module:attribute`, `FILE.py:attribute` or `FILE.yaml` names.

    The attribute is `script` by default.  Anything callable is returned as it is.

    Raises:
        UsageError: there is no such thing, and why.

    """
    if not isinstance(what, str):
        return what
    if what.endswith((".yaml", ".yml")):
        from outlast.testing.simulator import rules  # noqa: PLC0415  (few scripts are YAML)

        return rules.read(Path(what))
    if (here := str(Path.cwd())) not in sys.path:  # `outlast` is a script: its folder is there
        sys.path.insert(0, here)
    module, _, attribute = what.partition(":")
    if module.endswith(".py"):
        sys.path.insert(0, str(Path(module).resolve().parent))
        module = Path(module).stem
    try:
        found = getattr(importlib.import_module(module), attribute or "script")
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(
            f"cannot load {what!r}: {error}. Give MODULE:ATTRIBUTE of a function, in a module "
            "that can be imported from the current directory, or FILE.py, or FILE.yaml."
        ) from error
    if not callable(found):
        raise UsageError(f"{what!r} is {type(found).__name__}, not a function (request, attempt)")
    return found


def end_with_parent() -> None:
    """End this process when stdin does, which the parent holds open, even if it is killed."""
    threading.Thread(target=_watch_stdin, daemon=True, name="parent").start()


def _watch_stdin() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    # Nobody is left to be answered, and every line is written already.
    os._exit(0)


def _listen(host: str, port: int) -> socket.socket:
    if host != "localhost" and not _is_loopback(host):
        raise UsageError(
            f"the simulator answers anybody who asks, so it only listens on this machine: "
            f"{host!r} is not a loopback address, use 127.0.0.1 or ::1"
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return _listening(host, port, family)
    except OSError as error:
        raise UsageError(
            f"cannot listen on {_shown(host)}:{port}: {error.strerror}; give another --port"
        ) from error


def _listening(host: str, port: int, family: socket.AddressFamily) -> socket.socket:
    # asyncio switches Nagle's algorithm off only for sockets that name their protocol, and
    # `create_server` leaves it at 0; with it on, every answer would wait 40 ms for an ACK.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(2048)
    except BaseException:
        listening.close()
        raise
    return listening


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
