"""One try of a call: which endpoint, with what headers, within what time.

Values and the counting-out at its end; what follows from a try is the call's
decision (:mod:`meshclient.call`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshclient.model.headers import RawHeaders
from meshclient.model.outcome import OutcomeKind

if TYPE_CHECKING:
    from meshclient.balancing import EndpointState
    from meshclient.call_record import CallRecord
    from meshclient.cluster_state import ClusterState, Lane
    from meshclient.model.cluster import ConnectionOptions
    from meshclient.model.endpoint import Endpoint
    from meshclient.resilience.breaker import Breaker


class Attempt:
    """One try of a call at one endpoint. Close it exactly once; more is harmless.

    ``response_timeout_s`` runs from the moment the request is written,
    connecting not included (Envoy's per-try timeout); ``deadline`` is an
    absolute bound on everything, the response body included. ``by_caller``: the
    response timeout is what was left of the caller's own limit; ``by_idle`` (set
    by the driver): the bound on each read is the route's idle timeout. ``kind`` is
    the classification that every other policy reads; None while the try is open.
    ``on_close``: the call, where filters wait to be told of its end.
    """

    __slots__ = (
        "_closed",
        "by_caller",
        "by_idle",
        "cluster_state",
        "deadline",
        "duration_s",
        "gates",
        "headers",
        "kind",
        "lane",
        "number",
        "on_close",
        "outcome",
        "response_timeout_s",
        "started",
        "state",
        "status",
    )

    def __init__(
        self,
        headers: RawHeaders,
        state: EndpointState,
        cluster_state: ClusterState,
        lane: Lane,
        number: int,
        now: float,
    ) -> None:
        self.state = state
        self.cluster_state = cluster_state
        self.lane = lane
        self.number = number
        self.started = now
        self.duration_s = 0.0
        self.status = 0
        self.outcome = "open"
        self.kind: OutcomeKind | None = None
        self.headers = headers
        self.response_timeout_s: float | None = None
        self.deadline: float | None = None
        self.by_caller = False
        self.by_idle = False
        self.on_close: CallRecord | None = None
        #: Breakers that wait to be told how it ended.
        self.gates: list[tuple[Breaker, int]] | None = None
        self._closed = False

    @property
    def cluster(self) -> str:
        """Name of the cluster, for reports."""
        return self.cluster_state.cluster.name

    @property
    def endpoint(self) -> str:
        """``address:port``, for reports."""
        return self.state.key

    @property
    def is_closed(self) -> bool:
        """Whether it counts no more."""
        return self._closed

    @property
    def peer(self) -> Endpoint:
        """Where to send the request."""
        return self.state.endpoint

    @property
    def connection(self) -> ConnectionOptions:
        """How connections to the endpoint live."""
        return self.cluster_state.cluster.policy.connection

    def close(self, now: float) -> None:
        """The response body (or the failed try) is done with; the slot is free."""
        if not self._closed:
            self._closed = True
            self.state.release()
            requests = self.lane.requests
            if requests is not None:
                requests.release()
            if self.gates is not None:
                for breaker, generation in self.gates:
                    breaker.abandon(generation, now)
                self.gates = None
            if self.on_close is not None:
                self.on_close.leave(now)

    def set_header(self, name: bytes, value: bytes) -> None:
        """Set a header (lower-case ``name``) on this try only; the call's own list stays."""
        headers, length = self.headers, len(name)
        for other, _ in headers:
            if len(other) == length and other.lower() == name:
                headers = [pair for pair in headers if pair[0].lower() != name]
                break
        self.headers = [*headers, (name, value)]

    def end(self, outcome: str, kind: OutcomeKind) -> None:
        """It never reached an endpoint, or the endpoint had no part in how it ended."""
        self.outcome = outcome
        self.kind = kind
        self.close(self.started)

    def __repr__(self) -> str:
        return f"<Attempt {self.number} {self.endpoint} {self.outcome}>"
