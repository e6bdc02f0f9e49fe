"""ServiceEntry and WorkloadEntry: endpoints by resolution, merging, validation."""

from __future__ import annotations

import pytest
from istio_yaml import Result, destination_rule, service, to, translate, virtual_service

from meshclient.model.endpoint import DnsSource, Endpoint, Locality, OriginalDestination

_HTTP = "ports: [{number: 80, name: http, protocol: HTTP}]"


def entry(more: str, hosts: str = "[x.test]", name: str = "se", namespace: str = "default") -> str:
    return (
        "---\napiVersion: networking.istio.io/v1beta1\nkind: ServiceEntry\n"
        f"metadata: {{name: {name}, namespace: {namespace}}}\n"
        f"spec: {{hosts: {hosts}, {more}}}\n"
    )


def workload(name: str, spec: str, labels: str = "{app: x}", namespace: str = "default") -> str:
    return (
        "---\napiVersion: networking.istio.io/v1alpha3\nkind: WorkloadEntry\n"
        f"metadata: {{name: {name}, namespace: {namespace}, labels: {labels}}}\n"
        f"spec: {{{spec}}}\n"
    )


def source_of(made: Result, name: str = "80||x.test") -> object:
    return made.cluster(name).discovery


@pytest.mark.parametrize(
    ("tls", "names"),
    [
        ("{mode: SIMPLE}", ("a.test", "spiffe://x/a")),
        ("{mode: ISTIO_MUTUAL}", ("a.test", "spiffe://x/a")),
        ("{mode: SIMPLE, subjectAltNames: [b.test]}", ("b.test",)),
        ("{mode: SIMPLE, insecureSkipVerify: true}", ()),
        ("{mode: DISABLE}", ()),
    ],
)
def test_names_of_the_servers_stand_in_where_the_rule_has_none(
    tls: str, names: tuple[str, ...]
) -> None:
    text = entry(_HTTP + ", subjectAltNames: [a.test, 'spiffe://x/a']")
    made = translate(text, destination_rule("r", "x.test", f"trafficPolicy: {{tls: {tls}}}"))
    found = made.cluster("80||x.test")
    assert found.policy.tls is not None
    assert found.policy.tls.subject_alt_names == names
    assert found.not_honoured == ()


def test_names_of_the_servers_alone_ask_for_no_tls() -> None:
    made = translate(entry(_HTTP + ", subjectAltNames: [a.test]"))
    assert made.cluster("80||x.test").policy.tls is None


def test_none_dials_what_was_dialled() -> None:
    assert source_of(translate(entry(_HTTP))) == OriginalDestination()
    ports = "ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]"
    assert source_of(translate(entry(ports))) == OriginalDestination(8080)


def test_static_endpoints() -> None:
    made = translate(
        entry(
            _HTTP
            + """, resolution: STATIC, endpoints: [
            {address: 10.0.0.1, ports: {http: 8080}, labels: {v: "1"}, weight: 3,
             locality: eu/b/rack1},
            {address: 10.0.0.2}, {address: "unix:///run/x.sock"}, {address: "fd00::1"}]"""
        )
    )
    assert made.cluster("80||x.test").endpoints == (
        Endpoint("10.0.0.1", 8080, 3, "", (("v", "1"),), Locality("eu", "b", "rack1")),
        Endpoint("10.0.0.2", 80),
        Endpoint("unix:///run/x.sock", 0),
        Endpoint("fd00::1", 80),
    )


def test_the_target_port_is_used_where_the_endpoint_names_none() -> None:
    ports = "ports: [{number: 80, name: http, protocol: HTTP, targetPort: 9}]"
    made = translate(entry(ports + ", resolution: STATIC, endpoints: [{address: 10.0.0.1}]"))
    assert made.addresses("80||x.test") == ["10.0.0.1:9"]


