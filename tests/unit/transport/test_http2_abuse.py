"""What a hostile server may send over HTTP/2, and what becomes of it: no socket, no clock.

Each case states its outcome: ignored, its stream ends (RST_STREAM), or the connection
does (GOAWAY). Never an exception, another stream's bytes, or memory without a bound.
"""

from __future__ import annotations

import pytest
from hpack import Encoder
from http2_support import GET, HEAD, POST, Pair, frame

from meshclient.model.cluster import ConnectionOptions
from meshclient.model.outcome import ResetReason
from meshclient.transport import http2_frames as wire
from meshclient.transport.http2 import IDLE_FRAMES, IDLE_FRAMES_PER_S, Http2Core
from meshclient.transport.http2_sending import CONNECTION_WINDOW, STREAM_WINDOW
from meshclient.transport.http2_stream import Stream, Unprocessed

OK = Encoder().encode([(b":status", b"200")])
IGNORED, STREAM, CONNECTION = "ignored", "stream", "connection"


def number(value: int) -> bytes:
    return value.to_bytes(4, "big")


def setting(name: int, value: int) -> bytes:
    return name.to_bytes(2, "big") + number(value)


def outcome(pair: Pair, stream: Stream) -> str:
    if pair.core.broken is not None:
        assert pair.core.broken.reason is ResetReason.PROTOCOL_ERROR
        assert pair.core.outgoing()[3] == wire.GOAWAY
        return CONNECTION
    if stream.error is not None:
        assert stream.error.reason is ResetReason.PROTOCOL_ERROR
        assert pair.core.outgoing()[3] == wire.RST_STREAM
        return STREAM
    return IGNORED


#: Kind, flags, payload; then the outcome on stream 0, on an idle one, on an open one that
#: has no answer yet, on one that is over, and on one of the server's own.
EVERYWHERE = {
    "DATA": (0, 0, b"x", (CONNECTION, CONNECTION, STREAM, IGNORED, CONNECTION)),
    "HEADERS": (1, 4, OK, (CONNECTION, CONNECTION, IGNORED, IGNORED, CONNECTION)),
    "trailers first": (1, 5, b"", (CONNECTION, CONNECTION, STREAM, IGNORED, CONNECTION)),
    "PRIORITY": (2, 0, bytes(5), (CONNECTION, IGNORED, IGNORED, IGNORED, IGNORED)),
    "short PRIORITY": (2, 0, bytes(4), (CONNECTION,) * 5),
    "RST_STREAM": (3, 0, bytes(4), (CONNECTION, CONNECTION, "reset", IGNORED, CONNECTION)),
    "short RST_STREAM": (3, 0, bytes(3), (CONNECTION,) * 5),
    "long RST_STREAM": (3, 0, bytes(5), (CONNECTION,) * 5),
    "SETTINGS": (4, 0, b"", (IGNORED, *(CONNECTION,) * 4)),
    "odd SETTINGS": (4, 0, bytes(7), (CONNECTION,) * 5),
    "SETTINGS ACK with more": (4, 1, bytes(6), (CONNECTION,) * 5),
    "PUSH_PROMISE": (5, 4, number(2), (CONNECTION,) * 5),
    "PING": (6, 0, bytes(8), (IGNORED, *(CONNECTION,) * 4)),
    "PING of 9": (6, 0, bytes(9), (CONNECTION,) * 5),
    "unasked PONG": (6, 1, bytes(8), (IGNORED, *(CONNECTION,) * 4)),
    "short GOAWAY": (7, 0, bytes(7), (CONNECTION,) * 5),
    "GOAWAY": (7, 0, number(99) + bytes(4), (IGNORED, *(CONNECTION,) * 4)),
    "WINDOW_UPDATE": (8, 0, number(1), (IGNORED, CONNECTION, IGNORED, IGNORED, CONNECTION)),
    "zero WINDOW_UPDATE": (8, 0, bytes(4), (CONNECTION, CONNECTION, STREAM, IGNORED, CONNECTION)),
    "long WINDOW_UPDATE": (8, 0, bytes(5), (CONNECTION,) * 5),
    "huge WINDOW_UPDATE": (
        8,
        0,
        number(2**31 - 1),
        (CONNECTION, CONNECTION, STREAM, IGNORED, CONNECTION),
    ),
    "CONTINUATION": (9, 4, b"", (CONNECTION,) * 5),
    "ALTSVC": (10, 0, b"\0\1ax", (IGNORED,) * 5),
    "ORIGIN": (12, 0, b"\0\1a", (IGNORED,) * 5),
    "PRIORITY_UPDATE": (16, 0, bytes(9), (IGNORED,) * 5),
    "unknown": (0xEE, 0xFF, b"junk", (IGNORED,) * 5),
    "too much padding": (0, 8, b"\5abc", (CONNECTION,) * 5),
    "padding without a length": (0, 8, b"", (CONNECTION,) * 5),
    "too much padding of a head": (1, 12, b"\x09" + OK, (CONNECTION,) * 5),
    "a head too short for its priority": (1, 0x24, bytes(3), (CONNECTION,) * 5),
}


