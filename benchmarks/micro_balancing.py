"""What load balancing and retries cost per decision: nanoseconds, and parts of B.

No network: only the arithmetic that stands between a call and its endpoint. B is the CPU of
one bare ``httpx.AsyncClient`` GET at concurrency 1, measured in the same run against a server
in a process of its own. Budget: 0.002 B per pick at any size. It takes about a minute.

    python benchmarks/micro_balancing.py
"""

from __future__ import annotations

import random
import statistics
import timeit
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, get_args

from compare import measure
from server import Server

from meshclient.balancing import Balancer, EndpointState, carry_over, make_balancer
from meshclient.model.cluster import (
    Cluster,
    ClusterPolicy,
    LbPolicy,
    Limits,
    LoadBalancing,
    LocalityWeight,
    Topology,
)
from meshclient.model.endpoint import NO_LOCALITY, Endpoint, Locality
from meshclient.model.headers import HeaderMap
from meshclient.model.outcome import Outcome, ResetReason
from meshclient.model.retry import RetryPolicy
from meshclient.resilience import RetryLimiter, RetryState, may_retry, read_overrides

REPEATS = 15
BUDGET = 0.002
rand = partial(random.Random(1).getrandbits, 64)

RESPONSE = [
    (b"Server", b"nginx"),
    (b"Date", b"Sat, 01 Jan 2028 00:00:00 GMT"),
    (b"Content-Type", b"application/json"),
    (b"Content-Length", b"100"),
    (b"Connection", b"keep-alive"),
    (b"Etag", b'"abc"'),
]
REQUEST = [
    (b"Host", b"reviews:9080"),
    (b"Accept", b"*/*"),
    (b"Accept-Encoding", b"gzip, deflate"),
    (b"Connection", b"keep-alive"),
    (b"User-Agent", b"python-httpx/0.28"),
]
ISTIO = RetryPolicy(
    frozenset({"connect-failure", "refused-stream", "unavailable", "cancelled"}), num_retries=2
)


def nanoseconds(function: Callable[[], object], number: int = 2_000) -> float:
    """Best of a few runs, with the empty call taken off."""
    empty = min(timeit.repeat(lambda: None, number=number, repeat=REPEATS))
    best = min(timeit.repeat(lambda: function(), number=number, repeat=REPEATS))
    return max(0.0, best - empty) / number * 1e9


SIZES = (10, 100, 1000, 10_000)
#: What is above the policy: health of the first priority, and places.
SHAPES = ("", "second priority", "panic", "localities", "zones")
ZONES = tuple(Locality("r", zone) for zone in "abc")


class Hashed:
    """A call with a hash of its own."""

    subset = ()

    @property
    def hash64(self) -> int:
        return rand()


def cluster_of(size: int, policy: LbPolicy, *, equal: bool = True, shape: str = "") -> Cluster:
    sick = {"second priority": 4, "panic": 2}.get(shape, 0)
    places = shape in ("localities", "zones")
    endpoints = tuple(
        Endpoint(
            f"10.0.{i >> 8}.{i & 255}",
            80,
            weight=1 if equal else 1 + i % 5,
            health="unhealthy" if sick and i % sick == 0 else "healthy",
            priority=i % 2 if shape == "second priority" else 0,
            locality=ZONES[i % 3] if places else NO_LOCALITY,
        )
        for i in range(size)
    )
    topology = Topology(min_cluster_size=1)
    if places:
        mode: Literal["locality_weighted", "zone_aware"] = (
            "locality_weighted" if shape == "localities" else "zone_aware"
        )
        topology = replace(topology, locality=mode)
    return Cluster(
        "bench",
        endpoints=endpoints,
        policy=ClusterPolicy(
            LoadBalancing(policy=policy),
            panic_threshold_percent=60 if shape == "panic" else 0,
            topology=topology,
        ),
        locality_weights=tuple(LocalityWeight(z, 1 + i) for i, z in enumerate(ZONES)),
    )


def made(cluster: Cluster, states: Sequence[EndpointState] | None = None) -> Balancer:
    states = carry_over((), cluster) if states is None else states
    callers = carry_over((), cluster_of(9, "round_robin", shape="zones"))
    return make_balancer(cluster, states, rand(), local=(*callers, callers[0]), node=ZONES[0])


def cells(name: str, clusters: Sequence[Cluster], b_us: float, *, busy: bool = False) -> None:
    row = []
    for cluster in clusters:
        states = carry_over((), cluster)
        for state in states if busy else ():
            state.acquire()
            state.acquire()
        picks = 20 if cluster.policy.load_balancing.full_scan else 1_000
        row.append(nanoseconds(partial(made(cluster, states).pick, rand, 0.0, Hashed()), picks))
    most = max(row) / 1000 / b_us
    over = "  over the budget" if most > BUDGET else ""
    print(f"{name:44}" + "".join(f"{cell:9.0f}" for cell in row) + f"{most:9.4f}{over}", flush=True)


