"""What every driver of one mesh shares: where to read the plane, clock, randomness, settings."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

from meshclient import errors
from meshclient.clients.any_loop import sleep_here

if TYPE_CHECKING:
    from meshclient.plane import Plane
    from meshclient.resilience import RetryStrategy


#: Seconds that a wait of a driver may go on after the mesh was closed.
NAP_S = 0.25


class Runtime:
    """Handed to the transports by the mesh. ``source`` has the current ``plane``.

    ``clock`` gives monotonic seconds, ``rand`` fresh unsigned 64-bit numbers;
    both are replaced in tests. ``respond``: local failures become responses.
    """

    __slots__ = ("clock", "closed", "rand", "respond", "source", "strategies", "wall_clock")

    def __init__(
        self,
        source: PlaneSource,
        clock: Callable[[], float],
        rand: Callable[[], int],
        respond: bool = False,
        strategies: dict[str, RetryStrategy] | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.source = source
        self.clock = clock
        self.rand = rand
        self.respond = respond
        self.strategies = strategies or None
        self.wall_clock = wall_clock
        self.closed = False

    def current(self) -> Plane:
        """The plane for a new call. Raises :class:`~meshclient.errors.ClosedError`."""
        if self.closed:
            raise errors.ClosedError("the mesh is closed; make a new one")
        return self.source.plane

    def sleep(self, seconds: float) -> None:
        """On this thread; shorter once the mesh is closed."""
        for nap_s in self._naps(seconds):
            time.sleep(nap_s)

    async def async_sleep(self, seconds: float) -> None:
        """On any loop; shorter once the mesh is closed."""
        for nap_s in self._naps(seconds):
            await sleep_here(nap_s)

    def _naps(self, seconds: float) -> Iterator[float]:
        """In pieces, since nothing that wakes a sleeper works for threads and every loop."""
        while seconds > NAP_S and not self.closed:
            yield NAP_S
            seconds -= NAP_S
        if not self.closed:
            yield seconds


class PlaneSource(Protocol):
    """What the publisher is to a driver: one attribute, swapped elsewhere."""

    plane: Plane
