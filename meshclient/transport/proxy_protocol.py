"""The PROXY protocol header, which tells a server behind a proxy who connects.

Pure: addresses in, bytes out. Source: HAProxy's ``proxy-protocol.txt``,
versions 1 (2.1) and 2 (2.2); Envoy ``proxy_protocol_header.cc``.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Any, Final, Literal

Version = Literal["v1", "v2"]

_SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
_PROXY: Final = 0x21  # version 2, command PROXY
_LOCAL: Final = 0x20  # version 2, command LOCAL
_TCP4, _TCP6 = 0x11, 0x21


def header(version: Version, source: Any, destination: Any) -> bytes:
    """What a connection begins with, before TLS.

    ``source`` and ``destination`` are what ``getsockname`` and ``getpeername`` of the
    connected socket give. Of anything but TCP over IP (a unix socket) version 1 says
    ``UNKNOWN`` and version 2 ``LOCAL``: for senders that have nothing to tell.
    """
    ends = _ip_ends(source, destination)
    if version == "v1":
        return _version_1(ends)
    return _version_2(ends)


_End = tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]


def _ip_ends(source: Any, destination: Any) -> tuple[_End, _End] | None:
    if not (isinstance(source, tuple) and isinstance(destination, tuple)):
        return None
    return _end(source), _end(destination)


def _end(place: tuple[Any, ...]) -> _End:
    host = str(place[0]).partition("%")[0]  # a scope means nothing to the other side
    return ipaddress.ip_address(host), int(place[1])


def _version_1(ends: tuple[_End, _End] | None) -> bytes:
    if ends is None:
        return b"PROXY UNKNOWN\r\n"
    (source, source_port), (destination, port) = ends
    return f"PROXY TCP{source.version} {source} {destination} {source_port} {port}\r\n".encode()


def _version_2(ends: tuple[_End, _End] | None) -> bytes:
    if ends is None:
        return _SIGNATURE + struct.pack("!BBH", _LOCAL, 0, 0)
    (source, source_port), (destination, port) = ends
    family = _TCP4 if source.version == 4 else _TCP6
    addresses = source.packed + destination.packed + struct.pack("!HH", source_port, port)
    return _SIGNATURE + struct.pack("!BBH", _PROXY, family, len(addresses)) + addresses
