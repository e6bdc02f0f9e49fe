"""HTTP/1.1 requests to bytes, sans I/O: the head, its checks, and body framing.

Nothing here opens, writes or waits. A request that could smuggle a header or
whose body disagrees with its framing is refused before any byte is sent.
"""

from __future__ import annotations

import re
from typing import Final

from meshclient.transport.interface import InvalidRequest, WireRequest

#: Bodies up to this size leave in one write with the head.
SMALL_BODY: Final = 64 * 1024
#: Larger ones leave in slices of this size, each after the last was taken.
SLICE: Final = 256 * 1024
#: Longest wait for ``100 Continue``; then the body goes out anyway (curl's second).
EXPECT_S: Final = 1.0
LAST_CHUNK: Final = b"0\r\n\r\n"
#: ``EncodedRequest.length`` of a chunked body.
CHUNKED: Final = -1

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TARGET = re.compile(rb"[\x21-\x7e]+")
#: host:port, the one form of a CONNECT's target (RFC 9112 section 3.2.3).
_AUTHORITY = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[^][:/?#@]+):[0-9]{1,5}")
#: What no field value may hold: every control but the tab (RFC 9110 section 5.5).
_CONTROLS = bytes([*range(9), *range(10, 32), 127])
_CLOSE = re.compile(rb"\r\nconnection:[^\r]*\bclose\b")
_UPGRADE = re.compile(rb"\r\nconnection:[^\r]*\bupgrade\b")
_EXPECT = re.compile(rb"\r\nexpect:[ \t]*100-continue[ \t]*\r\n")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([^\r]*?)[ \t]*(?=\r\n)")
_CODING = re.compile(rb"\r\ntransfer-encoding:[ \t]*([^\r]*?)[ \t]*(?=\r\n)")
_MAX_CACHED_NAMES = 1024


class _Names(dict[bytes, bytes]):
    """Header name to ``b"\\r\\nName: "``; a name is checked once, then cached (bounded)."""

    def __missing__(self, name: bytes) -> bytes:
        if not _TOKEN.fullmatch(name):
            raise InvalidRequest(f"invalid header name {name[:80]!r}")
        if len(self) >= _MAX_CACHED_NAMES:
            self.clear()
        line = self[name] = b"\r\n" + name + b": "
        return line


_NAMES = _Names()


class EncodedRequest:
    """``head`` with its final empty line; ``length`` of the body (or CHUNKED);
    ``close``: the caller asked for the connection to end after it; ``upgrade``: it
    asks for another protocol; ``expects``: the body waits for a 100; ``tunnel``: it
    is a CONNECT."""

    __slots__ = ("close", "expects", "head", "length", "tunnel", "upgrade")

    def __init__(
        self,
        head: bytes,
        length: int,
        close: bool,
        upgrade: bool = False,
        expects: bool = False,
        tunnel: bool = False,
    ) -> None:
        self.head = head
        self.length = length
        self.close = close
        self.upgrade = upgrade
        self.expects = expects
        self.tunnel = tunnel


def encode_request(request: WireRequest) -> EncodedRequest:
    """Check and serialise the head.

    Raises InvalidRequest for a method or header name that is no token, controls in a
    value, anything but visible ASCII in the target, any number of Host headers but one,
    a CONNECT that could not become a tunnel, and framing headers that contradict each
    other or the body (RFC 9112 sections 3 and 6).
    """
    method = request.method
    target = request.target
    if not _TOKEN.fullmatch(method):
        raise InvalidRequest(f"method {method[:40]!r} cannot be sent")
    if not _TARGET.fullmatch(target):
        raise InvalidRequest(f"invalid request target {target[:80]!r}")
    headers = request.headers
    lines = b"".join([_NAMES[name] + value for name, value in headers])
    # The two that each line begins with, and no other.
    if len(lines) - len(lines.translate(None, _CONTROLS)) != 2 * len(headers):
        raise InvalidRequest("a header value contains CR, LF, NUL or another control")
    framed = lines.lower() + b"\r\n"
    if framed.count(b"\r\nhost:") != 1:
        raise InvalidRequest("a request has one Host header")
    length = _body_length(request.body, framed)
    if length == CHUNKED and b"\r\ntransfer-encoding:" not in framed:
        lines += b"\r\nTransfer-Encoding: chunked"
    head = b"%b %b HTTP/1.1%b\r\n\r\n" % (method, target, lines)
    if method == b"CONNECT":
        _check_connect(request, framed)
        return EncodedRequest(head, 0, True, tunnel=True)
    close = b"close" in framed and _CLOSE.search(framed) is not None
    upgrade = b"\r\nupgrade:" in framed
    if upgrade and request.body is None and _UPGRADE.search(framed) is not None:
        return EncodedRequest(head, length, close, upgrade=True)
    expects = request.body is not None and _EXPECT.search(framed) is not None
    return EncodedRequest(head, length, close, expects=expects)


def _check_connect(request: WireRequest, framed: bytes) -> None:
    if not _AUTHORITY.fullmatch(request.target):
        target = request.target[:80]
        raise InvalidRequest(f"the target of CONNECT is host:port, not {target!r}")
    framing = b"\r\ncontent-length:" in framed or b"\r\ntransfer-encoding:" in framed
    if request.body is not None or framing:
        raise InvalidRequest("CONNECT has no body")


def _body_length(body: object, framed: bytes) -> int:
    has_length = b"\r\ncontent-length:" in framed
    has_coding = b"\r\ntransfer-encoding:" in framed
    if not has_length and not has_coding:
        return 0 if body is None else CHUNKED
    if has_coding:
        if has_length or _CODING.findall(framed) != [b"chunked"] or body is None:
            raise InvalidRequest("transfer-encoding contradicts the body or content-length")
        return CHUNKED
    values = _LENGTH.findall(framed)
    if len(values) != 1 or not re.fullmatch(rb"[0-9]{1,18}", values[0]):
        raise InvalidRequest("invalid content-length")
    length = int(values[0])
    known = 0 if body is None else len(body) if isinstance(body, bytes) else length
    if known != length:
        raise InvalidRequest(f"content-length says {length}, the body has {known} bytes")
    return length


def whole_body(body: bytes, length: int) -> bytes:
    """A body of known bytes, as it goes over the wire."""
    if length != CHUNKED:
        return body
    return (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + LAST_CHUNK


class BodyFraming:
    """Frames a streamed body and holds it to its declared length. One per upload."""

    __slots__ = ("_left", "_length")

    def __init__(self, length: int) -> None:
        self._length = length
        self._left = length

    def frame(self, piece: bytes) -> bytes:
        """The bytes for one piece; empty pieces vanish.

        Raises InvalidRequest beyond the length, and TypeError for what is not bytes.
        """
        if type(piece) is not bytes:
            # A view of wider items counts them; a chunk size counts bytes.
            piece = memoryview(piece).tobytes()
        if self._length == CHUNKED:
            return b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""
        self._left -= len(piece)
        if self._left < 0:
            raise InvalidRequest("the body is longer than its content-length", sent=True)
        return piece

    def end(self) -> bytes:
        """The bytes after the last piece. Raises InvalidRequest when pieces are missing."""
        if self._length == CHUNKED:
            return LAST_CHUNK
        if self._left:
            raise InvalidRequest("the body is shorter than its content-length", sent=True)
        return b""
