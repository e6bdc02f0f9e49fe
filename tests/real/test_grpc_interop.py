"""The client side of gRPC's interoperability scenarios, through the mesh, both colours."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_support import CALLERS, SERVICE, EchoServer, in_flight, policy

import meshclient


@pytest.fixture(scope="module")
def server() -> Iterator[EchoServer]:
    with EchoServer() as running:
        yield running


@pytest.fixture(params=CALLERS, ids=lambda caller: caller.colour)
def caller(request: Any, server: EchoServer) -> Iterator[Any]:
    mesh = meshclient.Mesh.from_documents([policy(server)])
    made = request.param(mesh)
    yield made
    _nothing_in_flight(mesh)
    made.close()


def _nothing_in_flight(mesh: Any) -> None:
    limit = time.monotonic() + 5
    while in_flight(mesh) and time.monotonic() < limit:
        time.sleep(0.005)
    assert in_flight(mesh) == 0


def test_empty_unary(caller):
    assert caller.unary("Get", b"")[0] == b""


def test_large_unary(caller):
    request = b"000000314159" + b"\0" * 271828
    assert len(caller.unary("Large", request)[0]) == 314159


def test_client_streaming(caller):
    sizes = (27182, 8, 1828, 45904)
    assert len(caller.collect([b"\0" * size for size in sizes])) == sum(sizes)


def test_server_streaming(caller):
    assert caller.expand("Expand", b"4") == [b"0", b"1", b"2", b"3"]


def test_ping_pong(caller):
    assert caller.chat([b"a" * size for size in (27182, 8, 1828, 45904)]) == [
        b"a" * size for size in (27182, 8, 1828, 45904)
    ]


def test_empty_stream(caller):
    assert caller.chat([]) == []
    assert caller.collect([]) == b""
    assert caller.expand("Expand", b"0") == []


def test_timeout_on_sleeping_server(caller):
    with pytest.raises(grpc.RpcError) as caught:
        caller.unary("Sleep", b"5", timeout=0.05)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_status_code_and_message(caller):
    with pytest.raises(grpc.RpcError) as caught:
        caller.unary("Fail", b"UNKNOWN test status message")
    assert caught.value.code() is grpc.StatusCode.UNKNOWN
    assert caught.value.details() == "test status message"


def test_special_status_message(caller):
    message = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"
    with pytest.raises(grpc.RpcError) as caught:
        caller.unary("Fail", f"UNKNOWN {message}".encode())
    assert caught.value.details() == message


@pytest.mark.parametrize("method", [SERVICE + "Nothing", "/test.Unknown/Get"])
def test_unimplemented_method_and_service(caller, method):
    with pytest.raises(grpc.RpcError) as caught:
        caller.unary(method)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_custom_metadata(caller):
    sent = (("x-echo", "initial value"), ("x-echo-bin", b"\xab\xab\xab\x00"))
    response, ended = caller.unary("Get", b"x", metadata=sent)
    assert response == b"x"
    assert caller.trailing(ended) == dict(sent)
    assert caller.initial(ended)["x-server"] == "a"


@pytest.mark.parametrize("kind", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_calls(caller, server, kind):
    body = b"z" * 100_000
    assert caller.unary("Get", body, compression=kind)[0] == body
    assert caller.collect([body, b"!"], compression=kind) == body + b"!"
    assert caller.expand("Expand", b"2", compression=kind) == [b"0", b"1"]


def test_a_compressing_channel(server):
    for kind in CALLERS:
        mesh = meshclient.Mesh.from_documents([policy(server)])
        caller = kind(mesh, compression=grpc.Compression.Gzip)
        assert caller.unary("Get", b"y" * 5000)[0] == b"y" * 5000
        caller.close()


def test_call_credentials_reach_the_server():
    """They need a secure channel; locally trusted credentials make one without files."""

    class Token(grpc.AuthMetadataPlugin):
        def __call__(self, context: Any, callback: Any) -> None:
            callback((("x-echo", "token"),), None)

    server = EchoServer(credentials=grpc.local_server_credentials())
    token = grpc.metadata_call_credentials(Token())
    for kind in CALLERS:
        mesh = meshclient.Mesh.from_documents([policy(server)])
        caller = kind(mesh, credentials=grpc.local_channel_credentials())
        _, ended = caller.unary("Get", b"", credentials=token)
        assert caller.trailing(ended)["x-echo"] == "token"
        caller.close()
    server.stop()


# -- cancellation, which is spelled differently ------------------------------------------


@pytest.fixture
def mesh(server: EchoServer) -> Iterator[Any]:
    with meshclient.Mesh.from_documents([policy(server)]) as made:
        yield made
        _nothing_in_flight(made)


def test_cancel_after_begin(mesh):
    with mesh.grpc_channel("orders") as channel:
        gate = threading.Event()

        def requests() -> Iterator[bytes]:
            gate.wait(5)
            yield b""

        call = channel.stream_unary(SERVICE + "Collect").future(requests())
        assert call.running()
        assert call.cancel()
        assert call.cancelled()
        assert call.code() is grpc.StatusCode.CANCELLED
        with pytest.raises(grpc.FutureCancelledError):
            call.result()
        gate.set()


def test_cancel_after_first_response(mesh):
    with mesh.grpc_channel("orders") as channel:
        call = channel.unary_stream(SERVICE + "Watch")(b"")
        assert next(call) == b"a"
        assert call.is_active()
        call.cancel()
        with pytest.raises(grpc.RpcError) as caught:
            next(call)
        assert caught.value.code() is grpc.StatusCode.CANCELLED
        assert not call.is_active()


def test_a_dropped_stream_is_cancelled(mesh):
    with mesh.grpc_channel("orders") as channel:
        call = channel.unary_stream(SERVICE + "Watch")(b"")
        next(call)
        assert in_flight(mesh) == 1
        del call
        _nothing_in_flight(mesh)


def test_aio_cancel_after_begin(mesh):
    async def go() -> None:
        async with mesh.grpc_aio_channel("orders") as channel:
            call = channel.stream_unary(SERVICE + "Collect")()
            await call.wait_for_connection()
            assert not call.done()
            assert call.cancel()
            assert call.cancelled()
            assert await call.code() is grpc.StatusCode.CANCELLED
            with pytest.raises(asyncio.CancelledError):
                await call

    asyncio.run(go())


def test_aio_cancel_after_first_response(mesh):
    async def go() -> None:
        async with mesh.grpc_aio_channel("orders") as channel:
            call = channel.unary_stream(SERVICE + "Watch")(b"")
            assert await call.read() == b"a"
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call.read()

    asyncio.run(go())


def test_aio_a_dropped_stream_is_cancelled(mesh):
    async def go() -> None:
        async with mesh.grpc_aio_channel("orders") as channel:
            call = channel.unary_stream(SERVICE + "Watch")(b"")
            await call.read()
            assert in_flight(mesh) == 1
            del call
            assert in_flight(mesh) == 0

    asyncio.run(go())


def test_aio_a_cancelled_task_cancels_the_call(mesh):
    async def go() -> None:
        async with mesh.grpc_aio_channel("orders") as channel:
            call = channel.unary_unary(SERVICE + "Sleep")(b"20")

            async def wait() -> Any:
                return await call

            task = asyncio.create_task(wait())
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert call.cancelled()

    asyncio.run(go())


# -- the rest of grpcio's API --------------------------------------------------------------


def test_a_future(mesh):
    with mesh.grpc_channel("orders") as channel:
        call = channel.unary_unary(SERVICE + "Who").future(b"", timeout=5)
        told = threading.Event()
        call.add_done_callback(lambda done: told.set() if done is call else None)
        assert call.result(timeout=5) == b"a"
        assert told.wait(5)
        assert call.exception() is None
        assert call.traceback() is None
        assert call.done()
        assert not call.cancel()
        assert call.code() is grpc.StatusCode.OK
        assert call.details() == ""
        assert 0 < call.time_remaining() < 5
        assert not call.add_callback(told.set)
        slow = channel.unary_unary(SERVICE + "Sleep").future(b"0.2")
        with pytest.raises(grpc.FutureTimeoutError):
            slow.result(timeout=0.01)
        assert slow.result() == b"slept"


def test_a_future_that_fails(mesh):
    with mesh.grpc_channel("orders") as channel:
        call = channel.unary_unary(SERVICE + "Fail").future(b"NOT_FOUND nothing there")
        error = call.exception()
        assert isinstance(error, grpc.RpcError)
        assert error.code() is call.code() is grpc.StatusCode.NOT_FOUND
        assert call.details() == "nothing there"
        assert [each.endpoint for each in call.report.attempts] == [call.report.endpoint]


def test_connectivity(mesh):
    states: list[Any] = []
    with mesh.grpc_channel("orders") as channel:
        channel.subscribe(states.append, try_to_connect=True)
        grpc.channel_ready_future(channel).result(timeout=10)
        limit = time.monotonic() + 5
        while grpc.ChannelConnectivity.READY not in states and time.monotonic() < limit:
            time.sleep(0.01)
        channel.unsubscribe(states.append)
    assert states[-1] is grpc.ChannelConnectivity.READY
    with pytest.raises(ValueError, match="closed channel"):
        channel.unary_unary(SERVICE + "Who")(b"")


def test_aio_connectivity(mesh):
    async def go() -> None:
        channel = mesh.grpc_aio_channel("orders")
        assert channel.get_state() is grpc.ChannelConnectivity.IDLE
        waiting = asyncio.create_task(channel.wait_for_state_change(grpc.ChannelConnectivity.IDLE))
        async with asyncio.timeout(5):
            await channel.channel_ready()
            await waiting
        assert channel.get_state() is grpc.ChannelConnectivity.READY
        await channel.close()
        assert channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN
        with pytest.raises(grpc.aio.UsageError):
            channel.unary_unary(SERVICE + "Who")(b"")

    asyncio.run(go())


def test_aio_close_gives_calls_their_grace(mesh):
    async def go() -> None:
        channel = mesh.grpc_aio_channel("orders")
        short = channel.unary_unary(SERVICE + "Sleep")(b"0.1")
        long = channel.unary_unary(SERVICE + "Sleep")(b"20")
        await asyncio.sleep(0.02)
        await channel.close(grace=0.5)
        assert await short == b"slept"
        with pytest.raises(asyncio.CancelledError):
            await long

    asyncio.run(go())


def test_aio_read_and_write(mesh):
    async def go() -> None:
        async with mesh.grpc_aio_channel("orders") as channel:
            call = channel.stream_stream(SERVICE + "Chat")()
            for message in (b"1", b"2", b"3"):
                await call.write(message)
                assert await call.read() == message
            await call.done_writing()
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
            assert await call.code() is grpc.StatusCode.OK
            with pytest.raises(asyncio.InvalidStateError):
                await call.write(b"too late")
            with pytest.raises(grpc.aio.UsageError):
                aiter(call)

    asyncio.run(go())


def test_interceptors_of_both_colours(mesh):
    class Sync(grpc.UnaryUnaryClientInterceptor):
        def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            return continuation(details, request + b"+")

    class Aio(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            details.metadata.add("x-echo", "seen")
            return await continuation(details, request + b"+")

    class AioStream(grpc.aio.StreamStreamClientInterceptor):
        async def intercept_stream_stream(
            self, continuation: Any, details: Any, requests: Any
        ) -> Any:
            return await continuation(details, requests)

    with mesh.grpc_channel("orders") as bare:
        channel = grpc.intercept_channel(bare, Sync())
        assert channel.unary_unary(SERVICE + "Get")(b"a") == b"a+"
        assert channel.unary_unary(SERVICE + "Get").future(b"a").result() == b"a+"

    async def go() -> None:
        interceptors = [Aio(), AioStream()]
        async with mesh.grpc_aio_channel("orders", interceptors=interceptors) as channel:
            call = channel.unary_unary(SERVICE + "Get")(b"a")
            assert await call == b"a+"
            assert dict(await call.trailing_metadata()) == {"x-echo": "seen"}
            chat = channel.stream_stream(SERVICE + "Chat")([b"1", b"2"])
            assert [message async for message in chat] == [b"1", b"2"]

    asyncio.run(go())
    with pytest.raises(ValueError, match="no client interceptor"):
        mesh.grpc_aio_channel("orders", interceptors=[object()])
