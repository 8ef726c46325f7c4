"""What holds for every test: loopback only, no settings from outside, full counts on request."""

import ipaddress
import os
import sys

import hypothesis
import pytest

SOAK = os.environ.get("OUTLAST_SOAK") == "1"

# A test that read these would depend on who runs it, and might even spend somebody's money.
for name in list(os.environ):
    if name.startswith(("ANTHROPIC_", "OUTLAST_")) and name != "OUTLAST_SOAK":
        del os.environ[name]

# Machines differ in speed, so nothing is judged by it; `derandomize` makes a failure on one
# machine a failure on every machine, and soaks look further each time.
hypothesis.settings.register_profile(
    "short",
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile(
    "soak", hypothesis.settings.get_profile("short"), derandomize=False, max_examples=2_000
)
hypothesis.settings.load_profile("soak" if SOAK else "short")


def is_loopback(host: object) -> bool:
    """Say whether `host`, as given to a socket, is this machine."""
    if host in (None, "", b"", "localhost", b"localhost"):
        return True
    try:
        return ipaddress.ip_address(
            host.decode() if isinstance(host, bytes) else str(host)
        ).is_loopback
    except ValueError:
        return False


def _refuse_the_network(event: str, args: tuple[object, ...]) -> None:
    if event == "socket.connect":
        address = args[1]
        if isinstance(address, tuple) and not is_loopback(address[0]):
            raise PermissionError(f"tests use loopback only, this one connects to {address}")
    elif event == "socket.getaddrinfo" and not is_loopback(args[0]):
        raise PermissionError(f"tests use loopback only, this one looks up {args[0]!r}")


sys.addaudithook(_refuse_the_network)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave soaks out, unless they were asked for."""
    if SOAK:
        return
    soaks = [item for item in items if item.get_closest_marker("soak")]
    if soaks:
        config.hook.pytest_deselected(items=soaks)
        items[:] = [item for item in items if item not in soaks]


@pytest.fixture(scope="session")
def soak() -> bool:
    """Whether full counts are asked for."""
    return SOAK


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests recorded as `told`: what a generator came up with, say."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "told":
                terminalreporter.write_line(f"{report.nodeid}: {value}")
