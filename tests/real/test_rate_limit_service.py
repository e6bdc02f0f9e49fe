"""Every driver asks a real rate limit service on its own loop or thread, and blocks nobody."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest
import trio
from servers.rate_limit import OVER_LIMIT, RateLimitServer, Script, response

import meshclient
from meshclient.clients.questions import MAX_ANSWER
from meshclient.model.protobuf import bytes_field

OVER = Script(response(OVER_LIMIT, {"retry-after": "3"}, body=b"too much"))


@pytest.fixture
def service() -> Iterator[RateLimitServer]:
    with RateLimitServer() as running:
        yield running


def mesh_of(service: RateLimitServer, **options: Any) -> meshclient.Mesh:
    """The service ``shop`` answers by itself where the limits let a call pass."""
    ask = {
        "service": "limits",
        "domain": "d",
        "timeout": "3s",
        "actions": [{"request_header": ":path", "key": "path"}],
        **options,
    }
    document = {
        "version": 1,
        "services": {
            "limits": {"endpoints": [f"127.0.0.1:{service.port}"], "protocol": "h2"},
            "shop": {
                # A port that refuses: what gets here was let pass.
                "endpoints": ["127.0.0.1:9"],
                "retries": {"attempts": 0},
                "global_rate_limit": ask,
            },
        },
    }
    return meshclient.Mesh.from_documents([document], local_replies="respond")


def in_flight(mesh: meshclient.Mesh) -> int:
    return sum(mesh.dump()["clusters"]["limits"].values())


def refused(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.text) == (429, "too much")
    assert answer.headers["retry-after"] == "3"
    assert answer.extensions["meshclient"].flags == ("RL",)


def test_blocking_calls(service: RateLimitServer) -> None:
    with mesh_of(service) as mesh, mesh.client() as client:
        assert client.get("http://shop/ok").status_code == 503
        service.script = OVER
        refused(client.get("http://shop/over"))
        assert len(service.asked) == 2
        assert in_flight(mesh) == 0


def test_asyncio_goes_on_while_the_service_thinks(service: RateLimitServer) -> None:
    service.script = Script(OVER.message, delay_s=0.2)

    async def main(mesh: meshclient.Mesh) -> int:
        ticks = 0
        async with mesh.async_client() as client:
            calls = [asyncio.create_task(client.get(f"http://shop/{n}")) for n in range(4)]
            while not all(call.done() for call in calls):
                await asyncio.sleep(0.01)
                ticks += 1
            for call in calls:
                refused(call.result())
        await mesh.aclose()
        return ticks

    mesh = mesh_of(service)
    assert asyncio.run(main(mesh)) >= 8
    assert in_flight(mesh) == 0


def test_a_cancelled_call_leaves_nothing_behind(service: RateLimitServer) -> None:
    service.script = Script(delay_s=0.3)

    async def main(mesh: meshclient.Mesh) -> None:
        async with mesh.async_client() as client:
            call = asyncio.create_task(client.get("http://shop/"))
            await asyncio.sleep(0.1)
            assert in_flight(mesh) == 1
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert in_flight(mesh) == 0
        await mesh.aclose()

    asyncio.run(main(mesh_of(service)))


def test_trio(service: RateLimitServer) -> None:
    """Its wire does not show trailers; a message is an answer all the same."""

    async def main(mesh: meshclient.Mesh) -> None:
        async with mesh, mesh.async_client() as client:
            service.script = OVER
            refused(await client.get("http://shop/"))
            service.script = Script(failure=grpc.StatusCode.UNAVAILABLE)
            assert (await client.get("http://shop/")).status_code == 500
            assert in_flight(mesh) == 0

    trio.run(main, mesh_of(service, failure_mode_deny=True))


def test_decorated_functions(service: RateLimitServer) -> None:
    service.script = OVER
    with mesh_of(service) as mesh:

        @mesh.call("shop")
        def blocking() -> None:
            raise AssertionError("it is over its limit")

        @mesh.call("shop")
        async def running() -> None:
            raise AssertionError("it is over its limit")

        for run in (blocking, lambda: asyncio.run(_as_coroutine(running))):
            with pytest.raises(meshclient.MeshError) as error:
                run()
            assert error.value.status == 429  # type: ignore[attr-defined]
        assert in_flight(mesh) == 0


async def _as_coroutine(function: Any) -> None:
    await function()


def test_rpcs_of_both_kinds(service: RateLimitServer) -> None:
    """The channel's own threads and loop do not wait."""
    service.script = OVER

    async def running(mesh: meshclient.Mesh) -> tuple[Any, str]:
        async with mesh.grpc_aio_channel("shop") as channel:
            try:
                await channel.unary_unary("/s/M")(b"")
            except grpc.aio.AioRpcError as error:
                return error.code(), str(error.details())
        return None, ""

    with mesh_of(service, resource_exhausted=True) as mesh:
        expected = (grpc.StatusCode.RESOURCE_EXHAUSTED, "too much")
        with mesh.grpc_channel("shop") as channel:
            method = channel.unary_unary("/s/M")
            for call in (method, lambda request: method.future(request).result(5)):
                with pytest.raises(grpc.RpcError) as error:
                    call(b"")
                assert (error.value.code(), error.value.details()) == expected
            streaming = channel.unary_stream("/s/M")(b"")
            with pytest.raises(grpc.RpcError) as error:
                next(streaming)
            assert error.value.code() == expected[0]
        assert asyncio.run(running(mesh)) == expected
        assert len(service.asked) == 4
        assert in_flight(mesh) == 0


