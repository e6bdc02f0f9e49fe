"""RING_HASH: endpoints own points on a ring of hashes; a request goes to the next point.

The ring only, which is made on the control thread and never changes; picking from it is
:mod:`meshclient.balancing.hash_pick`.
Source: Envoy ``load_balancing_policies/ring_hash/ring_hash_lb.cc`` (after ketama).
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from math import ceil

from meshclient.balancing.hashing import HashFunction, give_way

#: Points made, or sorted, between two moments at which other threads may run.
_SLICE = 512
#: Points per bucket of a look-up, as a power of two.
_BUCKET_BITS = 5
#: Points that are sorted at a time, likewise. Few lists: each hundred that is made anew may
#: start a collection of garbage, in a thread that is in the middle of a call.
_SORT_BITS = 9


def point_counts(shares: Sequence[float], minimum_size: int, maximum_size: int) -> list[int]:
    """Points of each endpoint. ``shares`` add up to 1 and are above 0.

    The ring is scaled so that the least share gets a whole number of points; running
    sums spread what is left of the others.
    """
    least = min(1.0, min(shares))
    scale = min(ceil(least * minimum_size) / least, float(maximum_size))
    counts = []
    made, target = 0, 0.0
    for share in shares:
        target += scale * share
        count = max(0, ceil(target) - made)
        counts.append(count)
        made += count
    return counts


class Ring:
    """``at`` gives the index of the endpoint for a hash. Immutable.

    ``keys`` and ``shares`` belong together. Two points of the same hash stand in the
    order of their endpoints. ``counts`` are the points of each endpoint, ``size`` all.
    Memory: 10 bytes per point (12 from 65,536 endpoints on).
    """

    __slots__ = ("_hashes", "_owners", "_shift", "_starts", "counts", "size")

    def __init__(
        self,
        keys: Sequence[bytes],
        shares: Sequence[float],
        minimum_size: int,
        maximum_size: int,
        function: HashFunction,
    ) -> None:
        self.counts = counts = point_counts(shares, minimum_size, maximum_size)
        self.size = size = sum(counts)
        bits = max(0, size.bit_length() - _BUCKET_BITS)
        self._shift = 64 - bits
        owner_bits = len(keys).bit_length()
        coarse = max(0, size.bit_length() - _SORT_BITS)
        buckets: list[list[int]] = [[] for _ in range(1 << coarse)]
        _fill(buckets, 64 - coarse, owner_bits, _points(keys, counts, function))
        self._hashes = array("Q")
        self._owners = array("H" if owner_bits <= 16 else "I")
        self._sort(buckets, owner_bits)
        self._starts = self._index(1 << bits)

    def _sort(self, buckets: list[list[int]], owner_bits: int) -> None:
        mask = (1 << owner_bits) - 1
        hashes, owners = self._hashes, self._owners
        buckets.reverse()
        while buckets:
            bucket = buckets.pop()
            bucket.sort()
            hashes.extend([point >> owner_bits for point in bucket])
            owners.extend([point & mask for point in bucket])
            give_way()

    def _index(self, buckets: int) -> array[int]:
        """Where the points of each bucket of a look-up begin, and where the last one ends."""
        starts, hashes = array("I"), self._hashes
        begin = 0
        for bucket in range(buckets):
            begin = bisect_left(hashes, bucket << self._shift, begin)
            starts.append(begin)
            if not bucket % _SLICE:
                give_way()
        starts.append(self.size)
        return starts

    def at(self, hash64: int, attempt: int = 0) -> int:
        """The owner of the first point not below ``hash64``, after ``attempt`` further
        points; past the last point comes the first."""
        bucket = hash64 >> self._shift
        starts = self._starts
        index = bisect_left(self._hashes, hash64, starts[bucket], starts[bucket + 1])
        return self._owners[(index + attempt) % self.size]

    def points(self) -> Iterator[tuple[int, int]]:
        """Hash and owner of every point, around the ring."""
        return zip(self._hashes, self._owners, strict=True)

    def __repr__(self) -> str:
        return f"<Ring size={self.size} least={min(self.counts)} most={max(self.counts)}>"


def _points(
    keys: Sequence[bytes], counts: Sequence[int], function: HashFunction
) -> Iterator[tuple[int, list[int]]]:
    """Owners with their hashes, of ``key_0``, ``key_1`` ..., a slice at a time."""
    for owner, (key, count) in enumerate(zip(keys, counts, strict=True)):
        prefix = key + b"_"
        for start in range(0, count, _SLICE):
            numbers = range(start, min(count, start + _SLICE))
            yield owner, [function(b"%b%d" % (prefix, number)) for number in numbers]


def _fill(
    buckets: list[list[int]],
    shift: int,
    owner_bits: int,
    points: Iterator[tuple[int, list[int]]],
) -> None:
    """Put points, hash and owner in one number each, into the bucket of their first bits."""
    since = 0
    for owner, hashes in points:
        for value in hashes:
            buckets[value >> shift].append(value << owner_bits | owner)
        since += len(hashes)
        if since >= _SLICE:
            since = 0
            give_way()


__all__ = ["Ring", "point_counts"]
