"""The limits of clusters as ``dump`` shows them: what is in use, and Envoy's gauges.

Looks at run-time state and changes nothing; the figures of one row may be of slightly
different moments. Source of the gauges: Envoy, ``circuit_breakers`` statistics of a cluster.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meshclient.cluster_state import ClusterState, Lane, LaneLoad
from meshclient.model.cluster import Limits


def limit_rows(clusters: Mapping[str, ClusterState]) -> dict[str, dict[str, dict[str, int]]]:
    """By cluster and priority; only what has a limit, or a retry budget."""
    rows = {}
    for name, state in clusters.items():
        lanes = {
            "default": _row(state.lane, state, state.shared),
            "high": _row(state.high, state, state.high.shared),
        }
        found = {priority: row for priority, row in lanes.items() if row}
        if found:
            rows[name] = found
    return rows


def _row(lane: Lane, state: ClusterState, shared: Mapping[str, Any]) -> dict[str, int]:
    """Counts, and 1 or 0 for "the next one is refused (or waits)"."""
    limits = lane.limits
    if limits == Limits():
        return {}
    row: dict[str, int] = {}
    slots = shared.get("connections")
    if slots is not None:
        row["cx_active"], row["rq_pending"] = slots.open, slots.pending
    row["cx_open"] = int(slots is not None and slots.open >= slots.max_connections)
    row["rq_pending_open"] = int(slots is not None and slots.pending >= slots.max_pending)
    requests = lane.requests
    if requests is not None:
        row["rq_active"] = requests.active
    row["rq_open"] = int(requests is not None and requests.active >= limits.max_requests)
    row["rq_retry"] = lane.limiter.active
    row["rq_retry_open"] = int(lane.limiter.is_spent(LaneLoad(state, lane).active_requests))
    return row


__all__ = ["limit_rows"]
