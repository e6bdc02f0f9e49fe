"""Connecting to the first address that answers, with blocking sockets.

The attempts of one call are made on the calling thread, with a selector and no thread of
their own. No TLS, no pools, no HTTP.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import time
from collections.abc import Sequence
from typing import Final

from meshclient.model.cluster import TcpKeepalive
from meshclient.transport.addresses import new_socket
from meshclient.transport.opening import LOOK_S, Opening
from meshclient.transport.race import MAX_RACING, Address, Failures, Race

_UNDER_WAY: Final = frozenset(
    {0, errno.EINPROGRESS, errno.EWOULDBLOCK, getattr(errno, "WSAEWOULDBLOCK", 0)}
)


def connect_first(
    addresses: Sequence[Address],
    keepalive: TcpKeepalive | None,
    limit: float,
    opening: Opening | None = None,
) -> socket.socket:
    """A connected socket; the attempts that lose are closed.

    ``limit`` is monotonic seconds. Raises TimeoutError at the limit, OSError when every address
    failed before, and either when ``opening`` is cancelled.
    """
    if len(addresses) == 1:
        return _only(addresses[0], keepalive, limit, opening)
    with selectors.DefaultSelector() as selector:
        racing: dict[socket.socket, Address] = {}
        winner: socket.socket | None = None
        try:
            winner = _race(addresses, keepalive, limit, selector, racing, opening)
            winner.settimeout(None)
        finally:
            for sock in racing:
                if sock is not winner:
                    sock.close()
        return winner


def _only(
    address: Address, keepalive: TcpKeepalive | None, limit: float, opening: Opening | None
) -> socket.socket:
    left = seconds_left(limit)
    sock = new_socket(address, keepalive)
    try:
        sock.settimeout(left)
        if opening is not None:
            opening.holds(sock)
        sock.connect(address[1])
    except BaseException:
        if opening is not None:
            opening.holds(None)
        sock.close()
        raise
    return sock


def _race(
    addresses: Sequence[Address],
    keepalive: TcpKeepalive | None,
    limit: float,
    selector: selectors.BaseSelector,
    racing: dict[socket.socket, Address],
    opening: Opening | None,
) -> socket.socket:
    failures = Failures()
    now = time.monotonic()
    race = Race(len(addresses), now, limit - now)
    while True:
        if race.due(now):
            address = addresses[race.start(now)]
            try:
                _start(address, keepalive, selector, racing)
            except OSError as error:  # refused at once, no route, a family this machine lacks
                failures.add(address, error)
                race.failed()
        elif not racing:
            raise failures.error()
        wait_s = min(race.wait_s(now), seconds_left(limit), LOOK_S)
        if opening is not None and opening.cancelled:
            raise OSError(errno.ECANCELED, "given up")
        for key, _ in selector.select(wait_s) if racing else ():
            sock: socket.socket = key.fileobj  # type: ignore[assignment]
            number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if not number:
                return sock
            failures.add(racing[sock], OSError(number, os.strerror(number)))
            race.failed()
            _drop(sock, selector, racing)
        now = time.monotonic()


def _start(
    address: Address,
    keepalive: TcpKeepalive | None,
    selector: selectors.BaseSelector,
    racing: dict[socket.socket, Address],
) -> None:
    if len(racing) >= MAX_RACING:
        _drop(next(iter(racing)), selector, racing)
    sock = new_socket(address, keepalive)
    racing[sock] = address
    sock.setblocking(False)
    number = sock.connect_ex(address[1])
    if number not in _UNDER_WAY:
        sock.close()
        del racing[sock]
        raise OSError(number, os.strerror(number))
    selector.register(sock, selectors.EVENT_WRITE)


def _drop(
    sock: socket.socket, selector: selectors.BaseSelector, racing: dict[socket.socket, Address]
) -> None:
    selector.unregister(sock)
    del racing[sock]
    sock.close()


def seconds_left(limit: float) -> float:
    """Until ``limit`` (monotonic). Raises TimeoutError when it has passed."""
    left = limit - time.monotonic()
    if left <= 0:
        raise TimeoutError("connecting took too long")
    return left
