"""HTTP/1.1 responses from bytes, sans I/O, on llhttp's strict mode (httptools).

One :class:`ResponseParser` serves one connection, request after request, for
both shells. No socket, no clock, no event loop; requests are written by
:mod:`meshclient.transport.http1_request`.
"""

from __future__ import annotations

from typing import Final

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from meshclient.model.outcome import ResetReason
from meshclient.transport.interface import DEFAULT_OPTIONS, Headers, WireError
from meshclient.transport.trailers import may_be_trailer

#: Default size limit of a response head, and of trailers: 80 KiB.
MAX_HEAD_BYTES: Final = DEFAULT_OPTIONS.max_response_header_kb * 1024
#: Default limit of header lines in a response head, and of trailers: 100.
MAX_HEADERS: Final = DEFAULT_OPTIONS.max_response_headers
#: Informational (1xx) responses skipped before the final one.
MAX_INTERIM: Final = 32

_VERSIONS: Final = {"1.1": b"HTTP/1.1", "1.0": b"HTTP/1.0"}
_NEWLINES: Final = frozenset(b"\r\n")
_HEAD_END: Final = b"\r\n\r\n"
_OWS: Final = b" \t"
#: More bytes than any connection carries.
_ENDLESS: Final = 1 << 62
_INTERIM_OF_LLHTTP: Final = frozenset((100, 102, 103))
_FRAMING: Final = frozenset((b"content-length", b"transfer-encoding"))


class _Surplus(Exception):
    """Bytes after the response; raised to stop the parser, never seen outside."""


