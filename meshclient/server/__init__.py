"""Middlewares for servers: each request's trace, headers and deadline go along with its calls.

``ASGIMiddleware``, ``WSGIMiddleware``, ``ServerInterceptor`` (grpc) and
``AioServerInterceptor`` (grpc.aio); ``carry`` takes the request along into a thread of your own.
Each loads at its first use. Nothing here changes what an application answers, but for one
header that says that repeating is in vain.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshclient.server.asgi import ASGIMiddleware
    from meshclient.server.grpc import ServerInterceptor
    from meshclient.server.grpc_aio import AioServerInterceptor
    from meshclient.server.wsgi import WSGIMiddleware
    from meshclient.telemetry.propagation import carry

__all__ = ["ASGIMiddleware", "AioServerInterceptor", "ServerInterceptor", "WSGIMiddleware", "carry"]

_HOMES = {
    "ASGIMiddleware": "meshclient.server.asgi",
    "AioServerInterceptor": "meshclient.server.grpc_aio",
    "ServerInterceptor": "meshclient.server.grpc",
    "WSGIMiddleware": "meshclient.server.wsgi",
    "carry": "meshclient.telemetry.propagation",
}


def __getattr__(name: str) -> object:
    """Load a name at its first use (PEP 562)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
