"""Endpoints as ``explain`` and ``dump`` show them: health, weights, loads, ejections.

Looks at run-time state and changes nothing; the figures of one row may be of slightly
different moments.
"""

from __future__ import annotations

from typing import Any

from meshclient.balancing import Candidate
from meshclient.balancing.client_side_weighted import ReportedWeight
from meshclient.balancing.peak_ewma import Estimate
from meshclient.cluster_state import ClusterState


def endpoint_rows(state: ClusterState, now: float) -> list[dict[str, Any]]:
    """One row per endpoint, plain values. ``now`` is monotonic seconds."""
    return [_row(state, candidate, now) for candidate in state.balancer.candidates()]


def _row(state: ClusterState, candidate: Candidate, now: float) -> dict[str, Any]:
    endpoint = candidate.state
    row: dict[str, Any] = {
        "endpoint": endpoint.key,
        "health": candidate.flags,
        "weight": candidate.weight,
        "effective_weight": round(candidate.effective_weight, 3),
        "in_flight": candidate.active,
        "priority": candidate.priority,
        "priority_load": candidate.priority_load,
        "locality": candidate.locality,
        "locality_load": candidate.locality_load,
        "panic": candidate.panic,
        "excluded": candidate.excluded,
        "labels": ",".join(f"{k}={v}" for k, v in endpoint.endpoint.labels),
    }
    if isinstance(endpoint.load, Estimate):
        row["ewma_ms"] = round(endpoint.load.at(now) * 1000, 3)
    if isinstance(endpoint.load, ReportedWeight):
        row["load_report"] = endpoint.load.describe(now)
    if endpoint.breaker is not None:
        row["breaker"] = endpoint.breaker.describe(now)
        if row["breaker"]["state"] == "open" and not row["excluded"]:
            row["excluded"] = (
                "its breaker is open"  # the balancer picks it, the gate passes it over
            )
    if state.detector is not None:
        row["outlier"] = state.detector.describe(endpoint, now)
    return row


def endpoint_line(row: dict[str, Any]) -> str:
    """A row for people: what is as usual is left out."""
    parts = [row["endpoint"], f"weight {row['weight']}"]
    if row["effective_weight"] != row["weight"]:
        parts.append(f"effective {row['effective_weight']:g}")
    parts.append(f"in flight {row['in_flight']}")
    if row["health"] != "healthy":
        parts.append(row["health"])
    if row["priority"] or row["priority_load"] != 100:
        parts.append(f"priority {row['priority']} ({row['priority_load']} %)")
    if row["locality_load"] is not None:
        parts.append(f"{row['locality'] or 'no locality'} ({row['locality_load']:.0f} %)")
    if "ewma_ms" in row:
        parts.append(f"ewma {row['ewma_ms']:g} ms")
    parts += _ejection(row.get("outlier") or {})
    if row.get("breaker", {}).get("state", "closed") != "closed":
        parts.append(f"breaker {row['breaker']['state']}")
    parts.append(f"excluded: {row['excluded']}" if row["excluded"] else "candidate")
    if row["panic"]:
        parts.append("panic: health is ignored")
    return "  ".join((*parts, row["labels"])).rstrip()


def breaker_line(shown: dict[str, Any]) -> str:
    """A described breaker for people."""
    parts = [f"breaker of {shown['breaker']}: {shown['state']}"]
    if shown["isolated"]:
        parts.append("by hand, until it is closed")
    elif shown["state"] != "closed":
        parts.append(f"since {shown['since_s']:.1f} s, for {shown['for_s']:.1f} s more")
    elif shown["failures_in_a_row"]:
        parts.append(f"{shown['failures_in_a_row']} failures in a row")
    if shown.get("reason"):
        parts.append(shown["reason"])
    return "  ".join(parts)


def _ejection(outlier: dict[str, Any]) -> list[str]:
    if not outlier.get("ejected"):
        return []
    return [f"ejected for {outlier.get('for_s', 0.0):.1f} s more"]


__all__ = ["breaker_line", "endpoint_line", "endpoint_rows"]
