"""A small proxy on 127.0.0.1: HTTP CONNECT, HTTP forwarding and SOCKS5; a thread a connection.

``asked`` lists what clients wanted (``CONNECT host:port``, ``GET http://...``,
``SOCKS host:port``). ``credentials`` makes it ask for a name and a password.
``names`` says where host names lead; others are resolved by the system.
"""

from __future__ import annotations

import base64
import ipaddress
import socket
import threading
from contextlib import suppress

from servers.http import Peer, RawServer


class ProxyServer(RawServer):
    def __init__(
        self,
        credentials: tuple[str, str] | None = None,
        names: dict[str, tuple[str, int]] | None = None,
        refuse: bytes = b"",
    ) -> None:
        super().__init__(self._serve)
        self.credentials = credentials
        self.names = names or {}
        self.refuse = refuse
        self.asked: list[str] = []

    @property
    def authority(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _serve(self, peer: Peer) -> None:
        first = peer.read(1)
        if first == b"\x05":
            self._socks(peer)
        elif first:
            peer._buffer = first + peer._buffer
            self._http(peer)

    # HTTP

    def _http(self, peer: Peer) -> None:
        head = peer.read_head()
        if not head:
            return
        line, _, rest = head.partition(b"\r\n")
        method, where, _version = line.split(b" ")
        self.asked.append(f"{method.decode()} {where.decode()}")
        if self.refuse:
            peer.send(b"HTTP/1.1 " + self.refuse + b"\r\nContent-Length: 0\r\n\r\n")
        elif not self._knows(rest):
            peer.send(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        elif method == b"CONNECT":
            host, _, port = where.decode().rpartition(":")
            self._tunnel(peer, host, int(port), b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            self._forward(peer, method, where.decode(), rest)

    def _knows(self, head: bytes) -> bool:
        if self.credentials is None:
            return True
        wanted = base64.b64encode(":".join(self.credentials).encode())
        return b"Basic " + wanted in head

    def _forward(self, peer: Peer, method: bytes, url: str, rest: bytes) -> None:
        """One request and its answer; the connection to the origin ends with it."""
        authority, _, path = url.removeprefix("http://").partition("/")
        host, _, port = authority.partition(":")
        lines = [n for n in rest.split(b"\r\n") if not n.lower().startswith(b"proxy-")]
        with self._dial(host, int(port or 80)) as origin:
            head = b"%b /%b HTTP/1.1\r\nConnection: close\r\n" % (method, path.encode())
            origin.sendall(head + b"\r\n".join(lines) + peer._buffer)
            while data := origin.recv(65536):
                peer.send(data)

    # SOCKS5

    def _socks(self, peer: Peer) -> None:
        methods = peer.read(peer.read(1)[0])
        if self.credentials is None:
            peer.send(b"\x05\x00" if 0 in methods else b"\x05\xff")
        elif 2 not in methods:
            peer.send(b"\x05\xff")
            return
        else:
            peer.send(b"\x05\x02")
            if not self._signed_in(peer):
                return
        _, _, _, kind = peer.read(4)
        host = self._socks_host(peer, kind)
        port = int.from_bytes(peer.read(2), "big")
        self.asked.append(f"SOCKS {host}:{port}")
        if self.refuse:
            peer.send(b"\x05\x02\x00\x01" + bytes(6))
            return
        self._tunnel(peer, host, port, b"\x05\x00\x00\x03\x04here\x00\x00")

    def _signed_in(self, peer: Peer) -> bool:
        assert self.credentials is not None
        peer.read(1)
        name = peer.read(peer.read(1)[0]).decode()
        password = peer.read(peer.read(1)[0]).decode()
        good = (name, password) == self.credentials
        peer.send(b"\x01\x00" if good else b"\x01\x01")
        return good

    def _socks_host(self, peer: Peer, kind: int) -> str:
        if kind == 3:
            return peer.read(peer.read(1)[0]).decode()
        return str(ipaddress.ip_address(peer.read(4 if kind == 1 else 16)))

    # both

    def _dial(self, host: str, port: int) -> socket.socket:
        return socket.create_connection(self.names.get(host, (host.strip("[]"), port)), 5)

    def _tunnel(self, peer: Peer, host: str, port: int, welcome: bytes) -> None:
        with self._dial(host, port) as origin:
            peer.send(welcome)
            origin.sendall(peer._buffer)
            back = threading.Thread(target=_copy, args=(origin, peer.sock), daemon=True)
            back.start()
            _copy(peer.sock, origin)
            back.join(5)


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for sock in (source, sink):
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
