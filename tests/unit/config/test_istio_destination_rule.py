"""DestinationRules: which one applies, how levels merge, what becomes of each block."""

from __future__ import annotations

from typing import Any

import pytest
from istio_yaml import Result, destination_rule, service, translate

from meshclient.model.breaker import CircuitBreaker
from meshclient.model.cluster import (
    UNLIMITED,
    Cluster,
    ClusterPolicy,
    ConnectionOptions,
    Limits,
    LoadBalancing,
    OutlierDetection,
    TcpKeepalive,
    TlsSettings,
)
from meshclient.model.endpoint import OriginalDestination
from meshclient.model.retry import RetryBudget

_A = "a.default.svc.cluster.local"


def lb(policy: str) -> str:
    return f"trafficPolicy: {{loadBalancer: {{simple: {policy}}}}}"


def policy_of(*rules: str, port: int = 80, subset: str = "", **caller: object) -> ClusterPolicy:
    return cluster_of(*rules, port=port, subset=subset, **caller).policy


def cluster_of(*rules: str, port: int = 80, subset: str = "", **caller: object) -> Cluster:
    ports = "[{port: 80, name: http}, {port: 81, name: http-b}]"
    made = translate(service("a", ports=ports), *rules, **caller)  # type: ignore[arg-type]
    assert made.errors == []
    return made.cluster(f"{port}|{subset}|{_A}")


def load(policy: str) -> Result:
    return translate(service("a"), destination_rule("dr", "a", f"trafficPolicy: {{{policy}}}"))


def test_without_a_rule_istio_s_defaults_hold() -> None:
    policy = policy_of()
    assert policy == ClusterPolicy()
    assert policy.load_balancing.policy == "least_request"
    assert policy.connection.connect_timeout_s == 10.0
    assert policy.limits == Limits(UNLIMITED, UNLIMITED, UNLIMITED, UNLIMITED)


@pytest.mark.parametrize(
    ("word", "policy"),
    [
        ("UNSPECIFIED", "least_request"),
        ("LEAST_REQUEST", "least_request"),
        ("LEAST_CONN", "least_request"),
        ("ROUND_ROBIN", "round_robin"),
        ("RANDOM", "random"),
        ("PASSTHROUGH", "passthrough"),
    ],
)
def test_simple_policies(word: str, policy: str) -> None:
    assert policy_of(destination_rule("dr", "a", lb(word))).load_balancing.policy == policy


def test_passthrough_dials_what_was_dialled() -> None:
    cluster = cluster_of(destination_rule("dr", "a", lb("PASSTHROUGH")))
    assert cluster.discovery == OriginalDestination()


def test_connection_pool() -> None:
    rule = destination_rule(
        "dr",
        "a",
        """trafficPolicy: {connectionPool: {
        tcp: {maxConnections: 100, connectTimeout: 30ms, idleTimeout: 5s, maxConnectionDuration: 1h,
              tcpKeepalive: {time: 7200s, interval: 75s, probes: 9}},
        http: {http1MaxPendingRequests: 10, http2MaxRequests: 20, maxRetries: 3,
               maxRequestsPerConnection: 2}},
        retryBudget: {percent: 25, minRetryConcurrency: 4}}""",
    )
    cluster = cluster_of(rule)
    assert cluster.policy.connection == ConnectionOptions(
        0.03, 5.0, 3600.0, 2, TcpKeepalive(9, 7200.0, 75.0)
    )
    assert cluster.policy.limits == Limits(100, 10, 20, 3, RetryBudget(25.0, 4))
    noted = " ".join(note.message for note in cluster.not_honoured)
    for name in ("maxConnections", "http1MaxPendingRequests", "http2MaxRequests", "maxRetries"):
        assert name not in noted


def test_http2_keep_alive() -> None:
    pool = "{http: {http2KeepAlive: {interval: 30s, timeout: 5s}}}"
    cluster = cluster_of(destination_rule("dr", "a", f"trafficPolicy: {{connectionPool: {pool}}}"))
    connection = cluster.policy.connection
    assert (connection.ping_interval_s, connection.ping_timeout_s) == (30.0, 5.0)
    assert "http2KeepAlive" not in str(cluster.not_honoured)


