"""What every source of endpoints offers, and the choice of one by source type.

No name is resolved and no registry is asked here; that is the business of the
modules that implement :class:`Discovery`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, TypeVar

from meshclient.discovery.dns_settings import DnsSettings
from meshclient.model.endpoint import (
    DnsSource,
    EndpointSet,
    EndpointSource,
    RegistrySource,
)

Report = Callable[[EndpointSet], None]
SourceT = TypeVar("SourceT", contravariant=True)


class Discovery(Protocol[SourceT]):
    """Follows one kind of source."""

    async def watch(self, source: SourceT, report: Report) -> None:
        """Report what is known of ``source`` now and at every change, until cancelled.

        Failures of the registry are reported, never raised. ``report`` is
        called on the event loop that runs the coroutine.
        """


class ChangeReporter:
    """Passes a set on only when its endpoints or its state differ from the last one.

    The error text alone does not count: it names servers and times, which
    change while the situation stays the same.
    """

    __slots__ = ("_last", "_report")

    def __init__(self, report: Report) -> None:
        self._report = report
        self._last: EndpointSet | None = None

    def __call__(self, found: EndpointSet) -> None:
        last = self._last
        if last and last.state == found.state and last.endpoints == found.endpoints:
            return
        self._last = found
        self._report(found)


class Discoverer:
    """Watches any :data:`~meshclient.model.endpoint.EndpointSource`.

    One object serves all sources of one event loop and shares what has to be
    shared between them: the limit on queries in flight, the memory of dead
    name servers, the parsed system files. Not thread-safe, and bound to the
    loop of its first ``watch``: after a fork, make a new one.
    """

    __slots__ = ("_dns",)

    def __init__(
        self,
        dns_settings: DnsSettings | None = None,
        *,
        dns: Discovery[DnsSource] | None = None,
    ) -> None:
        if dns is None:
            from meshclient.discovery.dns import DnsDiscovery

            dns = DnsDiscovery(dns_settings)
        self._dns = dns

    async def watch(self, source: EndpointSource, report: Report) -> None:
        """Follow ``source`` until cancelled.

        A static source and an original destination have nothing to discover:
        they never report. A registry without a module reports ``failed`` once.
        """
        if isinstance(source, DnsSource):
            await self._dns.watch(source, report)
            return
        if isinstance(source, RegistrySource):
            report(EndpointSet(state="failed", error=_no_module(source)))
        await asyncio.Event().wait()


def _no_module(source: RegistrySource) -> str:
    settings = ", ".join(f"{name}={value}" for name, value in source.settings)
    what = f"{source.kind} ({settings})" if settings else source.kind
    return (
        f"no installed discovery module serves the registry {what}; "
        "list the endpoints, or use dns or srv"
    )
