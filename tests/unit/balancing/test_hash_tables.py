"""Hash functions, rings, Maglev tables and bounded loads: golden values, weights, disruption."""

from __future__ import annotations

import random
from collections import Counter
from itertools import islice
from math import sqrt
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh64_intdigest

from meshclient.balancing import maglev, ring_hash
from meshclient.balancing.bounded_load import BoundedLoad, mt19937, shuffled
from meshclient.balancing.hashing import hash_key, murmur_hash_2, xx_hash
from meshclient.balancing.maglev import MaglevTable
from meshclient.balancing.ring_hash import Ring, point_counts
from meshclient.balancing.state import EndpointState, total_of
from meshclient.model.endpoint import Endpoint
from meshclient.model.load_balancing import is_prime, prime_near

Weights = list[int]
KEYS = [f"10.0.0.{n}:80".encode() for n in range(64)]
MOST = 8_388_608


def shares_of(weights: Weights) -> list[float]:
    return [weight * 1.0 / sum(weights) for weight in weights]


def ring(keys: list[bytes], weights: Weights, minimum: int = 1024, maximum: int = MOST) -> Ring:
    return Ring(keys, shares_of(weights), minimum, maximum, xx_hash)


def test_hash_functions_give_envoys_values() -> None:
    assert xx_hash(b"") == 17241709254077376921
    assert xx_hash(b"lyft") == 4400747396090729504
    assert murmur_hash_2(b"foo") == 9631199822919835226
    assert murmur_hash_2(b"") == 6142509188972423790


def test_the_ring_of_envoys_documentation_of_six_hosts() -> None:
    keys = [f"127.0.0.1:{port}".encode() for port in range(90, 96)]
    assert [(keys[owner][-2:], value) for value, owner in ring(keys, [1] * 6, 12).points()] == [
        (b"94", 833437586790550860),
        (b"92", 928266305478181108),
        (b"90", 1033482794131418490),
        (b"95", 3551244743356806947),
        (b"93", 3851675632748031481),
        (b"91", 5583722120771150861),
        (b"91", 6311230543546372928),
        (b"93", 7700377290971790572),
        (b"95", 13144177310400110813),
        (b"92", 13444792449719432967),
        (b"94", 15516499411664133160),
        (b"90", 16117243373044804889),
    ]


def test_a_hash_goes_to_the_next_point_and_past_the_last_to_the_first() -> None:
    keys = [f"127.0.0.1:{port}".encode() for port in range(90, 96)]
    made = ring(keys, [1] * 6, 12)
    points = list(made.points())
    for index, (value, owner) in enumerate(points):
        assert made.at(value) == owner
        assert made.at(value + 1) == points[(index + 1) % 12][1]
        assert [made.at(value, k) for k in (1, 12)] == [points[(index + 1) % 12][1], owner]
    assert made.at(0) == made.at(2**64 - 1) == 4


@pytest.mark.parametrize(
    ("weights", "minimum", "maximum", "counts"),
    [
        ([1, 1, 1], 10, 100, [4, 4, 4]),
        ([1, 2], 10, 100, [4, 8]),
        ([1, 1, 1, 1], 4, 6, [1, 1, 1, 1]),
        ([1, 1, 1, 1], 6, 6, [2, 1, 2, 1]),
        ([1, 99], 3, 10, [1, 9]),
        ([1], 1, 1, [1]),
    ],
)
def test_points_follow_weights_within_the_bounds_of_the_ring(
    weights: Weights, minimum: int, maximum: int, counts: list[int]
) -> None:
    assert point_counts(shares_of(weights), minimum, maximum) == counts


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 100), min_size=1, max_size=40),
    st.integers(1, 3000),
    st.integers(1, 3000),
)
def test_every_endpoint_has_its_share_of_the_ring_to_one_point(
    weights: Weights, minimum: int, maximum: int
) -> None:
    counts = point_counts(shares_of(weights), min(minimum, maximum), maximum)
    total = sum(counts)
    assert total <= maximum + 1
    for count, share in zip(counts, shares_of(weights), strict=True):
        assert abs(count - total * share) < 2
    if maximum >= 2 * minimum * max(weights):
        assert min(counts) >= 1


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=30), st.integers(0, 29))
def test_a_ring_without_one_endpoint_moves_only_that_ones_keys(weights: Weights, gone: int) -> None:
    """Exactly, where every endpoint keeps its number of points (equal weights); with
    weights, the points of the others change by the rounding of their number only."""
    gone %= len(weights)
    weights = [weights[0]] * len(weights)
    counts = 1024 // len(weights) + 1
    before = ring(KEYS[: len(weights)], weights, counts * len(weights))
    rest = [n for n in range(len(weights)) if n != gone]
    after = ring([KEYS[n] for n in rest], [1] * len(rest), counts * len(rest))
    assert set(before.counts) == set(after.counts) == {counts}
    for value in (xx_hash(b"%d" % n) for n in range(500)):
        owner = before.at(value)
        if owner != gone:
            assert rest[after.at(value)] == owner


