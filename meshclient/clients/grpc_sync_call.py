"""A blocking caller's call that is under way: a future, a stream, or both, over all its tries.

Goes from try to try on whichever thread learns of an end; asks :class:`Rpc` what follows.
"""

from __future__ import annotations

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
    from meshclient.model.report import CallReport

_OK = grpc.StatusCode.OK


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
                sub = self._engine.pool.take(rpc.call, rpc.attempt, self._profile)
                inner = self._start(sub, rpc)
            except Exception as error:
                if sub is not None:
                    self._engine.pool.give_back(sub)
                self._cannot(error)
                return
            self.inner = inner
            self.condition.notify_all()
        if rpc.head_limit_s is not None and rpc.whole:
            self.watch_head(inner)
        inner.add_done_callback(partial(self._done, sub))

    def _cannot(self, error: Exception) -> None:
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
        self._finish(error)

    def _done(self, sub: Sub, inner: Any) -> None:
        """On the channel's own thread, where nothing may be waited for."""
        if not self._apart or self.rpc.settled or inner.code() is _OK:
            self._conclude(sub, inner)
        else:
            self._engine.timer.later(0.0, partial(self._conclude, sub, inner))

    def _conclude(self, sub: Sub, inner: Any) -> None:
        self._engine.pool.give_back(sub)
        code = inner.code()
        initial = () if self._apart and code is _OK else inner.initial_metadata()
        with self.condition:
            if self.final or self.inner is not inner:
                return
            rpc = self.rpc
            delay_s = rpc.ended(
                code.value[0],
                inner.details() or "",
                initial,
                inner.trailing_metadata(),
                self._own,
                None if code is _OK else inner,
            )
            if delay_s is None:
                error = rpc.error
                self._finish(None if error is None else rpc_error(error, rpc.call, True))
                return
            self.inner = None
            self.condition.notify_all()
        self._engine.timer.later(delay_s, self.launch)

    def _finish(self, error: Exception | None) -> None:
        with self.condition:
            self.final = True
            self.error = error
            callbacks, self.callbacks = self.callbacks, []
            self.condition.notify_all()
        for callback in callbacks:
            # Not under our lock, and not before the state is complete.
            self._engine.timer.later(0.0, callback) if self._held() else callback()

    def _held(self) -> bool:
        return self.condition._is_owned()  # type: ignore[attr-defined, no-any-return]

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

    def cancel(self) -> bool:
        """Whether there was something to cancel."""
        with self.condition:
            if self.final:
                return False
            self.was_cancelled = True
            inner = self.inner
            self.rpc.abandon()
            self._finish(cancelled(self.rpc.call, True))
        if inner is not None:
            inner.cancel()
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


class MeshCall(grpc.RpcError, grpc.Call, grpc.Future):  # type: ignore[misc]
    """What a caller holds of a call: grpc's Call and Future, and for streams an iterator.

    ``report`` says what happened so far. Thread-safe. A stream that is dropped is cancelled.
    """

    def __init__(self, exchange: Exchange, iterates: bool) -> None:
        super().__init__()
        self._exchange = exchange
        self._iterates = iterates

    @property
    def report(self) -> CallReport:
        """Route, endpoint, tries and flags of the call."""
        return self._exchange.rpc.report

    # -- iterator ----------------------------------------------------------------------

    def __iter__(self) -> MeshCall:
        return self

    def __next__(self) -> Any:
        exchange = self._exchange
        while True:
            inner = exchange.current()
            if inner is None:
                raise self._failure(inner)
            try:
                message = next(inner)
            except StopIteration:
                exchange.verdict(inner)
                raise
            except grpc.RpcError as error:
                if exchange.verdict(inner):
                    raise self._failure(inner) from error.__cause__
                continue
            if not exchange.rpc.settled:
                exchange.answer(inner.initial_metadata())
            return message

    next = __next__

    def __del__(self) -> None:
        exchange = getattr(self, "_exchange", None)
        if exchange is not None and self._iterates:
            exchange.cancel()

    def _failure(self, inner: Any) -> Exception:
        error = self._exchange.error
        if error is None:
            inner.report = self.report
            return inner  # type: ignore[no-any-return]
        return error

    # -- call --------------------------------------------------------------------------

    def initial_metadata(self) -> Any:
        """The head of the response; waits for it."""
        exchange = self._exchange
        while True:
            inner = exchange.current()
            if inner is None:
                return ()
            initial = inner.initial_metadata()
            if initial or not inner.done():
                exchange.answer(initial)
                return exchange.rpc.edited(initial)
            if exchange.verdict(inner):
                return exchange.rpc.edited(initial)

    def _end(self) -> Any:
        """What knows how it ended: our error, or grpcio's call."""
        self._exchange.wait(None)
        return self._exchange.error or self._exchange.inner

    def trailing_metadata(self) -> Any:
        """Metadata after the response; waits for the end."""
        return self._end().trailing_metadata()

    def code(self) -> grpc.StatusCode:
        """The status; waits for the end."""
        return self._end().code()  # type: ignore[no-any-return]

    def details(self) -> str:
        """The server's words, or those for what failed before; waits for the end."""
        return self._end().details()  # type: ignore[no-any-return]

    def debug_error_string(self) -> str:
        """More words; waits for the end."""
        return self._end().debug_error_string()  # type: ignore[no-any-return]

    def is_active(self) -> bool:
        """Whether it has not ended."""
        return not self._exchange.final

    def time_remaining(self) -> float | None:
        """Seconds of the caller's timeout that are left; None without one."""
        return self._exchange.rpc.time_remaining()

    def cancel(self) -> bool:
        """End the call; False where it has ended already."""
        return self._exchange.cancel()

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Have ``callback`` called at the end; False where that is past."""
        return self._exchange.add(callback)

    # -- future ------------------------------------------------------------------------

    def cancelled(self) -> bool:
        """Whether the caller cancelled it."""
        return self._exchange.was_cancelled

    def running(self) -> bool:
        """Whether it has not ended."""
        return not self._exchange.final

    def done(self) -> bool:
        """Whether it has ended."""
        return self._exchange.final

    def result(self, timeout: float | None = None) -> Any:
        """The response; waits ``timeout`` seconds at most (None: for the end).

        Raises RpcError, grpc.FutureCancelledError, grpc.FutureTimeoutError.
        """
        error = self.exception(timeout)
        if error is not None:
            raise error
        return self._exchange.inner.result()

    def exception(self, timeout: float | None = None) -> Exception | None:
        """What :meth:`result` would raise, or None."""
        exchange = self._exchange
        exchange.wait(timeout)
        if exchange.was_cancelled:
            raise grpc.FutureCancelledError
        if exchange.error is None and exchange.inner.code() is _OK:
            return None
        return self._failure(exchange.inner)

    def traceback(self, timeout: float | None = None) -> Any:
        """That of :meth:`exception`."""
        error = self.exception(timeout)
        return None if error is None else error.__traceback__

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """Have ``fn`` called with this object at the end, or now."""
        if not self._exchange.add(partial(fn, self)):
            fn(self)

    def __repr__(self) -> str:
        return f"<MeshCall {'ended' if self._exchange.final else 'under way'} {self.report!r}>"

    __str__ = __repr__


__all__ = ["Exchange", "MeshCall"]
