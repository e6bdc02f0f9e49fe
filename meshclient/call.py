"""One outbound call as a sans-IO state machine: the only place where the policies meet.

A driver does what a call says and tells it what came of it::

    call = Call(plane, head, now, rand)
    if call.reply is not None: answer with it
    while True:
        attempt = call.next_attempt(now)          # raises what the caller shall see
        ... send attempt.headers to attempt.endpoint ...
        delay_s = call.settle(attempt, outcome, now)
        if delay_s is None: break                 # final: a response, or call.error
        ... drop the response, attempt.close(now), wait delay_s ...
    ... attempt.close(now) when the response body is closed ...

``now`` is monotonic seconds, ``rand()`` a fresh unsigned 64-bit number. No
clock, randomness, socket, event loop or client library in here. A call belongs
to one thread or task at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from meshclient import errors
from meshclient.attempt import Attempt
from meshclient.endings import BODY_ERRORS, RESET_ERRORS, RESET_FLAGS, WORDS, upstream_body
from meshclient.model.outcome import Outcome, OutcomeKind, ResetReason
from meshclient.model.report import CallReport
from meshclient.model.request import LocalReply, RequestHead
from meshclient.model.retry import IDEMPOTENT_METHODS, RetryPolicy
from meshclient.model.routes import ForwardAction, WeightedCluster
from meshclient.resilience import (
    RetryState,
    RetryStrategy,
    classify,
    ends_in_time,
    expected_timeout_ms,
    may_retry,
    merge_policy,
    merge_timeouts,
    read_overrides,
)

if TYPE_CHECKING:
    from meshclient.balancing import EndpointState
    from meshclient.cluster_state import ClusterState
    from meshclient.model.endpoint import Labels
    from meshclient.plane import Plane
    from meshclient.routing import CompiledRoute

_EXPECTED_TIMEOUT = b"x-envoy-expected-rq-timeout-ms"
_ATTEMPT_COUNT = b"x-envoy-attempt-count"


class Call:
    """One call from its head to its last attempt, under one snapshot.

    ``reply`` is a local answer (redirect, direct response), ``error`` what ended
    the call without a response. ``replayable`` False: the body can be sent
    once only. ``patience_s`` is the caller's own bound on the wait for the response
    head, over all tries and back-offs; None means none. ``wall_clock`` (Unix
    seconds) is asked only when an upstream names a point in time to come back at.
    """

    __slots__ = (
        "_count_attempts",
        "_extra_flags",
        "_rand",
        "_retry",
        "_started",
        "_wall_clock",
        "attempts",
        "cluster",
        "error",
        "give_up_at",
        "head",
        "host",
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

    def __init__(
        self,
        plane: Plane,
        head: RequestHead,
        now: float,
        rand: Callable[[], int],
        replayable: bool = True,
        patience_s: float | None = None,
        strategies: dict[str, RetryStrategy] | None = None,
        wall_clock: Callable[[], float] | None = None,
    ) -> None:
        self.plane = plane
        self.head = head
        self.host = head.authority
        self.replayable = replayable
        self.give_up_at = None if patience_s is None else now + patience_s
        self.attempts: list[Attempt] = []
        self.notes: tuple[str, ...] = ()
        self.reply: LocalReply | None = None
        self.error: errors.CallError | None = None
        self.route: CompiledRoute | None = None
        self.cluster: ClusterState | None = None
        self.weighted: WeightedCluster | None = None
        self.policy: RetryPolicy | None = None
        self.strategy: RetryStrategy | None = None
        self.timeout_s: float | None = None
        self.per_try_s: float | None = None
        self.virtual_host_name = ""
        self._started = now
        self._rand = rand
        self._retry: RetryState | None = None
        self._wall_clock = wall_clock
        self._count_attempts = False
        self._extra_flags: tuple[str, ...] = ()
        self._decide_route(strategies)

    # -- route ---------------------------------------------------------------

    def _decide_route(self, strategies: dict[str, RetryStrategy] | None) -> None:
        head = self.head
        plane = self.plane
        host = plane.find_host(head.port, head.authority)
        if host is None:
            self._pass_through()
            return
        self.virtual_host_name = host.virtual_host.name
        random64 = self._rand()
        self.route = route = host.find_route(head, random64)
        if route is None:
            self.error = errors.NoRoute(
                f"{self._what()}: the host is known, but none of its routes matches", self.report
            )
            return
        if type(route.route.action) is not ForwardAction:
            self.reply = route.local_reply(head)
            return
        self._count_attempts = (
            route.forward.include_attempt_count or host.virtual_host.include_attempt_count
        )
        self._decide_cluster(route, random64)
        if strategies is not None:
            self.strategy = strategies.get(self.virtual_host_name)
            if self.strategy is not None and self.policy is None:
                self.policy = _STRATEGY_ONLY

    def _decide_cluster(self, route: CompiledRoute, random64: int) -> None:
        head = self.head
        action = route.forward
        self.weighted = weighted = route.pick_cluster(head, random64)
        cluster = None if weighted is None else self.plane.clusters.get(weighted.cluster)
        if cluster is None:
            self._unknown_cluster(action)
            return
        self.cluster = cluster
        if cluster.refusal:
            self.error = errors.SecurityError(f"{self._what()}: {cluster.refusal}", self.report)
            return
        self.policy = action.retry
        self._read_headers(route, action)

    def _read_headers(self, route: CompiledRoute, action: ForwardAction) -> None:
        """The caller's control headers and the route's header edits, in Envoy's order.

        Timeouts are read before the edits (an added timeout header is too late
        and goes upstream), retry headers after them (an added one counts).
        """
        headers = self.head.headers
        overrides = read_overrides(headers)
        per_try_s = action.retry.per_try_timeout_s if action.retry is not None else None
        self.timeout_s, self.per_try_s = merge_timeouts(action.timeout_s, per_try_s, overrides)
        if overrides is not None:
            overrides.strip_timeouts(headers)
        if route.has_request_edits:
            route.edit_request(self.head, self.weighted)
            if self.head.authority != self.host:
                headers.set("Host", self.head.authority)
            overrides = read_overrides(headers)
        if overrides is not None:
            self.policy = merge_policy(action.retry, overrides)
            overrides.strip(headers)

    def _pass_through(self) -> None:
        """A host that no policy knows: untouched, or refused."""
        if self.plane.snapshot.outbound == "registry_only":
            self.error = errors.UnknownHost(
                f"{self._what()}: no policy knows this host, and outbound is registry_only",
                self.report,
            )
            return
        self.cluster = self.plane.passthrough

    def _unknown_cluster(self, action: ForwardAction) -> None:
        if self.weighted is not None:
            what = f"the route names cluster {self.weighted.cluster!r}, which does not exist"
        elif action.cluster_header:
            what = f"the header {action.cluster_header}, which names the cluster, is missing"
        else:
            what = "no cluster of the route has any weight"
        self.error = errors.UnknownCluster(f"{self._what()}: {what}", self.report)
        self.error.status = action.cluster_not_found_status

    # -- tries ---------------------------------------------------------------

    def next_attempt(self, now: float) -> Attempt:
        """Pick an endpoint and count the request in.

        Raises the :class:`~meshclient.errors.CallError` that ends the call: no route, no
        endpoint, refused, or no time left.
        """
        cluster = self.cluster
        if self.error is not None:
            raise self.error
        assert cluster is not None
        tries = self.attempts
        if tries:
            self._check_time(now)
        elif cluster.limiter.counts_requests:
            cluster.limiter.on_request(now)
        state = self._pick(cluster, now)
        if state is None:
            self.release_retry()
            self.error = self._no_endpoint(cluster)
            raise self.error
        requests = cluster.requests
        if requests is not None and not requests.acquire():
            raise self._overflow(state, cluster, now)
        state.acquire()
        attempt = Attempt(self.head.headers.raw, state, cluster, len(tries) + 1, now)
        tries.append(attempt)
        route = self.route
        if route is not None:
            self._prepare(attempt, route, now)
        if self.give_up_at is not None:
            left = self.give_up_at - now
            if attempt.response_timeout_s is None or left < attempt.response_timeout_s:
                attempt.response_timeout_s = left if left > 0.0 else 0.0
                attempt.by_caller = True
        return attempt

    def _overflow(
        self, state: EndpointState, cluster: ClusterState, now: float
    ) -> errors.CallError:
        """Too many requests in flight: the try ends before it begins, and is not repeated."""
        attempt = Attempt(self.head.headers.raw, state, cluster, len(self.attempts) + 1, now)
        attempt._closed = True  # it was never counted in
        attempt.kind = OutcomeKind.IGNORED
        self.attempts.append(attempt)
        limit = cluster.cluster.policy.limits.max_requests
        cause = OverflowError(f"{limit} requests to the cluster are in flight (max_requests)")
        self._finish(attempt, Outcome(reset=ResetReason.OVERFLOW, sent=False, error=cause), now)
        assert self.error is not None
        return self.error

    def _pick(self, cluster: ClusterState, now: float) -> EndpointState | None:
        head = self.head
        state = cluster.dial(head.dialled, head.port)
        if state is not None:
            return state
        policy = self.policy
        if self.attempts and policy is not None and policy.previous_hosts:
            tried = [attempt.state for attempt in self.attempts]
            return cluster.balancer.pick_other(self._rand, tried, policy.host_attempts, now, self)
        return cluster.balancer.pick(self._rand, now, self)

    def _prepare(self, attempt: Attempt, route: CompiledRoute, now: float) -> None:
        """Time limits and the headers that differ from try to try."""
        if route.host_from_endpoint:
            self._take_host(attempt, route)
        per_try_s = self.per_try_s
        timeout_s = self.timeout_s
        attempt.response_timeout_s = per_try_s
        if timeout_s is not None:
            if self.replayable:
                attempt.deadline = self._started + timeout_s
            else:
                # The route timeout starts when the request has been received
                # whole; for a streamed upload only the wire knows when.
                attempt.response_timeout_s = timeout_s if per_try_s is None else per_try_s
        if timeout_s is not None or per_try_s is not None:
            if now == self._started:
                expected = _first_expected(timeout_s, per_try_s)
            else:
                expected = _expected(timeout_s, per_try_s, now - self._started)
            if expected is not None:
                attempt.set_header(_EXPECTED_TIMEOUT, expected)
        if self._count_attempts:
            attempt.set_header(_ATTEMPT_COUNT, b"%d" % attempt.number)

    def _take_host(self, attempt: Attempt, route: CompiledRoute) -> None:
        """Envoy's ``auto_host_rewrite``: the picked endpoint's own host name."""
        hostname = attempt.state.endpoint.hostname
        head = self.head
        if hostname and hostname != head.authority:
            route.set_host(head, hostname)
            head.headers.set("Host", hostname)
            attempt.headers = head.headers.raw

    def _check_time(self, now: float) -> None:
        """A try that has no time left is not made."""
        deadline = None if self.timeout_s is None else self._started + self.timeout_s
        if deadline is not None and now >= deadline:
            self._fail(errors.RouteTimeout, f"the route's timeout of {self.timeout_s:g} s is spent")
        elif self.give_up_at is not None and now >= self.give_up_at:
            self._fail(errors.DeadlineExceeded, "the caller's own time limit is spent")
        if self.error is not None:
            raise self.error

    # -- outcomes ------------------------------------------------------------

    def settle(self, attempt: Attempt, outcome: Outcome, now: float) -> float | None:
        """What follows from the outcome of a try.

        None: the call is over, with the response at hand or with ``error`` set.
        A number: drop what there is, wait that many seconds, then
        :meth:`next_attempt`.
        """
        attempt.duration_s = now - attempt.started
        status = attempt.status = outcome.status
        policy = self.policy
        observe = attempt.cluster_state.on_outcome
        if observe is not None:
            observe(attempt.state, outcome, attempt.started, now)
        if status and (policy is None or (status < 400 and not may_retry(policy, outcome))):
            attempt.kind = classify(outcome, False)
            attempt.outcome = "success" if status < 500 else "failed"
            if self._retry is not None:
                self.release_retry()
            return None
        delay_s = None
        if policy is not None and not self._over(attempt, outcome, now):
            delay_s = self._retry_delay(policy, outcome, now)
        attempt.kind = classify(outcome, delay_s is not None)
        if delay_s is None:
            self._finish(attempt, outcome, now)
            return None
        attempt.outcome = outcome.reset.value if outcome.reset else "failed_retryable"
        return self._within_deadline(delay_s, now)

    def _over(self, attempt: Attempt, outcome: Outcome, now: float) -> bool:
        """Time limits of the whole call are never retried."""
        if outcome.reset is ResetReason.ROUTE_TIMEOUT:
            return True
        return not outcome.status and self._caller_gave_up(attempt, outcome, now)

    def _caller_gave_up(self, attempt: Attempt, outcome: Outcome, now: float) -> bool:
        # A timer may fire a little before its time: the clock alone does not tell.
        if attempt.by_caller and outcome.reset is ResetReason.PER_TRY_TIMEOUT:
            return True
        return self.give_up_at is not None and now >= self.give_up_at

    def _retry_delay(self, policy: RetryPolicy, outcome: Outcome, now: float) -> float | None:
        retry = self._retry
        if retry is None:
            retry = self._retry = RetryState(
                policy, self.head.method, self.replayable, self.head.headers, self.strategy
            )
        cluster = self.cluster
        assert cluster is not None
        unix_now = None
        if self._wall_clock is not None and policy.rate_limited is not None:
            unix_now = self._wall_clock()
        elapsed_s = now - self._started
        delay_s = retry.decide(
            outcome, cluster.limiter, self._rand, now, elapsed_s, cluster, unix_now
        )
        if retry.note:
            self.notes = (*self.notes, retry.note)
        if retry.flag:
            self._extra_flags = (*self._extra_flags, retry.flag)
        return delay_s

    def _within_deadline(self, delay_s: float, now: float) -> float | None:
        """A back-off that outlasts the time left ends as it would have ended, only sooner."""
        deadline = None if self.timeout_s is None else self._started + self.timeout_s
        if not ends_in_time(now, delay_s, deadline):
            self._fail(
                errors.RouteTimeout,
                f"the back-off of {delay_s * 1000:.0f} ms outlasts the route's timeout of "
                f"{self.timeout_s:g} s",
            )
            return None
        if not ends_in_time(now, delay_s, self.give_up_at):
            self._fail(
                errors.DeadlineExceeded,
                f"the back-off of {delay_s * 1000:.0f} ms outlasts the caller's time limit",
            )
            return None
        return delay_s

    def _finish(self, attempt: Attempt, outcome: Outcome, now: float) -> None:
        """The last outcome: a response passes, whatever its status; a reset becomes an error."""
        self.release_retry()
        if outcome.reset is None:
            attempt.outcome = "success" if outcome.status < 500 else "failed"
            return
        attempt.outcome = outcome.reset.value
        kind = self._error_class(attempt, outcome, now)
        error = self._reset(kind, WORDS[kind], outcome)
        if not issubclass(kind, errors.CallTimeout):
            error.body = upstream_body(outcome.reset, len(self.attempts))

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
        attempt.end("invalid request", OutcomeKind.IGNORED)
        error = self._fail(errors.InvalidRequest, f"the request cannot be sent: {cause}")
        error.__cause__ = cause
        return error

    def refuse(self, attempt: Attempt, why: str) -> errors.CallError:
        """The error of a try whose connection cannot be secured as the policy
        says: final, nothing was sent, and the endpoint has no part in it."""
        attempt.end("refused", OutcomeKind.IGNORED)
        return self._fail(errors.SecurityError, f"the call is refused, never sent in plain: {why}")

    def break_off(self, outcome: Outcome) -> errors.CallError:
        """The error of a response body that ended early: final, whatever the policy says."""
        assert outcome.reset is not None
        self.attempts[-1].outcome = outcome.reset.value
        kind = BODY_ERRORS.get(outcome.reset, errors.UpstreamReset)
        return self._reset(kind, "the response body broke off", outcome)

    def _reset(self, kind: type[errors.CallError], what: str, outcome: Outcome) -> errors.CallError:
        """An error for a reset, with its cause and Envoy's flag for it."""
        cause = " ".join(str(outcome.error or "").split())
        error = self._fail(kind, f"{what}: {cause}" if cause else what)
        error.__cause__ = outcome.error
        if outcome.reset in RESET_FLAGS:
            error.flag = RESET_FLAGS[outcome.reset]
        return error

    def _error_class(
        self, attempt: Attempt, outcome: Outcome, now: float
    ) -> type[errors.CallError]:
        reset = outcome.reset
        if reset is not ResetReason.PER_TRY_TIMEOUT:
            assert reset is not None
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
        after = f" after {tries} tries" if tries > 1 else ""
        where = f" at {self.attempts[-1].endpoint}" if tries else ""
        self.error = error = kind(f"{self._what()}{where}{after}: {why}", self.report)
        return error

    def release_retry(self) -> None:
        """Give the retry permit back, if one is held. Idempotent."""
        if self._retry is not None and self.cluster is not None:
            self._retry.release(self.cluster.limiter)

    def abandon(self, now: float) -> None:
        """The driver gives up (cancelled, closed): nothing stays counted. Idempotent."""
        self.release_retry()
        for attempt in self.attempts:
            attempt.close(now)

    def _no_endpoint(self, cluster: ClusterState) -> errors.CallError:
        why = cluster.cluster.discovery_error or "it has no healthy endpoint"
        message = f"{self._what()}: cluster {cluster.cluster.name}: {why}"
        return errors.NoHealthyEndpoint(message, self.report)

    def _what(self) -> str:
        head = self.head
        return f"{head.method} {head.scheme}://{self.host}{head.path.partition('?')[0]}"

    # -- what balancers read ---------------------------------------------------

    @property
    def hash64(self) -> int | None:
        """The hash that the route's hash policies make of the request; None: none applies."""
        return None

    @property
    def subset(self) -> Labels:
        """The labels that the route wants the endpoint to carry."""
        route = self.route
        return () if route is None else route.forward.subset

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

    def __repr__(self) -> str:
        return (
            f"<Call {self._what()} cluster={self.cluster_name or '-'} tries={len(self.attempts)}>"
        )


#: A strategy on a route without a policy: it alone decides what is repeated.
_STRATEGY_ONLY = RetryPolicy(frozenset(), num_retries=10)


def _expected(timeout_s: float | None, per_try_s: float | None, elapsed_s: float) -> bytes | None:
    expected = expected_timeout_ms(timeout_s, per_try_s, elapsed_s)
    return None if expected is None else b"%d" % expected


@lru_cache(maxsize=1024)
def _first_expected(timeout_s: float | None, per_try_s: float | None) -> bytes | None:
    # Nearly every try is a first one, and a policy has few timeouts.
    return _expected(timeout_s, per_try_s, 0.0)
