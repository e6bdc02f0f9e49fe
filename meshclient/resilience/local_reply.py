"""Answers that a policy gives in place of an upstream, in Envoy's form.

To a gRPC request (by its content type) they are a trailers-only response. Source: Envoy
``source/common/http/utility.cc`` ``sendLocalReply``, ``source/common/grpc/status.cc``.
"""

from __future__ import annotations

from urllib.parse import quote

from meshclient.model.headers import HeaderMap
from meshclient.model.request import LocalReply, RequestHead

#: gRPC code for an HTTP status; any other is UNKNOWN (2).
_GRPC_OF_HTTP = {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14}
_UNKNOWN = 2
#: Responses with these never have a body (RFC 9110 section 6.4.1).
_WITHOUT_BODY = frozenset({204, 304})
#: What ``grpc-message`` carries unescaped: printable ASCII but the percent sign.
_PLAIN = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")


def is_grpc(head: RequestHead) -> bool:
    """Whether the request is gRPC: ``application/grpc`` or ``application/grpc+…``."""
    kind = head.headers.get("content-type") or ""
    return kind == "application/grpc" or kind.startswith("application/grpc+")


def grpc_of_http(status: int) -> int:
    """The gRPC code that stands for an HTTP ``status``."""
    return _GRPC_OF_HTTP.get(status, _UNKNOWN)


def local_reply(
    head: RequestHead, status: int, body: bytes = b"", grpc_status: int | None = None
) -> LocalReply:
    """The reply to ``head``. ``grpc_status`` None: what stands for ``status``."""
    if not is_grpc(head):
        if status in _WITHOUT_BODY:
            body = b""
        pairs = [(b"content-length", b"%d" % len(body))]
        if body:
            pairs.append((b"content-type", b"text/plain"))
        return LocalReply(status, HeaderMap(pairs), body)
    code = grpc_of_http(status) if grpc_status is None else grpc_status
    pairs = [
        (b"content-length", b"0"),
        (b"content-type", b"application/grpc"),
        (b"grpc-status", b"%d" % code),
    ]
    if body:
        message = quote(body.decode("latin-1"), safe=_PLAIN, encoding="latin-1")
        pairs.append((b"grpc-message", message.encode("ascii")))
    return LocalReply(200, HeaderMap(pairs))


__all__ = ["grpc_of_http", "is_grpc", "local_reply"]
