"""Earliest-deadline-first scheduling of weighted entries.

Knows indexes and weights, not endpoints. Source: Envoy
``source/common/upstream/edf_scheduler.h``.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from heapq import heapify, heapreplace

#: The weight of the entry with this index, above 0, at this moment.
Weight = Callable[[int], float]

#: Envoy's bound on simulated picks: more would cost precision.
_MAX_PREPICKS = 429_496_729

#: Envoy's guard against a division that rounds down by one.
_EPSILON = 1e-13


class EdfScheduler:
    """Picks indexes 0..count-1 in proportion to their weights; O(log count).

    The entry with the earliest deadline is next; it returns with deadline
    now + 1/weight, the weight taken afresh. Equal deadlines go first in,
    first out. Building costs O(count log count) at most: it starts at a
    position chosen by ``seed`` (``seed`` mod 429496729 picks are skipped), so
    that many processes with one configuration do not move in step.
    Thread-safe: one lock, held for the few steps of a pick.
    """

    __slots__ = ("_heap", "_lock", "_order", "_weight")

    def __init__(self, count: int, weight: Weight, seed: int) -> None:
        self._weight = weight
        self._lock = threading.Lock()
        self._order = count
        picks = (seed & 0xFFFF_FFFF) % _MAX_PREPICKS
        weights = [weight(index) + _EPSILON for index in range(count)]
        floors = _floors(weights, picks)
        self._heap = [
            ((floors[index] + 1) / weights[index], index, index) for index in range(count)
        ]
        heapify(self._heap)
        for _ in range(int(picks - sum(floors)) if count else 0):
            self.pick()

    def pick(self) -> int:
        """The next index. The scheduler must have entries."""
        heap = self._heap
        with self._lock:
            deadline, _, index = heap[0]
            self._order = order = self._order + 1
            # The deadline of what is picked is the scheduler's "now".
            heapreplace(heap, (deadline + 1.0 / self._weight(index), order, index))
        return index


def _floors(weights: list[float], picks: int) -> list[float]:
    """How often each entry was surely picked among the first ``picks``."""
    total = sum(weights)
    floors = []
    for weight in weights:
        floor = float(math.floor(weight * picks / total))
        # An entry whose last pick falls exactly on the boundary has not had it yet.
        if floor > 0 and floor / weight >= picks / total:
            floor -= 1
        floors.append(floor)
    return floors


__all__ = ["EdfScheduler", "Weight"]
