"""Whole exchanges: our blocking connection beside httpcore2's, on the same answer.

Both get the bytes from a server that answers and leaves. Where both accept, status,
headers and body must be the same; the differences that are meant are those of
:mod:`tests.fuzz.oracle`. No clock.
"""

from __future__ import annotations

import socket
from typing import Any

import httpcore2

from meshclient.transport.http1_request import encode_request
from meshclient.transport.interface import Target, WireError, WireRequest
from meshclient.transport.pool import Pool
from meshclient.transport.socket_shell import SyncConnection
from meshclient.transport.socket_upgrade import SyncUpgradedResponse
from tests.fuzz import oracle

#: ("ok", status, body, headers), ("raw", status, first bytes, headers) or ("refused",).
Verdict = tuple[Any, ...]

METHODS = (b"GET", b"GET", b"GET", b"HEAD", b"CONNECT", b"UPGRADE")
_ORIGIN = httpcore2.Origin(b"http", b"t", 80)


def request_of(method: bytes) -> tuple[bytes, bytes, list[tuple[bytes, bytes]]]:
    """Method, target and headers; "UPGRADE" stands for a GET that asks for another protocol."""
    if method == b"CONNECT":
        return method, b"t:80", [(b"Host", b"t:80")]
    if method == b"UPGRADE":
        asks = [(b"Connection", b"Upgrade"), (b"Upgrade", b"x")]
        return b"GET", b"/", [(b"Host", b"t"), *asks]
    return method, b"/", [(b"Host", b"t")]


def connection_on(sock: socket.socket) -> SyncConnection:
    """One of ours over a socket that is connected."""
    pool: Pool[SyncConnection] = Pool(Target("t", 80), SyncConnection.close, 1, lambda: 0.0)
    return SyncConnection(sock, pool, SyncConnection.close)


def ours(data: bytes, method: bytes) -> Verdict:
    """Our verdict on an answer."""
    mine, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        connection = connection_on(mine)
        request = WireRequest(*request_of(method), read_timeout_s=5.0)
        try:
            response = connection.exchange(request, encode_request(request))
            kind, body = "ok", b""
            if isinstance(response, SyncUpgradedResponse):
                kind = "raw"
                while piece := response.read(65536, 5.0):
                    body += piece
            else:
                body = b"".join(response)
            response.close()
        except WireError:
            return ("refused",)
        finally:
            connection.close()
    return (kind, response.status, body, oracle.plain(response.headers))


def httpcores(data: bytes, method: bytes) -> Verdict:
    """httpcore2's verdict on the same bytes."""
    verb, target, headers = request_of(method)
    stream = _Scripted(data)
    connection = httpcore2.HTTP11Connection(origin=_ORIGIN, stream=stream)
    url = httpcore2.URL(scheme=b"http", host=b"t", port=80, target=target)
    try:
        response = connection.handle_request(httpcore2.Request(verb, url, headers=headers))
        raw = response.status == 101 or (verb == b"CONNECT" and 200 <= response.status < 300)
        if raw:
            network = response.extensions["network_stream"]
            body = b"".join(iter(lambda: network.read(65536), b""))
        else:
            body = b"".join(response.iter_stream())
    except httpcore2.RemoteProtocolError:
        return ("refused",)
    finally:
        connection.close()
    return ("raw" if raw else "ok", response.status, body, oracle.plain(response.headers))


class _Scripted(httpcore2.NetworkStream):
    """Gives one answer, then the end; takes whatever is written."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        piece, self._data = self._data[:max_bytes], self._data[max_bytes:]
        return piece

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        pass

    def close(self) -> None:
        pass

    def get_extra_info(self, info: str) -> Any:
        return None


def judge(data: bytes, method: bytes) -> tuple[str, str]:
    """The class of one exchange, and what is wrong with our verdict ("" for nothing)."""
    mine, theirs = ours(data, method), httpcores(data, method)
    if mine == theirs:
        return f"exchange: {mine[0]}, equal", ""
    if mine == ("refused",):
        return "exchange: stricter", ""
    tidy, reason = oracle.tidied(data)
    again = ours(tidy, method)
    if not reason or again[:2] != mine[:2] or again != httpcores(tidy, method):
        reason = oracle.more_lenient(data, mine)
    problem = "" if reason else f"{method!r} {data!r}: {mine}, httpcore {theirs}"
    return f"exchange: {reason}", problem
