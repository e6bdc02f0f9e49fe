"""How many connections a pool opens before a request asks for one: arithmetic only.

Pure: ``now`` is an argument. The engines' keepers (``loop_spares``, ``thread_spares``)
open, count and close; no socket, task, thread or clock in here.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, Final, Protocol

from meshclient.transport.interface import Target, WireRequest

if TYPE_CHECKING:
    from meshclient.model.cluster import ConnectionOptions

#: Connections that one event may open ahead, the one of the call itself included (Envoy's cap).
MAX_PER_EVENT: Final = 3
#: Spare connections of one pool under way at a time.
MAX_OPENING: Final = 8
#: Least seconds between the loss of a warm connection and the opening of another.
REFILL_S: Final = 1.0
#: Longest pause after failures; the first is :data:`REFILL_S`, each further one twice as long.
MAX_PAUSE_S: Final = 60.0
_MOST_DOUBLINGS: Final = 6


class Neighbours(Protocol):
    """What the engine may ask about the endpoint behind a target."""

    def is_healthy(self) -> bool:
        """False: open nothing ahead for it."""

    def targets(self, model: Target) -> list[Target]:
        """The cluster's endpoints that may get traffic, dialled as ``model`` is."""


#: An endpoint (address, port, more_addresses), and who knows its cluster.
Neighbour = tuple[Any, Neighbours]


class Spares:
    """What one pool has ahead. Used under whatever guards the pool.

    ``preconnect_ratio``: Envoy's ``per_upstream_preconnect_ratio``; ``warm_up``: connections
    the pool never goes below, busy ones counted.
    """

    __slots__ = ("_failures", "_not_before", "_ratio", "at_least", "begun", "opening", "pending")

    def __init__(self, options: ConnectionOptions) -> None:
        self._ratio = options.preconnect_ratio
        self.at_least = options.warm_up
        #: The rest of the cluster has been told that calls have begun.
        self.begun = False
        #: Requests that are opening a connection of their own.
        self.pending = 0
        #: Spare connections under way.
        self.opening = 0
        self._failures = 0
        self._not_before = -math.inf

    def missing(self, idle: int, busy: int, now: float, opened: int = 0) -> int:
        """How many to open now. ``opened``: connections this event opens anyway.

        Source: Envoy ``conn_pool_base.cc``, ``shouldConnect``: while
        ``(pending + active) * ratio > connecting and connected capacity + active``.
        """
        if now < self._not_before:
            return 0
        needed = self.pending + busy
        have = needed + idle + self.opening
        ahead = max(0, math.ceil(needed * self._ratio) - have)
        ahead = min(ahead, MAX_PER_EVENT - opened)
        wanted = max(ahead, self.at_least - have)
        return max(0, min(wanted, MAX_OPENING - self.opening))

    def failed(self, now: float) -> None:
        """An attempt ahead failed: pause. Calls go on trying as they did."""
        pause_s = REFILL_S * (1 << min(self._failures, _MOST_DOUBLINGS))
        self._not_before = now + min(pause_s, MAX_PAUSE_S)
        self._failures += 1

    def reached(self) -> None:
        """A connection was opened: no more reason to wait."""
        self._failures, self._not_before = 0, -math.inf

    def paused_s(self, now: float) -> float:
        """Seconds until the pause after a failure is over."""
        return max(0.0, self._not_before - now)

    def __repr__(self) -> str:
        return (
            f"<Spares ratio={self._ratio} at_least={self.at_least} "
            f"pending={self.pending} opening={self.opening}>"
        )


def spares_for(options: ConnectionOptions) -> Spares | None:
    """What a pool with these options has ahead; None: nothing, ever."""
    if options.preconnect_ratio <= 1.0 and not options.warm_up:
        return None
    return Spares(options)


def sibling(model: Target, endpoint: Any, neighbours: Neighbours) -> Target:
    """``endpoint`` dialled as ``model`` is: same TLS, options, limits, protocol and proxy."""
    local = endpoint.address.startswith("unix:")
    return Target(
        endpoint.address,
        endpoint.port,
        model.tls,
        model.options,
        more_addresses=endpoint.more_addresses,
        connections=model.connections,
        protocol=model.protocol,
        proxy=None if local else model.proxy,
        neighbours=neighbours,
    )


def models(targets: Iterable[Target], places: Collection[tuple[Any, ...]]) -> list[Target]:
    """One target for each way in which the endpoints at ``places`` are dialled.

    A place is (address, port, options, connections).
    """
    ways: dict[tuple[Any, ...], Target] = {}
    for target in targets:
        if (target.address, target.port, target.options, target.connections) in places:
            ways.setdefault((target.tls, target.protocol, target.proxy), target)
    return list(ways.values())


#: What opening a connection looks at where no request stands behind it.
NO_REQUEST: Final = WireRequest(b"GET", b"/", [])

__all__ = [
    "MAX_OPENING",
    "MAX_PER_EVENT",
    "NO_REQUEST",
    "REFILL_S",
    "Neighbour",
    "Neighbours",
    "Spares",
    "models",
    "sibling",
    "spares_for",
]