class ResponseParser:
    """Bytes in, one response out. Not thread-safe.

    ``start()``, then ``feed()`` until ``complete``; ``eof()`` when the peer has
    closed. After each feed: ``head_complete`` says that status, reason, version
    and headers stand, ``take()`` gives the body bytes that came so far.
    ``keep_alive`` is valid once ``complete``: False when the peer will close,
    or when it sent more than the one response, which then is never read.
    ``continued`` says that a 100 came. ``upgraded`` holds the first bytes of the
    other protocol once a 101 stands, which only ``start(upgrade=True)`` allows, or
    those of a tunnel once a 2xx does after ``start(tunnel=True)``. ``trailers`` are
    whole once ``complete``; None: there were none.

    A head of over ``max_head_bytes`` (interim ones included) or ``max_headers`` lines is
    refused, and so are such trailers.
    """

    __slots__ = (
        "_chunked",
        "_chunks",
        "_head_only",
        "_interim",
        "_left",
        "_max_head",
        "_max_headers",
        "_parser",
        "_refusal",
        "_silent",
        "_tail",
        "_tunnel",
        "_upgrade",
        "complete",
        "continued",
        "head_complete",
        "headers",
        "keep_alive",
        "reason",
        "started",
        "status",
        "trailers",
        "upgraded",
        "version",
    )

    def __init__(
        self, max_head_bytes: int = MAX_HEAD_BYTES, max_headers: int = MAX_HEADERS
    ) -> None:
        self._max_head = max_head_bytes
        self._max_headers = max_headers
        self._parser = HttpResponseParser(self)
        self.start(False)

    def start(self, head_only: bool, upgrade: bool = False, tunnel: bool = False) -> None:
        """Expect the response to one request; ``head_only``: it was a HEAD; ``upgrade``:
        it asked for another protocol; ``tunnel``: it was a CONNECT."""
        self.status = 0
        self.reason = b""
        self.version = b""
        self.headers: Headers = []
        self.started = self.head_complete = self.complete = self.keep_alive = False
        self.continued = False
        self.upgraded: bytes | None = None
        self.trailers: Headers | None = None
        # Of these two llhttp cannot know that no body follows, so it never sees past the head.
        self._head_only = head_only or tunnel
        self._tunnel = tunnel
        self._upgrade = upgrade and not head_only
        self._chunked = False
        self._chunks: list[bytes] = []
        self._interim = self._silent = 0
        #: Body bytes to come that nobody needs to parse; 0: what comes is parsed.
        self._left = 0
        self._tail = self._refusal = b""

    def feed(self, data: bytes) -> None:
        """Parse what arrived. Raises WireError(PROTOCOL_ERROR) unless it is HTTP/1."""
        if self._left:
            self._pass_on(data)
            return
        if self._head_only:
            self._feed_head_only(data)
            return
        had_head, interim, pieces = self.head_complete, self._interim, len(self._chunks)
        before = self._silent
        self._execute(data)
        if self.status == 101:
            self._check_upgrade()
        elif self.complete:
            # llhttp swallows line ends between messages silently; any other
            # surplus byte shows up as the begin of a second message.
            if data[-1] in _NEWLINES and self.keep_alive:
                heads = 0 if had_head else self._interim - interim + 1
                self.keep_alive = self._ends_exactly(data, heads, pieces)
        else:
            self._account(data, len(self._chunks) > pieces)
        if not had_head and self.head_complete:
            if before + len(data) > self._max_head:
                self._check_head_end(before + data.find(_HEAD_END))
            if not self.complete:
                self._count_rest()

    def eof(self) -> bool:
        """The peer closed. True if that is how this response properly ends."""
        if self.complete:
            return True
        if not self.head_complete or self._chunked:
            return False
        if any(name.lower() == b"content-length" for name, _ in self.headers):
            return False
        self.complete = True
        return True

    def take(self) -> bytes:
        """The body bytes parsed since the last call."""
        chunks = self._chunks
        if not chunks:
            return b""
        self._chunks = []
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def untaken(self) -> int:
        """How many body bytes ``take`` would give."""
        return sum(map(len, self._chunks))

    def _count_rest(self) -> None:
        """The rest of a body that ends by its length, or with the connection, needs no parser:
        it is counted, and handed on as it came."""
        framing = {name.lower(): value for name, value in self.headers}
        if b"transfer-encoding" not in framing:
            # llhttp has seen to it that there is one length at most, in digits.
            length = framing.get(b"content-length")
            self._left = _ENDLESS if length is None else int(length) - self.untaken()

    def _pass_on(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left > 0:
            self._chunks.append(data)
            return
        surplus, self._left = -self._left, 0
        self._chunks.append(data[: len(data) - surplus])
        self.complete = True
        self.keep_alive = not surplus and self._parser.should_keep_alive()
        self._parser = HttpResponseParser(self)  # the old one waits for the body

    def _execute(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            context = error.__context__
            if context is not None and not isinstance(context, Exception):
                raise context from None  # KeyboardInterrupt inside a callback
            self._parser = HttpResponseParser(self)
            if not self.complete:
                raise _protocol_error(str(error)) from error
            self.keep_alive = False
            if isinstance(error, HttpParserUpgrade) and not self._head_only:
                self.upgraded = bytes(data[error.args[0] :])
        if self._refusal:
            raise _protocol_error(self._refusal.decode())

    def _check_upgrade(self) -> None:
        """A 101 has to be asked for and to name its protocol (RFC 9110 section 15.2.2)."""
        if self.upgraded is None:
            raise _protocol_error("101 Switching Protocols out of place")

    def _account(self, data: bytes, progress: bool) -> None:
        """Bound what may arrive without giving body bytes: heads and trailers."""
        self._tail = (self._tail + data)[-4:]
        self._silent = 0 if progress else self._silent + len(data)
        self._check_head_end(self._silent)

    def _check_head_end(self, position: int) -> None:
        if position > self._max_head:
            raise _protocol_error(f"response head over {self._max_head} bytes")

    def _ends_exactly(self, data: bytes, heads: int, pieces: int) -> bool:
        """No line end follows the message in ``data``, where ``heads`` heads end."""
        if self._chunked:
            text = self._tail + data
            return text.endswith(_HEAD_END) and not text.endswith(b"\n" + _HEAD_END)
        text = self._tail[-3:] + data
        end = 0 if heads else len(text) - len(data)
        for _ in range(heads):
            end = text.find(_HEAD_END, end) + 4
        return len(text) - end == sum(map(len, self._chunks[pieces:]))

    def _feed_head_only(self, data: bytes) -> None:
        """Head by head, each cut off exactly where it ends."""
        while data and not self.complete:
            at = (self._tail[-3:] + data).find(_HEAD_END)
            end = len(data) if at < 0 else at + 4 - len(self._tail[-3:])
            part, data = data[:end], data[end:]
            self._execute(part)
            self._account(part, False)
            if self.head_complete:
                self._check_head_end(self._silent)
                if self._tunnel and not 200 <= self.status < 300:
                    self._refused_tunnel(data)
                    return
                self._parser = HttpResponseParser(self)
                self.complete = True
                if self._tunnel:  # RFC 9110 section 9.3.6: whatever its headers say
                    self.upgraded, self.keep_alive = data, False
                else:
                    self.keep_alive = not data and self._persistent()

    def _refused_tunnel(self, data: bytes) -> None:
        """An ordinary response after all, whose body may begin in ``data``."""
        self._head_only = False
        if data and self.complete:
            self.keep_alive = False  # surplus
        elif data:
            self.feed(data)

    def _persistent(self) -> bool:
        """RFC 9112 section 9.3, without the framing that HEAD does not have."""
        values = [v.lower() for n, v in self.headers if n.lower() == b"connection"]
        options = {option.strip() for value in values for option in value.split(b",")}
        if b"close" in options or self.status == 101:
            return False
        return self.version == b"HTTP/1.1" or b"keep-alive" in options

    # Callbacks of httptools; an exception in here stops the parser.

    def on_message_begin(self) -> None:
        if self.complete:
            raise _Surplus
        self.started = True

    def on_status(self, reason: bytes) -> None:
        self.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head_complete:
            self._add_trailer(name, value.rstrip(_OWS))
            return
        if len(name) == 17 and name.lower() == b"transfer-encoding":
            self._check_coding(value.strip(_OWS).lower())
        self.headers.append((name, value.rstrip(_OWS)))

    def _add_trailer(self, name: bytes, value: bytes) -> None:
        # (llhttp itself refuses a second Content-Length here.)
        if name.lower() == b"transfer-encoding":
            self._refusal = b"framing in the trailers"
        trailers = self.trailers = self.trailers or []
        if may_be_trailer(name):
            trailers.append((name, value))
        size = sum(len(name) + len(value) + 4 for name, value in trailers)
        if len(trailers) > self._max_headers or size > self._max_head:
            self._refusal = b"too many trailers"

    def _check_coding(self, coding: bytes) -> None:
        # Anything but "chunked" would reach the caller still encoded; and two
        # parties that read such a list differently are how smuggling starts.
        if coding == b"chunked" and not self._chunked:
            self._chunked = True
        elif coding != b"identity":
            self._refusal = b"unsupported transfer-encoding"

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        version = _VERSIONS.get(self._parser.get_http_version())
        if version is None or status < 100 or len(self.headers) > self._max_headers:
            self._refusal = b"not an HTTP/1 response head, or too many headers"
            return
        if status < 200 and status != 101:
            self._check_interim(status)
            return
        if status == 101 and not self._upgrade:
            self._refusal = b"101 Switching Protocols out of place"
            return
        self.status = status
        self.version = version
        self.head_complete = True

    def _check_interim(self, status: int) -> None:
        self._interim += 1
        self.continued = self.continued or status == 100
        if self._interim > MAX_INTERIM:
            self._refusal = b"too many informational responses"
        if status not in _INTERIM_OF_LLHTTP:
            # RFC 9112 section 6.1: none has a body. llhttp would read one here, so that what
            # follows would be another party's idea of where the answer begins.
            framing = [v for n, v in self.headers if n.lower() in _FRAMING]
            if any(value != b"0" for value in framing):
                self._refusal = b"an informational response with a body"

    def on_body(self, data: bytes) -> None:
        self._chunks.append(data)

    def on_message_complete(self) -> None:
        if not self.head_complete:
            self.headers = []
            self.reason = b""
            self._chunked = False
            return
        self.complete = True
        self.keep_alive = self.status != 101 and self._parser.should_keep_alive()


def _protocol_error(message: str) -> WireError:
    return WireError(ResetReason.PROTOCOL_ERROR, True, f"invalid response: {message}")
