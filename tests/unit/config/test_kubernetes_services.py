"""Kubernetes objects: which endpoints stand behind a Service."""

from __future__ import annotations

from textwrap import dedent

import pytest
from istio_yaml import Result, destination_rule, service, translate

from meshclient.config.diagnostics import Diagnostics
from meshclient.config.documents import Document
from meshclient.config.istio_service import ServicePort, protocol_of_port
from meshclient.config.kubernetes import read_objects
from meshclient.config.reader import Reader
from meshclient.config.yaml_nodes import parse
from meshclient.model.endpoint import DnsSource, Endpoint, Locality, OriginalDestination
from meshclient.model.load_balancing import StatefulSession

_A = "a.default.svc.cluster.local"
_SERVICE = """
---
apiVersion: v1
kind: Service
metadata: {name: a, namespace: default}
spec:
  selector: {app: a}
  ports: [{port: 80, name: http, targetPort: web}]
"""


def slice_of(endpoints: str, ports: str = "[{name: http, port: 8080}]", name: str = "a-1") -> str:
    return f"""
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}, namespace: default, labels: {{kubernetes.io/service-name: a}}}}
addressType: IPv4
endpoints: {endpoints}
ports: {ports}
"""


def pod(name: str, ip: str, labels: str, more: str = "") -> str:
    return f"""
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: default, labels: {labels}}}
spec: {{containers: [{{name: c, ports: [{{name: web, containerPort: 9080}}]}}], nodeName: n1}}
status: {{podIP: {ip}{more}}}
"""


def addresses(made: Result, subset: str = "") -> list[str]:
    return made.addresses(f"80|{subset}|{_A}")


@pytest.mark.parametrize(
    ("conditions", "known"),
    [
        ("", True),
        (", conditions: {}", True),
        (", conditions: {ready: true}", True),
        (", conditions: {ready: null}", True),
        (", conditions: {ready: false}", False),
        (", conditions: {ready: false, serving: true, terminating: true}", False),
    ],
)
def test_only_ready_endpoints_of_slices_are_used(conditions: str, known: bool) -> None:
    made = translate(_SERVICE, slice_of(f"[{{addresses: [10.0.0.1]{conditions}}}]"))
    assert addresses(made) == (["10.0.0.1:8080"] if known else [])


def test_draining_endpoints_serve_persistent_sessions() -> None:
    text = _SERVICE.replace("name: a, ", "name: a, labels: {istio.io/persistent-session: c}, ")
    entry = (
        "[{addresses: [10.0.0.1], conditions: {ready: false, serving: true, terminating: true}}]"
    )
    made = translate(text, slice_of(entry))
    assert [e.health for e in made.cluster(f"80||{_A}").endpoints] == ["draining"]
    cluster = made.cluster(f"80||{_A}")
    session = StatefulSession("cookie", "c", "/", accept_draining=True)
    assert cluster.policy.load_balancing.session == session
    assert not cluster.not_honoured


def test_several_slices_may_listen_on_several_ports() -> None:
    made = translate(
        _SERVICE,
        slice_of("[{addresses: [127.0.0.1]}]", "[{name: http, port: 9081}]", "a-1"),
        slice_of("[{addresses: [127.0.0.1]}]", "[{name: http, port: 9082}]", "a-2"),
        slice_of("[{addresses: [127.0.0.1]}]", "[{name: http, port: 9082}]", "a-3"),
        slice_of("[{addresses: [127.0.0.9]}]", "[{name: other, port: 1}]", "a-4"),
    )
    assert addresses(made) == ["127.0.0.1:9081", "127.0.0.1:9082"]


def test_target_references_bring_the_labels_of_pods() -> None:
    made = translate(
        _SERVICE,
        slice_of(
            "[{addresses: [10.0.0.1], targetRef: {kind: Pod, name: p1}},"
            " {addresses: [10.0.0.2], targetRef: {kind: Pod, name: p2}}]"
        ),
        pod("p1", "10.0.0.1", "{app: a, v: '1'}"),
        pod("p2", "10.0.0.2", "{app: a, v: '2'}"),
        destination_rule("dr", "a", "subsets: [{name: v2, labels: {v: '2'}}]"),
    )
    assert addresses(made) == ["10.0.0.1:8080", "10.0.0.2:8080"]
    assert addresses(made, "v2") == ["10.0.0.2:8080"]


def test_the_old_slice_version_carries_topology() -> None:
    text = slice_of(
        "[{addresses: [10.0.0.1], topology: {topology.kubernetes.io/region: eu,"
        " topology.kubernetes.io/zone: b}}]"
    ).replace("k8s.io/v1", "k8s.io/v1beta1")
    (endpoint,) = translate(_SERVICE, text).cluster(f"80||{_A}").endpoints
    assert endpoint.locality == Locality("eu", "b")


def test_the_zone_of_a_slice_is_the_locality() -> None:
    made = translate(_SERVICE, slice_of("[{addresses: [10.0.0.1], zone: b}]"))
    assert made.cluster(f"80||{_A}").endpoints[0].locality == Locality("", "b")


_ENDPOINTS = """
---
apiVersion: v1
kind: Endpoints
metadata: {name: a, namespace: default}
subsets:
- addresses: [{ip: 10.0.0.5}, {ip: 10.0.0.6}]
  notReadyAddresses: [{ip: 10.0.0.7}]
  ports: [{name: http, port: 8080}]
"""


def test_endpoints_serve_where_no_slice_exists() -> None:
    assert addresses(translate(_SERVICE, _ENDPOINTS)) == ["10.0.0.5:8080", "10.0.0.6:8080"]
    both = translate(_SERVICE, _ENDPOINTS, slice_of("[{addresses: [10.0.0.1]}]"))
    assert addresses(both) == ["10.0.0.1:8080"]


