"""The synchronous engine against real sockets."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from engine_support import (
    DeafListener,
    HttpServer,
    Peer,
    RawServer,
    Recorded,
    Reply,
    answer,
    counts,
    deaf,
    get,
    half,
    post,
    serve_raw,
    silent,
    soon,
    stopped,
    target,
    total,
)

from meshclient.model.cluster import ConnectionOptions, TcpKeepalive
from meshclient.model.outcome import ResetReason
from meshclient.transport.interface import InvalidRequest, Target, WireError, WireRequest
from meshclient.transport.sync_engine import SyncEngine

MIB = 1 << 20


@pytest.fixture
def engine() -> Iterator[SyncEngine]:
    engine = SyncEngine()
    yield engine
    engine.close()


def echo(request: Recorded) -> Reply:
    return Reply(200, request.body)


def endless() -> Iterator[bytes]:
    while True:
        yield bytes(MIB)


def test_a_whole_response_comes_with_the_head_and_the_connection_is_free(
    engine: SyncEngine,
) -> None:
    with HttpServer() as server:
        for number in range(3):
            response = engine.send(target(server), get(b"/%d" % number))
            assert (response.status, response.content) == (200, b"ok")
            assert response.get_extra_info("server_addr") == ("127.0.0.1", server.port)
        assert repr(total(engine.stats())) == "<PoolStats idle=1 active=0 opened=1 reused=2>"
        ends: list[int] = []
        response.on_close = lambda: ends.append(1)
        assert b"".join(response) == b"ok"
        response.close()
        assert ends == [1]


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 3 * MIB])
@pytest.mark.parametrize("sized", [False, True])
@pytest.mark.parametrize("streamed", [False, True])
def test_bodies_of_every_size_come_back(
    engine: SyncEngine, size: int, sized: bool, streamed: bool
) -> None:
    body = (bytes(range(256)) * (size // 256 + 1))[:size]
    headers = [(b"Content-Length", b"%d" % size)] if sized else []
    with HttpServer(echo) as server:
        for _ in range(2):
            given = iter([body[: size // 2], b"", body[size // 2 :]]) if streamed else body
            response = engine.send(target(server), post(given, *headers))
            assert b"".join(response) == body
        assert counts(engine.stats()) == (1, 0)
        assert server.accepted == 1


def test_a_download_waits_for_a_slow_reader(engine: SyncEngine) -> None:
    sent = 0

    def pieces() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(300):
            sent += 1
            yield bytes(MIB // 8)

    with HttpServer(lambda _: Reply(200, pieces())) as server:
        response = engine.send(target(server), get())
        time.sleep(0.2)
        assert sent < 150
        assert sum(map(len, response)) == 300 * MIB // 8
        assert counts(engine.stats()) == (1, 0)


@pytest.mark.parametrize("status", [413, 200])
def test_an_early_whole_answer_stops_the_upload(engine: SyncEngine, status: int) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(answer(b"enough", status))
        left.wait(5)

    left = threading.Event()
    with RawServer(script) as server:
        response = engine.send(target(server), post(endless()))
        assert (response.status, response.content) == (status, b"enough")
        assert counts(engine.stats()) == (0, 0)
        left.set()


def test_an_answer_before_a_reset_is_still_read(engine: SyncEngine) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(answer(b"too large", 413))

    with RawServer(script) as server:
        response = engine.send(target(server), post(endless(), write_timeout_s=5))
        assert (response.status, b"".join(response)) == (413, b"too large")


def test_an_echo_may_answer_while_it_reads(engine: SyncEngine) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n")
        for _ in range(3):
            peer.send(peer.read(1_000_000))
        peer.read_head()

    pieces = [letter * 1_000_000 for letter in (b"a", b"b", b"c")]
    with RawServer(script) as server:
        request = post(iter(pieces), (b"Content-Length", b"3000000"), write_timeout_s=5)
        # 3 MB do not fit into both buffers unless the answer is read along.
        response = engine.send(target(server), request)
        assert b"".join(response) == b"".join(pieces)


def test_errors_of_the_source_reach_the_caller(engine: SyncEngine) -> None:
    def source() -> Iterator[bytes]:
        yield b"x"
        raise LookupError("mine")

    async def wrong() -> AsyncIterator[bytes]:
        yield b"x"

    with HttpServer() as server:
        with pytest.raises(LookupError, match="mine"):
            engine.send(target(server), post(source()))
        with pytest.raises(InvalidRequest, match="shorter"):
            engine.send(target(server), post(iter([b"x"]), (b"Content-Length", b"2")))
        with pytest.raises(InvalidRequest, match="async"):
            engine.send(target(server), post(wrong()))
        assert counts(engine.stats()) == (0, 0)


# name: (script, limits of the request, body, timeout, reason)
TIMEOUTS: dict[str, tuple[Callable[[Peer], None], dict[str, Any], Any, str, ResetReason]] = {
    "response": (
        silent, {"response_timeout_s": 0.05}, None, "response", ResetReason.PER_TRY_TIMEOUT,
    ),
    "read": (silent, {"read_timeout_s": 0.05}, None, "read", ResetReason.PER_TRY_TIMEOUT),
    "deadline": (
        silent, {"deadline": 0.05, "read_timeout_s": 5}, None, "deadline",
        ResetReason.ROUTE_TIMEOUT,
    ),
    "read in body": (half, {"read_timeout_s": 0.05}, None, "read", ResetReason.PER_TRY_TIMEOUT),
    "deadline in body": (half, {"deadline": 0.05}, None, "deadline", ResetReason.ROUTE_TIMEOUT),
    "write": (deaf, {"write_timeout_s": 0.05}, endless, "write", ResetReason.PER_TRY_TIMEOUT),
    "deadline while writing": (
        deaf, {"deadline": 0.05, "write_timeout_s": 5}, endless, "deadline",
        ResetReason.ROUTE_TIMEOUT,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TIMEOUTS)
def test_every_limit(engine: SyncEngine, name: str) -> None:
    script, limits, body, timeout, reason = TIMEOUTS[name]
    stopped.clear()
    with RawServer(script) as server:
        values = dict(limits)
        if "deadline" in values:
            values["deadline"] = soon(values["deadline"])
        request = get(**values) if body is None else post(body(), **values)
        started = time.monotonic()
        with pytest.raises(WireError) as caught:
            b"".join(engine.send(target(server), request))
        assert 0.04 < time.monotonic() - started < 2
        assert (caught.value.timeout, caught.value.reason) == (timeout, reason)
        assert counts(engine.stats()) == (0, 0)
        stopped.set()


@pytest.mark.parametrize(
    ("limits", "timeout"), [({"connect_timeout_s": 0.05}, "connect"), ({"deadline": 1}, "deadline")]
)
def test_connecting_takes_too_long(
    engine: SyncEngine, limits: dict[str, float], timeout: str
) -> None:
    with DeafListener() as listener:
        values = {"deadline": soon(0.05)} if "deadline" in limits else limits
        with pytest.raises(WireError) as caught:
            engine.send(Target("127.0.0.1", listener.port), get(**values))
        assert (caught.value.timeout, caught.value.sent) == (timeout, False)


def test_connection_refused(engine: SyncEngine) -> None:
    with RawServer(lambda peer: None) as server:
        gone = target(server)
    with pytest.raises(WireError) as caught:
        engine.send(gone, get())
    assert caught.value.reason is ResetReason.CONNECTION_FAILURE
    assert not caught.value.sent
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


def test_a_connection_that_the_server_closed_while_idle_is_not_used(engine: SyncEngine) -> None:
    with HttpServer() as server:
        engine.send(target(server), get())
        server.drop_connections()
        assert server.wait_for(lambda: server.closed == 1)
        assert engine.send(target(server), get()).content == b"ok"
        assert server.accepted == 2


def test_a_close_in_the_moment_of_reuse_is_told_apart(engine: SyncEngine) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(answer())
        peer.read_head()

    with RawServer(script) as server:
        engine.send(target(server), get())
        with pytest.raises(WireError) as caught:
            engine.send(target(server), get())
        assert caught.value.reason is ResetReason.CONNECTION_TERMINATION
        assert (caught.value.sent, caught.value.reused) == (True, True)


def test_bytes_nobody_asked_for_are_never_an_answer(engine: SyncEngine) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(answer())
        first_done.wait(5)
        peer.send(answer(b"poison"))
        poisoned.set()
        peer.wait_closed()

    first_done, poisoned = threading.Event(), threading.Event()
    with RawServer(script) as server:
        assert engine.send(target(server), get()).content == b"ok"
        first_done.set()
        assert poisoned.wait(5)
        server.script = lambda peer: (peer.read_head(), peer.send(answer(b"good")))
        assert engine.send(target(server), get()).content == b"good"
        assert server.accepted == 2


def test_a_body_until_close_and_one_that_breaks_off(engine: SyncEngine) -> None:
    with serve_raw(b"HTTP/1.1 200 OK\r\n\r\nall", lambda peer: peer.sock.close()) as server:
        assert b"".join(engine.send(target(server), get())) == b"all"
    with serve_raw(answer(b"12345")[:-1], lambda peer: peer.sock.close()) as server:
        response = engine.send(target(server), get())
        ends: list[int] = []
        response.on_close = lambda: ends.append(1)
        with pytest.raises(WireError) as caught:
            b"".join(response)
        assert caught.value.reason is ResetReason.CONNECTION_TERMINATION
        response.close()
        assert ends == [1]
    assert counts(engine.stats()) == (0, 0)


def test_closing_a_response_early_costs_its_connection_only(engine: SyncEngine) -> None:
    with RawServer(half) as server:
        response = engine.send(target(server), get())
        ends: list[int] = []
        response.on_close = lambda: ends.append(1)
        assert next(iter(response)) == b"01234"
        response.close()
        response.close()
        assert ends == [1]
        assert counts(engine.stats()) == (0, 0)
        assert server.ended.acquire(timeout=5)
        with pytest.raises(WireError, match="closed"):
            next(iter(response))


def test_life_of_connections(engine: SyncEngine) -> None:
    with HttpServer() as server:
        for _ in range(4):
            engine.send(target(server, max_requests=2), get())
        assert server.accepted == 2
        short = target(server, idle_timeout_s=0.05)
        engine.send(short, get())
        time.sleep(0.06)
        engine.send(short, get())
        assert server.accepted == 4
        old = target(server, max_duration_s=0.05)
        engine.send(old, get())
        time.sleep(0.06)
        engine.send(old, get())
        assert server.accepted == 6


def test_keep_alive_probes_are_set(engine: SyncEngine) -> None:
    import socket

    with HttpServer() as server:
        options = ConnectionOptions(keepalive=TcpKeepalive(probes=3, time_s=60, interval_s=7))
        response = engine.send(Target("127.0.0.1", server.port, None, options), get())
        sock = response.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        got = [
            sock.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        ]
        assert got == [60, 7, 3]
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def test_head_and_unix_sockets(engine: SyncEngine, tmp_path: object) -> None:
    with HttpServer(unix_path=f"{tmp_path}/s"):
        where = Target(f"unix://{tmp_path}/s", 0)
        head = WireRequest(b"HEAD", b"/", [(b"Host", b"test")])
        assert [engine.send(where, head).content for _ in range(2)] == [b"", b""]
        assert total(engine.stats()).opened == 1


def test_targets_that_leave_are_drained_not_cut(engine: SyncEngine) -> None:
    gate = threading.Event()
    with HttpServer(lambda _: Reply(200, b"late", gate=gate)) as leaving, HttpServer() as staying:
        engine.send(target(staying), get())
        got: list[bytes | None] = []
        call = threading.Thread(
            target=lambda: got.append(engine.send(target(leaving), get()).content)
        )
        call.start()
        assert leaving.wait_for(lambda: bool(leaving.requests))
        engine.retain({target(staying)})
        assert counts(engine.stats()) == (1, 0)
        gate.set()
        call.join()
        assert got == [b"late"]
        assert leaving.wait_for(lambda: leaving.open_connections == 0)
        assert staying.open_connections == 1


def test_close_ends_calls_in_flight_with_a_clear_error(engine: SyncEngine) -> None:
    with RawServer(silent) as server, RawServer(half) as halfway:
        caught: list[WireError] = []

        def call() -> None:
            with pytest.raises(WireError) as raised:
                engine.send(target(server), get())
            caught.append(raised.value)

        threads = [threading.Thread(target=call) for _ in range(3)]
        for thread in threads:
            thread.start()
        response = engine.send(target(halfway), get())
        while len(server.heads) < 3:
            time.sleep(0.002)
        engine.retain(())
        engine.close()
        for thread in threads:
            thread.join(5)
        assert [error.reason for error in caught] == [ResetReason.CANCELLED] * 3
        with pytest.raises(WireError) as raised:
            b"".join(response)
        assert raised.value.reason is ResetReason.CANCELLED
        with pytest.raises(WireError, match="closed"):
            engine.send(target(server), get())


def test_a_hundred_threads(engine: SyncEngine) -> None:
    with HttpServer(echo) as server:
        failures: list[object] = []

        def worker(number: int) -> None:
            for step in range(10):
                body = b"%d/%d" % (number, step)
                got = b"".join(engine.send(target(server), post(body, read_timeout_s=15)))
                if got != body:
                    failures.append((body, got))

        threads = [threading.Thread(target=worker, args=(n,)) for n in range(100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert failures == []
        assert len(server.requests) == 1000
        idle, active = counts(engine.stats())
        assert active == 0
        assert idle == server.open_connections
        assert server.accepted <= 100
