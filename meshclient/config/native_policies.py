"""The cluster-level policies of the native file: balancing, limits, connections, TLS ...

Reader to :class:`ClusterPolicy`. What nothing acts on yet is noted in ``notes``
and kept in the model. Knows nothing of routes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, cast

from meshclient.config.native_balancing import read_policy_settings, warn_of_others
from meshclient.config.native_breaker import read_circuit_breaker
from meshclient.config.native_hashing import read_hash_on, read_hash_settings
from meshclient.config.native_health import read_health
from meshclient.config.native_limits import read_limits
from meshclient.config.native_outlier import read_outlier_detection
from meshclient.config.native_proxy import read_proxy
from meshclient.config.native_shapes import LB_POLICIES
from meshclient.config.native_tls import read_tls
from meshclient.config.native_topology import (
    read_locality_weights,
    read_panic_threshold,
    read_topology,
)
from meshclient.config.native_values import (
    finish,
    flag_of,
    integer_of,
    limit_of,
    required,
    seconds_of,
)
from meshclient.config.reader import Reader
from meshclient.model.cluster import (
    ClusterPolicy,
    ConnectionOptions,
    LbPolicy,
    LoadBalancing,
    LocalityWeight,
    TcpKeepalive,
)
from meshclient.model.load_balancing import HASH_POLICIES
from meshclient.model.routes import HashPolicy
from meshclient.model.source import Diagnostic

Notes = dict[str, Diagnostic]

#: Most connections that ``warm_up`` may keep to one endpoint.
MAX_WARM_UP = 64


@dataclass(slots=True)
class PolicyParts:
    """A cluster policy on its way: with the hash keys and the notes that go with it."""

    policy: ClusterPolicy = field(default_factory=ClusterPolicy)
    hash_policy: tuple[HashPolicy, ...] = ()
    locality_weights: tuple[LocalityWeight, ...] = ()
    notes: Notes = field(default_factory=dict)


def read_cluster_policy(r: Reader, base: PolicyParts, *, in_subset: bool = False) -> PolicyParts:
    """The policy blocks of a service or subset; a block that is given replaces the base's."""
    parts = PolicyParts(base.policy, base.hash_policy, base.locality_weights, dict(base.notes))
    if (child := r.field("load_balancing")) is not None:
        if not in_subset:  # what is hashed is said by the service, for its subsets, too
            parts.hash_policy = ()
        _load_balancing(child, parts)
    if (child := r.field("limits")) is not None:
        parts.policy = read_limits(child, parts.policy)
    if (child := r.field("connection")) is not None:
        parts.policy = replace(parts.policy, connection=_connection(child))
    if (child := r.field("circuit_breaker")) is not None:
        breaker = read_circuit_breaker(child, "subset" if in_subset else "service")
        parts.policy = replace(parts.policy, circuit_breaker=breaker)
    if (child := r.field("outlier_detection")) is not None:
        parts.policy = replace(parts.policy, outlier_detection=read_outlier_detection(child))
    parts.policy = read_health(r, parts.policy)
    parts.policy = _with_min_health(parts.policy)
    if (child := r.field("tls")) is not None:
        _tls(child, parts)
    if (child := r.field("proxy")) is not None:
        parts.policy = replace(parts.policy, proxy=read_proxy(child))
    return parts


def _load_balancing(r: Reader, parts: PolicyParts) -> None:
    if not r.is_mapping:
        name = r.string(LB_POLICIES)
        balancing = LoadBalancing(policy=cast(LbPolicy, name or "least_request"))
        hash_reader = None
    else:
        policy_reader = r.field("policy")
        name = policy_reader.string(LB_POLICIES) if policy_reader is not None else None
        balancing = _balancing_details(r, cast(LbPolicy, name or "least_request"))
        warn_of_others(r, balancing)
        _topology(r, parts)
        balancing = read_policy_settings(r, balancing)
        hash_reader = r.field("hash_on")
        finish(r, "load_balancing")
    if hash_reader is not None:
        parts.hash_policy = read_hash_on(hash_reader)
    parts.policy = replace(parts.policy, load_balancing=balancing)
    if balancing.policy in HASH_POLICIES and not parts.hash_policy:
        r.warning(
            f"{balancing.policy} without hash_on picks at random",
            suggestion="add hash_on: {header: ...}",
        )


def _with_min_health(policy: ClusterPolicy) -> ClusterPolicy:
    """Istio's min_health_percent is the panic threshold, unless that is given itself."""
    detection = policy.outlier_detection
    given = policy.panic_threshold_percent != ClusterPolicy().panic_threshold_percent
    if detection is None or not detection.min_health_percent or given:
        return policy
    return replace(policy, panic_threshold_percent=detection.min_health_percent)


def _topology(r: Reader, parts: PolicyParts) -> None:
    topology, threshold = read_topology(r), read_panic_threshold(r)
    parts.locality_weights = read_locality_weights(r, topology)
    parts.policy = replace(
        parts.policy,
        topology=topology,
        panic_threshold_percent=50 if threshold is None else threshold,
    )


def _balancing_details(r: Reader, policy: LbPolicy) -> LoadBalancing:
    method = r.field("selection_method")
    word = method.string(("n_choices", "full_scan")) if method is not None else None
    bias_reader = r.field("active_request_bias")
    bias = bias_reader.number(0, 100) if bias_reader is not None else None
    balancing = LoadBalancing(
        policy=policy,
        choice_count=integer_of(r, "choice_count", 2, 2, 100),
        active_request_bias_milli=1000 if bias is None else round(bias * 1000),
        full_scan=word == "full_scan",
    )
    balancing = read_hash_settings(r, balancing)
    slow_start = r.field("slow_start")
    if slow_start is None:
        return balancing
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
        preconnect_ratio=_preconnect_ratio(r),
        warm_up=integer_of(r, "warm_up", 0, 0, MAX_WARM_UP),
        max_concurrent_streams=integer_of(r, "max_concurrent_streams", 0, 0, 2**31 - 1),
        max_response_header_kb=integer_of(r, "max_response_header_kb", 80, 1, 8192),
        max_response_headers=integer_of(r, "max_response_headers", 100),
    )
    finish(r, "connection")
    return options


def _preconnect_ratio(r: Reader) -> float:
    """Envoy's bounds."""
    field = r.field("preconnect_ratio")
    ratio = field.number(1, 3) if field is not None else None
    return 1.0 if ratio is None else ratio


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


def _tls(r: Reader, parts: PolicyParts) -> None:
    parts.policy = replace(parts.policy, tls=read_tls(r))
