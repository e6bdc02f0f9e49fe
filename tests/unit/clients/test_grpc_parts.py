"""The parts of the gRPC drivers that need no server: endings, targets, replay, timer, errors."""

from __future__ import annotations

import asyncio
import pickle
import threading
from typing import Any

import grpc
import grpc.aio
import pytest
from hypothesis import given
from hypothesis import strategies as st

import meshclient
from meshclient import errors
from meshclient.clients import grpc_ending as ending
from meshclient.clients.grpc_aio_replay import AioReplayStream
from meshclient.clients.grpc_connectivity import State, together
from meshclient.clients.grpc_replay import MAX_REPLAY_BYTES, ReplayStream
from meshclient.clients.grpc_rpc_start import metadata_of
from meshclient.clients.grpc_subchannels import Profile, _address, _options
from meshclient.clients.grpc_target import Dialled
from meshclient.clients.grpc_timer import Timer
from meshclient.model.cluster import ConnectionOptions
from meshclient.model.outcome import ResetReason as R
from meshclient.transport.interface import Target

_NO_ADDRESS = "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: "


@pytest.mark.parametrize(
    ("code", "details", "reason"),
    [
        (14, _NO_ADDRESS + "Failed to connect to remote host: Connection refused", "failure"),
        (14, _NO_ADDRESS + "connection attempt timed out before receiving SETTINGS", "timeout"),
        (14, _NO_ADDRESS + "Failed parsing HTTP/2 (Expected SETTINGS frame)", "protocol"),
        (14, "Stream removed (RST_STREAM (Received RST_STREAM with error code 7))", "refused"),
        (8, "Stream removed (RST_STREAM (Received RST_STREAM with error code 11))", "reset"),
        (13, "Stream removed (RST_STREAM (Received RST_STREAM with error code 2))", "reset"),
        (14, "Stream removed (GOAWAY received; Error code: 0; Debug Text: )", "refused"),
        (14, "Stream removed (Socket closed)", "gone"),
        (14, "Stream removed (ping timeout)", "gone"),
        (13, "Stream removed (Failed parsing HTTP/2 (Frame size 47))", "protocol"),
        (4, "Stream removed (Deadline Exceeded)", None),
        (14, "scripted", None),
        (14, "", None),
    ],
)
def test_why_there_was_no_answer(code, details, reason):
    expected = {
        "failure": R.CONNECTION_FAILURE,
        "timeout": R.CONNECTION_TIMEOUT,
        "protocol": R.PROTOCOL_ERROR,
        "refused": R.REFUSED_STREAM,
        "reset": R.REMOTE_RESET,
        "gone": R.CONNECTION_TERMINATION,
        None: None,
    }[reason]
    assert ending.reset_of(code, details, bare=True) is expected
    # With metadata of a server's there was an answer, whatever its words.
    assert ending.reset_of(code, details, bare=False) is None


def test_only_the_clients_own_deadline_is_local():
    assert ending.is_local_deadline(4, "Deadline Exceeded", True)
    assert ending.is_local_deadline(4, "Stream removed (Deadline Exceeded)", True)
    assert not ending.is_local_deadline(4, "too slow", True)
    assert not ending.is_local_deadline(4, "Deadline Exceeded", False)
    assert not ending.is_local_deadline(14, "Deadline Exceeded", True)


def test_a_trailers_only_response_is_judged_by_its_status():
    outcome = ending.outcome_of_status(14, "no", [("x-a", "1")], ())
    assert (outcome.status, outcome.grpc_status) == (200, 14)
    assert outcome.headers is not None
    assert outcome.headers.get("x-a") == "1"
    assert outcome.headers.get("grpc-status") == "14"


def test_a_response_with_a_head_is_judged_by_that():
    outcome = ending.outcome_of_status(14, "no", (), [("x-a", "1")])
    assert (outcome.status, outcome.grpc_status) == (200, -1)


def test_an_http_status_is_one():
    outcome = ending.outcome_of_status(14, "Received http2 header with status: 503", (), ())
    assert (outcome.status, outcome.grpc_status) == (503, -1)


