"""The HTTP/2 core against a server's h2 object: no socket, no clock."""

from __future__ import annotations

import itertools

import pytest
from h2 import events
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from hpack import Encoder
from http2_support import GET, HEAD, POST, Pair, frame
from hypothesis import given, settings
from hypothesis import strategies as st

from meshclient.model.cluster import ConnectionOptions
from meshclient.model.outcome import ResetReason
from meshclient.transport.http1 import MAX_INTERIM
from meshclient.transport.http2 import IDLE_FRAMES, IDLE_FRAMES_PER_S, Http2Core
from meshclient.transport.http2_sending import (
    CONNECTION_WINDOW,
    MAX_RESETS,
    MAX_STREAMS,
    STREAM_WINDOW,
)
from meshclient.transport.http2_stream import Stream
from meshclient.transport.interface import InvalidRequest


def test_a_response_with_body_and_trailers() -> None:
    pair = Pair()
    stream = pair.open()
    pair.server.send_headers(stream.id, [(b":status", b"200"), (b"x", b"y")])
    pair.server.send_data(stream.id, b"body")
    pair.server.send_headers(stream.id, [(b"grpc-status", b"0")], end_stream=True)
    assert set(pair.talk()) == {stream}
    assert (stream.status, stream.headers, stream.take()) == (200, [(b"x", b"y")], b"body")
    assert stream.complete
    assert stream.trailers == [(b"grpc-status", b"0")]
    assert pair.core.streams == {}


def test_push_is_switched_off_and_windows_are_announced() -> None:
    pair = Pair()
    settings_frames = [e for e in pair.seen if isinstance(e, events.RemoteSettingsChanged)]
    changed = settings_frames[0].changed_settings
    assert changed[SettingCodes.ENABLE_PUSH].new_value == 0
    assert changed[SettingCodes.INITIAL_WINDOW_SIZE].new_value == STREAM_WINDOW
    assert pair.server.outbound_flow_control_window == CONNECTION_WINDOW


@pytest.mark.parametrize(("own", "allowed", "room"), [(3, 7, 3), (7, 3, 3), (0, 7, 7), (3, 0, 0)])
def test_room_is_what_the_policy_allows_too(own: int, allowed: int, room: int) -> None:
    core = Http2Core(ConnectionOptions(max_concurrent_streams=own))
    assert core.room() == (own or MAX_STREAMS), "before the peer has said anything"
    core._apply(SettingCodes.MAX_CONCURRENT_STREAMS, allowed)
    assert core.room() == room


@pytest.mark.parametrize(("allowed", "room"), [(1, 1), (7, 7), (5000, MAX_STREAMS)])
def test_room_is_what_the_peer_allows_up_to_envoys_limit(allowed: int, room: int) -> None:
    pair = Pair(MAX_CONCURRENT_STREAMS=allowed)
    assert pair.core.settled
    assert pair.core.room() == room
    pair.open()
    assert pair.core.room() == room - 1


def test_goaway_refuses_the_streams_above_its_last_one_and_lets_the_others_finish() -> None:
    pair = Pair()
    first, second = pair.open(), pair.open()
    touched = pair.raw(frame(7, first.id.to_bytes(4, "big") + bytes(4)))
    assert touched == [second]
    assert second.error is not None
    assert (second.error.reason, second.error.sent) == (ResetReason.REFUSED_STREAM, False)
    assert pair.core.room() == 0
    pair.answer(first, body=b"late")
    assert (first.complete, first.error, first.take()) == (True, None, b"late")


