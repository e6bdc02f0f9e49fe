"""One HTTP/2 connection, sans I/O: streams, windows, settings, endings (RFC 9113).

Bytes go in and out, streams change; both shells stand on it. No socket, no
event loop, no clock (``now`` is an argument) and no choice of connection; the
header list of a request is :mod:`meshclient.transport.http2_request`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from meshclient.model.cluster import ConnectionOptions
from meshclient.transport import http2_frames as wire
from meshclient.transport.http2_decoder import Decoder, HpackError
from meshclient.transport.http2_frames import Violation
from meshclient.transport.http2_sending import (
    CONNECTION_WINDOW,
    MAX_STREAMS,
    PING_DATA,
    Http2Sender,
)
from meshclient.transport.http2_stream import Stream, Unprocessed, protocol_error, reset_error
from meshclient.transport.interface import DEFAULT_OPTIONS, WireError
from meshclient.transport.tls_policy import HTTP2_PROTOCOLS

#: Frames without use (PING, SETTINGS, empty DATA ...) borne at once, and how fast that recovers.
IDLE_FRAMES: Final = 1000
IDLE_FRAMES_PER_S: Final = 100
#: PING and SETTINGS answers that may pile up while the peer does not read.
#: Source: Envoy, source/common/http/http2/protocol_constraints.h (max_outbound_control_frames).
MAX_UNREAD_ANSWERS: Final = 1000
UNREAD: Final = "the server does not read the answers it asks for"

_Touched = dict[Stream, None]


class Http2Core(Http2Sender):
    """Streams on one connection. Not thread-safe.

    ``feed`` what arrives: it returns the streams that changed. Fetch what is to
    be written with ``outgoing`` after every call. ``settled``: the peer's SETTINGS
    are here. ``answered``: how many frames had to be answered. ``leaving``: no further
    stream fits (GOAWAY, too many resets, ids used up). ``broken``: the connection is of
    no use any more, and why.
    """

    __slots__ = (
        "_allowance",
        "_allowed_at",
        "_decoder",
        "_may_receive",
        "_reader",
        "_unreturned",
        "_upload_frames",
        "answered",
        "received",
        "settled",
        "windows_opened",
    )

    def __init__(self, options: ConnectionOptions = DEFAULT_OPTIONS) -> None:
        super().__init__(options)
        limit = options.max_response_header_kb * 1024
        self._decoder = Decoder(limit)
        # Longer lists still pass the decoder, for its table, and fail their own stream only.
        self._reader = wire.Reader(2 * limit)
        self._may_receive = CONNECTION_WINDOW
        self.settled = self.windows_opened = False
        self.received = self.answered = 0
        self._unreturned = self._upload_frames = 0
        self._allowance = float(IDLE_FRAMES)
        self._allowed_at = 0.0

    def feed(self, data: bytes, now: float) -> list[Stream]:
        """Take what arrived; returns the streams that changed."""
        if self.broken is not None:
            return []
        self.received += 1
        touched: _Touched = {}
        try:
            useless = self._read(data, touched)
            if useless and not self._bearable(useless, now):
                raise Violation(wire.ENHANCE_YOUR_CALM, "a flood of control frames")
        except Violation as error:
            self._out.append(wire.goaway(error.code))
            self.fail(protocol_error(f"invalid HTTP/2: {error}"), error, touched)
            return list(touched)
        if self._unreturned * 2 >= CONNECTION_WINDOW:
            back, self._unreturned = self._unreturned, 0
            self._may_receive += back
            self._out.append(wire.window_update(0, back))
        return list(touched)

    def _read(self, data: bytes, touched: _Touched) -> int:
        """Every whole frame; how many of them were without use. Raises Violation."""
        useless = 0
        for kind, flags, stream_id, payload in self._reader.frames(data):
            action = _ACTIONS.get(kind)
            if action is None:
                useless += 1  # an extension, to be ignored (RFC 9113 section 4.1)
            else:
                useless += action(self, flags, stream_id, payload, touched)
        return useless

    def _bearable(self, frames: int, now: float) -> bool:
        earned = (now - self._allowed_at) * IDLE_FRAMES_PER_S
        self._allowance = min(IDLE_FRAMES, self._allowance + earned) - frames
        self._allowed_at = now
        return self._allowance >= 0

    def fail(
        self,
        error: WireError,
        cause: BaseException | None = None,
        touched: _Touched | None = None,
    ) -> None:
        """The connection is over: every open stream ends with ``error``'s like."""
        self.broken = error
        error.__cause__ = cause
        streams = [s for s in self.streams.values() if not s.complete]
        self.streams.clear()
        for stream in streams:
            copy = WireError(error.reason, error.sent, str(error), reused=error.reused)
            copy.__cause__ = cause
            stream.error = copy
            if touched is not None:
                touched[stream] = None

    # One kind of frame each; 1 when it was without use. All may raise Violation.

    def _find(self, stream_id: int) -> Stream | None:
        """None: closed already. A stream that never was is a violation (section 5.1)."""
        stream = self.streams.get(stream_id)
        if stream is None and (stream_id % 2 == 0 or stream_id >= self._next_id):
            raise Violation(wire.PROTOCOL_ERROR, f"a frame of stream {stream_id}, which never was")
        return stream

    def _settle(self, stream: Stream, wrong: str, end: bool, touched: _Touched) -> None:
        """After a piece of a response: go on, or end it."""
        if end and not wrong:
            wrong = stream.on_end()
        touched[stream] = None
        if wrong:
            if not stream.complete:  # else it is answered, whatever became of the upload
                stream.error = protocol_error(f"invalid response: {wrong}")
            self._reset(stream, wire.PROTOCOL_ERROR)
        elif stream.complete and stream.ended:
            self._drop(stream)

    def _on_data(self, flags: int, stream_id: int, payload: bytes, touched: _Touched) -> int:
        size = len(payload)
        self._may_receive -= size
        self._unreturned += size
        stream = self._find(stream_id)
        if flags & wire.PADDED:
            payload = wire.unpadded(flags, payload)
        if self._may_receive < 0 or (stream is not None and size > stream.may_receive):
            raise Violation(wire.FLOW_CONTROL_ERROR, "more than the window allows")
        if stream is None:
            # On its way when the stream was reset: as much as its window allowed.
            self._late -= size
            return 0 if payload and self._late >= 0 else 1
        if stream.complete:
            self._reset(stream, wire.STREAM_CLOSED)
            return 1
        stream.may_receive -= size
        end = flags & wire.END_STREAM != 0
        self._settle(stream, stream.on_data(payload), end, touched)
        if size > len(payload):
            self.consumed(stream, size - len(payload))
        return 0 if payload or end else 1

    def _on_headers(self, flags: int, stream_id: int, block: bytes, touched: _Touched) -> int:
        try:
            # Also for a stream that is over: the tables of both sides must stay equal.
            fields, wrong = self._decoder.decode(block)
        except HpackError as error:
            raise Violation(wire.COMPRESSION_ERROR, str(error)) from error
        stream = self._find(stream_id)
        if stream is None:
            return 1
        if stream.complete:
            self._reset(stream, wire.STREAM_CLOSED)
            return 1
        end = flags & wire.END_STREAM != 0
        self._settle(stream, wrong or stream.on_fields(fields, end), end, touched)
        return 0

    def _on_priority(self, _flags: int, stream_id: int, payload: bytes, _touched: _Touched) -> int:
        if stream_id == 0 or len(payload) != 5:
            raise Violation(wire.FRAME_SIZE_ERROR, "PRIORITY of a wrong form")
        return 1

    def _on_reset(self, _flags: int, stream_id: int, payload: bytes, touched: _Touched) -> int:
        code = wire.read_number(payload)
        stream = self._find(stream_id)
        if stream is not None:
            self._drop(stream)
            touched[stream] = None
            if not stream.complete:
                stream.error = reset_error(code)
        return 0  # of a stream that is over: costs nothing, and may cross our own

    def _on_settings(self, flags: int, stream_id: int, payload: bytes, _touched: _Touched) -> int:
        if stream_id or (flags & wire.ACK and payload):
            raise Violation(wire.PROTOCOL_ERROR, "SETTINGS of a wrong form")
        if flags & wire.ACK:
            return 1
        window = self._initial_window
        for name, value in wire.read_settings(payload):
            if name == wire.INITIAL_WINDOW_SIZE:
                window = value
            else:
                self._apply(name, value)
        if window != self._initial_window:
            self._move_windows(window)
        self._out.append(wire.frame(wire.SETTINGS, wire.ACK, 0, b""))
        self.answered += 1
        useless = 1 if self.settled else 0
        self.settled = self.windows_opened = True
        return useless

    def _apply(self, name: int, value: int) -> None:
        """One setting of the peer's; those it has no say in are ignored."""
        if name == wire.HEADER_TABLE_SIZE:
            self._encoder.resize(value)
        elif name == wire.MAX_CONCURRENT_STREAMS:
            self._max_streams = min(value, self._most_streams, MAX_STREAMS)
        elif name == wire.MAX_HEADER_LIST_SIZE:
            self._max_list = value

    def _move_windows(self, initial: int) -> None:
        """Those of all streams, perhaps below zero (RFC 9113 section 6.9.2)."""
        change, self._initial_window = initial - self._initial_window, initial
        for stream in self.streams.values():
            stream.may_send += change
            if stream.may_send > wire.MAX_WINDOW:
                raise Violation(wire.FLOW_CONTROL_ERROR, "a window of more than 2 GiB")

    def _on_stray(self, _flags: int, _stream_id: int, _data: bytes, _touched: _Touched) -> int:
        raise Violation(wire.PROTOCOL_ERROR, "PUSH_PROMISE, or CONTINUATION of nothing")

    def _on_ping(self, flags: int, stream_id: int, payload: bytes, _touched: _Touched) -> int:
        if stream_id or len(payload) != 8:
            raise Violation(wire.FRAME_SIZE_ERROR, "PING of a wrong form")
        if flags & wire.ACK:
            if payload == PING_DATA:
                self.awaits_pong = False
            return 1
        self._out.append(wire.frame(wire.PING, wire.ACK, 0, payload))
        self.answered += 1
        return self._paced()

    def _on_goaway(self, _flags: int, stream_id: int, payload: bytes, touched: _Touched) -> int:
        if stream_id or len(payload) < 8:
            raise Violation(wire.FRAME_SIZE_ERROR, "GOAWAY of a wrong form")
        last = int.from_bytes(payload[:4], "big") & wire.MAX_STREAM_ID
        # The streams up to the last one may finish (RFC 9113 section 6.8).
        self.leaving = True
        for stream in [s for s in self.streams.values() if s.id > last]:
            self._drop(stream)
            touched[stream] = None
            if stream.status and not stream.complete:
                # It began to answer: whatever it says now, it has looked at the request.
                stream.error = protocol_error("the server leaves in the middle of the response")
            elif not stream.complete:
                stream.error = Unprocessed()
        return 1

    def _on_window(self, _flags: int, stream_id: int, payload: bytes, touched: _Touched) -> int:
        size = wire.read_number(payload) & wire.MAX_WINDOW
        stream = self._find(stream_id) if stream_id else None
        if stream is not None:
            stream.may_send += size
            if not size or stream.may_send > wire.MAX_WINDOW:
                self._settle(stream, "a wrong WINDOW_UPDATE", False, touched)
        elif not stream_id:
            self._may_send += size
            if not size or self._may_send > wire.MAX_WINDOW:
                raise Violation(wire.FLOW_CONTROL_ERROR, "a wrong WINDOW_UPDATE")
        self.windows_opened = True
        return self._paced()

    def _paced(self) -> int:
        """WINDOW_UPDATE and PING: who takes uploads sends these all the time, also when the last
        byte is long here, and measures the path with them (gRPC in Go does, once a round trip).
        They are without use beyond what the uploads explain.

        Source: Envoy, source/common/http/http2/protocol_constraints.cc
        (max_inbound_window_update_frames_per_data_frame_sent), which ends the connection at
        this number of WINDOW_UPDATE frames, and has no limit for a PING that it can answer.
        """
        self._upload_frames += 1
        opened = self._next_id // 2
        return 1 if self._upload_frames > 5 + 2 * (opened + 10 * self._data_sent) else 0


def speaks_http2(protocol: str, tls: object) -> bool:
    """Whether a new connection does, given the target's protocol and its TLS object."""
    chosen = getattr(tls, "selected_alpn_protocol", lambda: None)()
    return protocol == "h2" or chosen in HTTP2_PROTOCOLS


_ACTIONS: Final[dict[int, Callable[[Any, int, int, bytes, _Touched], int]]] = {
    wire.DATA: Http2Core._on_data,
    wire.HEADERS: Http2Core._on_headers,
    wire.PRIORITY: Http2Core._on_priority,
    wire.RST_STREAM: Http2Core._on_reset,
    wire.SETTINGS: Http2Core._on_settings,
    wire.PUSH_PROMISE: Http2Core._on_stray,
    wire.PING: Http2Core._on_ping,
    wire.GOAWAY: Http2Core._on_goaway,
    wire.WINDOW_UPDATE: Http2Core._on_window,
    wire.CONTINUATION: Http2Core._on_stray,
}
