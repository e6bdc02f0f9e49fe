"""pybreaker's Redis storage over connections with time limits, which says when it fails.

Imports redis when a breaker is shared, not before. Blocking: only ever used away
from calls.
"""

from __future__ import annotations

import copy
from typing import Any

_clients: dict[tuple[str, float], Any] = {}


class _Raising:
    """In the place of pybreaker's logger: a storage that swallows errors raises them."""

    def exception(self, message: str, *args: object) -> None:  # noqa: ARG002
        raise


def open_storage(url: str, namespace: str, name: str, timeout_s: float) -> Any:
    """A ``CircuitRedisStorage`` for the breaker ``name``; closed, where nothing is stored.

    Raises what redis raises when the server does not answer within ``timeout_s``,
    ModuleNotFoundError without the package ``redis``.
    """
    import pybreaker

    # Not on top: the client is an extra.
    import redis

    client = _clients.get((url, timeout_s))
    if client is None:
        client = redis.Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=None,
            max_connections=2,
        )
        _clients[url, timeout_s] = client

    class Storage(pybreaker.CircuitRedisStorage):
        logger = _Raising()  # type: ignore[assignment, unused-ignore]

    return Storage(pybreaker.STATE_CLOSED, client, namespace=f"{namespace}:{name}")


def raising(storage: Any) -> Any:
    """The caller's own storage, as one that raises; the object itself stays as it is."""
    if not hasattr(storage, "logger"):
        return storage
    twin = copy.copy(storage)
    twin.logger = _Raising()
    return twin


def close_clients() -> None:
    """Close every connection. Later use opens new ones."""
    while _clients:
        _clients.popitem()[1].close()


__all__ = ["close_clients", "open_storage", "raising"]
