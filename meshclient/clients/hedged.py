"""What the hedged drivers share: from the end of a try to the call's word on it.

Nothing here sends, waits or decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshclient.clients import http_common as common
from meshclient.model.headers import HeaderMap
from meshclient.model.outcome import Outcome
from meshclient.transport.interface import InvalidRequest, WireError

if TYPE_CHECKING:
    from meshclient.attempt import Attempt
    from meshclient.call import Call


def can_repeat_at_once(body: Any) -> bool:
    """Whether two tries may read the body at the same time."""
    return body is None or isinstance(body, bytes)


def outcome_of(
    call: Call, attempt: Attempt, wire: Any, error: BaseException | None, now: float
) -> Outcome:
    """How a try over the wire ended. Raises what ends the whole call."""
    if error is None:
        return Outcome(wire.status, HeaderMap(wire.headers))
    if isinstance(error, InvalidRequest):
        raise call.reject(attempt, error, now) from error
    if isinstance(error, WireError):
        return common.failure(attempt, error)
    raise error


__all__ = ["can_repeat_at_once", "outcome_of"]
