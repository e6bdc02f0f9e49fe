"""Injected delays and aborts: the same answers, as late, and nothing sent that should not be."""

from __future__ import annotations

from . import generate_faults
from .conftest import Check


def test_faults_are_injected_as_in_envoy(check: Check) -> None:
    seen = check(generate_faults.build, in_parallel=True)
    assert seen.cases >= 70
    assert seen.attempts[0] >= 40, "answered before anything was sent"
    assert seen.attempts[1] >= 12
