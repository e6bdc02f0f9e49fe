"""Retry conditions, counts and control headers: the same attempts as the real Envoy."""

from __future__ import annotations

from . import generate_retries
from .conftest import Check


def test_attempts_are_repeated_as_envoy_repeats_them(check: Check) -> None:
    seen = check(generate_retries.build)
    assert seen.cases >= 350
    # Floors that every one of 40 seeds cleared: the cases do retry.
    assert min(seen.attempts[tries] for tries in (0, 1, 2, 3)) >= 10
    assert seen.attempts[4] + seen.attempts[5] >= 2