_KEYS = st.sampled_from(["x-a", "x-b", "trace-bin", "y-bin"])


@given(st.lists(st.tuples(_KEYS, st.binary(max_size=40)), max_size=8))
def test_metadata_survives_the_way_through_header_lines(pairs):
    metadata = tuple((key, value if key.endswith("-bin") else value.hex()) for key, value in pairs)
    assert metadata_of(ending.raw_headers(metadata)) == metadata


@pytest.mark.parametrize(
    ("target", "authority", "host", "port"),
    [
        ("orders:50051", "orders:50051", "orders", 50051),
        ("orders", "orders", "orders", 80),
        ("dns:///orders:50051", "orders:50051", "orders", 50051),
        ("dns:orders", "orders", "orders", 80),
        ("dns://8.8.8.8/orders:1", "orders:1", "orders", 1),
        ("xds:///orders.prod.svc:1", "orders.prod.svc:1", "orders.prod.svc", 1),
        ("ipv4:127.0.0.1:7", "127.0.0.1:7", "127.0.0.1", 7),
        ("[::1]:7", "[::1]:7", "::1", 7),
        ("dns:50051", "dns:50051", "dns", 50051),
    ],
)
def test_targets(target, authority, host, port):
    dialled = Dialled(target)
    assert (dialled.authority, dialled.host, dialled.port) == (authority, host, port)
    assert dialled.scheme == "http"


@pytest.mark.parametrize(
    "target",
    ["", None, "orders:0", "orders:99999", "ipv4:1.1.1.1:1,2.2.2.2:2", "unix:/x", "http://orders/"],
)
def test_targets_that_are_none(target):
    with pytest.raises(ValueError, match=r"target|port"):
        Dialled(target)


def test_credentials_of_the_callers_make_it_https():
    assert (Dialled("orders", True).scheme, Dialled("orders", True).port) == ("https", 443)


# -- sub-channels ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "more", "expected"),
    [
        ("10.0.0.1", (), "ipv4:10.0.0.1:8"),
        ("10.0.0.1", ("10.0.0.2", "fd00::1"), "ipv4:10.0.0.1:8,10.0.0.2:8"),
        ("fd00::1", (), "ipv6:[fd00::1]:8"),
        ("orders.test", (), "dns:///orders.test:8"),
        ("unix:///run/orders.sock", (), "unix:/run/orders.sock"),
    ],
)
def test_addresses(address, more, expected):
    assert _address(Target(address, 8, more_addresses=more)) == expected


def test_the_callers_options_yield_to_what_must_be():
    own = [("grpc.enable_retries", 1), ("grpc.max_reconnect_backoff_ms", 7), ("x", "y")]
    life = ConnectionOptions(connect_timeout_s=2.5, ping_interval_s=30.0)
    options = _options(Target("10.0.0.1", 8, options=life), "orders", Profile(own, None, None))
    assert len({name for name, _ in options}) == len(options)
    found = dict(options)
    assert found["grpc.enable_retries"] == 0
    assert found["grpc.max_reconnect_backoff_ms"] == 7
    assert found["grpc.min_reconnect_backoff_ms"] == 2500
    assert found["grpc.keepalive_time_ms"] == 30_000
    assert found["grpc.default_authority"] == "orders"
    assert found["x"] == "y"


def test_equal_options_share_connections():
    assert Profile([("a", 1)], None, None) == Profile((("a", 1),), None, None)
    assert Profile([("a", 1)], None, None) != Profile([("a", 2)], None, None)
    assert Profile([], object(), None) != Profile([], object(), None)


def test_the_best_state_is_the_channels():
    assert together([State.TRANSIENT_FAILURE, State.READY, State.IDLE]) is State.READY
    assert together([State.TRANSIENT_FAILURE, State.IDLE]) is State.IDLE
    assert together([]) is State.TRANSIENT_FAILURE


# -- replay ------------------------------------------------------------------------------------


