"""Endpoints, and where a cluster's endpoints come from, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Labels = tuple[tuple[str, str], ...]


def labels_of(mapping: dict[str, str] | None) -> Labels:
    """Sorted pairs: hashable and independent of the order they were written in."""
    return tuple(sorted((mapping or {}).items()))


@dataclass(frozen=True, slots=True)
class Locality:
    """Failure domain of an endpoint or of the caller; empty parts are unknown."""

    region: str = ""
    zone: str = ""
    sub_zone: str = ""

    def __str__(self) -> str:
        return "/".join(p for p in (self.region, self.zone, self.sub_zone) if p)


NO_LOCALITY = Locality()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address that serves a cluster.

    ``address`` is an IP, a host name (resolved when dialled) or, with ``port``
    0, a path of a unix socket written ``unix:///path``. ``weight`` >= 1.
    ``health`` is what discovery said (EDS names). ``more_addresses`` are further
    IP addresses of the same endpoint, raced with ``address`` by new connections.
    """

    address: str
    port: int
    weight: int = 1
    hostname: str = ""
    labels: Labels = ()
    locality: Locality = NO_LOCALITY
    priority: int = 0
    health: Literal["healthy", "unhealthy", "draining", "degraded"] = "healthy"
    more_addresses: tuple[str, ...] = ()
    #: Whether active checks decide about it; where else than ``port`` (0: there) they
    #: connect, and the host they name. Source: Envoy, Endpoint.health_check_config.
    health_check: bool = True
    health_check_port: int = 0
    health_check_hostname: str = ""

    def __str__(self) -> str:
        if self.address.startswith("unix:"):
            return self.address
        if ":" in self.address:
            return f"[{self.address}]:{self.port}"
        return f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class StaticSource:
    """The endpoints stand in the policy documents."""


@dataclass(frozen=True, slots=True)
class DnsSource:
    """Names to resolve. Each target is an endpoint whose ``address`` is the name;
    the resolved addresses inherit everything else of it.

    ``strict``: every address of every name is an endpoint (Envoy STRICT_DNS).
    ``logical``: one endpoint, dialled at the first address, the rest are for
    happy eyeballs (LOGICAL_DNS). ``srv``: the name is an SRV record, and
    port, weight and priority come from it.
    """

    targets: tuple[Endpoint, ...]
    mode: Literal["strict", "logical", "srv"] = "strict"


@dataclass(frozen=True, slots=True)
class OriginalDestination:
    """Dial what the caller dialled (Istio PASSTHROUGH, ServiceEntry NONE).

    ``port`` other than 0 replaces the dialled port.
    """

    port: int = 0


@dataclass(frozen=True, slots=True)
class RegistrySource:
    """A registry that no installed discovery module serves (``kind`` names it)."""

    kind: str
    settings: tuple[tuple[str, str], ...] = ()


EndpointSource = StaticSource | DnsSource | OriginalDestination | RegistrySource


@dataclass(frozen=True, slots=True)
class EndpointSet:
    """What discovery knows of one source at this moment.

    ``pending``: no answer yet. ``stale``: the registry is failing, these are
    the last good endpoints. ``failed``: it never answered; ``error`` says why.
    """

    endpoints: tuple[Endpoint, ...] = ()
    state: Literal["pending", "ready", "stale", "failed"] = "pending"
    error: str = ""
