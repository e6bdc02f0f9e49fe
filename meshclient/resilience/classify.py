"""The one classification of outcomes. Nothing here decides about retries."""

from __future__ import annotations

from meshclient.model.outcome import Outcome, OutcomeKind, ResetReason

#: gRPC codes that Envoy's outlier detection counts as a 5xx: UNKNOWN,
#: DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS.
GRPC_SERVER_ERRORS = frozenset({2, 4, 12, 13, 14, 15})

#: The caller gave up, or a local limit refused: the endpoint did nothing wrong.
_IGNORED = frozenset({ResetReason.CANCELLED, ResetReason.OVERFLOW})


def classify(outcome: Outcome, retryable: bool) -> OutcomeKind:
    """SUCCESS below status 500; FAILED or FAILED_RETRYABLE for 5xx and resets;
    IGNORED for cancelled and overflowed tries.

    A response with a gRPC status is judged by that status instead.
    ``retryable`` says whether the policy's conditions cover the outcome.
    Source: Envoy ``outlier_detection_impl.cc``; ``common/grpc/status.cc``.
    """
    if outcome.reset is None:
        if outcome.grpc_status < 0:
            failed = outcome.status >= 500
        else:
            failed = outcome.grpc_status in GRPC_SERVER_ERRORS
        if not failed:
            return OutcomeKind.SUCCESS
    elif outcome.reset in _IGNORED:
        return OutcomeKind.IGNORED
    return OutcomeKind.FAILED_RETRYABLE if retryable else OutcomeKind.FAILED
