"""The outgoing half of an HTTP/2 connection, sans I/O: request heads, bodies, windows, resets.

No socket, no clock. What arrives, and the connection as a whole, is
:mod:`meshclient.transport.http2`.
"""

from __future__ import annotations

from typing import Final

from meshclient.model.cluster import ConnectionOptions
from meshclient.transport import http2_frames as wire
from meshclient.transport.http2_encoder import Encoder
from meshclient.transport.http2_stream import Stream
from meshclient.transport.interface import InvalidRequest, WireError

#: Streams of one connection at most, whatever the peer allows.
#: Source: Envoy, api/envoy/config/core/v3/protocol.proto (max_concurrent_streams).
MAX_STREAMS: Final = 1024
#: Body bytes of one stream that nobody has read yet; the peer may not send more.
STREAM_WINDOW: Final = 256 * 1024
#: Bytes of all streams on their way. Given back on arrival: a slow reader stops
#: its own stream only.
CONNECTION_WINDOW: Final = 16 * 1024 * 1024
#: Streams that this side may cancel before the connection takes no further ones:
#: servers take many resets for an attack (CVE-2023-44487) and drop everybody on it.
MAX_RESETS: Final = 200

PING_DATA: Final = b"meshping"


class Http2Sender:
    """Streams as this side opens, fills and ends them. Not thread-safe.

    Fetch what is to be written with ``outgoing`` after every call. ``leaving``: no further
    stream fits. ``broken``: the connection is of no use any more, and why.
    """

    __slots__ = (
        "_data_sent",
        "_encoder",
        "_initial_window",
        "_late",
        "_max_headers",
        "_max_list",
        "_max_streams",
        "_may_send",
        "_most_streams",
        "_next_id",
        "_out",
        "awaits_pong",
        "broken",
        "leaving",
        "resets",
        "streams",
    )

    def __init__(self, options: ConnectionOptions) -> None:
        limit = options.max_response_header_kb * 1024
        self._max_headers = options.max_response_headers
        self._encoder = Encoder()
        #: What the peer's SETTINGS allow.
        self._most_streams = options.max_concurrent_streams or MAX_STREAMS
        self._max_streams = min(self._most_streams, MAX_STREAMS)
        self._max_list: int | None = None
        self._initial_window = self._may_send = wire.INITIAL_WINDOW
        self._next_id = 1
        self._data_sent = 0
        #: Body bytes that may still come for streams that this side has reset.
        self._late = 0
        announced = {
            wire.ENABLE_PUSH: 0,
            wire.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
            wire.MAX_HEADER_LIST_SIZE: limit,
        }
        self._out: list[bytes | memoryview] = [
            wire.PREFACE,
            wire.settings(announced),
            wire.window_update(0, CONNECTION_WINDOW - wire.INITIAL_WINDOW),
        ]
        self.streams: dict[int, Stream] = {}
        self.leaving = self.awaits_pong = False
        self.broken: WireError | None = None
        self.resets = 0

    def outgoing(self) -> bytes:
        """What has to be written now; call it once per write."""
        out = self._out
        if not out:
            return b""
        self._out = []
        return b"".join(out)

    def room(self) -> int:
        """How many more streams may be opened now."""
        if self.leaving or self.broken is not None:
            return 0
        return self._max_streams - len(self.streams)

    def open(self, headers: list[tuple[bytes, bytes]], end: bool) -> Stream:
        """Send a request head, which is not checked here.

        Raises InvalidRequest for one that the peer refuses to take.
        """
        limit = self._max_list
        if limit is not None and sum([len(n) + len(v) + 32 for n, v in headers]) > limit:
            raise InvalidRequest(f"the server takes {limit} bytes of headers at most")
        stream_id = self._next_id
        self._next_id += 2
        self._out.append(wire.headers(stream_id, self._encoder.encode(headers), end))
        stream = self.streams[stream_id] = Stream(
            stream_id,
            headers[0][1] == b"HEAD",
            self._initial_window,
            STREAM_WINDOW,
            self._max_headers,
        )
        stream.ended = end
        if stream_id >= wire.MAX_STREAM_ID - 2:
            self.leaving = True  # the last id of this connection
        return stream

    def window(self, stream: Stream) -> int:
        """Body bytes that the peer takes now."""
        if self.broken is not None or stream.id not in self.streams:
            return 0
        return max(0, min(stream.may_send, self._may_send))

    def send(self, stream: Stream, data: bytes | memoryview, end: bool) -> None:
        """Body bytes, at most ``window`` of them; ``end``: no more will follow.

        They are copied when ``outgoing`` is called, and not before.
        """
        if self.streams.get(stream.id) is not stream:
            return  # reset meanwhile: nobody takes it
        stream.may_send -= len(data)
        self._may_send -= len(data)
        view = memoryview(data)
        for start in range(0, len(view) or end, wire.MAX_FRAME):
            last = end and start + wire.MAX_FRAME >= len(view)
            piece = view[start : start + wire.MAX_FRAME]
            flags = wire.END_STREAM if last else 0
            self._out += wire.head(wire.DATA, flags, stream.id, len(piece)), piece
            self._data_sent += 1
        stream.ended = end
        if stream.complete and end:
            self._drop(stream)

    def cancel(self, stream: Stream) -> None:
        """Nobody waits for this stream any more; idempotent, the others go on."""
        if self.streams.get(stream.id) is stream:
            self._reset(stream, wire.CANCEL)

    def _reset(self, stream: Stream, code: int) -> None:
        self._drop(stream)
        if not stream.complete:
            self._late += stream.may_receive
        self.resets += 1
        if self.resets >= MAX_RESETS:
            self.leaving = True
        if self.broken is None:
            self._out.append(wire.reset(stream.id, code))

    def _drop(self, stream: Stream) -> None:
        self.streams.pop(stream.id, None)

    def consumed(self, stream: Stream, size: int) -> None:
        """The reader took ``size`` bytes: the peer may send as many again."""
        stream.unreturned += size
        if stream.unreturned * 2 < STREAM_WINDOW or stream.complete:
            return
        if self.broken is None and stream.id in self.streams:
            back, stream.unreturned = stream.unreturned, 0
            stream.may_receive += back
            self._out.append(wire.window_update(stream.id, back))

    def ping(self) -> None:
        """Ask for a sign of life; ``awaits_pong`` until it is there."""
        if self.broken is None:
            self.awaits_pong = True
            self._out.append(wire.frame(wire.PING, 0, 0, PING_DATA))

    def close(self) -> None:
        """Say goodbye; ``outgoing`` has the GOAWAY."""
        if self.broken is None:
            self._out.append(wire.goaway(wire.NO_ERROR))
