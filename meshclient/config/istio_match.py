"""``match`` entries of VirtualService routes.

Reads one entry, and turns it into the conditions that a request must meet.
What depends on the caller (port, labels, namespace, gateway) is decided here
once, not per request. Routes and their order are not known here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from meshclient.config.reader import Reader, wire_text
from meshclient.model.endpoint import Labels, labels_of
from meshclient.model.matching import (
    HeaderMatch,
    PathMatch,
    QueryMatch,
    RouteMatch,
    StringMatch,
)
from meshclient.model.snapshot import Node
from meshclient.model.source import Source

MESH_GATEWAY = "mesh"
MAX_REGEX = 1024
#: Keys of ``headers`` that Istio ignores, because fields of that name exist.
_OWN_FIELDS = frozenset({"uri", "scheme", "method", "authority"})

#: Name and condition of a header or parameter; None asks for presence only.
Conditions = tuple[tuple[str, StringMatch | None], ...]


@dataclass(frozen=True, slots=True)
class HttpMatch:
    """One entry of ``match``, as written."""

    source: Source
    name: str = ""
    uri: StringMatch | None = None
    scheme: StringMatch | None = None
    method: StringMatch | None = None
    authority: StringMatch | None = None
    headers: Conditions = ()
    without_headers: Conditions = ()
    query: Conditions = ()
    ignore_uri_case: bool = False
    port: int = 0
    source_labels: Labels = ()
    source_namespace: str = ""
    gateways: tuple[str, ...] = ()

    def applies_to(self, node: Node, port: int) -> bool:
        """Whether this caller, dialling this port, can ever meet the entry.

        A list of gateways makes Istio skip the source conditions.
        """
        if self.port and self.port != port:
            return False
        if self.gateways:
            return MESH_GATEWAY in self.gateways
        if not set(self.source_labels) <= set(node.labels):
            return False
        return self.source_namespace in ("", node.namespace)


def read_match(entry: Reader) -> HttpMatch:
    """One element of ``http[].match``."""
    name = entry.field("name")
    ignore_case = entry.field("ignoreUriCase")
    port = entry.field("port")
    labels = entry.field("sourceLabels")
    namespace = entry.field("sourceNamespace")
    gateways = entry.field("gateways")
    match = HttpMatch(
        source=entry.source,
        name=(name.string() or "") if name else "",
        uri=_read_string_match(entry.field("uri"), empty_prefix=True),
        scheme=_read_string_match(entry.field("scheme")),
        method=_read_string_match(entry.field("method")),
        authority=_read_string_match(entry.field("authority")),
        headers=_read_headers(entry.field("headers")),
        without_headers=_read_headers(entry.field("withoutHeaders")),
        query=_read_conditions(entry.field("queryParams")),
        ignore_uri_case=bool(ignore_case.boolean()) if ignore_case else False,
        port=(port.integer(0, 65535) or 0) if port else 0,
        source_labels=labels_of(labels.string_map()) if labels else (),
        source_namespace=(namespace.string() or "") if namespace else "",
        gateways=tuple(gateways.strings()) if gateways else (),
    )
    entry.ignore("statPrefix")
    entry.finish("match")
    _warn_hidden_source(entry, match)
    return match


def _warn_hidden_source(entry: Reader, match: HttpMatch) -> None:
    if match.gateways and (match.source_labels or match.source_namespace):
        entry.warning(
            "sourceLabels and sourceNamespace mean nothing beside gateways",
            code="hidden-source-match",
            suggestion="remove gateways",
        )


_Kind = Literal["exact", "prefix", "regex"]
_KINDS: tuple[_Kind, ...] = ("exact", "prefix", "regex")


def _read_string_match(field: Reader | None, *, empty_prefix: bool = False) -> StringMatch | None:
    """``{exact: ..}``, ``{prefix: ..}`` or ``{regex: ..}``; None when nothing is asked."""
    if field is None:
        return None
    found: list[tuple[_Kind, str, Reader]] = []
    for kind in _KINDS:
        child = field.field(kind)
        text = child.string() if child is not None else None
        if child is not None and text is not None:
            found.append((kind, text, child))
    field.finish()
    if not found:
        return None
    if len(found) > 1:
        field.error("only one of exact, prefix and regex may be given", code="string-match")
    kind, text, where = found[0]
    if kind == "prefix" and not text and not empty_prefix:
        where.error("prefix string match should not be empty", code="string-match")
    if kind == "regex" and text != "*" and not check_regex(text, where):
        return None
    return StringMatch(kind, wire_text(text))


def check_regex(pattern: str, where: Reader) -> bool:
    """An RE2 pattern of at most 1024 characters; an error where it is not."""
    from meshclient.model.regex import RegexError, compile_regex

    if len(pattern) > MAX_REGEX:
        where.error(f"regex is longer than {MAX_REGEX} characters", code="regex")
        return False
    try:
        compile_regex(wire_text(pattern))
    except RegexError as why:
        where.error(f"invalid regex: {why}", code="regex")
        return False
    return True


def _read_headers(field: Reader | None) -> Conditions:
    if field is None:
        return ()
    kept: list[tuple[str, StringMatch | None]] = []
    for name, condition in _read_conditions(field):
        if name in _OWN_FIELDS:
            field.warning(
                f'the header "{name}" is ignored here',
                code="ignored-header",
                suggestion=f"use the field {name} of the match",
            )
            continue
        if name.startswith("@request.auth."):
            field.warning(
                "claims are matched at gateways only; for callers in the mesh this "
                "is a header that never exists",
                code="claim-match",
            )
        if name != name.lower():
            field.error(
                f'header keys must be lower case: "{name}"',
                code="header",
                suggestion=f'write "{name.lower()}"',
            )
        kept.append((name.lower(), condition))
    return tuple(kept)


def _read_conditions(field: Reader | None) -> Conditions:
    if field is None:
        return ()
    found = [
        (wire_text(name), None if value.is_null else _read_string_match(value))
        for name, value in field.items()
    ]
    # Sorted, as Istio does: the order of a map means nothing.
    found.sort(key=lambda pair: pair[0])
    return tuple((name, _unless_presence(condition)) for name, condition in found)


def _unless_presence(condition: StringMatch | None) -> StringMatch | None:
    """Istio's ``regex: "*"`` is no regex: it asks for presence."""
    if condition is not None and condition.kind == "regex" and condition.value == "*":
        return None
    return condition


