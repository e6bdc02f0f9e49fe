"""The cluster-level policies of the native file: balancing, limits, connections, TLS ...

Reader to :class:`ClusterPolicy`. What nothing acts on yet is noted in ``notes``
and kept in the model. Knows nothing of routes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, cast

from meshclient.config.native_proxy import read_proxy
from meshclient.config.native_shapes import LB_POLICIES, OUTLIER_FLAG
from meshclient.config.native_tls import read_tls
from meshclient.config.native_values import (
    finish,
    flag_of,
    integer_of,
    limit_of,
    one_or_many,
    required,
    seconds_of,
    text_of,
)
from meshclient.config.reader import Reader
from meshclient.model.cluster import (
    UNLIMITED,
    CircuitBreaker,
    ClusterPolicy,
    ConnectionOptions,
    LbPolicy,
    Limits,
    LoadBalancing,
    OutlierDetection,
    TcpKeepalive,
)
from meshclient.model.routes import HashPolicy
from meshclient.model.source import Diagnostic

Notes = dict[str, Diagnostic]

_HASH_POLICIES = ("ring_hash", "maglev")


@dataclass(slots=True)
class PolicyParts:
    """A cluster policy on its way: with the hash keys and the notes that go with it."""

    policy: ClusterPolicy = field(default_factory=ClusterPolicy)
    hash_policy: tuple[HashPolicy, ...] = ()
    notes: Notes = field(default_factory=dict)


def read_cluster_policy(r: Reader, base: PolicyParts) -> PolicyParts:
    """The policy blocks of a service or subset; a block that is given replaces the base's."""
    parts = PolicyParts(base.policy, base.hash_policy, dict(base.notes))
    if (child := r.field("load_balancing")) is not None:
        _load_balancing(child, parts)
    if (child := r.field("limits")) is not None:
        _limits(child, parts)
    if (child := r.field("connection")) is not None:
        parts.policy = replace(parts.policy, connection=_connection(child))
    if (child := r.field("circuit_breaker")) is not None:
        breaker = _circuit_breaker(child)
        parts.policy = replace(parts.policy, circuit_breaker=breaker)
        parts.notes["circuit_breaker"] = child.not_honoured("circuit breaker")
    if (child := r.field("outlier_detection")) is not None:
        parts.policy = replace(parts.policy, outlier_detection=_outlier_detection(child))
        parts.notes["outlier_detection"] = child.not_honoured("outlier detection")
    if (child := r.field("tls")) is not None:
        _tls(child, parts)
    if (child := r.field("proxy")) is not None:
        parts.policy = replace(parts.policy, proxy=read_proxy(child))
    return parts


def _load_balancing(r: Reader, parts: PolicyParts) -> None:
    parts.notes.pop("load_balancing", None)
    parts.notes.pop("slow_start", None)
    parts.hash_policy = ()
    if not r.is_mapping:
        name = r.string(LB_POLICIES)
        balancing = LoadBalancing(policy=cast(LbPolicy, name or "least_request"))
        hash_reader = None
    else:
        policy_reader = r.field("policy")
        name = policy_reader.string(LB_POLICIES) if policy_reader is not None else None
        balancing = _balancing_details(r, cast(LbPolicy, name or "least_request"), parts)
        hash_reader = r.field("hash_on")
        finish(r, "load_balancing")
    if hash_reader is not None:
        parts.hash_policy = read_hash_on(hash_reader)
    parts.policy = replace(parts.policy, load_balancing=balancing)
    if balancing.policy in (*_HASH_POLICIES, "peak_ewma"):
        what = f"load balancing policy {balancing.policy} (least_request picks until then)"
        parts.notes["load_balancing"] = r.not_honoured(what)
    if balancing.policy in _HASH_POLICIES and not parts.hash_policy:
        r.warning(
            f"{balancing.policy} without hash_on picks at random",
            suggestion="add hash_on: {header: ...}",
        )


def _balancing_details(r: Reader, policy: LbPolicy, parts: PolicyParts) -> LoadBalancing:
    bias_reader = r.field("active_request_bias")
    bias = bias_reader.number(0, 100) if bias_reader is not None else None
    balancing = LoadBalancing(
        policy=policy,
        choice_count=integer_of(r, "choice_count", 2, 2, 100),
        active_request_bias_milli=1000 if bias is None else round(bias * 1000),
        minimum_ring_size=integer_of(r, "minimum_ring_size", 1024),
        maximum_ring_size=integer_of(r, "maximum_ring_size", 8_388_608),
        table_size=integer_of(r, "table_size", 65_537),
    )
    if balancing.minimum_ring_size > balancing.maximum_ring_size:
        r.error("minimum_ring_size is more than maximum_ring_size")
    slow_start = r.field("slow_start")
    if slow_start is None:
        return balancing
    parts.notes["slow_start"] = slow_start.not_honoured("slow start")
    return _slow_start(slow_start, balancing)


def _slow_start(r: Reader, balancing: LoadBalancing) -> LoadBalancing:
    window, percent = required(r, "window"), r.field("minimum_percent")
    aggression = r.field("aggression")
    length = window.go_duration() if window is not None else None
    least = percent.number(0, 100) if percent is not None else None
    shape = aggression.number(0.000_001, 100) if aggression is not None else None
    finish(r, "slow_start")
    return replace(
        balancing,
        slow_start_s=length or 0.0,
        slow_start_minimum_percent=10.0 if least is None else least,
        slow_start_aggression=1.0 if shape is None else shape,
    )


