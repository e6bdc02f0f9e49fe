"""What an asyncio caller holds of a call: grpc.aio's four kinds of call over the mesh.

The API only; what goes on behind it is the exchange's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from meshclient.clients.grpc_aio_exchange import AioExchange

if TYPE_CHECKING:
    from meshclient.clients.grpc_aio_replay import AioReplayStream
    from meshclient.model.report import CallReport

EOF = grpc.aio.EOF
_FINISHED = "RPC already finished."
_HALF_CLOSED = 'RPC is half closed after calling "done_writing".'
_MIXED = "The iterator and read/write APIs may not be mixed on a single RPC."


class _Call:
    """Status, metadata, cancellation. ``report`` says what happened so far."""

    def __init__(self, exchange: AioExchange) -> None:
        self._exchange = exchange

    @property
    def report(self) -> CallReport:
        """Route, endpoint, tries and flags of the call."""
        return self._exchange.rpc.report

    def cancelled(self) -> bool:
        """Whether the caller cancelled it."""
        return self._exchange.was_cancelled

    def done(self) -> bool:
        """Whether it has ended."""
        return self._exchange.final

    def cancel(self) -> bool:
        """End the call; False where it has ended already."""
        return self._exchange.cancel()

    def time_remaining(self) -> float | None:
        """Seconds of the caller's timeout that are left; None without one."""
        return self._exchange.rpc.time_remaining()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Have ``callback`` called with this object at the end, or now."""
        if not self._exchange.add(partial(callback, self)):
            callback(self)

    async def initial_metadata(self) -> Any:
        """The head of the response; waits for it."""
        exchange = self._exchange
        while True:
            inner = exchange.inner
            if inner is None:
                if exchange.final:
                    return grpc.aio.Metadata()
                await exchange.moved()
                continue
            initial = await inner.initial_metadata()
            if exchange.inner is not inner:
                continue
            if exchange.final or len(initial) or not inner.done():
                exchange.answer(initial)
                edited = exchange.rpc.edited(initial)
                return edited if edited is initial else grpc.aio.Metadata(*edited)

    async def _end(self) -> Any:
        """grpcio's call of the last try; None where the mesh's own error says more."""
        await self._exchange.ended()
        return None if self._exchange.error is not None else self._exchange.inner

    async def trailing_metadata(self) -> Any:
        """Metadata after the response; waits for the end."""
        inner = await self._end()
        return await inner.trailing_metadata() if inner else self._own().trailing_metadata()

    async def code(self) -> grpc.StatusCode:
        """The status; waits for the end."""
        inner = await self._end()
        return await inner.code() if inner else self._own().code()  # type: ignore[no-any-return]

    async def details(self) -> str:
        """The server's words, or those for what failed before; waits for the end."""
        inner = await self._end()
        return await inner.details() if inner else self._own().details()  # type: ignore[no-any-return]

    async def debug_error_string(self) -> str:
        """More words; waits for the end."""
        inner = await self._end()
        if inner:
            return await inner.debug_error_string()  # type: ignore[no-any-return]
        return self._own().debug_error_string()  # type: ignore[no-any-return]

    def _own(self) -> Any:
        error = self._exchange.error
        if isinstance(error, grpc.RpcError):
            return error
        return grpc.aio.AioRpcError(
            grpc.StatusCode.INTERNAL,
            grpc.aio.Metadata(),
            grpc.aio.Metadata(),
            details=str(error),
            debug_error_string=str(error),
        )

    async def wait_for_connection(self) -> None:
        """Until a connection is there and the call on its way. Raises AioRpcError."""
        exchange = self._exchange
        while True:
            inner = exchange.inner
            if inner is None:
                exchange.check_over()
                await exchange.moved()
                continue
            try:
                await inner.wait_for_connection()
            except asyncio.CancelledError:
                exchange.after_cancelled(inner)
            except grpc.aio.AioRpcError as error:
                exchange.after_error(error)
            else:
                if exchange.inner is inner:
                    return

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'ended' if self.done() else 'under way'} {self.report!r}>"


class _UnaryResponse(_Call):
    """One response, awaited."""

    def __await__(self) -> Generator[Any, None, Any]:
        exchange = self._exchange
        while True:
            inner = exchange.inner
            if inner is None:
                exchange.check_over()
                yield from exchange.moved().__await__()
                continue
            try:
                response = yield from inner.__await__()
            except asyncio.CancelledError:
                exchange.after_cancelled(inner)
            except grpc.aio.AioRpcError as error:
                exchange.after_error(error)
            except Exception as error:
                exchange.fail(inner, error)
                raise
            else:
                return response
            if exchange.final:
                exchange.raise_error()


