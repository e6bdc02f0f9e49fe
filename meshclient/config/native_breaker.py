"""``circuit_breaker`` of the native file: Reader to settings, and what cannot work.

Opens nothing. The shapes are in :mod:`meshclient.config.native_breaker_fields`.
"""

from __future__ import annotations

from typing import cast

from meshclient.config.native_values import finish, integer_of, required, seconds_of, text_of
from meshclient.config.reader import Reader
from meshclient.model.breaker import CircuitBreaker, Per, Selection, SharedStorage
from meshclient.model.grpc_status import GRPC_STATUS

#: Most calls of a window: their numbers are kept while they count as failed.
MAX_WINDOW_CALLS = 100_000
_SCHEMES = ("redis://", "rediss://", "unix://")


def read_circuit_breaker(r: Reader, default_per: Per = "service") -> CircuitBreaker:
    """One ``circuit_breaker`` block."""
    failure_rate, slow = _rate(r, "failure_rate"), r.field("slow_calls")
    slow_s, slow_rate = _slow_calls(slow) if slow is not None else (None, None)
    usual = 5 if failure_rate is None and slow_rate is None else 0
    calls, window_s = _window(r.field("window"))
    open_for_s = seconds_of(r, "open_for", 30.0)
    multiplier, max_s = _back_off(r.field("back_off"), open_for_s)
    requests, successes = _half_open(r.field("half_open"))
    per = r.field("per")
    word = per.string(("service", "subset", "endpoint", "route")) if per is not None else None
    redis = r.field("redis")
    failures, ignored = r.field("failures"), r.field("ignore")
    made = CircuitBreaker(
        consecutive_failures=integer_of(r, "consecutive_failures", usual, 0) or None,
        open_for_s=open_for_s,
        failure_rate_percent=failure_rate,
        slow_rate_percent=slow_rate,
        slow_s=slow_s,
        window_calls=calls,
        window_s=window_s,
        minimum_calls=integer_of(r, "minimum_calls", 20),
        multiplier=multiplier,
        max_open_for_s=max_s,
        half_open_requests=requests,
        half_open_successes=successes,
        failures=_selection(failures, "breaker_failures"),
        ignored=_selection(ignored, "breaker_ignore"),
        per=cast("Per", word or default_per),
        shared=_redis(redis) if redis is not None else None,
        source=r.source,
    )
    finish(r, "circuit_breaker")
    _check(r, made)
    return made


def _check(r: Reader, made: CircuitBreaker) -> None:
    rates = made.failure_rate_percent, made.slow_rate_percent
    if made.consecutive_failures is None and rates == (None, None):
        r.error("this breaker never opens: neither consecutive_failures nor a rate is given")
    if made.window_s is None and made.minimum_calls > made.window_calls and any(rates):
        r.error(
            f"minimum_calls ({made.minimum_calls}) is more than the window holds "
            f"({made.window_calls} calls): no rate ever counts"
        )
    if not any(rates):
        for name in ("window", "minimum_calls"):
            child = r.field(name)
            if child is not None:
                child.warning("has no effect without failure_rate or slow_calls")


def _rate(r: Reader, name: str, default: float | None = None) -> float | None:
    child = r.field(name)
    value = child.number(0, 100) if child is not None else None
    if child is not None and value == 0:
        child.error("a rate is above 0")
    return default if value is None else value


def _slow_calls(r: Reader) -> tuple[float | None, float | None]:
    threshold = required(r, "threshold")
    slow_s = threshold.go_duration() if threshold is not None else None
    rate = _rate(r, "rate", 100.0)
    finish(r, "slow_calls")
    return slow_s, rate


def _window(r: Reader | None) -> tuple[int, float | None]:
    if r is None:
        return CircuitBreaker().window_calls, None
    time, calls = r.field("time"), r.field("calls")
    number = integer_of(r, "calls", CircuitBreaker().window_calls, 1, MAX_WINDOW_CALLS)
    if time is not None and calls is not None:
        calls.error('give only one of "calls" and "time"', code="conflict")
    window_s = time.go_duration() if time is not None else None
    finish(r, "breaker_window")
    return number, window_s


def _back_off(r: Reader | None, open_for_s: float) -> tuple[float, float]:
    most_s = max(CircuitBreaker().max_open_for_s, open_for_s)
    if r is None:
        return 1.0, most_s
    field, most = r.field("multiplier"), r.field("max")
    multiplier = field.number(1, 100) if field is not None else None
    max_s = seconds_of(r, "max", most_s)
    if most is not None and max_s < open_for_s:
        most.error("max is less than open_for")
    finish(r, "breaker_back_off")
    return 2.0 if multiplier is None else multiplier, max_s


def _half_open(r: Reader | None) -> tuple[int, int]:
    if r is None:
        return 1, 1
    found = integer_of(r, "requests", 1), integer_of(r, "successes", 1)
    finish(r, "half_open")
    return found


def _selection(r: Reader | None, section: str) -> Selection:
    if r is None:
        return Selection()
    statuses, grpc, exceptions = (
        r.field(name) for name in ("statuses", "grpc_statuses", "exceptions")
    )
    found = Selection(
        frozenset(s for item in _items(statuses) for s in _status(item)),
        frozenset(s for item in _items(grpc) if (s := grpc_status(item)) is not None),
        frozenset(name for item in _items(exceptions) if (name := item.string())),
    )
    finish(r, section)
    return found


def _items(r: Reader | None) -> list[Reader]:
    return r.elements() if r is not None else []


def _status(r: Reader) -> range:
    """A status, or a whole class of them."""
    if isinstance(r.node.value, str):
        word = r.string(("4xx", "5xx"))
        first = int(word[0]) * 100 if word else 0
        return range(first, first + 100) if word else range(0)
    status = r.integer(100, 599)
    return range(0) if status is None else range(status, status + 1)


def grpc_status(r: Reader) -> int | None:
    """A gRPC status by name or number."""
    if not isinstance(r.node.value, str):
        return r.integer(0, 16)
    name = r.string()
    if name is not None and name.upper() in GRPC_STATUS:
        return GRPC_STATUS[name.upper()]
    r.error(f"{str(name)[:40]!a} is no gRPC status", suggestion="UNAVAILABLE, INTERNAL, ...")
    return None


def _redis(r: Reader) -> SharedStorage:
    required(r, "url")
    url = text_of(r, "url")
    child = r.field("url")
    if child is not None and url and not url.startswith(_SCHEMES):
        # Never quoted: it may hold a password.
        child.error("redis://, rediss:// or unix:// is expected")
    usual = SharedStorage("")
    made = SharedStorage(
        url,
        text_of(r, "namespace", usual.namespace),
        seconds_of(r, "timeout", usual.timeout_s),
        seconds_of(r, "poll", usual.poll_s),
    )
    finish(r, "breaker_redis")
    return made


__all__ = ["MAX_WINDOW_CALLS", "read_circuit_breaker"]
