"""The tries of a call that may have several at once, and the copies it sends elsewhere.

The part of the call's state machine that ordinary calls do not pay for. Sans-IO like
:mod:`meshclient.call`; a driver runs it so::

    hedge = call.hedge
    attempt = hedge.begin(now)                    # raises what the caller shall see
    while True:
        ... start attempt, if there is one; wait for the first that ends, or hedge.wake_at() ...
        if one ended and hedge.settle(attempt, outcome, now): break   # answered, or call.error
        attempt = hedge.due(now, room)            # a further try to start, or None
    hedge.end(now)                                # then cancel whatever still runs

Source: Envoy ``router.cc`` (``onSoftPerTryTimeout``, ``onUpstreamHeaders``, ``onUpstreamReset``,
``maybeDoShadowing``).
"""

from __future__ import annotations

import math
from bisect import insort
from typing import TYPE_CHECKING

from meshclient.cluster_state import LaneLoad
from meshclient.errors import CallError
from meshclient.model.hedging import Hedging
from meshclient.model.outcome import Outcome, ResetReason
from meshclient.model.request import RequestHead
from meshclient.model.retry import RetryPolicy
from meshclient.resilience.conditions import may_retry
from meshclient.resilience.hedging import HedgeTimers, may_hedge, spend_retry
from meshclient.resilience.retry import RetryState

if TYPE_CHECKING:
    from meshclient.attempt import Attempt
    from meshclient.call import Call
    from meshclient.model.routes import ForwardAction, Mirror

#: What :meth:`meshclient.call.Call.settle` answers for a failure that others may make good.
OUTLASTED = -1.0

_UNHEDGED = Hedging()


