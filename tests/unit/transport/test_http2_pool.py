"""The pool of multiplexed connections: which one takes a stream, which one has to go."""

from __future__ import annotations

import pytest

from meshclient.model.cluster import ConnectionOptions, Limits
from meshclient.transport.http2_pool import FIRST_GUESS, MultiplexPool
from meshclient.transport.interface import Target
from meshclient.transport.slots import slots_for


class Fake:
    """A connection of ``size`` streams."""

    def __init__(self, size: int = 2) -> None:
        self.size = size
        self.requests = 0
        self.streams = 0
        self.retire_at = 0.0
        self.aborted = 0

    def active(self) -> int:
        return self.streams

    def room(self) -> int:
        return self.size - self.streams

    def abort(self) -> None:
        self.aborted += 1

    def take(self) -> None:
        self.streams += 1
        self.requests += 1


def make(limits: Limits | None = None, **options: object) -> MultiplexPool[Fake]:
    connections = None if limits is None else slots_for(limits)
    target = Target("a", 1, None, ConnectionOptions(**options), connections=connections)  # type: ignore[arg-type]
    return MultiplexPool(target)


def put(pool: MultiplexPool[Fake], connection: Fake, now: float = 0.0) -> Fake:
    pool.add(connection, now)
    pool.changed(connection, now)
    return connection


def test_streams_fill_one_connection_before_the_next() -> None:
    pool = make()
    first, second = put(pool, Fake()), put(pool, Fake())
    taken = []
    for _ in range(5):
        connection = pool.acquire(0.0)
        taken.append(connection)
        if connection is not None:
            connection.take()
    assert taken == [first, first, second, second, None]
    assert repr(pool.stats()) == "<PoolStats idle=0 active=2 opened=2 reused=2>"
    first.streams = 1
    pool.changed(first, 0.0)
    assert pool.acquire(0.0) is first


def test_the_guess_follows_what_the_last_connection_had_room_for() -> None:
    pool = make()
    assert pool.guess == FIRST_GUESS
    put(pool, Fake(7))
    assert pool.guess == 7


@pytest.mark.parametrize("options", [{"max_requests": 1}, {"max_duration_s": 10.0}])
def test_an_old_connection_finishes_its_streams_and_is_closed(options: dict[str, float]) -> None:
    pool = make(**options)
    connection = put(pool, Fake())
    connection.take()
    assert pool.acquire(20.0) is None
    assert (connection.aborted, connection in pool.connections) == (0, True)
    connection.streams = 0
    pool.changed(connection, 20.0)
    assert (connection.aborted, pool.connections) == (1, set())


def test_drain_closes_what_is_idle_and_the_rest_when_it_is() -> None:
    pool = make()
    busy, idle = put(pool, Fake()), put(pool, Fake())
    busy.take()
    pool.drain()
    assert (idle.aborted, busy.aborted) == (1, 0)
    assert pool.acquire(0.0) is None
    busy.streams = 0
    pool.changed(busy, 0.0)
    assert busy.aborted == 1


def test_a_closed_connection_gives_its_slot_back_once() -> None:
    pool = make(Limits(max_connections=1))
    slots = pool.slots
    assert slots is not None

    class Waiter:
        def __init__(self) -> None:
            self.pool = pool
            self.granted: list[object] = []

        def grant(self, connection: object, error: BaseException | None = None) -> bool:
            self.granted.append(connection)
            return True

    assert slots.take(Waiter())
    connection = put(pool, Fake())
    second, third = Waiter(), Waiter()
    assert not slots.take(second)
    assert not slots.take(third)
    pool.changed(connection, 0.0)
    assert (second.granted, third.granted) == ([connection], [connection])  # room for two
    pool.discard(connection)
    pool.discard(connection)
    pool.changed(connection, 0.0)
    assert (slots.open, pool.ready) == (0, {})