@pytest.mark.parametrize("place", ["zero", "idle", "open", "over", "pushed"])
@pytest.mark.parametrize("name", EVERYWHERE)
def test_every_kind_of_frame_in_every_place(name: str, place: str) -> None:
    kind, flags, payload, outcomes = EVERYWHERE[name]
    pair = Pair()
    over, target, other = pair.open(), pair.open(), pair.open()
    pair.answer(over, body=b"first")
    assert over.complete
    ids = {"zero": 0, "idle": 99, "open": target.id, "over": over.id, "pushed": 2}
    pair.raw(frame(kind, payload, ids[place], flags))
    expected = outcomes[["zero", "idle", "open", "over", "pushed"].index(place)]
    if expected == "reset":
        assert target.error is not None
        assert target.error.reason is ResetReason.REMOTE_RESET
    else:
        assert outcome(pair, target) == expected
    assert (over.take(), over.error) == (b"first", None)
    if expected != CONNECTION:
        assert other.error is None
        pair.raw(frame(wire.HEADERS, OK, other.id, 4) + frame(0, b"mine", other.id, 1))
        assert (other.status, other.take(), other.complete) == (200, b"mine", True)
    else:
        assert other.error is not None
    assert target.take() == b""


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (setting(2, 1), CONNECTION),
        (setting(2, 0), IGNORED),
        (setting(4, 2**31), CONNECTION),
        (setting(4, 2**31 - 1), IGNORED),
        (setting(5, 16_383), CONNECTION),
        (setting(5, 2**24), CONNECTION),
        (setting(5, 2**24 - 1), IGNORED),
        (setting(1, 2**32 - 1), IGNORED),
        (setting(3, 0), IGNORED),
        (setting(6, 0), IGNORED),
        (setting(8, 77), IGNORED),
        (setting(0xF000, 1), IGNORED),
        (setting(4, 1) * 32, IGNORED),
        (setting(4, 1) * 33, CONNECTION),
    ],
)
def test_values_of_settings(payload: bytes, expected: str) -> None:
    pair = Pair()
    stream = pair.open()
    pair.core.outgoing()
    pair.raw(frame(wire.SETTINGS, payload))
    assert outcome(pair, stream) == expected
    if expected == IGNORED:
        assert pair.core.outgoing() == frame(wire.SETTINGS, b"", 0, 1)


def test_a_window_that_settings_move_beyond_2_gib_ends_the_connection() -> None:
    pair = Pair()
    stream = pair.open(POST, end=False)
    pair.raw(frame(8, number(2**31 - 1 - 65_535), stream.id))
    assert pair.core.broken is None
    pair.raw(frame(4, setting(4, 65_536)))
    assert outcome(pair, stream) == CONNECTION


def test_windows_below_zero_stop_the_upload_until_they_are_above_again() -> None:
    pair = Pair(INITIAL_WINDOW_SIZE=0)
    stream = pair.open(POST, end=False)
    assert pair.core.window(stream) == 0
    pair.raw(frame(4, setting(4, 1000)))
    assert pair.core.window(stream) == 1000
    pair.core.send(stream, bytes(900), False)
    pair.raw(frame(4, setting(4, 0)))
    assert (pair.core.window(stream), stream.may_send) == (0, -900)
    pair.raw(frame(8, number(900), stream.id))
    assert pair.core.window(stream) == 0
    pair.raw(frame(8, number(1), stream.id))
    assert pair.core.window(stream) == 1


