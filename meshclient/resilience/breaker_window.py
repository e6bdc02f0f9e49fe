"""How many of the last calls failed or were slow: by count, or by time.

Counts and forgets; decides nothing. A success is one tick of an atomic counter, without a
lock; everything else needs the breaker's lock.
"""

from __future__ import annotations

import math
from collections import deque
from itertools import count

from meshclient.model.breaker import CircuitBreaker
from meshclient.resilience.breaker_state import Figures

#: Parts of a time window; it forgets one part at a time.
PARTS = 10


class CountWindow:
    """The last ``size`` calls.

    ``tick()`` counts a call that was a quick success: calls are numbered, and only the
    numbers of the failed and the slow ones are kept. ``tick_at`` never comes.
    """

    __slots__ = ("_failed", "_size", "_slow", "tick", "tick_at")

    def __init__(self, size: int) -> None:
        self.tick = count(1).__next__
        self.tick_at = math.inf
        self._size = size
        self._failed: deque[int] = deque()
        self._slow: deque[int] = deque()

    def add_locked(self, failed: bool, slow: bool, now: float) -> Figures:  # noqa: ARG002
        """Count a call; the figures with it."""
        number = self.tick()
        floor = number - self._size
        _keep(self._failed, number if failed else 0, floor)
        _keep(self._slow, number if slow else 0, floor)
        return Figures(min(number, self._size), len(self._failed), len(self._slow))


class TimeWindow:
    """The calls of the last ``length_s`` seconds, to a tenth of it.

    A part begins with the first call after the one before is over. From ``tick_at`` on,
    :meth:`add_locked` has to count the call. When the clock has stepped back, the window
    begins anew.
    """

    __slots__ = ("_failed", "_length_s", "_marks", "_slow", "tick", "tick_at")

    def __init__(self, length_s: float) -> None:
        self.tick = count(1).__next__
        self.tick_at = -math.inf
        self._length_s = length_s
        #: Start of each part, and the number that was drawn for it.
        self._marks: deque[tuple[float, int]] = deque()
        self._failed: deque[int] = deque()
        self._slow: deque[int] = deque()

    def add_locked(self, failed: bool, slow: bool, now: float) -> Figures:
        """Count a call; the figures with it."""
        marks = self._marks
        if not marks or now >= self.tick_at or now < marks[-1][0]:
            self._turn_locked(now)
        number = self.tick()
        first = marks[0][1]
        _keep(self._failed, number if failed else 0, first)
        _keep(self._slow, number if slow else 0, first)
        # Each later part took a number of its own.
        calls = number - first - (len(marks) - 1)
        return Figures(calls, len(self._failed), len(self._slow))

    def _turn_locked(self, now: float) -> None:
        marks = self._marks
        if marks and now < marks[-1][0]:
            marks.clear()
        part_s = self._length_s / PARTS
        while marks and marks[0][0] <= now - self._length_s:
            marks.popleft()
        marks.append((now, self.tick()))
        self.tick_at = now + part_s


Window = CountWindow | TimeWindow


def make_window(settings: CircuitBreaker) -> Window | None:
    """None where no rate is watched."""
    if settings.failure_rate_percent is None and settings.slow_rate_percent is None:
        return None
    if settings.window_s is not None:
        return TimeWindow(settings.window_s)
    return CountWindow(settings.window_calls)


def _keep(numbers: deque[int], number: int, floor: int) -> None:
    if number:
        numbers.append(number)
    while numbers and numbers[0] <= floor:
        numbers.popleft()


__all__ = ["PARTS", "CountWindow", "TimeWindow", "Window", "make_window"]
