"""Interceptor for ``grpc.server``: what an RPC brings along is there for the calls made for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

import grpc

from meshclient.server.grpc_common import Marking, iterate, read, rewrap
from meshclient.telemetry.propagation import INBOUND

if TYPE_CHECKING:
    from meshclient.mesh import Mesh
    from meshclient.model.inbound import Inbound


class ServerInterceptor(grpc.ServerInterceptor):
    """``grpc.server(pool, interceptors=[ServerInterceptor()])``, as the first one.

    ``mesh`` as in :class:`meshclient.server.ASGIMiddleware`; the RPC's own deadline
    (``grpc-timeout``) bounds calls, too. The method, and each message of a streamed response,
    runs in a context of its own, so that nothing is left on the pool's thread. RPCs that fail
    after retries in vain get the retry mark and gRPC's push-back in their trailing metadata.
    """

    def __init__(self, mesh: Mesh | None = None) -> None:
        self._mesh = mesh

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        """Wrap the method's handler. Called by grpcio for each RPC."""
        handler = continuation(details)
        metadata = details.invocation_metadata

        def enter(servicer: Any) -> tuple[Inbound, Context]:
            inbound = read(self._mesh, metadata, servicer.time_remaining())
            context = copy_context()
            context.run(INBOUND.set, inbound)
            return inbound, context

        def unary(behaviour: Callable[..., Any]) -> Callable[..., Any]:
            def around(request: Any, servicer: Any) -> Any:
                inbound, context = enter(servicer)
                with Marking(inbound, servicer):
                    return context.run(behaviour, request, servicer)

            return around

        def stream(behaviour: Callable[..., Any]) -> Callable[..., Any]:
            def around(request: Any, servicer: Any) -> Iterator[Any]:
                inbound, context = enter(servicer)
                with Marking(inbound, servicer):
                    yield from iterate(behaviour, request, servicer, context)

            return around

        return rewrap(handler, unary, stream)


__all__ = ["ServerInterceptor"]
