"""How many retries a cluster may have at once: a plain number, or a budget.

Limits the retries of all calls together; how often one call is retried is its
policy's business. Source: Envoy ``resource_manager_impl.h``.
"""

from __future__ import annotations

import threading

from meshclient.model.cluster import Limits
from meshclient.model.retry import RetryBudget

_SLOTS = 10


class RequestWindow:
    """Requests started during the last ``interval_s`` seconds, in 10 slots.

    The count covers the running slot and the nine before it. Time that goes
    backwards counts as standing still. Not thread-safe: the owner locks.
    """

    __slots__ = ("_counts", "_slot", "_slot_s", "total")

    def __init__(self, interval_s: float) -> None:
        self._slot_s = interval_s / _SLOTS
        self._counts = [0] * _SLOTS
        self._slot = 0
        self.total = 0

    def advance(self, now: float) -> None:
        """Forget what has left the window by ``now``; at most 10 steps."""
        slot = int(now / self._slot_s)
        for passed in range(self._slot + 1, min(slot, self._slot + _SLOTS) + 1):
            index = passed % _SLOTS
            self.total -= self._counts[index]
            self._counts[index] = 0
        self._slot = max(slot, self._slot)

    def add(self, now: float) -> None:
        """One request starts."""
        self.advance(now)
        self._counts[self._slot % _SLOTS] += 1
        self.total += 1


class RetryLimiter:
    """The retry permits of one cluster. Thread-safe: one small lock, and only
    failing calls come here (with a windowed budget, every call).

    Without a budget at most ``max_retries`` retries are under way. With one,
    as many as max(``min_concurrency``, floor(``percent`` of the requests)),
    where the requests are those in flight, or with ``interval_s`` those
    started in that sliding window. ``min_per_second`` is a reserve on top: that
    many retries per second (burst: one second's worth, at least one) are
    allowed although the rest refuses.

    A permit is held from the decision to retry through the back-off and the
    repeated try until its response head arrives, the next decision, or the end
    of the call, whichever is first. :class:`RetryState` takes it and gives it
    back; nobody else needs to.
    """

    __slots__ = (
        "_active",
        "_budget",
        "_lock",
        "_max_retries",
        "_refilled",
        "_reserve",
        "_window",
        "counts_answers",
        "counts_requests",
        "spares_unsent",
    )

    def __init__(self, limits: Limits) -> None:
        budget = limits.retry_budget
        if budget is not None and not isinstance(budget, RetryBudget):
            raise TypeError(f"{budget} has a limiter of its own")
        self._budget: RetryBudget | None = budget
        self._max_retries = limits.max_retries
        self._lock = threading.Lock()
        self._active = 0
        windowed = budget is not None and budget.interval_s > 0
        self._window = RequestWindow(budget.interval_s) if budget and windowed else None
        #: False: :meth:`on_request` need not be called.
        self.counts_requests = windowed
        #: False: :meth:`on_answer` need not be called.
        self.counts_answers = False
        #: True: a retry of a try of which nothing was sent needs no permit.
        self.spares_unsent = False
        self._reserve = self._burst(budget)
        self._refilled: float | None = None

    @property
    def active(self) -> int:
        """Retries under way."""
        return self._active

    def on_request(self, now: float) -> None:
        """A request (not a retry) starts. Needed for windowed budgets only."""
        window = self._window
        if window is not None:
            with self._lock:
                window.add(now)

    def on_answer(self, now: float) -> None:
        """A try is over whose outcome is not one to be repeated."""

    def try_acquire(self, active_requests: int, now: float) -> bool:
        """Take a permit if there is one. ``active_requests``: in flight on the cluster."""
        with self._lock:
            allowed = self._active < self._limit_locked(active_requests, now)
            if not allowed and not self._draw_locked(now):
                return False
            self._active += 1
            return True

    def release(self) -> None:
        """Give a permit back. One too many changes nothing."""
        with self._lock:
            if self._active > 0:
                self._active -= 1

    def is_spent(self, active_requests: int) -> bool:
        """Whether the last look at the clock left no further retry. Changes nothing."""
        with self._lock:
            budget = self._budget
            if budget is None:
                return self._active >= self._max_retries
            requests = active_requests if self._window is None else self._window.total
            return self._active >= _allowed(budget, requests)

    def limit(self, active_requests: int, now: float) -> int:
        """Retries that may be under way at this moment, the reserve not counted."""
        with self._lock:
            return self._limit_locked(active_requests, now)

    def refusal(self, active_requests: int, now: float) -> str:
        """Why :meth:`try_acquire` gave no permit, with its numbers."""
        active, budget = self._active, self._budget
        why = f"the cluster has as many retries under way as it allows: {active} of "
        if budget is None:
            return f"{why}max_retries {self._max_retries}"
        return (
            f"{why}{self.limit(active_requests, now)} (budget: {budget.percent:g} % of "
            f"the requests, at least {budget.min_concurrency})"
        )

    def _limit_locked(self, active_requests: int, now: float) -> int:
        budget = self._budget
        if budget is None:
            return self._max_retries
        requests = active_requests
        if self._window is not None:
            self._window.advance(now)
            requests = self._window.total
        return _allowed(budget, requests)

    def _draw_locked(self, now: float) -> bool:
        """One token of the reserve, which refills continuously."""
        budget = self._budget
        if budget is None or budget.min_per_second <= 0:
            return False
        if self._refilled is not None and now > self._refilled:
            gained = (now - self._refilled) * budget.min_per_second
            self._reserve = min(self._burst(budget), self._reserve + gained)
        self._refilled = now if self._refilled is None else max(now, self._refilled)
        if self._reserve < 1.0:
            return False
        self._reserve -= 1.0
        return True

    @staticmethod
    def _burst(budget: RetryBudget | None) -> float:
        return 0.0 if budget is None else max(1.0, budget.min_per_second)

    def __repr__(self) -> str:
        what = self._budget or f"max_retries={self._max_retries}"
        return f"<RetryLimiter active={self._active} {what}>"


def _allowed(budget: RetryBudget, requests: int) -> int:
    # Multiply before dividing: 20 * 10 / 100 is exact, 0.2 * 10 need not be.
    return max(budget.min_concurrency, int(budget.percent * requests / 100))


__all__ = ["RequestWindow", "RetryLimiter"]
