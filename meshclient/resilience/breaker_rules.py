"""What a try's outcome means to a circuit breaker: success, failure, or nothing.

Keeps no count. Statuses and exceptions are those of the settings; what they do not name
is as everywhere else (:mod:`meshclient.resilience.classify`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from meshclient.model.breaker import CircuitBreaker, Selection
from meshclient.model.outcome import Outcome, OutcomeKind

#: Causes of an exception that are looked at.
_MAX_CAUSES = 8

#: Whether an exception tells of trouble at the service (pybreaker's ``is_system_error``).
IsFailure = Callable[[BaseException], bool]


class Rules:
    """Judges outcomes. ``is_failure`` is the word of the caller's own pybreaker object."""

    __slots__ = ("_failures", "_ignored", "_is_failure", "plain")

    def __init__(self, settings: CircuitBreaker, is_failure: IsFailure | None = None) -> None:
        self._failures = settings.failures
        self._ignored = settings.ignored
        self._is_failure = is_failure
        #: Whether a try of kind SUCCESS is always one.
        self.plain = not (self._failures or self._ignored)

    def judge(self, kind: OutcomeKind, outcome: Outcome) -> bool | None:
        """True: failed; False: succeeded; None: it says nothing of the service."""
        if kind is OutcomeKind.IGNORED:
            return None
        failed = kind is not OutcomeKind.SUCCESS
        if not self.plain:
            if _names(self._ignored, outcome):
                return None
            failed = self._counts(failed, outcome)
        error = outcome.error
        if failed and error is not None and self._is_failure is not None:
            return True if self._is_failure(error) else None
        return failed

    def _counts(self, failed: bool, outcome: Outcome) -> bool:
        """A kind of outcome of which some are named counts only where it is named."""
        chosen = self._failures
        if outcome.reset is not None:
            return _exception_named(chosen, outcome) if chosen.exceptions else failed
        if _grpc_status(outcome) >= 0 and chosen.grpc_statuses:
            return _grpc_status(outcome) in chosen.grpc_statuses
        if _grpc_status(outcome) < 0 and chosen.statuses:
            return outcome.status in chosen.statuses
        return failed


def _names(chosen: Selection, outcome: Outcome) -> bool:
    if not chosen:
        return False
    if outcome.reset is None:
        grpc = _grpc_status(outcome)
        return outcome.status in chosen.statuses if grpc < 0 else grpc in chosen.grpc_statuses
    return _exception_named(chosen, outcome)


def _grpc_status(outcome: Outcome) -> int:
    """The driver's word, or that of a response without a body (-1: no gRPC)."""
    if outcome.grpc_status >= 0 or outcome.headers is None:
        return outcome.grpc_status
    if not (outcome.headers.get("content-type") or "").startswith("application/grpc"):
        return -1
    text = outcome.headers.get("grpc-status") or ""
    return int(text) if text.isdigit() and len(text) <= 9 else -1


def _exception_named(chosen: Selection, outcome: Outcome) -> bool:
    wanted = chosen.exceptions
    if outcome.reset is not None and outcome.reset.name.lower().replace("_", "-") in wanted:
        return True
    return any(name in wanted for error in _causes(outcome.error) for name in _class_names(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(_MAX_CAUSES):
        if error is None:
            return
        yield error
        error = error.__cause__


def _class_names(error: BaseException) -> Iterator[str]:
    for kind in type(error).__mro__[:-1]:
        yield kind.__qualname__
        yield f"{kind.__module__}.{kind.__qualname__}"


__all__ = ["IsFailure", "Rules"]
