"""Whether a failed try is repeated, and when: the one place that says so.

Conditions, back-off, permits and strategies are in modules of their own; here
is their order. Source: Envoy ``source/common/router/retry_state_impl.cc``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

from meshclient.model.headers import HeaderMap
from meshclient.model.outcome import CONNECT_FAILURES, Outcome
from meshclient.model.retry import RetryPolicy
from meshclient.resilience.back_off import ExponentialBackOff
from meshclient.resilience.budget import RetryLimiter
from meshclient.resilience.conditions import NEVER_RETRIED, conditions_of
from meshclient.resilience.header_match import header_matches
from meshclient.resilience.rate_limited import rate_limited_wait_s
from meshclient.resilience.retry_layers import repeated_in_vain
from meshclient.resilience.strategy import RetryStrategy, StrategyRun

_NO_HEADERS = HeaderMap([])


class Load(Protocol):
    """What the retry budget asks of a cluster, and only after a failure."""

    @property
    def active_requests(self) -> int:
        """Requests in flight on all endpoints."""
        ...


class RetryState:
    """The retries of one call.

    ``replayable`` False: the body can be sent once only. ``request_headers``
    are for the policy's own gate on the request (of the pseudo-headers only
    ``:method`` is known). Not thread-safe: a call owns it.

    After each :meth:`decide`: ``note`` is a sentence on why a failure is not
    repeated, ``flag`` Envoy's response flag for it (``URX``: the retries are
    used up, ``UO``: the cluster has too many under way, else empty), ``held``
    whether a permit of the limiter is taken. The permit goes back at the next
    decision; the call gives it back with :meth:`release` when a response head
    is accepted without asking, and when it ends in any other way.
    """

    __slots__ = (
        "_back_off",
        "_conditions",
        "_method",
        "_replayable",
        "_request_headers",
        "_run",
        "_sent",
        "_wished",
        "failures",
        "flag",
        "held",
        "note",
        "policy",
        "remaining",
    )

    def __init__(
        self,
        policy: RetryPolicy,
        method: str,
        replayable: bool,
        request_headers: HeaderMap | None = None,
        strategy: RetryStrategy | None = None,
    ) -> None:
        self.policy = policy
        self.remaining = policy.num_retries
        self.failures = 0
        self.note = ""
        self.flag = ""
        self.held = False
        self._conditions = conditions_of(policy)
        self._method = method
        self._replayable = replayable
        self._request_headers = request_headers
        self._run = None if strategy is None else StrategyRun(strategy)
        self._sent = False
        self._wished = False
        self._back_off: ExponentialBackOff | None = None

    def decide(
        self,
        outcome: Outcome,
        limiter: RetryLimiter,
        rand: Callable[[], int],
        now: float,
        elapsed_s: float = 0.0,
        load: Load | None = None,
        unix_now: float | None = None,
    ) -> float | None:
        """Seconds until the next try, or None: this outcome is final.

        ``elapsed_s`` is the age of the call (tenacity's
        ``seconds_since_start``), ``load`` the cluster (for its budget),
        ``unix_now`` the wall clock, if there is one, for upstreams that name a
        point in time. The caller still has to compare the wait with its deadline.
        """
        self.note = self.flag = ""
        if self.held:
            self.release(limiter)
        sent = outcome.reset not in CONNECT_FAILURES and outcome.sent
        self._sent = self._sent or sent
        if not self._wanted(outcome, now, elapsed_s) or not self._safe(outcome, sent):
            return None
        # Envoy's order: a permit that is refused has used up the retry all the same.
        if self.remaining == 0:
            self._refuse(f"all {self.policy.num_retries} retries are used up", "URX")
            return None
        self.remaining -= 1
        wait_s = None if self._run is None else self._ask_strategy(self._run)
        if self.note:
            return None
        if sent or not limiter.spares_unsent:
            active = 0 if load is None else load.active_requests
            if not limiter.try_acquire(active, now):
                self._refuse(limiter.refusal(active, now), "UO")
                return None
            self.held = True
        if wait_s is None:
            wait_s = self._wait_s(outcome, rand, unix_now)
        if self._run is not None:
            self._run.waited(wait_s)
        return wait_s

    def release(self, limiter: RetryLimiter) -> None:
        """Give the permit back, if one is held. Idempotent."""
        if self.held:
            self.held = False
            limiter.release()

    def made(self, outcome: Outcome, wait_s: float) -> str:
        """Why ``outcome`` is repeated after ``wait_s``, in words. Right after :meth:`decide`."""
        what = outcome.reset.value if outcome.reset else f"status {outcome.status}"
        rule = self._conditions.covering(outcome, self._sent)
        by = "wanted by the retry strategy" if self._wished else f"covered by {rule}"
        number = self.policy.num_retries - self.remaining
        return (
            f"retry {number} of {self.policy.num_retries} "
            f"after {wait_s * 1000:.0f} ms: {what}, {by}"
        )

    def _wanted(self, outcome: Outcome, now: float, elapsed_s: float) -> bool:
        """Whether the outcome is of a kind that is repeated."""
        covered = self._conditions.match(outcome, self._sent)
        failed = outcome.status >= 400 or outcome.reset is not None
        if not (covered or failed):
            return False
        self.failures += 1
        if outcome.reset in NEVER_RETRIED:
            assert outcome.reset is not None
            self._refuse(f"{outcome.reset.value} is never retried")
            return False
        if repeated_in_vain(outcome):
            self._refuse("a hop further on has repeated it already")
            return False
        if self._run is not None:
            self._run.failed(outcome, self.failures, now, elapsed_s)
            wish = self._run.wants()
            if wish is not None:
                if not wish:
                    self._refuse("the retry strategy does not want it")
                self._wished = wish
                return wish
        if not covered:
            what = outcome.reset.value if outcome.reset else f"status {outcome.status}"
            self._refuse(f"no condition of the policy covers {what}")
        return covered

    def _safe(self, outcome: Outcome, sent: bool) -> bool:
        """Whether this request may be repeated after this failure."""
        policy = self.policy
        if policy.request_headers and not self._admitted():
            self._refuse("the request lacks the headers that the policy asks for")
            return False
        if not sent:
            return True
        if (
            policy.methods is not None
            and self._method not in policy.methods
            # Every gRPC call is a POST: who names a gRPC status means just those.
            and not self._conditions.names_grpc_status_of(outcome)
        ):
            self._refuse(f"the server may have acted on the {self._method} request")
            return False
        if not self._replayable:
            self._refuse("the request body cannot be replayed")
            return False
        return True

    def _admitted(self) -> bool:
        headers = self._request_headers or _NO_HEADERS
        pseudo = {":method": self._method}
        return any(header_matches(match, headers, pseudo) for match in self.policy.request_headers)

    def _ask_strategy(self, run: StrategyRun) -> float | None:
        """The strategy's wait, if it has one; a refusal leaves a note.

        tenacity's order: the wait first, because a stop may look at it.
        """
        wait_s = run.wait_s()
        if wait_s is not None and not math.isfinite(wait_s):
            self._refuse("the wait strategy names no finite time")
        elif run.stops():
            self._refuse("the stop strategy ends the retries", "URX")
        return wait_s

    def _wait_s(self, outcome: Outcome, rand: Callable[[], int], unix_now: float | None) -> float:
        settings = self.policy.rate_limited
        if settings is not None and outcome.headers is not None and outcome.reset is None:
            wait_s = rate_limited_wait_s(settings, outcome.headers, rand, unix_now)
            if wait_s is not None:
                return wait_s
        return self.next_back_off_s(rand)

    def next_back_off_s(self, rand: Callable[[], int]) -> float:
        """The policy's own wait before the next retry, longer each time."""
        if self._back_off is None:
            self._back_off = ExponentialBackOff(self.policy.back_off)
        return self._back_off.next_s(rand)

    def _refuse(self, why: str, flag: str = "") -> None:
        self.note = f"not retried: {why}"
        self.flag = flag

    def __repr__(self) -> str:
        held = " held" if self.held else ""
        return f"<RetryState failures={self.failures} remaining={self.remaining}{held}>"


__all__ = ["Load", "RetryState"]
