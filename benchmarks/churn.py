"""What churn of endpoints costs, and how long a call may have to wait meanwhile.

A cluster of 1,000 endpoints of which discovery replaces one 100 times a second; 1,000
decisions a second meanwhile (route, pick, settle; no network). Printed per policy: CPU of the
process with and without the changes, and the longest and the 99.9th percentile decision.

    python benchmarks/churn.py [--seconds 5] [--endpoints 1000] [--changes 100] [--calls 1000]
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections.abc import Callable

from meshclient.call import Call
from meshclient.control import Controller
from meshclient.model.cluster import Cluster, ClusterPolicy
from meshclient.model.endpoint import Endpoint, EndpointSet, EndpointSource, RegistrySource
from meshclient.model.headers import HeaderMap
from meshclient.model.load_balancing import LbPolicy, LoadBalancing
from meshclient.model.outcome import Outcome
from meshclient.model.request import RequestHead
from meshclient.model.routes import (
    ForwardAction,
    HashPolicy,
    Route,
    RouteConfiguration,
    VirtualHost,
    WeightedCluster,
)
from meshclient.model.snapshot import ANY_PORT, MeshConfig, Snapshot
from meshclient.plane import Plane, build_plane

POLICIES: tuple[LbPolicy, ...] = (
    "round_robin",
    "least_request",
    "peak_ewma",
    "ring_hash",
    "maglev",
)
SOURCE = RegistrySource("scripted")
RAND = random.Random(1).getrandbits
OK = Outcome(200, HeaderMap([]))


def rand() -> int:
    """A fresh unsigned 64-bit number."""
    return RAND(64)


class Churn:
    """A registry in which one endpoint is replaced ``rate`` times a second."""

    def __init__(self, count: int, rate: float) -> None:
        self._endpoints = [self._endpoint(number) for number in range(count)]
        self._next = count
        self._rate = rate

    def _endpoint(self, number: int) -> Endpoint:
        return Endpoint(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 80)

    async def watch(self, source: EndpointSource, report: Callable[[EndpointSet], None]) -> None:  # noqa: ARG002 - the protocol of discoverers
        """Report every change, until cancelled."""
        report(EndpointSet(tuple(self._endpoints), "ready"))
        while self._rate:
            await asyncio.sleep(1 / self._rate)
            self._endpoints[self._next % len(self._endpoints)] = self._endpoint(self._next)
            self._next += 1
            report(EndpointSet(tuple(self._endpoints), "ready"))


def config(policy: LbPolicy) -> MeshConfig:
    """One service under ``policy``."""
    balancing = LoadBalancing(policy, minimum_ring_size=4096)
    cluster = Cluster("a", service="a", discovery=SOURCE, policy=ClusterPolicy(balancing))
    hashed = (HashPolicy("header", "x-user"),)
    action = ForwardAction((WeightedCluster("a"),), hash_policy=hashed)
    host = VirtualHost("a", ("a",), (Route(action),))
    return MeshConfig(
        route_configurations={ANY_PORT: RouteConfiguration("all", (host,))}, clusters={"a": cluster}
    )


def decide(plane: Plane, number: int, now: float) -> None:
    """One call, whose only try succeeds at once."""
    headers = HeaderMap([(b"host", b"a"), (b"x-user", b"%d" % number)])
    call = Call(plane, RequestHead("GET", "http", "a", 80, "/", headers, "a"), now, rand)
    attempt = call.next_attempt(now)
    call.settle(attempt, OK, now + 0.001)
    attempt.close(now + 0.001)


def run(policy: LbPolicy, options: argparse.Namespace, rate: float) -> tuple[float, list[float]]:
    """CPU share of one core, and the time of every decision in seconds, sorted."""
    build: Callable[[Snapshot, Plane | None], Plane] = lambda s, p: build_plane(s, p, rand)  # noqa: E731
    churn = Churn(options.endpoints, rate)
    controller = Controller(lambda: config(policy), build, make_discoverer=lambda: churn)
    try:
        controller.wait_ready(5.0)
        times: list[float] = []
        begin, cpu = time.monotonic(), time.process_time()
        pause_s = 1 / options.calls
        due = begin
        while due < begin + options.seconds:
            time.sleep(max(0.0, due - time.monotonic()))
            started = time.perf_counter()
            decide(controller.publisher.plane, len(times), time.monotonic())
            times.append(time.perf_counter() - started)
            due += pause_s
        used = (time.process_time() - cpu) / (time.monotonic() - begin)
    finally:
        controller.close()
    return used, sorted(times)


def main() -> None:
    """Print one line per policy."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--endpoints", type=int, default=1000)
    parser.add_argument("--changes", type=float, default=100.0)
    parser.add_argument("--calls", type=float, default=1000.0)
    options = parser.parse_args()
    print(
        f"{options.endpoints} endpoints, {options.changes:g} changes/s, {options.calls:g} calls/s"
    )
    print(
        f"{'policy':<14}{'CPU at rest':>12}{'churning':>10}{'p50 us':>9}{'p99.9':>9}{'max ms':>9}"
    )
    for policy in POLICIES:
        still, _ = run(policy, options, 0.0)
        used, times = run(policy, options, options.changes)
        p50, p999 = times[len(times) // 2] * 1e6, times[int(len(times) * 0.999)] * 1e6
        print(
            f"{policy:<14}{still:>11.1%} {used:>9.1%}{p50:>9.1f}{p999:>9.0f}{times[-1] * 1e3:>9.2f}"
        )


if __name__ == "__main__":
    main()
