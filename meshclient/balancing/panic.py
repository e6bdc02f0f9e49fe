"""Panic: so few endpoints are well that their health is no longer believed.

Decides which priorities panic, and how load is spread when all of them do.
Source: Envoy ``load_balancer_impl.cc`` ``isHostSetInPanic``,
``recalculateLoadInTotalPanic``.
"""

from __future__ import annotations

from collections.abc import Sequence

from meshclient.balancing.host_set import Group


def in_panic(group: Group, threshold: int) -> bool:
    """Whether the healthy and degraded endpoints are less than ``threshold`` percent of
    those that count. A threshold of 0 is never undercut; without any endpoint, each
    other one is."""
    counted = group.counted
    # Two quotients, added: so does Envoy, and the sum of two floats may round.
    healthy = 100.0 * len(group.healthy) / counted if counted else 0.0
    degraded = 100.0 * len(group.degraded) / counted if counted else 0.0
    return healthy + degraded < threshold


def total_panic_loads(sizes: Sequence[int]) -> list[int]:
    """Percents by the number of endpoints, whatever their health. What rounding leaves
    goes to the first priority that has any; without any endpoint, to the first."""
    total = sum(sizes)
    if not total:
        return [100] + [0] * (len(sizes) - 1)
    loads = [100 * size // total for size in sizes]
    first = next(index for index, size in enumerate(sizes) if size)
    loads[first] += 100 - sum(loads)
    return loads


__all__ = ["in_panic", "total_panic_loads"]
