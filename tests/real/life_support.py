"""Shared by the life tests: a server that echoes, policies for it, and a look at what is left."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop
import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from servers.http import HttpServer, Recorded, Reply

from meshclient import Mesh

# The first loop of uvloop opens a pipe that stays with the process.
uvloop.new_event_loop().close()

#: A bound for whatever must happen soon, on the slowest machine.
PATIENCE_S = 15.0


def echo(request: Recorded) -> Reply:
    """The path, so that a caller knows its own answer from another's."""
    return Reply(200, request.target)


def policy(*servers: HttpServer, **fields: Any) -> dict[str, Any]:
    """A native document: service ``svc`` on these servers."""
    service = {"endpoints": [server.authority for server in servers], **fields}
    return {"version": 1, "services": {"svc": service}}


def mesh_of(*servers: HttpServer, **fields: Any) -> Mesh:
    return Mesh.from_documents([policy(*servers, **fields)])


def write(path: Path, document: dict[str, Any]) -> None:
    """Atomically, as an editor or a deployment does."""
    beside = path.with_suffix(".new")
    beside.write_text(yaml.safe_dump(document))
    beside.replace(path)


def wait_for(condition: Callable[[], object], what: str = "") -> None:
    """Until it holds; fails after :data:`PATIENCE_S`."""
    limit = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > limit:
            pytest.fail(f"not in time: {what or condition}")
        time.sleep(0.002)


def in_flight(mesh: Mesh) -> int:
    """Requests that the mesh counts as under way."""
    plane = mesh._publisher.plane
    return sum(s.active_requests for s in (*plane.clusters.values(), plane.passthrough))


def busy_connections(mesh: Mesh) -> int:
    return sum(
        stats.active for engine in list(mesh._engines.values()) for stats in engine.stats().values()
    )


def descriptors() -> dict[str, str]:
    """Open descriptors and what they are."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found[name] = os.readlink(f"/proc/self/fd/{name}")
    return {name: what for name, what in found.items() if not what.startswith("/proc/")}


@contextmanager
def nothing_left() -> Iterator[None]:
    """Around a test body: no descriptor and no thread more than before, when it ends."""
    gc.collect()
    threads, opened = set(threading.enumerate()), descriptors()
    yield
    limit = time.monotonic() + PATIENCE_S
    while True:
        gc.collect()
        more_threads = [t for t in threading.enumerate() if t not in threads]
        more = {n: what for n, what in descriptors().items() if opened.get(n) != what}
        if not more_threads and len(descriptors()) <= len(opened):
            return
        assert time.monotonic() < limit, f"left: {more_threads} {more}"
        time.sleep(0.01)


def run_threads(work: Callable[[int], object], count: int) -> list[BaseException]:
    """``work(number)`` on each of ``count`` threads; what they raised. Fails if one hangs."""
    raised: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=guarded, args=(n,), daemon=True) for n in range(count)]
    for thread in threads:
        thread.start()
    join(threads)
    return raised


def join(threads: list[threading.Thread]) -> None:
    limit = time.monotonic() + PATIENCE_S
    for thread in threads:
        thread.join(max(0.0, limit - time.monotonic()))
    hanging = [thread for thread in threads if thread.is_alive()]
    assert not hanging, f"{len(hanging)} threads hang"
