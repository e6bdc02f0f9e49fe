"""HTTP/2 conversations with h2 at the other end, honest and damaged. See http2_long_run.py."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import http2_damage, http2_long_run


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**64 - 1))
def test_both_sides_mean_the_same(seed: int) -> None:
    """Requests, answers, trailers, resets, PINGs and windows, while settings change."""
    assert not http2_long_run.talk(Random(seed))


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**64 - 1))
def test_damaged_answers(seed: int) -> None:
    """Refused, or understood as h2 does; never depending on how the bytes were cut."""
    rand = Random(seed)
    requests, frames = http2_damage.honest(rand)
    assert not http2_damage.judge((requests, frames), rand)[1]
    for _ in range(5):
        assert not http2_damage.judge((requests, http2_damage.damage(rand, frames)), rand)[1]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**64 - 1), st.binary(max_size=200))
def test_anything_at_all(seed: int, data: bytes) -> None:
    rand = Random(seed)
    requests, frames = http2_damage.honest(rand)
    frames = [*frames[: rand.randrange(len(frames) + 1)], *http2_damage.split(data)]
    assert not http2_damage.judge((requests, frames), rand)[1]


def test_the_damage_reaches_every_verdict() -> None:
    """A damage that everything refuses at once would prove nothing."""
    seen: Counter[str] = Counter()
    for seed in range(30):
        assert not http2_long_run.conversation(seed, seen)
    assert seen["damaged: equal"] > 200
    assert seen["damaged: both refuse"] > 200
    assert seen["damaged: we refuse the stream, h2 the connection"] > 10
