"""Shared by the abuse tests: one hostile answer, then an honest request on the same engine."""

from __future__ import annotations

import socket
from typing import Any

from engine_support import (
    LOOPS,
    Peer,
    RawServer,
    answer,
    counts,
    get,
    target,
    using,
)

from meshclient.model.outcome import ResetReason
from meshclient.transport.async_engine import AsyncEngine
from meshclient.transport.interface import WireError, WireRequest
from meshclient.transport.sync_engine import SyncEngine

SHELLS = ["sync", *LOOPS]
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
#: Outcomes: an error's reason, or (status, body).
REFUSED = ResetReason.PROTOCOL_ERROR
CUT = ResetReason.CONNECTION_TERMINATION

Outcome = Any


def hostile(payload: bytes, then: Any = None) -> RawServer:
    """Connection 1 answers with ``payload`` (then honestly, "same"); all others "fresh"."""

    def script(peer: Peer) -> None:
        peer.read_head()
        if peer.number == 1:
            peer.send(payload)
            if then is not None:
                then(peer)
                return
        else:
            peer.send(answer(b"fresh"))
        while peer.read_head():
            peer.send(answer(b"same" if peer.number == 1 else b"fresh"))

    return RawServer(script)


def both(
    shell: str, server: RawServer, first: WireRequest | None = None
) -> tuple[Outcome, Outcome, tuple[int, int]]:
    """Outcome of the hostile and of the honest exchange, and (idle, active) at the end."""
    requests = (first or get(read_timeout_s=5.0), get(b"/honest", read_timeout_s=5.0))
    if shell == "sync":
        engine = SyncEngine()
        try:
            outcomes = [_sync(engine, server, request) for request in requests]
            return outcomes[0], outcomes[1], counts(engine.stats())
        finally:
            engine.close()
    found: list[Any] = []

    async def run(engine: AsyncEngine) -> None:
        found.extend([await _async(engine, server, request) for request in requests])
        found.append(counts(engine.stats()))

    using(shell, run)
    return found[0], found[1], found[2]


def _sync(engine: SyncEngine, server: RawServer, request: WireRequest) -> Outcome:
    try:
        response = engine.send(target(server), request)
        return response.status, b"".join(response)
    except WireError as error:
        return error.timeout or error.reason


async def _async(engine: AsyncEngine, server: RawServer, request: WireRequest) -> Outcome:
    try:
        response = await engine.send(target(server), request)
        return response.status, b"".join([piece async for piece in response])
    except WireError as error:
        return error.timeout or error.reason


def hang_up(_peer: Peer) -> None:
    """Nothing more: the connection closes."""


def half_close(peer: Peer) -> None:
    """End our direction only; the client has to close the other."""
    peer.sock.shutdown(socket.SHUT_WR)
    peer.wait_closed()


def stay(peer: Peer) -> None:
    """Say nothing more until the client leaves."""
    peer.wait_closed()


__all__ = [
    "CHUNKED",
    "CUT",
    "OK",
    "REFUSED",
    "SHELLS",
    "Outcome",
    "Peer",
    "RawServer",
    "answer",
    "both",
    "get",
    "half_close",
    "hang_up",
    "hostile",
    "stay",
]
