"""For how long an endpoint is set aside: a time that grows each time, and shrinks again.

One spell for ejections, another for degradations. Pure; control thread only.
Source: Envoy ``DetectorImpl::ejectHost``, ``checkHostForUneject``, ``onIntervalTimer``.
"""

from __future__ import annotations

from collections.abc import Callable

from meshclient.model.health import OutlierDetection

#: Sums of times are not exact: what is due at a sweep must not wait for the next one.
_SLACK_S = 1e-6


class Spell:
    """When it began and ended, and the multiplier of the next one."""

    __slots__ = ("began", "count", "ended", "jitter_s", "multiplier", "settings")

    def __init__(self, settings: OutlierDetection) -> None:
        self.settings = settings
        self.began: float | None = None
        self.ended: float | None = None
        self.count = 0
        self.multiplier = 0
        self.jitter_s = 0.0

    def begin(self, now: float, rand: Callable[[], int]) -> float:
        """It is set aside from ``now`` on; how long, in seconds."""
        settings = self.settings
        self.began, self.count = now, self.count + 1
        jitter_ms = round(settings.max_ejection_time_jitter_s * 1000)
        self.jitter_s = rand() % (jitter_ms + 1) / 1000 if jitter_ms else 0.0
        base_s = settings.base_ejection_time_s
        if self.multiplier * base_s < self._cap_s() + base_s:
            self.multiplier += 1
        return self.length_s()

    def length_s(self) -> float:
        """Base time times multiplier, at most the cap, and the jitter on top."""
        grown_s = self.settings.base_ejection_time_s * self.multiplier
        return min(grown_s, self._cap_s()) + self.jitter_s

    def is_over(self, now: float) -> bool:
        """Asked at sweeps only, so that it ends up to an interval late."""
        assert self.began is not None
        return now - self.began >= self.length_s() - _SLACK_S

    def left_s(self, now: float) -> float:
        """Seconds before it may end; 0 when the next sweep will end it."""
        return 0.0 if self.began is None else max(0.0, self.began + self.length_s() - now)

    def end(self, now: float) -> float:
        """It is in use again; how long it was not."""
        assert self.began is not None
        self.ended = now
        return now - self.began

    def decay(self, now: float) -> None:
        """At a sweep while in use: one interval of good conduct takes one step back."""
        if self.ended is None or not self.multiplier:
            return
        if now - self.ended >= self.settings.interval_s - _SLACK_S:
            self.multiplier -= 1

    def _cap_s(self) -> float:
        return max(self.settings.max_ejection_time_s, self.settings.base_ejection_time_s)
