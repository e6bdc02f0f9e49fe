"""Rewrites, header edits, splits, redirects, direct responses: as the real Envoy."""

from __future__ import annotations

from . import generate_rewrites
from .conftest import Check


def test_requests_and_responses_are_changed_as_envoy_changes_them(check: Check) -> None:
    assert check(generate_rewrites.build) >= 300
