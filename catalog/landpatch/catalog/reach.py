"""Which hosts a catalogue's hrefs may lead to, and connections that keep to it.

An href is written by whoever made the item. From a catalogue on the internet it must not lead into the network that
the reader sits in: to his router, to a service on his own machine, to the address where a cloud hands out
credentials (server-side request forgery). What counts is the address that a connection has got, not the name: a name
may mean another address each time it is looked up. A catalogue that is itself on this machine or in this network may
lead to its like.
"""

import socket
from collections.abc import Collection
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from landpatch.catalog.errors import InvalidItem, InvalidParameter


class RefusedHref(InvalidItem):
    """An href leads where a catalogue's hrefs must not lead."""


class Nearness(IntEnum):
    """How near an address is. FORBIDDEN: link-local (cloud metadata), multicast and whatever names no host."""

    INTERNET = 0
    NETWORK = 1
    MACHINE = 2
    FORBIDDEN = 3


# RFC 6598: what providers use behind their own address translation; Python counts it neither global nor private.
_SHARED = ip_network("100.64.0.0/10")
# RFC 6052, RFC 3056: IPv6 addresses that stand for an IPv4 address, in the last and in the second to sixth bytes.
_NAT64 = ip_network("64:ff9b::/96")


def nearness(address: str) -> Nearness:
    """Of a numeric address. Raises ValueError where it is none."""
    return _nearness(ip_address(address.partition("%")[0]))


def _nearness(found: IPv4Address | IPv6Address) -> Nearness:
    if isinstance(found, IPv6Address):
        inside = found.ipv4_mapped or found.sixtofour
        if inside is None and found in _NAT64:
            inside = IPv4Address(int(found) & 0xFFFFFFFF)
        if inside is not None:
            return _nearness(inside)
    if found.is_loopback:
        return Nearness.MACHINE
    if found.is_link_local or found.is_multicast or found.is_unspecified:
        return Nearness.FORBIDDEN
    if found.is_global:
        return Nearness.INTERNET
    # The rest of what is not global is private, shared, or set aside for documents and the future.
    if found.is_reserved:
        return Nearness.FORBIDDEN
    return Nearness.NETWORK if found.is_private or found in _SHARED else Nearness.FORBIDDEN


def host_nearness(url: str) -> Nearness:
    """Of the host that the user's own URL names: the nearest of its addresses. Raises InvalidParameter."""
    host = _host(url)
    if not host:
        raise InvalidParameter(f"{url!r} names no host")
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError:
        return Nearness.INTERNET  # behind a proxy, names of the internet may have no address here
    return max(nearness(address) for address in found)


@dataclass(frozen=True, slots=True)
class Reach:
    """Where connections may lead: no nearer than ``nearest``, but to the hosts in ``trusted`` anyway."""

    nearest: Nearness = Nearness.INTERNET
    trusted: frozenset[str] = frozenset()

    @classmethod
    def of(cls, catalogue: str, trusted: Collection[str] = ()) -> "Reach":
        """What the hrefs of a catalogue may lead to. ``catalogue`` is its URL: one on the web may lead to hosts as
        near as itself, all others to the internet alone; ``trusted`` names hosts that the user vouches for.
        """
        web = urlsplit(catalogue).scheme in ("http", "https")
        nearest = min(host_nearness(catalogue), Nearness.MACHINE) if web else Nearness.INTERNET
        return cls(nearest, frozenset(host.lower() for host in trusted))

    def check(self, host: str, address: str) -> None:
        """Raises RefusedHref where ``host``, which is found at ``address``, must not be reached."""
        if host.lower() in self.trusted:
            return
        found = nearness(address)
        if found > self.nearest:
            where = {
                Nearness.NETWORK: "in a private network",
                Nearness.MACHINE: "on this machine",
                Nearness.FORBIDDEN: "link-local or reserved",
            }[found]
            raise RefusedHref(
                f"{host} ({address}) is {where}, where this catalogue's hrefs must not lead; if you trust it, say so "
                f"with --trust {host}"
            )

    def check_name(self, host: str) -> None:
        """``check`` for a host that a proxy looks up: only what its name says is known here."""
        if host == "localhost" or host.endswith(".localhost"):
            self.check(host, "127.0.0.1")
            return
        try:
            address = str(ip_address(host.strip("[]")))
        except ValueError:
            return
        self.check(host, address)


def _host(url: str) -> str:
    return (urlsplit(url).hostname or "").lower()


class Connections:
    """Pools of HTTP connections that lead nowhere beyond ``reach``; through the proxy that the environment names."""

    def __init__(self, reach: Reach, *, per_host: int, timeout: urllib3.Timeout) -> None:
        self._reach = reach
        self._options: dict[str, Any] = {"maxsize": per_host, "timeout": timeout, "retries": False}
        self._direct = urllib3.PoolManager(num_pools=32, **self._options)
        self._direct.pool_classes_by_scheme = _guarded_pools(reach)
        self._proxies = {
            scheme: urllib3.ProxyManager(url, **self._options)
            for scheme, url in getproxies().items()
            if scheme in ("http", "https") and url.startswith(("http://", "https://"))
        }

    def open(self, method: str, url: str, **request: Any) -> urllib3.BaseHTTPResponse:
        """One request, its body unread, redirects not followed. Raises RefusedHref, urllib3's HTTPError."""
        parts = urlsplit(url)
        proxy = self._proxies.get(parts.scheme)
        if proxy is not None and not proxy_bypass(parts.netloc):
            self._reach.check_name(_host(url))
            return proxy.urlopen(method, url, redirect=False, preload_content=False, **request)
        return self._direct.urlopen(method, url, redirect=False, preload_content=False, **request)

    def close(self) -> None:
        """Let go of all idle connections."""
        for pools in (self._direct, *self._proxies.values()):
            pools.clear()


def _guarded_pools(reach: Reach) -> dict[str, type[HTTPConnectionPool]]:
    """Connection pools whose connections end before the first request where they lead too near."""

    def check(connection: HTTPConnection) -> None:
        if connection.sock is None:
            return
        try:
            reach.check(connection.host, str(connection.sock.getpeername()[0]))
        except RefusedHref:
            connection.close()
            raise

    class Plain(HTTPConnection):
        def connect(self) -> None:
            super().connect()
            check(self)

    class Encrypted(HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            check(self)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class EncryptedPool(HTTPSConnectionPool):
        ConnectionCls = Encrypted

    return {"http": PlainPool, "https": EncryptedPool}
