"""A cluster of one snapshot with the state that its calls share.

In-flight counts, limits, the balancer, passive health. No clock, no I/O, no client
library; whatever takes time runs on the control thread, never in a call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from meshclient.balancing import Balancer, EndpointState, carry_over, make_balancer
from meshclient.balancing.session import SessionAffinity, by_address
from meshclient.model.cluster import UNLIMITED, Cluster, Limits
from meshclient.model.endpoint import NO_LOCALITY, Endpoint, Locality, OriginalDestination
from meshclient.model.events import RetryLayerFound
from meshclient.resilience import RequestLimit, RetryLimiter, request_limit, retry_limiter
from meshclient.resilience.health_membership import settle_membership, without_failed
from meshclient.resilience.outlier import OutlierDetector

if TYPE_CHECKING:
    from meshclient.balancing.base import OnOutcome, OnTrailers
    from meshclient.model.events import Event
    from meshclient.model.outcome import Outcome
    from meshclient.resilience.breaker import Breaker

#: Endpoints remembered per pass-through cluster; idle ones make room for new ones.
MAX_DIALLED_ENDPOINTS = 1024


class Building:
    """What building or rebuilding a cluster's state needs from outside.

    ``seed`` gives a fresh unsigned 64-bit number per call, ``now`` is monotonic
    seconds, ``locality`` the caller's own place. In calls, ``urge`` is told of a cluster that
    should be looked after soon (:mod:`meshclient.upkeep`), ``fail`` of an endpoint whose
    response asks for being failed (:mod:`meshclient.health_checks`).
    """

    __slots__ = ("circuits", "fail", "locality", "now", "seed", "tell", "urge")

    def __init__(
        self,
        seed: Callable[[], int],
        now: float = 0.0,
        locality: Locality = NO_LOCALITY,
        urge: Callable[[ClusterState], object] = id,
        fail: Callable[[ClusterState, EndpointState], object] = lambda _cluster, _state: None,
        tell: Callable[[Event], object] = id,
        circuits: Mapping[str, Any] | None = None,
    ) -> None:
        #: Takes events of any thread, without blocking.
        self.tell = tell
        #: The caller's own pybreaker objects, by service or cluster.
        self.circuits: Mapping[str, Any] = circuits or {}
        self.fail = fail
        self.seed = seed
        self.now = now
        self.locality = locality
        self.urge = urge


class Lane:
    """What the calls of one routing priority share: requests, retries, connections.

    Envoy keeps these apart for DEFAULT and HIGH, so that a flood of ordinary calls leaves
    room for the important ones. ``requests`` counts what is in flight; None: no limit, and
    not ``apart``. ``answered`` is the limiter, where it counts answers.
    ``shared`` is where the drivers keep what the connections of the lane share.
    """

    __slots__ = ("answered", "apart", "limiter", "limits", "requests", "shared")

    def __init__(self, limits: Limits, apart: bool = False) -> None:
        self.limits = limits
        #: Whether its connections are other ones than those of the cluster's ordinary calls.
        self.apart = apart
        self.requests: RequestLimit | None = request_limit(limits)
        if apart and self.requests is None:
            # Budgets are counted apart, too; see LaneLoad.
            self.requests = RequestLimit(UNLIMITED)
        self.shared: dict[str, Any] = {}
        self.use(retry_limiter(limits))

    def use(self, limiter: RetryLimiter) -> None:
        """Take the retry permits from ``limiter``. Before the first call only."""
        self.limiter = limiter
        self.answered = limiter if limiter.counts_answers else None


class LaneLoad:
    """What an Envoy retry budget is a share of: the requests of one priority.

    Ordinary calls are counted on their endpoints alone, so what is theirs is the rest.
    """

    __slots__ = ("_cluster", "_lane")

    def __init__(self, cluster: ClusterState, lane: Lane) -> None:
        self._cluster = cluster
        self._lane = lane

    @property
    def active_requests(self) -> int:
        """Requests in flight; see :class:`meshclient.resilience.retry.Load`."""
        requests = self._cluster.high.requests
        important = 0 if requests is None else requests.active
        if self._lane.apart:
            return important
        return max(0, self._cluster.active_requests - important)


class ClusterState:
    """A cluster of one snapshot with the state its calls share.

    ``refusal`` is set when calls must not be made at all (security settings
    that cannot be honoured). ``lane`` and ``high`` are the limits of its two priorities.
    ``on_outcome`` is called once per try, at its response head or reset; None where
    nothing watches. ``shared`` is where the drivers keep what all connections of the
    cluster share; it lives as long as the policy stays the same.
    """

    __slots__ = (
        "_fail",
        "_local",
        "_locality",
        "_seed",
        "_tell",
        "_urge",
        "balancer",
        "breaker",
        "by_address",
        "cluster",
        "compared_by",
        "detector",
        "high",
        "lane",
        "on_outcome",
        "on_trailers",
        "refusal",
        "retry_layer",
        "session",
        "shared",
        "states",
    )

    def __init__(self, cluster: Cluster, building: Building, previous: ClusterState | None) -> None:
        self.cluster = cluster
        same_policy = previous is not None and previous.cluster.policy == cluster.policy
        kept = previous if same_policy else None
        now = building.now
        self._seed, self._locality = building.seed, building.locality
        self._urge, self._fail = building.urge, building.fail
        self._tell = building.tell
        #: What showed that somebody else repeats its requests, too; empty: nothing did.
        self.retry_layer: str = previous.retry_layer if previous else ""
        self._local: Sequence[EndpointState] | None = kept._local if kept else None
        #: Zone-aware clusters that compare with this one's endpoints; set by the plane.
        self.compared_by: Sequence[ClusterState] = ()
        old = kept.states if kept else ()
        self.states: tuple[EndpointState, ...] = settle_membership(
            old, carry_over(old, cluster, now), cluster
        )
        self.lane: Lane = kept.lane if kept else Lane(cluster.policy.limits)
        self.high: Lane = (
            kept.high if kept else Lane(cluster.policy.high_priority_limits, apart=True)
        )
        self.shared: dict[str, Any] = kept.shared if kept else {}
        self.detector: OutlierDetector | None = (
            kept.detector if kept else _detector(cluster, building)
        )
        if self.detector is not None:
            self.detector.adopt(self.states, now)
        self.on_outcome: OnOutcome | None = None
        #: Told of the trailers of a response whose body was read to its end; None: nobody asks.
        self.on_trailers: OnTrailers | None = None
        #: The breaker of the cluster or its service; put here when the plane is built.
        self.breaker: Breaker | None = kept.breaker if kept else None
        self.balancer: Balancer = self._balance(now, kept.balancer if kept else None)
        self.refusal = _refusal(cluster)
        session = cluster.policy.load_balancing.session
        self.session = None if session is None else SessionAffinity(session)
        self.by_address = {} if session is None else by_address(self.states)

    def _balance(self, now: float, previous: Balancer | None) -> Balancer:
        balancer = make_balancer(
            self.cluster, self.states, self._seed(), previous, now, self._local, self._locality
        )
        watches = (
            self.detector is not None
            or balancer.on_outcome is not None
            or bool(self.cluster.policy.health_checks)
        )
        self.on_outcome = self._observe if watches else None
        self.on_trailers = balancer.on_trailers
        return balancer

    # -- on the control thread -------------------------------------------------

    def refresh(self, now: float) -> None:
        """Weigh the endpoints anew, after flags or weights changed. Control thread only."""
        states = without_failed(self.states)
        if states is not self.states:
            self.states = states
            if self.detector is not None:
                self.detector.adopt(states, now)
        self._weigh(now)
        for other in self.compared_by:
            # Only that: its own endpoints are what they were, and so is what compares with it.
            other._weigh(now)

    def _weigh(self, now: float) -> None:
        self.balancer = self._balance(now, self.balancer)

    def set_local(self, states: Sequence[EndpointState] | None, now: float) -> None:
        """The endpoints of the caller's own service, for zone-aware routing."""
        if states != self._local:
            self._local = states
            self._weigh(now)

    @property
    def due_at(self) -> float | None:
        """When :meth:`tend` has something to do (monotonic seconds); None: never by itself."""
        times = [self.balancer.refresh_at]
        if self.detector is not None:
            times.append(self.detector.next_due)
        return min((at for at in times if at is not None), default=None)

    def tend(self, now: float) -> Sequence[Event]:
        """Eject, take back, weigh anew: what is due. Control thread only."""
        events: Sequence[Event] = ()
        if self.detector is not None:
            events = self.detector.process(now)
        refresh_at = self.balancer.refresh_at
        if events or (refresh_at is not None and refresh_at <= now):
            self.refresh(now)
        return events

    def urge(self) -> None:
        """Have :meth:`tend` called soon. Any thread; never waits."""
        self._urge(self)

    # -- in calls ----------------------------------------------------------------

    def _observe(self, state: EndpointState, outcome: Outcome, started: float, now: float) -> None:
        detector = self.detector
        if detector is not None and detector.observe(state, outcome, started, now):
            self._urge(self)
        measure = self.balancer.on_outcome
        if measure is not None:
            measure(state, outcome, started, now)
        if self.cluster.policy.health_checks and _asks_to_fail(outcome):
            self._fail(self, state)

    def observe_broken_body(self, state: EndpointState, outcome: Outcome) -> None:
        """A response whose head was observed broke off in its body."""
        detector = self.detector
        if detector is not None and detector.observe_broken_body(state, outcome):
            self._urge(self)

    def notice_layer(self, evidence: str) -> None:
        """Somebody else repeats requests to this cluster, too; told of once."""
        if not self.retry_layer:
            self.retry_layer = evidence
            self._tell(RetryLayerFound(self.cluster.name, evidence))

    @property
    def active_requests(self) -> int:
        """Requests in flight on all endpoints."""
        return sum(state.active for state in self.live_states())

    def live_states(self) -> tuple[EndpointState, ...]:
        """The endpoints known at this moment."""
        return self.states

    @property
    def is_dialled(self) -> bool:
        """True where the caller's address is the endpoint."""
        return False

    def dial(self, host: str, port: int) -> EndpointState | None:  # noqa: ARG002
        """None: an ordinary cluster picks, it is not told where to go."""
        return None


