"""The header list of a request in HTTP/2, from the one that HTTP/1.1 would send.

Pure. The checks against injection and bad framing are those of
:mod:`meshclient.transport.http1_request`, which every request passes first.
"""

from __future__ import annotations

from typing import Final

from hpack import NeverIndexedHeaderTuple

from meshclient.transport.interface import InvalidRequest, WireRequest

#: RFC 9113 section 8.2.2: what describes a connection has no place in a stream.
_CONNECTION_SPECIFIC: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"host")
)
_HARMLESS: Final = frozenset((b"keep-alive", b"close"))
#: Not put into the compression table of either side, where a probe could find them.
_SECRET: Final = frozenset((b"authorization", b"proxy-authorization"))
_SHORT_COOKIE: Final = 20
_MAX_CACHED_NAMES: Final = 1024


class _Lower(dict[bytes, bytes]):
    """Header names in lower case, remembered (bounded)."""

    def __missing__(self, name: bytes) -> bytes:
        if len(self) >= _MAX_CACHED_NAMES:
            self.clear()
        found = self[name] = name.lower()
        return found


_LOWER: Final = _Lower()


def header_list(request: WireRequest, scheme: bytes) -> list[tuple[bytes, bytes]]:
    """Pseudo headers first, names in lower case, cookies in crumbs (RFC 9113 section 8).

    Raises InvalidRequest for an upgrade, and for a target that is neither a path nor ``*``.
    """
    target = request.target
    if not (target.startswith(b"/") or target == b"*"):
        raise InvalidRequest(f"the target {target[:80]!r} cannot be sent over HTTP/2")
    found = [(b":method", request.method), (b":scheme", scheme), (b":path", target)]
    rest: list[tuple[bytes, bytes]] = []
    nominated: list[bytes] = []
    for name, value in request.headers:
        lower = _LOWER[name]
        if lower in _CONNECTION_SPECIFIC:
            if lower == b"host" and len(found) == 3:
                found.append((b":authority", value))
            elif lower == b"connection":
                nominated += _nominated(value)
        elif lower in _SPECIAL:
            rest += _special(lower, value)
        else:
            rest.append((lower, value.strip(b" \t")))
    if nominated:
        rest = [pair for pair in rest if pair[0] not in nominated]
    return found + rest


def _nominated(value: bytes) -> list[bytes]:
    if value.lower() in _HARMLESS:
        return []
    return [option.strip().lower() for option in value.split(b",")]


def _special(name: bytes, value: bytes) -> list[tuple[bytes, bytes]]:
    if name == b"upgrade":
        raise InvalidRequest("HTTP/2 has no Upgrade: use HTTP/1.1 for this request")
    if name == b"te":
        # The only coding that a stream can ask for.
        offered = [one.strip().lower() for one in value.split(b",")]
        return [(b"te", b"trailers")] if b"trailers" in offered else []
    if name == b"cookie":
        crumbs = [crumb.strip() for crumb in value.split(b";")]
        return [_cookie(crumb) for crumb in crumbs if crumb]
    return [NeverIndexedHeaderTuple(name, value.strip(b" \t"))]


def _cookie(crumb: bytes) -> tuple[bytes, bytes]:
    if len(crumb) < _SHORT_COOKIE:
        return NeverIndexedHeaderTuple(b"cookie", crumb)
    return (b"cookie", crumb)


_SPECIAL: Final = frozenset((b"upgrade", b"te", b"cookie")) | _SECRET
