"""Endpoints from the DNS: the loop that keeps every name of a source fresh.

Only scheduling. What an answer means is in :mod:`meshclient.discovery.memory`,
when to ask again in :mod:`meshclient.discovery.refresh`, how to ask in
:mod:`meshclient.discovery.resolver`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping

from meshclient.discovery.base import ChangeReporter, Report
from meshclient.discovery.combine import combine
from meshclient.discovery.dns_settings import DnsSettings
from meshclient.discovery.eyeballs import HasRoute, has_route
from meshclient.discovery.follow import AddressFollower, Follower
from meshclient.discovery.hosts_file import HostsFile
from meshclient.discovery.names import Names
from meshclient.discovery.refresh import RefreshTimer
from meshclient.discovery.resolver import Resolver
from meshclient.discovery.srv import SrvFollower
from meshclient.discovery.wire import Exchange, exchange
from meshclient.model.endpoint import DnsSource, Endpoint, EndpointSet

_log = logging.getLogger("meshclient.discovery")


class DnsDiscovery:
    """Serves :class:`~meshclient.model.endpoint.DnsSource`.

    The keyword arguments are for tests: monotonic seconds, floats in [0, 1),
    the sleep between refreshes, the transport of queries, the test for a
    route, and the environment. Belongs to one event loop; not thread-safe.
    """

    def __init__(
        self,
        settings: DnsSettings | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        rand: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        exchange: Exchange = exchange,
        has_route: HasRoute = has_route,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._settings = settings or DnsSettings()
        self._rand = rand
        self._sleep = sleep
        self._has_route = has_route
        resolver = Resolver(self._settings, clock=clock, exchange=exchange, environ=environ)
        hosts = HostsFile(self._settings.hosts_path(environ))
        self._names = Names(self._settings, resolver, hosts)

    async def watch(self, source: DnsSource, report: Report) -> None:
        """Follow all names of ``source`` until cancelled; DNS failures never raise.

        Each name has its own task and its own schedule. ``report`` is called
        for the first result and then only for changes.
        """
        changed = ChangeReporter(report)
        parts = [EndpointSet()] * len(source.targets)

        def publish(index: int, part: EndpointSet) -> None:
            parts[index] = part
            whole = combine(parts)
            if whole.state != "pending":
                changed(whole)

        if not parts:
            changed(combine(parts))
        async with asyncio.TaskGroup() as group:
            for index, target in enumerate(source.targets):
                group.create_task(self._follow(target, source, _bound(publish, index)))
            group.create_task(_forever())

    async def _follow(self, target: Endpoint, source: DnsSource, publish: Report) -> None:
        if target.address.startswith("unix:"):
            publish(EndpointSet((target,), "ready"))
            return
        follower = self._follower(target, source)
        while True:
            try:
                delay_s = await follower.refresh(publish)
            except Exception as error:
                # A defect must cost one refresh, not the endpoints of every name.
                _log.exception("looking up %s failed unexpectedly", target.address)
                publish(follower.broken(error))
                delay_s = self._settings.failure_max_s
            await self._sleep(delay_s)

    def _follower(self, target: Endpoint, source: DnsSource) -> Follower:
        timer = RefreshTimer(self._settings, self._rand)
        if source.mode == "srv":
            return SrvFollower(target, self._names, self._settings, timer, self._has_route)
        return AddressFollower(
            target,
            self._names,
            self._settings,
            timer,
            self._has_route,
            logical=source.mode == "logical",
        )


def _bound(publish: Callable[[int, EndpointSet], None], index: int) -> Report:
    return lambda part: publish(index, part)


async def _forever() -> None:
    await asyncio.Event().wait()
