"""The whole of what a call may need to know, as one immutable value.

:class:`MeshConfig` is what documents (or xDS) say; :class:`Snapshot` is that
with the endpoints that discovery found, and a version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from meshclient.model.cluster import Cluster
from meshclient.model.endpoint import NO_LOCALITY, Labels, Locality
from meshclient.model.propagation import DEFAULT_PROPAGATION, Propagation
from meshclient.model.routes import RouteConfiguration
from meshclient.model.source import Diagnostic

OutboundMode = Literal["allow_any", "registry_only"]

#: Key of the route configuration that serves every port without its own.
ANY_PORT = 0


@dataclass(frozen=True, slots=True)
class Node:
    """Who is calling: the workload this library is embedded in."""

    namespace: str = "default"
    locality: Locality = NO_LOCALITY
    labels: Labels = ()
    domain: str = "cluster.local"
    #: Folder of the workload's own certificates; empty: where Istio mounts them.
    workload_certificates: str = ""


def _empty() -> Mapping[str, Cluster]:
    return MappingProxyType({})


def _no_routes() -> Mapping[int, RouteConfiguration]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class MeshConfig:
    """Everything the policy documents say, translated.

    ``route_configurations`` is keyed by the port that the caller dialled;
    :data:`ANY_PORT` serves the ports that are not listed. ``clusters`` of a
    discovered source have no endpoints yet. ``diagnostics`` holds warnings,
    and errors only if the configuration was rejected.
    """

    node: Node = Node()
    outbound: OutboundMode = "allow_any"
    route_configurations: Mapping[int, RouteConfiguration] = field(default_factory=_no_routes)
    clusters: Mapping[str, Cluster] = field(default_factory=_empty)
    diagnostics: tuple[Diagnostic, ...] = field(default=(), compare=False)
    files: tuple[str, ...] = field(default=(), compare=False)
    propagation: Propagation = DEFAULT_PROPAGATION


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What calls decide on. Immutable; ``version`` grows by one per publication."""

    version: int
    node: Node = Node()
    outbound: OutboundMode = "allow_any"
    route_configurations: Mapping[int, RouteConfiguration] = field(default_factory=_no_routes)
    clusters: Mapping[str, Cluster] = field(default_factory=_empty)
    diagnostics: tuple[Diagnostic, ...] = field(default=(), compare=False)
    files: tuple[str, ...] = field(default=(), compare=False)
    propagation: Propagation = DEFAULT_PROPAGATION

    def __repr__(self) -> str:
        hosts = sum(len(c.virtual_hosts) for c in self.route_configurations.values())
        endpoints = sum(len(c.endpoints) for c in self.clusters.values())
        return (
            f"<Snapshot version={self.version} virtual_hosts={hosts} "
            f"clusters={len(self.clusters)} endpoints={endpoints} outbound={self.outbound}>"
        )
