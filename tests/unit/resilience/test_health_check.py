"""Active health of one endpoint, as one check sees it: Envoy's state machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshclient.model.check_result import CheckResult
from meshclient.model.health import (
    ACTIVE_HC_TIMEOUT,
    DEGRADED_ACTIVE_HC,
    EXCLUDED_VIA_IMMEDIATE_HC_FAIL,
    FAILED_ACTIVE_HC,
    PENDING_ACTIVE_HC,
    HealthCheck,
)
from meshclient.resilience.health_check import (
    ACTIVE_FLAGS,
    CheckState,
    combined_flags,
    first_wait_s,
)

FAIL, SLOW, DEGRADED = FAILED_ACTIVE_HC, ACTIVE_HC_TIMEOUT, DEGRADED_ACTIVE_HC
EXCLUDED = EXCLUDED_VIA_IMMEDIATE_HC_FAIL

#: Letters of the tables below.
RESULTS = {
    "+": CheckResult("passed"),
    "d": CheckResult("passed", degraded=True),
    "x": CheckResult("failed"),
    "X": CheckResult("failed", immediate_failure=True),
    "r": CheckResult("retriable"),
    "R": CheckResult("retriable", immediate_failure=True),
    "n": CheckResult("network"),
    "t": CheckResult("timeout"),
    "p": CheckResult("passive", immediate_failure=True),
}


def flags_after(letters: str, unhealthy: int = 3, healthy: int = 2) -> list[int]:
    check = CheckState(
        HealthCheck("http", unhealthy_threshold=unhealthy, healthy_threshold=healthy)
    )
    flags = []
    for letter in letters:
        check.take(RESULTS[letter])
        flags.append(check.flags)
    return flags


@pytest.mark.parametrize(
    ("letters", "expected"),
    [
        # The first result decides alone when it is a success; a failure changes nothing.
        ("+", [0]),
        ("x", [FAIL]),
        ("n+", [FAIL, FAIL]),
        ("n++", [FAIL, FAIL, 0]),
        # A wrong answer needs no threshold, and does not count towards one.
        ("+x", [0, FAIL]),
        ("+nx", [0, 0, FAIL]),
        # No answer, a late one and a retriable one share a count, which a success clears.
        ("+nnn", [0, 0, 0, FAIL]),
        ("+nrt", [0, 0, 0, FAIL | SLOW]),
        ("+nn+nn", [0, 0, 0, 0, 0, 0]),
        # Time-outs show only while the endpoint fails, and only the last result counts.
        ("t", [FAIL | SLOW]),
        ("tn", [FAIL | SLOW, FAIL]),
        ("tx", [FAIL | SLOW, FAIL]),
        ("+ttt", [0, 0, 0, FAIL | SLOW]),
        ("t+", [FAIL | SLOW, FAIL | SLOW]),
        ("t++", [FAIL | SLOW, FAIL | SLOW, 0]),
        # Recovery: successes in a row.
        ("+x+n+", [0, FAIL, FAIL, FAIL, FAIL]),
        ("+x+n++", [0, FAIL, FAIL, FAIL, FAIL, 0]),
        # Degraded at once, both ways, even while failing.
        ("d+", [DEGRADED, 0]),
        ("+d", [0, DEGRADED]),
        ("+xd", [0, FAIL, FAIL | DEGRADED]),
        ("+dn", [0, DEGRADED, DEGRADED]),
        # Excluded until it is healthy again.
        ("+X", [0, FAIL | EXCLUDED]),
        ("+X+", [0, FAIL | EXCLUDED, FAIL | EXCLUDED]),
        ("+X++", [0, FAIL | EXCLUDED, FAIL | EXCLUDED, 0]),
        ("+R", [0, EXCLUDED]),
        ("+R+", [0, EXCLUDED, EXCLUDED]),
        # What ordinary traffic reports fails the endpoint at once.
        ("+p", [0, FAIL | EXCLUDED]),
        ("+p++", [0, FAIL | EXCLUDED, FAIL | EXCLUDED, 0]),
        ("tp", [FAIL | SLOW, FAIL | EXCLUDED]),
        ("p+", [FAIL | EXCLUDED, FAIL | EXCLUDED]),
    ],
)
def test_flags(letters: str, expected: list[int]) -> None:
    assert flags_after(letters) == expected


@pytest.mark.parametrize("threshold", [1, 2, 4, 7])
def test_thresholds(threshold: int) -> None:
    assert flags_after("+" + "n" * threshold, unhealthy=threshold) == [0] * threshold + [FAIL]
    down = [0, FAIL] + [FAIL] * (threshold - 1) + [0]
    assert flags_after("+x" + "+" * threshold, healthy=threshold) == down


class Reference:
    """The same rules written the other way round: from the history, not from counters."""

    def __init__(self, unhealthy: int, healthy: int) -> None:
        self.unhealthy, self.healthy = unhealthy, healthy
        self.failed = True
        self.first = True
        self.since_failed = 0
        self.tolerated = 0

    def take(self, result: CheckResult) -> bool:
        if result.passed:
            self.since_failed = self.since_failed + 1 if self.failed else self.since_failed
            self.tolerated = 0
            if self.failed and (self.first or self.since_failed == self.healthy):
                self.failed = False
        else:
            self.since_failed = 0
            if not self.failed:
                soft = result.kind in ("network", "timeout", "retriable")
                self.tolerated += soft
                self.failed = not soft or self.tolerated == self.unhealthy
        self.first = False
        return self.failed


@given(
    st.lists(st.sampled_from(sorted(RESULTS)), max_size=60),
    st.integers(1, 5),
    st.integers(1, 5),
)
def test_any_history_agrees_with_the_reference(
    letters: list[str], unhealthy: int, healthy: int
) -> None:
    reference = Reference(unhealthy, healthy)
    flags = flags_after("".join(letters), unhealthy, healthy)
    assert [bool(f & FAIL) for f in flags] == [reference.take(RESULTS[x]) for x in letters]


@given(st.lists(st.sampled_from(sorted(RESULTS)), min_size=1, max_size=60))
def test_what_always_holds(letters: list[str]) -> None:
    for letter, flags in zip(letters, flags_after("".join(letters)), strict=True):
        assert flags & ~ACTIVE_FLAGS == 0
        if flags & SLOW:
            assert flags & FAIL
        if letter in "+d":
            assert bool(flags & DEGRADED) == (letter == "d")
        if letter in "xXp":
            assert flags & FAIL


# -- when the next check is due


EVERY = HealthCheck(
    "http",
    interval_s=10.0,
    unhealthy_interval_s=20.0,
    unhealthy_edge_interval_s=3.0,
    healthy_edge_interval_s=4.0,
    no_traffic_interval_s=100.0,
    no_traffic_healthy_interval_s=200.0,
)
PLAIN = HealthCheck("http", interval_s=10.0)


def no_rand() -> int:
    raise AssertionError("nothing to draw")


def waits(letters: str, settings: HealthCheck, traffic: bool = True) -> list[float]:
    check = CheckState(settings)
    found = []
    for letter in letters:
        check.take(RESULTS[letter])
        found.append(check.wait_s(no_rand, traffic))
    return found


@pytest.mark.parametrize(
    ("letters", "settings", "traffic", "expected"),
    [
        ("++", EVERY, True, [10, 10]),
        ("+nnnn", EVERY, True, [10, 3, 3, 20, 20]),
        ("+x+++", EVERY, True, [10, 20, 4, 10, 10]),
        ("n++", EVERY, True, [20, 4, 10]),
        ("+rx", EVERY, True, [10, 3, 20]),
        ("++nx+++", EVERY, False, [200, 200, 100, 100, 100, 200, 200]),
        ("+nnn++", PLAIN, True, [10, 10, 10, 10, 10, 10]),
        ("+n", replace(PLAIN, unhealthy_interval_s=7.0), True, [10, 7]),
        ("+x", PLAIN, False, [60, 60]),
        # A change of the degraded flag does not hide that more successes are awaited.
        ("+xd", EVERY, True, [10, 20, 4]),
    ],
)
def test_intervals(
    letters: str, settings: HealthCheck, traffic: bool, expected: list[float]
) -> None:
    assert waits(letters, settings, traffic) == expected


def test_what_traffic_reports_leaves_the_interval_as_it_was() -> None:
    check = CheckState(EVERY)
    check.take(RESULTS["+"])
    check.take(RESULTS["n"])
    before = check.wait_s(no_rand, True)
    check.take(RESULTS["p"])
    assert check.wait_s(no_rand, True) == before == 3


def draws(*numbers: int) -> Iterator[int]:
    return iter(numbers)


@pytest.mark.parametrize(
    ("percent", "jitter_s", "numbers", "expected"),
    [
        (0, 0.0, (), 10.0),
        (10, 0.0, (999,), 10.999),
        (10, 0.0, (1000,), 10.0),
        (0, 0.5, (499,), 10.499),
        (0, 0.5, (500,), 10.0),
        (10, 0.5, (1, 2), 10.003),
        (100, 0.0, (9_999,), 19.999),
    ],
)
def test_jitter_is_drawn_in_milliseconds_percent_first(
    percent: int, jitter_s: float, numbers: tuple[int, ...], expected: float
) -> None:
    settings = replace(PLAIN, interval_jitter_percent=percent, interval_jitter_s=jitter_s)
    check = CheckState(settings)
    check.take(RESULTS["+"])
    source = draws(*numbers)
    assert check.wait_s(lambda: next(source), True) == pytest.approx(expected)
    assert not list(source)


def test_the_first_check_comes_at_once_or_within_the_initial_jitter() -> None:
    assert first_wait_s(PLAIN, no_rand) == 0
    late = replace(PLAIN, initial_jitter_s=2.0, interval_jitter_percent=50, interval_jitter_s=1.0)
    assert first_wait_s(late, lambda: 1_999) == 1.999
    assert first_wait_s(late, lambda: 2_000) == 0.001


@given(
    st.floats(0.0001, 100),
    st.integers(0, 100),
    st.floats(0, 10),
    st.integers(0, 2**64 - 1),
)
def test_a_wait_is_at_least_a_millisecond_and_within_its_bounds(
    interval_s: float, percent: int, jitter_s: float, drawn: int
) -> None:
    settings = replace(
        PLAIN,
        interval_s=interval_s,
        interval_jitter_percent=percent,
        interval_jitter_s=jitter_s,
    )
    check = CheckState(settings)
    check.take(RESULTS["+"])
    wait = check.wait_s(lambda: drawn, True)
    most = interval_s * (1 + percent / 100) + jitter_s + 0.002
    assert max(0.001, interval_s - 0.001) <= wait <= most


# -- several checks of one endpoint


def taken(letters: str) -> CheckState:
    check = CheckState(PLAIN)
    for letter in letters:
        check.take(RESULTS[letter])
    return check


@pytest.mark.parametrize(
    ("histories", "wait_for_first", "expected"),
    [
        (("+", "+"), False, 0),
        (("+", "x"), False, FAIL),
        (("+", ""), False, FAIL),
        (("+", ""), True, FAIL | PENDING_ACTIVE_HC),
        (("x", "x"), True, FAIL),
        (("d", "+"), False, DEGRADED),
        (("d", "t"), False, DEGRADED | FAIL | SLOW),
        ((), True, 0),
    ],
)
def test_an_endpoint_is_healthy_only_if_all_its_checks_pass(
    histories: tuple[str, ...], wait_for_first: bool, expected: int
) -> None:
    assert combined_flags(map(taken, histories), wait_for_first) == expected
