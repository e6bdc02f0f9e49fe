"""Active health where endpoints come and go."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshclient.balancing import EndpointState, carry_over
from meshclient.model.cluster import Cluster, ClusterPolicy
from meshclient.model.endpoint import DnsSource, Endpoint, StaticSource
from meshclient.model.health import (
    ACTIVE_HC_TIMEOUT,
    FAILED_ACTIVE_HC,
    FAILED_EDS_HEALTH,
    PENDING_ACTIVE_HC,
    PENDING_DYNAMIC_REMOVAL,
    HealthCheck,
)
from meshclient.resilience.health_membership import (
    initial_flags,
    is_checked,
    settle_membership,
    without_failed,
)

CHECKED = ClusterPolicy(health_checks=(HealthCheck("tcp"),))
ONE, TWO, THREE = (Endpoint("10.0.0.1", port) for port in (1, 2, 3))
REMOVAL = PENDING_DYNAMIC_REMOVAL


def cluster(*endpoints: Endpoint, policy: ClusterPolicy = CHECKED, static: bool = False) -> Cluster:
    source = StaticSource() if static else DnsSource((Endpoint("a.test", 80),))
    return Cluster("a", discovery=source, endpoints=endpoints, policy=policy)


def settled(old: tuple[EndpointState, ...], new: Cluster) -> tuple[EndpointState, ...]:
    return settle_membership(old, carry_over(old, new), new)


def passing(*states: EndpointState) -> None:
    for state in states:
        state.flags &= ~(FAILED_ACTIVE_HC | PENDING_ACTIVE_HC)


@pytest.mark.parametrize(
    ("policy", "endpoint", "expected"),
    [
        (ClusterPolicy(), ONE, 0),
        (CHECKED, ONE, FAILED_ACTIVE_HC),
        (CHECKED, replace(ONE, health_check=False), 0),
        (
            replace(CHECKED, ignore_new_hosts_until_first_hc=True),
            ONE,
            FAILED_ACTIVE_HC | PENDING_ACTIVE_HC,
        ),
    ],
)
def test_a_new_endpoint_fails_until_it_is_checked(
    policy: ClusterPolicy, endpoint: Endpoint, expected: int
) -> None:
    assert initial_flags(policy, endpoint) == expected
    assert is_checked(policy, endpoint) == bool(expected)
    (state,) = settled((), cluster(endpoint, policy=policy))
    assert state.flags == expected


def test_discoverys_own_word_is_kept_beside() -> None:
    (state,) = settled((), cluster(replace(ONE, health="unhealthy")))
    assert state.flags == FAILED_ACTIVE_HC | FAILED_EDS_HEALTH


def test_a_known_endpoint_keeps_what_its_checks_said() -> None:
    first, second = settled((), cluster(ONE, TWO))
    passing(first)
    second.flags |= ACTIVE_HC_TIMEOUT
    states = settled((first, second), cluster(TWO, THREE, ONE))
    assert [s.key[-1] for s in states] == ["2", "3", "1"]
    assert [s.flags for s in states] == [
        FAILED_ACTIVE_HC | ACTIVE_HC_TIMEOUT,
        FAILED_ACTIVE_HC,
        0,
    ]


def test_a_dropped_endpoint_stays_while_its_checks_pass() -> None:
    first, second, third = old = settled((), cluster(ONE, TWO, THREE))
    passing(first, third)
    third.flags |= FAILED_EDS_HEALTH
    states = settled(old, cluster())
    assert states == (first,)
    assert first.flags == REMOVAL
    assert second not in states
    assert third not in states


def test_it_goes_on_staying_and_comes_back_as_it_was() -> None:
    old = settled((), cluster(ONE, TWO))
    passing(*old)
    staying = settled(settled(old, cluster(TWO)), cluster(TWO))
    assert [s.flags for s in staying] == [0, REMOVAL]
    again = settled(staying, cluster(ONE, TWO))
    assert set(again) == set(old)
    assert [s.flags for s in again] == [0, 0]


@pytest.mark.parametrize(
    "after",
    [
        cluster(policy=replace(CHECKED, ignore_health_on_host_removal=True)),
        cluster(static=True),
        cluster(policy=ClusterPolicy()),
    ],
)
def test_it_is_dropped_at_once_where_nothing_holds_it(after: Cluster) -> None:
    old = settled((), cluster(ONE))
    passing(*old)
    assert settled(old, after) == ()


def test_one_that_is_not_checked_is_dropped_at_once() -> None:
    """No check could ever end its stay."""
    old = settled((), cluster(replace(ONE, health_check=False)))
    assert settled(old, cluster()) == ()


def test_one_whose_checks_are_switched_off_is_as_discovery_says() -> None:
    old = settled((), cluster(ONE))
    (state,) = settled(old, cluster(replace(ONE, health_check=False)))
    assert state is old[0]
    assert state.flags == 0


def test_the_first_failure_ends_the_stay() -> None:
    old = settled((), cluster(ONE, TWO))
    passing(*old)
    states = settled(old, cluster(TWO))
    assert without_failed(states) is states
    old[0].flags |= FAILED_ACTIVE_HC
    old[1].flags |= FAILED_ACTIVE_HC
    assert without_failed(states) == (old[1],), "one that is listed may fail and stay"
