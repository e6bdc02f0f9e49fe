"""A bootstrap with what the model's translation leaves out: subsets, sessions, load reports.

One listener per virtual host; says things in Envoy's v3 JSON and judges nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from meshclient.model.cluster import Cluster, LoadBalancing
from meshclient.model.endpoint import Labels
from meshclient.model.load_balancing import OrcaWeights, StatefulSession, SubsetSelection
from meshclient.model.routes import RouteConfiguration

from .to_envoy import bootstrap, cluster_json
from .to_envoy_routes import Json

_EXTENSIONS = "type.googleapis.com/envoy.extensions"


def balancing_bootstrap(table: RouteConfiguration, clusters: dict[str, Cluster]) -> Json:
    """Listener ``table0`` serves ``table``; clusters as their own policies say. The virtual
    host of a cluster has the cluster's name."""
    out = bootstrap([table], {}, "/dev/null")
    out["static_resources"]["clusters"] = [_cluster(c) for c in clusters.values()]
    (listener,) = out["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    kept = {"name": "sessions", "typed_config": {"@type": _filter("StatefulSession")}}
    manager["http_filters"].insert(0, kept)
    for model, host in zip(
        table.virtual_hosts, manager["route_config"]["virtual_hosts"], strict=True
    ):
        session = clusters[model.name].policy.load_balancing.session
        if session is not None:
            host["typed_per_filter_config"] = {"sessions": _session(session)}
        for route, said in zip(model.routes, host["routes"], strict=True):
            subset: Labels = getattr(route.action, "subset", ())
            if subset:
                said["route"]["metadata_match"] = _metadata(subset)
    return out


def _filter(message: str) -> str:
    return f"{_EXTENSIONS}.filters.http.stateful_session.v3.{message}"


def _session(session: StatefulSession) -> Json:
    state: Json = {"@type": f"{_EXTENSIONS}.http.stateful_session."}
    if session.kind == "cookie":
        state["@type"] += "cookie.v3.CookieBasedSessionState"
        state["cookie"] = {
            "name": session.name,
            "path": session.path,
            "ttl": f"{session.ttl_s:g}s",
        }
    else:
        state["@type"] += "header.v3.HeaderBasedSessionState"
        state["name"] = session.name
    return {
        "@type": _filter("StatefulSessionPerRoute"),
        "stateful_session": {
            "session_state": {
                "name": f"envoy.http.stateful_session.{session.kind}",
                "typed_config": state,
            },
            "strict": session.strict,
        },
    }


def _metadata(labels: Labels) -> Json:
    return {"filter_metadata": {"envoy.lb": dict(labels)}}


def _cluster(cluster: Cluster) -> Json:
    settings = cluster.policy.load_balancing
    said = cluster_json(_plain(cluster))
    if settings.policy == "client_side_weighted_round_robin":
        del said["lb_policy"]
        said["load_balancing_policy"] = _weighted(settings.orca)
    if settings.subsets is not None:
        said["lb_subset_config"] = _subsets(settings.subsets)
    for endpoints in said["load_assignment"]["endpoints"]:
        pairs = zip(cluster.endpoints, endpoints["lb_endpoints"], strict=True)
        for endpoint, written in pairs:
            written["metadata"] = _metadata(endpoint.labels)
    return said


def _plain(cluster: Cluster) -> Cluster:
    """The cluster with a policy that the general translation knows."""
    policy = replace(cluster.policy, load_balancing=LoadBalancing("round_robin"))
    return replace(cluster, policy=policy)


def _weighted(orca: OrcaWeights) -> Json:
    settings: dict[str, Any] = {
        "@type": f"{_EXTENSIONS}.load_balancing_policies.client_side_weighted_round_robin.v3."
        "ClientSideWeightedRoundRobin",
        "blackout_period": f"{orca.blackout_period_s:g}s",
        "weight_expiration_period": f"{orca.weight_expiration_period_s:g}s",
        "weight_update_period": f"{orca.weight_update_period_s:g}s",
        "error_utilization_penalty": orca.error_utilization_penalty,
        "metric_names_for_computing_utilization": list(orca.metric_names),
    }
    name = "envoy.load_balancing_policies.client_side_weighted_round_robin"
    return {"policies": [{"typed_extension_config": {"name": name, "typed_config": settings}}]}


def _subsets(selection: SubsetSelection) -> Json:
    selectors = []
    for selector in selection.selectors:
        written: Json = {
            "keys": list(selector.keys),
            "single_host_per_subset": selector.single_host_per_subset,
        }
        if selector.fallback is not None:
            written["fallback_policy"] = selector.fallback.upper()
            written["fallback_keys_subset"] = list(selector.fallback_keys)
        selectors.append(written)
    return {
        "fallback_policy": selection.fallback.upper(),
        "default_subset": dict(selection.default_subset),
        "subset_selectors": selectors,
        "panic_mode_any": selection.panic_mode_any,
    }
