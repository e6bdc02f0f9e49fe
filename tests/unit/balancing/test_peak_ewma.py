"""Peak EWMA: the estimate against its formula, the pick against the cost, threads."""

from __future__ import annotations

import random
import threading
from collections import Counter
from functools import partial
from math import exp, log

import pytest
from hypothesis import given
from hypothesis import settings as with_settings
from hypothesis import strategies as st

from meshclient.balancing import EndpointState, carry_over, make_balancer
from meshclient.balancing.eligible import Eligibility
from meshclient.balancing.peak_ewma import Estimate, PeakEwma
from meshclient.model.cluster import Cluster, ClusterPolicy, LoadBalancing
from meshclient.model.endpoint import Endpoint
from meshclient.model.health import FAILED_ACTIVE_HC
from meshclient.model.load_balancing import PeakEwma as Settings
from meshclient.model.outcome import Outcome, ResetReason

NOW = 1_000_000.0


def made(count: int, settings: Settings = Settings()) -> tuple[PeakEwma, tuple[EndpointState, ...]]:  # noqa: B008
    endpoints = tuple(Endpoint(f"e{n}", 80, weight=n + 1) for n in range(count))
    states = carry_over((), Cluster("c", endpoints=endpoints))
    return PeakEwma(Eligibility(states), iter(range(9)), settings, NOW), states


def test_without_samples_the_default_falls() -> None:
    estimate = Estimate(Settings(0.03, 10.0), NOW)
    assert estimate.at(NOW) == pytest.approx(0.03)
    assert estimate.at(NOW + 10) == pytest.approx(0.03 * exp(-1))
    assert estimate.at(NOW) == pytest.approx(0.03), "reading changes nothing"
    assert repr(estimate) == "<Estimate 30.000 ms at 1000000.000>"


@pytest.mark.parametrize(
    ("samples", "at_s", "expected_s"),
    [
        # Above: it replaces at once.
        ([(1.0, 2.0)], 1.0, 2.0),
        ([(1.0, 1.0), (1.5, 2.0)], 1.5, 2.0),
        # Below: it pulls by 1 - exp(-elapsed / decay).
        ([(1.0, 1.0), (11.0, 0.0)], 11.0, exp(-1)),
        ([(1.0, 10.0), (1.1, 1.0)], 1.1, 10 * exp(-0.01) + 1 - exp(-0.01)),
        # A stale peak is no peak any more: 10 x exp(-2.5) = 0.82.
        ([(1.0, 10.0), (26.0, 1.0)], 26.0, 1.0),
        # Late news that are no peak are dropped; a late peak counts.
        ([(2.0, 1.0), (1.0, 0.5)], 2.0, 1.0),
        ([(2.0, 1.0), (2.0, 0.5)], 2.0, 1.0),
        ([(2.0, 1.0), (1.5, 3.0)], 1.5, 3.0),
    ],
)
def test_samples(samples: list[tuple[float, float]], at_s: float, expected_s: float) -> None:
    """The table of linkerd-ewma's own tests, among others; decay 10 s."""
    estimate = Estimate(Settings(0.001, 10.0), NOW)
    for after_s, sample_s in samples:
        estimate.add(sample_s, NOW + after_s)
    assert estimate.at(NOW + at_s) == pytest.approx(expected_s, rel=1e-6)


def test_tiny_constants_are_lifted_to_a_millisecond() -> None:
    estimate = Estimate(Settings(0.0, 0.0), 5.0)
    assert estimate.at(5.0) == pytest.approx(0.001)
    assert estimate.at(5.001) == pytest.approx(0.001 * exp(-1))
    estimate.add(0.0, 9_000_000.0)
    estimate.add(1e9, 9_000_000.0)
    assert estimate.at(9_000_000.0) == pytest.approx(1e9)


@with_settings(deadline=None)
@given(
    samples=st.lists(
        st.tuples(st.floats(1e-6, 100.0), st.floats(0.0, 30.0)), min_size=1, max_size=30
    ),
    decay_s=st.floats(0.01, 100.0),
)
def test_the_estimate_follows_the_formula(
    samples: list[tuple[float, float]], decay_s: float
) -> None:
    """A plain transcription with an exponential per step gives the same numbers."""
    estimate = Estimate(Settings(0.03, decay_s), NOW)
    value, at = 0.03, NOW
    for sample_s, later_s in samples:
        now = at + later_s
        fallen = value * exp(-(now - at) / decay_s)
        if fallen < sample_s:
            value, at = sample_s, now
        elif now > at:
            share = 1 - exp(-(now - at) / decay_s)
            value, at = value * (1 - share) + sample_s * share, now
        estimate.add(sample_s, now)
        assert estimate.at(now) == pytest.approx(value, rel=1e-4, abs=1e-12)


