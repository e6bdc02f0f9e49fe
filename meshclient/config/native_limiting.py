"""What stands before the calls of a native service or route, in its order: rate limits,
admission control, adaptive concurrency. Reader to the settings of filters.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TypeVar

from meshclient.config.native_names import Names
from meshclient.config.native_rate_limits import read_global_rate_limit, read_rate_limit
from meshclient.config.native_values import finish, integer_of, seconds_of
from meshclient.config.reader import Reader
from meshclient.model.concurrency import GRPC_SUCCESS, AdaptiveConcurrency, AdmissionControl
from meshclient.model.rate_limit import GlobalRateLimit, LocalRateLimit

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Limiting:
    """The settings of one route; None: there is none of that kind."""

    rate_limit: LocalRateLimit | None = None
    global_rate_limit: GlobalRateLimit | None = None
    admission_control: AdmissionControl | None = None
    adaptive_concurrency: AdaptiveConcurrency | None = None

    def filters(self, forwards: bool = True) -> tuple[Hashable, ...]:
        """In the order in which calls meet them. ``forwards`` False: the route answers
        itself, and no service is asked (Envoy asks only for routes with a cluster)."""
        found = (
            self.rate_limit,
            self.global_rate_limit if forwards else None,
            self.admission_control,
            self.adaptive_concurrency,
        )
        return tuple(one for one in found if one is not None)


NO_LIMITING = Limiting()


def read_limiting(
    r: Reader, base: Limiting, names: Names, service: str, *, of_route: bool
) -> Limiting:
    """What ``r`` (a service, or one of its routes) says; what it does not say stays.

    All routes of a service share the state of its settings.
    """
    scope = f"service {service}"
    if of_route:
        name = r.field("name")
        scope = f"{service} {(name.string() if name is not None else None) or _place(r)}"
    return Limiting(
        _given(r, "rate_limit", base.rate_limit, lambda c: read_rate_limit(c, scope)),
        _given(
            r,
            "global_rate_limit",
            base.global_rate_limit,
            lambda c: read_global_rate_limit(c, scope, names, service),
        ),
        _given(r, "admission_control", base.admission_control, lambda c: _admission(c, scope)),
        _given(r, "adaptive_concurrency", base.adaptive_concurrency, lambda c: _adaptive(c, scope)),
    )


def _place(r: Reader) -> str:
    return r.path.rpartition(".")[2]


def _given(r: Reader, name: str, base: T | None, read: Callable[[Reader], T | None]) -> T | None:
    child = r.field(name)
    if child is None:
        return base
    if child.is_boolean:
        if child.boolean():
            child.error("settings are expected, or false", suggestion=f"{name}: {{...}}")
        return None
    return read(child)


def _percent(r: Reader, name: str, default: float, least: float = 0, most: float = 100) -> float:
    child = r.field(name)
    value = child.number(least, most) if child is not None else None
    return default if value is None else float(value)


def _admission(r: Reader, scope: str) -> AdmissionControl:
    window_s = seconds_of(r, "sampling_window", 30.0)
    window = r.field("sampling_window")
    if window is not None and window_s != int(window_s):
        window.error("whole seconds are expected")
    settings = AdmissionControl(
        scope,
        sampling_window_s=window_s,
        aggression=_percent(r, "aggression", 1.0, 1),
        success_threshold_percent=_percent(r, "success_threshold", 95.0, 1),
        rps_threshold=integer_of(r, "rps_threshold", 0, 0),
        max_rejection_percent=_percent(r, "max_rejection", 80.0),
        http_success=_ranges(r.field("http_success")) or ((100, 500),),
        grpc_success=_codes(r.field("grpc_success")) or GRPC_SUCCESS,
        source=r.source,
    )
    finish(r, "admission_control")
    return settings


def _ranges(r: Reader | None) -> tuple[tuple[int, int], ...]:
    found: list[tuple[int, int]] = []
    for item in r.elements() if r is not None else ():
        bounds = [one.integer(100, 600) for one in item.elements()]
        if len(bounds) == 2 and None not in bounds and (bounds[0] or 0) < (bounds[1] or 0):
            found.append((bounds[0] or 0, bounds[1] or 0))
        elif None not in bounds and item.is_list:
            item.error("a range is two whole numbers: [first, end)", suggestion="[200, 300]")
    _not_empty(r)
    return tuple(found)


def _codes(r: Reader | None) -> frozenset[int]:
    found = [item.integer(0, 16) for item in (r.elements() if r is not None else ())]
    _not_empty(r)
    return frozenset(code for code in found if code is not None)


def _not_empty(r: Reader | None) -> None:
    if r is not None and r.is_list and not r.elements():
        r.error("an empty list makes every call a failure")


def _adaptive(r: Reader, scope: str) -> AdaptiveConcurrency:
    fixed, measured = r.field("fixed_min_rtt"), r.field("min_rtt_interval")
    settings = AdaptiveConcurrency(
        scope,
        update_interval_s=seconds_of(r, "update_interval", 0.1),
        min_rtt_interval_s=seconds_of(r, "min_rtt_interval", 60.0),
        fixed_min_rtt_s=fixed.go_duration() if fixed is not None else None,
        min_rtt_requests=integer_of(r, "min_rtt_requests", 50),
        jitter_percent=_percent(r, "jitter", 15.0),
        min_concurrency=integer_of(r, "min_concurrency", 3),
        max_concurrency=integer_of(r, "max_concurrency", 1000),
        buffer_percent=_percent(r, "buffer", 25.0, most=1000),
        percentile=_percent(r, "percentile", 50.0),
        status=integer_of(r, "status", 503, 400, 599),
        source=r.source,
    )
    if fixed is not None and measured is not None:
        fixed.error("the least latency is either fixed or measured", code="conflict")
    finish(r, "adaptive_concurrency")
    if settings.min_concurrency > settings.max_concurrency:
        r.error("min_concurrency is above max_concurrency")
    return settings


__all__ = ["NO_LIMITING", "Limiting", "read_limiting"]