def test_many_threads_ask_at_once(service: RateLimitServer) -> None:
    service.script = OVER
    with mesh_of(service) as mesh, mesh.client() as client:

        def run() -> None:
            for number in range(10):
                refused(client.get(f"http://shop/{number}"))

        threads = [threading.Thread(target=run) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert len(service.asked) == 80
        assert in_flight(mesh) == 0


@pytest.mark.parametrize("deny", [False, True])
def test_the_wait_for_an_answer_is_bounded(service: RateLimitServer, deny: bool) -> None:
    service.script = Script(delay_s=0.5)
    with mesh_of(service, timeout="50ms", failure_mode_deny=deny) as mesh, mesh.client() as client:
        began = time.monotonic()
        answer = client.get("http://shop/")
        assert time.monotonic() - began < 0.45
        assert answer.status_code == (500 if deny else 503)
        flags = answer.extensions["meshclient"].flags
        assert ("RLSE" in flags) is deny
        assert "no answer in time" in answer.extensions["meshclient"].notes[0]
        service.script = Script()


def test_the_callers_own_limit_is_kept(service: RateLimitServer) -> None:
    service.script = Script(delay_s=0.5)
    with mesh_of(service) as mesh, mesh.client(timeout=0.1) as client:
        began = time.monotonic()
        answer = client.get("http://shop/")
        assert time.monotonic() - began < 0.45
        assert answer.status_code == 504
        service.script = Script()


def test_an_answer_without_end_is_no_answer(service: RateLimitServer) -> None:
    service.script = Script(bytes_field(5, b"x" * MAX_ANSWER))
    with mesh_of(service, failure_mode_deny=True) as mesh, mesh.client() as client:
        answer = client.get("http://shop/")
        assert answer.status_code == 500
        assert "more than" in answer.extensions["meshclient"].notes[0]
        service.script = OVER
        refused(client.get("http://shop/"))


def test_no_question_leads_to_another(service: RateLimitServer) -> None:
    """The service's own routes ask itself: only calls to it by name do."""
    ask = {"service": "limits", "domain": "d", "timeout": "3s", "actions": [{"generic_key": "g"}]}
    document = {
        "version": 1,
        "services": {
            "limits": {
                "endpoints": [f"127.0.0.1:{service.port}"],
                "protocol": "h2",
                "global_rate_limit": ask,
            },
            "shop": {"endpoints": ["127.0.0.1:9"], "global_rate_limit": ask},
        },
    }
    service.script = OVER
    with (
        meshclient.Mesh.from_documents([document], local_replies="respond") as mesh,
        mesh.client() as client,
    ):
        refused(client.get("http://shop/"))
        assert len(service.asked) == 1


def test_a_service_without_endpoints_is_a_failure(service: RateLimitServer) -> None:
    mesh = mesh_of(service, failure_mode_deny=True)
    service.close()
    with mesh, mesh.client() as client:
        assert client.get("http://shop/").status_code == 500
        assert in_flight(mesh) == 0


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_service_that_was_restarted_answers_at_once(
    service: RateLimitServer, colour: str
) -> None:
    """The connection of before is dead; a call must not pass, or fail, because of that."""
    mesh = mesh_of(service, failure_mode_deny=True)

    async def twice() -> None:
        async with mesh, mesh.async_client() as client:
            refused(await client.get("http://shop/"))
            with _another(service):
                refused(await client.get("http://shop/"))

    service.script = OVER
    if colour == "async":
        asyncio.run(twice())
        return
    with mesh, mesh.client() as client:
        refused(client.get("http://shop/"))
        with _another(service):
            refused(client.get("http://shop/"))


def _another(service: RateLimitServer) -> RateLimitServer:
    service.close()
    second = RateLimitServer(service.port)
    assert second.port == service.port
    second.script = OVER
    return second
