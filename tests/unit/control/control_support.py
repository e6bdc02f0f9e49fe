"""Small meshes, a scripted discoverer and an event loop in virtual time."""

from __future__ import annotations

import asyncio
import selectors
import threading
from collections.abc import Callable, Coroutine
from types import MappingProxyType
from typing import Any, TypeVar

from meshclient.control import Controller
from meshclient.model.cluster import Cluster
from meshclient.model.endpoint import DnsSource, Endpoint, EndpointSet, EndpointSource, labels_of
from meshclient.model.events import Event
from meshclient.model.snapshot import MeshConfig, Snapshot

T = TypeVar("T")
PATIENCE_S = 20.0  # only a failing test waits this long


class Plane:
    def __init__(self, snapshot: Snapshot, previous: Plane | None = None) -> None:
        self.snapshot = snapshot
        self.previous = previous


def endpoint(text: str, **labels: str) -> Endpoint:
    address, _, port = text.rpartition(":")
    return Endpoint(address, int(port), labels=labels_of(labels))


def dns(*names: str) -> DnsSource:
    return DnsSource(tuple(endpoint(name) for name in names))


def static(name: str, *addresses: str) -> Cluster:
    return Cluster(name, endpoints=tuple(endpoint(a) for a in addresses))


def config(*clusters: Cluster, **fields: Any) -> MeshConfig:
    return MeshConfig(clusters=MappingProxyType({c.name: c for c in clusters}), **fields)


def ready(*addresses: str) -> EndpointSet:
    return EndpointSet(tuple(endpoint(a) for a in addresses), "ready")


class ScriptedDiscoverer:
    """Reports what the test says, when it says so."""

    def __init__(self) -> None:
        self.reports: dict[EndpointSource, Callable[[EndpointSet], None]] = {}
        self.starts: list[EndpointSource] = []
        self.cancelled: list[EndpointSource] = []
        self.loop: asyncio.AbstractEventLoop | None = None
        self.changed = threading.Condition()

    async def watch(self, source: EndpointSource, report: Callable[[EndpointSet], None]) -> None:
        with self.changed:
            self.loop = asyncio.get_running_loop()
            self.reports[source] = report
            self.starts.append(source)
            self.changed.notify_all()
        try:
            await asyncio.Event().wait()
        finally:
            with self.changed:
                self.cancelled.append(source)
                self.changed.notify_all()

    def wait_for(self, condition: Callable[[], object]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, PATIENCE_S)

    def say(self, source: EndpointSource, found: EndpointSet) -> None:
        """From the test's thread; waits until the source is watched."""
        self.wait_for(lambda: source in self.reports)
        assert self.loop is not None
        self.loop.call_soon_threadsafe(self.reports[source], found)


class Recorder:
    """Collects events and lets a test wait for one."""

    def __init__(self, controller: Controller[Plane]) -> None:
        self.events: list[Event] = []
        self._changed = threading.Condition()
        controller.subscribe(self._on_event)

    def _on_event(self, event: Event) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def wait_for(self, kind: type[Event], count: int = 1) -> Event:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.of(kind)) >= count, PATIENCE_S), (
                f"no {kind.__name__} among {self.events}"
            )
            return self.of(kind)[count - 1]

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]


class _JumpingSelector(selectors.SelectSelector):
    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if found := super().select(0):
            return found
        if timeout is None:
            raise RuntimeError("nothing is scheduled: this test would wait for ever")
        self.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time passes only when there is nothing else to do, and then at once."""

    def __init__(self) -> None:
        self.jumping = _JumpingSelector()
        super().__init__(self.jumping)

    def time(self) -> float:
        return self.jumping.now


def run_virtual(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main())
