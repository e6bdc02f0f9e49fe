"""CPU per request over HTTP/2 beside ``httpx`` with ``http2=True``, server in another process.

    python -m benchmarks.http2 [--seconds 1.0] [--rounds 3]

TLS with a throwaway certificate, because httpx speaks HTTP/2 over nothing else.
``engine`` is the bare wire engine, ``mesh`` an ``httpx.AsyncClient`` over a mesh
without any policy. Needs hypercorn for the server and openssl. No assertion here.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import random
import socket
import ssl
import statistics
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx

import meshclient
from meshclient.transport.async_engine import AsyncEngine
from meshclient.transport.interface import Target, WireRequest
from meshclient.transport.tls import TlsIdentity, default_context

CONCURRENCY = (1, 16, 100)
BODY = b"x" * 100
Sample = tuple[float, float]  # requests per second, CPU microseconds per request


async def app(scope: Any, _receive: Any, send: Any) -> None:
    """100 bytes for everybody."""
    if scope["type"] != "http":
        return
    headers = [(b"content-length", b"100")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": BODY})


def serve(port: int, certificate: str, key: str) -> None:
    """hypercorn, HTTP/2 by ALPN."""
    from hypercorn.asyncio import serve as run
    from hypercorn.config import Config

    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.certfile, config.keyfile = certificate, key
    config.accesslog = config.errorlog = None
    config.keep_alive_max_requests = 10**9
    asyncio.run(run(app, config))  # type: ignore[arg-type]


async def measure(call: Callable[[], Awaitable[None]], concurrency: int, seconds: float) -> Sample:
    """Closed loop of ``concurrency`` workers, warmed up first."""
    count = 0

    async def worker(until: float) -> None:
        nonlocal count
        while time.perf_counter() < until:
            await call()
            count += 1

    async def run(duration: float) -> None:
        until = time.perf_counter() + duration
        await asyncio.gather(*[worker(until) for _ in range(concurrency)])

    await run(0.3)
    count = 0
    cpu, began = time.process_time(), time.perf_counter()
    await run(seconds)
    return count / (time.perf_counter() - began), (time.process_time() - cpu) / count * 1e6


async def bare(port: int, ca: str, concurrency: int, seconds: float) -> Sample:
    """httpx as it is."""
    async with httpx.AsyncClient(
        http2=True, verify=ssl.create_default_context(cafile=ca)
    ) as client:

        async def call() -> None:
            assert (await client.get(f"https://localhost:{port}/")).content == BODY

        return await measure(call, concurrency, seconds)


async def mesh(port: int, ca: str, concurrency: int, seconds: float) -> Sample:
    """The same client over a mesh."""
    with meshclient.Mesh.from_documents([{"version": 1}]) as made:
        async with made.async_client(http2=True, verify=ca) as client:

            async def call() -> None:
                assert (await client.get(f"https://localhost:{port}/")).content == BODY

            return await measure(call, concurrency, seconds)


async def engine(port: int, ca: str, concurrency: int, seconds: float) -> Sample:
    """The wire alone."""
    identity = TlsIdentity("localhost", default_context(ca, http2=True))
    target = Target("127.0.0.1", port, identity, protocol="auto")
    headers = [
        (b"Host", b"localhost:%d" % port),
        (b"Accept", b"*/*"),
        (b"Accept-Encoding", b"gzip, deflate"),
        (b"User-Agent", b"python-httpx/0.28.1"),
    ]
    made = AsyncEngine()
    try:

        async def call() -> None:
            request = WireRequest(b"GET", b"/", headers, read_timeout_s=5.0)
            response = await made.send(target, request)
            body = response.content
            if body is None:
                body = b"".join([piece async for piece in response])
            assert body == BODY

        return await measure(call, concurrency, seconds)
    finally:
        await made.aclose()


SUBJECTS = {"httpx": bare, "mesh": mesh, "engine": engine}


def main() -> None:
    """Print medians per subject and concurrency."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        certificate, key = str(Path(folder) / "c.pem"), str(Path(folder) / "k.pem")
        subprocess.run(
            ["openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt",
             "ec_paramgen_curve:prime256v1", "-days", "2", "-subj", "/CN=localhost",
             "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
            check=True, capture_output=True,
        )  # fmt: skip
        server = multiprocessing.Process(target=serve, args=(port, certificate, key), daemon=True)
        server.start()
        try:
            _wait_for(port)
            _table(port, certificate, options.seconds, options.rounds)
        finally:
            server.terminate()
            server.join(5)


def _wait_for(port: int) -> None:
    until = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("localhost", port), 1).close()
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def _table(port: int, ca: str, seconds: float, rounds: int) -> None:
    samples: dict[tuple[str, int], list[Sample]] = {}
    for _ in range(rounds):
        cells = [(name, concurrency) for name in SUBJECTS for concurrency in CONCURRENCY]
        random.shuffle(cells)
        for name, concurrency in cells:
            sample = asyncio.run(SUBJECTS[name](port, ca, concurrency, seconds))
            samples.setdefault((name, concurrency), []).append(sample)
    print(f"{'':10}" + "".join(f"{f'c={c}: CPU us (ratio), 1/s':>32}" for c in CONCURRENCY))
    for name in SUBJECTS:
        line = f"{name:10}"
        for concurrency in CONCURRENCY:
            cpu = statistics.median(cpu for _, cpu in samples[name, concurrency])
            rate = statistics.median(rate for rate, _ in samples[name, concurrency])
            base = statistics.median(cpu for _, cpu in samples["httpx", concurrency])
            line += f"{f'{cpu:.0f} ({cpu / base:.2f}), {rate:.0f}':>32}"
        print(line)


if __name__ == "__main__":
    main()
