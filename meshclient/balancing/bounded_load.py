"""Bounded load: no endpoint of a hash policy gets much more than its part of the requests.

The rule and the order of the alternatives; which endpoint a hash means is the tables'
business.
Source: Envoy ``load_balancing_policies/common/thread_aware_lb_impl.cc``,
``BoundedLoadHashingLoadBalancer``; Mirrokni et al., arXiv 1608.01350; arXiv 1908.08762.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from functools import lru_cache
from itertools import islice
from math import ceil

from meshclient.balancing.state import EndpointState

_MASK = 2**32 - 1
_WORDS = 624

#: Draws remembered per seed: the keys that need another place are the busy ones, again and
#: again, and seeding takes a hundred times as long as drawing.
_FIRST = 16
_SEEDS = 1024


def mt19937(seed: int) -> Iterator[int]:
    """The 32-bit outputs of the Mersenne Twister, seeded as ``std::mt19937`` (with one
    number, of which the low 32 bits count). The ``random`` module seeds differently."""
    words = [seed & _MASK]
    for index in range(1, _WORDS):
        last = words[-1]
        words.append((1812433253 * (last ^ last >> 30) + index) & _MASK)
    at = 0
    while True:
        following = (at + 1) % _WORDS
        mixed = words[at] & 0x80000000 | words[following] & 0x7FFFFFFF
        value = words[(at + 397) % _WORDS] ^ mixed >> 1 ^ (0x9908B0DF if mixed & 1 else 0)
        words[at] = value
        at = following
        value ^= value >> 11
        value ^= value << 7 & 0x9D2C5680
        value ^= value << 15 & 0xEFC60000
        yield value ^ value >> 18


@lru_cache(maxsize=_SEEDS)
def _first_draws(seed: int) -> tuple[int, ...]:
    return tuple(islice(mt19937(seed), _FIRST))


def _draws(seed: int) -> Iterator[int]:
    seed &= _MASK
    yield from _first_draws(seed)
    yield from islice(mt19937(seed), _FIRST, None)


def shuffled(count: int, seed: int) -> Iterator[int]:
    """0 to ``count`` - 1 in the order that belongs to ``seed``; made as far as it is read."""
    draws = _draws(seed)
    moved: dict[int, int] = {}  # only what a swap has put elsewhere
    for at in range(count):
        span = count - at
        part = 2**32 // span
        offset = span
        while offset >= span:
            offset = next(draws) // part
        other = at + offset
        chosen = moved.get(other, other)
        moved[other] = moved.get(at, at)
        yield chosen


class BoundedLoad:
    """Moves a request on when the endpoint of its hash has too many in flight.

    ``factor`` is in percent (>= 100) of the mean over the cluster; ``shares`` are those
    of ``states``; the length of ``total`` is the number of requests in flight in the cluster.
    Thread-safe: it reads counts, and they may move meanwhile, as in Envoy. O(1) while the
    endpoint of the hash has room, else one look at every other one until one has.
    """

    __slots__ = ("_factor", "_shares", "_states", "_total")

    def __init__(
        self,
        states: Sequence[EndpointState],
        shares: Sequence[float],
        total: Sized,
        factor: int,
    ) -> None:
        self._states = states
        self._shares = shares
        self._total = total
        self._factor = factor

    def settle(self, index: int, hash64: int) -> int:
        """``index``, or the first in the hash's own order with room, or the least loaded."""
        # Everybody has at least one slot.
        if len(self._states[index].in_flight) <= 1:
            return index
        slots = ((len(self._total) + 1) * self._factor + 99) // 100
        least = self._overload(index, slots)
        if least <= 1.0:
            return index
        best = index
        for other in shuffled(len(self._states), hash64):
            if other == index:
                continue
            load = self._overload(other, slots)
            if load <= 1.0:
                return other
            if load < least:
                best, least = other, load
        return best

    def _overload(self, index: int, slots: int) -> float:
        own = max(1, ceil(slots * self._shares[index]))
        return len(self._states[index].in_flight) / own


__all__ = ["BoundedLoad", "mt19937", "shuffled"]
