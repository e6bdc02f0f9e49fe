"""TLS of both engines: verification, identities, client certificates, failures."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from collections.abc import Callable
from contextlib import suppress

import pytest
from engine_support import (
    LOOPS,
    HttpServer,
    Peer,
    RawServer,
    Reply,
    certificate,
    counts,
    get,
    post,
    read,
    total,
    using,
)

from meshclient.model.outcome import ResetReason
from meshclient.transport.async_engine import AsyncEngine
from meshclient.transport.interface import AsyncWireResponse, Target, WireError
from meshclient.transport.sync_engine import SyncEngine
from meshclient.transport.tls import TlsIdentity, default_context

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificates")
loops = pytest.mark.parametrize("kind", LOOPS)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return certificate(tmp_path_factory.mktemp("tls"), "api.test")


def server_context(pair: tuple[str, str], client_ca: str = "") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)
    context.set_alpn_protocols(["http/1.1"])
    if client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(client_ca)
    return context


def secured(port: int, context: ssl.SSLContext, name: str = "api.test") -> Target:
    return Target("127.0.0.1", port, TlsIdentity(name, context))


@loops
@pytest.mark.parametrize("spare", [0, 1])
def test_bytes_that_are_decrypted_later_are_nobodys_answer(
    kind: str, spare: int, pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first answer ends where a piece of the decrypted stream does (or one byte before); the
    rest is in no socket any more, and the next call begins before the loop hands it on."""
    monkeypatch.setattr("meshclient.transport.asyncio_decrypted.SCRATCH", 4096)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\nX: "
    first_answer = head + b"x" * (4096 - spare - 4004 - len(head)) + b"\r\n\r\n" + bytes(4000)
    forged = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"

    def script(peer: Peer) -> None:
        secure = server_context(pair).wrap_socket(peer.sock, server_side=True)
        peer.sock = secure
        secure.recv(65536)
        true = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntrue"
        secure.sendall(first_answer + forged if peer.number == 1 else true)
        with suppress(OSError):
            secure.recv(65536)
        secure.close()

    with RawServer(script) as server:
        where = secured(server.port, default_context(pair[0]))

        async def second(engine: AsyncEngine) -> bytes:
            while not (engine.stats() and total(engine.stats()).idle):
                if first[0].done():
                    break
                await asyncio.sleep(0)
            return await read(await engine.send(where, get()))

        first: list[asyncio.Task[AsyncWireResponse]] = []

        async def test(engine: AsyncEngine) -> None:
            first.append(asyncio.create_task(engine.send(where, get())))
            assert await second(engine) == b"true"
            assert await read(await first[0]) == bytes(4000)
            assert total(engine.stats()).opened == 2

        using(kind, test)


def sync_send(where: Target, body: bytes | None = None) -> bytes:
    engine = SyncEngine()
    try:
        response = engine.send(where, get() if body is None else post(body))
        assert response.get_extra_info("ssl_object").version() == "TLSv1.3"
        return b"".join(response)
    finally:
        assert counts(engine.stats())[1] == 0
        engine.close()


def async_send(kind: str) -> Callable[..., bytes]:
    def send(where: Target, body: bytes | None = None) -> bytes:
        got: list[bytes] = []

        async def test(engine: AsyncEngine) -> None:
            try:
                response = await engine.send(where, get() if body is None else post(body))
                assert response.get_extra_info("ssl_object").version() == "TLSv1.3"
                got.append(await read(response))
            finally:
                assert counts(engine.stats())[1] == 0

        using(kind, test)
        return got[0]

    return send


SENDERS: dict[str, Callable[..., bytes]] = {
    "sync": sync_send,
    **{kind: async_send(kind) for kind in LOOPS},
}
senders = pytest.mark.parametrize("send", SENDERS.values(), ids=SENDERS.keys())


@senders
@pytest.mark.parametrize("size", [None, 10, 3_000_000])
def test_verified_by_the_name_not_the_address(
    send: Callable[..., bytes], size: int | None, pair: tuple[str, str]
) -> None:
    with HttpServer(tls=server_context(pair)) as server:
        server.handler = lambda r: Reply(200, r.body)
        body = None if size is None else b"x" * size
        assert send(secured(server.port, default_context(pair[0])), body) == (body or b"")


