"""Client-side weighted round robin: what reports make of weights, and when."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import settings as with_settings
from hypothesis import strategies as st

from meshclient.balancing import Balancer, EndpointState, carry_over, make_balancer
from meshclient.balancing.client_side_weighted import (
    ClientSideWeighted,
    reweigh,
    take_report,
    weight_of,
)
from meshclient.balancing.orca import read_text
from meshclient.model.cluster import Cluster, ClusterPolicy, LoadBalancing
from meshclient.model.endpoint import Endpoint
from meshclient.model.headers import HeaderMap
from meshclient.model.load_balancing import OrcaWeights, SubsetSelection, SubsetSelector
from meshclient.model.outcome import Outcome, ResetReason


def cluster(count: int, orca: OrcaWeights | None = None) -> Cluster:
    settings = LoadBalancing("client_side_weighted_round_robin", orca=orca or OrcaWeights())
    endpoints = tuple(Endpoint(f"e{n}", 80, weight=9) for n in range(count))
    return Cluster("c", endpoints=endpoints, policy=ClusterPolicy(load_balancing=settings))


def report(text: str) -> HeaderMap:
    return HeaderMap.of([("endpoint-load-metrics", f"TEXT {text}")])


def no_draw() -> int:
    raise AssertionError("nothing may be drawn here")


@pytest.mark.parametrize(
    ("text", "settings", "weight"),
    [
        ("rps_fractional=100,application_utilization=0.5", OrcaWeights(), 200),
        ("rps_fractional=100,cpu_utilization=0.3", OrcaWeights(), 333),
        ("rps_fractional=100,application_utilization=0.5,cpu_utilization=0.1", OrcaWeights(), 200),
        # Named metrics go before the application's utilization.
        (
            "rps_fractional=100,application_utilization=0.5,named_metrics.q=0.8",
            OrcaWeights(metric_names=("named_metrics.q",)),
            125,
        ),
        (
            "rps_fractional=100,application_utilization=0.5",
            OrcaWeights(metric_names=("named_metrics.q",)),
            200,
        ),
        # 0.5 + 2 x 10 / 100
        (
            "rps_fractional=100,application_utilization=0.5,eps=10",
            OrcaWeights(error_utilization_penalty=2.0),
            142,
        ),
        ("rps_fractional=100,eps=10", OrcaWeights(error_utilization_penalty=1.0), 1000),
        ("rps_fractional=0,cpu_utilization=0.5", OrcaWeights(), None),
        ("rps_fractional=-1,cpu_utilization=0.5", OrcaWeights(), None),
        ("rps_fractional=10,cpu_utilization=0", OrcaWeights(), None),
        ("rps_fractional=10,cpu_utilization=-3", OrcaWeights(), None),
        ("cpu_utilization=0.5", OrcaWeights(), None),
        ("rps_fractional=1e300,cpu_utilization=1e-300", OrcaWeights(), 2**32 - 1),
        ("rps_fractional=0.1,cpu_utilization=1", OrcaWeights(), 0),
    ],
)
def test_the_weight_of_a_report(text: str, settings: OrcaWeights, weight: int | None) -> None:
    assert weight_of(read_text(text), settings) == weight


def weights(states: tuple[EndpointState, ...], now: float, settings: OrcaWeights) -> list[int]:
    reweigh(states, settings, now)
    return [state.weight for state in states]


def test_blackout_expiry_and_the_median_of_the_others() -> None:
    settings = OrcaWeights(blackout_period_s=10, weight_expiration_period_s=30)
    states = carry_over((), cluster(5, settings))
    assert weights(states, 0.0, settings) == [1, 1, 1, 1, 1], "configured weights do not count"
    for number, utilization in ((0, 0.5), (1, 0.25), (2, 0.1)):
        text = f"rps_fractional=100,cpu_utilization={utilization}"
        take_report(states[number], report(text), settings, 5.0)
    assert weights(states, 14.9, settings) == [1, 1, 1, 1, 1]
    assert weights(states, 15.0, settings) == [200, 400, 1000, 400, 400]
    take_report(states[2], report("rps_fractional=100,cpu_utilization=0.1"), settings, 30.0)
    assert weights(states, 35.0, settings) == [200, 400, 1000, 400, 400]
    # The reports of the first two are too old now: blackout begins anew with the next one.
    assert weights(states, 35.1, settings) == [1000, 1000, 1000, 1000, 1000]
    take_report(states[0], report("rps_fractional=100,cpu_utilization=0.5"), settings, 36.0)
    assert weights(states, 40.0, settings) == [1000] * 5
    # Of an even number: the mean of the middle two.
    assert weights(states, 46.0, settings) == [200, 600, 1000, 600, 600]
    assert repr(states[0].load) == "<ReportedWeight 200 since=36.0 at=36.0>"


def test_each_priority_has_a_median_of_its_own_and_no_weight_is_below_1() -> None:
    endpoints = tuple(Endpoint(f"e{n}", 80, priority=n % 2) for n in range(4))
    states = carry_over((), Cluster("c", endpoints=endpoints))
    settings = OrcaWeights(blackout_period_s=0)
    reweigh(states, settings, 0.0)
    take_report(states[0], report("rps_fractional=100,cpu_utilization=1"), settings, 0.0)
    take_report(states[1], report("rps_fractional=0.1,cpu_utilization=1"), settings, 0.0)
    assert weights(states, 0.0, settings) == [100, 1, 100, 1]


def test_malformed_reports_are_counted_and_change_nothing() -> None:
    settings = OrcaWeights(blackout_period_s=0)
    states = carry_over((), cluster(2, settings))
    reweigh(states, settings, 0.0)
    take_report(states[0], report("rps_fractional=100,cpu_utilization=0.5"), settings, 1.0)
    for text in ("cpu_utilization=x", "rps_fractional=1,rps_fractional=2"):
        take_report(states[0], report(text), settings, 2.0)
    take_report(states[0], report("cpu_utilization=0.5"), settings, 2.0)
    assert states[0].load.malformed == 2
    assert states[0].load.at == 1.0
    assert weights(states, 2.0, settings) == [200, 200]


def tell(balancer: Balancer, state: EndpointState, outcome: Outcome, now: float) -> None:
    assert balancer.on_outcome is not None
    balancer.on_outcome(state, outcome, now, now)


def test_calls_follow_the_reports_from_the_next_update_on() -> None:
    settings = OrcaWeights(blackout_period_s=0, weight_update_period_s=2)
    wanted = cluster(3, settings)
    states = carry_over((), wanted)
    first = make_balancer(wanted, states, 4, None, 100.0)
    assert isinstance(first, ClientSideWeighted)
    assert first.refresh_at == 102.0
    assert Counter(first.pick(no_draw) for _ in range(300)) == dict.fromkeys(states, 100)
    for state, utilization in zip(states, (1.0, 0.5, 0.25), strict=True):
        text = f"rps_fractional=10,cpu_utilization={utilization}"
        tell(first, state, Outcome(200, report(text)), 101.0)
    tell(first, states[0], Outcome(reset=ResetReason.REMOTE_RESET), 101.5)
    assert Counter(first.pick(no_draw) for _ in range(300)) == dict.fromkeys(states, 100)
    second = make_balancer(wanted, states, 5, first, 102.0)
    counts = Counter(second.pick(no_draw) for _ in range(7000))
    assert [round(counts[state] / 100) for state in states] == [10, 20, 40]
    third = make_balancer(wanted, states, 6, second, 104.0)
    assert third.refresh_at == 106.0
    assert isinstance(third, ClientSideWeighted)
    assert isinstance(second, ClientSideWeighted)
    assert third._scheduler is second._scheduler, "no weight changed: the schedule goes on"


@with_settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.01, 1e6), st.floats(0.01, 2.0)), min_size=2, max_size=8),
    st.integers(0, 8),
)
def test_shares_are_weights(loads: list[tuple[float, float]], silent: int) -> None:
    """Every endpoint gets its share within two calls per endpoint."""
    settings = OrcaWeights(blackout_period_s=0)
    wanted = cluster(len(loads) + silent, settings)
    states = carry_over((), wanted)
    reweigh(states, settings, 0.0)
    for state, (rps, utilization) in zip(states, loads, strict=False):
        text = f"rps_fractional={rps!r},cpu_utilization={utilization!r}"
        take_report(state, report(text), settings, 0.0)
    balancer = make_balancer(wanted, states, 9, None, 1.0)
    total = sum(state.weight for state in states)
    counts = Counter(balancer.pick(no_draw) for _ in range(500))
    for state in states:
        assert abs(counts[state] - 500 * state.weight / total) <= 2 * len(states)
    known = {max(1, int(min(rps / use, 2**32 - 1))) for rps, use in loads}
    assert {state.weight for state in states[: len(loads)]} <= known


def trailed(head: list[tuple[bytes, bytes]], tail: list[tuple[bytes, bytes]]) -> EndpointState:
    """The state of an endpoint whose response had these lines."""
    c = cluster(2, OrcaWeights(blackout_period_s=0.0))
    states = carry_over((), c)
    balancer = make_balancer(c, states, 1)
    assert balancer.on_outcome is not None
    assert balancer.on_trailers is not None
    balancer.on_outcome(states[0], Outcome(200, HeaderMap(head)), 0.0, 1.0)
    balancer.on_trailers(states[0], head, tail, 2.0)
    return states[0]


LINE = b"endpoint-load-metrics"


def test_a_report_in_trailers_counts_unless_one_came_with_the_head() -> None:
    """As in Envoy, one report per response; one that cannot be read is none."""
    early = [(LINE, b"TEXT rps_fractional=100,cpu_utilization=0.5")]
    late = [(LINE, b"TEXT rps_fractional=100,cpu_utilization=0.1")]
    assert trailed([], late).load.describe(3.0) == {"weight": 1000, "age_s": 1.0, "malformed": 0}
    assert trailed(early, late).load.weight == 200
    spoilt = trailed([(LINE, b"TEXT what")], late)
    assert spoilt.load.describe(2.0) == {"weight": 1000, "age_s": 0.0, "malformed": 1}
    assert trailed(early, [(LINE, b"TEXT what")]).load.malformed == 0


def test_trailers_are_read_through_priorities_and_subsets_and_by_nobody_else() -> None:
    policy = cluster(2).policy
    several = tuple(
        Endpoint(f"e{n}", 80, priority=n // 2, health="unhealthy" if n == 1 else "healthy")
        for n in range(4)
    )
    labelled = tuple(Endpoint(f"e{n}", 80, labels=(("v", "1"),)) for n in range(2))
    settings = replace(
        policy.load_balancing, subsets=SubsetSelection((SubsetSelector(("v",)),), "any_endpoint")
    )
    for made in (
        Cluster("c", endpoints=several, policy=policy),
        Cluster("c", endpoints=labelled, policy=replace(policy, load_balancing=settings)),
    ):
        states = carry_over((), made)
        balancer = make_balancer(made, states, 1)
        assert not isinstance(balancer, ClientSideWeighted)
        assert balancer.on_trailers is not None
        line = (LINE, b"TEXT rps_fractional=7,cpu_utilization=1")
        balancer.on_trailers(states[0], [], [line], 0.0)
        assert states[0].load.weight == 7
    plain = Cluster("c", endpoints=several)
    assert make_balancer(plain, carry_over((), plain), 1).on_trailers is None
