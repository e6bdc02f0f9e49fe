"""Several async tries of one call at once, on asyncio and on trio: started, waited for,
called off.

Runs work in tasks and hands over what comes of it, first come first served. Which try
counts, and when another one begins, is the call's decision.
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, Self

from meshclient.attempt import Attempt

Work = Callable[[], Coroutine[Any, Any, Any]]
#: What a try brought: its result, or its exception.
Ended = tuple[Attempt, Any, Exception | None]


class AsyncRace(Protocol):
    """The tries of one call. Leaving the context calls off whatever runs, without waiting for
    more than its next step."""

    def start(self, attempt: Attempt, work: Work) -> None:
        """Run a try."""

    async def next(self, wait_s: float) -> Ended | None:
        """The first try that has ended and was not given out yet; None after ``wait_s``."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc: object) -> None: ...


class TaskRace:
    """On asyncio. ``dispose`` gets the results that nobody wants any more."""

    __slots__ = ("_dispose", "_tasks")

    def __init__(self, dispose: Callable[[Any], object]) -> None:
        self._dispose = dispose
        self._tasks: dict[asyncio.Task[Any], Attempt] = {}

    def start(self, attempt: Attempt, work: Work) -> None:
        """See :class:`AsyncRace`."""
        self._tasks[asyncio.get_running_loop().create_task(work())] = attempt

    async def next(self, wait_s: float) -> Ended | None:
        """See :class:`AsyncRace`. What the task itself was cancelled with is raised."""
        timeout = None if wait_s == math.inf else max(0.0, wait_s)
        if not self._tasks:
            await asyncio.sleep(timeout or 0.0)
            return None
        done, _ = await asyncio.wait(
            self._tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
        )
        first = next((task for task in self._tasks if task in done), None)
        if first is None:
            return None
        attempt = self._tasks.pop(first)
        try:
            return attempt, first.result(), None
        except Exception as error:
            return attempt, None, error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        if not self._tasks:
            return
        for task in self._tasks:
            task.add_done_callback(self._drop)
            task.cancel()
        self._tasks.clear()
        # One turn of the loop: what was called off closes its connection in it.
        await asyncio.sleep(0)

    def _drop(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and task.exception() is None:
            self._dispose(task.result())


class TrioRace:
    """On trio: the losers' clean-up is waited for, since no task outlives its parent there."""

    __slots__ = ("_dispose", "_manager", "_news", "_nursery", "_results", "_trio")

    def __init__(self, dispose: Callable[[Any], object]) -> None:
        self._trio: Any = sys.modules["trio"]
        self._dispose = dispose
        self._results: list[Ended] = []
        self._news: Any = self._trio.Event()
        self._manager: Any = self._trio.open_nursery()
        self._nursery: Any = None

    async def __aenter__(self) -> Self:
        self._nursery = await self._manager.__aenter__()
        return self

    def start(self, attempt: Attempt, work: Work) -> None:
        """See :class:`AsyncRace`."""
        self._nursery.start_soon(self._do, attempt, work)

    async def next(self, wait_s: float) -> Ended | None:
        """See :class:`AsyncRace`."""
        with self._trio.move_on_after(max(0.0, wait_s)):
            while not self._results:
                self._news = self._trio.Event()
                await self._news.wait()
        return self._results.pop(0) if self._results else None

    async def __aexit__(self, *exc: object) -> None:
        self._nursery.cancel_scope.cancel()
        # Not told of an exception, it does not wrap it in a group: that passes by itself.
        await self._manager.__aexit__(None, None, None)
        for _, result, error in self._results:
            if error is None:
                self._dispose(result)

    async def _do(self, attempt: Attempt, work: Work) -> None:
        try:
            self._results.append((attempt, await work(), None))
        except Exception as error:
            self._results.append((attempt, None, error))
        self._news.set()


class OneByOne:
    """Tries that follow each other: each runs where it is waited for."""

    __slots__ = ("_next", "_sleep")

    def __init__(self, sleep: Callable[[float], Awaitable[object]]) -> None:
        self._sleep = sleep
        self._next: tuple[Attempt, Work] | None = None

    def start(self, attempt: Attempt, work: Work) -> None:
        """It runs at :meth:`next`."""
        self._next = (attempt, work)

    async def next(self, wait_s: float) -> Ended | None:
        """See :class:`AsyncRace`."""
        if self._next is None:
            await self._sleep(max(0.0, wait_s))
            return None
        (attempt, work), self._next = self._next, None
        try:
            return attempt, await work(), None
        except Exception as error:
            return attempt, None, error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Nothing runs."""


def race_here(dispose: Callable[[Any], object]) -> AsyncRace:
    """The race for whatever runs the caller: asyncio, else trio."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return TrioRace(dispose)
    return TaskRace(dispose)


__all__ = ["AsyncRace", "OneByOne", "TaskRace", "TrioRace", "race_here"]
