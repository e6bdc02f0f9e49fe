"""Whether a final failure has a fallback, and whether the request may go elsewhere.

Pure decisions. What answers is kept in :mod:`meshclient.resilience.last_good` or made by the
drivers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from meshclient.model.fallback import Fallback
from meshclient.model.headers import HeaderMap
from meshclient.model.outcome import CONNECT_FAILURES, ResetReason
from meshclient.model.retry import IDEMPOTENT_METHODS

#: Marks a response that no endpoint of the call gave; the value says what did.
FALLBACK_HEADER: Final = "x-meshclient-fallback"

_UNSENT = frozenset(reason.value for reason in (*CONNECT_FAILURES, ResetReason.OVERFLOW))


def covers_status(settings: Fallback, status: int) -> bool:
    """Whether a response with ``status`` counts as failed."""
    return status in settings.statuses


def may_go_elsewhere(
    settings: Fallback, method: str, headers: HeaderMap, replayable: bool, tries: Iterable[str]
) -> bool:
    """Whether the request may be sent to another service after ``tries`` (their outcomes).

    Always if no try left this process. Else the body has to be replayable, and the request one
    that may be processed twice: an idempotent method (RFC 9110 section 9.2.2), an
    ``idempotency-key``, or the policy says that any method may.
    """
    if all(outcome in _UNSENT for outcome in tries):
        return True
    if not replayable:
        return False
    return settings.any_method or method in IDEMPOTENT_METHODS or "idempotency-key" in headers


__all__ = ["FALLBACK_HEADER", "covers_status", "may_go_elsewhere"]