def by_the_paper(keys: list[bytes], shares: list[float], size: int) -> list[int]:
    """Listing 1 with weights, as plainly as it can be said."""
    order = sorted(range(len(keys)), key=lambda n: keys[n])
    table = [-1] * size
    following, targets = [0] * len(keys), [0.0] * len(keys)
    turn = 0
    while -1 in table:
        turn += 1
        for n in order:
            if turn * shares[n] < targets[n] or -1 not in table:
                continue
            targets[n] += max(shares)
            offset = xxh64_intdigest(keys[n]) % size
            skip = xxh64_intdigest(keys[n], 1) % (size - 1) + 1
            while table[(offset + following[n] * skip) % size] >= 0:
                following[n] += 1
            table[(offset + following[n] * skip) % size] = n
    return table


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([1, 2, 3, 7, 50, 1000]), min_size=1, max_size=40),
    st.sampled_from([2, 3, 5, 11, 101, 307]),
    st.randoms(use_true_random=False),
)
def test_a_table_is_filled_as_the_paper_says(
    weights: Weights, size: int, draw: random.Random
) -> None:
    keys = draw.sample(KEYS, len(weights))
    shares = shares_of(weights)
    assert list(MaglevTable(keys, shares, size).places()) == by_the_paper(keys, shares, size)


def test_a_table_looks_elsewhere_for_other_attempts() -> None:
    table = MaglevTable(KEYS[:5], shares_of([1] * 5), 101)
    places = table.places()
    for value in (0, 5, 2**64 - 1):
        assert table.at(value) == places[value % 101]
        for attempt in (1, 2, 5):
            assert table.at(value, attempt) == places[(value ^ (2**64 - attempt)) % 101]


@pytest.mark.parametrize("size", [0, 1, 4, 65_536, 5_000_011 + 2, 10_000_019])
def test_a_table_of_a_bad_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="prime number of places"):
        MaglevTable(KEYS[:2], [0.5, 0.5], size)


def test_the_primes_near() -> None:
    assert [n for n in range(20) if is_prime(n)] == [2, 3, 5, 7, 11, 13, 17, 19]
    assert (prime_near(10), prime_near(65_536), prime_near(5_000_009)) == (11, 65_537, 5_000_011)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=20))
def test_a_table_gives_everybody_their_share(weights: Weights) -> None:
    """Each round serves at most one place per endpoint: off by two places at most."""
    counts = MaglevTable(KEYS[: len(weights)], shares_of(weights), 5003).counts
    for n, share in enumerate(shares_of(weights)):
        assert abs(counts[n] - 5003 * share) <= 2 + 2 * len(weights) * share


@pytest.mark.parametrize("gone", [0, 7, 19])
def test_a_table_without_one_endpoint_leaves_most_others_in_place(gone: int) -> None:
    """The paper's measurement: with 20 endpoints, far less than a tenth of the rest moves."""
    before = MaglevTable(KEYS[:20], [1 / 20] * 20, 65_537).places()
    rest = [n for n in range(20) if n != gone]
    after = MaglevTable([KEYS[n] for n in rest], [1 / 19] * 19, 65_537).places()
    moved = sum(a != gone and rest[b] != a for a, b in zip(before, after, strict=True))
    assert moved < 0.1 * 65_537


