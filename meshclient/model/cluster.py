"""A cluster: the endpoints of one service (or subset), and how they are called.

Values only; equality of :class:`ClusterPolicy` decides whether run-time state
(in-flight counts, balancer position) survives an update.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from meshclient.model.breaker import CircuitBreaker
from meshclient.model.endpoint import (
    Endpoint,
    EndpointSource,
    Labels,
    StaticSource,
)
from meshclient.model.health import HealthCheck, OutlierDetection
from meshclient.model.load_balancing import (
    LbPolicy,
    LoadBalancing,
    LocalityWeight,
    Topology,
)
from meshclient.model.retry import Budget
from meshclient.model.source import UNKNOWN_SOURCE, Diagnostic, Source

UNLIMITED = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Limits:
    """Envoy's circuit-breaker thresholds. Default: Istio's, that is no limit.

    ``max_connections_per_endpoint`` is Envoy's ``per_host_thresholds``, which know no other limit.
    """

    max_connections: int = UNLIMITED
    max_pending_requests: int = UNLIMITED
    max_requests: int = UNLIMITED
    max_retries: int = UNLIMITED
    retry_budget: Budget | None = None
    max_connections_per_endpoint: int = UNLIMITED
    source: Source = field(default=UNKNOWN_SOURCE, compare=False)


@dataclass(frozen=True, slots=True)
class TcpKeepalive:
    """Operating system defaults where None."""

    probes: int | None = None
    time_s: float | None = None
    interval_s: float | None = None


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """Life of connections. 0 for ``max_requests`` means unlimited; None means none."""

    connect_timeout_s: float = 10.0
    idle_timeout_s: float | None = 3600.0
    max_duration_s: float | None = None
    max_requests: int = 0
    keepalive: TcpKeepalive | None = None
    #: Header of the PROXY protocol that every connection begins with; "" for none.
    proxy_protocol: Literal["", "v1", "v2"] = ""
    #: Send an idempotent request again, once and outside the retry policy, when a
    #: kept-alive connection ended before a byte of an answer.
    resend_stale: bool = False
    #: HTTP/2: PING after so long without a byte from the peer (None: never), and how
    #: long it has to answer before the connection is given up.
    ping_interval_s: float | None = None
    ping_timeout_s: float = 20.0
    #: Envoy's per_upstream_preconnect_ratio, 1.0 to 3.0: connections per request in flight.
    preconnect_ratio: float = 1.0
    #: Connections kept open to each endpoint from the first call to the cluster on.
    warm_up: int = 0
    #: HTTP/2: most streams of one connection at a time; 0: as many as the peer allows.
    max_concurrent_streams: int = 0
    #: Most of a response head, and of trailers: KiB, and lines. More is a protocol error.
    #: Source: Envoy, source/common/http/http1/codec_impl.h (80 KiB) and
    #: api/envoy/config/core/v3/protocol.proto (max_headers_count).
    max_response_header_kb: int = 80
    max_response_headers: int = 100


@dataclass(frozen=True, slots=True)
class SanMatcher:
    """One accepted name of the server; ``type`` empty means a name of any type.

    ``exact`` follows certificate rules for DNS names (no case, wildcards in the
    certificate's left-most label) and compares IP addresses as addresses.
    """

    value: str
    kind: Literal["exact", "prefix", "suffix", "regex"] = "exact"
    type: Literal["", "dns", "uri", "ip", "email"] = ""

    def __str__(self) -> str:
        kind = "" if self.kind == "exact" else f"{self.kind} "
        return f"{self.type + ':' if self.type else ''}{kind}{self.value}"


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """How connections of a cluster are secured.

    Paths are absolute, or relative to the working directory: the readers of
    documents resolve what a file says against that file. One of
    ``subject_alt_names`` (exact) and ``san_matchers`` has to match the server's
    certificate; without any, the certificate must name the server asked for.
    """

    mode: Literal["disable", "simple", "mutual", "istio_mutual"]
    ca: str = ""
    certificate: str = ""
    key: str = ""
    credential_name: str = ""
    subject_alt_names: tuple[str, ...] = ()
    sni: str = ""
    insecure_skip_verify: bool = False
    crl: str = ""
    san_matchers: tuple[SanMatcher, ...] = ()
    #: Mode istio_mutual: folder of the workload's certificates; empty: the usual ones.
    workload_certificates: str = ""

    @property
    def expected_names(self) -> tuple[SanMatcher, ...]:
        """All accepted names of the server, as matchers."""
        return (*map(SanMatcher, self.subject_alt_names), *self.san_matchers)


@dataclass(frozen=True, slots=True)
class ClusterPolicy:
    """Everything about a cluster but its endpoints; hashable, its own cache key.

    ``high_priority_limits`` are for the routes of priority ``high``, counted apart.
    ``proxy``: URL of the proxy that connections are tunnels through; empty for none.
    ``panic_threshold_percent`` 0 turns panic off. An endpoint that discovery drops stays
    in use until an active check fails (Envoy's default), unless
    ``ignore_health_on_host_removal``; a new one waits for its first check where
    ``ignore_new_hosts_until_first_hc``.
    """

    load_balancing: LoadBalancing = LoadBalancing()
    limits: Limits = Limits()
    high_priority_limits: Limits = Limits()
    connection: ConnectionOptions = ConnectionOptions()
    outlier_detection: OutlierDetection | None = None
    circuit_breaker: CircuitBreaker | None = None
    tls: TlsSettings | None = None
    panic_threshold_percent: int = 50
    proxy: str = ""
    topology: Topology = Topology()
    health_checks: tuple[HealthCheck, ...] = ()
    ignore_health_on_host_removal: bool = False
    ignore_new_hosts_until_first_hc: bool = False


@dataclass(frozen=True, slots=True)
class Cluster:
    """One upstream: what a route names.

    ``service`` is the host name callers use; ``subset`` and ``labels`` narrow
    its endpoints (an endpoint belongs when it carries all ``labels``).
    ``protocol`` is the application protocol of the port. ``locality_weights`` count
    where the policy's topology weighs localities.
    """

    name: str
    service: str = ""
    subset: str = ""
    port: int = 0
    labels: Labels = ()
    discovery: EndpointSource = StaticSource()
    endpoints: tuple[Endpoint, ...] = ()
    policy: ClusterPolicy = ClusterPolicy()
    protocol: Literal["http1", "h2", "tcp", "tls"] = "http1"
    locality_weights: tuple[LocalityWeight, ...] = ()
    sources: tuple[Source, ...] = field(default=(), compare=False)
    not_honoured: tuple[Diagnostic, ...] = field(default=(), compare=False)
    discovery_error: str = field(default="", compare=False)


__all__ = [
    "UNLIMITED",
    "CircuitBreaker",
    "Cluster",
    "ClusterPolicy",
    "ConnectionOptions",
    "HealthCheck",
    "LbPolicy",
    "Limits",
    "LoadBalancing",
    "LocalityWeight",
    "OutlierDetection",
    "SanMatcher",
    "TcpKeepalive",
    "TlsSettings",
    "Topology",
]
