"""Shared breakers and a scripted storage: what is exchanged, when, and how it fails."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import pybreaker
import pytest
from core_support import cluster, plane_of, to

from meshclient.model.breaker import CircuitBreaker, SharedStorage
from meshclient.model.cluster import ClusterPolicy
from meshclient.model.events import BreakerStorageFailed, BreakerStorageRecovered
from meshclient.model.outcome import Outcome, OutcomeKind
from meshclient.shared_breakers import MAX_PAUSE_S, SharedBreakers

SHARED = SharedStorage("redis://:geheim@nowhere/0", "shop", poll_s=1.0)


class Storage(pybreaker.CircuitMemoryStorage):
    """What Redis holds, for several breakers at a time."""

    down = False

    def __init__(self):
        super().__init__(pybreaker.STATE_CLOSED)
        self.stored = 0

    def __getattribute__(self, name):
        if name in ("state", "counter", "opened_at") and type(self).down:
            raise ConnectionError("redis://:geheim@nowhere/0 is gone")
        return super().__getattribute__(name)


@pytest.fixture(autouse=True)
def up():
    Storage.down = False
    yield
    Storage.down = False


class Host:
    """One process: a plane with one shared breaker, and its own monotonic clock."""

    def __init__(self, storage, ahead=0.0, **settings):
        settings = {"consecutive_failures": 3, "open_for_s": 30.0, **settings}
        breaker = CircuitBreaker(shared=SHARED, **settings)
        self.plane = plane_of(to(), cluster(policy=ClusterPolicy(circuit_breaker=breaker)))
        self.breaker = self.plane.clusters["a"].breaker
        self.ahead = ahead
        self.events = []
        self.opened = []
        self.job = SharedBreakers(
            lambda: self.plane,
            lambda: self.now,
            lambda: 1_700_000_000.0 + World.now,
            self.events.append,
            lambda url, namespace, name, timeout_s: self._open(storage, name),
        )

    def _open(self, storage, name):
        self.opened.append(name)
        if type(storage).down:
            raise ConnectionError("redis://:geheim@nowhere/0 refused")
        return storage

    @property
    def now(self):
        return World.now + self.ahead

    def call(self, status=200):
        generation = self.breaker.admit(self.now)
        if generation < 0:
            return "refused"
        kind = OutcomeKind.SUCCESS if status < 500 else OutcomeKind.FAILED
        self.breaker.record(generation, kind, Outcome(status), 0.01, self.now)
        return status


class World:
    now = 0.0


@pytest.fixture
def pair():
    """Two hosts whose monotonic clocks have nothing in common."""
    World.now = 100.0
    storage = Storage()
    hosts = Host(storage), Host(storage, ahead=5000.0)
    for host in hosts:
        host.job.work()
    return hosts


def exchange(*hosts):
    World.now += 1.0
    for host in hosts:
        host.job.work()


def test_failures_in_a_row_add_up(pair):
    one, two = pair
    one.call(503)
    two.call(503)
    exchange(one, two)
    exchange(one, two)
    assert one.call(503) == 503
    assert one.breaker.state == "open"
    exchange(one, two)
    assert two.call() == "refused"


def test_a_success_anywhere_ends_the_row(pair):
    one, two = pair
    one.call(503)
    one.call(503)
    exchange(one, two)
    two.call(200)
    exchange(two, one)
    one.call(503)
    exchange(one, two)
    assert (one.breaker.state, two.breaker.state) == ("closed", "closed")
    assert two.breaker.describe(two.now)["failures_in_a_row"] == 1


def test_both_are_open_about_equally_long(pair):
    one, two = pair
    one.breaker.open(one.now)
    World.now += 10.0
    exchange(one, two)
    left = [host.breaker.left_s(host.now) for host in pair]
    assert left[0] == pytest.approx(19.0)
    assert left[0] <= left[1] <= left[0] + 1.0


def test_a_failed_probe_of_one_keeps_the_other_open(pair):
    one, two = pair
    one.breaker.open(one.now)
    exchange(one, two)
    World.now += 29.0
    assert one.call(503) == 503
    exchange(one, two)
    World.now += 10.0
    assert two.call() == "refused", "it opened anew for both"


def test_a_passed_probe_of_one_closes_both(pair):
    one, two = pair
    one.breaker.open(one.now)
    exchange(one, two)
    World.now += 29.0
    one.call(200)
    exchange(one, two)
    assert two.call() == 200


def test_a_half_open_spell_elsewhere_is_not_ours(pair):
    one, two = pair
    one.breaker.open(one.now, 5.0)
    exchange(one, two)
    World.now += 5.0
    assert one.breaker.admit(one.now) >= 0
    exchange(one, two)
    assert (one.breaker.state, two.breaker.state) == ("half_open", "open")


def test_isolation_stays_where_it_was_asked_for(pair):
    one, two = pair
    one.breaker.isolate(one.now)
    exchange(one, two)
    assert two.call() == 200
    two.breaker.open(two.now)
    two.breaker.close(two.now)
    exchange(two, one)
    assert one.call() == "refused"


def test_an_outage_is_told_once_each_way_and_loses_nothing(pair, caplog):
    one, two = pair
    Storage.down = True
    with caplog.at_level(logging.WARNING, "meshclient.breaker"):
        for _ in range(5):
            exchange(one)
            World.now += MAX_PAUSE_S
        for _ in range(3):
            one.call(503)
        assert one.breaker.state == "open"
        Storage.down = False
        exchange(one, two)
    assert two.breaker.state == "open"
    failed, recovered = one.events
    assert failed == BreakerStorageFailed("shop", "ConnectionError")
    assert isinstance(recovered, BreakerStorageRecovered)
    assert recovered.after_s > 5 * MAX_PAUSE_S
    assert [r.levelname for r in caplog.records] == ["WARNING", "WARNING"]
    assert "geheim" not in caplog.text


def test_a_storage_that_lost_its_data_does_not_close_what_is_open():
    World.now = 100.0
    storage = Storage()
    host = Host(storage)
    host.job.work()
    host.breaker.open(host.now)
    exchange(host)
    assert storage.opened_at is not None
    storage.state, storage.opened_at = pybreaker.STATE_CLOSED, None
    exchange(host)
    assert host.breaker.state == "open"
    assert storage.state == pybreaker.STATE_OPEN


def test_one_that_comes_later_learns_what_is():
    World.now = 100.0
    storage = Storage()
    storage.state = pybreaker.STATE_OPEN
    storage.opened_at = datetime.fromtimestamp(1_700_000_000.0 + 90.0, UTC)
    late = Host(storage)
    late.job.work()
    assert late.breaker.left_s(late.now) == 20.0
    World.now += 60.0
    other = Host(storage)
    other.job.work()
    assert other.breaker.state == "closed", "its time was over long ago"


def test_a_clock_of_another_host_that_runs_ahead_is_bounded():
    World.now = 100.0
    storage = Storage()
    storage.state = pybreaker.STATE_OPEN
    storage.opened_at = datetime.fromtimestamp(1_700_000_000.0 + 99_999.0, UTC)
    host = Host(storage)
    host.job.work()
    assert host.breaker.left_s(host.now) == 30.0


def test_a_server_that_fails_is_asked_less_and_less_often():
    World.now = 100.0
    Storage.down = True
    host = Host(Storage())
    pauses = [host.job.work()]
    for _ in range(5):
        World.now += pauses[-1]
        pauses.append(host.job.work())
    assert pauses == [2.0, 4.0, MAX_PAUSE_S, MAX_PAUSE_S, MAX_PAUSE_S, MAX_PAUSE_S]
    host.call(503)
    before = len(host.opened)
    host.job.work()
    assert len(host.opened) == before, "a failing call does not make it busy"


def test_a_failure_is_told_at_once_and_the_rest_by_and_by(pair):
    one, _ = pair
    one.call(200)
    assert not one.job._urgent
    one.call(503)
    assert one.job._urgent


def test_without_the_package_it_says_which_is_missing(monkeypatch):
    World.now = 100.0
    host = Host(Storage())

    def missing(*_args):
        raise ModuleNotFoundError("No module named 'redis'", name="redis")

    monkeypatch.setattr(host.job, "_open_storage", missing)
    host.job.work()
    (failed,) = host.events
    assert failed.error == "ModuleNotFoundError: the package redis is not installed"
    assert host.call() == 200


def test_it_is_needed_only_where_something_is_shared(pair):
    one, _ = pair
    assert one.job.needed
    assert not one.job.warming
    one.plane = plane_of(to(), cluster(policy=ClusterPolicy(circuit_breaker=CircuitBreaker())))
    assert not one.job.needed
    one.job.work()
    assert one.job._states == {}
