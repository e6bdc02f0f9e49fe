"""Letting go of asyncio connections whose loop ends, is gone, or belongs to a parent process.

Three ways a connection can outlive the loop that could close it. Nothing here
waits, and nothing here raises.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from meshclient.transport.asyncio_shell import AsyncConnection

_INHERITED: Final[list[object]] = []


async def at_loop_end(callback: Callable[[], None]) -> AsyncGenerator[None, None]:
    """Have ``callback`` run while the running loop shuts down, sockets still closable.

    asyncio has no such hook but one: ``loop.shutdown_asyncgens()``, which
    ``asyncio.run`` (and every runner modelled on it) awaits before it closes the
    loop, and which closes the async generators that were started on it. So the
    hook is a generator that waits. Keep the return value; ``aclose`` it to run
    the callback early.
    """
    generator = _waiting(callback)
    await anext(generator)
    return generator


async def _waiting(callback: Callable[[], None]) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        callback()
        # Transports give up their sockets in a callback of the next iteration.
        await asyncio.sleep(0)


def abandon(connection: AsyncConnection) -> None:
    """Close a connection whose loop was closed under it."""
    with suppress(Exception):
        connection.forget()
    transport: Any = connection.transport
    with suppress(Exception):  # "Event loop is closed"; marks a TLS transport as closed
        transport.abort()
    inner = getattr(getattr(transport, "_ssl_protocol", None), "_transport", transport)
    # The step that abort() could not schedule any more. It has no public name;
    # without it, asyncio only warns and leaves the socket to the collector.
    last_step = getattr(inner, "_call_connection_lost", None)
    if last_step is not None:
        with suppress(Exception):
            last_step(None)
    with suppress(Exception):
        connection.sock.close()


def inherit(shard: object, connections: Sequence[AsyncConnection]) -> None:
    """In a forked child: drop the parent's connections, silently.

    Only file descriptors are closed. No transport is touched, because the
    child shares the parent's epoll set, nor TLS, whose goodbye would end the
    parent's session. The objects are kept, so that no destructor of theirs runs.
    """
    _INHERITED.append(shard)
    for connection in connections:
        _INHERITED.append(connection)
        with suppress(Exception):
            connection.sock.close()
