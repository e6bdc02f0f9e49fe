"""Assembling: which endpoints a cluster has, and which objects stay the same."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from control_support import config, dns, endpoint, ready, static
from hypothesis import given
from hypothesis import strategies as st

from meshclient.control.assemble import assemble, describe_source, dynamic_sources
from meshclient.model.cluster import Cluster
from meshclient.model.endpoint import (
    DnsSource,
    Endpoint,
    EndpointSet,
    OriginalDestination,
    RegistrySource,
    StaticSource,
    labels_of,
)
from meshclient.model.routes import (
    DirectResponse,
    ForwardAction,
    Mirror,
    Route,
    RouteConfiguration,
    VirtualHost,
    WeightedCluster,
)
from meshclient.model.snapshot import MeshConfig
from meshclient.model.source import Source

REVIEWS = dns("reviews.prod:9080")


def test_static_clusters_are_the_very_objects_of_the_configuration():
    cluster = static("a", "10.0.0.1:80")
    assert assemble(config(cluster), {}, 1).clusters["a"] is cluster


def test_everything_else_of_the_configuration_is_carried_over():
    conf = config(static("a"), outbound="registry_only", files=("a.yaml",))
    snapshot = assemble(conf, {}, 7)
    assert (snapshot.version, snapshot.outbound, snapshot.files) == (7, "registry_only", conf.files)
    assert snapshot.node is conf.node
    assert snapshot.route_configurations is conf.route_configurations


def test_every_cluster_of_a_source_gets_its_endpoints_narrowed_by_labels():
    v1, v2 = endpoint("10.0.0.1:80", version="v1"), endpoint("10.0.0.2:80", version="v2", x="y")
    found = {REVIEWS: EndpointSet((v1, v2), "ready")}
    conf = config(
        Cluster("all", discovery=REVIEWS),
        Cluster("v2", discovery=REVIEWS, labels=labels_of({"version": "v2"})),
        Cluster("both", discovery=REVIEWS, labels=labels_of({"version": "v1", "x": "y"})),
    )
    clusters = assemble(conf, found, 1).clusters
    assert clusters["all"].endpoints == (v1, v2)
    assert clusters["v2"].endpoints == (v2,)
    assert clusters["both"].endpoints == ()
    assert all(c.discovery_error == "" for c in clusters.values())


def test_labels_narrow_static_endpoints_too():
    v1, v2 = endpoint("10.0.0.1:80", version="v1"), endpoint("10.0.0.2:80", version="v2")
    cluster = Cluster("v1", endpoints=(v1, v2), labels=labels_of({"version": "v1"}))
    assert assemble(config(cluster), {}, 1).clusters["v1"].endpoints == (v1,)


def test_a_source_that_has_not_answered_says_so_and_blocks_nobody():
    conf = config(Cluster("r", discovery=REVIEWS), static("a", "10.0.0.1:80"))
    clusters = assemble(conf, {}, 1).clusters
    assert clusters["r"].endpoints == ()
    assert clusters["r"].discovery_error == "dns reviews.prod:9080: no answer yet"
    assert clusters["a"].endpoints


def test_failed_and_stale_sources_carry_the_reason():
    conf = config(Cluster("r", discovery=REVIEWS))
    failed = assemble(conf, {REVIEWS: EndpointSet(state="failed", error="NXDOMAIN")}, 1)
    assert failed.clusters["r"].discovery_error == "dns reviews.prod:9080: NXDOMAIN"
    kept = EndpointSet((endpoint("10.0.0.1:80"),), "stale", "timed out")
    stale = assemble(conf, {REVIEWS: kept}, 1).clusters["r"]
    assert stale.endpoints == kept.endpoints
    assert stale.discovery_error.endswith("last good endpoints in use: timed out")


def test_a_cluster_keeps_its_endpoints_while_a_new_source_warms_up():
    before = assemble(config(Cluster("r", discovery=REVIEWS)), {REVIEWS: ready("10.0.0.1:80")}, 1)
    moved = config(Cluster("r", discovery=dns("other:80")))
    warming = assemble(moved, {}, 2, before).clusters["r"]
    assert [str(e) for e in warming.endpoints] == ["10.0.0.1:80"]
    assert "no answer yet" in warming.discovery_error
    failed = {dns("other:80"): EndpointSet(state="failed", error="NXDOMAIN")}
    assert assemble(moved, failed, 3, before).clusters["r"].endpoints == ()


def test_only_the_cluster_that_changed_is_a_new_object():
    other = dns("ratings:80")
    conf = config(Cluster("r", discovery=REVIEWS), Cluster("o", discovery=other), static("a"))
    found = {REVIEWS: ready("10.0.0.1:80"), other: ready("10.0.0.2:80")}
    first = assemble(conf, found, 1)
    second = assemble(conf, {**found, other: ready("10.0.0.3:80")}, 2, first)
    assert second.clusters["r"] is first.clusters["r"]
    assert second.clusters["a"] is first.clusters["a"]
    assert second.clusters["o"] is not first.clusters["o"]


def test_an_equal_cluster_that_moved_in_its_file_is_a_new_object():
    old = replace(static("a"), sources=(Source("a.yaml", 3),))
    first = assemble(config(old), {}, 1)
    new = replace(old, sources=(Source("a.yaml", 4),))
    assert new == old
    assert assemble(config(new), {}, 2, first).clusters["a"].sources == new.sources


def _routes(*routes: Route) -> MeshConfig:
    host = VirtualHost("h", ("h",), routes)
    mapping = {0: RouteConfiguration("any", (host,)), 80: RouteConfiguration("80", (host,))}
    return config(static("known"), route_configurations=MappingProxyType(mapping))


def test_a_route_to_nowhere_is_one_warning_at_its_line():
    where = Source("r.yaml", 12, 3)
    action = ForwardAction(
        (WeightedCluster("known"), WeightedCluster("gone")), mirrors=(Mirror("shadow"),)
    )
    diagnostics = assemble(_routes(Route(action, source=where)), {}, 1).diagnostics
    assert [d.code for d in diagnostics] == ["unknown-cluster"] * 2
    assert {d.severity for d in diagnostics} == {"warning"}
    assert str(diagnostics[0]).startswith("r.yaml:12:3: warning: cluster 'gone' does not exist")
    assert "shadow" in diagnostics[1].message


def test_other_actions_and_header_named_clusters_warn_of_nothing():
    routes = (Route(DirectResponse(200)), Route(ForwardAction(cluster_header="x-c")))
    assert assemble(_routes(*routes), {}, 1).diagnostics == ()


def test_dynamic_sources_are_distinct_and_leave_out_what_needs_no_discovery():
    conf = config(
        static("a"),
        Cluster("p", discovery=OriginalDestination()),
        Cluster("r1", discovery=REVIEWS),
        Cluster("r2", discovery=dns("reviews.prod:9080")),
        Cluster("c", discovery=RegistrySource("consul", (("service", "x"),))),
    )
    assert len(dynamic_sources(conf)) == 2


def test_sources_read_well():
    assert describe_source(REVIEWS) == "dns reviews.prod:9080"
    assert describe_source(DnsSource((endpoint("_h._tcp.x:0"),), "srv")) == "dns (srv) _h._tcp.x:0"
    many = dns("a:1", "b:1", "c:1", "d:1", "e:1")
    assert describe_source(many) == "dns a:1, b:1, c:1 and 2 more"
    assert describe_source(RegistrySource("consul", (("service", "x"),))) == "consul service=x"
    assert describe_source(StaticSource()) == "static"
    assert describe_source(OriginalDestination()) == "original destination"


_labels = st.dictionaries(st.sampled_from("ab"), st.sampled_from("12"))


@given(st.lists(_labels, max_size=6), _labels)
def test_a_subset_holds_exactly_the_endpoints_with_all_its_labels(endpoints, wanted):
    found = tuple(Endpoint("h", n + 1, labels=labels_of(la)) for n, la in enumerate(endpoints))
    conf = config(Cluster("s", discovery=REVIEWS, labels=labels_of(wanted)))
    cluster = assemble(conf, {REVIEWS: EndpointSet(found, "ready")}, 1).clusters["s"]
    expected = [n + 1 for n, la in enumerate(endpoints) if wanted.items() <= la.items()]
    assert [e.port for e in cluster.endpoints] == expected