def test_a_server_that_takes_no_streams_leaves_no_room_and_breaks_nothing() -> None:
    pair = Pair()
    stream = pair.open()
    pair.raw(frame(4, setting(3, 0)))
    assert pair.core.room() == -1
    pair.answer(stream, body=b"x")
    assert (stream.complete, pair.core.room()) == (True, 0)
    pair.raw(frame(4, setting(3, 2)))
    assert pair.core.room() == 2


@pytest.mark.parametrize(("first", "second"), [(3, 1), (1, 3), (1, 1)])
def test_goaway_twice(first: int, second: int) -> None:
    """A later one may only lower the last stream; a higher one revives nothing."""
    pair = Pair()
    streams = [pair.open() for _ in range(3)]
    pair.raw(frame(7, number(first) + bytes(4)))
    pair.raw(frame(7, number(second) + bytes(4)))
    refused = [stream.id for stream in streams if isinstance(stream.error, Unprocessed)]
    assert refused == [number for number in (1, 3, 5) if number > min(first, second)]
    assert (pair.core.room(), pair.core.broken) == (0, None)
    pair.answer(streams[0])
    assert streams[0].complete


def test_goaway_for_a_stream_that_is_being_answered_is_not_taken_for_unprocessed() -> None:
    pair = Pair()
    begun, whole, waiting = pair.open(), pair.open(POST, end=False), pair.open()
    pair.raw(frame(1, OK, begun.id, 4) + frame(0, b"part", begun.id))
    touched = pair.raw(frame(1, OK, whole.id, 5) + frame(7, bytes(8)))
    assert set(touched) == {begun, whole, waiting}
    assert begun.error is not None
    assert (begun.error.reason, begun.error.sent) == (ResetReason.PROTOCOL_ERROR, True)
    assert (whole.complete, whole.error) == (True, None)
    assert isinstance(waiting.error, Unprocessed)


def test_an_answer_stays_one_whatever_becomes_of_its_upload() -> None:
    """In one piece or in two: the outcome may not depend on how the bytes came."""
    pair = Pair()
    stream = pair.open(POST, end=False)
    answer = frame(1, OK, stream.id, 4) + frame(0, b"no", stream.id, 1)
    pair.raw(answer + frame(8, bytes(4), stream.id))
    assert (stream.complete, stream.error, stream.take()) == (True, None, b"no")
    assert pair.core.streams == {}


def test_frames_after_the_end_of_an_answer_reset_an_upload_and_change_nothing() -> None:
    for more in (frame(0, b"more", 1), frame(1, OK, 1, 5)):
        pair = Pair()
        stream = pair.open(POST, end=False)
        pair.raw(frame(1, OK, 1, 4) + frame(0, b"all", 1, 1))
        pair.core.outgoing()
        pair.raw(more)
        assert pair.core.outgoing() == frame(3, number(wire.STREAM_CLOSED), 1)
        assert (stream.take(), stream.error, pair.core.window(stream)) == (b"all", None, 0)


