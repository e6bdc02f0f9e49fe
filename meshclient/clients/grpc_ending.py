"""What the end of one RPC on one endpoint's channel says, in the words of the decision core.

gRPC's C library tells connection failures, resets and statuses of the server apart only
in the text of its details; this is the one place that reads those. Nothing is decided
here, and grpc is not imported.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable
from typing import Any

from meshclient.model.headers import HeaderMap, RawHeaders
from meshclient.model.outcome import Outcome, ResetReason

OK, CANCELLED, UNKNOWN, DEADLINE_EXCEEDED, UNAVAILABLE = 0, 1, 2, 4, 14
INTERNAL = 13

_RST = re.compile(r"Received RST_STREAM with error code (\d+)")
_HTTP = re.compile(r"Received http2 header with status: (\d{3})")
_REFUSED_STREAM = 7
_NO_CONNECTION = "failed to connect to all addresses"
_CONNECT_TIMEOUT = "timed out"
_REMOVED = "Stream removed ("
#: Ends that gRPC's client makes itself out of a mistake of the caller's own code.
CALLERS_MISTAKES = frozenset(
    {
        "Exception iterating requests!",
        "Exception serializing request!",
        "Exception deserializing response!",
    }
)
_NOT_SENT = frozenset(
    {
        ResetReason.CONNECTION_FAILURE,
        ResetReason.CONNECTION_TIMEOUT,
        ResetReason.REFUSED_STREAM,
    }
)


def reset_of(code: int, details: str, bare: bool) -> ResetReason | None:
    """Why there was no answer of the server; None: the status is the server's own.

    ``bare``: there were no trailers, as where the client itself makes up the status.
    """
    if not bare:
        return None
    if code == UNAVAILABLE and details.startswith(_NO_CONNECTION):
        if "Failed parsing HTTP/2" in details:
            return ResetReason.PROTOCOL_ERROR
        timed_out = _CONNECT_TIMEOUT in details
        return ResetReason.CONNECTION_TIMEOUT if timed_out else ResetReason.CONNECTION_FAILURE
    if not details.startswith(_REMOVED):
        return None
    return _removed(details[len(_REMOVED) :])


def _removed(why: str) -> ResetReason | None:
    """A stream that ended without a status."""
    found = _RST.search(why)
    if found is not None:
        refused = int(found[1]) == _REFUSED_STREAM
        return ResetReason.REFUSED_STREAM if refused else ResetReason.REMOTE_RESET
    if why.startswith("GOAWAY"):
        # The server names the last stream it has taken on; this one came later.
        return ResetReason.REFUSED_STREAM
    if "Failed parsing HTTP/2" in why:
        return ResetReason.PROTOCOL_ERROR
    if why.startswith("Deadline Exceeded"):
        return None
    return ResetReason.CONNECTION_TERMINATION


def is_local_deadline(code: int, details: str, bare: bool) -> bool:
    """Whether the RPC's own time was up, and not a server says so."""
    return code == DEADLINE_EXCEEDED and bare and details.endswith(_DEADLINE_ENDINGS)


_DEADLINE_ENDINGS = ("Deadline Exceeded", "Deadline Exceeded)", "deadline exceeded")


def outcome_of_reset(reason: ResetReason, error: BaseException | None) -> Outcome:
    """An end without an answer."""
    return Outcome(reset=reason, sent=reason not in _NOT_SENT, error=error)


def outcome_of_status(
    code: int, details: str, trailing: Iterable[Any] | None, initial: Iterable[Any] | None
) -> Outcome:
    """A status other than OK that the server gave.

    With no head before it (``initial`` empty) it is a trailers-only response, whose
    status Envoy reads; else the response is judged by its head alone.
    """
    found = _HTTP.match(details)
    if found is not None:
        return Outcome(int(found[1]), HeaderMap(raw_headers(trailing)))
    if initial:
        return Outcome(200, HeaderMap(raw_headers(initial)))
    raw = raw_headers(trailing)
    raw.append((b"grpc-status", b"%d" % code))
    return Outcome(200, HeaderMap(raw), grpc_status=code)


def raw_headers(metadata: Iterable[Any] | None) -> RawHeaders:
    """Metadata as header lines; binary values in base64, as on the wire."""
    raw: RawHeaders = []
    for key, value in metadata or ():
        if isinstance(value, str):
            value = value.encode("latin-1", "replace")
        elif key.endswith("-bin"):
            value = b64encode(value).rstrip(b"=")
        raw.append((key.encode("latin-1", "replace"), value))
    return raw


__all__ = [
    "CALLERS_MISTAKES",
    "is_local_deadline",
    "outcome_of_reset",
    "outcome_of_status",
    "raw_headers",
    "reset_of",
]
