"""Active health checks of the native file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from meshclient.config import load_documents, load_paths
from meshclient.errors import ConfigError
from meshclient.model.cluster import ClusterPolicy
from meshclient.model.endpoint import DnsSource, Endpoint
from meshclient.model.health import HealthCheck
from meshclient.model.snapshot import MeshConfig

DOCS = Path(__file__).parents[3] / "docs" / "health-checks.md"


def load(**service: Any) -> MeshConfig:
    entry = {"endpoints": ["127.0.0.1:80"], **service}
    return load_documents([{"version": 1, "services": {"a": entry}}])


def policy(**service: Any) -> ClusterPolicy:
    loaded = load(**service)
    assert loaded.diagnostics == ()
    return loaded.clusters["a"].policy


def one(**check: Any) -> HealthCheck:
    (found,) = policy(health_check=check).health_checks
    return found


def complaints(**service: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(**service)
    return str(caught.value)


def test_defaults_are_envoys_and_the_three_kinds_have_short_forms() -> None:
    assert one(http="/healthz") == HealthCheck("http", path="/healthz")
    assert one(http={}) == HealthCheck("http")
    assert one(tcp={}) == HealthCheck("tcp")
    assert one(grpc={}) == HealthCheck("grpc")
    assert one(grpc="a.v1.B") == HealthCheck("grpc", service="a.v1.B")


def test_every_field() -> None:
    common = {
        "name": "n",
        "port": 81,
        "timeout": "2s",
        "interval": "3s",
        "unhealthy_threshold": 4,
        "healthy_threshold": 5,
        "reuse_connection": False,
        "initial_jitter": "1s",
        "interval_jitter": "6ms",
        "interval_jitter_percent": 7,
        "no_traffic_interval": "8s",
        "no_traffic_healthy_interval": "9s",
        "unhealthy_interval": "10s",
        "unhealthy_edge_interval": "11s",
        "healthy_edge_interval": "12s",
    }
    expected = HealthCheck(
        "tcp",
        name="n",
        port=81,
        timeout_s=2.0,
        interval_s=3.0,
        unhealthy_threshold=4,
        healthy_threshold=5,
        reuse_connection=False,
        initial_jitter_s=1.0,
        interval_jitter_s=0.006,
        interval_jitter_percent=7,
        no_traffic_interval_s=8.0,
        no_traffic_healthy_interval_s=9.0,
        unhealthy_interval_s=10.0,
        unhealthy_edge_interval_s=11.0,
        healthy_edge_interval_s=12.0,
        send=b"PING\r\n",
        receive=(b"PONG", b"\x00\xff"),
    )
    tcp = {"send": "PING\r\n", "receive": ["PONG", {"hex": "00FF"}]}
    assert one(tcp=tcp, **common) == expected


def test_http_fields() -> None:
    assert one(
        http={
            "path": "/é",
            "method": "POST",
            "host": "x.test",
            "headers": {"X-Probe": "é"},
            "expected_statuses": [200, "300-399", "404"],
            "retriable_statuses": "500-599",
            "receive": "ok",
        }
    ) == HealthCheck(
        "http",
        path="/Ã©",
        method="POST",
        host="x.test",
        headers=(("x-probe", "Ã©"),),
        expected_statuses=((200, 201), (300, 400), (404, 405)),
        retriable_statuses=((500, 600),),
        receive=(b"ok",),
    )


def test_grpc_fields() -> None:
    grpc = {"service_name": "a.B", "authority": "x.test", "metadata": {"x-a": "b"}}
    expected = HealthCheck("grpc", service="a.B", host="x.test", headers=(("x-a", "b"),))
    assert one(grpc=grpc) == expected


def test_several_checks_and_the_clusters_own_settings() -> None:
    found = policy(
        health_checks=[{"name": "x", "tcp": {}}, {"name": "y", "grpc": {}}],
        ignore_health_on_host_removal=True,
        ignore_new_hosts_until_first_hc=True,
    )
    assert [(c.name, c.kind) for c in found.health_checks] == [("x", "tcp"), ("y", "grpc")]
    assert found.ignore_health_on_host_removal
    assert found.ignore_new_hosts_until_first_hc


def test_a_subset_has_its_services_checks_unless_it_has_its_own() -> None:
    loaded = load(
        health_check={"tcp": {}},
        ignore_health_on_host_removal=True,
        subsets={
            "same": {"labels": {"v": "1"}},
            "own": {"labels": {"v": "2"}, "health_check": {"grpc": {}}},
            "none": {"labels": {"v": "3"}, "health_checks": []},
        },
    )
    kinds = {
        name: [check.kind for check in cluster.policy.health_checks]
        for name, cluster in loaded.clusters.items()
    }
    by_subset = {cluster.subset: kinds[name] for name, cluster in loaded.clusters.items()}
    assert by_subset == {"": ["tcp"], "same": ["tcp"], "own": ["grpc"], "none": []}
    assert all(c.policy.ignore_health_on_host_removal for c in loaded.clusters.values())


def test_what_an_endpoint_says_of_its_checks() -> None:
    entries = [
        {"address": "h:1", "health_check": False},
        {"address": "h:2", "health_check": True},
        {"address": "h:3", "health_check": {"port": 81, "hostname": "x.test"}},
    ]
    asked = load(endpoints=entries).clusters["a"].endpoints
    assert asked == (
        Endpoint("h", 1, health_check=False),
        Endpoint("h", 2),
        Endpoint("h", 3, health_check_port=81, health_check_hostname="x.test"),
    )
    source = load(endpoints=None, dns=entries[2:]).clusters["a"].discovery
    assert isinstance(source, DnsSource)
    assert source.targets[0].health_check_port == 81


@pytest.mark.parametrize(
    ("check", "message"),
    [
        ({}, "how to check is missing (add http: {path: /healthz}, tcp: {} or grpc: {})"),
        ({"http": {}, "tcp": {}}, 'give only one of "http" and "tcp"'),
        ({"http": {}, "intervall": "1s"}, '(did you mean "interval"?)'),
        ({"http": {"path": "healthz"}}, "a path begins with /"),
        ({"http": {"path": "/a b"}}, "no spaces or control characters"),
        ({"http": {"method": "CONNECT"}}, 'unknown value "CONNECT"'),
        ({"http": {"method": "HEAD", "receive": "x"}}, "an answer to HEAD has no body"),
        ({"http": {"receive": "x" * 1025}}, "only the first 1024 bytes"),
        ({"http": {"expected_statuses": [99]}}, "expected_statuses[0]"),
        ({"http": {"expected_statuses": 600}}, "expected_statuses"),
        ({"http": {"expected_statuses": []}}, "must not be empty"),
        ({"http": {"expected_statuses": "2xx"}}, "is no status and no range of them"),
        ({"http": {"retriable_statuses": "299-200"}}, "no status is in 299-200 (200-299)"),
        (
            {"http": {"headers": {"Host": "x"}}},
            "Host cannot be set here (host: ... names the host)",
        ),
        ({"http": {"headers": {"x y": "x"}}}, "is not a header name"),
        ({"http": {"headers": {"x": "a\nb"}}}, "cannot contain line breaks"),
        ({"tcp": {"send": ""}}, "must not be empty"),
        ({"tcp": {"receive": {"hex": "abc"}}}, "pairs of hexadecimal digits"),
        ({"tcp": {"receive": {"hax": "ab"}}}, '"hex" is missing'),
        ({"grpc": {"service": "x"}}, '(did you mean "service_name"?)'),
        ({"tcp": {}, "interval": 0}, "health_check.interval"),
        ({"tcp": {}, "timeout": "0s"}, "health_check.timeout"),
        ({"tcp": {}, "healthy_threshold": 0}, "health_check.healthy_threshold"),
        ({"tcp": {}, "interval_jitter_percent": 101}, "interval_jitter_percent"),
        ({"tcp": {}, "port": 0}, "health_check.port"),
        (5, "expected a mapping"),
    ],
)
def test_mistakes(check: Any, message: str) -> None:
    assert message in complaints(health_check=check)


@pytest.mark.parametrize(
    ("service", "message"),
    [
        ({"health_check": {"tcp": {}}, "health_checks": []}, "give only one of"),
        ({"health_checks": {"tcp": {}}}, "expected a list"),
        ({"health_checks": [{"tcp": {}}, {"grpc": {}}]}, "several checks need names"),
        (
            {"health_checks": [{"name": "x", "tcp": {}}, {"name": "x", "grpc": {}}]},
            "health_checks[1]: a second check named 'x'",
        ),
        ({"health_checks": [{"name": f"{i}", "tcp": {}} for i in range(17)]}, "at most 16 checks"),
        ({"endpoints": [{"address": "h:1", "health_check": "no way"}]}, "health_check"),
        (
            {"endpoints": [{"address": "unix:///x", "health_check": {"port": 1}}]},
            "a unix socket has no port",
        ),
    ],
)
def test_mistakes_around_the_checks(service: Any, message: str) -> None:
    assert message in complaints(**service)


@pytest.mark.parametrize(
    ("check", "message"),
    [
        ({"tcp": {}, "timeout": "6s"}, "may take longer (6 s) than the interval (5 s)"),
        ({"tcp": {"send": "x"}}, "the check only connects"),
    ],
)
def test_what_is_suspicious_is_said(check: Any, message: str) -> None:
    (found,) = load(health_check=check).diagnostics
    assert found.severity == "warning"
    assert message in found.message


def test_the_example_of_the_documentation(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    (tmp_path / "policy.yaml").write_text(example)
    loaded = load_paths(tmp_path)
    assert loaded.diagnostics == ()
    kinds = [c.policy.health_checks[0].kind for c in loaded.clusters.values()]
    assert sorted(kinds) == ["grpc", "http", "tcp"]
