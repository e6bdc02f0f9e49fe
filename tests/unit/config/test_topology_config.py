"""Places, priorities, panic and slow start in policy documents, native and Istio's."""

from __future__ import annotations

from typing import Any

import pytest
from istio_yaml import destination_rule, service, translate

from meshclient.config import load_documents
from meshclient.errors import ConfigError
from meshclient.model.cluster import Cluster, Topology
from meshclient.model.endpoint import Locality
from meshclient.model.load_balancing import Distribution, LocalityWeight


def native(**load_balancing: Any) -> Cluster:
    services = {"a": {"endpoints": ["127.0.0.1:80"], "load_balancing": load_balancing}}
    return load_documents([{"version": 1, "services": services}]).clusters["a"]


def test_native_topology() -> None:
    made = native(
        policy="round_robin",
        locality="zone_aware",
        local_service="front",
        routing_enabled=50,
        min_cluster_size=3,
        force_local_zone_min_size=2,
        locality_basis="healthy_hosts_weight",
        fail_traffic_on_panic=True,
        failover=[{"from": "eu", "to": "us"}],
        failover_priority=["rack", "disk=ssd"],
        overprovisioning_factor=200,
        weighted_priority_health=True,
        healthy_panic_threshold=12.5,
    )
    assert made.policy.topology == Topology(
        locality="zone_aware",
        failover=(("eu", "us"),),
        failover_priority=("rack", "disk=ssd"),
        prioritize_locality=True,
        local_service="front",
        routing_enabled_percent=50.0,
        min_cluster_size=3,
        force_local_zone_min_size=2,
        locality_basis="healthy_hosts_weight",
        fail_traffic_on_panic=True,
        overprovisioning_factor=200,
        weighted_priority_health=True,
    )
    assert made.policy.panic_threshold_percent == 13
    assert native(policy="random").policy.topology == Topology()


def test_native_weights_distribution_and_scan() -> None:
    weights = [
        {"locality": "eu/b", "weight": 0},
        {"locality": {"zone": "c"}, "weight": 2, "priority": 1},
    ]
    made = native(
        locality="locality_weighted", locality_weights=weights, selection_method="full_scan"
    )
    assert made.locality_weights == (
        LocalityWeight(Locality("eu", "b"), 0),
        LocalityWeight(Locality(zone="c"), 2, 1),
    )
    assert made.policy.load_balancing.full_scan
    made = native(distribute=[{"from": "eu/b", "to": {"eu/b": 80, "*": 20}}])
    assert made.policy.topology == Topology(
        locality="locality_weighted",
        distribute=(Distribution("eu/b", (("eu/b", 80), ("*", 20))),),
    )


@pytest.mark.parametrize(
    ("load_balancing", "message"),
    [
        ({"locality": "zone-aware"}, "did you mean"),
        ({"min_cluster_size": 3}, "has no effect without locality: zone_aware"),
        ({"locality_weights": []}, "has no effect without locality: locality_weighted"),
        (
            {"locality": "locality_weighted", "locality_weights": [{"weight": 1}]},
            '"locality" is missing',
        ),
        ({"distribute": [{"from": "a", "to": {"b": 99}}]}, "add up to 99, not to 100"),
        (
            {"distribute": [{"from": "a", "to": {"b": 100}}], "failover_priority": ["x"]},
            "distribute excludes failover",
        ),
        ({"failover": [{"from": "a", "to": "a"}]}, "cannot fail over to itself"),
        ({"failover": [{"from": "a/b", "to": "c"}]}, "a region is expected"),
        ({"healthy_panic_threshold": 101}, "100"),
        ({"selection_method": "full"}, "full_scan"),
    ],
)
def test_what_is_refused(load_balancing: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        native(**load_balancing)
    assert message in str(caught.value)


def istio(policy: str) -> Any:
    made = translate(service("a"), destination_rule("dr", "a", f"trafficPolicy: {{{policy}}}"))
    assert not made.errors, made.errors
    found = [c for c in made.clusters.values() if not c.subset and c.service.startswith("a.")]
    return found[0].policy


OUTLIER = "outlierDetection: {interval: 1s}"


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        ("loadBalancer: {simple: RANDOM}", Topology()),
        (OUTLIER, Topology(prioritize_locality=True)),
        (f"loadBalancer: {{localityLbSetting: {{enabled: false}}}}, {OUTLIER}", Topology()),
        (
            f"loadBalancer: {{localityLbSetting: {{failover: [{{from: a, to: b}}]}}}}, {OUTLIER}",
            Topology("locality_weighted", failover=(("a", "b"),), prioritize_locality=True),
        ),
        (
            "loadBalancer: {localityLbSetting: {failoverPriority: [x]}}",
            Topology(),
        ),
        (
            "loadBalancer: {localityLbSetting: {distribute: [{from: a, to: {b: 100}}]}}",
            Topology("locality_weighted", (Distribution("a", (("b", 100),)),)),
        ),
        (
            "loadBalancer: {zoneAwareLbSetting: {minClusterSize: 2, failover: [{from: a, to: b}]}}",
            Topology(
                "zone_aware", failover=(("a", "b"),), prioritize_locality=True, min_cluster_size=2
            ),
        ),
        ("loadBalancer: {zoneAwareLbSetting: {enabled: false}}", Topology()),
    ],
)
def test_istio_settings_and_the_meshs_default(policy: str, wanted: Topology) -> None:
    assert istio(policy).topology == wanted


@pytest.mark.parametrize(
    ("policy", "percent"),
    [
        ("loadBalancer: {simple: RANDOM}", 50),
        (OUTLIER, 0),
        ("outlierDetection: {minHealthPercent: 30}", 30),
    ],
)
def test_istio_min_health_percent_is_the_panic_threshold(policy: str, percent: int) -> None:
    assert istio(policy).panic_threshold_percent == percent


@pytest.mark.parametrize(("given", "percent"), [({}, 40), ({"healthy_panic_threshold": 20}, 20)])
def test_native_min_health_percent_is_the_panic_threshold(
    given: dict[str, int], percent: int
) -> None:
    services = {
        "a": {
            "endpoints": ["127.0.0.1:80"],
            "load_balancing": given,
            "outlier_detection": {"min_health_percent": 40},
        }
    }
    made = load_documents([{"version": 1, "services": services}]).clusters["a"]
    assert made.policy.panic_threshold_percent == percent


def test_istio_warm_up_is_honoured() -> None:
    made = istio("loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 30s, aggression: 2}}")
    assert made.load_balancing.slow_start_s == 30.0


def test_istio_refuses_both_kinds_of_settings_and_topology_labels() -> None:
    text = "loadBalancer: {{localityLbSetting: {}, zoneAwareLbSetting: {{failoverPriority: [{}]}}}}"
    rule = destination_rule(
        "dr", "a", "trafficPolicy: {" + text.format("{}", "topology.kubernetes.io/zone") + "}"
    )
    errors = translate(service("a"), rule).errors
    assert any("only one of localityLbSetting" in e for e in errors), errors
    assert any("must not use topology label" in e for e in errors), errors
