"""``retry_on``: which outcomes a policy wants repeated.

Conditions only. How often, how late and whether it is safe is decided in
:mod:`meshclient.resilience.retry`. Source: Envoy ``retry_state_impl.cc``
``wouldRetryFromHeaders`` and ``wouldRetryFromReset``.
"""

from __future__ import annotations

from dataclasses import replace

from meshclient.model.headers import HeaderMap
from meshclient.model.outcome import CONNECT_FAILURES, Outcome, ResetReason
from meshclient.model.retry import RetryPolicy
from meshclient.resilience.header_match import header_matches

#: Ends that no token covers: a local limit, the route's timeout, the caller's wish.
NEVER_RETRIED = frozenset({ResetReason.OVERFLOW, ResetReason.ROUTE_TIMEOUT, ResetReason.CANCELLED})

_GRPC_CODES = {
    "cancelled": 1,
    "deadline-exceeded": 4,
    "resource-exhausted": 8,
    "internal": 13,
    "unavailable": 14,
}
_STATUSES = {
    "5xx": frozenset(range(500, 600)),
    "gateway-error": frozenset({502, 503, 504}),
    "retriable-4xx": frozenset({409}),
}
_ANY_RESET = frozenset({"5xx", "gateway-error", "reset"})
_NO_HEADERS = HeaderMap([])


class RetryConditions:
    """The tokens of one policy, as sets that one look-up answers. Immutable.

    ``http3-post-connect-failure`` is accepted and never holds: no HTTP/3 here.
    Unknown tokens are ignored, as Envoy does.
    """

    __slots__ = (
        "_any_reset",
        "_before_request",
        "_grpc",
        "_headers",
        "_rate_limited",
        "_resets",
        "_statuses",
        "policy",
    )

    def __init__(self, policy: RetryPolicy) -> None:
        self.policy = policy
        on = policy.retry_on
        statuses: set[int] = set()
        for token, covered in _STATUSES.items():
            if token in on:
                statuses |= covered
        if "retriable-status-codes" in on:
            statuses |= policy.status_codes
        self._statuses = frozenset(statuses)
        self._headers = policy.headers if "retriable-headers" in on else ()
        self._grpc = frozenset(_GRPC_CODES[token] for token in on if token in _GRPC_CODES)
        self._rate_limited = "envoy-ratelimited" in on
        self._any_reset = not on.isdisjoint(_ANY_RESET)
        self._before_request = "reset-before-request" in on
        resets: set[ResetReason] = set()
        if "connect-failure" in on:
            resets |= CONNECT_FAILURES
        if "refused-stream" in on:
            resets.add(ResetReason.REFUSED_STREAM)
        self._resets = frozenset(resets)

    def match(self, outcome: Outcome, sent: bool) -> bool:
        """Whether a condition covers the outcome. ``sent``: this or an earlier
        try of the call has written some of the request."""
        reset = outcome.reset
        if reset is not None:
            return reset not in NEVER_RETRIED and (
                self._any_reset or reset in self._resets or (self._before_request and not sent)
            )
        hit = outcome.status in self._statuses or (
            bool(self._grpc) and grpc_status_of(outcome) in self._grpc
        )
        if not hit and self._headers:
            hit = self._headers_match(outcome)
        if not (hit or self._rate_limited):
            return False
        # A rate-limited response is repeated under its own token alone.
        if outcome.headers is not None and "x-envoy-ratelimited" in outcome.headers:
            return self._rate_limited
        return hit

    def covering(self, outcome: Outcome, sent: bool) -> str:
        """The words of the policy that :meth:`match` found, for people; empty: none."""
        alone = (
            (token, RetryConditions(replace(self.policy, retry_on=frozenset({token}))))
            for token in sorted(self.policy.retry_on)
        )
        return ", ".join(token for token, condition in alone if condition.match(outcome, sent))

    def names_grpc_status_of(self, outcome: Outcome) -> bool:
        """Whether the outcome is a gRPC response whose status the policy names."""
        if outcome.reset is not None or not self._grpc:
            return False
        return grpc_status_of(outcome) in self._grpc

    def _headers_match(self, outcome: Outcome) -> bool:
        headers = outcome.headers or _NO_HEADERS
        pseudo = {":status": str(outcome.status)}
        return any(header_matches(match, headers, pseudo) for match in self._headers)


def grpc_status_of(outcome: Outcome) -> int:
    """The gRPC status in the response head, or -1.

    The raw list is scanned: building an index for every successful HTTP
    response would cost more than all the rest of the decision.
    """
    if outcome.grpc_status >= 0 or outcome.headers is None:
        return outcome.grpc_status
    for name, value in outcome.headers.raw:
        if len(name) == 11 and name.lower() == b"grpc-status":
            return int(value) if value.isdigit() and len(value) < 10 else -1
    return -1


#: Compiled conditions by identity of the policy: hashing a policy costs more
#: than evaluating it. An entry holds its policy, so that an id is never reused
#: while it is in here. Bounded; single dictionary steps, hence thread-safe.
_COMPILED: dict[int, RetryConditions] = {}
_MAX_COMPILED = 4096


def conditions_of(policy: RetryPolicy) -> RetryConditions:
    """The compiled conditions of ``policy``; made once per policy object."""
    known = _COMPILED.get(id(policy))
    if known is not None and known.policy is policy:
        return known
    if len(_COMPILED) >= _MAX_COMPILED:
        _COMPILED.clear()
    _COMPILED[id(policy)] = made = RetryConditions(policy)
    return made


def may_retry(policy: RetryPolicy, outcome: Outcome) -> bool:
    """Whether the conditions of ``policy`` cover ``outcome``, were it the first.

    The cheap question to ask of every response (well under a microsecond for a success);
    only if it holds a :class:`RetryState` is worth building. Thread-safe.
    """
    return conditions_of(policy).match(outcome, outcome.sent)


__all__ = ["NEVER_RETRIED", "RetryConditions", "conditions_of", "grpc_status_of", "may_retry"]
