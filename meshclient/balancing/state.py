"""The run-time state of an endpoint: what is in flight there.

Counts only. Nothing here decides, and nothing here needs a lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Sized
from typing import Any

from meshclient.model.cluster import Cluster
from meshclient.model.endpoint import Endpoint
from meshclient.model.health import DISCOVERED, with_discovered


class EndpointState:
    """One endpoint of one cluster, and the requests in flight on it.

    Survives updates of the cluster, so ``endpoint`` (labels, weight, health)
    may be replaced by a newer value of the same address. Compared by identity.
    Thread-safe without a lock: a request in flight is one element of a list,
    and ``list.append`` and ``list.pop`` are atomic (CPython Programming FAQ,
    "What kinds of global value mutation are thread-safe?"; on free-threaded
    builds the list's own lock does it). That costs a third of a lock.
    """

    __slots__ = (
        "breaker",
        "cluster",
        "endpoint",
        "flags",
        "in_flight",
        "key",
        "load",
        "outlier",
        "since",
        "weight",
        "wire",
    )

    def __init__(self, endpoint: Endpoint, cluster: str = "", now: float = 0.0) -> None:
        self.endpoint = endpoint
        self.cluster = cluster
        #: ``address:port``, as reports print it.
        self.key = str(endpoint)
        #: At least 1. Read by the weighted policies at every pick.
        self.weight = max(1, endpoint.weight)
        #: One element per request in flight; balancers read its length.
        self.in_flight: list[None] = []
        #: Bits of :mod:`meshclient.model.health`; written on the control thread only.
        self.flags = DISCOVERED[endpoint.health]
        #: When it was first seen, or last passed an active check after failing; slow
        #: start counts from here (monotonic seconds).
        self.since = now
        #: What outlier detection counts here; None without it.
        self.outlier: Any = None
        #: What the balancing policy measures here (a latency, a reported load).
        self.load: Any = None
        #: The circuit breaker of this endpoint alone; None without one.
        self.breaker: Any = None
        #: What a driver keeps here to reach the endpoint; never looked at here.
        self.wire: Any = None

    @property
    def active(self) -> int:
        """Requests in flight. Never below zero."""
        return len(self.in_flight)

    def acquire(self) -> None:
        """A request starts. Every call is paired with one :meth:`release`."""
        self.in_flight.append(None)

    def release(self) -> None:
        """A request ended. One release too many changes nothing."""
        try:  # noqa: SIM105 - contextlib.suppress costs ten times as much
            self.in_flight.pop()
        except IndexError:
            pass

    def update(self, endpoint: Endpoint) -> None:
        """Take over what discovery now says of this address; counts stay."""
        if endpoint.more_addresses != self.endpoint.more_addresses:
            self.wire = None
        self.endpoint = endpoint
        self.weight = max(1, endpoint.weight)
        self.flags = with_discovered(self.flags, endpoint.health)

    def __repr__(self) -> str:
        return f"<EndpointState {self.key} weight={self.weight} active={self.active}>"


class CountedState(EndpointState):
    """One whose requests count in ``total``, too: the requests in flight of its whole
    cluster, those at endpoints that have left the list included, as Envoy counts them.

    For policies that compare an endpoint with all others; the rest do not pay for it.
    ``total`` is shared by the states of a cluster. Seen from any thread, it is never less
    than the sum of their own counts.
    """

    __slots__ = ("total",)

    def __init__(self, endpoint: Endpoint, cluster: str, now: float, total: list[None]) -> None:
        super().__init__(endpoint, cluster, now)
        self.total = total

    def acquire(self) -> None:
        self.total.append(None)
        self.in_flight.append(None)

    def release(self) -> None:
        try:
            self.in_flight.pop()
        except IndexError:
            return
        self.total.pop()


class _Sum:
    """The requests in flight at states that do not count together, added up when asked."""

    __slots__ = ("_counts",)

    def __init__(self, states: Sequence[EndpointState]) -> None:
        self._counts = [state.in_flight for state in states]

    def __len__(self) -> int:
        return sum(map(len, self._counts))


def total_of(states: Sequence[EndpointState]) -> Sized:
    """Its length is the number of requests in flight at all of ``states`` (one cluster's).

    O(1) where :func:`carry_over` made them for a policy that needs it, else O(n).
    """
    if states and isinstance(states[0], CountedState):
        return states[0].total
    return _Sum(states)


def carry_over(
    old: Iterable[EndpointState], cluster: Cluster, now: float = 0.0
) -> tuple[EndpointState, ...]:
    """States for ``cluster``'s endpoints, in their order.

    An address and port that ``old`` knows keeps its state object, hence its
    requests in flight. The caller passes ``old`` only when the policies of
    both clusters compare equal. An address listed twice counts once, as in
    Envoy; the first one stands.
    """
    known = {(s.endpoint.address, s.endpoint.port): s for s in old}
    total = _shared_total(known.values(), cluster)
    states: dict[tuple[str, int], EndpointState] = {}
    for endpoint in cluster.endpoints:
        address = (endpoint.address, endpoint.port)
        if address in states:
            continue
        state = known.get(address)
        if state is None and total is not None:
            state = CountedState(endpoint, cluster.name, now, total)
        elif state is None:
            state = EndpointState(endpoint, cluster.name, now)
        elif state.endpoint != endpoint:
            state.update(endpoint)
        states[address] = state
    return tuple(states.values())


def _shared_total(old: Iterable[EndpointState], cluster: Cluster) -> list[None] | None:
    """What the states of ``cluster`` count in together; None: nobody asks."""
    if not cluster.policy.load_balancing.hash_balance_factor:
        return None
    return next((state.total for state in old if isinstance(state, CountedState)), [])
