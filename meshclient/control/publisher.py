"""The one object at which control and data plane meet.

Reading is one attribute; nothing in here may make a reader wait.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from meshclient.control import after_fork
from meshclient.control.thread import in_trio_thread
from meshclient.errors import ClosedError
from meshclient.model.snapshot import Snapshot


class PlaneLike(Protocol):
    """All that the control side knows of a plane."""

    @property
    def snapshot(self) -> Snapshot:
        """What the plane was built from."""


P = TypeVar("P", bound=PlaneLike)


class Publisher(Generic[P]):
    """Holds the plane in force, and lets callers wait until it is ready.

    ``plane`` is written on the control thread and read anywhere, without a
    lock. It stays readable after :meth:`close`. Thread-safe.
    """

    __slots__ = (
        "__weakref__",
        "_closed",
        "_ended",
        "_lock",
        "_ready",
        "_sleeping",
        "_waiters",
        "plane",
    )

    plane: P

    def __init__(self, plane: P) -> None:
        self._lock = threading.Lock()
        self._ended = threading.Event()  # set when waiting makes no more sense
        self._waiters: set[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = set()
        self._ready = False
        self._closed = False
        self._sleeping: tuple[P, Callable[[], None]] | None = None
        self.plane = plane
        after_fork.register(self)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "ready" if self._ready else "waiting"
        return f"<Publisher {state} {self.current()!r}>"

    @property
    def ready(self) -> bool:
        """Whether every source of endpoints has answered once; never goes back."""
        return self._ready

    @property
    def closed(self) -> bool:
        """Whether publication has ended."""
        return self._closed

    def current(self) -> Snapshot:
        """The snapshot in force. Never waits."""
        return self.plane.snapshot

    def publish(self, plane: P) -> None:
        """Put ``plane`` in force for every call that starts from now on."""
        self.plane = plane

    def mark_ready(self) -> None:
        """Let everybody who waits go on; idempotent."""
        self._ready = True
        self._wake_waiters()

    def close(self) -> None:
        """End publication; the last plane stays readable. Idempotent."""
        self._closed = True
        self._awake()
        self._wake_waiters()

    def wait(self, timeout: float | None = None) -> bool:
        """Block until ready; False after ``timeout`` seconds (None: no limit).

        Raises :class:`ClosedError` when closed before it was ready.
        """
        self._awake()
        self._ended.wait(timeout)
        return self._verdict()

    async def async_wait(self, timeout: float | None = None) -> bool:
        """:meth:`wait` for asyncio and trio; a wake-up, not a poll. Cancellable."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return await in_trio_thread(lambda: self.wait(timeout))
        self._awake()
        waiter = (loop, loop.create_future())
        with self._lock:
            if self._ended.is_set():
                return self._verdict()
            self._waiters.add(waiter)
        try:
            async with asyncio.timeout(timeout):
                await waiter[1]
        except TimeoutError:
            pass
        finally:
            with self._lock:
                self._waiters.discard(waiter)
        return self._verdict()

    def hibernate(self, revive: Callable[[], None]) -> None:
        """Call ``revive`` once, at the next read of ``plane``.

        For the child of a fork, which has no control thread until somebody
        makes a call. Costs a reader nothing before or after: the attribute is
        taken away, so that the first read falls through to ``__getattr__``.
        """
        if self._sleeping is None:  # else: a child forked again without a read
            self._sleeping = (self.plane, revive)
            del self.plane

    def replace_in_child(self, plane: P) -> None:
        """Put a plane without the parent's locks and counts in the old one's place.

        Right after a fork only, when there is one thread; wakes nobody.
        """
        if self._sleeping is None:
            self.plane = plane
        else:
            self._sleeping = (plane, self._sleeping[1])

    def after_fork_in_child(self) -> None:
        """New lock and event; those who waited in other threads are not here."""
        ended = self._ended.is_set()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._waiters = set()
        if ended:
            self._ended.set()

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name != "plane":
                raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")
            return self._awake()

    def _awake(self) -> P:
        with self._lock:
            sleeping, self._sleeping = self._sleeping, None
            if sleeping is not None:
                self.plane = sleeping[0]
        if sleeping is not None:
            sleeping[1]()
        return self.plane

    def _wake_waiters(self) -> None:
        with self._lock:
            self._ended.set()
            waiters = list(self._waiters)
        for loop, future in waiters:
            with suppress(RuntimeError):  # that loop is closed; nobody waits there any more
                loop.call_soon_threadsafe(_resolve, future)

    def _verdict(self) -> bool:
        if self._closed and not self._ready:
            raise ClosedError("closed before it was ready")
        return self._ready


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