def test_dns_resolves_the_host_or_every_endpoint() -> None:
    made = translate(entry(_HTTP + ", resolution: DNS"))
    assert source_of(made) == DnsSource((Endpoint("x.test", 80, hostname="x.test"),), "strict")
    made = translate(
        entry(_HTTP + ", resolution: DNS, endpoints: [{address: a.test}, {address: b.test}]")
    )
    assert [t.address for t in made.cluster("80||x.test").discovery.targets] == ["a.test", "b.test"]
    made = translate(entry(_HTTP + ", resolution: DNS_ROUND_ROBIN"))
    assert made.cluster("80||x.test").discovery.mode == "logical"


def test_dynamic_dns_is_noted_and_dials_what_was_dialled() -> None:
    made = translate(entry(_HTTP + ", resolution: DYNAMIC_DNS", hosts='["*.x.test"]'))
    cluster = made.cluster("80||*.x.test")
    assert cluster.discovery == OriginalDestination()
    assert [n.code for n in cluster.not_honoured] == ["not-honoured"]


def test_subsets_choose_endpoints_by_label() -> None:
    rule = destination_rule(
        "dr",
        "x.test",
        "subsets: [{name: one, labels: {v: '1'}}, {name: all, labels: {}},"
        " {name: nil, labels: {v: '9'}}]",
    )
    static = entry(
        _HTTP + ", resolution: STATIC, endpoints: [{address: 10.0.0.1, labels: {v: '1', a: b}},"
        " {address: 10.0.0.2, labels: {v: '2'}}]"
    )
    made = translate(static, rule)
    assert made.addresses("80|one|x.test") == ["10.0.0.1:80"]
    assert made.addresses("80|all|x.test") == ["10.0.0.1:80", "10.0.0.2:80"]
    assert made.addresses("80|nil|x.test") == []
    assert "IST0173" in made.codes()
    named = translate(static.replace("STATIC", "DNS").replace("10.0.0.", "h"), rule)
    assert [t.address for t in named.cluster("80|one|x.test").discovery.targets] == ["h1"]


def test_a_selector_picks_workloads_and_pods_of_the_namespace() -> None:
    pod = """
        ---
        apiVersion: v1
        kind: Pod
        metadata: {name: p, namespace: default, labels: {app: x, v: "2"}}
        status: {podIP: 10.1.0.1}
    """
    made = translate(
        entry(
            "ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}],"
            " location: MESH_INTERNAL, resolution: STATIC, workloadSelector: {labels: {app: x}}"
        ),
        workload("w1", "address: 10.0.0.1, labels: {app: y, v: '1'}"),
        workload("w2", "address: 10.0.0.2, ports: {http: 99}"),
        workload("w3", "address: 10.0.0.3", labels="{app: z}"),
        workload("w4", "address: 10.0.0.4", namespace="other"),
        pod,
    )
    assert made.errors == []
    assert made.addresses("80||x.test") == ["10.0.0.1:8080", "10.0.0.2:99", "10.1.0.1:8080"]
    assert made.cluster("80||x.test").endpoints[0].labels == (("app", "x"), ("v", "1"))


def test_every_host_and_single_address_is_a_domain() -> None:
    made = translate(
        entry(_HTTP + ", addresses: [10.9.0.1, 10.9.0.2/32, 10.8.0.0/16]", hosts="[x.test, Y.test]")
    )
    host = made.host("x.test")
    assert host is not None
    assert set(host.domains) == {"x.test", "x.test.", "10.9.0.1", "10.9.0.2"}
    assert made.host("y.test") is not None


def test_https_and_tcp_ports_have_clusters_but_no_routes() -> None:
    made = translate(entry("ports: [{number: 443, name: https, protocol: HTTPS}], resolution: DNS"))
    assert made.routes == {}
    assert made.cluster("443||x.test").protocol == "tls"


def test_grpc_is_http2() -> None:
    made = translate(entry("ports: [{number: 80, name: grpc, protocol: GRPC}], resolution: DNS"))
    assert made.cluster("80||x.test").protocol == "h2"
    assert made.host("x.test") is not None


def test_a_kubernetes_service_beats_an_entry_of_the_same_host() -> None:
    made = translate(
        service("a"),
        entry(_HTTP + ", resolution: STATIC", hosts="[a.default.svc.cluster.local]"),
    )
    assert made.cluster("80||a.default.svc.cluster.local").sources[0].document == (
        "Service default/a"
    )
    assert "duplicate-service" in made.codes()


