"""Retry conditions, counts and control headers: the same attempts as the real Envoy."""

from __future__ import annotations

from . import generate_retries
from .conftest import Check


def test_attempts_are_repeated_as_envoy_repeats_them(check: Check) -> None:
    seen = check(generate_retries.build)
    assert seen.cases >= 350
    assert min(seen.attempts[tries] for tries in (0, 1, 2, 3, 4, 5)) >= 3
