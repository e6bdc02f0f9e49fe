"""One endpoint set out of those of several names. A pure policy."""

from __future__ import annotations

from collections.abc import Sequence

from meshclient.model.endpoint import Endpoint, EndpointSet


def combine(parts: Sequence[EndpointSet]) -> EndpointSet:
    """All endpoints in order, an address and port only once (Envoy STRICT_DNS).

    ``ready`` when no name fails, even while some are still pending: a name
    that hangs must not hold back the others. ``stale`` when some fail beside
    others with an answer; ``failed`` when none ever had one. While the names
    with a result only failed and others are still pending, it is ``pending``.
    """
    states = {part.state for part in parts}
    error = "; ".join(dict.fromkeys(part.error for part in parts if part.error))
    endpoints = _unique(parts)
    if states <= {"ready", "pending"}:
        # No name at all is an answer, too.
        ready = "ready" in states or not states
        return EndpointSet(endpoints, "ready" if ready else "pending", error)
    if states & {"ready", "stale"}:
        return EndpointSet(endpoints, "stale", error)
    return EndpointSet(endpoints, "pending" if "pending" in states else "failed", error)


def _unique(parts: Sequence[EndpointSet]) -> tuple[Endpoint, ...]:
    first: dict[tuple[str, int], Endpoint] = {}
    for part in parts:
        for endpoint in part.endpoints:
            first.setdefault((endpoint.address, endpoint.port), endpoint)
    return tuple(first.values())
