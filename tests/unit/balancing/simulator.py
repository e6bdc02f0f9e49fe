"""Open-loop simulation of a balancer: calls arrive as they like, endpoints have latencies.

Virtual time only; the same seed gives the same run. It measures and never judges.
After Finagle's load balancer simulator.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from heapq import heappop, heappush

from meshclient.balancing import EndpointState, carry_over, make_balancer
from meshclient.model.cluster import Cluster, ClusterPolicy, LbPolicy, LoadBalancing
from meshclient.model.endpoint import Endpoint, Locality
from meshclient.model.outcome import Outcome

#: Latency in seconds of an endpoint (its number) for a call that starts at a time.
Latency = Callable[[int, float], float]


class Run:
    """What the calls of one simulation met. Latencies in seconds, in order of arrival."""

    def __init__(self) -> None:
        self.started: list[float] = []
        self.latencies: list[float] = []
        self.calls: Counter[int] = Counter()
        self.most_in_flight: Counter[int] = Counter()

    def mean_s(self, since: float = 0.0) -> float:
        """Mean latency of the calls that began at ``since`` or later."""
        found = self._since(since)
        return sum(found) / len(found)

    def percentile_s(self, percent: float, since: float = 0.0) -> float:
        """The latency that ``percent`` of the calls do not exceed."""
        found = sorted(self._since(since))
        return found[min(len(found) - 1, int(len(found) * percent / 100))]

    def _since(self, since: float) -> list[float]:
        pairs = zip(self.started, self.latencies, strict=True)
        return [latency for started, latency in pairs if started >= since]


def simulate(
    policy: LbPolicy,
    latency: Latency,
    seed: int,
    endpoints: int = 10,
    rate: float = 2000.0,
    duration_s: float = 10.0,
    zones: int = 1,
) -> Run:
    """Poisson arrivals at ``rate`` per second for ``duration_s``; endpoint i is in zone i mod
    ``zones``. A response is whole when its head comes."""
    draws = random.Random(seed)
    rand = partial(random.Random(seed + 1).getrandbits, 64)
    states = _states(policy, endpoints, zones)
    cluster = Cluster("c", policy=ClusterPolicy(load_balancing=LoadBalancing(policy=policy)))
    balancer = make_balancer(cluster, states, seed, None, 0.0)
    numbers = {state: number for number, state in enumerate(states)}
    run, pending = Run(), list[tuple[float, int, EndpointState, float]]()
    now = 0.0
    while (now := now + draws.expovariate(rate)) < duration_s:
        _finish(pending, now, balancer.on_outcome)
        state = balancer.pick(rand, now)
        assert state is not None
        number = numbers[state]
        state.acquire()
        took = latency(number, now)
        heappush(pending, (now + took, len(run.started), state, now))
        run.started.append(now)
        run.latencies.append(took)
        run.calls[number] += 1
        run.most_in_flight[number] = max(run.most_in_flight[number], state.active)
    return run


def _states(policy: LbPolicy, endpoints: int, zones: int) -> tuple[EndpointState, ...]:
    found = tuple(
        Endpoint(f"10.0.0.{n}", 80, locality=Locality("r", f"z{n % zones}"))
        for n in range(endpoints)
    )
    return carry_over((), Cluster("c", endpoints=found))


def _finish(
    pending: list[tuple[float, int, EndpointState, float]],
    now: float,
    on_outcome: Callable[[EndpointState, Outcome, float, float], None] | None,
) -> None:
    while pending and pending[0][0] <= now:
        ended, _, state, started = heappop(pending)
        state.release()
        if on_outcome is not None:
            on_outcome(state, _OK, started, ended)


_OK = Outcome(200)
