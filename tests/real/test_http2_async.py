"""HTTP/2 over asyncio and uvloop against a scripted server: sharing, endings, limits, windows."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator

import pytest
from engine_support import LOOPS, counts, eventually, get, no_tasks_left, post, read, total, using
from h2.errors import ErrorCodes
from servers.http import Peer, RawServer
from servers.http2 import H2Server, Request

from meshclient.model.cluster import ConnectionOptions, Limits
from meshclient.model.outcome import ResetReason
from meshclient.transport.async_engine import AsyncEngine
from meshclient.transport.interface import InvalidRequest, Target, WireError
from meshclient.transport.slots import slots_for

loops = pytest.mark.parametrize("kind", LOOPS)
MIB = 1 << 20


def http2(port: int, limits: Limits | None = None, **options: object) -> Target:
    return Target(
        "127.0.0.1",
        port,
        None,
        ConnectionOptions(**options),  # type: ignore[arg-type]
        protocol="h2",
        connections=None if limits is None else slots_for(limits),
    )


def echo(request: Request) -> None:
    request.peer.respond(request, 200, request.body, [("x-peer", str(request.peer.number))])


def silent(request: Request) -> None:
    """Never an answer."""


@loops
@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 3 * MIB])
def test_bodies_of_every_size_come_back(kind: str, size: int) -> None:
    body = (bytes(range(256)) * (size // 256 + 1))[:size]
    with H2Server(echo) as server:

        async def test(engine: AsyncEngine) -> None:
            response = await engine.send(http2(server.port), post(body))
            assert response.http_version == b"HTTP/2"
            assert (response.status, await read(response)) == (200, body)
            assert counts(engine.stats()) == (1, 0)

        using(kind, test)
        assert not server.peers[0].resets


@loops
@pytest.mark.parametrize("length", [True, False])
def test_streamed_uploads(kind: str, length: bool) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(40):
            yield b"%d" % (number % 10) * 9_000

    with H2Server(echo) as server:

        async def test(engine: AsyncEngine) -> None:
            headers = [(b"Content-Length", b"360000")] if length else []
            response = await engine.send(http2(server.port), post(pieces(), *headers))
            assert len(await read(response)) == 360_000
            await no_tasks_left()

        using(kind, test)
        assert ("transfer-encoding", "chunked") not in server.requests[0].headers


@loops
def test_a_body_that_breaks_its_content_length_cancels_its_stream_only(kind: str) -> None:
    with H2Server(echo) as server:

        async def test(engine: AsyncEngine) -> None:
            target = http2(server.port)
            for body in ([b"abc", b"def"], [b"a"]):
                with pytest.raises(InvalidRequest):
                    await engine.send(target, post(iter(body), (b"Content-Length", b"4")))
            assert (await engine.send(target, get())).status == 200
            assert total(engine.stats()).opened == 1

        using(kind, test)
        assert [code for _, code in server.peers[0].resets] == [ErrorCodes.CANCEL] * 2


@loops
def test_many_calls_share_few_connections(kind: str) -> None:
    with H2Server(echo, streams=100) as server:

        async def test(engine: AsyncEngine) -> None:
            async def one(number: int) -> None:
                body = b"%d" % number * 100
                response = await engine.send(http2(server.port), post(body))
                assert await read(response) == body

            await asyncio.gather(*[one(number) for number in range(200)])
            assert counts(engine.stats()) == (total(engine.stats()).opened, 0)
            await no_tasks_left()

        using(kind, test)
        assert len(server.requests) == 200
        assert len(server.peers) <= 2


@loops
@pytest.mark.parametrize("streams", [1, 3])
def test_the_policys_own_limit_of_streams_opens_more_connections(kind: str, streams: int) -> None:
    def slow(request: Request) -> None:
        threading.Timer(0.05, request.peer.respond, (request,)).start()

    with H2Server(slow, streams=100) as server:

        async def test(engine: AsyncEngine) -> None:
            target = http2(server.port, max_concurrent_streams=streams)
            await asyncio.gather(*[engine.send(target, get()) for _ in range(12)])
            assert counts(engine.stats())[1] == 0

        using(kind, test)
        assert max(peer.peak for peer in server.peers) <= streams
        assert len(server.peers) >= 2
        assert len(server.requests) == 12


@loops
@pytest.mark.parametrize("streams", [1, 2])
def test_more_connections_are_opened_when_they_are_full(kind: str, streams: int) -> None:
    def slow(request: Request) -> None:
        threading.Timer(0.02, request.peer.respond, (request,)).start()

    with H2Server(slow, streams=streams) as server:

        async def test(engine: AsyncEngine) -> None:
            target = http2(server.port)
            await asyncio.gather(*[engine.send(target, get()) for _ in range(12)])
            assert counts(engine.stats())[1] == 0

        using(kind, test)
        assert max(peer.peak for peer in server.peers) <= streams
        assert len(server.peers) <= 12
        assert len(server.requests) == 12


@loops
def test_limited_connections_queue_for_streams(kind: str) -> None:
    with H2Server(echo, streams=2) as server:

        async def test(engine: AsyncEngine) -> None:
            limits = Limits(max_connections=1, max_pending_requests=50)
            target = http2(server.port, limits)
            bodies = await asyncio.gather(*[engine.send(target, post(b"x")) for _ in range(30)])
            assert {response.status for response in bodies} == {200}
            slots = target.connections
            assert slots is not None
            assert (slots.open, slots.pending, slots.waiting) == (1, 0, 0)

        using(kind, test)
        assert len(server.peers) == 1
        assert server.peers[0].peak <= 2


@loops
def test_too_many_pending_overflow(kind: str) -> None:
    with H2Server(silent, streams=1) as server:

        async def test(engine: AsyncEngine) -> None:
            target = http2(server.port, Limits(max_connections=1, max_pending_requests=1))
            busy = asyncio.create_task(engine.send(target, get()))
            await eventually(lambda: len(server.requests) == 1)
            waiting = asyncio.create_task(engine.send(target, get()))
            await asyncio.sleep(0)
            with pytest.raises(WireError) as caught:
                await engine.send(target, get())
            assert caught.value.reason is ResetReason.OVERFLOW
            busy.cancel()  # its stream is the next one's
            await eventually(lambda: len(server.requests) == 2)
            waiting.cancel()
            await asyncio.gather(busy, waiting, return_exceptions=True)
            assert counts(engine.stats()) == (1, 0)

        using(kind, test)


@loops
def test_goaway_in_the_middle_finishes_old_streams_and_opens_a_new_connection(kind: str) -> None:
    held: list[Request] = []

    def script(request: Request) -> None:
        if request.path == "/hold":
            held.append(request)
        else:
            request.peer.respond(request, body=b"%d" % request.peer.number)

    with H2Server(script) as server:

        async def test(engine: AsyncEngine) -> None:
            target = http2(server.port)
            old = asyncio.create_task(engine.send(target, get(b"/hold")))
            await eventually(lambda: bool(held))
            lost = asyncio.create_task(engine.send(target, get(b"/hold")))
            await eventually(lambda: len(held) == 2)
            held[0].peer.goaway(held[0].stream_id)
            await eventually(lambda: len(held) == 3)  # moved: nobody had looked at it
            assert held[2].peer is server.peers[1]
            held[2].peer.goaway(0)
            with pytest.raises(WireError) as caught:
                await lost
            assert (caught.value.reason, caught.value.sent) == (ResetReason.REFUSED_STREAM, False)
            assert await read(await engine.send(target, get())) == b"2"
            held[0].peer.respond(held[0], body=b"late")
            assert await read(await old) == b"late"
            await eventually(lambda: counts(engine.stats()) == (1, 0))

        using(kind, test)
        assert server.peers[0].gone.wait(5)


@loops
@pytest.mark.parametrize(
    ("code", "reason", "sent"),
    [
        (ErrorCodes.REFUSED_STREAM, ResetReason.REFUSED_STREAM, False),
        (ErrorCodes.INTERNAL_ERROR, ResetReason.REMOTE_RESET, True),
    ],
)
def test_resets_keep_the_connection(
    kind: str, code: ErrorCodes, reason: ResetReason, sent: bool
) -> None:
    def script(request: Request) -> None:
        if request.path == "/":
            request.peer.respond(request)
        else:
            request.peer.reset(request, code)

    with H2Server(script) as server:

        async def test(engine: AsyncEngine) -> None:
            target = http2(server.port)
            with pytest.raises(WireError) as caught:
                await engine.send(target, get(b"/reset"))
            assert (caught.value.reason, caught.value.sent) == (reason, sent)
            assert (await engine.send(target, get())).status == 200
            assert total(engine.stats()).opened == 1

        using(kind, test)


@loops
def test_a_reset_inside_the_body_gives_what_came_and_then_the_error(kind: str) -> None:
    def script(request: Request) -> None:
        request.peer.respond(request, body=b"half", end=False)
        reset.wait(5)
        request.peer.reset(request)

    reset = threading.Event()
    with H2Server(script) as server:

        async def test(engine: AsyncEngine) -> None:
            response = await engine.send(http2(server.port), get())
            pieces = aiter(response)
            assert await anext(pieces) == b"half"
            reset.set()
            with pytest.raises(WireError) as caught:
                await anext(pieces)
            assert caught.value.reason is ResetReason.REMOTE_RESET

        using(kind, test)


@loops
def test_a_lost_connection_fails_all_its_streams(kind: str) -> None:
    with H2Server(silent) as server:

        async def test(engine: AsyncEngine) -> None:
            target = http2(server.port)
            calls = [asyncio.create_task(engine.send(target, get())) for _ in range(5)]
            await eventually(lambda: len(server.requests) == 5)
            server.peers[0].sock.shutdown(2)
            found = await asyncio.gather(*calls, return_exceptions=True)
            assert [getattr(e, "reason", e) for e in found] == [
                ResetReason.CONNECTION_TERMINATION
            ] * 5
            assert len({id(e) for e in found}) == 5
            assert counts(engine.stats()) == (0, 0)

        using(kind, test)


@loops
def test_cancelling_a_call_leaves_the_others_alone(kind: str) -> None:
    with H2Server(lambda r: None if r.path == "/x" else r.peer.respond(r)) as server:

        async def test(engine: AsyncEngine) -> None:
            target = http2(server.port)
            call = asyncio.create_task(engine.send(target, get(b"/x")))
            other = asyncio.create_task(engine.send(target, get(b"/x")))
            await eventually(lambda: len(server.requests) == 2)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert (await engine.send(target, get())).status == 200
            await eventually(lambda: bool(server.peers[0].resets))
            assert counts(engine.stats()) == (0, 1)
            other.cancel()
            await asyncio.gather(other, return_exceptions=True)
            assert counts(engine.stats()) == (1, 0)
            await no_tasks_left()

        using(kind, test)
        assert [code for _, code in server.peers[0].resets][:1] == [ErrorCodes.CANCEL]
        assert len(server.peers) == 1


@loops
def test_a_slow_reader_holds_back_its_own_stream_only(kind: str) -> None:
    sent = threading.Event()

    def script(request: Request) -> None:
        if request.path == "/big":
            request.peer.head(request)

            def stream() -> None:
                request.peer.data(request, bytes(2 * MIB))
                sent.set()

            threading.Thread(target=stream, daemon=True).start()
        else:
            request.peer.respond(request, body=bytes(200_000))

    with H2Server(script) as server:

        async def test(engine: AsyncEngine) -> None:
            target = http2(server.port)
            big = await engine.send(target, get(b"/big"))
            for _ in range(20):
                assert len(await read(await engine.send(target, get()))) == 200_000
            assert not sent.is_set()
            assert len(await read(big)) == 2 * MIB
            assert counts(engine.stats()) == (1, 0)

        using(kind, test)
        assert len(server.peers) == 1


@loops
def test_a_stalled_window_is_a_write_timeout_of_its_stream(kind: str) -> None:
    with H2Server(echo, acknowledge=False, window=1000) as server:

        async def test(engine: AsyncEngine) -> None:
            target = http2(server.port)
            with pytest.raises(WireError) as caught:
                await engine.send(target, post(bytes(5000), write_timeout_s=0.1))
            assert caught.value.timeout == "write"
            assert await read(await engine.send(target, post(b"x" * 900))) == b"x" * 900
            await no_tasks_left()

        using(kind, test)


@loops
@pytest.mark.parametrize(
    ("limits", "kind_of_limit"),
    [
        ({"response_timeout_s": 0.05}, "response"),
        ({"read_timeout_s": 0.05}, "read"),
        ({"deadline": 0.05}, "deadline"),
    ],
)
def test_time_limits_are_per_stream(
    kind: str, limits: dict[str, float], kind_of_limit: str
) -> None:
    def script(request: Request) -> None:
        if request.path == "/slow":
            threading.Timer(0.3, request.peer.respond, (request,)).start()
        elif request.path == "/ok":
            request.peer.respond(request)

    with H2Server(script) as server:

        async def test(engine: AsyncEngine) -> None:
            target = http2(server.port)
            slow = asyncio.create_task(engine.send(target, get(b"/slow", read_timeout_s=5.0)))
            given = dict(limits)
            if "deadline" in given:
                given["deadline"] += time.monotonic()
            with pytest.raises(WireError) as caught:
                await engine.send(target, get(b"/never", **given))
            assert caught.value.timeout == kind_of_limit
            assert (await slow).status == 200
            assert counts(engine.stats())[1] == 0

        using(kind, test)


@loops
def test_a_read_timeout_inside_the_body(kind: str) -> None:
    with H2Server(lambda r: r.peer.respond(r, body=b"a", end=False)) as server:

        async def test(engine: AsyncEngine) -> None:
            response = await engine.send(http2(server.port), get(read_timeout_s=0.1))
            with pytest.raises(WireError) as caught:
                await read(response)
            assert caught.value.timeout == "read"
            await eventually(lambda: bool(server.peers[0].resets))

        using(kind, test)
        assert [code for _, code in server.peers[0].resets] == [ErrorCodes.CANCEL]


@loops
def test_closing_a_response_early_costs_its_stream_only(kind: str) -> None:
    with H2Server(lambda r: r.peer.respond(r, body=b"a", end=False)) as server:

        async def test(engine: AsyncEngine) -> None:
            ends: list[int] = []
            response = await engine.send(http2(server.port), get())
            response.on_close = lambda: ends.append(1)
            await response.aclose()
            await response.aclose()
            assert (ends, counts(engine.stats())) == ([1], (1, 0))
            await eventually(lambda: bool(server.peers[0].resets))

        using(kind, test)


@loops
def test_trailers_and_interim_responses(kind: str) -> None:
    def script(request: Request) -> None:
        request.peer.head(request, 103, [("link", "x")])
        request.peer.respond(request, body=b"b", trailers=[("grpc-status", "0")])

    with H2Server(script) as server:

        async def test(engine: AsyncEngine) -> None:
            response = await engine.send(http2(server.port), get())
            assert (response.status, await read(response)) == (200, b"b")
            assert response.get_extra_info("trailers") == [(b"grpc-status", b"0")]
            assert response.get_extra_info("stream_id") == 1

        using(kind, test)


@loops
def test_an_early_refusal_stops_the_upload(kind: str) -> None:
    def refuse(request: Request) -> None:
        request.peer.respond(request, 413, b"too big")
        request.peer.reset(request, ErrorCodes.NO_ERROR)

    with H2Server(lambda r: None, refuse, window=1000, acknowledge=False) as server:

        async def test(engine: AsyncEngine) -> None:
            response = await engine.send(http2(server.port), post(bytes(MIB)))
            assert (response.status, await read(response)) == (413, b"too big")
            await no_tasks_left()
            assert counts(engine.stats()) == (1, 0)

        using(kind, test)


@loops
def test_max_requests_and_age_retire_a_connection(kind: str) -> None:
    with H2Server() as server:

        async def test(engine: AsyncEngine) -> None:
            for _ in range(6):
                await engine.send(http2(server.port, max_requests=2), get())
            assert len(server.peers) == 3
            await engine.send(http2(server.port, max_duration_s=0.05), get())
            await eventually(lambda: server.peers[3].gone.is_set())

        using(kind, test)


@loops
def test_idle_connections_expire_and_retained_targets_stay(kind: str) -> None:
    with H2Server() as server:

        async def test(engine: AsyncEngine) -> None:
            short, kept = http2(server.port, idle_timeout_s=0.05), http2(server.port)
            gone = http2(server.port, max_requests=100)
            for target in (short, kept, gone):
                await engine.send(target, get())
            engine.retain([short, kept])
            await eventually(lambda: server.peers[2].gone.is_set())
            await eventually(lambda: server.peers[0].gone.is_set())
            assert counts(engine.stats()) == (1, 0)

        using(kind, test)


@loops
def test_ping_keeps_alive_and_finds_the_dead(kind: str) -> None:
    with H2Server(silent) as server:

        async def test(engine: AsyncEngine) -> None:
            target = http2(server.port, ping_interval_s=0.03, ping_timeout_s=0.1)
            call = asyncio.create_task(engine.send(target, get()))
            await eventually(lambda: bool(server.peers) and server.peers[0].pings >= 2)
            assert not call.done()
            # The lock: the server stops answering.
            with server.peers[0].lock, pytest.raises(WireError) as caught:
                await call
            assert caught.value.reason is ResetReason.CONNECTION_TERMINATION

        using(kind, test)


@loops
def test_closing_the_engine_ends_calls_and_connects(kind: str) -> None:
    with H2Server(silent) as server, H2Server(greet=False) as mute:

        async def test(engine: AsyncEngine) -> None:
            calls = [
                asyncio.create_task(engine.send(http2(port), get()))
                for port in (server.port, server.port, mute.port)
            ]
            await eventually(lambda: len(server.requests) == 2 and bool(mute.peers))
            await engine.aclose()
            found = await asyncio.gather(*calls, return_exceptions=True)
            assert [getattr(e, "reason", e) for e in found] == [ResetReason.CANCELLED] * 3
            await no_tasks_left()

        using(kind, test)
        assert all(peer.gone.wait(5) for peer in (*server.peers, *mute.peers))


@loops
def test_a_server_without_settings_times_out_and_cancelling_takes_the_connect_along(
    kind: str,
) -> None:
    with H2Server(greet=False) as server:

        async def test(engine: AsyncEngine) -> None:
            target = http2(server.port)
            with pytest.raises(WireError) as caught:
                await engine.send(target, get(connect_timeout_s=0.1))
            assert (caught.value.timeout, caught.value.sent) == ("connect", False)
            call = asyncio.create_task(engine.send(target, get()))
            await eventually(lambda: len(server.peers) == 2)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            await no_tasks_left()
            await eventually(lambda: server.peers[1].gone.is_set())

        using(kind, test)


@loops
def test_an_http1_server_is_a_protocol_error_before_anything_was_sent(kind: str) -> None:
    def http1(peer: Peer) -> None:
        peer.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        peer.wait_closed()

    with RawServer(http1) as server:

        async def test(engine: AsyncEngine) -> None:
            with pytest.raises(WireError) as caught:
                await engine.send(http2(server.port), get())
            assert (caught.value.reason, caught.value.sent) == (ResetReason.PROTOCOL_ERROR, False)
            assert counts(engine.stats()) == (0, 0)

        using(kind, test)


@loops
def test_a_cancellation_storm_leaves_nothing_behind(kind: str) -> None:
    rand = random.Random(5)

    def slow(request: Request) -> None:
        threading.Timer(rand.random() * 0.02, request.peer.respond, (request,)).start()

    with H2Server(slow, streams=20) as server:

        async def test(engine: AsyncEngine) -> None:
            target = http2(server.port)
            until = time.monotonic() + 1.5

            async def worker() -> None:
                while time.monotonic() < until:
                    call = asyncio.ensure_future(engine.send(target, post(b"x" * 2000)))
                    done, _ = await asyncio.wait((call,), timeout=rand.random() * 0.03)
                    if not done:
                        call.cancel()
                    await asyncio.gather(call, return_exceptions=True)

            await asyncio.gather(*[worker() for _ in range(20)])
            await no_tasks_left()
            assert counts(engine.stats())[1] == 0
            assert (await engine.send(target, get())).status == 200

        using(kind, test)
        assert len(server.requests) > 100
