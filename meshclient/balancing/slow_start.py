"""Slow start: a new endpoint's weight grows to its full value over a window.

A factor on weights; who is scheduled by them is not known here.
Source: Envoy ``load_balancer_impl.cc`` ``applySlowStartFactor``,
``recalculateHostsInSlowStart``, ``noHostsAreInSlowStart``.
"""

from __future__ import annotations

from collections.abc import Iterable

from meshclient.balancing.host_set import is_healthy
from meshclient.balancing.state import EndpointState
from meshclient.model.load_balancing import LoadBalancing

#: Policies with a slow start; the others ignore the settings, as Envoy has none for them.
POLICIES = frozenset({"round_robin", "least_request", "client_side_weighted_round_robin"})


class SlowStart:
    """factor = max(minimum, (max(1 ms, age) / window) ** (1 / aggression)), 1 after the window.

    The age counts from ``EndpointState.since``, in whole milliseconds; only healthy
    endpoints are held back. ``now`` (monotonic seconds) is set by the policy right
    before the schedule weighs: two threads may overwrite each other's, by
    less than either would notice.
    """

    __slots__ = ("_exponent", "_minimum", "_window_ms", "now", "settings", "until")

    def __init__(self, settings: LoadBalancing, now: float, until: float) -> None:
        self.settings = settings
        self.now = now
        #: When nobody is held back any more (monotonic seconds).
        self.until = until
        self._window_ms = int(settings.slow_start_s * 1000)
        self._minimum = settings.slow_start_minimum_percent / 100
        aggression = settings.slow_start_aggression
        self._exponent = 1 / aggression if aggression > 0 else 1.0

    def factor(self, state: EndpointState, now: float | None = None) -> float:
        """What the weight is multiplied with at ``now`` (None: when it last was set)."""
        # The small part of a millisecond keeps 0.3 - 0.2 a full tenth.
        age_ms = int(((self.now if now is None else now) - state.since) * 1000 + 1e-6)
        if age_ms >= self._window_ms or not is_healthy(state):
            return 1.0
        share: float = (max(1, age_ms) / self._window_ms) ** self._exponent
        return max(share, self._minimum)


def has_slow_start(settings: LoadBalancing) -> bool:
    """Whether the policy holds new endpoints back at all."""
    return settings.slow_start_s >= 0.001 and settings.policy in POLICIES


def slow_start_of(
    settings: LoadBalancing, states: Iterable[EndpointState], now: float
) -> SlowStart | None:
    """The slow start of a cluster with these endpoints; None: nobody is in its window."""
    if not has_slow_start(settings):
        return None
    latest = max((s.since for s in states if is_healthy(s)), default=None)
    if latest is None:
        return None
    # Envoy counts whole milliseconds, and the last one belongs to the window.
    until = latest + settings.slow_start_s + 0.001
    return SlowStart(settings, now, until) if now < until else None


def note_first_health(
    settings: LoadBalancing,
    states: Iterable[EndpointState],
    known: frozenset[EndpointState],
    waiting: frozenset[EndpointState],
    now: float,
) -> frozenset[EndpointState] | None:
    """The endpoints that were never healthy yet; None without slow start.

    Those of ``waiting`` that are now begin their window at ``now``. ``known``: the
    endpoints of the version before. Control thread only.
    """
    if not has_slow_start(settings):
        return None
    still = set()
    for state in states:
        if not is_healthy(state):
            if state in waiting or state not in known:
                still.add(state)
        elif state in waiting:
            state.since = now
    return frozenset(still)


__all__ = ["POLICIES", "SlowStart", "has_slow_start", "note_first_health", "slow_start_of"]
