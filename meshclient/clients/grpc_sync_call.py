"""What a blocking caller holds of a call: grpc's Call and Future, and an iterator for streams.

The API only; what goes on behind it is the exchange's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    from meshclient.clients.grpc_rpc import Rpc
    from meshclient.clients.grpc_sync_exchange import Exchange
    from meshclient.model.report import CallReport

_OK = grpc.StatusCode.OK


class MeshCall(grpc.RpcError, grpc.Call, grpc.Future):  # type: ignore[type-arg]
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
                return next(inner) if exchange.rpc.settled else self._first(inner)
            except StopIteration:
                exchange.verdict(inner)
                raise
            except grpc.RpcError as error:
                if exchange.verdict(inner):
                    raise self._failure(inner) from error.__cause__

    next = __next__

    def _first(self, inner: Any) -> Any:
        """The first message, with which the call stays with this try, even if that has
        ended in the meantime."""
        exchange = self._exchange
        exchange.reading = inner
        try:
            message = next(inner)
            exchange.answer(inner.initial_metadata())
        finally:
            exchange.has_read()
        return message

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

    def time_remaining(self) -> float | None:  # type: ignore[override]
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


class EndedCall(grpc.Call):
    """The call of a response that is here: grpcio's own, with the report of the mesh."""

    def __init__(self, rpc: Rpc, inner: Any) -> None:
        self._rpc = rpc
        self._inner = inner

    @property
    def report(self) -> CallReport:
        """Route, endpoint, tries and flags of the call."""
        return self._rpc.report

    def initial_metadata(self) -> Any:
        return self._rpc.edited(self._inner.initial_metadata())

    def trailing_metadata(self) -> Any:
        return self._inner.trailing_metadata()

    def code(self) -> grpc.StatusCode:
        return self._inner.code()  # type: ignore[no-any-return]

    def details(self) -> str:
        return self._inner.details()  # type: ignore[no-any-return]

    def debug_error_string(self) -> str:
        return self._inner.debug_error_string()  # type: ignore[no-any-return]

    def is_active(self) -> bool:
        return False

    def time_remaining(self) -> float | None:  # type: ignore[override]
        return self._rpc.time_remaining()

    def cancel(self) -> bool:
        return False

    def add_callback(self, callback: Any) -> bool:  # noqa: ARG002 - it has ended
        return False


__all__ = ["EndedCall", "MeshCall"]
