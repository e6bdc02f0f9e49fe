"""Native cluster policies, retries and the terms of a call: values, defaults, mistakes, notes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from meshclient.config import load_documents, load_paths
from meshclient.errors import ConfigError
from meshclient.model.cluster import (
    UNLIMITED,
    CircuitBreaker,
    Cluster,
    ConnectionOptions,
    Limits,
    LoadBalancing,
    OutlierDetection,
    SanMatcher,
    TcpKeepalive,
    TlsSettings,
)
from meshclient.model.hedging import Comparison, Hedging
from meshclient.model.matching import Fraction, HeaderMatch, StringMatch
from meshclient.model.retry import (
    IDEMPOTENT_METHODS,
    BackOff,
    RateLimitedBackOff,
    ResetHeader,
    RetryBudget,
    RetryPolicy,
)
from meshclient.model.routes import Fault, ForwardAction, HashPolicy, Mirror, Route
from meshclient.model.snapshot import ANY_PORT, MeshConfig
from meshclient.model.source import NOT_HONOURED


def load(**service: Any) -> MeshConfig:
    services = {"a": {"endpoints": ["h:1"], **service}, "b": {"endpoints": ["h:2"]}}
    return load_documents([{"version": 1, "services": services}])


def cluster(**service: Any) -> Cluster:
    return load(**service).clusters["a"]


def route(**service: Any) -> Route:
    return load(**service).route_configurations[ANY_PORT].virtual_hosts[0].routes[0]


def action(**service: Any) -> ForwardAction:
    found = route(**service).action
    assert isinstance(found, ForwardAction)
    return found


def retry(**block: Any) -> RetryPolicy:
    found = action(retries=block).retry
    assert found is not None
    return found


def problem(**service: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(**service)
    return "\n".join(str(d) for d in caught.value.diagnostics)


def notes(found: Cluster | Route) -> list[str]:
    assert all(n.code == NOT_HONOURED for n in found.not_honoured)
    return [n.message.partition(":")[0] for n in found.not_honoured]


def test_load_balancing() -> None:
    assert cluster().policy.load_balancing == LoadBalancing()
    assert cluster(load_balancing="random").policy.load_balancing.policy == "random"
    full = {"policy": "least_request", "choice_count": 5, "active_request_bias": 0.5}
    assert cluster(load_balancing=full).policy.load_balancing == LoadBalancing(
        choice_count=5, active_request_bias_milli=500
    )
    assert notes(cluster(load_balancing="round_robin")) == []


def test_slow_start_and_hash_keys() -> None:
    block = {
        "hash_on": [
            {"header": "X-User", "terminal": True},
            {"cookie": "c", "ttl": "0s", "path": "/"},
            {"query": "q"},
            {"source_ip": True},
        ],
        "slow_start": {"window": "30s", "minimum_percent": 5, "aggression": 2},
    }
    loaded = load(load_balancing=block)
    balancing = loaded.clusters["a"].policy.load_balancing
    assert balancing.slow_start_s == 30.0
    assert (balancing.slow_start_minimum_percent, balancing.slow_start_aggression) == (5, 2)
    assert notes(loaded.clusters["a"]) == []
    found = action(load_balancing=block)
    assert found.hash_policy == (
        HashPolicy("header", "x-user", terminal=True),
        HashPolicy("cookie", "c", 0.0, "/"),
        HashPolicy("query", "q"),
        HashPolicy("source_ip"),
    )
    assert notes(route(load_balancing=block)) == []


def test_a_hash_policy_without_a_key_is_suspicious() -> None:
    (warning,) = [d for d in load(load_balancing="maglev").diagnostics if d.severity == "warning"]
    assert "picks at random" in warning.message


def test_limits_and_budget() -> None:
    assert cluster().policy.limits == Limits()
    found = cluster(limits={"max_retries": 0}, retries={"budget": {}})
    assert found.policy.limits == Limits(max_retries=0, retry_budget=RetryBudget())
    assert notes(found) == []
    budget = {"percent": 25, "min_concurrency": 0, "min_per_second": 1.5, "interval": "10s"}
    limits = cluster(retries={"budget": budget}).policy.limits
    assert limits.retry_budget == RetryBudget(25.0, 0, 10.0, 1.5)
    noted = cluster(limits={"max_connections": 1, "max_requests": 2, "max_pending_requests": 3})
    assert noted.policy.limits == Limits(1, 3, 2, UNLIMITED)
    assert notes(noted) == []


def test_connection() -> None:
    assert cluster().policy.connection == ConnectionOptions()
    block = {
        "connect_timeout": "1s",
        "idle_timeout": "0s",
        "max_duration": "10m",
        "max_requests": 100,
        "keepalive": {"probes": 3, "time": "30s", "interval": "10s"},
    }
    found = cluster(connection=block)
    keepalive = TcpKeepalive(3, 30.0, 10.0)
    assert found.policy.connection == ConnectionOptions(1.0, None, 600.0, 100, keepalive)
    assert notes(found) == []


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_proxy_protocol(version: str) -> None:
    found = cluster(connection={"proxy_protocol": version})
    assert found.policy.connection == ConnectionOptions(proxy_protocol=version)  # type: ignore[arg-type]
    assert notes(found) == []


def test_the_breaker_and_outlier_detection_are_honoured() -> None:
    found = cluster(
        circuit_breaker={"consecutive_failures": 3, "open_for": "5s"},
        outlier_detection={"consecutive_5xx": 0, "consecutive_gateway_failure": 3},
    )
    assert found.policy.circuit_breaker == CircuitBreaker(3, 5.0)
    assert found.policy.outlier_detection == OutlierDetection(
        consecutive_5xx=None, consecutive_gateway_failure=3
    )
    assert notes(found) == []


def test_tls_is_kept_and_never_becomes_plain_text() -> None:
    block = {
        "mode": "mutual",
        "ca": "ca.pem",
        "certificate": "c.pem",
        "key": "k.pem",
        "subject_alt_names": ["x"],
        "sni": "s",
        "crl": "r.pem",
    }
    found = cluster(tls=block)
    assert found.policy.tls == TlsSettings(
        "mutual", "ca.pem", "c.pem", "k.pem", "", ("x",), "s", False, "r.pem"
    )
    assert notes(found) == []
    assert cluster(tls={"mode": "disable"}).policy.tls is None
    skipping = load(tls={"mode": "simple", "insecure_skip_verify": True})
    assert any("anybody can pretend" in d.message for d in skipping.diagnostics)


def test_names_of_the_server_may_be_matchers() -> None:
    names = ["a.test", {"prefix": "spiffe://x/", "type": "uri"}, {"regex": "b[0-9]+"}]
    found = cluster(tls={"mode": "simple", "subject_alt_names": names}).policy.tls
    assert found is not None
    assert found.expected_names == (
        SanMatcher("a.test"),
        SanMatcher("spiffe://x/", "prefix", "uri"),
        SanMatcher("b[0-9]+", "regex"),
    )
    assert [str(m) for m in found.expected_names] == [
        "a.test",
        "uri:prefix spiffe://x/",
        "regex b[0-9]+",
    ]


def test_paths_are_relative_to_their_file_and_a_missing_one_is_a_warning(tmp_path: Path) -> None:
    text = (
        "version: 1\nservices:\n  a:\n    endpoints: ['127.0.0.1:1']\n"
        "    tls: {mode: simple, ca: certs/ca.pem, crl: /etc/none.crl}\n"
    )
    (tmp_path / "policy.yaml").write_text(text)
    loaded = load_paths(tmp_path / "policy.yaml")
    ca = str(tmp_path / "certs" / "ca.pem")
    tls = loaded.clusters["a"].policy.tls
    assert tls is not None
    assert (tls.ca, tls.crl) == (ca, "/etc/none.crl")
    assert [d.message for d in loaded.diagnostics] == [
        f"{path} does not exist; calls are refused until it does" for path in (ca, "/etc/none.crl")
    ]


def test_a_subset_may_turn_its_services_tls_off_only_by_name() -> None:
    found = load(
        tls={"mode": "simple"},
        subsets={"v1": {"labels": {}}, "v2": {"labels": {}, "tls": {"mode": "disable"}}},
    ).clusters
    assert found["a/v1"].policy.tls == TlsSettings("simple")
    assert found["a/v2"].policy.tls is None


def test_without_a_retries_block_only_what_was_never_sent_is_repeated() -> None:
    found = action().retry
    assert found == RetryPolicy(
        retry_on=frozenset({"connect-failure", "refused-stream"}),
        num_retries=2,
        previous_hosts=True,
        host_attempts=5,
        methods=IDEMPOTENT_METHODS,
    )
    assert retry() == found
    assert action(retries={"attempts": 0}).retry is None


def test_a_per_try_timeout_outlives_attempts_zero() -> None:
    found = retry(attempts=0, per_try_timeout="1s")
    assert (found.num_retries, found.per_try_timeout_s) == (0, 1.0)


def test_retry_conditions() -> None:
    found = retry(on=["reset", 503, "429", "unavailable"])
    tokens = {"reset", "unavailable", "retriable-status-codes"}
    assert found.retry_on == tokens
    assert found.status_codes == {503, 429}


def test_a_loader_of_yaml_1_1_makes_on_a_boolean() -> None:
    document = {"version": 1, "services": {"a": {"dns": "h:1", "retries": {True: ["reset"]}}}}
    loaded = load_documents([document])
    first = loaded.route_configurations[ANY_PORT].virtual_hosts[0].routes[0].action
    assert isinstance(first, ForwardAction)
    assert first.retry is not None
    assert first.retry.retry_on == {"reset"}


def test_methods_add_to_the_idempotent_ones() -> None:
    assert retry(methods=["POST"]).methods == IDEMPOTENT_METHODS | {"POST"}
    assert retry(methods=[]).methods == IDEMPOTENT_METHODS
    assert retry(methods="any").methods is None


def test_the_rest_of_retries() -> None:
    found = retry(
        attempts=4,
        on=["retriable-headers"],
        per_try_timeout="500ms",
        per_try_idle_timeout="100ms",
        headers={"X-Again": {"present": True}},
        request_headers={"x-ok": "yes"},
        back_off={"base": "10ms"},
        retry_after={},
        previous_hosts=False,
        host_attempts=2,
    )
    assert found == RetryPolicy(
        retry_on=frozenset({"retriable-headers"}),
        num_retries=4,
        per_try_timeout_s=0.5,
        per_try_idle_timeout_s=0.1,
        headers=(HeaderMatch("x-again"),),
        request_headers=(HeaderMatch("x-ok", StringMatch("exact", "yes")),),
        back_off=BackOff(0.01, 0.1),
        rate_limited=RateLimitedBackOff((ResetHeader("retry-after"),), 300.0),
        previous_hosts=False,
        host_attempts=2,
        methods=IDEMPOTENT_METHODS,
    )


def test_retry_after_headers() -> None:
    block = {
        "headers": ["A", {"name": "B", "format": "unix_timestamp"}, {"name": "c"}],
        "max": "5s",
    }
    assert retry(retry_after=block).rate_limited == RateLimitedBackOff(
        (ResetHeader("a"), ResetHeader("b", "unix_timestamp"), ResetHeader("c")), 5.0
    )


def test_timeouts_and_their_inheritance() -> None:
    assert (action().timeout_s, action().idle_timeout_s) == (None, None)
    own = action(timeout="2s", idle_timeout="1s", routes=[{"timeout": "0s"}])
    assert (own.timeout_s, own.idle_timeout_s) == (None, 1.0)


def test_a_route_replaces_the_terms_of_its_service() -> None:
    service: dict[str, Any] = {
        "retries": {"attempts": 5},
        "fault": {"abort": {"status": 500}},
        "mirror": {"to": "b"},
        "hedging": {"delay": "10ms"},
        "load_balancing": {"hash_on": {"header": "x"}},
    }
    inherited = route(**service)
    assert isinstance(inherited.action, ForwardAction)
    assert inherited.action.mirrors == (Mirror("b"),)
    assert inherited.action.hedging == Hedging(0.01)
    assert notes(inherited) == []
    off = {"retries": {"attempts": 0}, "fault": {}, "mirror": [], "hedging": {}}
    changed = route(**service, routes=[{**off, "hash_on": {"query": "q"}}])
    assert isinstance(changed.action, ForwardAction)
    assert changed.action.retry is None
    assert changed.action.mirrors == ()
    assert changed.action.hedging is None
    assert changed.action.hash_policy == (HashPolicy("query", "q"),)
    assert changed.fault is None
    assert notes(changed) == []


def test_faults_by_header_have_a_bound_and_no_terms_of_their_own() -> None:
    share = Fraction(25)
    fault = route(fault={"by_header": 25, "max_active": 3}).fault
    assert fault == Fault(delay_fraction=share, abort_fraction=share, by_header=True, max_active=3)
    both = {"by_header": 25, "abort": {"status": 500}}
    assert "the headers say" in problem(fault=both)


def test_fault_and_mirror() -> None:
    block = {
        "delay": {"fixed_delay": "5s", "percentage": 0.1},
        "abort": {"grpc_status": 14, "percentage": 50},
    }
    assert route(fault=block).fault == Fault(5.0, Fraction(1000, 1_000_000), None, 14, Fraction(50))
    assert route(fault={"abort": {"status": 503}}).fault == Fault(
        abort_status=503, abort_fraction=Fraction(100)
    )
    mirrors = [{"to": "b", "percentage": 12.5}, {"to": "a"}]
    assert action(mirror=mirrors).mirrors == (
        Mirror("b", Fraction(125_000, 1_000_000)),
        Mirror("a", Fraction(100)),
    )
    compare = {"status": False, "headers": ["X-Version"], "json": True}
    one = {"to": "b", "shadow_host_suffix": True, "compare": compare}
    assert action(mirror=one).mirrors == (
        Mirror("b", host_suffix=True, compare=Comparison(False, ("x-version",), True)),
    )


@pytest.mark.parametrize(
    ("hedging", "expected"),
    [
        ({"delay": "50ms"}, Hedging(0.05)),
        ({"delay": "1s", "max_hedges": 3}, Hedging(1.0, False, 3)),
        ({"on_per_try_timeout": True}, Hedging(on_per_try_timeout=True)),
        ({"delay": "0s"}, None),
        ({"on_per_try_timeout": False}, None),
        ({}, None),
    ],
)
def test_hedging(hedging: dict[str, Any], expected: Hedging | None) -> None:
    assert action(hedging=hedging).hedging == expected
    assert notes(route(hedging=hedging)) == []


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        ({"load_balancing": "roundrobin"}, 'did you mean "round_robin"?'),
        ({"load_balancing": {"choice_count": 1}}, "1 is less than 2"),
        ({"load_balancing": {"minimum_ring_size": 9, "maximum_ring_size": 8}}, "is more than"),
        ({"load_balancing": {"hash_on": {}}}, "give exactly one of header, cookie"),
        ({"load_balancing": {"hash_on": {"header": "x", "ttl": "1s"}}}, "belong to a cookie"),
        ({"load_balancing": {"slow_start": {}}}, '"window" is missing'),
        ({"load_balancer": {}}, 'did you mean "load_balancing"?'),
        ({"limits": {"max_conections": 1}}, 'did you mean "max_connections"?'),
        ({"connection": {"connect_timeout": 1}}, "write 1s"),
        ({"connection": {"keepalive": {"time": "1.5s"}}}, "whole seconds"),
        ({"connection": {"keepalive": {"time": "500ms"}}}, "the least is 1s"),
        (
            {"outlier_detection": {"consecutive_local_origin_failure": 3}},
            "has no effect without split_external_local_origin_errors: true",
        ),
        ({"circuit_breaker": {"open_for": "0s"}}, "too short"),
        ({"tls": {}}, '"mode" is missing'),
        ({"tls": {"mode": "mtls"}}, "known are disable, mutual, simple"),
        ({"tls": {"mode": "mutual"}}, "needs certificate and key"),
        ({"tls": {"mode": "simple", "key": "k"}}, "only sent with mode mutual"),
        ({"tls": {"mode": "disable", "ca": "x"}}, "have no effect"),
        ({"tls": {"mode": "simple", "ca": ""}}, "must not be empty"),
        ({"tls": {"mode": "simple", "subject_alt_names": [""]}}, "must not be empty"),
        ({"tls": {"mode": "simple", "subject_alt_names": [{}]}}, "exactly one of exact"),
        (
            {"tls": {"mode": "simple", "subject_alt_names": [{"regex": "("}]}},
            "subject_alt_names[0]",
        ),
        (
            {"tls": {"mode": "simple", "insecure_skip_verify": True, "ca": "x"}},
            "contradicts ca",
        ),
        ({"retries": {"on": ["5xxx"]}}, 'did you mean "5xx"?'),
        ({"retries": {"on": [600]}}, "600 is more than 599"),
        ({"retries": {"on": "5xx"}}, "expected a list"),
        ({"retries": {"on": ["retriable-headers"]}}, "needs headers"),
        ({"retries": {"on": ["retriable-status-codes"]}}, "needs status numbers"),
        ({"retries": {"headers": {"x": "y"}}}, "add retriable-headers to on"),
        ({"retries": {"retryOn": []}}, 'did you mean "on"?'),
        ({"retries": {"max_attempts": 3}}, 'did you mean "attempts"?'),
        ({"retries": {"methods": "POST"}}, "known are any"),
        ({"retries": {"methods": ["P T"]}}, "is not a header name"),
        ({"retries": {"back_off": {"base": "2s", "max": "1s"}}}, "max is less than base"),
        ({"retries": {"budget": {"percent": 101}}}, "101 is more than 100"),
        ({"routes": [{"retries": {"budget": {}}}]}, 'unknown field "budget"'),
        ({"routes": [{"load_balancing": "random"}]}, 'unknown field "load_balancing"'),
        ({"fault": {"abort": {}}}, "exactly one of status and grpc_status"),
        ({"fault": {"delay": {}}}, '"fixed_delay" is missing'),
        ({"mirror": {"to": "nobody"}}, "neither a subset of a nor a service"),
        ({"mirror": {}}, '"to" is missing'),
        ({"mirror": {"to": "b", "compare": {"status": False}}}, "nothing is compared"),
        ({"mirror": {"to": "b", "compare": {"headers": ["a b"]}}}, "is not a header name"),
        ({"hedging": {"max_hedges": 2}}, "max_hedges counts the tries that the delay starts"),
        ({"hedging": {"delay": "1s", "max_hedges": 0}}, "0 is less than 1"),
        ({"hedging": {"delays": "1s"}}, 'did you mean "delay"?'),
        ({"timeout": "2"}, "the unit is missing"),
        ({"subsets": {"x": {"labels": {}, "timeout": "1s"}}}, 'unknown field "timeout" in subset'),
    ],
)
def test_mistakes(service: dict[str, Any], expected: str) -> None:
    assert expected in problem(**service)


def test_a_per_try_timeout_that_cannot_help_is_suspicious() -> None:
    found = load(timeout="1s", retries={"per_try_timeout": "1s"}).diagnostics
    assert [d.severity for d in found] == ["warning"]
    assert "a slow try is never repeated" in found[0].message


def test_lower_case_methods_are_suspicious() -> None:
    found = load(retries={"methods": ["post"]}).diagnostics
    assert [d.suggestion for d in found] == ['write "POST"']


def test_http2_is_honoured() -> None:
    made = cluster(protocol="h2")
    assert (made.protocol, notes(made)) == ("h2", [])


def test_a_proxy_belongs_to_a_service_or_subset() -> None:
    config = load(
        endpoints=["127.0.0.1:1"],
        proxy="socks5://u:p@proxy.test:1080",
        subsets={"a": {"labels": {}}, "b": {"labels": {}, "proxy": "none"}},
    )
    found = {c.subset: c.policy.proxy for c in config.clusters.values() if c.service == "a"}
    assert found == {"": "socks5://u:p@proxy.test:1080", "a": found[""], "b": ""}


@pytest.mark.parametrize(
    "text", ["proxy:3128", "https://u:secret@p", "http://", "http://p:99999", "http://p p", ""]
)
def test_what_is_no_proxy_is_an_error_that_keeps_the_password(text: str) -> None:
    with pytest.raises(ConfigError, match="not the URL of a proxy") as caught:
        load(endpoints=["127.0.0.1:1"], proxy=text)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1", 1.0), ("1.5", 1.5), ("3", 3.0), ("0.9", None), ("3.1", None), ("many", None)],
)
def test_preconnect_ratio_has_envoys_bounds(text: str, expected: float | None) -> None:
    document = {
        "a": {"endpoints": ["127.0.0.1:1"], "connection": {"preconnect_ratio": _yaml(text)}}
    }
    if expected is None:
        with pytest.raises(ConfigError):
            load_documents([{"version": 1, "services": document}])
        return
    config = load_documents([{"version": 1, "services": document}])
    assert config.clusters["a"].policy.connection.preconnect_ratio == expected


def _yaml(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return text


@pytest.mark.parametrize(("count", "fine"), [(0, True), (64, True), (65, False), (-1, False)])
def test_warm_up_is_bounded(count: int, fine: bool) -> None:
    service = {"endpoints": ["127.0.0.1:1"], "connection": {"warm_up": count}}
    document = {"version": 1, "services": {"a": service}}
    if fine:
        assert load_documents([document]).clusters["a"].policy.connection.warm_up == count
    else:
        with pytest.raises(ConfigError):
            load_documents([document])


def test_preconnect_over_http2_is_a_warning() -> None:
    service = {"endpoints": ["127.0.0.1:1"], "connection": {"preconnect_ratio": 2}}
    plain = load_documents([{"version": 1, "services": {"a": service}}])
    assert not plain.diagnostics
    config = load_documents([{"version": 1, "services": {"a": {**service, "protocol": "h2"}}}])
    assert "event loops" in config.diagnostics[0].message
