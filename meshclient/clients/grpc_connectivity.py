"""What a mesh channel says of its connectivity: that of its endpoints, taken together.

For ``subscribe``, ``get_state``, ``channel_ready``. No call looks at it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import grpc

from meshclient.clients.grpc_subchannels import Refused
from meshclient.model.routes import ForwardAction

if TYPE_CHECKING:
    from meshclient.balancing import EndpointState
    from meshclient.clients.grpc_subchannels import Profile, Sub, SubPool
    from meshclient.clients.grpc_target import Dialled
    from meshclient.clients.grpc_timer import Timer
    from meshclient.clients.runtime import Runtime
    from meshclient.cluster_state import ClusterState
    from meshclient.plane import Plane

State = grpc.ChannelConnectivity
#: The best state of an endpoint is that of the channel.
_ORDER = (State.READY, State.CONNECTING, State.IDLE, State.TRANSIENT_FAILURE)
#: Endpoints that are connected to only to know whether one can.
_MOST_ENDPOINTS = 4
#: Seconds between looks whether the endpoints are still the same ones.
_LOOK_S = 0.25


def endpoints_of(plane: Plane, dialled: Dialled) -> list[tuple[ClusterState, EndpointState]]:
    """A few of the endpoints that calls may reach."""
    host = plane.find_host(dialled.port, dialled.authority)
    if host is None:
        if plane.snapshot.outbound == "registry_only":
            return []
        state = plane.passthrough.dial(dialled.host, dialled.port)
        return [] if state is None else [(plane.passthrough, state)]
    names = {
        weighted.cluster: None
        for route in host.virtual_host.routes
        if isinstance(route.action, ForwardAction)
        for weighted in route.action.clusters
    }
    found: list[tuple[ClusterState, EndpointState]] = []
    for name in names:
        cluster = plane.clusters.get(name)
        if cluster is None or cluster.refusal:
            continue
        found += [(cluster, c.state) for c in cluster.balancer.candidates() if not c.excluded]
    return found[:_MOST_ENDPOINTS]


def together(states: Iterable[Any]) -> Any:
    """The state of the whole."""
    seen = set(states)
    return next((state for state in _ORDER if state in seen), State.TRANSIENT_FAILURE)


def opened(runtime: Runtime, pool: SubPool, dialled: Dialled, profile: Profile) -> list[Sub]:
    """Sub-channels to a few endpoints, counted in: each has to be given back."""
    subs = []
    for cluster, state in endpoints_of(runtime.current(), dialled):
        try:
            subs.append(pool.open(cluster, state, dialled.authority, profile))
        except Refused:  # not connected, never in another way
            continue
    return subs


class Connectivity:
    """The subscriptions of one blocking channel. Thread-safe.

    Callbacks run on gRPC's or the mesh's own threads, one change after the other.
    """

    def __init__(
        self, runtime: Runtime, pool: SubPool, timer: Timer, dialled: Dialled, profile: Profile
    ) -> None:
        self._runtime = runtime
        self._pool = pool
        self._timer = timer
        self._dialled = dialled
        self._profile = profile
        self._lock = threading.RLock()
        self._callbacks: list[Callable[[Any], object]] = []
        self._states: dict[Sub, Any] = {}
        self._watchers: dict[Sub, Callable[[Any], None]] = {}
        self._plane: Plane | None = None
        self._told: Any = None
        self._connect = False
        self._looking = False

    def subscribe(self, callback: Callable[[Any], object], try_to_connect: bool) -> None:
        """See ``grpc.Channel.subscribe``."""
        with self._lock:
            self._callbacks.append(callback)
            if try_to_connect and not self._connect:
                self._connect = True
                self._drop_locked()
            told = self._told
            start, self._looking = not self._looking, True
        if told is not None:
            callback(told)
        if start or try_to_connect:
            self._timer.later(0.0, self._look if start else self._refresh)

    def unsubscribe(self, callback: Callable[[Any], object]) -> None:
        """See ``grpc.Channel.unsubscribe``."""
        with self._lock:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

    def close(self) -> None:
        """No more callbacks."""
        with self._lock:
            self._callbacks.clear()
            self._drop_locked()

    def _look(self) -> None:
        """Every now and then, as long as somebody listens."""
        with self._lock:
            if not self._callbacks or self._runtime.closed:
                self._looking = False
                self._connect = False
                self._told = None
                self._drop_locked()
                return
        self._refresh()
        self._timer.later(_LOOK_S, self._look)

    def _refresh(self) -> None:
        """Watch the endpoints that there are now."""
        if self._runtime.closed:
            return
        plane = self._runtime.current()
        with self._lock:
            if plane is not self._plane or not self._watchers:
                self._plane = plane
                self._drop_locked()
                for sub in opened(self._runtime, self._pool, self._dialled, self._profile):
                    self._watch_locked(sub)
        self._tell()

    def _watch_locked(self, sub: Sub) -> None:
        if sub in self._watchers:  # two clusters, one endpoint
            self._pool.give_back(sub)
            return

        def changed(state: Any) -> None:
            with self._lock:
                if self._watchers.get(sub) is not changed:
                    return
                self._states[sub] = state
            self._tell()

        self._watchers[sub] = changed
        self._states[sub] = State.IDLE
        sub.channel.subscribe(changed, try_to_connect=self._connect)

    def _drop_locked(self) -> None:
        watchers, self._watchers = self._watchers, {}
        self._states = {}
        for sub, changed in watchers.items():
            sub.channel.unsubscribe(changed)
            self._pool.give_back(sub)

    def _tell(self) -> None:
        with self._lock:
            state = together(self._states.values())
            if state is self._told:
                return
            self._told = state
            callbacks = list(self._callbacks)
        for callback in callbacks:
            callback(state)


__all__ = ["Connectivity", "endpoints_of", "opened", "together"]
