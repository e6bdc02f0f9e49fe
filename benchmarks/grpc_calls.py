"""gRPC calls through the mesh against grpcio's own round_robin: throughput, latency, CPU.

``python benchmarks/grpc_calls.py [--calls N] [--rounds N]``: three servers in a process of
their own, the two clients in turns, the median of the rounds. CPU is that of the client's
process (its gRPC threads included) per call. ``--tls`` compares mutual TLS;
``--tls spiffe`` has the mesh check an identity, for which it needs its relay.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "real"))

import meshclient

SERVERS = 3
MESSAGES = 100
ROUND_ROBIN = [("grpc.service_config", '{"loadBalancingConfig":[{"round_robin":{}}]}')]

#: Calls a second, p50 and p99 in seconds, CPU seconds per call.
Figures = tuple[float, float, float, float]


# -- servers ---------------------------------------------------------------------------------


class _Service(grpc.GenericRpcHandler):
    def service(self, details: Any) -> Any:
        if details.method.endswith("Many"):
            return grpc.unary_stream_rpc_method_handler(_many)
        return grpc.unary_unary_rpc_method_handler(_echo)


async def _echo(request: bytes, _context: Any) -> bytes:
    return request


async def _many(request: bytes, _context: Any) -> Any:
    for _ in range(MESSAGES):
        yield request


async def _serve(files: list[bytes]) -> None:
    credentials = None
    if files:
        certificate, key, ca = files
        credentials = grpc.ssl_server_credentials([(key, certificate)], ca, True)
    ports, servers = [], []
    for _ in range(SERVERS):
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((_Service(),))
        address = "127.0.0.1:0"
        ports.append(
            server.add_secure_port(address, credentials)
            if credentials
            else server.add_insecure_port(address)
        )
        await server.start()
        servers.append(server)
    print(json.dumps(ports), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


# -- load ------------------------------------------------------------------------------------


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _figures(latencies: list[float], wall_s: float, cpu_s: float) -> Figures:
    latencies.sort()
    count = len(latencies)
    return count / wall_s, latencies[count // 2], latencies[int(count * 0.99)], cpu_s / count


def sync_unary(channel: Any, calls: int) -> Figures:
    """One thread, one call after the other."""
    method = channel.unary_unary("/bench.Echo/Get")
    return _one_by_one(lambda: method(b"x" * 100), calls)


def sync_stream(channel: Any, calls: int) -> Figures:
    """One thread, one stream of messages after the other."""
    method = channel.unary_stream("/bench.Echo/Many")

    def drain() -> None:
        for _ in method(b"x" * 100):
            pass

    return _one_by_one(drain, max(10, calls // 20))


def _one_by_one(call: Callable[[], Any], calls: int) -> Figures:
    for _ in range(50):
        call()
    latencies = []
    cpu_s, began = _cpu_s(), time.perf_counter()
    for _ in range(calls):
        start = time.perf_counter()
        call()
        latencies.append(time.perf_counter() - start)
    return _figures(latencies, time.perf_counter() - began, _cpu_s() - cpu_s)


async def _concurrently(call: Callable[[], Any], calls: int, tasks: int) -> Figures:
    for _ in range(50):
        await call()
    latencies: list[float] = []

    async def work() -> None:
        for _ in range(calls // tasks):
            start = time.perf_counter()
            await call()
            latencies.append(time.perf_counter() - start)

    cpu_s, began = _cpu_s(), time.perf_counter()
    await asyncio.gather(*(work() for _ in range(tasks)))
    return _figures(latencies, time.perf_counter() - began, _cpu_s() - cpu_s)


async def aio_unary(channel: Any, calls: int, tasks: int) -> Figures:
    """So many tasks, each one call after the other."""
    method = channel.unary_unary("/bench.Echo/Get")

    async def call() -> None:
        await method(b"x" * 100)

    return await _concurrently(call, calls, tasks)


async def aio_stream(channel: Any, calls: int, tasks: int) -> Figures:
    """So many tasks, each one stream of messages after the other."""
    method = channel.unary_stream("/bench.Echo/Many")

    async def call() -> None:
        async for _ in method(b"x" * 100):
            pass

    return await _concurrently(call, max(10, calls // 20), tasks)


# -- the two clients ---------------------------------------------------------------------------


class Clients:
    """Makes the channels that are compared."""

    def __init__(self, ports: list[int], tls: dict[str, Any] | None) -> None:
        self._target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
        service: dict[str, Any] = {
            "endpoints": [f"127.0.0.1:{port}" for port in ports],
            "load_balancing": {"policy": "round_robin"},
        }
        self._credentials = None
        self._options = list(ROUND_ROBIN)
        if tls is not None:
            service["tls"] = tls
            files = [Path(tls[name]).read_bytes() for name in ("ca", "key", "certificate")]
            self._credentials = grpc.ssl_channel_credentials(*files)
            self._options.append(("grpc.ssl_target_name_override", "orders"))
        self.mesh = meshclient.Mesh.from_documents(
            [{"version": 1, "services": {"orders": service}}]
        )

    def sync(self, name: str) -> Any:
        if name == "meshclient":
            return self.mesh.grpc_channel("orders")
        if self._credentials is None:
            return grpc.insecure_channel(self._target, self._options)
        return grpc.secure_channel(self._target, self._credentials, self._options)

    def aio(self, name: str) -> Any:
        if name == "meshclient":
            return self.mesh.grpc_aio_channel("orders")
        if self._credentials is None:
            return grpc.aio.insecure_channel(self._target, self._options)
        return grpc.aio.secure_channel(self._target, self._credentials, self._options)


IDENTITY = "spiffe://cluster.local/ns/prod/sa/orders"
NAMES = ("grpcio round_robin", "meshclient")


def measure(clients: Clients, calls: int, rounds: int) -> dict[tuple[str, str], list[Figures]]:
    """Every scenario with both clients in turns."""
    found: dict[tuple[str, str], list[Figures]] = {}
    for _ in range(rounds):
        for name in NAMES:
            with clients.sync(name) as channel:
                found.setdefault(("sync unary", name), []).append(sync_unary(channel, calls))
            with clients.sync(name) as channel:
                found.setdefault(("sync stream", name), []).append(sync_stream(channel, calls))

        async def asynchronous() -> None:
            for name in NAMES:
                for tasks in (1, 50):
                    async with clients.aio(name) as channel:
                        figures = await aio_unary(channel, calls, tasks)
                        found.setdefault((f"aio unary, {tasks} tasks", name), []).append(figures)
                async with clients.aio(name) as channel:
                    figures = await aio_stream(channel, calls, 1)
                    found.setdefault(("aio stream", name), []).append(figures)

        asyncio.run(asynchronous())
    return found


def _report(found: dict[tuple[str, str], list[Figures]]) -> None:
    print(f"{'':22}{'':20}{'calls/s':>10}{'p50 us':>9}{'p99 us':>9}{'CPU us':>9}{'ratio':>8}")
    for scenario in dict.fromkeys(scenario for scenario, _ in found):
        base = 0.0
        for name in NAMES:
            rows = found[scenario, name]
            rate, p50, p99, cpu = (statistics.median(column) for column in zip(*rows, strict=True))
            base = base or rate
            print(
                f"{scenario:22}{name:20}{rate:10.0f}{p50 * 1e6:9.0f}{p99 * 1e6:9.0f}"
                f"{cpu * 1e6:9.0f}{rate / base:8.2f}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tls", nargs="?", const="plain", choices=("plain", "spiffe"))
    parser.add_argument("--serve", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        asyncio.run(_serve([Path(name).read_bytes() for name in options.serve]))
        return
    with tempfile.TemporaryDirectory() as folder:
        tls, words = None, []
        if options.tls:
            from tls_support import Authority

            authority = Authority(Path(folder))
            certificate, key = authority.issue(f"DNS:orders,URI:{IDENTITY}")
            words = [certificate, key, authority.ca]
            client = authority.issue("URI:spiffe://cluster.local/ns/prod/sa/web")
            tls = {"mode": "mutual", "ca": authority.ca, "certificate": client[0], "key": client[1]}
            if options.tls == "spiffe":
                tls["subject_alt_names"] = [IDENTITY]
        command = [sys.executable, __file__, "--serve", *words]
        servers = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert servers.stdout is not None
        clients = Clients(json.loads(servers.stdout.readline()), tls)
        try:
            _report(measure(clients, options.calls, options.rounds))
        finally:
            clients.mesh.close()
            servers.terminate()
            servers.wait(10)


if __name__ == "__main__":
    main()
