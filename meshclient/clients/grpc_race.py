"""Several tries of one unary RPC at once: what the blocking and the asyncio driver share.

Which of them counts, and when another begins, is said by the call's
:class:`~meshclient.hedge.Hedge`; nothing is sent or waited for here, and grpc is not imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshclient.clients import grpc_ending as ending
from meshclient.model.headers import HeaderMap
from meshclient.model.outcome import Outcome, ResetReason

if TYPE_CHECKING:
    from meshclient.attempt import Attempt
    from meshclient.clients.grpc_rpc import Rpc


class RaceState:
    """The open tries of one RPC, each known by grpcio's call of it.

    Begins with the try that ``rpc.proceed`` has prepared. One thread or task at a time.
    """

    __slots__ = ("_hedge", "_open", "rpc")

    def __init__(self, rpc: Rpc) -> None:
        hedge = rpc.call.hedge
        assert hedge is not None
        self.rpc = rpc
        self._hedge = hedge
        self._open: dict[Any, tuple[Attempt, ResetReason]] = {}

    def opened(self, inner: Any) -> None:
        """The try that the RPC has prepared is under way as ``inner``."""
        assert self.rpc.attempt is not None
        self._open[inner] = (self.rpc.attempt, self.rpc._limit_reason)

    def runs(self, inner: Any) -> bool:
        """Whether anybody waits for ``inner`` still."""
        return inner in self._open

    def further(self) -> bool:
        """Whether another try is to begin now; it is prepared then.

        Raises the CallError that ends the call, where nothing runs and nothing can begin.
        """
        rpc = self.rpc
        now = rpc._runtime.clock()
        attempt = self._hedge.due(now)
        if attempt is None:
            return False
        rpc.attempt = attempt
        rpc._prepare(attempt, now)
        return True

    def wait_s(self) -> float:
        """Seconds until :meth:`further` is to be asked again; infinity: after an end only."""
        return self._hedge.wake_at() - self.rpc._runtime.clock()

    def judge(self, inner: Any, code: int, details: str, initial: Any, trailing: Any) -> bool:
        """``inner`` has ended so. True: this ends the call, with that status or ``rpc.error``."""
        rpc = self.rpc
        rpc.attempt, limit = self._open.pop(inner)
        attempt, now = rpc.attempt, rpc._runtime.clock()
        bare = not trailing and not initial
        if code != ending.OK and details in ending.CALLERS_MISTAKES and bare:
            self._hedge.disregard(attempt, now)
            return self._over(attempt, now)
        reset = None
        if code != ending.OK:
            late = ending.is_local_deadline(code, details, bare)
            reset = limit if late else ending.reset_of(code, details, bare)
        if reset is ResetReason.REFUSED_STREAM and not rpc._resent:
            self._again(attempt, now)
            return False
        return self._settle(attempt, reset, code, details, initial, trailing, now)

    def _settle(
        self,
        attempt: Attempt,
        reset: ResetReason | None,
        code: int,
        details: str,
        initial: Any,
        trailing: Any,
        now: float,
    ) -> bool:
        rpc, call = self.rpc, self.rpc.call
        if code == ending.OK:
            raw = ending.raw_headers((*(initial or ()), *(trailing or ())))
            outcome = Outcome(200, HeaderMap(raw) if raw else None)
        elif reset is not None:
            outcome = ending.outcome_of_reset(reset, ConnectionError(details))
        else:
            outcome = ending.outcome_of_status(code, details, trailing, initial)
            rpc._pushed_back(call, trailing)
        over = self._hedge.settle(attempt, outcome, now)
        if reset is None and code != ending.OK:
            attempt.outcome = f"{attempt.outcome}: grpc status {code}"
        return over and self._over(attempt, now)

    def _over(self, attempt: Attempt, now: float) -> bool:
        rpc = self.rpc
        rpc.settled = rpc.over = True
        rpc.error = rpc.call.error
        attempt.close(now)
        return True

    def _again(self, attempt: Attempt, now: float) -> None:
        """The server has not looked at it: once more, and not at the policy's expense."""
        self.rpc._resent = True
        self._hedge.repeat(attempt, now)
        attempt.outcome = "remote refused stream reset"
        call = self.rpc.call
        call.notes = (*call.notes, "sent again: the server had not begun with it")

    def reject(self, inner: Any, error: Exception) -> None:
        """``inner`` could not be sent, or its answer not be read: a mistake of the caller's."""
        self.rpc.attempt, _ = self._open.pop(inner)
        self.rpc.reject(error)

    def end(self) -> list[Any]:
        """The call is over: nothing that still runs counts. What is to be cancelled."""
        self._hedge.end(self.rpc._runtime.clock())
        left = list(self._open)
        self._open.clear()
        return left


__all__ = ["RaceState"]
