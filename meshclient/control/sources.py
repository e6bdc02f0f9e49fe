"""One discovery task per distinct source of endpoints, and its last result.

For the control loop only. It does not resolve anything itself and does not
know which clusters use a source.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Protocol

from meshclient.control.assemble import describe_source
from meshclient.model.endpoint import EndpointSet, EndpointSource

#: Pause before a discovery that crashed is started again; doubles up to the second.
RESTART_S, MAX_RESTART_S = 1.0, 30.0

_log = logging.getLogger("meshclient.discovery")


class Discoverer(Protocol):
    """Where endpoints come from (:mod:`meshclient.discovery`)."""

    async def watch(self, source: EndpointSource, report: Callable[[EndpointSet], None]) -> None:
        """Report what is known of ``source``, each time it changes, until cancelled."""


def installed_discoverer() -> Discoverer:
    """The library's own, imported when the first mesh needs it."""
    from meshclient.discovery.base import Discoverer as Installed

    return Installed()


class DiscoveryTasks:
    """Runs ``Discoverer.watch`` for the sources to follow; keeps their results.

    ``make_discoverer`` is called when the first source is followed.
    ``changed(source, before, after)`` is called at each report that differs.
    """

    def __init__(
        self,
        make_discoverer: Callable[[], Discoverer],
        changed: Callable[[EndpointSource, EndpointSet, EndpointSet], None],
    ) -> None:
        self._make_discoverer = make_discoverer
        self._discoverer: Discoverer | None = None
        self._changed = changed
        self._tasks: dict[EndpointSource, asyncio.Task[None]] = {}
        self.results: dict[EndpointSource, EndpointSet] = {}

    def follow(self, sources: Iterable[EndpointSource]) -> None:
        """Start watching those of ``sources`` that are not watched yet."""
        for source in sources:
            if source not in self._tasks:
                self.results.setdefault(source, EndpointSet())
                name = f"discovery of {describe_source(source)}"
                self._tasks[source] = asyncio.create_task(self._run(source), name=name)

    def keep_only(self, sources: frozenset[EndpointSource]) -> None:
        """Stop watching all others and forget what they reported."""
        for source in self._tasks.keys() - sources:
            self._tasks.pop(source).cancel()
            self.results.pop(source, None)

    def pending(self, sources: Iterable[EndpointSource]) -> list[EndpointSource]:
        """Those of ``sources`` that have not answered yet, not even with an error."""
        return [s for s in sources if self.results.get(s, EndpointSet()).state == "pending"]

    async def _run(self, source: EndpointSource) -> None:
        pause_s = RESTART_S
        while True:
            try:
                await self._watch(source)
                return
            except Exception as error:
                if self._tasks.get(source) is not asyncio.current_task():
                    return  # nobody follows this source any more
                _log.exception("%s crashed", describe_source(source))
                self._fail(source, f"{type(error).__name__}: {error}")
            await asyncio.sleep(pause_s)
            pause_s = min(MAX_RESTART_S, pause_s * 2)

    async def _watch(self, source: EndpointSource) -> None:
        if self._discoverer is None:
            self._discoverer = self._make_discoverer()
        await self._discoverer.watch(source, partial(self._report, asyncio.current_task(), source))
        if self.pending([source]):
            self._fail(source, "discovery ended without an answer")

    def _report(
        self, task: asyncio.Task[None] | None, source: EndpointSource, after: EndpointSet
    ) -> None:
        # A cancelled watch may still report, while its source is followed anew.
        if self._tasks.get(source) is task:
            self._store(source, after)

    def _fail(self, source: EndpointSource, error: str) -> None:
        known = self.results.get(source, EndpointSet())
        if known.state in ("ready", "stale"):
            self._store(source, replace(known, state="stale", error=error))
        else:
            self._store(source, replace(known, state="failed", error=error))

    def _store(self, source: EndpointSource, after: EndpointSet) -> None:
        before = self.results.get(source, EndpointSet())
        self.results[source] = after
        if after != before:
            self._changed(source, before, after)
