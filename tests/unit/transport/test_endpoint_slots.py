"""Connections per endpoint: the limit of each, the queue among those who have room."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from meshclient.model.cluster import UNLIMITED, Limits
from meshclient.transport.endpoint_slots import (
    EndpointCounts,
    EndpointSlots,
    counts_for,
    counts_of,
)
from meshclient.transport.interface import Target
from meshclient.transport.slots import ConnectionSlots, slots_for


class AnyPool:
    """What the slots read of a pool."""

    def __init__(self, address: str) -> None:
        self.target = Target(address, 80)


class Request:
    """A waiter that writes down what it was given."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool
        self.given: list[Any] = []

    def grant(self, connection: Any, error: BaseException | None = None) -> bool:
        self.given.append(error or connection)
        return True


def slots_of(
    per_endpoint: int, most: int = UNLIMITED, counts: EndpointCounts | None = None
) -> EndpointSlots:
    limits = Limits(max_connections=most, max_connections_per_endpoint=per_endpoint)
    return EndpointSlots(limits, counts or EndpointCounts())


def queue(slots: ConnectionSlots, *pools: AnyPool) -> list[Request]:
    requests = [Request(pool) for pool in pools]
    for request in requests:
        assert not slots.take(request)
    return requests


def test_each_endpoint_has_its_own_limit() -> None:
    slots, a, b = slots_of(2), AnyPool("a"), AnyPool("b")
    assert [slots.take(Request(a)) for _ in range(3)] == [True, True, False]
    assert [slots.take(Request(b)) for _ in range(3)] == [True, True, False]
    assert (slots.open, slots.waiting) == (4, 2)


def test_a_slot_goes_to_the_first_whose_endpoint_has_room() -> None:
    """With the cluster full, too: an elder who waits for a full endpoint is passed over."""
    slots, a, b = slots_of(1, 2), AnyPool("a"), AnyPool("b")
    assert slots.take(Request(a))
    assert slots.take(Request(b))
    elder, younger = queue(slots, a, b)
    slots.give_back(b)
    assert (elder.given, younger.given) == ([], [None])
    slots.give_back(a)
    assert elder.given == [None]
    assert (slots.open, slots.waiting) == (2, 0)


def test_first_in_first_out_among_those_with_room() -> None:
    slots, a, b, c = slots_of(2, 3), AnyPool("a"), AnyPool("b"), AnyPool("c")
    for pool in (a, b, c):
        assert slots.take(Request(pool))
    first, second, third = queue(slots, b, a, b)
    slots.give_back(c)
    assert (first.given, second.given, third.given) == ([None], [], [])


def test_pools_of_one_endpoint_count_together() -> None:
    """Event loops have pools of their own; each may always have one connection."""
    slots, one, other = slots_of(1), AnyPool("a"), AnyPool("a")
    assert slots.take(Request(one))
    assert slots.take(Request(other))
    assert not slots.take(Request(one))
    assert slots.counts.of(("a", 80)) == 2


def test_priorities_count_together_and_have_limits_of_their_own() -> None:
    counts = EndpointCounts()
    ordinary, high, pool = slots_of(1, counts=counts), slots_of(3, counts=counts), AnyPool("a")
    assert ordinary.take(Request(pool))
    assert [high.take(Request(pool)) for _ in range(3)] == [True, True, False]
    assert not ordinary.take(Request(pool))


def test_spares_respect_the_endpoint() -> None:
    slots, a = slots_of(1), AnyPool("a")
    assert slots.take_spare(a)
    assert not slots.take_spare(a)


def test_endpoints_without_a_connection_are_forgotten() -> None:
    slots, a = slots_of(2), AnyPool("a")
    slots.take(Request(a))
    slots.give_back(a)
    assert slots.counts._counts == {}
    assert slots._numbers == {}


def test_who_gives_up_leaves_nothing() -> None:
    slots, a = slots_of(1), AnyPool("a")
    slots.take(Request(a))
    (waiter,) = queue(slots, a)
    assert slots.withdraw(waiter)
    assert (slots.waiting, slots._numbers) == (0, {})


def test_which_limits_need_counts() -> None:
    assert counts_for(Limits(1, 1), Limits()) is None
    counts = counts_for(Limits(), Limits(max_connections_per_endpoint=1))
    assert counts is not None
    slots = slots_for(Limits(), counts)
    assert counts_of(slots) is counts
    assert counts_of(None) is counts_of(slots_for(Limits(1))) is None
    assert slots is not None
    assert slots.max_per_endpoint == UNLIMITED
    assert slots_of(3, 2).max_per_endpoint == 2


class Endpoints(RuleBasedStateMachine):
    """Nobody waits whom a slot could serve, and no limit is exceeded but for first ones."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = slots_of(2, 4)
        self.pools = [AnyPool(name) for name in "aabc"]
        self.open: list[AnyPool] = []
        self.waiting: list[Request] = []

    @rule(index=st.integers(0, 3))
    def ask(self, index: int) -> None:
        request = Request(self.pools[index])
        if self.slots.take(request):
            self.open.append(request.pool)
        else:
            self.waiting.append(request)

    @precondition(lambda self: self.open)
    @rule(index=st.integers(0, 100))
    def close(self, index: int) -> None:
        self.slots.give_back(self.open.pop(index % len(self.open)))
        for request in [r for r in self.waiting if r.given]:
            self.waiting.remove(request)
            self.open.append(request.pool)

    @precondition(lambda self: self.waiting)
    @rule(index=st.integers(0, 100))
    def give_up(self, index: int) -> None:
        assert self.slots.withdraw(self.waiting.pop(index % len(self.waiting)))

    @invariant()
    def counts_agree(self) -> None:
        assert (self.slots.open, self.slots.waiting) == (len(self.open), len(self.waiting))
        for name in "abc":
            mine = sum(pool.target.address == name for pool in self.open)
            assert self.slots.counts.of((name, 80)) == mine

    @invariant()
    def everybody_who_waits_has_one_to_wait_for(self) -> None:
        assert all(request.pool in self.open for request in self.waiting)

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        for request in self.waiting:
            at_endpoint = self.slots.counts.of((request.pool.target.address, 80))
            assert self.slots.open >= 4 or at_endpoint >= 2


Endpoints.TestCase.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
TestEndpoints = Endpoints.TestCase
