"""What a route asks of a request, as values.

All text is Latin-1: one character per byte of the wire, which is how Envoy
(``re2_use_latin1_mode``) compares. How matching is *done* is in
:mod:`meshclient.routing`; nothing here looks at a request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class StringMatch:
    """Envoy's ``StringMatcher``. ``regex`` is RE2 and matches the whole text."""

    kind: Literal["exact", "prefix", "suffix", "contains", "regex"]
    value: str
    ignore_case: bool = False


@dataclass(frozen=True, slots=True)
class HeaderMatch:
    """Envoy's ``HeaderMatcher``: one condition on one request header.

    ``name`` is lower-case; ``:path`` (with the query), ``:method``,
    ``:authority`` and ``:scheme`` are usable. Exactly one of ``value``,
    ``range`` (``[start, end)`` on a base-10 signed 64-bit integer) and
    presence (both None: ``present``) is tested. A missing header fails every
    value test *even with* ``invert``, unless ``treat_missing_as_empty``.
    """

    name: str
    value: StringMatch | None = None
    range: tuple[int, int] | None = None
    present: bool = True
    invert: bool = False
    treat_missing_as_empty: bool = False


@dataclass(frozen=True, slots=True)
class QueryMatch:
    """One condition on the first occurrence of a raw (undecoded) query parameter."""

    name: str
    value: StringMatch | None = None
    present: bool = True


@dataclass(frozen=True, slots=True)
class CookieMatch:
    """One condition on a cookie. Unlike headers, missing + ``invert`` matches."""

    name: str
    value: StringMatch
    invert: bool = False


@dataclass(frozen=True, slots=True)
class PathMatch:
    """A condition on the path without query and fragment.

    ``prefix`` is a plain string prefix (``/foo`` matches ``/foobar``),
    ``segment_prefix`` ends at the end or at a ``/`` (Envoy's
    ``path_separated_prefix``), ``regex`` is RE2 on the whole path.
    ``ignore_case`` has no effect on regexes.
    """

    kind: Literal["prefix", "exact", "regex", "segment_prefix"]
    value: str
    ignore_case: bool = False


@dataclass(frozen=True, slots=True)
class Fraction:
    """``numerator`` of ``denominator`` calls (100, 10 000 or 1 000 000)."""

    numerator: int
    denominator: int = 100


@dataclass(frozen=True, slots=True)
class RouteMatch:
    """All conditions must hold. The default matches every request.

    Static conditions of the caller (port, labels, namespace) are not here:
    they are decided once, when the documents become a snapshot.
    """

    path: PathMatch | None = None
    headers: tuple[HeaderMatch, ...] = ()
    query: tuple[QueryMatch, ...] = ()
    cookies: tuple[CookieMatch, ...] = ()
    fraction: Fraction | None = None
    grpc: bool = False


MATCH_ALL = RouteMatch()

__all__ = [
    "MATCH_ALL",
    "CookieMatch",
    "Fraction",
    "HeaderMatch",
    "PathMatch",
    "QueryMatch",
    "RouteMatch",
    "StringMatch",
]
