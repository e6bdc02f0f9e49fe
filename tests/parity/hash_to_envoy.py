"""Hash policies and hashing clusters, said in Envoy's bootstrap: what the other parity tests
do not need.
"""

from __future__ import annotations

from meshclient.model.cluster import Cluster
from meshclient.model.endpoint import Endpoint, Locality
from meshclient.model.routes import (
    ForwardAction,
    HashPolicy,
    Route,
    RouteConfiguration,
    VirtualHost,
)

from .to_envoy import bootstrap
from .to_envoy_routes import Json

#: Our caller's context is Envoy's filter state; here this header fills it.
CONTEXT_HEADER = "x-context"


def envoy_config(configuration: RouteConfiguration, clusters: dict[str, Cluster]) -> Json:
    """The bootstrap, with what the other parity tests do not need added."""
    plain = RouteConfiguration("hash", tuple(map(_without_hashes, configuration.virtual_hosts)))
    made = bootstrap([plain], {}, "/dev/null")
    made["static_resources"]["clusters"] = [_cluster(c) for c in clusters.values()]
    filters = made["static_resources"]["listeners"][0]["filter_chains"][0]["filters"]
    manager = filters[0]["typed_config"]
    manager["http_filters"].insert(0, _context_filter())
    for host, original in zip(
        manager["route_config"]["virtual_hosts"], configuration.virtual_hosts, strict=True
    ):
        action = original.routes[0].action
        assert isinstance(action, ForwardAction)
        forward = host["routes"][0]["route"]
        forward["hash_policy"] = [_hash_policy(policy) for policy in action.hash_policy]
        forward["retry_policy"] = {
            "retry_on": "retriable-status-codes",
            "retriable_status_codes": [503],
            "num_retries": 4,
            "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.001s"},
            "retry_host_predicate": [
                {
                    "name": "envoy.retry_host_predicates.previous_hosts",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.retry.host."
                        "previous_hosts.v3.PreviousHostsPredicate"
                    },
                }
            ],
            "host_selection_retry_max_attempts": 5,
        }
    return made


def _without_hashes(host: VirtualHost) -> VirtualHost:
    (route,) = host.routes
    assert isinstance(route.action, ForwardAction)
    action = ForwardAction(route.action.clusters)
    return VirtualHost(
        host.name, host.domains, (Route(action, request_headers=route.request_headers),)
    )


def _context_filter() -> Json:
    """Before the router: the header becomes the state."""
    return {
        "name": "envoy.filters.http.set_filter_state",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.set_filter_state.v3.Config",
            "on_request_headers": [
                {
                    "object_key": "ctx",
                    "factory_key": "envoy.hashable_string",
                    "format_string": {
                        "text_format_source": {"inline_string": f"%REQ({CONTEXT_HEADER})%"},
                        "omit_empty_values": True,
                    },
                    "skip_if_empty": True,
                }
            ],
        },
    }


def _hash_policy(policy: HashPolicy) -> Json:
    out: Json = {"terminal": policy.terminal}
    if policy.kind == "header":
        out["header"] = {"header_name": policy.name}
        if policy.pattern:
            out["header"]["regex_rewrite"] = {
                "pattern": {"regex": policy.pattern},
                "substitution": policy.substitution,
            }
    elif policy.kind == "cookie":
        out["cookie"] = {"name": policy.name, "path": policy.path}
        if policy.ttl_s is not None:
            out["cookie"]["ttl"] = f"{policy.ttl_s:g}s"
        out["cookie"]["attributes"] = [{"name": n, "value": v} for n, v in policy.attributes]
    elif policy.kind == "query":
        out["query_parameter"] = {"name": policy.name}
    elif policy.kind == "source_ip":
        out["connection_properties"] = {"source_ip": True}
    else:
        out["filter_state"] = {"key": policy.name}
    return out


def _cluster(cluster: Cluster) -> Json:
    balancing = cluster.policy.load_balancing
    common: Json = {
        "consistent_hashing_lb_config": {
            "use_hostname_for_hashing": balancing.use_hostname_for_hashing
        }
    }
    if balancing.hash_balance_factor:
        factor = balancing.hash_balance_factor
        common["consistent_hashing_lb_config"]["hash_balance_factor"] = factor
    if cluster.policy.topology.locality == "locality_weighted":
        common["locality_weighted_lb_config"] = {}
    out: Json = {
        "name": cluster.name,
        "type": "STRICT_DNS" if balancing.use_hostname_for_hashing else "STATIC",
        "connect_timeout": "5s",
        "lb_policy": balancing.policy.upper(),
        "common_lb_config": common,
        "load_assignment": {"cluster_name": cluster.name, "endpoints": _endpoints(cluster)},
    }
    if balancing.policy == "ring_hash":
        out["ring_hash_lb_config"] = {
            "minimum_ring_size": balancing.minimum_ring_size,
            "maximum_ring_size": balancing.maximum_ring_size,
            "hash_function": balancing.hash_function.upper(),
        }
    elif balancing.policy == "maglev":
        out["maglev_lb_config"] = {"table_size": balancing.table_size}
    return out


def _endpoints(cluster: Cluster) -> list[Json]:
    groups: dict[tuple[int, Locality], list[Endpoint]] = {}
    for endpoint in cluster.endpoints:
        groups.setdefault((endpoint.priority, endpoint.locality), []).append(endpoint)
    weights = {w.locality: w.weight for w in cluster.locality_weights}
    out = []
    for (priority, locality), members in groups.items():
        group: Json = {
            "priority": priority,
            "locality": {"region": locality.region, "zone": locality.zone},
            "lb_endpoints": [_endpoint(e) for e in members],
        }
        if weights.get(locality):
            group["load_balancing_weight"] = weights[locality]
        out.append(group)
    return out


def _endpoint(endpoint: Endpoint) -> Json:
    address: Json
    if endpoint.address.startswith("unix:"):
        address = {"pipe": {"path": endpoint.address.removeprefix("unix://")}}
    else:
        address = {"socket_address": {"address": endpoint.address, "port_value": endpoint.port}}
    return {
        "endpoint": {"address": address, "hostname": endpoint.hostname},
        "load_balancing_weight": endpoint.weight,
        "health_status": endpoint.health.upper(),
        "metadata": {"filter_metadata": {"envoy.lb": dict(endpoint.labels)}},
    }
