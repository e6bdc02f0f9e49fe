"""PEAK_EWMA: of two endpoints drawn at random, the one that will be free first.

Linkerd's measure: cost = estimated latency x (requests in flight + 1). Knows latencies
and counts only: no weights (Linkerd's balancer has none, either), no health, no clock.
Source: linkerd2-proxy ``linkerd/ewma`` (``add_peak``, ``get_at``), ``linkerd/pool/p2c``,
``linkerd/proxy/balance``; Finagle ``PeakEwma.scala``, where the idea comes from.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from math import exp, log

from meshclient.balancing.base import Balancer, PickRequest, Rand
from meshclient.balancing.eligible import Eligibility
from meshclient.balancing.state import EndpointState
from meshclient.model.load_balancing import PeakEwma as Settings
from meshclient.model.outcome import Outcome, ResetReason

#: Linkerd's floors: a smaller default would make a new endpoint look free.
MIN_DEFAULT_RTT_S = 0.001
MIN_DECAY_S = 0.001

#: A sample is at least this long, so that its logarithm exists.
_MIN_SAMPLE_S = 1e-9

#: Ends that say nothing of the endpoint: it was never asked.
_NOT_ASKED = frozenset({ResetReason.OVERFLOW, ResetReason.LOCAL_CONNECTION_FAILURE})

#: log(requests in flight + 1), looked up instead of computed for the usual counts.
_LOGS = tuple(log(count + 1) for count in range(256))


class Estimate:
    """The latency to expect of one endpoint.

    A sample above the estimate replaces it at once; one below it pulls it down by
    the share 1 - exp(-elapsed / decay). Without samples it falls as
    exp(-elapsed / decay), so that a slow endpoint is tried again.

    Kept as ``level`` = ln(estimate) + time / decay. Falling with time leaves a level
    as it is, so two endpoints compare at any moment without a clock or an
    exponential, and reading changes nothing. Thread-safe: ``level`` is read without a
    lock, samples take one.
    """

    __slots__ = ("_at", "_decay_s", "_lock", "level")

    def __init__(self, settings: Settings, now: float) -> None:
        self._decay_s = max(settings.decay_s, MIN_DECAY_S)
        self._lock = threading.Lock()
        self._at = now
        default_s = max(settings.default_rtt_s, MIN_DEFAULT_RTT_S)
        self.level = log(default_s) + now / self._decay_s

    def at(self, now: float) -> float:
        """The estimate in seconds at the moment ``now`` (not before the last sample)."""
        return exp(self.level - max(now, self._at) / self._decay_s)

    def add(self, sample_s: float, now: float) -> None:
        """A latency measured at ``now``. One that is no peak and older than the last
        sample is dropped."""
        sample_s = max(sample_s, _MIN_SAMPLE_S)
        scaled_now = now / self._decay_s
        with self._lock:
            # No sample below 1e-308 s is left after this many decays; exp must not overflow.
            fallen = exp(min(self.level - scaled_now, 700.0))
            if fallen < sample_s:
                value = sample_s
            elif now > self._at:
                value = fallen + sample_s * (1.0 - exp((self._at - now) / self._decay_s))
            else:
                return
            self.level = log(value) + scaled_now
            self._at = now

    def __repr__(self) -> str:
        return f"<Estimate {self.at(self._at) * 1000:.3f} ms at {self._at:.3f}>"


class PeakEwma(Balancer):
    """Two distinct draws; the one of less cost wins, the first one if they cost the same.

    An endpoint that was never measured counts with ``default_rtt_s`` (Linkerd: 30 ms),
    which falls like any estimate; there is no extra penalty for its first requests in
    flight, as Finagle has. A try is measured from when it is picked until its
    response head, or until it failed. In flight is what the caller counts: until the
    response is closed (Linkerd: until its first data). No lock, O(1).
    """

    __slots__ = ("_settings",)
    policy = "peak_ewma"

    def __init__(
        self,
        eligibility: Eligibility,
        turns: Iterator[int],
        settings: Settings,
        now: float = 0.0,
    ) -> None:
        super().__init__(eligibility, turns)
        self._settings = settings
        for state in eligibility.all_states:
            if type(state.load) is not Estimate:
                state.load = Estimate(settings, now)

    def pick(
        self,
        rand: Rand,
        now: float = 0.0,  # noqa: ARG002
        request: PickRequest | None = None,  # noqa: ARG002
    ) -> EndpointState | None:
        states = self._states
        others = len(states) - 1
        if others < 1:
            return states[0] if states else None
        draw = rand()
        index = draw % (others + 1)
        # The upper half of the draw is independent enough of its remainder.
        further = (draw >> 32) % others
        one = states[index]
        two = states[further + 1 if further >= index else further]
        try:
            cost_one = one.load.level + _LOGS[len(one.in_flight)]
            cost_two = two.load.level + _LOGS[len(two.in_flight)]
        except IndexError:
            cost_one = one.load.level + log(len(one.in_flight) + 1)
            cost_two = two.load.level + log(len(two.in_flight) + 1)
        return one if cost_one <= cost_two else two

    def on_outcome(
        self, state: EndpointState, outcome: Outcome, started: float, now: float
    ) -> None:
        """Measure a try at its response head or reset. Any thread."""
        if outcome.reset in _NOT_ASKED:
            return
        # The leaf of one part speaks for those of all, also for endpoints that are alone.
        if type(state.load) is not Estimate:
            state.load = Estimate(self._settings, started)
        state.load.add(now - started, now)


__all__ = ["MIN_DECAY_S", "MIN_DEFAULT_RTT_S", "Estimate", "PeakEwma"]
