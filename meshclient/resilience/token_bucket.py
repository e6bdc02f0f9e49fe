"""A token bucket that refills continuously, and buckets per descriptor.

No lock: its user has one. Source: Envoy ``source/common/common/token_bucket_impl.cc``,
``source/extensions/filters/common/local_ratelimit/local_ratelimit_impl.cc``.
"""

from __future__ import annotations

from collections import OrderedDict
from math import ceil

from meshclient.model.rate_limit import Entries, LocalDescriptor, TokenBucket

#: Tokens per second at least: one a year.
_LEAST_RATE = 1.0 / (365 * 24 * 60 * 60)


class Bucket:
    """Starts full. ``now`` that goes back adds nothing and takes nothing."""

    __slots__ = ("_filled_at", "_tokens", "max_tokens", "rate")

    def __init__(self, settings: TokenBucket) -> None:
        self.max_tokens = settings.max_tokens
        self.rate = max(settings.tokens_per_fill / settings.fill_interval_s, _LEAST_RATE)
        self._tokens = float(settings.max_tokens)
        self._filled_at = 0.0  # of no account while the bucket is full

    def take(self, now: float) -> bool:
        """One token, if there is a whole one."""
        self._fill(now)
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    @property
    def level(self) -> float:
        """Tokens when one was last asked for."""
        return self._tokens

    def remaining(self, now: float) -> float:
        """Tokens at this moment, parts included."""
        self._fill(now)
        return self._tokens

    def reset_s(self, now: float) -> int:
        """Envoy's ``x-ratelimit-reset``: 0 with a token left, else the seconds in which one
        token comes (from none), rounded up."""
        if self.remaining(now) >= 1.0:
            return 0
        return ceil(ceil(1000.0 / self.rate) / 1000)

    def wait_s(self, now: float) -> float:
        """Seconds until there is a whole token; infinite where there never is one."""
        missing = 1.0 - self.remaining(now)
        if missing <= 0.0:
            return 0.0
        return missing / self.rate if self.max_tokens else float("inf")

    def _fill(self, now: float) -> None:
        if self._tokens < self.max_tokens:
            gained = max(0.0, now - self._filled_at) * self.rate
            self._tokens = min(self._tokens + gained, float(self.max_tokens))
        self._filled_at = now


class _Wildcard:
    """One descriptor with values left open: a bucket for each that comes, the least
    recently used forgotten."""

    __slots__ = ("_most", "_settings", "buckets", "pattern")

    def __init__(self, settings: LocalDescriptor, most: int) -> None:
        self.pattern = settings.entries
        self._settings = settings.bucket
        self._most = most
        self.buckets: OrderedDict[Entries, Bucket] = OrderedDict()

    def matches(self, entries: Entries) -> bool:
        if len(entries) != len(self.pattern):
            return False
        return all(
            key == wanted and (not value or value == given)
            for (wanted, value), (key, given) in zip(self.pattern, entries, strict=True)
        )

    def bucket(self, entries: Entries) -> Bucket:
        found = self.buckets.get(entries)
        if found is None:
            found = self.buckets[entries] = Bucket(self._settings)
            if len(self.buckets) > self._most:
                self.buckets.popitem(last=False)
        else:
            self.buckets.move_to_end(entries)
        return found


class DescriptorBuckets:
    """Which bucket a descriptor of a request has: the one with just its entries, else the
    first with open values that fit."""

    __slots__ = ("_exact", "_wildcards")

    def __init__(self, descriptors: tuple[LocalDescriptor, ...], most: int) -> None:
        self._exact: dict[Entries, Bucket] = {}
        self._wildcards: list[_Wildcard] = []
        for one in descriptors:
            if all(value for _, value in one.entries):
                self._exact[one.entries] = Bucket(one.bucket)
            else:
                self._wildcards.append(_Wildcard(one, most))

    def find(self, descriptors: list[Entries]) -> list[tuple[Bucket, Entries]]:
        """The buckets of ``descriptors``, the slowest to fill first: the strictest limit
        refuses before the others lose a token."""
        found = [(bucket, one) for one in descriptors if (bucket := self._of(one)) is not None]
        if len(found) > 1:
            found.sort(key=lambda pair: pair[0].rate)
        return found

    def _of(self, entries: Entries) -> Bucket | None:
        found = self._exact.get(entries)
        if found is not None:
            return found
        for wildcard in self._wildcards:
            if wildcard.matches(entries):
                return wildcard.bucket(entries)
        return None

    def __len__(self) -> int:
        return len(self._exact) + sum(len(one.buckets) for one in self._wildcards)


__all__ = ["Bucket", "DescriptorBuckets"]
