"""Virtual hosts and route matchers: the same choice as the real Envoy."""

from __future__ import annotations

from . import generate_matches
from .conftest import Check


def test_hosts_and_matchers_choose_as_envoy_does(check: Check) -> None:
    seen = check(generate_matches.build)
    assert seen.cases >= 350
    assert seen.statuses[200] >= 100
    assert seen.statuses[404] >= 50
