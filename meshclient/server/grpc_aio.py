"""Interceptor for ``grpc.aio.server``: what an RPC brings along is there for the calls made for it."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from contextvars import Context, Token, copy_context
from typing import TYPE_CHECKING, Any

import grpc.aio

from meshclient.server.grpc_common import iterate, mark, read, rewrap, with_mark
from meshclient.telemetry.propagation import INBOUND

if TYPE_CHECKING:
    from meshclient.mesh import Mesh
    from meshclient.model.inbound import Inbound


class AioServerInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
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

        def enter(servicer: Any) -> tuple[_Servicer, Token[Inbound | None]]:
            inbound = read(self._mesh, metadata, servicer.time_remaining())
            return _Servicer(servicer, inbound), INBOUND.set(inbound)

        def unary(behaviour: Callable[..., Any]) -> Callable[..., Any]:
            if not inspect.iscoroutinefunction(behaviour):
                return self._blocking(behaviour, metadata)

            async def around(request: Any, servicer: Any) -> Any:
                marking, token = enter(servicer)
                try:
                    return await behaviour(request, marking)
                finally:
                    marking.mark()
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
            try:
                return context.run(behaviour, request, servicer)
            finally:
                mark(inbound, servicer)

        return around

    def _blocking_stream(self, behaviour: Callable[..., Any], metadata: Any) -> Callable[..., Any]:
        def around(request: Any, servicer: Any) -> Iterator[Any]:
            inbound, context = self._apart(servicer, metadata)
            try:
                yield from iterate(behaviour, request, servicer, context)
            finally:
                mark(inbound, servicer)

        return around

    def _apart(self, servicer: Any, metadata: Any) -> tuple[Inbound, Context]:
        """A context of its own: the thread is grpcio's, and the next RPC's."""
        inbound = read(self._mesh, metadata, servicer.time_remaining())
        context = copy_context()
        context.run(INBOUND.set, inbound)
        return inbound, context


def _streaming(
    behaviour: Callable[..., AsyncIterator[Any]],
    enter: Callable[[Any], tuple[_Servicer, Token[Inbound | None]]],
) -> Callable[..., AsyncIterator[Any]]:
    async def around(request: Any, servicer: Any) -> AsyncIterator[Any]:
        marking, token = enter(servicer)
        try:
            async for message in behaviour(request, marking):
                yield message
        finally:
            marking.mark()
            # Closed by the loop at its end, it is another context: then there is nothing to undo.
            with suppress(ValueError):
                INBOUND.reset(token)

    return around


class _Servicer:
    """The servicer's context, with an ``abort`` that marks first: it sends the trailers."""

    __slots__ = ("_inbound", "_marked", "_servicer")

    def __init__(self, servicer: Any, inbound: Inbound) -> None:
        self._servicer = servicer
        self._inbound = inbound
        self._marked = False

    def mark(self) -> None:
        """Put the retry mark into the trailing metadata, if there is one to put."""
        if self._inbound.marks.exhausted and not self._marked:
            self._marked = True
            self._servicer.set_trailing_metadata(with_mark(self._servicer.trailing_metadata()))

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()
    ) -> None:
        """End the RPC with an error status."""
        if self._inbound.marks.exhausted and not self._marked:
            self._marked = True
            known = trailing_metadata or self._servicer.trailing_metadata()
            trailing_metadata = with_mark(known)
        await self._servicer.abort(code, details, trailing_metadata)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._servicer, name)


__all__ = ["AioServerInterceptor"]
