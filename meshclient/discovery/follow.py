"""Following the addresses of one name: one look-up, its endpoints, the next delay.

The loop around it is in :mod:`meshclient.discovery.dns`; SRV names are in
:mod:`meshclient.discovery.srv`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from meshclient.discovery.answers import LookupResult
from meshclient.discovery.base import Report
from meshclient.discovery.dns_settings import DnsSettings
from meshclient.discovery.eyeballs import HasRoute, interleave, routable, sorted_families
from meshclient.discovery.memory import AddressMemory
from meshclient.discovery.names import Names, as_literal
from meshclient.discovery.refresh import RefreshTimer
from meshclient.model.endpoint import Endpoint, EndpointSet


class Follower(Protocol):
    """One name under observation."""

    async def refresh(self, publish: Report) -> float:
        """Look the name up, publish what is known now, return the seconds to the next time."""

    def broken(self, error: Exception) -> EndpointSet:
        """What is known when a look-up ended in an error that nobody foresaw."""


class AddressFollower:
    """A and AAAA of one target, as endpoints (``strict``) or one endpoint (``logical``)."""

    __slots__ = ("_chosen", "_has_route", "_logical", "_memory", "_names", "_settings", "_target",
                 "_timer")  # fmt: skip

    def __init__(
        self,
        target: Endpoint,
        names: Names,
        settings: DnsSettings,
        timer: RefreshTimer,
        has_route: HasRoute,
        *,
        logical: bool = False,
    ) -> None:
        self._target = target
        self._names = names
        self._settings = settings
        self._timer = timer
        self._has_route = has_route
        self._logical = logical
        self._memory = AddressMemory()
        self._chosen = ""

    async def refresh(self, publish: Report) -> float:
        """See :class:`Follower`."""

        def early(result: LookupResult) -> None:
            self._memory.absorb_early(result)
            publish(self._view())

        result = await self._names.addresses(self._target.address, early)
        found, failed = self._memory.absorb(result, empty_is_failure=self._logical)
        publish(self._view())
        return self._timer.next_s(found=found, failed=failed, ttl_s=result.ttl_s)

    def broken(self, error: Exception) -> EndpointSet:
        """See :class:`Follower`."""
        self._memory.failing = True
        self._memory.error = f"{self._target.address}: {error!r}"
        return self._view()

    def _view(self) -> EndpointSet:
        memory = self._memory
        addresses = self._ranked(memory) if self._logical else self._all(memory)
        target = self._target
        literal = as_literal(target.address)
        hostname = target.hostname or ("" if literal else target.address.rstrip("."))
        if self._logical:
            heads, more = addresses[:1], addresses[1:]
        else:
            heads, more = addresses, ()
        endpoints = tuple(
            replace(target, address=a, hostname=hostname, more_addresses=more) for a in heads
        )
        kept, note = limited(endpoints, self._settings.max_endpoints, target.address)
        return EndpointSet(kept, memory.state, memory.error or note)

    def _all(self, memory: AddressMemory) -> tuple[str, ...]:
        ordered = interleave(*sorted_families((*memory.v6, *memory.v4)))
        return routable(ordered, self._has_route)

    def _ranked(self, memory: AddressMemory) -> tuple[str, ...]:
        """The address in use while it is still in the answer, else the answer's first; then
        the others, for happy eyeballs, sorted: a shuffled answer is no change.

        Envoy moves new connections to the first address of every answer; with
        servers that rotate, that would give up warm connections at each refresh.
        """
        usable = routable(interleave(memory.v6, memory.v4), self._has_route)
        if self._chosen not in usable:
            self._chosen = usable[0] if usable else ""
        others = interleave(*sorted_families(a for a in usable if a != self._chosen))
        ranked = (self._chosen, *others) if self._chosen else ()
        return ranked[: self._settings.max_endpoints]


def limited(
    endpoints: tuple[Endpoint, ...], limit: int, name: str
) -> tuple[tuple[Endpoint, ...], str]:
    """At most ``limit`` endpoints, and a note when that cut something off."""
    if len(endpoints) <= limit:
        return endpoints, ""
    note = f"{name} has {len(endpoints)} endpoints, only the first {limit} are used"
    return endpoints[:limit], note
