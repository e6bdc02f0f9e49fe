"""HTTP/2 frames and bytes (RFC 9113 sections 4 and 6): kinds, flags, codes, writing, reading.

Pure; what a frame means is :mod:`meshclient.transport.http2`'s business.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
#: Bytes of a payload at most, both ways (the initial SETTINGS_MAX_FRAME_SIZE).
MAX_FRAME: Final = 16_384
FRAME_HEADER: Final = 9
#: Frames that one header list may come in (CVE-2024-27316).
MAX_CONTINUATIONS: Final = 64
#: Settings in one frame; each may cost a look at every stream.
#: Source: nghttp2, lib/includes/nghttp2/nghttp2.h (NGHTTP2_DEFAULT_MAX_SETTINGS).
MAX_SETTINGS: Final = 32
MAX_STREAM_ID: Final = 2**31 - 1
MAX_WINDOW: Final = 2**31 - 1
INITIAL_WINDOW: Final = 65_535

DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

ACK: Final = 0x1
END_STREAM: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
HAS_PRIORITY: Final = 0x20

HEADER_TABLE_SIZE: Final = 1
ENABLE_PUSH: Final = 2
MAX_CONCURRENT_STREAMS: Final = 3
INITIAL_WINDOW_SIZE: Final = 4
MAX_FRAME_SIZE: Final = 5
MAX_HEADER_LIST_SIZE: Final = 6

#: Error codes, RFC 9113 section 7; the index is the code.
CODES: Final = (
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
)
NO_ERROR: Final = 0
PROTOCOL_ERROR: Final = 1
FLOW_CONTROL_ERROR: Final = 3
STREAM_CLOSED: Final = 5
FRAME_SIZE_ERROR: Final = 6
REFUSED_STREAM: Final = 7
CANCEL: Final = 8
COMPRESSION_ERROR: Final = 9
ENHANCE_YOUR_CALM: Final = 11

#: The length in two parts, kind, flags and stream of a frame.
HEAD: Final = Struct(">BHBBL")
_SETTING: Final = Struct(">HL")
_NUMBER: Final = Struct(">L")


class Violation(Exception):
    """The peer broke a rule that the whole connection stands on; ``code`` is for its GOAWAY."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def head(kind: int, flags: int, stream_id: int, size: int) -> bytes:
    """What stands before ``size`` bytes of payload."""
    return HEAD.pack(size >> 16, size & 0xFFFF, kind, flags, stream_id)


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    """One frame of at most :data:`MAX_FRAME` bytes of payload."""
    return head(kind, flags, stream_id, len(payload)) + payload


def headers(stream_id: int, block: bytes, end: bool) -> bytes:
    """HEADERS, and CONTINUATION for what does not fit."""
    flags = END_STREAM if end else 0
    if len(block) <= MAX_FRAME:
        return frame(HEADERS, flags | END_HEADERS, stream_id, block)
    pieces = [frame(HEADERS, flags, stream_id, block[:MAX_FRAME])]
    for start in range(MAX_FRAME, len(block), MAX_FRAME):
        last = END_HEADERS if start + MAX_FRAME >= len(block) else 0
        pieces.append(frame(CONTINUATION, last, stream_id, block[start : start + MAX_FRAME]))
    return b"".join(pieces)


def reset(stream_id: int, code: int) -> bytes:
    """RST_STREAM."""
    return frame(RST_STREAM, 0, stream_id, _NUMBER.pack(code))