@pytest.mark.parametrize(
    ("policy", "protocol"), [("UPGRADE", "h2"), ("DO_NOT_UPGRADE", "http1"), ("DEFAULT", "http1")]
)
def test_the_upgrade_to_http2_of_ports_declared_as_http(policy: str, protocol: str) -> None:
    pool = f"{{http: {{h2UpgradePolicy: {policy}}}}}"
    cluster = cluster_of(destination_rule("dr", "a", f"trafficPolicy: {{connectionPool: {pool}}}"))
    assert cluster.protocol == protocol
    assert "h2UpgradePolicy" not in str(cluster.not_honoured)


@pytest.mark.parametrize(
    ("written", "version"), [("{version: V1}", "v1"), ("{version: V2}", "v2"), ("{}", "v1")]
)
def test_proxy_protocol(written: str, version: str) -> None:
    """The default of the enum is its first value, V1."""
    rule = destination_rule("dr", "a", f"trafficPolicy: {{proxyProtocol: {written}}}")
    cluster = cluster_of(rule)
    assert cluster.policy.connection.proxy_protocol == version
    assert not cluster.not_honoured


def test_proxy_protocol_holds_on_ports_with_a_level_of_their_own() -> None:
    levels = "portLevelSettings: [{port: {number: 80}, connectionPool: {tcp: {maxConnections: 7}}}]"
    rule = destination_rule(
        "dr", "a", f"trafficPolicy: {{proxyProtocol: {{version: V2}}, {levels}}}"
    )
    policy = cluster_of(rule).policy
    assert policy.limits.max_connections == 7
    assert policy.connection.proxy_protocol == "v2"


def test_zero_means_unset_and_http_idle_beats_tcp_idle() -> None:
    pool = (
        "trafficPolicy: {connectionPool: {tcp: {maxConnections: 0, idleTimeout: 5s},"
        " http: {maxRetries: 0, idleTimeout: 7s}}}"
    )
    policy = policy_of(destination_rule("dr", "a", pool))
    assert policy.limits == Limits()
    assert policy.connection.idle_timeout_s == 7.0


def test_outlier_detection_is_honoured_without_success_rates_and_switches_panic_off() -> None:
    rule = destination_rule(
        "dr",
        "a",
        "trafficPolicy: {outlierDetection: {consecutive5xxErrors: 3, consecutiveGatewayErrors: 2,"
        " interval: 30s, baseEjectionTime: 1m, maxEjectionPercent: 50}}",
    )
    cluster = cluster_of(rule)
    assert cluster.policy.outlier_detection == OutlierDetection(
        3,
        2,
        interval_s=30.0,
        base_ejection_time_s=60.0,
        max_ejection_percent=50,
        enforcing_success_rate=0,
    )
    assert cluster.policy.panic_threshold_percent == 0
    assert cluster.not_honoured == ()


@pytest.mark.parametrize(
    ("field", "consecutive"),
    [("", 5), ("consecutive5xxErrors: 0", None), ("consecutiveErrors: 7", 5)],
)
def test_consecutive_errors(field: str, consecutive: int | None) -> None:
    policy = policy_of(
        destination_rule("dr", "a", f"trafficPolicy: {{outlierDetection: {{{field}}}}}")
    )
    assert policy.outlier_detection is not None
    assert policy.outlier_detection.consecutive_5xx == consecutive


