"""Several tries of one blocking caller's unary RPC at once: begun, waited for, called off.

Works on grpcio's own threads and the engine's timer; which try counts is not decided here.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

from meshclient.clients.grpc_errors import rpc_error
from meshclient.clients.grpc_race import RaceState

if TYPE_CHECKING:
    from meshclient.clients.grpc_subchannels import Sub
    from meshclient.clients.grpc_sync_exchange import Exchange


class SyncRace:
    """The tries of one exchange, whose lock guards them. Thread-safe."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._state = RaceState(exchange.rpc)

    def go(self, prepared: bool = False) -> None:
        """Begin what is due; ``prepared``: the first try, which is ready."""
        exchange, state = self._exchange, self._state
        begun: list[tuple[Sub, Any]] = []
        wait_s = math.inf
        with exchange.condition:
            if exchange.final:
                return
            try:
                while prepared or state.further():
                    prepared = False
                    begun.append(self._begin_locked())
                wait_s = state.wait_s()
            except Exception as error:
                exchange._cannot_locked(error)
        # Not under the lock: one that has ended already tells so at once.
        for sub, inner in begun:
            inner.add_done_callback(partial(self._done, sub))
        if exchange.final:
            self.call_off()
            exchange._tell()
        elif wait_s < math.inf:
            exchange._engine.timer.later(wait_s, self.go)

    def _begin_locked(self) -> tuple[Sub, Any]:
        exchange, rpc = self._exchange, self._state.rpc
        assert rpc.attempt is not None
        pool = exchange._engine.pool
        sub = pool.take(rpc.call, rpc.attempt, exchange._profile)
        try:
            inner = exchange._start(sub, rpc)
        except BaseException:
            pool.give_back(sub)
            raise
        self._state.opened(inner)
        return sub, inner

    def _done(self, sub: Sub, inner: Any) -> None:
        exchange, state = self._exchange, self._state
        exchange._engine.pool.give_back(sub)
        with exchange.condition:
            if exchange.final or not state.runs(inner):
                return
            try:
                over = self._judge(inner)
            except Exception as error:  # a retry strategy of the user's failed
                over = True
                exchange.rpc.abandon()
                exchange._finish_locked(error)
            if over and not exchange.final:
                failure = exchange.rpc.error
                exchange.inner = inner
                exchange._finish_locked(
                    None if failure is None else rpc_error(failure, exchange.rpc.call, True)
                )
        if over:
            self.call_off()
            exchange._tell()
        else:
            # Not here: this is the channel's own thread, and a try may have to be begun.
            exchange._engine.timer.later(0.0, self.go)

    def _judge(self, inner: Any) -> bool:
        details, initial = inner.details() or "", inner.initial_metadata()
        code = inner.code().value[0]
        return self._state.judge(inner, code, details, initial, inner.trailing_metadata())

    def call_off(self) -> None:
        """Cancel whatever runs."""
        with self._exchange.condition:
            left = self._state.end()
        for inner in left:
            inner.cancel()


__all__ = ["SyncRace"]
