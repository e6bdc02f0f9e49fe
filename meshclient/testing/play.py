"""One call from head to end with scripted outcomes in place of a network.

The decisions are those of real calls: the same plane, the same state machine. The
only thing made up is what the endpoints do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from meshclient import errors
from meshclient.attempt import Attempt
from meshclient.call import Call
from meshclient.mesh import Mesh
from meshclient.model.headers import HeaderMap
from meshclient.model.outcome import CONNECT_FAILURES, Outcome, ResetReason
from meshclient.model.report import AttemptReport, CallReport
from meshclient.model.request import LocalReply, RequestHead, head_of
from meshclient.plane import Plane
from meshclient.testing.clock import FakeClock
from meshclient.testing.scripted import ScriptedRandom

Result = Outcome | ResetReason | int
#: What an endpoint does, at once or after so many seconds.
Step = Result | tuple[Result, float]


class PlayedCall:
    """What came of a call.

    ``status`` is the final response's (a local reply's, too; 0: there is none),
    ``error`` what a caller would have caught. ``delays_s`` are the back-offs, ``held_s``
    is how long the call was held before its first try (an injected delay),
    ``sent`` the headers of each try as they would have gone out, ``call`` the
    call itself, with ``call.head`` as it was rewritten.
    """

    __slots__ = ("call", "delays_s", "error", "held_s", "reply", "sent", "status")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.reply: LocalReply | None = call.reply
        self.status = 0 if call.reply is None else call.reply.status
        self.error: errors.CallError | None = None
        self.delays_s: list[float] = []
        self.held_s = 0.0
        self.sent: list[HeaderMap] = []

    @property
    def report(self) -> CallReport:
        """As ``response.extensions["meshclient"]`` and ``error.report`` have it."""
        return self.call.report

    @property
    def attempts(self) -> list[AttemptReport]:
        """Every try in order."""
        return self.call.report.attempts

    @property
    def endpoints(self) -> list[str]:
        """``address:port`` of every try."""
        return [attempt.endpoint for attempt in self.attempts]

    def __repr__(self) -> str:
        end = type(self.error).__name__ if self.error is not None else self.status
        return f"<PlayedCall {end} tries={len(self.attempts)} delays_s={self.delays_s}>"


def request(
    method: str, url: str, headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None
) -> RequestHead:
    """A request for :func:`run_call`. Raises ValueError for a URL without scheme or host."""
    return head_of(method, url, headers)


def run_call(
    mesh: Mesh | Plane,
    head: RequestHead,
    outcomes: Iterable[Step],
    clock: FakeClock | None = None,
    rand: Callable[[], int] | None = None,
    **options: Any,
) -> PlayedCall:
    """Play one call to its end; takes microseconds, whatever the timeouts are.

    ``outcomes`` are what the endpoints do, one per try: a status, a
    :class:`ResetReason`, a whole :class:`Outcome`, or one of these with the seconds
    it takes. A try that takes longer than its limits ends as they say.
    ``clock`` is moved on by all that; ``rand`` defaults to ``ScriptedRandom(seed=0)``.
    ``options`` are those of :class:`~meshclient.call.Call` (``replayable``,
    ``patience_s``, ``strategies``, ``wall_clock``).

    The errors of the call are in the result, not raised. Raises LookupError when the
    call makes more tries than there are outcomes.
    """
    time = FakeClock() if clock is None else clock
    draw = ScriptedRandom(seed=0) if rand is None else rand
    plane: Plane = mesh._publisher.plane if isinstance(mesh, Mesh) else mesh
    call = Call(plane, head, time(), draw, **options)
    played = PlayedCall(call)
    while call.hold is not None:
        played.held_s += call.hold.wait_s
        time.sleep(call.hold.wait_s)
        call.resume(time())
    if call.reply is not None:
        played.reply, played.status = call.reply, call.reply.status
    else:
        try:
            _play(played, call, iter(outcomes), time)
        except errors.CallError as error:
            played.error = error
        finally:
            call.abandon(time())  # nothing stays counted, whatever happened
    return played


def _play(played: PlayedCall, call: Call, steps: Any, clock: FakeClock) -> None:
    while True:
        attempt = call.next_attempt(clock())
        played.sent.append(HeaderMap(attempt.headers))
        outcome = _take_place(attempt, _next_step(steps, attempt), clock)
        delay_s = call.settle(attempt, outcome, clock())
        if delay_s is None and call.error is not None:
            raise call.error
        if delay_s is None:
            played.status = outcome.status
            return
        attempt.close(clock())
        played.delays_s.append(delay_s)
        clock.sleep(delay_s)


def _next_step(steps: Any, attempt: Attempt) -> Step:
    step: Step | None = next(steps, None)
    if step is None:
        raise LookupError(
            f"the call makes try {attempt.number} at {attempt.endpoint}, "
            f"but only {attempt.number - 1} outcomes are scripted"
        )
    return step


def _take_place(attempt: Attempt, step: Step, clock: FakeClock) -> Outcome:
    """Let the time of the try pass, as far as its limits let it."""
    result, seconds = step if isinstance(step, tuple) else (step, 0.0)
    limits = []
    if attempt.response_timeout_s is not None:
        limits.append((attempt.response_timeout_s, ResetReason.PER_TRY_TIMEOUT))
    if attempt.deadline is not None:
        limits.append((max(0.0, attempt.deadline - clock()), ResetReason.ROUTE_TIMEOUT))
    if limits:
        limit_s, reason = min(limits, key=lambda limit: limit[0])
        if limit_s <= seconds:
            clock.advance(limit_s)
            return Outcome(reset=reason)
    clock.advance(seconds)
    return _outcome(result)


def _outcome(result: Result) -> Outcome:
    if isinstance(result, Outcome):
        return result
    if isinstance(result, ResetReason):
        return Outcome(reset=result, sent=result not in CONNECT_FAILURES)
    return Outcome(result, HeaderMap([]))


__all__ = ["PlayedCall", "Result", "Step", "request", "run_call"]
