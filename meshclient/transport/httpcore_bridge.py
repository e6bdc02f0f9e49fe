"""Our requests, limits and errors in httpcore's terms, and back.

Stateless helpers of :mod:`meshclient.transport.fallback`; no pool lives here,
and nothing imports httpcore before it is asked to.
"""

from __future__ import annotations

import asyncio
import importlib
import math
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

from meshclient.model.outcome import ResetReason
from meshclient.transport.http1_request import CHUNKED, encode_request
from meshclient.transport.interface import (
    InvalidRequest,
    Target,
    TimeoutKind,
    WireError,
    WireRequest,
    timeout_error,
)
from meshclient.transport.slot_waiters import wait_limit

_TIMEOUTS: dict[str, TimeoutKind] = {
    "ConnectTimeout": "connect",
    "ReadTimeout": "read",
    "WriteTimeout": "write",
    "PoolTimeout": "pool",
}
_UNSENT = frozenset({"ConnectTimeout", "PoolTimeout", "ConnectError", "ProxyError"})


def load_httpcore() -> ModuleType:
    """httpcore2 where it is installed: it survives cancellation, httpcore does not."""
    for name in ("httpcore2", "httpcore"):
        with suppress(ImportError):
            return importlib.import_module(name)
    raise ImportError('HTTP/2, proxies and trio need httpcore: pip install "meshclient[httpx2]"')


def to_httpcore(target: Target, request: WireRequest) -> Any:
    """The httpcore request; checked as on our own wire (raises InvalidRequest)."""
    length = encode_request(request).length
    headers = list(request.headers)
    if length == CHUNKED and all(n.lower() != b"transfer-encoding" for n, _ in headers):
        headers.append((b"Transfer-Encoding", b"chunked"))
    httpcore = load_httpcore()
    host = "localhost" if target.unix_path is not None else target.address
    url = httpcore.URL(
        scheme=b"http" if target.tls is None else b"https",
        host=host.encode("idna") if not host.isascii() else host.encode(),
        port=target.port or None,
        target=request.target,
    )
    extensions: dict[str, Any] = {"timeout": _timeouts(target, request)}
    if target.tls is not None:
        extensions["sni_hostname"] = target.tls.server_hostname
    return httpcore.Request(
        request.method, url, headers=headers, content=request.body, extensions=extensions
    )


def is_raw(request: WireRequest, status: int) -> bool:
    """Whether the connection speaks another protocol from this answer on."""
    return status == 101 or (request.method == b"CONNECT" and 200 <= status < 300)


def head_of(response: Any) -> tuple[Any, ...]:
    extensions = response.extensions
    stream = extensions.get("network_stream")
    return (
        response.status,
        extensions.get("reason_phrase", b""),
        extensions.get("http_version", b"HTTP/1.1"),
        list(response.headers),
        None,
        _no_info if stream is None else stream.get_extra_info,
    )


def _no_info(_name: str) -> None:
    return None


def _timeouts(target: Target, request: WireRequest) -> dict[str, float | None]:
    connect = request.connect_timeout_s
    left = _left(request)
    waits = [s for s in (request.read_timeout_s, request.response_timeout_s, left) if s is not None]
    return {
        "connect": target.options.connect_timeout_s if connect is None else connect,
        "read": min(waits, default=None),
        "write": min((s for s in (request.write_timeout_s, left) if s is not None), default=None),
        "pool": _pool_timeout(target, request),
    }


def _pool_timeout(target: Target, request: WireRequest) -> float | None:
    """As on our own wire: the wait for a connection is bounded where it is possible at all."""
    if target.connections is None:
        return request.pool_timeout_s
    now = time.monotonic()
    return max(0.001, wait_limit(target, request, now)[0] - now)


def limit_body(prepared: Any, request: WireRequest) -> None:
    """httpcore reads this once more when the body starts."""
    waits = [] if request.read_timeout_s is None else [request.read_timeout_s]
    if request.deadline is not None:
        waits.append(max(0.001, request.deadline - time.monotonic()))
    prepared.extensions["timeout"]["read"] = min(waits, default=None)


def _left(request: WireRequest) -> float | None:
    if request.deadline is None:
        return None
    left = request.deadline - time.monotonic()
    if left <= 0:
        raise timeout_error("deadline", False)
    return left


def check_deadline(request: WireRequest) -> None:
    if request.deadline is not None and time.monotonic() >= request.deadline:
        raise timeout_error("deadline", True)


def by_pieces(stream: Iterable[bytes], request: WireRequest) -> Iterable[bytes]:
    """A body whose deadline is looked at before each piece."""
    return stream if request.deadline is None else _within(stream, request)


def _within(stream: Iterable[bytes], request: WireRequest) -> Iterator[bytes]:
    for piece in stream:
        if time.monotonic() >= (request.deadline or math.inf):
            raise timeout_error("deadline", True)
        yield piece


async def by_deadline(awaitable: Any, request: WireRequest) -> Any:
    if request.deadline is None:
        return await awaitable
    import anyio

    try:
        with anyio.fail_after(max(0.0, request.deadline - time.monotonic())):
            return await awaitable
    except TimeoutError as error:
        raise timeout_error("deadline", True) from error


@contextmanager
def errors(request: WireRequest, *, head: bool) -> Iterator[None]:
    """httpcore's exceptions, by name since there are two families, as ours."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in (
            "httpcore",
            "httpcore2",
            "httpx",
            "h11",
        ):
            raise
        raise _translated(error, request, head) from error


def _translated(error: Exception, request: WireRequest, head: bool) -> WireError:
    name = type(error).__name__
    sent = name not in _UNSENT
    kind = _TIMEOUTS.get(name)
    if kind is not None:
        return timeout_error(_actual_limit(kind, request, head), sent)
    message = str(error) or name
    if name == "LocalProtocolError":
        return InvalidRequest(message, sent=True)
    if not sent:
        return WireError(ResetReason.CONNECTION_FAILURE, False, message)
    if name == "RemoteProtocolError" and "disconnect" not in message and "closed" not in message:
        return WireError(ResetReason.PROTOCOL_ERROR, True, message)
    return WireError(ResetReason.CONNECTION_TERMINATION, True, message)


def _actual_limit(kind: TimeoutKind, request: WireRequest, head: bool) -> TimeoutKind:
    """httpcore knows one read timeout; say which of ours it stood for."""
    if request.deadline is not None and time.monotonic() >= request.deadline - 0.001:
        return "deadline"
    response_s = request.response_timeout_s
    if kind != "read" or response_s is None or not head:
        return kind
    read_s = math.inf if request.read_timeout_s is None else request.read_timeout_s
    return "response" if response_s <= read_s else "read"


def async_stream(stream: Any) -> Any:
    return stream if hasattr(stream, "__aiter__") else _Asynchronous(stream)


class _Asynchronous:
    """A plain iterable as httpcore's asynchronous pools want it."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


def run_token() -> object:
    """The loop, or trio's run, that owns the pools of this call."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        trio = sys.modules["trio"]
        return trio.lowlevel.current_trio_token()


def close_soon(token: object, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Have the run that owns ``token`` close what is its own; a run that is over has."""
    if isinstance(token, asyncio.AbstractEventLoop):
        if token.is_running():
            asyncio.run_coroutine_threadsafe(close(), token)
        return
    trio = sys.modules["trio"]
    with suppress(trio.RunFinishedError):
        token.run_sync_soon(trio.lowlevel.spawn_system_task, close)  # type: ignore[attr-defined]
