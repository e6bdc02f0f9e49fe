"""A gRPC service over plain bytes, for tests: behaviour by method name, several servers.

``/test.Echo/<name>``; a request or response is bytes, so no generated code is needed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc

SERVICE = "/test.Echo/"


class EchoServer:
    """One grpcio server on a port of its own, with what it saw of each call."""

    def __init__(
        self, name: str = "a", port: int = 0, credentials: Any = None, **scripts: Any
    ) -> None:
        self.name = name
        self._credentials = credentials
        self.seen: list[tuple[str, dict[str, Any]]] = []
        #: What each call of a method does, in order; then the ordinary behaviour.
        self.scripts = {method: list(steps) for method, steps in scripts.items()}
        self.port = port
        self._server: Any = None
        self.start()

    def start(self) -> None:
        self._server = grpc.server(
            futures.ThreadPoolExecutor(32), options=[("grpc.so_reuseport", 0)]
        )
        self._server.add_generic_rpc_handlers((_Handler(self),))
        address = f"127.0.0.1:{self.port}"
        if self._credentials is None:
            self.port = self._server.add_insecure_port(address)
        else:
            self.port = self._server.add_secure_port(address, self._credentials)
        self._server.start()

    def stop(self, grace: float | None = None) -> None:
        self._server.stop(grace).wait()

    @property
    def count(self) -> int:
        return len(self.seen)

    def __enter__(self) -> EchoServer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, server: EchoServer) -> None:
        self._server = server

    def service(self, details: Any) -> Any:
        service, _, method = details.method.rpartition("/")
        if service + "/" != SERVICE:
            return None
        action = getattr(self, method, None)
        if action is None:
            return None
        made = {
            "Collect": grpc.stream_unary_rpc_method_handler,
            "Expand": grpc.unary_stream_rpc_method_handler,
            "Watch": grpc.unary_stream_rpc_method_handler,
            "Chat": grpc.stream_stream_rpc_method_handler,
        }.get(method, grpc.unary_unary_rpc_method_handler)
        server = self._server

        def note(context: Any) -> None:
            server.seen.append((method, dict(context.invocation_metadata())))
            steps = server.scripts.get(method)
            if steps:
                step = steps.pop(0)
                if step is not None:
                    _play(step, context)

        if method in ("Expand", "Chat", "Watch"):

            def streamed(request: Any, context: Any) -> Iterator[bytes]:
                note(context)
                yield from action(request, context)

            return made(streamed)

        def single(request: Any, context: Any) -> bytes:
            if method == "Collect":  # its script is about the whole of the requests
                request = iter(list(request))
            note(context)
            return action(request, context)  # type: ignore[no-any-return]

        return made(single)

    def Get(self, request: bytes, context: Any) -> bytes:  # noqa: N802
        """Echo; initial metadata says who answers, custom metadata comes back."""
        context.send_initial_metadata((("x-server", self._server.name),))
        echoed = [
            (key, value)
            for key, value in context.invocation_metadata()
            if key in ("x-echo", "x-echo-bin")
        ]
        context.set_trailing_metadata(echoed)
        return request

    def Who(self, request: bytes, context: Any) -> bytes:  # noqa: N802
        return self._server.name.encode()

    def Large(self, request: bytes, context: Any) -> bytes:  # noqa: N802
        return b"x" * int(request[:12])

    def Sleep(self, request: bytes, context: Any) -> bytes:  # noqa: N802
        """Until cancelled, at most the seconds asked for."""
        self._until_cancelled(context, float(request))
        return b"slept"

    def Fail(self, request: bytes, context: Any) -> bytes:  # noqa: N802
        """``code message``."""
        code, _, message = request.decode().partition(" ")
        _play(grpc.StatusCode[code] if not message else (grpc.StatusCode[code], message), context)
        raise AssertionError

    def Collect(self, requests: Iterator[bytes], context: Any) -> bytes:  # noqa: N802
        return b"".join(requests)

    def Expand(self, request: bytes, context: Any) -> Iterator[bytes]:  # noqa: N802
        for index in range(int(request)):
            yield b"%d" % index

    def Watch(self, request: bytes, context: Any) -> Iterator[bytes]:  # noqa: N802
        """One message, then nothing until cancelled."""
        yield self._server.name.encode()
        self._until_cancelled(context, 20.0)

    def _until_cancelled(self, context: Any, limit_s: float) -> None:
        limit = time.monotonic() + limit_s
        while time.monotonic() < limit:
            if not context.is_active():
                return
            time.sleep(0.005)

    def Chat(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:  # noqa: N802
        for request in requests:
            if request.startswith(b"fail"):
                context.abort(grpc.StatusCode.INTERNAL, "as asked")
            yield request


def _play(step: Any, context: Any) -> None:
    """A code, (code, details), (code, details, trailing metadata), or seconds to sleep."""
    if isinstance(step, (int, float)):
        time.sleep(step)
        return
    if isinstance(step, grpc.StatusCode):
        step = (step, "scripted")
    if len(step) == 3:
        context.set_trailing_metadata(step[2])
    context.abort(step[0], step[1])


def policy(*servers: Any, host: str = "orders", **fields: Any) -> dict[str, Any]:
    """A native document with one service over the servers."""
    endpoints = [f"127.0.0.1:{getattr(one, 'port', one)}" for one in servers]
    service = {"endpoints": endpoints, "load_balancing": {"policy": "round_robin"}, **fields}
    return {"version": 1, "services": {host: service}}


def in_flight(mesh: Any) -> int:
    """Requests that are still counted anywhere."""
    return sum(sum(each.values()) for each in mesh.dump()["clusters"].values())


class SyncCaller:
    """The blocking channel, behind the few calls that scenarios make."""

    colour = "sync"

    def __init__(self, mesh: Any, target: str = "orders", **options: Any) -> None:
        self.mesh = mesh
        self.channel = mesh.grpc_channel(target, **options)

    def unary(self, method: str, request: bytes = b"", **options: Any) -> Any:
        """Response and report."""
        call = self.channel.unary_unary(_path(method))
        response, ended = call.with_call(request, **options)
        return response, ended

    def expand(self, method: str, request: bytes = b"", **options: Any) -> list[bytes]:
        return list(self.channel.unary_stream(_path(method))(request, **options))

    def collect(self, requests: Any, **options: Any) -> bytes:
        return self.channel.stream_unary(_path("Collect"))(iter(requests), **options)  # type: ignore[no-any-return]

    def chat(self, requests: Any, **options: Any) -> list[bytes]:
        return list(self.channel.stream_stream(_path("Chat"))(iter(requests), **options))

    def initial(self, ended: Any) -> dict[str, Any]:
        return dict(ended.initial_metadata())

    def trailing(self, ended: Any) -> dict[str, Any]:
        return dict(ended.trailing_metadata())

    def close(self) -> None:
        self.channel.close()
        self.mesh.close()


class AioCaller:
    """The asyncio channel, likewise, on a loop of its own."""

    colour = "asyncio"

    def __init__(self, mesh: Any, target: str = "orders", **options: Any) -> None:
        self.mesh = mesh
        self.loop = asyncio.new_event_loop()
        self.run = self.loop.run_until_complete
        self.channel = mesh.grpc_aio_channel(target, **options)

    def unary(self, method: str, request: bytes = b"", **options: Any) -> Any:
        async def go() -> Any:
            call = self.channel.unary_unary(_path(method))(request, **options)
            return await call, call

        return self.run(go())

    def expand(self, method: str, request: bytes = b"", **options: Any) -> list[bytes]:
        async def go() -> list[bytes]:
            call = self.channel.unary_stream(_path(method))(request, **options)
            return [message async for message in call]

        return self.run(go())  # type: ignore[no-any-return]

    def collect(self, requests: Any, **options: Any) -> bytes:
        async def go() -> bytes:
            return await self.channel.stream_unary(_path("Collect"))(requests, **options)  # type: ignore[no-any-return]

        return self.run(go())  # type: ignore[no-any-return]

    def chat(self, requests: Any, **options: Any) -> list[bytes]:
        async def go() -> list[bytes]:
            call = self.channel.stream_stream(_path("Chat"))(requests, **options)
            return [message async for message in call]

        return self.run(go())  # type: ignore[no-any-return]

    def initial(self, ended: Any) -> dict[str, Any]:
        return dict(self.run(ended.initial_metadata()))

    def trailing(self, ended: Any) -> dict[str, Any]:
        return dict(self.run(ended.trailing_metadata()))

    def close(self) -> None:
        async def go() -> None:
            await self.channel.close()
            await self.mesh.aclose()

        self.run(go())
        self.run(self.loop.shutdown_asyncgens())
        self.loop.close()


def _path(method: str) -> str:
    return method if method.startswith("/") else SERVICE + method


CALLERS = (SyncCaller, AioCaller)
