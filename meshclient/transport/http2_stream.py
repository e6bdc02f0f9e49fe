"""One HTTP/2 stream as the wire sees it: head, body, trailers, or how it failed.

No I/O, no clock, and nothing about the connection, which is
:mod:`meshclient.transport.http2`.
"""

from __future__ import annotations

from typing import Any

from meshclient.model.outcome import ResetReason
from meshclient.transport.http1 import MAX_INTERIM
from meshclient.transport.http2_frames import CODES, REFUSED_STREAM
from meshclient.transport.interface import DEFAULT_OPTIONS, Headers, Target, WireError
from meshclient.transport.trailers import may_be_trailer

_DEFAULT_HEADERS = DEFAULT_OPTIONS.max_response_headers
#: Pieces of an unread body; beyond, they are joined: an object costs more than a byte.
_MAX_CHUNKS = 128


class Unprocessed(WireError):
    """The server left with a GOAWAY that says it has not looked at the stream, so that
    sending it again is no repetition (RFC 9113 section 8.7)."""

    def __init__(self) -> None:
        message = "the server leaves and has not looked at this request"
        super().__init__(ResetReason.REFUSED_STREAM, False, message)


class Stream:
    """One exchange as the wire sees it. ``owner`` is the shell's own.

    ``head_complete``: status and headers stand. ``complete``: body and
    ``trailers``, too. ``error`` ends it early. ``ended``: our side is whole.
    ``may_send`` and ``may_receive``: bytes that the windows of either side leave.
    """

    __slots__ = (
        "_chunks",
        "_expected",
        "_head_only",
        "_interim",
        "_max_headers",
        "buffered",
        "complete",
        "ended",
        "error",
        "head_complete",
        "headers",
        "id",
        "may_receive",
        "may_send",
        "owner",
        "status",
        "trailers",
        "unreturned",
    )

    def __init__(
        self,
        stream_id: int,
        head_only: bool,
        may_send: int = 0,
        may_receive: int = 0,
        max_headers: int = _DEFAULT_HEADERS,
    ) -> None:
        self.id = stream_id
        self.status = 0
        self.headers: Headers = []
        self.trailers: Headers = []
        self.head_complete = self.complete = self.ended = False
        self.error: WireError | None = None
        self.owner: Any = None
        self.buffered = self.unreturned = 0
        self.may_send = may_send
        self.may_receive = may_receive
        self._head_only = head_only
        self._max_headers = max_headers
        self._interim = 0
        self._expected = -1
        self._chunks: list[bytes] = []

    def take(self) -> bytes:
        """The body bytes since the last call; tell the core with ``consumed``."""
        chunks = self._chunks
        if not chunks:
            return b""
        self._chunks = []
        self.buffered = 0
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    # What arrives; each gives what is wrong with it, or "".

    def on_fields(self, fields: Headers, end: bool) -> str:
        """A header list that is sound as such: interim or final response head, or trailers."""
        if len(fields) - 1 > self._max_headers:
            return "too many headers"
        if self.head_complete:
            return self._on_trailers(fields, end)
        name, value = fields[0] if fields else (b"", b"")
        if name != b":status" or len(value) != 3 or not value.isdigit():
            return "no valid :status"
        status = int(value)
        if status < 200:
            return self._on_interim(status, end)
        self.status = status
        self.headers = fields[1:]
        self.head_complete = True
        return self._on_length(fields)

    def _on_length(self, fields: Headers) -> str:
        if self._head_only or self.status in (204, 304):
            self._expected = 0
            return ""
        lengths = [value for name, value in fields if name == b"content-length"]
        if lengths:
            text = lengths[0]
            if lengths.count(text) != len(lengths) or not text.isdigit() or len(text) > 18:
                return "invalid content-length"
            self._expected = int(text)
        return ""

    def _on_interim(self, status: int, end: bool) -> str:
        """A 1xx response, which is skipped."""
        if end or status < 100 or status == 101:  # RFC 9113 sections 8.1 and 8.6
            return f"status {status} out of place"
        self._interim += 1
        return "too many informational responses" if self._interim > MAX_INTERIM else ""

    def _on_trailers(self, fields: Headers, end: bool) -> str:
        if not end:
            return "trailers that do not end the stream"
        if fields and fields[0][0] == b":status":
            return "a pseudo header in the trailers"
        self.trailers = [field for field in fields if may_be_trailer(field[0])]
        return ""

    def on_data(self, data: bytes) -> str:
        """A piece of the body."""
        if not self.head_complete:
            return "a body before its head"
        if data:
            if self._expected >= 0:
                self._expected -= len(data)
                if self._expected < 0:
                    return "a longer body than its content-length"
            chunks = self._chunks
            if len(chunks) >= _MAX_CHUNKS:
                chunks[:] = [b"".join(chunks)]
            chunks.append(data)
            self.buffered += len(data)
        return ""

    def on_end(self) -> str:
        """The peer's side is whole."""
        if self._expected > 0:
            return "a shorter body than its content-length"
        self.complete = True
        return ""


def no_streams(target: Target) -> WireError:
    """A connection whose first words are that it takes no stream (RFC 9113 section 5.1.2)."""
    message = f"{target} takes no streams on a new connection"
    return WireError(ResetReason.CONNECTION_FAILURE, False, message)


def reset_error(code: int) -> WireError:
    """What an RST_STREAM of the peer means."""
    if code == REFUSED_STREAM:
        message = "the server refused the stream without looking at it"
        return WireError(ResetReason.REFUSED_STREAM, False, message)
    name = CODES[code] if code < len(CODES) else str(code)
    return WireError(ResetReason.REMOTE_RESET, True, f"the server reset the stream: {name}")


def protocol_error(message: str) -> WireError:
    """The peer broke the rules."""
    return WireError(ResetReason.PROTOCOL_ERROR, True, message)
