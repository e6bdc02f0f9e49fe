"""Several blocking tries of one call at once: started, waited for, called off.

Runs work on helper threads and hands over what comes of it, first come first served.
Which try counts, and when another one begins, is the call's decision.
"""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable
from typing import Any

from meshclient.attempt import Attempt
from meshclient.clients.helper_threads import HelperThreads

#: Longest wait without a look around (seconds): a signal has to get through on every system.
_LOOK_S = 60.0

#: What a try brought: its result, or its exception.
Ended = tuple[Attempt, Any, BaseException | None]


class Run:
    """One try: ``work`` brings its result, ``call_off`` (from any thread) has it end early."""

    __slots__ = ("call_off", "work")

    def __init__(
        self, work: Callable[[], Any], call_off: Callable[[], object] | None = None
    ) -> None:
        self.work = work
        self.call_off = call_off


class ThreadRace:
    """The tries of one call. ``dispose`` gets the results that nobody wants any more, on
    whatever thread they arrive."""

    __slots__ = ("_dispose", "_helpers", "_lock", "_over", "_results", "_running")

    def __init__(self, helpers: HelperThreads, dispose: Callable[[Any], object]) -> None:
        self._helpers = helpers
        self._dispose = dispose
        self._lock = threading.Lock()
        self._results: queue.SimpleQueue[Ended] = queue.SimpleQueue()
        self._running: dict[Attempt, Run] = {}
        self._over = False

    def room(self) -> bool:
        """Whether another try could run beside those that do."""
        return self._helpers.has_room()

    def start(self, attempt: Attempt, run: Run) -> bool:
        """Run a try. Where no helper is free and nothing else runs, here and now; else False."""
        self._running[attempt] = run
        if self._helpers.submit(lambda: self._do(attempt, run)):
            return True
        if len(self._running) == 1:
            self._do(attempt, run)
            return True
        del self._running[attempt]
        return False

    def next(self, wait_s: float) -> Ended | None:
        """The first try that has ended and was not given out yet; None after ``wait_s``."""
        while True:
            try:
                ended = self._results.get(timeout=max(0.0, min(wait_s, _LOOK_S)))
            except queue.Empty:
                if wait_s != math.inf:
                    return None
            else:
                self._running.pop(ended[0], None)
                return ended

    def stop(self) -> None:
        """Call off whatever runs; waits for nothing."""
        with self._lock:
            self._over = True
        for run in self._running.values():
            if run.call_off is not None:
                run.call_off()
        self._running.clear()
        while not self._results.empty():
            self._drop(self._results.get())

    def _do(self, attempt: Attempt, run: Run) -> None:
        result, error = None, None
        try:
            result = run.work()
        except BaseException as raised:  # it is raised where the call is made
            error = raised
        with self._lock:
            wanted = not self._over
            if wanted:
                self._results.put((attempt, result, error))
        if not wanted:
            self._drop((attempt, result, error))

    def _drop(self, ended: Ended) -> None:
        if ended[2] is None:
            self._dispose(ended[1])


class OneByOne:
    """The same for tries that follow each other: each runs where it is waited for."""

    __slots__ = ("_next", "_sleep")

    def __init__(self, sleep: Callable[[float], object]) -> None:
        self._sleep = sleep
        self._next: tuple[Attempt, Run] | None = None

    def room(self) -> bool:
        """Never beside another."""
        return False

    def start(self, attempt: Attempt, run: Run) -> bool:
        """It runs at :meth:`next`."""
        self._next = (attempt, run)
        return True

    def next(self, wait_s: float) -> Ended | None:
        """What the try that was started came to; without one, wait."""
        if self._next is None:
            self._sleep(max(0.0, wait_s))
            return None
        (attempt, run), self._next = self._next, None
        try:
            return attempt, run.work(), None
        except Exception as error:
            return attempt, None, error

    def stop(self) -> None:
        """Nothing runs."""


__all__ = ["OneByOne", "Run", "ThreadRace"]
