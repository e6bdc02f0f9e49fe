"""Rewrites, header edits, splits, redirects, direct responses: as the real Envoy."""

from __future__ import annotations

from . import generate_rewrites
from .conftest import Check


def test_requests_and_responses_are_changed_as_envoy_changes_them(check: Check) -> None:
    seen = check(generate_rewrites.build)
    assert seen.cases >= 350
    assert seen.attempts[1] >= 100
    assert sum(seen.statuses[status] for status in (301, 302, 303, 307, 308)) >= 30
    assert {200, 404, 503} <= seen.statuses.keys()
