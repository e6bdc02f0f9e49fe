"""What every registry says about a service, whatever document it came from.

Values only. Kubernetes Services and ServiceEntries both become a
:class:`RegistryService`; who may see it and which rules apply is decided later.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from meshclient.config.istio_metadata import Metadata
from meshclient.config.istio_visibility import PUBLIC, Visibility
from meshclient.config.reader import Reader
from meshclient.model.endpoint import Endpoint, EndpointSource, StaticSource
from meshclient.model.source import Diagnostic

Protocol = Literal["http", "http2", "https", "tcp", "udp", "auto"]
ClusterProtocol = Literal["http1", "h2", "tcp", "tls"]

_PROTOCOLS: dict[str, Protocol] = {
    "http": "http",
    "http_proxy": "http",
    "http2": "http2",
    "grpc": "http2",
    "grpc-web": "http2",
    "https": "https",
    "tls": "https",
    "tcp": "tcp",
    "mongo": "tcp",
    "redis": "tcp",
    "mysql": "tcp",
    "udp": "udp",
    "sctp": "udp",
    # appProtocol names of Kubernetes
    "kubernetes.io/h2c": "http2",
    "kubernetes.io/ws": "http",
    "kubernetes.io/wss": "https",
}
#: Server-first protocols that Istio never sniffs on these ports.
_TCP_PORTS = frozenset({25, 53, 3306, 27017})


def protocol_named(text: str) -> Protocol | None:
    """A protocol word in any case, or None when Istio does not know it."""
    return _PROTOCOLS.get(text.lower())


def protocol_of_port(number: int, name: str, app_protocol: str) -> Protocol:
    """Istio's choice for a Service port: ``appProtocol``, the name, then sniffing."""
    text = app_protocol or name
    found = protocol_named(text) or protocol_named(text.partition("-")[0])
    if found is not None:
        return found
    return "tcp" if number in _TCP_PORTS else "auto"


_STATIC = StaticSource()


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port that callers dial. ``target`` is what the endpoints listen on."""

    number: int
    name: str = ""
    protocol: Protocol = "auto"
    target: int | str | None = None

    @property
    def carries_http(self) -> bool:
        """Whether HTTP policies apply."""
        return self.protocol in ("http", "http2", "auto")

    @property
    def cluster_protocol(self) -> ClusterProtocol:
        """The word that a cluster uses."""
        if self.protocol == "http2":
            return "h2"
        if self.protocol == "https":
            return "tls"
        return "tcp" if self.protocol in ("tcp", "udp") else "http1"


@dataclass(frozen=True, slots=True)
class Upstream:
    """Who answers on one port. ``labelled`` False: subsets cannot be told apart.

    ``subject_alt_names``: what the servers' certificates name, if a rule says nothing else.
    """

    discovery: EndpointSource = _STATIC
    endpoints: tuple[Endpoint, ...] = ()
    labelled: bool = True
    subject_alt_names: tuple[str, ...] = ()


@dataclass(slots=True)
class RegistryService:
    """A service as callers know it. ``addresses`` are VIPs; ``headless`` services
    also answer for names below them; ``aliases`` are other full names."""

    hostname: str
    metadata: Metadata
    reader: Reader
    kind: Literal["kubernetes", "service_entry"]
    ports: tuple[ServicePort, ...] = ()
    upstreams: dict[int, Upstream] = field(default_factory=dict)
    addresses: tuple[str, ...] = ()
    visibility: Visibility = PUBLIC
    headless: bool = False
    alias_of: str = ""
    aliases: list[str] = field(default_factory=list)
    merge_key: object = None
    notes: tuple[Diagnostic, ...] = ()

    def port(self, number: int) -> ServicePort | None:
        """The port that callers dial as ``number``."""
        return next((p for p in self.ports if p.number == number), None)


def cluster_name(host: str, port: int, subset: str = "") -> str:
    """Istio's name of a cluster."""
    return f"outbound|{port}|{subset}|{host}"
