"""grpc.aio's client interceptors around the calls of a mesh channel.

grpcio's own chain, whose end is a call of the mesh. The classes stand in a private module
of grpcio (the public API has no way to end a chain elsewhere); nothing else here does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import grpc.aio
from grpc.aio import _interceptor as chain

_KINDS = {
    "unary_unary": grpc.aio.UnaryUnaryClientInterceptor,
    "unary_stream": grpc.aio.UnaryStreamClientInterceptor,
    "stream_unary": grpc.aio.StreamUnaryClientInterceptor,
    "stream_stream": grpc.aio.StreamStreamClientInterceptor,
}


def sorted_by_kind(interceptors: Sequence[Any] | None) -> dict[str, list[Any]]:
    """The interceptors of each kind of call, in order. Raises ValueError for another object."""
    found: dict[str, list[Any]] = {kind: [] for kind in _KINDS}
    for interceptor in interceptors or ():
        kinds = [kind for kind, cls in _KINDS.items() if isinstance(interceptor, cls)]
        if not kinds:
            raise ValueError(f"{interceptor!r} is no client interceptor of grpc.aio")
        for kind in kinds:
            found[kind].append(interceptor)
    return found


def _ending_in_the_mesh(base: Any) -> Any:
    """grpcio's intercepted call, whose last continuation is ``channel``: a function."""

    class Intercepted(base):  # type: ignore[misc]
        async def _run_interceptor(self, interceptors: Any, *rest: Any) -> Any:
            if interceptors:
                return await super()._run_interceptor(interceptors, *rest)
            details, request = rest[-2:]
            call = self._channel(details, request)
            if hasattr(self, "_last_returned_call_from_interceptors"):
                self._last_returned_call_from_interceptors = call
            return call

    Intercepted.__name__ = Intercepted.__qualname__ = base.__name__
    return Intercepted


_CALLS = {
    "unary_unary": _ending_in_the_mesh(chain.InterceptedUnaryUnaryCall),
    "unary_stream": _ending_in_the_mesh(chain.InterceptedUnaryStreamCall),
    "stream_unary": _ending_in_the_mesh(chain.InterceptedStreamUnaryCall),
    "stream_stream": _ending_in_the_mesh(chain.InterceptedStreamStreamCall),
}


def intercepted(
    kind: str,
    interceptors: list[Any],
    end: Callable[[Any, Any], Any],
    request: Any,
    timeout: float | None,
    metadata: Any,
    credentials: Any,
    wait_for_ready: Any,
    method: str,
    loop: Any,
) -> Any:
    """A call through ``interceptors``; ``end(details, request)`` makes that of the mesh."""
    if not isinstance(metadata, grpc.aio.Metadata):
        metadata = grpc.aio.Metadata(*(metadata or ()))
    return _CALLS[kind](
        interceptors,
        request,
        timeout,
        metadata,
        credentials,
        wait_for_ready,
        end,
        method.encode(),
        None,
        None,
        loop,
    )


__all__ = ["intercepted", "sorted_by_kind"]
