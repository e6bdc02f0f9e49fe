"""Ties documents, discovery and publication together, for one mesh.

Decides when a new snapshot is made and which events follow. What is in a
snapshot is ``assemble``'s; how a plane is made of it is handed in.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, Protocol

from meshclient.control import after_fork
from meshclient.control.assemble import assemble, describe_source, dynamic_sources, is_dynamic
from meshclient.control.events import Subscriptions
from meshclient.control.fingerprint import Fingerprint
from meshclient.control.publisher import P, Publisher
from meshclient.control.reload import Documents, failure, same_text
from meshclient.control.sources import Discoverer, DiscoveryTasks, installed_discoverer
from meshclient.control.thread import ControlThread, run_in_thread
from meshclient.control.watcher import DEFAULT_SETTINGS, WatchSettings, watch_paths
from meshclient.errors import ClosedError
from meshclient.model.endpoint import EndpointSet, EndpointSource
from meshclient.model.events import (
    ConfigApplied,
    ConfigRejected,
    DiscoveryFailed,
    DiscoveryRecovered,
    EndpointsChanged,
    Event,
)
from meshclient.model.snapshot import MeshConfig, Snapshot
from meshclient.model.source import Diagnostic

#: How long new documents wait for the first answer of sources that only they name.
WARM_UP_S = 0.1
#: Reports of discovery that come within this time make one snapshot.
COALESCE_S = 0.005

_discovery_log = logging.getLogger("meshclient.discovery")
_log = logging.getLogger("meshclient.config")


class Background(Protocol):
    """Work that goes on beside discovery, on the same loop."""

    @property
    def needed(self) -> bool:
        """Whether the plane in force has any of it; without, no thread is started for it."""

    @property
    def warming(self) -> bool:
        """Whether the plane in force is not ready yet. It calls ``check_ready`` when it is."""

    async def run(self) -> None:
        """Until cancelled."""

    def changed(self) -> None:
        """Another plane is in force. Called on the loop."""


class Controller(Generic[P]):
    """The control side of one mesh.

    ``load`` reads the documents; it is called in the constructor (whatever it
    raises, a :class:`ConfigError` above all, reaches the caller) and, when
    ``watch`` names files or folders, again after each change of them.
    ``make_discoverer`` is called on the control thread when the first source
    has to be watched, and again in the child of a fork.
    ``build_plane(snapshot, previous)`` makes what calls read; ``previous`` is
    None the first time. ``background`` runs beside all that, on the same loop.
    ``begin`` False: nothing runs before :meth:`begin` is called.

    After construction ``publisher.plane`` is in force: clusters with static
    endpoints work at once, the others as their sources answer. Without dynamic
    sources and without ``watch`` no thread is started. Thread-safe. In the
    child of a fork the last plane stays in force, and reload and discovery
    start again at the first call.
    """

    def __init__(
        self,
        load: Callable[[], MeshConfig],
        build_plane: Callable[[Snapshot, P | None], P],
        *,
        watch: Sequence[str | os.PathLike[str]] | None = None,
        make_discoverer: Callable[[], Discoverer] = installed_discoverer,
        settings: WatchSettings = DEFAULT_SETTINGS,
        background: Sequence[Background] = (),
        begin: bool = True,
    ) -> None:
        # Before loading: what is written from here on counts as a change.
        self._fingerprint = Fingerprint(watch) if watch else None
        self._settings = settings
        self._background = tuple(background)
        self._documents = Documents(load)
        self._build_plane = build_plane
        self._make_discoverer = make_discoverer
        self._sources: DiscoveryTasks | None = None
        self._known: dict[EndpointSource, EndpointSet] = {}
        self._flush: asyncio.TimerHandle | None = None
        self._reported = asyncio.Event()
        self._closed = False
        self._lock = threading.Lock()
        self._events = Subscriptions()
        self._thread = ControlThread()
        self._tasks: list[asyncio.Task[None]] = []
        snapshot = assemble(self._documents.config, {}, 1)
        self.publisher: Publisher[P] = Publisher(build_plane(snapshot, None))
        after_fork.register(self)
        if begin:
            self.begin()

    def begin(self) -> None:
        """Start the thread if there is anything for it to do. Once, and only where the
        constructor was told not to: its owner may have to be complete before work begins."""
        if self._has_work():
            self._start()
        else:
            self.publisher.mark_ready()

    def __repr__(self) -> str:
        return f"<Controller {self.publisher!r}>"

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    def subscribe(self, callback: Callable[[Event], object]) -> Callable[[], None]:
        """Deliver events from now on; the result ends it. See :class:`Subscriptions`.

        What led to the snapshot already in force is not told again.
        """
        return self._events.subscribe(callback)

    def emit(self, event: Event) -> None:
        """Deliver an event of another part of the mesh, in the same order."""
        self._events.publish(event)

    def wait_ready(self, timeout: float | None = None) -> bool:
        """Block until every source has answered once, if only with an error.

        False after ``timeout`` seconds. Raises :class:`ClosedError` when closed.
        """
        return self.publisher.wait(timeout)

    async def async_wait_ready(self, timeout: float | None = None) -> bool:
        """:meth:`wait_ready` for asyncio."""
        return await self.publisher.async_wait(timeout)

    def close(self, timeout: float = 5.0) -> bool:
        """Stop reload, discovery and the thread; idempotent.

        Waits up to ``timeout`` seconds and returns whether all has ended. The
        last plane stays readable.
        """
        deadline = time.monotonic() + timeout
        with self._lock:
            self._closed = True
        stopped = self._thread.stop(timeout)
        self.publisher.close()
        self._events.close(min(1.0, deadline - time.monotonic()))
        return stopped

    async def aclose(self, timeout: float = 5.0) -> bool:
        """:meth:`close` without blocking the caller's event loop."""
        return await run_in_thread(lambda: self.close(timeout), "meshclient-close")

    def after_fork_in_child(self) -> None:
        """Start again at the next read of the plane."""
        self._lock = threading.Lock()
        if self._has_work() and not self._closed:
            self.publisher.hibernate(self._revive)

    def _has_work(self) -> bool:
        return (
            self._fingerprint is not None
            or bool(dynamic_sources(self._documents.config))
            or any(work.needed for work in self._background)
        )

    def _start(self) -> None:
        with self._lock:
            if not self._closed:
                self._thread.submit(self._main())

    def _revive(self) -> None:
        try:
            self._start()
        except (ClosedError, RuntimeError):
            # This runs inside somebody's call, which can go on with the last plane.
            _log.exception("reload and discovery could not start in this process")

    async def _main(self) -> None:
        try:
            await self._follow()
        except Exception:
            # Nobody awaits this coroutine, so nobody else would ever say it.
            _log.exception("the control side stopped; the last snapshot stays in force")

    async def _follow(self) -> None:
        self._flush = None
        self._reported = asyncio.Event()
        self._sources = DiscoveryTasks(self._make_discoverer, self._on_report)
        self._sources.results.update(self._known)  # in a child: what the parent knew
        self._known = self._sources.results
        self._sources.follow(dynamic_sources(self._documents.config))
        self._republish()
        # Kept, or the loop's weak references would be the only ones.
        self._tasks = [asyncio.create_task(self._run(work)) for work in self._background]
        if self._fingerprint is not None:
            await watch_paths((), self._reload, baseline=self._fingerprint, settings=self._settings)

    async def _run(self, work: Background) -> None:
        try:
            await work.run()
        except Exception:
            _log.exception("%s ended", type(work).__name__)

    # Discovery

    def _on_report(self, source: EndpointSource, before: EndpointSet, after: EndpointSet) -> None:
        self._tell_health(source, before, after)
        self._reported.set()
        if self._flush is None:
            self._flush = asyncio.get_running_loop().call_later(COALESCE_S, self._republish)

    def _tell_health(self, source: EndpointSource, before: EndpointSet, after: EndpointSet) -> None:
        name = describe_source(source)
        failing = after.state in ("failed", "stale")
        if failing == (before.state in ("failed", "stale")):
            return
        if failing:
            _discovery_log.warning("%s: %s", name, after.error)
            self._events.publish(DiscoveryFailed(name, after.error))
        else:
            _discovery_log.info("%s answers again", name)
            self._events.publish(DiscoveryRecovered(name))

    def _republish(self) -> None:
        self._flush = None
        before = self.publisher.current()
        try:
            after = self._publish(self._documents.config)
        except Exception:
            _log.exception("no plane could be built; the last one stays in force")
            return
        if after is not None:
            self._tell_endpoints(before, after)
        self.check_ready()

    def _tell_endpoints(self, before: Snapshot, after: Snapshot) -> None:
        for name, cluster in after.clusters.items():
            old = before.clusters.get(name)
            if old is None or old is cluster or not is_dynamic(cluster.discovery):
                continue
            was, now = _texts(old.endpoints), _texts(cluster.endpoints)
            if was != now:
                added, removed = tuple(sorted(now - was)), tuple(sorted(was - now))
                self._events.publish(EndpointsChanged(after.version, name, added, removed))

    def check_ready(self) -> None:
        """Let those who wait go on, if every source has answered and nothing is warming.
        Called on the control loop."""
        if self._sources is None or any(work.warming for work in self._background):
            return
        if not self._sources.pending(dynamic_sources(self._documents.config)):
            self.publisher.mark_ready()

    # Documents

    async def _reload(self) -> None:
        result = await self._documents.read_again()
        if isinstance(result, tuple):
            # Half a file is no verdict: the writer is still at it, and the watcher comes back.
            if self._fingerprint is None or not self._fingerprint.moved_on():
                self._reject(result)
        elif not same_text(self._documents.config, result):
            await self._apply(result)
        elif self._documents.rejected:
            self._documents.accept(self._documents.config)
            self._tell_applied()

    async def _apply(self, config: MeshConfig) -> None:
        assert self._sources is not None
        sources = dynamic_sources(config)
        self._sources.follow(sources)
        await self._warm_up(sources)
        try:
            self._publish(config, documents_changed=True)
        except Exception as error:
            _log.exception("no plane could be built from the new documents")
            self._reject((failure("unusable", error),))
            sources = dynamic_sources(self._documents.config)
        else:
            self._documents.accept(config)
            self._tell_applied()
        self._sources.keep_only(sources)
        self.check_ready()

    async def _warm_up(self, sources: frozenset[EndpointSource]) -> None:
        """Let new sources answer first, so that no call meets an empty cluster."""
        assert self._sources is not None
        try:
            async with asyncio.timeout(WARM_UP_S):
                while self._sources.pending(sources - dynamic_sources(self._documents.config)):
                    self._reported.clear()
                    await self._reported.wait()
        except TimeoutError:
            pass  # one name that does not resolve must not hold up the rest

    def _reject(self, diagnostics: tuple[Diagnostic, ...]) -> None:
        if self._documents.reject(diagnostics):
            version = self.publisher.current().version
            self._events.publish(ConfigRejected(version, diagnostics))

    def _tell_applied(self) -> None:
        snapshot = self.publisher.current()
        _log.info("policy in force: version %d, %d files", snapshot.version, len(snapshot.files))
        self._events.publish(ConfigApplied(snapshot.version, snapshot.files, snapshot.diagnostics))

    def _publish(self, config: MeshConfig, documents_changed: bool = False) -> Snapshot | None:
        """Put a new snapshot in force; None if it would say the same as the last one."""
        plane = self.publisher.plane
        old = plane.snapshot
        new = assemble(config, self._known, old.version + 1, old)
        if not documents_changed and _same_clusters(old, new):
            return None
        self.publisher.publish(self._build_plane(new, plane))
        for work in self._background:
            work.changed()
        return new


def _texts(endpoints: Sequence[object]) -> set[str]:
    return {str(endpoint) for endpoint in endpoints}


def _same_clusters(old: Snapshot, new: Snapshot) -> bool:
    return old.clusters.keys() == new.clusters.keys() and all(
        old.clusters[name] is cluster for name, cluster in new.clusters.items()
    )
