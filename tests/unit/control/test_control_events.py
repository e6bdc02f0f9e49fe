"""Subscriptions: order, isolation, bounds."""

from __future__ import annotations

import threading

import pytest
from control_support import PATIENCE_S

from meshclient.control.events import Subscriptions
from meshclient.errors import ClosedError
from meshclient.model.events import DiscoveryRecovered


def numbered(count: int) -> list[DiscoveryRecovered]:
    return [DiscoveryRecovered(str(n)) for n in range(count)]


def test_events_arrive_in_order_at_every_subscriber():
    subscriptions, first, second = Subscriptions(), [], []
    subscriptions.subscribe(first.append)
    subscriptions.subscribe(second.append)
    for event in numbered(100):
        subscriptions.publish(event)
    subscriptions.close(PATIENCE_S)
    assert first == second == numbered(100)


def test_nothing_happens_without_subscribers():
    subscriptions = Subscriptions()
    subscriptions.publish(DiscoveryRecovered("x"))
    assert subscriptions._worker is None


def test_what_was_published_before_is_not_delivered():
    subscriptions, seen = Subscriptions(), []
    held, release = threading.Event(), threading.Event()

    def hold(_event):
        held.set()
        release.wait(PATIENCE_S)

    subscriptions.subscribe(hold)
    subscriptions.publish(DiscoveryRecovered("before"))
    subscriptions.publish(DiscoveryRecovered("before, still queued"))
    assert held.wait(PATIENCE_S)
    subscriptions.subscribe(seen.append)
    subscriptions.publish(DiscoveryRecovered("after"))
    release.set()
    subscriptions.close(PATIENCE_S)
    assert seen == [DiscoveryRecovered("after")]


def test_unsubscribing_stops_even_queued_events():
    subscriptions, seen, held, release = Subscriptions(), [], threading.Event(), threading.Event()

    def hold(_event):
        held.set()
        release.wait(PATIENCE_S)

    subscriptions.subscribe(hold)
    unsubscribe = subscriptions.subscribe(seen.append)
    subscriptions.publish(DiscoveryRecovered("x"))
    assert held.wait(PATIENCE_S)
    unsubscribe()
    unsubscribe()
    release.set()
    subscriptions.close(PATIENCE_S)
    assert seen == []


def test_a_callback_that_raises_is_logged_and_stops_nobody(caplog):
    subscriptions, seen = Subscriptions(), []
    subscriptions.subscribe(lambda event: 1 / 0)
    subscriptions.subscribe(seen.append)
    for event in numbered(2):
        subscriptions.publish(event)
    subscriptions.close(PATIENCE_S)
    assert seen == numbered(2)
    assert caplog.text.count("a subscriber failed on DiscoveryRecovered") == 2


def test_a_slow_callback_blocks_nobody_and_loses_the_oldest_with_a_count(caplog):
    subscriptions, seen = Subscriptions(limit=3), []
    held, release = threading.Event(), threading.Event()

    def slow(event):
        held.set()
        release.wait(PATIENCE_S)
        seen.append(int(event.source))

    subscriptions.subscribe(slow)
    events = numbered(10)
    subscriptions.publish(events[0])
    assert held.wait(PATIENCE_S)
    for event in events[1:]:
        subscriptions.publish(event)  # returns at once
    release.set()
    subscriptions.close(PATIENCE_S)
    assert seen == [0, 7, 8, 9]
    assert "6 events were dropped" in caplog.text


def test_close_is_bounded_by_its_timeout():
    subscriptions, held, release = Subscriptions(), threading.Event(), threading.Event()

    def stuck(_event):
        held.set()
        release.wait(PATIENCE_S)

    subscriptions.subscribe(stuck)
    subscriptions.publish(DiscoveryRecovered("x"))
    assert held.wait(PATIENCE_S)
    subscriptions.close(0)
    worker = subscriptions._worker
    assert worker.is_alive()
    release.set()
    worker.join(PATIENCE_S)


def test_a_callback_may_close():
    subscriptions, closed = Subscriptions(), threading.Event()

    def close(_event):
        subscriptions.close(PATIENCE_S)
        closed.set()

    subscriptions.subscribe(close)
    subscriptions.publish(DiscoveryRecovered("x"))
    assert closed.wait(PATIENCE_S)
    with pytest.raises(ClosedError):
        subscriptions.subscribe(print)


def test_the_child_of_a_fork_keeps_subscribers_and_drops_the_queue():
    subscriptions, seen = Subscriptions(), []
    subscriptions.subscribe(seen.append)
    subscriptions._queue.append((DiscoveryRecovered("the parent's"), ()))
    subscriptions._changed.acquire()  # as if another thread held it during the fork
    subscriptions.after_fork_in_child()
    subscriptions.publish(DiscoveryRecovered("the child's"))
    subscriptions.close(PATIENCE_S)
    assert seen == [DiscoveryRecovered("the child's")]
