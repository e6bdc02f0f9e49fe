"""Exponential and rate-limited back-off against Envoy's arithmetic."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshclient.model.headers import HeaderMap
from meshclient.model.retry import BackOff, RateLimitedBackOff, ResetHeader
from meshclient.resilience import ExponentialBackOff
from meshclient.resilience.rate_limited import rate_limited_wait_s


@pytest.mark.parametrize(
    ("base_s", "max_s", "caps_ms"),
    [
        (0.025, 0.25, [25, 50, 100, 200, 250, 250, 250]),
        (0.1, 1.0, [100, 200, 400, 800, 1000, 1000]),
        (0.1, 0.1, [100, 100, 100]),
        (0.1, 0.2, [100, 200, 200]),
        (0.1, 0.401, [100, 200, 401, 401]),
        (0.0001, 0.0001, [1, 1, 1]),  # below one millisecond counts as one
        (0.05, 0.01, [50, 50, 50]),  # a maximum below the base is the base
    ],
)
def test_caps(base_s: float, max_s: float, caps_ms: list[int]) -> None:
    back_off = ExponentialBackOff(BackOff(base_s, max_s))
    seen = []
    for _ in caps_ms:
        seen.append(round(back_off.cap_s * 1000))
        back_off.next_s(lambda: 0)
    assert seen == caps_ms


def test_waits_are_uniform_over_the_cap() -> None:
    """First waits, base 10 ms: chi-square with 9 degrees of freedom below 45.1 (p = 1e-6)."""
    rng = random.Random(17)
    counts = [0] * 10
    for _ in range(20_000):
        wait_s = ExponentialBackOff(BackOff(0.01, 0.1)).next_s(lambda: rng.getrandbits(64))
        counts[round(wait_s * 1000)] += 1
    assert sum((count - 2000) ** 2 / 2000 for count in counts) < 45.1


@given(base_s=st.floats(0, 10), max_s=st.floats(0, 100), draws=st.lists(st.integers(0, 2**64 - 1)))
def test_caps_never_fall_nor_pass_the_maximum(
    base_s: float, max_s: float, draws: list[int]
) -> None:
    back_off = ExponentialBackOff(BackOff(base_s, max_s))
    before = 0.0
    for draw in draws:
        cap_s = back_off.cap_s
        assert before <= cap_s <= max(base_s, max_s) + 0.001
        assert 0 <= back_off.next_s(lambda draw=draw: draw) < cap_s  # type: ignore[misc]
        before = cap_s


SECONDS = ResetHeader("Retry-After")
STAMP = ResetHeader("X-RateLimit-Reset", "unix_timestamp")
DATE = "Sat, 01 Jan 2028 00:00:10 GMT"
DATE_UNIX = 1_830_297_610


@pytest.mark.parametrize(
    ("headers", "unix_now", "waits"),
    [
        ({"retry-after": "2"}, None, (2.0, 2.999)),
        ({"retry-after": " 2 "}, None, (2.0, 2.999)),
        ({"retry-after": "0"}, None, None),
        ({"retry-after": "300"}, None, (300.0, 449.999)),
        ({"retry-after": "301"}, None, None),
        ({"retry-after": "soon"}, None, None),
        ({"retry-after": "-3"}, None, None),
        ({"retry-after": "1.5"}, None, None),
        ({"retry-after": "9" * 5000}, None, None),
        ({}, None, None),
        ({"x-ratelimit-reset": "1010"}, 1000.0, (10.0, 14.999)),
        ({"x-ratelimit-reset": "999"}, 1000.0, None),
        ({"x-ratelimit-reset": "1000"}, 1000.0, None),
        ({"x-ratelimit-reset": "1010"}, None, None),
        ({"retry-after": "900", "x-ratelimit-reset": "1010"}, 1000.0, (10.0, 14.999)),
        ({"retry-after": DATE}, DATE_UNIX - 4.0, (4.0, 5.999)),
        ({"retry-after": DATE}, DATE_UNIX + 1.0, None),
        ({"retry-after": DATE}, None, None),
        ({"retry-after": DATE, "date": "Sat, 01 Jan 2028 00:00:00 GMT"}, None, (10.0, 14.999)),
        ({"x-ratelimit-reset": str(DATE_UNIX), "date": DATE}, None, None),
        ({"x-ratelimit-reset": str(DATE_UNIX + 6), "date": DATE}, None, (6.0, 8.999)),
        ({"x-ratelimit-reset": DATE}, 1000.0, None),
    ],
)
def test_rate_limited_waits(
    headers: dict[str, str], unix_now: float | None, waits: tuple[float, float] | None
) -> None:
    """t + r mod t/2 milliseconds, the first usable header deciding."""
    settings = RateLimitedBackOff((SECONDS, STAMP))
    head = HeaderMap.of(headers.items())
    low = rate_limited_wait_s(settings, head, lambda: 0, unix_now)
    if waits is None:
        assert low is None
        return
    assert low == waits[0]
    half_ms = round(waits[0] * 1000) // 2
    assert rate_limited_wait_s(settings, head, lambda: half_ms - 1, unix_now) == waits[1]
    assert rate_limited_wait_s(settings, head, lambda: half_ms, unix_now) == waits[0]
