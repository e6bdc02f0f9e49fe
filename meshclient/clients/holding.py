"""What a driver does while filters hold a call: wait, or carry their question.

One loop per colour, the same for every client library; what holds a call is not known here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshclient.call import Call
    from meshclient.clients.runtime import Runtime


def wait_out(runtime: Runtime, call: Call, sleep: Callable[[float], object], now: float) -> float:
    """Hold ``call`` as long as its filters want, and no longer than the caller does.

    The time when it was let go. Raises :class:`~meshclient.errors.ClosedError` once the mesh
    is closed; whatever is raised, nothing stays counted.
    """
    try:
        while call.hold is not None:
            answer = None
            if call.hold.ask is None:
                sleep(_left(call, call.hold.wait_s, now))
            else:
                answer = runtime.ask(call)
            runtime.current()  # raises once the mesh is closed
            now = runtime.clock()
            call.resume(now, answer)
    except BaseException:
        call.abandon(runtime.clock())
        raise
    return now


async def wait_out_async(
    runtime: Runtime, call: Call, sleep: Callable[[float], Awaitable[object]], now: float
) -> float:
    """:func:`wait_out` for any event loop."""
    try:
        while call.hold is not None:
            answer = None
            if call.hold.ask is None:
                await sleep(_left(call, call.hold.wait_s, now))
            else:
                answer = await runtime.ask_async(call)
            runtime.current()  # raises once the mesh is closed
            now = runtime.clock()
            call.resume(now, answer)
    except BaseException:
        call.abandon(runtime.clock())
        raise
    return now


def _left(call: Call, wait_s: float, now: float) -> float:
    """``wait_s``, or what is left until the caller gives up."""
    return wait_s if call.give_up_at is None else min(wait_s, max(0.0, call.give_up_at - now))


__all__ = ["wait_out", "wait_out_async"]
