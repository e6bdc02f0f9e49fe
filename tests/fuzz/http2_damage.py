"""Damaged HTTP/2 answers: what our core makes of them, beside h2's client, frame by frame.

Up to the frame that one of them refuses, both must have understood the same; where h2
refuses and we go on, the reason has to be among those that are meant. Randomness is an
argument.
"""

from __future__ import annotations

import re
from random import Random
from typing import Any

from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import ProtocolError
from hpack import HPACKError
from hyperframe.exceptions import HyperframeError

from meshclient.transport import http2_frames as wire
from meshclient.transport.http2 import Http2Core
from meshclient.transport.http2_sending import CONNECTION_WINDOW, STREAM_WINDOW
from meshclient.transport.http2_stream import Stream
from meshclient.transport.trailers import may_be_trailer
from tests.fuzz.http2_talk import Talk

_HEAD = wire.FRAME_HEADER
_FLAGS = (0, 1, 4, 5, 8, 0x20, 0x24, 0x25, 0x2D)
_NUMBERS = (0, 1, 5, 255, 65_535, 2**31 - 1, 2**31, 2**32 - 1)

#: Methods and ends of the requests, and the frames of the answers.
Case = tuple[list[tuple[bytes, bool]], list[bytes]]


def honest(rand: Random) -> Case:
    """A conversation as it should be, seen from the client."""
    talk = Talk(rand, cancels=False)
    for _ in range(rand.choice((8, 25, 60))):
        talk.step()
    return talk.opened, list(split(b"".join(talk.down)))


def split(data: bytes) -> list[bytes]:
    """Into frames; what is left over is the last one."""
    found = []
    while len(data) >= _HEAD:
        size = _HEAD + int.from_bytes(data[:3], "big")
        found.append(data[:size])
        data = data[size:]
    return [*found, data] if data else found


def damage(rand: Random, frames: list[bytes]) -> list[bytes]:
    """A few frames changed, moved, doubled, dropped or made up."""
    out = list(frames)
    for _ in range(rand.choice((1, 1, 1, 2, 3, 6))):
        at = rand.randrange(len(out) + 1)
        kind = rand.randrange(9)
        if kind == 0 or at == len(out):
            out.insert(at, _made_up(rand))
        elif kind == 1:
            del out[at]
        elif kind == 2:
            out.insert(rand.randrange(len(out) + 1), out[at])
        elif kind == 3:
            out.insert(rand.randrange(len(out)), out.pop(at))
        else:
            out[at] = _changed(rand, kind, out[at])
    return out


def _made_up(rand: Random) -> bytes:
    kind = rand.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 0x42))
    payload: bytes = rand.choice((b"", b"\x88", bytes(8), rand.randbytes(5), rand.randbytes(18)))
    if rand.random() < 0.5:
        payload = rand.choice(_NUMBERS).to_bytes(4, "big") * rand.choice((1, 1, 2))
    if kind == wire.SETTINGS and rand.random() < 0.8:
        value = rand.choice((*_NUMBERS, 16_384))
        payload = rand.randrange(9).to_bytes(2, "big") + value.to_bytes(4, "big")
    return wire.frame(kind, rand.choice(_FLAGS), rand.choice((0, 0, 1, 1, 2, 3, 5, 99)), payload)


def _changed(rand: Random, kind: int, frame: bytes) -> bytes:
    out = bytearray(frame)
    if kind == 4 and len(out) > _HEAD:  # the payload, at its length
        out[rand.randrange(_HEAD, len(out))] = rand.choice((0, 1, 0x20, 0x7F, 0x80, 0xFF, 0x3F))
    elif kind == 5 and len(out) > 4:
        out[4] ^= 1 << rand.choice((0, 2, 3, 5, rand.randrange(8)))
    elif kind == 6 and len(out) >= _HEAD:
        out[8] = rand.choice((0, 1, 2, 3, 5, 7, 99))
    elif kind == 7 and len(out) > _HEAD:  # the payload, and its length with it
        end = rand.randrange(_HEAD, len(out) + 1)
        rest = bytes(out[_HEAD:end]) + rand.choice((b"", b"\0", b"\x82", rand.randbytes(9)))
        out = bytearray(len(rest).to_bytes(3, "big") + out[3:_HEAD] + rest)
    elif out:
        out[rand.randrange(len(out))] = rand.randrange(256)
    return bytes(out)


