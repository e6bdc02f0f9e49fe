"""Local rate limit: calls take tokens, and those that find none are refused.

Source: Envoy ``filters/http/local_ratelimit/local_ratelimit.cc`` and
``filters/common/local_ratelimit/local_ratelimit_impl.cc``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from math import ceil, isinf
from typing import Any

from meshclient.model.matching import Fraction
from meshclient.model.rate_limit import Entries, LocalRateLimit, TokenBucket
from meshclient.model.request import RequestHead
from meshclient.resilience.descriptors import descriptors_of, show
from meshclient.resilience.filter import NeverHolds, Verdict
from meshclient.resilience.local_reply import local_reply
from meshclient.resilience.token_bucket import Bucket, DescriptorBuckets

BODY = b"local_rate_limited"
_RESOURCE_EXHAUSTED = 8

_Pairs = list[tuple[str, str]]


class LocalRateLimitFilter(NeverHolds):
    """The tokens of one scope. Thread-safe; a decision takes constant time.

    ``enabled``, ``ok``, ``rate_limited`` and ``enforced`` are Envoy's statistics of these
    names.
    """

    __slots__ = (
        "_always",
        "_bucket",
        "_buckets",
        "_lock",
        "_settings",
        "enabled",
        "enforced",
        "ok",
        "rate_limited",
    )

    def __init__(self, settings: LocalRateLimit) -> None:
        self._settings = settings
        # Re-entrant: a destructor that ends a call may run at any allocation.
        self._lock = threading.RLock()
        self._bucket = None if settings.bucket is None else Bucket(settings.bucket)
        self._buckets = DescriptorBuckets(settings.descriptors, settings.max_dynamic_descriptors)
        self._always = settings.always_consume_default
        self.enabled = 0
        self.ok = 0
        self.rate_limited = 0
        self.enforced = 0

    def enter(self, head: RequestHead, now: float, rand: Callable[[], int]) -> Verdict | None:
        """Take the tokens, or refuse."""
        settings = self._settings
        if not _drawn(settings.enabled, rand):
            return None
        wanted = descriptors_of(settings.actions, head) if settings.actions else []
        enforced = _drawn(settings.enforced, rand)
        with self._lock:
            self.enabled += 1
            allowed, bucket, entries = self._take_locked(wanted, now)
            if allowed:
                self.ok += 1
            else:
                self.rate_limited += 1
                self.enforced += enforced
            if allowed and not settings.x_ratelimit_headers:
                return None
            told = self._standing_locked(bucket, now)
            wait_s = 0.0 if bucket is None else bucket.wait_s(now)
        if allowed or not enforced:
            return Verdict(headers=told) if told else None
        return self._refuse(head, told, wait_s, bucket, entries)

    def _take_locked(
        self, wanted: list[Entries], now: float
    ) -> tuple[bool, Bucket | None, Entries]:
        """Whether there were tokens, and the bucket that counts for the caller's headers."""
        matched = self._buckets.find(wanted) if wanted else []
        for bucket, entries in matched:
            if not bucket.take(now):
                return False, bucket, entries
        first, entries = matched[0] if matched else (self._bucket, ())
        default = self._bucket
        if default is not None and (not matched or self._always) and not default.take(now):
            return False, default, ()
        return True, first, entries

    def _standing_locked(self, bucket: Bucket | None, now: float) -> _Pairs:
        # A bucket for nothing has nothing to tell, as in Envoy.
        if not self._settings.x_ratelimit_headers or bucket is None:
            return []
        if not bucket.max_tokens and bucket is self._bucket:
            return []
        return [
            ("x-ratelimit-limit", str(bucket.max_tokens)),
            ("x-ratelimit-remaining", str(int(bucket.remaining(now)))),
            ("x-ratelimit-reset", str(bucket.reset_s(now))),
        ]

    def _refuse(
        self,
        head: RequestHead,
        told: _Pairs,
        wait_s: float,
        bucket: Bucket | None,
        entries: Entries,
    ) -> Verdict:
        settings = self._settings
        grpc_status = _RESOURCE_EXHAUSTED if settings.resource_exhausted else None
        reply = local_reply(head, settings.status, BODY, grpc_status)
        if settings.retry_after and not isinf(wait_s):
            reply.headers.add("retry-after", str(max(1, ceil(wait_s))))
        for name, value in (*settings.response_headers, *told):
            reply.headers.add(name, value)
        limit = "no calls" if bucket is None else _shown(bucket)
        what = f" for {show(entries)}" if entries else ""
        why = f"rate limit of {settings.scope}{what}: {limit}"
        return Verdict(reply=reply, flag="RL", why=why)

    def leave(self, status: int, grpc_status: int, started: float, now: float) -> None:
        """A token that is taken stays taken."""

    def describe(self) -> dict[str, Any]:
        """Statistics and levels, for dumps."""
        with self._lock:
            tokens = None if self._bucket is None else self._bucket.level
            return {
                "scope": self._settings.scope,
                "tokens": tokens,
                "descriptor_buckets": len(self._buckets),
                "enabled": self.enabled,
                "ok": self.ok,
                "rate_limited": self.rate_limited,
                "enforced": self.enforced,
            }

    def __str__(self) -> str:
        settings = self._settings
        parts = [] if settings.bucket is None else [_terms(settings.bucket)]
        parts += [f"{show(one.entries)}: {_terms(one.bucket)}" for one in settings.descriptors]
        if settings.enforced != Fraction(100):
            share = 100 * settings.enforced.numerator / settings.enforced.denominator
            parts.append(f"enforced for {share:g} %")
        return f"rate limit of {settings.scope}: {'; '.join(parts)}"


def _terms(bucket: TokenBucket) -> str:
    if not bucket.max_tokens:
        return "no calls"
    return (
        f"{bucket.tokens_per_fill} per {bucket.fill_interval_s:g} s, "
        f"at most {bucket.max_tokens} at once"
    )


def _shown(bucket: Bucket) -> str:
    if not bucket.max_tokens:
        return "no calls"
    rate = bucket.rate
    pace = f"{rate:g} come per second" if rate >= 1 else f"one comes every {1 / rate:g} s"
    return f"all {bucket.max_tokens} tokens are taken, {pace}"


def _drawn(share: Fraction, rand: Callable[[], int]) -> bool:
    if share.numerator >= share.denominator:
        return True
    return share.numerator > 0 and rand() % share.denominator < share.numerator


__all__ = ["BODY", "LocalRateLimitFilter"]
