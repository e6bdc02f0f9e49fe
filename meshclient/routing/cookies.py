"""Cookies as Envoy's route matcher reads them.

Source: Envoy ``common/http/utility.cc`` (``forEachCookie``): split at ``;``,
leading spaces of the name dropped, everything else kept, one pair of double
quotes around the value removed, the first cookie of a name wins.
"""

from __future__ import annotations

from collections.abc import Iterable


def parse_cookies(lines: Iterable[str]) -> dict[str, str]:
    """Cookies of all ``Cookie`` header lines; parts without ``=`` are skipped."""
    cookies: dict[str, str] = {}
    for line in lines:
        for part in line.split(";"):
            name, equals, value = part.partition("=")
            if not equals:
                continue
            if len(value) >= 2 and value[0] == value[-1] == '"':
                value = value[1:-1]
            cookies.setdefault(name.lstrip(" "), value)
    return cookies
