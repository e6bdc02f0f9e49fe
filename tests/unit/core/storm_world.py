"""Services that call each other in a chain, in simulated time: how an outage multiplies.

Every hop is a real plane with real calls; the wire and the servers are a queue of events.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from typing import Any

from meshclient import Mesh, errors
from meshclient.call import Call
from meshclient.model.headers import HeaderMap
from meshclient.model.inbound import Inbound
from meshclient.model.outcome import Outcome
from meshclient.model.request import head_of
from meshclient.model.retry_marks import EXHAUSTED_HEADER

Answer = Callable[[Outcome], None]


class World:
    """Time that jumps from event to event."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.random = random.Random(seed)
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def rand(self) -> int:
        return self.random.getrandbits(64)

    def after(self, seconds: float, work: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.now + seconds, next(self._order), work))

    def run(self) -> None:
        while self._queue:
            self.now, _, work = heapq.heappop(self._queue)
            work()


class Dependency:
    """The bottom: answers 503 from ``fails_at`` on, and counts what it gets in the outage."""

    def __init__(self, world: World, fails_at: float, latency_s: float = 0.01) -> None:
        self.world = world
        self.fails_at = fails_at
        self.latency_s = latency_s
        self.load = 0

    def serve(self, answer: Answer) -> None:
        failing = self.world.now >= self.fails_at
        self.load += failing
        status = 503 if failing else 200
        self.world.after(self.latency_s, lambda: answer(Outcome(status, HeaderMap([]))))


class Service:
    """A hop: answers a request with what its one call to ``below`` came to."""

    def __init__(
        self, world: World, below: Service | Dependency, retries: Any, middleware: bool
    ) -> None:
        self.world = world
        self.below = below
        self.middleware = middleware
        service = {"endpoints": ["10.0.0.1:80", "10.0.0.2:80"], "retries": retries}
        self.mesh = Mesh.from_documents([{"version": 1, "services": {"below": service}}])

    def serve(self, answer: Answer) -> None:
        inbound = Inbound() if self.middleware else None
        head = head_of("GET", "http://below/", None)
        plane = self.mesh._publisher.plane
        call = Call(plane, head, self.world.now, self.world.rand, inbound=inbound)
        self._try(call, answer)

    def _try(self, call: Call, answer: Answer) -> None:
        try:
            attempt = call.next_attempt(self.world.now)
        except errors.CallError:
            self._respond(call, 503, answer)
            return

        def answered(outcome: Outcome) -> None:
            delay_s = call.settle(attempt, outcome, self.world.now)
            attempt.close(self.world.now)
            if delay_s is None:
                self._respond(call, outcome.status, answer)
            else:
                self.world.after(delay_s, lambda: self._try(call, answer))

        self.below.serve(answered)

    def _respond(self, call: Call, status: int, answer: Answer) -> None:
        in_vain = call.inbound is not None and call.inbound.marks.exhausted and status >= 400
        headers = [(EXHAUSTED_HEADER, "true")] if in_vain else []
        answer(Outcome(status, HeaderMap.of(headers)))


def amplification(
    retries: Any,
    *,
    middleware: bool,
    per_second: float = 100.0,
    healthy_s: float = 10.0,
    outage_s: float = 30.0,
    hops: int = 3,
    seed: int = 1,
) -> float:
    """Requests that reach the failing bottom per request of a user, over an outage."""
    world = World(seed)
    bottom = Dependency(world, healthy_s)
    services: list[Service] = []
    for _ in range(hops):
        below = services[-1] if services else bottom
        services.append(Service(world, below, retries, middleware))
    users = 0

    def user() -> None:
        nonlocal users
        if world.now >= healthy_s + outage_s:
            return
        users += world.now >= healthy_s
        services[-1].serve(lambda _outcome: None)
        world.after(world.random.expovariate(per_second), user)

    user()
    world.run()
    for service in services:
        service.mesh.close()
    return bottom.load / users


__all__ = ["amplification"]
