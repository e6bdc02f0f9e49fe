"""The deadline of the request being handled, put on one try. Nothing here reads a clock.

Source of the header: Envoy ``router.cc`` ``FilterUtility::setTimeoutHeaders``.
"""

from __future__ import annotations

from typing import Protocol

from meshclient.model.headers import RawHeaders
from meshclient.model.inbound import Inbound

_EXPECTED = b"x-envoy-expected-rq-timeout-ms"
_LENGTH = len(_EXPECTED)
_NOTHING = (b"", b"")


class Bounded(Protocol):
    """What is set of a try (see :class:`meshclient.attempt.Attempt`)."""

    deadline: float | None
    headers: RawHeaders


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
    name, value = attempt.headers[-1] if attempt.headers else _NOTHING
    if name == _EXPECTED and line is None and value.isdigit() and len(value) < 20:
        # Where the call has put it for a timeout of the route; nearly always.
        if int(value) > left_ms:
            attempt.headers = [*attempt.headers[:-1], (_EXPECTED, b"%d" % left_ms)]
        return
    headers: RawHeaders = []
    for pair in attempt.headers:
        name, value = pair
        if len(name) == _LENGTH and name.lower() == _EXPECTED:
            if value.isdigit() and len(value) < 20:
                left_ms = min(left_ms, int(value))
            continue
        if line is not None and len(name) == len(line[0]) and name.lower() == line[0]:
            line = None
        headers.append(pair)
    headers.append((_EXPECTED, b"%d" % left_ms))
    if line is not None:
        headers.append(line)
    attempt.headers = headers


__all__ = ["Bounded", "bound"]
