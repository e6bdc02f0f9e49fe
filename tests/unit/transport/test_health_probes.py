"""Active checks without their I/O: what an answer means, and when two checks are one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshclient.model.cluster import Cluster, ClusterPolicy, ConnectionOptions, Limits, TlsSettings
from meshclient.model.endpoint import Endpoint
from meshclient.model.health import HealthCheck
from meshclient.model.protobuf import bytes_field
from meshclient.transport import health_probe_grpc, health_probe_http
from meshclient.transport.health_probe import authority_of, make_probe, probe_key
from meshclient.transport.health_probe_grpc import framed, request_message, serving_status
from meshclient.transport.health_probe_http import holds

HTTP = HealthCheck("http", retriable_statuses=((429, 430), (500, 503)), receive=(b"o", b"k"))
IMMEDIATE = (b"X-Envoy-Immediate-Health-Check-Fail", b"")
DEGRADED = (b"x-envoy-degraded", b"")


@pytest.mark.parametrize(
    ("status", "headers", "body", "kind", "degraded", "immediate"),
    [
        (200, [], b"ok", "passed", False, False),
        (200, [DEGRADED], b"ok", "passed", True, False),
        (200, [IMMEDIATE], b"ok", "passed", False, False),
        (199, [], b"ok", "failed", False, False),
        (201, [], b"ok", "failed", False, False),
        (429, [], b"ok", "retriable", False, False),
        (430, [], b"ok", "failed", False, False),
        (502, [IMMEDIATE], b"ok", "retriable", False, True),
        (503, [IMMEDIATE], b"ok", "failed", False, True),
        # The wrong body is final, whatever the status.
        (429, [], b"ko", "failed", False, False),
        (200, [IMMEDIATE, DEGRADED], b"", "failed", False, True),
    ],
)
def test_http(
    status: int, headers: Any, body: bytes, kind: str, degraded: bool, immediate: bool
) -> None:
    result = health_probe_http.judge(HTTP, status, headers, body)
    found = (result.kind, result.degraded, result.immediate_failure)
    assert found == (kind, degraded, immediate)
    assert bool(result.why) == (not result.passed)


@pytest.mark.parametrize(
    ("data", "segments", "expected"),
    [
        (b"", (), True),
        (b"abc", (b"a", b"c"), True),
        (b"abc", (b"c", b"a"), False),
        (b"aa", (b"a", b"a"), True),
        (b"a", (b"a", b"a"), False),
        (b"aba", (b"ab", b"ba"), False),
    ],
)
def test_segments_stand_one_behind_the_other(
    data: bytes, segments: tuple[bytes, ...], expected: bool
) -> None:
    assert holds(data, segments) is expected


# -- gRPC

GRPC = [(b"content-type", b"application/grpc")]
OK = [(b"grpc-status", b"0")]
SERVING = framed(b"\x08\x01")


@pytest.mark.parametrize(
    ("status", "headers", "body", "trailers", "why"),
    [
        (200, GRPC, SERVING, OK, ""),
        (200, [(b"Content-Type", b"application/grpc+proto")], SERVING, OK, ""),
        (200, GRPC, framed(b"") + SERVING, OK, ""),
        (200, GRPC, framed(b"\x08\x02"), OK, "NOT_SERVING"),
        (200, GRPC, framed(b"\x08\x00"), OK, "UNKNOWN"),
        (200, GRPC, framed(b""), OK, "UNKNOWN"),
        (200, GRPC, b"", OK, "UNKNOWN"),
        (200, GRPC, framed(b"\x08\x07"), OK, "serving status 7"),
        (200, GRPC, SERVING, [(b"grpc-status", b"5")], "gRPC status 5"),
        (200, [*GRPC, (b"grpc-status", b"12")], b"", [], "gRPC status 12"),
        (404, [*GRPC, (b"grpc-status", b"5")], b"", [], "gRPC status 5"),
        (503, [], b"", [], "HTTP status 503 without a gRPC status"),
        (503, GRPC, SERVING, OK, "HTTP status 503"),
        (200, GRPC, SERVING, [], "HTTP status 200 without a gRPC status"),
        (200, [(b"content-type", b"text/html")], SERVING, OK, "the answer is not gRPC"),
        (200, [(b"content-type", b"application/grpcx")], SERVING, OK, "the answer is not gRPC"),
        (200, GRPC, SERVING + SERVING, OK, "more than one message"),
        (200, GRPC, SERVING[:-1], OK, "a gRPC frame that cannot be read"),
        (200, GRPC, b"\x01" + SERVING[1:], OK, "a gRPC frame that cannot be read"),
        (200, GRPC, b"\x00\x00", OK, "half a gRPC frame"),
        (200, GRPC, framed(b"\x08"), OK, "half a protobuf message"),
        (200, GRPC, framed(b"\x0f"), OK, "not a protobuf message"),
    ],
)
def test_grpc(status: int, headers: Any, body: bytes, trailers: Any, why: str) -> None:
    result = health_probe_grpc.judge(status, headers, body, trailers)
    assert result.passed == (why == "")
    assert result.kind in ("passed", "failed"), "any answer is final"
    assert result.why.startswith(why)


@given(st.text(max_size=300))
def test_the_request_is_what_protobuf_writes(service: str) -> None:
    from grpc_health.v1 import health_pb2

    expected = health_pb2.HealthCheckRequest(service=service).SerializeToString()
    assert request_message(service) == expected


@given(st.integers(0, 3), st.binary(max_size=20), st.integers(2, 1000))
def test_the_answer_is_read_as_protobuf_reads_it(status: int, extra: bytes, field: int) -> None:
    from grpc_health.v1 import health_pb2

    message = health_pb2.HealthCheckResponse(status=status).SerializeToString()
    unknown = bytes_field(field, extra)
    for body in (message + unknown, unknown + message):
        assert serving_status(framed(body)) == status


@given(st.binary(max_size=60))
def test_garbage_raises_nothing_but_value_error(body: bytes) -> None:
    for data in (body, framed(body)):
        with suppress(ValueError):
            assert serving_status(data) >= 0


# -- when two checks are one

CHECK = HealthCheck("http")
ENDPOINT = Endpoint("10.0.0.1", 80)
PLAIN = Cluster("a/v1", service="a", subset="v1")
TLS = replace(PLAIN, policy=ClusterPolicy(tls=TlsSettings("simple")))


def with_policy(**parts: Any) -> Cluster:
    return replace(PLAIN, policy=ClusterPolicy(**parts))


@pytest.mark.parametrize(
    ("cluster", "endpoint", "check", "same"),
    [
        (PLAIN, ENDPOINT, CHECK, True),
        (replace(PLAIN, name="a", subset=""), ENDPOINT, CHECK, True),
        (with_policy(limits=Limits(max_requests=1)), ENDPOINT, CHECK, True),
        (PLAIN, replace(ENDPOINT, weight=9), CHECK, True),
        (PLAIN, replace(ENDPOINT, port=81), replace(CHECK, port=0), False),
        (PLAIN, replace(ENDPOINT, address="10.0.0.2"), CHECK, False),
        (PLAIN, replace(ENDPOINT, health_check_port=81), CHECK, False),
        (PLAIN, replace(ENDPOINT, health_check_hostname="x"), CHECK, False),
        (PLAIN, ENDPOINT, replace(CHECK, path="/x"), False),
        (PLAIN, ENDPOINT, replace(CHECK, interval_s=9.0), False),
        (replace(PLAIN, service="b"), ENDPOINT, CHECK, False),
        (replace(PLAIN, protocol="h2"), ENDPOINT, CHECK, False),
        (TLS, ENDPOINT, CHECK, False),
        (with_policy(proxy="http://10.0.0.9:3128"), ENDPOINT, CHECK, False),
        (
            with_policy(connection=ConnectionOptions(proxy_protocol="v2")),
            ENDPOINT,
            CHECK,
            False,
        ),
    ],
)
def test_the_key(cluster: Cluster, endpoint: Endpoint, check: HealthCheck, same: bool) -> None:
    mine = probe_key(PLAIN, ENDPOINT, CHECK)
    assert (probe_key(cluster, endpoint, check) == mine) is same


@pytest.mark.parametrize(
    ("endpoint", "check", "expected"),
    [
        (ENDPOINT, CHECK, "a"),
        (ENDPOINT, replace(CHECK, host="check.test"), "check.test"),
        (
            replace(ENDPOINT, health_check_hostname="endpoint.test"),
            replace(CHECK, host="check.test"),
            "endpoint.test",
        ),
        # A name for rewrites is none for checks.
        (replace(ENDPOINT, hostname="pod.test"), CHECK, "a"),
    ],
)
def test_the_host_that_is_named(endpoint: Endpoint, check: HealthCheck, expected: str) -> None:
    assert authority_of(PLAIN, endpoint, check) == expected
    assert authority_of(Cluster("only"), ENDPOINT, CHECK) == "only"


def port_of(endpoint: Endpoint, check: HealthCheck) -> int:
    return make_probe(PLAIN, endpoint, check, "").target.port


def test_the_port_that_is_asked() -> None:
    elsewhere = replace(CHECK, port=81)
    assert port_of(ENDPOINT, CHECK) == 80
    assert port_of(ENDPOINT, elsewhere) == 81
    assert port_of(replace(ENDPOINT, health_check_port=82), elsewhere) == 82


@pytest.mark.parametrize("kind", ["http", "tcp", "grpc"])
@pytest.mark.parametrize(
    ("cluster", "refusal", "why"),
    [
        (PLAIN, "the policy cannot be honoured", "the policy cannot be honoured"),
        (TLS, "the policy cannot be honoured", "the policy cannot be honoured"),
    ],
)
def test_what_must_not_be_spoken_to_is_not(
    kind: Any, cluster: Cluster, refusal: str, why: str
) -> None:
    probe = make_probe(cluster, ENDPOINT, replace(CHECK, kind=kind), refusal)
    result = asyncio.run(probe.run())
    assert (result.kind, result.why) == ("network", why)


@pytest.mark.parametrize(
    ("cluster", "kind", "protocol"),
    [
        (PLAIN, "http", "http1"),
        (replace(PLAIN, protocol="h2"), "http", "h2"),
        (PLAIN, "grpc", "h2"),
        (replace(PLAIN, protocol="h2"), "tcp", "http1"),
    ],
)
def test_the_protocol(cluster: Cluster, kind: Any, protocol: str) -> None:
    make: Callable[..., Any] = make_probe
    assert make(cluster, ENDPOINT, replace(CHECK, kind=kind), "").target.protocol == protocol
