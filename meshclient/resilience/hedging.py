"""When a call may have two tries at once, and when the second one is due.

Pure decisions and timers: no clock, no waiting, no endpoint. Source of the behaviour at the
per-try timeout: Envoy ``router.cc`` (``onSoftPerTryTimeout``) and ``retry_state_impl.cc``
(``shouldHedgeRetryPerTryTimeout``).
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import replace
from typing import Generic, TypeVar

from meshclient.model.headers import HeaderMap
from meshclient.model.hedging import Hedging
from meshclient.model.retry import IDEMPOTENT_METHODS, RetryPolicy
from meshclient.resilience.budget import RetryLimiter
from meshclient.resilience.retry import Load, RetryState

T = TypeVar("T", bound=Hashable)

_NONE = Hedging()


def merge_hedging(settings: Hedging | None, on_per_try_timeout: bool | None) -> Hedging | None:
    """The route's settings with the request's own ``x-envoy-hedge-on-per-try-timeout``
    (None: it has none). None: no hedging at all."""
    if on_per_try_timeout is None:
        return settings
    merged = replace(settings or _NONE, on_per_try_timeout=on_per_try_timeout)
    return None if merged == _NONE else merged


def may_hedge(
    settings: Hedging,
    policy: RetryPolicy | None,
    per_try_s: float | None,
    method: str,
    headers: HeaderMap,
    replayable: bool,
) -> bool:
    """Whether a further try can ever be due, and does no harm.

    The body must be replayable, and the request one that may be processed twice: an idempotent
    method (RFC 9110 section 9.2.2), an ``idempotency-key``, or a method that the retry policy
    names. At the per-try timeout a policy that names no methods allows all, as in Envoy.
    """
    at_timeout = settings.on_per_try_timeout and per_try_s is not None
    if not replayable or not (at_timeout or settings.delay_s is not None):
        return False
    if method in IDEMPOTENT_METHODS or "idempotency-key" in headers:
        return True
    if policy is None:  # nothing is repeated at the timeout, which ends nothing either
        return at_timeout and settings.delay_s is None
    return at_timeout if policy.methods is None else method in policy.methods


def spend_retry(retry: RetryState, limiter: RetryLimiter, load: Load | None, now: float) -> bool:
    """Take one of the call's retries and a permit for a further try; False: there is none.

    Then ``retry.note`` and ``retry.flag`` say which was missing. Envoy's order: a permit of an
    earlier decision goes back first, and a refused one has used up the retry all the same.
    """
    retry.note = retry.flag = ""
    retry.release(limiter)
    if retry.remaining == 0:
        retry.note, retry.flag = "not hedged: all retries are used up", "URX"
        return False
    retry.remaining -= 1
    active = 0 if load is None else load.active_requests
    if not limiter.try_acquire(active, now):
        retry.note = f"not hedged: {limiter.refusal(active, now)}"
        retry.flag = "UO"
        return False
    retry.held = True
    return True


class HedgeTimers(Generic[T]):
    """Which try has been waited for too long. A call owns it; not thread-safe.

    ``started`` and ``ended`` frame each try (by any key of its own); :meth:`slow` gives each
    alarm once.
    """

    __slots__ = ("_delay_at", "_delay_s", "_hedges_left", "_latest", "_soft_at", "_soft_s")

    def __init__(self, settings: Hedging, per_try_s: float | None) -> None:
        self._delay_s = settings.delay_s
        self._hedges_left = settings.max_hedges
        self._delay_at = math.inf
        self._latest: T | None = None
        self._soft_s = per_try_s if settings.on_per_try_timeout else None
        self._soft_at: dict[T, float] = {}

    @property
    def soft_per_try(self) -> bool:
        """Whether the per-try timeout is an alarm here, and ends nothing."""
        return self._soft_s is not None

    def started(self, key: T, now: float) -> None:
        """A try begins."""
        if self._soft_s is not None:
            self._soft_at[key] = now + self._soft_s
        if self._delay_s is not None and self._hedges_left > 0:
            self._latest, self._delay_at = key, now + self._delay_s

    def ended(self, key: T) -> None:
        """It answered or failed."""
        self._soft_at.pop(key, None)
        if key == self._latest:
            # What comes next, a retry at most, starts the delay anew.
            self._latest, self._delay_at = None, math.inf

    def wake_at(self) -> float:
        """When the next alarm is due (monotonic seconds); infinity: never."""
        return min(self._delay_at, min(self._soft_at.values(), default=math.inf))

    def slow(self, now: float) -> tuple[T, bool] | None:
        """A try whose time is over, and whether it is the per-try timeout; None: none is."""
        for key, at in self._soft_at.items():
            if at <= now:
                del self._soft_at[key]
                return key, True
        if self._latest is not None and self._delay_at <= now:
            key, self._latest, self._delay_at = self._latest, None, math.inf
            self._hedges_left -= 1
            return key, False
        return None


__all__ = ["HedgeTimers", "may_hedge", "merge_hedging", "spend_retry"]
