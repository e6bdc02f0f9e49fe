"""The methods of an asyncio channel: what generated stubs call.

One class per kind of call; each begins an exchange, behind the channel's interceptors.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import grpc.aio

from meshclient.clients.grpc_aio_call import (
    StreamStreamCall,
    StreamUnaryCall,
    UnaryStreamCall,
    UnaryUnaryCall,
)
from meshclient.clients.grpc_aio_exchange import AioExchange
from meshclient.clients.grpc_aio_interceptors import intercepted
from meshclient.clients.grpc_aio_replay import AioReplayStream
from meshclient.clients.grpc_methods import MethodOnSubs
from meshclient.clients.grpc_rpc import Rpc

if TYPE_CHECKING:
    from meshclient.clients.grpc_aio import MeshAioChannel
    from meshclient.clients.grpc_subchannels import Sub


class _MultiCallable(MethodOnSubs, ABC):
    """One method of a service."""

    def __init__(
        self, channel: MeshAioChannel, kind: str, method: str, serialize: Any, deserialize: Any
    ) -> None:
        super().__init__(kind, method, serialize, deserialize)
        self._channel = channel
        self._interceptors = channel.interceptors[kind]

    def _call(
        self,
        request: Any,
        timeout: float | None,
        metadata: Any,
        credentials: Any,
        wait_for_ready: Any,
        compression: Any,
    ) -> Any:
        """A call, through the interceptors if there are any."""
        if not self._interceptors:
            return self._begin(
                request, timeout, metadata, credentials, wait_for_ready, compression, self._method
            )

        def end(details: Any, request: Any) -> Any:
            method = details.method
            return self._begin(
                request,
                details.timeout,
                details.metadata,
                details.credentials,
                details.wait_for_ready,
                compression,
                method if isinstance(method, str) else method.decode(),
            )

        return intercepted(
            self._kind,
            self._interceptors,
            end,
            request,
            timeout,
            metadata,
            credentials,
            wait_for_ready,
            self._method,
            asyncio.get_running_loop(),
        )

    @abstractmethod
    def _begin(
        self,
        request: Any,
        timeout: float | None,
        metadata: Any,
        credentials: Any,
        wait_for_ready: Any,
        compression: Any,
        method: str,
    ) -> Any:
        """A call, past the interceptors; each kind of method has its own."""

    def _rpc(
        self,
        method: str,
        timeout: float | None,
        metadata: Any,
        wait_for_ready: Any,
        whole: bool,
        streams: bool,
    ) -> Rpc:
        channel = self._channel
        if channel.closed:
            raise grpc.aio.UsageError("Channel is closed.")
        return Rpc(
            channel.runtime,
            channel.dialled,
            method,
            metadata,
            timeout,
            bool(wait_for_ready),
            whole,
            streams,
        )

    def _launch(self, rpc: Rpc, start: Any, buffer: AioReplayStream | None = None) -> AioExchange:
        channel = self._channel
        loop = asyncio.get_running_loop()
        pool = channel.engine.pool_of(loop)
        exchange = AioExchange(loop, pool, channel.profile, rpc, start, buffer)
        channel.calls.add(exchange)
        if buffer is not None:
            buffer.on_end = exchange.watch_head
        exchange.launch()
        return exchange

    def _method_on(self, sub: Sub, method: str) -> Any:
        if method == self._method:
            return self.on(sub)
        # An interceptor sent it elsewhere.
        return getattr(sub.channel, self._kind)(method, *self._below)


class _UnaryRequest(_MultiCallable):
    """One request."""

    _streams = False
    _made: Any = None

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        return self._call(request, timeout, metadata, credentials, wait_for_ready, compression)

    def _begin(
        self,
        request: Any,
        timeout: float | None,
        metadata: Any,
        credentials: Any,
        wait_for_ready: Any,
        compression: Any,
        method: str,
    ) -> Any:
        rpc = self._rpc(method, timeout, metadata, wait_for_ready, True, self._streams)

        def start(sub: Sub, rpc: Rpc) -> Any:
            return self._method_on(sub, method)(
                request,
                timeout=rpc.limit_s,
                metadata=rpc.metadata,
                credentials=credentials,
                compression=compression,
            )

        return self._made(self._launch(rpc, start))


class _StreamRequest(_MultiCallable):
    """Many requests."""

    _streams = False
    _made: Any = None

    def __call__(
        self,
        request_iterator: Any = None,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        return self._call(
            request_iterator, timeout, metadata, credentials, wait_for_ready, compression
        )

    def _begin(
        self,
        request: Any,
        timeout: float | None,
        metadata: Any,
        credentials: Any,
        wait_for_ready: Any,
        compression: Any,
        method: str,
    ) -> Any:
        rpc = self._rpc(method, timeout, metadata, wait_for_ready, False, self._streams)
        buffer = rpc.buffer = AioReplayStream(request, self._serialize)

        def start(sub: Sub, rpc: Rpc) -> Any:
            return self._method_on(sub, method)(
                buffer.reader(),
                timeout=rpc.limit_s,
                metadata=rpc.metadata,
                credentials=credentials,
                compression=compression,
            )

        return self._made(self._launch(rpc, start, buffer), buffer, request is not None)


class UnaryUnary(_UnaryRequest, grpc.aio.UnaryUnaryMultiCallable):  # type: ignore[type-arg]
    """One request, one response."""

    _made = UnaryUnaryCall


class UnaryStream(_UnaryRequest, grpc.aio.UnaryStreamMultiCallable):  # type: ignore[type-arg]
    """One request, a stream of responses."""

    _streams = True
    _made = UnaryStreamCall


class StreamUnary(_StreamRequest, grpc.aio.StreamUnaryMultiCallable):  # type: ignore[type-arg]
    """A stream of requests, one response."""

    _made = StreamUnaryCall


class StreamStream(_StreamRequest, grpc.aio.StreamStreamMultiCallable):  # type: ignore[type-arg]
    """Streams both ways."""

    _streams = True
    _made = StreamStreamCall


__all__ = ["StreamStream", "StreamUnary", "UnaryStream", "UnaryUnary"]
