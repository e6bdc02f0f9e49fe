"""The ``circuitBreaker`` block of tutorials and of the oldest documents.

No field of Istio's DestinationRule: a cluster drops or refuses it. It is read as what its
name says, a breaker for each endpoint.
"""

from __future__ import annotations

from meshclient.config.reader import Reader
from meshclient.model.breaker import CircuitBreaker

_CODE = "legacy-circuit-breaker"

#: Fields of outlier detection for which a breaker has no use.
_UNUSED = ("interval", "maxEjectionPercent", "minHealthPercent", "splitExternalLocalOriginErrors")

#: Fields of ``simpleCb`` that are limits of the connection pool, or of no use here.
_SIMPLE_UNUSED = (
    "maxConnections",
    "httpMaxPendingRequests",
    "httpMaxRequests",
    "httpMaxRequestsPerConnection",
    "httpMaxRetries",
    "httpDetectionInterval",
    "httpMaxEjectionPercent",
)


def read_legacy_circuit_breaker(block: Reader) -> CircuitBreaker | None:
    """``consecutiveErrors`` in a row open it for ``baseEjectionTime``; None: never."""
    block.warning(
        "circuitBreaker is no field of a trafficPolicy (a cluster drops or refuses it); it is read "
        "as a breaker for each endpoint: consecutiveErrors open it for baseEjectionTime; interval, "
        "maxEjectionPercent and minHealthPercent have no meaning for it",
        code=_CODE,
        suggestion="rename it to outlierDetection, and consecutiveErrors to consecutive5xxErrors",
    )
    simple = block.field("simpleCb")
    if simple is not None:
        made = _simple(simple)
    else:
        block.ignore(*_UNUSED)
        modern = _count(block, "consecutive5xxErrors")
        errors = _count(block, "consecutiveErrors") if modern is None else modern
        made = _breaker(block, errors, _seconds(block, "baseEjectionTime"))
    block.ignore("consecutiveErrors")
    block.finish("circuitBreaker")
    return made


def _simple(block: Reader) -> CircuitBreaker | None:
    limits = [name for name in _SIMPLE_UNUSED if block.field(name) is not None]
    if limits:
        block.warning(
            f"{', '.join(limits)}: not used here",
            code=_CODE,
            suggestion="limits belong in connectionPool, ejection in outlierDetection",
        )
    block.ignore(*_SIMPLE_UNUSED)
    errors = _count(block, "httpConsecutiveErrors")
    made = _breaker(block, errors, _seconds(block, "sleepWindow"))
    block.finish("simpleCb")
    return made


def _breaker(block: Reader, errors: int | None, open_for_s: float) -> CircuitBreaker | None:
    if errors == 0:
        return None
    return CircuitBreaker(
        consecutive_failures=errors or 5,
        open_for_s=open_for_s,
        max_open_for_s=max(CircuitBreaker().max_open_for_s, open_for_s),
        per="endpoint",
        source=block.source,
    )


def _count(block: Reader, name: str) -> int | None:
    field = block.field(name)
    return field.integer(0, 2**31 - 1) if field is not None else None


def _seconds(block: Reader, name: str) -> float:
    field = block.field(name)
    value = field.go_duration() if field is not None else None
    return 30.0 if value is None else value


__all__ = ["read_legacy_circuit_breaker"]
