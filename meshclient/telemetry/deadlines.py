"""How long the caller of an inbound request waits: what its headers say, in seconds.

``grpc-timeout``, ``x-envoy-expected-rq-timeout-ms`` and the organisation's own header.
"""

from __future__ import annotations

import math

from meshclient.model.propagation import DeadlineHeader
from meshclient.telemetry import grpc_timeout
from meshclient.telemetry.header_lines import Found, single

EXPECTED = b"x-envoy-expected-rq-timeout-ms"
_MAX_DIGITS = 20


def left_s(found: Found, header: DeadlineHeader | None, unix_now: float) -> float | None:
    """The shortest of what the headers grant; None: no limit. 0 or less: it is over.

    What is malformed grants nothing and limits nothing.
    """
    granted = (_of_grpc(found), _of_envoy(found), _of_own(found, header, unix_now))
    return min((seconds for seconds in granted if seconds is not None), default=None)


def _of_grpc(found: Found) -> float | None:
    value = single(found, grpc_timeout.NAME)
    return None if value is None else grpc_timeout.parse_grpc_timeout(value)


def _of_envoy(found: Found) -> float | None:
    """Whole milliseconds; 0 means no limit, as everywhere in Envoy."""
    value = single(found, EXPECTED)
    if value is None or not value.isdigit() or len(value) > _MAX_DIGITS:
        return None
    return int(value) / 1000 or None


def _of_own(found: Found, header: DeadlineHeader | None, unix_now: float) -> float | None:
    value = None if header is None else single(found, header.name.encode("latin-1"))
    if value is None or header is None or len(value) > _MAX_DIGITS:
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    if not math.isfinite(number):
        return None
    if header.format.endswith("milliseconds"):
        number /= 1000
    return number - unix_now if header.format.startswith("unix") else number


__all__ = ["EXPECTED", "left_s"]
