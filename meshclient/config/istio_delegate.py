"""Delegates: routes of one VirtualService that another one hands over to.

Pure merging of what was read. Source of the rules: Istio
``pilot/pkg/model/virtualservice.go mergeHTTPRoute`` and its conflict tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from meshclient.config.istio_http_route import HttpRoute
from meshclient.config.istio_match import Conditions, HttpMatch
from meshclient.config.istio_virtual_service import VirtualService
from meshclient.model.matching import StringMatch

#: Blocks that a root route lends to a child that has none of its own.
_LENT = (
    "rewrite",
    "direct_response",
    "timeout_s",
    "retries",
    "fault",
    "mirrors",
    "headers",
    "cors",
)
_MAPS = ("headers", "without_headers", "query", "source_labels")
_URI_FIELDS = ("uri", "scheme", "method", "authority")

DelegateTable = Mapping[tuple[str, str], VirtualService]


def expand_delegates(root: VirtualService, delegates: DelegateTable) -> tuple[HttpRoute, ...]:
    """The routes of ``root`` with every delegation replaced by the merged routes."""
    merged: list[HttpRoute] = []
    for route in root.http:
        if route.delegate is None:
            merged.append(route)
            continue
        child = delegates.get(route.delegate)
        if child is None or not child.visibility.visible_to(root.metadata.namespace):
            _report_missing(route, child)
            continue
        found = (merge_route(route, entry) for entry in child.http)
        merged.extend(entry for entry in found if entry is not None)
    return tuple(merged)


def _report_missing(route: HttpRoute, child: VirtualService | None) -> None:
    namespace, name = route.delegate or ("", "")
    why = "does not exist" if child is None else "is not exported to this namespace"
    route.reader.warning(
        f"the delegate {namespace}/{name} {why}; this route vanishes", code="IST0101"
    )


def merge_route(root: HttpRoute, child: HttpRoute) -> HttpRoute | None:
    """One child route under one root route; None when no match is compatible."""
    matches = merge_matches(root.matches, child.matches)
    if matches is None:
        return None
    lent: dict[str, Any] = {
        name: getattr(root, name) for name in _LENT if getattr(child, name) is None
    }
    name = "-".join(part for part in (root.name, child.name) if part)
    return replace(child, name=name, matches=matches, **lent)


def merge_matches(
    root: tuple[HttpMatch, ...], child: tuple[HttpMatch, ...]
) -> tuple[HttpMatch, ...] | None:
    """Every compatible pair; None when there is none at all.

    A list without entries matches everything, so the other list stands.
    """
    if not root:
        return child
    if not child:
        return root
    pairs = [(r, c) for c in child for r in root if not in_conflict(r, c)]
    return tuple(merge_match(r, c) for r, c in pairs) or None


def merge_match(root: HttpMatch, child: HttpMatch) -> HttpMatch:
    """Both conditions at once; the child's value stands where both have one."""
    taken: dict[str, Any] = {}
    for item in fields(HttpMatch):
        mine, theirs = getattr(child, item.name), getattr(root, item.name)
        if item.name in _MAPS:
            merged = {**dict(theirs), **dict(mine)}
            taken[item.name] = tuple(sorted(merged.items(), key=lambda pair: pair[0]))
        elif item.name == "name":
            taken[item.name] = "-".join(part for part in (theirs, mine) if part)
        elif item.name == "source":
            taken[item.name] = mine
        else:
            taken[item.name] = mine or theirs
    return HttpMatch(**taken)


def in_conflict(root: HttpMatch, child: HttpMatch) -> bool:
    """Whether the child asks for something outside of what the root hands over."""
    if any(_text_conflict(getattr(root, f), getattr(child, f)) for f in _URI_FIELDS):
        return True
    if root.uri and child.uri and root.ignore_uri_case != child.ignore_uri_case:
        return True
    if root.port and child.port and root.port != child.port:
        return True
    if root.source_namespace and child.source_namespace not in ("", root.source_namespace):
        return True
    if _maps_conflict(root, child) or _labels_conflict(root, child):
        return True
    return bool(root.gateways) and not set(child.gateways) <= set(root.gateways)


def _labels_conflict(root: HttpMatch, child: HttpMatch) -> bool:
    theirs = dict(child.source_labels)
    return any(theirs.get(name, value) != value for name, value in root.source_labels)


def _maps_conflict(root: HttpMatch, child: HttpMatch) -> bool:
    pairs: tuple[tuple[Conditions, Conditions], ...] = (
        (root.headers, child.headers),
        (root.without_headers, child.without_headers),
        (root.query, child.query),
    )
    for mine, theirs in pairs:
        other = dict(theirs)
        for name, condition in mine:
            if name in other and _text_conflict(condition, other[name]):
                return True
    return False


def _text_conflict(root: StringMatch | None, child: StringMatch | None) -> bool:
    """A child must be a subset of its root; regexes cannot be compared."""
    if root is None or child is None:
        return False
    if "regex" in (root.kind, child.kind):
        return True
    if root.kind == "exact":
        return child.kind != "exact" or child.value != root.value
    return not child.value.startswith(root.value)