def window_update(stream_id: int, size: int) -> bytes:
    """WINDOW_UPDATE; stream 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream_id, _NUMBER.pack(size))


def goaway(code: int) -> bytes:
    """GOAWAY of a client that takes no pushed streams."""
    return frame(GOAWAY, 0, 0, _NUMBER.pack(0) + _NUMBER.pack(code))


def settings(values: dict[int, int]) -> bytes:
    """SETTINGS."""
    return frame(SETTINGS, 0, 0, b"".join([_SETTING.pack(*one) for one in values.items()]))


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """Identifiers and values, checked. Raises Violation (RFC 9113 section 6.5)."""
    if len(payload) % _SETTING.size:
        raise Violation(FRAME_SIZE_ERROR, "SETTINGS of a wrong length")
    if len(payload) > MAX_SETTINGS * _SETTING.size:
        raise Violation(ENHANCE_YOUR_CALM, "too many settings at once")
    found: list[tuple[int, int]] = list(_SETTING.iter_unpack(payload))
    for name, value in found:
        if name == ENABLE_PUSH and value:
            raise Violation(PROTOCOL_ERROR, "a server that wants to be pushed to")
        if name == INITIAL_WINDOW_SIZE and value > MAX_WINDOW:
            raise Violation(FLOW_CONTROL_ERROR, f"an initial window of {value} bytes")
        if name == MAX_FRAME_SIZE and not MAX_FRAME <= value < 2**24:
            raise Violation(PROTOCOL_ERROR, f"a frame size of {value} bytes")
    return found


def read_number(payload: bytes) -> int:
    """The number of a RST_STREAM or WINDOW_UPDATE. Raises Violation."""
    if len(payload) != _NUMBER.size:
        raise Violation(FRAME_SIZE_ERROR, "a frame of a wrong length")
    return int.from_bytes(payload, "big")


class Reader:
    """Bytes to frames. HEADERS come whole: without padding, with what CONTINUATION had."""

    __slots__ = ("_begun", "_max_block", "_pieces", "_rest", "_started")

    def __init__(self, max_block: int) -> None:
        """``max_block``: bytes of an encoded header list at most."""
        self._max_block = max_block
        self._rest = b""
        self._started = False
        #: Flags and stream of a header list whose end is still to come.
        self._begun: tuple[int, int] | None = None
        self._pieces: list[bytes] = []

    def frames(self, data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
        """Kind, flags, stream and payload of each whole frame. Raises Violation."""
        if self._rest:
            data = self._rest + data
        at, end = 0, len(data)
        while end - at >= FRAME_HEADER:
            high, low, kind, flags, stream_id = HEAD.unpack_from(data, at)
            size = high << 16 | low
            if size > MAX_FRAME:
                raise Violation(FRAME_SIZE_ERROR, f"a frame of {size} bytes")
            start = at + FRAME_HEADER
            if start + size > end:
                break
            at = start + size
            stream_id &= MAX_STREAM_ID
            payload = data[start:at]
            if kind == HEADERS or self._begun is not None or not self._started:
                found = self._special(kind, flags, stream_id, payload)
                if found is not None:
                    yield found
            else:
                yield kind, flags, stream_id, payload
        self._rest = data[at:]

    def _special(
        self, kind: int, flags: int, stream_id: int, payload: bytes
    ) -> tuple[int, int, int, bytes] | None:
        if not self._started:
            if kind != SETTINGS:  # RFC 9113 section 3.4
                raise Violation(PROTOCOL_ERROR, "it does not begin with SETTINGS")
            self._started = True
            return kind, flags, stream_id, payload
        if self._begun is not None:
            return self._continued(kind, flags, stream_id, payload)
        if not stream_id:
            raise Violation(PROTOCOL_ERROR, "a header list of no stream")
        if flags & (PADDED | HAS_PRIORITY):
            payload = unpadded(flags, payload, 5 if flags & HAS_PRIORITY else 0)
        if flags & END_HEADERS:
            return kind, flags, stream_id, payload
        self._begun, self._pieces = (flags, stream_id), [payload]
        return None

    def _continued(
        self, kind: int, flags: int, stream_id: int, payload: bytes
    ) -> tuple[int, int, int, bytes] | None:
        if self._begun is None or kind != CONTINUATION or stream_id != self._begun[1]:
            raise Violation(PROTOCOL_ERROR, "a header list that does not go on")
        self._pieces.append(payload)
        if len(self._pieces) > MAX_CONTINUATIONS or sum(map(len, self._pieces)) > self._max_block:
            raise Violation(ENHANCE_YOUR_CALM, "a header list in too many pieces")
        if not flags & END_HEADERS:
            return None
        first, self._begun = self._begun[0], None
        return HEADERS, first | END_HEADERS, stream_id, b"".join(self._pieces)


def unpadded(flags: int, payload: bytes, skipped: int = 0) -> bytes:
    """The payload without padding and without ``skipped`` bytes before it. Raises Violation."""
    padding, start = 0, skipped
    if flags & PADDED:
        start += 1
        padding = payload[0] if payload else 0
    end = len(payload) - padding
    if start > end:
        raise Violation(PROTOCOL_ERROR, "more padding than payload")
    return payload[start:end]
