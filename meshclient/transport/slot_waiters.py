"""Waiting for a connection of a limited cluster: one waiter for threads, one for event loops.

The queue itself, and who is served when, is :mod:`meshclient.transport.slots`. No
sockets, no HTTP.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from meshclient.model.outcome import CONNECT_FAILURES, ResetReason
from meshclient.transport.interface import (
    Target,
    TimeoutKind,
    WireError,
    WireRequest,
    timeout_error,
)
from meshclient.transport.slots import ConnectionSlots


def too_many_pending(target: Target) -> WireError:
    """Envoy's pending overflow."""
    message = f"too many requests wait for a connection to the cluster of {target}"
    if target.connections is not None:
        message += f" (max_pending_requests {target.connections.max_pending})"
    return WireError(ResetReason.OVERFLOW, False, message)


def refuse_others(
    slots: ConnectionSlots, pool: Any, error: BaseException, target: Target, request: WireRequest
) -> None:
    """A failed connect ends the wait of everybody who waits for that endpoint.

    Not if it was cut short by the limits of its own request.
    """
    if not isinstance(error, WireError) or error.reason not in CONNECT_FAILURES:
        return
    own_s, policy_s = request.connect_timeout_s, target.options.connect_timeout_s
    if error.timeout and own_s is not None and own_s < policy_s:
        return
    slots.refuse(pool, partial(same_error, error))


def same_error(error: WireError) -> WireError:
    """A copy for another request: an exception has one traceback only."""
    copy = WireError(error.reason, False, str(error), timeout=error.timeout)
    copy.__cause__ = error.__cause__
    return copy


def wait_limit(target: Target, request: WireRequest, now: float) -> tuple[float, TimeoutKind]:
    """When waiting has to be over (monotonic), and which limit that is.

    The deadline of the request, as in Envoy; the caller's own pool timeout if that is
    earlier; without either, the connect timeout.
    """
    timeout = request.pool_timeout_s
    deadline = request.deadline
    if timeout is None and deadline is None:
        timeout = request.connect_timeout_s
        if timeout is None:
            timeout = target.options.connect_timeout_s
    if timeout is None or (deadline is not None and deadline < now + timeout):
        assert deadline is not None
        return deadline, "deadline"
    return now + timeout, "pool"


class ThreadWaiter:
    """Blocks a thread until it is served."""

    __slots__ = ("_bell", "connection", "error", "pool")

    def __init__(self, pool: Any) -> None:
        self.pool = pool
        self.connection: Any = None
        self.error: BaseException | None = None
        self._bell = threading.Lock()
        self._bell.acquire()

    def grant(self, connection: Any, error: BaseException | None = None) -> bool:
        """See :class:`meshclient.transport.slots.Waiter`."""
        self.connection, self.error = connection, error
        self._bell.release()
        return True

    def wait(self, slots: ConnectionSlots, limit: float, kind: TimeoutKind) -> Any:
        """The connection, or None: a slot to open one. Raises WireError."""
        try:
            served = self._bell.acquire(timeout=max(0.0, limit - time.monotonic()))
        except BaseException:  # KeyboardInterrupt
            if not slots.withdraw(self):
                self._pass_on(slots)
            raise
        # Served in the very moment the time ran out counts as served.
        if not served and slots.withdraw(self):
            raise timeout_error(kind, False)
        if self.error is not None:
            raise self.error
        return self.connection

    def _pass_on(self, slots: ConnectionSlots) -> None:
        if self.connection is not None:
            self.connection.close()  # gives the slot back
        elif self.error is None:
            slots.give_back(self.pool)


class LoopWaiter:
    """Lets a task of one event loop wait until it is served."""

    __slots__ = ("_future", "_loop", "_release", "connection", "error", "pool")

    def __init__(
        self, pool: Any, loop: asyncio.AbstractEventLoop, release: Callable[[Any], object]
    ) -> None:
        self.pool = pool
        self._release = release
        self.connection: Any = None
        self.error: BaseException | None = None
        self._loop = loop
        self._future: asyncio.Future[None] = loop.create_future()

    def grant(self, connection: Any, error: BaseException | None = None) -> bool:
        """See :class:`meshclient.transport.slots.Waiter`. From any thread."""
        self.connection, self.error = connection, error
        if asyncio._get_running_loop() is self._loop:
            self._wake()
            return True
        try:
            self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:  # the loop is closed
            return False
        return True

    def _wake(self) -> None:
        if not self._future.done():
            self._future.set_result(None)

    async def wait(self, slots: ConnectionSlots, limit: float, kind: TimeoutKind) -> Any:
        """The connection, or None: a slot to open one. Raises WireError.

        Cancelled, it leaves the queue, and what it was served with goes to the next.
        """
        try:
            async with asyncio.timeout(max(0.0, limit - time.monotonic())):
                await self._future
        except TimeoutError:
            if slots.withdraw(self):
                raise timeout_error(kind, False) from None
        except BaseException:
            if not slots.withdraw(self):
                self._pass_on(slots)
            raise
        if self.error is not None:
            raise self.error
        return self.connection

    def _pass_on(self, slots: ConnectionSlots) -> None:
        if self.connection is not None:
            self._release(self.connection)
        elif self.error is None:
            slots.give_back(self.pool)