@pytest.mark.parametrize(
    ("code", "reason", "sent"),
    [
        (ErrorCodes.REFUSED_STREAM, ResetReason.REFUSED_STREAM, False),
        (ErrorCodes.INTERNAL_ERROR, ResetReason.REMOTE_RESET, True),
        (ErrorCodes.NO_ERROR, ResetReason.REMOTE_RESET, True),
        (0x77, ResetReason.REMOTE_RESET, True),
    ],
)
def test_reset_codes(code: int, reason: ResetReason, sent: bool) -> None:
    pair = Pair()
    stream, other = pair.open(), pair.open()
    pair.raw(frame(3, int(code).to_bytes(4, "big"), stream.id))
    assert stream.error is not None
    assert (stream.error.reason, stream.error.sent) == (reason, sent)
    pair.answer(other)
    assert other.complete


def test_a_whole_answer_and_no_error_while_uploading_is_an_answer() -> None:
    pair = Pair()
    stream = pair.open(POST, end=False)
    pair.answer(stream, body=b"enough")
    pair.raw(frame(3, bytes(4), stream.id))
    assert (stream.complete, stream.error, stream.take()) == (True, None, b"enough")
    assert pair.core.window(stream) == 0


def test_cancelling_one_stream_resets_it_and_leaves_the_others_alone() -> None:
    pair = Pair()
    stream, other = pair.open(), pair.open()
    pair.core.cancel(stream)
    pair.core.cancel(stream)
    pair.talk()
    resets = [e for e in pair.seen if isinstance(e, events.StreamReset)]
    assert [(e.stream_id, e.error_code) for e in resets] == [(stream.id, ErrorCodes.CANCEL)]
    pair.answer(other, body=b"x")
    assert other.complete


