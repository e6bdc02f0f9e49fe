"""What the end of a try says of its endpoint, in the words of outlier detection.

Decides what counts, and as which status; keeps no count.
Source: Envoy ``source/common/router/router.cc`` (``onUpstreamHeaders``,
``onUpstreamReset``, ``onPerTryTimeoutCommon``, ``onResponseTimeout``),
``upstream_request.cc`` and ``outlier_detection_impl.cc`` (``resultToHttpCode``).
"""

from __future__ import annotations

from meshclient.model.outcome import CONNECT_FAILURES, Outcome, ResetReason

#: The caller gave up, or a limit of the caller's side refused: no fault of the endpoint.
_NEVER_COUNTED = frozenset({ResetReason.OVERFLOW, ResetReason.CANCELLED})

_TIMEOUTS = frozenset({ResetReason.PER_TRY_TIMEOUT, ResetReason.ROUTE_TIMEOUT})

#: HTTP statuses of the gRPC codes 0 to 16; any other code is a 500.
#: Source: Envoy ``Grpc::Utility::grpcToHttpStatus``.
_GRPC_TO_HTTP = (
    200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401,
)  # fmt: skip


def response_status(outcome: Outcome, error_codes: tuple[int, ...]) -> int:
    """The status that a response counts as.

    A gRPC status in the response's headers replaces the HTTP status. Where
    ``error_codes`` name the errors, any other status is a success (200), and a
    listed one below 500 is a 500; they do not apply to gRPC statuses.
    """
    grpc = outcome.grpc_status
    if grpc >= 0:
        return _GRPC_TO_HTTP[grpc] if grpc < len(_GRPC_TO_HTTP) else 500
    if not error_codes:
        return outcome.status
    if outcome.status not in error_codes:
        return 200
    return outcome.status if outcome.status >= 500 else 500


def counts(outcome: Outcome) -> bool:
    """Whether a reset says anything of the endpoint.

    A time limit that struck before anything was sent does not: the connection was
    still being made, and Envoy knows of no host before it has one.
    """
    reset = outcome.reset
    if reset in _NEVER_COUNTED:
        return False
    return outcome.sent or reset not in _TIMEOUTS


def is_timeout(reset: ResetReason) -> bool:
    """A time limit of a request on its way; a connect timeout is none."""
    return reset in _TIMEOUTS


def reset_status(reset: ResetReason) -> int:
    """The status that a reset counts as where local errors are not counted apart."""
    return 504 if reset in _TIMEOUTS else 503


def had_connected(reset: ResetReason) -> bool:
    """Whether a connection stood before the reset."""
    return reset not in CONNECT_FAILURES


def calls_itself_degraded(outcome: Outcome) -> bool:
    """``x-envoy-degraded`` among the headers of the response, whatever its value."""
    return outcome.headers is not None and outcome.headers.get("x-envoy-degraded") is not None
