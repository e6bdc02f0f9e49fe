"""Retry settings as values. The decisions are in :mod:`meshclient.resilience`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from meshclient.model.matching import HeaderMatch
from meshclient.model.source import UNKNOWN_SOURCE, Source

#: Envoy's ``retry_on`` tokens that HTTP can carry.
RETRY_ON_HTTP = frozenset(
    {
        "5xx",
        "gateway-error",
        "reset",
        "reset-before-request",
        "connect-failure",
        "refused-stream",
        "retriable-4xx",
        "retriable-status-codes",
        "retriable-headers",
        "envoy-ratelimited",
        "http3-post-connect-failure",
    }
)
#: Envoy's gRPC tokens; matched on ``grpc-status`` in response *headers* only.
RETRY_ON_GRPC = frozenset(
    {"cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"}
)
#: Tokens whose meaning depends on the headers of a response.
_BY_HEADERS = RETRY_ON_GRPC | {"retriable-headers", "envoy-ratelimited"}
#: Methods that RFC 9110 section 9.2.2 calls idempotent.
IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})


@dataclass(frozen=True, slots=True)
class BackOff:
    """Full-jitter exponential back-off, in seconds.

    Attempt k waits a uniform share of ``cap_k``: ``base_s``, doubled for each
    further retry while below ``max_s`` / 2, then ``max_s``.
    Source: Envoy ``source/common/common/backoff_strategy.cc``.
    """

    base_s: float = 0.025
    max_s: float = 0.25


@dataclass(frozen=True, slots=True)
class ResetHeader:
    """A response header that says when to come back."""

    name: str
    format: Literal["seconds", "unix_timestamp"] = "seconds"


@dataclass(frozen=True, slots=True)
class RateLimitedBackOff:
    """Wait as the upstream asks (``Retry-After``), up to ``max_s``; else exponential."""

    reset_headers: tuple[ResetHeader, ...]
    max_s: float = 300.0


@dataclass(frozen=True, slots=True)
class RetryBudget:
    """Envoy's budget: retries allowed while active retries stay below
    ``max(min_concurrency, percent of active + pending requests)``.

    ``interval_s`` > 0 counts requests started in a sliding window of that
    length (10 slots) instead of the active ones.
    ``min_per_second`` > 0 adds the native file's floor: that many retries per
    second are always allowed.
    """

    percent: float = 20.0
    min_concurrency: int = 3
    interval_s: float = 0.0
    min_per_second: float = 0.0


@dataclass(frozen=True, slots=True)
class TokenBudget:
    """Linkerd's budget, one per service: each answer that is not to be repeated puts a token
    in, a retry takes ``1 / ratio`` of them out.

    ``ttl_s`` (1 to 60) is how long a token lasts, ``ratio`` (0 to 1000) how many retries each
    answer pays for, ``min_per_second`` a reserve of that many retries per second of the ttl.
    ``spare_unsent``: retries of tries of which nothing was sent (no connection) are free.
    Source: linkerd2-proxy (``outbound/src/http/retry.rs``), tower ``retry/budget/tps_budget.rs``.
    """

    ttl_s: float = 10.0
    ratio: float = 0.2
    min_per_second: int = 10
    spare_unsent: bool = False


@dataclass(frozen=True, slots=True)
class RateBudget:
    """The Gateway API's budget, one per service: at most ``percent`` of the requests that began
    in the last ``interval_s`` seconds may be retries.

    ``min_count`` retries in ``min_interval_s`` seconds are always allowed. Source: Gateway API,
    GEP-3388 (``retryConstraint``: ``budget`` and ``minRetryRate``).
    """

    percent: float = 20.0
    interval_s: float = 10.0
    min_count: int = 10
    min_interval_s: float = 1.0


Budget = RetryBudget | TokenBudget | RateBudget


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When, how often and how late a failed try is repeated.

    ``num_retries`` counts the extra tries. ``per_try_timeout_s`` bounds every
    try, the first included; None means none. ``methods`` limits
    retries after the server may have seen the request to these methods; None
    (Envoy's and Istio's meaning) lets any method be retried.
    ``previous_hosts`` avoids endpoints already tried, with up to
    ``host_attempts`` re-picks.
    """

    retry_on: frozenset[str]
    num_retries: int = 1
    per_try_timeout_s: float | None = None
    per_try_idle_timeout_s: float | None = None
    status_codes: frozenset[int] = frozenset()
    headers: tuple[HeaderMatch, ...] = ()
    request_headers: tuple[HeaderMatch, ...] = ()
    back_off: BackOff = BackOff()
    rate_limited: RateLimitedBackOff | None = None
    previous_hosts: bool = False
    host_attempts: int = 1
    methods: frozenset[str] | None = None
    source: Source = field(default=UNKNOWN_SOURCE, compare=False)
    #: Whether no condition covers a response below status 400: then none needs to be asked.
    passes_success: bool = field(init=False, compare=False, repr=False, default=False)

    def __post_init__(self) -> None:
        codes = self.status_codes if "retriable-status-codes" in self.retry_on else ()
        passes = self.retry_on.isdisjoint(_BY_HEADERS) and all(code >= 400 for code in codes)
        object.__setattr__(self, "passes_success", passes)
