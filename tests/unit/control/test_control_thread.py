"""The control thread: lazy, bounded, silent."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
from concurrent.futures import CancelledError
from contextlib import suppress

import pytest
from control_support import PATIENCE_S

from meshclient.control import thread as thread_module
from meshclient.control.thread import ControlThread, run_in_thread
from meshclient.errors import ClosedError


@pytest.fixture
def control():
    thread = ControlThread("test-control")
    yield thread
    thread.stop(PATIENCE_S)


async def _name() -> str:
    return threading.current_thread().name


def test_it_starts_when_first_used_and_is_a_daemon(control):
    assert control.thread is None
    assert repr(control) == "<ControlThread test-control not started>"
    assert control.submit(_name()).result(PATIENCE_S) == "test-control"
    assert control.thread.daemon
    assert repr(control) == "<ControlThread test-control running>"


def test_importing_the_library_starts_no_thread():
    code = "import meshclient.control, threading; print(threading.active_count())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


def test_call_runs_a_function_on_the_loop(control):
    done = threading.Event()
    control.call(done.set)
    assert done.wait(PATIENCE_S)


def test_stop_cancels_tasks_and_ends_the_thread(control):
    cancelled = threading.Event()

    async def forever():
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    future = control.submit(forever())
    control.submit(_name()).result(PATIENCE_S)
    thread = control.thread
    assert control.stop(PATIENCE_S) is True
    assert cancelled.is_set()
    assert future.cancelled()
    assert not thread.is_alive()
    assert control.stop(0) is True


def test_stop_before_the_first_use_starts_nothing(control):
    assert control.stop() is True
    assert control.thread is None


def test_after_stop_nothing_is_accepted_and_no_coroutine_is_left(control):
    control.submit(_name()).result(PATIENCE_S)
    control.stop(PATIENCE_S)
    with pytest.raises(ClosedError):
        control.submit(_name())
    with pytest.raises(ClosedError):
        control.call(print)


def test_stop_on_the_thread_itself_does_not_wait_for_itself(control):
    async def stop():
        return control.stop(PATIENCE_S)

    assert control.submit(stop()).result(PATIENCE_S) is False
    control.thread.join(PATIENCE_S)
    assert not control.thread.is_alive()


def test_a_task_that_ignores_cancellation_is_named_and_bounded(control, monkeypatch, caplog):
    monkeypatch.setattr(thread_module, "GRACE_S", 0.0)
    stubborn = threading.Event()

    async def ignore():
        while not stubborn.is_set():
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                stubborn.set()
                await asyncio.Event().wait()

    async def start():
        task = asyncio.create_task(ignore(), name="stubborn")
        await asyncio.sleep(0)
        return task

    with caplog.at_level(logging.ERROR):
        keep = control.submit(start()).result(PATIENCE_S)
        assert control.stop(PATIENCE_S) is True
    assert "stubborn did not end" in caplog.text
    keep._log_destroy_pending = False


def test_an_error_while_stopping_is_logged(control, caplog):
    async def bad():
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("in finally")

    async def start():
        asyncio.create_task(bad(), name="bad").add_done_callback(lambda _: None)
        await asyncio.sleep(0)

    control.submit(start()).result(PATIENCE_S)
    assert control.stop(PATIENCE_S) is True
    assert "bad failed while stopping" in caplog.text


def test_many_threads_may_start_it_at_once(control):
    barrier, names = threading.Barrier(8), []

    def use():
        barrier.wait(PATIENCE_S)
        names.append(control.submit(_name()).result(PATIENCE_S))

    threads = [threading.Thread(target=use) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(PATIENCE_S)
    assert names == ["test-control"] * 8
    assert sum(t.name == "test-control" for t in threading.enumerate()) == 1


def test_run_in_thread_hands_back_results_and_errors():
    async def main():
        assert await run_in_thread(lambda: threading.current_thread().name, "w") == "w"
        with pytest.raises(KeyError):
            await run_in_thread(lambda: {}["x"], "w")

    asyncio.run(main())


def test_run_in_thread_may_outlive_its_loop():
    go, ended = threading.Event(), threading.Event()

    def slow():
        go.wait(PATIENCE_S)
        ended.set()

    async def main():
        task = asyncio.create_task(run_in_thread(slow, "slow"))
        await asyncio.sleep(0)
        task.cancel()

    asyncio.run(main())
    go.set()
    assert ended.wait(PATIENCE_S)


def test_when_no_thread_can_be_started_nothing_is_left_behind(control, monkeypatch):
    def refuse(_self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            control.submit(_name())
    assert control.submit(_name()).result(PATIENCE_S) == "test-control"


def test_what_is_accepted_while_stopping_always_comes_to_an_end():
    for _ in range(50):
        control, futures = ControlThread("race"), []

        def use(control=control, futures=futures):
            try:
                while True:
                    futures.append(control.submit(_name()))
            except ClosedError:
                return

        control.submit(_name()).result(PATIENCE_S)
        user = threading.Thread(target=use)
        user.start()
        assert control.stop(PATIENCE_S)
        user.join(PATIENCE_S)
        for future in futures:
            with suppress(CancelledError):
                assert future.result(PATIENCE_S) == "race"
