"""An RPC up to each of its tries: what the blocking and the asyncio driver share.

Asks the call and prepares a try. It sends nothing, waits for nothing and holds no policy;
grpc is not imported.
"""

from __future__ import annotations

from base64 import b64decode
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from meshclient import errors
from meshclient.call import Call
from meshclient.clients import grpc_ending as ending
from meshclient.model.headers import HeaderMap, RawHeaders
from meshclient.model.outcome import ResetReason
from meshclient.model.request import RequestHead
from meshclient.telemetry.propagation import outgoing, withhold

if TYPE_CHECKING:
    from meshclient.attempt import Attempt
    from meshclient.clients.grpc_target import Dialled
    from meshclient.clients.questions import Asking
    from meshclient.clients.runtime import Runtime
    from meshclient.hedge import Hedge

_BASE: RawHeaders = [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
#: Lines of the head that are no metadata: gRPC writes them itself, or has no place for them.
_NOT_METADATA = frozenset(
    {b"content-type", b"te", b"host", b"content-length", b"grpc-timeout", b"user-agent"}
)
_PREVIOUS_ATTEMPTS = "grpc-previous-rpc-attempts"
#: First and longest pause of a ``wait_for_ready`` call between looks for an endpoint.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 1.0


class RpcStart:
    """What is known of one RPC before its tries end. The base of
    :class:`meshclient.clients.grpc_rpc.Rpc`.

    ``attempt`` is the try under way, ``metadata`` and
    ``limit_s`` what its RPC is to be given, ``head_limit_s`` how long its first answer may
    take (streams). ``committed``: an answer has reached the caller, so nothing is repeated.
    """

    __slots__ = (
        "_asking",
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
        "hedged",
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
        #: Several tries may run at once: a race carries the call from here.
        self.hedged = False
        self._held = False
        self._asking: Asking | None = None
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
        plane, given = runtime.current(), head.headers
        inbound = outgoing(head)
        call = Call(
            plane,
            head,
            now,
            runtime.rand,
            self.whole,
            strategies=runtime.strategies,
            wall_clock=runtime.wall_clock,
            inbound=inbound,
        )
        if head.headers is not given and not call.virtual_host_name:
            withhold(head, given.raw, plane.snapshot.propagation.unknown_hosts)
        call.give_up_by(self.give_up_at)
        self.give_up_at = call.give_up_at
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
            hedge = call.hedge
            first = call.next_attempt if hedge is None else partial(self._first_of, hedge)
            self.attempt = attempt = first(now)
        except errors.CallError as error:
            pause_s = self._pause(error, now)
            if pause_s is None:
                raise self._late(error, now) from error
            return pause_s
        self.settled = False
        self._prepare(attempt, now)
        return 0.0

    def _first_of(self, hedge: Hedge, now: float) -> Attempt:
        """The next try of a call that has copies, or may have several tries at once."""
        call = self.call
        if not hedge.armed or call.attempts:
            return call.next_attempt(now)
        if not self.whole or self.streams:
            hedge.disarm("only unary gRPC calls are")
        elif self.wait_for_ready:
            hedge.disarm("the caller waits for an endpoint")
        else:
            attempt = hedge.begin(now)
            self.hedged = True
            return attempt
        return call.next_attempt(now)

    def _hold(self, call: Call, now: float) -> float:
        """Seconds that the filters want it held; 0.0: they are through with it."""
        while call.hold is not None:
            if self._held:
                asking = self._asking
                if asking is not None and asking.answer is None and not self._runtime.closed:
                    return asking.look_s
                self._held, self._asking = False, None
                call.resume(now, None if asking is None else asking.answer)
                continue
            if call.hold.ask is not None:
                self._held, self._asking = True, self._runtime.ask_soon(call)
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
                return None
            pause_s = self.give_up_at - now
        self.call.abandon(now)
        self.call = self._new_call(now)
        return pause_s

    def _late(self, error: errors.CallError, now: float) -> errors.CallError:
        """What a call that waited for an endpoint ends with when its time is up."""
        if not self.wait_for_ready or self.give_up_at is None or now < self.give_up_at:
            return error
        return errors.DeadlineExceeded(f"{error} (wait_for_ready)", error.report)

    def _prepare(self, attempt: Attempt, now: float) -> None:
        """The metadata and the time limits of a try."""
        raw = attempt.headers
        self.metadata = self._given if raw is self._first else metadata_of(raw)
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

    def time_remaining(self) -> float | None:
        """Seconds of the caller's own limit that are left; None without one."""
        if self.give_up_at is None:
            return None
        return max(0.0, self.give_up_at - self._runtime.clock())


class Buffer(Protocol):
    """A stream of requests that may be sent again."""

    @property
    def keeps_all(self) -> bool:
        """Whether every request so far is still at hand."""
        ...


class Answered(Exception):
    """The call's ``reply`` is the answer; for drivers only."""


def metadata_of(raw: RawHeaders) -> tuple[tuple[str, Any], ...]:
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


__all__ = ["Answered", "Buffer", "RpcStart", "metadata_of"]