class Ours:
    """Our side of a case."""

    def __init__(self, requests: list[tuple[bytes, bool]]) -> None:
        self.core = Http2Core()
        self.streams: list[Stream] = []
        self.bodies: dict[int, bytes] = {}
        #: Streams that had their head before the frame at hand.
        self.headed: set[int] = set()
        for method, end in requests:
            fields = [(b":method", method), (b":scheme", b"https"), (b":path", b"/")]
            stream = self.core.open(fields, end)
            self.streams.append(stream)
            self.bodies[stream.id] = b""
        self.core.outgoing()

    def feed(self, data: bytes) -> None:
        self.headed = {one.id for one in self.streams if one.head_complete}
        touched = self.core.feed(data, 0.0)
        assert set(touched) <= set(self.streams)
        for stream in touched:
            assert stream.buffered <= STREAM_WINDOW

    def view(self, stream: Stream) -> tuple[Any, ...]:
        self.bodies[stream.id] += stream.take()
        head = [(b":status", b"%d" % stream.status), *stream.headers] if stream.status else []
        return head, self.bodies[stream.id], list(stream.trailers), stream.complete

    def heads_only(self, number: int) -> bool:
        """An answer without a body, whatever it says of its length."""
        return any(
            one.id == number and (one._head_only or one.status in (0, 204, 304))
            for one in self.streams
        )

    def verdict(self) -> tuple[Any, ...]:
        """What must not depend on how the bytes were cut."""
        ends = [(one.error.reason, one.error.sent) if one.error else None for one in self.streams]
        return self.core.broken is not None, ends, [self.view(one) for one in self.streams]


class Theirs:
    """h2's client on the same frames."""

    def __init__(self, requests: list[tuple[bytes, bool]]) -> None:
        self.wire = H2Connection(
            H2Configuration(header_encoding=None, normalize_inbound_headers=False)
        )
        self.wire.initiate_connection()
        self.seen: dict[int, list[Any]] = {}
        self.resets: set[int] = set()
        for number, (method, end) in enumerate(requests):
            fields = [(b":method", method), (b":scheme", b"https"), (b":path", b"/")]
            fields.append((b":authority", b"a"))
            self.wire.send_headers(2 * number + 1, fields, end_stream=end)
            self.seen[2 * number + 1] = [[], b"", [], False]
        # The windows that ours announces; what they allow is not h2's to judge here.
        self.wire._inbound_flow_control_window_manager.window_opened(CONNECTION_WINDOW)
        for stream in self.wire.streams.values():
            stream._inbound_window_manager.window_opened(STREAM_WINDOW - 65_535)

    def feed(self, data: bytes) -> str:
        """ "" or why it is refused."""
        try:
            found = self.wire.receive_data(data)
        except (ProtocolError, HPACKError, HyperframeError, ValueError) as error:
            return f"{type(error).__name__}: {error}".split("<")[0]
        for event in found:
            self._see(event)
        return ""

    def _see(self, event: events.Event) -> None:
        if isinstance(event, events.ResponseReceived):
            self.seen[event.stream_id][0] = list(event.headers)
        elif isinstance(event, events.DataReceived):
            self.seen[event.stream_id][1] += event.data
        elif isinstance(event, events.TrailersReceived):
            kept = [field for field in event.headers if may_be_trailer(field[0])]
            self.seen[event.stream_id][2] = kept
        elif isinstance(event, events.StreamEnded):
            self.seen[event.stream_id][3] = True
        elif isinstance(event, events.StreamReset):
            self.resets.add(event.stream_id)

    def view(self, stream: Stream) -> tuple[Any, ...]:
        return tuple(self.seen[stream.id])


