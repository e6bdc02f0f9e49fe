"""The transitions of a circuit breaker, one by one, and what decides them."""

from __future__ import annotations

import math

import pytest
from breaker_support import BAD, CANCELLED, OK, Bench

from meshclient.model.breaker import Selection
from meshclient.model.headers import HeaderMap
from meshclient.model.outcome import Outcome, ResetReason
from meshclient.resilience.breaker import Breaker

RESET = Outcome(reset=ResetReason.CONNECTION_FAILURE, error=ConnectionRefusedError())

# settings, what happens, state at the end, events
TABLE = [
    ("failures below the limit", {}, "BBBB", "closed", []),
    ("failures in a row", {}, "BBBBB", "open", ["opened consecutive_failures"]),
    ("a success between", {}, "BBBBOBBBB", "closed", []),
    ("a cancelled call counts neither way", {}, "BBBCBB", "open", ["opened consecutive_failures"]),
    ("resets fail, too", {}, "RRRRR", "open", ["opened consecutive_failures"]),
    ("open refuses", {}, "BBBBB!!", "open", ["opened consecutive_failures"]),
    (
        "a probe passes",
        {},
        "BBBBB+O",
        "closed",
        ["opened consecutive_failures", "halfopen", "closed probes_passed"],
    ),
    (
        "a probe fails",
        {},
        "BBBBB+B!",
        "open",
        ["opened consecutive_failures", "halfopen", "opened probe_failed"],
    ),
    (
        "two successes are needed",
        {"half_open_successes": 2},
        "BBBBB+O",
        "half_open",
        ["opened consecutive_failures", "halfopen"],
    ),
    (
        "successes before a failed probe do not count again",
        {"half_open_successes": 2},
        "BBBBB+OB+O",
        "half_open",
        ["opened consecutive_failures", "halfopen", "opened probe_failed", "halfopen"],
    ),
    (
        "a cancelled probe decides nothing",
        {},
        "BBBBB+CO",
        "closed",
        ["opened consecutive_failures", "halfopen", "closed probes_passed"],
    ),
    (
        "a slow probe is none that passed",
        {"slow_s": 1.0, "slow_rate_percent": 50.0},
        "BBBBB+S",
        "open",
        ["opened consecutive_failures", "halfopen", "opened probe_failed"],
    ),
    (
        "half of the window failed",
        {"consecutive_failures": None, "failure_rate_percent": 50.0, "minimum_calls": 4},
        "OBOB",
        "open",
        ["opened failure_rate"],
    ),
    (
        "too few calls for a rate",
        {"consecutive_failures": None, "failure_rate_percent": 50.0, "minimum_calls": 5},
        "BBBB",
        "closed",
        [],
    ),
    (
        "a success never opens it",
        {"consecutive_failures": None, "failure_rate_percent": 50.0, "minimum_calls": 4},
        "BBBO",
        "closed",
        [],
    ),
    (
        "old failures have left the window",
        {
            "consecutive_failures": None,
            "failure_rate_percent": 50.0,
            "minimum_calls": 4,
            "window_calls": 4,
        },
        "BOOOOB",
        "closed",
        [],
    ),
    (
        "slow calls",
        {
            "consecutive_failures": None,
            "slow_s": 1.0,
            "slow_rate_percent": 50.0,
            "minimum_calls": 4,
        },
        "OSOS",
        "open",
        ["opened slow_call_rate"],
    ),
    (
        "failures do not open what only watches slow calls",
        {
            "consecutive_failures": None,
            "slow_s": 1.0,
            "slow_rate_percent": 50.0,
            "minimum_calls": 4,
        },
        "BBBBBBB",
        "closed",
        [],
    ),
]


@pytest.mark.parametrize(("what", "settings", "script", "state", "events"), TABLE)
def test_transitions(what, settings, script, state, events):
    """O: success, B: 503, S: slow success, R: reset, C: cancelled, +: 30 s pass, !: refused."""
    bench = Bench(**settings)
    for step in script:
        if step == "+":
            bench.now += 30.0
        elif step == "!":
            assert not bench.call(), what
        else:
            outcome = {"O": OK, "B": BAD, "S": OK, "R": RESET, "C": CANCELLED}[step]
            assert bench.call(outcome, 2.0 if step == "S" else 0.01), what
    assert (bench.state, bench.words) == (state, events), what


