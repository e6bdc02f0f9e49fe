"""Findings about load balancing in native files that is valid, but cannot do what it says.

Only warns; changes nothing. Looks at routes and clusters together, so that it runs when all
documents are read; what a single block tells is checked where the block is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from meshclient.config.reader import Diagnostics
from meshclient.model.cluster import Cluster
from meshclient.model.endpoint import OriginalDestination, StaticSource
from meshclient.model.load_balancing import HASH_POLICIES
from meshclient.model.routes import ForwardAction, Route, VirtualHost
from meshclient.model.source import Diagnostic, Source

CODE = "no-effect"


def check_balancing(
    hosts: Iterable[VirtualHost], clusters: Mapping[str, Cluster], sink: Diagnostics
) -> None:
    """``hosts`` are those of native files; ``clusters`` are all that calls may go to."""
    found = [
        *(d for host in {id(h): h for h in hosts}.values() for d in _of_host(host, clusters)),
        *(d for cluster in clusters.values() for d in _of_cluster(cluster, clusters)),
    ]
    # A service stands in the tables of several ports, and its subsets repeat its settings.
    for diagnostic in dict.fromkeys(found):
        sink.append(diagnostic)


def _of_host(host: VirtualHost, clusters: Mapping[str, Cluster]) -> Iterator[Diagnostic]:
    forwards = [(r, r.action) for r in host.routes if isinstance(r.action, ForwardAction)]
    for route, action in forwards:
        if action.subset:
            yield from _of_subset(route, action, clusters)
    hashing = [(route, action) for route, action in forwards if action.hash_policy]
    targets = [target for _, action in hashing for target in _targets(action, clusters)]
    if hashing and all(target is not None and not _hashes(target) for target in targets):
        policies = {t.policy.load_balancing.policy for t in targets if t is not None}
        yield _warning(
            f"has no effect with policy {', '.join(sorted(policies))}: nothing hashes",
            hashing[0][0].source,
            "hash_on",
            "write policy: ring_hash, or policy: maglev",
        )


def _targets(action: ForwardAction, clusters: Mapping[str, Cluster]) -> list[Cluster | None]:
    """None: not known before the call."""
    if action.cluster_header:
        return [None]
    return [clusters.get(target.cluster) for target in action.clusters]


def _hashes(cluster: Cluster) -> bool:
    return cluster.policy.load_balancing.policy in HASH_POLICIES


def _of_subset(
    route: Route, action: ForwardAction, clusters: Mapping[str, Cluster]
) -> Iterator[Diagnostic]:
    keys = {name for name, _ in action.subset}
    for target in _targets(action, clusters):
        if target is None:
            continue
        selection = target.policy.load_balancing.subsets
        if selection is None:
            yield _warning(
                f"has no effect: {target.name} has no load_balancing.subsets, "
                "so that every endpoint may get the call",
                route.source,
                "subset",
                f"add subsets: {{subset_selectors: [{{keys: [{', '.join(sorted(keys))}]}}]}}",
            )
        elif not any(keys == set(selector.keys) for selector in selection.selectors):
            yield _warning(
                f"no subset_selector of {target.name} has the keys {', '.join(sorted(keys))}: "
                f"its calls take the fallback_policy, {selection.fallback}",
                route.source,
                "subset",
            )


def _of_cluster(cluster: Cluster, clusters: Mapping[str, Cluster]) -> Iterator[Diagnostic]:
    source = cluster.sources[0] if cluster.sources else Source()
    if cluster.policy.load_balancing.session and isinstance(cluster.discovery, OriginalDestination):
        yield _warning(
            f"a session has no effect: calls to {cluster.service or cluster.name} go where the "
            "caller dialled",
            source,
        )
    if isinstance(cluster.discovery, StaticSource) and not cluster.subset:
        yield from _of_weights(cluster, source)
    own = cluster.policy.topology.local_service
    if own and not any(own in (c.name, c.service) for c in clusters.values()):
        yield _warning(f"no service {own} is known: places do not matter", source, "local_service")


def _of_weights(cluster: Cluster, source: Source) -> Iterator[Diagnostic]:
    """Weights written by hand; Envoy asks for exactly the locality of the endpoints, too."""
    known = {(e.priority, e.locality) for e in cluster.endpoints}
    for weight in cluster.locality_weights:
        if known and (weight.priority, weight.locality) not in known:
            yield _warning(
                f"no endpoint of priority {weight.priority} is in {weight.locality}",
                source,
                "locality_weights",
                "a locality is named in full: region/zone/sub_zone",
            )


def _warning(message: str, source: Source, field: str = "", suggestion: str = "") -> Diagnostic:
    return Diagnostic("warning", CODE, message, source, field, suggestion)


__all__ = ["check_balancing"]
