"""Who gets a connection of a limited cluster, and when: no threads, no loops."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from meshclient.model.cluster import ConnectionOptions, Limits
from meshclient.transport.interface import Target
from meshclient.transport.pool import Pool
from meshclient.transport.slots import ConnectionSlots, PoolMoved, slots_for


class Request:
    """A waiter that writes down what it was given."""

    def __init__(self, pool: Any, gone: bool = False) -> None:
        self.pool = pool
        self.gone = gone
        self.given: list[Any] = []

    def grant(self, connection: Any, error: BaseException | None = None) -> bool:
        if not self.gone:
            self.given.append(error or connection)
        return not self.gone


def slots_of(max_connections: int = 2, max_pending: int = 1000) -> ConnectionSlots:
    return ConnectionSlots(Limits(max_connections, max_pending))


def queue(slots: ConnectionSlots, *pools: Any) -> list[Request]:
    requests = [Request(pool) for pool in pools]
    for request in requests:
        assert not slots.take(request)
    return requests


def test_no_limit_no_bookkeeping() -> None:
    assert slots_for(Limits()) is None
    assert slots_for(Limits(max_requests=1)) is None
    assert slots_for(Limits(max_connections=1)) is not None
    assert slots_for(Limits(max_pending_requests=1)) is not None


def test_slots_end_at_the_limit_and_pass_on_first_in_first_out() -> None:
    slots = slots_of(2)
    assert slots.take(Request("a"))
    assert slots.take(Request("a"))
    one, two, three = queue(slots, "a", "a", "a")
    slots.give_back("a")
    assert (one.given, two.given, three.given) == ([None], [], [])
    slots.give_back("a")
    assert (two.given, three.given) == ([None], [])
    assert (slots.open, slots.waiting) == (2, 1)


def test_a_spare_takes_only_what_nobody_wants() -> None:
    """Not above the limit, not even as the first of its pool, and not past a queue."""
    slots = slots_of(2)
    assert slots.take_spare("a")
    assert slots.take_spare("a")
    assert not slots.take_spare("a")
    assert not slots.take_spare("b")
    (waiter,) = queue(slots, "a")
    slots.give_back("a")
    assert waiter.given == [None]
    assert not slots.take_spare("a")
    slots.give_back("a")
    slots.give_back("a")
    assert (slots.open, slots.waiting) == (0, 0)


def test_a_pool_without_a_connection_may_always_open_one() -> None:
    slots = slots_of(1)
    assert slots.take(Request("a"))
    assert slots.take(Request("b"))
    assert not slots.take(Request("b"))
    assert slots.open == 2


def test_above_the_limit_a_slot_is_not_passed_on_to_another_pool() -> None:
    slots = slots_of(1)
    assert slots.take(Request("a"))
    assert slots.take(Request("b"))
    (waiting,) = queue(slots, "a")
    slots.give_back("b")
    assert waiting.given == []
    assert slots.open == 1
    slots.give_back("a")
    assert waiting.given == [None]


def test_a_pool_that_lost_its_last_connection_serves_its_own_first() -> None:
    """Nobody else could wake it."""
    slots = slots_of(2)
    assert slots.take(Request("a"))
    assert slots.take(Request("b"))
    elder, own = queue(slots, "a", "b")
    slots.give_back("b")
    assert (elder.given, own.given) == ([], [None])


def test_a_free_connection_goes_to_the_first_of_its_own_pool() -> None:
    slots = slots_of(2)
    slots.take(Request("a"))
    slots.take(Request("b"))
    first, of_b, last = queue(slots, "a", "b", "a")
    assert slots.offer("b", "connection")
    assert of_b.given == ["connection"]
    assert not slots.offer("b", "connection")
    assert slots.offer("a", "another")
    assert (first.given, last.given) == (["another"], [])


def test_pending_counts_all_without_a_connection() -> None:
    slots = slots_of(max_connections=10, max_pending=2)
    assert slots.enter()
    assert slots.enter()
    assert not slots.enter()
    slots.leave()
    assert slots.enter()


def test_who_withdraws_is_passed_over_and_who_was_served_cannot() -> None:
    slots = slots_of(1)
    slots.take(Request("a"))
    one, two = queue(slots, "a", "a")
    assert slots.withdraw(one)
    slots.give_back("a")
    assert (one.given, two.given) == ([], [None])
    assert not slots.withdraw(two)
    assert not slots.withdraw(one)


def test_the_slot_of_a_waiter_whose_loop_is_gone_goes_to_the_next() -> None:
    slots = slots_of(1)
    slots.take(Request("a"))
    dead = Request("a", gone=True)
    assert not slots.take(dead)
    (alive,) = queue(slots, "a")
    slots.give_back("a")
    assert alive.given == [None]
    assert slots.open == 1
    slots.give_back("a")
    assert slots.open == 0


def test_refusing_a_pool_fails_all_its_waiters_with_errors_of_their_own() -> None:
    slots = slots_of(1)
    slots.take(Request("a"))
    slots.take(Request("b"))
    one, other, two = queue(slots, "a", "b", "a")
    slots.refuse("a", lambda: OSError("refused"))
    assert [str(error) for error in (*one.given, *two.given)] == ["refused", "refused"]
    assert one.given[0] is not two.given[0]
    assert other.given == []
    assert slots.waiting == 1


def test_a_connection_that_changes_pools_takes_its_slot_along() -> None:
    """ALPN chose another protocol: those who wait for the old pool have to look again."""
    slots = slots_of(1)
    slots.take(Request("h2"))
    (waiting,) = queue(slots, "h2")
    slots.move("h2", "h1")
    assert isinstance(waiting.given[0], PoolMoved)
    assert (slots.open, slots.waiting) == (1, 0)
    slots.give_back("h1")
    assert slots.open == 0


class Connection:
    def __init__(self, pool: Pool[Connection]) -> None:
        self.pool = pool
        self.retire_at = 0.0
        self.requests = 1
        self.open = True

    def close(self) -> None:
        self.open = False
        self.pool.discard(self)


class LimitedCluster(RuleBasedStateMachine):
    """Requests come, end, give up and fail in any order over three endpoints."""

    maximum = 3

    def __init__(self) -> None:
        super().__init__()
        self.slots = slots_of(self.maximum)
        options = ConnectionOptions()
        self.pools: list[Pool[Connection]] = [
            Pool(Target(f"10.0.0.{n}", 80, None, options, connections=self.slots), Connection.close)
            for n in range(3)
        ]
        self.waiting: list[Request] = []
        self.busy: list[Connection] = []

    def serve(self) -> None:
        """What the engine does for those who were granted something."""
        for request in [request for request in self.waiting if request.given]:
            self.waiting.remove(request)
            self.begin(request.pool, request.given[0])

    def begin(self, pool: Pool[Connection], connection: Connection | None) -> None:
        if connection is None:
            connection = Connection(pool)
            pool.add(connection, 0.0)
        self.busy.append(connection)

    @rule(index=st.integers(0, 2))
    def arrive(self, index: int) -> None:
        pool = self.pools[index]
        free = pool.acquire(0.0)
        request = Request(pool)
        if free is not None or self.slots.take(request):
            self.begin(pool, free)
        else:
            self.waiting.append(request)

    @precondition(lambda self: self.busy)
    @rule(data=st.data(), kept=st.booleans())
    def end(self, data: st.DataObject, kept: bool) -> None:
        connection = self.busy.pop(data.draw(st.integers(0, len(self.busy) - 1)))
        ahead = [request for request in self.waiting if request.pool is connection.pool]
        if kept:
            connection.pool.release(connection, 0.0)
            if ahead:
                assert ahead[0].given == [connection], "first in, first out"
        else:
            connection.close()
        self.serve()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        request = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        assert self.slots.withdraw(request)

    @invariant()
    def counts_agree(self) -> None:
        opened = sum(len(pool.connections) for pool in self.pools)
        assert self.slots.open == opened
        assert self.slots.waiting == len(self.waiting)
        assert opened <= self.maximum + len(self.pools) - 1
        if len([pool for pool in self.pools if pool.connections]) == 1:
            assert opened <= max(self.maximum, 1)

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        for request in self.waiting:
            assert request.pool.connections, "somebody has to wake it"
            assert not request.pool.idle, "a free connection, and it waits"

    def teardown(self) -> None:
        while self.busy:
            connection = self.busy.pop()
            connection.pool.release(connection, 0.0)
            self.serve()
        assert not self.waiting, "starved"
        for pool in self.pools:
            pool.drain()
        assert self.slots.open == 0


LimitedCluster.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_limited_cluster = LimitedCluster.TestCase


@pytest.mark.parametrize(("chance", "retires"), [(0.0, 100.0), (0.5, 95.0), (1.0, 90.0)])
def test_most_age_less_up_to_a_tenth(chance: float, retires: float) -> None:
    target = Target("10.0.0.1", 80, None, ConnectionOptions(max_duration_s=100.0))
    pool: Pool[Connection] = Pool(target, Connection.close, jitter=lambda: chance)
    connection = Connection(pool)
    pool.add(connection, 0.0)
    assert connection.retire_at == pytest.approx(retires)
