"""Linkerd's retry budget: answers put tokens in, retries take them out.

Which answers and failures count is told from outside. Source: linkerd2-proxy
``linkerd/app/outbound/src/http/retry.rs``, tower ``retry/budget/tps_budget.rs``.
"""

from __future__ import annotations

import struct

from meshclient.model.cluster import Limits
from meshclient.model.retry import TokenBudget
from meshclient.resilience.budget import RetryLimiter

_SLOTS = 10


class TokenBalance:
    """A balance of which every change is forgotten after ``ttl_s``, in ten slots.

    As in tower, slots move on only when somebody looks, and a change counts from 0.9 to 1.1
    of the ttl. Time that goes backwards counts as standing still. Not thread-safe.
    """

    __slots__ = ("_changes", "_index", "_since", "_slot_s", "_slots", "reserve")

    def __init__(self, ttl_s: float, reserve: int) -> None:
        self.reserve = reserve
        self._slot_s = ttl_s / _SLOTS
        self._slots = [0] * _SLOTS
        self._index = 0
        self._since: float | None = None
        self._changes = 0

    def change(self, amount: int, now: float) -> None:
        """Put in, or take out (below zero)."""
        since = self._since
        if since is None or now - since >= self._slot_s:  # spares a call on the hot path
            self._move_on(now)
        self._changes += amount

    def at(self, now: float) -> int:
        """What is there to take."""
        self._move_on(now)
        return self.last

    @property
    def last(self) -> int:
        """What was there when somebody last looked."""
        return self._changes + sum(self._slots) + self.reserve

    def _move_on(self, now: float) -> None:
        if self._since is None:
            self._since = now
        passed_s = now - self._since
        if passed_s < self._slot_s:
            return
        self._slots[self._index], self._changes = self._changes, 0
        # More than all slots at a time only clears them again.
        steps = min(self._steps(passed_s), _SLOTS)
        for step in range(1, steps + 1):
            self._slots[(self._index + step) % _SLOTS] = 0
        self._index = (self._index + 1 + steps) % _SLOTS
        self._since = now

    def _steps(self, passed_s: float) -> int:
        """Slots that went by without a change, besides the one that just ended."""
        whole = int(passed_s / self._slot_s)
        return whole - 1 if whole * self._slot_s >= passed_s else whole


class TokenBudgetLimiter(RetryLimiter):
    """The retries of one service under a :class:`TokenBudget`. Thread-safe, O(1).

    A permit is a withdrawal, and nothing is given back: a retry has been made, however it
    ends. ``active`` is for people.
    """

    __slots__ = ("_balance", "_deposit", "_withdrawal", "budget")

    def __init__(self, budget: TokenBudget) -> None:
        super().__init__(Limits())
        self.budget = budget
        self._deposit, self._withdrawal = amounts(budget.ratio)
        # tower counts whole seconds of the ttl.
        reserve = budget.min_per_second * int(budget.ttl_s) * self._withdrawal
        self._balance = TokenBalance(budget.ttl_s, reserve)
        self.counts_answers = True
        self.spares_unsent = budget.spare_unsent

    def on_answer(self, now: float) -> None:
        with self._lock:
            self._balance.change(self._deposit, now)

    def try_acquire(self, active_requests: int, now: float) -> bool:  # noqa: ARG002
        with self._lock:
            if self._balance.at(now) < self._withdrawal:
                return False
            self._balance.change(-self._withdrawal, now)
            self._active += 1
            return True

    def is_spent(self, active_requests: int) -> bool:  # noqa: ARG002
        with self._lock:
            return self._balance.last < self._withdrawal

    def limit(self, active_requests: int, now: float) -> int:  # noqa: ARG002
        """Retries that could begin at this moment."""
        with self._lock:
            return max(0, self._balance.at(now)) // self._withdrawal

    def refusal(self, active_requests: int, now: float) -> str:  # noqa: ARG002
        budget = self.budget
        return (
            f"the retry budget is spent ({budget.ratio:g} for each answer of the last "
            f"{budget.ttl_s:g} s, {budget.min_per_second:g} per second besides)"
        )

    def __repr__(self) -> str:
        return f"<TokenBudgetLimiter active={self._active} {self.budget}>"


def amounts(ratio: float) -> tuple[int, int]:
    """Tokens of a deposit and of a withdrawal, in tower's whole numbers (of a 32-bit float)."""
    single = _single(ratio)
    if single == 0.0:
        return 0, 1
    if single <= 1.0:
        return 1, int(_single(1.0 / single))
    return 1000, int(_single(1000.0 / single))


def _single(value: float) -> float:
    return float(struct.unpack("f", struct.pack("f", value))[0])


__all__ = ["TokenBalance", "TokenBudgetLimiter", "amounts"]
