"""Closed at every point where a call can wait: it ends at once, and says why."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import pytest
from abuse_support import CHUNKED, SHELLS, stay
from engine_support import (
    DeafListener,
    Peer,
    RawServer,
    answer,
    counts,
    get,
    half,
    post,
    silent,
    using,
)
from life_support import nothing_left

from meshclient import ClosedError, Mesh, MeshError
from meshclient.model.cluster import ConnectionOptions, Limits
from meshclient.model.outcome import ResetReason
from meshclient.transport.async_engine import AsyncEngine
from meshclient.transport.interface import Target, WireError, WireRequest
from meshclient.transport.opening import Opening
from meshclient.transport.proxy import Proxy
from meshclient.transport.slots import ConnectionSlots
from meshclient.transport.sync_engine import SyncEngine
from meshclient.transport.tls import TlsIdentity

AT_ONCE_S = 2.0
MIB = bytes(1 << 20)
#: Longer than any test: nothing but closing ends these calls.
OPTIONS = ConnectionOptions(connect_timeout_s=60.0)


def deaf(peer: Peer) -> None:
    """Takes the head, then no byte of the body."""
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.read_head()
    released.wait(30)


def continues_never(peer: Peer) -> None:
    """An interim answer that is no permission, and then nothing."""
    peer.read_head()
    peer.send(b"HTTP/1.1 103 E\r\n\r\n")
    peer.wait_closed()


def trickles(peer: Peer) -> None:
    peer.read_head()
    peer.send(CHUNKED)
    peer.wait_closed()


released = threading.Event()


def endless() -> Iterator[bytes]:
    while True:
        yield MIB


async def endless_async() -> AsyncIterator[bytes]:
    while True:
        yield MIB


async def source_waits() -> AsyncIterator[bytes]:
    yield b"x"
    await asyncio.Event().wait()


def plain(port: int) -> Target:
    return Target("127.0.0.1", port, None, OPTIONS)


def two_addresses(port: int) -> Target:
    return Target("127.0.0.1", port, None, OPTIONS, more_addresses=("127.0.0.2",))


def secure(port: int) -> Target:
    return Target("127.0.0.1", port, TlsIdentity("x", ssl.create_default_context()), OPTIONS)


def http2(port: int) -> Target:
    return Target("127.0.0.1", port, None, OPTIONS, protocol="h2")


def proxied(scheme: str) -> Callable[[int], Target]:
    def target(port: int) -> Target:
        return Target("db", 80, None, OPTIONS, proxy=Proxy(scheme, "127.0.0.1", port))

    return target


def expecting(_: str) -> WireRequest:
    return post(MIB, (b"Expect", b"100-continue"))


def uploading(shell: str) -> WireRequest:
    return post(endless() if shell == "sync" else endless_async())


#: Server, target, request (of a shell).
WAITS: dict[
    str, tuple[Callable[[], Any], Callable[[int], Target], Callable[[str], WireRequest]]
] = {
    "connecting": (DeafListener, plain, lambda _: get()),
    "racing addresses": (DeafListener, two_addresses, lambda _: get()),
    "TLS handshake": (lambda: RawServer(stay), secure, lambda _: get()),
    "HTTP proxy": (lambda: RawServer(stay), proxied("http"), lambda _: get()),
    "SOCKS proxy": (lambda: RawServer(stay), proxied("socks5"), lambda _: get()),
    "HTTP/2 settings": (lambda: RawServer(stay), http2, lambda _: get()),
    "100 Continue": (lambda: RawServer(continues_never), plain, expecting),
    "writing": (lambda: RawServer(deaf), plain, lambda _: post(MIB * 32)),
    "uploading": (lambda: RawServer(deaf), plain, uploading),
    "head": (lambda: RawServer(silent), plain, lambda _: get()),
    "body": (lambda: RawServer(half), plain, lambda _: get()),
    "chunked body": (lambda: RawServer(trickles), plain, lambda _: get()),
}


def read_sync(engine: SyncEngine, where: Target, request: WireRequest, ended: list[Any]) -> None:
    try:
        ended.append(b"".join(engine.send(where, request)))
    except BaseException as error:
        ended.append(error)


def check(ended: list[Any], began: float) -> None:
    assert time.monotonic() - began < AT_ONCE_S
    (error,) = ended
    assert isinstance(error, WireError), repr(error)
    assert (error.reason, str(error)) == (ResetReason.CANCELLED, "the engine is closed")


def closed_while_waiting(shell: str, where: Target, request: WireRequest) -> None:
    ended: list[Any] = []
    if shell == "sync":
        engine = SyncEngine()
        thread = threading.Thread(
            target=read_sync, args=(engine, where, request, ended), daemon=True
        )
        thread.start()
        time.sleep(0.1)
        assert not ended, ended
        began = time.monotonic()
        engine.close()
        thread.join(AT_ONCE_S)
        check(ended, began)
        assert counts(engine.stats()) == (0, 0)
        return

    async def run(engine: AsyncEngine) -> None:
        async def call() -> bytes:
            return b"".join([piece async for piece in await engine.send(where, request)])

        task = asyncio.create_task(call())
        await asyncio.sleep(0.1)
        assert not task.done(), task
        began = time.monotonic()
        await engine.aclose()
        ended.extend(await asyncio.gather(task, return_exceptions=True))
        check(ended, began)
        assert counts(engine.stats()) == (0, 0)

    using(shell, run)


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("name", WAITS)
def test_closing_the_engine(shell: str, name: str) -> None:
    make, where, request = WAITS[name]
    released.clear()
    server: AbstractContextManager[Any]
    with nothing_left(), make() as server:
        try:
            closed_while_waiting(shell, where(server.port), request(shell))  # type: ignore[attr-defined]
        finally:
            released.set()


@pytest.mark.parametrize("shell", ["asyncio", "uvloop"])
def test_closing_while_the_callers_own_source_waits(shell: str) -> None:
    released.clear()
    with RawServer(deaf) as server:
        closed_while_waiting(shell, plain(server.port), post(source_waits()))
        released.set()


def test_closing_while_a_threads_own_source_waits() -> None:
    """Nothing can wake it; when it comes back, the call is over."""
    waits, goes_on = threading.Event(), threading.Event()

    def source() -> Iterator[bytes]:
        yield b"x"
        waits.set()
        goes_on.wait(10)
        yield b"y"

    ended: list[Any] = []
    released.clear()
    with nothing_left(), RawServer(deaf) as server:
        engine = SyncEngine()
        arguments = (engine, plain(server.port), post(source()), ended)
        thread = threading.Thread(target=read_sync, args=arguments, daemon=True)
        thread.start()
        assert waits.wait(5)
        engine.close()
        assert not ended
        began = time.monotonic()
        goes_on.set()
        thread.join(AT_ONCE_S)
        check(ended, began)
        released.set()


@pytest.mark.parametrize("shell", SHELLS)
def test_closing_while_a_call_is_queued(shell: str) -> None:
    """Behind one that holds the only slot, and is ended as well."""
    slots = ConnectionSlots(Limits(max_connections=1))
    with RawServer(silent) as server:
        where = Target("127.0.0.1", server.port, None, OPTIONS, connections=slots)
        if shell == "sync":
            engine = SyncEngine()
            ended: list[Any] = []
            arguments = (engine, where, get(), ended)
            threads = [threading.Thread(target=read_sync, args=arguments) for _ in range(3)]
            for thread in threads:
                thread.start()
            time.sleep(0.1)
            assert slots.waiting == 2
            engine.close()
            for thread in threads:
                thread.join(AT_ONCE_S)
        else:

            async def run(engine: AsyncEngine) -> None:
                calls = [asyncio.create_task(engine.send(where, get())) for _ in range(3)]
                await asyncio.sleep(0.1)
                assert slots.waiting == 2
                await engine.aclose()
                ended.extend(await asyncio.gather(*calls, return_exceptions=True))

            ended = []
            using(shell, run)
        assert [str(error) for error in ended] == ["the engine is closed"] * 3
        assert (slots.waiting, slots.open) == (0, 0)


def test_cancelled_and_closed_in_the_same_moment_is_cancelled() -> None:
    """The cancellation of the caller's own is never swallowed."""

    async def run(engine: AsyncEngine) -> None:
        with DeafListener() as server:
            task = asyncio.create_task(engine.send(plain(server.port), get()))
            await asyncio.sleep(0.02)
            engine.close()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    using("asyncio", run)