@pytest.mark.parametrize(
    ("fields", "changes"),
    [
        ("consecutiveGatewayErrors: 0", {}),
        ("maxEjectionPercent: 0", {"max_ejection_percent": 10}),
        ("baseEjectionTime: 400s", {"base_ejection_time_s": 400.0, "max_ejection_time_s": 400.0}),
        (
            "splitExternalLocalOriginErrors: true",
            {"split_external_local_origin_errors": True, "enforcing_local_origin_success_rate": 0},
        ),
        (
            "splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 0",
            {"split_external_local_origin_errors": True, "enforcing_local_origin_success_rate": 0},
        ),
        (
            "splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 7",
            {
                "split_external_local_origin_errors": True,
                "enforcing_local_origin_success_rate": 0,
                "consecutive_local_origin_failure": 7,
            },
        ),
        ("outlierDetectionHttpErrorCodes: [429, 503, 429]", {"http_error_codes": (429, 503)}),
    ],
)
def test_outlier_fields_mean_what_istio_makes_of_them(fields: str, changes: dict[str, Any]) -> None:
    policy = policy_of(
        destination_rule("dr", "a", f"trafficPolicy: {{outlierDetection: {{{fields}}}}}")
    )
    assert policy.outlier_detection == OutlierDetection(enforcing_success_rate=0, **changes)


def test_the_legacy_circuit_breaker_is_one_for_each_endpoint() -> None:
    block = "circuitBreaker: {consecutiveErrors: 3, interval: 30s, baseEjectionTime: 40s, "
    made = load(block + "maxEjectionPercent: 50, minHealthPercent: 30}")
    assert made.errors == []
    assert made.codes() == ["legacy-circuit-breaker"]
    policy = made.cluster(f"80||{_A}").policy
    assert policy.circuit_breaker == CircuitBreaker(3, 40.0, per="endpoint")
    assert policy.outlier_detection is None


def test_the_legacy_block_of_the_oldest_documents_is_understood() -> None:
    simple = "simpleCb: {maxConnections: 100, httpConsecutiveErrors: 7, sleepWindow: 3m}"
    made = load(f"circuitBreaker: {{{simple}}}")
    assert made.errors == []
    assert made.codes() == ["legacy-circuit-breaker", "legacy-circuit-breaker"]
    breaker = made.cluster(f"80||{_A}").policy.circuit_breaker
    assert breaker == CircuitBreaker(7, 180.0, per="endpoint")


def test_outlier_detection_and_the_legacy_block_stand_side_by_side() -> None:
    made = load("circuitBreaker: {consecutiveErrors: 3}, outlierDetection: {interval: 1s}")
    policy = made.cluster(f"80||{_A}").policy
    assert policy.outlier_detection == OutlierDetection(interval_s=1.0, enforcing_success_rate=0)
    assert policy.circuit_breaker == CircuitBreaker(3, 30.0, per="endpoint")


def test_a_legacy_breaker_that_would_never_open_is_none() -> None:
    made = load("circuitBreaker: {consecutiveErrors: 0}")
    assert made.cluster(f"80||{_A}").policy.circuit_breaker is None


def test_outlier_fields_in_the_connection_pool_are_ignored_with_a_warning() -> None:
    made = load("connectionPool: {http: {maxRetries: 1, interval: 30s, maxEjectionPercent: 50}}")
    assert made.errors == []
    assert made.codes() == ["misplaced-outlier-field"] * 2
    assert made.cluster(f"80||{_A}").policy.outlier_detection is None


def test_consistent_hash_beats_simple() -> None:
    made = load("loadBalancer: {simple: ROUND_ROBIN, consistentHash: {httpHeaderName: x-user}}")
    assert made.codes() == ["simple-beside-consistent-hash"]
    cluster = made.cluster(f"80||{_A}")
    assert cluster.policy.load_balancing == LoadBalancing("ring_hash")
    assert cluster.not_honoured == ()


