"""The asyncio engine against real sockets, on asyncio and uvloop: requests, bodies, reuse."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from engine_support import (
    LOOPS,
    HttpServer,
    Peer,
    RawServer,
    Recorded,
    Reply,
    answer,
    counts,
    eventually,
    get,
    post,
    read,
    serve_raw,
    soon,
    target,
    total,
    using,
)

from meshclient.model.outcome import ResetReason
from meshclient.transport.async_engine import AsyncEngine
from meshclient.transport.interface import InvalidRequest, Target, WireError, WireRequest

loops = pytest.mark.parametrize("kind", LOOPS)
MIB = 1 << 20


def echo(request: Recorded) -> Reply:
    return Reply(200, request.body, [("X-Connection", str(request.connection))])


@loops
def test_a_whole_response_comes_with_the_head_and_the_connection_is_free(kind: str) -> None:
    with HttpServer() as server:

        async def test(engine: AsyncEngine) -> None:
            for number in range(3):
                response = await engine.send(target(server), get(b"/%d" % number))
                assert (response.status, response.content) == (200, b"ok")
                assert counts(engine.stats()) == (1, 0)
                assert response.get_extra_info("server_addr") == ("127.0.0.1", server.port)
            assert repr(total(engine.stats())) == "<PoolStats idle=1 active=0 opened=1 reused=2>"

        using(kind, test)
        assert [r.target for r in server.requests] == ["/0", "/1", "/2"]
        assert server.requests[0].headers == [("Host", "test")]


@loops
def test_a_whole_response_can_be_iterated_and_tells_its_end_once(kind: str) -> None:
    with HttpServer() as server:

        async def test(engine: AsyncEngine) -> None:
            response = await engine.send(target(server), get())
            ends: list[int] = []
            response.on_close = lambda: ends.append(1)
            assert await read(response) == b"ok"
            await response.aclose()
            assert ends == [1]

        using(kind, test)


@loops
@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 3 * MIB])
def test_bodies_of_every_size_come_back(kind: str, size: int) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    body = body[:size]
    with HttpServer(echo) as server:

        async def test(engine: AsyncEngine) -> None:
            for framing in ((b"Content-Length", b"%d" % size), (b"X-None", b"")):
                response = await engine.send(target(server), post(body, framing))
                assert await read(response) == body
            await eventually(lambda: counts(engine.stats()) == (1, 0))

        using(kind, test)
        assert [r.body == body for r in server.requests] == [True, True]
        assert server.accepted == 1, "both went over one connection"


@loops
@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("sized", [False, True])
def test_uploads_from_iterables(kind: str, asynchronous: bool, sized: bool) -> None:
    pieces = [b"a", b"", b"b" * 100_000, b"c"]

    async def source() -> AsyncIterator[bytes]:
        for piece in pieces:
            await asyncio.sleep(0)
            yield piece

    with HttpServer(echo) as server:

        async def test(engine: AsyncEngine) -> None:
            body = source() if asynchronous else iter(pieces)
            headers = [(b"Content-Length", b"100002")] if sized else []
            response = await engine.send(target(server), post(body, *headers))
            assert await read(response) == b"".join(pieces)

        using(kind, test)


@loops
def test_an_upload_waits_for_a_slow_server(kind: str) -> None:
    """Back-pressure: the source is asked for little more than the buffers hold."""
    go = threading.Event()
    asked = 0

    async def source() -> AsyncIterator[bytes]:
        nonlocal asked
        for _ in range(400):
            asked += 1
            yield bytes(MIB // 8)

    def script(peer: Peer) -> None:
        peer.read_head()
        go.wait(10)
        peer.read(400 * MIB // 8)
        peer.send(answer())

    with RawServer(script) as server:

        async def test(engine: AsyncEngine) -> None:
            length = (b"Content-Length", b"%d" % (400 * MIB // 8))
            call = asyncio.create_task(engine.send(target(server), post(source(), length)))
            await asyncio.sleep(0.3)
            held = asked
            go.set()
            assert (await call).content == b"ok"
            assert held < 200
            assert asked == 400

        using(kind, test)


@loops
def test_a_download_waits_for_a_slow_reader(kind: str) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(500):
            sent += 1
            yield bytes(MIB // 8)

    with HttpServer(lambda _: Reply(200, endless())) as server:

        async def test(engine: AsyncEngine) -> None:
            response = await engine.send(target(server), get(read_timeout_s=5))
            assert response.content is None
            await asyncio.sleep(0.3)
            assert sent < 250
            assert len(await read(response)) == 500 * MIB // 8
            assert counts(engine.stats()) == (1, 0)

        using(kind, test)


@loops
@pytest.mark.parametrize("status", [413, 200])
def test_an_early_whole_answer_stops_the_upload(kind: str, status: int) -> None:
    closed: list[str] = []

    async def source() -> AsyncIterator[bytes]:
        try:
            yield b"first"
            await asyncio.Event().wait()
        finally:
            closed.append("source")

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(answer(b"enough", status))
        peer.wait_closed()

    with RawServer(script) as server:

        async def test(engine: AsyncEngine) -> None:
            response = await engine.send(target(server), post(source()))
            assert (response.status, await read(response)) == (status, b"enough")
            assert closed == ["source"]
            assert counts(engine.stats()) == (0, 0), "the connection has half a request in it"

        using(kind, test)


@loops
def test_a_refusal_whose_body_still_comes_stops_the_upload(kind: str) -> None:
    async def source() -> AsyncIterator[bytes]:
        yield b"first"
        await asyncio.Event().wait()

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(answer(b"no", 403)[:-2])
        head_seen.wait(5)
        peer.send(b"no")
        peer.wait_closed()

    head_seen = threading.Event()
    with RawServer(script) as server:

        async def test(engine: AsyncEngine) -> None:
            response = await engine.send(target(server), post(source()))
            assert (response.status, response.content) == (403, None)
            head_seen.set()
            assert await read(response) == b"no"
            assert counts(engine.stats()) == (0, 0)

        using(kind, test)


@loops
def test_an_echo_may_answer_while_it_reads(kind: str) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n")
        for _ in range(3):
            peer.send(peer.read(100_000))
        peer.read_head()

    async def source() -> AsyncIterator[bytes]:
        for letter in (b"a", b"b", b"c"):
            await asyncio.sleep(0.01)
            yield letter * 100_000

    with RawServer(script) as server:

        async def test(engine: AsyncEngine) -> None:
            request = post(source(), (b"Content-Length", b"300000"))
            response = await engine.send(target(server), request)
            assert await read(response) == b"a" * 100_000 + b"b" * 100_000 + b"c" * 100_000
            assert counts(engine.stats()) == (1, 0), "nothing was cut: the connection is good"

        using(kind, test)


@loops
def test_errors_of_the_source_reach_the_caller(kind: str) -> None:
    async def source() -> AsyncIterator[bytes]:
        yield b"x"
        raise LookupError("mine")

    with HttpServer() as server:

        async def test(engine: AsyncEngine) -> None:
            with pytest.raises(LookupError, match="mine"):
                await engine.send(target(server), post(source()))
            with pytest.raises(InvalidRequest, match="shorter"):
                await engine.send(target(server), post(iter([b"x"]), (b"Content-Length", b"2")))
            assert counts(engine.stats()) == (0, 0)

        using(kind, test)
        assert server.requests == []


@loops
def test_a_body_until_close(kind: str) -> None:
    with serve_raw(b"HTTP/1.1 200 OK\r\n\r\nall of it", lambda peer: peer.sock.close()) as server:

        async def test(engine: AsyncEngine) -> None:
            response = await engine.send(target(server), get())
            assert await read(response) == b"all of it"
            assert counts(engine.stats()) == (0, 0)

        using(kind, test)


@loops
@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"SSH-2.0-x\r\n", ResetReason.PROTOCOL_ERROR),
        (b"", ResetReason.CONNECTION_TERMINATION),
        (b"HTTP/1.1 200 OK\r\nContent-Le", ResetReason.CONNECTION_TERMINATION),
    ],
)
def test_no_response(kind: str, raw: bytes, reason: ResetReason) -> None:
    with serve_raw(raw, lambda peer: peer.sock.close()) as server:

        async def test(engine: AsyncEngine) -> None:
            with pytest.raises(WireError) as caught:
                await engine.send(target(server), get())
            assert (caught.value.reason, caught.value.sent) == (reason, True)
            assert not caught.value.reused
            assert counts(engine.stats()) == (0, 0)

        using(kind, test)


@loops
@pytest.mark.parametrize("how", ["truncate", "reset"])
def test_a_body_that_breaks_off(kind: str, how: str) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        got_head.wait(5)
        if how == "reset":
            peer.reset()

    got_head = threading.Event()
    with RawServer(script) as server:

        async def test(engine: AsyncEngine) -> None:
            response = await engine.send(target(server), get())
            ends: list[int] = []
            response.on_close = lambda: ends.append(1)
            got_head.set()
            with pytest.raises(WireError) as caught:
                await read(response)
            assert caught.value.reason is ResetReason.CONNECTION_TERMINATION
            await response.aclose()
            assert ends == [1]
            assert counts(engine.stats()) == (0, 0)

        using(kind, test)


@loops
def test_connection_refused(kind: str) -> None:
    with RawServer(lambda peer: None) as server:
        gone = target(server)

    async def test(engine: AsyncEngine) -> None:
        with pytest.raises(WireError) as caught:
            await engine.send(gone, get())
        assert caught.value.reason is ResetReason.CONNECTION_FAILURE
        assert not caught.value.sent
        assert isinstance(caught.value.__cause__, ConnectionRefusedError)
        assert counts(engine.stats()) == (0, 0)

    using(kind, test)


@loops
def test_an_invalid_request_never_touches_a_connection(kind: str) -> None:
    with HttpServer() as server:

        async def test(engine: AsyncEngine) -> None:
            with pytest.raises(InvalidRequest):
                await engine.send(target(server), WireRequest(b"GET", b"/ x", []))
            with pytest.raises(WireError) as caught:
                await engine.send(target(server), get(deadline=soon(-1)))
            assert (caught.value.timeout, caught.value.sent) == ("deadline", False)

        using(kind, test)
        assert server.accepted == 0


@loops
def test_a_connection_that_the_server_closed_while_idle_is_not_used(kind: str) -> None:
    with HttpServer() as server:

        async def test(engine: AsyncEngine) -> None:
            await engine.send(target(server), get())
            server.drop_connections()
            await eventually(lambda: counts(engine.stats()) == (0, 0))
            assert (await engine.send(target(server), get())).content == b"ok"

        using(kind, test)
        assert server.accepted == 2


@loops
def test_a_close_in_the_moment_of_reuse_is_told_apart(kind: str) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(answer())
        peer.read_head()  # and leave without a word

    with RawServer(script) as server:

        async def test(engine: AsyncEngine) -> None:
            await engine.send(target(server), get())
            with pytest.raises(WireError) as caught:
                await engine.send(target(server), get())
            assert caught.value.reason is ResetReason.CONNECTION_TERMINATION
            assert (caught.value.sent, caught.value.reused) == (True, True)

        using(kind, test)


def test_a_write_that_fails_at_once_moves_to_another_connection() -> None:
    """Not a byte was accepted, so it is no retry. (uvloop writes later, and cannot tell.)"""

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(answer())
        if peer.number == 1:
            peer.reset()
            was_reset.set()

    was_reset = threading.Event()
    with RawServer(script) as server:

        async def test(engine: AsyncEngine) -> None:
            await engine.send(target(server), get())
            assert was_reset.wait(5), "the loop is blocked, so it does not hear of the reset"
            time.sleep(0.02)  # noqa: ASYNC251  the loop has to be blocked
            assert counts(engine.stats()) == (1, 0)
            assert (await engine.send(target(server), get())).content == b"ok"

        using("asyncio", test)
        assert len(server.heads) == 2


@loops
@pytest.mark.parametrize("when", ["with the response", "while idle"])
def test_bytes_nobody_asked_for_are_never_an_answer(kind: str, when: str) -> None:
    poison = answer(b"poison")

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(answer() + (poison if when == "with the response" else b""))
        if when == "while idle":
            first_done.wait(5)
            peer.send(poison)
        peer.wait_closed()

    first_done = threading.Event()
    with RawServer(script) as server:

        async def test(engine: AsyncEngine) -> None:
            assert (await engine.send(target(server), get())).content == b"ok"
            first_done.set()
            await eventually(lambda: counts(engine.stats()) == (0, 0))
            server.script = lambda peer: (peer.read_head(), peer.send(answer(b"good")))
            assert (await engine.send(target(server), get())).content == b"good"

        using(kind, test)
        assert server.accepted == 2


@loops
def test_connection_close_max_requests_and_head(kind: str) -> None:
    with HttpServer(lambda _: Reply(200, b"ok", close=closing)) as server:

        async def test(engine: AsyncEngine) -> None:
            nonlocal closing
            two = target(server, max_requests=2)
            for _ in range(4):
                await engine.send(two, get())
            assert server.accepted == 2
            closing = True
            await engine.send(target(server), get())
            assert counts(engine.stats()) == (0, 0)
            closing = False
            head = WireRequest(b"HEAD", b"/", [(b"Host", b"test")])
            for _ in range(2):
                assert (await engine.send(target(server), head)).content == b""
            assert server.accepted == 4

        closing = False
        using(kind, test)


@loops
def test_idle_and_old_connections_end_by_themselves(kind: str) -> None:
    with HttpServer() as server:

        async def test(engine: AsyncEngine) -> None:
            await engine.send(target(server, idle_timeout_s=0.05), get())
            await engine.send(target(server, max_duration_s=0.05), get())
            assert counts(engine.stats()) == (2, 0)
            await asyncio.sleep(0.1)
            assert (await engine.send(target(server, max_duration_s=0.05), get())).status == 200
            await eventually(lambda: counts(engine.stats()) == (1, 0))
            assert server.accepted == 3

        using(kind, test)


@loops
def test_unix_sockets(kind: str, tmp_path: object) -> None:
    path = f"{tmp_path}/s"
    with HttpServer(unix_path=path):

        async def test(engine: AsyncEngine) -> None:
            response = await engine.send(Target(f"unix://{path}", 0), get())
            assert response.content == b"ok"

        using(kind, test)


@loops
def test_host_names_are_resolved(kind: str) -> None:
    with HttpServer() as server:

        async def test(engine: AsyncEngine) -> None:
            response = await engine.send(Target("localhost", server.port), get())
            assert response.content == b"ok"
            with pytest.raises(WireError) as caught:
                await engine.send(Target("no\udcff such", 80), get())
            assert caught.value.reason is ResetReason.CONNECTION_FAILURE

        using(kind, test)


@loops
def test_a_thousand_tasks(kind: str) -> None:
    with HttpServer(echo) as server:

        async def test(engine: AsyncEngine) -> None:
            async def one(number: int) -> bool:
                body = b"%d" % number
                response = await engine.send(target(server), post(body, read_timeout_s=15))
                return await read(response) == body

            assert all(await asyncio.gather(*(one(n) for n in range(1000))))
            idle, active = counts(engine.stats())
            assert active == 0
            assert 0 < idle <= 256

        using(kind, test)
        assert len(server.requests) == 1000
