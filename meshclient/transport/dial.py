"""Opening connections: socket options, addresses, connect and TLS within a time limit.

One function per shell. Addresses are tried one after the other; racing them
belongs in here, and nowhere else. No pools, no HTTP.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from meshclient.model.cluster import TcpKeepalive
from meshclient.model.outcome import ResetReason
from meshclient.transport.interface import (
    Target,
    TimeoutKind,
    WireError,
    WireRequest,
    timeout_error,
)

P = TypeVar("P", bound=asyncio.Protocol)
_Address = tuple[int, Any]  # family, and what connect() takes


def connect_limit(target: Target, request: WireRequest, now: float) -> tuple[float, TimeoutKind]:
    """When connecting has to be over (monotonic), and which limit that is."""
    timeout = request.connect_timeout_s
    if timeout is None:
        timeout = target.options.connect_timeout_s
    limit = now + timeout
    if request.deadline is not None and request.deadline < limit:
        return request.deadline, "deadline"
    return limit, "connect"


def connect_error(target: Target, error: Exception) -> WireError:
    """What refused, unreachable, unresolvable and untrusted have in common."""
    kind = "TLS handshake with" if isinstance(error, ssl.SSLError) else "connecting to"
    message = f"{kind} {target} failed: {error or type(error).__name__}"
    return WireError(ResetReason.CONNECTION_FAILURE, False, message)


def refuse_other_protocol(target: Target, tls: Any) -> None:
    """A context of the caller's may have offered more than this engine speaks."""
    protocol = tls.selected_alpn_protocol() if tls is not None else None
    if protocol not in (None, "http/1.1"):
        message = f"{target} chose {protocol!r} by ALPN; this engine speaks http/1.1"
        raise WireError(ResetReason.CONNECTION_FAILURE, False, message)


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


def _literal(target: Target) -> list[_Address] | None:
    """The address when nothing has to be resolved."""
    path = target.unix_path
    if path is not None:
        return [(socket.AF_UNIX, path)]
    host = target.address
    if ":" in host:
        if "%" in host:
            return None  # a scope id: getaddrinfo knows the interface numbers
        return [(socket.AF_INET6, (host, target.port, 0, 0))]
    if host.replace(".", "").isdecimal() and host.count(".") == 3:
        return [(socket.AF_INET, (host, target.port))]
    return None


async def open_async(
    target: Target, factory: Callable[[socket.socket], P], limit: float, kind: TimeoutKind
) -> P:
    """Connect, with TLS if the target asks, until ``limit`` (monotonic).

    ``factory`` makes the protocol object for the raw socket. Raises WireError;
    cancelled at any point, it leaves no socket behind.
    """
    try:
        # 3.11's asyncio.timeout tells our limit from a cancellation by somebody else.
        async with asyncio.timeout(max(0.0, limit - time.monotonic())):
            return await _open_async(target, factory)
    except TimeoutError as error:
        if time.monotonic() < limit - 0.005:  # ETIMEDOUT of the kernel is a TimeoutError, too
            raise connect_error(target, error) from error
        raise timeout_error(kind, False) from error
    except (OSError, ValueError) as error:  # ValueError: UnicodeError of a bad host name
        raise connect_error(target, error) from error


async def _open_async(target: Target, factory: Callable[[socket.socket], P]) -> P:
    loop = asyncio.get_running_loop()
    addresses = _literal(target)
    if addresses is None:
        found = await loop.getaddrinfo(target.address, target.port, type=socket.SOCK_STREAM)
        addresses = [(family, address) for family, _, _, _, address in found]
    sock = await _first_async(loop, addresses, target.options.keepalive)
    tls = target.tls
    try:
        # The raw socket stays known to us: a fork or a dead loop leaves no other way to it.
        transport, protocol = await loop.create_connection(
            lambda: factory(sock),
            sock=sock,
            ssl=None if tls is None else tls.context,
            server_hostname=None if tls is None else tls.server_hostname,
        )
    except BaseException:
        sock.close()
        raise
    try:
        refuse_other_protocol(target, transport.get_extra_info("ssl_object"))
    except WireError:
        transport.abort()
        raise
    return protocol


async def _first_async(
    loop: asyncio.AbstractEventLoop, addresses: list[_Address], keepalive: TcpKeepalive | None
) -> socket.socket:
    failure: OSError | None = None
    for family, address in addresses:
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:  # a family this machine does not have
            failure = error
            continue
        try:
            sock.setblocking(False)
            set_options(sock, keepalive)
            await loop.sock_connect(sock, address)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure or OSError("the name has no address")


def open_sync(target: Target, limit: float, kind: TimeoutKind) -> socket.socket:
    """Connect, with TLS if the target asks, until ``limit`` (monotonic).

    Resolving is the system's getaddrinfo, which no time limit can interrupt.
    Raises WireError.
    """
    try:
        return _open_sync(target, limit)
    except TimeoutError as error:
        if time.monotonic() < limit - 0.005:
            raise connect_error(target, error) from error
        raise timeout_error(kind, False) from error
    except (OSError, ValueError) as error:
        raise connect_error(target, error) from error


def _open_sync(target: Target, limit: float) -> socket.socket:
    addresses = _literal(target)
    if addresses is None:
        found = socket.getaddrinfo(target.address, target.port, type=socket.SOCK_STREAM)
        addresses = [(family, address) for family, _, _, _, address in found]
    sock = _first_sync(addresses, target.options.keepalive, limit)
    tls = target.tls
    if tls is None:
        return sock
    try:
        sock.settimeout(_left(limit))
        secured = tls.context.wrap_socket(sock, server_hostname=tls.server_hostname)
    except BaseException:
        sock.close()
        raise
    try:
        refuse_other_protocol(target, secured)
    except WireError:
        secured.close()
        raise
    return secured


def _first_sync(
    addresses: list[_Address], keepalive: TcpKeepalive | None, limit: float
) -> socket.socket:
    failure: OSError | None = None
    for family, address in addresses:
        left = _left(limit)
        sock: socket.socket | None = None
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
            set_options(sock, keepalive)
            sock.settimeout(left)
            sock.connect(address)
        except BaseException as error:
            with suppress(AttributeError):
                sock.close()  # type: ignore[union-attr]  # None: there was no socket to close
            if not isinstance(error, OSError):
                raise
            failure = error
        else:
            return sock
    raise failure or OSError("the name has no address")


def _left(limit: float) -> float:
    left = limit - time.monotonic()
    if left <= 0:
        raise TimeoutError("connecting took too long")
    return left