def test_pods_serve_where_neither_exists() -> None:
    made = translate(
        _SERVICE,
        pod("p1", "10.0.0.1", "{app: a}"),
        pod("p2", "10.0.0.2", "{app: a}", ", conditions: [{type: Ready, status: 'True'}]"),
        pod("p3", "10.0.0.3", "{app: a}", ", conditions: [{type: Ready, status: 'False'}]"),
        pod("p4", "10.0.0.4", "{app: b}"),
        pod("p5", "10.0.0.5", "{app: a}", ", phase: Succeeded"),
    )
    assert addresses(made) == ["10.0.0.1:9080", "10.0.0.2:9080"]


def test_pods_that_are_all_unready_leave_the_service_empty() -> None:
    unready = pod("p", "10.0.0.3", "{app: a}", ", conditions: [{type: Ready, status: 'False'}]")
    made = translate(_SERVICE, unready)
    assert addresses(made) == []
    assert "resolved-by-dns" not in made.codes("info")
    published = _SERVICE + "  publishNotReadyAddresses: true\n"
    assert addresses(translate(published, unready)) == ["10.0.0.3:9080"]


def test_without_any_endpoint_in_the_documents_dns_is_asked() -> None:
    made = translate(_SERVICE, destination_rule("dr", "a", "subsets: [{name: v1, labels: {v: x}}]"))
    assert made.cluster(f"80||{_A}").discovery == DnsSource((Endpoint(_A, 80, hostname=_A),))
    assert "resolved-by-dns" in made.codes("info")
    assert addresses(made, "v1") == []
    assert "IST0173" in made.codes()


def test_an_empty_list_of_endpoints_is_an_empty_cluster() -> None:
    made = translate(_SERVICE, slice_of("[]"))
    assert addresses(made) == []
    assert "resolved-by-dns" not in made.codes("info")


def test_headless_services_are_dialled_directly() -> None:
    made = translate(service("a", more="clusterIP: None"))
    assert made.cluster(f"80||{_A}").discovery == OriginalDestination()


def test_an_external_name_out_of_the_mesh_is_resolved() -> None:
    made = translate(
        service("a", more="type: ExternalName, externalName: b.default.svc.cluster.local"),
        service("b", more="type: ExternalName, externalName: Far.example.com."),
    )
    (target,) = made.cluster(f"80||{_A}").discovery.targets
    assert (target.address, target.port) == ("far.example.com", 80)


def test_a_hidden_service_does_not_exist() -> None:
    text = service("a").replace(
        "namespace: default", 'namespace: default, annotations: {networking.istio.io/exportTo: "~"}'
    )
    assert translate(text).clusters == {}


def test_a_pod_has_the_locality_of_its_node() -> None:
    node = """
        apiVersion: v1
        kind: Node
        metadata: {name: n1, labels: {topology.kubernetes.io/region: eu,
                   topology.kubernetes.io/zone: b, topology.istio.io/subzone: r1}}
    """
    sink = Diagnostics()
    documents = [
        Document(Reader.root(root, "f", sink), "v1", kind, "default", name)
        for kind, name, text in (
            ("Node", "n1", node),
            ("Pod", "p", pod("p", "10.0.0.1", "{app: a}")),
        )
        for root in parse(dedent(text), "f", sink)
    ]
    (found,) = read_objects(documents).pod_endpoints(
        "default", (("app", "a"),), ServicePort(80, target="web")
    )
    assert found.locality == Locality("eu", "b", "r1")
    assert len(sink) == 0


def test_the_locality_label_of_a_pod_is_used() -> None:
    made = translate(_SERVICE, pod("p", "10.0.0.1", "{app: a, istio-locality: eu.b.r1}"))
    assert made.cluster(f"80||{_A}").endpoints[0].locality == Locality("eu", "b", "r1")


def test_settings_that_nothing_honours_are_noted_on_the_cluster() -> None:
    more = "internalTrafficPolicy: Local, trafficDistribution: PreferClose"
    notes = translate(service("a", more=more)).cluster(f"80||{_A}").not_honoured
    assert len(notes) == 2


@pytest.mark.parametrize(
    ("number", "name", "app", "protocol"),
    [
        (80, "http", "", "http"),
        (80, "http-web", "", "http"),
        (80, "HTTP2-x", "", "http2"),
        (80, "grpc", "", "http2"),
        (80, "grpc-web", "", "http2"),
        (443, "https-x", "", "https"),
        (80, "tcp-x", "", "tcp"),
        (80, "web", "", "auto"),
        (80, "", "", "auto"),
        (3306, "", "", "tcp"),
        (3306, "http", "", "http"),
        (80, "tcp", "http", "http"),
        (80, "x", "kubernetes.io/h2c", "http2"),
        (80, "http", "kubernetes.io/wss", "https"),
        (80, "http", "example.com/own", "auto"),
    ],
)
def test_the_protocol_of_a_port(number: int, name: str, app: str, protocol: str) -> None:
    assert protocol_of_port(number, name, app) == protocol


def test_udp_ports_are_nothing_to_an_http_client() -> None:
    made = translate(service("a", ports="[{port: 53, protocol: UDP}, {port: 80}]"))
    assert list(made.clusters) == [f"outbound|80||{_A}"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ports: [{name: x}]", "port is missing"),
        ("ports: [{port: 0}]", "0 is less than 1"),
        ("type: Odd", 'unknown value "Odd"'),
        ("type: ExternalName", "externalName is missing"),
        ("ports: 80", "expected a list"),
    ],
)
def test_what_is_refused(spec: str, message: str) -> None:
    text = f"apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{{spec}}}\n"
    errors = translate(text).errors
    assert any(message in found for found in errors), errors
