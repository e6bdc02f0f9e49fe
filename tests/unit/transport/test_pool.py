"""The bookkeeping of connections, with a clock of its own."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshclient.model.cluster import ConnectionOptions
from meshclient.transport.interface import Target
from meshclient.transport.pool import Pool


class Connection:
    def __init__(self, name: str = "") -> None:
        self.name = name
        self.requests = 1
        self.retire_at = math.inf
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def pool_of(max_idle: int = 10, **options: object) -> Pool[Connection]:
    target = Target("10.0.0.1", 80, None, ConnectionOptions(**options))  # type: ignore[arg-type]
    return Pool(target, Connection.close, max_idle)


def filled(pool: Pool[Connection], *names: str, now: float = 0.0) -> list[Connection]:
    connections = [Connection(name) for name in names]
    for connection in connections:
        pool.add(connection, now)
    for at, connection in enumerate(connections):
        pool.release(connection, now + at)
    return connections


def test_the_last_one_in_is_the_first_one_out() -> None:
    pool = pool_of()
    _a, b, c = filled(pool, "a", "b", "c")
    assert pool.acquire(5.0) is c
    assert pool.acquire(5.0) is b
    assert repr(pool.stats()) == "<PoolStats idle=1 active=2 opened=3 reused=2>"


def test_idle_too_long_is_closed_instead_of_used() -> None:
    pool = pool_of(idle_timeout_s=10.0)
    a, b = filled(pool, "a", "b")
    assert pool.acquire(10.9) is b
    assert pool.acquire(10.9) is None
    assert (a.closed, b.closed) == (1, 0)
    assert repr(pool.stats()) == "<PoolStats idle=0 active=1 opened=2 reused=1>"


def test_expire_closes_what_is_over_and_due_says_when() -> None:
    pool = pool_of(idle_timeout_s=10.0, max_duration_s=30.0)
    a, b = filled(pool, "a", "b")
    assert pool.due() == 10.0
    pool.expire(10.0)
    assert (a.closed, b.closed) == (1, 0)
    assert pool.due() == 11.0
    pool.expire(11.0)
    assert b.closed == 1
    assert pool.due() == math.inf


def test_max_age_ends_a_connection_between_two_requests_only() -> None:
    pool = pool_of(max_duration_s=30.0)
    (a,) = filled(pool, "a")
    assert pool.acquire(29.0) is a
    assert a.closed == 0, "in flight while its time runs out"
    assert not pool.release(a, 31.0)
    assert a.closed == 1
    (b,) = filled(pool, "b", now=40.0)
    assert pool.acquire(70.0) is None
    assert b.closed == 1


def test_max_requests() -> None:
    pool = pool_of(max_requests=2)
    (a,) = filled(pool, "a")
    assert pool.acquire(1.0) is a
    a.requests = 2
    assert not pool.release(a, 2.0)
    assert a.closed == 1


def test_drain_closes_idle_at_once_and_busy_on_release() -> None:
    pool = pool_of()
    a, b = filled(pool, "a", "b")
    assert pool.acquire(2.0) is b
    pool.drain()
    assert (a.closed, b.closed) == (1, 0)
    assert not pool.release(b, 3.0)
    assert b.closed == 1
    assert repr(pool.stats()) == "<PoolStats idle=0 active=0 opened=2 reused=1>"


def test_idle_connections_are_limited() -> None:
    pool = pool_of(max_idle=2)
    *_, c = filled(pool, "a", "b", "c")
    assert c.closed == 1
    assert len(pool.idle) == 2


def test_discard_is_idempotent() -> None:
    pool = pool_of()
    (a,) = filled(pool, "a")
    pool.discard(a)
    pool.discard(a)
    assert pool.acquire(1.0) is None
    assert a.closed == 0


@given(
    st.lists(st.tuples(st.sampled_from("arxe"), st.floats(0, 5)), max_size=60),
    st.integers(0, 4),
)
def test_counts_always_add_up(steps: list[tuple[str, float]], max_idle: int) -> None:
    """acquire, release, discard and expire in any order leak nothing and close once."""
    pool = pool_of(max_idle, idle_timeout_s=7.0, max_duration_s=20.0)
    now, held, everything = 0.0, [], []
    for step, wait in steps:
        now += wait
        if step == "a":
            connection = pool.acquire(now)
            if connection is None:
                connection = Connection()
                everything.append(connection)
                pool.add(connection, now)
            assert now < connection.retire_at
            held.append(connection)
        elif step == "e":
            pool.expire(now)
        elif held:
            connection = held.pop()
            if step == "r":
                pool.release(connection, now)
            else:
                pool.discard(connection)
                connection.close()
        stats = pool.stats()
        assert stats.active == len(held)
        assert stats.idle <= max_idle
        assert stats.opened == len(everything)
        assert all(c.closed <= 1 for c in everything)
        assert sum(1 - c.closed for c in everything) == stats.idle + stats.active


@pytest.mark.parametrize(
    "other",
    [
        Target("10.0.0.2", 80),
        Target("10.0.0.1", 81),
        Target("10.0.0.1", 80, None, ConnectionOptions(max_requests=1)),
    ],
)
def test_targets_differ_in_every_part(other: Target) -> None:
    assert Target("10.0.0.1", 80) != other
    assert {Target("10.0.0.1", 80): 1}[Target("10.0.0.1", 80)] == 1


def test_targets_print_as_addresses() -> None:
    assert repr(Target("::1", 80)) == "<Target [::1]:80>"
    assert str(Target("unix:///run/x.sock", 0)) == "unix:///run/x.sock"
    assert Target("unix:///run/x.sock", 0).unix_path == "/run/x.sock"


def test_losses_are_told_unless_the_pool_drains() -> None:
    pool = pool_of(max_idle=5)
    told: list[object] = []
    pool.on_loss = told.append
    a, b, _c = filled(pool, "a", "b", "c")
    pool.discard(a)
    pool.discard(a)
    assert told == [pool]
    pool.acquire(5.0)
    pool.drain()
    pool.discard(b)
    assert told == [pool]


def test_only_pools_that_want_it_have_spares() -> None:
    assert pool_of().spares is None
    assert pool_of(warm_up=1).spares is not None
    assert pool_of(preconnect_ratio=1.1).spares is not None
