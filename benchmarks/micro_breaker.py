"""What a closed circuit breaker costs per call, beside pybreaker's own ``call()``.

No network. ``B`` is the CPU of one bare ``httpx.AsyncClient`` GET at concurrency 1, measured in
the same run. Budget: 0.0005 B for asking a closed breaker and telling it of a success.

    python benchmarks/micro_breaker.py
"""

from __future__ import annotations

import random
import statistics
import timeit
from collections.abc import Callable

import pybreaker
from compare import measure
from server import Server

from meshclient.call import Call
from meshclient.model.breaker import BreakerScope, CircuitBreaker
from meshclient.model.cluster import Cluster, ClusterPolicy
from meshclient.model.endpoint import Endpoint
from meshclient.model.headers import HeaderMap
from meshclient.model.outcome import Outcome, OutcomeKind
from meshclient.model.request import RequestHead
from meshclient.model.routes import (
    ForwardAction,
    Route,
    RouteConfiguration,
    VirtualHost,
    WeightedCluster,
)
from meshclient.model.snapshot import ANY_PORT, Snapshot
from meshclient.plane import Plane, build_plane
from meshclient.resilience.breaker import Breaker

REPEATS = 9
NUMBER = 50_000

SETTINGS = {
    "consecutive failures": CircuitBreaker(),
    "and a rate over the last 100 calls": CircuitBreaker(failure_rate_percent=50.0),
    "and rates of failed and slow calls over 30 s": CircuitBreaker(
        failure_rate_percent=50.0, slow_rate_percent=80.0, slow_s=2.0, window_s=30.0
    ),
}


def seconds(work: Callable[[], object], number: int = NUMBER) -> float:
    """The best of several rounds, per call."""
    return min(timeit.repeat(work, number=number, repeat=REPEATS)) / number


def admit_and_record(settings: CircuitBreaker) -> float:
    """Both calls, without the lambda around them."""
    breaker = Breaker(settings, BreakerScope("service", "a"))
    names = {"breaker": breaker, "kind": OutcomeKind.SUCCESS, "outcome": Outcome(200)}
    statement = "breaker.record(breaker.admit(1.0), kind, outcome, 0.01, 1.0)"
    timeit.timeit(statement, globals=names, number=1)
    rounds = timeit.repeat(statement, globals=names, number=NUMBER, repeat=REPEATS)
    return min(rounds) / NUMBER


def plane_with(settings: CircuitBreaker | None) -> Plane:
    """One service of one endpoint."""
    cluster = Cluster(
        "a", endpoints=(Endpoint("10.0.0.1", 80),), policy=ClusterPolicy(circuit_breaker=settings)
    )
    route = Route(ForwardAction(clusters=(WeightedCluster("a"),)), name="r")
    hosts = (VirtualHost("v", ("a.test",), (route,)),)
    snapshot = Snapshot(
        1,
        route_configurations={ANY_PORT: RouteConfiguration("rc", hosts)},
        clusters={"a": cluster},
    )
    return build_plane(snapshot, None, lambda: 7)


def whole_decision(plane: Plane) -> Callable[[], None]:
    """Head to the end of the body, nothing on the wire."""
    draw = random.Random(1).getrandbits
    outcome = Outcome(200, HeaderMap([]))

    def decide() -> None:
        headers = HeaderMap([(b"host", b"a.test")])
        head = RequestHead("GET", "http", "a.test", 80, "/", headers, "a.test")
        call = Call(plane, head, 1.0, lambda: draw(64))
        attempt = call.next_attempt(1.0)
        call.settle(attempt, outcome, 1.0)
        attempt.close(1.0)

    return decide


def bare_s() -> float:
    """B in seconds."""
    with Server() as server:
        rounds = [measure("httpx", ("async", 1), server.port, 0, 0.5)["cpu_us"] for _ in range(3)]
    return statistics.median(rounds) / 1e6


def main() -> None:
    b_s = bare_s()
    print(f"B = {b_s * 1e6:.0f} us\n")
    for name, settings in SETTINGS.items():
        took_s = admit_and_record(settings)
        print(f"admit + record, {name:46s} {took_s * 1e9:6.0f} ns  {took_s / b_s:.5f} B")
    circuit = pybreaker.CircuitBreaker()
    took_s = seconds(lambda: circuit.call(int))
    print(f"{'pybreaker: call(int)':62s} {took_s * 1e9:6.0f} ns  {took_s / b_s:.5f} B")
    took_s = seconds(int)
    print(f"{'    int() alone':62s} {took_s * 1e9:6.0f} ns  {took_s / b_s:.5f} B")
    without_s = seconds(whole_decision(plane_with(None)), 5000)
    with_s = seconds(whole_decision(plane_with(CircuitBreaker())), 5000)
    print(f"\n{'a whole decision without a breaker':62s} {without_s * 1e9:6.0f} ns")
    more_s = with_s - without_s
    print(f"{'with one it takes more by':62s} {more_s * 1e9:6.0f} ns  {more_s / b_s:.5f} B")


if __name__ == "__main__":
    main()
