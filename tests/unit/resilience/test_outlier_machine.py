"""Outlier detection against a plain model of it: any order of calls, sweeps and membership."""

from __future__ import annotations

from typing import Any

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from meshclient.balancing import EndpointState
from meshclient.model.endpoint import Endpoint
from meshclient.model.health import FAILED_OUTLIER_CHECK, OutlierDetection
from meshclient.model.outcome import Outcome, ResetReason
from meshclient.resilience import OutlierDetector

#: Outcome; the status it counts as without split, and with it (0: none); with split, whether a
#: connection stood and whether it is a local failure.
CALLS: tuple[tuple[Outcome, int, int, bool | None, bool], ...] = (
    (Outcome(200), 200, 200, True, False),
    (Outcome(404), 404, 404, True, False),
    (Outcome(500), 500, 500, True, False),
    (Outcome(503), 503, 503, True, False),
    (Outcome(200, grpc_status=14), 503, 503, True, False),
    (Outcome(503, grpc_status=5), 404, 404, True, False),
    (Outcome(reset=ResetReason.CONNECTION_FAILURE, sent=False), 503, 0, None, True),
    (Outcome(reset=ResetReason.CONNECTION_TIMEOUT, sent=False), 503, 0, None, True),
    (Outcome(reset=ResetReason.REMOTE_RESET), 503, 0, True, True),
    (Outcome(reset=ResetReason.PER_TRY_TIMEOUT), 504, 0, True, True),
    (Outcome(reset=ResetReason.OVERFLOW, sent=False), 0, 0, None, False),
    (Outcome(reset=ResetReason.CANCELLED), 0, 0, None, False),
)


#: Per second: a power of two, so that sums of seconds are exact.
TICKS = 1024


class Host:
    """What the model knows of an endpoint; times are whole ticks."""

    def __init__(self) -> None:
        self.rows = {"5xx": 0, "gateway": 0, "local": 0}
        self.tallies = [[0, 0], [0, 0]]
        self.ejected_at: int | None = None
        self.unejected_at: int | None = None
        self.multiplier = 0

    def tally(self, place: int, good: bool) -> None:
        self.tallies[place][0] += good
        self.tallies[place][1] += 1


class Model:
    """Envoy's rules, written down without a thought for threads or speed."""

    def __init__(self, settings: OutlierDetection) -> None:
        self.settings = settings
        self.hosts: dict[int, Host] = {}
        self.now = 0
        self.sweep_at = int(settings.interval_s * TICKS)
        self.stats = {"active": 0, "enforced": 0, "overflow": 0, "detected": 0}

    def call(self, name: int, kind: int) -> None:
        _, plain, status, connected, local_failure = CALLS[kind]
        host = self.hosts[name]
        if not self.settings.split_external_local_origin_errors:
            if plain:
                self.respond(host, plain)
            return
        if connected:
            host.tally(1, True)
            host.rows["local"] = 0
        if status:
            self.respond(host, status)
        if local_failure:
            host.tally(1, False)
            host.rows["local"] += 1
            self.fire(host, "local", self.settings.consecutive_local_origin_failure)

    def respond(self, host: Host, status: int) -> None:
        host.tally(0, status < 500)
        if status < 500:
            host.rows["5xx"] = host.rows["gateway"] = 0
            return
        host.rows["gateway"] = host.rows["gateway"] + 1 if status in (502, 503, 504) else 0
        host.rows["5xx"] += 1
        gateway = self.settings.consecutive_gateway_failure
        if host.rows["gateway"]:
            self.fire(host, "gateway", gateway)
        self.fire(host, "5xx", self.settings.consecutive_5xx)

    def fire(self, host: Host, row: str, threshold: int | None) -> None:
        if host.rows[row] == threshold and host.ejected_at is None:
            self.found(host, True)
            host.rows[row] = 0

    def found(self, host: Host, enforced: bool) -> None:
        self.stats["detected"] += 1
        if host.ejected_at is not None:
            return
        percent = 100 * (self.stats["active"] + 1) / len(self.hosts)
        first = self.settings.always_eject_one_host and not self.stats["active"]
        if percent > self.settings.max_ejection_percent and not first:
            self.stats["overflow"] += 1
        elif enforced:
            self.stats["active"] += 1
            self.stats["enforced"] += 1
            host.ejected_at = self.now
            base, most = self.times()
            if host.multiplier * base < most + base:
                host.multiplier += 1

    def times(self) -> tuple[int, int]:
        base = int(self.settings.base_ejection_time_s * TICKS)
        return base, max(base, int(self.settings.max_ejection_time_s * TICKS))

    def uneject(self, host: Host) -> None:
        self.stats["active"] -= 1
        host.ejected_at, host.unejected_at = None, self.now
        host.rows = dict.fromkeys(host.rows, 0)

    def sweep(self) -> None:
        base, most = self.times()
        finished = []
        for host in self.hosts.values():
            length = min(base * host.multiplier, most)
            if host.ejected_at is not None and self.now - host.ejected_at >= length:
                self.uneject(host)
            finished.append((host, host.tallies))
            host.tallies = [[0, 0], [0, 0]]
        self.judge([(host, tallies[0]) for host, tallies in finished], True)
        self.judge([(host, tallies[1]) for host, tallies in finished], False)
        interval = int(self.settings.interval_s * TICKS)
        for host in self.hosts.values():
            if host.ejected_at is not None or host.unejected_at is None:
                continue
            if self.now - host.unejected_at >= interval and host.multiplier:
                host.multiplier -= 1
        self.sweep_at = self.now + interval

    def judge(self, tallies: list[tuple[Host, list[int]]], external: bool) -> None:
        made = self.settings
        counted = [
            (host, 100 * good / total)
            for host, (good, total) in tallies
            if total and host.ejected_at is None
        ]
        volume = {host: total for host, (_, total) in tallies}
        rated = [(h, rate) for h, rate in counted if volume[h] >= made.success_rate_request_volume]
        failing = [
            (h, rate) for h, rate in counted if volume[h] >= made.failure_percentage_request_volume
        ]
        if rated and len(rated) >= made.success_rate_minimum_hosts:
            mean = sum(rate for _, rate in rated) / len(rated)
            variance = sum((rate - mean) ** 2 for _, rate in rated) / len(rated)
            threshold = mean - made.success_rate_stdev_factor / 1000 * variance**0.5
            for host, rate in rated:
                if rate < threshold:
                    self.found(host, True)
        if failing and len(failing) >= made.failure_percentage_minimum_hosts:
            for host, rate in failing:
                if 100 - rate >= made.failure_percentage_threshold:
                    self.found(host, external)


