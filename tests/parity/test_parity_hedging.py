"""A retry beside a slow try: the same tries, the same winner, the same time as the real Envoy."""

from __future__ import annotations

from . import generate_hedging
from .conftest import Check


def test_slow_tries_are_hedged_as_envoy_hedges_them(check: Check) -> None:
    seen = check(generate_hedging.build, in_parallel=True)
    assert seen.cases >= 28
    assert seen.attempts[2] >= 12, "hedges did happen"
    assert seen.attempts[3] >= 4
    assert seen.statuses[200] >= 15
