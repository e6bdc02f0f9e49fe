"""Settings of adaptive concurrency and admission control, in Envoy's terms.

Values only. The formulas are in :mod:`meshclient.resilience`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from meshclient.model.source import UNKNOWN_SOURCE, Source

#: gRPC codes that do not speak against the server. Source: Envoy
#: ``filters/http/admission_control/evaluators/success_criteria_evaluator.cc``.
GRPC_SUCCESS = frozenset({0, 1, 2, 3, 5, 6, 7, 9, 11, 12, 16})


@dataclass(frozen=True, slots=True)
class AdaptiveConcurrency:
    """How many calls of one scope may be in flight, learnt from how long they take.

    ``percentile`` (0 to 100) of the latencies of each ``update_interval_s`` is compared with
    the least latency, which ``min_rtt_requests`` calls measure every ``min_rtt_interval_s``
    (plus up to ``jitter_percent``) while only ``min_concurrency`` are let in; or which is
    ``fixed_min_rtt_s``. ``buffer_percent`` of it is noise.
    """

    scope: str
    update_interval_s: float = 0.1
    min_rtt_interval_s: float = 60.0
    fixed_min_rtt_s: float | None = None
    min_rtt_requests: int = 50
    jitter_percent: float = 15.0
    min_concurrency: int = 3
    max_concurrency: int = 1000
    buffer_percent: float = 25.0
    percentile: float = 50.0
    status: int = 503
    source: Source = field(default=UNKNOWN_SOURCE, compare=False)


@dataclass(frozen=True, slots=True)
class AdmissionControl:
    """The share of the calls of one scope that is refused while too many fail.

    Nothing is refused while ``sampling_window_s`` (whole seconds) saw fewer than
    ``rps_threshold`` calls a second, or its share of successes is at least
    ``success_threshold_percent``. ``http_success`` are ranges ``[first, end)``.
    """

    scope: str
    sampling_window_s: float = 30.0
    aggression: float = 1.0
    success_threshold_percent: float = 95.0
    rps_threshold: int = 0
    max_rejection_percent: float = 80.0
    http_success: tuple[tuple[int, int], ...] = ((100, 500),)
    grpc_success: frozenset[int] = GRPC_SUCCESS
    source: Source = field(default=UNKNOWN_SOURCE, compare=False)


__all__ = ["GRPC_SUCCESS", "AdaptiveConcurrency", "AdmissionControl"]
