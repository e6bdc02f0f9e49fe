"""Full-jitter exponential back-off: how long before the next try.

Source: Envoy ``source/common/common/backoff_strategy.cc``
(``JitteredExponentialBackOffStrategy``).
"""

from __future__ import annotations

from collections.abc import Callable

from meshclient.model.retry import BackOff


class ExponentialBackOff:
    """One call's sequence: r mod cap milliseconds, r random.

    The cap starts at ``base_s`` (25 ms by default) and doubles while it is
    below half of ``max_s`` (250 ms), then stays at ``max_s``: 25, 50, 100,
    200, 250, 250... Times below 1 ms count as 1 ms, a ``max_s`` below the base
    as the base. Belongs to one call; not thread-safe.
    """

    __slots__ = ("_cap_ms", "_max_ms")

    def __init__(self, settings: BackOff) -> None:
        self._cap_ms = _milliseconds(settings.base_s)
        self._max_ms = max(self._cap_ms, _milliseconds(settings.max_s))

    @property
    def cap_s(self) -> float:
        """The next wait is shorter than this."""
        return self._cap_ms / 1000

    def next_s(self, rand: Callable[[], int]) -> float:
        """Seconds to wait now; whole milliseconds. Draws one number."""
        cap_ms = self._cap_ms
        self._cap_ms = cap_ms * 2 if cap_ms < self._max_ms // 2 else self._max_ms
        return (rand() % cap_ms) / 1000


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
