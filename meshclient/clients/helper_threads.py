"""A bounded pool of daemon threads for work that blocks and that nobody has to wait for.

Threads begin when there is work, are used again, and end after a while without any. No
exit of the process waits for them, and a fork starts with none. What the work is, is the
caller's business.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

#: Seconds that a thread without work stays.
IDLE_S: Final = 10.0

Job = Callable[[], object]


class HelperThreads:
    """At most ``most`` threads, and ``backlog`` jobs that wait for one. Thread-safe."""

    def __init__(self, name: str, most: int, backlog: int = 0, idle_s: float = IDLE_S) -> None:
        self._name = name
        self._most = most
        self._backlog = backlog
        self._idle_s = idle_s
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._threads = 0
        self._idle = 0
        self._closed = False

    def submit(self, job: Job) -> bool:
        """Have ``job`` run soon; what it raises is dropped. False: there is no room for it."""
        self._check_fork()
        with self._changed:
            if self._closed:
                return False
            if self._idle > len(self._jobs):
                self._jobs.append(job)
                self._changed.notify()
                return True
            if self._threads < self._most:
                return self._start_locked(job)
            if len(self._jobs) - self._idle >= self._backlog:
                return False
            self._jobs.append(job)
            return True

    def has_room(self) -> bool:
        """Whether a job would begin at once, at this moment."""
        self._check_fork()
        with self._changed:
            free = self._idle > len(self._jobs) or self._threads < self._most
            return free and not self._closed

    def close(self) -> None:
        """Drop the jobs that wait, and let the threads end. Idempotent; waits for nobody."""
        self._check_fork()
        with self._changed:
            self._closed = True
            self._jobs.clear()
            self._changed.notify_all()

    @property
    def threads(self) -> int:
        """Threads that exist at this moment."""
        return self._threads

    def _check_fork(self) -> None:
        # The parent's threads do not exist here, and its lock may be held for ever.
        if os.getpid() != self._pid:
            self._reset()

    def _start_locked(self, job: Job) -> bool:
        thread = threading.Thread(target=self._work, args=(job,), name=self._name, daemon=True)
        self._threads += 1
        try:
            thread.start()
        except RuntimeError:  # the system has no more, or the process is at its end
            self._threads -= 1
            return False
        return True

    def _work(self, job: Job | None) -> None:
        while job is not None:
            with suppress(Exception):
                job()
            del job  # what it holds must not live on with an idle thread
            job = self._next()

    def _next(self) -> Job | None:
        with self._changed:
            self._idle += 1
            found = self._changed.wait_for(lambda: self._jobs or self._closed, self._idle_s)
            self._idle -= 1
            if found and self._jobs:
                return self._jobs.popleft()
            self._threads -= 1
            return None

    def __repr__(self) -> str:
        return f"<HelperThreads {self._name} threads={self._threads} jobs={len(self._jobs)}>"


__all__ = ["HelperThreads"]
