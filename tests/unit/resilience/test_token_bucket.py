"""Token buckets: exact, bounded, and the same as a bucket of exact fractions."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshclient.model.rate_limit import LocalDescriptor, TokenBucket
from meshclient.resilience.token_bucket import Bucket, DescriptorBuckets


def takes(bucket, *times):
    return [bucket.take(now) for now in times]


def test_it_starts_full_and_refuses_when_empty():
    bucket = Bucket(TokenBucket(3, 1, 60.0))
    assert takes(bucket, 5.0, 5.0, 5.0, 5.0) == [True, True, True, False]


def test_tokens_come_evenly_not_in_steps():
    bucket = Bucket(TokenBucket(4, 4, 1.0))
    takes(bucket, *[0.0] * 4)
    assert takes(bucket, 0.2, 0.25, 0.3, 0.5, 0.5) == [False, True, False, True, False]


def test_no_more_than_its_size_comes_however_long_it_rests():
    bucket = Bucket(TokenBucket(2, 1, 1.0))
    takes(bucket, 0.0, 0.0)
    assert takes(bucket, 1000.0, 1000.0, 1000.0) == [True, True, False]


def test_a_bucket_for_nothing_always_refuses():
    bucket = Bucket(TokenBucket(0, 100, 0.05))
    assert takes(bucket, 0.0, 1e6) == [False, False]
    assert bucket.wait_s(1e6) == float("inf")


def test_a_clock_that_goes_back_gives_nothing():
    bucket = Bucket(TokenBucket(1, 1, 10.0))
    assert takes(bucket, 100.0, 50.0, 55.0) == [True, False, False]


@pytest.mark.parametrize(
    ("settings", "taken", "remaining", "reset_s", "wait_s"),
    [
        (TokenBucket(5, 1, 1.0), 2, 3.0, 0, 0.0),
        (TokenBucket(1, 1, 2.5), 1, 0.0, 3, 2.5),
        (TokenBucket(1, 10, 1.0), 1, 0.0, 1, 0.1),
        (TokenBucket(2, 1, 60.0), 2, 0.0, 60, 60.0),
    ],
)
def test_what_callers_are_told(settings, taken, remaining, reset_s, wait_s):
    bucket = Bucket(settings)
    takes(bucket, *[7.0] * taken)
    assert bucket.remaining(7.0) == remaining
    assert bucket.reset_s(7.0) == reset_s
    assert bucket.wait_s(7.0) == pytest.approx(wait_s)


@given(
    st.integers(0, 20),
    st.integers(1, 8),
    st.sampled_from([1, 2, 4]),
    st.lists(st.integers(0, 64), max_size=60),
)
def test_it_is_the_bucket_of_exact_fractions(most, per_fill, interval, steps):
    """Times and rates are powers of two, so that floats are exact as well."""
    bucket = Bucket(TokenBucket(most, per_fill, float(interval)))
    tokens, now = Fraction(most), 0.0
    for step in steps:
        now += step / 16
        tokens = min(Fraction(most), tokens + Fraction(step, 16) * Fraction(per_fill, interval))
        allowed = tokens >= 1
        assert bucket.take(now) is allowed
        tokens -= allowed
        assert bucket.remaining(now) == tokens


def descriptor(tokens, rate, *entries):
    return LocalDescriptor(entries, TokenBucket(tokens, rate, 1000.0))


def test_the_exact_descriptor_comes_before_the_open_one():
    buckets = DescriptorBuckets(
        (descriptor(5, 1, ("user", "")), descriptor(9, 1, ("user", "ann"))), 10
    )
    assert [bucket.max_tokens for bucket, _ in buckets.find([(("user", "ann"),)])] == [9]
    assert [bucket.max_tokens for bucket, _ in buckets.find([(("user", "bob"),)])] == [5]


@pytest.mark.parametrize(
    ("entries", "found"),
    [
        ((("user", "x"), ("path", "/a")), 1),
        ((("path", "/a"), ("user", "x")), 0),
        ((("user", "x"),), 0),
        ((("user", "x"), ("path", "/b")), 0),
        ((("user", "x"), ("path", "/a"), ("z", "1")), 0),
    ],
)
def test_an_open_descriptor_fits_keys_in_order_and_given_values(entries, found):
    buckets = DescriptorBuckets((descriptor(1, 1, ("user", ""), ("path", "/a")),), 10)
    assert len(buckets.find([entries])) == found


def test_the_slowest_bucket_is_asked_first():
    buckets = DescriptorBuckets(
        (descriptor(1, 9, ("a", "1")), descriptor(2, 3, ("b", "1")), descriptor(3, 5, ("c", "1"))),
        10,
    )
    wanted = [(("a", "1"),), (("b", "1"),), (("c", "1"),)]
    assert [bucket.max_tokens for bucket, _ in buckets.find(wanted)] == [2, 3, 1]


@given(st.integers(1, 5), st.lists(st.integers(0, 12), max_size=80))
def test_the_least_recently_used_value_is_forgotten(most, users):
    """The same buckets as a list that moves what is used to its end."""
    buckets = DescriptorBuckets((descriptor(1, 1, ("user", "")),), most)
    known: list[int] = []
    for user in users:
        ((bucket, _),) = buckets.find([(("user", str(user)),)])
        assert bucket.take(0.0) is (user not in known)
        known = [*(one for one in known if one != user), user][-most:]
        assert len(buckets) == len(known)
