"""A blocking caller's call that is under way: a future, a stream, or both, over all its tries.

Goes from try to try on whichever thread learns of an end; asks :class:`Rpc` what follows.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc

from meshclient import errors
from meshclient.clients.grpc_errors import answered, cancelled, rpc_error
from meshclient.clients.grpc_rpc import Answered, Rpc
from meshclient.model.outcome import ResetReason

if TYPE_CHECKING:
    from meshclient.clients.grpc_engines import GrpcEngine
    from meshclient.clients.grpc_subchannels import Profile, Sub
    from meshclient.clients.grpc_sync_race import SyncRace

_log = logging.getLogger("meshclient.grpc")
_OK = grpc.StatusCode.OK
#: Longest wait for a reader to take what has arrived (seconds).
_READ_S = 1.0


class Exchange:
    """The state of one call, apart from what the caller holds, which may be dropped.

    ``start(sub, rpc)`` begins an RPC on a sub-channel and gives grpcio's call object.
    ``apart``: the head of a response comes by itself (streams), so it may be still on its
    way when the status is known. Thread-safe.
    """

    def __init__(
        self,
        engine: GrpcEngine,
        profile: Profile,
        rpc: Rpc,
        start: Callable[[Sub, Rpc], Any],
        apart: bool,
        on_answer: Callable[[], object] | None = None,
    ) -> None:
        self.condition = threading.Condition()
        self.rpc = rpc
        self.inner: Any = None
        self.final = False
        self.error: Exception | None = None
        self.was_cancelled = False
        self.callbacks: list[Callable[[], object]] = []
        self._engine = engine
        self._profile = profile
        self._start = start
        self._apart = apart
        self._on_answer = on_answer
        self._own: ResetReason | None = None
        self._race: SyncRace | None = None
        #: The try whose first message somebody is about to take: it decides about the call.
        self.reading: Any = None

    # -- tries -----------------------------------------------------------------------

    def launch(self) -> None:
        """Begin the next try, or arrange for it."""
        with self.condition:
            if self.final:
                return
            rpc = self.rpc
            sub = None
            try:
                wait_s = rpc.proceed()
                if wait_s > 0.0:
                    self._engine.timer.later(wait_s, self.launch)
                    return
                assert rpc.attempt is not None
                self._own = None
                if rpc.call.hedge is not None:
                    self._send_copies()
                if not rpc.hedged:
                    sub = self._engine.pool.take(rpc.call, rpc.attempt, self._profile)
                    inner = self._start(sub, rpc)
            except Exception as error:
                if sub is not None:
                    self._engine.pool.give_back(sub)
                self._cannot_locked(error)
            else:
                if not rpc.hedged:
                    self.inner = inner
                    self.condition.notify_all()
        if self.final:
            self._tell()
            return
        if rpc.hedged:
            self.race()
            return
        if rpc.head_limit_s is not None and rpc.whole:
            self.watch_head(inner)
        inner.add_done_callback(partial(self._done, sub))

    def _send_copies(self) -> None:
        from meshclient.clients.grpc_mirror import send_copies

        send_copies(self.rpc, self._start, self._engine.pool, self._profile)

    def race(self) -> None:
        """Go on with several tries at once; the first of them is prepared."""
        from meshclient.clients.grpc_sync_race import SyncRace

        self._race = SyncRace(self)
        self._race.go(prepared=True)

    def _cannot_locked(self, error: Exception) -> None:
        rpc = self.rpc
        if isinstance(error, Answered):
            assert rpc.call.reply is not None
            error = answered(rpc.call.reply, rpc.call, True)
        elif isinstance(error, errors.CallError):
            rpc.over = True
            error = rpc_error(error, rpc.call, True)
        elif rpc.attempt is not None and not isinstance(error, errors.MeshError):
            rpc.reject(error)
        else:
            rpc.abandon()
        self._finish_locked(error)

    def _done(self, sub: Sub | None, inner: Any) -> None:
        """On the channel's own thread, where nothing may be waited for."""
        if not self._apart or self.rpc.settled or inner.code() is _OK:
            self._conclude(sub, inner)
        else:
            self._engine.timer.later(0.0, partial(self._conclude, sub, inner))

    def _conclude(self, sub: Sub | None, inner: Any) -> None:
        assert sub is not None
        self._engine.pool.give_back(sub)
        code = inner.code()
        initial = () if self._apart and code is _OK else inner.initial_metadata()
        with self.condition:
            if self.reading is inner:  # which ends at once, with a message or without
                self.condition.wait_for(lambda: self.reading is not inner, _READ_S)
            if self.final or self.inner is not inner:
                return
            try:
                delay_s = self._weigh(inner, code, initial)
            except Exception as error:  # a retry strategy of the user's failed
                self.rpc.abandon()
                self._finish_locked(error)
                delay_s = None
            if delay_s is None and not self.final:
                failure = self.rpc.error
                self._finish_locked(
                    None if failure is None else rpc_error(failure, self.rpc.call, True)
                )
            elif not self.final:
                self.inner = None
                self.condition.notify_all()
        if delay_s is None:
            self._tell()
        else:
            self._engine.timer.later(delay_s, self.launch)

    def _weigh(self, inner: Any, code: Any, initial: Any) -> float | None:
        """What follows from how ``inner`` ended."""
        details, trailing = inner.details() or "", inner.trailing_metadata()
        cause = None if code is _OK else inner
        return self.rpc.ended(code.value[0], details, initial, trailing, self._own, cause)

    def _finish_locked(self, error: Exception | None) -> None:
        self.final = True
        self.error = error
        self.condition.notify_all()

    def _tell(self) -> None:
        """Run what waits for the end; never under the lock."""
        with self.condition:
            callbacks, self.callbacks = self.callbacks, []
        for callback in callbacks:
            try:
                callback()
            except Exception:
                _log.exception("a callback of a gRPC call failed")

    # -- limits, answers, the caller's wish --------------------------------------------

    def watch_head(self, inner: Any | None = None) -> None:
        """Give the first answer its time from now on."""
        inner = inner or self.inner
        limit_s = self.rpc.head_limit_s
        if inner is not None and limit_s is not None:
            self._engine.timer.later(limit_s, partial(self._head_is_late, inner))

    def _head_is_late(self, inner: Any) -> None:
        with self.condition:
            if self.final or self.inner is not inner or self.rpc.settled or _has_head(inner):
                return
            self._own = ResetReason.PER_TRY_TIMEOUT
        inner.cancel()

    def answer(self, initial: Any) -> None:
        """The first of the response is here; the call stays with this try."""
        with self.condition:
            if not self.rpc.settled and not self.final:
                self.rpc.answer(initial)
        if self._on_answer is not None:
            self._on_answer()

    def has_read(self) -> None:
        """Whoever was ``reading`` is through with it."""
        with self.condition:
            self.reading = None
            self.condition.notify_all()

    def cancel(self) -> bool:
        """Whether there was something to cancel."""
        with self.condition:
            if self.final:
                return False
            self.was_cancelled = True
            inner = self.inner
            self.rpc.abandon()
            self._finish_locked(cancelled(self.rpc.call, True))
        if inner is not None:
            inner.cancel()
        if self._race is not None:
            self._race.call_off()
        self._tell()
        return True

    # -- waiting -----------------------------------------------------------------------

    def current(self) -> Any:
        """grpcio's call of the try under way; waits for it between tries. None: there is none
        any more."""
        with self.condition:
            while self.inner is None and not self.final:
                self.condition.wait()
            return self.inner

    def verdict(self, inner: Any) -> bool:
        """``inner`` has ended: whether the call has; waits for that to be decided."""
        with self.condition:
            while self.inner is inner and not self.final:
                self.condition.wait()
            return self.final

    def wait(self, timeout: float | None) -> None:
        """Until the call is over. Raises grpc.FutureTimeoutError after ``timeout`` seconds."""
        with self.condition:
            if not self.condition.wait_for(lambda: self.final, timeout):
                raise grpc.FutureTimeoutError

    def add(self, callback: Callable[[], object]) -> bool:
        """Have ``callback`` called at the end; False where that is past."""
        with self.condition:
            if not self.final:
                self.callbacks.append(callback)
            return not self.final


def _has_head(inner: Any) -> bool:
    """Whether the head of the response is here; grpcio tells only those who wait for it."""
    state = getattr(inner, "_state", None)
    return getattr(state, "initial_metadata", None) is not None


__all__ = ["Exchange"]