def _asks_to_fail(outcome: Outcome) -> bool:
    headers = outcome.headers
    return headers is not None and "x-envoy-immediate-health-check-fail" in headers


class DialledClusterState(ClusterState):
    """A cluster whose endpoint is what the caller dialled (ORIGINAL_DST).

    Thread-safe. Remembers at most :data:`MAX_DIALLED_ENDPOINTS` states. When it is full,
    those without a call in flight are forgotten; if all have one, a further
    endpoint gets a state that lives as long as its call.
    """

    __slots__ = ("_by_address", "_lock", "_port")

    def __init__(self, cluster: Cluster, building: Building, previous: ClusterState | None) -> None:
        super().__init__(cluster, building, None)
        self._lock = threading.Lock()
        self._by_address: dict[tuple[str, int], EndpointState] = {}
        source = cluster.discovery
        self._port = source.port if isinstance(source, OriginalDestination) else 0
        if isinstance(previous, DialledClusterState) and previous.cluster.policy == cluster.policy:
            self._by_address = previous._by_address
            self._lock = previous._lock
            self.lane, self.high = previous.lane, previous.high
            self.shared = previous.shared

    def live_states(self) -> tuple[EndpointState, ...]:
        return tuple(self._by_address.values())

    @property
    def is_dialled(self) -> bool:
        return True

    def dial(self, host: str, port: int) -> EndpointState | None:
        key = (host, self._port or port)
        state = self._by_address.get(key)
        if state is None:
            with self._lock:
                state = self._by_address.get(key) or self._add_locked(key)
        return state

    def _add_locked(self, key: tuple[str, int]) -> EndpointState:
        if len(self._by_address) >= MAX_DIALLED_ENDPOINTS:
            for old, idle in list(self._by_address.items()):
                if idle.active == 0:
                    del self._by_address[old]
        state = EndpointState(Endpoint(key[0], key[1], hostname=key[0]), self.cluster.name)
        if len(self._by_address) < MAX_DIALLED_ENDPOINTS:
            self._by_address[key] = state
        return state


def _detector(cluster: Cluster, building: Building) -> OutlierDetector | None:
    """The cluster's passive health; None where its policy has none."""
    settings = cluster.policy.outlier_detection
    if settings is None or isinstance(cluster.discovery, OriginalDestination):
        return None
    return OutlierDetector(settings, cluster.name, building.now, building.seed)


def _refusal(cluster: Cluster) -> str:
    """Why calls to the cluster must not be made; empty when they may."""
    tls = cluster.policy.tls
    if tls is None or tls.mode == "disable":
        return ""
    if tls.credential_name:
        why = f"credentialName {tls.credential_name!r} is a secret that only a gateway can fetch"
    elif tls.mode == "istio_mutual" and not tls.expected_names and not tls.insecure_skip_verify:
        why = (
            "the server's identity is not known: name it in subjectAltNames "
            "(spiffe://<trust domain>/ns/<namespace>/sa/<service account>)"
        )
    elif tls.mode == "mutual" and not (tls.certificate and tls.key):
        why = "no client certificate and key are named"
    else:
        return ""
    target = cluster.service or cluster.name
    return (
        f"the policy asks for TLS mode {tls.mode.upper()} towards {target}, which cannot be "
        f"honoured: {why}; the call is refused, never sent in plain text"
    )
