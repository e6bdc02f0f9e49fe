"""A hundred threads and a thousand tasks at one breaker: probes are counted exactly."""

from __future__ import annotations

import asyncio
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from breaker_support import BAD, Bench

THREADS = 100
TASKS = 1000


@pytest.mark.parametrize("probes", [1, 7, 64])
def test_a_hundred_threads_find_exactly_the_probes(probes):
    """Ten rounds of half_open; each time all threads arrive at once."""
    bench = Bench(half_open_requests=probes, half_open_successes=probes + 1)
    barrier = threading.Barrier(THREADS)
    bench.fail(5)

    def arrive() -> int:
        barrier.wait(10)
        return bench.admit()

    with ThreadPoolExecutor(THREADS) as pool:
        for _ in range(10):
            bench.now += 30.0
            found = [job.result(10) for job in [pool.submit(arrive) for _ in range(THREADS)]]
            admitted = [generation for generation in found if generation >= 0]
            assert len(admitted) == probes
            assert len(set(admitted)) == 1
            assert bench.breaker.describe(bench.now)["probes"] == probes
            for generation in admitted[:-1]:
                bench.end(generation)
            assert bench.state == "half_open"
            bench.end(admitted[-1], BAD)
            assert bench.state == "open"


def test_a_thousand_tasks_find_exactly_the_probes():
    bench = Bench(half_open_requests=5, half_open_successes=3)
    bench.fail(5)
    bench.now += 30.0
    gate = {"in": 0, "most": 0, "refused": 0, "passed": 0}

    async def call(go: asyncio.Event) -> None:
        await go.wait()
        generation = bench.admit()
        if generation < 0:
            gate["refused"] += 1
            return
        gate["in"] += 1
        gate["most"] = max(gate["most"], gate["in"])
        await asyncio.sleep(0)
        gate["in"] -= 1
        gate["passed"] += 1
        bench.end(generation)

    async def crowd() -> None:
        go = asyncio.Event()
        tasks = [asyncio.create_task(call(go)) for _ in range(TASKS)]
        await asyncio.sleep(0)
        go.set()
        await asyncio.gather(*tasks)

    asyncio.run(crowd())
    assert (gate["most"], gate["passed"], gate["refused"]) == (5, 5, TASKS - 5)
    assert bench.state == "closed"
    assert bench.breaker.stale == 2, "three of the five were enough"


def test_cancelled_tasks_give_their_places_back():
    bench = Bench(half_open_requests=3)
    bench.fail(5)
    bench.now += 30.0

    async def call() -> None:
        generation = bench.admit()
        if generation < 0:
            return
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            bench.breaker.abandon(generation, bench.now)
            raise

    async def crowd() -> None:
        tasks = [asyncio.create_task(call()) for _ in range(TASKS)]
        await asyncio.sleep(0)
        assert bench.breaker.describe(bench.now)["probes"] == 3
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(crowd())
    assert bench.breaker.describe(bench.now)["probes"] == 0
    assert bench.call()


def test_threads_that_fail_together_open_it_once():
    bench = Bench(consecutive_failures=50)
    barrier = threading.Barrier(THREADS)

    def fail() -> None:
        generation = bench.admit()
        barrier.wait(10)
        bench.end(generation, BAD)

    with ThreadPoolExecutor(THREADS) as pool:
        for job in [pool.submit(fail) for _ in range(THREADS)]:
            job.result(10)
    assert bench.words == ["opened consecutive_failures"]
    assert (bench.breaker.opened, bench.breaker.stale) == (1, 50)


def test_no_success_is_lost_in_a_window_that_threads_share():
    """A tick takes no lock; the figures at the end are exact all the same."""
    bench = Bench(
        consecutive_failures=None,
        failure_rate_percent=100.0,
        minimum_calls=1,
        window_calls=100_000,
    )

    def work() -> None:
        for _ in range(200):
            bench.call()

    with ThreadPoolExecutor(20) as pool:
        for job in [pool.submit(work) for _ in range(20)]:
            job.result(10)
    bench.fail()
    assert bench.breaker.describe(bench.now)["window"] == {"calls": 4001, "failed": 1, "slow": 0}


def test_it_may_open_and_close_at_any_moment_of_a_call():
    """Threads change places as often as they can; nothing breaks, and nothing stays counted."""
    bench = Bench(failure_rate_percent=100.0, half_open_requests=2)
    over = threading.Event()

    def work() -> int:
        done = 0
        while not over.is_set():
            done += bench.call()
        return done

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            jobs = [pool.submit(work) for _ in range(8)]
            try:
                for _ in range(300):
                    bench.breaker.open(bench.now)
                    bench.breaker.close(bench.now)
            finally:
                over.set()
            assert sum(job.result(10) for job in jobs) > 0
    finally:
        sys.setswitchinterval(interval)
    assert bench.state == "closed"
    bench.fail(5)
    bench.now += 30.0
    assert [bench.admit() >= 0 for _ in range(3)] == [True, True, False]
