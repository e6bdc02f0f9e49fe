"""Weighted clusters. The header's forms were observed on Envoy 1.40."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from routing_support import head, route_of, to

from meshclient.model.matching import Fraction
from meshclient.model.routes import ForwardAction, Mirror, WeightedCluster

A, B = WeightedCluster("a", 1), WeightedCluster("b", 9)


def pick(action: ForwardAction, random64: int, *lines: str) -> str | None:
    request = head("/", [("x-w", line) for line in lines])
    picked = route_of(action).pick_cluster(request, random64)
    return None if picked is None else picked.cluster


@pytest.mark.parametrize(
    ("random64", "cluster"), [(0, "a"), (1, "b"), (9, "b"), (10, "a"), (2**64 - 1, "b")]
)
def test_random_modulo_the_sum(random64: int, cluster: str) -> None:
    assert pick(to(A, B), random64) == cluster


@pytest.mark.parametrize("value", ["0", "+0", "00", "10", " 0 "])
def test_header_decides(value: str) -> None:
    assert pick(to(A, B, weight_header="X-W"), 5, value) == "a"


@pytest.mark.parametrize(
    "value", ["-1", "-0", "0x0", "0,1", "", "18446744073709551616", "9" * 5000, "1e0", "1_0"]
)
def test_other_values_fall_back_to_the_random_number(value: str) -> None:
    action = to(A, B, weight_header="x-w")
    assert pick(action, 5, value) == "b"
    assert pick(action, 0, value) == "a"


def test_two_header_lines_fall_back_to_the_random_number() -> None:
    assert pick(to(A, B, weight_header="x-w"), 5, "0", "0") == "b"
    assert pick(to(A, B, weight_header="x-w"), 0) == "a"


def test_largest_header_value() -> None:
    assert pick(to(A, B, weight_header="x-w"), 0, str(2**64 - 1)) == "b"  # ...615 modulo 10 is 5


def test_zero_weights_get_nothing() -> None:
    zero = WeightedCluster("z", 0)
    assert {pick(to(zero, A, zero, B, zero), n) for n in range(20)} == {"a", "b"}
    assert pick(to(zero, zero), 0) is None


def test_single_cluster_needs_no_random_number() -> None:
    single = route_of(to(WeightedCluster("a", 0)))
    assert single.pick_cluster(head(), 0) is single.forward.clusters[0]
    assert not single.needs_random
    assert route_of(to(A, B)).needs_random


def test_partial_mirrors_need_the_random_number() -> None:
    assert route_of(to(mirrors=(Mirror("m", Fraction(10)),))).needs_random
    assert not route_of(to(mirrors=(Mirror("m"),))).needs_random


def test_cluster_named_by_a_header() -> None:
    action = ForwardAction(cluster_header="X-W")
    assert pick(action, 0, "c1", "c2") == "c1"
    assert pick(action, 0, "") is None
    assert pick(action, 0) is None
    assert pick(ForwardAction(cluster_header=":authority"), 0) == "h.test"


@given(st.lists(st.integers(0, 50), min_size=2, max_size=6).filter(any), st.integers(0, 2**64 - 1))
def test_walk_over_half_open_intervals(weights: list[int], random64: int) -> None:
    clusters = [WeightedCluster(str(i), weight) for i, weight in enumerate(weights)]
    value, expected = random64 % sum(weights), ""
    for cluster in clusters:
        if value < cluster.weight:
            expected = cluster.cluster
            break
        value -= cluster.weight
    assert pick(to(*clusters), random64) == expected
