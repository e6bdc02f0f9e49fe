"""The ``match`` blocks of the native file: Reader to :class:`RouteMatch`.

Conditions on the caller (port, labels, namespace) are decided here, once;
conditions on the request become model values.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from meshclient.config.native_values import (
    finish,
    flag_of,
    fraction,
    header_name,
    one_or_many,
    regex,
    string_match,
    text_of,
)
from meshclient.config.reader import Reader, wire_text
from meshclient.model.matching import (
    MATCH_ALL,
    CookieMatch,
    HeaderMatch,
    PathMatch,
    QueryMatch,
    RouteMatch,
    StringMatch,
)
from meshclient.model.snapshot import Node

PathKind = Literal["exact", "prefix", "segment_prefix", "regex"]
_PATHS: tuple[tuple[str, PathKind], ...] = (
    ("path", "exact"),
    ("prefix", "prefix"),
    ("segment_prefix", "segment_prefix"),
    ("regex", "regex"),
)


@dataclass(frozen=True, slots=True)
class NativeMatch:
    """One match: for ``port`` only (None: any); ``applies`` to this caller or not."""

    match: RouteMatch = MATCH_ALL
    port: int | None = None
    applies: bool = True


def read_matches(r: Reader | None, node: Node) -> list[NativeMatch]:
    """The matches of a route; a request must meet one of them."""
    if r is None:
        return [NativeMatch()]
    found = [_match(item, node) for item in one_or_many(r)]
    if not found:
        r.error("an empty list never matches", suggestion="leave match out to match every call")
    return found


def _match(r: Reader, node: Node) -> NativeMatch:
    method, scheme, authority = r.field("method"), r.field("scheme"), r.field("authority")
    headers = [*_methods(method), *_scheme(scheme), *_authority(authority)]
    query, cookies, share = r.field("query"), r.field("cookies"), r.field("percentage")
    port_reader = r.field("port")
    match = RouteMatch(
        path=_path(r),
        headers=(*headers, *header_conditions(r.field("headers"))),
        query=_query(query) if query is not None else (),
        cookies=_cookies(cookies) if cookies is not None else (),
        fraction=fraction(share) if share is not None else None,
        grpc=flag_of(r, "grpc"),
    )
    applies = _caller_matches(r, node)
    port = port_reader.integer(1, 65535) if port_reader is not None else None
    finish(r, "match")
    return NativeMatch(match, port, applies)


def _path(r: Reader) -> PathMatch | None:
    ignore_case = flag_of(r, "ignore_case")
    found: PathMatch | None = None
    first = ""
    for name, kind in _PATHS:
        child = r.field(name)
        if child is None:
            continue
        text = regex(child) if kind == "regex" else child.string()
        if first:
            child.error(f'give only one of "{first}" and "{name}"', code="conflict")
        elif text is not None:
            first = name
            if kind != "regex":
                text = _check_path(child, wire_text(text), kind)
            found = PathMatch(kind, text, ignore_case and kind != "regex")
    if ignore_case and (found is None or found.kind == "regex"):
        hint = "begin the regex with (?i)" if found is not None else ""
        r.error("ignore_case needs path, prefix or segment_prefix", suggestion=hint)
    return found


def _check_path(r: Reader, text: str, kind: PathKind) -> str:
    if not text.startswith("/") and not (kind == "exact" and text == "*"):
        r.error("a path begins with /", suggestion=f'write "/{text[:60]}"')
    if "?" in text or "#" in text:
        r.error("the path is compared without query and fragment", suggestion="use match.query")
    if kind == "segment_prefix":
        return text.rstrip("/") or "/"
    return text


def _methods(r: Reader | None) -> list[HeaderMatch]:
    if r is None:
        return []
    names: list[str] = []
    for item in one_or_many(r):
        text = item.string()
        if text is None or header_name(text, item) is None:
            continue
        if text != text.upper():
            item.warning("methods are case-sensitive", suggestion=f'write "{text.upper()}"')
        names.append(text)
    if not names:
        return []
    if len(names) == 1:
        return [HeaderMatch(":method", StringMatch("exact", names[0]))]
    pattern = "|".join(re.escape(name) for name in names)
    return [HeaderMatch(":method", StringMatch("regex", pattern))]


def _scheme(r: Reader | None) -> list[HeaderMatch]:
    name = r.string(("http", "https")) if r is not None else None
    return [] if name is None else [HeaderMatch(":scheme", StringMatch("exact", name))]


def _authority(r: Reader | None) -> list[HeaderMatch]:
    """Host names have no case (RFC 9110 section 4.2.3), so neither has this match."""
    if r is None:
        return []
    condition = _condition(r, ":authority")
    if condition is None:
        return []
    value = condition.value
    if value is not None and value.kind != "regex":
        condition = replace(condition, value=replace(value, ignore_case=True))
    return [condition]


def header_conditions(r: Reader | None) -> tuple[HeaderMatch, ...]:
    """A mapping from header name to text (exact) or matcher."""
    if r is None:
        return ()
    found: list[HeaderMatch] = []
    for name, child in r.items():
        key = header_name(name, child)
        condition = _condition(child, key) if key is not None else None
        if condition is not None:
            found.append(condition)
    return tuple(found)


def _condition(r: Reader, name: str) -> HeaderMatch | None:
    """One condition on one header, in all kinds that Envoy has."""
    if not r.is_mapping:
        value = string_match(r)
        return None if value is None else HeaderMatch(name, value)
    value = string_match(r)
    bounds, present = r.field("range"), r.field("present")
    invert, as_empty = flag_of(r, "invert"), flag_of(r, "missing_as_empty")
    between = _range(bounds) if bounds is not None else None
    there = present.boolean() if present is not None else None
    finish(r, "matcher")
    given = sum(x is not None for x in (value, bounds, present))
    if given > 1:
        r.error("give only one kind of condition", code="conflict")
        return None
    _need_condition(r)
    return HeaderMatch(name, value, between, there is not False, invert, as_empty)


def _need_condition(r: Reader) -> None:
    kinds = ("exact", "prefix", "suffix", "contains", "regex", "range", "present")
    if not any(r.has(kind) for kind in kinds):
        r.error("a condition is missing", suggestion="present: true")


def _range(r: Reader) -> tuple[int, int] | None:
    elements = r.elements()
    bounds = [e.integer(-(2**63), 2**63 - 1) for e in elements]
    first, end = [*bounds, None, None][:2]
    if len(elements) != 2 or first is None or end is None:
        if r.is_list and len(elements) != 2:
            r.error("a range is two whole numbers: [first, end)")
        return None
    if first >= end:
        r.error("the range is empty: its end is outside", suggestion=f"[{first}, {first + 1}]")
    return first, end


def _query(r: Reader) -> tuple[QueryMatch, ...]:
    found: list[QueryMatch] = []
    for name, child in r.items():
        if not child.is_mapping:
            text = string_match(child)
            found.extend([] if text is None else [QueryMatch(wire_text(name), text)])
            continue
        value, present = string_match(child), child.field("present")
        there = present.boolean() if present is not None else None
        _refuse(child, "invert", "missing_as_empty", "range")
        if value is not None and present is not None:
            child.error("give only one kind of condition", code="conflict")
        _need_condition(child)
        found.append(QueryMatch(wire_text(name), value, there is not False))
    return tuple(found)


def _cookies(r: Reader) -> tuple[CookieMatch, ...]:
    found: list[CookieMatch] = []
    for name, child in r.items():
        if not child.is_mapping:
            text = string_match(child)
            found.extend([] if text is None else [CookieMatch(wire_text(name), text)])
            continue
        value, present = string_match(child), child.field("present")
        there = present.boolean() if present is not None else None
        invert = flag_of(child, "invert")
        _refuse(child, "missing_as_empty", "range")
        if value is not None and present is not None:
            child.error("give only one kind of condition", code="conflict")
        _need_condition(child)
        if value is None:
            # Every text has the empty prefix, so this tests presence alone.
            value, invert = StringMatch("prefix", ""), invert != (there is False)
        found.append(CookieMatch(wire_text(name), value, invert))
    return tuple(found)


def _refuse(r: Reader, *names: str) -> None:
    """Matcher keys that only headers have."""
    for name in names:
        child = r.field(name)
        if child is not None:
            child.error(f"{name} is not for this kind of match")
    r.ignore("invert")
    finish(r, "matcher")


def _caller_matches(r: Reader, node: Node) -> bool:
    labels, namespace = r.field("source_labels"), text_of(r, "source_namespace")
    wanted = labels.string_map() if labels is not None else {}
    own = dict(node.labels)
    same = all(own.get(key) == value for key, value in wanted.items())
    return same and namespace in ("", node.namespace)