class OutlierMachine(RuleBasedStateMachine):
    """The detector and the model get the same history."""

    @initialize(
        split=st.booleans(),
        five=st.sampled_from([None, 1, 2, 4]),
        gateway=st.sampled_from([None, 1, 3]),
        percent=st.sampled_from([10, 34, 50, 100]),
        always=st.booleans(),
        base=st.sampled_from([0.5, 1.5, 2.5]),
        most=st.sampled_from([0.1, 3.0, 300.0]),
        volume=st.integers(1, 4),
        factor=st.sampled_from([500, 1000, 1900]),
    )
    def begin(self, **made: Any) -> None:
        settings = OutlierDetection(
            consecutive_5xx=made["five"],
            consecutive_gateway_failure=made["gateway"],
            split_external_local_origin_errors=made["split"],
            consecutive_local_origin_failure=2,
            interval_s=1.0,
            base_ejection_time_s=made["base"],
            max_ejection_time_s=made["most"],
            max_ejection_percent=made["percent"],
            always_eject_one_host=made["always"],
            success_rate_minimum_hosts=2,
            success_rate_request_volume=made["volume"],
            success_rate_stdev_factor=made["factor"],
            failure_percentage_minimum_hosts=2,
            failure_percentage_request_volume=3,
            failure_percentage_threshold=60,
            enforcing_failure_percentage=100,
        )
        self.model = Model(settings)
        self.detector = OutlierDetector(settings, "c", 0.0, lambda: 99)
        self.states: dict[int, EndpointState] = {}
        self.adopt({0, 1, 2})

    def adopt(self, names: set[int]) -> None:
        for name in [name for name in self.states if name not in names]:
            del self.states[name]
            gone = self.model.hosts.pop(name)
            self.model.stats["active"] -= gone.ejected_at is not None
        for name in sorted(names - set(self.states)):
            self.states[name] = EndpointState(Endpoint("10.0.0.1", name + 1))
            self.model.hosts[name] = Host()
        self.detector.adopt(self.states.values(), self.model.now / TICKS)

    @rule(names=st.sets(st.integers(0, 7), min_size=1))
    def membership_changes(self, names: set[int]) -> None:
        self.adopt(names)

    @rule(pick=st.integers(0, 7), kinds=st.lists(st.integers(0, len(CALLS) - 1), max_size=6))
    def calls_end(self, pick: int, kinds: list[int]) -> None:
        name = sorted(self.states)[pick % len(self.states)]
        now = self.model.now / TICKS
        for kind in kinds:
            if self.detector.observe(self.states[name], CALLS[kind][0], now, now):
                self.detector.process(now)
            self.model.call(name, kind)

    @rule(ticks=st.integers(1, 900))
    def time_passes(self, ticks: int) -> None:
        self.model.now += ticks
        if self.model.now >= self.model.sweep_at:
            self.model.sweep()
        self.detector.process(self.model.now / TICKS)

    @rule()
    def the_next_sweep_comes(self) -> None:
        self.model.now = self.model.sweep_at
        self.model.sweep()
        self.detector.process(self.model.now / TICKS)

    @precondition(lambda self: any(state.flags for state in self.states.values()))
    @rule(pick=st.integers(0, 7))
    def a_health_check_passes(self, pick: int) -> None:
        ejected = [name for name, state in self.states.items() if state.flags]
        name = ejected[pick % len(ejected)]
        assert self.detector.on_health_check_passed(self.states[name], self.model.now / TICKS)
        self.model.uneject(self.model.hosts[name])

    @invariant()
    def both_agree(self) -> None:
        if not hasattr(self, "model"):
            return
        stats = self.detector.stats
        detected = [n for n in stats if n.startswith("ejections_detected")]
        assert {
            "active": stats["ejections_active"],
            "enforced": stats["ejections_enforced_total"],
            "overflow": stats["ejections_overflow"],
            "detected": sum(stats[name] for name in detected),
        } == self.model.stats
        for name, state in self.states.items():
            host = self.model.hosts[name]
            told = self.detector.describe(state, self.model.now / TICKS)
            assert bool(state.flags & FAILED_OUTLIER_CHECK) == (host.ejected_at is not None)
            assert told["multiplier"] == host.multiplier
            assert told["consecutive_5xx"] == host.rows["5xx"]
            assert told["consecutive_gateway_failure"] == host.rows["gateway"]
            assert told["consecutive_local_origin_failure"] == host.rows["local"]
        # Sooner only while the event of a passed check waits to be told.
        assert self.detector.next_due <= self.model.sweep_at / TICKS + 1e-6


OutlierMachine.TestCase.settings = hypothesis_settings(
    max_examples=150, stateful_step_count=40, deadline=None
)
test_the_detector_does_what_the_model_does = OutlierMachine.TestCase
