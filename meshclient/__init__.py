"""A service mesh inside the Python process.

A platform team's policy files (Istio's, or meshclient's own short format) say
where calls go, how they are balanced, retried and bounded; this library makes
httpx follow them, without a sidecar::

    import meshclient

    mesh = meshclient.Mesh.from_file("policies/")
    with mesh, mesh.client() as client:
        response = client.get("http://reviews/reviews/0", headers={"end-user": "jason"})
        print(response.extensions["meshclient"])   # route, cluster, endpoint, attempts
        print(mesh.explain("GET", "http://reviews/reviews/0"))

``mesh.async_client()`` is the same for asyncio, ``mesh.transport()`` goes into
a client of your own. Failures are :class:`MeshError` *and* the exception of
httpx that your code already catches. Importing this package imports no
client library; each loads when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshclient import context
    from meshclient.breaker_handle import BreakerHandle
    from meshclient.context import deadline
    from meshclient.errors import (
        AnsweredLocally,
        CallError,
        CallTimeout,
        CircuitOpen,
        ClosedError,
        ConfigError,
        ConnectFailed,
        ConnectTimeout,
        DeadlineExceeded,
        InvalidRequest,
        MeshError,
        NoHealthyEndpoint,
        NoRoute,
        NotReadyError,
        Overflow,
        PerTryTimeout,
        RouteTimeout,
        SecurityError,
        UnknownCluster,
        UnknownHost,
        UpstreamProtocolError,
        UpstreamReset,
    )
    from meshclient.explain import Explanation
    from meshclient.mesh import Mesh
    from meshclient.model.events import (
        BreakerClosed,
        BreakerEvent,
        BreakerHalfOpen,
        BreakerOpened,
        BreakerStorageFailed,
        BreakerStorageRecovered,
        ConfigApplied,
        ConfigRejected,
        DiscoveryFailed,
        DiscoveryRecovered,
        EndpointDegraded,
        EndpointEjected,
        EndpointsChanged,
        EndpointUndegraded,
        EndpointUnejected,
        Event,
        HealthChanged,
        MirrorCompared,
        RetryLayerFound,
    )
    from meshclient.model.report import AttemptReport, CallReport
    from meshclient.model.snapshot import Snapshot
    from meshclient.model.source import Diagnostic, Source
    from meshclient.resilience import RetryStrategy

__version__ = "0.1.0"

_HOMES = {
    "meshclient.context": ("deadline",),
    "meshclient.breaker_handle": ("BreakerHandle",),
    "meshclient.errors": (
        "AnsweredLocally",
        "CallError",
        "CallTimeout",
        "CircuitOpen",
        "ClosedError",
        "ConfigError",
        "ConnectFailed",
        "ConnectTimeout",
        "DeadlineExceeded",
        "InvalidRequest",
        "MeshError",
        "NoHealthyEndpoint",
        "NoRoute",
        "NotReadyError",
        "Overflow",
        "PerTryTimeout",
        "RouteTimeout",
        "SecurityError",
        "UnknownCluster",
        "UnknownHost",
        "UpstreamProtocolError",
        "UpstreamReset",
    ),
    "meshclient.explain": ("Explanation",),
    "meshclient.mesh": ("Mesh",),
    "meshclient.model.events": (
        "BreakerClosed",
        "BreakerEvent",
        "BreakerHalfOpen",
        "BreakerOpened",
        "BreakerStorageFailed",
        "BreakerStorageRecovered",
        "ConfigApplied",
        "ConfigRejected",
        "DiscoveryFailed",
        "DiscoveryRecovered",
        "EndpointDegraded",
        "EndpointEjected",
        "EndpointUndegraded",
        "EndpointUnejected",
        "EndpointsChanged",
        "Event",
        "HealthChanged",
        "MirrorCompared",
        "RetryLayerFound",
    ),
    "meshclient.model.report": ("AttemptReport", "CallReport"),
    "meshclient.model.snapshot": ("Snapshot",),
    "meshclient.model.source": ("Diagnostic", "Source"),
    "meshclient.resilience": ("RetryStrategy",),
}
_WHERE = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AnsweredLocally",
    "AttemptReport",
    "BreakerClosed",
    "BreakerEvent",
    "BreakerHalfOpen",
    "BreakerHandle",
    "BreakerOpened",
    "BreakerStorageFailed",
    "BreakerStorageRecovered",
    "CallError",
    "CallReport",
    "CallTimeout",
    "CircuitOpen",
    "ClosedError",
    "ConfigApplied",
    "ConfigError",
    "ConfigRejected",
    "ConnectFailed",
    "ConnectTimeout",
    "DeadlineExceeded",
    "Diagnostic",
    "DiscoveryFailed",
    "DiscoveryRecovered",
    "EndpointDegraded",
    "EndpointEjected",
    "EndpointUndegraded",
    "EndpointUnejected",
    "EndpointsChanged",
    "Event",
    "Explanation",
    "HealthChanged",
    "InvalidRequest",
    "Mesh",
    "MeshError",
    "MirrorCompared",
    "NoHealthyEndpoint",
    "NoRoute",
    "NotReadyError",
    "Overflow",
    "PerTryTimeout",
    "RetryLayerFound",
    "RetryStrategy",
    "RouteTimeout",
    "SecurityError",
    "Snapshot",
    "Source",
    "UnknownCluster",
    "UnknownHost",
    "UpstreamProtocolError",
    "UpstreamReset",
    "__version__",
    "context",
    "deadline",
]


def __getattr__(name: str) -> object:
    """Load a public name at its first use (PEP 562)."""
    if name == "context":
        return import_module("meshclient.context")
    home = _WHERE.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