def test_bytes_for_a_cancelled_stream_do_not_use_up_the_connection_window() -> None:
    pair = Pair()
    for _ in range(CONNECTION_WINDOW // 200_000 // 4):
        stream = pair.core.open(GET, True)
        pair.server.receive_data(pair.core.outgoing())
        pair.server.send_headers(stream.id, [(b":status", b"200")])
        for _ in range(16):
            pair.server.send_data(stream.id, bytes(12_500))
        pair.core.cancel(stream)
        pair.talk()
    assert pair.server.outbound_flow_control_window > CONNECTION_WINDOW // 2


def test_too_many_cancelled_streams_retire_the_connection() -> None:
    pair = Pair()
    for _ in range(MAX_RESETS - 1):
        pair.core.cancel(pair.open())
    assert pair.core.room() > 0
    pair.core.cancel(pair.open())
    assert pair.core.room() == 0
    assert pair.core.broken is None


def test_a_stream_that_nobody_reads_gets_its_window_and_no_more() -> None:
    pair = Pair()
    stream, other = pair.open(), pair.open()
    pair.server.send_headers(stream.id, [(b":status", b"200")])
    sent = 0
    while size := min(pair.server.local_flow_control_window(stream.id), 16_384):
        pair.server.send_data(stream.id, bytes(size))
        pair.talk()
        sent += size
    assert sent == stream.buffered == STREAM_WINDOW
    pair.answer(other, body=bytes(16_384))
    assert other.complete  # the connection's window is not used up
    pair.core.consumed(stream, len(stream.take()))
    pair.talk()
    assert pair.server.local_flow_control_window(stream.id) == STREAM_WINDOW


def test_the_window_of_the_peer_is_kept_and_opened() -> None:
    pair = Pair(INITIAL_WINDOW_SIZE=10)
    stream = pair.open(POST, end=False)
    assert pair.core.window(stream) == 10
    pair.core.send(stream, b"0123456789", False)
    assert pair.core.window(stream) == 0
    pair.talk()
    pair.core.windows_opened = False
    pair.server.increment_flow_control_window(5, stream.id)
    pair.talk()
    assert pair.core.windows_opened
    assert pair.core.window(stream) == 5


def test_headers_beyond_what_the_peer_takes_are_refused_before_they_are_sent() -> None:
    pair = Pair(MAX_HEADER_LIST_SIZE=1000)
    with pytest.raises(InvalidRequest):
        pair.core.open([*GET, (b"x", b"y" * 1000)], True)
    assert pair.core.outgoing() == b""
    pair.answer(pair.open())


@pytest.mark.parametrize("status", [b"204", b"304"])
def test_content_length_of_a_response_without_body_is_no_error(status: bytes) -> None:
    pair = Pair()
    stream = pair.open()
    pair.server.send_headers(
        stream.id, [(b":status", status), (b"content-length", b"100")], end_stream=True
    )
    pair.talk()
    assert (stream.complete, stream.error) == (True, None)


def test_content_length_of_the_answer_to_head_is_no_error() -> None:
    pair = Pair()
    stream = pair.open(HEAD)
    pair.answer(stream, (b"content-length", b"100"))
    assert (stream.complete, stream.error) == (True, None)


@pytest.mark.parametrize(
    ("length", "body"), [(b"3", b"ab"), (b"3", b"abcd"), (b"-1", b"a"), (b"1_0", b"a")]
)
def test_a_wrong_content_length_ends_its_stream_only(length: bytes, body: bytes) -> None:
    pair = Pair()
    stream, other = pair.open(), pair.open()
    block = Encoder().encode([(b":status", b"200"), (b"content-length", length)])
    pair.raw(frame(1, block, stream.id, 4) + frame(0, body, stream.id, 1))
    assert stream.error is not None
    assert stream.error.reason is ResetReason.PROTOCOL_ERROR
    assert pair.core.broken is None
    assert other.error is None


def test_interim_responses_are_skipped_and_bounded() -> None:
    pair = Pair()
    stream, endless = pair.open(), pair.open()
    pair.server.send_headers(stream.id, [(b":status", b"103"), (b"link", b"x")])
    pair.answer(stream)
    assert (stream.status, stream.headers, stream.complete) == (200, [], True)
    for _ in range(MAX_INTERIM + 1):
        pair.server.send_headers(endless.id, [(b":status", b"103")])
    pair.talk()
    assert endless.error is not None
    assert endless.error.reason is ResetReason.PROTOCOL_ERROR


FLOODS = {
    "ping": frame(6, bytes(8)),
    "settings": frame(4, b""),
    "priority": frame(2, b"\0\0\0\0\x10", 1),
    "window update": frame(8, b"\0\0\0\1"),
    "empty data": frame(0, b"", 1),
    "unknown": frame(0xFA, b"x"),
    "reset of a closed stream": frame(3, bytes(4), 1),
}


@pytest.mark.parametrize("name", FLOODS)
def test_floods_end_the_connection_and_are_borne_when_slow(name: str) -> None:
    flood = FLOODS[name]

    def start() -> tuple[Pair, Stream]:
        pair = Pair()
        stream = pair.open()
        pair.raw(frame(1, Encoder().encode([(b":status", b"200")]), 1, 4))
        pair.core.outgoing()
        return pair, stream

    pair, stream = start()
    answers = 0
    for _ in range(5 * IDLE_FRAMES):
        pair.raw(flood)
        answers += len(pair.core.outgoing())
        if pair.core.broken is not None:
            break
    slow, _ = start()
    for _ in range(3 * IDLE_FRAMES):
        slow.now += 2.0 / IDLE_FRAMES_PER_S
        slow.raw(flood)
        slow.core.outgoing()
    if name == "reset of a closed stream":
        assert answers < 100  # costs nothing, leaves nothing behind
        return
    assert pair.core.broken is not None
    assert pair.core.broken.reason is ResetReason.PROTOCOL_ERROR
    assert stream.error is not None
    assert answers <= 40 * IDLE_FRAMES
    assert slow.core.broken is None


def test_a_continuation_flood_ends_the_connection() -> None:
    pair = Pair()
    stream = pair.open()
    pair.raw(frame(1, b"", stream.id))
    for _ in range(200):
        pair.raw(frame(9, b"", stream.id))
    assert pair.core.broken is not None
    assert stream.error is not None


def test_a_header_bomb_ends_its_stream_only_and_the_tables_stay_equal() -> None:
    pair = Pair()
    stream, other = pair.open(), pair.open()
    encoder = Encoder()
    block = encoder.encode([(b":status", b"200"), *[(b"x", b"y" * 4000)] * 60, (b"n", b"v")])
    assert len(block) < 10_000
    pair.raw(frame(1, block, stream.id, 4))
    assert stream.error is not None
    assert stream.headers == []
    pair.raw(frame(1, encoder.encode([(b":status", b"200"), (b"n", b"v")]), other.id, 5))
    assert (other.complete, other.headers) == (True, [(b"n", b"v")])
    assert pair.core.broken is None


def test_a_header_list_that_nobody_would_send_ends_the_connection() -> None:
    pair = Pair()
    stream = pair.open()
    pair.raw(frame(1, b"", stream.id))
    for _ in range(2 * 80 * 1024 // 16_384 + 1):
        pair.raw(frame(9, bytes(16_384), stream.id))
    assert pair.core.broken is not None
    assert stream.error is not None


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        frame(5, b"\0\0\0\2", 1, 4),  # PUSH_PROMISE
        frame(0, b"x", 9),  # DATA on a stream that was never opened
        frame(8, bytes(4)),  # WINDOW_UPDATE of nothing
        frame(6, b"short"),
        frame(4, b"\0\4\xff\xff\xff\xff"),
    ],
)
def test_violations_end_the_connection_with_a_protocol_error(data: bytes) -> None:
    pair = Pair()
    stream = pair.open()
    assert pair.raw(data + bytes(20)) == [stream]
    assert pair.core.broken is not None
    assert pair.core.broken.reason is ResetReason.PROTOCOL_ERROR
    assert pair.core.outgoing()[:9]  # GOAWAY says so
    assert pair.raw(b"more") == []


