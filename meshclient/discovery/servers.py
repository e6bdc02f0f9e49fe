"""In which order the name servers are asked. A pure policy: the clock is given.

Nothing here sends a query.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from meshclient.discovery.dns_settings import Server

#: How long a silent server goes to the end of the line.
PENALTY_S = 30.0


class ServerOrder:
    """The order of the file, silent servers last, rotated when asked for.

    glibc starts every query at the first server, and waits its whole timeout
    each time it is dead. Here a server that timed out or could not be reached
    is asked last for 30 s, or until it answers. Not thread-safe.
    """

    __slots__ = ("_clock", "_penalties", "_turn")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._penalties: dict[Server, float] = {}
        self._turn = 0

    def order(self, servers: Sequence[Server], rotate: bool) -> tuple[Server, ...]:
        """All of ``servers``, each once, in the order to ask them for one query."""
        now = self._clock()
        self._penalties = {
            s: until for s, until in self._penalties.items() if until > now and s in servers
        }
        start = self._turn % len(servers) if rotate else 0
        self._turn += rotate
        turned = [*servers[start:], *servers[:start]]
        return tuple(sorted(dict.fromkeys(turned), key=lambda s: s in self._penalties))

    def silent(self, server: Server) -> None:
        """``server`` timed out or could not be reached."""
        self._penalties[server] = self._clock() + PENALTY_S

    def answered(self, server: Server) -> None:
        """``server`` is alive, whatever it said."""
        self._penalties.pop(server, None)
