"""One RPC over all its tries: what the blocking and the asyncio driver share.

Asks the call, prepares a try, tells the call how it ended. It sends nothing, waits for
nothing and holds no policy; grpc is not imported.
"""

from __future__ import annotations

from base64 import b64decode
from typing import TYPE_CHECKING, Any, Protocol

from meshclient import errors
from meshclient.call import Call
from meshclient.clients import grpc_ending as ending
from meshclient.model.headers import HeaderMap, RawHeaders
from meshclient.model.outcome import Outcome, OutcomeKind, ResetReason
from meshclient.model.request import RequestHead

if TYPE_CHECKING:
    from meshclient.attempt import Attempt
    from meshclient.clients.grpc_target import Dialled
    from meshclient.clients.runtime import Runtime
    from meshclient.model.report import CallReport

_BASE: RawHeaders = [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
#: Lines of the head that are no metadata: gRPC writes them itself, or has no place for them.
_NOT_METADATA = frozenset(
    {b"content-type", b"te", b"host", b"content-length", b"grpc-timeout", b"user-agent"}
)
_PREVIOUS_ATTEMPTS = "grpc-previous-rpc-attempts"
_PUSHBACK = "grpc-retry-pushback-ms"
#: First and longest pause of a ``wait_for_ready`` call between looks for an endpoint.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 1.0


class Rpc:
    """What is known and decided of one RPC. Belongs to one thread or task at a time.

    ``proceed`` and ``ended`` alternate; ``attempt`` is the try under way, ``metadata`` and
    ``limit_s`` what its RPC is to be given, ``head_limit_s`` how long its first answer may
    take (streams). ``committed``: an answer has reached the caller, so nothing is repeated.
    """

    __slots__ = (
        "_dialled",
        "_first",
        "_given",
        "_held",
        "_limit_reason",
        "_method",
        "_pause_s",
        "_resent",
        "_runtime",
        "attempt",
        "buffer",
        "call",
        "committed",
        "error",
        "give_up_at",
        "head_limit_s",
        "limit_s",
        "metadata",
        "over",
        "settled",
        "streams",
        "wait_for_ready",
        "whole",
    )

    def __init__(
        self,
        runtime: Runtime,
        dialled: Dialled,
        method: str,
        metadata: Any,
        timeout: float | None,
        wait_for_ready: bool,
        whole: bool = True,
        streams: bool = False,
    ) -> None:
        """``whole``: the request is one message; ``streams``: the response is many."""
        now = runtime.clock()
        self._runtime = runtime
        self._dialled = dialled
        self._method = method
        self._given = tuple(metadata) if metadata else ()
        self.give_up_at = None if timeout is None else now + timeout
        self.wait_for_ready = wait_for_ready
        self.whole = whole
        self.streams = streams
        self.buffer: Buffer | None = None
        self.attempt: Attempt | None = None
        self.metadata: Any = ()
        self.limit_s: float | None = None
        self.head_limit_s: float | None = None
        self.committed = False
        self.settled = False
        self.over = False
        self.error: errors.CallError | None = None
        self._held = False
        self._resent = False
        self._pause_s = _FIRST_PAUSE_S
        self._limit_reason = ResetReason.PER_TRY_TIMEOUT
        self.call = self._new_call(now)

    def _new_call(self, now: float) -> Call:
        runtime, dialled = self._runtime, self._dialled
        raw = _BASE
        if self._given:
            raw = [*_BASE, *ending.raw_headers(self._given)]
        self._first = raw
        head = RequestHead(
            "POST",
            dialled.scheme,
            dialled.authority,
            dialled.port,
            self._method,
            HeaderMap(raw),
            dialled.host,
        )
        call = Call(
            runtime.current(),
            head,
            now,
            runtime.rand,
            self.whole,
            strategies=runtime.strategies,
            wall_clock=runtime.wall_clock,
        )
        call.give_up_at = self.give_up_at
        return call

    # -- forward -------------------------------------------------------------------

    def proceed(self) -> float:
        """Go on: 0.0 and a try to make (``attempt``), or seconds to wait before asking again.

        Raises the :class:`~meshclient.errors.CallError` that ends the call, or
        :class:`Answered` where the policy answers it.
        """
        now = self._runtime.clock()
        call = self.call
        if self._held or call.hold is not None:
            wait_s = self._hold(call, now)
            if wait_s > 0.0:
                return wait_s
        if call.reply is not None:
            self.over = True
            raise Answered
        if self._runtime.closed:
            self._runtime.current()
        try:
            self.attempt = attempt = call.next_attempt(now)
        except errors.CallError as error:
            pause_s = self._pause(error, now)
            if pause_s is None:
                raise
            return pause_s
        self.settled = False
        self._prepare(attempt, call, now)
        return 0.0

    def _hold(self, call: Call, now: float) -> float:
        """Seconds that the filters want it held; 0.0: they are through with it."""
        while call.hold is not None:
            if self._held:
                self._held = False
                call.resume(now)
                continue
            wait_s = call.hold.wait_s
            if call.give_up_at is not None:
                wait_s = min(wait_s, max(0.0, call.give_up_at - now))
            self._held = True
            if wait_s > 0.0:
                return wait_s
        return 0.0

    def _pause(self, error: errors.CallError, now: float) -> float | None:
        """``wait_for_ready``: where there is nobody to call, look again a little later."""
        if not self.wait_for_ready or self.committed:
            return None
        if not isinstance(error, (errors.NoHealthyEndpoint, errors.ConnectFailed)):
            return None
        pause_s = self._pause_s
        self._pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        if self.give_up_at is not None and now + pause_s >= self.give_up_at:
            if now >= self.give_up_at:
                late = errors.DeadlineExceeded(f"{error} (wait_for_ready)", error.report)
                raise late from error
            pause_s = self.give_up_at - now
        self.call.abandon(now)
        self.call = self._new_call(now)
        return pause_s

    def _prepare(self, attempt: Attempt, call: Call, now: float) -> None:
        """The metadata and the time limits of a try."""
        raw = attempt.headers
        self.metadata = self._given if raw is self._first else _metadata(raw)
        if attempt.number > 1:
            self.metadata = (*self.metadata, (_PREVIOUS_ATTEMPTS, str(attempt.number - 1)))
        limit_s, reason = None, ResetReason.PER_TRY_TIMEOUT
        if self.give_up_at is not None:
            limit_s = max(0.0, self.give_up_at - now)
        if attempt.deadline is not None:
            left = max(0.0, attempt.deadline - now)
            if limit_s is None or left < limit_s:
                limit_s, reason = left, ResetReason.ROUTE_TIMEOUT
        self.head_limit_s = None
        stated = attempt.response_timeout_s
        if stated is not None and (limit_s is None or stated < limit_s):
            if self.whole and not self.streams:
                limit_s, reason = stated, ResetReason.PER_TRY_TIMEOUT
                attempt.by_caller = False
            else:
                self.head_limit_s = stated
        self.limit_s, self._limit_reason = limit_s, reason

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
            return self._close(attempt, now)
        bare = not trailing and not initial
        if own is None and ending.is_local_deadline(code, details, bare):
            own = self._limit_reason
        reset = own or ending.reset_of(code, details, bare)
        if self.settled:
            self._break_off(reset, code, details, own, cause)
            return self._close(attempt, now)
        if details in ending.CALLERS_MISTAKES and bare:
            call.disregard(attempt, now)
            return self._close(attempt, now)
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
            error = cause or ConnectionError(details)
            outcome = ending.outcome_of_reset(reset, error)
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
        delay_s = call._within_deadline(push_s, now)
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
        error = self.call.break_off(
            Outcome(reset=reset, error=cause or ConnectionError(details))
        )
        if own is ResetReason.ROUTE_TIMEOUT:
            self.error = error

    def _give_up(self, attempt: Attempt, now: float) -> float | None:
        error = self.call.error
        if error is not None:
            pause_s = self._pause(error, now)
            if pause_s is not None:
                attempt.close(now)
                return pause_s
            self.error = error
        return self._close(attempt, now)

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

    def time_remaining(self) -> float | None:
        """Seconds of the caller's own limit that are left; None without one."""
        if self.give_up_at is None:
            return None
        return max(0.0, self.give_up_at - self._runtime.clock())

    def edited(self, initial: Any) -> Any:
        """The initial metadata as the route's response edits have it."""
        call, attempt = self.call, self.attempt
        if attempt is None or call.route is None:
            return initial
        added = call.added_response_headers(attempt)
        if not call.route.has_response_edits and added is None:
            return initial
        headers = HeaderMap(ending.raw_headers(initial))
        call.route.edit_response(headers, call.head, call.weighted, 200, attempt.endpoint)
        return _metadata([*headers.raw, *(added or ())])

    @property
    def report(self) -> CallReport:
        """What happened to the call."""
        return self.call.report


class Buffer(Protocol):
    """A stream of requests that may be sent again."""

    @property
    def keeps_all(self) -> bool:
        """Whether every request so far is still at hand."""
        ...


class Answered(Exception):
    """The call's ``reply`` is the answer; for drivers only."""


def _metadata(raw: RawHeaders) -> tuple[tuple[str, Any], ...]:
    """Header lines as metadata, binary values decoded."""
    made: list[tuple[str, Any]] = []
    for name, value in raw:
        lower = name.lower()
        if lower in _NOT_METADATA:
            continue
        if lower.endswith(b"-bin"):
            made.append((lower.decode("latin-1"), b64decode(value + b"=" * (-len(value) % 4))))
        else:
            made.append((lower.decode("latin-1"), value.decode("latin-1")))
    return tuple(made)


__all__ = ["Answered", "Rpc"]
