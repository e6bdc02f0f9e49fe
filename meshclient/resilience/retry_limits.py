"""Which limiter serves a cluster's retries, and which clusters share one.

Envoy's limits and budget belong to a cluster and routing priority; Linkerd's and the Gateway
API's to a service, over its subsets and both priorities.
"""

from __future__ import annotations

from meshclient.model.cluster import Limits
from meshclient.model.retry import RateBudget, TokenBudget
from meshclient.resilience.budget import RetryLimiter
from meshclient.resilience.rate_budget import RateBudgetLimiter
from meshclient.resilience.token_budget import TokenBudgetLimiter

#: A service and port, and the budget that its calls share.
ServiceBudget = tuple[str, int, TokenBudget | RateBudget]


def retry_limiter(limits: Limits) -> RetryLimiter:
    """A limiter for ``limits``."""
    budget = limits.retry_budget
    if isinstance(budget, TokenBudget):
        return TokenBudgetLimiter(budget)
    return RateBudgetLimiter(budget) if isinstance(budget, RateBudget) else RetryLimiter(limits)


def shared_as(service: str, port: int, limits: Limits) -> ServiceBudget | None:
    """What clusters that share their limiter have in common; None: this one shares nothing."""
    budget = limits.retry_budget
    if isinstance(budget, TokenBudget | RateBudget):
        return (service, port, budget)
    return None


__all__ = ["ServiceBudget", "retry_limiter", "shared_as"]
