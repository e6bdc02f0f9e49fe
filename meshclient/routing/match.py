"""The conditions of one route, compiled to functions of a request.

Which route is tried, and in which order, is :mod:`meshclient.routing.index`.
Sources: Envoy ``header_utility.cc`` (1.39 and later: every line of a header on
its own), ``router/config_utility.cc``, ``grpc/common.cc``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from meshclient.model.matching import (
    CookieMatch,
    Fraction,
    HeaderMatch,
    PathMatch,
    QueryMatch,
    RouteMatch,
    StringMatch,
)
from meshclient.model.regex import compile_regex
from meshclient.routing.text import ascii_lower, compile_text, parse_integer
from meshclient.routing.view import PSEUDO_HEADERS, RequestView, ViewRead, ViewTest

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1

Dimension = tuple[str, str]  # ("header", name) or ("query", name)


class Condition(NamedTuple):
    """One test. ``dimension`` and ``value`` are set when it is plain equality,
    which the index can look up instead of testing."""

    test: ViewTest
    dimension: Dimension | None = None
    value: str = ""


def compile_conditions(match: RouteMatch) -> list[Condition]:
    """Everything but the path, in Envoy's order. Raises ``RegexError``."""
    conditions = []
    if match.fraction is not None:
        conditions.append(Condition(fraction_test(match.fraction)))
    if match.grpc:
        conditions.append(Condition(is_grpc))
    conditions.extend(header_condition(header) for header in match.headers)
    conditions.extend(query_condition(query) for query in match.query)
    conditions.extend(Condition(cookie_test(cookie)) for cookie in match.cookies)
    return conditions


def fraction_test(fraction: Fraction) -> ViewTest:
    """``random % denominator < numerator``; a larger numerator is always."""
    numerator, denominator = fraction.numerator, fraction.denominator
    return lambda view: view.random64 % denominator < numerator


def is_grpc(view: RequestView) -> bool:
    """Content type ``application/grpc`` or ``application/grpc+...``."""
    kind = view.head.headers.get("content-type")
    return kind is not None and (kind == "application/grpc" or kind.startswith("application/grpc+"))


def header_condition(match: HeaderMatch) -> Condition:
    """A header match; plain equality also names its place in the index."""
    test = header_test(match)
    value = match.value
    if not _plain_equality(value) or match.invert or (match.treat_missing_as_empty):
        return Condition(test)
    assert value is not None
    return Condition(test, ("header", match.name.lower()), value.value)


def _plain_equality(value: StringMatch | None) -> bool:
    return value is not None and value.kind == "exact" and not value.ignore_case


def header_test(match: HeaderMatch) -> ViewTest:
    """The whole of a header match as one function."""
    name = match.name.lower()
    value_test = _value_test(match)
    if value_test is None:
        return _presence_test(match, name)
    hit = not match.invert
    # A missing header fails every value test, inverted or not.
    missing = value_test("") is hit if match.treat_missing_as_empty else False
    if name in PSEUDO_HEADERS:
        return _pseudo_test(name, value_test, hit, missing)

    def test(view: RequestView) -> bool:
        values = view.head.headers.index().get(name)
        if values is None:
            return missing
        for value in values:
            if value_test(value):
                return hit
        return not hit

    return test


def _pseudo_test(name: str, test: Callable[[str], bool], hit: bool, missing: bool) -> ViewTest:
    read = PSEUDO_HEADERS[name]

    def pseudo(view: RequestView) -> bool:
        value = read(view.head)
        if not value:
            return missing
        return test(value) is hit

    return pseudo


def _presence_test(match: HeaderMatch, name: str) -> ViewTest:
    wanted = match.present != match.invert
    if match.treat_missing_as_empty:
        return lambda _view: wanted
    read = PSEUDO_HEADERS.get(name)
    if read is not None:
        return lambda view: bool(read(view.head)) is wanted
    return lambda view: (name in view.head.headers.index()) is wanted


def _value_test(match: HeaderMatch) -> Callable[[str], bool] | None:
    if match.value is not None:
        return compile_text(match.value)
    if match.range is None:
        return None
    start, end = match.range

    def in_range(text: str) -> bool:
        number = parse_integer(text, INT64_MIN, INT64_MAX)
        return number is not None and start <= number < end

    return in_range


def query_condition(match: QueryMatch) -> Condition:
    """A query match; plain equality also names its place in the index."""
    name, value = match.name, match.value
    if value is None:
        present = match.present
        return Condition(lambda view: (name in view.query()) is present)
    test = compile_text(value)

    def matches(view: RequestView) -> bool:
        found = view.query().get(name)
        return found is not None and test(found)

    if _plain_equality(value):
        return Condition(matches, ("query", name), value.value)
    return Condition(matches)


def cookie_test(match: CookieMatch) -> ViewTest:
    """A cookie match. A missing cookie fails the value and so passes ``invert``."""
    name, test, invert = match.name, compile_text(match.value), match.invert

    def matches(view: RequestView) -> bool:
        found = view.cookies().get(name)
        return (found is not None and test(found)) is not invert

    return matches


def reader(dimension: Dimension) -> ViewRead:
    """What an equality condition of this dimension compares with."""
    kind, name = dimension
    if kind == "query":
        return lambda view: [view.query()[name]] if name in view.query() else []
    read = PSEUDO_HEADERS.get(name)
    if read is not None:
        return lambda view: [read(view.head)]
    return lambda view: view.head.headers.index().get(name, [])


def segment_prefix(value: str) -> str:
    """``/a/`` and ``/a`` are the same segments; ``/`` is before every path."""
    return value.rstrip("/")


def path_test(match: PathMatch) -> ViewTest:
    """A path match as one function, without help from an index."""
    if match.kind == "regex":
        fullmatch = compile_regex(match.value).fullmatch
        return lambda view: fullmatch(view.path)
    value = ascii_lower(match.value) if match.ignore_case else match.value
    if match.kind == "segment_prefix":
        value = segment_prefix(value)
    compare = _PATH_TESTS[match.kind](value)
    if match.ignore_case:
        return lambda view: compare(view.lower_path)
    return lambda view: compare(view.path)


def _segment_test(value: str) -> Callable[[str], bool]:
    size = len(value)
    return lambda path: path.startswith(value) and (len(path) == size or path[size] == "/")


_PATH_TESTS: dict[str, Callable[[str], Callable[[str], bool]]] = {
    "exact": lambda value: value.__eq__,
    "prefix": lambda value: lambda path: path.startswith(value),
    "segment_prefix": _segment_test,
}
