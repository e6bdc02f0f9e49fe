"""tenacity's wait, stop and retry objects as the strategy of a retry policy.

They are asked after a failure only, so a successful call never pays for them.
tenacity is imported at the first failure that needs it; its loops (``Retrying``,
``@retry``) are never used here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from meshclient.model.headers import HeaderMap
from meshclient.model.outcome import CONNECT_FAILURES, Outcome, ResetReason

if TYPE_CHECKING:
    from tenacity import RetryCallState

Wait = Callable[["RetryCallState"], float]
Test = Callable[["RetryCallState"], bool]


class RetryStrategy:
    """tenacity objects in place of parts of a retry policy.

    ``wait`` replaces the back-off. ``stop`` ends the retries earlier than the
    policy's number would; it never adds any. ``retry`` decides instead of
    ``retry_on`` which failures are repeated; limits, budgets, time-outs and the rule
    that a body must be replayable stay in force. Any tenacity strategy and
    any combination with ``|``, ``&`` and ``+`` serves, and so does a plain
    function of ``tenacity.RetryCallState``. They see ``attempt_number`` (1 after
    the first try), ``seconds_since_start``, ``idle_for`` and ``outcome``: the
    exception of a failed try, or an :class:`AttemptResponse`.

    Immutable; one object may serve all calls, if its strategies are
    thread-safe, as tenacity's own are. Raises TypeError for what is not a
    plain callable.
    """

    __slots__ = ("retry", "stop", "wait")

    def __init__(
        self, wait: Wait | None = None, stop: Test | None = None, retry: Test | None = None
    ) -> None:
        for name, part in (("wait", wait), ("stop", stop), ("retry", retry)):
            if part is not None and (not callable(part) or inspect.iscoroutinefunction(part)):
                raise TypeError(f"{name} must be a tenacity strategy or a function, not {part!r}")
        self.wait = wait
        self.stop = stop
        self.retry = retry

    def __repr__(self) -> str:
        parts = ((name, getattr(self, name)) for name in ("wait", "stop", "retry"))
        words = (f"{name}={part!r}" for name, part in parts if part is not None)
        return f"RetryStrategy({', '.join(words)})"


class ResponseHeaders(Mapping[str, str]):
    """Response headers by name in any case; repeated lines joined by ``, ``."""

    __slots__ = ("_headers",)

    def __init__(self, headers: HeaderMap | None) -> None:
        self._headers = headers if headers is not None else HeaderMap([])

    def __getitem__(self, name: str) -> str:
        return ", ".join(self._headers.index()[name.lower()])

    def __iter__(self) -> Iterator[str]:
        return iter(self._headers.index())

    def __len__(self) -> int:
        return len(self._headers.index())

    def __repr__(self) -> str:
        return f"ResponseHeaders({dict(self)!r})"


class AttemptResponse:
    """What ``retry_if_result`` sees of a response. The body is not read."""

    __slots__ = ("grpc_status", "headers", "status_code")

    def __init__(self, outcome: Outcome) -> None:
        self.status_code = outcome.status
        self.headers = ResponseHeaders(outcome.headers)
        #: The gRPC code in the response head, or -1.
        self.grpc_status = outcome.grpc_status

    def __repr__(self) -> str:
        return f"<AttemptResponse {self.status_code}>"


class AttemptReset(Exception):
    """A try that ended without a response and for which no exception is known."""

    def __init__(self, reason: ResetReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class AttemptTimedOut(AttemptReset, TimeoutError):
    """The connection or the try took too long."""


class AttemptDisconnected(AttemptReset, ConnectionError):
    """No connection, or it broke."""


_TIMEOUTS = frozenset({ResetReason.CONNECTION_TIMEOUT, ResetReason.PER_TRY_TIMEOUT})
_DISCONNECTS = CONNECT_FAILURES | {
    ResetReason.CONNECTION_TERMINATION,
    ResetReason.REMOTE_RESET,
    ResetReason.REFUSED_STREAM,
}


class StrategyRun:
    """A strategy at work on one call. Not thread-safe: the call owns it."""

    __slots__ = ("_state", "strategy")

    def __init__(self, strategy: RetryStrategy) -> None:
        self.strategy = strategy
        self._state: RetryCallState | None = None

    def failed(self, outcome: Outcome, attempt: int, now: float, elapsed_s: float) -> None:
        """Take note of the ``attempt``-th try's failure, before the questions below."""
        import tenacity

        state = self._state
        if state is None:
            retrying = tenacity.Retrying(reraise=True)
            state = self._state = tenacity.RetryCallState(retrying, None, (), {})
        future = tenacity.Future(attempt)
        error = _exception_of(outcome)
        if error is None:
            future.set_result(AttemptResponse(outcome))
        else:
            future.set_exception(error)
        state.attempt_number = attempt
        state.outcome = future
        state.start_time = now - elapsed_s
        state.outcome_timestamp = now

    def wants(self) -> bool | None:
        """Whether the failure is to be repeated; None: the policy decides."""
        test = self.strategy.retry
        return None if test is None else bool(test(self._known()))

    def wait_s(self) -> float | None:
        """Seconds to wait, not below 0; None: the policy decides."""
        wait = self.strategy.wait
        if wait is None:
            return None
        state = self._known()
        wait_s = max(0.0, float(wait(state)))
        state.upcoming_sleep = wait_s
        return wait_s

    def stops(self) -> bool:
        """Whether no further try is wanted. Asked after :meth:`wait_s`, whose
        result ``stop_before_delay`` looks at."""
        stop = self.strategy.stop
        return stop is not None and bool(stop(self._known()))

    def waited(self, delay_s: float) -> None:
        """The retry is made, after this wait."""
        self._known().idle_for += delay_s

    def _known(self) -> RetryCallState:
        assert self._state is not None, "failed() comes first"
        return self._state


def _exception_of(outcome: Outcome) -> BaseException | None:
    if outcome.reset is None:
        return None
    if outcome.error is not None:
        return outcome.error
    if outcome.reset in _TIMEOUTS:
        return AttemptTimedOut(outcome.reset)
    if outcome.reset in _DISCONNECTS:
        return AttemptDisconnected(outcome.reset)
    return AttemptReset(outcome.reset)


__all__ = [
    "AttemptDisconnected",
    "AttemptReset",
    "AttemptResponse",
    "AttemptTimedOut",
    "ResponseHeaders",
    "RetryStrategy",
    "StrategyRun",
]