@senders
@pytest.mark.parametrize("wrong", ["name", "authority"])
def test_an_untrusted_server_gets_no_byte(
    send: Callable[..., bytes], wrong: str, pair: tuple[str, str]
) -> None:
    with HttpServer(tls=server_context(pair)) as server:
        context = default_context(pair[0] if wrong == "name" else True)
        name = "other.test" if wrong == "name" else "api.test"
        with pytest.raises(WireError) as caught:
            send(secured(server.port, context, name))
        assert caught.value.reason is ResetReason.CONNECTION_FAILURE
        assert not caught.value.sent
        assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
        assert server.requests == []


@senders
def test_no_verification_only_when_asked_for(
    send: Callable[..., bytes], pair: tuple[str, str]
) -> None:
    with HttpServer(tls=server_context(pair)) as server:
        assert send(secured(server.port, default_context(False), "any.test")) == b"ok"


@senders
def test_client_certificates(send: Callable[..., bytes], pair: tuple[str, str]) -> None:
    with HttpServer(tls=server_context(pair, client_ca=pair[0])) as server:
        assert send(secured(server.port, default_context(pair[0], pair))) == b"ok"


@senders
def test_a_plain_text_server(send: Callable[..., bytes], pair: tuple[str, str]) -> None:
    def script(peer: Peer) -> None:
        peer.sock.recv(10)
        peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with RawServer(script) as server:
        with pytest.raises(WireError) as caught:
            send(secured(server.port, default_context(pair[0])))
        assert caught.value.reason is ResetReason.CONNECTION_FAILURE
        assert not caught.value.sent


@senders
def test_a_handshake_that_hangs(send: Callable[..., bytes], pair: tuple[str, str]) -> None:
    from meshclient.model.cluster import ConnectionOptions

    with RawServer(lambda peer: peer.wait_closed()) as server:
        options = ConnectionOptions(connect_timeout_s=0.1)
        identity = TlsIdentity("api.test", default_context(pair[0]))
        with pytest.raises(WireError) as caught:
            send(Target("127.0.0.1", server.port, identity, options))
        assert caught.value.timeout == "connect"
        assert server.ended.acquire(timeout=5)


@senders
def test_a_context_that_negotiates_another_protocol(
    send: Callable[..., bytes], pair: tuple[str, str]
) -> None:
    theirs = server_context(pair)
    theirs.set_alpn_protocols(["h2"])
    ours = ssl.create_default_context(cafile=pair[0])
    ours.set_alpn_protocols(["h2"])
    with HttpServer(tls=theirs) as server, pytest.raises(WireError, match="'h2' by ALPN"):
        send(secured(server.port, ours))


@loops
def test_one_pool_per_identity(kind: str, pair: tuple[str, str]) -> None:
    """The same address under another name or context never shares a connection."""
    with HttpServer(tls=server_context(pair)) as server:

        async def test(engine: AsyncEngine) -> None:
            loose = default_context(False)
            for context, name in ((default_context(pair[0]), "api.test"), (loose, "b.test")):
                for _ in range(2):
                    await engine.send(secured(server.port, context, name), get())
            with pytest.raises(WireError):
                await engine.send(secured(server.port, default_context(pair[0]), "b.test"), get())

        using(kind, test)
        assert [r.connection for r in server.requests] == [1, 1, 2, 2]


def test_contexts_are_built_once_and_strangers_are_left_alone(pair: tuple[str, str]) -> None:
    assert default_context() is default_context()
    assert default_context(pair[0]) is default_context(pair[0])
    assert default_context(pair[0], pair) is not default_context(pair[0])
    mine = ssl.create_default_context()
    assert default_context(mine) is mine
    with pytest.raises(ValueError, match="into the context"):
        default_context(mine, pair)
    with pytest.raises(OSError):
        default_context("/does/not/exist.pem")
    assert default_context().verify_mode is ssl.CERT_REQUIRED
    assert default_context().check_hostname


def test_roots_come_from_the_environment(
    pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", pair[0])
    subjects = [c["subject"] for c in default_context().get_ca_certs()]
    assert subjects == [((("commonName", "api.test"),),)]
    assert len(default_context(trust_env=False).get_ca_certs()) > 10
