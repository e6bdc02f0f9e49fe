"""What a caller (or what fills in its values) could smuggle into a request: nothing is sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from abuse_support import SHELLS, answer, hostile
from engine_support import RawServer, target, using

from meshclient import Mesh
from meshclient.transport.async_engine import AsyncEngine
from meshclient.transport.interface import InvalidRequest, WireRequest
from meshclient.transport.sync_engine import SyncEngine

HOST = (b"Host", b"test")
SPLIT = b"\r\nX-Admin: yes"

BAD: dict[str, tuple[bytes, bytes, list[tuple[bytes, bytes]], Any]] = {
    "CRLF in the method": (b"GET / HTTP/1.1\r\nX: y\r\n\r\nGET", b"/", [HOST], None),
    "space in the method": (b"GET /admin", b"/", [HOST], None),
    "no method": (b"", b"/", [HOST], None),
    "NUL in the method": (b"G\0T", b"/", [HOST], None),
    "CRLF in the target": (b"GET", b"/ HTTP/1.1" + SPLIT, [HOST], None),
    "space in the target": (b"GET", b"/a b", [HOST], None),
    "NUL in the target": (b"GET", b"/a\0b", [HOST], None),
    "no target": (b"GET", b"", [HOST], None),
    "CRLF in a value": (b"GET", b"/", [HOST, (b"A", b"b" + SPLIT)], None),
    "LF in a value": (b"GET", b"/", [HOST, (b"A", b"b\nX: y")], None),
    "CR in a value": (b"GET", b"/", [HOST, (b"A", b"b\rX: y")], None),
    "NUL in a value": (b"GET", b"/", [HOST, (b"A", b"b\0c")], None),
    "CRLF in a name": (b"GET", b"/", [HOST, (b"A: b" + SPLIT, b"c")], None),
    "colon in a name": (b"GET", b"/", [HOST, (b"A:", b"c")], None),
    "space in a name": (b"GET", b"/", [HOST, (b"Content-Length ", b"0")], None),
    "no name": (b"GET", b"/", [HOST, (b"", b"c")], None),
    "invalid UTF-8 in a name": (b"GET", b"/", [HOST, (b"A\xff", b"c")], None),
    "CRLF in the host": (b"GET", b"/", [(b"Host", b"test" + SPLIT)], None),
    "two lengths": (
        b"POST",
        b"/",
        [HOST, (b"Content-Length", b"2"), (b"Content-Length", b"2")],
        b"hi",
    ),
    "length and coding": (
        b"POST",
        b"/",
        [HOST, (b"Content-Length", b"2"), (b"Transfer-Encoding", b"chunked")],
        b"hi",
    ),
    "negative length": (b"POST", b"/", [HOST, (b"Content-Length", b"-1")], b"hi"),
    "a length that lies": (b"POST", b"/", [HOST, (b"Content-Length", b"1")], b"hi"),
    "a length without a body": (b"GET", b"/", [HOST, (b"Content-Length", b"7")], None),
    "coding without a body": (b"GET", b"/", [HOST, (b"Transfer-Encoding", b"chunked")], None),
    "a foreign coding": (b"POST", b"/", [HOST, (b"Transfer-Encoding", b"gzip")], b"hi"),
    "a coding twice": (
        b"POST",
        b"/",
        [HOST, (b"Transfer-Encoding", b"chunked"), (b"Transfer-Encoding", b"chunked")],
        b"hi",
    ),
    "CONNECT without a port": (b"CONNECT", b"other", [HOST], None),
    "CONNECT with a body": (b"CONNECT", b"other:443", [HOST], b"hi"),
    "a body hidden behind CONNECT": (
        b"CONNECT",
        b"other:443",
        [HOST, (b"Content-Length", b"2")],
        b"hi",
    ),
    "no host": (b"GET", b"/", [], None),
    "two hosts": (b"GET", b"/", [HOST, (b"host", b"other")], None),
    "beyond ASCII in the target": (b"GET", b"/\xc3\xbc", [HOST], None),
    "a control in a value": (b"GET", b"/", [HOST, (b"A", b"b\x0bc")], None),
}


@pytest.mark.parametrize("shell", SHELLS)
def test_nothing_of_it_reaches_the_server(shell: str) -> None:
    with hostile(answer(b"same")) as server:
        if shell == "sync":
            engine = SyncEngine()
            for name, parts in BAD.items():
                with pytest.raises(InvalidRequest) as caught:
                    engine.send(target(server), WireRequest(*parts))
                assert not caught.value.sent, name
            engine.close()
        else:

            async def run(engine: AsyncEngine) -> None:
                for name, parts in BAD.items():
                    with pytest.raises(InvalidRequest) as caught:
                        await engine.send(target(server), WireRequest(*parts))
                    assert not caught.value.sent, name

            using(shell, run)
        assert (server.accepted, server.heads) == (0, [])


def too_long() -> Iterator[bytes]:
    yield b"hi"
    yield b"GET /admin HTTP/1.1\r\nHost: test\r\n\r\n"


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("pieces", [too_long, lambda: iter([b"h"])], ids=["longer", "shorter"])
def test_a_stream_that_breaks_its_length_breaks_its_connection(shell: str, pieces: Any) -> None:
    """Not a byte beyond the length leaves; a request that stays short is never completed."""
    got: list[bytes] = []

    def script(peer: Any) -> None:
        peer.read_head()
        got.append(peer.wait_closed())

    request = WireRequest(b"POST", b"/", [HOST, (b"Content-Length", b"2")], pieces())
    with RawServer(script) as server:
        if shell == "sync":
            engine = SyncEngine()
            with pytest.raises(InvalidRequest):
                engine.send(target(server), request)
            assert not any(pool.connections for pool in engine._pools.values())
            engine.close()
        else:

            async def run(engine: AsyncEngine) -> None:
                with pytest.raises(InvalidRequest):
                    await engine.send(target(server), request)

            using(shell, run)
        server.ended.acquire(timeout=5)
    assert got in ([b"hi"], [b"h"], [b""])


@pytest.mark.parametrize(
    "request_of",
    [
        lambda c: c.build_request("GET", "http://echo/", headers={"A": "b\r\nX: y"}),
        lambda c: c.build_request("GET", "http://echo/", headers={"A\r\nX": "y"}),
        lambda c: c.build_request("GE T", "http://echo/"),
        lambda c: c.build_request("GET", "http://echo/", extensions={"target": b"/ x\r\nA: b"}),
    ],
)
def test_through_httpx_it_is_a_local_protocol_error(request_of: Any) -> None:
    with hostile(answer(b"same")) as server:
        service = {"endpoints": [f"127.0.0.1:{server.port}"], "retries": {"attempts": 2}}
        with Mesh.from_documents([{"version": 1, "services": {"echo": service}}]) as mesh:
            mesh.wait_ready()
            with mesh.client() as client, pytest.raises(httpx.LocalProtocolError):
                client.send(request_of(client))
        assert server.accepted == 0
