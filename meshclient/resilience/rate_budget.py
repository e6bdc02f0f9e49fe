"""The Gateway API's retry budget: retries as a share of the requests of an interval.

Counts what begins; how it ends does not matter here. Source: Gateway API, GEP-3388 and
``xbackendtrafficpolicy_types.go`` (1,000 requests in the interval at 20 percent: 200 of them
may be retries).
"""

from __future__ import annotations

from meshclient.model.cluster import Limits
from meshclient.model.retry import RateBudget
from meshclient.resilience.budget import RequestWindow, RetryLimiter


class RateBudgetLimiter(RetryLimiter):
    """The retries of one service under a :class:`RateBudget`. Thread-safe, O(1).

    A retry is one of the requests that the share is taken of. ``min_count`` retries per
    ``min_interval_s`` pass although the share is used up, and count in it all the same.
    """

    __slots__ = ("_requests", "_retries", "_retries_lately", "budget")

    def __init__(self, budget: RateBudget) -> None:
        super().__init__(Limits())
        self.budget = budget
        self._requests = RequestWindow(budget.interval_s)
        self._retries = RequestWindow(budget.interval_s)
        self._retries_lately = RequestWindow(budget.min_interval_s)
        self.counts_requests = True

    def on_request(self, now: float) -> None:
        with self._lock:
            self._requests.add(now)

    def try_acquire(self, active_requests: int, now: float) -> bool:  # noqa: ARG002
        with self._lock:
            if not self._allowed_locked(now):
                return False
            self._retries.add(now)
            self._retries_lately.add(now)
            self._active += 1
            return True

    def is_spent(self, active_requests: int) -> bool:  # noqa: ARG002
        with self._lock:
            return not self._has_one_locked()

    def _allowed_locked(self, now: float) -> bool:
        for window in (self._retries_lately, self._requests, self._retries):
            window.advance(now)
        return self._has_one_locked()

    def _has_one_locked(self) -> bool:
        if self._retries_lately.total < self.budget.min_count:
            return True
        retries = self._retries.total + 1
        return retries * 100 <= self.budget.percent * (self._requests.total + retries)

    def limit(self, active_requests: int, now: float) -> int:  # noqa: ARG002
        """Retries of the interval that the share allows, the least rate not counted."""
        with self._lock:
            self._requests.advance(now)
            self._retries.advance(now)
            return int(self.budget.percent * (self._requests.total + self._retries.total) / 100)

    def refusal(self, active_requests: int, now: float) -> str:  # noqa: ARG002
        budget = self.budget
        with self._lock:
            retries, requests = self._retries.total, self._requests.total
        return (
            f"the retry budget is spent: {retries} retries beside {requests} requests in "
            f"{budget.interval_s:g} s ({budget.percent:g} %, and {budget.min_count} "
            f"in {budget.min_interval_s:g} s besides)"
        )

    def __repr__(self) -> str:
        return f"<RateBudgetLimiter active={self._active} {self.budget}>"


__all__ = ["RateBudgetLimiter"]