@pytest.mark.parametrize(
    ("tls", "settings", "noted"),
    [
        ("{mode: DISABLE}", TlsSettings("disable"), False),
        ("{mode: SIMPLE, sni: x}", TlsSettings("simple", sni="x"), False),
        ("{mode: ISTIO_MUTUAL}", TlsSettings("istio_mutual"), True),
        (
            "{mode: ISTIO_MUTUAL, subjectAltNames: [s]}",
            TlsSettings("istio_mutual", subject_alt_names=("s",)),
            False,
        ),
        (
            "{mode: SIMPLE, credentialName: c}",
            TlsSettings("simple", credential_name="c"),
            True,
        ),
        ("{mode: SIMPLE, caCertificates: system}", TlsSettings("simple", "system"), False),
        (
            "{mode: MUTUAL, clientCertificate: /c, privateKey: /k, caCertificates: /a}",
            TlsSettings("mutual", "/a", "/c", "/k"),
            False,
        ),
    ],
)
def test_tls_is_kept_and_says_where_calls_are_refused(
    tls: str, settings: TlsSettings, noted: bool
) -> None:
    made = load(f"tls: {tls}")
    cluster = made.cluster(f"80||{_A}")
    assert cluster.policy.tls == settings
    assert ["calls are refused" in n.message for n in cluster.not_honoured] == [True] * noted


_LEVELS = (
    "trafficPolicy: {loadBalancer: {simple: RANDOM}, connectionPool: {tcp: {connectTimeout: 1s}},"
    " portLevelSettings: [{port: {number: 81}, loadBalancer: {simple: ROUND_ROBIN}}]}"
)


def test_a_port_level_replaces_everything() -> None:
    rule = destination_rule("dr", "a", _LEVELS)
    at_80, at_81 = policy_of(rule, port=80), policy_of(rule, port=81)
    assert (at_80.load_balancing.policy, at_80.connection.connect_timeout_s) == ("random", 1.0)
    assert (at_81.load_balancing.policy, at_81.connection.connect_timeout_s) == (
        "round_robin",
        10.0,
    )


def test_a_subset_overrides_block_by_block() -> None:
    subset = (
        ", subsets: [{name: v1, labels: {v: '1'}, trafficPolicy:"
        " {connectionPool: {tcp: {connectTimeout: 2s}}}}]"
    )
    rule = destination_rule("dr", "a", _LEVELS + subset)
    at_80 = policy_of(rule, subset="v1")
    assert (at_80.load_balancing.policy, at_80.connection.connect_timeout_s) == ("random", 2.0)
    at_81 = policy_of(rule, port=81, subset="v1")
    assert (at_81.load_balancing.policy, at_81.connection.connect_timeout_s) == ("round_robin", 2.0)
    assert policy_of(rule).connection.connect_timeout_s == 1.0


def test_a_port_level_of_a_subset_replaces_the_four_blocks() -> None:
    subset = (
        ", subsets: [{name: v1, labels: {v: '1'}, trafficPolicy: {loadBalancer: {simple: RANDOM},"
        " portLevelSettings: [{port: {number: 81}, connectionPool: {tcp: {connectTimeout: 3s}}}]}}]"
    )
    policy = policy_of(destination_rule("dr", "a", _LEVELS + subset), port=81, subset="v1")
    assert policy.load_balancing.policy == "least_request"
    assert policy.connection.connect_timeout_s == 3.0


def test_dropped_blocks_of_a_port_level_are_named() -> None:
    made = load("tls: {mode: SIMPLE}, portLevelSettings: [{port: {number: 80}, loadBalancer: {}}]")
    assert "port-level-replaces" in made.codes()


@pytest.mark.parametrize(
    ("rules", "caller", "expected"),
    [
        ([("a", "default", ""), ("b", "client", "")], "client", "RANDOM"),
        ([("a", "default", ""), ("b", "client", "")], "third", "ROUND_ROBIN"),
        ([("a", "default", ""), ("r", "istio-system", "")], "third", "ROUND_ROBIN"),
        ([("r", "istio-system", "")], "third", "ROUND_ROBIN"),
        ([("a", "elsewhere", "")], "third", None),
        ([("a", "default", 'exportTo: ["."]')], "third", None),
        ([("a", "default", "exportTo: [third]")], "third", "ROUND_ROBIN"),
        ([("b", "client", "exportTo: [third]")], "client", None),
        ([("r", "istio-system", ""), ("a", "default", "")], "istio-system", "RANDOM"),
        (
            [("r", "istio-system", 'exportTo: ["."]'), ("a", "default", "")],
            "istio-system",
            "ROUND_ROBIN",
        ),
    ],
)
def test_the_search_goes_caller_then_service_then_root(
    rules: list[tuple[str, str, str]], caller: str, expected: str | None
) -> None:
    words = ("ROUND_ROBIN", "RANDOM")
    texts = [
        destination_rule(name, _A, lb(word) + (f", {export}" if export else ""), namespace)
        for (name, namespace, export), word in zip(rules, words, strict=False)
    ]
    found = policy_of(*texts, namespace=caller).load_balancing.policy
    assert found == (expected.lower() if expected else "least_request")


