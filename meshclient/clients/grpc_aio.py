"""The asyncio gRPC driver: a ``grpc.aio.Channel`` whose every call follows the policy.

The channel itself; its methods are in :mod:`meshclient.clients.grpc_aio_methods`. The channels
beneath are the engine's, shared with the other channels of the mesh. It holds no policy.
"""

from __future__ import annotations

import asyncio
import weakref
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from meshclient.clients.grpc_aio_interceptors import sorted_by_kind
from meshclient.clients.grpc_aio_methods import StreamStream, StreamUnary, UnaryStream, UnaryUnary
from meshclient.clients.grpc_connectivity import State, opened, together
from meshclient.clients.grpc_methods import ChannelMethods

if TYPE_CHECKING:
    from meshclient.clients.grpc_aio_exchange import AioExchange
    from meshclient.clients.grpc_engines import GrpcAioEngine
    from meshclient.clients.grpc_subchannels import Profile
    from meshclient.clients.grpc_target import Dialled
    from meshclient.clients.runtime import Runtime

#: Seconds between looks at the connectivity, while somebody waits for a change.
_FIRST_LOOK_S, _LONGEST_LOOK_S = 0.005, 0.1


class MeshAioChannel(ChannelMethods, grpc.aio.Channel):
    """A ``grpc.aio.Channel`` over the mesh; usable in any event loop, by one task or many.

    Closing it ends its calls; connections belong to the mesh, which other channels share.
    """

    kinds = {  # noqa: RUF012 - said of ClassVar in the base
        "unary_unary": UnaryUnary,
        "unary_stream": UnaryStream,
        "stream_unary": StreamUnary,
        "stream_stream": StreamStream,
    }

    def __init__(
        self,
        runtime: Runtime,
        engine: GrpcAioEngine,
        dialled: Dialled,
        profile: Profile,
        interceptors: Any = None,
    ) -> None:
        self.runtime = runtime
        self.engine = engine
        self.dialled = dialled
        self.profile = profile
        self.interceptors = sorted_by_kind(interceptors)
        self.closed = False
        self.calls: weakref.WeakSet[AioExchange] = weakref.WeakSet()

    # -- connectivity ------------------------------------------------------------------

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """That of the endpoints, taken together: the best of theirs."""
        if self.closed or self.runtime.closed:
            return State.SHUTDOWN
        pool = self.engine.pool_of(asyncio.get_running_loop())
        subs = opened(self.runtime, pool, self.dialled, self.profile)
        try:
            states = [sub.channel.get_state(try_to_connect) for sub in subs]
        finally:
            for sub in subs:
                pool.give_back(sub)
        return together(states)  # type: ignore[no-any-return]

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Until the state is another one."""
        pause_s = _FIRST_LOOK_S
        while self.get_state() is last_observed_state:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_LOOK_S)

    async def channel_ready(self) -> None:
        """Until an endpoint is connected to. Bound it with ``asyncio.timeout``.

        Raises grpc.aio.UsageError once the channel is closed.
        """
        state = self.get_state(try_to_connect=True)
        while state is not State.READY:
            if state is State.SHUTDOWN:
                raise grpc.aio.UsageError("Channel is closed.")
            await self.wait_for_state_change(state)
            state = self.get_state(try_to_connect=True)

    # -- life --------------------------------------------------------------------------

    async def close(self, grace: float | None = None) -> None:
        """Refuse new calls; end those under way, after ``grace`` seconds to finish. Idempotent."""
        self.closed = True
        calls = [exchange for exchange in self.calls if not exchange.final]
        if calls and grace:
            waits = [asyncio.ensure_future(exchange.ended()) for exchange in calls]
            _, late = await asyncio.wait(waits, timeout=grace)
            for wait in late:
                wait.cancel()
        for exchange in calls:
            exchange.cancel()

    async def __aenter__(self) -> MeshAioChannel:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<MeshAioChannel {self.dialled.target}{' closed' if self.closed else ''}>"


__all__ = ["MeshAioChannel"]
