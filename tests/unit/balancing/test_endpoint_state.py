"""In-flight counts and what survives an update."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from meshclient.balancing import EndpointState, carry_over
from meshclient.balancing.state import total_of
from meshclient.model.cluster import Cluster, ClusterPolicy, LoadBalancing
from meshclient.model.endpoint import Endpoint


@pytest.fixture
def eager_switching() -> Iterator[None]:
    """Threads take turns as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("eager_switching")
def test_counts_are_exact_under_100_threads() -> None:
    state = EndpointState(Endpoint("10.0.0.1", 80))
    barrier = threading.Barrier(100)

    def work(keep: int) -> None:
        barrier.wait(10)
        for _ in range(200):
            state.acquire()
            state.acquire()
            state.release()
            state.release()
        for _ in range(keep):
            state.acquire()

    threads = [threading.Thread(target=work, args=(i % 3,)) for i in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert state.active == sum(i % 3 for i in range(100))


def test_release_never_goes_below_zero() -> None:
    state = EndpointState(Endpoint("10.0.0.1", 80))
    state.release()
    assert state.active == 0
    state.acquire()
    assert state.active == 1
    state.release()
    state.release()
    assert state.active == 0


def test_carry_over_keeps_states_by_address_and_takes_new_values() -> None:
    first = Cluster("c", endpoints=(Endpoint("a", 1), Endpoint("b", 1), Endpoint("b", 2)))
    old = carry_over((), first)
    for _ in range(3):
        old[1].acquire()
    moved = Endpoint("b", 1, weight=7, labels=(("version", "v2"),))
    second = Cluster("c", endpoints=(Endpoint("new", 1), moved))
    new = carry_over(old, second)
    assert [s.key for s in new] == ["new:1", "b:1"]
    assert new[1] is old[1]
    assert new[1].active == 3
    assert new[1].endpoint is moved
    assert new[1].weight == 7
    assert new[0].active == 0


def test_an_address_listed_twice_counts_once() -> None:
    twice = Cluster("c", endpoints=(Endpoint("a", 1, weight=2), Endpoint("a", 1, weight=5)))
    (state,) = carry_over((), twice)
    assert state.weight == 2


def test_key_and_repr_name_the_endpoint() -> None:
    state = EndpointState(Endpoint("::1", 80, weight=0), "reviews")
    state.acquire()
    assert state.key == "[::1]:80"
    assert state.cluster == "reviews"
    assert repr(state) == "<EndpointState [::1]:80 weight=1 active=1>"


BOUNDED = ClusterPolicy(LoadBalancing("ring_hash", hash_balance_factor=120))


def test_a_bounded_cluster_counts_all_its_requests_also_where_an_endpoint_has_left() -> None:
    first = Cluster("c", endpoints=(Endpoint("a", 1), Endpoint("b", 1)), policy=BOUNDED)
    old = carry_over((), first)
    total = total_of(old)
    for state in (old[0], old[0], old[1]):
        state.acquire()
    assert len(total) == 3
    new = carry_over(old, replace(first, endpoints=(Endpoint("b", 1), Endpoint("c", 1))))
    assert new[0] is old[1]
    assert total_of(new) is total
    new[1].acquire()
    assert len(total) == 4
    for state in (old[0], old[0], old[0], old[1], new[1]):  # one release too many
        state.release()
    assert (len(total), [s.active for s in (*old, new[1])]) == (0, [0, 0, 0])


@pytest.mark.usefixtures("eager_switching")
def test_a_shared_total_is_exact_under_threads() -> None:
    cluster = Cluster("c", endpoints=(Endpoint("a", 1), Endpoint("b", 1)), policy=BOUNDED)
    states = carry_over((), cluster)
    total = total_of(states)
    seen: list[bool] = []

    def work(state: EndpointState) -> None:
        for _ in range(300):
            state.acquire()
            seen.append(len(total) >= 1)
            state.release()

    threads = [threading.Thread(target=work, args=(states[n % 2],)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (len(total), all(seen)) == (0, True)


def test_clusters_without_a_bound_pay_for_no_total() -> None:
    cluster = Cluster("c", endpoints=(Endpoint("a", 1), Endpoint("b", 1)))
    states = carry_over((), cluster)
    assert {type(state) for state in states} == {EndpointState}
    states[1].acquire()
    assert len(total_of(states)) == 1
    assert len(total_of(())) == 0
