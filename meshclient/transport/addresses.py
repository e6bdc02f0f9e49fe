"""From a target to the addresses that can be connected to, and the options of their sockets.

Knows address families and socket options. Connects nothing and waits for nothing but the
system's resolver.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterable
from typing import Any, Final

from meshclient.model.cluster import TcpKeepalive
from meshclient.transport.interface import Target
from meshclient.transport.race import Address, interleave

#: Linux gives unanswered data up after about this long (``tcp_retries2`` 15).
_KERNEL_GIVES_UP_S: Final = 900.0
_USER_TIMEOUT: Final = getattr(socket, "TCP_USER_TIMEOUT", None)


def known_addresses(target: Target) -> list[Address] | None:
    """The addresses when nothing has to be resolved, in the order of trying."""
    path = target.unix_path
    if path is not None:
        return [(socket.AF_UNIX, path)]
    first = literal(target.address, target.port)
    if first is None:
        return None
    if not target.more_addresses:
        return [first]
    others = (literal(address, target.port) for address in target.more_addresses)
    return interleave([first, *(address for address in others if address is not None)])


def literal(host: str, port: int) -> Address | None:
    """The address that ``host`` spells, or None for a name.

    IPv6 may carry a scope: ``fe80::1%eth0`` or ``fe80::1%2``. Raises OSError for an
    interface that does not exist.
    """
    if ":" in host:
        plain, _, scope = host.partition("%")
        return socket.AF_INET6, (plain, port, 0, _scope_id(scope))
    if host.replace(".", "").isdecimal() and host.count(".") == 3:
        return socket.AF_INET, (host, port)
    return None


def _scope_id(scope: str) -> int:
    if not scope:
        return 0
    if scope.isdecimal():
        return int(scope)
    try:
        return socket.if_nametoindex(scope)
    except OSError as error:
        raise OSError(error.errno, f"no network interface {scope!r}") from error


def resolved(found: Iterable[tuple[Any, ...]]) -> list[Address]:
    """What getaddrinfo answered (ordered by RFC 6724), in the order of trying."""
    return interleave([(entry[0], entry[4]) for entry in found])


def new_socket(address: Address, keepalive: TcpKeepalive | None) -> socket.socket:
    """A socket for ``address`` with its options set, not yet connected. Raises OSError."""
    sock = socket.socket(address[0], socket.SOCK_STREAM)
    try:
        set_options(sock, keepalive)
    except BaseException:
        sock.close()
        raise
    return sock


def set_options(sock: socket.socket, keepalive: TcpKeepalive | None) -> None:
    """Nagle off (a request is one write), keep-alive probes as the policy says."""
    if sock.family == getattr(socket, "AF_UNIX", None):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if keepalive is None:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    idle = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))  # macOS name
    interval, probes = getattr(socket, "TCP_KEEPINTVL", None), getattr(socket, "TCP_KEEPCNT", None)
    for option, value in (
        (idle, keepalive.time_s),
        (interval, keepalive.interval_s),
        (probes, keepalive.probes),
    ):
        if option is not None and value is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, max(1, round(value)))
    if _USER_TIMEOUT is not None and sys.platform == "linux":
        _set_user_timeout(sock, _USER_TIMEOUT)


def _set_user_timeout(sock: socket.socket, option: int) -> None:
    """Give unanswered data up when unanswered probes would have been.

    Probes are sent on quiet connections only: while data waits for its
    acknowledgement, the kernel repeats that data instead, for a quarter of an
    hour. The time is that of the probes, ``time + interval * probes``, system defaults
    included; a longer one than the kernel's own is not set.
    """
    get = sock.getsockopt
    tcp = socket.IPPROTO_TCP
    idle_s, every_s = get(tcp, socket.TCP_KEEPIDLE), get(tcp, socket.TCP_KEEPINTVL)
    dead_s = idle_s + every_s * get(tcp, socket.TCP_KEEPCNT)
    if dead_s < _KERNEL_GIVES_UP_S:
        sock.setsockopt(tcp, option, dead_s * 1000)