def test_late_data_of_a_cancelled_stream_is_no_flood_as_far_as_its_window_went() -> None:
    """Small messages that were on their way, up to the window and not a byte more."""
    pair = Pair()
    stream = pair.open()
    pair.raw(frame(1, OK, stream.id, 4))
    pair.core.cancel(stream)
    for _ in range(STREAM_WINDOW // 30):
        pair.raw(frame(0, bytes(30), stream.id))
    assert pair.core.broken is None
    for _ in range(IDLE_FRAMES + 2):
        pair.raw(frame(0, bytes(30), stream.id))
    assert pair.core.broken is not None


def test_an_unread_body_in_tiny_pieces_takes_no_more_objects_than_one_in_large_pieces() -> None:
    pair = Pair()
    stream = pair.open()
    pair.raw(frame(1, OK, stream.id, 4))
    sent = b""
    for at in range(5000):
        sent += bytes([at & 255])
        pair.raw(frame(0, sent[-1:], stream.id))
        assert len(stream._chunks) <= 128
    assert (stream.buffered, stream.take()) == (5000, sent)


def test_pings_and_windows_that_come_with_an_upload_are_no_flood() -> None:
    """gRPC in Go measures the path with a PING and a WINDOW_UPDATE a round trip."""
    pair = Pair()
    stream = pair.open(POST, end=False)
    for _ in range(10 * IDLE_FRAMES):
        pair.core.send(stream, b"x" * 100, False)
        pair.core.outgoing()
        pair.raw(frame(8, number(100)) + frame(8, number(100), stream.id) + frame(6, bytes(8)))
    assert pair.core.broken is None


@pytest.mark.parametrize("size", [0, 1, 100])
def test_small_uploads_one_after_the_other_are_never_a_flood(size: int) -> None:
    """All in one moment, with two WINDOW_UPDATE frames and a PING for each."""
    pair = Pair()
    for _ in range(4 * IDLE_FRAMES):
        stream = pair.core.open(POST, False)
        pair.core.send(stream, bytes(size), True)
        pair.core.outgoing()
        updates = frame(8, number(size or 1)) + frame(8, number(size or 1), stream.id)
        pair.raw(updates + frame(6, bytes(8)) + frame(1, OK, stream.id, 5))
        assert stream.complete
    assert pair.core.broken is None


def test_windows_without_uploads_are_bounded_as_envoy_bounds_them() -> None:
    """5, two for each stream, and beyond that what any frame without use may cost."""
    pair = Pair()
    for _ in range(10):
        pair.answer(pair.open())
    pair.now += 60.0
    pair.raw(frame(8, number(1)) * (5 + 2 * 10 + IDLE_FRAMES))
    assert pair.core.broken is None
    pair.raw(frame(8, number(1)))
    assert pair.core.broken is not None


def test_a_server_that_resets_every_stream_costs_each_request_and_no_more() -> None:
    pair = Pair()
    for _ in range(3 * IDLE_FRAMES):
        stream = pair.core.open(GET, True)
        pair.core.outgoing()
        pair.raw(frame(3, number(7), stream.id))
        assert stream.error is not None
        assert not stream.error.sent
    assert (pair.core.streams, pair.core.broken, pair.core.outgoing()) == ({}, None, b"")


def test_what_a_flood_leaves_to_be_written_is_bounded() -> None:
    for flood in (frame(6, bytes(8)), frame(4, setting(4, 5)), frame(0, b"", 1)):
        pair = Pair()
        pair.open()
        pair.core.outgoing()
        for _ in range(3 * IDLE_FRAMES):
            pair.raw(flood * 10)
        assert len(pair.core.outgoing()) <= 17 * (IDLE_FRAMES + 20)
    assert pair.core.broken is not None


def test_a_pong_that_nobody_asked_for_is_no_sign_of_life() -> None:
    pair = Pair()
    pair.core.ping()
    pair.raw(frame(6, b"whatever", 0, 1))
    assert pair.core.awaits_pong
    pair.talk()
    assert not pair.core.awaits_pong


def test_a_conversation_cut_off_anywhere_is_neither_whole_nor_broken() -> None:
    encoder = Encoder()
    head = encoder.encode([(b":status", b"200"), (b"content-length", b"8"), (b"a", b"b" * 90)])
    data = frame(1, head[:40], 1) + frame(9, head[40:], 1, 4)
    data += frame(0, b"\4body" + bytes(4), 1, 8) + frame(6, bytes(8)) + frame(0, b"BODY", 1)
    data += frame(1, encoder.encode([(b"grpc-status", b"0")]), 1, 5)
    for end in range(len(data)):
        pair = Pair()
        stream = pair.open()
        pair.raw(data[:end])
        assert (pair.core.broken, stream.error, stream.complete) == (None, None, False)
        assert b"bodyBODY".startswith(stream.take())
        pair.raw(data[end:])
        assert (stream.complete, stream.trailers) == (True, [(b"grpc-status", b"0")])


TRAILERS_AND_LENGTHS = {
    "status in trailers": (GET, [(1, 4, [(b":status", b"200")]), (1, 5, [(b":status", b"200")])]),
    "path in trailers": (GET, [(1, 4, [(b":status", b"200")]), (1, 5, [(b":path", b"/")])]),
    "trailers that go on": (GET, [(1, 4, [(b":status", b"200")]), (1, 4, [(b"a", b"b")])]),
    "connection in trailers": (
        GET,
        [(1, 4, [(b":status", b"200")]), (1, 5, [(b"connection", b"close")])],
    ),
    "a body for HEAD": (HEAD, [(1, 4, [(b":status", b"200")]), (0, 1, b"x")]),
    "a body with 204": (GET, [(1, 4, [(b":status", b"204")]), (0, 1, b"x")]),
    "a body with 304": (GET, [(1, 4, [(b":status", b"304")]), (0, 1, b"x")]),
    "a length and no body": (GET, [(1, 5, [(b":status", b"200"), (b"content-length", b"1")])]),
    "short, with trailers": (
        GET,
        [
            (1, 4, [(b":status", b"200"), (b"content-length", b"9")]),
            (0, 0, b"x"),
            (1, 5, [(b"a", b"b")]),
        ],
    ),
    "a length of 2**64": (
        GET,
        [(1, 4, [(b":status", b"200"), (b"content-length", b"18446744073709551617")]), (0, 1, b"")],
    ),
    "100 that ends": (GET, [(1, 5, [(b":status", b"100")])]),
    "101": (GET, [(1, 4, [(b":status", b"101")])]),
    "an interim one with the body": (GET, [(1, 4, [(b":status", b"103")]), (0, 1, b"x")]),
    "33 interim ones": (GET, [(1, 4, [(b":status", b"103")])] * 33),
}


@pytest.mark.parametrize("name", TRAILERS_AND_LENGTHS)
def test_malformed_answers_end_their_stream_only(name: str) -> None:
    method, steps = TRAILERS_AND_LENGTHS[name]
    pair = Pair()
    stream, other = pair.open(method), pair.open()
    encoder = Encoder()
    for kind, flags, content in steps:
        payload = content if isinstance(content, bytes) else encoder.encode(content)
        pair.raw(frame(kind, payload, stream.id, flags))
    assert not stream.complete
    assert outcome(pair, stream) == STREAM
    pair.raw(frame(1, encoder.encode([(b":status", b"200")]), other.id, 5))
    assert (other.complete, pair.core.broken) == (True, None)


def test_a_small_header_limit_ends_the_stream_that_is_over_it() -> None:
    core = Http2Core(ConnectionOptions(max_response_header_kb=1))
    stream = core.open(GET, True)
    block = Encoder().encode([(b":status", b"200"), (b"a", b"~" * 1200)], huffman=False)
    core.feed(frame(4, b"") + frame(1, block, stream.id, 5), 0.0)
    assert stream.error is not None
    assert core.broken is None


def test_the_allowance_of_a_flood_comes_back_with_time() -> None:
    pair = Pair()
    pair.now += 60.0
    pair.raw(frame(2, bytes(5), 1) * IDLE_FRAMES)
    pair.now += 1.0
    pair.raw(frame(2, bytes(5), 1) * IDLE_FRAMES_PER_S)
    assert pair.core.broken is None
    pair.raw(frame(2, bytes(5), 1) * 3)
    assert pair.core.broken is not None


def test_the_reserved_bit_of_a_stream_id_is_ignored() -> None:
    pair = Pair()
    stream = pair.open()
    for one in (frame(1, OK, stream.id, 4), frame(0, b"x", stream.id, 1)):
        pair.raw(one[:5] + bytes([one[5] | 0x80]) + one[6:])
    assert (stream.complete, stream.take(), pair.core.broken) == (True, b"x", None)


def test_the_window_of_the_connection_is_what_was_announced_and_given_back() -> None:
    """More than fits at once may pass; more than was given back may not."""
    pair = Pair()
    given = CONNECTION_WINDOW
    data = bytes(16_384)
    for _ in range(3 * CONNECTION_WINDOW // STREAM_WINDOW):
        stream = pair.core.open(GET, True)
        pair.core.outgoing()
        pair.raw(frame(1, OK, stream.id, 4))
        for _ in range(STREAM_WINDOW // len(data)):
            pair.raw(frame(0, data, stream.id))
            given -= len(data)
            for kind, _, number, payload in wire.Reader(0).frames(
                frame(4, b"") + pair.core.outgoing()
            ):
                if kind == wire.WINDOW_UPDATE and number == 0:
                    given += int.from_bytes(payload, "big")
        assert pair.core.broken is None
        assert pair.core._may_receive == given > 0
        pair.raw(frame(3, bytes(4), stream.id))
