"""Outlier detection as a whole: sequences, events, membership, and threads."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from meshclient.balancing import EndpointState
from meshclient.model.endpoint import Endpoint
from meshclient.model.events import (
    EndpointDegraded,
    EndpointEjected,
    EndpointUndegraded,
    EndpointUnejected,
)
from meshclient.model.headers import HeaderMap
from meshclient.model.health import (
    DEGRADED_OUTLIER_DETECTION,
    FAILED_ACTIVE_HC,
    FAILED_EDS_HEALTH,
    FAILED_OUTLIER_CHECK,
    OutlierDetection,
    flag_names,
)
from meshclient.model.outcome import Outcome, ResetReason
from meshclient.resilience import OutlierDetector

OK, ERROR, GATEWAY = Outcome(200), Outcome(500), Outcome(503)
REFUSED = Outcome(reset=ResetReason.CONNECTION_FAILURE, sent=False)
RESET = Outcome(reset=ResetReason.REMOTE_RESET)
DEGRADED = Outcome(200, HeaderMap([(b"x-envoy-degraded", b"1")]))


class Bed:
    """A detector over some endpoints, and a clock."""

    def __init__(self, hosts: int = 3, rand: int = 99, **settings: Any) -> None:
        self.now = 100.0
        made = OutlierDetection(**{"max_ejection_percent": 100, **settings})
        self.detector = OutlierDetector(made, "c", self.now, lambda: rand)
        self.states = [EndpointState(Endpoint("10.0.0.1", port)) for port in range(1, hosts + 1)]
        self.detector.adopt(self.states, self.now)

    def see(self, host: int, *outcomes: Outcome) -> list[bool]:
        """What observe() says of each."""
        state = self.states[host]
        return [self.detector.observe(state, o, self.now, self.now) for o in outcomes]

    def process(self, after_s: float = 0.0) -> list[Any]:
        self.now += after_s
        return self.detector.process(self.now)

    def flags(self) -> list[str]:
        return [flag_names(state.flags) for state in self.states]

    def stats(self) -> dict[str, int]:
        """Those above 0."""
        return {name: value for name, value in self.detector.stats.items() if value}


def test_the_fifth_error_asks_for_processing_and_nothing_happens_before() -> None:
    bed = Bed()
    assert bed.see(0, *[ERROR] * 5) == [False] * 4 + [True]
    assert bed.flags() == ["healthy"] * 3
    assert bed.process() == [
        EndpointEjected("c", "10.0.0.1:1", "consecutive_5xx", True, "", 30.0, 1, errors_in_a_row=5)
    ]
    assert bed.flags() == ["/failed_outlier_check", "healthy", "healthy"]
    assert bed.stats() == {
        "ejections_active": 1,
        "ejections_enforced_total": 1,
        "ejections_detected_consecutive_5xx": 1,
        "ejections_enforced_consecutive_5xx": 1,
        "ejections_total": 1,
        "ejections_consecutive_5xx": 1,
    }
    assert repr(bed.detector) == "<OutlierDetector c 3 endpoints, 1 ejected>"


@pytest.mark.parametrize("between", [OK, Outcome(404), Outcome(499), Outcome(503, grpc_status=0)])
def test_a_success_ends_a_row(between: Outcome) -> None:
    bed = Bed(consecutive_5xx=2, consecutive_gateway_failure=2)
    assert bed.see(0, GATEWAY, between, GATEWAY, between, ERROR) == [False] * 5


def test_what_is_cancelled_or_overflows_neither_counts_nor_ends_a_row() -> None:
    bed = Bed(consecutive_5xx=2)
    cancelled = Outcome(reset=ResetReason.CANCELLED)
    overflow = Outcome(reset=ResetReason.OVERFLOW, sent=False)
    early = Outcome(reset=ResetReason.ROUTE_TIMEOUT, sent=False)
    assert bed.see(0, ERROR, cancelled, overflow, early, ERROR) == [False] * 4 + [True]


def test_errors_beyond_the_threshold_do_not_ask_again() -> None:
    bed = Bed(consecutive_5xx=2)
    assert bed.see(0, *[ERROR] * 6) == [False, True, False, False, False, False]
    (event,) = bed.process()
    assert event.errors_in_a_row == 6


def test_a_row_starts_anew_after_a_detection_that_ejects_nobody() -> None:
    bed = Bed(consecutive_5xx=2, max_ejection_percent=10)
    seen = []
    for _ in range(3):
        seen.append(bed.see(0, ERROR, ERROR))
        bed.process()
    assert seen == [[False, True]] * 3
    assert bed.stats()["ejections_overflow"] == 3


def test_what_holds_an_ejection_back_is_told_once_between_sweeps() -> None:
    bed = Bed(consecutive_5xx=1, max_ejection_percent=10)
    told = []
    for _ in range(3):
        bed.see(0, ERROR)
        told += bed.process()
    bed.process(10.0)
    bed.see(0, ERROR)
    told += bed.process()
    once = EndpointEjected(
        "c", "10.0.0.1:1", "consecutive_5xx", False, "max_ejection_percent", errors_in_a_row=1
    )
    assert told == [once, once]


@pytest.mark.parametrize(("rand", "enforced"), [(39, True), (40, False), (139, True)])
def test_the_enforcing_percentage_is_a_coin(rand: int, enforced: bool) -> None:
    bed = Bed(rand=rand, consecutive_5xx=1, enforcing_consecutive_5xx=40)
    bed.see(0, ERROR)
    (event,) = bed.process()
    assert event.enforced is enforced
    assert event.withheld == ("" if enforced else "enforcing percentage")


def test_ejections_end_at_sweeps_only_and_rows_start_at_zero() -> None:
    bed = Bed(consecutive_5xx=3, consecutive_gateway_failure=3, base_ejection_time_s=25.0)
    bed.process(9.0)
    bed.see(0, ERROR, ERROR, ERROR)
    bed.process()
    bed.see(0, GATEWAY, GATEWAY)
    assert bed.detector.describe(bed.states[0], bed.now) == {
        "ejected": True,
        "degraded": False,
        "ejections": 1,
        "multiplier": 1,
        "success_rate": -1.0,
        "local_origin_success_rate": -1.0,
        "consecutive_5xx": 2,
        "consecutive_gateway_failure": 2,
        "consecutive_local_origin_failure": 0,
        "for_s": 25.0,
    }
    assert [bed.process(wait) for wait in (1.0, 10.0, 10.0, 4.9)] == [[], [], [], []]
    assert bed.detector.next_due == 140.0
    assert bed.process(5.1) == [EndpointUnejected("c", "10.0.0.1:1", "time", 31.0)]
    assert bed.flags()[0] == "healthy"
    assert bed.see(0, GATEWAY, GATEWAY, GATEWAY) == [False, False, True]


def test_a_late_sweep_does_not_bring_the_next_one_sooner() -> None:
    bed = Bed()
    assert bed.detector.next_due == 110.0
    bed.process(17.0)
    assert bed.detector.next_due == 127.0


def test_calls_on_their_way_do_not_eject_twice() -> None:
    bed = Bed(consecutive_5xx=2, consecutive_gateway_failure=2)
    assert bed.see(0, GATEWAY, GATEWAY) == [False, True]
    (event,) = bed.process()
    assert event.reason == "consecutive_gateway_failure"
    assert bed.stats()["ejections_active"] == 1
    assert "ejections_detected_consecutive_5xx" not in bed.stats()


def test_an_endpoint_with_two_bad_statistics_is_ejected_once() -> None:
    bed = Bed(
        hosts=5,
        consecutive_5xx=None,
        success_rate_request_volume=1,
        failure_percentage_request_volume=1,
        enforcing_failure_percentage=100,
    )
    for host in range(4):
        bed.see(host, OK)
    bed.see(4, ERROR)
    first, second = bed.process(10.0)
    assert (first.reason, first.enforced) == ("success_rate", True)
    assert (first.success_rate, first.average, round(first.threshold, 3)) == (0.0, 80.0, 4.0)
    assert (second.reason, second.withheld) == ("failure_percentage", "already ejected")
    assert bed.stats()["ejections_active"] == 1
    assert bed.detector.averages["success_rate_average"] == 80.0
    bed.process(30.0)
    assert "ejections_active" not in bed.stats()


def test_each_interval_is_judged_by_itself() -> None:
    bed = Bed(
        consecutive_5xx=None,
        failure_percentage_minimum_hosts=1,
        failure_percentage_request_volume=4,
        enforcing_failure_percentage=100,
    )
    bed.see(0, ERROR, ERROR, ERROR)
    assert bed.process(10.0) == []
    bed.see(0, ERROR, ERROR, ERROR)
    assert bed.process(10.0) == []
    bed.see(0, *[ERROR] * 4)
    (event,) = bed.process(10.0)
    assert (event.reason, event.success_rate) == ("failure_percentage", 0.0)


def test_split_mode_needs_failures_to_connect_in_a_row() -> None:
    bed = Bed(split_external_local_origin_errors=True, consecutive_local_origin_failure=2)
    assert bed.see(0, REFUSED, OK, REFUSED, ERROR, REFUSED, RESET, RESET) == [False] * 7
    # The last reset is itself a local failure, after a connect success.
    assert bed.see(0, REFUSED) == [True]
    (event,) = bed.process()
    assert event.reason == "consecutive_local_origin_failure"


def test_in_split_mode_a_success_ends_a_row_whose_partner_started_anew() -> None:
    bed = Bed(
        split_external_local_origin_errors=True,
        consecutive_5xx=1,
        consecutive_gateway_failure=2,
        enforcing_consecutive_5xx=0,
    )
    bed.see(0, GATEWAY)
    bed.process()
    bed.see(0, OK)
    assert bed.detector.describe(bed.states[0], bed.now)["consecutive_gateway_failure"] == 0


def test_a_broken_body_counts_on_top_of_its_head_but_a_timeout_does_not() -> None:
    bed = Bed(consecutive_5xx=2)
    assert bed.see(0, ERROR) == [False]
    late = Outcome(reset=ResetReason.ROUTE_TIMEOUT)
    observe = bed.detector.observe_broken_body
    assert not observe(bed.states[0], late)
    assert not observe(bed.states[0], Outcome(reset=ResetReason.CANCELLED))
    assert observe(bed.states[0], RESET)


def test_degraded_endpoints_come_back_after_a_growing_time() -> None:
    bed = Bed(detect_degraded_hosts=True)
    assert bed.see(0, DEGRADED, DEGRADED) == [True, False]
    assert bed.process() == [EndpointDegraded("c", "10.0.0.1:1", 30.0)]
    assert bed.states[0].flags == DEGRADED_OUTLIER_DETECTION
    assert bed.see(0, DEGRADED) == [False]
    assert bed.process(20.0) == []
    assert bed.detector.describe(bed.states[0], bed.now)["degraded_for_s"] == 10.0
    assert bed.process(10.0) == [EndpointUndegraded("c", "10.0.0.1:1", 30.0)]
    bed.see(0, DEGRADED)
    assert bed.process() == [EndpointDegraded("c", "10.0.0.1:1", 60.0)]
    assert bed.stats() == {"ejections_detected_degradation": 2}


def test_a_passed_health_check_ends_an_ejection_at_once() -> None:
    bed = Bed(consecutive_5xx=1)
    bed.see(0, ERROR)
    bed.process()
    state = bed.states[0]
    state.flags |= FAILED_ACTIVE_HC
    assert not bed.detector.on_health_check_passed(state, bed.now)
    state.flags &= ~FAILED_ACTIVE_HC
    bed.now += 2.0
    assert bed.detector.on_health_check_passed(state, bed.now)
    assert state.flags == 0
    assert bed.detector.next_due == bed.now
    assert bed.process() == [EndpointUnejected("c", "10.0.0.1:1", "health check", 2.0)]
    assert bed.detector.next_due == 110.0
    assert not bed.detector.on_health_check_passed(state, bed.now)


def test_a_passed_health_check_ends_nothing_where_the_policy_says_no() -> None:
    bed = Bed(consecutive_5xx=1, successful_active_health_check_uneject_host=False)
    bed.see(0, ERROR)
    bed.process()
    assert not bed.detector.on_health_check_passed(bed.states[0], bed.now)
    assert bed.states[0].flags == FAILED_OUTLIER_CHECK


def test_membership() -> None:
    """Who stays keeps counts, who leaves takes an ejection along, who returns starts afresh."""
    bed = Bed(consecutive_5xx=2)
    bed.see(0, ERROR, ERROR)
    bed.see(1, ERROR)
    bed.process()
    gone, kept = bed.states[0], bed.states[1]
    gone.flags |= FAILED_EDS_HEALTH
    bed.detector.adopt([kept], bed.now)
    assert (gone.outlier, gone.flags) == (None, FAILED_EDS_HEALTH)
    assert "ejections_active" not in bed.stats()
    assert bed.see(0, ERROR, ERROR) == [False, False]
    assert bed.see(1, ERROR) == [True]
    bed.detector.adopt([gone], bed.now)
    assert bed.process() == [], "noticed of one that left"
    assert bed.see(0, ERROR, ERROR) == [False, True]
    assert bed.detector.describe(kept, bed.now) == {}


def test_a_state_of_another_detector_is_taken_over_with_clean_flags() -> None:
    old, state = Bed(consecutive_5xx=1), None
    old.see(0, ERROR)
    old.process()
    state = old.states[0]
    new = OutlierDetector(OutlierDetection(), "c", 0.0, lambda: 0)
    new.adopt([state], 0.0)
    assert state.flags == 0
    old.detector.adopt([], 0.0)
    assert state.outlier is not None, "the new detector's counters stay"


def test_unknown_endpoints_are_no_business_of_the_detector() -> None:
    bed = Bed()
    stranger = EndpointState(Endpoint("10.9.9.9", 1))
    assert not bed.detector.observe(stranger, ERROR, 0.0, 0.0)
    assert not bed.detector.observe_broken_body(stranger, RESET)
    assert bed.detector.describe(stranger, 0.0) == {}


# -- threads -------------------------------------------------------------------------


def _hammer(work: Sequence[Any]) -> None:
    barrier = threading.Barrier(len(work))

    def run(one: Any) -> None:
        barrier.wait(30)
        one()

    threads = [threading.Thread(target=run, args=(one,)) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)


def test_a_hundred_threads_reach_the_threshold_exactly_once() -> None:
    bed = Bed(hosts=1, consecutive_5xx=2_500)
    state = bed.states[0]
    asked: list[bool] = []

    def fail() -> None:
        asked.extend(bed.detector.observe(state, ERROR, 0.0, 0.0) for _ in range(50))

    _hammer([fail] * 100)
    assert len(asked) == 5_000
    assert sum(asked) == 1
    (event,) = bed.process()
    assert (event.enforced, event.errors_in_a_row) == (True, 5_000)


def test_a_hundred_threads_lose_no_count() -> None:
    bed = Bed(
        hosts=2,
        consecutive_5xx=None,
        success_rate_minimum_hosts=1,
        success_rate_request_volume=1,
    )

    def work(seed: int) -> Any:
        order = [OK] * 60 + [ERROR] * 20
        random.Random(seed).shuffle(order)

        def run() -> None:
            for outcome in order:
                bed.detector.observe(bed.states[seed % 2], outcome, 0.0, 0.0)

        return run

    _hammer([work(seed) for seed in range(100)])
    bed.process(10.0)
    assert [bed.detector.describe(state, 0.0)["success_rate"] for state in bed.states] == [75.0] * 2


def test_sweeps_under_fire_keep_events_counters_and_flags_together() -> None:
    """Calls on forty threads, ejections and their ends on another."""
    bed = Bed(hosts=4, consecutive_5xx=7, base_ejection_time_s=1.0, interval_s=1.0)
    done = threading.Event()
    ejected = []

    def control() -> None:
        while not done.is_set():
            ejected.extend(bed.process(0.5))
        ejected.extend(bed.process(0.5))

    def work(number: int) -> Any:
        def run() -> None:
            state = bed.states[number % 4]
            for turn in range(300):
                outcome = ERROR if turn % 30 < 15 else OK
                bed.detector.observe(state, outcome, 0.0, 0.0)

        return run

    controller = threading.Thread(target=control)
    controller.start()
    _hammer([work(number) for number in range(40)])
    done.set()
    controller.join(30)
    assert not controller.is_alive()
    stats = bed.detector.stats
    gone = [event for event in ejected if isinstance(event, EndpointEjected) and event.enforced]
    back = [event for event in ejected if isinstance(event, EndpointUnejected)]
    assert gone
    assert stats["ejections_enforced_total"] == len(gone)
    assert stats["ejections_active"] == len(gone) - len(back)
    assert stats["ejections_active"] == sum(
        bool(state.flags & FAILED_OUTLIER_CHECK) for state in bed.states
    )
