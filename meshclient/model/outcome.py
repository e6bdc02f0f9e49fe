"""How one try ended, in a vocabulary that every policy shares."""

from __future__ import annotations

from enum import Enum

from meshclient.model.headers import HeaderMap


class OutcomeKind(Enum):
    """The one classification that breaker, budget, outlier detection and metrics read."""

    SUCCESS = "success"
    FAILED_RETRYABLE = "failed_retryable"
    FAILED = "failed"
    IGNORED = "ignored"


class ResetReason(Enum):
    """Why a try ended without a response. Values are Envoy's words, as in
    ``upstream connect error or disconnect/reset before headers. reset reason: …``."""

    CONNECTION_FAILURE = "remote connection failure"
    LOCAL_CONNECTION_FAILURE = "local connection failure"
    CONNECTION_TIMEOUT = "connection timeout"
    CONNECTION_TERMINATION = "connection termination"
    REMOTE_RESET = "remote reset"
    REFUSED_STREAM = "remote refused stream reset"
    PROTOCOL_ERROR = "protocol error"
    OVERFLOW = "overflow"
    PER_TRY_TIMEOUT = "per try timeout"
    ROUTE_TIMEOUT = "response timeout"
    CANCELLED = "cancelled"


#: Reasons for which no connection was ever usable.
CONNECT_FAILURES = frozenset(
    {
        ResetReason.CONNECTION_FAILURE,
        ResetReason.LOCAL_CONNECTION_FAILURE,
        ResetReason.CONNECTION_TIMEOUT,
    }
)


class Outcome:
    """What a driver tells the core about a try: a response head, or a reset.

    ``status`` is 0 for a reset. ``sent`` says whether any byte of the request
    may have reached the server. ``grpc_status`` is the decimal code, or -1.
    """

    __slots__ = ("error", "grpc_status", "headers", "reset", "sent", "status")

    def __init__(
        self,
        status: int = 0,
        headers: HeaderMap | None = None,
        reset: ResetReason | None = None,
        sent: bool = True,
        error: BaseException | None = None,
        grpc_status: int = -1,
    ) -> None:
        self.status = status
        self.headers = headers
        self.reset = reset
        self.sent = sent
        self.error = error
        self.grpc_status = grpc_status

    def __repr__(self) -> str:
        if self.reset is None:
            return f"<Outcome {self.status}>"
        return f"<Outcome reset={self.reset.value!r} sent={self.sent}>"
