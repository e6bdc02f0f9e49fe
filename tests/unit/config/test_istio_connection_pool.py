"""Every field of ``connectionPool``: honoured, or listed as not honoured."""

from __future__ import annotations

import pytest
from istio_yaml import destination_rule, service, translate

from meshclient.model.cluster import Cluster, ConnectionOptions, Limits, TcpKeepalive

_TCP = (
    "{maxConnections: 100, connectTimeout: 2s, maxConnectionDuration: 10m, idleTimeout: 5m, "
    "tcpKeepalive: {probes: 3, time: 30s, interval: 5s}}"
)
_HTTP = (
    "{http1MaxPendingRequests: 10, http2MaxRequests: 20, maxRequestsPerConnection: 1000, "
    "maxRetries: 3, idleTimeout: 1m, h2UpgradePolicy: UPGRADE, useClientProtocol: false, "
    "maxConcurrentStreams: 50, http2KeepAlive: {interval: 20s, timeout: 4s}}"
)
COMPLETE = f"trafficPolicy: {{connectionPool: {{tcp: {_TCP}, http: {_HTTP}}}}}"


def cluster_of(policy: str) -> Cluster:
    ports = "[{port: 80, name: http}]"
    made = translate(service("a", ports=ports), destination_rule("dr", "a", policy))
    assert made.errors == []
    return made.cluster("80||a.default.svc.cluster.local")


def test_a_complete_block() -> None:
    cluster = cluster_of(COMPLETE)
    assert cluster.policy.limits == Limits(100, 10, 20, 3)
    assert cluster.policy.connection == ConnectionOptions(
        connect_timeout_s=2.0,
        idle_timeout_s=60.0,
        max_duration_s=600.0,
        max_requests=1000,
        keepalive=TcpKeepalive(3, 30.0, 5.0),
        ping_interval_s=20.0,
        ping_timeout_s=4.0,
        max_concurrent_streams=50,
    )
    assert cluster.protocol == "h2"
    assert cluster.not_honoured == ()


def http(field: str) -> Cluster:
    return cluster_of(f"trafficPolicy: {{connectionPool: {{http: {{{field}}}}}}}")


def test_the_only_field_that_nothing_acts_on_is_listed() -> None:
    (note,) = http("useClientProtocol: true").not_honoured
    assert "useClientProtocol" in note.message


@pytest.mark.parametrize(
    "field",
    [
        "http1MaxPendingRequests",
        "http2MaxRequests",
        "maxRetries",
        "maxRequestsPerConnection",
        "maxConcurrentStreams",
    ],
)
def test_nought_is_not_set(field: str) -> None:
    policy = http(f"{field}: 0").policy
    assert (policy.limits, policy.connection) == (Limits(), ConnectionOptions())


def test_the_idle_time_of_http_goes_before_that_of_tcp() -> None:
    pool = "{tcp: {idleTimeout: 5m}, http: {maxRetries: 1}}"
    cluster = cluster_of(f"trafficPolicy: {{connectionPool: {pool}}}")
    assert cluster.policy.connection.idle_timeout_s == 300.0
