"""What a circuit breaker knows, and how it goes from one state to another.

Every method needs the breaker's lock. Who calls them is
:mod:`meshclient.resilience.breaker`. No clock: ``now`` is monotonic seconds.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

from meshclient.model.breaker import BreakerScope, CircuitBreaker
from meshclient.model.events import BreakerClosed, BreakerHalfOpen, BreakerOpened, Event
from meshclient.model.outcome import Outcome
from meshclient.resilience import breaker_state as words
from meshclient.resilience.breaker_state import CLOSED, HALF_OPEN, OPEN, Change, Figures, State
from meshclient.resilience.breaker_window import Window, make_window

REFUSED = -1
#: No generation is this one.
NEVER = -2


class BreakerCore:
    """State, counts and transitions of one breaker. ``tell`` takes events and never blocks.

    ``heard``: somebody wants to be told of each call, and no success may be passed over.
    """

    __slots__ = (
        "_calm",
        "_failures",
        "_figures",
        "_isolated",
        "_lock",
        "_named",
        "_pass",
        "_plain",
        "_probes",
        "_reopened",
        "_since",
        "_state",
        "_successes",
        "_tell",
        "_tick",
        "_tick_at",
        "_until",
        "_why",
        "_window",
        "generation",
        "opened",
        "scope",
        "settings",
        "unsynced",
        "unsynced_reset",
    )

    def __init__(
        self,
        settings: CircuitBreaker,
        scope: BreakerScope,
        tell: Callable[[Event], object],
        plain: bool,
    ) -> None:
        self.settings = settings
        self.scope = scope
        self._tell = tell
        self._plain = plain
        self._lock = threading.Lock()
        self._named: dict[str, Any] = {}
        self.stands_at(settings)
        self.generation = 0
        self.opened = 0
        self._reopened = 0
        self._isolated = False
        self._why = ""
        #: None: at the next look at the clock.
        self._since: float | None = None
        self._until = 0.0
        self._state: State = CLOSED
        #: The generation while closed, else -1; the same while nothing but quick successes
        #: is to be counted, else -2.
        self._pass = self._calm = NEVER
        self._failures = self._probes = self._successes = 0
        self._figures = Figures()
        self._window: Window | None = None
        self._tick: Callable[[], int] | None = None
        self._tick_at = math.inf
        #: What a shared storage has to learn: failures, and whether a success reset them.
        self.unsynced = 0
        self.unsynced_reset = False
        self._enter_locked(CLOSED)

    @property
    def heard(self) -> bool:
        """Nobody, here."""
        return False

    def stands_at(self, settings: CircuitBreaker) -> None:
        """Equal settings, perhaps in another place of the documents."""
        source, scope = settings.source, self.scope
        self.settings = settings
        self._named = {
            "scope": str(scope),
            "service": scope.service,
            "cluster": scope.cluster,
            "endpoint": scope.endpoint,
            "route": scope.route,
            "document": source.short if source.file or source.document else "",
        }

    def _enter_locked(self, state: State) -> None:
        """Another state, or another round of probes: what was admitted before is stale."""
        self._state = state
        self.generation += 1
        self._pass = self.generation if state == CLOSED else REFUSED
        self._failures = self._probes = self._successes = 0
        self._figures = Figures()
        self.unsynced, self.unsynced_reset = 0, False
        self._window = make_window(self.settings) if state == CLOSED else None
        self._tick = None if self._window is None else self._window.tick
        self._tick_at = math.inf if self._window is None else self._window.tick_at
        self._settle_calm_locked()

    def _settle_calm_locked(self) -> None:
        """Whether a quick success needs no second look: nothing to reset, nobody to tell."""
        quiet = self._state == CLOSED and not self._failures and not self.heard
        self._calm = self.generation if quiet and self._plain else NEVER

    def _count_locked(
        self, failed: bool, slow: bool, outcome: Outcome, now: float
    ) -> Change | None:
        """A try of the closed state ended."""
        if failed:
            self._failures += 1
            self.unsynced += 1
        elif self._failures:
            self._failures = self.unsynced = 0
            self.unsynced_reset = True
        if self._window is not None:
            self._figures = self._window.add_locked(failed, slow, now)
            self._tick_at = self._window.tick_at
        self._settle_calm_locked()
        reason = self._reason_locked(failed, slow)
        return self._open_locked(reason, now, outcome.error) if reason else None

    def _reason_locked(self, failed: bool, slow: bool) -> str:
        settings, figures = self.settings, self._figures
        most = settings.consecutive_failures
        if failed and most is not None and self._failures >= most:
            return words.CONSECUTIVE
        if figures.calls < settings.minimum_calls:
            return ""
        rate = settings.failure_rate_percent
        if failed and rate is not None and figures.failed_percent >= rate:
            return words.FAILURE_RATE
        rate = settings.slow_rate_percent
        if slow and rate is not None and figures.slow_percent >= rate:
            return words.SLOW_RATE
        return ""

    def _judge_probe_locked(self, failed: bool, outcome: Outcome, now: float) -> Change | None:
        self._probes = max(0, self._probes - 1)
        if failed:
            self._reopened += 1
            return self._open_locked(words.PROBE_FAILED, now, outcome.error)
        self._successes += 1
        if self._successes < self.settings.half_open_successes:
            return None
        return self._close_locked(words.PROBES_PASSED, now)

    def _open_locked(
        self,
        reason: str,
        now: float | None,
        error: BaseException | None = None,
        for_s: float | None = None,
    ) -> Change:
        old, failures, figures = self._state, self._failures, self._figures
        self._enter_locked(OPEN)
        self.opened += 1
        self._why = reason
        for_s = self.open_for_s if for_s is None else for_s
        self._since, self._until = now, for_s + (now or 0.0)
        self._tell(
            BreakerOpened(
                **self._named,
                reason=reason,
                for_s=math.inf if self._isolated else for_s,
                failures_in_a_row=failures,
                calls=figures.calls,
                failed_percent=figures.failed_percent,
                slow_percent=figures.slow_percent,
                cause=type(error).__name__ if error is not None else "",
            )
        )
        return Change(old, OPEN, reason, error)

    def _close_locked(self, reason: str, now: float | None) -> Change:
        old, since = self._state, self._since
        self._isolated = False
        self._reopened = 0
        self._enter_locked(CLOSED)
        self._tell(
            BreakerClosed(
                **self._named,
                reason=reason,
                after_s=now - since if now is not None and since is not None else 0.0,
                successes=self.settings.half_open_successes if reason == words.PROBES_PASSED else 0,
            )
        )
        return Change(old, CLOSED, reason)

    def _half_open_locked(self, now: float) -> Change:
        was_open_s = now - (self._since or 0.0)
        self._enter_locked(HALF_OPEN)
        self._begin_probing_locked(now)
        self._tell(
            BreakerHalfOpen(
                **self._named,
                open_s=was_open_s,
                probes=self.settings.half_open_requests,
                successes_needed=self.settings.half_open_successes,
            )
        )
        return Change(OPEN, HALF_OPEN, "")

    def _begin_probing_locked(self, now: float) -> None:
        self._since, self._until = now, now + self.open_for_s

    def _anchor_locked(self, now: float) -> None:
        """Times count from the first look at the clock, and anew when it has stepped back."""
        if self._since is None:
            self._until += now
            self._since = now
        elif now < self._since:
            self._until -= self._since - now
            self._since = now

    @property
    def open_for_s(self) -> float:
        """How long it stays open now: the settings' time with its back-off, in seconds."""
        settings = self.settings
        most_s = max(settings.open_for_s, settings.max_open_for_s)
        # The exponent is bounded, else the power overflows before min() sees it.
        factor = settings.multiplier ** min(self._reopened, 100)
        return min(most_s, settings.open_for_s * factor)


__all__ = ["NEVER", "REFUSED", "BreakerCore"]