def judge(case: Case, rand: Random) -> tuple[str, str]:
    """The class of a case, and what is wrong with our verdict ("" for nothing)."""
    requests, frames = case
    kind, problem = _side_by_side(requests, frames)
    whole, cut = Ours(requests), Ours(requests)
    data = b"".join(frames)
    whole.feed(data)
    for piece in _cut(rand, data):
        cut.feed(piece)
    if whole.verdict() != cut.verdict():
        problem = problem or f"depends on the cuts: {whole.verdict()}, {cut.verdict()}"
    for stream in whole.streams:
        if whole.core.broken is not None and not (stream.complete or stream.error is not None):
            problem = problem or f"stream {stream.id} of a broken connection goes on"
        if stream.complete and stream.error is not None:
            problem = problem or f"stream {stream.id} is whole, and failed"
    return kind, problem and f"{requests} {[one.hex() for one in frames]}: {problem}"


def _cut(rand: Random, data: bytes) -> list[bytes]:
    if len(data) < 400 and rand.random() < 0.3:
        return [data[at : at + 1] for at in range(len(data))]
    edges = sorted(rand.randrange(len(data) + 1) for _ in range(rand.randrange(1, 9)))
    return [data[a:b] for a, b in zip([0, *edges], [*edges, len(data)], strict=True)]


def _side_by_side(requests: list[tuple[bytes, bool]], frames: list[bytes]) -> tuple[str, str]:
    ours, theirs = Ours(requests), Theirs(requests)
    differs: set[int] = set()
    for frame in frames:
        over = {s.id for s in ours.streams if s.complete or s.id not in ours.core.streams}
        ours.feed(frame)
        refusal = theirs.feed(frame)
        failed = {one.id for one in ours.streams if one.error is not None}
        if refusal:
            return _explained(ours, frame, refusal, over, failed - theirs.resets)
        if ours.core.broken is not None:
            return "stricter: " + re.sub(r"\d+|b['\"].*", "#", str(ours.core.broken)), ""
        differs |= failed - theirs.resets
        for stream in ours.streams:
            if stream.id in differs or stream.id in theirs.resets:
                continue
            mine, other = ours.view(stream), theirs.view(stream)
            if mine != other:
                return "different", f"stream {stream.id} at {frame.hex()}: {mine}, h2 {other}"
    return ("equal, but for streams we refuse" if differs else "equal"), ""


def _explained(
    ours: Ours, frame: bytes, refusal: str, over: set[int], failed: set[int]
) -> tuple[str, str]:
    """h2 refuses ``frame``."""
    if ours.core.broken is not None:
        return "both refuse", ""
    if failed:
        return "we refuse the stream, h2 the connection", ""
    kind, number = frame[3], int.from_bytes(frame[5:9], "big") & wire.MAX_STREAM_ID
    if ours.core.leaving:
        return "GOAWAY lets the streams up to its last one finish", ""
    if kind == 10 or "Setting 8 " in refusal:
        return "an extension that we do not read", ""
    if kind == wire.WINDOW_UPDATE and frame[_HEAD] & 0x80:
        return "a reserved bit, to be ignored", ""
    if "depend on itself" in refusal:
        return "a priority, to be ignored", ""
    if "content-length" in refusal and (ours.heads_only(number) or number in ours.headed):
        return "a content-length that measures nothing", ""
    if ours.core._reader._rest or ours.core._reader._begun is not None:
        return "a frame or a header list whose rest is still to come", ""
    if number in over and kind not in (wire.PRIORITY, wire.PUSH_PROMISE):
        return "a frame that crossed the end of its stream", ""
    return "more lenient", f"{frame.hex()}: {refusal}"
