"""What happens when a try fails: retries, back-off, budgets, timeouts.

Pure arithmetic: no clock, no source of randomness (``now`` and ``rand`` are
arguments), no sockets, no sleeping.
"""

from meshclient.resilience.back_off import ExponentialBackOff
from meshclient.resilience.budget import RetryLimiter
from meshclient.resilience.classify import classify
from meshclient.resilience.conditions import may_retry
from meshclient.resilience.control_headers import Overrides, merge_policy, read_overrides
from meshclient.resilience.limits import RequestLimit, request_limit
from meshclient.resilience.outlier import OutlierDetector
from meshclient.resilience.retry import RetryState
from meshclient.resilience.retry_limits import ServiceBudget, retry_limiter, shared_as
from meshclient.resilience.strategy import AttemptResponse, RetryStrategy
from meshclient.resilience.timeouts import (
    ends_in_time,
    expected_timeout_ms,
    merge_timeouts,
    per_try_timeout_s,
)

__all__ = [
    "AttemptResponse",
    "ExponentialBackOff",
    "OutlierDetector",
    "Overrides",
    "RequestLimit",
    "RetryLimiter",
    "RetryState",
    "RetryStrategy",
    "ServiceBudget",
    "classify",
    "ends_in_time",
    "expected_timeout_ms",
    "may_retry",
    "merge_policy",
    "merge_timeouts",
    "per_try_timeout_s",
    "read_overrides",
    "request_limit",
    "retry_limiter",
    "shared_as",
]
