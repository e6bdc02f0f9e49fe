"""Five servers that restart one by one under streams and unary calls, and many endpoints.

Short by default. ``MESHCLIENT_GRPC_ROLLING=500,1000`` names the streams and the unary calls a
second of a full run, whose figures are printed (``-s``).
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_support import SERVICE, in_flight, policy

import meshclient

STREAMS, RATE = map(int, os.environ.get("MESHCLIENT_GRPC_ROLLING", "50,200").split(","))
SERVERS = 5
RETRIES = {
    "attempts": 4,
    "on": ["unavailable", "connect-failure", "refused-stream", "reset"],
    "methods": ["POST"],
    "back_off": {"base": "10ms", "max": "50ms"},
    "budget": {"percent": 100, "min_concurrency": 1000},
}
LIMITS = {"max_requests": 100_000, "max_retries": 100_000}

#: A server of its own process: restarts on the line "again", on the same port.
PROGRAM = """
import asyncio, sys
import grpc
import grpc.aio

class Service(grpc.GenericRpcHandler):
    def service(self, details):
        if details.method.endswith("Watch"):
            return grpc.unary_stream_rpc_method_handler(watch)
        return grpc.unary_unary_rpc_method_handler(who)

stopping = asyncio.Event()

async def who(request, context):
    return b"here"

async def watch(request, context):
    yield b"first"
    await stopping.wait()
    await context.abort(grpc.StatusCode.ABORTED, "the server is going")

async def started(port):
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((Service(),))
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    return server, port

async def main():
    server, port = await started(0)
    print(port, flush=True)
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        stopping.set()
        await server.stop(2.0)
        stopping.clear()
        server, _ = await started(port)
        print("up", flush=True)
    await server.stop(0)

asyncio.run(main())
"""


class _Server:
    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def restart(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("again\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "up\n"

    def end(self) -> None:
        self.process.communicate(timeout=15)


class _Load:
    """What callers see while the servers restart."""

    def __init__(self, channel: Any) -> None:
        self.who = channel.unary_unary(SERVICE + "Who")
        self.watch = channel.unary_stream(SERVICE + "Watch")
        self.done = asyncio.Event()
        self.calls = self.slowest_s = 0.0
        self.failures: list[str] = []
        self.streams: Counter[str] = Counter()
        self.open = 0

    async def unary(self) -> None:
        began = time.perf_counter()
        try:
            await self.who(b"", timeout=10)
        except grpc.RpcError as error:
            self.failures.append(f"{error!r} {getattr(error, 'report', None)}")
        self.calls += 1
        self.slowest_s = max(self.slowest_s, time.perf_counter() - began)

    async def paced(self) -> None:
        """Calls begin at their time, however long the earlier ones take."""
        under_way: set[asyncio.Task[None]] = set()
        began = time.perf_counter()
        count = 0
        while not self.done.is_set():
            due = int((time.perf_counter() - began) * RATE)
            for _ in range(min(due - count, 200)):
                task = asyncio.create_task(self.unary())
                under_way.add(task)
                task.add_done_callback(under_way.discard)
            count = due
            await asyncio.sleep(0.005)
        await asyncio.gather(*under_way)

    async def stream(self) -> None:
        """One stream after the other; each ends with the status of its server."""
        while not self.done.is_set():
            call = self.watch(b"")
            try:
                assert await call.read() == b"first"
                self.open += 1
                try:
                    await call.read()
                finally:
                    self.open -= 1
            except grpc.RpcError as error:
                self.streams[f"{error.code().name}: {error.details()}"] += 1
            except asyncio.CancelledError:
                call.cancel()
                return


def test_streams_and_calls_while_five_servers_restart():
    servers = [_Server() for _ in range(SERVERS)]
    document = policy(*(server.port for server in servers), retries=RETRIES, limits=LIMITS)

    async def go() -> _Load:
        async with meshclient.Mesh.from_documents([document]) as mesh:
            channel = mesh.grpc_aio_channel("orders")
            load = _Load(channel)
            streams = [asyncio.create_task(load.stream()) for _ in range(STREAMS)]
            async with asyncio.timeout(30):
                while load.open < STREAMS:  # noqa: ASYNC110 - many set it
                    await asyncio.sleep(0.01)
            paced = asyncio.create_task(load.paced())
            for server in servers:
                await asyncio.to_thread(server.restart)
                await asyncio.sleep(0.3)
            load.done.set()
            await paced
            for task in streams:
                task.cancel()
            await asyncio.gather(*streams)
            await asyncio.sleep(0.1)
            assert in_flight(mesh) == 0
            await channel.close()
            return load

    try:
        load = asyncio.run(go())
    finally:
        for server in servers:
            server.end()
    print(
        f"{load.calls:.0f} calls, {len(load.failures)} failed, slowest {load.slowest_s:.3f} s;"
        f" streams ended: {dict(load.streams)}"
    )
    assert load.failures == []
    assert set(load.streams) == {"ABORTED: the server is going"}
    assert load.streams.total() >= STREAMS
    assert load.calls >= RATE


@pytest.mark.parametrize("endpoints", [1000])
def test_connections_to_a_thousand_endpoints_are_bounded_by_the_subset(endpoints):
    """Each client keeps to its part of the endpoints, and so to a few channels."""
    with meshclient.Mesh.from_documents(
        [
            policy(
                *range(20001, 20001 + endpoints),
                load_balancing={"policy": "round_robin", "subset_size": 10},
                retries={"attempts": 0},
            )
        ]
    ) as mesh:
        channel = mesh.grpc_channel("orders")
        who = channel.unary_unary(SERVICE + "Who")
        for _ in range(60):
            with pytest.raises(grpc.RpcError):
                who(b"", timeout=5)
        pools = mesh.dump()["pools"]
        assert sum(len(targets) for name, targets in pools.items() if "grpc" in name) == 10
        channel.close()
