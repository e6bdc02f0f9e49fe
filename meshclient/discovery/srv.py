"""Following an SRV name (RFC 2782): its targets with their port, weight and priority.

The addresses of the targets come from the additional section, or from
look-ups of their own. The loop is in :mod:`meshclient.discovery.dns`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from meshclient.discovery.answers import Glue, LookupFailed, LookupResult, Records, SrvRecord
from meshclient.discovery.base import Report
from meshclient.discovery.dns_settings import DnsSettings
from meshclient.discovery.eyeballs import HasRoute, interleave, routable, sorted_families
from meshclient.discovery.follow import limited
from meshclient.discovery.memory import AddressMemory, doubt
from meshclient.discovery.names import Names
from meshclient.discovery.refresh import RefreshTimer
from meshclient.model.endpoint import Endpoint, EndpointSet

#: Targets of one SRV name that are looked up at the same time, and for how long in all.
TARGETS_AT_ONCE = 8
TARGETS_TIME_S = 30.0


class SrvFollower:
    """The endpoints behind one SRV name."""

    __slots__ = ("_asked", "_error", "_failing", "_has_route", "_memories", "_names", "_note",
                 "_records", "_settings", "_target", "_timer")  # fmt: skip

    def __init__(
        self,
        target: Endpoint,
        names: Names,
        settings: DnsSettings,
        timer: RefreshTimer,
        has_route: HasRoute,
    ) -> None:
        self._target = target
        self._names = names
        self._settings = settings
        self._timer = timer
        self._has_route = has_route
        self._asked = ""
        self._records: tuple[SrvRecord, ...] = ()
        self._memories: dict[str, AddressMemory] = {}
        self._failing = False
        self._error = ""
        self._note = ""

    async def refresh(self, publish: Report) -> float:
        """See :class:`~meshclient.discovery.follow.Follower`."""
        result = await self._names.resolver.lookup(self._target.address, ("SRV",))
        part = result.parts["SRV"]
        error = part.text if isinstance(part, LookupFailed) else doubt(result, self._asked)
        self._failing = bool(error)
        self._error = error
        if error or isinstance(part, LookupFailed):
            publish(self._view())
            return self._timer.next_s(found=False, failed=True, ttl_s=0.0)
        self._asked = result.name
        ttl_s, failed = await self._take(part, result)
        publish(self._view())
        return self._timer.next_s(found=bool(self._records), failed=failed, ttl_s=ttl_s)

    def broken(self, error: Exception) -> EndpointSet:
        """See :class:`~meshclient.discovery.follow.Follower`."""
        self._failing = True
        self._error = f"{self._target.address}: {error!r}"
        return self._view()

    async def _take(self, part: Records, result: LookupResult) -> tuple[float, bool]:
        """New records; returns the smallest TTL, and whether a target failed."""
        records = [r for r in part.services if r.target != "."]
        # Lowest priority number first, so that a cut takes the least wanted.
        records.sort(key=lambda r: (r.priority, r.target, r.port, r.weight))
        limit = self._settings.max_endpoints
        self._records = tuple(records[:limit])
        self._note = ""
        if len(records) > limit:
            self._note = f"{result.name} has {len(records)} targets, only {limit} are used"
        elif not records and part.services:
            self._note = f"{result.name}: the service is decidedly not available here (target .)"
        elif not records:
            self._note = result.denial()
        answers = await self._resolve(tuple(dict.fromkeys(r.target for r in self._records)), part)
        self._memories = {t: self._memories.get(t) or AddressMemory() for t in answers}
        failed = False
        for target, answer in answers.items():
            failed |= self._memories[target].absorb(answer)[1]
        return min([part.ttl_s, *(a.ttl_s for a in answers.values() if a.found)]), failed

    async def _resolve(self, targets: Sequence[str], part: Records) -> dict[str, LookupResult]:
        glue = {g.target: _from_glue(g, part) for g in part.glue}
        slots = asyncio.Semaphore(TARGETS_AT_ONCE)

        async def look_up(target: str) -> LookupResult:
            async with slots:
                return await self._names.addresses(target)

        tasks = {t: asyncio.ensure_future(look_up(t)) for t in targets if t not in glue}
        try:
            if tasks:
                await asyncio.wait(tasks.values(), timeout=TARGETS_TIME_S)
            late = LookupFailed("timeout", f"not looked up within {TARGETS_TIME_S:g} s")
            return {
                t: glue.get(t)
                or (tasks[t].result() if tasks[t].done() else LookupResult(t, {"A": late}))
                for t in targets
            }
        finally:
            for task in tasks.values():
                task.cancel()

    def _view(self) -> EndpointSet:
        memories = self._memories
        addresses = {
            target: routable(interleave(*sorted_families((*m.v6, *m.v4))), self._has_route)
            for target, m in memories.items()
        }
        endpoints = srv_endpoints(self._target, self._records, addresses)
        kept, note = limited(endpoints, self._settings.max_endpoints, self._target.address)
        errors = [self._error, *(m.error for m in memories.values() if m.failing)]
        error = "; ".join(dict.fromkeys(e for e in errors if e))
        if not (self._failing or error):
            return EndpointSet(kept, "ready", self._note or note or _notes(memories.values()))
        # Without any endpoint to go on with, a failure before the first success is final.
        ever = bool(self._asked) and (bool(kept) or not self._records)
        return EndpointSet(kept, "stale" if ever else "failed", error)


def _notes(memories: Iterable[AddressMemory]) -> str:
    return "; ".join(m.error for m in memories if m.error)


def _from_glue(glue: Glue, part: Records) -> LookupResult:
    """Addresses that came along count as the whole truth about the target."""
    return LookupResult(
        glue.target,
        {
            "AAAA": Records("found" if glue.v6 else "no_data", part.ttl_s, glue.v6),
            "A": Records("found" if glue.v4 else "no_data", part.ttl_s, glue.v4),
        },
    )


def srv_endpoints(
    base: Endpoint, records: Sequence[SrvRecord], addresses: Mapping[str, Sequence[str]]
) -> tuple[Endpoint, ...]:
    """Endpoints in the order of ``records``, which are sorted by priority.

    Each address of a target carries its record's weight; 0 becomes 1, the
    smallest weight there is. Priorities are numbered from 0 over the targets
    that have an address, because endpoint priorities must leave no gap.
    Labels and locality are those of ``base``, host names those of the targets.
    """
    usable = [r for r in records if addresses.get(r.target)]
    levels = {p: i for i, p in enumerate(sorted({r.priority for r in usable}))}
    return tuple(
        replace(
            base,
            address=address,
            port=record.port,
            weight=max(record.weight, 1),
            hostname=record.target.rstrip("."),
            priority=levels[record.priority],
        )
        for record in usable
        for address in addresses[record.target]
    )
