"""An asyncio caller's call that is under way, over all its tries, without a task of its own.

Goes from try to try in the callbacks of gRPC's own calls; asks :class:`Rpc` what follows.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from meshclient import errors
from meshclient.clients.grpc_errors import answered, cancelled, rpc_error
from meshclient.clients.grpc_rpc import Answered, Rpc
from meshclient.model.outcome import ResetReason

if TYPE_CHECKING:
    from meshclient.clients.grpc_aio_race import AioRace
    from meshclient.clients.grpc_aio_replay import AioReplayStream
    from meshclient.clients.grpc_subchannels import Profile, Sub, SubPool

_log = logging.getLogger("meshclient.grpc")
_OK = grpc.StatusCode.OK
_BY_CALLER = "Locally cancelled by application!"


class AioExchange:
    """The state of one call, apart from what the caller holds, which may be dropped.

    ``start(sub, rpc)`` begins an RPC on a sub-channel and gives grpcio's call object. Belongs
    to one loop.
    """

    __slots__ = (
        "__weakref__",
        "_late",
        "_own",
        "_pool",
        "_profile",
        "_race",
        "_reading",
        "_start",
        "_sub",
        "_timer",
        "_waiters",
        "buffer",
        "callbacks",
        "error",
        "final",
        "inner",
        "loop",
        "rpc",
        "was_cancelled",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        pool: SubPool,
        profile: Profile,
        rpc: Rpc,
        start: Callable[[Sub, Rpc], Any],
        buffer: AioReplayStream | None = None,
    ) -> None:
        self.loop = loop
        self.rpc = rpc
        self.inner: Any = None
        self.final = False
        self.error: Exception | None = None
        self.was_cancelled = False
        self.callbacks: list[Callable[[], object]] | None = None
        self.buffer = buffer
        self._pool = pool
        self._profile = profile
        self._start = start
        self._sub: Sub | None = None
        self._own: ResetReason | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waiters: list[asyncio.Future[None]] | None = None
        self._race: AioRace | None = None
        # The try whose first message is being read, and the one that ended meanwhile.
        self._reading: Any = None
        self._late: Any = None

    # -- tries -----------------------------------------------------------------------

    def launch(self) -> None:
        """Begin the next try, or arrange for it."""
        if self.final:
            return
        rpc = self.rpc
        sub = None
        try:
            wait_s = rpc.proceed()
            if wait_s > 0.0:
                self._timer = self.loop.call_later(wait_s, self.launch)
                return
            self._own = None
            assert rpc.attempt is not None
            if rpc.call.hedge is not None and self._has_more():
                return
            sub = self._pool.take(rpc.call, rpc.attempt, self._profile)
            self.inner = inner = self._start(sub, rpc)
        except Exception as error:
            if sub is not None:
                self._pool.give_back(sub)
            self._cannot(error)
            return
        self._sub = sub
        if self._waiters is not None:
            self._wake()
        inner.add_done_callback(self._done)
        if rpc.head_limit_s is not None and rpc.whole:
            self.watch_head()

    def _has_more(self) -> bool:
        """Send the copies of the call; whether several tries may run, which go their own way."""
        from meshclient.clients.grpc_aio_race import AioRace
        from meshclient.clients.grpc_mirror import send_copies

        send_copies(self.rpc, self._start, self._pool, self._profile, self.loop)
        if self.rpc.hedged:
            self._race = AioRace(self)
            self._race.go(prepared=True)
        return self.rpc.hedged

    def _cannot(self, error: Exception) -> None:
        rpc = self.rpc
        if isinstance(error, Answered):
            assert rpc.call.reply is not None
            error = answered(rpc.call.reply, rpc.call, False)
        elif isinstance(error, errors.CallError):
            rpc.over = True
            error = rpc_error(error, rpc.call, False)
        elif rpc.attempt is not None and not isinstance(error, errors.MeshError):
            rpc.reject(error)
        else:
            rpc.abandon()
        self._finish(error)

    def _done(self, inner: Any) -> None:
        """gRPC has a status for ``inner``; called once for each, on the loop."""
        sub, self._sub = self._sub, None
        if sub is not None:
            self._pool.give_back(sub)
        if self.final or self.inner is not inner:
            return
        # A server may say CANCELLED, too; that is a status like any other.
        if self._own is None and inner.cancelled() and at_once(inner.details()) == _BY_CALLER:
            self._caller_cancelled()
            return
        end = self._end_of(inner)
        if self._reading is not inner:
            self._conclude(end)
        elif self._late is None:  # a write that comes too late makes gRPC say something else
            self._late = end

    def _conclude(self, end: tuple[Any, ...]) -> None:
        """What follows from the end of the try under way."""
        try:
            delay_s = self.rpc.ended(*end)
        except Exception as error:  # a retry strategy of the user's failed
            self.rpc.abandon()
            self._finish(error)
            return
        if delay_s is None:
            failure = self.rpc.error
            self._finish(None if failure is None else rpc_error(failure, self.rpc.call, False))
            return
        self.inner = None
        self._timer = self.loop.call_later(delay_s, self.launch)

    def _end_of(self, inner: Any) -> tuple[Any, ...]:
        """How ``inner`` ended, in the words of ``Rpc.ended``."""
        code = at_once(inner.code())
        if code is _OK and not self.rpc.reads_head:
            return (0, "", None, None)
        return (
            code.value[0],
            at_once(inner.details()) or "",
            at_once(inner.initial_metadata()),
            at_once(inner.trailing_metadata()),
            self._own,
        )

    def _finish(self, error: Exception | None) -> None:
        self.final = True
        self.error = error
        if self.buffer is not None:
            self.buffer.release()
        if self._waiters is not None:
            self._wake()
        callbacks, self.callbacks = self.callbacks, None
        for callback in callbacks or ():
            try:
                callback()
            except Exception:
                _log.exception("a callback of a gRPC call failed")

    def fail(self, inner: Any, error: Exception) -> None:
        """``inner`` could not even be sent: a mistake of the caller's, without a status."""
        if self.inner is inner and not self.final:
            sub, self._sub = self._sub, None
            if sub is not None:
                self._pool.give_back(sub)
            self.rpc.reject(error)
            self._finish(error)

    # -- limits, answers, the caller's wish --------------------------------------------

    def watch_head(self) -> None:
        """Give the first answer its time from now on."""
        inner, limit_s = self.inner, self.rpc.head_limit_s
        if inner is not None and limit_s is not None and not self.rpc.settled:
            task = self.loop.create_task(self._bound_head(inner, limit_s))
            _watching.add(task)
            task.add_done_callback(_watching.discard)

    async def _bound_head(self, inner: Any, limit_s: float) -> None:
        try:
            async with asyncio.timeout(limit_s):
                await inner.initial_metadata()
        except TimeoutError:
            if self.inner is inner and not self.final and not self.rpc.settled:
                self._own = ResetReason.PER_TRY_TIMEOUT
                inner.cancel()

    def answer(self, initial: Any) -> None:
        """The first of the response is here; the call stays with this try."""
        if not self.final:
            self.rpc.answer(initial)
        if self.buffer is not None:
            self.buffer.keep_no_more()

    async def read(self, inner: Any) -> Any:
        """A message of ``inner``. With the first, the call stays with this try, even if that
        has ended in the meantime."""
        if self.rpc.settled:
            return await inner.read()
        self._reading = inner
        try:
            message = await inner.read()
            if message is not grpc.aio.EOF and not self.rpc.settled and self.inner is inner:
                self.answer(at_once(inner.initial_metadata()))
            return message
        finally:
            self._reading = None
            late, self._late = self._late, None
            if late is not None and not self.final and self.inner is inner:
                self._conclude(late)

    def cancel(self) -> bool:
        """Whether there was something to cancel."""
        if self.final:
            return False
        inner = self.inner
        if inner is not None:
            inner.cancel()  # which tells us, at once
        if not self.final:
            self._caller_cancelled()
        return True

    def _caller_cancelled(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.was_cancelled = True
        self.rpc.abandon()
        if self._race is not None:
            self._race.call_off()
        self._finish(cancelled(self.rpc.call, False))

    # -- waiting -----------------------------------------------------------------------

    async def moved(self) -> None:
        """Until there is another try, or the call is over."""
        waiter = self.loop.create_future()
        if self._waiters is None:
            self._waiters = []
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            self.cancel()
            raise

    async def ended(self) -> None:
        """Until the call is over."""
        while not self.final:
            waiter = self.loop.create_future()
            self._waiters = [*(self._waiters or ()), waiter]
            await waiter

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    def add(self, callback: Callable[[], object]) -> bool:
        """Have ``callback`` called at the end; False where that is past."""
        if self.final:
            return False
        self.callbacks = [*(self.callbacks or ()), callback]
        return True

    # -- what a wait on a try came to ----------------------------------------------------

    def after_cancelled(self, inner: Any) -> None:
        """``inner`` raised CancelledError: return to go on, raise to end."""
        task = asyncio.current_task()
        by_us = self.inner is not inner or (self.final and not self.was_cancelled)
        if by_us and not (task is not None and task.cancelling()):
            return
        self.cancel()
        raise asyncio.CancelledError

    def after_error(self, error: Any) -> None:
        """``error`` is a try's: return to go on with the next, raise where it was the last."""
        if not self.final:
            return
        if self.error is not None:
            raise self.error from error
        error.report = self.rpc.report
        raise error

    def check_over(self) -> None:
        """Between tries: raises what ended the call, if anything has."""
        if self.final and self.inner is None:
            self.raise_error()

    def raise_error(self) -> None:
        """Raises the call's own error, or CancelledError where the caller cancelled."""
        if self.was_cancelled:
            raise asyncio.CancelledError
        if self.error is not None:
            raise self.error


#: The loop keeps only weak references to tasks.
_watching: set[asyncio.Task[None]] = set()


def at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that need not wait, of an RPC that has ended; else None."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    return None


__all__ = ["AioExchange", "at_once"]
