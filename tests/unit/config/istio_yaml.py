"""Istio documents as text, for the tests of their translation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from textwrap import dedent

from meshclient.config import istio, kinds, yaml_nodes
from meshclient.config.diagnostics import Diagnostics
from meshclient.config.reader import Reader
from meshclient.model.cluster import Cluster
from meshclient.model.endpoint import labels_of
from meshclient.model.routes import ForwardAction, Route, RouteConfiguration, VirtualHost
from meshclient.model.snapshot import Node
from meshclient.model.source import Diagnostic

FQDN = "{}.default.svc.cluster.local"


@dataclass
class Result:
    """A translation with its findings, and short ways to look into it."""

    routes: dict[int, RouteConfiguration]
    clusters: dict[str, Cluster]
    diagnostics: list[Diagnostic]

    def host(self, domain: str, port: int = 80) -> VirtualHost | None:
        table = self.routes.get(port)
        hosts = table.virtual_hosts if table is not None else ()
        return next((host for host in hosts if domain in host.domains), None)

    def route(self, domain: str, port: int = 80, index: int = 0) -> Route:
        host = self.host(domain, port)
        assert host is not None, f"no virtual host for {domain} on {port}"
        return host.routes[index]

    def targets(self, domain: str, port: int = 80, index: int = 0) -> dict[str, int]:
        """Cluster (without ``outbound|``) to weight."""
        return targets(self.route(domain, port, index))

    def cluster(self, name: str) -> Cluster:
        return self.clusters["outbound|" + name]

    def addresses(self, name: str) -> list[str]:
        return [str(e) for e in self.cluster(name).endpoints]

    @property
    def errors(self) -> list[str]:
        return [d.message for d in self.diagnostics if d.severity == "error"]

    @property
    def warnings(self) -> list[str]:
        return [d.message for d in self.diagnostics if d.severity == "warning"]

    def codes(self, severity: str = "warning") -> list[str]:
        return [d.code for d in self.diagnostics if d.severity == severity]


def targets(route: Route) -> dict[str, int]:
    assert isinstance(route.action, ForwardAction)
    return {c.cluster.removeprefix("outbound|"): c.weight for c in route.action.clusters}


def translate(
    *texts: str, namespace: str = "default", labels: dict[str, str] | None = None
) -> Result:
    """All documents of the texts, for a caller in ``namespace``."""
    sink = Diagnostics()
    node = Node(namespace=namespace, labels=labels_of(labels))
    roots = [
        Reader.root(found, "policy.yaml", sink)
        for text in texts
        for found in yaml_nodes.parse(dedent(text), "policy.yaml", sink)
    ]
    documents = [
        d
        if d.namespace
        else replace(
            d, namespace=namespace, reader=d.reader.named(f"{d.kind} {namespace}/{d.name}")
        )
        for d in kinds.sort(roots).kubernetes
    ]
    made = istio.translate(documents, node, sink)
    return Result(made.route_configurations, made.clusters, list(sink))


def service(
    name: str, namespace: str = "default", ports: str = "[{port: 80, name: http}]", more: str = ""
) -> str:
    """A Service document."""
    return (
        "---\napiVersion: v1\nkind: Service\n"
        f"metadata: {{name: {name}, namespace: {namespace}}}\n"
        f"spec: {{ports: {ports}{', ' + more if more else ''}}}\n"
    )


def virtual_service(
    name: str, hosts: str, http: str, namespace: str = "default", more: str = ""
) -> str:
    """A VirtualService document; ``hosts`` and ``http`` are YAML flow lists."""
    return (
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\n"
        f"metadata: {{name: {name}, namespace: {namespace}}}\n"
        f"spec: {{hosts: {hosts}, http: {http}{', ' + more if more else ''}}}\n"
    )


def destination_rule(name: str, host: str, more: str, namespace: str = "default") -> str:
    """A DestinationRule document."""
    return (
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\n"
        f"metadata: {{name: {name}, namespace: {namespace}}}\n"
        f"spec: {{host: {host}, {more}}}\n"
    )


def to(host: str, more: str = "") -> str:
    """One http entry that sends everything to ``host``."""
    return f"[{{route: [{{destination: {{host: {host}{', ' + more if more else ''}}}}}]}}]"
