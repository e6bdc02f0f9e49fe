"""Which endpoints get traffic, and what explain says of the others."""

from __future__ import annotations

from typing import Literal

import pytest

from meshclient.balancing import carry_over, make_balancer
from meshclient.model.cluster import Cluster, ClusterPolicy, LoadBalancing
from meshclient.model.endpoint import Endpoint

Health = Literal["healthy", "unhealthy", "draining", "degraded"]


@pytest.mark.parametrize(
    ("endpoints", "reasons"),
    [
        ([("healthy", 0), ("healthy", 0)], ["", ""]),
        ([("unhealthy", 0), ("healthy", 0)], ["unhealthy", ""]),
        ([("draining", 0), ("healthy", 0)], ["draining", ""]),
        ([("unhealthy", 0), ("draining", 0)], ["unhealthy", "draining"]),
        # Half of them well is 70 % of the health; degraded ones take what is missing.
        ([("degraded", 0), ("healthy", 0)], ["", ""]),
        (
            [("degraded", 0), ("healthy", 0), ("healthy", 0), ("healthy", 0)],
            ["degraded, and healthy endpoints take the whole load", "", "", ""],
        ),
        ([("degraded", 0), ("unhealthy", 0)], ["", "unhealthy"]),
        ([("healthy", 1), ("healthy", 0)], ["priority 1; others take the whole load", ""]),
        ([("unhealthy", 0), ("healthy", 2)], ["unhealthy", ""]),
        # A healthy endpoint of a later priority beats a degraded one of the first.
        (
            [("degraded", 0), ("healthy", 1)],
            ["degraded, and healthy endpoints take the whole load", ""],
        ),
        ([("degraded", 3), ("degraded", 2)], ["priority 3; others take the whole load", ""]),
    ],
)
def test_health_and_priority(endpoints: list[tuple[Health, int]], reasons: list[str]) -> None:
    cluster = Cluster(
        "c",
        endpoints=tuple(
            Endpoint(f"e{i}", 80, health=health, priority=priority)
            for i, (health, priority) in enumerate(endpoints)
        ),
        policy=ClusterPolicy(
            load_balancing=LoadBalancing(policy="round_robin"), panic_threshold_percent=0
        ),
    )
    balancer = make_balancer(cluster, carry_over((), cluster), 0)
    candidates = balancer.candidates()
    assert [c.excluded for c in candidates] == reasons
    wanted = {c.state.key for c in candidates if not c.excluded}
    picked = [balancer.pick(lambda r=r: r) for r in (0, 20, 75, 99)]  # type: ignore[misc]
    assert {state.key for state in picked if state is not None} == wanted
    assert (None in picked) is not bool(wanted)


def test_candidates_show_weight_and_load() -> None:
    cluster = Cluster("c", endpoints=(Endpoint("a", 1, weight=3), Endpoint("b", 1)))
    states = carry_over((), cluster)
    balancer = make_balancer(cluster, states, 0)
    states[0].acquire()
    first, second = balancer.candidates()
    assert (first.state, first.weight, first.active) == (states[0], 3, 1)
    assert repr(first) == "<Candidate a:1 weight=3 active=1>"
    assert repr(second) == "<Candidate b:1 weight=1 active=0>"
