"""One RPC over all its tries: what the blocking and the asyncio driver share.

Tells the call how each try ended, and the driver what follows. It sends nothing, waits for
nothing and holds no policy; grpc is not imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshclient.clients import grpc_ending as ending
from meshclient.clients.grpc_rpc_start import Answered, Buffer, RpcStart, metadata_of
from meshclient.model.headers import HeaderMap
from meshclient.model.outcome import Outcome, OutcomeKind, ResetReason

if TYPE_CHECKING:
    from meshclient.attempt import Attempt
    from meshclient.call import Call
    from meshclient.model.report import CallReport

_PUSHBACK = "grpc-retry-pushback-ms"


class Rpc(RpcStart):
    """What is known and decided of one RPC. Belongs to one thread or task at a time.

    ``proceed`` and ``ended`` alternate. ``settled``: the core knows how the try ended, or
    that it was answered; ``over``: the call has ended, and ``error`` is set where it failed
    without the server's say.
    """

    __slots__ = ()

    # -- how a try ended -----------------------------------------------------------

    def answer(self, initial: Any = None) -> bool:
        """The head of the response is here: nothing is repeated from now on.

        False where the call has ended meanwhile.
        """
        if not self.settled and not self.over:
            self.committed = self.settled = True
            assert self.attempt is not None
            headers = HeaderMap(ending.raw_headers(initial)) if initial else None
            self.call.settle(self.attempt, Outcome(200, headers), self._runtime.clock())
        return not self.over

    def ended(
        self,
        code: int,
        details: str,
        initial: Any,
        trailing: Any,
        own: ResetReason | None = None,
        cause: BaseException | None = None,
    ) -> float | None:
        """The RPC of the try has ended; ``own``: by a limit of ours that struck.

        None: the call is over; ``error`` is set where it failed without the server's say.
        A number: wait that many seconds, then :meth:`proceed`.
        """
        attempt, call = self.attempt, self.call
        assert attempt is not None
        now = self._runtime.clock()
        if code == ending.OK:
            if not self.settled:
                self._succeed(attempt, initial, trailing, now)
            elif trailing and attempt.cluster_state.on_trailers is not None:
                head, rest = ending.raw_headers(initial or ()), ending.raw_headers(trailing)
                attempt.cluster_state.on_trailers(attempt.state, head, rest, now)
            self._close(attempt, now)
            return None
        bare = not trailing and not initial
        if own is None and ending.is_local_deadline(code, details, bare):
            own = self._limit_reason
        reset = own or ending.reset_of(code, details, bare)
        if self.settled:
            self._break_off(reset, code, details, own, cause)
            self._close(attempt, now)
            return None
        if details in ending.CALLERS_MISTAKES and bare:
            call.disregard(attempt, now)
            self._close(attempt, now)
            return None
        held = self.buffer is None or self.buffer.keeps_all
        if reset is ResetReason.REFUSED_STREAM and held and not self._resent:
            return self._resend(attempt, now)
        return self._weigh(attempt, reset, code, details, initial, trailing, cause, now)

    def _succeed(self, attempt: Attempt, initial: Any, trailing: Any, now: float) -> None:
        self.settled = True
        headers = None
        if initial or trailing:
            # Loads are reported in trailers; a name in both counts once, in the head.
            headers = HeaderMap(ending.raw_headers((*(initial or ()), *(trailing or ()))))
        self.call.settle(attempt, Outcome(200, headers), now)

    def _weigh(
        self,
        attempt: Attempt,
        reset: ResetReason | None,
        code: int,
        details: str,
        initial: Any,
        trailing: Any,
        cause: BaseException | None,
        now: float,
    ) -> float | None:
        """A failure before any answer: what the policy makes of it."""
        call = self.call
        push_s = None
        if self.buffer is not None:
            self._ask_buffer(call, self.buffer)
        if reset is not None:
            outcome = ending.outcome_of_reset(reset, _worded(details, cause))
        else:
            outcome = ending.outcome_of_status(code, details, trailing, initial)
            push_s = self._pushed_back(call, trailing)
        if initial:
            call.policy = None
        self.settled = True
        delay_s = call.settle(attempt, outcome, now)
        call.replayable = self.whole
        if reset is None:
            attempt.outcome = f"{attempt.outcome}: grpc status {code}"
        if delay_s is None:
            return self._give_up(attempt, now)
        attempt.close(now)
        if push_s is None:
            return delay_s
        delay_s = call._within_deadline(push_s, now, outcome)
        return self._give_up(attempt, now) if delay_s is None else delay_s

    def _ask_buffer(self, call: Call, buffer: Buffer) -> None:
        """A stream of requests is repeated only while all of it is still held."""
        if buffer.keeps_all:
            call.replayable = True
        elif call.policy is not None:
            call.policy = None
            call.notes = (*call.notes, "not retried: the request stream is beyond its buffer")

    def _pushed_back(self, call: Call, trailing: Any) -> float | None:
        """What the server says of another try: seconds to wait; None: nothing.

        A value that is no count of milliseconds forbids it. Source: gRFC A6.
        """
        for key, value in trailing or ():
            if key == _PUSHBACK:
                if isinstance(value, str) and value.isdigit() and len(value) < 10:
                    return int(value) / 1000.0
                call.policy = None
                call.notes = (*call.notes, f"not retried: the server pushed back ({value})")
        return None

    def _resend(self, attempt: Attempt, now: float) -> float:
        """The server has not looked at it: once more, and not at the policy's expense."""
        self._resent = True
        attempt.duration_s = now - attempt.started
        attempt.end("remote refused stream reset", OutcomeKind.IGNORED)
        self.call.notes = (*self.call.notes, "sent again: the server had not begun with it")
        return 0.0

    def _break_off(
        self,
        reset: ResetReason | None,
        code: int,
        details: str,
        own: ResetReason | None,
        cause: BaseException | None,
    ) -> None:
        """A response ended early: final, and the status of gRPC's own client mostly stands."""
        assert self.attempt is not None
        if reset is None:
            self.attempt.outcome = f"{self.attempt.outcome}: grpc status {code}"
            return
        error = self.call.break_off(Outcome(reset=reset, error=_worded(details, cause)))
        if own is ResetReason.ROUTE_TIMEOUT:
            self.error = error

    def _give_up(self, attempt: Attempt, now: float) -> float | None:
        error = self.call.error
        if error is not None:
            pause_s = self._pause(error, now)
            if pause_s is not None:
                attempt.close(now)
                return pause_s
            self.error = self._late(error, now)
        self._close(attempt, now)
        return None

    def _close(self, attempt: Attempt, now: float) -> None:
        self.over = True
        attempt.close(now)

    def abandon(self) -> None:
        """The caller gives up: nothing stays counted. Idempotent."""
        self.over = True
        self.call.abandon(self._runtime.clock())

    def reject(self, cause: Exception) -> None:
        """The try cannot be begun at all (metadata that gRPC refuses, say)."""
        assert self.attempt is not None
        self.over = True
        self.call.reject(self.attempt, cause, self._runtime.clock())

    @property
    def reads_head(self) -> bool:
        """Whether anything but the caller looks at the metadata of a success."""
        assert self.attempt is not None
        cluster = self.attempt.cluster_state
        return cluster.on_outcome is not None or cluster.on_trailers is not None

    def edited(self, initial: Any) -> Any:
        """The initial metadata as the route's response edits have it."""
        call, attempt = self.call, self.attempt
        if attempt is None or call.route is None:
            return initial
        added = [*(call.added_response_headers(attempt) or ()), *(call.filter_headers or ())]
        if not call.route.has_response_edits and not added:
            return initial
        headers = HeaderMap(ending.raw_headers(initial))
        call.route.edit_response(headers, call.head, call.weighted, 200, attempt.endpoint)
        return metadata_of([*headers.raw, *added])

    @property
    def report(self) -> CallReport:
        """What happened to the call."""
        return self.call.report


def _worded(details: str, cause: BaseException | None) -> ConnectionError:
    """gRPC's own words for what happened to the connection."""
    error = ConnectionError(details)
    error.__cause__ = cause
    return error


__all__ = ["Answered", "Rpc"]
