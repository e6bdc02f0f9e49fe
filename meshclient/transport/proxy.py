"""Proxies, sans I/O: what one is, and how a tunnel through it is asked for.

HTTP CONNECT (RFC 9110 section 9.3.6) and SOCKS5 (RFC 1928, RFC 1929). A handshake
is a generator that is given exactly the bytes it asked for, so that nothing the
far end says first is swallowed. No socket, no clock, no environment in here.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Generator
from typing import Any, Final
from urllib.parse import unquote, urlsplit

#: (what to send now, how many bytes to read at most afterwards) -> the bytes that were read.
Handshake = Generator[tuple[bytes, int], bytes, None]

_PORTS: Final = {"http": 80, "socks5": 1080, "socks5h": 1080}
_MAX_HEAD: Final = 16 * 1024
_END: Final = b"\r\n\r\n"
_SOCKS_ERRORS: Final = {
    1: "general failure",
    2: "not allowed by its rules",
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused",
    6: "time to live expired",
    7: "command not supported",
    8: "address type not supported",
}


class ProxyError(OSError):
    """The proxy was reached, but gives no tunnel."""


class Proxy:
    """Where a proxy is and who we are to it; hashable, part of the key of a pool.

    ``scheme`` is ``http`` or ``socks5``; ``username`` and ``password`` may be empty
    (both empty: no authentication); ``headers`` go to an HTTP proxy only. Immutable.
    """

    __slots__ = ("_key", "headers", "host", "password", "port", "scheme", "username")

    def __init__(
        self,
        scheme: str,
        host: str,
        port: int,
        username: str = "",
        password: str = "",
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        self.scheme = scheme
        self.host = host
        self.port = port
        self.username = username
        self.password = password
        self.headers = headers
        self._key = (scheme, host, port, username, password, headers)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Proxy) and self._key == other._key)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    def __repr__(self) -> str:
        return f"<Proxy {self}>"

    @property
    def own_headers(self) -> list[tuple[bytes, bytes]]:
        """What a request to an HTTP proxy carries for the proxy itself."""
        headers = list(self.headers)
        if self.username or self.password:
            pair = f"{self.username}:{self.password}".encode()
            headers.append((b"Proxy-Authorization", b"Basic " + base64.b64encode(pair)))
        return headers

    def tunnel(self, host: str, port: int) -> Handshake:
        """The handshake for a tunnel to ``host``:``port``. Raises :class:`ProxyError`."""
        return _connect(self, host, port) if self.scheme == "http" else _socks5(self, host, port)


def parse_proxy(given: Any) -> Proxy:
    """A proxy from ``scheme://[user:password@]host[:port]``, or from httpx's ``Proxy`` or ``URL``.

    Schemes: http, socks5, socks5h (names are resolved by the proxy in both).
    Raises ValueError for any other, also for https: the hop to the proxy is plain text.
    """
    if isinstance(given, Proxy):
        return given
    auth = getattr(given, "raw_auth", None)
    headers = getattr(given, "headers", None)
    parts = urlsplit(str(getattr(given, "url", given)))
    scheme = parts.scheme.lower()
    if scheme not in _PORTS or not parts.hostname:
        shown = f"{scheme}://{parts.hostname or ''}"  # never the password
        raise ValueError(f"a proxy is http://, socks5:// or socks5h://host:port, not {shown!r}")
    username, password = unquote(parts.username or ""), unquote(parts.password or "")
    if auth is not None:
        username, password = (part.decode("utf-8") for part in auth)
    return Proxy(
        "http" if scheme == "http" else "socks5",
        parts.hostname,
        parts.port or _PORTS[scheme],
        username,
        password,
        tuple(headers.raw) if headers is not None else (),
    )


def _connect(proxy: Proxy, host: str, port: int) -> Handshake:
    asked = _ascii(host)
    authority = f"[{asked}]:{port}" if ":" in asked else f"{asked}:{port}"
    lines = [f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}".encode()]
    for name, value in proxy.own_headers:
        if b"\r" in name + value or b"\n" in name + value:
            raise ProxyError(f"{proxy}: a header for the proxy contains CR or LF")
        lines.append(name + b": " + value)
    head = bytearray()
    send = b"\r\n".join(lines) + _END
    while not head.endswith(_END):
        if len(head) > _MAX_HEAD:
            raise ProxyError(f"{proxy} answers CONNECT {authority} without end")
        got = yield send, _until_end(head)
        send = b""
        if not got:
            raise ProxyError(f"{proxy} hung up on CONNECT {authority}")
        head += got
    line = bytes(head.partition(b"\r\n")[0])
    version, _, status = line.partition(b" ")
    if not version.startswith(b"HTTP/1.") or not status[:3].isdigit():
        raise ProxyError(f"{proxy} is no HTTP proxy: it says {line[:80]!r}")
    if not status.startswith(b"2"):
        answer = status[:200].decode("latin-1")
        raise ProxyError(f"{proxy} answers CONNECT {authority} with {answer}")


def _until_end(head: bytearray) -> int:
    """The fewest bytes that can complete the head: reading no more, nothing is read ahead."""
    for missing in (1, 2, 3):
        if head.endswith(_END[:-missing]):
            return missing
    return 4


def _socks5(proxy: Proxy, host: str, port: int) -> Handshake:
    wants_auth = bool(proxy.username or proxy.password)
    answer = yield from _exactly(proxy, b"\x05\x02\x00\x02" if wants_auth else b"\x05\x01\x00", 2)
    if answer[0] != 5:
        raise ProxyError(f"{proxy} is no SOCKS5 proxy")
    if answer[1] == 2 and wants_auth:
        yield from _authenticate(proxy)
    elif answer[1] != 0:
        raise ProxyError(f"{proxy} wants another authentication")
    request = b"\x05\x01\x00" + _socks_address(host) + port.to_bytes(2, "big")
    answer = yield from _exactly(proxy, request, 4)
    if answer[1] != 0:
        why = _SOCKS_ERRORS.get(answer[1], f"error {answer[1]}")
        raise ProxyError(f"{proxy} has no tunnel to {host}:{port}: {why}")
    length = {1: 4, 4: 16}.get(answer[3])
    if length is None:
        length = (yield from _exactly(proxy, b"", 1))[0]
    yield from _exactly(proxy, b"", length + 2)


def _authenticate(proxy: Proxy) -> Handshake:
    username, password = proxy.username.encode(), proxy.password.encode()
    if not 0 < len(username) < 256 or not 0 < len(password) < 256:
        raise ProxyError(f"{proxy}: name and password have 1 to 255 bytes each")
    sign_in = bytes((1, len(username))) + username + bytes((len(password),)) + password
    answer = yield from _exactly(proxy, sign_in, 2)
    if answer[1] != 0:
        raise ProxyError(f"{proxy} refuses the name or the password")


def _exactly(proxy: Proxy, send: bytes, count: int) -> Generator[tuple[bytes, int], bytes, bytes]:
    got = b""
    while len(got) < count:
        more = yield send, count - len(got)
        send = b""
        if not more:
            raise ProxyError(f"{proxy} hung up during the SOCKS5 handshake")
        got += more
    return got


def _socks_address(host: str) -> bytes:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = _ascii(host).encode()
        if len(name) > 255:
            raise ProxyError("a name of more than 255 bytes cannot be asked of SOCKS5") from None
        return b"\x03" + bytes((len(name),)) + name
    return (b"\x01" if address.version == 4 else b"\x04") + address.packed


def _ascii(host: str) -> str:
    if any(c <= " " or c == "\x7f" for c in host):
        raise ProxyError(f"no host name: {host!r}")
    return host if host.isascii() else host.encode("idna").decode()


__all__ = ["Handshake", "Proxy", "ProxyError", "parse_proxy"]
