"""One background thread with its own event loop, started when first needed.

Never started at import, never joined without a bound. No policy in here: it
runs whatever coroutine it is given.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import selectors
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar
from weakref import WeakSet

from meshclient.control import after_fork
from meshclient.errors import ClosedError

T = TypeVar("T")

#: How long cancelled tasks may take to end, and how long an exiting interpreter waits in all.
GRACE_S = 2.0

_log = logging.getLogger("meshclient.control")
_live: WeakSet[ControlThread] = WeakSet()
# Event loops of a parent process and all that hangs on them. They are kept, because collecting
# them would run clean-up code of the parent's tasks inside the child.
_orphans: list[object] = []


class ControlThread:
    """A daemon thread with a private event loop.

    Thread-safe. The loop is always the standard one, whatever policy the
    application set. In the child of a fork the thread is absent and starts
    anew at the next :meth:`submit` or :meth:`call`.
    """

    __slots__ = ("__weakref__", "_lock", "_loop", "_name", "_selector", "_stopped", "_thread")

    def __init__(self, name: str = "meshclient-control") -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.SelectorEventLoop | None = None
        self._selector: selectors.BaseSelector | None = None
        self._thread: threading.Thread | None = None
        self._stopped = False
        _live.add(self)
        after_fork.register(self)

    def __repr__(self) -> str:
        state = "stopped" if self._stopped else "running" if self._thread else "not started"
        return f"<ControlThread {self._name} {state}>"

    @property
    def thread(self) -> threading.Thread | None:
        """The thread, or None before the first use and in a fresh child."""
        return self._thread

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run ``coroutine`` on the loop.

        Never wait for the result on the control thread itself. Raises
        :class:`ClosedError` after :meth:`stop`, ``RuntimeError`` if no thread can be started.
        """
        try:
            # Under the lock, so that it comes before the stop of another thread, or not at all.
            with self._lock:
                return asyncio.run_coroutine_threadsafe(coroutine, self._running_loop_locked())
        except BaseException:
            coroutine.close()
            raise

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """Call ``function`` soon on the loop; raises what :meth:`submit` raises."""
        with self._lock:
            self._running_loop_locked().call_soon_threadsafe(function, *args)

    def stop(self, timeout: float = 5.0) -> bool:
        """Cancel every task and end the thread; idempotent and final.

        Waits up to ``timeout`` seconds and returns whether the thread has
        ended. On the control thread itself it cannot wait and returns False.
        """
        thread = self._signal_stop()
        if thread is None:
            return True
        if thread is threading.current_thread():
            return False
        thread.join(max(0.0, timeout))
        return not thread.is_alive()

    def after_fork_in_child(self) -> None:
        """Forget the parent's thread and loop; leave its descriptors alone."""
        loop, selector = self._loop, self._selector
        self._lock = threading.Lock()
        self._loop = self._selector = self._thread = None
        if loop is not None and selector is not None:
            _abandon(loop, selector)

    def _running_loop_locked(self) -> asyncio.AbstractEventLoop:
        if self._stopped:
            raise ClosedError("the control thread is stopped")
        if self._loop is None:
            self._start_locked()
        assert self._loop is not None
        return self._loop

    def _start_locked(self) -> None:
        selector = selectors.DefaultSelector()
        loop = asyncio.SelectorEventLoop(selector)
        thread = threading.Thread(target=_run, args=(loop,), name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no more threads, or the interpreter is ending
            loop.close()
            raise
        self._loop, self._selector, self._thread = loop, selector, thread

    def _signal_stop(self) -> threading.Thread | None:
        with self._lock:
            first, self._stopped = not self._stopped, True
            if first and self._loop is not None:
                with suppress(RuntimeError):  # the loop is closed already
                    self._loop.call_soon_threadsafe(self._loop.stop)
            return self._thread


async def run_in_thread(function: Callable[[], T], name: str) -> T:
    """Await ``function()`` on a daemon thread of its own.

    Not an executor: those are joined when the interpreter ends, and a stuck
    function would then keep the process alive.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return await in_trio_thread(function)
    future: asyncio.Future[tuple[T | None, BaseException | None]] = loop.create_future()

    def deliver(result: T | None, error: BaseException | None) -> None:
        if not future.done():
            future.set_result((result, error))

    def work() -> None:
        result, error = None, None
        try:
            result = function()
        except BaseException as caught:
            error = caught
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(deliver, result, error)

    threading.Thread(target=work, name=name, daemon=True).start()
    result, error = await future
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


async def in_trio_thread(function: Callable[[], T]) -> T:
    """:func:`run_in_thread` under trio, whose threads are daemons, too."""
    to_thread = sys.modules["trio"].to_thread
    return await to_thread.run_sync(function, abandon_on_cancel=True)  # type: ignore[no-any-return]


def _run(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        try:
            loop.run_until_complete(_cancel_all())
        finally:
            loop.close()


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if not tasks:
        return
    done, pending = await asyncio.wait(tasks, timeout=GRACE_S)
    for task in done:
        if not task.cancelled() and task.exception() is not None:
            _log.error("%s failed while stopping", task.get_name(), exc_info=task.exception())
    for task in pending:
        _log.error("%s did not end within %s s of its cancellation", task.get_name(), GRACE_S)


def _abandon(loop: asyncio.SelectorEventLoop, selector: selectors.BaseSelector) -> None:
    """Give up the parent's loop inside the child.

    The kernel's epoll set is shared with the parent: closing our descriptor of
    it is harmless, but ``loop.close()`` would unregister the parent's wake-up
    pipe. So the selector goes first, and the rest is kept for ever.
    """
    loop.set_exception_handler(lambda _loop, _context: None)
    _orphans.append((loop, asyncio.all_tasks(loop), list(selector.get_map().values())))
    selector.close()


def _stop_all() -> None:
    """Before the interpreter ends: a daemon thread caught mid-step would be noisy."""
    threads = list(_live)
    for thread in threads:
        thread._signal_stop()
    deadline = time.monotonic() + GRACE_S
    for thread in threads:
        thread.stop(deadline - time.monotonic())


atexit.register(_stop_all)
