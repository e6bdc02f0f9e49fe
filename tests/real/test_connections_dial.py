"""Happy eyeballs, socket options and the PROXY header, over real sockets."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from connections_support import WAYS, deaf_at, names, sockets
from engine_support import HttpServer, Peer, RawServer, certificate, eventually, get, run_on

from meshclient.model.cluster import ConnectionOptions, TcpKeepalive
from meshclient.model.outcome import ResetReason
from meshclient.transport import addresses
from meshclient.transport.addresses import set_options
from meshclient.transport.async_engine import AsyncEngine
from meshclient.transport.httpx_engine import HttpxSyncEngine
from meshclient.transport.interface import Target, WireError, WireRequest
from meshclient.transport.proxy_protocol import header
from meshclient.transport.tls import TlsIdentity, default_context

Way = Callable[[Target, WireRequest], tuple[bytes, Any]]
ways = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
#: uvloop asks the C library itself, and so cannot be told other addresses.
own_resolver = pytest.mark.parametrize(
    "way", [WAYS["sync"], WAYS["asyncio"]], ids=["sync", "asyncio"]
)


@ways
def test_a_dead_first_address_costs_one_gap(way: Way) -> None:
    with HttpServer() as server, deaf_at("127.0.0.2", server.port):
        target = Target("127.0.0.2", server.port, more_addresses=("127.0.0.1",))
        before = time.monotonic()
        body, peer = way(target, get())
        assert (body, peer[0]) == (b"ok", "127.0.0.1")
        assert 0.28 < time.monotonic() - before < 2.0


@ways
def test_a_refusing_address_costs_nothing(way: Way) -> None:
    with HttpServer() as server:
        target = Target("127.0.0.3", server.port, more_addresses=("127.0.0.2", "127.0.0.1"))
        before = time.monotonic()
        assert way(target, get())[1][0] == "127.0.0.1"
        assert time.monotonic() - before < 0.28


@own_resolver
def test_the_other_family_is_next(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host name with dead IPv6 addresses before a living IPv4 one, as behind a broken tunnel."""
    with HttpServer() as server, deaf_at("::1", server.port):
        names(monkeypatch, "::1", "::1", "127.0.0.1")
        before = time.monotonic()
        assert way(Target("web.test", server.port), get())[1][0] == "127.0.0.1"
        assert time.monotonic() - before < 1.5


@own_resolver
def test_ipv6_is_preferred_where_the_resolver_says_so(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        HttpServer() as four,
        HttpServer(host="::1", port=four.port) as six,
    ):
        names(monkeypatch, "::1", "127.0.0.1")
        assert way(Target("web.test", four.port), get())[1][0] == "::1"
        assert (four.accepted, six.accepted) == (0, 1), "the loser was never dialled"


@ways
def test_all_dead_is_one_connect_timeout_in_total(way: Way) -> None:
    with HttpServer() as spare, deaf_at("127.0.0.2", spare.port), deaf_at("127.0.0.3", spare.port):
        target = Target("127.0.0.2", spare.port, more_addresses=("127.0.0.3", "127.0.0.2"))
        before = time.monotonic()
        with pytest.raises(WireError) as caught:
            way(target, get(connect_timeout_s=0.5))
        assert 0.48 < time.monotonic() - before < 1.5
        assert caught.value.reason is ResetReason.CONNECTION_TIMEOUT


@ways
def test_all_refusing_says_which(way: Way) -> None:
    with HttpServer() as server:
        port = server.port
    target = Target("127.0.0.1", port, more_addresses=("127.0.0.2",))
    with pytest.raises(WireError, match=r"none of 2 addresses: 127\.0\.0\.1: .*127\.0\.0\.2: "):
        way(target, get())


@ways
def test_an_unknown_interface_is_a_clear_error(way: Way) -> None:
    with pytest.raises(WireError, match="no network interface 'nonesuch0'"):
        way(Target("fe80::1%nonesuch0", 80), get())


@ways
def test_losers_are_closed(way: Way) -> None:
    before = sockets()
    with HttpServer() as server, deaf_at("127.0.0.2", server.port):
        way(Target("127.0.0.2", server.port, more_addresses=("127.0.0.1",)), get())
    assert sockets() == before


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_cancelled_at_any_point_of_the_race_leaves_no_socket(kind: str) -> None:
    """60 races against one living and two dead addresses, each cancelled at another moment."""
    seed = random.randrange(1 << 30)
    print(f"{seed=}")
    chance = random.Random(seed)

    async def run(port: int) -> None:
        engine = AsyncEngine()
        target = Target("127.0.0.2", port, more_addresses=("127.0.0.3", "127.0.0.1"))
        before = sockets()
        calls = [asyncio.create_task(_drop_body(engine, target)) for _ in range(60)]
        for call in calls:
            asyncio.get_running_loop().call_later(chance.uniform(0.0, 0.65), call.cancel)
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert any(isinstance(result, asyncio.CancelledError) for result in results)
        await engine.aclose()
        # The server, in the same process, closes its ends a moment later.
        await eventually(lambda: sockets() == before)

    with HttpServer() as server:
        port = server.port
        with deaf_at("127.0.0.2", port), deaf_at("127.0.0.3", port):
            run_on(kind, run(port))


