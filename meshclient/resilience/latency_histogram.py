"""A histogram of latencies with two significant digits, and its percentiles.

Insertion takes constant time; memory is bounded by the range of the values (90 bins per
power of ten). Source: Circonus ``libcircllhist`` (log-linear histograms), which Envoy uses.
"""

from __future__ import annotations

from math import floor, log10


class LatencyHistogram:
    """Counts of non-negative numbers. Not thread-safe."""

    __slots__ = ("_bins", "count")

    def __init__(self) -> None:
        #: (exponent, two digits) -> count
        self._bins: dict[tuple[int, int], int] = {}
        self.count = 0

    def insert(self, value: float) -> None:
        """One value."""
        key = _bin_of(value)
        self._bins[key] = self._bins.get(key, 0) + 1
        self.count += 1

    def clear(self) -> None:
        """Forget everything."""
        self._bins.clear()
        self.count = 0

    def quantile(self, q: float) -> float:
        """The value below which the share ``q`` (0 to 1) lies, interpolated within its bin.
        Raises ValueError when it is empty."""
        if not self.count:
            raise ValueError("the histogram is empty")
        target = self.count * q
        upper = 0
        left = width = 0.0
        bins = sorted(self._bins)
        for place, key in enumerate(bins):
            lower, upper = upper, upper + self._bins[key]
            left, width = _edges(key)
            if upper >= target or place == len(bins) - 1:
                return left + (target - lower) / (upper - lower) * width
        raise AssertionError("unreachable: the last bin ends the loop")


def _bin_of(value: float) -> tuple[int, int]:
    if value <= 0.0:
        return (-(2**31), 0)
    exponent = floor(log10(value))
    digits = int(value / 10.0**exponent * 10.0)
    if digits > 99:  # log10 rounded down
        return exponent + 1, 10
    if digits < 10:  # log10 rounded up
        return exponent - 1, 99
    return exponent, digits


def _edges(key: tuple[int, int]) -> tuple[float, float]:
    exponent, digits = key
    if not digits:
        return 0.0, 0.0
    width = 10.0 ** (exponent - 1)
    return digits * width, width


__all__ = ["LatencyHistogram"]
