"""Every policy: order, distribution with a stated bound, updates, threads."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshclient.balancing import Balancer, EndpointState, carry_over, make_balancer
from meshclient.model.cluster import Cluster, ClusterPolicy, LbPolicy, LoadBalancing
from meshclient.model.endpoint import Endpoint

#: Chi-square critical values at p = 1e-6, by degrees of freedom.
CHI_SQUARE = {2: 27.6, 4: 33.4, 9: 45.1}


def seeded(seed: int) -> Callable[[], int]:
    return partial(random.Random(seed).getrandbits, 64)


def no_draw() -> int:
    raise AssertionError("nothing may be drawn here")


def made(
    policy: LbPolicy, weights: list[int], seed: int = 0, **settings: int
) -> tuple[Balancer, tuple[EndpointState, ...]]:
    endpoints = tuple(Endpoint(f"e{i}", 80, weight=w) for i, w in enumerate(weights))
    sizes = {"minimum_ring_size": 32, "table_size": 251} | settings
    balancing = LoadBalancing(policy=policy, **sizes)
    cluster = Cluster("c", endpoints=endpoints, policy=ClusterPolicy(load_balancing=balancing))
    states = carry_over((), cluster)
    return make_balancer(cluster, states, seed), states


def pick(balancer: Balancer, rand: Callable[[], int]) -> EndpointState:
    state = balancer.pick(rand)
    assert state is not None
    return state


def chi_square(counts: list[int]) -> float:
    expected = sum(counts) / len(counts)
    return sum((count - expected) ** 2 / expected for count in counts)


def test_round_robin_takes_turns_from_the_seed_without_drawing() -> None:
    balancer, states = made("round_robin", [1, 1, 1], seed=2**64 - 1)
    start = (2**64 - 1) % 3
    order = [pick(balancer, no_draw) for _ in range(7)]
    assert order == [states[(start + n) % 3] for n in range(7)]


@pytest.mark.parametrize("seed", range(20))
def test_weighted_round_robin_is_exact_over_a_cycle(seed: int) -> None:
    balancer, states = made("round_robin", [1, 5, 3], seed)
    counts = Counter(pick(balancer, no_draw) for _ in range(90))
    assert [counts[s] for s in states] == pytest.approx([10, 50, 30], abs=1)


def test_random_is_uniform_and_ignores_weights() -> None:
    """Chi-square, 9 degrees of freedom, p = 1e-6, 20 000 draws."""
    balancer, states = made("random", [1, 9] * 5)
    rand = seeded(11)
    counts = Counter(pick(balancer, rand) for _ in range(20_000))
    assert chi_square([counts[s] for s in states]) < CHI_SQUARE[9]


def test_random_uses_one_draw() -> None:
    balancer, states = made("random", [1, 1, 1])
    assert balancer.pick(lambda: 2**64 - 2) is states[(2**64 - 2) % 3]


@pytest.mark.parametrize(
    ("draws", "active", "wanted"),
    [
        ([0, 1], [0, 0, 0], 0),  # a tie keeps the first
        ([0, 1], [1, 0, 0], 1),
        ([0, 1], [1, 1, 0], 0),  # equal is not fewer
        ([2, 2], [0, 0, 9], 2),  # with replacement: the busiest may be drawn twice
        ([5, 4], [0, 0, 1], 1),  # modulo the count
    ],
)
def test_least_request_compares_two_draws(draws: list[int], active: list[int], wanted: int) -> None:
    balancer, states = made("least_request", [1, 1, 1])
    for state, count in zip(states, active, strict=True):
        for _ in range(count):
            state.acquire()
    assert balancer.pick(iter(draws).__next__) is states[wanted]


def test_least_request_honours_the_choice_count() -> None:
    balancer, states = made("least_request", [1, 1, 1, 1], choice_count=4)
    for index, state in enumerate(states):
        for _ in range(4 - index):
            state.acquire()
    draws = iter([0, 1, 2, 3])
    assert balancer.pick(draws.__next__) is states[3]
    assert list(draws) == []


def test_least_request_without_load_is_uniform() -> None:
    """Chi-square, 4 degrees of freedom, p = 1e-6, 20 000 picks."""
    balancer, states = made("least_request", [2, 2, 2, 2, 2])
    rand = seeded(3)
    counts = Counter(pick(balancer, rand) for _ in range(20_000))
    assert chi_square([counts[s] for s in states]) < CHI_SQUARE[4]


def test_two_choices_avoid_the_busiest() -> None:
    """Only a double draw hits the one busy endpoint of five: 1/25 of the picks
    (800 of 20 000, within five standard deviations)."""
    balancer, states = made("least_request", [1] * 5)
    states[2].acquire()
    rand = seeded(4)
    counts = Counter(pick(balancer, rand) for _ in range(20_000))
    assert abs(counts[states[2]] - 800) < 5 * (20_000 * 0.04 * 0.96) ** 0.5


def test_two_choices_keep_queues_short() -> None:
    """1000 requests held on 100 endpoints: at most 10 + 3 on one; random placing
    with the same seed leaves one above 16."""
    peaks = {}
    for policy in ("least_request", "random"):
        balancer, states = made(policy, [1] * 100)
        rand = seeded(8)
        for _ in range(1000):
            pick(balancer, rand).acquire()
        peaks[policy] = max(s.active for s in states)
    assert peaks["least_request"] <= 13
    assert peaks["random"] > 16


@pytest.mark.parametrize(
    ("bias_milli", "shares"),
    [
        (0, [600, 200]),  # the load does not count: weights 3 and 1
        (1000, [400, 400]),  # 3/3 against 1/1
        (2000, [200, 600]),  # 3/9 against 1/1
        (-5, [400, 400]),  # negative is 1.0
    ],
)
def test_weighted_least_request_divides_weight_by_load(bias_milli: int, shares: list[int]) -> None:
    """Weight / (active + 1) ** bias, with two requests held on the heavy endpoint."""
    balancer, states = made("least_request", [3, 1], active_request_bias_milli=bias_milli)
    states[0].acquire()
    states[0].acquire()
    counts = Counter(pick(balancer, no_draw) for _ in range(800))
    assert [counts[s] for s in states] == pytest.approx(shares, abs=8)


def test_an_enormous_bias_is_still_a_number() -> None:
    balancer, states = made("least_request", [3, 1], active_request_bias_milli=10**9)
    for _ in range(100):
        states[0].acquire()
    pick(balancer, no_draw)
    assert {pick(balancer, no_draw) for _ in range(50)} == {states[1]}


@pytest.mark.parametrize("policy", get_args(LbPolicy))
@pytest.mark.parametrize("count", [0, 1])
def test_one_endpoint_or_none_needs_no_draw(policy: LbPolicy, count: int) -> None:
    balancer, states = made(policy, [4] * count)
    assert balancer.pick(no_draw) is (states[0] if states else None)
    assert balancer.pick_other(no_draw, states, 5) is (states[0] if states else None)
    assert balancer.policy == policy


@pytest.mark.parametrize("policy", ["passthrough"])
@pytest.mark.parametrize("weights", [[1, 1], [1, 2]])
def test_other_policies_are_served_as_least_request(policy: LbPolicy, weights: list[int]) -> None:
    balancer, _ = made(policy, weights)
    assert balancer.policy == "least_request"


@pytest.mark.parametrize(
    ("host_attempts", "picked", "draws_used"),
    [(0, 0, 1), (1, 1, 2), (2, 2, 3), (5, 2, 3)],
)
def test_pick_other_repicks_and_the_last_pick_stands(
    host_attempts: int, picked: int, draws_used: int
) -> None:
    """At most host_attempts + 1 picks in all; draws 0, 1, 2 with 0 and 1 tried."""
    balancer, states = made("random", [1, 1, 1])
    draws: list[int] = []

    def rand() -> int:
        draws.append(len(draws))
        return draws[-1]

    assert balancer.pick_other(rand, states[:2], host_attempts) is states[picked]
    assert len(draws) == draws_used


def test_pick_other_with_everything_tried_still_gives_one() -> None:
    """Envoy with 3 endpoints and 5 tries: once all are used, the last re-pick stands."""
    balancer, states = made("round_robin", [1, 1, 1])
    tried: list[EndpointState] = []
    for _ in range(5):
        state = balancer.pick_other(no_draw, tried, 20)
        assert state is not None
        tried.append(state)
    assert set(tried[:3]) == set(states)
    assert tried[3:] == [tried[2], tried[2]]


@given(
    policy=st.sampled_from(get_args(LbPolicy)),
    weights=st.lists(st.integers(1, 9), max_size=8),
    seed=st.integers(0, 2**64 - 1),
    held=st.lists(st.integers(0, 7), max_size=20),
)
def test_every_policy_picks_an_endpoint_of_the_cluster(
    policy: LbPolicy, weights: list[int], seed: int, held: list[int]
) -> None:
    balancer, states = made(policy, weights, seed)
    for index in held:
        if index < len(states):
            states[index].acquire()
    counts = [s.active for s in states]
    rand = seeded(seed)
    for _ in range(20):
        state = balancer.pick(rand)
        assert state in states if states else state is None
    assert [s.active for s in states] == counts


def remade(
    old: Balancer, states: tuple[EndpointState, ...], endpoints: list[Endpoint], seed: int
) -> tuple[Balancer, tuple[EndpointState, ...]]:
    policy = ClusterPolicy(load_balancing=LoadBalancing(policy="round_robin"))
    cluster = Cluster("c", endpoints=tuple(endpoints), policy=policy)
    kept = carry_over(states, cluster)
    return make_balancer(cluster, kept, seed, old), kept


def test_round_robin_position_survives_updates_even_through_one_endpoint() -> None:
    old, states = made("round_robin", [1, 1, 1], seed=0)
    pick(old, no_draw)
    endpoints = [s.endpoint for s in states]
    single, kept = remade(old, states, endpoints[:1], seed=99)
    pick(single, no_draw)
    again, kept = remade(single, kept, endpoints, seed=77)
    assert pick(again, no_draw) is kept[1]
    assert kept[0] is states[0]


def test_weighted_schedule_survives_an_update_that_changes_nothing() -> None:
    old, states = made("round_robin", [1, 2, 3], seed=0)
    reference, same = made("round_robin", [1, 2, 3], seed=0)
    for _ in range(4):
        assert pick(old, no_draw).key == pick(reference, no_draw).key
    new, _ = remade(old, states, [s.endpoint for s in states], seed=5)
    for _ in range(6):
        assert pick(new, no_draw).key == pick(reference, no_draw).key
    assert same[0] is not states[0]


def test_changed_weights_take_effect() -> None:
    old, states = made("round_robin", [1, 2])
    endpoints = [Endpoint("e0", 80, weight=9), Endpoint("e1", 80, weight=1)]
    new, kept = remade(old, states, endpoints, seed=5)
    counts = Counter(pick(new, no_draw) for _ in range(100))
    assert counts[kept[0]] == pytest.approx(90, abs=1)


def test_an_endpoint_more_joins_the_weighted_schedule() -> None:
    old, states = made("round_robin", [1, 2])
    endpoints = [s.endpoint for s in states]
    new, kept = remade(old, states, [Endpoint("e9", 80, weight=3), *endpoints], seed=5)
    counts = Counter(pick(new, no_draw) for _ in range(60))
    assert [counts[s] for s in kept] == pytest.approx([30, 10, 20], abs=1)


@pytest.mark.parametrize("weights", [[1, 1, 1], [1, 2, 3]])
def test_round_robin_gives_exact_shares_to_many_threads(weights: list[int]) -> None:
    balancer, states = made("round_robin", weights)
    rounds, workers = 100 * sum(weights), 20
    counters = [Counter[EndpointState]() for _ in range(workers)]

    def work(counter: Counter[EndpointState]) -> None:
        for _ in range(rounds):
            counter[pick(balancer, no_draw)] += 1

    threads = [threading.Thread(target=work, args=(c,)) for c in counters]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    total = sum(counters, Counter[EndpointState]())
    assert [total[s] for s in states] == pytest.approx([workers * 100 * w for w in weights], abs=1)


def test_repr_names_policy_and_counts() -> None:
    balancer, _ = made("random", [1, 1])
    assert repr(balancer) == "<Balancer random eligible=2 of 2>"