def mesh_of(port: int, **fields: Any) -> Mesh:
    connection = {"connect_timeout": "60s"}
    service = {"endpoints": [f"127.0.0.1:{port}"], "connection": connection, **fields}
    return Mesh.from_documents([{"version": 1, "services": {"svc": service}}])


#: What a call through the whole mesh waits for: server, fields of the service.
MESH_WAITS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "connecting": (DeafListener, {}),
    "head": (lambda: RawServer(silent), {}),
    "body": (lambda: RawServer(half), {}),
    "queue": (lambda: RawServer(silent), {"limits": {"max_connections": 1}}),
    "TLS handshake": (lambda: RawServer(stay), {"tls": {"mode": "simple"}}),
}


@pytest.mark.parametrize("way", ["sync", "aclose", "close in another thread"])
@pytest.mark.parametrize("name", MESH_WAITS)
def test_closing_the_mesh(name: str, way: str) -> None:
    make, fields = MESH_WAITS[name]
    ended: list[Any] = []
    count = 2 if name == "queue" else 1

    def call(client: Any) -> None:
        try:
            client.get("http://svc/", timeout=None)
        except BaseException as error:
            ended.append(error)

    async def run(mesh: Mesh) -> None:
        client = mesh.async_client()
        calls = [asyncio.create_task(client.get("http://svc/", timeout=None)) for _ in range(count)]
        await asyncio.sleep(0.1)
        if way == "aclose":
            await mesh.aclose()
        else:
            await asyncio.to_thread(mesh.close)
        async with asyncio.timeout(AT_ONCE_S):
            ended.extend(await asyncio.gather(*calls, return_exceptions=True))

    with nothing_left(), ExitStack() as stack:
        server = stack.enter_context(make())
        mesh = stack.enter_context(mesh_of(server.port, **fields))
        mesh.wait_ready()
        if way == "sync":
            client = mesh.client()
            threads = [
                threading.Thread(target=call, args=(client,), daemon=True) for _ in range(count)
            ]
            for thread in threads:
                thread.start()
            time.sleep(0.1)
            mesh.close()
            for thread in threads:
                thread.join(AT_ONCE_S)
        else:
            asyncio.run(run(mesh))
        assert len(ended) == count
        for error in ended:
            assert isinstance(error, MeshError), repr(error)
            assert "closed" in str(error)
        with pytest.raises(ClosedError):
            mesh.client()


