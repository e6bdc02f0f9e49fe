"""The ``budget`` of a native service's retries: Envoy's, Linkerd's or the Gateway API's.

Which one it is, its keys say. Reader to :data:`~meshclient.model.retry.Budget`.
"""

from __future__ import annotations

from meshclient.config.native_values import finish, integer_of, limit_of, required
from meshclient.config.reader import Reader
from meshclient.model.cluster import UNLIMITED
from meshclient.model.retry import Budget, RateBudget, RetryBudget, TokenBudget

#: Of a service whose file repeats more than failed connections, and bounds it in no way:
#: a fifth of the calls that go well, and 2 retries per second for services with few calls.
#: docs/storms.md has what that comes to in a chain of services.
DEFAULT_BUDGET = TokenBudget(ttl_s=10.0, ratio=0.2, min_per_second=2, spare_unsent=True)

#: What ``none`` means: as many at a time as there are calls.
_NO_BUDGET = RetryBudget(min_concurrency=UNLIMITED)

_LINKERD = ("ttl", "ratio")
_GATEWAY = ("min_retry_rate",)
_ENVOY = ("min_concurrency",)
_OF_ANY = ("percent", "interval", "min_per_second")


def read_budget(r: Reader) -> Budget:
    """The budget; keys of different kinds exclude each other."""
    if r.is_string:
        r.string(("none",))
        return _NO_BUDGET
    for name in (*_LINKERD, *_GATEWAY, *_ENVOY, *_OF_ANY):
        r.field(name)  # known, whatever the kind
    kinds = [
        (names, given)
        for names in (_LINKERD, _GATEWAY, _ENVOY)
        if (given := [name for name in names if r.has(name)])
    ]
    if len(kinds) > 1:
        first, other = kinds[0][1][0], kinds[1][1][0]
        r.error(f'"{first}" and "{other}" belong to different budgets', code="conflict")
    kind = kinds[0][0] if kinds else _ENVOY
    if kind is _LINKERD:
        return _token_budget(r)
    return _rate_budget(r) if kind is _GATEWAY else _envoy_budget(r)


def _token_budget(r: Reader) -> TokenBudget:
    """Bounds as in Linkerd."""
    ttl, ratio = r.field("ttl"), r.field("ratio")
    ttl_s = ttl.go_duration() if ttl is not None else None
    share = ratio.number(0, 1000) if ratio is not None else None
    if ttl is not None and ttl_s is not None and not 1.0 <= ttl_s <= 60.0:
        ttl.error("a ttl is from 1s to 60s")
    for name in ("percent", "interval"):
        if r.has(name):
            r.error(f'"{name}" is not known to a budget of ttl and ratio', code="conflict")
    budget = TokenBudget(
        ttl_s=10.0 if ttl_s is None else ttl_s,
        ratio=0.2 if share is None else share,
        min_per_second=integer_of(r, "min_per_second", 10, 0, 2**31 - 2),
    )
    finish(r, "budget")
    return budget


def _rate_budget(r: Reader) -> RateBudget:
    """Bounds as in the Gateway API."""
    percent, interval = _percent(r), r.field("interval")
    interval_s = interval.go_duration() if interval is not None else None
    if interval is not None and interval_s is not None and not 1.0 <= interval_s <= 3600.0:
        interval.error("an interval is from 1s to 1h")
    if r.has("min_per_second"):
        r.error('give only one of "min_per_second" and "min_retry_rate"', code="conflict")
    rate = required(r, "min_retry_rate")
    count, every_s = (10, 1.0) if rate is None else _rate(rate)
    finish(r, "budget")
    return RateBudget(percent, 10.0 if interval_s is None else interval_s, count, every_s)


def _rate(r: Reader) -> tuple[int, float]:
    count = integer_of(r, "count", 10, 0, 1_000_000)
    interval = r.field("interval")
    every_s = interval.go_duration() if interval is not None else None
    finish(r, "min_retry_rate")
    if interval is not None and every_s is not None and every_s > 3600.0:
        interval.error("an interval is at most 1h")
    return count, 1.0 if every_s is None else every_s


def _envoy_budget(r: Reader) -> RetryBudget:
    floor_reader = r.field("min_per_second")
    floor = floor_reader.number(0, 1_000_000) if floor_reader is not None else None
    budget = RetryBudget(
        percent=_percent(r),
        min_concurrency=integer_of(r, "min_concurrency", 3, 0),
        interval_s=limit_of(r, "interval", None) or 0.0,
        min_per_second=floor or 0.0,
    )
    finish(r, "budget")
    return budget


def _percent(r: Reader) -> float:
    field = r.field("percent")
    percent = field.number(0, 100) if field is not None else None
    return 20.0 if percent is None else percent


__all__ = ["DEFAULT_BUDGET", "read_budget"]
