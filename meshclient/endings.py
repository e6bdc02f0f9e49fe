"""How a call that got no (whole) response ends: error class, flag and words per reset.

Tables only. Source: Envoy's local replies (``router.cc``) and response flags
(``stream_info/utility.h``).
"""

from __future__ import annotations

from meshclient import errors
from meshclient.model.outcome import CONNECT_FAILURES, ResetReason

#: The error of a reset before the response head; any other is an UpstreamReset.
RESET_ERRORS: dict[ResetReason, type[errors.CallError]] = {
    **dict.fromkeys(CONNECT_FAILURES, errors.ConnectFailed),
    ResetReason.CONNECTION_TIMEOUT: errors.ConnectTimeout,
    ResetReason.PROTOCOL_ERROR: errors.UpstreamProtocolError,
    ResetReason.OVERFLOW: errors.Overflow,
    ResetReason.ROUTE_TIMEOUT: errors.RouteTimeout,
}
#: After the response head only the caller's own limit bounds a single wait.
BODY_ERRORS: dict[ResetReason, type[errors.CallError]] = {
    ResetReason.PROTOCOL_ERROR: errors.UpstreamProtocolError,
    ResetReason.ROUTE_TIMEOUT: errors.RouteTimeout,
    ResetReason.PER_TRY_TIMEOUT: errors.DeadlineExceeded,
}
#: Where the flag depends on more than the class of the error.
RESET_FLAGS = {
    ResetReason.REMOTE_RESET: "UR",
    ResetReason.REFUSED_STREAM: "UR",
    ResetReason.CANCELLED: "LR",
}

WORDS: dict[type[errors.CallError], str] = {
    errors.ConnectFailed: "no connection",
    errors.ConnectTimeout: "connecting took too long",
    errors.UpstreamReset: "the connection ended before the response",
    errors.UpstreamProtocolError: "the endpoint did not speak HTTP",
    errors.Overflow: "a limit is reached",
    errors.RouteTimeout: "the route's timeout is spent",
    errors.PerTryTimeout: "no response within the per-try timeout",
    errors.DeadlineExceeded: "the caller's own time limit is spent",
}


def upstream_body(reason: ResetReason, tries: int) -> str:
    """The text of Envoy's 503 for a reset before the head of the response."""
    again = "retried and the latest " if tries > 1 else ""
    prefix = "upstream connect error or disconnect/reset before headers. "
    return f"{prefix}{again}reset reason: {reason.value}"