def test_requests_are_sent_again_from_the_first():
    ended: list[int] = []
    stream = ReplayStream([1, 2, 3], lambda number: b"%d" % number)
    stream.on_end = lambda: ended.append(1)
    first = stream.reader()
    assert next(first) == b"1"
    assert list(stream.reader()) == [b"1", b"2", b"3"]
    assert ended == [1]
    assert stream.keeps_all


def test_too_much_to_hold_is_said():
    stream = ReplayStream([b"x" * (MAX_REPLAY_BYTES // 2)] * 3, None)
    reader = stream.reader()
    next(reader)
    next(reader)
    assert stream.keeps_all
    assert len(next(reader)) == MAX_REPLAY_BYTES // 2
    assert not stream.keeps_all


def test_aio_requests_are_sent_again_from_the_first():
    async def numbers() -> Any:
        for number in (b"1", b"2", b"3"):
            await asyncio.sleep(0)
            yield number

    async def go() -> None:
        stream = AioReplayStream(numbers(), None)
        first = stream.reader()
        assert await anext(first) == b"1"
        left = asyncio.ensure_future(anext(first))
        await asyncio.sleep(0)
        left.cancel()  # the try is over; what it asked for is not lost
        await asyncio.gather(left, return_exceptions=True)
        assert [item async for item in stream.reader()] == [b"1", b"2", b"3"]

    asyncio.run(go())


def test_aio_a_write_waits_until_it_is_taken():
    async def go() -> None:
        stream = AioReplayStream(None, None)
        writing = asyncio.ensure_future(stream.put(b"1"))
        await asyncio.sleep(0)
        assert not writing.done()
        reader = stream.reader()
        assert await anext(reader) == b"1"
        following = asyncio.ensure_future(anext(reader))
        await writing
        stream.end()
        with pytest.raises(StopAsyncIteration):
            await following
        late = asyncio.ensure_future(AioReplayStream(None, None).put(b""))
        await asyncio.sleep(0)
        late.cancel()

    asyncio.run(go())


def test_aio_what_was_answered_is_not_held():
    async def go() -> None:
        stream = AioReplayStream([b"x" * 1000] * 100, None)
        stream.keep_no_more()
        async for _ in stream.reader():
            assert len(stream._held) <= 1

    asyncio.run(go())


# -- timer -------------------------------------------------------------------------------------


def test_the_timer_keeps_the_order_and_ends():
    timer, seen, done = Timer(), [], threading.Event()
    timer.later(0.02, lambda: (seen.append("late"), done.set()))
    timer.later(0.0, lambda: 1 / 0)  # logged, and harmless
    timer.later(0.0, lambda: seen.append("soon"))
    assert done.wait(5)
    assert seen == ["soon", "late"]
    timer.later(60.0, lambda: seen.append("at close"))
    timer.close()
    assert seen[-1] == "at close"
    timer.later(60.0, lambda: seen.append("after"))
    assert seen[-1] == "after"


# -- errors --------------------------------------------------------------------------------------


def test_errors_are_both_rpc_errors_and_ours_and_can_be_pickled():
    with meshclient.Mesh.from_documents(
        [{"version": 1, "services": {"orders": {"endpoints": []}}}]
    ) as mesh:
        with pytest.raises(grpc.RpcError) as caught:
            mesh.grpc_channel("orders").unary_unary("/a.B/C")(b"")

        async def go() -> Any:
            channel = mesh.grpc_aio_channel("orders")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/a.B/C")(b"")
            return caught.value

        for error in (caught.value, asyncio.run(go())):
            assert isinstance(error, errors.NoHealthyEndpoint)
            again = pickle.loads(pickle.dumps(error))
            assert type(again) is type(error)
            assert (again.code(), again.details()) == (error.code(), error.details())
            assert again.report.flags == ("UH",)
            assert "no healthy upstream" in str(again)
    sync: Any = caught.value
    assert sync.done()
    assert not sync.cancel()
    assert sync.exception() is sync
    with pytest.raises(grpc.RpcError):
        sync.result()