def read_hash_on(r: Reader) -> tuple[HashPolicy, ...]:
    """What calls of one endpoint have in common: one source of the key, or several."""
    found = (_hash_source(item) for item in one_or_many(r))
    return tuple(source for source in found if source is not None)


def _hash_source(r: Reader) -> HashPolicy | None:
    terminal = flag_of(r, "terminal")
    ttl, path = r.field("ttl"), text_of(r, "path")
    ttl_s = ttl.go_duration(allow_zero=True) if ttl is not None else None
    header, cookie, query = text_of(r, "header"), text_of(r, "cookie"), text_of(r, "query")
    source_ip = flag_of(r, "source_ip")
    finish(r, "hash_on")
    given = sum(map(bool, (header, cookie, query, source_ip)))
    if given != 1:
        if r.is_mapping:
            r.error("give exactly one of header, cookie, query and source_ip")
        return None
    if not cookie and (ttl_s is not None or path):
        r.error("ttl and path belong to a cookie")
    if header:
        return HashPolicy("header", header.lower(), terminal=terminal)
    if cookie:
        return HashPolicy("cookie", cookie, ttl_s, path, terminal)
    if query:
        return HashPolicy("query", query, terminal=terminal)
    return HashPolicy("source_ip", terminal=terminal)


def _limits(r: Reader, parts: PolicyParts) -> None:
    limits = Limits(
        max_connections=integer_of(r, "max_connections", UNLIMITED),
        max_pending_requests=integer_of(r, "max_pending_requests", UNLIMITED),
        max_requests=integer_of(r, "max_requests", UNLIMITED),
        max_retries=integer_of(r, "max_retries", UNLIMITED, 0),
        retry_budget=parts.policy.limits.retry_budget,
    )
    parts.policy = replace(parts.policy, limits=limits)
    finish(r, "limits")


def _connection(r: Reader) -> ConnectionOptions:
    keepalive = r.field("keepalive")
    options = ConnectionOptions(
        connect_timeout_s=seconds_of(r, "connect_timeout", 10.0),
        idle_timeout_s=limit_of(r, "idle_timeout", 3600.0),
        max_duration_s=limit_of(r, "max_duration", None),
        max_requests=integer_of(r, "max_requests", 0, 0),
        keepalive=_keepalive(keepalive) if keepalive is not None else None,
        proxy_protocol=_proxy_protocol(r),
        resend_stale=flag_of(r, "resend_stale"),
    )
    finish(r, "connection")
    return options


def _proxy_protocol(r: Reader) -> Literal["", "v1", "v2"]:
    field = r.field("proxy_protocol")
    word = field.string(("v1", "v2")) if field is not None else None
    return "v2" if word == "v2" else "v1" if word == "v1" else ""


def _keepalive(r: Reader) -> TcpKeepalive:
    probes = r.field("probes")
    count = probes.integer(1, 127) if probes is not None else None
    time_s, interval_s = _whole_seconds(r, "time"), _whole_seconds(r, "interval")
    finish(r, "keepalive")
    return TcpKeepalive(count, time_s, interval_s)


def _whole_seconds(r: Reader, name: str) -> float | None:
    child = r.field(name)
    value = child.go_duration(1.0) if child is not None else None
    if child is not None and value is not None and value != int(value):
        child.error("the operating system counts whole seconds here")
    return value


def _circuit_breaker(r: Reader) -> CircuitBreaker:
    breaker = CircuitBreaker(
        integer_of(r, "consecutive_failures", 5), seconds_of(r, "open_for", 30.0)
    )
    finish(r, "circuit_breaker")
    return breaker


def _outlier_detection(r: Reader) -> OutlierDetection:
    split = flag_of(r, OUTLIER_FLAG)
    local = r.field("consecutive_local_origin_failure")
    if local is not None and not split:
        local.error(f"has no effect without {OUTLIER_FLAG}: true")
    detection = OutlierDetection(
        consecutive_5xx=integer_of(r, "consecutive_5xx", 5, 0) or None,
        consecutive_gateway_failure=integer_of(r, "consecutive_gateway_failure", 0, 0) or None,
        split_external_local_origin_errors=split,
        consecutive_local_origin_failure=integer_of(r, "consecutive_local_origin_failure", 5),
        interval_s=seconds_of(r, "interval", 10.0),
        base_ejection_time_s=seconds_of(r, "base_ejection_time", 30.0),
        max_ejection_time_s=seconds_of(r, "max_ejection_time", 300.0),
        max_ejection_percent=integer_of(r, "max_ejection_percent", 10, 0, 100),
        min_health_percent=integer_of(r, "min_health_percent", 0, 0, 100),
    )
    if detection.base_ejection_time_s > detection.max_ejection_time_s:
        r.warning("base_ejection_time is more than max_ejection_time")
    finish(r, "outlier_detection")
    return detection


def _tls(r: Reader, parts: PolicyParts) -> None:
    parts.policy = replace(parts.policy, tls=read_tls(r))