def _conversation() -> tuple[Pair, list[Stream], bytes]:
    pair = Pair()
    streams = [pair.open() for _ in range(3)]
    wire = b""
    for number, stream in enumerate(streams):
        pair.server.send_headers(stream.id, [(b":status", b"103")])
        pair.server.send_headers(stream.id, [(b":status", b"20%d" % number), (b"n", b"v")])
    for _ in range(3):
        for stream in streams:
            pair.server.send_data(stream.id, b"data%d" % stream.id)
    pair.server.ping(b"12345678")
    for stream in streams[:2]:
        pair.server.send_headers(stream.id, [(b"t", b"%d" % stream.id)], end_stream=True)
    pair.server.reset_stream(streams[2].id, ErrorCodes.INTERNAL_ERROR)
    wire += pair.server.data_to_send()
    return pair, streams, wire


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 400), max_size=12))
def test_any_split_of_the_bytes_gives_the_same_streams(cuts: list[int]) -> None:
    pair, streams, wire = _conversation()
    edges = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    for start, end in itertools.pairwise(edges):
        pair.raw(wire[start:end])
    assert [s.status for s in streams] == [200, 201, 202]
    assert [s.take() for s in streams] == [b"data%d" % s.id * 3 for s in streams]
    assert [s.trailers for s in streams[:2]] == [[(b"t", b"1")], [(b"t", b"3")]]
    assert [s.complete for s in streams] == [True, True, False]
    assert streams[2].error is not None
    assert pair.core.streams == {}


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=60), st.integers(0, 400), st.integers(0, 8))
def test_damaged_bytes_never_raise(junk: bytes, place: int, cut: int) -> None:
    pair, streams, wire = _conversation()
    place = min(place, len(wire))
    touched = pair.raw(wire[:place] + junk + wire[place + cut :])
    pair.core.outgoing()
    assert set(touched) <= set(streams)
    if pair.core.broken is not None:
        assert all(s.complete or s.error is not None for s in streams)


def _answered(*fields: tuple[bytes, bytes], flags: int = 4, **initial: int) -> tuple[Pair, Stream]:
    """One stream, and a HEADERS frame for it that h2 would not send."""
    pair = Pair(**initial)
    stream = pair.open()
    pair.raw(frame(1, Encoder().encode(list(fields)), stream.id, flags))
    return pair, stream


