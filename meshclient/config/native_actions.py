"""What a native route does besides forwarding plainly: rewrite, redirect, direct response.

Reader to model values; knows nothing of matches and destinations.
"""

from __future__ import annotations

from typing import Literal

from meshclient.config.native_values import (
    finish,
    flag_of,
    header_name,
    required,
    substitution,
    text_of,
)
from meshclient.config.reader import Reader, wire_text
from meshclient.model.routes import (
    DirectResponse,
    HostRewrite,
    PathRewrite,
    RedirectAction,
)


def name_in(r: Reader | None) -> str:
    """A header name, lower-case; "" when absent or wrong."""
    text = r.string() if r is not None else None
    if r is None or text is None:
        return ""
    return header_name(text, r) or ""


def _path_rewrite(r: Reader) -> PathRewrite | None:
    """``path``, ``prefix`` or ``regex`` of a rewrite or redirect."""
    path, prefix, pattern = r.field("path"), r.field("prefix"), r.field("regex")
    given = [child for child in (path, prefix, pattern) if child is not None]
    for extra in given[1:]:
        extra.error("give only one of path, prefix and regex", code="conflict")
    if pattern is not None:
        pair = substitution(pattern)
        return None if pair is None else PathRewrite("regex", pair[1], pair[0])
    for kind, child in (("full", path), ("prefix", prefix)):
        text = child.string() if child is not None else None
        if child is not None and text is not None:
            return _literal_path(child, text, "full" if kind == "full" else "prefix")
    return None


def _literal_path(r: Reader, text: str, kind: Literal["full", "prefix"]) -> PathRewrite:
    if any(c.isspace() or not c.isprintable() for c in text):
        r.error("a path cannot contain white space or control characters")
    if kind == "full" and not text.startswith("/"):
        r.error("a path begins with /", suggestion=f'write "/{text[:60]}"')
    return PathRewrite(kind, wire_text(text))


def read_rewrite(r: Reader) -> tuple[PathRewrite | None, HostRewrite | None]:
    """The ``rewrite`` section."""
    path, host = _path_rewrite(r), r.field("host")
    host_rewrite = _host_rewrite(host) if host is not None else None
    finish(r, "rewrite")
    return path, host_rewrite


def _host_rewrite(r: Reader) -> HostRewrite | None:
    if not r.is_mapping:
        text = r.string()
        return _literal_host(r, text) if text is not None else None
    header, pattern, endpoint = r.field("header"), r.field("path_regex"), flag_of(r, "endpoint")
    name = name_in(header)
    pair = substitution(pattern) if pattern is not None else None
    finish(r, "host_rewrite")
    if (header is not None) + (pattern is not None) + endpoint != 1:
        r.error("give exactly one of header, path_regex and endpoint")
        return None
    if pair is not None:
        return HostRewrite("path_regex", pair[1], pair[0])
    if name:
        return HostRewrite("header", name)
    return HostRewrite("endpoint") if endpoint else None


def _literal_host(r: Reader, text: str) -> HostRewrite | None:
    if not text or any(c.isspace() or c in "/\\@" or not c.isprintable() for c in text):
        r.error("not a host name", suggestion="write it without scheme and path")
        return None
    return HostRewrite("literal", wire_text(text))


def read_redirect(r: Reader) -> RedirectAction:
    """The ``redirect`` section."""
    status, scheme = r.field("status"), r.field("scheme")
    port_reader, rewrite = r.field("port"), _path_rewrite(r)
    code = status.integer() if status is not None else 301
    if status is not None and code is not None and code not in (301, 302, 303, 307, 308):
        status.error(f"{code} is not one of 301, 302, 303, 307, 308")
    action = RedirectAction(
        status=code or 301,
        scheme=(scheme.string(("http", "https")) or "") if scheme is not None else "",
        host=wire_text(text_of(r, "host")),
        port=port_reader.integer(1, 65535) if port_reader is not None else None,
        path=rewrite.value if rewrite is not None and rewrite.kind == "full" else "",
        path_rewrite=rewrite if rewrite is not None and rewrite.kind != "full" else None,
        strip_query=flag_of(r, "strip_query"),
    )
    finish(r, "redirect")
    return action


def read_respond(r: Reader) -> DirectResponse:
    """The ``respond`` section."""
    status_reader, body = required(r, "status"), r.field("body")
    status = status_reader.integer(200, 599) if status_reader is not None else None
    text = body.string() if body is not None else None
    finish(r, "respond")
    return DirectResponse(status or 500, (text or "").encode())
