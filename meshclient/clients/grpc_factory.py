"""From a mesh's gRPC options to a channel. grpc is imported here, and not before.

Reads the caller's arguments; opens nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshclient.clients.grpc_target import Dialled

if TYPE_CHECKING:
    from meshclient.clients.factory import Engines
    from meshclient.clients.runtime import Runtime


def grpc_channel(
    runtime: Runtime,
    engines: Engines,
    target: str,
    options: Any,
    credentials: Any,
    compression: Any,
) -> Any:
    """See ``Mesh.grpc_channel``."""
    _check_installed()
    from meshclient.clients.grpc_subchannels import Profile
    from meshclient.clients.grpc_sync import MeshChannel

    dialled = Dialled(target, credentials is not None)
    runtime.current()  # raises once the mesh is closed
    return MeshChannel(
        runtime, engines.get("grpc"), dialled, Profile(options, credentials, compression)
    )


def grpc_aio_channel(
    runtime: Runtime,
    engines: Engines,
    target: str,
    options: Any,
    credentials: Any,
    compression: Any,
    interceptors: Any,
) -> Any:
    """See ``Mesh.grpc_aio_channel``."""
    _check_installed()
    from meshclient.clients.grpc_aio import MeshAioChannel
    from meshclient.clients.grpc_subchannels import Profile

    dialled = Dialled(target, credentials is not None)
    runtime.current()  # raises once the mesh is closed
    profile = Profile(options, credentials, compression)
    return MeshAioChannel(runtime, engines.get("grpc async"), dialled, profile, interceptors)


def _check_installed() -> None:
    try:
        import grpc  # noqa: F401
    except ImportError as error:
        raise ImportError("grpcio is not installed: pip install grpcio") from error


__all__ = ["grpc_aio_channel", "grpc_channel"]
