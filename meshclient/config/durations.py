"""Durations as Go and Istio write them: ``1h2m3.5s``, ``500ms``.

Text to seconds, nothing else; no field, no position.
"""

from __future__ import annotations

import re

_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,  # U+00B5
    "μs": 1_000,  # U+03BC
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_PART = re.compile(r"([0-9]*)(?:\.([0-9]*))?(ns|us|µs|μs|ms|s|m|h)")
_MAX_NS = 2**63 - 1
_MAX_TEXT = 64


class DurationError(ValueError):
    """Not a duration; the message says why."""


def parse_ns(text: str) -> int:
    """Nanoseconds of a Go duration; the grammar of Go's ``time.ParseDuration``.

    Raises :class:`DurationError`.
    """
    if len(text) > _MAX_TEXT or not text.isprintable():
        raise DurationError("not a duration")
    sign = -1 if text.startswith("-") else 1
    body = text[1:] if text[:1] in ("-", "+") else text
    if body == "0":
        return 0
    if not body:
        raise DurationError("an empty duration")
    if re.fullmatch(r"[0-9]+(\.[0-9]*)?", body):
        raise DurationError("the unit is missing")
    total = position = 0
    while position < len(body):
        part = _PART.match(body, position)
        if part is None or not (part[1] or part[2]):
            raise DurationError("not a duration")
        unit = _UNITS_NS[part[3]]
        fraction = part[2] or ""
        total += int(part[1] or "0") * unit
        total += int(fraction or "0") * unit // 10 ** len(fraction)
        position = part.end()
    if total > _MAX_NS:
        raise DurationError("longer than 292 years")
    return sign * total


def format_s(seconds: float) -> str:
    """The way a person would write it: ``250ms``, ``2s``, ``1.5s``."""
    if 0 < seconds < 1:
        return f"{seconds * 1000:g}ms"
    return f"{seconds:g}s"
