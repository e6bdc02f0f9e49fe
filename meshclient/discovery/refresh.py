"""When a name is asked again. A pure policy: randomness is given, no clock.

Sources: Envoy ``dns_cluster.cc`` (respect_dns_ttl, dns_min_refresh_rate, dns_jitter)
and ``backoff_strategy.cc`` for the failures; RFC 2308 for denials.
"""

from __future__ import annotations

from collections.abc import Callable

from meshclient.discovery.dns_settings import DnsSettings


class RefreshTimer:
    """Delays of one name, in seconds. ``rand`` gives floats in [0, 1)."""

    __slots__ = ("_failures", "_rand", "_settings")

    def __init__(self, settings: DnsSettings, rand: Callable[[], float]) -> None:
        self._settings = settings
        self._rand = rand
        self._failures = 0

    def next_s(self, *, found: bool, failed: bool, ttl_s: float) -> float:
        """The delay after a look-up.

        ``found``: there are records, with ``ttl_s``; ``failed``: some part of
        the look-up failed. With both (one family answered) the earlier of the
        two delays counts; with neither, the name was denied.
        """
        s = self._settings
        if not failed:
            self._failures = 0
        if failed and not found:
            return self._after_failure()
        cap_s = s.max_refresh_s if found else s.max_negative_s
        wait_s = min(max(ttl_s, s.min_refresh_s), cap_s) * (1 + s.jitter * self._rand())
        return min(wait_s, self._after_failure()) if failed else wait_s

    def _after_failure(self) -> float:
        """Half of the doubled step for sure, the other half at random.

        Envoy draws from the whole step; a floor keeps a dead server from being
        asked in a tight loop by an unlucky draw.
        """
        s = self._settings
        # The exponent is bounded: a name may fail for months.
        step_s = min(s.failure_base_s * 2.0 ** min(self._failures, 32), s.failure_max_s)
        self._failures += 1
        return step_s * (0.5 + 0.5 * self._rand())