def test_it_stays_open_exactly_as_long_as_it_says():
    bench = Bench(open_for_s=5.0)
    bench.fail(5)
    bench.now += 4.999
    assert not bench.call()
    assert bench.breaker.refuses(bench.now)
    assert not bench.breaker.refuses(bench.now + 0.001)
    bench.now += 0.001
    assert bench.call()


def test_back_off_grows_to_its_limit_and_starts_again_after_a_recovery():
    bench = Bench(open_for_s=1.0, multiplier=2.0, max_open_for_s=5.0)
    bench.fail(5)
    lengths = []
    for _ in range(5):
        lengths.append(bench.events[-1].for_s)
        bench.now += lengths[-1]
        bench.call(BAD)
    assert lengths == [1.0, 2.0, 4.0, 5.0, 5.0]
    bench.now += 5.0
    bench.call(OK)
    bench.fail(5)
    assert bench.events[-1].for_s == 1.0


def test_a_huge_number_of_failed_probes_does_not_overflow():
    bench = Bench(open_for_s=1.0, multiplier=100.0, max_open_for_s=2.0)
    bench.fail(5)
    for _ in range(2000):
        bench.now += 2.0
        bench.call(BAD)
    assert bench.breaker.open_for_s == 2.0


def test_half_open_lets_only_so_many_pass_at_a_time():
    bench = Bench(half_open_requests=2, half_open_successes=3)
    bench.fail(5)
    bench.now += 30.0
    first, second = bench.admit(), bench.admit()
    assert first == second >= 0
    assert bench.admit() == -1
    assert bench.breaker.refuses(bench.now)
    bench.end(first)
    third = bench.admit()
    assert third >= 0
    assert bench.admit() == -1
    bench.end(second)
    bench.end(third)
    assert bench.state == "closed"


def test_an_abandoned_probe_gives_its_place_back():
    bench = Bench()
    bench.fail(5)
    bench.now += 30.0
    generation = bench.admit()
    assert bench.admit() == -1
    bench.breaker.abandon(generation, bench.now)
    assert bench.call()


def test_probes_that_never_end_do_not_keep_it_half_open_for_ever():
    bench = Bench()
    bench.fail(5)
    bench.now += 30.0
    lost = bench.admit()
    bench.now += 29.0
    assert bench.admit() == -1
    bench.now += 1.0
    assert bench.admit() > lost
    bench.end(lost, BAD)
    assert bench.state == "half_open", "the lost one is of an older round"
    assert bench.breaker.stale == 1


@pytest.mark.parametrize("late", [OK, BAD])
def test_a_late_outcome_of_an_older_state_changes_nothing(late):
    bench = Bench()
    of_closed = bench.admit()
    bench.fail(5)
    before = bench.breaker.describe(bench.now)
    bench.end(of_closed, late)
    bench.breaker.abandon(of_closed, bench.now)
    assert bench.breaker.describe(bench.now) == {**before, "stale": 1}
    bench.now += 30.0
    probe = bench.admit()
    bench.end(of_closed, late)
    assert (bench.state, bench.breaker.describe(bench.now)["probes"]) == ("half_open", 1)
    bench.end(probe)
    bench.end(probe, BAD)
    assert bench.breaker.describe(bench.now)["failures_in_a_row"] == 0, "it closed meanwhile"
    assert bench.breaker.stale == 3


def test_a_clock_that_steps_back_does_not_lengthen_the_time_open():
    bench = Bench(open_for_s=5.0)
    bench.fail(5)
    bench.now -= 3600.0
    assert not bench.call()
    bench.now += 4.9
    assert not bench.call()
    bench.now += 0.1
    assert bench.call()


def test_a_clock_that_steps_back_starts_a_time_window_anew():
    bench = Bench(
        consecutive_failures=None, failure_rate_percent=50.0, minimum_calls=4, window_s=10.0
    )
    bench.fail(3)
    bench.now -= 3600.0
    bench.fail(3)
    assert bench.state == "closed", "three failures of another time do not count"
    bench.fail(1)
    assert bench.state == "open"


def test_a_time_window_forgets():
    bench = Bench(
        consecutive_failures=None, failure_rate_percent=50.0, minimum_calls=4, window_s=10.0
    )
    bench.fail(3)
    bench.now += 10.0
    bench.fail(3)
    assert bench.state == "closed"
    assert bench.breaker.describe(bench.now)["window"] == {"calls": 3, "failed": 3, "slow": 0}
    bench.fail(1)
    assert bench.state == "open"


