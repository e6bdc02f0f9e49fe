"""The deadline of the request being handled, put on one try. Nothing here reads a clock.

Source of the header: Envoy ``router.cc`` ``FilterUtility::setTimeoutHeaders``.
"""

from __future__ import annotations

from typing import Protocol

from meshclient.model.headers import RawHeaders
from meshclient.model.inbound import Inbound

_EXPECTED = b"x-envoy-expected-rq-timeout-ms"


class Bounded(Protocol):
    """What is set of a try (see :class:`meshclient.attempt.Attempt`)."""

    deadline: float | None
    headers: RawHeaders

    def set_header(self, name: bytes, value: bytes) -> None: ...


def bound(attempt: Bounded, inbound: Inbound, now: float, tell: bool = True) -> None:
    """End the try, its response body included, at the deadline; ``tell`` the endpoint what is left.

    ``x-envoy-expected-rq-timeout-ms`` becomes what is left where it is absent or more; at
    least 1. The organisation's own header is set where the caller has not set it.
    """
    deadline = inbound.deadline
    assert deadline is not None
    if attempt.deadline is None or deadline < attempt.deadline:
        attempt.deadline = deadline
    if not tell:
        return
    left_ms = max(1, int((deadline - now) * 1000))
    line = inbound.deadline_line(now)
    for name, value in attempt.headers:
        key = name.lower()
        if key == _EXPECTED and value.isdigit() and len(value) < 20:
            left_ms = min(left_ms, int(value))
        elif line is not None and key == line[0]:
            line = None
    attempt.set_header(_EXPECTED, b"%d" % left_ms)
    if line is not None:
        attempt.headers = [*attempt.headers, line]


__all__ = ["Bounded", "bound"]