#: With full jitter: a pause of any length up to this, hardly ever a short one.
BACK_OFF = {"base": "1000s", "max": "1000s"}
#: What a call waits for outside the wire: the service's fields, and the path of the request.
PAUSES: dict[str, dict[str, Any]] = {
    "a back-off": {"retries": {"attempts": 3, "on": ["5xx"], "back_off": BACK_OFF}},
    "an injected delay": {"fault": {"delay": {"fixed_delay": "20s", "percentage": 100}}},
}


@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("name", PAUSES)
def test_closing_the_mesh_while_a_call_pauses(name: str, way: str) -> None:
    """Noticed within a part of a second, although nothing wakes a sleeper."""
    ended: list[Any] = []

    def script(peer: Peer) -> None:
        while peer.read_head():
            peer.send(answer(b"no", 503))

    def call() -> None:
        try:
            ended.append(mesh.client().get("http://svc/", timeout=None))
        except BaseException as error:
            ended.append(error)

    async def run() -> None:
        task = asyncio.create_task(mesh.async_client().get("http://svc/", timeout=None))
        await asyncio.sleep(0.1)
        assert not task.done(), task
        await mesh.aclose()
        async with asyncio.timeout(AT_ONCE_S):
            ended.extend(await asyncio.gather(task, return_exceptions=True))

    with nothing_left(), RawServer(script) as server, mesh_of(server.port, **PAUSES[name]) as mesh:
        mesh.wait_ready()
        if way == "async":
            asyncio.run(run())
        else:
            thread = threading.Thread(target=call, daemon=True)
            thread.start()
            time.sleep(0.1)
            assert not ended, ended
            mesh.close()
            thread.join(AT_ONCE_S)
        (error,) = ended
        assert isinstance(error, MeshError), repr(error)
        assert "closed" in str(error)


def test_after_the_close_nothing_was_answered_twice() -> None:
    """An answer that had come is kept: closing takes nothing back."""
    with RawServer(lambda peer: [peer.read_head(), peer.send(answer(b"here"))]) as server:
        engine = SyncEngine()
        response = engine.send(plain(server.port), get())
        engine.close()
        assert response.content == b"here"


def test_an_opening_that_is_cancelled() -> None:
    """Before, while and after a thread waits on a socket."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        opening = Opening()
        opening.holds(ours)
        opening.holds(None)
        opening.cancel()
        theirs.send(b"x")
        assert ours.recv(1) == b"x"  # it had let go of it
        with pytest.raises(WireError, match="closed"):
            opening.holds(ours)
        opening.holds(None)
        assert opening.cancelled
        held = Opening()
        held.holds(ours)
        held.cancel()
        assert ours.recv(1) == b""
        held.cancel()


def test_closing_again_changes_nothing() -> None:
    async def run(engine: AsyncEngine) -> None:
        with DeafListener() as server:
            task = asyncio.create_task(engine.send(plain(server.port), get()))
            await asyncio.sleep(0.02)
            for _ in range(3):
                engine.close()
            with pytest.raises(WireError, match="closed"):
                await task
            with pytest.raises(WireError, match="closed"):
                await engine.send(plain(server.port), get())

    using("asyncio", run)