class _StreamResponse(_Call):
    """Many responses, iterated or read. A call that is dropped is cancelled."""

    def __init__(self, exchange: AioExchange) -> None:
        super().__init__(exchange)
        self._style = ""
        self._iterator: AsyncIterator[Any] | None = None

    def __del__(self) -> None:
        exchange = getattr(self, "_exchange", None)
        if exchange is not None and not exchange.final and not exchange.loop.is_closed():
            exchange.cancel()

    def __aiter__(self) -> AsyncIterator[Any]:
        self._use("iterator")
        if self._iterator is None:
            self._iterator = _Messages(self)
        return self._iterator

    async def read(self) -> Any:
        """The next response, or grpc.aio.EOF. Raises AioRpcError."""
        self._use("reader")
        return await self.next_message()

    def _use(self, style: str) -> None:
        if self._style and self._style != style:
            raise grpc.aio.UsageError(_MIXED)
        self._style = style

    async def next_message(self) -> Any:
        """The next response, or EOF, over as many tries as it takes."""
        exchange = self._exchange
        while True:
            inner = exchange.inner
            if inner is None or exchange.was_cancelled:
                exchange.raise_error()
                await exchange.moved()
                continue
            try:
                message = await exchange.read(inner)
            except asyncio.CancelledError:
                exchange.after_cancelled(inner)
            except grpc.aio.AioRpcError as error:
                exchange.after_error(error)
            except (ValueError, TypeError) as error:
                exchange.fail(inner, error)
                raise
            else:
                return message
            if exchange.final:
                exchange.raise_error()


class _Messages:
    """The responses as an async iterator."""

    def __init__(self, call: _StreamResponse) -> None:
        self._call = call

    def __aiter__(self) -> _Messages:
        return self

    async def __anext__(self) -> Any:
        message = await self._call.next_message()
        if message is EOF:
            raise StopAsyncIteration
        return message

    async def aclose(self) -> None:
        """Generators have it; the call is ended by ``cancel``."""


class _StreamRequest(_Call):
    """Many requests: an iterator's, or written one by one."""

    def __init__(self, exchange: AioExchange, buffer: AioReplayStream, iterates: bool) -> None:
        super().__init__(exchange)
        self._buffer = buffer
        self._iterates = iterates
        self._done_writing = False

    async def write(self, request: Any) -> None:
        """Send one request; until gRPC has taken it. Raises AioRpcError where the call failed."""
        self._check_style()
        exchange = self._exchange
        if exchange.final:
            raise asyncio.InvalidStateError(_FINISHED)
        if self._done_writing:
            raise asyncio.InvalidStateError(_HALF_CLOSED)
        try:
            await self._buffer.put(request)
        except asyncio.CancelledError:
            self.cancel()
            raise
        if exchange.final:
            await self._raise_for_status()

    async def _raise_for_status(self) -> None:
        exchange = self._exchange
        exchange.raise_error()
        inner = exchange.inner
        code = await inner.code()
        if code is not grpc.StatusCode.OK:
            error = grpc.aio.AioRpcError(
                code,
                await inner.initial_metadata(),
                await inner.trailing_metadata(),
                details=await inner.details(),
                debug_error_string=await inner.debug_error_string(),
            )
            exchange.after_error(error)

    async def done_writing(self) -> None:
        """No more requests. Idempotent."""
        self._check_style()
        if not self._done_writing:
            self._done_writing = True
            self._buffer.end()

    def _check_style(self) -> None:
        if self._iterates:
            raise grpc.aio.UsageError(_MIXED)


class UnaryUnaryCall(_UnaryResponse, grpc.aio.UnaryUnaryCall):  # type: ignore[type-arg]
    """One request, one response."""


class UnaryStreamCall(_StreamResponse, grpc.aio.UnaryStreamCall):  # type: ignore[type-arg]
    """One request, many responses."""


class StreamUnaryCall(_StreamRequest, _UnaryResponse, grpc.aio.StreamUnaryCall):  # type: ignore[type-arg]
    """Many requests, one response."""


class StreamStreamCall(_StreamRequest, _StreamResponse, grpc.aio.StreamStreamCall):  # type: ignore[type-arg]
    """Many requests, many responses."""

    def __init__(self, exchange: AioExchange, buffer: AioReplayStream, iterates: bool) -> None:
        _StreamResponse.__init__(self, exchange)
        self._buffer = buffer
        self._iterates = iterates
        self._done_writing = False


__all__ = ["StreamStreamCall", "StreamUnaryCall", "UnaryStreamCall", "UnaryUnaryCall"]
