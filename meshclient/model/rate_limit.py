"""Settings of rate limits, in Envoy's terms: buckets, descriptors, the service that is asked.

Values only. How tokens are taken is in :mod:`meshclient.resilience`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from meshclient.model.matching import Fraction, HeaderMatch, QueryMatch
from meshclient.model.source import UNKNOWN_SOURCE, Source

#: Keys and values of one descriptor, in order.
Entries = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """``tokens_per_fill`` tokens (1 or more) come in ``fill_interval_s`` (0.05 s or more),
    spread evenly; ``max_tokens`` fit in. With room for 0 every call is refused."""

    max_tokens: int
    tokens_per_fill: int = 1
    fill_interval_s: float = 1.0


@dataclass(frozen=True, slots=True)
class DescriptorAction:
    """One entry of a descriptor, made from a request.

    ``request_header`` and ``query_parameter``: the first value of ``name``, which may also
    be ``:path``, ``:method``, ``:authority`` or ``:scheme``; where it is missing, there is no
    descriptor, or with ``skip_if_absent`` one without this entry. ``generic_key``: always
    ``value``. ``header_match`` and ``query_match``: ``value`` where all conditions hold
    (with ``expect_match`` False: where they do not), else no descriptor.
    """

    kind: Literal["request_header", "query_parameter", "generic_key", "header_match", "query_match"]
    key: str
    name: str = ""
    value: str = ""
    skip_if_absent: bool = False
    expect_match: bool = True
    headers: tuple[HeaderMatch, ...] = ()
    query: tuple[QueryMatch, ...] = ()


#: What makes one descriptor.
Actions = tuple[DescriptorAction, ...]


@dataclass(frozen=True, slots=True)
class LocalDescriptor:
    """A bucket of its own for calls with these entries. An empty value stands for any, and
    each value that comes gets a bucket."""

    entries: Entries
    bucket: TokenBucket


@dataclass(frozen=True, slots=True)
class LocalRateLimit:
    """Tokens that the calls of one scope take, in this process.

    ``bucket`` None: only descriptors limit. ``enabled`` and ``enforced`` are shares of the
    calls: the first are counted, and of those that find no token the second are refused.
    ``response_headers`` are added to the refusals.
    """

    scope: str
    bucket: TokenBucket | None
    actions: tuple[Actions, ...] = ()
    descriptors: tuple[LocalDescriptor, ...] = ()
    always_consume_default: bool = True
    max_dynamic_descriptors: int = 20
    enabled: Fraction = Fraction(100)
    enforced: Fraction = Fraction(100)
    status: int = 429
    resource_exhausted: bool = False
    x_ratelimit_headers: bool = False
    retry_after: bool = False
    response_headers: tuple[tuple[str, str], ...] = ()
    source: Source = field(default=UNKNOWN_SOURCE, compare=False)


@dataclass(frozen=True, slots=True)
class GlobalRateLimit:
    """A question to a rate limit service (Envoy's ``RateLimitService`` v3) before each call.

    ``cluster`` is where the service is. ``timeout_s`` bounds the wait; a service that fails
    lets the call pass, or with ``failure_mode_deny`` ends it with ``status_on_error``.
    """

    scope: str
    cluster: str
    domain: str
    actions: tuple[Actions, ...]
    timeout_s: float = 0.02
    failure_mode_deny: bool = False
    status: int = 429
    status_on_error: int = 500
    resource_exhausted: bool = False
    x_ratelimit_headers: bool = False
    x_envoy_ratelimited: bool = True
    source: Source = field(default=UNKNOWN_SOURCE, compare=False)


__all__ = [
    "Actions",
    "DescriptorAction",
    "Entries",
    "GlobalRateLimit",
    "LocalDescriptor",
    "LocalRateLimit",
    "TokenBucket",
]