def to_route_match(match: HttpMatch | None, *, explicit_path: bool = False) -> RouteMatch:
    """The model's conditions. ``explicit_path`` writes out the prefix ``/`` that a
    missing ``uri`` stands for, so that a rewrite has a matched prefix to replace."""
    if match is None:
        return RouteMatch(path=PathMatch("prefix", "/") if explicit_path else None)
    headers = [_header(name, condition) for name, condition in match.headers]
    headers += [_without(name, condition) for name, condition in match.without_headers]
    headers.sort(key=lambda h: h.name)
    for name, condition in (
        (":method", match.method),
        (":authority", match.authority),
        (":scheme", match.scheme),
    ):
        if condition is not None:
            headers.append(_header(name, _unless_presence(condition)))
    path = _path(match)
    if path is None and explicit_path:
        path = PathMatch("prefix", "/")
    query = tuple(QueryMatch(name, condition, condition is None) for name, condition in match.query)
    return RouteMatch(path=path, headers=tuple(headers), query=query)


def _path(match: HttpMatch) -> PathMatch | None:
    uri = match.uri
    if uri is None:
        return None
    if uri.kind == "regex":
        return PathMatch("regex", ".*" if uri.value == "*" else uri.value)
    kind: Literal["exact", "prefix"] = "exact" if uri.kind == "exact" else "prefix"
    return PathMatch(kind, uri.value, match.ignore_uri_case)


def _header(name: str, condition: StringMatch | None) -> HeaderMatch:
    return HeaderMatch(name, value=condition)


def _without(name: str, condition: StringMatch | None) -> HeaderMatch:
    """A missing header counts as empty text, except where presence is asked."""
    return HeaderMatch(
        name, value=condition, invert=True, treat_missing_as_empty=condition is not None
    )


def is_catch_all(match: RouteMatch) -> bool:
    """Whether every request meets it, so that nothing after it can be reached."""
    path = match.path
    if match.headers or match.query or match.cookies or match.fraction or match.grpc:
        return False
    return path is None or (path.kind, path.value) in (("prefix", "/"), ("regex", ".*"))
