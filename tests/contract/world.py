"""The upstreams of the contract suite: two scripted servers, a refusing port, a port that
never answers. Made once, used by one scenario at a time."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Any

from servers.http import HttpServer, Recorded, Reply

from .scenario import Scenario, Step

PATIENCE_S = 5.0


class World:
    """``address(name)``: ``a`` and ``b`` answer, ``refused`` refuses, ``black_hole``
    takes no connection and gives no sign, ``deaf`` takes connections and reads nothing."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._script: Sequence[Step] = ()
        self._arrived: list[tuple[str, Recorded]] = []
        self.servers = {name: self._serve(name) for name in ("a", "b")}
        self._addresses = {s.authority: name for name, s in self.servers.items()}
        self._addresses[self._refusing()] = "refused"
        self._addresses[self._black_hole()] = "black_hole"
        self._addresses[self._deaf()] = "deaf"

    def close(self) -> None:
        self._stack.close()

    def address(self, name: str) -> str:
        return next(address for address, known in self._addresses.items() if known == name)

    def url(self, text: str) -> str:
        """``{a}`` and so on in ``text`` are addresses."""
        return text.format(**{name: address for address, name in self._addresses.items()})

    def name(self, address: str) -> str:
        return self._addresses.get(address, address)

    def documents(self, scenario: Scenario) -> list[dict[str, Any]]:
        """The policy of a scenario."""
        if scenario.documents is not None:
            return scenario.documents(self)
        service = {"endpoints": [self.address(e) for e in scenario.endpoints], **scenario.service}
        return [{"version": 1, "services": {"svc": service}}]

    def begin(self, script: Sequence[Step]) -> None:
        """Forget what arrived, and follow ``script``."""
        self._script = script
        self._arrived = []

    def end(self, expected: int) -> list[tuple[str, Recorded]]:
        """What arrived, once it is ``expected`` requests.

        A server may still be about to read what a client has given up on.
        """
        self.servers["a"].wait_for(lambda: len(self._arrived) >= expected, PATIENCE_S)
        return list(self._arrived)

    def open_connections(self) -> int:
        """Connections that are still open when all should be closed."""
        for server in self.servers.values():
            server.wait_for(lambda s=server: s.open_connections == 0, PATIENCE_S)  # type: ignore[misc]
        return sum(server.open_connections for server in self.servers.values())

    def _serve(self, name: str) -> HttpServer:
        server = HttpServer(name=name)
        server.handler = lambda request: self._answer(name, request)
        return self._stack.enter_context(server)

    def _answer(self, name: str, request: Recorded) -> Reply:
        self._arrived.append((name, request))
        step = self._script[min(len(self._arrived), len(self._script)) - 1]
        reply = step(request) if callable(step) else step
        for server in self.servers.values():
            server.note()
        return reply

    def _refusing(self) -> str:
        """Bound, but not listening: nobody else can take the port."""
        holder = self._stack.enter_context(socket.socket())
        holder.bind(("127.0.0.1", 0))
        return "{}:{}".format(*holder.getsockname())

    def _deaf(self) -> str:
        """A listener that never accepts: the kernel takes what its buffers hold."""
        listener = self._stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=128))
        return "{}:{}".format(*listener.getsockname())

    def _black_hole(self) -> str:
        """A listener whose queue is full: the kernel drops what else knocks."""
        listener = self._stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            caller = self._stack.enter_context(socket.socket())
            caller.setblocking(False)
            with suppress(BlockingIOError):
                caller.connect(listener.getsockname())
        return "{}:{}".format(*listener.getsockname())


class Time:
    """A clock that only a nap moves beyond the real one, and the naps that were taken."""

    def __init__(self, monotonic: Any) -> None:
        self._monotonic = monotonic
        self._ahead_s = 0.0
        self.naps: list[float] = []

    def clock(self) -> float:
        return float(self._monotonic()) + self._ahead_s

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self._ahead_s += seconds

    async def async_sleep(self, seconds: float) -> None:
        self.sleep(seconds)


def counter() -> Any:
    """Randomness that is the same in every driver: 0, 1, 2 ..."""
    return itertools.count().__next__
