"""Trailers of HTTP/1.1 answers, as callers of both shells and of httpx see them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from abuse_support import CHUNKED, REFUSED, SHELLS, both, hostile
from engine_support import Peer, RawServer, answer, counts, get, target, using

from meshclient import Mesh, MeshError
from meshclient.transport.async_engine import AsyncEngine
from meshclient.transport.sync_engine import SyncEngine

END = b"0\r\nX-Sum: 1\r\nSet-Cookie: a=b\r\nContent-Type: x\r\n\r\n"
SUM = [(b"X-Sum", b"1")]


def trailing(whole: bool, body: bytes = b"2\r\nhi\r\n") -> RawServer:
    """The first answer has trailers, with its head or later; the second has none."""

    def script(peer: Peer) -> None:
        peer.read_head()
        if whole:
            peer.send(CHUNKED + body + END)
        else:
            peer.send(CHUNKED + body)
            peer.sock.recv(1)  # the reader has seen the first piece
            peer.send(END)
        while peer.read_head():
            peer.send(answer(b"none"))

    return RawServer(script)


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("whole", [True, False])
def test_trailers_belong_to_their_answer(shell: str, whole: bool) -> None:
    """There when the body is read, and not with the next answer on that connection."""
    with trailing(whole) as server:
        if shell == "sync":
            engine = SyncEngine()
            first: Any = engine.send(target(server), get())
            if not whole:
                assert next(iter(first)) == b"hi"
                assert first.get_extra_info("trailers") == []
                first.get_extra_info("socket").send(b"!")
            rest = b"".join(first)
            second: Any = engine.send(target(server), get())
            found = [first.get_extra_info("trailers"), second.get_extra_info("trailers")]
            assert (rest, found) == (b"hi" if whole else b"", [SUM, []])
            assert (second.content, counts(engine.stats())) == (b"none", (1, 0))
            engine.close()
            return

        async def run(engine: AsyncEngine) -> None:
            response: Any = await engine.send(target(server), get())
            if not whole:
                assert await anext(response) == b"hi"
                assert response.get_extra_info("trailers") == []
                response._connection.transport.write(b"!")
            rest = b"".join([piece async for piece in response])
            other: Any = await engine.send(target(server), get())
            found = [response.get_extra_info("trailers"), other.get_extra_info("trailers")]
            assert (rest, found) == (b"hi" if whole else b"", [SUM, []])
            assert (other.content, counts(engine.stats())) == (b"none", (1, 0))

        using(shell, run)


@pytest.mark.parametrize("shell", SHELLS)
def test_headers_have_none_of_them(shell: str) -> None:
    with trailing(True) as server:
        heads: list[Any] = []
        if shell == "sync":
            engine = SyncEngine()
            heads.append(engine.send(target(server), get()).headers)
            engine.close()
        else:

            async def run(engine: AsyncEngine) -> None:
                heads.append((await engine.send(target(server), get())).headers)

            using(shell, run)
    assert heads == [[(b"Transfer-Encoding", b"chunked")]]


def mesh_to(server: RawServer, **connection: int) -> Mesh:
    service = {"endpoints": [f"127.0.0.1:{server.port}"], "connection": connection}
    return Mesh.from_documents([{"version": 1, "services": {"svc": service}}])


def test_through_httpx() -> None:
    with trailing(True) as server, mesh_to(server) as mesh, mesh.client() as client:
        response = client.get("http://svc/")
        assert response.text == "hi"
        assert response.extensions["network_stream"].get_extra_info("trailers") == SUM
        assert "x-sum" not in response.headers


def test_through_httpx_async() -> None:
    async def run(server: RawServer) -> None:
        async with mesh_to(server) as mesh, mesh.async_client() as client:
            response = await client.get("http://svc/")
            assert response.extensions["network_stream"].get_extra_info("trailers") == SUM

    with trailing(True) as server:
        asyncio.run(asyncio.wait_for(run(server), 20))


LINES = b"".join(b"A%d: bcdefg\r\n" % number for number in range(120))
MANY = b"HTTP/1.1 200 OK\r\n" + LINES + b"Content-Length: 2\r\n\r\nhi"


@pytest.mark.parametrize("shell", SHELLS)
def test_more_lines_than_allowed_by_default(shell: str) -> None:
    with hostile(MANY) as server:
        assert both(shell, server)[0] == REFUSED


def test_the_limits_of_a_service_are_its_own() -> None:
    """120 header lines: too many by default, welcome where the file says so."""
    with hostile(MANY) as server, mesh_to(server) as mesh, mesh.client() as client:
        with pytest.raises(MeshError) as caught:
            client.get("http://svc/")
        assert caught.value.report.flags == ("UPE",)
    with (
        hostile(MANY) as server,
        mesh_to(server, max_response_headers=121) as mesh,
        mesh.client() as client,
    ):
        assert client.get("http://svc/").text == "hi"
    with (
        hostile(MANY) as server,
        mesh_to(server, max_response_headers=121, max_response_header_kb=1) as mesh,
        mesh.client() as client,
        pytest.raises(MeshError, match="1024 bytes"),
    ):
        client.get("http://svc/")


def test_envoys_answer_to_a_head_that_is_too_large() -> None:
    service: dict[str, Any] = {
        "connection": {"max_response_header_kb": 1, "max_response_headers": 999}
    }
    with hostile(MANY) as server:
        service["endpoints"] = [f"127.0.0.1:{server.port}"]
        document = {"version": 1, "services": {"svc": service}}
        with Mesh.from_documents([document], local_replies="respond") as mesh:
            response = mesh.client().get("http://svc/")
    assert response.status_code == 502
    assert response.extensions["meshclient"].flags == ("UPE",)