@pytest.mark.parametrize(
    "fields",
    [
        [(b"server", b"x")],
        [(b":status", b"99")],
        [(b":status", b"2000")],
        [(b":status", b"20x")],
        [(b":status", b"101")],
        [(b":status", b"200"), (b":status", b"200")],
        [(b"a", b"b"), (b":status", b"200")],
        [(b":status", b"200"), (b":path", b"/")],
        [(b":status", b"200"), (b"Upper", b"x")],
        [(b":status", b"200"), (b"connection", b"close")],
        [(b":status", b"200"), (b"transfer-encoding", b"chunked")],
        [(b":status", b"200"), (b"a", b"x\r\nset-cookie: y")],
        [(b":status", b"200"), (b"content-length", b"1"), (b"content-length", b"2")],
        [(b":status", b"200"), *[(b"a", b"%d" % n) for n in range(101)]],
    ],
)
def test_a_malformed_response_ends_its_stream_only(fields: list[tuple[bytes, bytes]]) -> None:
    pair, stream = _answered(*fields)
    assert stream.error is not None
    assert stream.error.reason is ResetReason.PROTOCOL_ERROR
    assert not stream.complete
    assert pair.core.broken is None
    assert pair.core.streams == {}
    assert frame(3, b"\0\0\0\1", stream.id) in pair.core.outgoing()


@pytest.mark.parametrize(
    ("fields", "flags"),
    [
        ([(b":status", b"200")], 5),
        ([(b"grpc-status", b"0")], 4),
        ([(b"a", b"b"), (b"Upper", b"x")], 5),
    ],
    ids=["pseudo header", "no end", "upper case"],
)
def test_malformed_trailers(fields: list[tuple[bytes, bytes]], flags: int) -> None:
    pair, stream = _answered((b":status", b"200"))
    pair.raw(frame(1, Encoder().encode(fields), stream.id, flags))
    assert stream.error is not None
    assert stream.trailers == []
    assert pair.core.broken is None


def test_a_body_before_its_head_ends_its_stream_only() -> None:
    pair = Pair()
    stream = pair.open()
    pair.raw(frame(0, b"early", stream.id))
    assert stream.error is not None
    assert stream.take() == b""
    assert pair.core.broken is None


def test_an_interim_response_that_ends_the_stream_is_none() -> None:
    _, stream = _answered((b":status", b"103"), flags=5)
    assert stream.error is not None