def picks(b_us: float) -> None:
    """Every policy there is; a policy new to the model is measured without a change here."""
    sizes = "".join(f"{size:>9}" for size in SIZES)
    print(f"{'ns per pick, by endpoints':44}{sizes}{'most, B':>9}")
    for policy in get_args(LbPolicy):
        for equal in (True, False):
            name = f"{policy}, {'equal' if equal else 'unequal'} weights"
            cells(name, [cluster_of(size, policy, equal=equal) for size in SIZES], b_us)
    full = [cluster_of(size, "least_request") for size in SIZES]
    scan = LoadBalancing(full_scan=True)
    cells("least_request, full scan", [with_settings(c, scan) for c in full], b_us)
    for policy in ("ring_hash", "maglev"):
        bounded = LoadBalancing(policy, hash_balance_factor=150)
        clusters = [with_settings(cluster_of(size, policy), bounded) for size in SIZES]
        cells(f"{policy}, bounded load, everybody busy", clusters, b_us, busy=True)
    for shape in SHAPES[1:]:
        clusters = [cluster_of(size, "round_robin", shape=shape) for size in SIZES]
        cells(f"round_robin under {shape}", clusters, b_us)


def with_settings(cluster: Cluster, settings: LoadBalancing) -> Cluster:
    return replace(cluster, policy=replace(cluster.policy, load_balancing=settings))


def tables() -> None:
    """Rings and tables of a thousand endpoints, made anew."""
    print(f"{'ms per table of 1000 endpoints':44}{'equal':>9}{'unequal':>9}")
    ring_sizes = (1024, 4096, 16_384, 65_536)
    shapes = [
        (f"ring of {n} points", LoadBalancing("ring_hash", minimum_ring_size=n)) for n in ring_sizes
    ]
    for name, settings in (*shapes, ("maglev of 65537 places", LoadBalancing("maglev"))):
        row = []
        for equal in (True, False):
            cluster = with_settings(cluster_of(1000, settings.policy, equal=equal), settings)
            states = carry_over((), cluster)
            row.append(min(timeit.repeat(partial(made, cluster, states), number=1, repeat=3)) * 1e3)
        print(f"{name:44}" + "".join(f"{ms:9.2f}" for ms in row), flush=True)


def memory_of_states() -> None:
    cluster = cluster_of(10_000, "round_robin")
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    kept = carry_over((), cluster)
    each = (tracemalloc.get_traced_memory()[0] - before) / len(kept)
    tracemalloc.stop()
    print(f"{'bytes per endpoint: its state':44}{each:9.0f}")


def rebuilds() -> None:
    """What the control thread pays for a new version of a thousand endpoints, or of more."""
    print(f"{'ms per rebuild, bytes per endpoint':44}" + "".join(f"{n:>9}" for n in SIZES[2:]))
    for policy in get_args(LbPolicy):
        row = []
        for size in SIZES[2:]:
            cluster = cluster_of(size, policy, equal=False)
            states = carry_over((), cluster)
            row.append(min(timeit.repeat(partial(made, cluster, states), number=1, repeat=2)) * 1e3)
        cluster = cluster_of(1000, policy, equal=False)
        states = carry_over((), cluster)
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        kept = made(cluster, states)
        each = (tracemalloc.get_traced_memory()[0] - before) / 1000
        tracemalloc.stop()
        del kept
        print(f"{policy:44}" + "".join(f"{ms:9.2f}" for ms in row) + f"{each:9.0f} B", flush=True)
    cluster = cluster_of(1000, "round_robin")
    states = carry_over((), cluster)
    other = replace(cluster, endpoints=tuple(replace(e, port=81) for e in cluster.endpoints))

    def replaced() -> None:
        make_balancer(other, carry_over(states, other), rand())

    best = min(timeit.repeat(replaced, number=1, repeat=3)) * 1e3
    print(f"{'1000 endpoints replaced by others':44}{best:9.2f}")


def counters() -> None:
    state = EndpointState(Endpoint("10.0.0.1", 80))

    def pair() -> None:
        state.acquire()
        state.release()

    print(f"{'acquire + release':32}{nanoseconds(pair):9.0f}")


def retries() -> None:
    limiter = RetryLimiter(Limits())
    success = Outcome(200, HeaderMap(RESPONSE))
    failure = Outcome(reset=ResetReason.CONNECTION_FAILURE, sent=False)
    request = HeaderMap(REQUEST)

    def decide(outcome: Outcome) -> None:
        state = RetryState(ISTIO, "GET", True, request)
        state.decide(outcome, limiter, rand, 0.0)
        state.release(limiter)

    print(f"{'rand()':32}{nanoseconds(rand):9.0f}")
    print(f"{'may_retry, success':32}{nanoseconds(lambda: may_retry(ISTIO, success)):9.0f}")
    print(f"{'RetryState + decide, success':32}{nanoseconds(lambda: decide(success)):9.0f}")
    print(f"{'RetryState + decide, failure':32}{nanoseconds(lambda: decide(failure)):9.0f}")
    print(f"{'control headers, none there':32}{nanoseconds(lambda: read_overrides(request)):9.0f}")


def unit_us(port: int) -> float:
    """B, in microseconds."""
    return statistics.median(
        measure("httpx", ("async", 1), port, 0, 0.5)["cpu_us"] for _ in range(3)
    )


def main() -> None:
    with Server() as server:
        b_us = unit_us(server.port)
        print(f"B: {b_us:.0f} us; a pick may cost {b_us * BUDGET * 1000:.0f} ns")
        picks(b_us)
        print(f"B once more: {unit_us(server.port):.0f} us")
    tables()
    rebuilds()
    memory_of_states()
    counters()
    retries()


if __name__ == "__main__":
    main()
