"""The loop of the blocking driver for calls that may have several tries at once, or copies.

Ordinary calls never come here. One loop, as in :mod:`meshclient.clients.httpx_sync`: ask the
call, run what it says, tell the call. It holds no policy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshclient.clients import http_common as common
from meshclient.clients.hedged import can_repeat_at_once, outcome_of
from meshclient.clients.race_sync import OneByOne, Run, ThreadRace
from meshclient.transport.abort import Abort, AbortableRequest

if TYPE_CHECKING:
    from meshclient.attempt import Attempt
    from meshclient.call import Call
    from meshclient.clients.httpx_sync import MeshTransport
    from meshclient.hedge import Hedge
    from meshclient.transport.interface import SyncWireResponse


def run_hedged(
    driver: MeshTransport, call: Call, request: Any, body: Any, timeouts: Any, now: float
) -> tuple[Attempt, SyncWireResponse]:
    """As ``MeshTransport._run``: the answer, or raises ``call.error``."""
    hedge = call.hedge
    assert hedge is not None
    race = _race(driver, hedge, body)
    work = _Work(driver, call, request, body, timeouts)
    try:
        attempt = hedge.begin(now)
        copies = driver._runtime.copies(hedge)
        if copies is not None:
            copies.start_sync(driver, call, request, body)
        race.start(attempt, work.of(attempt))
        answer = _first_good(driver, hedge, race, work)
        if copies is not None:
            copies.answered(answer[1])
        return answer
    finally:
        hedge.end(driver._runtime.clock())
        race.stop()


def _race(driver: MeshTransport, hedge: Hedge, body: Any) -> ThreadRace | OneByOne:
    helpers = driver._runtime.helpers
    if hedge.armed and not can_repeat_at_once(body):
        hedge.disarm("the body is a stream, which is sent by one try at a time")
    elif hedge.armed and not helpers.has_room():
        hedge.disarm("no helper thread is free")
    return ThreadRace(helpers, _close) if hedge.armed else OneByOne(driver._sleep)


def _first_good(
    driver: MeshTransport, hedge: Hedge, race: ThreadRace | OneByOne, work: _Work
) -> tuple[Attempt, SyncWireResponse]:
    call, clock = hedge.call, driver._runtime.clock
    while True:
        ended = race.next(hedge.wake_at() - clock())
        if ended is not None:
            attempt, wire, error = ended
            try:
                outcome = outcome_of(call, attempt, wire, error, clock())
                over = hedge.settle(attempt, outcome, clock())
            except BaseException:
                _close(wire)
                raise
            if over and wire is not None and call.error is None:
                return attempt, wire
            _close(wire)
            attempt.close(clock())
            if over:
                assert call.error is not None
                raise call.error
        further = hedge.due(clock(), race.room())
        if further is not None and not race.start(further, work.of(further)):
            hedge.forget(further, clock())


class _Work:
    """What every try of a call does."""

    __slots__ = ("_body", "_call", "_driver", "_request", "_timeouts")

    def __init__(
        self, driver: MeshTransport, call: Call, request: Any, body: Any, timeouts: Any
    ) -> None:
        self._driver = driver
        self._call = call
        self._request = request
        self._body = body
        self._timeouts = timeouts

    def of(self, attempt: Attempt) -> Run:
        """Raises what refuses the try before it begins."""
        target = self._driver._targets.of(self._call, attempt, self._request)
        wire = common.wire_request(self._call, attempt, self._body, self._timeouts)
        abort = Abort()
        request = AbortableRequest(wire, abort)
        return Run(lambda: self._driver._engine.send(target, request), abort.abort)


def _close(wire: SyncWireResponse | None) -> None:
    if wire is not None:
        wire.close()


__all__ = ["run_hedged"]
