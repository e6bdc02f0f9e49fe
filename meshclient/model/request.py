"""The request as the decision core sees it, and local answers to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from meshclient.model.headers import HeaderMap

_DEFAULT_PORTS = {"http": 80, "https": 443}


def host_of(authority: str) -> str:
    """The host of ``host``, ``host:port``, ``[v6]`` or ``[v6]:port``."""
    if authority.startswith("["):
        return authority[1:].partition("]")[0]
    host, _, port = authority.rpartition(":")
    return host if host and port.isdigit() else authority


class RequestHead:
    """Method, target and headers of one outbound request.

    ``authority`` is what the caller dialled or put into Host (with a port only
    where it stood there), ``port`` the port dialled, ``path`` the raw target
    including the query. ``dialled`` is the host part of the address the
    caller named, which a Host header of its own does not change; it is where
    calls to hosts without policy go. One call owns the object and may replace
    ``headers``.
    """

    __slots__ = ("authority", "dialled", "headers", "method", "path", "port", "scheme")

    def __init__(
        self,
        method: str,
        scheme: str,
        authority: str,
        port: int,
        path: str,
        headers: HeaderMap,
        dialled: str = "",
    ) -> None:
        self.method = method
        self.scheme = scheme
        self.authority = authority
        self.port = port
        self.path = path
        self.headers = headers
        self.dialled = dialled or host_of(authority)

    def __repr__(self) -> str:
        return f"<RequestHead {self.method} {self.scheme}://{self.authority}{self.path}>"


def head_of(
    method: str,
    url: str,
    headers: Mapping[str, str] | Iterable[tuple[str, str]] | None,
) -> RequestHead:
    """The head of a request to ``url``, as a client library would make it.

    Raises ValueError for a URL without scheme or host, or with a bad port.
    """
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    if not parts.scheme or not parts.hostname:
        raise ValueError(
            f"a URL with scheme and host is needed, such as http://reviews/, not {url!r}"
        )
    pairs = list(headers.items() if isinstance(headers, Mapping) else headers or ())
    given = next((value for name, value in pairs if name.lower() == "host"), None)
    port = parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)
    authority = given or parts.netloc.rpartition("@")[2]
    if given is None:
        if port == _DEFAULT_PORTS.get(parts.scheme):  # httpx leaves it out, too
            authority = authority.removesuffix(f":{port}")
        pairs.insert(0, ("Host", authority))
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return RequestHead(
        method.upper(), parts.scheme, authority, port, path, HeaderMap.of(pairs), parts.hostname
    )


class LocalReply:
    """An answer that no upstream gave: redirect, direct response, injected
    fault, or (under ``local_replies="respond"``) a failure in Envoy's words."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: HeaderMap, body: bytes = b"") -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def copy(self) -> LocalReply:
        """One whose headers can be edited without changing this one's."""
        return LocalReply(self.status, self.headers.copy(), self.body)

    def __repr__(self) -> str:
        return f"<LocalReply {self.status}>"
