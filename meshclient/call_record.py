"""What a call has on record, and how it ends: reports, and errors in Envoy's terms.

Decides nothing about what happens next; that is :mod:`meshclient.call`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from meshclient import errors
from meshclient.endings import BODY_ERRORS, RESET_ERRORS, RESET_FLAGS, WORDS, upstream_body
from meshclient.model.outcome import Outcome, OutcomeKind, ResetReason
from meshclient.model.report import CallReport
from meshclient.model.retry import IDEMPOTENT_METHODS
from meshclient.model.source import UNKNOWN_SOURCE, Source
from meshclient.resilience.retry_layers import repeated_in_vain

if TYPE_CHECKING:
    from meshclient.attempt import Attempt
    from meshclient.cluster_state import ClusterState, Lane
    from meshclient.hedge import Hedge
    from meshclient.model.fallback import Fallback
    from meshclient.model.inbound import Inbound
    from meshclient.model.request import LocalReply, RequestHead
    from meshclient.model.retry import RetryPolicy
    from meshclient.model.routes import WeightedCluster
    from meshclient.plane import Plane
    from meshclient.resilience import RetryState, RetryStrategy
    from meshclient.resilience.filter import Filter, Verdict
    from meshclient.routing import CompiledRoute
    from meshclient.routing.hash_policy import HashKey


class CallRecord:
    """All that is known of one call. The base of :class:`meshclient.call.Call`."""

    __slots__ = (
        "_asked",
        "_count_attempts",
        "_entered",
        "_extra_flags",
        "_hash",
        "_hashed",
        "_rand",
        "_random64",
        "_retry",
        "_started",
        "_step",
        "_wall_clock",
        "attempts",
        "cluster",
        "context",
        "error",
        "fallback",
        "fallen_back",
        "filter_headers",
        "give_up_at",
        "grpc_status",
        "head",
        "hedge",
        "hold",
        "host",
        "inbound",
        "lane",
        "notes",
        "per_try_s",
        "plane",
        "policy",
        "replayable",
        "reply",
        "route",
        "strategy",
        "timeout_s",
        "virtual_host_name",
        "weighted",
    )

    plane: Plane
    head: RequestHead
    host: str
    replayable: bool
    give_up_at: float | None
    attempts: list[Attempt]
    notes: tuple[str, ...]
    reply: LocalReply | None
    error: errors.CallError | None
    #: What filters add to the response; None: nothing.
    filter_headers: list[tuple[bytes, bytes]] | None
    #: The status of the RPC; -1: none.
    grpc_status: int
    route: CompiledRoute | None
    cluster: ClusterState | None
    lane: Lane | None
    weighted: WeightedCluster | None
    policy: RetryPolicy | None
    strategy: RetryStrategy | None
    timeout_s: float | None
    per_try_s: float | None
    virtual_host_name: str
    hold: Verdict | None
    fallback: Fallback | None
    fallen_back: str
    inbound: Inbound | None
    hedge: Hedge | None
    _started: float
    _rand: Callable[[], int]
    _random64: int
    _retry: RetryState | None
    _wall_clock: Callable[[], float] | None
    _count_attempts: bool
    _extra_flags: tuple[str, ...]
    _entered: list[Filter] | None
    _step: int
    _hash: HashKey | None
    _hashed: bool
    _asked: RequestHead | None
    context: Mapping[str, Any] | None

    # -- how it ends -----------------------------------------------------------

    def _finish(self, attempt: Attempt, outcome: Outcome, now: float) -> None:
        """The last outcome: a response passes, whatever its status; a reset becomes an error."""
        self.release_retry()
        if self.inbound is not None:
            self._mark(self.inbound, outcome)
        if outcome.reset is None:
            attempt.outcome = "success" if outcome.status < 500 else "failed"
            return
        attempt.outcome = outcome.reset.value
        kind = self._error_class(attempt, outcome, now)
        what = self._spent() if kind is errors.DeadlineExceeded else WORDS[kind]
        error = self._reset(kind, what, outcome)
        if not issubclass(kind, errors.CallTimeout):
            error.body = upstream_body(outcome.reset, len(self.attempts))

    def _failed(self, outcome: Outcome) -> str:
        """The word for a failing answer that no policy would repeat."""
        if self.inbound is not None:
            self._mark(self.inbound, outcome)
        return "failed" if outcome.status >= 500 else "success"

    def _mark(self, inbound: Inbound, outcome: Outcome) -> None:
        """Have the answer to the request being handled say that repeating it is in vain,
        where this call was repeated already, here or further on, or a limit refused that."""
        flag = "" if self._retry is None else self._retry.flag
        failed = outcome.reset is not None or outcome.status >= 500 or outcome.grpc_status > 0
        if flag or (failed and len(self.attempts) > 1) or repeated_in_vain(outcome):
            inbound.marks.exhausted = self.cluster_name

    def may_resend(self) -> bool:
        """Whether the same try may go out again, after a kept-alive connection ended
        before a byte of an answer: most likely the server had closed it unseen.

        Only what is safe to process twice (RFC 9110 section 9.2.2) and can be sent
        twice. Go's net/http and browsers do this; Envoy answers 503 UC. It is no
        retry: it takes nothing from the retry policy or its budget, and leaves a note.
        """
        if not self.replayable:
            return False
        if (
            self.head.method not in IDEMPOTENT_METHODS
            and "idempotency-key" not in self.head.headers
        ):
            return False
        self.notes = (*self.notes, "sent again: the server had closed the kept-alive connection")
        return True

    def reject(self, attempt: Attempt, cause: Exception, now: float) -> errors.CallError:
        """The error of a request that cannot be put on the wire: final, and the
        endpoint has no part in it."""
        attempt.duration_s = now - attempt.started
        attempt.on_close = self
        attempt.end("invalid request", OutcomeKind.IGNORED)
        error = self._fail(errors.InvalidRequest, f"the request cannot be sent: {cause}")
        error.__cause__ = cause
        return error

    def disregard(self, attempt: Attempt, now: float) -> None:
        """A try whose end says nothing about the endpoint (a mistake of the caller's own
        code): final, and counted nowhere."""
        attempt.duration_s = now - attempt.started
        attempt.on_close = self
        self.release_retry()
        attempt.end("disregarded", OutcomeKind.IGNORED)

    def lost(self, attempt: Attempt, now: float) -> None:
        """A try that is cancelled because another one answered: counted nowhere."""
        attempt.duration_s = now - attempt.started
        attempt.outcome, attempt.kind = "lost", OutcomeKind.IGNORED
        attempt.close(now)

    def refuse(self, attempt: Attempt, why: str) -> errors.CallError:
        """The error of a try whose connection cannot be secured as the policy
        says: final, nothing was sent, and the endpoint has no part in it."""
        attempt.on_close = self
        attempt.end("refused", OutcomeKind.IGNORED)
        return self._fail(errors.SecurityError, f"the call is refused, never sent in plain: {why}")

    def break_off(self, outcome: Outcome) -> errors.CallError:
        """The error of a response body that ended early: final, whatever the policy says."""
        assert outcome.reset is not None
        attempt = self.attempts[-1]
        attempt.outcome = outcome.reset.value
        attempt.cluster_state.observe_broken_body(attempt.state, outcome)
        kind = BODY_ERRORS.get(outcome.reset, errors.UpstreamReset)
        if self._past_inbound_deadline(attempt, outcome):
            kind = errors.DeadlineExceeded
        return self._reset(kind, "the response body broke off", outcome)

    def _reset(self, kind: type[errors.CallError], what: str, outcome: Outcome) -> errors.CallError:
        """An error for a reset, with its cause and Envoy's flag for it."""
        cause = " ".join(str(outcome.error or "").split())
        where = ""
        if outcome.reset is ResetReason.OVERFLOW:
            where = self._limits_source().cited
        error = self._fail(kind, (f"{what}: {cause}" if cause else what) + where)
        error.__cause__ = outcome.error
        if outcome.reset in RESET_FLAGS:
            error.flag = RESET_FLAGS[outcome.reset]
        return error

    def _caller_gave_up(self, attempt: Attempt, outcome: Outcome, now: float) -> bool:
        # A timer may fire a little before its time: the clock alone does not tell.
        if attempt.by_caller and outcome.reset is ResetReason.PER_TRY_TIMEOUT:
            return True
        if self._past_inbound_deadline(attempt, outcome):
            return True
        return self.give_up_at is not None and now >= self.give_up_at

    def _past_inbound_deadline(self, attempt: Attempt, outcome: Outcome) -> bool:
        """Whether the limit that ended the try was the deadline of the request being handled."""
        inbound = self.inbound
        return (
            inbound is not None
            and inbound.deadline is not None
            and outcome.reset is ResetReason.ROUTE_TIMEOUT
            and attempt.deadline == inbound.deadline
        )

    def _spent(self) -> str:
        """Whose time is over, in words."""
        inbound = self.inbound
        at = None if inbound is None else inbound.deadline
        if at is not None and at == self.give_up_at:
            return "the deadline of the request being handled has passed"
        return "the caller's own time limit is spent"

    def _error_class(
        self, attempt: Attempt, outcome: Outcome, now: float
    ) -> type[errors.CallError]:
        reset = outcome.reset
        if reset is not ResetReason.PER_TRY_TIMEOUT:
            assert reset is not None
            if self._past_inbound_deadline(attempt, outcome):
                return errors.DeadlineExceeded
            return RESET_ERRORS.get(reset, errors.UpstreamReset)
        if self._caller_gave_up(attempt, outcome, now):
            return errors.DeadlineExceeded
        if self.per_try_s is not None:
            return errors.PerTryTimeout
        # Without a limit of the policy it can only be one of the caller's own.
        return errors.DeadlineExceeded if self.timeout_s is None else errors.RouteTimeout

    def _fail(self, kind: type[errors.CallError], why: str) -> errors.CallError:
        self.release_retry()
        tries = len(self.attempts)
        if self.inbound is not None and (tries > 1 or kind.flag == "UO"):
            self.inbound.marks.exhausted = self.cluster_name
        after = f" after {tries} tries" if tries > 1 else ""
        where = f" at {self.attempts[-1].endpoint}" if tries else ""
        self.error = error = kind(f"{self._what()}{where}{after}: {why}", self.report)
        return error

    def release_retry(self) -> None:
        """Give the retry permit back, if one is held. Idempotent."""
        if self._retry is not None and self.lane is not None:
            self._retry.release(self.lane.limiter)

    def leave(self, now: float) -> None:
        """Tell the filters that the call is over. Idempotent."""
        entered, self._entered = self._entered, None
        if not entered:
            return
        status, grpc_status = 0, self.grpc_status
        if self.error is not None:
            status = self.error.status
        elif self.attempts:
            status = self.attempts[-1].status
        elif self.reply is not None:
            status = self.reply.status
            code = self.reply.headers.get("grpc-status")
            grpc_status = grpc_status if code is None else int(code)
        for left in reversed(entered):
            left.leave(status, grpc_status, self._started, now)

    def note(self, what: str, source: Source | None = None) -> None:
        """Keep a sentence for the report, with the place of the document that decided;
        without one of its own, that of the route."""
        route = self.route
        if route is not None and (source is None or source == UNKNOWN_SOURCE):
            source = route.route.source
        self.notes = (*self.notes, what if source is None else what + source.cited)

    def _limits_source(self) -> Source:
        """Where the limits of the cluster stand; at least, where the cluster does."""
        assert self.lane is not None
        assert self.cluster is not None
        own, sources = self.lane.limits.source, self.cluster.cluster.sources
        return sources[-1] if own == UNKNOWN_SOURCE and sources else own

    def _filter_source(self) -> Source | None:
        """Where the settings of the filter that has the word stand."""
        if self.route is None:
            return None
        route = self.route.route
        settings = route.filters if route.fault is None else (route.fault, *route.filters)
        return getattr(settings[self._step - 1], "source", None) if settings else None

    def abandon(self, now: float) -> None:
        """The driver gives up (cancelled, closed): nothing stays counted. Idempotent."""
        self.release_retry()
        for attempt in self.attempts:
            attempt.close(now)
        self.leave(now)

    def _no_endpoint(self, cluster: ClusterState) -> errors.CallError:
        from meshclient.pick_view import why_nobody

        why = why_nobody(cluster, self)  # type: ignore[arg-type]  # every record is a Call
        message = f"{self._what()}: cluster {cluster.cluster.name}: {why}"
        return errors.NoHealthyEndpoint(message, self.report)

    def _what(self) -> str:
        head = self.head
        return f"{head.method} {head.scheme}://{self.host}{head.path.partition('?')[0]}"

    # -- what reports read ---------------------------------------------------

    @property
    def report(self) -> CallReport:
        """A view of this call, for responses and errors."""
        return CallReport(self)

    @property
    def snapshot_version(self) -> int:
        """Version of the snapshot in force when the call began."""
        return self.plane.snapshot.version

    @property
    def route_name(self) -> str:
        """The route's name; empty without one."""
        return self.route.route.name if self.route is not None else ""

    @property
    def cluster_name(self) -> str:
        """The chosen cluster's name, even when it does not exist."""
        if self.cluster is not None:
            return self.cluster.cluster.name
        return self.weighted.cluster if self.weighted is not None else ""

    @property
    def flags(self) -> tuple[str, ...]:
        """Envoy's response flags, in the order they were set."""
        own = self.error.flag if self.error is not None else ""
        extra = self._extra_flags
        return (*extra, own) if own and own not in extra else extra


def grpc_status_of(outcome: Outcome) -> int:
    """The status of an RPC that is over with its head (trailers-only), too."""
    headers = outcome.headers
    if outcome.grpc_status >= 0 or headers is None:
        return outcome.grpc_status
    text = headers.get("grpc-status")
    return int(text) if text is not None and text.isdecimal() and len(text) < 10 else -1