def test_padding_and_priority_are_skipped_and_padding_opens_the_window_again() -> None:
    pair = Pair()
    stream = pair.open()
    block = Encoder().encode([(b":status", b"200")])
    pair.raw(frame(1, b"\3" + bytes(5) + block + bytes(3), stream.id, 4 | 8 | 0x20))
    before = stream.may_receive
    for _ in range(STREAM_WINDOW // 2 // 256):
        pair.raw(frame(0, b"\xff" + bytes(255), stream.id, 8))  # nothing but padding
    assert stream.status == 200
    assert stream.take() == b""
    assert stream.may_receive == before
    pair.raw(frame(0, b"\2dataxx", stream.id, 9))
    assert (stream.take(), stream.complete) == (b"data", True)


def test_header_lists_in_pieces() -> None:
    pair = Pair()
    stream = pair.open()
    block = Encoder().encode([(b":status", b"200"), (b"a", b"b" * 100)])
    pair.raw(frame(1, block[:3], stream.id, 1))
    pair.raw(frame(9, block[3:50], stream.id) + frame(9, block[50:], stream.id, 4))
    assert (stream.headers, stream.complete) == ([(b"a", b"b" * 100)], True)


def test_a_request_head_of_any_size_reaches_the_server() -> None:
    pair = Pair()
    pair.server.decoder.max_header_list_size = 10**6
    long = [(b"x-%d" % number, b"v" * 4000) for number in range(12)]
    pair.open([*GET, *long])
    heads = [e for e in pair.seen if isinstance(e, events.RequestReceived)]
    assert list(heads[0].headers or [])[4:] == long


@pytest.mark.parametrize(
    "data",
    [
        frame(1, b"\x88", 1) + frame(0, b"x", 1),  # a header list that does not go on
        frame(1, b"\x88", 1) + frame(9, b"", 3, 4),  # ... but on another stream
        frame(9, b"\x88", 1, 4),  # CONTINUATION of nothing
        frame(1, b"\xff", 1, 4),  # HPACK
        frame(1, b"\x88", 2, 4),  # a stream of the server's
        frame(0, b"\5abc", 1, 8),  # more padding than payload
        frame(0, b"x", 0),
        frame(3, bytes(4), 3),  # RST_STREAM of a stream that never was
        frame(3, bytes(3), 1),
        frame(8, b"\0\0\0\1", 3),
        frame(8, b"\x7f\xff\xff\xff"),  # the connection's window beyond 2 GiB
        frame(4, b"\0\2\0\0\0\1"),  # ENABLE_PUSH
        frame(4, b"\0\5\0\0\0\1"),  # MAX_FRAME_SIZE too small
        frame(4, b"x", 0, 1),
        frame(4, b"", 1),
        frame(6, bytes(8), 1),
        frame(7, bytes(4)),
        b"\0\x40\x01\0\0\0\0\0\1",  # a frame over 16 KiB, as soon as it is announced
    ],
)
def test_more_violations_end_the_connection(data: bytes) -> None:
    pair = Pair()
    stream = pair.open()
    pair.core.outgoing()
    assert pair.raw(data) == [stream]
    assert stream.error is not None
    assert pair.core.broken is not None
    assert pair.core.outgoing()[3] == 7  # GOAWAY


def test_a_server_that_does_not_begin_with_settings_is_none() -> None:
    core = Http2Core()
    core.feed(frame(6, bytes(8)), 0.0)
    assert core.broken is not None
    assert not core.settled


def test_more_data_than_the_window_allows_ends_the_connection() -> None:
    pair, stream = _answered((b":status", b"200"))
    for _ in range(STREAM_WINDOW // 16_384):
        pair.raw(frame(0, bytes(16_384), stream.id))
    assert pair.core.broken is None
    pair.raw(frame(0, b"x", stream.id))
    assert pair.core.broken is not None


def test_what_was_whole_before_a_violation_is_an_answer() -> None:
    pair = Pair()
    whole, other = pair.open(), pair.open()
    block = Encoder().encode([(b":status", b"204")])
    touched = pair.raw(frame(1, block, whole.id, 5) + frame(5, b"", other.id))
    assert set(touched) == {whole, other}
    assert (whole.status, whole.complete, whole.error) == (204, True, None)
    assert other.error is not None


def test_window_updates_after_every_upload_are_no_flood() -> None:
    """A server gives the windows back when nobody is sending any more."""
    pair = Pair()
    for _ in range(2 * IDLE_FRAMES):
        stream = pair.open(POST, end=False)
        pair.core.send(stream, b"body", True)
        pair.talk()
        pair.server.increment_flow_control_window(4)
        pair.answer(stream)
        pair.raw(frame(8, b"\0\0\0\4", stream.id))  # crossed with the end
    assert pair.core.broken is None


def test_a_smaller_initial_window_counts_for_streams_that_are_open() -> None:
    pair = Pair(INITIAL_WINDOW_SIZE=100)
    stream = pair.open(POST, end=False)
    pair.core.send(stream, bytes(60), False)
    pair.talk()
    pair.raw(frame(4, b"\0\4\0\0\0\x32"))  # 50
    assert pair.core.window(stream) == 0
    pair.raw(frame(8, b"\0\0\0\x14", stream.id))
    assert pair.core.window(stream) == 10