class Hedge:
    """The open tries of one call. One thread or task at a time, like the call.

    ``armed``: a further try may begin beside one that is waited for. ``copies`` are the
    mirrors that were drawn for this call, each with the request as it is to be sent.
    """

    __slots__ = ("_begun", "_retries", "_spent", "_timers", "armed", "awaiting", "call", "copies")

    def __init__(
        self,
        call: Call,
        settings: Hedging | None,
        copies: tuple[tuple[Mirror, RequestHead], ...] = (),
    ) -> None:
        self.call = call
        self.copies = copies
        self.armed = settings is not None
        #: Tries without a response head.
        self.awaiting: list[Attempt] = []
        self._timers: HedgeTimers[Attempt] = HedgeTimers(settings or _UNHEDGED, call.per_try_s)
        self._begun = False
        self._spent: set[Attempt] = set()  # those that have a further try in their place
        # When retries that were granted begin, and which slow try each stands in for.
        self._retries: list[tuple[float, Attempt | None]] = []

    def disarm(self, why: str) -> None:
        """One try at a time after all; before :meth:`begin`."""
        self.armed = False
        self._timers = HedgeTimers(_UNHEDGED, None)
        self.call.notes = (*self.call.notes, f"not hedged: {why}")

    # -- the driver's side -------------------------------------------------------

    def begin(self, now: float) -> Attempt:
        """The first try. Raises as :meth:`meshclient.call.Call.next_attempt`.

        A driver that never asks for it has an ordinary call.
        """
        self._begun = True
        return self._open(now)

    def wake_at(self) -> float:
        """When :meth:`due` is to be asked (monotonic seconds); infinity: after an end only."""
        retry_at = self._retries[0][0] if self._retries else math.inf
        return min(retry_at, self._timers.wake_at()) if self.awaiting else retry_at

    def due(self, now: float, room: bool = True) -> Attempt | None:
        """A further try to start now, or None.

        ``room`` False: the driver cannot run another beside those that run. Raises the
        call's error when nothing runs and nothing can be started.
        """
        while True:
            if self._retries and self._retries[0][0] <= now:
                _, slow_one = self._retries.pop(0)
                attempt = self._another(now, room)
                if attempt is not None:
                    return attempt
                if slow_one is not None:  # nothing has its place after all
                    self._spent.discard(slow_one)
            slow = self._timers.slow(now) if self.awaiting else None
            if slow is not None:
                self._on_slow(slow[0], slow[1], now)
            elif not (self._retries and self._retries[0][0] <= now):
                return None

    def settle(self, attempt: Attempt, outcome: Outcome, now: float) -> bool:
        """Tell how a try ended. True: the call is over, with this answer or ``call.error``;
        False: drop what there is, and go on."""
        self.awaiting.remove(attempt)
        self._timers.ended(attempt)
        call = self.call
        delay_s = call.settle(attempt, outcome, now)
        if delay_s is None and not self._goes_on(attempt, outcome, now):
            # Reports and the end of a body look at the last one.
            call.attempts.remove(attempt)
            call.attempts.append(attempt)
            return True
        attempt.close(now)
        if delay_s is not None and delay_s != OUTLASTED:
            self._plan_retry(now + delay_s, None)
        return False

    def disregard(self, attempt: Attempt, now: float) -> None:
        """A try whose end says nothing about the endpoint, and ends the call."""
        self.awaiting.remove(attempt)
        self.call.disregard(attempt, now)

    def forget(self, attempt: Attempt, now: float) -> None:
        """A try that the driver could not start after all."""
        self.awaiting.remove(attempt)
        self._timers.ended(attempt)
        self.call.lost(attempt, now)

    def repeat(self, attempt: Attempt, now: float) -> None:
        """A try that the server has not looked at: another in its place, at nobody's expense."""
        self.forget(attempt, now)
        self._plan_retry(now, None)

    def end(self, now: float) -> None:
        """The call is over: nothing that still runs counts any more. Idempotent."""
        awaiting, self.awaiting = self.awaiting, []
        self._retries.clear()
        for attempt in awaiting:
            self.call.lost(attempt, now)

    # -- the call's side -----------------------------------------------------------

    @property
    def per_try_s(self) -> float | None:
        """The per-try timeout that ends a try; None where it only starts another."""
        return None if self._begun and self._timers.soft_per_try else self.call.per_try_s

    @property
    def elsewhere(self) -> bool:
        """Whether the next pick keeps away from the endpoints that are waited for."""
        return bool(self.awaiting) and not self._timers.soft_per_try

    def may_repeat(self, attempt: Attempt) -> bool:
        """False: another try has its place already."""
        return attempt not in self._spent

    def outlasts(self, attempt: Attempt, outcome: Outcome, now: float) -> bool:
        """Whether a try that ended badly, and is not repeated, may be made good by others."""
        call, policy = self.call, self.call.policy
        if not (self.awaiting or self._retries) or call._over(attempt, outcome, now):
            return False
        if outcome.reset is None and (policy is None or not may_retry(policy, outcome)):
            return False
        attempt.outcome = outcome.reset.value if outcome.reset else "failed"
        return True

    # -- inside --------------------------------------------------------------------

    def _goes_on(self, attempt: Attempt, outcome: Outcome, now: float) -> bool:
        """A retry would come too late, but others are under way."""
        call = self.call
        if call.error is None or not self.outlasts(attempt, outcome, now):
            return False
        call.error, attempt.on_close = None, None
        return True

    def _open(self, now: float) -> Attempt:
        attempt = self.call.next_attempt(now)
        self.awaiting.append(attempt)
        self._timers.started(attempt, now)
        return attempt

    def _another(self, now: float, room: bool) -> Attempt | None:
        """A try beside others, without which the call goes on; or one alone, which ends it."""
        call = self.call
        if not self.awaiting and not self._retries:
            return self._open(now)
        if self.awaiting and not room:
            call.notes = (*call.notes, "not hedged: nothing is free to run a further try")
            return None
        entered, call._entered = call._entered, None  # a refusal is not the end of the call
        slow = self.awaiting[0] if self.awaiting else None
        try:
            attempt = self._open(now)
            if slow is not None:
                call.note(_hedged(attempt, slow, now))
            return attempt
        except CallError as refused:
            call.error = None
            call.notes = (*call.notes, f"not hedged: {refused}")
            return None
        finally:
            call._entered = entered

    def _on_slow(self, attempt: Attempt, at_timeout: bool, now: float) -> None:
        """Envoy's order: the slow try counts for outlier detection, then a retry is asked for."""
        call = self.call
        if at_timeout:
            observe = attempt.cluster_state.on_outcome
            if observe is not None:
                slow = Outcome(reset=ResetReason.PER_TRY_TIMEOUT)
                observe(attempt.state, slow, attempt.started, now)
            if call.policy is None:
                return
        retry = call._retry
        if retry is None:
            policy = call.policy or _one_each(call)
            retry = call._retry = RetryState(
                policy, call.head.method, call.replayable, call.head.headers, call.strategy
            )
        cluster, lane = call.cluster, call.lane
        assert cluster is not None
        assert lane is not None
        if not spend_retry(retry, lane.limiter, LaneLoad(cluster, lane), now):
            call.note(retry.note)
            if at_timeout:
                call._extra_flags = (*call._extra_flags, retry.flag)
            return
        self._spent.add(attempt)
        wait_s = retry.next_back_off_s(call._rand) if at_timeout else 0.0
        self._plan_retry(now + wait_s, attempt)

    def _plan_retry(self, at: float, instead_of: Attempt | None) -> None:
        insort(self._retries, (at, instead_of), key=_first)

    def __repr__(self) -> str:
        return f"<Hedge of {self.call!r} awaiting={len(self.awaiting)}>"


