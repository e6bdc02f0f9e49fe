"""Servers that misbehave over HTTP/2, with both engines: every call ends, and soon."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from engine_support import LOOPS, get, post, using
from servers.http2 import H2Server

from meshclient.model.outcome import ResetReason
from meshclient.transport import http2_frames as wire
from meshclient.transport.async_engine import AsyncEngine
from meshclient.transport.http2 import UNREAD
from meshclient.transport.interface import Target, WireError, WireRequest
from meshclient.transport.sync_engine import SyncEngine

HOWS = ["sync", *LOOPS]
hows = pytest.mark.parametrize("how", HOWS)
WIDE = 2**31 - 1
#: Of a frame: END_STREAM, END_HEADERS, stream 1.
REQUEST = b"\x05\0\0\0\1"


def failure(how: str, port: int, request: WireRequest) -> WireError:
    """How a call fails, which has 15 seconds for it."""
    found: list[WireError] = []
    target = Target("127.0.0.1", port, protocol="h2")

    def blocking() -> None:
        engine = SyncEngine()
        with pytest.raises(WireError) as caught:
            engine.send(target, request)
        found.append(caught.value)
        engine.close()

    async def test(engine: AsyncEngine) -> None:
        with pytest.raises(WireError) as caught:
            await engine.send(target, request)
        found.append(caught.value)

    if how == "sync":
        thread = threading.Thread(target=blocking, daemon=True)
        thread.start()
        thread.join(15)
    else:
        using(how, test, 15)
    assert found, "it hangs"
    return found[0]


@contextmanager
def scripted(script: Callable[[Any], None]) -> Iterator[tuple[int, list[int]]]:
    """The port, and one number for each connection, on which ``script`` runs."""
    listener = socket.create_server(("127.0.0.1", 0))
    seen: list[int] = []
    threads = []

    def one(sock: socket.socket) -> None:
        with sock, suppress(OSError):
            script(sock)

    def accept() -> None:
        with suppress(OSError):
            while True:
                sock, _ = listener.accept()
                seen.append(len(seen))
                threads.append(threading.Thread(target=one, args=(sock,), daemon=True))
                threads[-1].start()

    threads.append(threading.Thread(target=accept, daemon=True))
    threads[0].start()
    try:
        yield listener.getsockname()[1], seen
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in threads:
            thread.join(5)


def until_it_ends(sock: Any) -> None:
    while sock.recv(65_536):
        pass


@hows
def test_a_server_that_takes_no_streams_fails_the_call_at_its_first_connection(how: str) -> None:
    with H2Server(streams=0) as server:
        error = failure(how, server.port, get())
        assert (error.reason, error.sent) == (ResetReason.CONNECTION_FAILURE, False)
        assert len(server.peers) == 1


@hows
def test_a_server_that_leaves_as_it_greets_fails_the_call_at_its_first_connection(how: str) -> None:
    def script(sock: Any) -> None:
        sock.sendall(wire.settings({}) + wire.goaway(0))
        until_it_ends(sock)

    with scripted(script) as (port, seen):
        error = failure(how, port, get())
        assert (error.reason, error.sent) == (ResetReason.CONNECTION_FAILURE, False)
        assert len(seen) == 1


@hows
def test_answers_to_pings_do_not_pile_up_for_a_server_that_reads_nothing(how: str) -> None:
    """It takes an upload until the socket is full, and asks for signs of life from then on."""
    over = threading.Event()

    def script(sock: Any) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        sock.sendall(
            wire.settings({wire.INITIAL_WINDOW_SIZE: WIDE})
            + wire.window_update(0, WIDE - wire.INITIAL_WINDOW)
        )
        ping = wire.frame(wire.PING, 0, 0, bytes(8))
        for _ in range(100_000):
            sock.sendall(ping * 10)
            if over.wait(0.001):
                return

    with scripted(script) as (port, _):
        error = failure(how, port, post(bytes(60_000_000)))
        over.set()
    assert (error.reason, str(error)) == (ResetReason.PROTOCOL_ERROR, UNREAD)


@hows
@pytest.mark.parametrize("junk", [b"\0" * 9, b"HTTP/1.1 200 OK\r\n\r\n", b"\xff" * 64])
def test_junk_instead_of_an_answer(how: str, junk: bytes) -> None:
    def script(sock: Any) -> None:
        sock.sendall(wire.settings({}))
        heard = b""
        while REQUEST not in heard:
            heard += sock.recv(65_536)
        sock.sendall(junk)
        until_it_ends(sock)

    with scripted(script) as (port, _):
        error = failure(how, port, get())
    assert error.reason is ResetReason.PROTOCOL_ERROR
