"""A tiny file format and a controller on it, for tests with real files."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from types import MappingProxyType

from meshclient.control import Controller
from meshclient.errors import ConfigError
from meshclient.model.cluster import Cluster
from meshclient.model.endpoint import Endpoint
from meshclient.model.events import Event
from meshclient.model.snapshot import MeshConfig, Snapshot
from meshclient.model.source import Diagnostic, Source

PATIENCE_S = 20.0  # only a failing test waits this long


class Plane:
    def __init__(self, snapshot: Snapshot, previous: Plane | None = None) -> None:
        self.snapshot = snapshot


def load(*paths: Path) -> MeshConfig:
    """``{"service": port}`` objects in ``*.json`` files, or in the one file named."""
    clusters: dict[str, Cluster] = {}
    files: list[str] = []
    errors: list[Diagnostic] = []
    for root in paths:
        found = sorted(root.glob("[!.]*.json")) if root.is_dir() else [root]
        for path in found:
            files.append(str(path))
            try:
                for name, port in json.loads(path.read_text()).items():
                    clusters[name] = Cluster(name, endpoints=(Endpoint("127.0.0.1", port),))
            except json.JSONDecodeError as error:
                where = Source(str(path), error.lineno, error.colno)
                errors.append(Diagnostic("error", "syntax", error.msg, where))
            except OSError as error:
                errors.append(Diagnostic("error", "unreadable", str(error), Source(str(path))))
    if errors:
        raise ConfigError(errors)
    return MeshConfig(clusters=MappingProxyType(clusters), files=tuple(files))


class Watched:
    """An open controller on some paths, with its events."""

    def __init__(self, *paths: Path) -> None:
        self.events: list[Event] = []
        self._changed = threading.Condition()
        self.controller = Controller(lambda: load(*paths), Plane, watch=paths)
        self.controller.subscribe(self._on_event)

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_exc: object) -> None:
        assert self.controller.close(PATIENCE_S)

    def _on_event(self, event: Event) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    @property
    def ports(self) -> dict[str, int]:
        clusters = self.controller.publisher.current().clusters
        return {name: cluster.endpoints[0].port for name, cluster in clusters.items()}

    @property
    def version(self) -> int:
        return self.controller.publisher.current().version

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    def wait_event(self, kind: type[Event], count: int = 1) -> Event:
        with self._changed:
            enough = self._changed.wait_for(lambda: len(self.of(kind)) >= count, PATIENCE_S)
            assert enough, f"no {kind.__name__} number {count} among {self.events}"
            return self.of(kind)[count - 1]

    def wait_ports(self, expected: dict[str, int]) -> float:
        """Until calls see ``expected``; how long that took."""
        started = time.perf_counter()
        with self._changed:
            seen = self._changed.wait_for(lambda: self.ports == expected, PATIENCE_S)
        assert seen, f"{self.ports} instead of {expected}; events: {self.events}"
        return time.perf_counter() - started


def write(path: Path, **ports: int) -> None:
    path.write_text(json.dumps(ports))


def replace(path: Path, **ports: int) -> None:
    """As most editors and tools write: a new file, renamed onto the old one."""
    fresh = path.with_name(path.name + ".tmp")
    write(fresh, **ports)
    os.replace(fresh, path)


def swap_config_map(root: Path, stamp: str, **ports: int) -> None:
    """One update as the kubelet makes it: a new directory, then ``..data`` renamed onto it."""
    (root / stamp).mkdir(parents=True)
    write(root / stamp / "policy.json", **ports)
    (root / "..data_tmp").symlink_to(stamp)
    old = (root / "..data").readlink() if (root / "..data").is_symlink() else None
    os.replace(root / "..data_tmp", root / "..data")
    if old is None:
        (root / "policy.json").symlink_to("..data/policy.json")
        return
    for file in (root / old).iterdir():
        file.unlink()
    (root / old).rmdir()