@with_settings(deadline=None)
@given(
    latencies=st.lists(st.floats(0.0001, 10.0), min_size=2, max_size=8),
    in_flight=st.lists(st.integers(0, 400), min_size=8, max_size=8),
    draw=st.integers(0, 2**64 - 1),
    later_s=st.floats(0.0, 60.0),
)
def test_the_cheaper_of_two_distinct_endpoints_is_picked(
    latencies: list[float], in_flight: list[int], draw: int, later_s: float
) -> None:
    balancer, states = made(len(latencies))
    for state, latency_s, active in zip(states, latencies, in_flight, strict=False):
        state.load.add(latency_s, NOW)
        state.in_flight.extend([None] * active)
    now = NOW + later_s
    cost = {s: s.load.at(now) * (s.active + 1) for s in states}
    first = draw % len(states)
    second = (draw >> 32) % (len(states) - 1)
    second += second >= first
    picked = balancer.pick(lambda: draw, now)
    assert picked in (states[first], states[second])
    assert cost[picked] <= min(cost[states[first]], cost[states[second]]) * (1 + 1e-6)


def test_every_pair_is_drawn_alike() -> None:
    """Ten pairs of five endpoints; chi-square with 9 degrees at p = 1e-6 is 45.1. Seed 11."""
    balancer, states = made(5)
    rand = random.Random(11)
    seen: Counter[frozenset[int]] = Counter()
    for _ in range(20_000):
        draw = rand.getrandbits(64)
        pair = set()
        for cheap in range(5):
            for number, state in enumerate(states):
                state.load.level = 0.0 if number == cheap else 1.0
            if balancer.pick(partial(int, draw)) is states[cheap]:
                pair.add(cheap)
        # With all others alike, an endpoint wins only where it is drawn (or first).
        seen[frozenset(pair)] += 1
    assert len(seen) == 10
    assert sum((n - 2000) ** 2 / 2000 for n in seen.values()) < 45.1


def test_outcomes_are_measured_and_what_was_never_asked_is_not() -> None:
    balancer, (state, _) = made(2)
    balancer.on_outcome(state, Outcome(503), NOW, NOW + 2)
    assert state.load.at(NOW + 2) == pytest.approx(2.0)
    balancer.on_outcome(state, Outcome(reset=ResetReason.CONNECTION_TIMEOUT), NOW, NOW + 5)
    assert state.load.at(NOW + 5) == pytest.approx(5.0)
    balancer.on_outcome(state, Outcome(reset=ResetReason.OVERFLOW, sent=False), NOW, NOW + 9)
    assert state.load.at(NOW + 5) == pytest.approx(5.0)


def test_estimates_outlive_an_update_and_weights_do_not_matter() -> None:
    policy = ClusterPolicy(load_balancing=LoadBalancing("peak_ewma"))
    cluster = Cluster("c", endpoints=(Endpoint("a", 1, 7), Endpoint("b", 1)), policy=policy)
    states = carry_over((), cluster)
    first = make_balancer(cluster, states, 1, None, NOW)
    assert first.on_outcome is not None
    first.on_outcome(states[0], Outcome(200), NOW, NOW + 3)
    kept = states[0].load
    second = make_balancer(cluster, carry_over(states, cluster), 2, first, NOW + 9)
    assert states[0].load is kept
    rand = partial(random.Random(3).getrandbits, 64)
    assert {second.pick(rand) for _ in range(50)} == {states[1]}, "the heavy one is slow"
    assert second.policy == "peak_ewma"


def test_samples_of_many_threads_keep_the_peak() -> None:
    balancer, (state, _) = made(2)

    def measure(seed: int) -> None:
        rand = random.Random(seed)
        for _ in range(500):
            balancer.on_outcome(state, Outcome(200), NOW, NOW + rand.random())
        balancer.on_outcome(state, Outcome(200), NOW - 4, NOW + 1)

    threads = [threading.Thread(target=measure, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert state.load.at(NOW + 1) == pytest.approx(5.0, rel=1e-3)
    assert state.load.level == pytest.approx(log(5.0) + (NOW + 1) / 10, rel=1e-9)


def test_one_part_measures_for_all() -> None:
    """A priority of one endpoint has no balancer that measures; another's does it."""
    policy = ClusterPolicy(load_balancing=LoadBalancing("peak_ewma"))
    endpoints = (Endpoint("a", 1), Endpoint("b", 1), Endpoint("c", 1, priority=1))
    cluster = Cluster("c", endpoints=endpoints, policy=policy)
    states = carry_over((), cluster)
    states[0].flags = states[1].flags = FAILED_ACTIVE_HC
    balancer = make_balancer(cluster, states[:2] + states[2:], 1, None, NOW)
    states[0].flags = 0
    balancer = make_balancer(cluster, states, 1, balancer, NOW)
    alone = EndpointState(Endpoint("d", 1))
    for measure in (made(2)[0].on_outcome, balancer.on_outcome):
        if measure is not None:
            measure(alone, Outcome(200), NOW, NOW + 2)
            assert alone.load.at(NOW + 2) == pytest.approx(2.0)
    rand = partial(random.Random(3).getrandbits, 64)
    assert {balancer.pick(rand, NOW) for _ in range(300)} <= set(states)
