"""The methods of a blocking channel: what generated stubs call.

One class per kind of call; each begins an exchange, or, where the caller waits anyway, goes
from try to try on the caller's own thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc

from meshclient import errors
from meshclient.clients.grpc_errors import answered, rpc_error
from meshclient.clients.grpc_methods import MethodOnSubs
from meshclient.clients.grpc_mirror import send_copies
from meshclient.clients.grpc_replay import ReplayStream
from meshclient.clients.grpc_rpc import Answered, Rpc
from meshclient.clients.grpc_sync_call import EndedCall, MeshCall
from meshclient.clients.grpc_sync_exchange import Exchange

if TYPE_CHECKING:
    from meshclient.clients.grpc_subchannels import Sub
    from meshclient.clients.grpc_sync import MeshChannel


class _MultiCallable(MethodOnSubs):
    """One method of a service. Thread-safe."""

    def __init__(
        self, channel: MeshChannel, kind: str, method: str, serialize: Any, deserialize: Any
    ) -> None:
        super().__init__(kind, method, serialize, deserialize)
        self._channel = channel

    def _rpc(
        self, metadata: Any, timeout: float | None, wait_for_ready: Any, whole: bool, streams: bool
    ) -> Rpc:
        channel = self._channel
        channel.check_open()
        return Rpc(
            channel.runtime,
            channel.dialled,
            self._method,
            metadata,
            timeout,
            bool(wait_for_ready),
            whole,
            streams,
        )

    def _launch(self, rpc: Rpc, start: Any, apart: bool, on_answer: Any = None) -> Exchange:
        channel = self._channel
        exchange = Exchange(channel.engine, channel.profile, rpc, start, apart, on_answer)
        channel.follow(exchange)
        return exchange

    def _streamed(
        self,
        requests: Any,
        timeout: float | None,
        metadata: Any,
        credentials: Any,
        wait_for_ready: Any,
        compression: Any,
        streams: bool,
    ) -> MeshCall:
        """A call with a stream of requests."""
        rpc = self._rpc(metadata, timeout, wait_for_ready, False, streams)
        buffer = rpc.buffer = ReplayStream(requests, self._serialize)

        def start(sub: Sub, rpc: Rpc) -> Any:
            begin = self.on(sub) if streams else self.on(sub).future
            return begin(
                buffer.reader(), rpc.limit_s, rpc.metadata, credentials, False, compression
            )

        exchange = self._launch(rpc, start, True, buffer.keep_no_more)
        buffer.on_end = exchange.watch_head
        exchange.launch()
        return MeshCall(exchange, streams)


class UnaryUnary(_MultiCallable, grpc.UnaryUnaryMultiCallable):  # type: ignore[type-arg]
    """One request, one response."""

    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        rpc = self._rpc(metadata, timeout, wait_for_ready, True, False)
        return self._run(rpc, request, credentials, compression, False)[0]

    def with_call(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        rpc = self._rpc(metadata, timeout, wait_for_ready, True, False)
        response, inner = self._run(rpc, request, credentials, compression, True)
        return response, EndedCall(rpc, inner)

    def future(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        rpc = self._rpc(metadata, timeout, wait_for_ready, True, False)
        exchange = self._launch(rpc, self._starter(request, credentials, compression), False)
        exchange.launch()
        return MeshCall(exchange, False)

    def _starter(self, request: Any, credentials: Any, compression: Any) -> Any:
        def start(sub: Sub, rpc: Rpc) -> Any:
            return self.on(sub).future(
                request, rpc.limit_s, rpc.metadata, credentials, False, compression
            )

        return start

    def _raced(self, rpc: Rpc, start: Any) -> tuple[Any, Any]:
        """Several tries at once, on grpcio's own threads, while the caller waits."""
        exchange = self._launch(rpc, start, False)
        try:
            exchange.race()
            exchange.wait(None)
        except BaseException:
            exchange.cancel()
            raise
        if exchange.error is not None:
            raise exchange.error
        inner = exchange.inner
        try:
            return inner.result(), inner
        except grpc.RpcError as error:
            error.report = rpc.report  # type: ignore[attr-defined]
            raise

    def _run(
        self, rpc: Rpc, request: Any, credentials: Any, compression: Any, with_call: bool
    ) -> tuple[Any, Any]:
        """Try until the call is over, on the caller's thread."""
        runtime = self._channel.runtime
        try:
            while True:
                wait_s = rpc.proceed()
                while wait_s > 0.0:
                    runtime.sleep(wait_s)
                    wait_s = rpc.proceed()
                if rpc.call.hedge is not None:
                    start = self._starter(request, credentials, compression)
                    send_copies(rpc, start, self._channel.engine.pool, self._channel.profile)
                    if rpc.hedged:
                        return self._raced(rpc, start)
                response, inner, delay_s = self._try(
                    rpc, request, credentials, compression, with_call
                )
                if delay_s is None:
                    return response, inner
                if delay_s > 0.0:
                    runtime.sleep(delay_s)
        except errors.CallError as error:
            if isinstance(error, grpc.RpcError):
                raise  # of several tries, and made already
            raise rpc_error(error, rpc.call, True) from error.__cause__
        except Answered:
            assert rpc.call.reply is not None
            raise answered(rpc.call.reply, rpc.call, True) from None
        except BaseException:
            rpc.abandon()
            raise

    def _try(
        self, rpc: Rpc, request: Any, credentials: Any, compression: Any, with_call: bool
    ) -> tuple[Any, Any, float | None]:
        pool = self._channel.engine.pool
        assert rpc.attempt is not None
        sub = pool.take(rpc.call, rpc.attempt, self._channel.profile)
        try:
            method = self.on(sub)
            words = (request, rpc.limit_s, rpc.metadata, credentials, False, compression)
            if with_call or rpc.reads_head:
                response, inner = method.with_call(*words)
                initial, trailing = inner.initial_metadata(), inner.trailing_metadata()
            else:
                response, inner = method(*words), None
                initial = trailing = None
        except grpc.RpcError as error:
            return None, None, _weigh(rpc, error)
        except Exception as error:
            rpc.reject(error)
            raise
        finally:
            pool.give_back(sub)
        rpc.ended(0, "", initial, trailing)
        return response, inner, None