async def _drop_body(engine: AsyncEngine, target: Target) -> None:
    response = await engine.send(target, get())
    await response.aclose()


@pytest.mark.skipif(sys.platform != "linux", reason="options as Linux names them")
@pytest.mark.parametrize(
    ("keepalive", "found"),
    [
        (None, (0, 0)),
        (TcpKeepalive(3, 30.0, 10.0), (1, 60_000)),
        (TcpKeepalive(9, 7200.0, 75.0), (1, 0)),  # the kernel itself gives up sooner
    ],
)
def test_keepalive_reaches_the_socket(
    keepalive: TcpKeepalive | None, found: tuple[int, int]
) -> None:
    with socket.socket() as sock:
        set_options(sock, keepalive)
        tcp = socket.IPPROTO_TCP
        assert sock.getsockopt(tcp, socket.TCP_NODELAY) == 1
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == found[0]
        assert sock.getsockopt(tcp, socket.TCP_USER_TIMEOUT) == found[1]
        if keepalive is not None:
            assert sock.getsockopt(tcp, socket.TCP_KEEPCNT) == keepalive.probes
            assert sock.getsockopt(tcp, socket.TCP_KEEPIDLE) == keepalive.time_s
            assert sock.getsockopt(tcp, socket.TCP_KEEPINTVL) == keepalive.interval_s


@pytest.mark.skipif(sys.platform != "linux", reason="options as Linux names them")
@pytest.mark.parametrize("more", [(), ("127.0.0.2",)], ids=["one address", "raced"])
@ways
def test_every_connection_has_its_options(
    way: Way, more: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []

    def recorded(sock: socket.socket, keepalive: TcpKeepalive | None) -> None:
        set_options(sock, keepalive)
        tcp = socket.IPPROTO_TCP
        seen.append(
            (sock.getsockopt(tcp, socket.TCP_NODELAY), sock.getsockopt(tcp, socket.TCP_KEEPCNT))
        )

    monkeypatch.setattr(addresses, "set_options", recorded)
    with HttpServer() as server:
        options = ConnectionOptions(keepalive=TcpKeepalive(probes=4))
        way(Target("127.0.0.1", server.port, None, options, more_addresses=more), get())
    assert seen == [(1, 4)]


@pytest.mark.parametrize("version", ["v1", "v2"])
@ways
def test_a_connection_begins_with_the_proxy_header(way: Way, version: Any) -> None:
    """Once per connection, with the socket's own name as the source."""
    got: list[bytes] = []
    done = threading.Event()

    def script(peer: Peer) -> None:
        expected = header(version, peer.sock.getpeername(), peer.sock.getsockname())
        got.append(_exactly(peer.sock, len(expected)))
        got.append(expected)
        peer.read_head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        done.set()

    with RawServer(script) as server:
        options = ConnectionOptions(proxy_protocol=version)
        body, _ = way(Target("127.0.0.1", server.port, None, options), get())
        assert done.wait(5)
    assert body == b"ok"
    assert got[0] == got[1]


def test_an_engine_that_cannot_send_the_proxy_header_refuses() -> None:
    with HttpServer() as server:
        options = ConnectionOptions(proxy_protocol="v1")
        engine = HttpxSyncEngine()
        with pytest.raises(WireError, match="PROXY protocol"):
            engine.send(Target("127.0.0.1", server.port, None, options), get())
        assert server.accepted == 0
        engine.close()


@ways
def test_the_proxy_header_comes_before_tls(way: Way, tmp_path: Path) -> None:
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pem, key = certificate(tmp_path, "web.test")
    server_context.load_cert_chain(pem, key)

    def script(peer: Peer) -> None:
        expected = header("v2", peer.sock.getpeername(), peer.sock.getsockname())
        assert _exactly(peer.sock, len(expected)) == expected
        with server_context.wrap_socket(peer.sock, server_side=True) as secured:
            while b"\r\n\r\n" not in secured.recv(65536):
                pass
            secured.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            secured.recv(1)

    identity = TlsIdentity("web.test", default_context(pem))
    with RawServer(script) as server:
        options = ConnectionOptions(proxy_protocol="v2")
        assert way(Target("127.0.0.1", server.port, identity, options), get())[0] == b"ok"


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        assert piece
        data += piece
    return data
