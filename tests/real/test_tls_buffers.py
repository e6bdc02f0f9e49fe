"""The buffers that the TLS connections of a loop share: no byte gets from one to another."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from engine_support import LOOPS, certificate, get, read, run_on, using
from servers.http2 import H2Server, Request

from meshclient.transport import asyncio_decrypted
from meshclient.transport.async_engine import AsyncEngine
from meshclient.transport.asyncio_decrypted import SCRATCH, Decrypted, TlsBuffers
from meshclient.transport.interface import Target
from meshclient.transport.tls import TlsIdentity, default_context

NAME = "api.test"
CONNECTIONS = 12
EACH = 600_000

if shutil.which("openssl") is None:
    pytest.skip("makes its certificates with openssl", allow_module_level=True)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return certificate(tmp_path_factory.mktemp("tls"), NAME)


def server_context(pair: tuple[str, str], *alpn: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


class Sink(asyncio.Protocol):
    """Keeps what comes; of some, only up to a point, where it breaks off in the middle."""

    def __init__(self, buffers: TlsBuffers, most: int) -> None:
        self.buffers = buffers
        self.most = most
        self.got = bytearray()
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.buffers.attach(self.transport, self)
        self.transport.write(b"go")

    def data_received(self, data: bytes) -> None:
        self.got += data
        if len(self.got) >= self.most:
            self.transport.abort()

    def part_received(self, data: bytes) -> None:
        self.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.over.done():
            self.over.set_result(None)


async def many(pair: tuple[str, str], buffers: TlsBuffers) -> list[Sink]:
    """Connections that receive at once, each another letter; every third breaks off."""
    letters = iter(range(65, 65 + CONNECTIONS))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        letter = next(letters)
        try:
            await reader.readexactly(2)
            for size in (1, 100, 16_384, 16_385, 70_000, EACH):
                writer.write(bytes([letter]) * size)
                await writer.drain()
                await asyncio.sleep(0)
            writer.close()
        except OSError:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_context(pair))
    port = server.sockets[0].getsockname()[1]
    context, loop = default_context(pair[0]), asyncio.get_running_loop()
    sinks = []
    for number in range(CONNECTIONS):
        most = 60_000 if number % 3 == 0 else 10**9
        _, sink = await loop.create_connection(
            lambda most=most: Sink(buffers, most),
            "127.0.0.1",
            port,
            ssl=context,
            server_hostname=NAME,
        )
        sinks.append(sink)
    for sink in sinks:
        await sink.over
    server.close()
    await server.wait_closed()
    return sinks


@pytest.mark.parametrize("kind", LOOPS)
@pytest.mark.parametrize("unknown", [False, True], ids=["this loop", "a loop of another make"])
def test_connections_that_receive_at_once_get_their_own_bytes(
    kind: str, unknown: bool, pair: tuple[str, str]
) -> None:
    async def test() -> None:
        loop: Any = object() if unknown else asyncio.get_running_loop()
        sinks = await many(pair, TlsBuffers(loop))
        whole = 1 + 100 + 16_384 + 16_385 + 70_000 + EACH
        for sink in sinks:
            assert len(set(sink.got)) == 1
            assert len(sink.got) == whole or len(sink.got) >= sink.most
        assert len({sink.got[0] for sink in sinks}) == CONNECTIONS

    run_on(kind, test())


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="private to asyncio; read up to 3.13")
def test_asyncio_keeps_one_buffer_for_what_is_encrypted_and_not_one_for_each(
    pair: tuple[str, str],
) -> None:
    async def test() -> None:
        sinks = await many(pair, TlsBuffers(asyncio.get_running_loop()))
        held = [sink.transport._ssl_protocol._ssl_buffer for sink in sinks]
        assert len({id(one) for one in held}) == 1

    run_on("asyncio", test())


def _transport(**attributes: Any) -> Any:
    found: list[Any] = []
    tls = SimpleNamespace(**attributes)
    return SimpleNamespace(set_protocol=found.append, protocols=found, _ssl_protocol=tls)


OWN = bytearray(256 * 1024)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"_ssl_buffer": OWN},
        {"_ssl_buffer": bytes(9), "_ssl_buffer_view": None},
        {"_ssl_buffer": None, "_ssl_buffer_view": None},
    ],
    ids=["none", "no view", "of another type", "nothing"],
)
def test_other_private_attributes_are_left_alone(attributes: dict[str, Any]) -> None:
    with asyncio.Runner() as runner:
        buffers = TlsBuffers(runner.get_loop())
        transport = _transport(**attributes)
        buffers.attach(transport, Any)  # type: ignore[arg-type]
        assert vars(transport._ssl_protocol) == attributes
        assert isinstance(transport.protocols[0], Decrypted)


def test_a_buffer_of_another_size_is_not_exchanged_for_a_smaller_one() -> None:
    with asyncio.Runner() as runner:
        buffers = TlsBuffers(runner.get_loop())
        sizes = [100, 100, 300, 300, 100]
        transports = [_transport(_ssl_buffer=bytearray(n), _ssl_buffer_view=None) for n in sizes]
        for transport, size in zip(transports, sizes, strict=True):
            buffers.attach(transport, Any)  # type: ignore[arg-type]
            tls = transport._ssl_protocol
            assert len(tls._ssl_buffer) == len(tls._ssl_buffer_view) == size
        first, second = (transports[n]._ssl_protocol._ssl_buffer for n in (0, 1))
        assert first is second


@pytest.mark.parametrize(
    ("make", "shared", "swaps"),
    [
        (asyncio.SelectorEventLoop, True, True),
        (LOOPS["uvloop"], True, False),
        (asyncio.BaseEventLoop, True, False),
        (object, False, False),
    ],
    ids=["selectors", "uvloop", "another of asyncio's", "of another make"],
)
def test_what_is_shared_on_which_loop(make: Callable[[], Any], shared: bool, swaps: bool) -> None:
    loop = make()
    buffers = TlsBuffers(loop)
    transports = [_transport(_ssl_buffer=bytearray(9), _ssl_buffer_view=None) for _ in range(2)]
    for transport in transports:
        buffers.attach(transport, Any)  # type: ignore[arg-type]
    first, second = (transport.protocols[0].get_buffer(-1) for transport in transports)
    assert (first is second, buffers._encrypted is not None) == (shared, swaps)
    if hasattr(loop, "close"):
        loop.close()


def test_what_is_handed_on_is_a_copy_of_just_the_bytes_that_came() -> None:
    seen: list[tuple[str, bytes]] = []
    connection: Any = SimpleNamespace(
        data_received=lambda data: seen.append(("all", data)),
        part_received=lambda data: seen.append(("part", data)),
    )
    scratch = memoryview(bytearray(b"stale" * (SCRATCH // 5)))
    protocol = Decrypted(connection, scratch)
    protocol.get_buffer(-1)[:3] = b"abc"
    protocol.buffer_updated(3)
    protocol.get_buffer(-1)[:2] = b"xy"
    protocol.buffer_updated(len(scratch))
    assert seen[0] == ("all", b"abc")
    assert (seen[1][0], len(seen[1][1]), seen[1][1][:5]) == ("part", SCRATCH, b"xycle")


@pytest.mark.parametrize("kind", LOOPS)
def test_bodies_of_both_protocols_over_many_connections(
    kind: str, pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the buffer is full with nearly every read."""
    monkeypatch.setattr(asyncio_decrypted, "SCRATCH", 5000)

    def own(request: Request) -> None:
        letter = request.path[1:].encode()
        request.peer.respond(request, body=letter * 400_000)

    with H2Server(own, streams=3, context=server_context(pair, "h2")) as server:

        async def test(engine: AsyncEngine) -> None:
            identity = TlsIdentity(NAME, default_context(pair[0], http2=True))
            target = Target("127.0.0.1", server.port, identity, protocol="h2")

            async def one(letter: bytes) -> None:
                response = await engine.send(target, get(b"/" + letter))
                assert await read(response) == letter * 400_000

            await asyncio.gather(*[one(bytes([65 + n])) for n in range(12)])
            assert len(server.peers) > 1

        using(kind, test)
