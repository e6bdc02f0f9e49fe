"""Route and per-try timeouts, asked-for waits: the same outcome within the same window."""

from __future__ import annotations

from . import generate_timeouts
from .conftest import Check


def test_time_limits_end_calls_as_in_envoy(check: Check) -> None:
    seen = check(generate_timeouts.build, in_parallel=True)
    assert seen.cases >= 30
    assert seen.statuses[200] >= 8
    assert seen.statuses[504] >= 8
