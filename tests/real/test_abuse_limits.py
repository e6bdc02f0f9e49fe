"""Servers that never stop, never start, or trickle: every wait and every buffer has its bound."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
from abuse_support import CHUNKED, CUT, OK, REFUSED, SHELLS, Peer, answer, both, get, hostile, stay
from engine_support import LOOPS, RawServer, counts, soon, target, using

from meshclient.transport.async_engine import AsyncEngine
from meshclient.transport.http1 import MAX_HEADERS, MAX_INTERIM
from meshclient.transport.http1_request import encode_request
from meshclient.transport.interface import WireError

LINE = b"A: " + b"b" * 1000 + b"\r\n"

HEADS = {
    "100 KB of headers": (OK + LINE * 100 + b"Content-Length: 2\r\n\r\nhi", REFUSED),
    "one header of 100 KB": (
        OK + b"A: " + b"b" * 100_000 + b"\r\nContent-Length: 2\r\n\r\nhi",
        REFUSED,
    ),
    "79 KB of headers": (OK + LINE * 79 + b"Content-Length: 2\r\n\r\nhi", (200, b"hi")),
    "10,000 headers": (OK + b"A: b\r\n" * 10_000 + b"Content-Length: 2\r\n\r\nhi", REFUSED),
    "as many headers as allowed": (
        OK + b"A: b\r\n" * (MAX_HEADERS - 1) + b"Content-Length: 2\r\n\r\nhi",
        (200, b"hi"),
    ),
    "a reason of 100 KB": (b"HTTP/1.1 200 " + b"x" * 100_000 + b"\r\n\r\n", REFUSED),
    "as many interim answers as allowed": (
        b"HTTP/1.1 103 E\r\n\r\n" * MAX_INTERIM + answer(b"hi"),
        (200, b"hi"),
    ),
    "one interim answer too many": (
        b"HTTP/1.1 103 E\r\n\r\n" * (MAX_INTERIM + 1) + answer(b"hi"),
        REFUSED,
    ),
    # Nothing of these is kept, so they are counted by the read (256 KiB at most), not by the byte.
    "1 MB of trailers": (CHUNKED + b"2\r\nhi\r\n0\r\n" + LINE * 1000 + b"\r\n", REFUSED),
    "a chunk extension of 1 MB": (
        CHUNKED + b"2;" + b"x" * 1_000_000 + b"\r\nhi\r\n0\r\n\r\n",
        REFUSED,
    ),
}


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("name", HEADS)
def test_sizes(shell: str, name: str) -> None:
    payload, expected = HEADS[name]
    with hostile(payload) as server:
        first, second, found = both(shell, server)
    assert first == expected
    assert second[0] == 200
    assert found == (1, 0)


def endless(start: bytes, piece: bytes) -> RawServer:
    """Sends ``piece`` again and again until the client has had enough."""

    def more(peer: Peer) -> None:
        while True:
            peer.send(piece)

    return hostile(start, more)


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (OK, b"A: b\r\n"),
        (OK + b"A: ", b"b" * 1000),
        (b"", b"\r\n"),
        (CHUNKED + b"0\r\n", b"A: b\r\n"),
        (CHUNKED + b"2;", b"x" * 1000),
    ],
    ids=["interim", "headers", "value", "empty lines", "trailers", "extension"],
)
def test_what_never_ends_is_cut_off_by_its_size(shell: str, start: bytes, piece: bytes) -> None:
    """Without any time limit: the bound is on bytes."""
    with endless(start, piece) as server:
        first, second, _ = both(shell, server, get())
    assert first == REFUSED
    assert second == (200, b"fresh")


def trickle(data: bytes) -> Callable[[Peer], None]:
    """One byte every 20 ms."""

    def script(peer: Peer) -> None:
        for at in range(len(data)):
            peer.send(data[at : at + 1])
            time.sleep(0.02)

    return script


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("start", [b"", OK, OK + b"Content-Length: 500\r\n\r\n", CHUNKED])
def test_a_trickle_ends_at_the_deadline(shell: str, start: bytes) -> None:
    """Each byte resets a read timeout; nothing resets the deadline."""
    piece = b"A" * 100 if b"Content-Length" in start else b"1\r\nx\r\n" * 20
    script = trickle(piece if start.endswith(b"\r\n\r\n") else b"HTTP/1.1 200 OK\r\n" * 10)
    started = time.monotonic()
    with hostile(start, script) as server:
        first, second, _ = both(shell, server, get(deadline=soon(0.2), read_timeout_s=0.15))
        assert time.monotonic() - started < 2
    assert first in ("deadline", REFUSED)
    assert first == "deadline" or start in (b"", OK)
    assert second == (200, b"fresh")


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("limit", ["read", "response", "deadline"])
@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 2", b"HTTP/1.1 100 C\r\n\r\n"])
def test_silence_before_the_head(shell: str, limit: str, start: bytes) -> None:
    request = {
        "read": lambda: get(read_timeout_s=0.1),
        "response": lambda: get(response_timeout_s=0.1),
        "deadline": lambda: get(deadline=soon(0.1)),
    }[limit]()
    with hostile(start, stay) as server:
        first, second, found = both(shell, server, request)
    assert (first, second, found) == (limit, (200, b"fresh"), (1, 0))


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("limit", ["read", "deadline"])
@pytest.mark.parametrize("start", [OK + b"Content-Length: 5\r\n\r\nhel", CHUNKED + b"5\r\nhel"])
def test_silence_inside_the_body(shell: str, limit: str, start: bytes) -> None:
    request = get(read_timeout_s=0.1) if limit == "read" else get(deadline=soon(0.1))
    with hostile(start, stay) as server:
        first, second, found = both(shell, server, request)
    assert (first, second, found) == (limit, (200, b"fresh"), (1, 0))


@pytest.mark.parametrize("shell", SHELLS)
def test_a_huge_length_costs_nothing(shell: str) -> None:
    """Memory follows the bytes that come, not the ones that are announced."""
    payload = OK + b"Content-Length: 9223372036854775807\r\n\r\nhi"
    with hostile(payload, lambda _peer: None) as server:
        first, second, _ = both(shell, server)
    assert (first, second) == (CUT, (200, b"fresh"))


@pytest.mark.parametrize("shell", SHELLS)
def test_an_answer_before_the_first_request(shell: str) -> None:
    """It is the answer, or (seen before the request was written) an error; a server that
    is overloaded says so and closes."""

    def script(peer: Peer) -> None:
        if peer.number == 1:
            peer.send(answer(b"busy", 503, "Connection: close"))
            peer.read_head()
            return
        while peer.read_head():
            peer.send(answer(b"fresh"))

    with RawServer(script) as server:
        first, second, found = both(shell, server)
    assert first in ((503, b"busy"), CUT)
    assert (second, found) == ((200, b"fresh"), (1, 0))


@pytest.mark.parametrize("kind", LOOPS)
def test_a_connection_that_ended_before_its_first_request(kind: str) -> None:
    """Whoever holds it gets an error at once, and the pool forgets it."""

    async def test(engine: AsyncEngine) -> None:
        await engine.send(target(server), get())
        (shard,) = engine._shards.values()
        pool = shard.pools[target(server)]
        fresh = await shard.connect(pool, target(server), get())
        fresh.data_received(b"HTTP/1.1 408 T\r\n\r\n")
        pool.connections.add(fresh)
        await asyncio.sleep(0.01)
        with pytest.raises(WireError) as caught:
            await fresh.exchange(get(), encode_request(get()))
        assert not caught.value.sent
        assert fresh not in pool.connections
        assert counts(engine.stats()) == (1, 0)

    with hostile(answer()) as server:
        using(kind, test)
