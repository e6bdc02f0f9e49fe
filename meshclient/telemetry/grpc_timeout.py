"""``grpc-timeout``: how long a gRPC caller waits. Source: gRPC over HTTP/2, "Requests"."""

from __future__ import annotations

import math
import re

NAME = b"grpc-timeout"

_FORM = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
#: The finest unit whose number has at most 8 digits; fewer digits would lose precision.
_FINEST = ((b"n", 1e-9), (b"u", 1e-6), (b"m", 1e-3), (b"S", 1.0), (b"M", 60.0), (b"H", 3600.0))
_LIMIT = 10**8


def parse_grpc_timeout(value: bytes) -> float | None:
    """Seconds, at least 0 (0: the time is over); None for what is malformed."""
    match = _FORM.fullmatch(value)
    return None if match is None else int(match[1]) * _UNITS[match[2]]


def format_grpc_timeout(seconds: float) -> bytes:
    """The header's value for what is left, never more than that by a rounded unit.

    0 and below become ``0n``. What does not fit becomes 99999999 hours.
    """
    if not seconds > 0.0:
        return b"0n"
    for unit, size in _FINEST:
        # A hair of tolerance: 0.1 s is 100 ms, although 0.1 / 1e-3 is 100.00000000000001.
        number = math.floor(seconds / size + 1e-6)
        if number < _LIMIT:
            return b"%d%s" % (number, unit)
    return b"99999999H"


__all__ = ["NAME", "format_grpc_timeout", "parse_grpc_timeout"]
