"""What a VirtualService route does besides forwarding: redirect, direct
response, rewrite.

Reads and translates each block; which of them may stand together is checked
where the route is read.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, replace

from meshclient.config.istio_match import check_regex
from meshclient.config.reader import Reader, wire_text
from meshclient.model.routes import DirectResponse, PathRewrite, RedirectAction

_REDIRECT_CODES = frozenset({301, 302, 303, 307, 308})
_MAX_BODY = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Rewrite:
    """``rewrite``: the new path and the new authority ("" keeps it)."""

    path: PathRewrite | None = None
    authority: str = ""


@dataclass(frozen=True, slots=True)
class Redirect:
    """``redirect``; ``request_port``: the port that the caller dialled is named."""

    action: RedirectAction
    request_port: bool = False

    def on_port(self, dialled: int) -> RedirectAction:
        """The action for callers of one port; default ports are left out."""
        action = self.action
        port = dialled if self.request_port else action.port
        if (port, action.scheme or "http") in ((80, "http"), (443, "https")):
            port = None
        return replace(action, port=port)


def _text(parent: Reader, name: str) -> str:
    field = parent.field(name)
    return wire_text(field.string() or "") if field is not None else ""


def read_rewrite(block: Reader) -> Rewrite:
    """``rewrite: {uri | uriRegexRewrite, authority}``."""
    uri = _text(block, "uri")
    regex = block.field("uriRegexRewrite")
    authority = _text(block, "authority")
    block.finish("rewrite")
    if uri and regex is not None:
        block.error("rewrite may only contain one of URI or UriRegexRewrite", code="rewrite")
    if not uri and regex is None and not authority:
        block.error("rewrite must specify path, host, or both", code="rewrite")
    if regex is not None:
        return Rewrite(_read_regex_rewrite(regex), authority)
    return Rewrite(PathRewrite("prefix", uri) if uri else None, authority)


def _read_regex_rewrite(block: Reader) -> PathRewrite | None:
    pattern = block.field("match")
    text = pattern.string() if pattern is not None else None
    value = _text(block, "rewrite")
    block.finish("uriRegexRewrite")
    if pattern is None or not text or not value:
        block.error("uriRegexRewrite needs both match and rewrite", code="rewrite")
        return None
    if not check_regex(text, pattern):
        return None
    return PathRewrite("regex", value, wire_text(text))


def read_redirect(block: Reader) -> Redirect:
    """``redirect``; the code is 301 unless given."""
    code_field = block.field("redirectCode")
    code = (code_field.integer() or 0) if code_field is not None else 0
    if code_field is not None and code and not 300 <= code <= 399:
        code_field.error(f"{code} is not a valid redirect code, must be 3xx", code="redirect")
    elif code_field is not None and code and code not in _REDIRECT_CODES:
        code_field.error(
            f"Istio makes no redirect of {code}",
            code="redirect",
            suggestion="use 301, 302, 303, 307 or 308",
        )
    port, request_port = _read_redirect_port(block)
    action = RedirectAction(
        status=code or 301,
        scheme=_read_scheme(block),
        host=_text(block, "authority"),
        port=port,
        path=_text(block, "uri"),
        path_rewrite=_read_prefix_rewrite(block),
    )
    block.finish("redirect")
    if action.path and action.path_rewrite is not None:
        block.error("redirect may contain only one of uri and prefixRewrite", code="redirect")
    return Redirect(action, request_port)


def _read_prefix_rewrite(block: Reader) -> PathRewrite | None:
    prefix = _text(block, "prefixRewrite")
    return PathRewrite("prefix", prefix) if prefix else None


def _read_scheme(block: Reader) -> str:
    field = block.field("scheme")
    return (field.string(("http", "https")) or "") if field is not None else ""


def _read_redirect_port(block: Reader) -> tuple[int | None, bool]:
    port = block.field("port")
    derive = block.field("derivePort")
    if port is not None and derive is not None:
        block.error("redirect may contain only one of port and derivePort", code="redirect")
    if derive is not None:
        words = ("FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT")
        return None, derive.string(words) == "FROM_REQUEST_PORT"
    return (port.integer(1, 65535) if port is not None else None), False


def read_direct_response(block: Reader) -> DirectResponse:
    """``directResponse: {status, body: {string | bytes}}``."""
    status_field = block.field("status")
    status = status_field.integer(200, 599) if status_field is not None else None
    if status_field is None:
        block.error("status is missing", code="required")
    body_field = block.field("body")
    body = _read_body(body_field) if body_field is not None else b""
    block.finish("directResponse")
    if len(body) > _MAX_BODY:
        block.error("the body is longer than 1 MiB", code="direct-response")
    return DirectResponse(status or 200, body)


def _read_body(block: Reader) -> bytes:
    text = block.field("string")
    encoded = block.field("bytes")
    block.finish("body")
    if text is not None and encoded is not None:
        block.error("only one of string and bytes may be given", code="direct-response")
    if text is not None:
        return (text.string() or "").encode()
    if encoded is None:
        return b""
    try:
        return base64.b64decode(encoded.string() or "", validate=True)
    except (binascii.Error, ValueError):
        encoded.error("not base64", code="direct-response")
        return b""
