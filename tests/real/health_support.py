"""Health checks on a loop of the test's own: a plane from native services, without a mesh."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from engine_support import run_on

from meshclient.balancing import EndpointState
from meshclient.cluster_state import Building
from meshclient.config import load_documents
from meshclient.control.assemble import assemble
from meshclient.health_checks import HealthChecks
from meshclient.model.endpoint import EndpointSet
from meshclient.model.events import Event
from meshclient.model.health import flag_names
from meshclient.plane import Plane, build_plane

PATIENCE_S = 8.0

#: Long enough to tell a first check from a second.
NEVER = "1h"


def seven() -> int:
    return 7


def plane_of(services: dict[str, Any], before: Plane | None = None) -> Plane:
    """A plane of static services."""
    config = load_documents([{"version": 1, "services": services}])
    old = before.snapshot if before else None
    snapshot = assemble(config, dict[Any, EndpointSet](), 1 if old is None else 2, old)
    return build_plane(snapshot, before, seven, building=Building(seven, time.monotonic()))


class World:
    """A plane, its checks, and what they told."""

    def __init__(self, **services: Any) -> None:
        self.plane = plane_of(services)
        self.events: list[Event] = []
        self.failed: list[EndpointState] = []
        self.warm = 0
        self.last: dict[str, dict[str, int]] = {}
        self.checks = HealthChecks(
            lambda: self.plane,
            time.monotonic,
            lambda: 1,
            self.events.append,
            on_failed=lambda _cluster, state: self.failed.append(state),
            on_warm=self._note_warm,
        )

    def _note_warm(self) -> None:
        self.warm += 1

    def state(self, cluster: str = "a", index: int = 0) -> EndpointState:
        return self.plane.clusters[cluster].states[index]

    def flags(self, cluster: str = "a", index: int = 0) -> str:
        return flag_names(self.state(cluster, index).flags)

    def stats(self, cluster: str = "a") -> dict[str, int]:
        """Those that are not 0; the last ones, when the checks have ended."""
        stats = self.checks.stats() or self.last
        return {k: v for k, v in stats[cluster].items() if v}

    def change(self, **services: Any) -> None:
        """Other documents are in force."""
        self.plane = plane_of(services, self.plane)
        self.checks.changed()


async def until(condition: Callable[[], object], what: str = "") -> None:
    """Wait for it; a hang is a failure."""
    limit = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < limit, what or "not in time"
        await asyncio.sleep(0.002)


def running(world: World, body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run ``body`` beside the checks; afterwards nothing of them is left."""

    async def main() -> None:
        task = asyncio.create_task(world.checks.run())
        await asyncio.sleep(0)
        try:
            await body()
        finally:
            world.last = world.checks.stats()
            begin = time.monotonic()
            task.cancel()
            await asyncio.wait((task,))
            assert time.monotonic() - begin < 1
            left = [t for t in asyncio.all_tasks() if "_ask_for_ever" in repr(t)]
            assert not left

    run_on("asyncio", main())


def check(kind: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """A check at intervals fit for a test, traffic or not."""
    common = {"interval": "20ms", "timeout": "2s", "no_traffic_interval": "20ms"}
    return {**kind, **common, **settings}
