"""Opening connections: addresses, connect, PROXY header and TLS within one time limit.

One function per shell: resolve, race the addresses, PROXY header, TLS, in this order.
No pools, no HTTP.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any, TypeVar

from meshclient.model.outcome import ResetReason
from meshclient.transport import proxy_protocol, race_asyncio, race_sockets
from meshclient.transport.addresses import known_addresses, resolved
from meshclient.transport.interface import (
    Target,
    TimeoutKind,
    WireError,
    WireRequest,
    closed_error,
    timeout_error,
)
from meshclient.transport.opening import LoopOpenings, Opening
from meshclient.transport.tls_context import RotatingContext
from meshclient.transport.tls_policy import HTTP1_PROTOCOLS, HTTP2_PROTOCOLS
from meshclient.transport.tunnel import first_hop, tunnel_async, tunnel_sync

P = TypeVar("P", bound=asyncio.Protocol)


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


def _preface(target: Target, sock: socket.socket) -> bytes:
    """What the connection begins with, before TLS."""
    version = target.options.proxy_protocol
    if not version:
        return b""
    return proxy_protocol.header(version, sock.getsockname(), sock.getpeername())


def context_at(target: Target) -> Any:
    """The TLS context; the policy's own resumes sessions, per endpoint."""
    tls = target.tls
    if tls is None:
        return None
    context = tls.context
    if isinstance(context, RotatingContext):
        return context.at((target.address, target.port))
    return context


def refuse_other_protocol(target: Target, tls: Any) -> None:
    """A context of the caller's may have offered more than what is meant to be spoken."""
    protocol = tls.selected_alpn_protocol() if tls is not None else None
    wanted = target.protocol
    is_http2 = protocol in HTTP2_PROTOCOLS
    # "istio" is the outer protocol of a mesh workload, whatever is spoken inside.
    may_be_http2 = is_http2 or protocol in (None, "istio")
    may_be_http1 = protocol in HTTP1_PROTOCOLS or (wanted == "auto" and is_http2)
    if not (may_be_http2 if wanted == "h2" else may_be_http1):
        message = f"{target} chose {protocol!r} by ALPN, which is not {wanted}"
        raise WireError(ResetReason.CONNECTION_FAILURE, False, message)


async def open_async(
    target: Target,
    factory: Callable[[socket.socket], P],
    limit: float,
    kind: TimeoutKind,
    openings: LoopOpenings | None = None,
) -> P:
    """Connect, with TLS if the target asks, until ``limit`` (monotonic).

    ``factory`` makes the protocol object for the raw socket. Raises WireError;
    cancelled at any point, it leaves no socket behind. Closing ``openings`` ends it.
    """
    # 3.11's asyncio.timeout tells our limit from a cancellation by somebody else.
    scope = asyncio.timeout(max(0.0, limit - time.monotonic()))
    try:
        async with scope:
            if openings is not None:
                openings.add(scope)
            return await _open_async(target, factory, limit)
    except TimeoutError as error:
        if openings is not None and openings.closed:
            raise closed_error(False) from error
        if time.monotonic() < limit - 0.005:  # ETIMEDOUT of the kernel is a TimeoutError, too
            raise connect_error(target, error) from error
        raise timeout_error(kind, False) from error
    except (OSError, ValueError) as error:  # ValueError: UnicodeError of a bad host name
        raise connect_error(target, error) from error
    finally:
        if openings is not None:
            openings.discard(scope)


async def _open_async(target: Target, factory: Callable[[socket.socket], P], limit: float) -> P:
    loop = asyncio.get_running_loop()
    hop = target if target.proxy is None else first_hop(target)
    addresses = known_addresses(hop)
    if addresses is None:
        addresses = resolved(await loop.getaddrinfo(hop.address, hop.port, type=socket.SOCK_STREAM))
    sock = await race_asyncio.connect_first(addresses, target.options.keepalive, limit)
    tls = target.tls
    try:
        if target.proxy is not None:
            await tunnel_async(loop, sock, target.proxy, target.address, target.port)
        preface = _preface(target, sock)
        if preface:
            await loop.sock_sendall(sock, preface)
        # The raw socket stays known to us: a fork or a dead loop leaves no other way to it.
        transport, protocol = await loop.create_connection(
            lambda: factory(sock),
            sock=sock,
            ssl=context_at(target),
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


def open_sync(
    target: Target, limit: float, kind: TimeoutKind, opening: Opening | None = None
) -> socket.socket:
    """Connect, with TLS if the target asks, until ``limit`` (monotonic).

    Resolving is the system's getaddrinfo, which no time limit can interrupt, nor
    cancelling ``opening``, which ends everything else. Raises WireError.
    """
    opening = opening or Opening()
    try:
        return _open_sync(target, limit, opening)
    except (OSError, ValueError) as error:
        if opening.cancelled:
            raise closed_error(False) from error
        if isinstance(error, TimeoutError) and time.monotonic() >= limit - 0.005:
            raise timeout_error(kind, False) from error
        raise connect_error(target, error) from error


def _open_sync(target: Target, limit: float, opening: Opening) -> socket.socket:
    hop = target if target.proxy is None else first_hop(target)
    addresses = known_addresses(hop)
    if addresses is None:
        addresses = resolved(socket.getaddrinfo(hop.address, hop.port, type=socket.SOCK_STREAM))
    sock = race_sockets.connect_first(addresses, target.options.keepalive, limit, opening)
    tls = target.tls
    try:
        opening.holds(sock)
        if target.proxy is not None:
            tunnel_sync(sock, target.proxy, target.address, target.port, limit)
        preface = _preface(target, sock)
        if preface or tls is not None:
            sock.settimeout(race_sockets.seconds_left(limit))
        if preface:
            sock.sendall(preface)
        if tls is None:
            return sock
        # From here on ``sock`` is an empty shell: its descriptor has moved.
        secured: ssl.SSLSocket = context_at(target).wrap_socket(
            sock, server_hostname=tls.server_hostname, do_handshake_on_connect=False
        )
        sock = secured
        opening.holds(sock)
        secured.do_handshake()
        refuse_other_protocol(target, sock)
    except BaseException:
        opening.holds(None)
        sock.close()
        raise
    return sock
