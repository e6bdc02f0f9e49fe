"""MAGLEV: a table of prime size, filled in turns along each endpoint's own permutation.

The table only, which is made on the control thread and never changes; picking from it is
:mod:`meshclient.balancing.hash_pick`.
Source: Envoy ``load_balancing_policies/maglev/maglev_lb.cc``; Eisenbud et al., "Maglev: A
Fast and Reliable Software Network Load Balancer", listing 1.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from heapq import heapify, heapreplace
from itertools import cycle
from math import isqrt

from xxhash import xxh64_intdigest

from meshclient.balancing.hashing import give_way
from meshclient.model.load_balancing import MAX_TABLE_SIZE, is_prime

#: Places looked at, about, between two moments at which other threads may run.
_SLICE = 1024


class MaglevTable:
    """``at`` gives the index of the endpoint for a hash. Immutable.

    ``size`` is a prime of at most :data:`MAX_TABLE_SIZE` (ValueError otherwise). With
    more endpoints than places, those whose keys come last have none. Memory: 2 bytes
    per place (4 from 65,536 endpoints on).
    """

    __slots__ = ("_table", "size")

    def __init__(self, keys: Sequence[bytes], shares: Sequence[float], size: int) -> None:
        if size > MAX_TABLE_SIZE or not is_prime(size):
            raise ValueError(
                f"a Maglev table has a prime number of places, at most {MAX_TABLE_SIZE}, not {size}"
            )
        self.size = size
        # The order decides who is served first, so it must not be that of discovery.
        order = sorted(range(len(keys)), key=keys.__getitem__)
        places = [xxh64_intdigest(keys[i]) % size for i in order]
        steps = [xxh64_intdigest(keys[i], 1) % (size - 1) + 1 for i in order]
        filler = _Filler(size, places, steps, order)
        filler.fill(_turns([shares[i] for i in order]))
        self._table = filler.table

    def at(self, hash64: int, attempt: int = 0) -> int:
        """The endpoint at ``hash64`` modulo the size; other attempts turn the high bits
        of the hash."""
        if attempt:
            hash64 ^= 2**64 - attempt
        return self._table[hash64 % self.size]

    @property
    def counts(self) -> Counter[int]:
        """Places of each endpoint."""
        return Counter(self._table)

    def places(self) -> Sequence[int]:
        """The endpoint at every place."""
        return self._table

    def __repr__(self) -> str:
        return f"<MaglevTable size={self.size}>"


def _turns(shares: Sequence[float]) -> Iterator[int]:
    """Whose turn it is, for ever: in each round everybody who has saved up enough.

    Round n serves an endpoint when n x its share has reached its target, which then
    grows by the largest share. A heap of (round, endpoint) gives the same order without
    asking everybody in every round, which unequal shares would make very long.
    """
    most = max(0.0, *shares)
    if min(shares) == most:
        return cycle(range(len(shares)))
    return _weighted_turns(shares, most)


def _weighted_turns(shares: Sequence[float], most: float) -> Iterator[int]:
    targets = [0.0] * len(shares)
    heap = [(1, index) for index in range(len(shares))]
    heapify(heap)
    while True:
        turn, index = heap[0]
        yield index
        share = shares[index]
        target = targets[index] = targets[index] + most
        # The first later round with round * share >= target, by that very comparison:
        # the quotient alone may be off by one.
        following = max(turn + 1, int(target / share) - 1)
        while following * share < target:
            following += 1
        heapreplace(heap, (following, index))


class _Filler:
    """A table on its way. ``places`` are where each one stands, ``steps`` how it goes on."""

    __slots__ = ("_left", "_names", "_places", "_size", "_steps", "_taken", "table")

    def __init__(
        self, size: int, places: list[int], steps: list[int], names: Sequence[int]
    ) -> None:
        self._size = size
        self._places = places
        self._steps = steps
        self._names = names
        self._taken = bytearray(size)
        self._left = size
        wide = max(names, default=0) > 0xFFFF
        self.table = array("I" if wide else "H", bytes(size * (4 if wide else 2)))

    def fill(self, turns: Iterator[int]) -> None:
        """Fill every place."""
        # Walking costs size / left steps per place, searching costs left.
        few = isqrt(self._size) // 2
        while self._left > few:
            count = max(1, _SLICE * self._left // self._size)
            self._walk(turns, min(count, self._left - few))
            give_way()
        self._search(turns)

    def _walk(self, turns: Iterator[int], count: int) -> None:
        """The next ``count`` places: each one goes along its permutation to a free place."""
        size, places, steps = self._size, self._places, self._steps
        taken, table, names = self._taken, self.table, self._names
        self._left -= count
        for index in turns:
            place, step = places[index], steps[index]
            while taken[place]:
                place += step
                if place >= size:
                    place -= size
            taken[place] = 1
            table[place] = names[index]
            places[index] = place
            count -= 1
            if not count:
                return

    def _search(self, turns: Iterator[int]) -> None:
        """The last places: of those left, the one that a walk would come to first.

        From place p, place f is (f - p) / step modulo the prime size steps away.
        """
        size = self._size
        free = [place for place, taken in enumerate(self._taken) if not taken]
        inverses: dict[int, int] = {}
        for done, index in enumerate(turns):
            if not free:
                return
            if index not in inverses:
                inverses[index] = pow(self._steps[index], -1, size)
            inverse, start = inverses[index], self._places[index]
            ways = [(place - start) * inverse % size for place in free]
            place = free.pop(ways.index(min(ways)))
            self.table[place] = self._names[index]
            self._places[index] = place
            if not done % 16:
                give_way()


__all__ = ["MaglevTable"]
