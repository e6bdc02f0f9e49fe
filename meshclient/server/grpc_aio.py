"""Interceptor for ``grpc.aio.server``: what an RPC brings is there for the calls made for it."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from contextvars import Context, Token, copy_context
from typing import TYPE_CHECKING, Any

import grpc.aio

from meshclient.server.grpc_common import Marking, iterate, read, rewrap, with_mark
from meshclient.telemetry.propagation import INBOUND

if TYPE_CHECKING:
    from meshclient.mesh import Mesh
    from meshclient.model.inbound import Inbound


class AioServerInterceptor(grpc.aio.ServerInterceptor):
    """``grpc.aio.server(interceptors=[AioServerInterceptor()])``, as the first one.

    :class:`meshclient.server.ServerInterceptor` for asyncio. Blocking methods, which
    grpcio runs on a thread, see the request as well.
    """

    def __init__(self, mesh: Mesh | None = None) -> None:
        self._mesh = mesh

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], details: Any
    ) -> Any:
        """Wrap the method's handler. Called by grpcio for each RPC."""
        handler = await continuation(details)
        metadata = details.invocation_metadata

        def enter(servicer: Any) -> tuple[Inbound, Token[Inbound | None]]:
            inbound = read(self._mesh, metadata, servicer.time_remaining())
            return inbound, INBOUND.set(inbound)

        def unary(behaviour: Callable[..., Any]) -> Callable[..., Any]:
            if not inspect.iscoroutinefunction(behaviour):
                return self._blocking(behaviour, metadata)

            async def around(request: Any, servicer: Any) -> Any:
                inbound, token = enter(servicer)
                try:
                    with Marking(inbound, servicer):
                        return await behaviour(request, _Servicer(servicer, inbound))
                finally:
                    INBOUND.reset(token)

            return around

        def stream(behaviour: Callable[..., Any]) -> Callable[..., Any]:
            if inspect.isasyncgenfunction(behaviour):
                return _streaming(behaviour, enter)
            if inspect.iscoroutinefunction(behaviour):  # it writes to the servicer's context
                return unary(behaviour)
            return self._blocking_stream(behaviour, metadata)

        return rewrap(handler, unary, stream)

    def _blocking(self, behaviour: Callable[..., Any], metadata: Any) -> Callable[..., Any]:
        def around(request: Any, servicer: Any) -> Any:
            inbound, context = self._apart(servicer, metadata)
            known = _BlockingServicer(servicer, inbound)
            with Marking(inbound, known):
                return context.run(behaviour, request, known)

        return around

    def _blocking_stream(self, behaviour: Callable[..., Any], metadata: Any) -> Callable[..., Any]:
        def around(request: Any, servicer: Any) -> Iterator[Any]:
            inbound, context = self._apart(servicer, metadata)
            known = _BlockingServicer(servicer, inbound)
            with Marking(inbound, known):
                yield from iterate(behaviour, request, known, context)

        return around

    def _apart(self, servicer: Any, metadata: Any) -> tuple[Inbound, Context]:
        """A context of its own: the thread is grpcio's, and the next RPC's."""
        inbound = read(self._mesh, metadata, servicer.time_remaining())
        context = copy_context()
        context.run(INBOUND.set, inbound)
        return inbound, context


def _streaming(
    behaviour: Callable[..., AsyncIterator[Any]],
    enter: Callable[[Any], tuple[Inbound, Token[Inbound | None]]],
) -> Callable[..., AsyncIterator[Any]]:
    async def around(request: Any, servicer: Any) -> AsyncIterator[Any]:
        inbound, token = enter(servicer)
        try:
            with Marking(inbound, servicer):
                async for message in behaviour(request, _Servicer(servicer, inbound)):
                    yield message
        finally:
            # Closed by the loop at its end, it is another context: then there is nothing to undo.
            with suppress(ValueError):
                INBOUND.reset(token)

    return around


class _Servicer:
    """The servicer's context, with an ``abort`` that marks first: it sends the trailers at once."""

    __slots__ = ("_inbound", "_servicer")

    def __init__(self, servicer: Any, inbound: Inbound) -> None:
        self._servicer = servicer
        self._inbound = inbound

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()
    ) -> None:
        """End the RPC with an error status."""
        if self._inbound.marks.exhausted and code is not grpc.StatusCode.OK:
            known = trailing_metadata or self._servicer.trailing_metadata()
            trailing_metadata = with_mark(known)
        await self._servicer.abort(code, details, trailing_metadata)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._servicer, name)


class _BlockingServicer:
    """The context that grpc.aio hands to blocking methods, which tells nothing of what was set."""

    __slots__ = ("_code", "_inbound", "_servicer", "_trailing")

    def __init__(self, servicer: Any, inbound: Inbound) -> None:
        self._servicer = servicer
        self._inbound = inbound
        self._code: grpc.StatusCode | None = None
        self._trailing: Any = ()

    def code(self) -> grpc.StatusCode | None:
        """What was set last."""
        return self._code

    def trailing_metadata(self) -> Any:
        """What was set last."""
        return self._trailing

    def set_code(self, code: grpc.StatusCode) -> None:
        """The status that the RPC ends with."""
        self._code = code
        self._servicer.set_code(code)

    def set_trailing_metadata(self, metadata: Any) -> None:
        """What is sent with the status."""
        self._trailing = tuple(metadata)
        self._servicer.set_trailing_metadata(self._trailing)

    def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> None:
        """End the RPC with an error status. Raises."""
        if self._inbound.marks.exhausted and code is not grpc.StatusCode.OK:
            trailing_metadata = with_mark(trailing_metadata or self._trailing)
        self._servicer.abort(code, details, trailing_metadata)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._servicer, name)


__all__ = ["AioServerInterceptor"]