def _weigh(rpc: Rpc, error: Any) -> float | None:
    """Seconds until the next try; None is never given: the failure is raised."""
    delay_s = rpc.ended(
        error.code().value[0],
        error.details() or "",
        error.initial_metadata(),
        error.trailing_metadata(),
        cause=error,
    )
    if delay_s is not None:
        return delay_s
    if rpc.error is not None:
        raise rpc.error
    error.report = rpc.report
    raise error


class UnaryStream(_MultiCallable, grpc.UnaryStreamMultiCallable):  # type: ignore[type-arg]
    """One request, a stream of responses."""

    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        rpc = self._rpc(metadata, timeout, wait_for_ready, True, True)

        def start(sub: Sub, rpc: Rpc) -> Any:
            return self.on(sub)(request, rpc.limit_s, rpc.metadata, credentials, False, compression)

        exchange = self._launch(rpc, start, True)
        exchange.launch()
        return MeshCall(exchange, True)


class StreamUnary(_MultiCallable, grpc.StreamUnaryMultiCallable):  # type: ignore[type-arg]
    """A stream of requests, one response."""

    def __call__(
        self,
        request_iterator: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        return self.future(
            request_iterator, timeout, metadata, credentials, wait_for_ready, compression
        ).result()

    def with_call(
        self,
        request_iterator: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        call = self.future(
            request_iterator, timeout, metadata, credentials, wait_for_ready, compression
        )
        return call.result(), call

    def future(
        self,
        request_iterator: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        return self._streamed(
            request_iterator, timeout, metadata, credentials, wait_for_ready, compression, False
        )


class StreamStream(_MultiCallable, grpc.StreamStreamMultiCallable):  # type: ignore[type-arg]
    """Streams both ways."""

    def __call__(
        self,
        request_iterator: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> Any:
        return self._streamed(
            request_iterator, timeout, metadata, credentials, wait_for_ready, compression, True
        )


__all__ = ["StreamStream", "StreamUnary", "UnaryStream", "UnaryUnary"]
