"""Everything that can go wrong with a server or on the way to it, through every driver.

Each call ends within its route's timeout with the right error, leaves nothing in flight, and its
sockets are closed. All cases of a driver run at the same time.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

import meshclient
from meshclient import errors
from meshclient.config import load_documents
from meshclient.model.endpoint import Endpoint

sys.path.insert(0, str(Path(__file__).parents[1]))
from connections_support import sockets
from engine_support import (
    LOOPS,
    DeafListener,
    HttpServer,
    Peer,
    RawServer,
    Reply,
    certificate,
    run_on,
    silent,
)

#: The route's timeout of every case, and what a busy machine may add to it.
TIMEOUT_S = 0.6
SLACK_S = 1.2

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"


def reset_before_headers(peer: Peer) -> None:
    peer.read_head()
    peer.reset()


def reset_after_headers(peer: Peer) -> None:
    peer.read_head()
    peer.send(HEAD + b"begin")
    time.sleep(0.05)
    peer.reset()


def half_closed(peer: Peer) -> None:
    """No more bytes from the server, which goes on reading."""
    peer.read_head()
    peer.sock.shutdown(socket.SHUT_WR)
    peer.wait_closed()


def truncated(peer: Peer) -> None:
    peer.read_head()
    peer.send(HEAD + b"not a thousand bytes")


def truncated_head(peer: Peer) -> None:
    peer.read_head()
    peer.send(HEAD[:20])


def drip(data: bytes, at_once: int) -> Callable[[Peer], None]:
    """The first bytes at once, the others one by one."""

    def script(peer: Peer) -> None:
        peer.read_head()
        peer.send(data[:at_once])
        with suppress(OSError):
            for byte in data[at_once:]:
                time.sleep(0.05)
                peer.send(bytes((byte,)))

    return script


def endless(begin: bytes, piece: bytes) -> Callable[[Peer], None]:
    def script(peer: Peer) -> None:
        peer.read_head()
        with suppress(OSError):
            peer.send(begin)
            for _ in range(100_000):
                peer.send(piece)

    return script


def no_http(peer: Peer) -> None:
    peer.read_head()
    peer.send(b"220 mail.example.org ESMTP\r\n")
    peer.wait_closed()


def no_tls(peer: Peer) -> None:
    """An answer in plain text to a TLS hello."""
    with suppress(OSError):
        peer.sock.recv(65536)
        peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def no_hello(peer: Peer) -> None:
    """Takes the TLS hello and says nothing."""
    peer.wait_closed()


def takes_no_body(peer: Peer) -> None:
    peer.read_head()
    # An event of its own, which nobody sets: it only waits, and longer than any call.
    threading.Event().wait(TIMEOUT_S + 0.2)


SCRIPTS: dict[str, tuple[Callable[[Peer], None], type[errors.CallError]]] = {
    "silent": (silent, errors.RouteTimeout),
    "reset-before-headers": (reset_before_headers, errors.UpstreamReset),
    "reset-after-headers": (reset_after_headers, errors.UpstreamReset),
    "half-closed": (half_closed, errors.UpstreamReset),
    "truncated-body": (truncated, errors.UpstreamReset),
    "truncated-head": (truncated_head, errors.UpstreamReset),
    "drip-headers": (drip(HEAD * 10, 0), errors.RouteTimeout),
    "drip-body": (drip(HEAD + b"x" * 1000, len(HEAD)), errors.RouteTimeout),
    "no-http": (no_http, errors.UpstreamProtocolError),
    "interim-flood": (endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), errors.UpstreamProtocolError),
    "endless-headers": (endless(HEAD[:-2], b"x-more: 1\r\n"), errors.UpstreamProtocolError),
    "endless-line": (
        endless(b"HTTP/1.1 200 OK\r\nx-a: ", b"a" * 1000),
        errors.UpstreamProtocolError,
    ),
    "takes-no-body": (takes_no_body, errors.RouteTimeout),
    "no-tls": (no_tls, errors.ConnectFailed),
    "no-tls-hello": (no_hello, errors.ConnectTimeout),
}
#: The others, which need no script.
OTHERS: dict[str, type[errors.CallError]] = {
    "refused": errors.ConnectFailed,
    "blackhole": errors.ConnectTimeout,
    "blackhole-to-the-end": errors.RouteTimeout,
    "untrusted": errors.ConnectFailed,
    "dns-gone": errors.NoHealthyEndpoint,
    "no-endpoint": errors.NoHealthyEndpoint,
}
EXPECTED = {name: kind for name, (_, kind) in SCRIPTS.items()} | OTHERS
SECURED = ("no-tls", "no-tls-hello", "untrusted")


@contextmanager
def world(folder: Path) -> Iterator[dict[str, Any]]:
    """Every kind of server, and the policy that leads to it."""
    with ExitStack() as stack:
        services: dict[str, Any] = {}
        for name, (script, _) in SCRIPTS.items():
            server = stack.enter_context(RawServer(script))
            services[name] = {"endpoints": [f"127.0.0.1:{server.port}"]}
        deaf = stack.enter_context(DeafListener())
        services["blackhole"] = {"endpoints": [f"127.0.0.1:{deaf.port}"]}
        services["blackhole-to-the-end"] = {"endpoints": [f"127.0.0.1:{deaf.port}"]}
        closed = socket.create_server(("127.0.0.1", 0))
        services["refused"] = {"endpoints": [f"127.0.0.1:{closed.getsockname()[1]}"]}
        closed.close()
        secure = stack.enter_context(HttpServer(tls=_server_context(folder)))
        services["untrusted"] = {"endpoints": [secure.authority]}
        services["dns-gone"] = {"dns": "gone.invalid:80"}
        services["no-endpoint"] = {"endpoints": []}
        for name in SECURED:
            services[name]["tls"] = {"mode": "simple"}
        yield services


def _server_context(folder: Path) -> Any:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate(folder, "unknown.test"))
    return context


def policy(services: dict[str, Any], retries: dict[str, Any]) -> dict[str, Any]:
    complete = {}
    for name, service in services.items():
        connect = "10s" if name.endswith("to-the-end") else "200ms"
        complete[name] = {
            "timeout": f"{int(TIMEOUT_S * 1000)}ms",
            "connection": {"connect_timeout": connect},
            "retries": retries,
            **service,
        }
    return {"version": 1, "services": complete}


NO_RETRIES = {"attempts": 0}
RETRIES = {
    "attempts": 2,
    "on": ["5xx", "reset", "connect-failure"],
    "methods": "any",
    "back_off": {"base": "1ms"},
}


def request_of(name: str) -> tuple[str, bytes | None]:
    return ("POST", b"x" * 30_000_000) if name == "takes-no-body" else ("GET", None)


Ended = dict[str, tuple[BaseException, float]]


def blocking(mesh: meshclient.Mesh) -> Ended:
    def one(name: str) -> tuple[BaseException, float]:
        method, body = request_of(name)
        started = time.monotonic()
        with pytest.raises(httpx.TransportError) as caught:
            client.request(method, f"http://{name}/", content=body)
        return caught.value, time.monotonic() - started

    with mesh.client(trust_env=False) as client, ThreadPoolExecutor(len(EXPECTED)) as threads:
        return dict(zip(EXPECTED, threads.map(one, EXPECTED), strict=True))


def on_loop(kind: str) -> Callable[[meshclient.Mesh], Ended]:
    def drive(mesh: meshclient.Mesh) -> Ended:
        async def run() -> Ended:
            async with mesh.async_client(trust_env=False) as client:

                async def one(name: str) -> tuple[BaseException, float]:
                    method, body = request_of(name)
                    started = time.monotonic()
                    with pytest.raises(httpx.TransportError) as caught:
                        await client.request(method, f"http://{name}/", content=body)
                    return caught.value, time.monotonic() - started

                ended = await asyncio.gather(*map(one, EXPECTED))
            return dict(zip(EXPECTED, ended, strict=True))

        return run_on(kind, run())

    return drive


DRIVERS = {"blocking": blocking, **{kind: on_loop(kind) for kind in LOOPS}}


def settled(baseline: int) -> bool:
    """The servers see the end of a connection a moment after it."""
    until = time.monotonic() + 5
    while sockets() > baseline and time.monotonic() < until:
        time.sleep(0.01)
    return sockets() <= baseline


def at_rest(mesh: meshclient.Mesh) -> bool:
    dump = mesh.dump()
    in_flight = sum(n for endpoints in dump["clusters"].values() for n in endpoints.values())
    busy = sum(
        stats.active for engine in mesh._engines.values() for stats in engine.stats().values()
    )
    return (in_flight, busy) == (0, 0)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("retries", [NO_RETRIES, RETRIES], ids=["once", "retried"])
def test_every_fault_ends_in_time_with_its_error(
    driver: str, retries: dict[str, Any], tmp_path: Path
) -> None:
    with world(tmp_path) as services:
        baseline = sockets()
        with meshclient.Mesh.from_documents([policy(services, retries)]) as mesh:
            ended = DRIVERS[driver](mesh)
            assert at_rest(mesh)
        assert settled(baseline)
    for name, (error, took_s) in ended.items():
        kinds = (
            (EXPECTED[name],) if retries is NO_RETRIES else (EXPECTED[name], errors.RouteTimeout)
        )
        assert isinstance(error, kinds), f"{name}: {error!r}"
        assert took_s < TIMEOUT_S + SLACK_S, f"{name} took {took_s:.2f} s"
        assert isinstance(error, errors.CallError)
        assert len(error.report.attempts) <= 3
        if EXPECTED[name] is errors.RouteTimeout and retries is NO_RETRIES:
            assert took_s >= TIMEOUT_S - 0.05, f"{name} gave up after {took_s:.2f} s"


async def talk(endpoint: Endpoint) -> bytes:
    """A protocol client of its own, without any time limit."""
    reader, writer = await asyncio.open_connection(endpoint.address, endpoint.port)
    try:
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await writer.drain()
        return await reader.readuntil(b"x" * 1000)
    finally:
        writer.transport.abort()


FUNCTIONS: dict[str, type[BaseException]] = {
    "refused": ConnectionRefusedError,
    "blackhole-to-the-end": errors.RouteTimeout,
    "silent": errors.RouteTimeout,
    "drip-headers": errors.RouteTimeout,
    "drip-body": errors.RouteTimeout,
    "reset-before-headers": ConnectionResetError,
    "reset-after-headers": ConnectionResetError,
    "half-closed": asyncio.IncompleteReadError,
    "truncated-body": asyncio.IncompleteReadError,
    "no-endpoint": errors.NoHealthyEndpoint,
    "dns-gone": errors.NoHealthyEndpoint,
}


@pytest.mark.parametrize("kind", LOOPS)
def test_decorated_functions_end_in_time_too(kind: str, tmp_path: Path) -> None:
    async def run(mesh: meshclient.Mesh) -> Ended:
        async def one(name: str) -> tuple[BaseException, float]:
            call: Any = mesh.call(name)(talk)
            started = time.monotonic()
            with pytest.raises(Exception) as caught:
                await call()
            return caught.value, time.monotonic() - started

        return dict(zip(FUNCTIONS, await asyncio.gather(*map(one, FUNCTIONS)), strict=True))

    with world(tmp_path) as services:
        baseline = sockets()
        with meshclient.Mesh.from_documents([policy(services, NO_RETRIES)]) as mesh:
            ended = run_on(kind, run(mesh))
            assert at_rest(mesh)
        assert settled(baseline)
    for name, (error, took_s) in ended.items():
        assert isinstance(error, FUNCTIONS[name]), f"{name}: {error!r}"
        assert took_s < TIMEOUT_S + SLACK_S, f"{name} took {took_s:.2f} s"


class Stepping:
    """A clock that jumps by ``step_s`` once, at the ``at``-th look."""

    def __init__(self, step_s: float, at: int) -> None:
        self.step_s = step_s
        self.looks_left = at
        self.offset_s = 0.0

    def __call__(self) -> float:
        self.looks_left -= 1
        if self.looks_left == 0:
            self.offset_s = self.step_s
        return time.monotonic() + self.offset_s


@pytest.mark.parametrize("at", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("step_s", [-100.0, 100.0])
def test_a_clock_that_jumps_ends_no_call_late(step_s: float, at: int) -> None:
    """Back or forth, in the middle of a call: bounded tries, and nothing in flight."""
    with RawServer(silent) as quiet, HttpServer(lambda _: Reply(503)) as broken:
        document = policy(
            {
                "quiet": {"endpoints": [f"127.0.0.1:{quiet.port}"]},
                "broken": {"endpoints": [broken.authority]},
            },
            RETRIES,
        )
        config = load_documents([document])
        for name in ("quiet", "broken"):
            clock = Stepping(step_s, 10**9)
            with (
                meshclient.Mesh(lambda: config, clock=clock) as mesh,
                mesh.client(trust_env=False, timeout=2 * TIMEOUT_S) as client,
            ):
                clock.looks_left = at
                started = time.monotonic()
                with suppress(errors.CallTimeout):
                    assert client.get(f"http://{name}/").status_code == 503
                assert time.monotonic() - started < 3 * TIMEOUT_S + SLACK_S
                assert at_rest(mesh)
        assert len(broken.requests) <= 3
