"""HTTP/2 over blocking sockets against a scripted server: the same endings as over asyncio."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from engine_support import counts, get, post, total
from h2.errors import ErrorCodes
from servers.http import Peer, RawServer
from servers.http2 import H2Server, Request

from meshclient.model.cluster import ConnectionOptions, Limits
from meshclient.model.outcome import ResetReason
from meshclient.transport.interface import InvalidRequest, SyncWireResponse, Target, WireError
from meshclient.transport.slots import slots_for
from meshclient.transport.sync_engine import SyncEngine

MIB = 1 << 20


@pytest.fixture
def engine() -> Iterator[SyncEngine]:
    made = SyncEngine()
    yield made
    made.close()


def http2(port: int, limits: Limits | None = None, **options: object) -> Target:
    return Target(
        "127.0.0.1",
        port,
        None,
        ConnectionOptions(**options),  # type: ignore[arg-type]
        protocol="h2",
        connections=None if limits is None else slots_for(limits),
    )


def read(response: SyncWireResponse) -> bytes:
    return b"".join(response)


def echo(request: Request) -> None:
    request.peer.respond(request, 200, request.body)


def soon(condition: Callable[[], object]) -> bool:
    until = time.monotonic() + 5
    while not condition() and time.monotonic() < until:
        time.sleep(0.002)
    return bool(condition())


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_537, 3 * MIB])
def test_bodies_of_every_size_come_back_on_one_connection(engine: SyncEngine, size: int) -> None:
    body = (bytes(range(256)) * (size // 256 + 1))[:size]
    with H2Server(echo) as server:
        for _ in range(2):
            response = engine.send(http2(server.port), post(body))
            assert response.http_version == b"HTTP/2"
            assert read(response) == body
        assert counts(engine.stats()) == (1, 0)
        assert total(engine.stats()).opened == 1


def test_streamed_uploads_and_broken_ones(engine: SyncEngine) -> None:
    with H2Server(echo) as server:
        pieces = (b"x" * 9_000 for _ in range(40))
        assert len(read(engine.send(http2(server.port), post(pieces)))) == 360_000
        for body in ([b"abc", b"def"], [b"a"]):
            with pytest.raises(InvalidRequest):
                engine.send(http2(server.port), post(iter(body), (b"Content-Length", b"4")))
        assert engine.send(http2(server.port), get()).status == 200


def test_threads_take_a_connection_each(engine: SyncEngine) -> None:
    with H2Server(echo) as server:
        failures: list[BaseException] = []

        def work(number: int) -> None:
            body = b"%d" % number * 1000
            try:
                for _ in range(10):
                    assert read(engine.send(http2(server.port), post(body))) == body
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert failures == []
        assert len(server.requests) == 80
        assert len(server.peers) <= 8
        assert counts(engine.stats()) == (len(server.peers), 0)


def test_limited_connections_are_waited_for(engine: SyncEngine) -> None:
    with H2Server(echo) as server:
        target = http2(server.port, Limits(max_connections=1, max_pending_requests=50))
        answers: list[int] = []
        threads = [
            threading.Thread(target=lambda: answers.append(engine.send(target, get()).status))
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert answers == [200] * 6
        assert len(server.peers) == 1


@pytest.mark.parametrize(
    ("code", "reason", "sent"),
    [
        (ErrorCodes.REFUSED_STREAM, ResetReason.REFUSED_STREAM, False),
        (ErrorCodes.CANCEL, ResetReason.REMOTE_RESET, True),
    ],
)
def test_resets_keep_the_connection(
    engine: SyncEngine, code: ErrorCodes, reason: ResetReason, sent: bool
) -> None:
    def script(request: Request) -> None:
        if request.path == "/":
            request.peer.respond(request)
        else:
            request.peer.reset(request, code)

    with H2Server(script) as server:
        with pytest.raises(WireError) as caught:
            engine.send(http2(server.port), get(b"/reset"))
        assert (caught.value.reason, caught.value.sent) == (reason, sent)
        assert engine.send(http2(server.port), get()).status == 200
        assert len(server.peers) == 1


def test_goaway_while_idle_and_during_a_call(engine: SyncEngine) -> None:
    def script(request: Request) -> None:
        if request.path == "/refuse":
            request.peer.goaway(0)
        elif request.path == "/last":
            request.peer.goaway(request.stream_id)
            request.peer.respond(request, body=b"late")
        else:
            request.peer.respond(request)

    with H2Server(script) as server:
        target = http2(server.port)
        assert read(engine.send(target, get(b"/last"))) == b"late"
        assert counts(engine.stats()) == (0, 0)
        with pytest.raises(WireError) as caught:
            engine.send(target, get(b"/refuse"))
        assert (caught.value.reason, caught.value.sent) == (ResetReason.REFUSED_STREAM, False)
        engine.send(target, get())
        with pytest.raises(WireError) as caught:
            engine.send(target, get(b"/refuse"))  # moved to a fresh connection, and refused again
        assert caught.value.reason is ResetReason.REFUSED_STREAM
        engine.send(target, get())
        server.peers[-1].goaway(1)
        time.sleep(0.05)
        assert engine.send(target, get()).status == 200  # on a new connection, unharmed
        assert len(server.peers) == 6


def test_pings_of_the_server_between_calls_are_no_end(engine: SyncEngine) -> None:
    with H2Server() as server:
        target = http2(server.port)
        engine.send(target, get())
        peer = server.peers[0]
        with peer.lock:
            peer.wire.ping(b"12345678")
            peer.flush()
        time.sleep(0.05)
        assert engine.send(target, get()).status == 200
        assert len(server.peers) == 1


@pytest.mark.parametrize(
    ("limits", "kind"),
    [({"response_timeout_s": 0.1}, "response"), ({"read_timeout_s": 0.1}, "read")],
)
def test_time_limits(engine: SyncEngine, limits: dict[str, float], kind: str) -> None:
    with H2Server(lambda r: r.peer.respond(r) if r.path == "/ok" else None) as server:
        with pytest.raises(WireError) as caught:
            engine.send(http2(server.port), get(**limits))
        assert caught.value.timeout == kind
        with pytest.raises(WireError) as caught:
            engine.send(http2(server.port), get(deadline=time.monotonic() + 0.1))
        assert caught.value.timeout == "deadline"
        assert engine.send(http2(server.port), get(b"/ok")).status == 200
        assert counts(engine.stats())[1] == 0


def test_a_stalled_window_is_a_write_timeout(engine: SyncEngine) -> None:
    with H2Server(echo, acknowledge=False, window=1000) as server:
        with pytest.raises(WireError) as caught:
            engine.send(http2(server.port), post(bytes(5000), write_timeout_s=0.1))
        assert caught.value.timeout == "write"


def test_an_early_refusal_stops_the_upload(engine: SyncEngine) -> None:
    def refuse(request: Request) -> None:
        request.peer.respond(request, 413, b"too big")

    with H2Server(lambda r: None, refuse, window=1000, acknowledge=False) as server:
        response = engine.send(http2(server.port), post(bytes(MIB)))
        assert (response.status, read(response)) == (413, b"too big")


def test_closing_a_response_early_cancels_its_stream_and_keeps_the_connection(
    engine: SyncEngine,
) -> None:
    def script(request: Request) -> None:
        request.peer.respond(request, body=b"a", end=request.path == "/whole")

    with H2Server(script) as server:
        target = http2(server.port)
        ends: list[int] = []
        response = engine.send(target, get())
        response.on_close = lambda: ends.append(1)
        assert next(iter(response)) == b"a"
        response.close()
        response.close()
        assert ends == [1]
        assert read(engine.send(target, get(b"/whole"))) == b"a"
        assert soon(lambda: server.peers[0].resets == [(1, ErrorCodes.CANCEL)])
        assert len(server.peers) == 1


def test_trailers(engine: SyncEngine) -> None:
    with H2Server(lambda r: r.peer.respond(r, trailers=[("grpc-status", "0")])) as server:
        response = engine.send(http2(server.port), get())
        assert read(response) == b"ok"
        assert response.get_extra_info("trailers") == [(b"grpc-status", b"0")]


def test_answered_pings_keep_waiting_and_unanswered_ones_end_the_call(engine: SyncEngine) -> None:
    hold = threading.Event()

    def script(request: Request) -> None:
        if request.path == "/deaf":
            hold.wait(5)  # on the thread that reads: no PING is answered

    with H2Server(script) as server:
        target = http2(server.port, ping_interval_s=0.05, ping_timeout_s=0.1)
        with pytest.raises(WireError) as caught:
            engine.send(target, get(deadline=time.monotonic() + 0.4))
        assert caught.value.timeout == "deadline"
        assert server.peers[0].pings >= 2
        with pytest.raises(WireError) as caught:
            engine.send(target, get(b"/deaf"))
        assert caught.value.reason is ResetReason.CONNECTION_TERMINATION
        hold.set()


def test_a_server_that_closes_or_speaks_http1_instead_of_settings(engine: SyncEngine) -> None:
    def http1(peer: Peer) -> None:
        peer.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        peer.wait_closed()

    with RawServer(http1) as server, pytest.raises(WireError) as caught:
        engine.send(http2(server.port), get())
    assert (caught.value.reason, caught.value.sent) == (ResetReason.PROTOCOL_ERROR, False)
    with RawServer(lambda peer: None) as server, pytest.raises(WireError) as caught:
        engine.send(http2(server.port), get())
    assert (caught.value.reason, caught.value.sent) == (ResetReason.CONNECTION_FAILURE, False)
    with H2Server(greet=False) as mute, pytest.raises(WireError) as caught:
        engine.send(http2(mute.port), get(connect_timeout_s=0.1))
    assert (caught.value.timeout, caught.value.sent) == ("connect", False)
    assert counts(engine.stats()) == (0, 0)


def test_close_ends_a_call_on_another_thread(engine: SyncEngine) -> None:
    with H2Server(lambda r: None) as server:
        found: list[WireError] = []

        def call() -> None:
            with pytest.raises(WireError) as caught:
                engine.send(http2(server.port), get())
            found.append(caught.value)

        thread = threading.Thread(target=call)
        thread.start()
        assert soon(lambda: server.requests)
        engine.close()
        thread.join(5)
        assert [error.reason for error in found] == [ResetReason.CANCELLED]
