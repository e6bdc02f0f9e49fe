"""Pick first: order, sticking, leaving, retries."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshclient.balancing import Balancer, EndpointState, carry_over, make_balancer
from meshclient.model.cluster import Cluster, ClusterPolicy, LoadBalancing
from meshclient.model.endpoint import Endpoint
from meshclient.model.health import FAILED_ACTIVE_HC
from meshclient.model.outcome import Outcome, ResetReason

_REFUSED = Outcome(reset=ResetReason.CONNECTION_FAILURE, sent=False)


def cluster(names: str, shuffle: bool = False) -> Cluster:
    settings = LoadBalancing("pick_first", shuffle_address_list=shuffle)
    endpoints = tuple(Endpoint(name, 80) for name in names)
    return Cluster("c", endpoints=endpoints, policy=ClusterPolicy(load_balancing=settings))


def made(names: str) -> tuple[Balancer, tuple[EndpointState, ...]]:
    states = carry_over((), cluster(names))
    return make_balancer(cluster(names), states, 5), states


def no_draw() -> int:
    raise AssertionError("nothing may be drawn here")


def tell(balancer: Balancer, state: EndpointState, outcome: Outcome) -> None:
    assert balancer.on_outcome is not None
    balancer.on_outcome(state, outcome, 0.0, 1.0)


def test_the_first_one_takes_every_call() -> None:
    balancer, states = made("abc")
    assert {balancer.pick(no_draw) for _ in range(9)} == {states[0]}


def test_it_is_left_when_it_cannot_be_reached_and_only_then() -> None:
    balancer, (a, b, c) = made("abc")
    for outcome in (Outcome(503), Outcome(reset=ResetReason.REMOTE_RESET), Outcome(200)):
        tell(balancer, a, outcome)
        assert balancer.pick(no_draw) is a
    tell(balancer, a, _REFUSED)
    assert balancer.pick(no_draw) is b
    tell(balancer, a, _REFUSED)
    assert balancer.pick(no_draw) is b, "late news of an endpoint that was left already"
    tell(balancer, c, _REFUSED)
    tell(balancer, c, Outcome(200))
    tell(balancer, b, _REFUSED)
    assert balancer.pick(no_draw) is c, "a is still passed over, c has answered again"
    tell(balancer, c, _REFUSED)
    assert balancer.pick(no_draw) is a, "none is left: after the last comes the first"
    tell(balancer, a, _REFUSED)
    assert balancer.pick(no_draw) is b


def test_retries_move_on_in_order_and_leave_the_others_alone() -> None:
    balancer, (a, b, c) = made("abc")
    assert balancer.pick_other(no_draw, [a], 5) is b
    assert balancer.pick_other(no_draw, [a, b], 5) is c
    assert balancer.pick_other(no_draw, [a, b, c], 5) is a
    assert balancer.pick_other(no_draw, [a], 0) is a
    assert balancer.pick(no_draw) is a


def test_what_is_in_use_stays_in_use_while_it_is_there() -> None:
    first, states = made("abc")
    tell(first, states[0], _REFUSED)
    longer = cluster("xabc")
    kept = carry_over(states, longer)
    second = make_balancer(longer, kept, 6, first)
    assert second.pick(no_draw) is states[1]
    states[1].flags |= FAILED_ACTIVE_HC
    shorter = cluster("xac")
    third = make_balancer(shorter, carry_over(kept, shorter), 7, second)
    assert third.pick(no_draw) is kept[0]


def test_shuffling_differs_by_process_and_not_by_update() -> None:
    wanted = cluster("abcdefgh", shuffle=True)
    states = carry_over((), wanted)
    firsts = [make_balancer(wanted, states, seed).pick(no_draw) for seed in range(60)]
    assert len(set(firsts)) >= 6, "60 draws of 8; fewer than 6 happens once in 10**20"
    balancer = make_balancer(wanted, states, 1)
    walk: list[EndpointState] = []
    for _ in range(8):
        state = balancer.pick_other(no_draw, walk, 8)
        assert state is not None
        walk.append(state)
    assert set(walk) == set(states)
    tell(balancer, walk[0], _REFUSED)
    again = make_balancer(wanted, states, 99, balancer)
    assert again.pick(no_draw) is walk[1]
    assert again.pick_other(no_draw, walk[:2], 8) is walk[2]


@settings(deadline=None)
@given(
    names=st.text("abcdefgh", min_size=1, max_size=8).map(lambda t: "".join(dict.fromkeys(t))),
    refusals=st.lists(st.integers(0, 7), max_size=20),
    host_attempts=st.integers(0, 10),
)
def test_one_endpoint_of_the_list_at_any_time(
    names: str, refusals: list[int], host_attempts: int
) -> None:
    balancer, states = made(names)
    for number in refusals:
        state = states[number % len(states)]
        if balancer.on_outcome is not None:
            tell(balancer, state, _REFUSED)
        assert balancer.pick(no_draw) in states
        other = balancer.pick_other(no_draw, [state], host_attempts)
        assert other in states
        assert other is not state or host_attempts == 0 or len(states) == 1


@pytest.mark.parametrize("names", ["", "a"])
def test_none_and_one(names: str) -> None:
    balancer, states = made(names)
    assert balancer.pick(no_draw) is (states[0] if states else None)
    assert balancer.policy == "pick_first"