def test_the_first_level_with_any_match_ends_the_search() -> None:
    broad = destination_rule("broad", '"*.local"', lb("RANDOM"), "client")
    exact = destination_rule("exact", _A, lb("ROUND_ROBIN"), "default")
    assert policy_of(broad, exact, namespace="client").load_balancing.policy == "random"
    assert policy_of(broad, exact, namespace="third").load_balancing.policy == "round_robin"


def test_inside_a_level_the_most_specific_host_wins() -> None:
    broad = destination_rule("a", '"*.local"', lb("RANDOM"))
    exact = destination_rule("b", "a", lb("ROUND_ROBIN"))
    assert policy_of(broad, exact).load_balancing.policy == "round_robin"


def test_rules_of_one_host_merge() -> None:
    first = destination_rule("a", "a", "subsets: [{name: v1, labels: {v: '1'}}]")
    second = destination_rule(
        "b",
        _A,
        lb("RANDOM") + ", subsets: [{name: v1, labels: {v: 'x'}}, {name: v2, labels: {v: '2'}}]",
    )
    made = translate(service("a"), second, first)
    assert made.cluster(f"80|v1|{_A}").labels == (("v", "1"),)
    assert made.cluster(f"80|v2|{_A}").policy.load_balancing.policy == "random"
    assert "KIA0201" in made.codes()
    documents = [source.document for source in made.cluster(f"80||{_A}").sources]
    assert documents == [
        "Service default/a",
        "DestinationRule default/a",
        "DestinationRule default/b",
    ]


def test_rules_for_other_audiences_are_kept_apart() -> None:
    first = destination_rule("a", "a", lb("RANDOM") + ', exportTo: ["."]')
    second = destination_rule("b", "a", lb("ROUND_ROBIN"))
    assert policy_of(first, second).load_balancing.policy == "random"
    assert policy_of(first, second, namespace="x").load_balancing.policy == "round_robin"


def test_a_workload_selector_binds_to_labelled_callers_and_wins() -> None:
    plain = destination_rule("a", "a", lb("RANDOM"))
    chosen = destination_rule(
        "b",
        "a",
        lb("ROUND_ROBIN") + ', exportTo: ["."], workloadSelector: {matchLabels: {app: web}}',
    )
    assert policy_of(plain, chosen, labels={"app": "web"}).load_balancing.policy == "round_robin"
    assert policy_of(plain, chosen, labels={"app": "api"}).load_balancing.policy == "random"
    assert policy_of(chosen, namespace="x", labels={"app": "web"}) == ClusterPolicy()


def test_rules_for_nobody_are_named() -> None:
    made = translate(service("a"), destination_rule("dr", "gone", lb("RANDOM")))
    assert made.codes() == ["IST0174"]