def test_keys_spread_over_a_ring_as_its_size_allows() -> None:
    """The relative deviation of a share made of n random arcs is 1 / sqrt(n)."""
    made = ring(KEYS[:10], [1] * 10, 10_000)
    counts = Counter(made.at(xx_hash(b"key-%d" % n)) for n in range(20_000))
    for n in range(10):
        assert abs(counts[n] / 2000 - 1) < 5 * (1 / sqrt(1000) + 1 / sqrt(2000))


@pytest.mark.parametrize(
    ("endpoint", "by_address", "by_name"),
    [
        (Endpoint("10.0.0.1", 80), b"10.0.0.1:80", b"10.0.0.1:80"),
        (Endpoint("10.0.0.1", 80, hostname="a.test"), b"10.0.0.1:80", b"a.test"),
        (Endpoint("2001:DB8:0:0::1", 80), b"[2001:db8::1]:80", b"[2001:db8::1]:80"),
        (Endpoint("fe80::zone::", 80), b"[fe80::zone::]:80", b"[fe80::zone::]:80"),
        (Endpoint("unix:///run/a.sock", 0), b"/run/a.sock", b"/run/a.sock"),
        (
            Endpoint("h", 1, hostname="b", labels=(("hash_key", "k\u00fc"),)),
            b"k\xc3\xbc",
            b"k\xc3\xbc",
        ),
        (Endpoint("h", 1, labels=(("hash_key", ""),)), b"h:1", b"h:1"),
    ],
)
def test_what_stands_for_an_endpoint(endpoint: Endpoint, by_address: bytes, by_name: bytes) -> None:
    assert hash_key(endpoint) == by_address
    assert hash_key(endpoint, use_hostname=True) == by_name


def test_the_twister_is_that_of_the_standard_library_of_cpp() -> None:
    """[rand.predef]: the 10000th output of a default-constructed std::mt19937."""
    assert next(islice(mt19937(5489), 9999, None)) == 4123659995
    assert list(islice(mt19937(2**32 + 7), 5)) == list(islice(mt19937(7), 5))


@given(st.integers(1, 50), st.integers(0, 2**64 - 1))
def test_a_shuffle_is_a_permutation(count: int, seed: int) -> None:
    assert sorted(shuffled(count, seed)) == list(range(count))


def loaded(*in_flight: int) -> list[EndpointState]:
    states = [EndpointState(Endpoint("h", n)) for n in range(len(in_flight))]
    for state, count in zip(states, in_flight, strict=True):
        for _ in range(count):
            state.acquire()
    return states


@pytest.mark.parametrize(
    ("in_flight", "factor", "stays"),
    [
        ((0, 0, 0), 100, True),
        ((1, 0, 0), 100, True),
        ((2, 0, 0), 100, False),
        ((2, 1, 0), 150, True),
        ((3, 0, 0), 150, False),
        ((9, 9, 9), 100, True),
    ],
)
def test_an_endpoint_over_its_part_passes_the_request_on(
    in_flight: tuple[int, ...], factor: int, stays: bool
) -> None:
    states = loaded(*in_flight)
    chosen = BoundedLoad(states, [1 / 3] * 3, total_of(states), factor).settle(0, 42)
    assert (chosen == 0) is stays


def test_the_alternative_follows_the_hash_and_the_least_loaded_is_the_last_resort() -> None:
    states = loaded(5, 0, 0, 0, 0, 0)
    bound = BoundedLoad(states, [1 / 6] * 6, total_of(states), 100)
    picks = {n: bound.settle(0, n) for n in range(30)}
    assert set(picks.values()) == {1, 2, 3, 4, 5}
    assert all(picks[n] == next(k for k in shuffled(6, n) if k) for n in picks)
    crowded = loaded(9, 8, 7)
    assert BoundedLoad(crowded, [0.2] * 3, total_of(crowded), 100).settle(0, 1) == 2


@pytest.mark.parametrize("module", [maglev, ring_hash])
def test_building_gives_way_often(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """At least once per two thousand points or places, to the end."""
    times: list[None] = []
    monkeypatch.setattr(module, "give_way", lambda: times.append(None))
    keys = [b"%d" % n for n in range(1000)]
    if module is maglev:
        MaglevTable(keys, [0.001] * 1000, 65_537)
    else:
        ring(keys, [1] * 1000, 65_536)
    assert len(times) >= 2 * 65_536 // 2000