def test_by_hand():
    bench = Bench(open_for_s=5.0)
    breaker = bench.breaker
    breaker.open(bench.now, 60.0)
    bench.now += 59.0
    assert not bench.call()
    bench.now += 1.0
    assert bench.call(), "half_open after its time, as after any opening"
    breaker.isolate(bench.now)
    bench.now += 1e6
    assert not bench.call()
    assert breaker.isolated
    assert breaker.refuses(bench.now + 1e9)
    breaker.close(bench.now)
    assert bench.call()
    assert bench.words == [
        "opened manual",
        "halfopen",
        "closed probes_passed",
        "opened isolated",
        "closed manual",
    ]
    assert bench.events[3].for_s == math.inf


def test_events_carry_the_numbers_that_decided():
    bench = Bench(failure_rate_percent=50.0, minimum_calls=4, open_for_s=7.0)
    for outcome in (OK, BAD, OK, RESET):
        bench.call(outcome)
    (opened,) = bench.events
    assert (opened.scope, opened.service) == ("service reviews", "reviews")
    assert (opened.reason, opened.for_s, opened.calls, opened.failed_percent) == (
        "failure_rate",
        7.0,
        4,
        50.0,
    )
    assert (opened.failures_in_a_row, opened.cause) == (1, "ConnectionRefusedError")


COUNTED = Selection(frozenset({429, 503}), frozenset({14}), frozenset({"OSError"}))
GRPC = [("content-type", "application/grpc"), ("grpc-status", "14")]
JUDGED = [
    # failures, ignored, outcome, whether it counts as a failure (None: neither way)
    (COUNTED, Selection(), Outcome(429), True),
    (COUNTED, Selection(), Outcome(500), False),
    (COUNTED, Selection(), Outcome(200), False),
    (COUNTED, Selection(), Outcome(200, grpc_status=14), True),
    (COUNTED, Selection(), Outcome(200, grpc_status=13), False),
    (COUNTED, Selection(), Outcome(200, HeaderMap.of(GRPC)), True),
    (COUNTED, Selection(), RESET, True),
    (COUNTED, Selection(), Outcome(reset=ResetReason.REMOTE_RESET, error=ValueError()), False),
    (Selection(), Selection(frozenset({501})), Outcome(501), None),
    (Selection(), Selection(frozenset({501})), Outcome(500), True),
    (Selection(), Selection(frozenset({200})), Outcome(200), None),
    (Selection(), Selection(grpc_statuses=frozenset({12})), Outcome(200, grpc_status=12), None),
    (Selection(), Selection(exceptions=frozenset({"connection-failure"})), RESET, None),
    (Selection(), Selection(exceptions=frozenset({"builtins.ConnectionError"})), RESET, None),
    (Selection(), Selection(exceptions=frozenset({"per-try-timeout"})), RESET, True),
]


@pytest.mark.parametrize(("failures", "ignored", "outcome", "counts"), JUDGED)
def test_what_counts(failures, ignored, outcome, counts):
    bench = Bench(failures=failures, ignored=ignored, consecutive_failures=2)
    bench.fail(0)
    bench.call(Outcome(503) if 503 in failures.statuses or not failures else RESET)
    bench.call(outcome)
    expected = {True: ("open", 0), False: ("closed", 0), None: ("closed", 1)}[counts]
    shown = bench.breaker.describe(bench.now)
    assert (shown["state"], shown["failures_in_a_row"]) == expected


def test_the_cause_of_an_exception_counts_as_well():
    wrapped = RuntimeError("wire")
    wrapped.__cause__ = TimeoutError()
    bench = Bench(consecutive_failures=1, ignored=Selection(exceptions=frozenset({"TimeoutError"})))
    bench.call(Outcome(reset=ResetReason.REMOTE_RESET, error=wrapped))
    assert bench.state == "closed"


def test_what_it_says_of_itself():
    bench = Bench(open_for_s=5.0)
    assert repr(bench.breaker) == "<Breaker service reviews closed>"
    bench.fail(5)
    bench.now += 2.0
    bench.call()
    assert bench.breaker.describe(bench.now) == {
        "breaker": "service reviews",
        "state": "open",
        "isolated": False,
        "failures_in_a_row": 0,
        "opened": 1,
        "refused": 1,
        "stale": 0,
        "document": "",
        "reason": "consecutive_failures",
        "since_s": 2.0,
        "for_s": 3.0,
    }
    assert isinstance(bench.breaker, Breaker)
