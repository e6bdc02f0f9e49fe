"""Success rate and failure percentage: which endpoints of a cluster stand out.

Pure arithmetic over one finished interval. Ejects nobody and counts nothing.
Source: Envoy ``DetectorImpl::processSuccessRateEjections``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

from meshclient.model.health import OutlierDetection

#: What Envoy prints where there is no number.
NONE = -1.0

T = TypeVar("T")


class Sample(NamedTuple, Generic[T]):
    """What one endpoint did in an interval; ``total`` above 0."""

    who: T
    good: int
    total: int

    @property
    def rate(self) -> float:
        """Successes in percent."""
        return self.good * 100.0 / self.total


class Findings(NamedTuple, Generic[T]):
    """``average`` and ``threshold`` are -1 when too few endpoints had enough calls.

    ``shown``: enough calls to print a rate of. ``outliers``: below the threshold.
    ``failing``: too many failures, whatever the others do.
    """

    average: float
    threshold: float
    shown: list[Sample[T]]
    outliers: list[Sample[T]]
    failing: list[Sample[T]]


def success_rate_threshold(rates: Sequence[float], factor: float) -> tuple[float, float]:
    """Mean, and mean less ``factor`` population standard deviations.

    >>> success_rate_threshold([50.0, 100.0, 100.0, 100.0, 100.0], 1.9)
    (90.0, 52.0)
    """
    mean = sum(rates) / len(rates)
    variance = sum((rate - mean) ** 2 for rate in rates) / len(rates)
    return mean, mean - factor * math.sqrt(variance)


def judge(samples: Iterable[Sample[T]], endpoints: int, settings: OutlierDetection) -> Findings[T]:
    """Who stands out among ``samples``: endpoints that are not ejected and had a call.

    ``endpoints`` is the size of the whole cluster: when it is below both minimums,
    not even rates are shown.
    """
    least_rate_hosts = settings.success_rate_minimum_hosts
    least_failing_hosts = settings.failure_percentage_minimum_hosts
    if endpoints < least_rate_hosts and endpoints < least_failing_hosts:
        return Findings(NONE, NONE, [], [], [])
    rate_volume = settings.success_rate_request_volume
    failing_volume = settings.failure_percentage_request_volume
    least_volume = min(rate_volume, failing_volume)
    shown = [sample for sample in samples if sample.total >= least_volume]
    rated = [sample for sample in shown if sample.total >= rate_volume]
    average = threshold = NONE
    outliers: list[Sample[T]] = []
    if rated and len(rated) >= least_rate_hosts:
        average, threshold = success_rate_threshold(
            [sample.rate for sample in rated], settings.success_rate_stdev_factor / 1000.0
        )
        outliers = [sample for sample in rated if sample.rate < threshold]
    counted = [sample for sample in shown if sample.total >= failing_volume]
    failing: list[Sample[T]] = []
    if counted and len(counted) >= least_failing_hosts:
        most = settings.failure_percentage_threshold
        failing = [sample for sample in counted if 100.0 - sample.rate >= most]
    return Findings(average, threshold, shown, outliers, failing)
