"""Happy eyeballs: in which order and when the addresses of one name are tried.

Pure: ``now`` is an argument, addresses are opaque but for their family. The
shells in :mod:`.race_asyncio` and :mod:`.race_sockets` connect; nothing here
does. Source: RFC 8305; Envoy ``multi_connection_base_impl.cc`` and
``happy_eyeballs_connection_impl.cc``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import Any

#: A family, and what connect() takes.
Address = tuple[int, Any]

#: Seconds from one attempt to the next while none has failed (Envoy's 300 ms; RFC 8305: 250 ms).
GAP_S = 0.3
#: Addresses of one name that are tried, the first ones in order.
MAX_ADDRESSES = 16
#: Attempts under way at one time; the oldest gives way to a further one.
MAX_RACING = 6


def interleave(addresses: Sequence[Address]) -> list[Address]:
    """Families by turns, beginning with that of the first address; no duplicates.

    Within a family the order stays. At most :data:`MAX_ADDRESSES`.
    """
    if len(addresses) < 2:
        return list(addresses)
    first = addresses[0][0]
    same = [address for address in addresses if address[0] == first]
    other = [address for address in addresses if address[0] != first]
    turns = chain.from_iterable(zip_longest(same, other))
    return list(dict.fromkeys(address for address in turns if address))[:MAX_ADDRESSES]


class Race:
    """When the next of ``count`` attempts starts.

    The first starts at once; each further one :data:`GAP_S` after the one before, or as soon as
    an attempt fails. Where ``time_s`` (seconds for all) is too short for that, the gap
    shrinks to ``time_s / (count + 1)``, so that no address goes untried.
    """

    __slots__ = ("_count", "_gap_s", "_next_at", "started")

    def __init__(self, count: int, now: float, time_s: float) -> None:
        self._count = count
        self._gap_s = max(0.0, min(GAP_S, time_s / (count + 1)))
        self._next_at = now
        #: Attempts begun; the index of the next one.
        self.started = 0

    def due(self, now: float) -> bool:
        """Whether an attempt is to start now; then call :meth:`start`."""
        return self.started < self._count and now >= self._next_at

    def start(self, now: float) -> int:
        """The index of the address to try now."""
        index = self.started
        self.started += 1
        self._next_at = now + self._gap_s
        return index

    def failed(self) -> None:
        """An attempt failed: the next one waits no longer."""
        self._next_at = -math.inf

    def wait_s(self, now: float) -> float:
        """Seconds until the next attempt; infinity when there is none left."""
        if self.started >= self._count:
            return math.inf
        return max(0.0, self._next_at - now)


class Failures:
    """What became of the attempts that lost, for the error when all did."""

    __slots__ = ("_errors",)

    def __init__(self) -> None:
        self._errors: list[tuple[Address, OSError]] = []

    def add(self, address: Address, error: OSError) -> None:
        """One attempt failed."""
        self._errors.append((address, error))

    def error(self) -> OSError:
        """The only error there is, or one with the last one's number that names them all."""
        errors = self._errors
        if not errors:
            return OSError("the name has no address")
        last = errors[-1][1]
        if len(errors) == 1:
            return last
        parts = (f"{_text(address)}: {error.strerror or error}" for address, error in errors)
        message = f"none of {len(errors)} addresses: {'; '.join(parts)}"
        return OSError(message) if last.errno is None else OSError(last.errno, message)


def _text(address: Address) -> str:
    place = address[1]
    return place if isinstance(place, str) else str(place[0])


__all__ = ["GAP_S", "MAX_ADDRESSES", "MAX_RACING", "Address", "Failures", "Race", "interleave"]
