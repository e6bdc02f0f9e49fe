"""The keep-alive race, ``Expect: 100-continue``, and bytes that wait on an idle connection."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from engine_support import (
    LOOPS,
    Peer,
    RawServer,
    answer,
    counts,
    get,
    post,
    serve_raw,
    target,
    using,
)

from meshclient import Mesh
from meshclient.model.outcome import ResetReason
from meshclient.transport.async_engine import AsyncEngine
from meshclient.transport.interface import WireError, WireRequest
from meshclient.transport.sync_engine import SyncEngine

SHELLS = ["sync", *LOOPS]


def exchange(
    shell: str, server: RawServer, *requests: WireRequest, pause: Callable[[], Any] | None = None
) -> tuple[list[Any], tuple[int, int]]:
    """Send one after the other; results or errors, and (idle, active) at the end."""
    results: list[Any] = []
    if shell == "sync":
        engine = SyncEngine()
        for request in requests:
            try:
                response = engine.send(target(server), request)
                results.append((response.status, b"".join(response)))
            except WireError as error:
                results.append(error)
            if pause is not None:
                pause()
        found = counts(engine.stats())
        engine.close()
        return results, found
    seen: list[tuple[int, int]] = []

    async def run(engine: AsyncEngine) -> None:
        for request in requests:
            try:
                response = await engine.send(target(server), request)
                results.append((response.status, b"".join([p async for p in response])))
            except WireError as error:
                results.append(error)
            if pause is not None:
                pause()  # blocks the loop: what arrives now is in the kernel only
        seen.append(counts(engine.stats()))

    using(shell, run)
    return results, seen[0]


def once_then_close(how: str) -> Callable[[Peer], None]:
    """Answers once; the next request on that connection gets no byte."""

    def script(peer: Peer) -> None:
        if peer.number > 1:
            while peer.read_head():
                peer.send(answer(b"fresh"))
            return
        peer.read_head()
        peer.send(answer(b"first"))
        peer.read_head()
        if how == "reset":
            peer.reset()
        elif how == "partial":
            peer.send(b"HTTP/1.1 2")

    return script


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("how", ["close", "reset"])
def test_sent_again_once_where_the_caller_allows(shell: str, how: str) -> None:
    asked: list[bool] = []
    with RawServer(once_then_close(how)) as server:
        again = get(resend=lambda: asked.append(True) or True)
        results, found = exchange(shell, server, get(), again)
        assert results == [(200, b"first"), (200, b"fresh")]
        assert (asked, server.accepted, found) == ([True], 2, (1, 0))


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("resend", [None, lambda: False])
def test_not_sent_again_without_permission(shell: str, resend: Any) -> None:
    with RawServer(once_then_close("close")) as server:
        results, _ = exchange(shell, server, get(), get(resend=resend))
        assert isinstance(results[1], WireError)
        assert results[1].reused
        assert server.accepted == 1


@pytest.mark.parametrize("shell", SHELLS)
def test_a_byte_of_an_answer_ends_the_permission(shell: str) -> None:
    with RawServer(once_then_close("partial")) as server:
        results, _ = exchange(shell, server, get(), get(resend=lambda: True))
        assert results[1].reason is ResetReason.CONNECTION_TERMINATION
        assert not results[1].reused
        assert server.accepted == 1


@pytest.mark.parametrize("shell", SHELLS)
def test_a_server_that_always_hangs_up_is_asked_twice_at_most(shell: str) -> None:
    def script(peer: Peer) -> None:
        if peer.number == 1:
            peer.read_head()
            peer.send(answer())
        peer.read_head()

    with RawServer(script) as server:
        results, found = exchange(shell, server, get(), get(resend=lambda: True))
        assert isinstance(results[1], WireError)
        assert (server.accepted, found) == (2, (0, 0))


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("surplus", [answer(b"forged"), b"\r\n", b"x", b"HTTP/1.1 408 T\r\n\r\n"])
def test_what_came_unasked_is_never_read_as_an_answer(shell: str, surplus: bytes) -> None:
    """Bytes (or the end) that only the kernel knows of when the next request starts."""
    arrived = threading.Event()
    go = threading.Event()

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(answer(b"first"))
        if peer.number == 1:
            go.wait(5)
            peer.send(surplus)
            arrived.set()
        peer.wait_closed()

    def pause() -> None:
        go.set()
        assert arrived.wait(5)
        time.sleep(0.01)  # loopback delivers at once; the margin is for a busy machine

    with RawServer(script) as server:
        results, _ = exchange(shell, server, get(), get(), pause=pause)
        assert results == [(200, b"first"), (200, b"first")]
        assert server.accepted == 2


def _mesh(server: RawServer) -> Mesh:
    service = {
        "endpoints": [f"127.0.0.1:{server.port}"],
        "retries": {"attempts": 0},
        "connection": {"resend_stale": True},
    }
    return Mesh.from_documents([{"version": 1, "services": {"echo": service}}])


IDEMPOTENT = ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"]


@pytest.mark.parametrize("method", [*IDEMPOTENT, "POST", "PATCH", "keyed POST"])
def test_httpx_sends_again_what_is_idempotent_and_says_so(method: str) -> None:
    keyed = method.startswith("keyed ")
    headers = {"Idempotency-Key": "1"} if keyed else {}
    method = method.removeprefix("keyed ")
    with RawServer(once_then_close("close")) as server, _mesh(server) as mesh:
        mesh.wait_ready()
        with mesh.client() as client:
            client.get("http://echo/")
            if method in IDEMPOTENT or keyed:
                response = client.request(method, "http://echo/", headers=headers)
                report = response.extensions["meshclient"]
                assert response.status_code == 200
                assert len(report.attempts) == 1
                assert any("sent again" in note for note in report.notes)
            else:
                with pytest.raises(httpx.TransportError):
                    client.request(method, "http://echo/", headers=headers)
                assert server.accepted == 1


def test_httpx_never_sends_a_spent_body_again() -> None:
    with RawServer(once_then_close("close")) as server, _mesh(server) as mesh:
        mesh.wait_ready()
        with mesh.client() as client:
            client.get("http://echo/")
            with pytest.raises(httpx.TransportError):
                client.put("http://echo/", content=iter([b"x"]))
            assert server.accepted == 1


def test_httpx_async_sends_again() -> None:
    async def run(server: RawServer) -> None:
        async with _mesh(server) as mesh:
            await mesh.async_wait_ready()
            async with mesh.async_client() as client:
                await client.get("http://echo/")
                response = await client.get("http://echo/")
                assert response.content == b"fresh"
                assert len(response.extensions["meshclient"].notes) == 1

    with RawServer(once_then_close("close")) as server:
        asyncio.run(asyncio.wait_for(run(server), 20))


# Expect: 100-continue

EXPECT = (b"Expect", b"100-continue")
LENGTH = (b"Content-Length", b"4")


def expecting(body: Any, **limits: Any) -> WireRequest:
    if callable(body):
        body = body()
    return post(body, EXPECT, LENGTH, **limits)


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("body", [b"body", lambda: iter([b"bo", b"dy"])], ids=["bytes", "stream"])
def test_the_body_waits_for_the_100(shell: str, body: Any) -> None:
    early: list[bool] = []

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.sock.settimeout(0.1)
        try:
            peer.read(1)
            early.append(True)
        except TimeoutError:
            early.append(False)
        peer.sock.settimeout(10)
        peer.send(b"HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
        peer.send(answer(peer.read(4)))
        peer.wait_closed()

    with RawServer(script) as server:
        results, found = exchange(shell, server, expecting(body))
        assert (results, early, found) == ([(200, b"body")], [False], (1, 0))


@pytest.mark.parametrize("shell", SHELLS)
def test_a_final_answer_instead_of_the_100_keeps_the_body_at_home(shell: str) -> None:
    for status in (200, 417, 401):

        def script(peer: Peer, status: int = status) -> None:
            peer.read_head()
            peer.send(answer(b"no", status))
            assert peer.wait_closed() == b""

        with RawServer(script) as server:
            results, found = exchange(
                shell, server, expecting(b"body", deadline=time.monotonic() + 9)
            )
            assert (results, found) == ([(status, b"no")], (0, 0))


@pytest.mark.parametrize("shell", SHELLS)
def test_a_server_that_ignores_expect_gets_the_body_after_a_second(shell: str) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(answer(peer.read(4)))
        peer.wait_closed()

    started = time.monotonic()
    with RawServer(script) as server:
        results, found = exchange(shell, server, expecting(b"body"))
    assert (results, found) == ([(200, b"body")], (1, 0))
    assert 0.9 < time.monotonic() - started < 5


@pytest.mark.parametrize("shell", SHELLS)
def test_a_deadline_holds_while_the_100_is_awaited(shell: str) -> None:
    def script(peer: Peer) -> None:
        peer.read_head()
        peer.wait_closed()

    with RawServer(script) as server:
        results, found = exchange(
            shell, server, expecting(b"body", deadline=time.monotonic() + 0.1)
        )
        assert results[0].timeout == "deadline"
        assert found == (0, 0)


@pytest.mark.parametrize("shell", SHELLS)
def test_expect_without_a_body_does_not_wait(shell: str) -> None:
    started = time.monotonic()
    with serve_raw(answer()) as server:
        request = WireRequest(b"GET", b"/", [(b"Host", b"t"), EXPECT])
        assert exchange(shell, server, request)[0] == [(200, b"ok")]
    assert time.monotonic() - started < 0.9
