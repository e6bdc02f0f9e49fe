"""The gRPC engines of a mesh: the sub-channels of each colour, their timer and TLS relay.

What the mesh closes, drains and repairs after a fork. Calls are not made here.
"""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Any
from weakref import WeakKeyDictionary

import grpc
import grpc.aio

from meshclient.clients.grpc_relay import Relay
from meshclient.clients.grpc_subchannels import SubPool
from meshclient.clients.grpc_timer import Timer
from meshclient.transport.interface import Target

#: What a child of a fork must neither use nor finalise.
_inherited: list[Any] = []


class SubchannelStats:
    """How many channels lead to a target, and how many calls are on them."""

    __slots__ = ("calls", "channels")

    def __init__(self, channels: int, calls: int) -> None:
        self.channels, self.calls = channels, calls

    def __repr__(self) -> str:
        return f"<SubchannelStats channels={self.channels} calls={self.calls}>"


class _Engine(ABC):
    """The relay, made when TLS is first needed, and what both colours say of themselves."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._relay: Relay | None = None
        self.closed = False

    def relay(self) -> Relay:
        with self._lock:
            if self._relay is None:
                self._relay = Relay()
            return self._relay

    @abstractmethod
    def _pools(self) -> list[SubPool]:
        """The sub-channels of every loop, or of all threads."""

    def stats(self) -> dict[Target, SubchannelStats]:
        """Per target, over all loops."""
        found: dict[Target, SubchannelStats] = {}
        for pool in self._pools():
            for target, (channels, calls) in pool.counts().items():
                seen = found.setdefault(target, SubchannelStats(0, 0))
                seen.channels += channels
                seen.calls += calls
        return found

    def retain(self, targets: Collection[Target]) -> None:
        """Let go of all other targets; calls in flight there finish."""
        for pool in self._pools():
            pool.retain(targets)

    def _close_relay(self) -> None:
        with self._lock:
            relay, self._relay = self._relay, None
        if relay is not None:
            relay.close()

    def _forget(self) -> None:
        """The parent's lock and relay are not ours."""
        self._lock = threading.Lock()
        if self._relay is not None:
            self._relay.after_fork_in_child()
            _inherited.append(self._relay)
            self._relay = None


class GrpcEngine(_Engine):
    """Blocking channels. Thread-safe."""

    def __init__(self) -> None:
        super().__init__()
        self.timer = Timer()
        self.pool = self._new_pool()

    def _new_pool(self) -> SubPool:
        return SubPool(_sync_channel, self._end, self.relay)

    def _end(self, channel: Any) -> None:
        # Not here: this may be the channel's own thread, which it would wait for.
        self.timer.later(0.0, channel.close)

    def _pools(self) -> list[SubPool]:
        return [self.pool]

    def close(self) -> None:
        """Every call in flight ends as cancelled. Idempotent, from any thread."""
        self.closed = True
        for channel in self.pool.close():
            channel.close()
        self.timer.close()
        self._close_relay()

    def after_fork_in_child(self) -> None:
        self._forget()
        _inherited.append((self.pool, self.timer))
        self.timer = Timer()
        self.pool = self._new_pool()


class GrpcAioEngine(_Engine):
    """asyncio channels, those of each event loop apart."""

    def __init__(self) -> None:
        super().__init__()
        self._by_loop: WeakKeyDictionary[Any, SubPool] = WeakKeyDictionary()
        self._closing: set[Any] = set()

    def pool_of(self, loop: asyncio.AbstractEventLoop) -> SubPool:
        """The sub-channels of ``loop``, which is running."""
        pool = self._by_loop.get(loop)
        if pool is None:
            with self._lock:
                pool = self._by_loop.get(loop)
                if pool is None:
                    pool = self._by_loop[loop] = self._new_pool(loop)
        return pool

    def _new_pool(self, loop: asyncio.AbstractEventLoop) -> SubPool:
        def end(channel: Any) -> None:
            self._end_on(loop, [channel])

        pool = SubPool(_aio_channel, end, self.relay)
        pool.closed = self.closed
        return pool

    def _end_on(self, loop: asyncio.AbstractEventLoop, channels: list[Any]) -> None:
        def start() -> None:
            for channel in channels:
                task = loop.create_task(channel.close(None))
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)

        if loop.is_closed():
            return  # its channels ended with it
        try:
            loop.call_soon_threadsafe(start)
        except RuntimeError:  # closed at this very moment
            return

    def _pools(self) -> list[SubPool]:
        with self._lock:
            return list(self._by_loop.values())

    def close(self) -> None:
        """Every call in flight ends as cancelled. Idempotent, from any thread."""
        self.closed = True
        with self._lock:
            pools = list(self._by_loop.items())
        for loop, pool in pools:
            channels = pool.close()
            if channels:
                self._end_on(loop, channels)
        self._close_relay()

    async def aclose(self) -> None:
        """:meth:`close`, and wait for the channels of the running loop to be closed."""
        pool = self._by_loop.get(asyncio.get_running_loop())
        if pool is not None:
            for channel in pool.close():
                await channel.close(None)
        if self._closing:
            await asyncio.wait(list(self._closing), timeout=5.0)
        await asyncio.to_thread(self.close)

    def after_fork_in_child(self) -> None:
        self._forget()
        _inherited.append((self._by_loop, self._closing))
        self._by_loop = WeakKeyDictionary()
        self._closing = set()


def _sync_channel(address: str, options: Any, credentials: Any, compression: Any) -> Any:
    if credentials is not None:
        return grpc.secure_channel(address, credentials, options, compression)
    return grpc.insecure_channel(address, options, compression)


def _aio_channel(address: str, options: Any, credentials: Any, compression: Any) -> Any:
    if credentials is not None:
        return grpc.aio.secure_channel(address, credentials, options, compression)
    return grpc.aio.insecure_channel(address, options, compression)


__all__ = ["GrpcAioEngine", "GrpcEngine", "SubchannelStats"]
