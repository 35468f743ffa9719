"""What all tests share: the door to real data, the door to optional components, and no way to the network."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

CHECKOUT = Path(__file__).resolve().parents[1]
SHARED_DATA = Path(os.environ.get("LANDPATCH_SHARED", CHECKOUT.parent / "shared")) / "data"
IN_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")

# How long one example takes says nothing on a machine that is shared; CI draws the same examples every time.
settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("local"), derandomize=True, print_blob=True)
settings.load_profile("ci" if IN_CI else "local")


# A shell's background job ignores Ctrl-C, and so does all that it starts: tests interrupt what they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> str:
    state = "found" if SHARED_DATA.is_dir() else "MISSING: every test on real pixels and real metadata is skipped"
    return f"landpatch: real data in {SHARED_DATA}: {state}"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data; tests that ask for it are skipped where there is none, in CI too."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real data: {SHARED_DATA} is missing (LANDPATCH_SHARED names its parent folder)")
    return SHARED_DATA


@pytest.fixture(scope="session")
def component() -> Callable[[str, object], None]:
    """``component("tmpfs", available)``: a test needs something that a machine may lack. Without it the test is
    skipped on a developer's machine and fails in CI, where nothing may be left out unseen.
    """

    def need(name: str, available: object) -> None:
        if available:
            return
        if IN_CI:
            pytest.fail(f"{name} is missing, and CI must not go without it")
        pytest.skip(f"{name} is missing: not tested on this machine")

    return need


class NetworkUse(RuntimeError):
    """A test went out of this machine. No OSError, which code under test would take for a dead server."""


def _stays_here(host: object) -> bool:
    if isinstance(host, bytes):
        host = host.decode()
    if host is None or host in ("", "localhost", socket.gethostname()):
        return True
    try:
        address = ip_address(str(host))
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Python sockets reach this machine only; libraries with sockets of their own find a dead proxy."""
    connect, connect_ex, getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def check(host: object) -> None:
        if not _stays_here(host):
            raise NetworkUse(f"a test tried to reach {host!r}: tests use this machine only")

    def guard(call: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(self: socket.socket, address: Any) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6):
                check(address[0])
            return call(self, address)

        return guarded

    def lookup(host: Any, *arguments: Any, **options: Any) -> Any:
        check(host)
        return getaddrinfo(host, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guard(connect))
        patch.setattr(socket.socket, "connect_ex", guard(connect_ex))
        patch.setattr(socket, "getaddrinfo", lookup)
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            for spelling in (name, name.upper()):
                patch.setenv(spelling, "http://127.0.0.1:9")  # the discard port: nothing listens there
        for spelling in ("no_proxy", "NO_PROXY"):
            patch.setenv(spelling, "localhost,127.0.0.1,::1")
        yield
