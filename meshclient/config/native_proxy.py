"""The native ``proxy`` of a service or subset: the URL of the proxy to its endpoints.

Checks the text and keeps it; opening tunnels is the transport's.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from meshclient.config.reader import Reader

SCHEMES = ("http", "socks5", "socks5h")


def read_proxy(r: Reader) -> str:
    """The URL; empty for ``none``, and after an error."""
    text = r.string()
    if text is None or text == "none":
        return ""
    try:
        parts = urlsplit(text)
        good = parts.scheme.lower() in SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or not text.isprintable() or " " in text:
        # Not the text itself: it may contain a password.
        hint = "write http://host:port, socks5://user:password@host:port, or none"
        r.error("this is not the URL of a proxy", suggestion=hint)
        return ""
    return text