def test_entries_that_agree_merge_their_ports() -> None:
    second = "ports: [{number: 81, name: http-b, protocol: HTTP}]"
    made = translate(entry(_HTTP, name="a"), entry(second, name="b"))
    assert {"outbound|80||x.test", "outbound|81||x.test"} <= set(made.clusters)
    made = translate(entry(_HTTP, name="a"), entry(second + ", resolution: DNS", name="b"))
    assert "outbound|81||x.test" not in made.clusters
    assert "duplicate-service" in made.codes()


def test_the_caller_s_namespace_comes_first() -> None:
    far = entry(_HTTP + ", resolution: DNS", name="a", namespace="far")
    near = entry(_HTTP, name="b", namespace="near")
    assert isinstance(source_of(translate(far, near, namespace="near")), OriginalDestination)
    assert isinstance(source_of(translate(far, near, namespace="third")), DnsSource)


def test_hidden_entries_do_not_exist() -> None:
    hidden = entry(_HTTP + ', exportTo: ["."]', namespace="far")
    assert translate(hidden).clusters == {}
    assert translate(hidden, namespace="far").clusters


def test_a_virtual_service_governs_an_entry() -> None:
    made = translate(entry(_HTTP), virtual_service("vs", "[x.test]", to("x.test")))
    assert made.targets("x.test") == {"80||x.test": 1}
    assert made.route("x.test").source.document == "VirtualService default/vs"


def test_legacy_fields_are_warnings() -> None:
    made = translate(entry("ports: [{number: 80}], resolution: DNS, owner: me, protocol: HTTP"))
    assert made.errors == []
    assert sorted(made.codes()) == ["legacy-field", "legacy-field", "port-name"]
    assert made.host("x.test") is not None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (entry(_HTTP, hosts="[]"), "must have at least one host"),
        (entry(_HTTP, hosts='["*"]'), "invalid host"),
        (entry(_HTTP + ", endpoints: [{address: 10.0.0.1}]"), "no endpoints should be provided"),
        (
            entry(_HTTP + ", resolution: DNS, addresses: [10.0.0.0/8]"),
            "CIDR addresses are allowed only",
        ),
        (
            entry(_HTTP + ", resolution: DNS_ROUND_ROBIN, endpoints: [{address: a}, {address: b}]"),
            "must only be 0 or 1 endpoint",
        ),
        (entry(_HTTP + ", resolution: DNS", hosts='["*.x.test"]'), "hosts must be FQDN"),
        (
            entry(_HTTP + ", resolution: STATIC, endpoints: [{address: a.test}]"),
            "endpoint address is a name",
        ),
        (
            entry(_HTTP + ", resolution: STATIC, endpoints: [{address: 10.0.0.1, ports: {x: 1}}]"),
            'endpoint port "x" is not defined',
        ),
        (
            entry(
                _HTTP + ", resolution: STATIC, endpoints: [{address: 10.0.0.1}],"
                " workloadSelector: {labels: {a: b}}"
            ),
            "only one of WorkloadSelector or Endpoints",
        ),
        (
            entry("ports: [{number: 80, name: a}, {number: 80, name: b}]"),
            "port number 80 is already defined",
        ),
        (
            entry("ports: [{number: 80, name: a}, {number: 81, name: a}]"),
            'port name "a" is already defined',
        ),
        (entry("ports: [{number: 80, name: a, protocol: NOPE}]"), "unsupported protocol"),
        (entry(_HTTP + ", addresses: [nowhere]"), "is not an IP address or CIDR"),
        (entry(_HTTP + ", resolution: STATIC, endpoints: [{labels: {}}]"), "address or network"),
        (entry(_HTTP + ", endpoint: []"), 'unknown field "endpoint"'),
        (workload("w", "address: a b"), "is not an address"),
        (workload("w", 'address: "unix://run/x"'), "absolute path"),
        (workload("w", "adress: a"), 'unknown field "adress"'),
    ],
)
def test_what_validation_refuses(text: str, message: str) -> None:
    errors = translate(text).errors
    assert any(message in found for found in errors), errors
