"""One HTTP/2 connection, sans I/O, on ``h2``: streams, windows, settings, endings.

Bytes go in and out, streams change; both shells stand on it. No socket, no
event loop, no clock (``now`` is an argument) and no choice of connection; the
header list of a request is :mod:`meshclient.transport.http2_request`.
"""

from __future__ import annotations

from typing import Any, Final

from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import FrameTooLargeError, H2Error
from h2.settings import SettingCodes, Settings
from h2.stream import H2Stream

from meshclient.transport.http1 import MAX_HEAD_BYTES
from meshclient.transport.http2_stream import (
    Stream,
    Unprocessed,
    on_event,
    protocol_error,
    reset_error,
)
from meshclient.transport.interface import InvalidRequest, WireError
from meshclient.transport.tls_policy import HTTP2_PROTOCOLS

#: Streams of one connection at most, whatever the peer allows.
#: Source: Envoy, api/envoy/config/core/v3/protocol.proto (max_concurrent_streams).
MAX_STREAMS: Final = 1024
#: Body bytes of one stream that nobody has read yet; the peer may not send more.
STREAM_WINDOW: Final = 256 * 1024
#: Bytes of all streams on their way. Given back on arrival: a slow reader stops
#: its own stream only.
CONNECTION_WINDOW: Final = 16 * 1024 * 1024
#: Frames without use (PING, SETTINGS, empty DATA ...) borne at once, and how fast that recovers.
IDLE_FRAMES: Final = 1000
IDLE_FRAMES_PER_S: Final = 100
#: Streams that this side may cancel before the connection takes no further ones:
#: servers take many resets for an attack (CVE-2023-44487) and drop everybody on it.
MAX_RESETS: Final = 200

_MAX_HEADER_LIST: Final = MAX_HEAD_BYTES
_FRAME_HEADER: Final = 9
_PING: Final = b"meshping"
_LAST_STREAM_ID: Final = 2**31 - 1


class _Stream(H2Stream):
    """h2 takes a wrong Content-Length for the end of the connection, also on a
    304, where it is right (RFC 9110 section 15.4.5). Lengths are checked here, per stream."""

    def _initialize_content_length(self, headers: Any) -> None: ...


class _Connection(H2Connection):
    """h2 with what a client under load needs."""

    def _begin_new_stream(self, stream_id: int, allowed_ids: Any) -> H2Stream:
        stream = super()._begin_new_stream(stream_id, allowed_ids)
        stream.__class__ = _Stream
        return stream

    def _receive_goaway_frame(self, frame: Any) -> tuple[list[Any], list[events.Event]]:
        # h2 would refuse every later frame, but a GOAWAY lets the streams up to
        # its last one finish (RFC 9113 section 6.8).
        event = events.ConnectionTerminated()
        event.error_code = frame.error_code
        event.last_stream_id = frame.last_stream_id
        event.additional_data = frame.additional_data or None
        return [], [event]

    def _open_streams(self, remainder: int) -> int:
        # h2 walks over all streams at every new one, to count and to tidy up.
        # The core counts by itself, and tidying up can wait.
        if len(self.streams) > 2 * self.live + 32:
            super()._open_streams(remainder)
        return self.live

    live = 0


