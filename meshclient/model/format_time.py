"""The time format of ``%START_TIME(...)%``: strftime in UTC plus Envoy's fractions.

Turns a number of seconds into text; it never reads a clock.
Source: Envoy ``common/utility.cc`` (DateFormatter), absl ``%E#S``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime

DEFAULT_TIME_FORMAT = "%Y-%m-%dT%H:%M:%E3SZ"

_DIRECTIVE = re.compile(r"%(?:E([0-9])S|([1-9])?f|(s)|([aAbBcdDeFgGhHIjmMnprRStTuUVwWxXyYzZ%]))")


class FormatError(ValueError):
    """A substitution string that cannot be used; the text says why."""


def compile_time_format(text: str) -> Callable[[float], str]:
    """A function from seconds since 1970 to text; empty ``text`` is ISO 8601.

    ``%s`` is whole seconds, ``%f`` and ``%1f``-``%9f`` the fraction,
    ``%E3S`` seconds with three decimals; the rest is C's strftime in UTC.
    Raises :class:`FormatError` for anything else after a percent sign.
    """
    text = text or DEFAULT_TIME_FORMAT
    position = 0
    while (found := text.find("%", position)) >= 0:
        match = _DIRECTIVE.match(text, found)
        if match is None:
            raise FormatError(f"%START_TIME({text})%: {text[found : found + 2]!r} is not known")
        position = match.end()

    def write(time_s: float) -> str:
        nanoseconds = round(time_s * 1e6) * 1000  # a float of today's date holds no more
        return _DIRECTIVE.sub(lambda match: _directive(match, nanoseconds), text)

    return write


def _directive(match: re.Match[str], nanoseconds: int) -> str:
    seconds, fraction = divmod(nanoseconds, 10**9)
    digits = f"{fraction:09d}"
    decimals, precision, epoch, letter = match.groups()
    if epoch:
        return str(seconds)
    if letter:
        return datetime.fromtimestamp(seconds, UTC).strftime(f"%{letter}")
    if decimals is not None:
        whole = f"{seconds % 60:02d}"
        return whole if decimals == "0" else f"{whole}.{digits[: int(decimals)]}"
    return digits[: int(precision or 9)]
