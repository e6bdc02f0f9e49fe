"""Nanoseconds per decision of load balancing and retries. Run it; it takes a few seconds.

No network: only the arithmetic that stands between a call and its endpoint.
"""

from __future__ import annotations

import random
import timeit
from collections.abc import Callable
from functools import partial

from meshclient.balancing import EndpointState, carry_over, make_balancer
from meshclient.model.cluster import Cluster, ClusterPolicy, LbPolicy, Limits, LoadBalancing
from meshclient.model.endpoint import Endpoint
from meshclient.model.headers import HeaderMap
from meshclient.model.outcome import Outcome, ResetReason
from meshclient.model.retry import RetryPolicy
from meshclient.resilience import RetryLimiter, RetryState, may_retry, read_overrides

REPEATS = 5
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


def nanoseconds(function: Callable[[], object], number: int = 20_000) -> float:
    """Best of a few runs, with the empty call taken off."""
    empty = min(timeit.repeat(lambda: None, number=number, repeat=REPEATS))
    best = min(timeit.repeat(lambda: function(), number=number, repeat=REPEATS))
    return max(0.0, best - empty) / number * 1e9


def cluster_of(size: int, policy: LbPolicy, *, equal: bool) -> Cluster:
    endpoints = tuple(
        Endpoint(f"10.0.{i >> 8}.{i & 255}", 80, weight=1 if equal else 1 + i % 5)
        for i in range(size)
    )
    return Cluster("bench", endpoints=endpoints, policy=ClusterPolicy(LoadBalancing(policy=policy)))


def picks() -> None:
    sizes = (1, 10, 1000, 10_000)
    print(f"{'ns per pick':32}" + "".join(f"{size:>9}" for size in sizes))
    rows: list[tuple[LbPolicy, bool]] = [
        ("round_robin", True),
        ("round_robin", False),
        ("least_request", True),
        ("least_request", False),
        ("random", True),
    ]
    for policy, equal in rows:
        cells = []
        for size in sizes:
            cluster = cluster_of(size, policy, equal=equal)
            balancer = make_balancer(cluster, carry_over((), cluster), rand())
            cells.append(nanoseconds(partial(balancer.pick, rand)))
        name = f"{policy}, {'equal' if equal else 'unequal'} weights"
        print(f"{name:32}" + "".join(f"{cell:9.0f}" for cell in cells))


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


if __name__ == "__main__":
    picks()
    counters()
    retries()
