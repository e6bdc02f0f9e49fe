"""What decides a pick where chance does not, and why there was nobody to pick: in words.

For ``explain`` and errors. Looks at a call and its cluster, and changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshclient.balancing.session import STRICT_MISS
from meshclient.balancing.subset import Subsets
from meshclient.model.load_balancing import HASH_POLICIES

if TYPE_CHECKING:
    from meshclient.call import Call
    from meshclient.cluster_state import ClusterState

#: More endpoints of a subset than this are counted, not named.
_NAMED = 8


def what_decides(state: ClusterState, call: Call, now: float) -> str:
    """The session, the subset and the hash of a call to ``state``; empty: none of them."""
    parts = [_session(state, call), _subset(state, call), _hash(state, call, now)]
    return "; ".join(part for part in parts if part)


def _session(state: ClusterState, call: Call) -> str:
    if state.session is None:
        return ""
    named = call.named_by_session(state)
    if named is STRICT_MISS:
        return "the endpoint of the session is gone or unhealthy, and the session is strict: 503"
    return "" if named is None else f"session -> {named.key}, for the first try"


def _subset(state: ClusterState, call: Call) -> str:
    if not isinstance(state.balancer, Subsets):
        return ""
    if not call.subset:
        return "no labels asked for: the fallback_policy decides"
    wanted = labels_text(call.subset)
    found = state.balancer.subsets().get(call.subset)
    if found is None:
        return f"there is no subset {wanted}: the fallback_policy decides"
    keys = [one.key for one in found.served]
    named = ", ".join(keys) if len(keys) <= _NAMED else f"{len(keys)} endpoints"
    return f"subset {wanted} -> {named or 'no endpoint'}"


def _hash(state: ClusterState, call: Call, now: float) -> str:
    if state.cluster.policy.load_balancing.policy not in HASH_POLICIES:
        return ""
    if call.hash64 is None:
        return "nothing to hash: a random endpoint"
    picked = state.balancer.pick(lambda: 0, now, call)
    return "" if picked is None else f"hash {call.hash64} -> {picked.key}"


def why_nobody(cluster: ClusterState, call: Call) -> str:
    """Why a pick found no endpoint."""
    if cluster.cluster.discovery_error:
        return cluster.cluster.discovery_error
    if not call.attempts and call.named_by_session(cluster) is STRICT_MISS:
        return "the endpoint of the session is gone or unhealthy, and the session is strict"
    if call.subset and isinstance(cluster.balancer, Subsets):
        wanted = labels_text(call.subset)
        return f"nobody of the subset {wanted} may be picked, and there is no fallback"
    return "it has no healthy endpoint" if cluster.states else "it has no endpoints"


def labels_text(labels: tuple[tuple[str, str], ...]) -> str:
    """``a=1,b=2``."""
    return ",".join(f"{name}={value}" for name, value in labels)


__all__ = ["labels_text", "what_decides", "why_nobody"]