def test_an_inert_outlier_detection_is_named() -> None:
    entry = """
        apiVersion: networking.istio.io/v1
        kind: ServiceEntry
        metadata: {name: x}
        spec:
          hosts: [x.test]
          ports: [{number: 80, name: http, protocol: HTTP}]
          resolution: STATIC
          endpoints: [{address: 10.0.0.1}, {address: 10.0.0.2}, {address: 10.0.0.3}]
    """
    outlier = "trafficPolicy: {{outlierDetection: {{maxEjectionPercent: {}}}}}"
    inert = translate(entry, destination_rule("dr", "x.test", outlier.format(33)))
    assert [d.suggestion for d in inert.diagnostics if d.code == "outlier-inert"] == [
        "set maxEjectionPercent: 34 or more"
    ]
    enough = translate(entry, destination_rule("dr", "x.test", outlier.format(34)))
    assert "outlier-inert" not in enough.codes()


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("", "traffic policy must have at least one field"),
        ("connectionPool: {}", "connection pool must have at least one field"),
        ("connectionPool: {http: {maxRetries: -1}}", "less than 0"),
        ("connectionPool: {http: {maxRetrys: 1}}", 'unknown field "maxRetrys"'),
        ("loadBalancer: {simple: FASTEST}", 'unknown value "FASTEST"'),
        ("loadBalancer: {consistentHash: {}}", "exactly one of httpHeaderName"),
        (
            "loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 10}}}",
            "prime number",
        ),
        (
            "loadBalancer: {consistentHash: {useSourceIp: true, maglev: {}}}",
            "tableSize must be set",
        ),
        (
            "loadBalancer: {consistentHash:"
            " {useSourceIp: true, maglev: {tableSize: 3}, ringHash: {}}}",
            "only one of minimumRingSize, ringHash and maglev",
        ),
        ("loadBalancer: {simple: RANDOM, warmup: {duration: 1s}}", "ROUND_ROBIN and LEAST_REQUEST"),
        (
            "loadBalancer: {localityLbSetting: {distribute: [{from: a, to: {b: 50}}]}}",
            "total locality weight 50 != 100",
        ),
        (
            "loadBalancer: {localityLbSetting: {distribute: [{from: a, to: {b: 100}}],"
            " failover: [{from: a, to: b}]}}",
            "can not simultaneously specify",
        ),
        (
            "loadBalancer: {localityLbSetting: {failover: [{from: a, to: a}]}}",
            "must specify different regions",
        ),
        (
            "outlierDetection: {consecutiveLocalOriginFailures: 3}",
            "split external local origin errors is set to false",
        ),
        ("tls: {mode: MUTUAL}", "client certificate and private key required"),
        ("tls: {mode: ISTIO_MUTUAL, privateKey: x}", "with ISTIO_MUTUAL"),
        (
            "tls: {mode: SIMPLE, insecureSkipVerify: true, caCertificates: x}",
            "with InsecureSkipVerify",
        ),
        ("tls: {mode: SIMPLE, credentialName: x, caCertificates: y}", "beside credentialName"),
        ("tls: {mode: PLAIN}", 'unknown value "PLAIN"'),
        ("portLevelSettings: [{tls: {mode: DISABLE}}]", "port.number is missing"),
        (
            "portLevelSettings: [{port: {number: 80}, retryBudget: {}}]",
            'unknown field "retryBudget"',
        ),
        ("proxyProtocol: {version: V1}, tunnel: {targetHost: x, targetPort: 1}", "cannot both be"),
        ("circuitBreaker: {consecutiveErorrs: 3}", 'unknown field "consecutiveErorrs"'),
        ("outlier: {}", 'unknown field "outlier"'),
    ],
)
def test_what_validation_refuses(policy: str, message: str) -> None:
    errors = load(policy).errors
    assert any(message in text for text in errors), errors


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            "subsets: [{name: v1, labels: {a: b}}, {name: v1, labels: {a: c}}]",
            "duplicate subset names",
        ),
        ("subsets: [{name: a.b, labels: {a: b}}]", "must be a DNS label"),
        ("subsets: [{labels: {a: b}}]", "name is missing"),
        (
            'exportTo: ["*"], workloadSelector: {matchLabels: {a: b}}',
            "cannot be exported beyond its own namespace",
        ),
        ("exportTo: ['*', a]", '"*" must stand alone'),
        ("exportTo: [A_B]", "is not a namespace"),
    ],
)
def test_what_validation_refuses_around_the_policy(more: str, message: str) -> None:
    errors = translate(service("a"), destination_rule("dr", "a", more)).errors
    assert any(message in text for text in errors), errors


def test_failover_without_outlier_detection_is_named() -> None:
    made = load("loadBalancer: {localityLbSetting: {failover: [{from: a, to: b}]}}")
    assert "locality" in made.codes()
