"""The ``limits`` of a native service or subset: Reader to the limits of both priorities."""

from __future__ import annotations

from dataclasses import replace

from meshclient.config.native_values import finish, integer_of
from meshclient.config.reader import Reader
from meshclient.model.cluster import UNLIMITED, ClusterPolicy, Limits
from meshclient.model.retry import Budget


def read_limits(r: Reader, policy: ClusterPolicy) -> ClusterPolicy:
    """``policy`` with other limits; the budget of the retries, which stands elsewhere, stays."""
    high = r.field("high_priority")
    important = Limits() if high is None else _limits(high)
    if high is not None:
        finish(high, "high_priority_limits")
    ordinary = _limits(r)
    finish(r, "limits")
    return with_budget(
        replace(policy, limits=ordinary, high_priority_limits=important),
        policy.limits.retry_budget,
    )


def with_budget(policy: ClusterPolicy, budget: Budget | None) -> ClusterPolicy:
    """``policy`` with the budget of a service's retries, which holds for both priorities."""
    return replace(
        policy,
        limits=replace(policy.limits, retry_budget=budget),
        high_priority_limits=replace(policy.high_priority_limits, retry_budget=budget),
    )


def _limits(r: Reader) -> Limits:
    return Limits(
        max_connections=integer_of(r, "max_connections", UNLIMITED),
        max_pending_requests=integer_of(r, "max_pending_requests", UNLIMITED),
        max_requests=integer_of(r, "max_requests", UNLIMITED),
        max_retries=integer_of(r, "max_retries", UNLIMITED, 0),
        max_connections_per_endpoint=integer_of(r, "max_connections_per_endpoint", UNLIMITED),
        source=r.source,
    )


__all__ = ["read_limits", "with_budget"]