class Http2Core:
    """Streams on one connection. Not thread-safe.

    ``feed`` what arrives: it returns the streams that changed. Fetch what is to
    be written with ``outgoing`` after every call. ``settled``: the peer's SETTINGS
    are here. ``leaving``: no further stream fits (GOAWAY, too many resets, ids used
    up). ``broken``: the connection is of no use any more, and why.
    """

    __slots__ = (
        "_allowance",
        "_allowed_at",
        "_connection",
        "_unreturned",
        "awaits_pong",
        "broken",
        "leaving",
        "received",
        "resets",
        "settled",
        "streams",
        "windows_opened",
    )

    def __init__(self) -> None:
        config = H2Configuration(
            client_side=True,
            header_encoding=None,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        connection = self._connection = _Connection(config)
        connection.local_settings = Settings(
            client=True,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.MAX_CONCURRENT_STREAMS: 100,
                SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                SettingCodes.MAX_HEADER_LIST_SIZE: _MAX_HEADER_LIST,
            },
        )
        connection.decoder.max_header_list_size = _MAX_HEADER_LIST
        connection.initiate_connection()
        connection.increment_flow_control_window(CONNECTION_WINDOW - 65_535)
        self.streams: dict[int, Stream] = {}
        self.settled = self.leaving = self.windows_opened = self.awaits_pong = False
        self.broken: WireError | None = None
        self.received = self.resets = 0
        self._unreturned = 0
        self._allowance = float(IDLE_FRAMES)
        self._allowed_at = 0.0

    # Outgoing

    def outgoing(self) -> bytes:
        """What has to be written now; call it once per write."""
        return self._connection.data_to_send()

    def room(self) -> int:
        """How many more streams may be opened now."""
        if self.leaving or self.broken is not None:
            return 0
        allowed = self._connection.remote_settings.max_concurrent_streams
        return min(allowed, MAX_STREAMS) - len(self.streams)

    def open(self, headers: list[tuple[bytes, bytes]], end: bool) -> Stream:
        """Send a request head. Raises InvalidRequest for one that the peer refuses to take."""
        connection = self._connection
        limit = connection.remote_settings.max_header_list_size
        if limit is not None and sum(len(n) + len(v) + 32 for n, v in headers) > limit:
            raise InvalidRequest(f"the server takes {limit} bytes of headers at most")
        stream_id = connection.get_next_available_stream_id()
        connection.live = len(self.streams)
        connection.send_headers(stream_id, headers, end_stream=end)
        stream = self.streams[stream_id] = Stream(stream_id, headers[0][1] == b"HEAD")
        stream.ended = end
        if stream_id >= _LAST_STREAM_ID - 2:
            self.leaving = True  # the last id of this connection
        return stream

    def window(self, stream: Stream) -> int:
        """Body bytes that the peer takes now."""
        if self.broken is not None or stream.id not in self.streams:
            return 0
        return self._connection.local_flow_control_window(stream.id)

    def send(self, stream: Stream, data: bytes, end: bool) -> None:
        """Body bytes, at most ``window`` of them; ``end``: no more will follow."""
        connection, size = self._connection, self._connection.max_outbound_frame_size
        for start in range(0, len(data), size):
            last = start + size >= len(data)
            connection.send_data(stream.id, data[start : start + size], end_stream=end and last)
        if end and not data:
            connection.end_stream(stream.id)
        stream.ended = end
        if stream.complete:
            self._drop(stream)

    def cancel(self, stream: Stream) -> None:
        """Nobody waits for this stream any more; idempotent, the others go on."""
        if self.streams.get(stream.id) is stream:
            self._reset(stream, ErrorCodes.CANCEL)

    def _reset(self, stream: Stream, code: ErrorCodes) -> None:
        self._drop(stream)
        self.resets += 1
        if self.resets >= MAX_RESETS:
            self.leaving = True
        if self.broken is None:
            # The peer's end may have closed it already.
            self._quietly(self._connection.reset_stream, stream.id, code)

    def _quietly(self, action: Any, *arguments: Any) -> None:
        try:
            action(*arguments)
        except H2Error:
            return

    def _drop(self, stream: Stream) -> None:
        self.streams.pop(stream.id, None)

    def consumed(self, stream: Stream, size: int) -> None:
        """The reader took ``size`` bytes: the peer may send as many again."""
        stream.unreturned += size
        if stream.unreturned * 2 < STREAM_WINDOW or stream.complete:
            return
        if self.broken is None and stream.id in self.streams:
            back, stream.unreturned = stream.unreturned, 0
            self._quietly(self._connection.increment_flow_control_window, back, stream.id)

    def ping(self) -> None:
        """Ask for a sign of life; ``awaits_pong`` until it is there."""
        if self.broken is None:
            self.awaits_pong = True
            self._connection.ping(_PING)

    def close(self) -> None:
        """Say goodbye; ``outgoing`` has the GOAWAY."""
        if self.broken is None:
            self._quietly(self._connection.close_connection)

    # Incoming

    def feed(self, data: bytes, now: float) -> list[Stream]:
        """Take what arrived; returns the streams that changed."""
        if self.broken is not None:
            return []
        self.received += 1
        waiting = len(self._connection._data_to_send)
        try:
            found = self._connection.receive_data(data)
            self._check_frame()
        except H2Error as error:
            text = str(error) or type(error).__name__
            return self.fail(protocol_error(f"invalid HTTP/2: {text}"), error)
        # Whatever h2 answers by itself costs the peer at least a frame, too.
        useless = (len(self._connection._data_to_send) - waiting) // (_FRAME_HEADER + 8)
        touched: dict[Stream, None] = {}
        for event in found:
            useless += self._handle(event, touched)
        if useless > 0 and not self._bearable(useless, now):
            self._quietly(self._connection.close_connection, ErrorCodes.ENHANCE_YOUR_CALM)
            return self.fail(protocol_error("a flood of control frames"))
        if self._unreturned * 2 >= CONNECTION_WINDOW:
            back, self._unreturned = self._unreturned, 0
            self._quietly(self._connection.increment_flow_control_window, back)
        return list(touched)

    def _check_frame(self) -> None:
        # h2 looks at the length of a frame once the frame is here, up to 16 MiB of it.
        buffer = self._connection.incoming_buffer
        held = getattr(buffer, "_data", b"")
        if len(held) >= _FRAME_HEADER:
            length = int.from_bytes(held[:3], "big")
            if length > self._connection.max_inbound_frame_size:
                self._connection.close_connection(ErrorCodes.FRAME_SIZE_ERROR)
                raise FrameTooLargeError(f"a frame of {length} bytes")

    def _bearable(self, frames: int, now: float) -> bool:
        earned = (now - self._allowed_at) * IDLE_FRAMES_PER_S
        self._allowance = min(IDLE_FRAMES, self._allowance + earned) - frames
        self._allowed_at = now
        return self._allowance >= 0

    def _handle(self, event: events.Event, touched: dict[Stream, None]) -> int:
        """One event of h2; 1 when it was a frame without use."""
        action = _ACTIONS.get(type(event))
        if action is not None:
            return action(self, event, touched)  # type: ignore[no-any-return]
        stream = self.streams.get(getattr(event, "stream_id", None) or 0)
        if stream is None:
            return 1
        useless, wrong = on_event(stream, event)
        if isinstance(event, events.DataReceived):
            self._unreturned += event.flow_controlled_length
            self.consumed(stream, event.flow_controlled_length - len(event.data))
        if wrong and stream.error is None:
            stream.error = protocol_error(f"invalid response: {wrong}")
            self._reset(stream, ErrorCodes.PROTOCOL_ERROR)
        elif stream.complete and stream.ended:
            self._drop(stream)
        touched[stream] = None
        return useless

    def fail(self, error: WireError, cause: BaseException | None = None) -> list[Stream]:
        """The connection is over: every open stream ends with ``error``'s like."""
        self.broken = error
        error.__cause__ = cause
        streams = [s for s in self.streams.values() if not s.complete]
        self.streams.clear()
        for stream in streams:
            copy = WireError(error.reason, error.sent, str(error), reused=error.reused)
            copy.__cause__ = cause
            stream.error = copy
        return streams

    def _on_settings(self, _event: events.Event, _touched: dict[Stream, None]) -> int:
        useless = 1 if self.settled else 0
        self.settled = self.windows_opened = True
        return useless

    def _on_window(self, _event: events.Event, _touched: dict[Stream, None]) -> int:
        # A server that takes an upload sends these all the time: they count only
        # where nothing is being sent.
        self.windows_opened = True
        return 0 if any(not stream.ended for stream in self.streams.values()) else 1

    def _on_pong(self, _event: events.Event, _touched: dict[Stream, None]) -> int:
        self.awaits_pong = False
        return 1

    def _on_reset(self, event: Any, touched: dict[Stream, None]) -> int:
        stream = self.streams.get(event.stream_id)
        if stream is None:
            return 1
        self._drop(stream)
        touched[stream] = None
        if not stream.complete:
            stream.error = reset_error(event)
        return 0

    def _on_goaway(self, event: Any, touched: dict[Stream, None]) -> int:
        self.leaving = True
        for stream in [s for s in self.streams.values() if s.id > event.last_stream_id]:
            self._drop(stream)
            stream.error = Unprocessed()
            touched[stream] = None
        return 1


def speaks_http2(protocol: str, tls: object) -> bool:
    """Whether a new connection does, given the target's protocol and its TLS object."""
    chosen = getattr(tls, "selected_alpn_protocol", lambda: None)()
    return protocol == "h2" or chosen in HTTP2_PROTOCOLS


_ACTIONS: Final[dict[type[events.Event], Any]] = {
    events.RemoteSettingsChanged: Http2Core._on_settings,
    events.WindowUpdated: Http2Core._on_window,
    events.PingAckReceived: Http2Core._on_pong,
    events.StreamReset: Http2Core._on_reset,
    events.ConnectionTerminated: Http2Core._on_goaway,
}
