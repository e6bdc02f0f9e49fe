"""Which trailer fields a caller gets to see. Pure; for HTTP/1.1 and HTTP/2 alike.

Trailers come when headers have long been acted on, so they are never merged into
those, and a field that frames, routes, authenticates or describes a message is none.
"""

from __future__ import annotations

from typing import Final

#: Source: RFC 9110 section 6.5.1, and section 7.6.1 for what describes a connection.
FORBIDDEN: Final = frozenset(
    b"transfer-encoding content-length host trailer"  # framing, routing
    b" connection keep-alive proxy-connection te upgrade"  # the connection
    b" cache-control expect max-forwards pragma range if-match if-none-match"
    b" if-modified-since if-unmodified-since if-range"  # request modifiers
    b" authorization proxy-authorization www-authenticate proxy-authenticate"
    b" authentication-info proxy-authentication-info cookie set-cookie"  # authentication
    b" age expires date location retry-after vary warning"  # response control
    b" content-encoding content-type content-range".split()  # how the body is read
)


def may_be_trailer(name: bytes) -> bool:
    """Whether a field of this name, in any letter case, is kept."""
    lower = name.lower()
    return lower not in FORBIDDEN and not lower.startswith(b":")
