"""The two loops of the decorator for calls that may have several tries at once.

A blocking function that lost goes on, on a helper thread, and what it returns is dropped:
nothing can interrupt it. An async one is cancelled. No policy in here, and no wire.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from meshclient.clients.any_loop import Expired, bounded
from meshclient.clients.race_async import OneByOne as AsyncOneByOne
from meshclient.clients.race_async import race_here
from meshclient.clients.race_sync import OneByOne, Run, ThreadRace
from meshclient.errors import CallError
from meshclient.model.outcome import Outcome, ResetReason

if TYPE_CHECKING:
    from meshclient.attempt import Attempt
    from meshclient.call import Call
    from meshclient.clients.function_outcome import Classifier
    from meshclient.clients.runtime import Runtime
    from meshclient.hedge import Hedge

#: How a function ended: its result, or its exception, and what that says of the service.
Ended = tuple[Any, Exception | None, Outcome | None]


class Function:
    """A function with its arguments, ready to be run once per try.

    ``given`` makes the keyword arguments of a try, ``limit`` the seconds that an async one may
    take and what it means when it takes longer.
    """

    __slots__ = ("_args", "_classifier", "_function", "_given", "_limit")

    def __init__(
        self,
        function: Callable[..., Any],
        args: Any,
        given: Callable[[Attempt], Any],
        classifier: Classifier,
        limit: Callable[[Attempt], tuple[float | None, ResetReason]],
    ) -> None:
        self._function = function
        self._args = args
        self._given = given
        self._classifier = classifier
        self._limit = limit

    def blocking(self, attempt: Attempt) -> Callable[[], Ended]:
        """One try, for any thread, in a copy of the caller's context."""
        context = contextvars.copy_context()
        given = self._given(attempt)

        def run() -> Ended:
            try:
                result = context.run(self._function, *self._args, **given)
                return result, None, self._classifier.of_result(result)
            except Exception as raised:
                return None, raised, self._classifier.of_error(raised)

        return run

    def waiting(self, attempt: Attempt) -> Callable[[], Any]:
        """One try, for any task."""
        given = self._given(attempt)

        async def run() -> Ended:
            limit_s, reason = self._limit(attempt)
            try:
                result = await bounded(self._function(*self._args, **given), limit_s)
                return result, None, self._classifier.of_result(result)
            except Expired as expired:
                return None, expired, Outcome(reset=reason, error=expired)
            except Exception as raised:
                return None, raised, self._classifier.of_error(raised)

        return run


def drive(
    runtime: Runtime, call: Call, function: Function, sleep: Callable[[float], object]
) -> tuple[Any, Exception | None]:
    """The function's last word. Raises what refuses the call."""
    hedge, clock = call.hedge, runtime.clock
    assert hedge is not None
    if hedge.armed and not runtime.helpers.has_room():
        hedge.disarm("no helper thread is free")
    race = ThreadRace(runtime.helpers, id) if hedge.armed else OneByOne(sleep)
    error: Exception | None = None
    further: Attempt | None = hedge.begin(clock())
    try:
        while True:
            if further is not None and not race.start(further, Run(function.blocking(further))):
                hedge.forget(further, clock())
            ended = race.next(hedge.wake_at() - clock())
            if ended is not None:
                result, error = _result(ended[1], ended[2])
                if _is_last(hedge, ended[0], ended[1][2], clock()):
                    return result, error
            further = _due(hedge, clock(), race.room(), error)
    finally:
        hedge.end(clock())
        race.stop()


async def drive_async(
    runtime: Runtime, call: Call, function: Function, sleep: Callable[[float], Any]
) -> tuple[Any, Exception | None]:
    """:func:`drive` for an async function."""
    hedge, clock = call.hedge, runtime.clock
    assert hedge is not None
    error: Exception | None = None
    further: Attempt | None = hedge.begin(clock())
    try:
        async with race_here(id) if hedge.armed else AsyncOneByOne(sleep) as race:
            while True:
                if further is not None:
                    race.start(further, function.waiting(further))
                ended = await race.next(hedge.wake_at() - clock())
                if ended is not None:
                    result, error = _result(ended[1], ended[2])
                    if _is_last(hedge, ended[0], ended[1][2], clock()):
                        return result, error
                further = _due(hedge, clock(), True, error)
    finally:
        hedge.end(clock())


def _due(hedge: Hedge, now: float, room: bool, error: Exception | None) -> Attempt | None:
    try:
        return hedge.due(now, room)
    except CallError as refused:
        # What the function last raised is why there was another try at all.
        raise refused from error


def _result(ended: Ended, raised: BaseException | None) -> tuple[Any, Exception | None]:
    if raised is not None:  # nothing that a function may end with: an exit, an interrupt
        raise raised
    return ended[0], ended[1]


def _is_last(hedge: Hedge, attempt: Attempt, outcome: Outcome | None, now: float) -> bool:
    if outcome is None:
        hedge.disregard(attempt, now)
        return True
    if not hedge.settle(attempt, outcome, now):
        return False
    attempt.close(now)
    return True


__all__ = ["Function", "drive", "drive_async"]
