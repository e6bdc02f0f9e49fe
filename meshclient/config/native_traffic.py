"""What a native service says once for all its routes, and a route may say instead:
timeouts, retries, fault, mirror, hedging, hash keys.

Reader to :class:`Traffic`. Knows nothing of matches and destinations.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from meshclient.config.durations import format_s
from meshclient.config.native_breaker import grpc_status, read_circuit_breaker
from meshclient.config.native_fallback import read_fallback
from meshclient.config.native_hashing import read_hash_on
from meshclient.config.native_hedging import read_hedging, read_mirror
from meshclient.config.native_limiting import NO_LIMITING, Limiting, read_limiting
from meshclient.config.native_names import Names
from meshclient.config.native_retries import DEFAULT_RETRIES, read_retries
from meshclient.config.native_values import (
    finish,
    fraction,
    fraction_of,
    limit_of,
    one_or_many,
    required,
)
from meshclient.config.reader import Reader
from meshclient.model.breaker import CircuitBreaker
from meshclient.model.fallback import Fallback
from meshclient.model.hedging import Hedging
from meshclient.model.matching import Fraction
from meshclient.model.retry import Budget, RetryPolicy
from meshclient.model.routes import Fault, HashPolicy, Mirror


@dataclass(frozen=True, slots=True)
class Traffic:
    """Terms of a call."""

    timeout_s: float | None = None
    idle_timeout_s: float | None = None
    retry: RetryPolicy | None = DEFAULT_RETRIES
    fault: Fault | None = None
    mirrors: tuple[Mirror, ...] = ()
    hedging: Hedging | None = None
    fallback: Fallback | None = None
    hash_policy: tuple[HashPolicy, ...] = ()
    circuit_breaker: CircuitBreaker | None = None
    priority: Literal["default", "high"] = "default"
    limiting: Limiting = NO_LIMITING


def read_traffic(
    r: Reader, base: Traffic, names: Names, service: str, *, section: str
) -> tuple[Traffic, Budget | None]:
    """The terms of a service (``section`` retries) or route; what is not given stays."""
    traffic = replace(
        base,
        timeout_s=limit_of(r, "timeout", base.timeout_s),
        idle_timeout_s=limit_of(r, "idle_timeout", base.idle_timeout_s),
        priority=_priority(r, base.priority),
        limiting=read_limiting(
            r, base.limiting, names, service, of_route=section == "route_retries"
        ),
    )
    budget: Budget | None = None
    if (child := r.field("retries")) is not None:
        retry, budget = read_retries(child, section)
        traffic = replace(traffic, retry=retry)
        _check_timeouts(child, traffic)
    if (child := r.field("fault")) is not None:
        traffic = replace(traffic, fault=_fault(child))
    if (child := r.field("mirror")) is not None:
        found = (read_mirror(item, names, service) for item in one_or_many(child))
        traffic = replace(traffic, mirrors=tuple(m for m in found if m is not None))
    if (child := r.field("hedging")) is not None:
        traffic = replace(traffic, hedging=read_hedging(child))
    if (child := r.field("fallback")) is not None:
        traffic = replace(traffic, fallback=read_fallback(child, names, service))
    if section == "route_retries" and (child := r.field("circuit_breaker")) is not None:
        breaker = read_circuit_breaker(child, "route")
        if breaker.per != "route":
            child.error("a route's breaker is per route")
        traffic = replace(traffic, circuit_breaker=breaker)
    if section == "route_retries" and (child := r.field("hash_on")) is not None:
        traffic = replace(traffic, hash_policy=read_hash_on(child))
    return traffic, budget


def _priority(r: Reader, base: Literal["default", "high"]) -> Literal["default", "high"]:
    field = r.field("priority")
    word = field.string(("default", "high")) if field is not None else None
    return "high" if word == "high" else "default" if word == "default" else base


def _check_timeouts(r: Reader, traffic: Traffic) -> None:
    per_try = traffic.retry.per_try_timeout_s if traffic.retry is not None else None
    if per_try is None or traffic.timeout_s is None or per_try < traffic.timeout_s:
        return
    r.warning(
        f"per_try_timeout ({format_s(per_try)}) is not less than timeout "
        f"({format_s(traffic.timeout_s)}): a slow try is never repeated",
        suggestion="lower per_try_timeout or raise timeout",
    )


def _fault(r: Reader) -> Fault | None:
    delay_reader, abort_reader = r.field("delay"), r.field("abort")
    by_header, most = r.field("by_header"), r.field("max_active")
    fault = Fault(source=r.source)
    if delay_reader is not None:
        fixed = required(delay_reader, "fixed_delay")
        delay_s = fixed.go_duration() if fixed is not None else None
        share = fraction_of(delay_reader, "percentage")
        finish(delay_reader, "fault_delay")
        fault = replace(fault, delay_s=delay_s, delay_fraction=share)
    if abort_reader is not None:
        fault = _abort(abort_reader, fault)
    if by_header is not None:
        share = fraction(by_header) or Fraction(0)
        fault = replace(fault, by_header=True, delay_fraction=share, abort_fraction=share)
        if delay_reader is not None or abort_reader is not None:
            by_header.error("with by_header the headers say which delay and which status")
    if most is not None:
        fault = replace(fault, max_active=most.integer(1) or fault.max_active)
    finish(r, "fault")
    empty = delay_reader is None and abort_reader is None and by_header is None
    return None if empty else fault


def _abort(r: Reader, fault: Fault) -> Fault:
    status, grpc_reader = r.field("status"), r.field("grpc_status")
    share = fraction_of(r, "percentage")
    http = status.integer(200, 599) if status is not None else None
    grpc = grpc_status(grpc_reader) if grpc_reader is not None else None
    finish(r, "fault_abort")
    if (status is None) == (grpc_reader is None) and r.is_mapping:
        r.error("give exactly one of status and grpc_status")
    return replace(fault, abort_status=http, abort_grpc_status=grpc, abort_fraction=share)
