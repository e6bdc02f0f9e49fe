"""A stream of requests that can be sent again, as long as it is short: for asyncio calls.

From the caller's iterator or its ``write``; held until an answer has come, up to a bound.
Knows nothing of retries.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from meshclient.clients.grpc_replay import MAX_REPLAY_BYTES


class AioReplayStream:
    """The caller's requests, serialized, for one try after the other. One loop's own.

    ``source`` None: they come by :meth:`put` until :meth:`end`. ``on_end`` is called once,
    after the last.
    """

    __slots__ = (
        "_ended",
        "_first",
        "_held",
        "_keep",
        "_pull",
        "_released",
        "_sent",
        "_serialize",
        "_size",
        "_source",
        "_waiters",
        "on_end",
    )

    def __init__(self, source: Any, serialize: Callable[[Any], bytes] | None) -> None:
        self._source: Any = None
        if source is not None:
            self._source = aiter(source) if hasattr(source, "__aiter__") else iter(source)
        self._serialize = serialize
        self._held: deque[bytes] = deque()
        #: Number of the first request that is still held, and of the first not yet sent.
        self._first = 0
        self._sent = 0
        self._size = 0
        self._keep = True
        self._ended = False
        self._released = False
        self._pull: asyncio.Task[Any] | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self.on_end: Callable[[], object] | None = None

    @property
    def keeps_all(self) -> bool:
        """Whether every request so far is still at hand."""
        return self._keep

    def keep_no_more(self) -> None:
        """An answer has come: what is sent need not be held."""
        self._keep = False

    async def put(self, message: Any) -> None:
        """Add a request; until gRPC has taken it, or :meth:`release` is called."""
        number = self._first + len(self._held)
        self._take(message)
        self._wake()
        while self._sent <= number and not self._released:
            await self._wait()

    def end(self) -> None:
        """There will be no more. Idempotent."""
        if not self._ended:
            self._ended = True
            if self.on_end is not None:
                self.on_end()
        self._wake()

    def release(self) -> None:
        """The call is over: nobody needs to wait."""
        self._ended = self._released = True
        self._keep = False
        self._held.clear()
        if self._pull is not None:
            self._pull.cancel()
            self._pull = None
        self._wake()

    def reader(self) -> Reader:
        """The requests from the first on, for one try."""
        return Reader(self)

    # -- for readers -------------------------------------------------------------------

    async def at(self, place: int) -> bytes:
        """Request number ``place``; those before it are sent. Raises StopAsyncIteration."""
        self._note_sent(place)
        while True:
            index = place - self._first
            if index < len(self._held):
                return self._held[index]
            if self._ended:
                raise StopAsyncIteration
            if self._source is None:
                await self._wait()
            else:
                await self._draw()

    def _note_sent(self, place: int) -> None:
        if place > self._sent:
            self._sent = place
            self._wake()
        while not self._keep and self._first < place and self._held:
            self._held.popleft()
            self._first += 1

    async def _draw(self) -> None:
        """One more of the caller's iterator."""
        try:
            if not hasattr(self._source, "__anext__"):
                self._take(next(self._source))
            elif not self._keep:
                self._take(await anext(self._source))
            else:
                await self._pull_one()
        except (StopIteration, StopAsyncIteration):
            self.end()

    async def _pull_one(self) -> None:
        # A try that is cancelled must not take the caller's iterator with it.
        pull = self._pull
        if pull is None:
            pull = self._pull = asyncio.ensure_future(_anext(self._source))
        await asyncio.wait([pull])
        if self._pull is pull:  # else another reader has had it
            self._pull = None
            self._take(pull.result())

    def _take(self, message: Any) -> None:
        self._hold(message if self._serialize is None else self._serialize(message))

    def _hold(self, item: bytes) -> None:
        self._held.append(item)
        if self._keep:
            self._size += len(item)
            self._keep = self._size <= MAX_REPLAY_BYTES

    async def _wait(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


class Reader:
    """The requests for one try. No generator: it may be left before its end."""

    __slots__ = ("_place", "_replay")

    def __init__(self, replay: AioReplayStream) -> None:
        self._replay = replay
        self._place = 0

    def __aiter__(self) -> Reader:
        return self

    async def __anext__(self) -> bytes:
        item = await self._replay.at(self._place)
        self._place += 1
        return item


async def _anext(source: Any) -> Any:
    return await anext(source)


__all__ = ["AioReplayStream"]
