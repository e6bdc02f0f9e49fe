"""One outbound call as a sans-IO state machine: the only place where the policies meet.

A driver does what a call says and tells it what came of it::

    call = Call(plane, head, now, rand)
    while call.hold is not None: wait or ask as it says, call.resume(now, answer)
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

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from meshclient import errors, gates
from meshclient.attempt import Attempt
from meshclient.balancing.session import STRICT_MISS
from meshclient.call_record import CallRecord, grpc_status_of
from meshclient.cluster_state import LaneLoad
from meshclient.hedge import OUTLASTED, plan
from meshclient.model.outcome import Outcome, OutcomeKind, ResetReason
from meshclient.model.request import LocalReply, RequestHead
from meshclient.model.retry import RetryPolicy
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
from meshclient.resilience.deadline import bound
from meshclient.resilience.hedging import merge_hedging
from meshclient.resilience.retry_layers import other_layer

if TYPE_CHECKING:
    from meshclient.balancing import EndpointState
    from meshclient.balancing.session import Miss
    from meshclient.cluster_state import ClusterState, Lane
    from meshclient.hedge import Hedge
    from meshclient.model.endpoint import Labels
    from meshclient.model.inbound import Inbound
    from meshclient.plane import Plane
    from meshclient.resilience.breaker import Breaker
    from meshclient.resilience.filter import Filter, Verdict
    from meshclient.routing import CompiledRoute
    from meshclient.routing.hash_policy import HashKey

_EXPECTED_TIMEOUT = b"x-envoy-expected-rq-timeout-ms"
_ATTEMPT_COUNT = b"x-envoy-attempt-count"


class Call(CallRecord):
    """One call from its head to its last attempt, under one snapshot.

    ``reply`` is a local answer (redirect, direct response), ``error`` what ended
    the call without a response. ``replayable`` False: the body can be sent
    once only. ``patience_s`` is the caller's own bound on the wait for the response
    head, over all tries and back-offs; None means none. ``wall_clock`` (Unix
    seconds) is asked only when an upstream names a point in time to come back at.
    """

    __slots__ = ()

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
        dry: bool = False,
        strategy: RetryStrategy | None = None,
        context: Mapping[str, Any] | None = None,
        inbound: Inbound | None = None,
    ) -> None:
        self.plane = plane
        self.head = head
        self.host = head.authority
        self.replayable = replayable
        self.give_up_at = None if patience_s is None else now + patience_s
        self.inbound = inbound
        if inbound is not None:
            self.give_up_by(inbound.deadline)
            context = inbound.values if context is None else context
        self.attempts: list[Attempt] = []
        self.notes: tuple[str, ...] = ()
        self.reply: LocalReply | None = None
        self.fallback = None
        self.fallen_back = ""
        self.error: errors.CallError | None = None
        self.filter_headers = None
        self.grpc_status = -1
        self.route: CompiledRoute | None = None
        self.cluster: ClusterState | None = None
        self.lane: Lane | None = None
        self.weighted: WeightedCluster | None = None
        self.policy: RetryPolicy | None = None
        self.strategy: RetryStrategy | None = strategy
        self.timeout_s: float | None = None
        self.per_try_s: float | None = None
        self.virtual_host_name = ""
        self._started = now
        self._rand = rand
        self._retry: RetryState | None = None
        self._wall_clock = wall_clock
        self._count_attempts = False
        self._extra_flags: tuple[str, ...] = ()
        self.hold: Verdict | None = None
        self.hedge: Hedge | None = None
        self._entered: list[Filter] | None = None
        self._step = 0
        self._hash: HashKey | None = None
        self._hashed = False
        self._asked: RequestHead | None = None
        self.context = context
        self._decide_route(strategies, dry)

    def give_up_by(self, at: float | None) -> None:
        """A further limit of the caller's own (monotonic seconds); the earliest holds."""
        if at is not None and (self.give_up_at is None or at < self.give_up_at):
            self.give_up_at = at

    # -- route ---------------------------------------------------------------

    def _decide_route(self, strategies: dict[str, RetryStrategy] | None, dry: bool) -> None:
        head = self.head
        plane = self.plane
        host = plane.find_host(head.port, head.authority)
        if host is None:
            self._pass_through()
            return
        self.virtual_host_name = host.virtual_host.name
        self._random64 = random64 = self._rand()
        self.route = route = host.find_route(head, random64)
        if route is None:
            self.error = errors.NoRoute(
                f"{self._what()}: the host is known, but none of its routes matches", self.report
            )
            return
        if strategies is not None and self.strategy is None:
            self.strategy = strategies.get(self.virtual_host_name)
        self._count_attempts = (
            route.forward.include_attempt_count or host.virtual_host.include_attempt_count
        )
        self.fallback = route.forward.fallback
        if route.filters is None or dry:
            self._follow(route)
        else:
            self._entered = []
            self._advance(route, self._started)

    def _follow(self, route: CompiledRoute) -> None:
        """What Envoy's router does with a route, up to the first try."""
        if type(route.route.action) is not ForwardAction:
            self.reply = route.local_reply(self.head)
            return
        self._decide_cluster(route, self._random64)
        if self.strategy is not None and self.policy is None and self.error is None:
            self.policy = _STRATEGY_ONLY

    # -- filters ---------------------------------------------------------------

    def _advance(self, route: CompiledRoute, now: float) -> None:
        """Enter the filters that are left, up to one that holds or ends the call."""
        filters = route.filters
        assert filters is not None
        while self._step < len(filters):
            following = filters[self._step]
            self._step += 1
            if not self._heed(following.enter(self.head, now, self._rand), following, now):
                return
        self._started = now
        self._follow(route)

    def _heed(self, verdict: Verdict | None, following: Filter, now: float) -> bool:
        """Whether the next filter has its turn."""
        if verdict is None:
            return True
        if verdict.flag:
            self._extra_flags = (*self._extra_flags, verdict.flag)
        if verdict.why:
            self.note(verdict.why, self._filter_source())
        if verdict.reply is not None:
            self._answer(verdict.reply)
            if self.filter_headers is not None and self.reply is not None:
                self.reply.headers.edit((), self.filter_headers)
            self.leave(now)
            return False
        if verdict.headers is not None:
            added = [(n.encode("latin-1"), v.encode("latin-1")) for n, v in verdict.headers]
            self.filter_headers = [*(self.filter_headers or ()), *added]
        assert self._entered is not None
        if following not in self._entered:
            self._entered.append(following)
        if verdict.ask is not None or verdict.wait_s > 0.0:
            self.hold = verdict
            return False
        return True

    def _answer(self, reply: LocalReply) -> None:
        """A filter's reply. Where the call would have been forwarded, it gets the response
        edits that an upstream's response gets; a redirect or direct response has none yet."""
        route = self.route
        assert route is not None
        self.reply = reply
        if type(route.route.action) is ForwardAction:
            # Envoy has chosen the cluster by now, and its entry of the split has edits, too.
            self.weighted = route.pick_cluster(self.head, self._random64)
            self.reply = reply.copy()
            route.edit_local_reply(self.reply, self.head, self.weighted)

    def resume(self, now: float, answer: Any = None) -> None:
        """The wait that ``hold`` asked for is over, or its question is answered.

        Sets ``hold`` again, or ``reply``, or ``error``; none of them: go on with
        :meth:`next_attempt`.
        """
        hold, self.hold = self.hold, None
        route = self.route
        assert hold is not None
        assert route is not None
        assert route.filters is not None
        if self.give_up_at is not None and now >= self.give_up_at:
            self._fail(errors.DeadlineExceeded, self._spent())
            self.leave(now)
            return
        holding = route.filters[self._step - 1]
        if self._heed(holding.after(hold, answer, self.head, now, self._rand), holding, now):
            self._advance(route, now)

    # -- cluster -----------------------------------------------------------------

    def _decide_cluster(self, route: CompiledRoute, random64: int) -> None:
        head = self.head
        action = route.forward
        self.weighted = weighted = route.pick_cluster(head, random64)
        cluster = None if weighted is None else self.plane.clusters.get(weighted.cluster)
        if cluster is None:
            self._unknown_cluster(action)
            return
        self._enter(cluster, action)
        if self.error is not None:
            return
        self.policy = action.retry
        if cluster.session is not None:
            # A session is what the caller's own request names, not what a route makes of it.
            self._asked = RequestHead(
                head.method, head.scheme, head.authority, head.port, head.path, head.headers.copy()
            )
        self._read_headers(route, action)

    def divert(self, name: str) -> None:
        """Go to the cluster ``name`` instead, which exists. Before the first try only."""
        assert self.route is not None
        self.weighted = WeightedCluster(name)
        self.hedge = self.error = None
        self._enter(self.plane.clusters[name], self.route.forward)

    def _enter(self, cluster: ClusterState, action: ForwardAction) -> None:
        self.cluster = cluster
        self.lane = cluster.lane if action.priority == "default" else cluster.high
        if cluster.refusal:
            self.error = errors.SecurityError(f"{self._what()}: {cluster.refusal}", self.report)

    def _read_headers(self, route: CompiledRoute, action: ForwardAction) -> None:
        """The caller's control headers and the route's header edits, in Envoy's order.

        Timeouts are read before the edits (an added timeout header is too late
        and goes upstream), retry headers after them (an added one counts).
        """
        headers = self.head.headers
        overrides = read_overrides(headers)
        hedging = action.hedging
        per_try_s = action.retry.per_try_timeout_s if action.retry is not None else None
        self.timeout_s, self.per_try_s = merge_timeouts(action.timeout_s, per_try_s, overrides)
        if overrides is not None:
            hedging = merge_hedging(hedging, overrides.hedge_on_per_try_timeout)
            overrides.strip_timeouts(headers)
        if route.has_request_edits:
            route.edit_request(self.head, self.weighted)
            if self.head.authority != self.host:
                headers.set("Host", self.head.authority)
            overrides = read_overrides(headers)
        if overrides is not None:
            self.policy = merge_policy(action.retry, overrides)
            overrides.strip(headers)
        if hedging is not None or action.mirrors:
            self.hedge = plan(self, action, hedging)

    def _pass_through(self) -> None:
        """A host that no policy knows: untouched, or refused."""
        if self.plane.snapshot.outbound == "registry_only":
            self.error = errors.UnknownHost(
                f"{self._what()}: no policy knows this host, and outbound is registry_only",
                self.report,
            )
            return
        self.cluster = self.plane.passthrough
        self.lane = self.cluster.lane

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
            self.leave(now)
            raise self.error
        assert cluster is not None
        lane = self.lane
        assert lane is not None
        tries, route = self.attempts, self.route
        inbound = self.inbound
        if tries or (inbound is not None and inbound.deadline is not None):
            self._check_time(now)
        passed: list[tuple[Breaker, int]] | None = None
        if cluster.breaker is not None or (route is not None and route.breaker is not None):
            # Before all that counts: a refused call takes nothing from any limit or budget.
            passed = gates.enter(self, cluster, now)
        if not tries and lane.limiter.counts_requests:
            lane.limiter.on_request(now)
        state = self._pick(cluster, now)
        if state is not None and state.breaker is not None:
            state, passed = gates.enter_endpoint(self, cluster, state, passed, now)
        requests = lane.requests
        if state is None or (requests is not None and not requests.acquire()):
            gates.give_back(passed, now)
            error = self._no_endpoint(cluster) if state is None else self._overflow(state, now)
            self.release_retry()
            self.error = error
            self.leave(now)
            raise error
        state.acquire()
        attempt = Attempt(self.head.headers.raw, state, cluster, lane, len(tries) + 1, now)
        attempt.gates = passed
        tries.append(attempt)
        if route is not None:
            self._prepare(attempt, route, now)
        if self.give_up_at is not None:
            left = self.give_up_at - now
            if attempt.response_timeout_s is None or left < attempt.response_timeout_s:
                attempt.response_timeout_s = left if left > 0.0 else 0.0
                attempt.by_caller = True
        if inbound is not None and inbound.deadline is not None:
            known = route is not None or self.plane.snapshot.propagation.unknown_hosts == "all"
            bound(attempt, inbound, now, known)
        return attempt

    def _overflow(self, state: EndpointState, now: float) -> errors.CallError:
        """Too many requests in flight: the try ends before it begins, and is not repeated."""
        cluster, lane = self.cluster, self.lane
        assert cluster is not None
        assert lane is not None
        attempt = Attempt(self.head.headers.raw, state, cluster, lane, len(self.attempts) + 1, now)
        attempt._closed = True  # it was never counted in
        attempt.kind = OutcomeKind.IGNORED
        self.attempts.append(attempt)
        limit = lane.limits.max_requests
        cause = OverflowError(f"{limit} requests to the cluster are in flight (max_requests)")
        self._finish(attempt, Outcome(reset=ResetReason.OVERFLOW, sent=False, error=cause), now)
        assert self.error is not None
        return self.error

    def _pick(self, cluster: ClusterState, now: float) -> EndpointState | None:
        head = self.head
        state = cluster.dial(head.dialled, head.port)
        if state is not None:
            return state
        if self.attempts:
            policy = self.policy
            apart = self.hedge is not None and self.hedge.elsewhere
            if apart or (policy is not None and policy.previous_hosts):
                tried = [attempt.state for attempt in self.attempts]
                picks = _HEDGE_PICKS if policy is None else policy.host_attempts
                return cluster.balancer.pick_other(self._rand, tried, picks, now, self)
        elif cluster.session is not None:
            named = self.named_by_session(cluster)
            if named is not None:
                return None if named is STRICT_MISS else named
        return cluster.balancer.pick(self._rand, now, self)

    def named_by_session(
        self, cluster: ClusterState
    ) -> EndpointState | Literal[Miss.STRICT] | None:
        """What the session of a first try to ``cluster`` says; None: there is none."""
        session, asked = cluster.session, self._asked
        if session is None or asked is None:
            return None
        return session.find(asked.headers, asked.path, cluster.by_address, self._unix_now())

    def _unix_now(self) -> float:
        return 0.0 if self._wall_clock is None else self._wall_clock()

    def added_response_headers(self, attempt: Attempt) -> list[tuple[bytes, bytes]] | None:
        """What a response of an upstream gets besides the route's own edits: the cookie that
        was hashed, the session. None, nearly always: nothing."""
        if self._hash is None and self._asked is None:
            return None
        added: list[tuple[bytes, bytes]] = []
        if self._hash is not None:
            cookies = self._hash.set_cookies
            added += [(b"set-cookie", cookie.encode("latin-1")) for cookie in cookies]
        session, asked = attempt.cluster_state.session, self._asked
        if session is not None and asked is not None:
            line = session.response_header(
                attempt.state, asked.headers, asked.path, self._unix_now()
            )
            if line is not None:
                added.append((line[0].encode("latin-1"), line[1].encode("latin-1")))
        return added or None

    def _prepare(self, attempt: Attempt, route: CompiledRoute, now: float) -> None:
        """Time limits and the headers that differ from try to try."""
        if route.host_from_endpoint:
            self._take_host(attempt, route)
        per_try_s = self.per_try_s if self.hedge is None else self.hedge.per_try_s
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
            self._fail(errors.DeadlineExceeded, self._spent())
        if self.error is not None:
            self.leave(now)
            raise self.error

    # -- outcomes ------------------------------------------------------------

    def settle(self, attempt: Attempt, outcome: Outcome, now: float) -> float | None:
        """What follows from the outcome of a try.

        None: the call is over, with the response at hand or with ``error`` set.
        A number: drop what there is, wait that many seconds, then
        :meth:`next_attempt`; below 0, where there is a ``hedge``: other tries go on.
        """
        attempt.duration_s = now - attempt.started
        status = attempt.status = outcome.status
        policy = self.policy
        observe = attempt.cluster_state.on_outcome
        # The caller's own impatience says nothing of the endpoint; a sidecar sees it as cancelled.
        if observe is not None and (status or not self._caller_gave_up(attempt, outcome, now)):
            observe(attempt.state, outcome, attempt.started, now)
        if attempt.gates is not None:
            gates.tell(self, attempt, outcome, now)
        if status and (
            policy is None
            or (status < 400 and (policy.passes_success or not may_retry(policy, outcome)))
        ):
            good = status < 500 and outcome.grpc_status <= 0
            attempt.kind = OutcomeKind.SUCCESS if good else classify(outcome, False)
            attempt.outcome = "success" if good else self._failed(outcome)
            answered = attempt.lane.answered
            if answered is not None:
                answered.on_answer(now)
            if self._retry is not None:
                self.release_retry()
            if self._entered is not None:
                self._leave_with(attempt, outcome)
            return None
        delay_s = None
        hedge = self.hedge
        if (
            policy is not None
            and not self._over(attempt, outcome, now)
            and (hedge is None or hedge.may_repeat(attempt))
        ):
            delay_s = self._retry_delay(policy, outcome, now)
        elif attempt.lane.answered is not None:
            attempt.lane.answered.on_answer(now)
        attempt.kind = classify(outcome, delay_s is not None)
        if delay_s is None:
            if hedge is not None and hedge.outlasts(attempt, outcome, now):
                return OUTLASTED
            self._finish(attempt, outcome, now)
        else:
            attempt.outcome = outcome.reset.value if outcome.reset else "failed_retryable"
            delay_s = self._within_deadline(delay_s, now, outcome)
        if delay_s is None and self._entered is not None:
            self._leave_with(attempt, outcome)
        return delay_s

    def _leave_with(self, attempt: Attempt, outcome: Outcome) -> None:
        """The filters are told when the last try is closed, and of its gRPC status."""
        attempt.on_close = self
        self.grpc_status = grpc_status_of(outcome)

    def _over(self, attempt: Attempt, outcome: Outcome, now: float) -> bool:
        """Time limits of the whole call are never retried."""
        if outcome.reset is ResetReason.ROUTE_TIMEOUT:
            return True
        return not outcome.status and self._caller_gave_up(attempt, outcome, now)

    def _retry_delay(self, policy: RetryPolicy, outcome: Outcome, now: float) -> float | None:
        retry = self._retry
        if retry is None:
            retry = self._retry = RetryState(
                policy, self.head.method, self.replayable, self.head.headers, self.strategy
            )
        cluster, lane = self.cluster, self.lane
        assert cluster is not None
        assert lane is not None
        unix_now = None
        if self._wall_clock is not None and policy.rate_limited is not None:
            unix_now = self._wall_clock()
        elapsed_s = now - self._started
        load = LaneLoad(cluster, lane)
        delay_s = retry.decide(outcome, lane.limiter, self._rand, now, elapsed_s, load, unix_now)
        if delay_s is not None:
            why = gates.closed_ahead(self, cluster, now + delay_s)
            if why:
                delay_s = None
                self.notes = (*self.notes, why)
                self._extra_flags = (*self._extra_flags, errors.CircuitOpen.flag)
        if delay_s is None and not retry.flag and lane.answered is not None:
            lane.answered.on_answer(now)
        if retry.note:
            by_limits = retry.flag == "UO" and lane.limits.retry_budget is None
            self.note(retry.note, self._limits_source() if by_limits else policy.source)
        if retry.flag:
            self._extra_flags = (*self._extra_flags, retry.flag)
        if not cluster.retry_layer:
            self._look_for_layers(cluster, outcome)
        return delay_s

    def _look_for_layers(self, cluster: ClusterState, outcome: Outcome) -> None:
        layer = other_layer(outcome, 0 if self.inbound is None else self.inbound.marks.attempt)
        if layer:
            self.notes = (*self.notes, f"another layer of retries: {layer}")
            cluster.notice_layer(layer)

    def _within_deadline(self, delay_s: float, now: float, outcome: Outcome) -> float | None:
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
        retry = self._retry
        assert retry is not None
        self.note(retry.made(outcome, delay_s), retry.policy.source)
        return delay_s

    # -- what balancers read ---------------------------------------------------

    @property
    def hash64(self) -> int | None:
        """The hash that the route's hash policies make of the request, as the route has
        edited it; None: none applies. Made once: a cookie that is made must stay the same."""
        if not self._hashed:
            self._hashed = True
            route = self.route
            if route is not None and route.hash_policies is not None:
                self._hash = route.hash_policies.key(
                    self.head, self._rand, self.plane.source_ip, self.context
                )
        return None if self._hash is None else self._hash.value

    @property
    def subset(self) -> Labels:
        """The labels that the route wants the endpoint to carry."""
        route = self.route
        return () if route is None else route.forward.subset

    def __repr__(self) -> str:
        return (
            f"<Call {self._what()} cluster={self.cluster_name or '-'} tries={len(self.attempts)}>"
        )


#: Picks to find another endpoint for a hedge where no policy says how many.
_HEDGE_PICKS = 5

#: A strategy on a route without a policy: it alone decides what is repeated.
_STRATEGY_ONLY = RetryPolicy(frozenset(), num_retries=10)


def _expected(timeout_s: float | None, per_try_s: float | None, elapsed_s: float) -> bytes | None:
    expected = expected_timeout_ms(timeout_s, per_try_s, elapsed_s)
    return None if expected is None else b"%d" % expected


@lru_cache(maxsize=1024)
def _first_expected(timeout_s: float | None, per_try_s: float | None) -> bytes | None:
    # Nearly every try is a first one, and a policy has few timeouts.
    return _expected(timeout_s, per_try_s, 0.0)
