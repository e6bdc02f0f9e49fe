"""One thread that does things later, for blocking gRPC callers who do not wait themselves.

Back-offs between tries and per-try limits of futures and streams. It makes no decision,
and does nothing that blocks for long.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

_log = logging.getLogger("meshclient.grpc")


class Timer:
    """Runs functions at their time, in order, on a daemon thread. Thread-safe.

    The thread starts with the first wish and ends with :meth:`close`.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._counter = itertools.count()
        self._thread: threading.Thread | None = None
        self._closed = False

    def later(self, seconds: float, what: Callable[[], object]) -> None:
        """Run ``what`` once, in ``seconds``; at once (on this thread) after ``close``."""
        with self._condition:
            if not self._closed:
                entry = (time.monotonic() + max(0.0, seconds), next(self._counter), what)
                heapq.heappush(self._due, entry)
                if self._thread is None:
                    self._thread = threading.Thread(
                        target=self._run, name="meshclient-grpc", daemon=True
                    )
                    self._thread.start()
                elif self._due[0] is entry:
                    self._condition.notify()
                return
        what()

    def close(self) -> None:
        """Run what is left now, then end the thread. Idempotent."""
        with self._condition:
            self._closed = True
            self._condition.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=5.0)

    def _run(self) -> None:
        while True:
            what = self._next()
            if what is None:
                return
            try:
                what()
            except Exception:
                _log.exception("a delayed step of a gRPC call failed")

    def _next(self) -> Callable[[], object] | None:
        """What is due, when it is; None: it is over."""
        with self._condition:
            while True:
                if not self._due:
                    if self._closed:
                        return None
                    self._condition.wait()
                    continue
                wait_s = self._due[0][0] - time.monotonic()
                if wait_s <= 0.0 or self._closed:
                    return heapq.heappop(self._due)[2]
                self._condition.wait(wait_s)


__all__ = ["Timer"]
