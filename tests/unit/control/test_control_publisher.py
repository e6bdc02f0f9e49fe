"""The publisher: reading never waits, waiting is woken, a child wakes it up."""

from __future__ import annotations

import asyncio
import threading

import pytest
from control_support import PATIENCE_S, Plane

from meshclient.control.publisher import Publisher
from meshclient.errors import ClosedError
from meshclient.model.snapshot import Snapshot


def plane(version: int) -> Plane:
    return Plane(Snapshot(version))


def test_the_plane_is_an_attribute_and_current_its_snapshot():
    publisher = Publisher(plane(1))
    publisher.publish(plane(2))
    assert publisher.plane.snapshot is publisher.current()
    assert publisher.current().version == 2


def test_wait_returns_false_when_time_is_up_and_true_when_ready():
    publisher = Publisher(plane(1))
    assert publisher.wait(0) is False
    publisher.mark_ready()
    assert publisher.wait(0) is True
    assert publisher.ready


def test_marking_ready_wakes_a_waiting_thread():
    publisher = Publisher(plane(1))
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(publisher.wait(PATIENCE_S)))
    thread.start()
    publisher.mark_ready()
    thread.join(PATIENCE_S)
    assert answers == [True]


def test_marking_ready_from_another_thread_wakes_every_task():
    async def main():
        publisher = Publisher(plane(1))
        tasks = [asyncio.create_task(publisher.async_wait(PATIENCE_S)) for _ in range(10)]
        await asyncio.sleep(0)
        threading.Thread(target=publisher.mark_ready).start()
        return await asyncio.gather(*tasks)

    assert asyncio.run(main()) == [True] * 10


def test_async_wait_ends_with_its_timeout_and_leaves_no_waiter():
    async def main():
        publisher = Publisher(plane(1))
        assert await publisher.async_wait(0) is False
        publisher.mark_ready()
        assert await publisher.async_wait(0) is True
        assert not publisher._waiters

    asyncio.run(main())


def test_a_cancelled_wait_leaves_no_waiter():
    async def main():
        publisher = Publisher(plane(1))
        task = asyncio.create_task(publisher.async_wait(None))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not publisher._waiters

    asyncio.run(main())


def test_closing_wakes_waiters_with_an_error_and_keeps_the_plane():
    async def main():
        publisher = Publisher(plane(3))
        task = asyncio.create_task(publisher.async_wait(None))
        await asyncio.sleep(0)
        publisher.close()
        with pytest.raises(ClosedError):
            await task
        with pytest.raises(ClosedError):
            publisher.wait(None)
        assert publisher.closed
        assert publisher.current().version == 3

    asyncio.run(main())


def test_closing_after_ready_is_no_error_for_waiters():
    publisher = Publisher(plane(1))
    publisher.mark_ready()
    publisher.close()
    assert publisher.wait(None) is True


def test_a_waiter_of_a_loop_that_was_closed_hurts_nobody():
    publisher = Publisher(plane(1))
    loop = asyncio.new_event_loop()
    publisher._waiters.add((loop, loop.create_future()))
    loop.close()
    publisher.mark_ready()
    assert publisher.ready


def test_after_hibernation_the_first_read_revives_once():
    publisher, revived = Publisher(plane(1)), []
    publisher.hibernate(lambda: revived.append(publisher.current().version))
    publisher.hibernate(lambda: revived.append("again"))
    assert not revived
    assert publisher.plane.snapshot.version == 1
    assert publisher.current().version == 1
    assert revived == [1]


def test_waiting_revives_too():
    publisher, revived = Publisher(plane(1)), []
    publisher.hibernate(lambda: (revived.append(1), publisher.mark_ready()))
    assert publisher.wait(PATIENCE_S) is True
    assert revived == [1]


def test_a_fork_replaces_lock_and_event_and_keeps_readiness():
    publisher = Publisher(plane(1))
    publisher.mark_ready()
    publisher._lock.acquire()  # as if another thread held it during the fork
    publisher.after_fork_in_child()
    assert publisher.wait(0) is True


def test_no_other_attribute_appears_from_nowhere():
    with pytest.raises(AttributeError, match="'Publisher' has no attribute 'plan'"):
        _ = Publisher(plane(1)).plan


def test_repr():
    assert repr(Publisher(plane(1))).startswith("<Publisher waiting <Snapshot version=1 ")