def _first(retry: tuple[float, Attempt | None]) -> float:
    return retry[0]


def _hedged(attempt: Attempt, slow: Attempt, now: float) -> str:
    """Why ``attempt`` begins, for the report."""
    waited_ms = (now - slow.started) * 1000
    return (
        f"hedged: try {attempt.number} beside try {slow.number}, "
        f"which had no response head after {waited_ms:.0f} ms"
    )


def _one_each(call: Call) -> RetryPolicy:
    """A route without a retry policy has as many further tries as its hedging names."""
    settings = None if call.route is None else call.route.forward.hedging
    return RetryPolicy(frozenset(), num_retries=settings.max_hedges if settings else 0)


def plan(call: Call, action: ForwardAction, settings: Hedging | None) -> Hedge | None:
    """What of hedging and mirroring applies to a call whose request is ready; None: nothing."""
    head = call.head
    if settings is not None and not may_hedge(
        settings, call.policy, call.per_try_s, head.method, head.headers, call.replayable
    ):
        settings = None
    copies = _drawn(call, action) if action.mirrors and head.method != "CONNECT" else ()
    return Hedge(call, settings, copies) if settings is not None or copies else None


def _drawn(call: Call, action: ForwardAction) -> tuple[tuple[Mirror, RequestHead], ...]:
    """The mirrors of this call. All draw with the one random number of the call, as in Envoy."""
    return tuple(
        (mirror, _copy_of(call, mirror))
        for mirror in action.mirrors
        if call._random64 % mirror.fraction.denominator < mirror.fraction.numerator
    )


def _copy_of(call: Call, mirror: Mirror) -> RequestHead:
    """The request as it is sent on, header edits and rewrites included; its only try."""
    head = call.head
    copy = RequestHead(
        head.method,
        head.scheme,
        head.authority,
        head.port,
        head.path,
        head.headers.copy(),
        head.dialled,
    )
    if call._count_attempts:
        copy.headers.set("x-envoy-attempt-count", "1")
    if mirror.host_suffix:
        copy.authority = _shadow(copy.authority)
        copy.headers.set("Host", copy.authority)
    return copy


def _shadow(authority: str) -> str:
    """Envoy's name for a mirror: ``-shadow`` before the port, if there is one."""
    host, colon, port = authority.rpartition(":")
    if colon and port.isdigit():
        return f"{host}-shadow:{port}"
    return f"{authority}-shadow"


__all__ = ["OUTLASTED", "Hedge", "plan"]
