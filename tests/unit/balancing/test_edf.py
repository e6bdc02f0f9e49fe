"""The EDF scheduler against Envoy's observed order and against proportions."""

from __future__ import annotations

import random
from collections import Counter
from heapq import heapify, heapreplace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshclient.balancing.edf import EdfScheduler, _floors


def picks_of(weights: list[float], seed: int, number: int) -> list[int]:
    scheduler = EdfScheduler(len(weights), weights.__getitem__, seed)
    return [scheduler.pick() for _ in range(number)]


def rotations(cycle: list[int]) -> set[tuple[int, ...]]:
    return {tuple(cycle[i:] + cycle[:i]) for i in range(len(cycle))}


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4, 5, 6, 1000, 2**31, 2**32 - 1, 2**64 - 1])
def test_weights_1_2_3_give_a_rotation_of_envoys_order(seed: int) -> None:
    """A real Envoy showed 3,2,3,1,2,3 (the weights picked) from some starting point."""
    order = [(1, 2, 3)[i] for i in picks_of([1, 2, 3], seed, 12)]
    assert tuple(order[:6]) in rotations([3, 2, 3, 1, 2, 3])
    assert order[:6] == order[6:]


def test_the_seed_moves_the_starting_point() -> None:
    starts = {tuple(picks_of([1, 2, 3], seed, 6)) for seed in range(6)}
    assert len(starts) == 6


def test_without_prepicks_it_is_plain_edf() -> None:
    """Seed 0: deadlines 1/w, first in first out; worked by hand for weights 1 and 2."""
    assert picks_of([1, 2], 0, 6) == [1, 0, 1, 1, 0, 1]


@given(
    weights=st.lists(st.integers(1, 128), min_size=1, max_size=12),
    seed=st.integers(0, 2**64 - 1),
)
def test_a_full_cycle_is_proportional_to_within_one(weights: list[int], seed: int) -> None:
    counts = Counter(picks_of([float(w) for w in weights], seed, sum(weights)))
    for index, weight in enumerate(weights):
        assert abs(counts[index] - weight) <= 1


@given(weights=st.lists(st.integers(1, 20), min_size=1, max_size=6), picks=st.integers(0, 400))
def test_skipping_ahead_equals_that_many_real_picks(weights: list[int], picks: int) -> None:
    """Against a plain simulation, pick by pick; odd fractions keep deadlines apart."""
    uneven = [weight * (1 + index * 0.0137123) for index, weight in enumerate(weights)]
    heap = [(1.0 / w, i, i) for i, w in enumerate(uneven)]
    heapify(heap)
    simulated = []
    for order in range(picks + 50):
        deadline, _, index = heap[0]
        heapreplace(heap, (deadline + 1.0 / uneven[index], len(uneven) + order, index))
        simulated.append(index)
    assert picks_of(uneven, picks, 50) == simulated[picks:]


def test_a_pick_on_the_boundary_is_left_to_the_real_picks() -> None:
    """Two of two equal entries have had their turn only if both really were picked."""
    assert _floors([1.0, 1.0], 2) == [0.0, 0.0]
    assert _floors([1.0, 1.0], 3) == [1.0, 1.0]


def test_weight_is_taken_afresh_at_each_pick() -> None:
    weights = [1.0, 1.0]
    scheduler = EdfScheduler(2, weights.__getitem__, 0)
    assert Counter(scheduler.pick() for _ in range(10)) == {0: 5, 1: 5}
    weights[1] = 4.0
    counts = Counter(scheduler.pick() for _ in range(500))
    assert counts[1] == pytest.approx(400, abs=4)


def test_no_drift_over_many_picks() -> None:
    rng = random.Random(5)
    weights = [float(rng.randrange(1, 100)) for _ in range(20)]
    number = 20_000
    counts = Counter(picks_of(weights, 77, number))
    total = sum(weights)
    for index, weight in enumerate(weights):
        assert abs(counts[index] - number * weight / total) <= 1.5
