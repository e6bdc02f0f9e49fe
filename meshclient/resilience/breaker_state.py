"""The words and values of circuit breakers: states, reasons, one change of state.

No behaviour; the transitions are in :mod:`meshclient.resilience.breaker`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

State = Literal["closed", "open", "half_open"]

CLOSED: Literal["closed"] = "closed"
OPEN: Literal["open"] = "open"
HALF_OPEN: Literal["half_open"] = "half_open"

#: Why a breaker opened, in the words of events.
CONSECUTIVE = "consecutive_failures"
FAILURE_RATE = "failure_rate"
SLOW_RATE = "slow_call_rate"
PROBE_FAILED = "probe_failed"
MANUAL = "manual"
ISOLATED = "isolated"
#: Another process opened it, or the caller's own pybreaker object was opened.
ELSEWHERE = "elsewhere"

#: Why a breaker closed.
PROBES_PASSED = "probes_passed"


class Figures(NamedTuple):
    """The numbers of a window. Percentages are of ``calls``."""

    calls: int = 0
    failed: int = 0
    slow: int = 0

    @property
    def failed_percent(self) -> float:
        """0 without calls."""
        return 100.0 * self.failed / self.calls if self.calls else 0.0

    @property
    def slow_percent(self) -> float:
        """0 without calls."""
        return 100.0 * self.slow / self.calls if self.calls else 0.0


class Change(NamedTuple):
    """One transition. ``error``: what the deciding call met, where there was a call."""

    old: State
    new: State
    reason: str
    error: BaseException | None = None


__all__ = [
    "CLOSED",
    "CONSECUTIVE",
    "ELSEWHERE",
    "FAILURE_RATE",
    "HALF_OPEN",
    "ISOLATED",
    "MANUAL",
    "OPEN",
    "PROBES_PASSED",
    "PROBE_FAILED",
    "SLOW_RATE",
    "Change",
    "Figures",
    "State",
]
