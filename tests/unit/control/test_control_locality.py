"""Istio's locality settings: the cases of its own tests, and what always holds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshclient.control.assemble import assemble
from meshclient.control.locality import distance, localize, matches
from meshclient.model.cluster import Cluster, ClusterPolicy, Topology
from meshclient.model.endpoint import Endpoint, Locality, labels_of
from meshclient.model.load_balancing import Distribution, LocalityWeight
from meshclient.model.snapshot import MeshConfig, Node

HERE = Locality("region1", "zone1", "subzone1")
PLACES = (
    "region1/zone1/subzone1",
    "region1/zone1/subzone1",
    "region1/zone1/subzone2",
    "region1/zone1/subzone3",
    "region1/zone2",
    "region2",
    "region3",
)


def place(text: str) -> Locality:
    return Locality(*[*text.split("/"), "", ""][:3])


def cluster_of(places: tuple[str, ...], labels: tuple[Any, ...] = (), **topology: Any) -> Cluster:
    topology.setdefault("prioritize_locality", not topology.get("distribute"))
    endpoints = tuple(
        Endpoint(
            "10.0.0.1",
            1000 + index,
            locality=place(text),
            labels=labels_of(labels[index]) if labels else (),
        )
        for index, text in enumerate(places)
    )
    return Cluster("c", endpoints=endpoints, policy=ClusterPolicy(topology=Topology(**topology)))


def priorities(cluster: Cluster, node: Node | None = None) -> list[int]:
    return [e.priority for e in localize(cluster, node or Node(locality=HERE)).endpoints]


def test_distribution_between_sub_zones() -> None:
    to = (
        ("region1/zone1/subzone1", 80),
        ("region1/zone1/subzone2", 15),
        ("region1/zone1/subzone3", 5),
    )
    rule = Distribution("region1/zone1/subzone1", to)
    made = localize(cluster_of(PLACES, distribute=(rule,)), Node(locality=HERE))
    assert [str(e.locality) for e in made.endpoints] == list(PLACES[:4])
    assert made.locality_weights == tuple(LocalityWeight(place(t), w) for t, w in to)


def test_a_wildcard_target_is_shared_by_the_endpoints_weights_and_rounded_up() -> None:
    rule = Distribution("region1/*", (("region1/zone1/*", 90), ("*", 10)))
    made = localize(cluster_of(PLACES, distribute=(rule,)), Node(locality=HERE))
    assert {str(w.locality): w.weight for w in made.locality_weights} == {
        "region1/zone1/subzone1": 45,
        "region1/zone1/subzone2": 23,
        "region1/zone1/subzone3": 23,
        "region1/zone2": 4,
        "region2": 4,
        "region3": 4,
    }
    assert len(made.endpoints) == len(PLACES)


def test_the_first_rule_for_the_caller_decides_and_none_changes_nothing() -> None:
    rules = (
        Distribution("region2", (("region2", 100),)),
        Distribution("region1", (("region3", 100),)),
        Distribution("*", (("region1", 100),)),
    )
    made = localize(cluster_of(PLACES, distribute=rules), Node(locality=HERE))
    assert [str(e.locality) for e in made.endpoints] == ["region3"]
    other = cluster_of(PLACES, distribute=rules[:1])
    assert localize(other, Node(locality=HERE)) is other
    weighed = cluster_of(PLACES, distribute=rules[:1], locality="locality_weighted")
    made = localize(weighed, Node(locality=HERE))
    assert [w.weight for w in made.locality_weights] == [2, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("places", "failover", "wanted"),
    [
        (PLACES, (("region1", "region2"),), [0, 0, 1, 1, 2, 3, 4]),
        (PLACES, (), [0, 0, 1, 1, 2, 3, 3]),
        (PLACES, (("region3", "region2"),), [0, 0, 1, 1, 2, 3, 3]),
        (
            ("region1/zone1/subzone2", "region1/zone1", "region2"),
            (("region1", "region2"),),
            [0, 0, 1],
        ),
        (("region1/zone1/subzone2", "region2", ""), (("region1", "region2"),), [0, 1, 2]),
        (("region2", "region3"), (), [0, 0]),
    ],
)
def test_failover_by_place(
    places: tuple[str, ...], failover: tuple[tuple[str, str], ...], wanted: list[int]
) -> None:
    assert priorities(cluster_of(places, failover=failover)) == wanted


NETWORK, CLUSTER = "topology.istio.io/network", "topology.istio.io/cluster"
LABELS = (
    {NETWORK: "n1", CLUSTER: "c1"},
    {NETWORK: "n2", CLUSTER: "c2"},
    {NETWORK: "n1", CLUSTER: "c3"},
    {NETWORK: "n2", CLUSTER: "c1"},
)
FOUR = ("region1/zone1/subzone1", "region1/zone1/subzone1", "region2", "region2")


@pytest.mark.parametrize(
    ("own", "names", "wanted"),
    [
        ({NETWORK: "test", CLUSTER: "test"}, (NETWORK, CLUSTER), [0, 0, 0, 0]),
        ({NETWORK: "n1", CLUSTER: "test"}, (NETWORK, CLUSTER), [0, 1, 0, 1]),
        ({NETWORK: "test", CLUSTER: "c1"}, (NETWORK, CLUSTER), [0, 1, 1, 0]),
        ({NETWORK: "n1", CLUSTER: "c1"}, (NETWORK, CLUSTER), [0, 3, 1, 2]),
        ({CLUSTER: "c9"}, (f"{CLUSTER}=c2",), [1, 0, 1, 1]),
        ({NETWORK: "n2"}, (f"{NETWORK}=n1", CLUSTER), [0, 1, 0, 1]),
        ({CLUSTER: "c1", "tier": "x"}, ("tier", CLUSTER), [0, 0, 0, 0]),
        ({}, ("topology.kubernetes.io/region",), [0, 0, 1, 1]),
    ],
)
def test_failover_priority(own: dict[str, str], names: tuple[str, ...], wanted: list[int]) -> None:
    node = Node(locality=HERE, labels=labels_of(own))
    made = cluster_of(FOUR, LABELS, failover_priority=names)
    assert priorities(made, node) == wanted


def test_labels_come_before_places_and_both_may_be_given() -> None:
    made = cluster_of(
        FOUR, LABELS, failover_priority=(CLUSTER,), failover=(("region1", "region2"),)
    )
    node = Node(locality=HERE, labels=labels_of({CLUSTER: "c1"}))
    assert priorities(made, node) == [0, 2, 3, 1]


def test_a_caller_without_labels_and_place_is_given_no_label_priority() -> None:
    made = cluster_of(FOUR, LABELS, failover_priority=(CLUSTER,))
    assert priorities(made, Node()) == [0, 0, 0, 0]


def test_zone_aware_settings_keep_regions_apart() -> None:
    options: dict[str, Any] = {"locality": "zone_aware"}
    assert priorities(cluster_of(PLACES, **options)) == [0, 0, 0, 0, 0, 1, 1]
    failing = cluster_of(PLACES, failover=(("region1", "region3"),), **options)
    assert priorities(failing) == [0, 0, 0, 0, 0, 2, 1]


def test_weights_follow_their_locality_into_its_priority() -> None:
    weights = (
        LocalityWeight(place("region1/zone1/subzone1"), 7),
        LocalityWeight(place("region2"), 9),
    )
    made = cluster_of(FOUR, locality="locality_weighted")
    found = localize(made, Node(locality=HERE))
    assert [(w.priority, w.weight) for w in found.locality_weights] == [(0, 2), (1, 2)]
    given = Cluster("c", endpoints=made.endpoints, policy=made.policy, locality_weights=weights)
    found = localize(given, Node(locality=HERE))
    assert [(w.priority, w.weight) for w in found.locality_weights] == [(0, 7), (1, 9)]


def test_the_snapshot_holds_what_the_caller_sees() -> None:
    config = MeshConfig(node=Node(locality=HERE), clusters={"c": cluster_of(PLACES)})
    snapshot = assemble(config, {}, 1)
    assert [e.priority for e in snapshot.clusters["c"].endpoints] == [0, 0, 1, 1, 2, 3, 3]
    assert assemble(config, {}, 2, snapshot).clusters["c"] is snapshot.clusters["c"]


def test_clusters_that_do_not_care_stay_the_same_object() -> None:
    plain = cluster_of(PLACES, prioritize_locality=False)
    assert localize(plain, Node(locality=HERE)) is plain
    empty = cluster_of(())
    assert localize(empty, Node(locality=HERE)) is empty


@pytest.mark.parametrize(
    ("rule", "covered"),
    [
        ("*", True),
        ("region1", True),
        ("region1/*", True),
        ("region1/zone1/*", True),
        ("region1/zone1/subzone1", True),
        ("*/zone1", True),
        ("region1/zone2", False),
        ("region1/zone1/subzone2", False),
        ("", False),
    ],
)
def test_rules_and_places(rule: str, covered: bool) -> None:
    assert matches(HERE, rule) is covered


parts = st.sampled_from(["", "a", "b"])
localities = st.builds(Locality, parts, parts, parts)


@given(here=localities, there=st.lists(localities, max_size=8), failover=st.booleans())
def test_priorities_have_no_gaps_follow_distance_and_stay(
    here: Locality, there: list[Locality], failover: bool
) -> None:
    topology = Topology(prioritize_locality=True, failover=(("a", "b"),) if failover else ())
    endpoints = tuple(Endpoint("10.0.0.1", 1000 + i, locality=p) for i, p in enumerate(there))
    cluster = Cluster("c", endpoints=endpoints, policy=ClusterPolicy(topology=topology))
    once = localize(cluster, Node(locality=here))
    found = [e.priority for e in once.endpoints]
    assert set(found) == set(range(len(set(found))))
    for one, p in zip(there, found, strict=True):
        for two, q in zip(there, found, strict=True):
            assert distance(here, one) >= distance(here, two) or p <= q
    assert localize(once, Node(locality=here)) == once
