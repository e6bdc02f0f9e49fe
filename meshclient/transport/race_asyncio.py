"""Connecting to the first address that answers, on an asyncio loop.

One task per attempt, and none where there is only one address. No TLS, no pools, no HTTP;
the time limit of the whole is the caller's.
"""

from __future__ import annotations

import asyncio
import math
import socket
import time
from collections.abc import Sequence

from meshclient.model.cluster import TcpKeepalive
from meshclient.transport.addresses import new_socket
from meshclient.transport.race import MAX_RACING, Address, Failures, Race

_Attempt = asyncio.Task[socket.socket]


async def connect_first(
    addresses: Sequence[Address], keepalive: TcpKeepalive | None, limit: float
) -> socket.socket:
    """A connected non-blocking socket; the attempts that lose are closed.

    ``limit`` (monotonic seconds) sets the pace only. Raises OSError when every
    address failed. Cancelled at any point, it leaves no socket behind.
    """
    if len(addresses) == 1:
        return await _attempt(addresses[0], keepalive)
    racing: dict[_Attempt, Address] = {}
    try:
        return await _race(addresses, keepalive, limit, racing)
    finally:
        for attempt in racing:
            _drop(attempt)


async def _race(
    addresses: Sequence[Address],
    keepalive: TcpKeepalive | None,
    limit: float,
    racing: dict[_Attempt, Address],
) -> socket.socket:
    loop = asyncio.get_running_loop()
    failures = Failures()
    now = time.monotonic()
    race = Race(len(addresses), now, limit - now)
    while True:
        if race.due(now):
            address = addresses[race.start(now)]
            if len(racing) >= MAX_RACING:
                _drop(oldest := next(iter(racing)))
                del racing[oldest]
            racing[loop.create_task(_attempt(address, keepalive))] = address
        elif not racing:
            raise failures.error()
        wait_s = race.wait_s(now)
        done, _ = await asyncio.wait(
            racing,
            timeout=None if wait_s == math.inf else wait_s,
            return_when=asyncio.FIRST_COMPLETED,
        )
        for attempt in [attempt for attempt in racing if attempt in done]:
            address = racing[attempt]
            error = attempt.exception()
            if error is None:
                del racing[attempt]
                return attempt.result()
            del racing[attempt]
            if not isinstance(error, OSError):
                raise error
            failures.add(address, error)
            race.failed()
        now = time.monotonic()


async def _attempt(address: Address, keepalive: TcpKeepalive | None) -> socket.socket:
    sock = new_socket(address, keepalive)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, address[1])
    except BaseException:
        sock.close()
        raise
    return sock


def _drop(attempt: _Attempt) -> None:
    """End an attempt nobody waits for; it closes its socket, and we the one it hands out."""
    attempt.cancel()
    attempt.add_done_callback(_close_result)


def _close_result(attempt: _Attempt) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()
