"""How much of the load each priority gets: percents by health.

Arithmetic over counts; which endpoint then takes a call is not known here.
Source: Envoy ``load_balancer_impl.cc`` ``recalculatePerPriorityState``,
``recalculatePerPriorityPanic``, ``choosePriority``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from meshclient.balancing.host_set import HostSet
from meshclient.balancing.panic import in_panic, total_panic_loads
from meshclient.balancing.state import EndpointState
from meshclient.model.load_balancing import Topology

Availability = Literal["healthy", "degraded"]


class Loads:
    """Percents of the calls by priority, for healthy and for degraded endpoints; they
    add up to 100. ``panic`` says which priorities ignore health."""

    __slots__ = ("degraded", "healthy", "panic")

    def __init__(self, healthy: list[int], degraded: list[int], panic: list[bool]) -> None:
        self.healthy = healthy
        self.degraded = degraded
        self.panic = panic

    def table(self) -> list[tuple[int, Availability]]:
        """Priority and availability for each r mod 100."""
        table: list[tuple[int, Availability]] = []
        for priority, load in enumerate(self.healthy):
            table += [(priority, "healthy")] * load
        for priority, load in enumerate(self.degraded):
            table += [(priority, "degraded")] * load
        # Weights may leave no priority any health without a panic: Envoy then takes the first.
        return (table + [(0, "healthy")] * 100)[:100]

    def __repr__(self) -> str:
        return f"<Loads healthy={self.healthy} degraded={self.degraded} panic={self.panic}>"


def spread(sets: Sequence[HostSet], topology: Topology, panic_threshold: int) -> Loads:
    """The loads of all priorities. ``panic_threshold`` is in whole percent; 0: no panic."""
    threshold = min(100, panic_threshold)
    healths = [_health(host_set, topology) for host_set in sets]
    well = [health for health, _ in healths]
    poor = [degraded for _, degraded in healths]
    total = min(100, sum(well) + sum(poor))
    loads = Loads([0] * len(sets), [0] * len(sets), [False] * len(sets))
    if total:
        _share_out(loads, well, poor, total)
    if total == 0 and threshold == 0:
        # Nobody is well and panic is off: the first priority gets, and refuses, everything.
        loads.healthy[0] = 100
        return loads
    if total < 100:
        loads.panic = [in_panic(host_set, threshold) for host_set in sets]
    if all(loads.panic):
        loads.healthy = total_panic_loads([len(host_set.hosts) for host_set in sets])
        loads.degraded = [0] * len(sets)
    return loads


def _health(host_set: HostSet, topology: Topology) -> tuple[int, int]:
    """Healthy and degraded percent of one priority, overprovisioned, at most 100 each."""
    if host_set.counted <= 0:
        return 0, 0
    if topology.weighted_priority_health:
        healthy, degraded = _weight(host_set.healthy), _weight(host_set.degraded)
        total = _weight(host_set.hosts) - _weight(host_set.excluded)
    else:
        healthy, degraded = len(host_set.healthy), len(host_set.degraded)
        total = host_set.counted
    factor = topology.overprovisioning_factor
    return min(100, factor * healthy // total), min(100, factor * degraded // total)


def _weight(states: Sequence[EndpointState]) -> int:
    return sum(state.weight for state in states)


def _share_out(loads: Loads, well: list[int], poor: list[int], total: int) -> None:
    rest = 100
    for into, healths in ((loads.healthy, well), (loads.degraded, poor)):
        for index, health in enumerate(healths):
            into[index] = min(rest, health * 100 // total)
            rest -= into[index]
    # What rounding leaves over.
    for into, healths in ((loads.healthy, well), (loads.degraded, poor)):
        first = next((index for index, health in enumerate(healths) if health), None)
        if first is not None:
            into[first] += rest
            return


__all__ = ["Availability", "Loads", "spread"]
