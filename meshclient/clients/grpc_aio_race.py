"""Several tries of one asyncio caller's unary RPC at once: begun, waited for, called off.

A task waits for each; which of them counts is not decided here.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

import grpc.aio

from meshclient.clients.grpc_errors import rpc_error
from meshclient.clients.grpc_race import RaceState

if TYPE_CHECKING:
    from meshclient.clients.grpc_aio_exchange import AioExchange
    from meshclient.clients.grpc_subchannels import Sub

#: The loop keeps only weak references to tasks.
_waiting: set[asyncio.Task[None]] = set()


class AioRace:
    """The tries of one exchange. Belongs to its loop."""

    def __init__(self, exchange: AioExchange) -> None:
        self._exchange = exchange
        self._state = RaceState(exchange.rpc)

    def go(self, prepared: bool = False) -> None:
        """Begin what is due; ``prepared``: the first try, which is ready."""
        exchange, state = self._exchange, self._state
        if exchange.final:
            return
        if exchange._timer is not None:
            exchange._timer.cancel()
            exchange._timer = None
        try:
            while prepared or state.further():
                prepared = False
                self._begin()
            wait_s = state.wait_s()
        except Exception as error:
            exchange._cannot(error)
            self.call_off()
            return
        if wait_s < math.inf:
            exchange._timer = exchange.loop.call_later(max(0.0, wait_s), self.go)

    def _begin(self) -> None:
        exchange, rpc = self._exchange, self._state.rpc
        assert rpc.attempt is not None
        sub = exchange._pool.take(rpc.call, rpc.attempt, exchange._profile)
        try:
            inner = exchange._start(sub, rpc)
        except BaseException:
            exchange._pool.give_back(sub)
            raise
        self._state.opened(inner)
        task = exchange.loop.create_task(self._wait(sub, inner))
        _waiting.add(task)
        task.add_done_callback(_waiting.discard)

    async def _wait(self, sub: Sub, inner: Any) -> None:
        exchange = self._exchange
        try:
            await inner
        except grpc.aio.AioRpcError:
            pass  # looked at below
        except asyncio.CancelledError:
            if self._state.runs(inner):
                exchange.cancel()  # the loop is ending
            raise
        except Exception as error:
            self._fail(inner, error)
            return
        finally:
            exchange._pool.give_back(sub)
        if not exchange.final and self._state.runs(inner):
            await self._ended(inner)

    async def _ended(self, inner: Any) -> None:
        """Nothing is waited for in here: ``inner`` has its status."""
        exchange = self._exchange
        code, details = await inner.code(), await inner.details()
        initial, trailing = await inner.initial_metadata(), await inner.trailing_metadata()
        if exchange.final or not self._state.runs(inner):
            return
        try:
            over = self._state.judge(inner, code.value[0], details or "", initial, trailing)
        except Exception as error:  # a retry strategy of the user's failed
            exchange.rpc.abandon()
            exchange._finish(error)
            self.call_off()
            return
        if not over:
            self.go()
            return
        failure = exchange.rpc.error
        exchange.inner = inner
        self.call_off()
        exchange._finish(None if failure is None else rpc_error(failure, exchange.rpc.call, False))

    def _fail(self, inner: Any, error: Exception) -> None:
        """It could not even be sent, or its answer not be read: a mistake of the caller's."""
        if self._exchange.final or not self._state.runs(inner):
            return
        self._state.reject(inner, error)
        self._exchange._finish(error)
        self.call_off()

    def call_off(self) -> None:
        """Cancel whatever runs."""
        if self._exchange._timer is not None:
            self._exchange._timer.cancel()
        for inner in self._state.end():
            inner.cancel()


__all__ = ["AioRace"]
