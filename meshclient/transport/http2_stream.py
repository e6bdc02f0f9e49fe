"""One HTTP/2 stream as the wire sees it: head, body, trailers, or how it failed.

No I/O, no clock, and nothing about the connection, which is
:mod:`meshclient.transport.http2`.
"""

from __future__ import annotations

from typing import Any

from h2 import events
from h2.errors import ErrorCodes

from meshclient.model.outcome import ResetReason
from meshclient.transport.http1 import MAX_HEADERS, MAX_INTERIM
from meshclient.transport.interface import Headers, WireError


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
    """

    __slots__ = (
        "_chunks",
        "_expected",
        "_head_only",
        "_interim",
        "buffered",
        "complete",
        "ended",
        "error",
        "head_complete",
        "headers",
        "id",
        "owner",
        "status",
        "trailers",
        "unreturned",
    )

    def __init__(self, stream_id: int, head_only: bool) -> None:
        self.id = stream_id
        self.status = 0
        self.headers: Headers = []
        self.trailers: Headers = []
        self.head_complete = self.complete = self.ended = False
        self.error: WireError | None = None
        self.owner: Any = None
        self.buffered = self.unreturned = 0
        self._head_only = head_only
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

    def on_head(self, headers: list[tuple[bytes, bytes]]) -> str:
        """The final response head; what is wrong with it, or ""."""
        if len(headers) > MAX_HEADERS:
            return "too many headers"
        self.headers = [(name, value) for name, value in headers if name[0] != 58]
        self.status = int(headers[0][1]) if headers[0][1].isdigit() else 0
        if not 200 <= self.status <= 999:
            return "invalid status"
        self.head_complete = True
        if self._head_only or self.status in (204, 304):
            self._expected = 0
            return ""
        lengths = {value for name, value in headers if name == b"content-length"}
        if lengths:
            text = lengths.pop()
            if lengths or not text.isdigit() or len(text) > 18:
                return "invalid content-length"
            self._expected = int(text)
        return ""

    def on_data(self, data: bytes) -> str:
        """A piece of the body."""
        if self._expected >= 0:
            self._expected -= len(data)
            if self._expected < 0:
                return "a longer body than its content-length"
        if data:
            self._chunks.append(data)
            self.buffered += len(data)
        return ""

    def on_interim(self) -> str:
        """A 1xx response, which is skipped."""
        self._interim += 1
        return "too many informational responses" if self._interim > MAX_INTERIM else ""

    def on_end(self) -> str:
        """The peer's side is whole."""
        if self._expected > 0:
            return "a shorter body than its content-length"
        self.complete = True
        return ""


def on_event(stream: Stream, event: Any) -> tuple[int, str]:
    """Whether the frame was without use, and what is wrong with it."""
    if isinstance(event, events.DataReceived):
        return (0 if event.data or event.stream_ended else 1), stream.on_data(event.data)
    if isinstance(event, events.ResponseReceived):
        return 0, stream.on_head(event.headers)
    if isinstance(event, events.StreamEnded):
        return 0, stream.on_end()
    if isinstance(event, events.TrailersReceived):
        stream.trailers = [(name, value) for name, value in event.headers]
        return 0, ""
    if isinstance(event, events.InformationalResponseReceived):
        return 0, stream.on_interim()
    return 1, ""


def reset_error(event: Any) -> WireError:
    """What an RST_STREAM means."""
    code = event.error_code
    name = code.name if isinstance(code, ErrorCodes) else str(code)
    if not event.remote_reset:
        return protocol_error(f"invalid HTTP/2 on the stream: {name}")
    if code == ErrorCodes.REFUSED_STREAM:
        message = "the server refused the stream without looking at it"
        return WireError(ResetReason.REFUSED_STREAM, False, message)
    return WireError(ResetReason.REMOTE_RESET, True, f"the server reset the stream: {name}")


def protocol_error(message: str) -> WireError:
    """The peer broke the rules."""
    return WireError(ResetReason.PROTOCOL_ERROR, True, message)
