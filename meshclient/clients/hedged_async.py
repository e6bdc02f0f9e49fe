"""The loop of the async driver for calls that may have several tries at once, or copies.

Ordinary calls never come here. One loop, as in :mod:`meshclient.clients.httpx_async`: ask the
call, run what it says, tell the call. It holds no policy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshclient.clients import http_common as common
from meshclient.clients.hedged import can_repeat_at_once, outcome_of
from meshclient.clients.race_async import AsyncRace, OneByOne, race_here

if TYPE_CHECKING:
    from meshclient.attempt import Attempt
    from meshclient.call import Call
    from meshclient.clients.httpx_async import AsyncMeshTransport
    from meshclient.hedge import Hedge
    from meshclient.transport.interface import AsyncWireResponse


async def run_hedged(
    driver: AsyncMeshTransport, call: Call, request: Any, body: Any, timeouts: Any, now: float
) -> tuple[Attempt, AsyncWireResponse]:
    """As ``AsyncMeshTransport._run``: the answer, or raises ``call.error``."""
    hedge = call.hedge
    assert hedge is not None
    if hedge.armed and not can_repeat_at_once(body):
        hedge.disarm("the body is a stream, which is sent by one try at a time")
    race = race_here(_drop) if hedge.armed else OneByOne(driver._sleep)
    work = _Work(driver, call, request, body, timeouts)
    answer: tuple[Attempt, AsyncWireResponse] | None = None
    try:
        async with race:
            attempt = hedge.begin(now)
            race.start(attempt, work.of(attempt))
            copies = driver._runtime.copies(hedge)
            if copies is not None:
                copies.start_async(driver, call, request, body)
            answer = await _first_good(driver, hedge, race, work)
            if copies is not None:
                copies.answered(answer[1])
        return answer
    except BaseException:
        if answer is not None:
            answer[1].drop()  # cancelled while the losers were called off
        raise
    finally:
        hedge.end(driver._runtime.clock())


async def _first_good(
    driver: AsyncMeshTransport, hedge: Hedge, race: AsyncRace, work: _Work
) -> tuple[Attempt, AsyncWireResponse]:
    call, clock = hedge.call, driver._runtime.clock
    while True:
        ended = await race.next(hedge.wake_at() - clock())
        if ended is not None:
            attempt, wire, error = ended
            try:
                outcome = outcome_of(call, attempt, wire, error, clock())
                over = hedge.settle(attempt, outcome, clock())
            except BaseException:
                await _close(wire)
                raise
            if over and wire is not None and call.error is None:
                return attempt, wire
            await _close(wire)
            attempt.close(clock())
            if over:
                assert call.error is not None
                raise call.error
        further = hedge.due(clock())
        if further is not None:
            race.start(further, work.of(further))


class _Work:
    """What every try of a call does."""

    __slots__ = ("_body", "_call", "_driver", "_request", "_timeouts")

    def __init__(
        self, driver: AsyncMeshTransport, call: Call, request: Any, body: Any, timeouts: Any
    ) -> None:
        self._driver = driver
        self._call = call
        self._request = request
        self._body = body
        self._timeouts = timeouts

    def of(self, attempt: Attempt) -> Any:
        """Raises what refuses the try before it begins."""
        target = self._driver._targets.of(self._call, attempt, self._request)
        wire = common.wire_request(self._call, attempt, self._body, self._timeouts)
        return lambda: self._driver._engine.send(target, wire)


async def _close(wire: AsyncWireResponse | None) -> None:
    if wire is not None:
        await wire.aclose()


def _drop(wire: AsyncWireResponse) -> None:
    wire.drop()


__all__ = ["run_hedged"]
