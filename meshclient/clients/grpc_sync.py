"""The blocking gRPC driver: a ``grpc.Channel`` whose every call follows the policy.

The channel itself; its methods are in :mod:`meshclient.clients.grpc_sync_methods`. The channels
beneath are the engine's, shared with the other channels of the mesh. It holds no policy.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any

import grpc

from meshclient.clients.grpc_connectivity import Connectivity
from meshclient.clients.grpc_methods import ChannelMethods
from meshclient.clients.grpc_sync_methods import StreamStream, StreamUnary, UnaryStream, UnaryUnary

if TYPE_CHECKING:
    from meshclient.clients.grpc_engines import GrpcEngine
    from meshclient.clients.grpc_subchannels import Profile
    from meshclient.clients.grpc_sync_exchange import Exchange
    from meshclient.clients.grpc_target import Dialled
    from meshclient.clients.runtime import Runtime


class MeshChannel(ChannelMethods, grpc.Channel):
    """A ``grpc.Channel`` over the mesh. Thread-safe.

    Closing it ends its futures and streams and refuses new calls; connections belong to the
    mesh, which other channels share.
    """

    kinds = {  # noqa: RUF012 - said of ClassVar in the base
        "unary_unary": UnaryUnary,
        "unary_stream": UnaryStream,
        "stream_unary": StreamUnary,
        "stream_stream": StreamStream,
    }

    def __init__(
        self, runtime: Runtime, engine: GrpcEngine, dialled: Dialled, profile: Profile
    ) -> None:
        self.runtime = runtime
        self.engine = engine
        self.dialled = dialled
        self.profile = profile
        self._closed = False
        self._lock = threading.Lock()
        self._calls: weakref.WeakSet[Exchange] = weakref.WeakSet()
        self._connectivity = Connectivity(runtime, engine.pool, engine.timer, dialled, profile)

    def subscribe(self, callback: Any, try_to_connect: bool | None = False) -> None:
        """Have ``callback`` told of the connectivity to the endpoints as a whole."""
        self._connectivity.subscribe(callback, bool(try_to_connect))

    def unsubscribe(self, callback: Any) -> None:
        """End a subscription."""
        self._connectivity.unsubscribe(callback)

    def close(self) -> None:
        """End the futures and streams of this channel. Idempotent."""
        with self._lock:
            self._closed = True
            calls = list(self._calls)
        self._connectivity.close()
        for exchange in calls:
            exchange.cancel()

    def __enter__(self) -> MeshChannel:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def check_open(self) -> None:
        """Raises ValueError once closed, as grpcio does."""
        if self._closed:
            raise ValueError("Cannot invoke RPC on closed channel!")

    def follow(self, exchange: Exchange) -> None:
        """Have ``exchange`` end when the channel is closed."""
        with self._lock:
            self._calls.add(exchange)

    def __repr__(self) -> str:
        return f"<MeshChannel {self.dialled.target}{' closed' if self._closed else ''}>"


__all__ = ["MeshChannel"]
