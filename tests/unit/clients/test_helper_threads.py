"""A bounded pool of threads: used again, ended when idle, never waited for."""

from __future__ import annotations

import threading

from meshclient.clients.helper_threads import HelperThreads

LIMIT_S = 5.0


def busy(pool: HelperThreads) -> tuple[threading.Event, threading.Event]:
    """Occupy a thread: an event that it runs, and one that ends it."""
    began, release = threading.Event(), threading.Event()

    def job() -> None:
        began.set()
        release.wait(LIMIT_S)

    assert pool.submit(job)
    return began, release


def test_jobs_run_on_daemon_threads_and_threads_are_used_again() -> None:
    # A backlog: the job tells before its thread is idle again.
    pool = HelperThreads("t", 2, backlog=2, idle_s=LIMIT_S)
    seen: list[threading.Thread] = []
    for _ in range(5):
        done = threading.Event()
        assert pool.submit(lambda done=done: (seen.append(threading.current_thread()), done.set()))
        assert done.wait(LIMIT_S)
    assert all(thread.daemon and thread.name == "t" for thread in seen)
    assert pool.threads <= 2
    pool.close()


def test_no_more_than_the_bound_and_the_backlog() -> None:
    pool = HelperThreads("t", 1, backlog=1)
    began, release = busy(pool)
    assert began.wait(LIMIT_S)
    assert not pool.has_room()
    done = threading.Event()
    assert pool.submit(done.set), "it waits"
    assert not pool.submit(done.set), "one too many"
    release.set()
    assert done.wait(LIMIT_S)
    pool.close()


def test_a_job_that_fails_leaves_its_thread_fit() -> None:
    pool = HelperThreads("t", 1, backlog=1)
    done = threading.Event()
    assert pool.submit(lambda: 1 / 0)
    assert pool.submit(done.set)
    assert done.wait(LIMIT_S)
    assert pool.threads == 1
    pool.close()


def test_idle_threads_end() -> None:
    pool = HelperThreads("t-idle", 2, idle_s=0.01)
    done = threading.Event()
    pool.submit(done.set)
    assert done.wait(LIMIT_S)
    for thread in threading.enumerate():
        if thread.name == "t-idle":
            thread.join(LIMIT_S)
    assert pool.threads == 0


def test_a_closed_pool_takes_nothing_and_forgets_what_waits() -> None:
    pool = HelperThreads("t", 1, backlog=5)
    began, release = busy(pool)
    assert began.wait(LIMIT_S)
    late = threading.Event()
    pool.submit(late.set)
    pool.close()
    pool.close()
    assert not pool.submit(late.set)
    assert not pool.has_room()
    release.set()
    for thread in threading.enumerate():
        if thread.name == "t":
            thread.join(LIMIT_S)
    assert not late.is_set()


def test_a_fork_starts_without_threads() -> None:
    pool = HelperThreads("t", 1)
    began, release = busy(pool)
    assert began.wait(LIMIT_S)
    pool._pid = -1  # as it looks to the child, where the thread is not
    assert pool.has_room()
    assert pool.threads == 0
    release.set()
